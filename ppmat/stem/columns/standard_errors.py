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

"""Standard errors of fitted columns: variance of the noise, and covariances."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import fields

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from ppmat.stem.columns.normal_equations import HEIGHT
from ppmat.stem.columns.normal_equations import WIDTH
from ppmat.stem.columns.normal_equations import Background
from ppmat.stem.columns.normal_equations import NormalEquations

_BINS = 24  # of grey values, with as many pixels each; one noise variance for each
_FINE_BINS = 4096  # of equal width, which are merged to the former
_ROWS = 256  # rows of an image in memory at a time
_MIN_NOISE = 0.05  # smallest variance of a pixel, in the mean variance
_SURE = 3.0  # standard errors; a smaller difference between the axes is no jitter
_MAX_SHARE = 0.5  # of a displacement that a column follows; that of a sigma of 0.8 px
_TILE = 3.0  # separations; side of the tiles that are inverted together
# Columns farther from a tile than this rim count as known. Errors spread from column to
# column by overlap, so dense lattices need a wide one. With these limits, mean errors
# are at most 2 % too small from 3.2 to 8 sigma; with 6 sigma they were 16 %.
_RIM = 40.0  # sigma, divided by the separation in sigma
_RIM_RANGE = (6.0, 12.0)  # sigma
_MAX_NUMBERS = 2**19  # of all matrices in memory at a time
_RIDGE = 1e-7  # added to the scaled diagonal, against singular matrices
# A tile is inverted again if a column moved by more than this fraction of the width, or
# if a height or width changed by more than this fraction.
_SAME = 1e-3


@dataclass
class FittedColumns:
    """The result of a fit; lengths are in pixels, heights in units of the image."""

    values: np.ndarray  # y, x, height, log(sigma) [n, 4]
    covariance: np.ndarray  # of these, for noise of variance 1 [n, 4, 4]
    variance: np.ndarray  # of the noise where each of these is measured [n, 4]
    background: np.ndarray  # under each column [n]
    frozen: np.ndarray  # the position did not settle, and is the starting one [n]
    overlap: np.ndarray  # largest overlap with another, exp(-d^2 / 4 sigma^2) [n]
    residual: np.ndarray  # image minus model, 0 at missing pixels [H, W]
    noise: np.ndarray  # variance of the noise of each pixel [H, W]

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of ``values`` [n, 4].

        NaN where frozen, except for the height, and where crowded columns cannot be
        separated.
        """
        own = np.diagonal(self.covariance, axis1=1, axis2=2)
        errors = np.sqrt(np.where(own > 0, own * self.variance, np.nan))
        errors[self.frozen[:, None] & (np.arange(4) != HEIGHT)] = np.nan
        return errors

    def add_line_jitter(self, variances: np.ndarray) -> None:
        """Enlarge the variances of y and x by those of :func:`line_jitter` [2].

        A column averages the displacements of its lines. The weights of the lines are a
        Gaussian of ``sigma / sqrt(2)``; the sum of their squares is ``share``.
        """
        share = 1 / (np.sqrt(2 * np.pi) * np.exp(self.values[:, WIDTH]))
        share = np.minimum(share, _MAX_SHARE)
        # The fit follows this share of the displacements, so the residual lacks it.
        share /= 1 - share
        for axis, variance in enumerate(variances):
            own = np.maximum(self.covariance[:, axis, axis], 1e-300)
            self.variance[:, axis] += share * variance / own

    def select(self, which: np.ndarray) -> FittedColumns:
        """Return the columns of a mask, with the same images."""
        *columns, residual, noise = (getattr(self, f.name) for f in fields(self))
        return FittedColumns(*(c[which] for c in columns), residual, noise)


# Noise ----------------------------------------------------------------------------


