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

"""Noise of images of few electrons, and random noise for training.

:class:`CountingNoise` has Poisson counts and displaced scan lines. It is no term of the
paper's model, which was measured on well exposed images. At one count a pixel, noise is
neither symmetric nor linear in the image, and the drawn values must be counts.

:func:`random_noise` draws the noise of a random microscope. Networks trained on it are
for images whose noise was not calibrated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.noise.noise_model import check_clean

_MAX_COUNTS = 1e12  # more than any detector has; Poisson draws stay whole numbers


@dataclass(frozen=True)
class CountingNoise:
    """Counts of electrons, and the jitter of the scan.

    Args:
        counts: Expected counts of a pixel at image value ``bright``.
        bright: That image value.
        dark: Image value of no electrons.
        jitter: Standard deviation of the displacement of a line along itself, pixels.
        fast_axis: Axis of the image along which the beam scans a line.

    Raises:
        ValueError: A parameter is out of range.

    Example:
        >>> import numpy as np
        >>> noise = CountingNoise(counts=4.0, bright=100.0)
        >>> image = noise.apply(np.full((64, 64), 50.0), np.random.default_rng(0))
        >>> np.unique(image)[:3].tolist()  # four counts are 100 image units
        [0.0, 25.0, 50.0]
    """

    counts: float
    bright: float = 180.0
    dark: float = 0.0
    jitter: float = 0.0
    fast_axis: int = 1

    def __post_init__(self) -> None:
        for name in ("counts", "bright", "dark", "jitter"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 < self.counts <= _MAX_COUNTS:
            wanted = f"above 0, at most {_MAX_COUNTS:g}"
            raise ValueError(f"counts is {self.counts}, wanted {wanted}")
        if not -math.inf < self.dark < self.bright < math.inf:
            raise ValueError(f"dark {self.dark} must be below bright {self.bright}")
        if not 0 <= self.jitter < math.inf or self.fast_axis not in (0, 1):
            raise ValueError(
                f"jitter {self.jitter} must not be negative, fast_axis "
                f"{self.fast_axis} is 0 or 1"
            )

    def apply(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one exposure of the clean image [H, W], in its units.

        Values below ``dark`` count as no electrons. Jitter and counts have a random
        stream each.

        Raises:
            ValueError: The image has fewer than 2 x 2 pixels, or not two axes.
        """
        check_clean(clean)
        jitter, counts = rng.spawn(2)
        if self.jitter:
            shift = jitter.normal(0, self.jitter, clean.shape[1 - self.fast_axis])
            clean = shift_lines(clean, shift, self.fast_axis)
        unit = (self.bright - self.dark) / self.counts
        expected = np.maximum(clean - self.dark, 0) / unit
        return self.dark + unit * counts.poisson(expected)


def shift_lines(image: np.ndarray, shift: np.ndarray, axis: int = 1) -> np.ndarray:
    """Return the image [H, W] with each line moved by its own shift [lines], pixels.

    The lines run, and move, along ``axis``; the interpolation is cubic.
    """
    place = np.indices(image.shape, dtype=np.float64)
    place[axis] -= np.expand_dims(shift, axis)
    return map_coordinates(image, place, order=3, mode="nearest")


def random_noise(
    rng: np.random.Generator, mode: str, low: float, high: float
) -> NoiseModel | CountingNoise:
    """Return the noise of a random microscope.

    Half of the draws have the three terms of the paper, half are images of few
    electrons. The ranges are wide and not from the paper: the noise is 0.02 to 1.5
    times the contrast, or there are 0.5 to 200 electrons a pixel.

    Args:
        rng: Random numbers.
        mode: ``haadf`` or ``bf``.
        low: Image value of the dark parts of the clean image.
        high: Image value of its bright parts.
    """
    kind = _random_counting_noise if rng.random() < 0.5 else _random_noise_model
    return kind(rng, mode, low, high)


def _random_counting_noise(
    rng: np.random.Generator, mode: str, low: float, high: float
) -> CountingNoise:
    counts = np.exp(rng.uniform(np.log(0.5), np.log(200.0)))
    # Distance from zero electrons to the dark parts, in units of the contrast. A thin
    # specimen is black between its columns in HAADF, and absorbs little in BF.
    if mode == "haadf":
        pedestal = rng.choice([rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.5)])
    else:
        pedestal = np.exp(rng.uniform(np.log(0.2), np.log(20.0)))
        counts *= 10  # more electrons reach the bright disk than a HAADF ring
    return CountingNoise(
        counts=counts,
        bright=high,
        dark=low - pedestal * (high - low),
        jitter=rng.choice([0.0, rng.uniform(0.0, 0.6)]),
    )


def _random_noise_model(
    rng: np.random.Generator, mode: str, low: float, high: float
) -> NoiseModel:
    contrast = high - low
    pointwise = contrast * np.exp(rng.uniform(np.log(0.02), np.log(1.5)))
    # Standard deviation in the dark parts, relative to that in the bright parts.
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
