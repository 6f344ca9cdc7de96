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


"""Counting noise, and random noise."""

import numpy as np
import pytest

from ppmat.stem.noise.counting_noise import CountingNoise
from ppmat.stem.noise.counting_noise import random_noise
from ppmat.stem.noise.counting_noise import shift_lines
from ppmat.stem.noise.noise_model import NoiseModel

FLAT = np.full((200, 200), 80.0)


def test_counts_have_the_mean_and_variance_of_poisson():
    noise = CountingNoise(counts=4.0, bright=100.0, dark=20.0)
    image = noise.apply(FLAT, np.random.default_rng(0))
    counts = (image - 20.0) / 20.0  # 4 counts are 80 units
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    assert counts.mean() == pytest.approx(3.0, rel=0.02)
    assert counts.var() == pytest.approx(3.0, rel=0.03)


def test_below_the_dark_there_are_no_electrons():
    noise = CountingNoise(counts=4.0, bright=100.0, dark=90.0)
    assert (noise.apply(FLAT, np.random.default_rng(0)) == 90.0).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_lines_move_along_themselves(axis):
    rows, cols = np.mgrid[:64, :64].astype(float)
    along = cols if axis else rows
    smooth = np.sin(along / 6) + 0.2 * (rows if axis else cols)
    shift = np.random.default_rng(0).normal(0, 0.5, 64)
    moved = shift_lines(smooth, shift, axis)
    other = shift[:, None] if axis else shift[None]
    expected = np.sin((along - other) / 6) + 0.2 * (rows if axis else cols)
    inner = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(moved[inner], expected[inner], atol=1e-3)


def test_jitter_displaces_each_line_by_its_own_amount():
    clean = np.ones((400, 1)) * 50 * (1 + np.sin(np.arange(64) / 4))
    noise = CountingNoise(counts=1e7, bright=100.0, jitter=0.5)
    image = noise.apply(clean, np.random.default_rng(0))
    slope = np.gradient(clean, axis=1)[:, 8:-8]
    shift = -np.sum((image - clean)[:, 8:-8] * slope, 1) / np.sum(slope**2, 1)
    assert shift.std() == pytest.approx(0.5, rel=0.1)
    assert abs(np.corrcoef(shift[1:], shift[:-1])[0, 1]) < 0.15


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"counts": 0}, "above 0"),
        ({"counts": 1e30}, "at most 1e.12"),
        ({"counts": 1, "dark": float("nan")}, "below bright"),
        ({"counts": 1, "jitter": float("nan")}, "must not be negative"),
        ({"counts": 1, "bright": 0}, "below bright"),
        ({"counts": 1, "jitter": -1}, "must not be negative"),
        ({"counts": 1, "fast_axis": 2}, "is 0 or 1"),
    ],
)
def test_counting_noise_that_cannot_be_meant(wrong, message):
    with pytest.raises(ValueError, match=message):
        CountingNoise(**wrong)


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_random_noise_has_both_kinds_and_stays_in_its_range(mode):
    low, high = 10.0, 60.0
    draws = [
        random_noise(np.random.default_rng(i), mode, low, high) for i in range(200)
    ]
    counting = [d for d in draws if isinstance(d, CountingNoise)]
    terms = [d for d in draws if isinstance(d, NoiseModel)]
    assert len(counting) > 70 and len(terms) > 70
    assert all(d.dark <= low and d.bright == high for d in counting)
    assert all(d.mode == mode for d in terms)
    noise = np.array([d.pointwise_sd(high) for d in terms]) / (high - low)
    assert 0.02 <= noise.min() < 0.05 and 0.8 < noise.max() <= 1.5
    assert all(d.pointwise_sd(low) > 0 for d in terms)
    assert any(d.scan_intercept == 0 for d in terms)
    assert "np." not in repr(draws)