def noise_variance(
    image: np.ndarray, residual: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Return the variance of the noise of each pixel [H, W].

    The variance is a straight line in the model's value, as for counted electrons.
    ``residual`` is image minus model; ``valid`` is False at missing pixels.
    """

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(image), _ROWS):
            rows = slice(first, first + _ROWS)
            used = valid[rows]
            left = residual[rows][used]
            yield image[rows][used] - left, left

    ends = [(v.min(), v.max()) for v, _ in parts() if len(v)]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    width = max((high - low) / _FINE_BINS, 1e-300)
    sums = np.zeros((3, _FINE_BINS))
    for value, left in parts():
        bins = np.minimum(((value - low) / width).astype(int), _FINE_BINS - 1)
        for k, weights in enumerate((None, value, left**2)):
            sums[k] += np.bincount(bins, weights, _FINE_BINS)
    total = sums[0].sum()
    # A fine bin belongs to the bin of its middle pixel.
    middle = (np.cumsum(sums[0]) - 0.5 * sums[0]) / total
    coarse = np.minimum((_BINS * middle).astype(int), _BINS - 1)
    binned = np.stack([np.bincount(coarse, s, _BINS) for s in sums])
    number, *both = binned[:, binned[0] > 0]
    values, squares = both / number  # means over each bin
    mean = max(float(sums[2].sum() / total), 1e-300)
    low, high = values[[0, -1]]
    slope, intercept = 0.0, mean
    if len(number) >= 3 and high > low:
        # The variances of all bins have the same relative error.
        weights = np.sqrt(number) / np.maximum(squares, _MIN_NOISE * mean)
        slope, intercept = np.polyfit(values, squares, 1, w=weights)
    noise = np.clip(image - residual, low, high)
    noise *= slope
    noise += intercept
    return np.maximum(noise, _MIN_NOISE * mean, out=noise)


def line_jitter(
    image: np.ndarray, residual: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Return the variance of the lines' displacements along y and along x, pixels [2].

    A line that is displaced by ``s`` leaves a residual of ``-s`` times the slope of the
    model along the line. So the sum of residual times slope shows the displacement.
    White noise adds to the squares of these sums, and so do wrong profiles, but along
    both axes. Only the excess of one axis over the other counts, as in
    :func:`ppmat.stem.columns.column_scores.noise_correlation`.
    """
    model = image - residual
    powers, weights, lines = np.empty((3, 2))
    for axis in (0, 1):
        slope = np.gradient(model, axis=axis)
        use = valid & np.roll(valid, 1, axis) & np.roll(valid, -1, axis)
        slope[~use] = 0.0
        sums = np.sum(slope * residual, axis=axis)
        squares = np.sum(slope**2, axis=axis)
        total = max(float(squares.sum()), 1e-300)
        powers[axis] = np.sum(sums**2) / total  # variance of noise, if there is no more
        weights[axis] = np.sum(squares**2) / total
        lines[axis] = total / max(weights[axis], 1e-300)  # effective number
    excess = powers - powers[::-1]
    sure = _SURE * powers[::-1] * np.sqrt(np.sum(2 / np.maximum(lines, 1.0)))
    return np.where(excess > sure, excess / np.maximum(weights, 1e-300), 0.0)


# Covariance -----------------------------------------------------------------------


class MarginalCovariances:
    """Each column's block of the inverse normal matrix.

    Neighbours and background are marginalised. The matrix is inverted for tiles of the
    image with a rim, beyond which columns count as known. Tiles without changes since
    the last call keep their result.

    Args:
        background: Background of the image.
        separation: Typical distance of neighbours, pixels.
        sigma: Typical width of the columns, pixels.
    """

    def __init__(self, background: Background, separation: float, sigma: float) -> None:
        self._background = background
        self._side = _TILE * separation
        self._rim = sigma * np.clip(_RIM * sigma / separation, *_RIM_RANGE)
        self._sigma = sigma
        # Tile -> ids and values of its columns, ids and blocks of those inside.
        self._kept: dict[tuple[float, ...], tuple[np.ndarray, ...]] = {}

    def blocks(
        self,
        ids: np.ndarray,
        values: np.ndarray,
        equations_of: Callable[[np.ndarray], NormalEquations],
    ) -> np.ndarray:
        """Return each column's block [n, 4, 4].

        ``ids`` are numbers of the columns, the same in all calls [n]. ``values`` are y,
        x, height, log(sigma) [n, 4]. ``equations_of`` gets indices of columns.
        """
        position = values[:, :2]
        places = np.floor(position / self._side)
        tiles, tile = np.unique(places, axis=0, return_inverse=True)
        tile, names = tile.ravel(), list(map(tuple, tiles.tolist()))
        middle = (tiles + 0.5) * self._side
        near = cKDTree(position).query_ball_point(
            middle, self._side / 2 + self._rim, p=np.inf, return_sorted=True
        )
        near = [np.array(n) for n in near]
        inside = [n[tile[n] == k] for k, n in enumerate(near)]
        out = np.empty((len(values), 4, 4))
        kept, stale = {}, []
        for k, name in enumerate(names):
            now = ids[near[k]], values[near[k]], ids[inside[k]]
            if self._changed(now, self._kept.get(name)):
                stale.append(k)
            else:
                kept[name] = self._kept[name]
                out[inside[k]] = kept[name][3]
        if stale:
            which = np.unique(np.concatenate([near[k] for k in stale]))
            new_near = [np.searchsorted(which, near[k]) for k in stale]
            new_mine = [tile[near[k]] == k for k in stale]
            found = self._invert(middle[stale], new_near, new_mine, equations_of(which))
            for k in stale:
                out[inside[k]] = found[np.searchsorted(which, inside[k])]
                now = ids[near[k]], values[near[k]], ids[inside[k]]
                kept[names[k]] = *now, out[inside[k]]
        self._kept = kept
        return out

    def _changed(self, now: tuple, before: tuple | None) -> bool:
        """Return whether ids, values or the columns inside are others than before."""
        if before is None or not np.array_equal(now[0], before[0]):
            return True
        # A column may cross the border of a tile in a very small step.
        if not np.array_equal(now[2], before[2]):
            return True
        change = np.abs(now[1] - before[1])
        change[:, :2] /= self._sigma
        change[:, HEIGHT] /= np.maximum(np.abs(now[1][:, HEIGHT]), 1e-300)
        return bool(change.max() > _SAME)

    def _invert(
        self,
        middle: np.ndarray,
        near: list[np.ndarray],
        mine: list[np.ndarray],
        equations: NormalEquations,
    ) -> np.ndarray:
        """Return the blocks [m, 4, 4] of the columns inside tiles; others are empty.

        ``middle`` is ``(y, x)`` of the tiles, pixels [p, 2]; ``near`` and ``mine`` are
        those of :class:`_TileMatrices`.
        """
        background = self._background
        # Nodes within the rim and one spacing more: a rectangle of the grid.
        around = self._side / 2 + self._rim + max(background.spacings)
        low = np.ceil((middle - around) / background.spacings).astype(int)
        high = np.floor((middle + around) / background.spacings).astype(int) + 1
        low, high = np.maximum(low, 0), np.minimum(high, background.nodes.shape)
        sizes = 4 * np.array([len(n) for n in near]) + np.prod(high - low, axis=1)
        columns = equations.column_matrix()
        masses = [mass.toarray() for mass in background.masses]
        out = np.empty((len(equations.own), 4, 4))
        for batch in _batches(sizes):
            parts = ([each[k] for k in batch] for each in (near, mine))
            tiles = _TileMatrices(*parts, low[batch], high[batch])
            tiles.add_columns(columns)
            tiles.add_background(equations.mixed, equations.mixed_nodes, masses)
            out[tiles.column[tiles.mine]] = tiles.inverse()
        return out


def _batches(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield indices of matrices of similar size that fit into memory together."""
    order = np.argsort(sizes, kind="stable")
    first = 0
    for last in range(len(order)):
        following = order[last + 1 : last + 2]
        numbers = (last + 2 - first) * sizes[following] ** 2
        if not len(following) or numbers > _MAX_NUMBERS:
            yield order[first : last + 1]
            first = last + 1


class _TileMatrices:
    """Normal matrices of tiles [tiles, r, r].

    There are four rows for each column inside, four for each column of the rim, then
    one for each node. An *entry* is a column of a tile.

    For each tile, ``near`` has the columns inside and in the rim, as sorted indices
    [c], and ``mine`` the mask of those inside [c]. Its nodes go from ``low`` to before
    ``high`` [tiles, 2].
    """

    def __init__(
        self, near: list, mine: list, low: np.ndarray, high: np.ndarray
    ) -> None:
        inside = max(int(m.sum()) for m in mine)
        places = [np.where(m, np.cumsum(m), inside + np.cumsum(~m)) - 1 for m in mine]
        # Rows for columns inside, and the first row for nodes.
        self.inside = 4 * inside
        self.nodes = 4 * (1 + max(int(p.max()) for p in places))
        size = self.nodes + int(np.prod(high - low, axis=1).max())
        self.matrix = np.zeros((len(near), size, size))
        # Of each entry: its tile, its index, whether it is inside, its rows there.
        self.tile = np.repeat(np.arange(len(near)), [len(n) for n in near])
        self.column, self.mine = np.concatenate(near), np.concatenate(mine)
        self.rows = 4 * np.concatenate(places)[:, None] + np.arange(4)
        self.low, self.high = low, high

    def add_columns(self, columns: sparse.bsr_matrix) -> None:
        """Copy the blocks of columns that are in the same tile."""
        first, end = columns.indptr[self.column], columns.indptr[self.column + 1]
        entry = np.repeat(np.arange(len(self.column)), end - first)
        begin = np.cumsum(end - first) - (end - first)
        which = np.arange(len(entry)) - begin[entry] + first[entry]
        n = len(columns.indptr)
        keys = self.tile * n + self.column
        wanted = self.tile[entry] * n + columns.indices[which]
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        there = keys[found] == wanted
        entry, found, which = entry[there], found[there], which[there]
        rows, others = self.rows[entry], self.rows[found]
        at = self.tile[entry][:, None, None], rows[:, :, None], others[:, None]
        self.matrix[at] = columns.data[which]

    def add_background(
        self, mixed: np.ndarray, mixed_nodes: np.ndarray, masses: list
    ) -> None:
        """Copy the products with the nodes, and those of the nodes with each other."""
        ny, nx = (
            mixed_nodes[axis][self.column] - self.low[self.tile, axis, None]
            for axis in (0, 1)
        )
        height, width = (self.high - self.low)[self.tile].T[:, :, None]
        entry, k = np.nonzero((ny >= 0) & (nx >= 0) & (ny < height) & (nx < width))
        node = self.nodes + (ny * width + nx)[entry, k]
        rows, tile, node = self.rows[entry], self.tile[entry][:, None], node[:, None]
        values = mixed[self.column[entry], :, k]
        self.matrix[tile, rows, node] = values
        self.matrix[tile, node, rows] = values
        for matrix, low, high in zip(self.matrix, self.low, self.high):
            along_y, along_x = (m[a:b, a:b] for m, a, b in zip(masses, low, high))
            block = np.kron(along_y, along_x)
            at_nodes = slice(self.nodes, self.nodes + len(block))
            matrix[at_nodes, at_nodes] = block

    def inverse(self) -> np.ndarray:
        """Return the columns' own blocks of the inverse, columns inside [n, 4, 4]."""
        diagonal = np.einsum("pii->pi", self.matrix)
        diagonal[diagonal == 0] = 1.0  # unused rows of tiles with fewer columns
        scale = 1 / np.sqrt(np.maximum(diagonal, 1e-300))
        self.matrix *= scale[:, :, None]
        self.matrix *= scale[:, None]
        diagonal += _RIDGE
        # Schur complement of the rim and the nodes.
        inside, outside = slice(self.inside), slice(self.inside, None)
        mixed = self.matrix[:, inside, outside]
        around = self.matrix[:, outside, outside]
        others = np.linalg.solve(around, mixed.transpose(0, 2, 1))
        inverse = np.linalg.inv(self.matrix[:, inside, inside] - mixed @ others)
        tile, rows = self.tile[self.mine][:, None], self.rows[self.mine]
        scale = scale[tile, rows]
        blocks = inverse[tile[:, :, None], rows[:, :, None], rows[:, None]]
        return blocks * scale[:, :, None] * scale[:, None]
