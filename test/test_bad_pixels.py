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


"""Hot pixels are found; atoms, noise and counts are not taken for them."""

import numpy as np
import pytest

from ppmat.stem.images.bad_pixels import hot_pixels
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.noise.counting_noise import CountingNoise
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.atom_columns import AtomColumns


def scene(spacing: float = 16.0, sigma: float = 2.8) -> np.ndarray:
    y, x = (v.ravel() for v in np.mgrid[4.3:96:spacing, 3.8:96:spacing])
    height = np.full(len(y), 120.0)
    return AtomColumns(y, x, height, np.full(len(y), sigma)).render((96, 96), 40.0)


RING = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
NOISY = NoiseModel().apply(scene(), np.random.default_rng(0))


@pytest.mark.parametrize("value", [900.0, 1e5, -900.0])
def test_hot_and_dead_pixels_are_found_wherever_they_are(value: float) -> None:
    places = [(0, 0), (95, 40), (40, 0), (20, 21), (36, 36), (36, 37), (37, 36)]
    image, wanted = NOISY.copy(), np.zeros(NOISY.shape, bool)
    for place in places:
        image[place], wanted[place] = value, True
    mended, hot = without_hot_pixels(image)
    np.testing.assert_array_equal(hot, wanted)
    np.testing.assert_array_equal(mended[~hot], NOISY[~hot])
    assert abs(mended[hot] - scene()[hot]).max() < 100


def test_integers_are_found_too() -> None:
    image = np.clip(NOISY, 0, 250).astype(np.uint16)
    image[30, 31] = 4000
    np.testing.assert_array_equal(np.argwhere(hot_pixels(image)), [[30, 31]])


def test_narrow_columns_stay_that_a_limit_on_size_would_find() -> None:
    image = np.random.default_rng(1).normal(scene(40.0, 0.8), 0.5)
    median = np.median(np.stack([np.roll(image, s, (0, 1)) for s in RING]), axis=0)
    deviation = abs(image - median)
    assert np.count_nonzero(deviation > 15 * 1.4826 * np.median(deviation)) > 4
    assert not hot_pixels(image).any()


@pytest.mark.parametrize(
    "noise",
    [NoiseModel(pointwise_lambda=-0.1)]
    + [CountingNoise(counts=n, bright=160.0, dark=39.0) for n in (0.1, 1, 30)],
)
def test_noise_and_counts_are_not_taken(noise) -> None:
    for clean in (scene(), scene(60.0, 1.5)):
        image = noise.apply(clean, np.random.default_rng(2))
        mended, hot = without_hot_pixels(image)
        assert mended is image and not hot.any()


def test_without_a_scale_no_pixel_is_hot() -> None:
    image = np.zeros((32, 32))
    image[5, 6] = 1.0
    assert not hot_pixels(image).any()
