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


"""Statistics of the difference between a raw and an enhanced image. Numpy only.

The residual is raw - enhanced. Suppose that the network removed noise alone, and that
the noise of different pixels is independent. Then neighbouring pixels of the residual
are uncorrelated, and so are residual and image. docs/stem/enhancement.md derives the
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ppmat.predictor.tiling import TILE_SIZE

LAGS = 3  # largest distance of correlated pixels, pixels
# A flag needs both: a size that matters to a user, and more than chance explains.
CORRELATED = 0.1  # autocorrelation from line to line, as a fraction of the variance
LOST_CONTRAST = 0.05  # slope of the residual on the image, without unit
# Noise power that an average over ten pixels keeps; more is ``noise_kept``.
AVERAGED = 0.1
# Standard deviation of what is smooth in the residual, in that of the residual. Twice
# the largest of the shipped samples, where the network removes slow noise.
SMOOTH = 0.2
SIGNIFICANT = 5.0  # standard deviations of a white residual
_LEAST_SQUARES = 4  # means whose variance says something
_ROWS = 256  # rows converted to float64 at once, which bounds the memory

FLAGS = {
    "structure_in_residual": "neighbouring lines of the residual are correlated: part "
    "of it is structure, not noise",
    "noise_kept": "the residual alternates from line to line: the output still follows "
    "the noise over several pixels",
    "lost_contrast": "the residual is correlated with the enhanced image, more than "
    "noise explains: contrast was lost (or exaggerated, if negative); measure "
    "intensities in the raw image",
    "smooth_residual": "the residual varies from tile to tile: part of the background "
    "is lost or in steps; take background='keep'",
}


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", a, b))


def _blocks(
    raw: np.ndarray,
    enhanced: np.ndarray,
    missing: np.ndarray | None,
    means: tuple[float, float],
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield number of rows, residual, image, and validity, some rows at a time.

    Residual and image are float64 minus their means, and 0 where pixels are missing.
    Validity is 1.0, or 0.0 for missing pixels; None if none is missing. Arrays also
    hold up to ``LAGS`` rows of the next block.
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
    raw: np.ndarray,
    enhanced: np.ndarray,
    missing: np.ndarray | None = None,
    tile: int = TILE_SIZE,
) -> dict[str, Any]:
    """Return statistics of the residual of one frame.

    Args:
        raw: ``[H, W]``.
        enhanced: ``[H, W]``, same units.
        missing: bool ``[H, W]``, pixels to leave out; None for none.
        tile: Side of the network's tiles, pixels.

    Returns:
        Plain numbers; None where a residual or an image without variation has none.

        - ``mean`` and ``std``, units of the image; ``pixels``, their number.
        - ``spread``: standard deviation of a correlation if the residual is white,
          ``1 / sqrt(pixels)``.
        - ``slow_axis`` and ``fast_axis``: normalised autocorrelation at lags 1 to 3,
          from line to line and along a line.
        - ``slow_axis_sigmas`` and ``fast_axis_sigmas``: the same in standard
          deviations; the noise level may differ from pixel to pixel.
        - ``structure``: correlation with the enhanced image; ``lost_contrast``: slope
          on it; ``structure_sigmas``: both in standard deviations.
        - ``shrinkage``: the slope that noise explains. Of all multiples of an average
          over ten pixels, the one of least error has this slope.
        - ``smooth``: standard deviation of the means over squares of a quarter tile,
          minus the part that white noise has, units of the image;
          ``smooth_sigmas``: their variance minus that part, in standard deviations.
        - ``flags``: see :data:`FLAGS`.

    Example:
        >>> raw = np.random.default_rng(0).normal(size=(64, 64))
        >>> found = residual_statistics(raw, np.zeros_like(raw))
        >>> found["pixels"], abs(found["slow_axis"][0]) < 5 * found["spread"]
        (4096, True)
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
        defined = noise[axis] > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            values = total[axis] / pairs[axis] / power
            sigmas = total[axis] / np.sqrt(noise[axis])
        found[name] = _plain(values, defined)
        found[f"{name}_sigmas"] = _plain(sigmas, defined)
    defined = np.array(power > 0 and signal > 0 and cross_noise > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found["structure"] = _plain(cross / np.sqrt(power * signal), defined)
        sigmas = cross * count / np.sqrt(cross_noise)
        found["structure_sigmas"] = _plain(sigmas, defined)
        found["lost_contrast"] = _plain(np.float64(cross) / signal, defined)
        # Noise that y does not explain, and truth that is y and what y explains of r.
        unexplained = max(power - cross**2 / signal, 0.0) if signal > 0 else 0.0
        truth = (signal + cross) ** 2 / signal if signal > 0 else 0.0
        shrinkage = np.float64(AVERAGED * unexplained) / truth
        found["shrinkage"] = _plain(shrinkage, defined)
    found |= _smooth_part(raw, enhanced, missing, max(1, tile // 4))
    found["flags"] = _flags(found)
    return found


def _smooth_part(
    raw: np.ndarray, enhanced: np.ndarray, missing: np.ndarray | None, side: int
) -> dict[str, float | None]:
    """Return what the means over squares vary more than white noise would let them."""
    height, width = (size // side for size in raw.shape)
    means, errors = [], []
    for top in range(height):
        place = np.s_[top * side : (top + 1) * side, : width * side]
        with np.errstate(invalid="ignore"):
            strip = raw[place].astype(np.float64) - enhanced[place]
        valid = np.ones(strip.shape) if missing is None else ~missing[place] * 1.0
        strip[valid == 0] = 0.0
        number, total, squares = (
            part.reshape(side, width, side).sum(axis=(0, 2))
            for part in (valid, strip, strip**2)
        )
        full = number > side**2 / 2
        number, total, squares = number[full], total[full], squares[full]
        means.append(total / number)
        errors.append((squares / number - (total / number) ** 2) / number)
    mean, error = (np.concatenate(part or [[]]) for part in (means, errors))
    if len(mean) < _LEAST_SQUARES or not error.mean() > 0:
        return {"smooth": None, "smooth_sigmas": None}
    more = mean.var(ddof=1) - error.mean()
    sigma = error.mean() * np.sqrt(2 / (len(mean) - 1))
    return {
        "smooth": float(np.sqrt(max(more, 0.0))),
        "smooth_sigmas": float(more / sigma),
    }


def _plain(values: np.ndarray, defined: np.ndarray) -> Any:
    """Return numbers as floats, None where they are not defined."""
    return np.where(defined, values, None).tolist()


def _flags(found: dict[str, Any]) -> dict[str, str]:
    flags = {}
    slow, sigmas = found["slow_axis"][0], found["slow_axis_sigmas"][0]
    if slow is not None and abs(slow) > CORRELATED and abs(sigmas) > SIGNIFICANT:
        flags["structure_in_residual" if slow > 0 else "noise_kept"] = f"{slow:.2f}"
    slope, sigma = found["lost_contrast"], found["structure_sigmas"]
    if slope is not None and sigma is not None:
        limit = LOST_CONTRAST + (found["shrinkage"] if slope > 0 else 0.0)
        if abs(slope) > limit and abs(sigma) > SIGNIFICANT:
            flags["lost_contrast"] = f"{slope:.2f}"
    smooth, sigmas = found["smooth"], found["smooth_sigmas"]
    if smooth is not None and sigmas > SIGNIFICANT:
        if smooth > SMOOTH * found["std"]:
            flags["smooth_residual"] = f"{smooth:.3g}"
    return flags
