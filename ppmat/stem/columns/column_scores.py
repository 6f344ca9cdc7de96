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

"""How sure fitted columns are: scores, correlated noise, misfit, common width.

Arguments with the same meaning in all functions:

- ``snr``: height divided by its error, in the raw image [n]
- ``area``: area of the image, square pixels
- ``sigma``: common width of the columns, pixels
- ``apart``: smallest distance of two columns, pixels
- ``valid``: False at missing pixels [H, W]
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from ppmat.stem.columns.column_fit import WIDTH_SPREAD
from ppmat.stem.columns.normal_equations import HEIGHT
from ppmat.stem.columns.normal_equations import WIDTH
from ppmat.stem.columns.peak_finding import filter_spots
from ppmat.stem.columns.standard_errors import FittedColumns
from ppmat.stem.scenes.atom_columns import AtomColumns

_MIN_SNR = 1.5  # in the raw image; with less, also a sure network is ignored
_SURE_SCORE = 0.95  # columns above it are references for the others
_MIN_SURE = 4  # columns; with fewer there is no reference
_WEAK_PERCENTILE = 20  # of the sure columns: the weaker kind of a crystal
_WIDTH_RANGE = (0.7, 1.4)  # legal ratio of the fitted width to the estimate before
_MERGED = 1.0  # sigma; fitted columns that are nearer are one column
_MISFIT_SIDE = 8.0  # sigma; side of the squares
_BESIDE = 3.0  # sigma; nearer peaks of the residual may be those of a wrong shape
_RING_RADIUS = 2.0  # sigma; there the misfit of an elliptic column is largest
_RING_REACH = 6.0  # sigma; rings farther from their column are weaker than noise
_RING_SHARE = 0.45  # of a weak column; where two rings cross, it is half
_RING_ANGLES = 24
_RING_POINTS = 16
_RING_SPREADS = 4.0  # standard deviations of the residual around columns
_STRONG_PERCENTILE = 95  # of the heights
_WEAK_HEIGHT = 0.33  # of strong columns; crossings of rings stay below


def scores(snr: np.ndarray, area: float, sigma: float, apart: float) -> np.ndarray:
    """Return the probability that each column is no peak of the noise [n].

    White noise under a filter with the shape of a column is a smooth random field. Its
    number of peaks above ``t`` standard deviations in an area ``A`` is, on average,
    ``A / (2 sigma^2) (2 pi)^-1.5 t exp(-t^2 / 2)`` (Adler, The Geometry of Random
    Fields, 1981). ``A`` is here the area without the more certain columns. The score is
    ``1 - expected / found``, with the numbers between ``t - 1/2`` and ``t + 1/2``.

    Example:
        >>> import numpy as np
        >>> snr = np.array([9.0, 9.1, 9.2, 2.0, 1.0])
        >>> scores(snr, area=1e4, sigma=3.0, apart=6.0).round(2).tolist()
        [1.0, 1.0, 1.0, 0.0, 0.0]
    """

    def peaks_above(t: np.ndarray) -> np.ndarray:
        t = np.maximum(t, 1.0)
        return free / (2 * sigma**2) * (2 * np.pi) ** -1.5 * t * np.exp(-0.5 * t**2)

    order = np.argsort(snr, kind="stable")
    t = snr[order]
    surer = len(t) - np.searchsorted(t, t, "right")
    free = area * np.exp(-np.pi * apart**2 * surer / area)
    number = np.searchsorted(t, t + 0.5, "right") - np.searchsorted(t, t - 0.5, "left")
    expected = peaks_above(t - 0.5) - peaks_above(t + 0.5)
    sure = 1 - np.minimum(expected / np.maximum(number, 1), 1.0)
    sure[t < _MIN_SNR] = 0.0
    out = np.empty(len(snr))
    # A larger ratio never gets a smaller score.
    out[order] = np.maximum.accumulate(sure)
    return out


def network_scores(
    snr: np.ndarray, contrast: np.ndarray, area: float, sigma: float, apart: float
) -> np.ndarray:
    """Return the probability of each column by the enhanced image [n].

    A network that was trained on squared errors draws the mean of all possible images:
    a column of probability one half has half its height. The probability is therefore
    ``contrast``, the height of the seed in the enhanced image [n], over a reference.
    The reference is that of the weaker columns that are sure by the raw image alone.
    The probability is 0 where the raw image shows nothing.
    """
    sure = scores(snr, area, sigma, apart) >= _SURE_SCORE
    if sure.sum() < _MIN_SURE:
        return np.zeros(len(snr))
    usual = float(np.percentile(contrast[sure], _WEAK_PERCENTILE))
    probability = np.clip(contrast / max(usual, 1e-300), 0.0, 1.0)
    return np.where(snr >= _MIN_SNR, probability, 0.0)


def common_width(
    fit: FittedColumns, snr: np.ndarray, score: np.ndarray, sigma: float
) -> float:
    """Return the common width of the sure columns, pixels; ``sigma`` if there are few.

    ``sigma`` was the centre of the prior of the fit.
    """
    sure = (score >= _SURE_SCORE) & (snr >= np.median(snr)) & ~fit.frozen
    if sure.sum() < _MIN_SURE:
        return sigma
    # The prior pulls each width to the common one: undo that.
    log = fit.values[sure, WIDTH]
    own = np.nan_to_num(1 - (fit.errors[sure, WIDTH] / WIDTH_SPREAD) ** 2)
    center = np.log(sigma)
    step = np.median(log - center) / np.clip(np.median(own), 0.2, 1.0)
    # Peaks of noise are narrow, so they must not change the width much.
    limits = _WIDTH_RANGE[0] * sigma, _WIDTH_RANGE[1] * sigma
    return float(np.clip(np.exp(center + step), *limits))


def merged_columns(fit: FittedColumns, snr: np.ndarray, sigma: float) -> np.ndarray:
    """Return the mask of columns at the position of a more certain column [n]."""
    merged = np.zeros(len(snr), dtype=bool)
    tree = cKDTree(fit.values[:, :2])
    for i, j in tree.query_pairs(_MERGED * sigma):
        merged[i if snr[i] < snr[j] else j] = True
    return merged


def noise_correlation(
    fit: FittedColumns, valid: np.ndarray, sigma: float
) -> np.ndarray:
    """Return factors of the variances of y, x, height, width by correlated noise [4].

    ``rho(d)`` is the autocorrelation of the residual at lag ``d`` along one axis, and
    ``q(d)`` that of the parameter's derivative. The variance is that of white noise
    times ``1 + 2 sum rho(d) q(d)``. Only the excess of one axis over the other counts:
    a wrong profile or a missed column gives correlation along both axes.
    """
    relative = np.where(valid, fit.residual / np.sqrt(fit.noise), 0.0)
    power = float(np.sum(relative**2))
    factors = np.ones(4)
    if power == 0:
        return factors
    longest = max(1, min(int(4 * sigma), min(valid.shape) // 2 - 1))
    least = 3 / np.sqrt(valid.sum())  # three standard errors of a correlation
    sums = np.zeros((2, 2))  # for each axis: derivatives without and with a slope
    counts = np.ones(2, dtype=bool)
    for lag in range(1, longest + 1):
        both = (relative, relative.T)
        rho = np.array([np.einsum("ij,ij", a[lag:], a[:-lag]) for a in both]) / power
        q = np.exp(-(lag**2) / (4 * sigma**2))
        excess = rho - np.maximum(rho[::-1], 0.0)
        counts &= excess > least
        if not counts.any():
            break
        weights = np.array([1, 1 - lag**2 / (2 * sigma**2)])
        sums[counts] += (excess[counts] * q)[:, None] * weights
    for axis, (flat, along) in enumerate(1 + 2 * sums):
        factors *= np.where(np.arange(4) == axis, max(along, 0.1), flat)
    return factors


def misfit_variance(fit: FittedColumns, valid: np.ndarray, sigma: float) -> float:
    """Return the variance of a column's height by wrong profiles and rings.

    It is the mean square of the residual under the filter for columns, less that of
    noise. The median over squares of the image with columns is taken, so that one
    failed fit does not count for the others.
    """
    side = min(int(_MISFIT_SIDE * sigma), *valid.shape)
    power = (2 * filter_spots(fit.residual, sigma)) ** 2
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


def noise_share(fit: FittedColumns, misfit: float) -> np.ndarray:
    """Return the factor of ``snr`` by the misfit of :func:`misfit_variance` [n].

    It is ``error / sqrt(error^2 + misfit)`` for weak columns, and 1 for the others.
    """
    height, error = fit.values[:, HEIGHT], fit.errors[:, HEIGHT]
    weak = height < _WEAK_HEIGHT * np.percentile(height, _STRONG_PERCENTILE)
    share = 1 / np.sqrt(1 + misfit / np.maximum(error, 1e-150) ** 2)
    return np.where(weak, np.nan_to_num(share), 1.0)


def explained_by_shape(
    starts: np.ndarray, fit: FittedColumns, sigma: float
) -> np.ndarray:
    """Return the mask of peaks of the residual that a stronger column's shape makes.

    Elliptic columns leave a peak on two opposite sides, columns with wings a ring. So a
    peak beside a stronger column is no column if the residual at the opposite side is
    more than half as high. Shifts of scan lines leave peaks at random sides: a peak
    must also stand out from the residual around all columns, relative to their heights.

    Args:
        starts: Peaks of the residual ``(y, x)``, pixels [m, 2].
        fit: The columns, and their residual.
        sigma: Common width, pixels.
    """
    position, height = fit.values[:, :2], fit.values[:, HEIGHT]
    response = 2 * filter_spots(fit.residual, sigma)

    def at(points: np.ndarray) -> np.ndarray:
        axes = np.moveaxis(points, -1, 0)
        return map_coordinates(response, axes, order=1, mode="nearest")

    angle = 2 * np.pi * np.arange(_RING_POINTS) / _RING_POINTS
    ring = np.stack([np.sin(angle), np.cos(angle)], axis=1) * _RING_RADIUS * sigma
    strong = height > _WEAK_HEIGHT * np.percentile(height, _STRONG_PERCENTILE)
    around = at(position[strong, None] + ring) / height[strong, None]
    usual = _RING_SPREADS * 1.4826 * float(np.median(np.abs(around)))
    found = at(starts)
    explained = np.zeros(len(starts), dtype=bool)
    near = cKDTree(position).query_ball_point(starts, _BESIDE * sigma)
    for k, columns in enumerate(near):
        stronger = np.array([c for c in columns if height[c] > found[k]], dtype=int)
        if len(stronger):
            opposite = at(2 * position[stronger] - starts[k])
            explained[k] = (opposite > found[k] / 2).any()
            explained[k] |= found[k] < usual * height[stronger].max()
    return explained


def on_ring(fit: FittedColumns, sigma: float) -> np.ndarray:
    """Return the mask of weak columns that lie on a ring around a stronger one [n].

    Bright field has rings, and probes have wings. Where rings cross there are peaks. A
    ring is there at all angles, and a column is not: so the image without the strong
    columns is taken at the weak column's distance from the nearest strong one, and the
    median over the angles is compared with the weak column itself.

    Args:
        fit: The columns, and their residual.
        sigma: Common width, pixels.
    """
    position, height = fit.values[:, :2], fit.values[:, HEIGHT]
    weak = height < _WEAK_HEIGHT * np.percentile(height, _STRONG_PERCENTILE)
    masked = np.zeros(len(height), dtype=bool)
    if weak.all() or not weak.any():
        return masked
    distance, nearest = cKDTree(position[~weak]).query(position[weak])
    columns = AtomColumns(*fit.values[weak, :3].T, np.exp(fit.values[weak, WIDTH]))
    rest = fit.residual + columns.render(fit.residual.shape)
    response = filter_spots(rest, sigma)
    angle = 2 * np.pi * np.arange(_RING_ANGLES) / _RING_ANGLES
    ring = np.stack([np.sin(angle), np.cos(angle)])[:, None] * distance[:, None]
    y, x = position[~weak][nearest].T[:, :, None] + ring
    inside = (y >= 0) & (y < rest.shape[0]) & (x >= 0) & (x < rest.shape[1])
    around = map_coordinates(response, [y, x], order=1, mode="nearest")
    # Beyond the image nothing is seen of a ring.
    usual = np.median(np.where(inside, around, 0.0), axis=1)
    own = map_coordinates(response, position[weak].T, order=1, mode="nearest")
    masked[weak] = (distance < _RING_REACH * sigma) & (usual > _RING_SHARE * own)
    return masked
