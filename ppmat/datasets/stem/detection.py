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
only (:mod:`ppmat.datasets.stem.column_fit`), so no network moves an atom. How errors
and scores are computed is in docs/stem_detection.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from typing import Dict
from typing import Optional
from typing import Tuple

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import gaussian_laplace
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from ppmat.datasets.stem.column_fit import HEIGHT
from ppmat.datasets.stem.column_fit import WIDTH
from ppmat.datasets.stem.column_fit import ColumnFit
from ppmat.datasets.stem.column_fit import FittedColumns
from ppmat.datasets.stem.column_table import COLUMNS
from ppmat.datasets.stem.column_table import ColumnTable
from ppmat.datasets.stem.column_table import pixel_size_in_nm

MODES = {"haadf": "bright", "bf": "dark"}
POLARITIES = ("bright", "dark")
SEEDS = ("enhanced", "map")
MIN_SCORE = 0.95
_SMALLEST = 16  # pixels a side
_BLOCK = 512  # side of the parts whose autocorrelation is averaged
_MOST_BLOCKS = 16
_HALF_WIDTH = 1.4  # radius at which a lattice's autocorrelation is halved, in sigma
_WIDTHS = (0.8, 20.0)  # smallest and largest sigma that is looked for, pixels
_SEPARATION = 2.0  # in sigma: Gaussians of equal height that are nearer have one peak
_SEED_CONTRAST = 0.03  # of the strongest seeds
_SEED_NOISE = 1.5  # standard deviations, in the raw image
_COARSE_STEPS = 8
_STEPS = 25
_WIDE = 0.4  # spread of widths while the common one is not known yet
_MERGED = 1.0  # in sigma; fitted columns that are nearer are one
_OVERLAP = 3.0  # distance in sigma
_EDGE = 2.0  # distance in sigma


def detect_columns(
    image: Any,
    enhanced: Any = None,
    pixel_size: Any = None,
    *,
    units: str = "Å",
    mode: str = "haadf",
    polarity: Optional[str] = None,
    seeds_from: str = "enhanced",
    sigma: Optional[float] = None,
    separation: Optional[float] = None,
    min_score: float = MIN_SCORE,
) -> ColumnTable:
    """Return the atomic columns of an image, with errors, in order of rows.

    ::

        table = detect_columns(image, predictor.enhance(image), pixel_size=0.118)
        table.to_csv("columns.csv")

    Args:
        image: Raw image [H, W] in any units; NaN, infinite and masked pixels are left
            out. A HyperSpy signal brings its pixel size.
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
        The table; empty if nothing stands out of the noise.

    Raises:
        TypeError: No numbers.
        ValueError: No image, or options that cannot be meant.
    """
    if hasattr(image, "axes_manager") and pixel_size is None:
        pixel_size, units = _signal_calibration(image)
    size = pixel_size_in_nm(pixel_size, units)
    sign = _check_options(mode, polarity, seeds_from, sigma, separation, min_score)
    raw = _plane(image, "image", sign)
    seeds = None
    if enhanced is not None:
        seeds = _plane(enhanced, "enhanced", 1 if seeds_from == "map" else sign)
        if seeds.values.shape != raw.values.shape:
            raise ValueError(
                f"enhanced has shape {list(seeds.values.shape)}, the image "
                f"{list(raw.values.shape)}; wanted the same image"
            )
    info: Dict[str, Any] = {
        "shape": list(raw.values.shape),
        "mode": mode,
        "polarity": "bright" if sign > 0 else "dark",
        "seeds_from": "raw" if seeds is None else seeds_from,
        "min_score": min_score,
    }
    found = _search(raw, seeds, seeds_from == "map", sigma, separation, min_score)
    if found is None:
        empty = {name: np.empty(0) for name in COLUMNS}
        empty.update({n: np.empty(0, bool) for n, (_, b) in COLUMNS.items() if b})
        return ColumnTable(**empty, pixel_size=size, info={**info, "sigma": None})
    table = _table(found, raw, sign)
    table.pixel_size = size
    table.info = {
        **info,
        "sigma": found.sigma,
        "separation": found.separation,
        "noise_correlation": found.correlation.tolist(),
    }
    return table.select(np.lexsort((table.x, table.y)))


@dataclass
class _Plane:
    """An image whose columns are bright, with median 0 and a spread near 1.

    Attributes:
        values: 0 where pixels are missing [H, W].
        valid: Where they are not [H, W].
        offset: In units of the image.
        scale: Units of the image in one of ``values``.
    """

    values: np.ndarray
    valid: np.ndarray
    offset: float
    scale: float


@dataclass
class _Found:
    fit: FittedColumns
    snr: np.ndarray
    score: np.ndarray
    sigma: float
    separation: float
    correlation: np.ndarray


