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

"""The first estimate of the width, on lattices with what hides them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ppmat.stem.columns.column_width import NoColumnsError
from ppmat.stem.columns.column_width import column_width
from ppmat.stem.scenes.atom_columns import AtomColumns

SIZE = (120, 120)


def lattice(spacing, sigma, pair=0.0):
    """Columns of height 100, or pairs of them along y, with noise of 8."""
    index = np.arange(-1, int(120 / spacing) + 2)
    position = spacing * np.stack(np.meshgrid(index, index), -1).reshape(-1, 2)
    turn = np.array([[0.98, 0.2], [-0.2, 0.98]])
    position = (position - 60) @ turn + 60.3
    if pair:
        position = np.concatenate([position, position + [pair, 0]])
    number = len(position)
    columns = AtomColumns(*position.T, np.full(number, 100.0), np.full(number, sigma))
    noise = np.random.default_rng(0).normal(0, 8, SIZE)
    return columns.render(SIZE, 0.0) + noise


def width(image):
    return column_width(image - np.median(image), np.ones(SIZE, bool))


@pytest.mark.parametrize("slope", [1.0, 30.0])
def test_a_ramp_changes_nothing(slope):
    image = lattice(12.0, 2.5)
    ramp = slope * np.arange(120.0)
    assert width(image + ramp) == pytest.approx(width(image), rel=0.02)


def test_a_support_coarser_than_the_lattice_is_no_column():
    support = gaussian_filter(np.random.default_rng(1).normal(0, 1, SIZE), 6)
    image = lattice(10.0, 2.5) + 40 * support / support.std()
    assert width(image) == pytest.approx(2.5, rel=0.35)


def test_pairs_that_touch_are_as_wide_as_their_columns():
    sigma = 3.5
    assert width(lattice(26.0, sigma, pair=2.3 * sigma)) < 1.25 * sigma


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0, 8.0])
def test_follows_the_scale(sigma):
    assert width(lattice(5 * sigma, sigma)) == pytest.approx(sigma, rel=0.35)


def test_reasons_why_there_are_no_columns():
    noise = np.random.default_rng(2).normal(0, 4, SIZE)
    with pytest.raises(NoColumnsError, match="nothing above its noise"):
        width(noise)
    y, x = np.mgrid[:320, :320] - 160.0
    blob = 100 * np.exp(-(y**2 + x**2) / (2 * 60**2))
    blob += np.random.default_rng(3).normal(0, 4, blob.shape)
    with pytest.raises(NoColumnsError, match="too large for columns"):
        column_width(blob - np.median(blob), np.ones(blob.shape, bool))
