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

"""Alignment of frames: known shifts are found, a lattice is not followed too far."""

import numpy as np
import pytest
from scipy.ndimage import fourier_shift

from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.series.registration import find_shift
from ppmat.stem.series.registration import refine_shift
from ppmat.stem.series.registration import shifted

SIDE = 192


def lattice(shift=(0.0, 0.0), slope: float = 0.0) -> np.ndarray:
    """Columns 14 px apart on a ramp, rendered where they are: no interpolation."""
    y, x = (g.ravel() for g in np.mgrid[-28:220:14.0, -28:220:14.0])
    columns = AtomColumns(
        y + shift[0], x + shift[1], np.full(len(y), 100.0), np.full(len(y), 2.8)
    )
    ramp = slope * (np.arange(SIDE) - shift[1])
    return columns.render((SIDE, SIDE), 50.0) + ramp


@pytest.mark.parametrize("slope", [0.0, 3.0])
def test_known_shifts_are_found_to_a_twentieth_of_a_pixel(slope) -> None:
    rng = np.random.default_rng(0)
    for shift in rng.uniform(-4, 4, (6, 2)):
        images = [lattice(s, slope) for s in ((0, 0), shift)]
        noisy = [np.float32(i + rng.normal(0, 15, i.shape)) for i in images]
        found = find_shift(*noisy, np.zeros(2), 20)
        np.testing.assert_allclose(found.shift, shift, atol=0.05)
        assert found.is_found


def test_a_periodic_shift_by_another_route_is_found() -> None:
    image = np.random.default_rng(1).normal(size=(128, 96))
    image = np.fft.irfft2(np.fft.rfft2(image) * np.exp(-np.arange(49) / 12), (128, 96))
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(image), (2.3, -1.6))).real
    np.testing.assert_allclose(
        find_shift(image, moved, np.zeros(2), 10).shift, [2.3, -1.6], atol=0.02
    )


def test_of_equal_peaks_the_one_near_the_expected_shift_counts() -> None:
    first, second = lattice(), lattice((3.0, 0.0))
    near = find_shift(first, second, np.zeros(2), 40).shift
    far = find_shift(first, second, np.array([15.0, 0.0]), 40).shift
    np.testing.assert_allclose([near, far], [[3, 0], [17, 0]], atol=0.05)


def test_a_feature_decides_against_a_nearer_peak_of_the_lattice() -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    vacuum = [1 / (1 + np.exp((x - 90 - s) / 3)) for s in (0, 20)]
    first, second = lattice() * vacuum[0], lattice((0, 20)) * vacuum[1]
    found = find_shift(first, second, np.zeros(2), 40)
    np.testing.assert_allclose(found.shift, [0, 20], atol=0.2)


def test_noise_matches_nothing() -> None:
    images = np.random.default_rng(2).normal(size=(2, SIDE, SIDE))
    assert not find_shift(*images, np.zeros(2), 20).is_found
    assert not refine_shift(*images, np.zeros(2)).is_found


def test_a_shifted_image_is_the_image_rendered_there_and_noise_stays_white() -> None:
    moved = shifted(lattice(), np.array([0.3, -0.4]))
    expected = lattice((-0.3, 0.4))
    # The border is mirrored, and the bend there rings by 1 % of the contrast.
    for border, limit in ((4, 1.0), (32, 0.5)):
        inside = np.s_[border:-border, border:-border]
        np.testing.assert_allclose(moved[inside], expected[inside], atol=limit)
    noise = np.random.default_rng(3).normal(size=(128, 128))
    half = shifted(noise, np.array([0.5, 0.5]))
    assert half.std() == pytest.approx(1, abs=0.02)
    assert abs(np.mean(half[1:] * half[:-1])) < 0.03
