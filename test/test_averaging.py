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

"""Average of a series: drift, jitter and noise are those that were planted."""

import numpy as np
import pytest

from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.series.averaging import average_frames
from ppmat.stem.series.frame_differences import frame_differences
from ppmat.utils.errors import InputError

SIDE, NOISE, COUNT = 128, 8.0, 6


def lattice(shift, jitter=None) -> np.ndarray:
    y, x = (g.ravel() for g in np.mgrid[-28:156:14.0, -28:156:14.0])
    columns = AtomColumns(
        y + shift[0], x + shift[1], np.full(len(y), 100.0), np.full(len(y), 2.8)
    )
    clean = columns.render((SIDE, SIDE), 50.0) + 0.5 * (np.arange(SIDE) - shift[1])
    if jitter is None:
        return clean
    grid = np.arange(SIDE)
    return np.stack([np.interp(grid - j, grid, row) for j, row in zip(jitter, clean)])


SHIFTS = np.array([1.4, -0.8]) * np.arange(COUNT)[:, None]
SHIFTS[3] += 0.5


def series(jitter: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    lines = rng.normal(0, jitter, (COUNT, SIDE)) if jitter else [None] * COUNT
    clean = np.array([lattice(s, j) for s, j in zip(SHIFTS, lines)])
    return clean + rng.normal(0, NOISE, clean.shape)


@pytest.fixture(scope="module")
def found():
    return average_frames(series())


def test_drift_is_found(found) -> None:
    np.testing.assert_allclose(found.drift.shifts, SHIFTS, atol=0.05)


def test_the_average_is_the_clean_image_with_the_noise_it_claims(found) -> None:
    (y, x), (height, width) = found.origin, found.image.shape
    truth = lattice((0, 0))[y : y + height, x : x + width]
    error = np.std(found.image - truth)
    assert error == pytest.approx(NOISE / np.sqrt(COUNT), rel=0.05)
    assert found.noise == pytest.approx(error, rel=0.05)
    assert found.frame_noise == pytest.approx(NOISE, rel=0.03)
    assert (found.count == COUNT).all()


def test_frames_that_are_not_aligned_do_not_pass() -> None:
    plain = series().mean(axis=0)
    assert np.std(plain - lattice((0, 0))) > 2 * NOISE / np.sqrt(COUNT)


@pytest.mark.parametrize("axis", [0, 1])
def test_jitter_is_found_along_the_fast_axis_only(axis) -> None:
    frames = series(jitter=0.5)
    frames = frames if axis else frames.transpose(0, 2, 1)
    found = average_frames(frames, fast_axis=axis)
    np.testing.assert_allclose(found.drift.jitter, 0.5, atol=0.12)
    other = average_frames(frames, fast_axis=1 - axis)
    assert np.sqrt(np.mean(other.drift.jitter**2)) < 0.15


def test_without_jitter_hardly_any_is_found(found) -> None:
    assert np.sqrt(np.mean(found.drift.jitter**2)) < 0.12


def test_gaps_and_hot_pixels_are_filled_by_other_frames(found) -> None:
    frames = series()
    frames[1, 40:44, 50:60] = np.nan
    frames[2, 70, 71] = 1e5
    other = average_frames(frames)
    assert other.hot == 1
    assert np.isfinite(other.image).all()
    assert abs(other.image - found.image).max() < 5 * NOISE
    assert other.count.min() == COUNT - 1


def test_all_that_any_frame_shows(found) -> None:
    whole = average_frames(series(), area="all")
    assert whole.image.shape == (SIDE + 8, SIDE + 4)
    assert np.isnan(whole.image).any()
    y, x = np.subtract(found.origin, whole.origin)
    height, width = found.image.shape
    np.testing.assert_allclose(
        whole.image[y : y + height, x : x + width], found.image, atol=1e-2
    )


def test_units_do_not_matter(found) -> None:
    other = average_frames(1e-4 * series() - 2)
    np.testing.assert_allclose(other.drift.shifts, found.drift.shifts, atol=0.01)
    assert other.noise == pytest.approx(1e-4 * found.noise, rel=0.02)


def spoilt(change) -> list[np.ndarray]:
    frames = list(series()[:3])
    frames[2] = change(frames[2])
    return frames


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (series()[:1], "1 frame; wanted two"),
        (spoilt(lambda f: f[1:]), r"frame 2: has the shape \(127, 128\)"),
        (spoilt(lambda f: f * np.nan), "frame 2: 100 % of the pixels have no value"),
        (spoilt(np.ones_like), "frame 2: all pixels have the value 1"),
        (
            spoilt(lambda f: np.random.default_rng(9).normal(size=f.shape)),
            "frame 2: does not match frame 1",
        ),
    ],
)
def test_bad_frames_are_named(frames, text) -> None:
    with pytest.raises(InputError, match=text):
        average_frames(frames)


def test_frames_without_a_common_area_are_refused() -> None:
    area = np.random.default_rng(4).normal(size=(64, 400))
    frames = [area[:, 12 * i : 12 * i + 64] for i in range(6)]
    with pytest.raises(InputError, match="all frames together show"):
        average_frames(frames)


def test_differences_hold_the_noise_and_no_specimen() -> None:
    differences = frame_differences(series()[:5])
    assert [d is None for d in differences] == [False, True, False, True, True]
    for difference in differences[0], differences[2]:
        assert np.nanstd(difference) == pytest.approx(NOISE, rel=0.05)
        smooth = np.nanmean(difference[:, 8:-8], axis=0)
        assert np.std(smooth) < 2 * NOISE / np.sqrt(SIDE)
