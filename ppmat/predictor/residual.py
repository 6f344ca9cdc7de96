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
and the residual does not know the image. docs/stem/enhancement.md derives the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

LAGS = 3
CORRELATED = 0.1
LOST_CONTRAST = 0.05
SIGNIFICANT = 5.0  # standard deviations
_ROWS = 256

FLAGS = {
    "structure_in_residual": "neighbouring lines of what was taken away resemble each "
    "other: part of it is structure, not noise",
    "noise_kept": "what was taken away alternates from line to line: the output still "
    "follows the noise over several pixels",
    "lost_contrast": "what was taken away follows the enhanced image: contrast was "
    "lost (or exaggerated, if negative), intensities are not linear",
}


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", a, b))


def _blocks(
    raw: np.ndarray,
    enhanced: np.ndarray,
    missing: np.ndarray | None,
    means: tuple[float, float],
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield residual, image and 0 or 1 for missing or there, some rows at a time.

    Both are in float64, less their means, and 0 where pixels are missing. The number
    of rows comes first; up to ``LAGS`` rows of the next block follow them.
    """
    for top in range(0, len(raw), _ROWS):
        rows = slice(top, top + _ROWS + LAGS)
        image = enhanced[rows].astype(np.float64)
        with np.errstate(invalid="ignore"):
            residual = raw[rows] - image
        residual -= means[0]
        image -= means[1]
        valid = None
        if missing is not None:
            holes = missing[rows]
            residual[holes] = image[holes] = 0.0
            valid = (~holes).astype(np.float64)
        yield min(_ROWS, len(raw) - top), residual, image, valid


def residual_statistics(
    raw: np.ndarray, enhanced: np.ndarray, missing: np.ndarray | None = None
) -> dict[str, Any]:
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
    if missing is not None and not missing.any():
        missing = None
    count = raw.size if missing is None else raw.size - int(missing.sum())
    sums = np.zeros(2)
    for number, residual, image, _ in _blocks(raw, enhanced, missing, (0.0, 0.0)):
        sums += residual[:number].sum(), image[:number].sum()
    mean, level = sums / count
    power = signal = cross = cross_noise = 0.0
    total, noise, pairs = np.zeros((3, 2, LAGS))
    for number, residual, image, valid in _blocks(
        raw, enhanced, missing, (mean, level)
    ):
        squares = residual**2
        own, pixels = residual[:number], image[:number]
        power += _dot(own, own)
        signal += _dot(pixels, pixels)
        cross += _dot(own, pixels)
        cross_noise += float(np.einsum("ij,ij,ij->", squares[:number], pixels, pixels))
        for lag in range(1, LAGS + 1):
            lines = max(0, min(number, len(residual) - lag))
            partners = (
                (np.s_[:lines], np.s_[lag : lag + lines]),
                (np.s_[:number, :-lag], np.s_[:number, lag:]),
            )
            for axis, (a, b) in enumerate(partners):
                total[axis, lag - 1] += _dot(residual[a], residual[b])
                noise[axis, lag - 1] += _dot(squares[a], squares[b])
                pairs[axis, lag - 1] += (
                    residual[a].size if valid is None else _dot(valid[a], valid[b])
                )
    power, signal, cross = power / count, signal / count, cross / count
    found: dict[str, Any] = {
        "mean": float(mean),
        "std": float(np.sqrt(power)),
        "pixels": count,
        "spread": float(count**-0.5),
    }
    for axis, name in enumerate(("slow_axis", "fast_axis")):
        there = noise[axis] > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            values = total[axis] / pairs[axis] / power
            sigmas = total[axis] / np.sqrt(noise[axis])
        found[name] = _plain(values, there)
        found[f"{name}_sigmas"] = _plain(sigmas, there)
    there = np.array(power > 0 and signal > 0 and cross_noise > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found["structure"] = _plain(cross / np.sqrt(power * signal), there)
        sigmas = cross * count / np.sqrt(cross_noise)
        found["structure_sigmas"] = _plain(sigmas, there)
        found["lost_contrast"] = _plain(np.float64(cross) / signal, there)
    found["flags"] = _flags(found)
    return found


def _plain(values: np.ndarray, there: np.ndarray) -> Any:
    """Return numbers as floats, None where there is none."""
    return np.where(there, values, None).tolist()


def _flags(found: dict[str, Any]) -> dict[str, str]:
    flags = {}
    slow, sigmas = found["slow_axis"][0], found["slow_axis_sigmas"][0]
    if slow is not None and abs(slow) > CORRELATED and abs(sigmas) > SIGNIFICANT:
        flags["structure_in_residual" if slow > 0 else "noise_kept"] = f"{slow:.2f}"
    slope, sigma = found["lost_contrast"], found["structure_sigmas"]
    if slope is not None and sigma is not None:
        if abs(slope) > LOST_CONTRAST and abs(sigma) > SIGNIFICANT:
            flags["lost_contrast"] = f"{slope:.2f}"
    return flags
