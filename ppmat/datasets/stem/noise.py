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


"""The three noise terms of a STEM image (Li et al., CVPR 2025, Fig. 1 and 3).

``I = I_clean + N_background + N_scan + N_pointwise``. The paper names the terms and
what they depend on; how each is drawn here is ours.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.ndimage import gaussian_filter1d
from scipy.special import boxcox
from scipy.stats import tukeylambda


@dataclass(frozen=True)
class NoiseModel:
    """Noise of one microscope and mode, in the grey levels of its images.

    The defaults of scan and pointwise noise are read off the paper's Fig. 3, which
    shows one HAADF image; those of the background and the two lengths are ours.

    Args:
        background_sd: Standard deviation of the smooth background, grey levels.
        background_length: Length over which it changes, pixels.
        scan_slope: Standard deviation of scan noise per gradient, pixels.
        scan_intercept: The same where the image is flat, grey levels.
        scan_length: Length of a streak along the scan line, pixels.
        pointwise_slope: Standard deviation of pointwise noise per grey level.
        pointwise_intercept: The same at grey value 0, grey levels.
        pointwise_lambda: Shape of its Tukey-lambda distribution; 0.14 is close to
            normal, 0 is logistic.
        fast_axis: Axis of the image along which the beam scans a line.
    """

    background_sd: float = 4.0
    background_length: float = 24.0
    scan_slope: float = 0.125
    scan_intercept: float = 6.2
    scan_length: float = 4.0
    pointwise_slope: float = 0.018
    pointwise_intercept: float = 20.5
    pointwise_lambda: float = 0.17
    fast_axis: int = 1

    def scan_sd(self, gradient: np.ndarray) -> np.ndarray:
        """Return the standard deviation of scan noise, grey levels.

        Args:
            gradient: ``hypot`` of ``numpy.gradient`` of the clean image, grey levels
                per pixel.
        """
        return self.scan_intercept + self.scan_slope * gradient

    def pointwise_sd(self, grey_value: np.ndarray) -> np.ndarray:
        """Return the standard deviation of pointwise noise, grey levels."""
        return self.pointwise_intercept + self.pointwise_slope * grey_value

    def apply(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the clean image with one draw of the noise.

        Each term has a stream of its own, so that changing one leaves the others.

        Args:
            clean: Grey levels [H, W].
            rng: Where the three streams come from.

        Returns:
            Grey levels [H, W], neither clipped nor rounded.
        """
        background, scan, pointwise = rng.spawn(3)
        gradient = np.hypot(*np.gradient(clean))
        noise = self.background_sd * _unit_variance(
            gaussian_filter(
                background.standard_normal(clean.shape), self.background_length
            )
        )
        noise += self.scan_sd(gradient) * _streaks(
            scan, clean.shape, self.scan_length, self.fast_axis
        )
        u = pointwise.uniform(size=clean.shape)
        # boxcox(u, a) is (u**a - 1) / a, and log(u) for a = 0.
        shape = boxcox(u, self.pointwise_lambda) - boxcox(1 - u, self.pointwise_lambda)
        shape /= np.sqrt(tukeylambda.var(self.pointwise_lambda))
        return clean + noise + self.pointwise_sd(clean) * shape

    def to_json(self) -> str:
        """Return the parameters as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> NoiseModel:
        """Return the model of :meth:`to_json`'s text."""
        return cls(**json.loads(text))


def _unit_variance(field: np.ndarray) -> np.ndarray:
    field = field - field.mean()
    return field / field.std()


def _streaks(
    rng: np.random.Generator, shape: tuple, length: float, axis: int
) -> np.ndarray:
    """Return noise of variance 1, correlated along one axis only."""
    white = rng.standard_normal(shape)
    # The variance that is left by averaging white noise with this kernel.
    impulse = np.zeros(int(8 * length) | 1)
    impulse[impulse.size // 2] = 1.0
    kernel = gaussian_filter1d(impulse, length, mode="constant")
    return gaussian_filter1d(white, length, axis=axis, mode="wrap") / np.sqrt(
        np.sum(kernel**2)
    )
