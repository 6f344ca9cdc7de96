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


"""What the difference between a raw and an enhanced image tells. Numpy only.

The residual is raw - enhanced. If the network took away noise alone, and the noise of
different pixels is independent, neighbouring pixels of the residual are uncorrelated,
and the residual does not know the image. docs/stem_predict.md derives the numbers.
"""

from __future__ import annotations

from typing import Any
from typing import Dict
from typing import Optional

import numpy as np

LAGS = 3
CORRELATED = 0.1
LOST_CONTRAST = 0.05
SIGNIFICANT = 5.0  # standard deviations

FLAGS = {
    "structure_in_residual": "neighbouring lines of what was taken away resemble each "
    "other: part of it is structure, not noise",
    "noise_kept": "what was taken away alternates from line to line: the output still "
    "follows the noise over several pixels",
    "lost_contrast": "what was taken away follows the enhanced image: contrast was "
    "lost (or exaggerated, if negative), intensities are not linear",
}


def _shifted(array: np.ndarray, axis: int, lag: int) -> tuple:
    """Return the array without its last and without its first ``lag`` lines."""
    if axis == 0:
        return array[:-lag], array[lag:]
    return array[:, :-lag], array[:, lag:]


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", a, b))


def residual_statistics(
    raw: np.ndarray, enhanced: np.ndarray, missing: Optional[np.ndarray] = None
) -> Dict[str, Any]:
    """Return numbers on the residual of one frame.

    Args:
        raw: ``[H, W]``.
        enhanced: ``[H, W]``, same units.
        missing: bool ``[H, W]``, pixels that do not count; None for none.

    Returns:
        ``mean`` and ``std`` (units of the image); ``pixels`` that count; ``spread``,
        the standard deviation of a correlation if the residual is white,
        ``1 / sqrt(pixels)``; ``slow_axis`` and ``fast_axis``, the normalised
        autocorrelation at lags 1 to 3 from line to line and along a line;
        ``slow_axis_sigmas``, ``fast_axis_sigmas``: the same in standard deviations,
        whatever the noise level from pixel to pixel; ``structure``, the correlation
        with the enhanced image, ``lost_contrast``, the slope on it, and
        ``structure_sigmas``; ``flags``, see :data:`FLAGS`. Numbers that do not exist
        (a residual or an image without variation) are None.
    """
    with np.errstate(invalid="ignore"):
        residual = np.subtract(raw, enhanced, dtype=np.float64)
    image = enhanced.astype(np.float64)
    valid = None
    count = residual.size
    if missing is not None and missing.any():
        valid = (~missing).astype(np.float64)
        count = int(valid.sum())
        residual[missing] = 0.0
        image[missing] = 0.0
    mean = residual.sum() / count
    residual -= mean
    image -= image.sum() / count
    if valid is not None:
        residual *= valid
        image *= valid
    power = _dot(residual, residual) / count
    signal = _dot(image, image) / count
    squares = residual**2
    found: Dict[str, Any] = {
        "mean": float(mean),
        "std": float(np.sqrt(power)),
        "pixels": count,
        "spread": float(count**-0.5),
    }
    for axis, name in enumerate(("slow_axis", "fast_axis")):
        values, sigmas = [], []
        for lag in range(1, LAGS + 1):
            value = sigma = None
            if power > 0 and residual.shape[axis] > lag:
                a, b = _shifted(residual, axis, lag)
                pairs = a.size if valid is None else _dot(*_shifted(valid, axis, lag))
                total = _dot(a, b)
                noise = _dot(*_shifted(squares, axis, lag))
                if pairs and noise > 0:
                    value = total / pairs / power
                    sigma = total / np.sqrt(noise)
            values.append(_plain(value))
            sigmas.append(_plain(sigma))
        found[name] = values
        found[f"{name}_sigmas"] = sigmas
    slope = correlation = sigma = None
    if power > 0 and signal > 0:
        cross = _dot(residual, image) / count
        slope = cross / signal
        correlation = cross / np.sqrt(power * signal)
        noise = float(np.einsum("ij,ij,ij->", squares, image, image))
        sigma = cross * count / np.sqrt(noise) if noise > 0 else None
    found["structure"] = _plain(correlation)
    found["structure_sigmas"] = _plain(sigma)
    found["lost_contrast"] = _plain(slope)
    found["flags"] = _flags(found)
    return found


def _plain(value: Optional[float]) -> Optional[float]:
    return None if value is None else float(value)


def _flags(found: Dict[str, Any]) -> Dict[str, str]:
    flags = {}
    slow, sigmas = found["slow_axis"][0], found["slow_axis_sigmas"][0]
    if slow is not None and abs(slow) > CORRELATED and abs(sigmas) > SIGNIFICANT:
        flags["structure_in_residual" if slow > 0 else "noise_kept"] = f"{slow:.2f}"
    slope, sigma = found["lost_contrast"], found["structure_sigmas"]
    if slope is not None and sigma is not None:
        if abs(slope) > LOST_CONTRAST and abs(sigma) > SIGNIFICANT:
            flags["lost_contrast"] = f"{slope:.2f}"
    return flags
