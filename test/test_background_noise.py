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

"""Background noise is told from ramps and particles by its waves."""

import numpy as np
import pytest
from scipy import fft
from scipy.ndimage import gaussian_filter

from ppmat.stem.noise import background_noise
from ppmat.stem.noise.background_noise import ALONG_AXES
from ppmat.stem.noise.background_noise import EVERYTHING
from ppmat.stem.noise.background_noise import NOTHING
from ppmat.stem.noise.background_noise import Waves

SIDE, NOISE, CUTOFF = 256, 15.0, 0.25
Y, X = np.mgrid[:SIDE, :SIDE].astype(float)


def field(sd: float, length: float, seed: int) -> np.ndarray:
    white = np.random.default_rng(seed).normal(size=(2 * SIDE, 2 * SIDE))
    smooth = gaussian_filter(white, length)
    return sd * (smooth / smooth.std())[:SIDE, :SIDE]


def waves(slow: np.ndarray, seed: int = 0) -> tuple[Waves, np.ndarray]:
    """The slow waves of an image with white noise, and which run along an axis."""
    image = slow + np.random.default_rng(seed).normal(0, NOISE, slow.shape)
    power = fft.dctn(image, norm="ortho") ** 2 / image.size
    wave, floor = background_noise.noise_floor(
        image.shape, image.shape, NOISE**2, 0.0, 4.0
    )
    inside = wave <= CUTOFF
    inside[0, 0] = False
    along = (np.arange(SIDE)[:, None] == 0) | (np.arange(SIDE) == 0)
    return Waves(power[inside], wave[inside], floor[inside]), along[inside]


def judged(*slow: np.ndarray) -> tuple:
    spectra, axes = zip(*(waves(s, i) for i, s in enumerate(slow)))
    parts = background_noise.separate(spectra, axes, SIDE)
    return parts, background_noise.fit_chosen(spectra, axes, parts)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("length", [12.0, 24.0])
def test_a_field_is_noise(length, seed) -> None:
    slow = field(8.0, length, seed)
    parts, found = judged(slow)
    assert parts == [NOTHING]
    assert found.sd == pytest.approx(np.std(slow), rel=0.2)
    assert found.length == pytest.approx(length, rel=0.35)


@pytest.mark.parametrize("slope", [0.05, 0.2, 3.0])
def test_a_ramp_is_specimen_and_the_field_on_it_noise(slope) -> None:
    ramp = slope * (X + 0.3 * Y)
    parts, found = judged(ramp)
    assert parts == [ALONG_AXES]
    assert found.gain < background_noise.MIN_GAIN
    parts, found = judged(ramp + field(8.0, 20.0, 1))
    assert parts == [ALONG_AXES]
    assert found.sd == pytest.approx(8.0, rel=0.35)


@pytest.mark.parametrize(
    "slow",
    [
        100 / (1 + np.exp((X + 0.5 * Y - 150) / 10)),
        200 * np.sqrt(np.clip(1 - ((X - 128) ** 2 + (Y - 120) ** 2) / 90**2, 0, 1)),
        np.clip(220 - X - 0.7 * Y, 0, None),
        60 * np.exp(-((X - 100) ** 2 + (Y - 128) ** 2) / 2 / 40**2),
    ],
    ids=["edge", "particle", "wedge", "blob"],
)
def test_edges_and_particles_are_specimen(slow) -> None:
    parts, found = judged(slow)
    assert parts == [EVERYTHING]
    assert found is None
    # A frame that shows only a field is still measured.
    parts, found = judged(slow, field(8.0, 24.0, 2))
    assert parts == [EVERYTHING, NOTHING]
    assert found.sd == pytest.approx(8.0, rel=0.35)


def test_white_noise_has_no_background() -> None:
    parts, found = judged(np.zeros((SIDE, SIDE)))
    assert parts == [NOTHING]
    assert found.gain < background_noise.MIN_GAIN
