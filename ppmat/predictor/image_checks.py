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

"""Images that a network cannot do much for, told by the image and its residual."""

from __future__ import annotations

import numpy as np

from ppmat.stem.images.lattice_spacing import mean_power

# Standard deviation of the result, without its slow variation, in that of the residual.
LEAST_SIGNAL = 0.15
# Power of the residual near the Nyquist frequency, in units of its power at
# half of it.
LEAST_WHITE = 0.5
_NEAR_NYQUIST = (0.42, 0.5)  # periods per pixel
_LEAST_SIDE = 16  # pixels; the spectrum of smaller images has too few waves
_HALF_OF_IT = (0.18, 0.3)  # periods per pixel

IMAGE_FLAGS = {
    "hardly_any_signal": "no lattice was found, and the result hardly varies: the "
    "image is noise, or too noisy; a longer exposure shows whether there is more",
    "amorphous": "no lattice was found, but structure: the network was trained mostly "
    "on lattices; compare with the raw image",
    "already_filtered": "the noise of neighbouring pixels is correlated, so the image "
    "was smoothed, resampled or compressed before: take the raw data",
}


def image_checks(
    residual: np.ndarray,
    signal: np.ndarray,
    missing: np.ndarray | None,
    spacing: float | None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Return numbers for the record, and flags of an image, see :data:`IMAGE_FLAGS`.

    Args:
        residual: [H, W], raw - enhanced.
        signal: [H, W], enhanced without a separated slow variation.
        missing: bool [H, W], pixels to leave out; None for none.
        spacing: Of the lattice, pixels; None if there is none.

    Returns:
        ``signal``: standard deviation of the signal in that of the residual;
        ``high_frequencies``: see :func:`noise_whiteness`.
    """
    known = ... if missing is None else ~missing
    noise = float(np.std(residual[known], dtype=np.float64))
    contrast = float(np.std(signal[known], dtype=np.float64))
    found = {"high_frequencies": noise_whiteness(residual, missing)}
    found["signal"] = contrast / noise if noise > 0 else None
    flags: dict[str, str] = {}
    if spacing is None and noise > 0:
        hardly = found["signal"] < LEAST_SIGNAL
        flags["hardly_any_signal" if hardly else "amorphous"] = f"{found['signal']:.2f}"
    if noise > 0 and found["high_frequencies"] < LEAST_WHITE:
        flags["already_filtered"] = f"{found['high_frequencies']:.2f}"
    return found, flags


def noise_whiteness(residual: np.ndarray, missing: np.ndarray | None = None) -> float:
    """Return the residual's power near the Nyquist frequency over that at half of it.

    Both are medians, which do not see the peaks of a lattice. 1 for white noise, and
    for images that are too small.
    """
    if min(residual.shape) < _LEAST_SIDE:
        return 1.0
    power, _ = mean_power(residual, missing)
    size = len(power)
    step = (np.arange(size) - size // 2) / size
    radius = np.hypot(step[:, None], step)
    high, low = (
        np.median(power[(radius >= first) & (radius < last)])
        for first, last in (_NEAR_NYQUIST, _HALF_OF_IT)
    )
    return float(high / low) if low > 0 else 1.0
