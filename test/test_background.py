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

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ppmat.stem.images.background import slow_variation


def ramp(shape=(120, 90)):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return 3.0 * y - 0.7 * x + 5.0


def test_a_ramp_is_slow_up_to_the_border():
    image = ramp()
    assert np.allclose(slow_variation(image), image, atol=1e-9)
    # The broken twin: a plain filter bends it at the border.
    assert np.abs(gaussian_filter(image, 16.0) - image).max() > 10


def test_it_agrees_with_a_weighted_fit_at_each_pixel():
    row = np.random.default_rng(0).normal(size=70)
    place = np.arange(70.0)
    for pixel in (0, 3, 35, 69):
        window = np.where(
            abs(place - pixel) <= 15, np.exp(-((place - pixel) ** 2) / 50), 0.0
        )
        slope, level = np.polyfit(place - pixel, row, 1, w=np.sqrt(window))
        assert slow_variation(row[None], length=5.0)[0, pixel] == pytest.approx(level)


def test_it_follows_affine_changes_and_ignores_missing_pixels():
    image = ramp() + np.random.default_rng(0).normal(size=(120, 90))
    missing = np.zeros(image.shape, dtype=bool)
    missing[30:50, 40:60] = missing[5, 7] = True
    slow = slow_variation(image, missing)
    assert np.allclose(slow_variation(-4 * image + 9, missing), -4 * slow + 9)
    other = np.where(missing, np.nan, image)
    assert np.array_equal(slow_variation(other, missing), slow)
    assert np.abs(slow - slow_variation(image)).max() < 10  # the ramp is 360 high


def test_a_lattice_is_not_slow_and_kinds_are_kept():
    x = np.arange(256)
    for spacing, share in ((20, 0.002), (36, 0.03)):
        wave = np.cos(2 * np.pi * x / spacing)[None] + np.zeros((64, 1))
        slow = slow_variation(wave)
        assert np.abs(slow[:, 64:-64]).max() < share
    assert slow_variation(np.ones((9, 4), dtype=np.uint16)).dtype == np.float32
    assert slow_variation(np.full((1, 1), 7.0)).tolist() == [[7.0]]
