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

"""Sums over the pixels of filtered residuals; the fits of the noise terms use them.

Let ``r`` be the residual of an image after a filter ``h`` across the scan lines. Its
taps have unit norm and remove everything as smooth as a column. For two pixels at a
distance ``k`` along a line, the noise model gives::

    E[r(x) r(x + k)] = rho(k) sum_j h_j^2 s_j(x) s_j(x + k) + (k = 0) sum_j h_j^2 p_j^2

``s`` and ``p`` are the standard deviations of scan and pointwise noise on the lines
under the filter, and ``rho(k) = exp(-k^2 / (4 L^2))``. Both are linear in the gradient
(or the grey value) of the clean image. So the right side is a quadratic form in means
that are known. Squared residuals are not smoothed and need no calibration factor, hence
the estimate has no bias.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import toeplitz
from scipy.ndimage import correlate1d

BLOCK = 32  # side of the blocks that the bootstrap draws, pixels
LAGS = np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20])  # pixels along a line
STREAK_LAGS = slice(2, 7)  # lags at which streaks differ from a blur, pixels
MIN_BIN_PIXELS = 300  # a bin with fewer pixels is not used
VALUES = np.arange(-12.0, 12.0001, 0.05)  # of residuals, standard deviations
_MAX_UNUSABLE = 0.02  # share of a filter's weight on unusable pixels
_LEFT_POWER = 0.05  # assumed share of the columns' power that is left in the residual


@dataclass(frozen=True)
class Residual:
    """The residual of an image and what its sums need, all but the taps [H, W]."""

    values: np.ndarray  # image without its columns, lines along axis 1
    clean: np.ndarray  # the clean image
    gradient: np.ndarray  # hypot of its gradient
    usable: np.ndarray  # mask of usable pixels
    taps: np.ndarray  # high pass of unit norm, from high_pass

    def transposed(self) -> Residual:
        """Return the residual with its lines along axis 0."""
        *images, taps = vars(self).values()
        return Residual(*(image.T for image in images), taps)


@dataclass
class Sums:
    """Sums of each block and bin [blocks, bins, lags], or means [bins, lags]."""

    count: np.ndarray  # pixels
    product: np.ndarray  # product of two filtered residuals
    first: np.ndarray  # variable that the noise depends on, weighted as the filter does
    second: np.ndarray  # product of its values at the two pixels
    leak: np.ndarray  # expected product of the other noise that passes the filter

    @classmethod
    def joined(cls, parts: Iterable[Sums]) -> Sums:
        """Return the blocks of all parts."""
        return cls(*map(np.concatenate, zip(*(vars(part).values() for part in parts))))

    def less(self, other: Sums | None) -> Sums:
        """Return the sums after subtraction of the products of the same pixels."""
        if other is None:
            return self
        return dataclasses.replace(self, product=self.product - other.product)

    def means(self, weights: np.ndarray | None = None) -> Sums:
        """Return means over the blocks, which count as often as the weights say."""
        weights = np.ones(len(self.count)) if weights is None else weights
        count, *sums = (np.tensordot(weights, v, 1) for v in vars(self).values())
        return Sums(count, *(values / np.maximum(count, 1) for values in sums))

    def has_enough(self) -> np.ndarray:
        """Return which bins of means have enough pixels [bins]."""
        count = self.count[:, 0]
        return count >= max(MIN_BIN_PIXELS, 0.002 * count.sum())


class LineCorrelation(NamedTuple):
    """Correlation of noise along a line."""

    streaks: float  # covariance of pixels 2 to 6 apart
    streaks_error: float  # its standard error
    power: float  # variance
    neighbour: float  # correlation coefficient of neighbours
    neighbour_error: float  # its standard error


def line_correlation(sums: Sums) -> LineCorrelation:
    """Return the correlation along a line, from the sums of all bins."""
    product, count = sums.product.sum(axis=1), sums.count.sum(axis=1)

    def mean(lags: slice) -> tuple[float, float]:
        block, pixels = product[:, lags].sum(axis=1), count[:, lags].sum(axis=1)
        value = block.sum() / pixels.sum()
        spread = np.sqrt(np.sum((block - value * pixels) ** 2))
        return float(value), float(spread / pixels.sum())

    power, _ = mean(slice(0, 1))
    neighbour, error = mean(slice(1, 2))
    return LineCorrelation(*mean(STREAK_LAGS), power, neighbour / power, error / power)


def correlation(lags: np.ndarray, length: float) -> np.ndarray:
    """Return the correlation of scan noise at distances along the line, pixels."""
    return np.exp(-(lags**2) / (4 * length**2))


def high_pass(width: float, signal: float, noise: float) -> np.ndarray:
    """Return taps of unit norm that pass noise and remove what is smooth as a column.

    Columns of standard deviation ``width`` have the autocovariance
    ``signal exp(-d^2 / (4 width^2))``. The taps return the error of the best linear
    prediction of a pixel from its neighbours in such an image. They are the middle row
    of the inverse covariance. ``signal`` and ``noise`` are variances of the columns'
    image and of pointwise noise.
    """
    half = int(np.clip(np.ceil(2.5 * width), 4, 8))
    lags = np.arange(2 * half + 1)
    ratio = _LEFT_POWER * signal / noise
    covariance = ratio * toeplitz(correlation(lags, width))
    middle = np.zeros(len(lags))
    middle[half] = 1.0
    taps = np.linalg.solve(covariance + np.eye(len(lags)), middle)
    taps -= taps.mean()  # removes the level
    return taps / np.sqrt(np.sum(taps**2))


def line_products(
    residual: Residual, edges: np.ndarray, lags: np.ndarray, by_grey: bool = False
) -> Sums:
    """Return the sums of products along the lines, filtered across them.

    The variable of the sums is the gradient. The edges of the bins are for the mean
    gradient of a product, or for its mean grey value. Lags are in pixels.
    """
    squares, variable = residual.taps**2, residual.gradient
    filtered = correlate1d(residual.values, residual.taps, axis=0)
    mean = order = correlate1d(variable, squares, axis=0)
    if by_grey:
        order = correlate1d(residual.clean, squares, axis=0)
    clear, (blocks, number) = _clear(residual, axis=0), _blocks(variable.shape)
    sums = np.zeros((5, number, len(edges) - 1, len(lags)))
    for i, lag in enumerate(lags):
        left, right = np.s_[:, : variable.shape[1] - lag], np.s_[:, lag:]
        first = 0.5 * (mean[left] + mean[right])
        second = correlate1d(variable[left] * variable[right], squares, axis=0)
        product = filtered[left] * filtered[right]
        place = 0.5 * (order[left] + order[right])
        keep, group = _groups(place, edges, blocks[left], clear[left] & clear[right])
        for n, values in enumerate((None, product, first, second)):
            sums[n, :, :, i] = _sums(values, keep, group, sums.shape[1:3])
    return Sums(*sums)


def pixel_squares(residual: Residual, edges: np.ndarray, scan: np.ndarray) -> Sums:
    """Return the sums of squares after a filter along the lines.

    The filter removes nearly all scan noise; the rest is known from its fit ``scan``:
    slope, intercept, length. Variable of the sums and bins is the grey value.
    """
    squares = residual.taps**2
    filtered = correlate1d(residual.values, residual.taps, axis=1)
    first = correlate1d(residual.clean, squares, axis=1)
    second = correlate1d(residual.clean**2, squares, axis=1)
    leak = _scan_leak(residual, scan)
    blocks, number = _blocks(first.shape)
    keep, group = _groups(first, edges, blocks, _clear(residual, axis=1))
    shape, values = (number, len(edges) - 1), (None, filtered**2, first, second, leak)
    return Sums(*(_sums(v, keep, group, shape)[..., None] for v in values))


def residual_histograms(
    residual: Residual,
    edges: np.ndarray,
    scan: np.ndarray,
    pointwise: np.ndarray,
    rounding: float,
) -> tuple[np.ndarray, float]:
    """Return histograms of residuals, in standard deviations, along the lines.

    Args:
        residual: The image.
        edges: Of the bins by grey value.
        scan: Slope, intercept and length of scan noise.
        pointwise: Slope and intercept of pointwise noise.
        rounding: Variance that rounding to grey levels has added.

    Returns:
        Counts [blocks, bins, values] at :data:`VALUES`, and the mean share of normally
        distributed noise (scan noise, rounding) in the variance.
    """
    squares = residual.taps**2
    pointwise_sd = np.maximum(pointwise[1] + pointwise[0] * residual.clean, 1e-9)
    normal = _scan_leak(residual, scan) + rounding
    variance = correlate1d(pointwise_sd**2, squares, axis=1) + normal
    value = correlate1d(residual.values, residual.taps, axis=1) / np.sqrt(variance)
    place = correlate1d(residual.clean, squares, axis=1)
    blocks, number = _blocks(place.shape)
    keep, group = _groups(place, edges, blocks, _clear(residual, axis=1))
    bins = len(edges) - 1
    counts = histogram(value[keep], group, number * bins)
    share = np.mean((normal / variance)[keep]) if keep.any() else 0
    return counts.reshape(number, bins, -1), share


def histogram(values: np.ndarray, groups: np.ndarray, number: int) -> np.ndarray:
    """Return how often each of :data:`VALUES` occurs in each group [number, values]."""
    step = VALUES[1] - VALUES[0]
    index = np.rint((values - VALUES[0]) / step).astype(int)
    index = np.clip(index, 0, VALUES.size - 1)
    counts = np.bincount(groups * VALUES.size + index, minlength=number * VALUES.size)
    return counts.reshape(number, VALUES.size)


def _blocks(shape: Sequence[int]) -> tuple[np.ndarray, int]:
    """Return the number of the block of each pixel [H, W], and how many there are."""
    rows, columns = (np.arange(n) // BLOCK for n in shape)
    blocks = rows[:, None] * (columns[-1] + 1) + columns
    return blocks, int(blocks.max()) + 1


def _clear(residual: Residual, axis: int) -> np.ndarray:
    """Return where the filter has next to no pixels that are unusable or outside."""
    unusable = (~residual.usable).astype(float)
    clear = correlate1d(unusable, residual.taps**2, axis=axis) < _MAX_UNUSABLE
    half, lines = len(residual.taps) // 2, np.moveaxis(clear, axis, 0)
    lines[:half] = lines[-half:] = False
    return clear


def _scan_leak(residual: Residual, scan: np.ndarray) -> np.ndarray:
    """Return the variance of scan noise behind the filter along the lines [H, W].

    The standard deviation is taken as constant over the taps. The filter passes so
    little scan noise that its change does not matter.
    """
    taps, scan_sd = residual.taps, scan[1] + scan[0] * residual.gradient
    rho = toeplitz(correlation(np.arange(len(taps)), scan[2]))
    return float(taps @ rho @ taps) * correlate1d(scan_sd**2, taps**2, axis=1)


def _groups(
    place: np.ndarray, edges: np.ndarray, blocks: np.ndarray, clear: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels are clear and in a bin, and the block and bin of these."""
    bins = len(edges) - 1
    index = np.searchsorted(edges, place, side="right") - 1
    keep = clear & (index >= 0) & (index < bins)
    return keep, (blocks * bins + index)[keep]


def _sums(
    values: np.ndarray | None, keep: np.ndarray, group: np.ndarray, shape: tuple
) -> np.ndarray:
    """Return the sum of values, or the count, in each block and bin."""
    weights = None if values is None else values[keep]
    sums = np.bincount(group, weights, minlength=np.prod(shape))
    return sums.reshape(shape).astype(float)
