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


"""Noise of an image of few electrons: Poisson counts, and lines that are displaced.

This is no term of the paper's model, which is measured on well exposed images. At a
count a pixel the noise is neither symmetric nor linear in the image, and what is drawn
has to be counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from ppmat.stem.noise.noise_model import check_clean

_MOST = 1e12  # counts; far more than a detector has, and what is drawn stays whole


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
        ValueError: A parameter that no noise has.
    """

    counts: float
    bright: float = 180.0
    dark: float = 0.0
    jitter: float = 0.0
    fast_axis: int = 1

    def __post_init__(self) -> None:
        for name in ("counts", "bright", "dark", "jitter"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 < self.counts <= _MOST:
            raise ValueError(
                f"counts is {self.counts}, wanted a number above 0, at most {_MOST:g}"
            )
        if not -math.inf < self.dark < self.bright < math.inf:
            raise ValueError(f"dark {self.dark} must be below bright {self.bright}")
        if not 0 <= self.jitter < math.inf or self.fast_axis not in (0, 1):
            raise ValueError(
                f"jitter {self.jitter} must not be negative, fast_axis "
                f"{self.fast_axis} is 0 or 1"
            )

    def apply(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one exposure of the clean image, in its units.

        Args:
            clean: Image [H, W]; values below ``dark`` count as no electrons.
            rng: Where the streams of jitter and counts come from.

        Raises:
            ValueError: No image of at least 2 x 2 pixels.
        """
        check_clean(clean)
        jitter, counts = rng.spawn(2)
        if self.jitter:
            clean = shift_lines(
                clean,
                jitter.normal(0, self.jitter, clean.shape[1 - self.fast_axis]),
                self.fast_axis,
            )
        unit = (self.bright - self.dark) / self.counts
        expected = np.maximum(clean - self.dark, 0) / unit
        return self.dark + unit * counts.poisson(expected)


def shift_lines(image: np.ndarray, shift: np.ndarray, axis: int = 1) -> np.ndarray:
    """Return the image with each line moved along itself, by cubic interpolation.

    Args:
        image: [H, W].
        shift: Displacement of each line, pixels; as many as the image has lines.
        axis: Along which lines run.
    """
    place = np.indices(image.shape, dtype=np.float64)
    place[axis] -= np.expand_dims(shift, axis)
    return map_coordinates(image, place, order=3, mode="nearest")
