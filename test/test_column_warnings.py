# Copyright (c) 2026 PaddlePaddle Authors. All Rights Reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""What casts doubt on columns: hot pixels, clipped ones, columns that do not fit."""

import numpy as np
import pytest

from ppmat.stem.columns.column_warnings import doubts
from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.columns.matching import match_columns
from ppmat.stem.images.bad_pixels import clipping_limits
from ppmat.stem.images.bad_pixels import hot_pixels
from ppmat.stem.scenes.random_scenes import Columns

FITTED = np.ones(9, dtype=bool)


def crystal():
    """An image [56, 56] of 16 columns, about 20 to 150, and where they are."""
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(*[np.arange(4)] * 2), -1).reshape(-1, 2)
    position = 14.0 * index + [7.0, 7.3]
    columns = Columns(*position.T, np.full(16, 120.0), np.full(16, 2.5))
    return columns.render((56, 56), 20.0) + rng.normal(0, 6, (56, 56)), position


def test_a_hot_pixel_does_not_matter():
    image, position = crystal()
    plain = detect_columns(image)
    assert plain.info["hot_pixels"] == 0 and plain.info["warnings"] == []
    image[21, 21] = 1e5  # in the middle of a column
    image[14, 3], image[40, 15] = -1e5, np.nan
    table = detect_columns(image)
    assert table.info["hot_pixels"] == 2
    assert table.info["warnings"][0].startswith("2 pixels were left out")
    assert len(table) == len(plain) == 16
    match = match_columns(table, position, 1.0)
    assert match.recall == 1 and match.rms < 0.25
    # Pixels of the middle say little of the position.
    np.testing.assert_allclose(table.y_error, plain.y_error, rtol=0.3)


def test_missing_pixels_are_not_hot():
    image, _ = crystal()
    image[5:20, 5:20] = np.nan
    image[30, 30] = np.inf
    assert not hot_pixels(image).any()
    image[40, 40] = 1e4
    assert np.argwhere(hot_pixels(image)).tolist() == [[40, 40]]
    assert not hot_pixels(np.full((5, 5), np.nan)).any()


def test_clipped_columns_are_told():
    image, _ = crystal()
    clipped = np.clip(2.2 * image, 0, 255).astype(np.uint8)
    share = 100 * np.mean(clipped == 255)
    assert share > 1
    table = detect_columns(clipped)
    (text,) = table.info["warnings"]
    assert text.startswith(f"{share:.2g} % of the pixels have the largest value, 255:")
    dark = 255 - clipped
    (text,) = doubts(dark.ravel(), False, FITTED, 0)
    assert "have the least value, 0:" in text
    # The other end, and the rounded values of an image that is not clipped.
    assert doubts(dark.ravel(), True, FITTED, 0) == []
    assert doubts(image.astype(np.uint8).ravel(), True, FITTED, 0) == []


@pytest.mark.parametrize("bright", [True, False])
def test_a_few_electrons_are_no_clipping(bright):
    counts = np.random.default_rng(0).poisson(0.7, 4000)
    assert clipping_limits(counts)[0] == 0
    assert doubts(counts, bright, FITTED, 0) == []


def test_columns_that_do_not_fit_are_told():
    values = np.random.default_rng(0).normal(size=400)
    assert doubts(values, True, np.arange(9) >= 3, 0) == []
    (text,) = doubts(values, True, np.arange(9) >= 4, 0)
    assert text.startswith("4 of 9 columns could not be fitted: is mode, polarity")
    assert doubts(values, True, np.empty(0, dtype=bool), 0) == []
