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


"""Scan and pointwise noise from products of filtered residuals.

With ``r`` the residual of an image after a filter ``h`` across the scan lines (taps of
unit norm that pass nothing as smooth as a column), the noise model says for pixels at
a distance ``k`` along the line::

    E[r(x) r(x + k)] = rho(k) sum_j h_j^2 s_j(x) s_j(x + k) + (k = 0) sum_j h_j^2 p_j^2

with ``s`` and ``p`` the standard deviations of scan and pointwise noise on the lines
that the filter sees, and ``rho(k) = exp(-k^2 / (4 L^2))``. Both are linear in unknown
slope and intercept, so the right side is a quadratic form of means that the gradient
(or the grey value) of the clean image gives. No smoothing of squared residuals and no
calibration factor enters, hence no bias.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.linalg import toeplitz
from scipy.ndimage import correlate1d
from scipy.optimize import least_squares

BLOCK = 32  # pixels a side; blocks are what standard errors are drawn from
LAGS = np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20])  # pixels along a line
_BLIND = 0.02  # most of a filter's weight that unusable pixels may have
_LEAK = 0.05  # part of the power of the columns that their fit may have left


@dataclass
class Sums:
    """Sums over the pixels of each block and bin that the fits are made of.

    Args:
        count: Pixels [blocks, bins, lags].
        product: Product of two filtered residuals.
        first: Mean of the variable the noise depends on, weighted as the filter does.
        second: Mean of the product of its two values.
        leak: What the model says that other noise adds to the product.
    """

    count: np.ndarray
    product: np.ndarray
    first: np.ndarray
    second: np.ndarray
    leak: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            *(
                np.concatenate([getattr(self, f.name), getattr(other, f.name)])
                for f in dataclasses.fields(self)
            )
        )

    def less(self, other: Sums) -> Sums:
        """Return the sums with the products of the other, of the same pixels, away."""
        return dataclasses.replace(self, product=self.product - other.product)

    def total(self, weights: np.ndarray) -> Sums:
        """Return means over the blocks [bins, lags], each counted ``weights`` times."""
        count = np.tensordot(weights, self.count, 1)
        safe = np.maximum(count, 1)
        means = (
            np.tensordot(weights, getattr(self, name), 1) / safe
            for name in ("product", "first", "second", "leak")
        )
        return Sums(count, *means)


def high_pass(width: float, signal: float, noise: float) -> np.ndarray:
    """Return taps of unit norm that pass noise, and nothing as smooth as a column.

    Columns of standard deviation ``width`` have the autocovariance
    ``signal exp(-d^2 / (4 width^2))``. The taps are what the best linear prediction of
    a pixel from its neighbours in such an image leaves: the middle row of the inverse
    covariance.

    Args:
        width: Pixels.
        signal: Variance of the columns' image.
        noise: Variance of pointwise noise.
    """
    half = int(np.clip(np.ceil(2.5 * width), 4, 8))
    lags = np.arange(2 * half + 1)
    ratio = _LEAK * signal / noise
    covariance = ratio * toeplitz(np.exp(-(lags**2) / (4 * width**2)))
    middle = np.zeros(len(lags))
    middle[half] = 1.0
    taps = np.linalg.solve(covariance + np.eye(len(lags)), middle)
    taps -= taps.mean()  # nothing of the level
    return taps / np.sqrt(np.sum(taps**2))


def block_of(shape: tuple[int, int]) -> np.ndarray:
    """Return the number of the block of each pixel [H, W]."""
    rows, columns = (np.arange(n) // BLOCK for n in shape)
    return rows[:, None] * (columns[-1] + 1) + columns


def clear(usable: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
    """Return the pixels at which a filter meets next to no unusable ones [H, W].

    Args:
        usable: [H, W].
        taps: Of unit norm.
        axis: Along which the filter runs.
    """
    return correlate1d((~usable).astype(float), taps**2, axis=axis) < _BLIND


def bin_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the number of the bin of each value, -1 outside of all."""
    index = np.searchsorted(edges, values, side="right") - 1
    return np.where(index < len(edges) - 1, index, -1)