def _search(
    raw: _Plane,
    seeds: Optional[_Plane],
    is_map: bool,
    sigma: Optional[float],
    separation: Optional[float],
    min_score: float,
) -> Optional[_Found]:
    """Find seeds, fit, and drop what is not sure."""
    of_seeds = None if seeds is None else column_width(seeds.values, seeds.valid)
    given = sigma is not None
    if sigma is None:
        # The enhanced image shows the raw one's widths, a map does not.
        sigma = column_width(raw.values, raw.valid) if is_map or not seeds else of_seeds
    if sigma is None or (seeds is not None and of_seeds is None):
        return None

    def look(sigma: float) -> np.ndarray:
        apart = _SEPARATION * sigma if separation is None else separation
        if seeds is None:
            return _seeds(raw, sigma, apart, _noise_level(raw))
        return _seeds(seeds, 0.7 * of_seeds, apart, 0.0)

    def fit(starts: np.ndarray, steps: int, spread: Optional[float] = None) -> tuple:
        spacing = _spacing(starts, raw.values.shape, sigma)
        options = {} if spread is None else {"width_spread": spread}
        problem = ColumnFit(raw.values, raw.valid, starts, sigma, spacing, **options)
        if not problem.iterate(steps) and spread is None:
            problem.freeze_moving()
        found = problem.result()
        correlation = noise_correlation(found, raw.valid, sigma)
        found.variance *= correlation
        snr = found.values[:, HEIGHT] / found.errors[:, HEIGHT]
        return found, np.maximum(np.nan_to_num(snr), 0.0), correlation

    starts = look(sigma)
    for _ in range(0 if given else 2):
        if not len(starts):
            return None
        found, snr, _ = fit(starts, _COARSE_STEPS, _WIDE)
        sigma = _common_width(found, snr, sigma)
        starts = look(sigma) if seeds is None else starts
    area = float(raw.valid.sum())
    while len(starts):
        found, snr, correlation = fit(starts, _STEPS)
        score = scores(snr, area, sigma)
        keep = (score >= min_score) & ~_merged(found, snr, sigma)
        if keep.all():
            break
        starts = found.values[keep, :2]
    if not len(starts):
        return None
    apart = _SEPARATION * sigma if separation is None else separation
    return _Found(found, snr, score, sigma, apart, correlation)


# Where to look --------------------------------------------------------------------


def column_width(image: np.ndarray, valid: np.ndarray) -> Optional[float]:
    """Return the typical sigma of the bright spots of an image, pixels, roughly.

    From the radius at which the autocorrelation has fallen halfway to its first
    minimum. Lag 0 and lags along the axes are left out: there noise is correlated with
    itself, pixel by pixel or along the scan line.

    Args:
        image: [H, W], 0 where pixels are missing.
        valid: Where they are not [H, W].

    Returns:
        None if nothing stands out of the noise.
    """
    profile, sure = _radial_autocorrelation(image, valid)
    if not sure:
        return None
    radius = np.arange(len(profile))
    smooth = profile.copy()
    smooth[2:-1] = (profile[1:-2] + 2 * profile[2:-1] + profile[3:]) / 4
    rising = np.nonzero(np.diff(smooth[1:]) > 0)[0]
    lowest = 1 + int(rising[0]) if len(rising) else len(smooth) - 1
    top = smooth[1] + (smooth[1] - smooth[2]) / 3  # a parabola's value at 0
    half = (top + smooth[lowest]) / 2
    below = int(np.argmax(smooth <= half))
    if below < 2:
        return _WIDTHS[0]
    step = (smooth[below - 1] - half) / (smooth[below - 1] - smooth[below])
    return float(np.clip((radius[below - 1] + step) / _HALF_WIDTH, *_WIDTHS))


