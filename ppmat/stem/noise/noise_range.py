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


"""Noise of many microscopes, for weights that meet images nobody calibrated."""

from __future__ import annotations

import numpy as np

from ppmat.stem.noise.counting_noise import CountingNoise
from ppmat.stem.noise.noise_model import NoiseModel


def any_noise(
    rng: np.random.Generator, mode: str, low: float, high: float
) -> NoiseModel | CountingNoise:
    """Draw the noise of some microscope.

    Half of the draws are the three terms of the paper, half are few electrons. The
    ranges are ours and wide: noise from a fiftieth of the contrast to one and a half
    times it, or 0.5 to 200 electrons a pixel.

    Args:
        rng: Random numbers.
        mode: ``haadf`` or ``bf``.
        low: Image value of the dark parts of the clean image.
        high: Of its bright parts.
    """
    if rng.random() < 0.5:
        return _counts(rng, mode, low, high)
    return _three_terms(rng, mode, low, high)


def _counts(
    rng: np.random.Generator, mode: str, low: float, high: float
) -> CountingNoise:
    counts = np.exp(rng.uniform(np.log(0.5), np.log(200.0)))
    # How far below the dark parts no electrons are, by the contrast. A thin specimen is
    # black between its columns in HAADF, and takes little from the bright disk.
    if mode == "haadf":
        pedestal = rng.choice([rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.5)])
    else:
        pedestal = np.exp(rng.uniform(np.log(0.2), np.log(20.0)))
        counts *= 10  # the bright disk holds more electrons than a ring far outside
    return CountingNoise(
        counts=counts,
        bright=high,
        dark=low - pedestal * (high - low),
        jitter=rng.choice([0.0, rng.uniform(0.0, 0.6)]),
    )


def _three_terms(
    rng: np.random.Generator, mode: str, low: float, high: float
) -> NoiseModel:
    contrast = high - low
    pointwise = contrast * np.exp(rng.uniform(np.log(0.02), np.log(1.5)))
    # Standard deviation in the dark parts, as a part of that in the bright ones.
    dark = rng.uniform(0.3, 1.0)
    slope = pointwise * (1 - dark) / contrast
    scan = rng.choice([0.0, rng.uniform(0.0, 0.5)], p=[0.3, 0.7])
    return NoiseModel(
        background_sd=contrast * rng.choice([0.0, rng.uniform(0.0, 0.12)]),
        background_length=rng.uniform(12.0, 60.0),
        scan_slope=scan * rng.uniform(0.0, 0.5),
        scan_intercept=scan * pointwise,
        scan_length=rng.uniform(1.0, 10.0),
        pointwise_slope=slope,
        pointwise_intercept=pointwise - slope * high,
        pointwise_lambda=rng.uniform(-0.1, 0.3),
        low=low,
        high=high,
        mode=mode,
    )