def line_products(
    residual: np.ndarray,
    variable: np.ndarray,
    usable: np.ndarray,
    taps: np.ndarray,
    edges: np.ndarray,
    lags: np.ndarray,
    sort_by: np.ndarray | None = None,
) -> Sums:
    """Return the sums of products along the lines, filtered across them.

    Args:
        residual: Image without its columns [H, W], lines along axis 1.
        variable: What the noise depends on, ``g`` [H, W].
        usable: Pixels that may enter [H, W].
        taps: Filter across the lines (axis 0).
        edges: Of the bins, by the mean of ``sort_by`` over a product.
        lags: Distances along the line, pixels.
        sort_by: What the pixels are sorted by into bins [H, W]; ``g`` if not given.
    """
    half = len(taps) // 2
    inner = slice(half, len(residual) - half)
    filtered = correlate1d(residual, taps, axis=0)[inner]
    squares = taps**2
    mean = correlate1d(variable, squares, axis=0)[inner]
    order = mean
    if sort_by is not None:
        order = correlate1d(sort_by, squares, axis=0)[inner]
    fine = clear(usable, taps, axis=0)[inner]
    blocks = block_of(residual.shape)
    bins, number = len(edges) - 1, int(blocks.max()) + 1
    blocks = blocks[inner]
    sums = np.zeros((5, number, bins, len(lags)))
    width = residual.shape[1]
    for i, lag in enumerate(lags):
        left, right = slice(0, width - lag), slice(lag, width)
        first = 0.5 * (mean[:, left] + mean[:, right])
        second = correlate1d(variable[:, left] * variable[:, right], squares, axis=0)
        product = filtered[:, left] * filtered[:, right]
        place = 0.5 * (order[:, left] + order[:, right])
        index = bin_of(place, edges)
        keep = (index >= 0) & fine[:, left] & fine[:, right]
        place = (blocks[:, left] * bins + index)[keep]
        for n, values in enumerate((None, product, first, second[inner])):
            weights = None if values is None else values[keep]
            total = np.bincount(place, weights, minlength=number * bins)
            sums[n, :, :, i] = total.reshape(number, bins)
    return Sums(*sums)


def pixel_squares(
    residual: np.ndarray,
    variable: np.ndarray,
    usable: np.ndarray,
    taps: np.ndarray,
    edges: np.ndarray,
    scan_sd: np.ndarray,
    length: float,
) -> Sums:
    """Return the sums of squares after a filter along the lines.

    The filter takes nearly all scan noise away; what is left is known from its fit.

    Args:
        residual: Image without its columns [H, W].
        variable: Grey value of the clean image [H, W].
        usable: Pixels that may enter [H, W].
        taps: Filter along the lines (axis 1).
        edges: Of the bins by grey value.
        scan_sd: Standard deviation of scan noise [H, W].
        length: Of scan noise, pixels.
    """
    half = len(taps) // 2
    inner = slice(half, residual.shape[1] - half)
    squares = taps**2
    filtered = correlate1d(residual, taps, axis=1)[:, inner]
    first = correlate1d(variable, squares, axis=1)[:, inner]
    second = correlate1d(variable**2, squares, axis=1)[:, inner]
    leak = scan_leak(scan_sd, taps, length)[:, inner]
    fine = clear(usable, taps, axis=1)[:, inner]
    index = bin_of(first, edges)
    bins = len(edges) - 1
    blocks = block_of(residual.shape)
    number = int(blocks.max()) + 1
    blocks = blocks[:, inner]
    keep = (index >= 0) & fine
    place = (blocks * bins + index)[keep]
    sums = [
        np.bincount(
            place, None if v is None else v[keep], minlength=number * bins
        ).reshape(number, bins, 1)
        for v in (None, filtered**2, first, second, leak)
    ]
    return Sums(*(s.astype(float) for s in sums))


