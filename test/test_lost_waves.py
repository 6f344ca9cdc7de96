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

from ppmat.predictor.lost_waves import lost_waves
from ppmat.stem.noise.counting_noise import shift_lines
from ppmat.stem.scenes.atom_columns import AtomColumns


def lattice(spacing, size=128, turn=0.1):
    reach = np.arange(-size, size) * spacing
    y, x = np.meshgrid(reach, reach)
    y, x = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
    near = (abs(y) < size) & (abs(x) < size)
    y, x = y[near] + size / 2, x[near] + size / 2
    ones = np.ones(len(y))
    image = AtomColumns(y, x, 100 * ones, 0.2 * spacing * ones).render((size, size))
    return image - image.mean()


def noise(seed=0, size=128):
    return np.random.default_rng(seed).normal(0, 8, (size, size))


@pytest.mark.parametrize("spacing", [2.7, 4.0, 6.0])
def test_a_lattice_in_the_residual_is_found(spacing):
    truth = lattice(spacing)
    found, number = lost_waves(truth + noise())
    assert number > 4
    assert np.std(found - truth) < 0.45 * np.std(truth)


def test_noise_has_no_waves():
    for seed in range(20):
        found, number = lost_waves(noise(seed))
        assert number <= 1 and np.std(found) < 0.2
    # Noise with a spectrum of its own: the rings follow it.
    smooth = noise(3) + np.roll(noise(3), 1, axis=0)
    assert lost_waves(smooth)[1] <= 3


def test_lines_displaced_at_random_are_not_given_back():
    truth = lattice(14.0)
    shift = np.random.default_rng(1).normal(0, 1.2, len(truth))
    jitter = shift_lines(truth, shift) - truth
    found, _ = lost_waves(jitter + noise())
    assert np.std(found) < 0.1 * np.std(jitter)


def test_units_do_not_matter():
    image = lattice(5.0) + noise()
    found, number = lost_waves(image)
    other, same = lost_waves(-7.0 * image + 3.0)
    assert number == same
    assert np.allclose(other - other.mean(), -7.0 * (found - found.mean()), atol=1e-9)


@pytest.mark.parametrize("shape", [(33, 40), (40, 33)])
def test_odd_sizes_keep_their_shape(shape):
    found, _ = lost_waves(np.random.default_rng(0).normal(size=shape))
    assert found.shape == shape
    assert lost_waves(np.zeros(shape))[1] == 0