def _radial_autocorrelation(
    image: np.ndarray, valid: np.ndarray
) -> Tuple[np.ndarray, bool]:
    """Return the mean autocorrelation by radius, and whether it stands out of noise."""
    sides = [min(_BLOCK, size) for size in image.shape]
    starts = [
        np.unique(np.linspace(0, size - side, -(-size // side)).astype(int))
        for size, side in zip(image.shape, sides)
    ]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
    step = -(-len(corners) // _MOST_BLOCKS)
    reach = max(6, min(sides) // 3)
    total, number, pixels = 0.0, 0.0, 0.0
    for top, left in corners[::step]:
        part = np.s_[top : top + sides[0], left : left + sides[1]]
        mask = valid[part].astype(np.float64)
        pixels += mask.sum()
        values = (image[part] - image[part].sum() / max(mask.sum(), 1.0)) * mask
        total = total + _autocorrelation(values, reach)
        number = number + _autocorrelation(mask, reach)
    correlation = total / np.maximum(number, 1.0)
    lag = np.arange(-reach, reach + 1)
    distance = np.rint(np.hypot(lag[:, None], lag)).astype(int)
    use = (lag[:, None] != 0) & (lag != 0) & (distance <= reach)
    counts = np.bincount(distance[use], minlength=reach + 1)
    profile = np.bincount(distance[use], correlation[use], minlength=reach + 1)
    profile = profile / np.maximum(counts, 1)
    power = correlation[reach, reach]
    sure = power > 0 and profile[1] > 5 * power / np.sqrt(2 * max(pixels, 1.0))
    return profile, bool(sure)


def _autocorrelation(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the sums of products at lags up to ``reach`` [2 reach + 1] squared."""
    shape = [size + reach for size in values.shape]
    spectrum = np.fft.rfft2(values, shape)
    product = np.fft.irfft2(np.abs(spectrum) ** 2, shape)
    lag = np.arange(-reach, reach + 1)
    return product[np.ix_(lag, lag)]


def _noise_level(plane: _Plane) -> float:
    """Return the standard deviation of white noise, from differences that cancel
    everything smooth (Immerkaer 1996)."""
    image = plane.values
    second = image[:-2] - 2 * image[1:-1] + image[2:]
    mixed = second[:, :-2] - 2 * second[:, 1:-1] + second[:, 2:]
    valid = plane.valid
    valid = valid[:-2] & valid[1:-1] & valid[2:]
    valid = valid[:, :-2] & valid[:, 1:-1] & valid[:, 2:]
    return float(np.sqrt(np.mean(mixed[valid] ** 2)) / 6) if valid.any() else 0.0


def _seeds(plane: _Plane, width: float, apart: float, noise: float) -> np.ndarray:
    """Return the peaks ``(y, x)`` [n, 2] of an image under a filter for spots.

    Args:
        plane: The image.
        width: Of the filter (Laplacian of a Gaussian), pixels.
        apart: Smallest distance of two peaks, pixels.
        noise: Standard deviation of white noise in the image.
    """
    response = -(width**2) * gaussian_laplace(plane.values, width, mode="nearest")
    steps = np.arange(-int(apart), int(apart) + 1)
    disk = np.hypot(steps[:, None], steps) <= apart
    # Pixels side by side at least, even where columns are narrow.
    disk = disk if len(steps) > 1 else np.ones((3, 3), dtype=bool)
    peaks = (response == maximum_filter(response, footprint=disk)) & plane.valid
    y, x = np.nonzero(peaks)
    strength = response[y, x]
    if not len(y):
        return np.empty((0, 2))
    # The filter turns white noise into this: its kernel's norm is 1 / sqrt(2 pi) / s.
    floor = _SEED_NOISE * noise / (np.sqrt(2 * np.pi) * width)
    floor = max(floor, _SEED_CONTRAST * float(np.percentile(strength, 95)))
    keep = strength > floor
    y, x = y[keep], x[keep]
    return np.stack([y, x], axis=1) + _vertex(response, y, x)


def _vertex(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the offset of the peak of a parabola along each axis [n, 2]."""
    offsets = []
    for axis, place in enumerate((y, x)):
        size = image.shape[axis]
        inside = (place > 0) & (place < size - 1)
        step = np.array([1, 0]) if axis == 0 else np.array([0, 1])
        low = image[np.maximum(y - step[0], 0), np.maximum(x - step[1], 0)]
        high = image[
            np.minimum(y + step[0], image.shape[0] - 1),
            np.minimum(x + step[1], image.shape[1] - 1),
        ]
        bend = 2 * image[y, x] - low - high
        offset = 0.5 * (high - low) / np.where(bend > 0, bend, 1.0)
        offsets.append(np.where(inside & (bend > 0), np.clip(offset, -0.5, 0.5), 0.0))
    return np.stack(offsets, axis=1)


def _spacing(starts: np.ndarray, shape: Tuple[int, int], sigma: float) -> float:
    """Return the typical distance of neighbours, pixels."""
    if len(starts) < 2:
        return float(max(shape))
    nearest = cKDTree(starts).query(starts, k=2)[0][:, 1]
    return float(np.clip(np.median(nearest), 3 * sigma, max(shape)))


# What to believe ------------------------------------------------------------------


def _common_width(fit: FittedColumns, snr: np.ndarray, sigma: float) -> float:
    """Return the median width of the surest columns, pixels."""
    sure = (snr >= np.median(snr)) & ~fit.frozen & (fit.values[:, HEIGHT] > 0)
    if not sure.any():
        return sigma
    values = np.exp(fit.values[sure, WIDTH])
    return float(np.clip(np.median(values), *_WIDTHS))


def scores(snr: np.ndarray, area: float, sigma: float) -> np.ndarray:
    """Return 1 - the share of false columns expected among those as good or better.

    White noise under the filter of a column's shape is a smooth random field; it has,
    on the average, ``area / (2 sigma^2) (2 pi)^-1.5 t exp(-t^2 / 2)`` peaks above ``t``
    standard deviations (Adler 1981). Fitting the width too adds a third dimension.

    Args:
        snr: Height divided by its error [n].
        area: Of the image, square pixels.
        sigma: Of the columns, pixels.
    """
    t = np.maximum(snr, 1.0)
    expected = area / (2 * sigma**2) * (2 * np.pi) ** -1.5 * t * np.exp(-0.5 * t**2)
    order = np.argsort(-snr, kind="stable")
    share = expected[order] / np.arange(1, len(snr) + 1)
    # A better column is never less sure.
    share = np.minimum.accumulate(share[::-1])[::-1]
    out = np.empty(len(snr))
    out[order] = 1 - np.minimum(share, 1.0)
    return out


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
    """Return how much correlated noise adds to the variances of y, x, height, width.

    1 for white noise. With the correlation ``rho(d)`` of the residual along an axis and
    the autocorrelation ``q(d)`` of what a parameter projects on, the factor is
    ``1 + 2 sum rho(d) q(d)``; that of both axes is taken as their product, which is
    exact where the correlation is a product too, as for streaks along scan lines.
    """
    relative = np.where(valid, fit.residual / np.sqrt(fit.noise), 0.0)
    power = float(np.sum(relative**2)) / max(valid.sum(), 1)
    factors = np.ones(4)
    if power == 0:
        return factors
    for axis in (0, 1):
        image = relative if axis == 0 else relative.T
        mask = valid if axis == 0 else valid.T
        flat = along = 0.0
        for d in range(1, min(int(4 * sigma) + 1, len(image) - 1)):
            number = max(int(np.sum(mask[d:] & mask[:-d])), 1)
            rho = float(np.sum(image[d:] * image[:-d])) / (number * power)
            if rho < 3 / np.sqrt(number):
                break
            q = np.exp(-(d**2) / (4 * sigma**2))
            flat += rho * q
            along += rho * q * (1 - d**2 / (2 * sigma**2))
        each = np.full(4, 1 + 2 * flat)
        each[axis] = max(1 + 2 * along, 0.1)
        factors *= each
    return factors


# The table ------------------------------------------------------------------------


def _table(found: _Found, raw: _Plane, sign: int) -> ColumnTable:
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
    inside = np.pad(raw.valid, 1)
    rim = distance_transform_edt(inside)[1:-1, 1:-1]
    nearest = np.rint(fit.values[:, :2]).astype(int)
    nearest = np.clip(nearest, 0, np.array(raw.valid.shape) - 1)
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
        edge=rim[nearest[:, 0], nearest[:, 1]] <= _EDGE * sigma,
        overlapping=fit.overlap > np.exp(-(_OVERLAP**2) / 4),
        fitted=fitted,
    )


# At the door ----------------------------------------------------------------------


def _check_options(
    mode: str,
    polarity: Optional[str],
    seeds_from: str,
    sigma: Optional[float],
    separation: Optional[float],
    min_score: float,
) -> int:
    """Return 1 for bright columns, -1 for dark ones."""
    legal = {"mode": (mode, tuple(MODES)), "seeds_from": (seeds_from, SEEDS)}
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
    return 1 if (polarity or MODES[mode]) == "bright" else -1


def _plane(image: Any, name: str, sign: int) -> _Plane:
    """Check an image and bring it to median 0 and a spread near 1."""
    data = image.data if hasattr(image, "axes_manager") else image
    if hasattr(data, "compute"):  # a dask array, of a lazy signal
        data = data.compute()
    data = np.ma.asanyarray(data)
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
    offset = float(np.median(values[valid]))
    scale = float(np.std(values[valid]))
    if scale <= 1e-12 * abs(offset):
        raise ValueError(f"{name}: all pixels are equal ({offset:g})")
    values = np.where(valid, sign * (values - offset) / scale, 0.0)
    return _Plane(values, valid, offset, scale)


def _signal_calibration(signal: Any) -> Tuple[Any, str]:
    """Return pixel size (y, x) and units of a HyperSpy signal; None if it has none."""
    axes = signal.axes_manager.signal_axes  # (x, y)
    scales = [float(axis.scale) for axis in axes][::-1]
    units = {str(axis.units) for axis in axes}
    try:
        return pixel_size_in_nm(scales, *units), "nm"
    except (TypeError, ValueError):
        return None, "nm"