def scan_leak(scan_sd: np.ndarray, taps: np.ndarray, length: float) -> np.ndarray:
    """Return the variance of scan noise behind a filter along the lines [H, W].

    The standard deviation is taken as constant over the taps: the filter leaves so
    little that its change does not matter.
    """
    lags = np.arange(len(taps))
    rho = toeplitz(np.exp(-(lags**2) / (4 * length**2)))
    return float(taps @ rho @ taps) * correlate1d(scan_sd**2, taps**2, axis=1)


def quadratic(sums: Sums, slope: float, intercept: float) -> np.ndarray:
    """Return the mean of ``(slope g + intercept)(slope g' + intercept)``."""
    return slope**2 * sums.second + 2 * slope * intercept * sums.first + intercept**2


def correlation(lags: np.ndarray, length: float) -> np.ndarray:
    """Return the correlation of scan noise at a distance along the line."""
    return np.exp(-(np.asarray(lags) ** 2) / (4 * length**2))


def fit_scan(
    sums: Sums, lags: np.ndarray, weight: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Return slope, intercept and length that describe the products best.

    Args:
        sums: Means [bins, lags].
        lags: Pixels [lags].
        weight: Inverse standard errors [bins, lags]; 0 leaves a bin out.
        start: Slope, intercept, length to begin with.
    """

    def misfit(p: np.ndarray) -> np.ndarray:
        model = correlation(lags, np.exp(p[2])) * quadratic(sums, p[0], p[1])
        return ((model - sums.product) * weight).ravel()

    found = least_squares(
        misfit,
        [start[0], start[1], np.log(start[2])],
        bounds=([0, 0, np.log(0.6)], [np.inf, np.inf, np.log(40.0)]),
        x_scale=[max(start[0], 1e-2), max(start[1], 1e-12), 1.0],
        max_nfev=60,
    )
    return np.array([found.x[0], found.x[1], np.exp(found.x[2])])


def refit_scan(
    sums: Sums, lags: np.ndarray, weight: np.ndarray, near: np.ndarray
) -> np.ndarray:
    """Return what :func:`fit_scan` does for sums that differ little, in two steps."""
    p = np.array(near, dtype=float)
    for _ in range(2):
        slope, intercept, length = p
        rho = correlation(lags, length)
        field = quadratic(sums, slope, intercept)
        jacobian = np.stack(
            [
                2 * rho * (slope * sums.second + intercept * sums.first),
                2 * rho * (slope * sums.first + intercept),
                rho * field * np.asarray(lags) ** 2 / (2 * length**3),
            ],
            axis=-1,
        )
        rest = (sums.product - rho * field) * weight
        step = np.linalg.lstsq(
            (jacobian * weight[..., None]).reshape(-1, 3), rest.ravel(), rcond=None
        )[0]
        step[2] = np.clip(step[2], -0.5 * length, 0.5 * length)
        p = np.maximum(p + step, [0.0, 0.0, 0.6])
    return p


def fit_pointwise(sums: Sums, weight: np.ndarray, rounding: float) -> np.ndarray:
    """Return slope and intercept of the pointwise standard deviation.

    Args:
        sums: Means [bins, 1].
        weight: Inverse standard errors [bins]; 0 leaves a bin out.
        rounding: Variance that rounding to grey levels has added.
    """
    used = weight > 0
    target = (sums.product - sums.leak - rounding)[used, 0]
    first, second = sums.first[used, 0], sums.second[used, 0]
    weight = weight[used]
    # Linear start on the square root of each bin, then the exact quadratic form.
    root = np.sqrt(np.maximum(target, 1e-30))
    p = np.polyfit(first, root, 1, w=weight * root)
    for _ in range(3):
        slope, intercept = p
        model = slope**2 * second + 2 * slope * intercept * first + intercept**2
        jacobian = 2 * np.stack(
            [slope * second + intercept * first, slope * first + intercept], axis=1
        )
        p = (
            p
            + np.linalg.lstsq(
                jacobian * weight[:, None], (target - model) * weight, rcond=None
            )[0]
        )
    return p
