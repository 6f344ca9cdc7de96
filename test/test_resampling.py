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


"""Resampling keeps outline, mean and long waves; added noise is white and goes away."""

import numpy as np
import pytest

from ppmat.predictor.resampling import resample
from ppmat.predictor.resampling import trained_shape
from ppmat.predictor.resampling import with_white_noise


@pytest.mark.parametrize("shape", [(90, 131), (31, 40), (47, 120)])
def test_waves_that_fit_are_exact(shape):
    def wave(height, width):
        y, x = (np.arange(n) + 0.5 for n in (height, width))
        return 3 + np.cos(np.pi * 4 * y / height)[:, None] * np.cos(
            np.pi * 6 * x / width
        )

    found = resample(wave(50, 64), shape)
    np.testing.assert_allclose(found, wave(*shape), atol=1e-12)
    assert resample(wave(50, 64).astype("f4"), shape).dtype == np.float32


def test_white_noise_stays_white_and_goes_away():
    x = np.random.default_rng(0).normal(5, 2, (80, 90))
    finer = with_white_noise(x, (160, 190))
    np.testing.assert_allclose(resample(finer, x.shape), x, atol=1e-10)
    np.testing.assert_array_equal(finer, with_white_noise(x, (160, 190)))

    def neighbours(image):
        image = image - image.mean()
        return (image[1:] * image[:-1]).mean() / image.var()

    assert abs(neighbours(finer)) < 0.03
    assert neighbours(resample(x, (160, 190))) > 0.4  # broken twin
    scaled = with_white_noise(3 * x, (160, 190))
    np.testing.assert_allclose(scaled, 3 * finer, atol=1e-9)


def test_shapes_reach_the_trained_range():
    assert trained_shape((100, 200), None, (9, 36)) == (100, 200)
    assert trained_shape((100, 200), 4.0, None) == (100, 200)
    assert trained_shape((100, 200), 36.0, (9, 36)) == (100, 200)
    assert trained_shape((100, 200), 6.0, (9, 36)) == (200, 400)
    assert trained_shape((100, 200), 72.0, (9, 36)) == (50, 100)
