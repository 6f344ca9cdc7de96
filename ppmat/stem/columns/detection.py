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


"""Find atomic columns and measure them on the raw image.

Seeds come from an enhanced image, from the map of a detection network, or from the raw
image under a filter of the columns' width. What is reported is fitted to the raw image
only (:mod:`ppmat.stem.columns.column_fit`), so no network moves an atom. How errors
and scores are computed is in docs/stem/detection.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ppmat.stem.columns.column_background import Background
from ppmat.stem.columns.column_equations import HEIGHT
from ppmat.stem.columns.column_equations import WIDTH
from ppmat.stem.columns.column_errors import FittedColumns
from ppmat.stem.columns.column_fit import WIDTH_SPREAD
from ppmat.stem.columns.column_fit import ColumnFit
from ppmat.stem.columns.column_seeds import Plane
from ppmat.stem.columns.column_seeds import column_width
from ppmat.stem.columns.column_seeds import noise_level
from ppmat.stem.columns.column_seeds import peaks
from ppmat.stem.columns.column_seeds import residual_seeds
from ppmat.stem.columns.column_seeds import spots
from ppmat.stem.columns.column_table import COLUMNS
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.column_table import pixel_size_in_nm
from ppmat.stem.columns.column_warnings import doubts
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.images.image_array import image_array
from ppmat.stem.images.image_array import is_signal
from ppmat.stem.noise.noise_model import MODES

_POLARITY = {"haadf": "bright", "bf": "dark"}  # of the columns, by mode
POLARITIES = ("bright", "dark")
SEEDS = ("enhanced", "map")
MIN_SCORE = 0.5
_SMALLEST = 16  # pixels a side
_SEPARATION = 2.0  # in sigma: Gaussians of equal height that are nearer have one peak
_COARSE_STEPS = 5
_STEPS = 25
_WIDTH_TRUST = (0.7, 1.4)  # of the width from the autocorrelation
_SURE = 0.95
_WEAK = 20  # percentile of the sure columns: a weak kind among strong ones
_LEAST_SNR = 1.5  # in the raw image, however sure a network is
_WIDTH_SETTLED = 0.03
_FEW = 4  # columns
_WIDE = 0.4  # spread of widths while the common one is not known yet
_LEFT = 0.1  # least height of what is found in the residual, in median heights
_LEFT_APART = 0.75  # its least distance from other columns, in separations
_PRUNING = (0.6, 1.0, 1.0, 1.0, 1.0)  # of the height that is asked for in the end
_MERGED = 1.0  # in sigma; fitted columns that are nearer are one
_MISFIT_SIDE = 8.0  # of the squares, in sigma
_STRONG = 95  # percentile of the heights
_WEAKER = 0.33  # of the strong ones: a ring is weaker than what it is around
_OVERLAP = 3.0  # distance in sigma
_EDGE = 2.0  # distance in sigma


def detect_columns(
    image: Any,
    enhanced: Any = None,
    pixel_size: Any = None,
    *,
    units: str = "Å",
    mode: str = "haadf",
    polarity: str | None = None,
    seeds_from: str = "enhanced",
    sigma: float | None = None,
    separation: float | None = None,
    min_score: float = MIN_SCORE,
) -> ColumnTable:
    """Return the atomic columns of an image, with errors, in order of rows.

    ::

        table = detect_columns(image, predictor.enhance(image), pixel_size=0.118)
        table.to_csv("columns.csv")

    Args:
        image: Raw image [H, W] in any units; NaN, infinite and masked pixels are left
            out, and so are single hot ones
            (:func:`ppmat.stem.images.bad_pixels.hot_pixels`). A HyperSpy signal brings
            its pixel size.
        enhanced: The same image enhanced, or the map of a detection network [H, W]; it
            says where to look, nothing else. None looks in the raw image.
        pixel_size: Size of a pixel in ``units``, a number or ``(y, x)``; None gives
            positions in pixels only.
        units: ``pm``, ``Å``, ``nm`` or ``µm``.
        mode: ``"haadf"``: columns are bright. ``"bf"``: columns are dark.
        polarity: ``"bright"`` or ``"dark"``, where it is not that of the mode (columns
            of thick specimens can be bright in BF).
        seeds_from: ``"map"`` if ``enhanced`` is a map, whose spots are bright in
            either mode.
        sigma: Common width of the columns, pixels; None finds it.
        separation: Smallest distance of two columns, pixels; None takes two sigma.
        min_score: Columns with a lower score are left out; 0 keeps all candidates.

    Returns:
        The table; empty if nothing stands out of the noise. Its ``info`` has, beside
        the options, ``hot_pixels``, how many were left out, and ``warnings``, what
        casts doubt on the table.

    Raises:
        TypeError: No numbers.
        ValueError: No image, or options that cannot be meant.
    """
    if is_signal(image) and pixel_size is None:
        pixel_size, units = _signal_calibration(image)
    size = pixel_size_in_nm(pixel_size, units)
    sign = _check_options(mode, polarity, seeds_from, sigma, separation, min_score)
    values, valid = _pixels(image, "image")
    mended, hot = without_hot_pixels(np.where(valid, values, np.nan))
    # A column may be there, and is looked for, but nothing is fitted to such pixels.
    seen = raw = _plane(mended, valid, "image", sign)
    if hot.any():
        valid = valid & ~hot
        raw = Plane(np.where(hot, 0.0, seen.values), valid, seen.offset, seen.scale)
    seeds = None
    if enhanced is not None:
        upward = 1 if seeds_from == "map" else sign
        seeds = _plane(*_pixels(enhanced, "enhanced"), "enhanced", upward)
        if seeds.values.shape != raw.values.shape:
            raise ValueError(
                f"enhanced has shape {list(seeds.values.shape)}, the image "
                f"{list(raw.values.shape)}; wanted the same image"
            )
    info: dict[str, Any] = {
        "shape": list(raw.values.shape),
        "mode": mode,
        "polarity": "bright" if sign > 0 else "dark",
        "seeds_from": "raw" if seeds is None else seeds_from,
        "min_score": min_score,
        "hot_pixels": int(hot.sum()),
    }
    is_map = seeds_from == "map"
    found = _search(raw, seen, seeds, is_map, sigma, separation, min_score)
    if found is None:
        empty = {name: np.empty(0) for name in COLUMNS}
        empty.update({n: np.empty(0, bool) for n, (_, b) in COLUMNS.items() if b})
        table = ColumnTable(**empty)
        info["sigma"] = None
    else:
        table = _table(found, raw, sign)
        info["sigma"] = found.sigma
        info["separation"] = found.separation
        info["noise_correlation"] = found.correlation.tolist()
    info["warnings"] = doubts(values[valid], sign > 0, table.fitted, info["hot_pixels"])
    table.pixel_size = size
    table.info = info
    return table.select(np.lexsort((table.x, table.y)))


@dataclass
class _Found:
    fit: FittedColumns
    background: Background
    snr: np.ndarray
    score: np.ndarray
    contrast: np.ndarray
    sigma: float
    separation: float
    correlation: np.ndarray


def _search(
    raw: Plane,
    seen: Plane,
    seeds: Plane | None,
    is_map: bool,
    sigma: float | None,
    separation: float | None,
    min_score: float,
) -> _Found | None:
    """Find seeds, in the raw image as it is seen or in another, fit, and drop what is
    not sure."""
    of_raw = column_width(seen.values, seen.valid)
    of_seeds = None if seeds is None else column_width(seeds.values, seeds.valid)
    if of_raw is None or (seeds is not None and of_seeds is None):
        return None  # nothing but noise, whatever a network made of it
    given = sigma is not None
    if sigma is None:
        # The enhanced image shows the raw one's widths, a map does not.
        sigma = of_raw if is_map or seeds is None else of_seeds

    def look(apart: float) -> tuple[np.ndarray, np.ndarray]:
        if seeds is not None:
            return peaks(seeds, 0.7 * of_seeds, apart, 0.0)
        starts, _ = peaks(seen, sigma, apart, noise_level(seen))
        return starts, np.zeros(len(starts))

    def problem(starts: np.ndarray, spread: float = WIDTH_SPREAD) -> ColumnFit:
        spacing = _spacing(starts, raw.values.shape, sigma)
        return ColumnFit(raw.values, raw.valid, starts, sigma, spacing, spread)

    def measure(
        fit: ColumnFit, quick: bool = False
    ) -> tuple[FittedColumns, np.ndarray, np.ndarray]:
        found = fit.result(quick)
        correlation = noise_correlation(found, raw.valid, sigma)
        found.variance *= correlation
        snr = found.values[:, HEIGHT] / found.errors[:, HEIGHT]
        return found, np.maximum(np.nan_to_num(snr), 0.0), correlation

    area = float(raw.valid.sum())
    apart = _SEPARATION * sigma if separation is None else separation
    starts, contrast = look(apart)
    if not given and len(starts):
        fit = problem(starts, _WIDE)
        fit.iterate(_COARSE_STEPS)
        found, snr, _ = measure(fit, quick=True)
        sigma = _common_width(found, snr, scores(snr, area, sigma, apart), sigma)
        del fit, found  # images
        if separation is None:
            apart = _SEPARATION * sigma
        if seeds is None:
            starts, contrast = look(apart)
    if not len(starts):
        return None

    def sift(fit: ColumnFit, contrast: np.ndarray) -> _Found | None:
        """Fit, and drop the worst again and again: what is no column makes its
        neighbours unsure. The common width follows the sure ones."""
        nonlocal sigma
        for number, share in enumerate(_PRUNING, start=1):
            if not fit.iterate(_COARSE_STEPS if share < 1 else _STEPS) and share == 1:
                fit.freeze_moving()
            found, snr, correlation = measure(fit)
            excess = misfit(found, raw.valid, sigma)
            believed = snr * _share_of_noise(found, excess)
            score = np.maximum(
                scores(believed / share, area, sigma, apart),
                _network_score(believed, contrast, area, sigma, apart),
            )
            keep = (score >= min_score) & ~_merged(found, snr, sigma)
            if not keep.any():
                return None
            width = sigma if given else _common_width(found, snr, score, sigma)
            if share == 1 and keep.all() and abs(width / sigma - 1) < _WIDTH_SETTLED:
                break
            sigma = width
            found, snr, score = _part(found, keep), snr[keep], score[keep]
            contrast = contrast[keep]
            if number < len(_PRUNING):
                fit.recentre(width)
                fit.keep(keep)
        return _Found(
            found, fit.background, snr, score, contrast, sigma, apart, correlation
        )

    best = sift(problem(starts), contrast)
    if best is None:
        return None
    more = _second_look(best, raw.valid)
    # These are as large as the image, and not asked for any more.
    best.fit.residual = best.fit.noise = np.empty(0)
    if not len(more):
        return best
    starts = np.concatenate([best.fit.values[:, :2], more])
    contrast = np.concatenate([best.contrast, np.zeros(len(more))])
    fit = problem(starts)
    fit.resume(best.fit.values, best.background)
    return sift(fit, contrast) or best


def _second_look(found: _Found, valid: np.ndarray) -> np.ndarray:
    """Return peaks ``(y, x)`` [n, 2] of what the columns do not explain.

    Weak columns between strong ones have no peak of their own in the image.
    """
    left = Plane(found.fit.residual, valid, 0.0, 1.0)
    usual = float(np.median(found.fit.values[:, HEIGHT]))
    # Under the filter, a column of the filter's width has half its height.
    starts = residual_seeds(left, found.sigma, found.separation, _LEFT * usual / 2)
    if not len(starts):
        return starts
    distance, _ = cKDTree(found.fit.values[:, :2]).query(starts)
    return starts[distance > _LEFT_APART * found.separation]


def _spacing(starts: np.ndarray, shape: tuple[int, int], sigma: float) -> float:
    """Return the typical distance of neighbours, pixels."""
    if len(starts) < 2:
        return float(max(shape))
    nearest = cKDTree(starts).query(starts, k=2)[0][:, 1]
    return float(np.clip(np.median(nearest), 3 * sigma, max(shape)))


# What to believe ------------------------------------------------------------------


def _common_width(
    fit: FittedColumns, snr: np.ndarray, score: np.ndarray, sigma: float
) -> float:
    """Return the common width of the sure columns, pixels, or what it was."""
    sure = (score >= _SURE) & (snr >= np.median(snr)) & ~fit.frozen
    if sure.sum() < _FEW:
        return sigma
    # Each width was drawn to the common one by what its own error left open.
    log = fit.values[sure, WIDTH]
    own = np.nan_to_num(1 - (fit.errors[sure, WIDTH] / WIDTH_SPREAD) ** 2)
    center = np.log(sigma)
    step = np.median(log - center) / np.clip(np.median(own), 0.2, 1.0)
    # Peaks of noise are narrow, and the narrow ones stand out.
    limits = _WIDTH_TRUST[0] * sigma, _WIDTH_TRUST[1] * sigma
    return float(np.clip(np.exp(center + step), *limits))


def scores(snr: np.ndarray, area: float, sigma: float, apart: float) -> np.ndarray:
    """Return the probability of each column to be more than a peak of the noise.

    White noise under the filter of a column's shape is a smooth random field, which has
    ``N(t) = A / (2 sigma^2) (2 pi)^-1.5 t exp(-t^2 / 2)`` peaks above ``t`` standard
    deviations in an area ``A`` on the average (Adler 1981). The score is ``1 - expected
    / found`` with the peaks of noise and the columns found between ``t - 1/2`` and
    ``t + 1/2``; ``A`` is what surer columns leave free.

    Args:
        snr: Height divided by its error [n].
        area: Of the image, square pixels.
        sigma: Of the columns, pixels.
        apart: Smallest distance of two columns, pixels.
    """

    def above(t: np.ndarray) -> np.ndarray:
        t = np.maximum(t, 1.0)
        return free / (2 * sigma**2) * (2 * np.pi) ** -1.5 * t * np.exp(-0.5 * t**2)

    order = np.argsort(snr, kind="stable")
    t = snr[order]
    surer = len(t) - np.searchsorted(t, t, "right")
    free = area * np.exp(-np.pi * apart**2 * surer / area)
    number = np.searchsorted(t, t + 0.5, "right") - np.searchsorted(t, t - 0.5, "left")
    expected = above(t - 0.5) - above(t + 0.5)
    sure = 1 - np.minimum(expected / np.maximum(number, 1), 1.0)
    sure[t < _LEAST_SNR] = 0.0
    out = np.empty(len(snr))
    # A better column is never less sure.
    out[order] = np.maximum.accumulate(sure)
    return out


def _network_score(
    snr: np.ndarray, contrast: np.ndarray, area: float, sigma: float, apart: float
) -> np.ndarray:
    """Return how sure the enhanced image is of each column [n], 0 to 1.

    A network trained on squared errors gives the mean of what may be there: where a
    column is half sure, half its height. So the probability is the contrast in the
    enhanced image as a part of that of the weaker ones of the columns
    which the raw image alone is sure of.
    What the raw image has no trace of is not believed.
    """
    sure = scores(snr, area, sigma, apart) >= _SURE
    if sure.sum() < _FEW:
        return np.zeros(len(snr))
    usual = float(np.percentile(contrast[sure], _WEAK))
    believed = np.clip(contrast / max(usual, 1e-300), 0.0, 1.0)
    return np.where(snr >= _LEAST_SNR, believed, 0.0)


def _part(fit: FittedColumns, which: np.ndarray) -> FittedColumns:
    """Return some of the columns."""
    values = {
        f.name: getattr(fit, f.name)
        if f.name in ("residual", "noise")
        else getattr(fit, f.name)[which]
        for f in fields(fit)
    }
    return FittedColumns(**values)


def _merged(fit: FittedColumns, snr: np.ndarray, sigma: float) -> np.ndarray:
    """Tell which columns lie on a surer one [n]."""
    merged = np.zeros(len(snr), dtype=bool)
    tree = cKDTree(fit.values[:, :2])
    for i, j in tree.query_pairs(_MERGED * sigma):
        merged[i if snr[i] < snr[j] else j] = True
    return merged


def noise_correlation(
    fit: FittedColumns, valid: np.ndarray, sigma: float
) -> np.ndarray:
    """Return how much streaks along one axis add to the variances of y, x, height,
    width.

    With the correlation ``rho(d)`` of the residual along the axis and the
    autocorrelation ``q(d)`` of what a parameter projects on, the variance is that of
    white noise times ``1 + 2 sum rho(d) q(d)``. What both axes share is left out: it
    is also what a wrong profile or an unseen column leaves behind.
    """
    relative = np.where(valid, fit.residual / np.sqrt(fit.noise), 0.0)
    power = float(np.sum(relative**2))
    factors = np.ones(4)
    if power == 0:
        return factors
    longest = max(1, min(int(4 * sigma), min(valid.shape) // 2 - 1))
    least = 3 / np.sqrt(valid.sum())
    sums = np.zeros((2, 2))  # of each axis: without and with a slope along it
    counts = [True, True]
    for lag in range(1, longest + 1):
        rho = [
            float(np.einsum("ij,ij", a[lag:], a[:-lag])) / power
            for a in (relative, relative.T)
        ]
        q = np.exp(-(lag**2) / (4 * sigma**2))
        for axis in (0, 1):
            excess = rho[axis] - max(rho[1 - axis], 0.0)
            counts[axis] &= excess > least
            if counts[axis]:
                sums[axis] += excess * q * np.array([1, 1 - lag**2 / (2 * sigma**2)])
        if not any(counts):
            break
    for axis in (0, 1):
        flat, along = 1 + 2 * sums[axis]
        each = np.full(4, flat)
        each[axis] = max(along, 0.1)
        factors *= each
    return factors


def _share_of_noise(fit: FittedColumns, excess: float) -> np.ndarray:
    """Return what part of the uncertainty of weak columns is noise [n], the rest being
    what the model does not describe; 1 for columns that are not weak."""
    height, error = fit.values[:, HEIGHT], fit.errors[:, HEIGHT]
    weak = height < _WEAKER * np.percentile(height, _STRONG)
    share = 1 / np.sqrt(1 + excess / np.maximum(error, 1e-150) ** 2)
    return np.where(weak, np.nan_to_num(share), 1.0)


def misfit(fit: FittedColumns, valid: np.ndarray, sigma: float) -> float:
    """Return the variance that wrong profiles and rings give to a column's height.

    It is what the residual has under the filter for columns beyond its noise: the
    median over squares of the image that hold columns, so that a spot where the fit
    failed says nothing of the others.
    """
    side = min(int(_MISFIT_SIDE * sigma), *valid.shape)
    power = (2 * spots(fit.residual, sigma)) ** 2
    number = [size // side for size in valid.shape]
    parts = power[: number[0] * side, : number[1] * side]
    parts = parts.reshape(number[0], side, number[1], side).mean(axis=(1, 3))
    place = np.floor(fit.values[:, :2] / side).astype(int)
    inside = ((place >= 0) & (place < number)).all(axis=1)
    if not inside.any():
        return 0.0
    found = np.median(parts[tuple(np.unique(place[inside], axis=0).T)])
    # White noise under this filter.
    noise = 2 * np.median(fit.variance[:, HEIGHT]) / (np.pi * sigma**2)
    return max(float(found - noise), 0.0)


# The table ------------------------------------------------------------------------


def _table(found: _Found, raw: Plane, sign: int) -> ColumnTable:
    fit, sigma = found.fit, found.sigma
    y, x, height, log_sigma = fit.values.T
    errors = fit.errors
    width = np.exp(log_sigma)
    volume = 2 * np.pi * width**2
    root = np.sqrt(fit.variance)
    mixed = fit.covariance[:, HEIGHT, WIDTH] * root[:, HEIGHT] * root[:, WIDTH]
    of_height, of_width = (
        fit.covariance[:, k, k] * fit.variance[:, k] for k in (HEIGHT, WIDTH)
    )
    spread = of_height + 4 * height * mixed + 4 * height**2 * of_width
    scale = sign * raw.scale
    fitted = ~fit.frozen
    return ColumnTable(
        y=y,
        x=x,
        y_error=errors[:, 0],
        x_error=errors[:, 1],
        height=scale * height,
        height_error=raw.scale * errors[:, HEIGHT],
        sigma=width,
        sigma_error=width * errors[:, WIDTH],
        intensity=scale * height * volume,
        intensity_error=raw.scale
        * volume
        * np.where(fitted, np.sqrt(np.maximum(spread, 0)), np.nan),
        background=raw.offset + scale * fit.background,
        snr=found.snr,
        score=found.score,
        edge=_at_edge(fit.values[:, :2], raw.valid, _EDGE * sigma),
        overlapping=fit.overlap > np.exp(-(_OVERLAP**2) / 4),
        fitted=fitted,
    )


def _at_edge(position: np.ndarray, valid: np.ndarray, reach: float) -> np.ndarray:
    """Tell which columns have a missing pixel, or the outside, within a distance."""
    steps = np.arange(-int(reach), int(reach) + 1)
    dy, dx = (d.ravel() for d in np.meshgrid(steps, steps, indexing="ij"))
    near = np.hypot(dy, dx) <= reach
    last = np.array(valid.shape) - 1
    y, x = np.clip(np.rint(position).astype(int), 0, last).T
    edge = np.zeros(len(position), dtype=bool)
    for down, right in zip(dy[near], dx[near]):
        there = np.stack([y + down, x + right], axis=1)
        inside = np.clip(there, 0, last)
        edge |= (there != inside).any(axis=1) | ~valid[tuple(inside.T)]
    return edge


# At the door ----------------------------------------------------------------------


def _check_options(
    mode: str,
    polarity: str | None,
    seeds_from: str,
    sigma: float | None,
    separation: float | None,
    min_score: float,
) -> int:
    """Return 1 for bright columns, -1 for dark ones."""
    legal = {"mode": (mode, MODES), "seeds_from": (seeds_from, SEEDS)}
    if polarity is not None:
        legal["polarity"] = (polarity, POLARITIES)
    for name, (value, wanted) in legal.items():
        if value not in wanted:
            raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(wanted)}")
    for name, length in (("sigma", sigma), ("separation", separation)):
        if length is not None and not (np.isfinite(length) and length >= 0.5):
            raise ValueError(f"{name} is {length!r}; wanted at least half a pixel")
    if not 0 <= min_score < 1:
        raise ValueError(f"min_score is {min_score!r}; wanted 0 to below 1")
    return 1 if (polarity or _POLARITY[mode]) == "bright" else -1


def _pixels(image: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of an image, and where they can be used [H, W]."""
    data = image_array(image)
    if data.dtype.kind not in "iuf" or data.dtype.fields is not None:
        raise TypeError(
            f"{name} has type {data.dtype}; wanted real numbers. Complex images: give "
            "the amplitude or one part"
        )
    if data.ndim != 2 or min(data.shape) < _SMALLEST:
        raise ValueError(
            f"{name} has shape {list(data.shape)}; wanted one image [H, W] of at least "
            f"{_SMALLEST} x {_SMALLEST} pixels"
        )
    values = np.asarray(data.data, dtype=np.float64)
    valid = np.isfinite(values) & ~np.ma.getmaskarray(data)
    if valid.sum() < _SMALLEST**2:
        raise ValueError(
            f"{name}: {int(valid.sum())} pixels can be used, the others are NaN, "
            f"infinite or masked; wanted at least {_SMALLEST**2}"
        )
    return values, valid


def _plane(values: np.ndarray, valid: np.ndarray, name: str, sign: int) -> Plane:
    """Bring an image to median 0 and a spread near 1."""
    offset = float(np.median(values[valid]))
    scale = float(np.std(values[valid]))
    if scale <= 1e-12 * abs(offset):
        raise ValueError(f"{name}: all pixels are equal ({offset:g})")
    values = np.where(valid, sign * (values - offset) / scale, 0.0)
    return Plane(values, valid, offset, scale)


def _signal_calibration(signal: Any) -> tuple[Any, str]:
    """Return pixel size (y, x) and units of a HyperSpy signal; None if it has none."""
    axes = signal.axes_manager.signal_axes  # (x, y)
    scales = [float(axis.scale) for axis in axes][::-1]
    units = {str(axis.units) for axis in axes}
    try:
        return pixel_size_in_nm(scales, *units), "nm"
    except (TypeError, ValueError):
        return None, "nm"
