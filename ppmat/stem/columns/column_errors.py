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


"""Errors of fitted columns: the noise of the image, and the inverse normal matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ppmat.stem.columns.column_background import Background
from ppmat.stem.columns.column_equations import HEIGHT
from ppmat.stem.columns.column_equations import Equations

_BINS = 24  # of grey values with as many pixels each, for the strength of the noise
_FINE_BINS = 4096  # of equal width, of which those are made
_ROWS = 256  # of an image that are handled at a time
_TILE = 3.0  # side of the parts whose covariance is computed together, in separations
_RIM = 2.0  # around a part; columns beyond it are taken as known
_NUMBERS = 2**19  # of matrices that are held at a time
_RIDGE = 1e-7  # of the diagonal
_SAME = 1e-3  # of the width, of the height: what changed less does not count


@dataclass
class FittedColumns:
    """Columns as fitted.

    Attributes:
        values: y, x, height, log(sigma) [n, 4].
        covariance: Of these four for noise of variance 1 [n, 4, 4].
        variance: Of the noise, as each of the four sees it [n, 4].
        background: Under each column [n].
        frozen: The position ran away or did not settle: it is the starting one [n].
        residual: Image - model, 0 where pixels are missing [H, W].
        noise: Variance of the noise of each pixel [H, W].
        overlap: Largest overlap with another column, exp(-d^2 / 4 sigma^2) [n].
    """

    values: np.ndarray
    covariance: np.ndarray
    variance: np.ndarray
    background: np.ndarray
    frozen: np.ndarray
    residual: np.ndarray
    noise: np.ndarray
    overlap: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of the four, for white noise [n, 4]; NaN where frozen.

        NaN too where columns crowd so that the problem does not tell them apart.
        """
        own = np.diagonal(self.covariance, axis1=1, axis2=2)
        errors = np.sqrt(np.where(own > 0, own * self.variance, np.nan))
        errors[self.frozen] = np.where(
            np.arange(4) == HEIGHT, errors[self.frozen], np.nan
        )
        return errors


# Noise ----------------------------------------------------------------------------


def noise_image(
    image: np.ndarray, residual: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Return the variance of the noise: a line in the model's value, as for counts.

    Args:
        image: [H, W].
        residual: Image - model [H, W].
        valid: Where pixels are not missing [H, W].
    """
    number, means, square = _levels(image, residual, valid)
    mean = max(square, 1e-300)
    low, high = means[0][[0, -1]]
    slope, intercept = 0.0, mean
    if len(number) >= 3 and high > low:
        # Relative errors of the bins' variances are alike.
        weights = np.sqrt(number) / np.maximum(means[1], 0.05 * mean)
        slope, intercept = np.polyfit(*means, 1, w=weights)
    noise = np.clip(image - residual, low, high)
    noise *= slope
    noise += intercept
    return np.maximum(noise, 0.05 * mean, out=noise)


def _levels(
    image: np.ndarray, residual: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return pixels [k], and mean model and squared residual [2, k], by grey value, and
    the mean of all squares."""

    def parts():
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
    # A fine bin goes where its middle pixel belongs.
    middle = (np.cumsum(sums[0]) - 0.5 * sums[0]) / total
    coarse = np.minimum((_BINS * middle).astype(int), _BINS - 1)
    number, *both = (np.bincount(coarse, s, _BINS) for s in sums)
    used = number > 0
    means = np.stack([b[used] / number[used] for b in both])
    return number[used], means, float(sums[2].sum() / total)


# Covariance -----------------------------------------------------------------------


class Marginals:
    """Blocks of the inverse normal matrix, neighbours and background marginalised.

    The inverse of parts of the image with a rim, beyond which columns are taken as
    known. Parts in which nothing has changed since the last time keep theirs.

    Args:
        background: Of the image.
        separation: Typical distance of neighbours, pixels.
        sigma: Typical width of the columns, pixels.
        reach: Distance at which columns do not see each other, pixels.
    """

    def __init__(
        self, background: Background, separation: float, sigma: float, reach: float
    ) -> None:
        self._background = background
        self._side = _TILE * separation
        self._rim = min(_RIM * separation, reach)
        self._sigma = sigma
        self._kept: dict[tuple[float, ...], tuple[np.ndarray, ...]] = {}

    def blocks(
        self,
        ids: np.ndarray,
        values: np.ndarray,
        equations_of: Callable[[np.ndarray], Equations],
    ) -> np.ndarray:
        """Return each column's block [n, 4, 4].

        Args:
            ids: A number for each column that stays the same from call to call [n].
            values: y, x, height, log(sigma) [n, 4].
            equations_of: Equations of the columns with these indices, in order.
        """
        position = values[:, :2]
        cells, cell = np.unique(
            np.floor(position / self._side), axis=0, return_inverse=True
        )
        cell = cell.ravel()
        middle = (cells + 0.5) * self._side
        near = cKDTree(position).query_ball_point(
            middle, self._side / 2 + self._rim, p=np.inf, return_sorted=True
        )
        near = [np.array(n) for n in near]
        inside = [n[cell[n] == k] for k, n in enumerate(near)]
        out = np.empty((len(values), 4, 4))
        kept, stale = {}, []
        for k, name in enumerate(map(tuple, cells.tolist())):
            before = self._kept.get(name)
            if before is None or self._differ(ids[near[k]], values[near[k]], before):
                stale.append(k)
            else:
                kept[name] = before
                out[inside[k]] = before[2]
        if stale:
            which = np.unique(np.concatenate([near[k] for k in stale]))
            new_near = [np.searchsorted(which, near[k]) for k in stale]
            members = np.searchsorted(which, np.concatenate([inside[k] for k in stale]))
            found = np.empty((len(which), 4, 4))
            found[members] = self._invert(
                middle[stale], new_near, cell[which], stale, equations_of(which)
            )[members]
            for k in stale:
                out[inside[k]] = found[np.searchsorted(which, inside[k])]
                name = tuple(cells[k].tolist())
                kept[name] = ids[near[k]], values[near[k]], out[inside[k]]
        self._kept = kept
        return out

    def _differ(self, ids: np.ndarray, values: np.ndarray, before: tuple) -> bool:
        if not np.array_equal(ids, before[0]):
            return True
        change = np.abs(values - before[1])
        change[:, :2] /= self._sigma
        change[:, HEIGHT] /= np.maximum(np.abs(values[:, HEIGHT]), 1e-300)
        return bool(change.max() > _SAME)

    def _invert(
        self,
        middle: np.ndarray,
        near: list[np.ndarray],
        cell: np.ndarray,
        cells: list[int],
        equations: Equations,
    ) -> np.ndarray:
        """Return the blocks of the columns that are inside of a part.

        Args:
            middle: ``(y, x)`` of the parts [p, 2].
            near: Columns of each part and its rim.
            cell: Of each column, the part it is inside of [m].
            cells: These numbers of the parts.
            equations: Of all columns of the parts.
        """
        background = self._background
        # Nodes within the same reach and a spacing: a rectangle of the grid.
        around = self._side / 2 + self._rim + max(background.spacings)
        low = np.ceil((middle - around) / background.spacings).astype(int)
        high = np.floor((middle + around) / background.spacings).astype(int) + 1
        low, high = np.maximum(low, 0), np.minimum(high, background.nodes.shape)
        sizes = 4 * np.array([len(n) for n in near]) + np.prod(high - low, axis=1)
        neighbours = _Neighbours.of(equations)
        masses = [mass.toarray() for mass in background.masses]
        out = np.empty((len(equations.own), 4, 4))
        for batch in _batches(sizes):
            mine = [cell[near[k]] == cells[k] for k in batch]
            parts = _Parts.of([near[k] for k in batch], mine, low[batch], high[batch])
            parts.add_columns(equations.own, neighbours)
            parts.add_background(equations.mixed, equations.mixed_nodes, masses)
            out[parts.column[parts.mine]] = parts.inverse()
        return out


def _batches(sizes: np.ndarray):
    """Yield indices of matrices of about one size that fit together."""
    order = np.argsort(sizes, kind="stable")
    first = 0
    for last in range(len(order)):
        following = order[last + 1 : last + 2]
        numbers = (last + 2 - first) * sizes[following] ** 2
        if not len(following) or numbers > _NUMBERS:
            yield order[first : last + 1]
            first = last + 1


@dataclass
class _Neighbours:
    """The pairs of columns, by column: those from ``ends[i]`` to ``ends[i + 1]``."""

    ends: np.ndarray
    other: np.ndarray
    blocks: np.ndarray

    @classmethod
    def of(cls, equations: Equations) -> _Neighbours:
        i, j = equations.pairs
        rows, other = np.concatenate([i, j]), np.concatenate([j, i])
        turned = equations.other.transpose(0, 2, 1)
        order = np.argsort(rows, kind="stable")
        ends = np.cumsum(np.bincount(rows, minlength=len(equations.own)))
        return cls(
            np.concatenate([[0], ends]),
            other[order],
            np.concatenate([equations.other, turned])[order],
        )


@dataclass
class _Parts:
    """Matrices of parts of the image: four rows for each column inside, for each of the
    rim, then one for each node."""

    matrix: np.ndarray  # [parts, m, m]
    part: np.ndarray  # of each entry, by part and column
    column: np.ndarray
    mine: np.ndarray  # whether the column is inside of the part
    place: np.ndarray  # of the column in its part
    inside: int  # rows of columns inside
    nodes: int  # row where they begin
    low: np.ndarray  # first node (row, column) of each part
    high: np.ndarray

    @classmethod
    def of(cls, near: list, mine: list, low: np.ndarray, high: np.ndarray) -> _Parts:
        insides = max(int(m.sum()) for m in mine)
        places = [np.where(m, np.cumsum(m), insides + np.cumsum(~m)) - 1 for m in mine]
        nodes = 4 * (1 + max(int(p.max()) for p in places))
        size = nodes + int(np.prod(high - low, axis=1).max())
        return cls(
            np.zeros((len(near), size, size)),
            np.repeat(np.arange(len(near)), [len(n) for n in near]),
            np.concatenate(near),
            np.concatenate(mine),
            np.concatenate(places),
            4 * insides,
            nodes,
            low,
            high,
        )

    def add_columns(self, own: np.ndarray, neighbours: _Neighbours) -> None:
        self._put(self.part, self.place, self.place, own[self.column])
        first, end = neighbours.ends[self.column], neighbours.ends[self.column + 1]
        entry = np.repeat(np.arange(len(self.column)), end - first)
        begin = np.cumsum(end - first) - (end - first)
        which = np.arange(len(entry)) - begin[entry] + first[entry]
        # Entries are sorted by part and column.
        n = len(own)
        keys = self.part * n + self.column
        wanted = self.part[entry] * n + neighbours.other[which]
        found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        there = keys[found] == wanted
        entry, found, which = entry[there], found[there], which[there]
        blocks = neighbours.blocks[which]
        self._put(self.part[entry], self.place[entry], self.place[found], blocks)

    def _put(self, part: np.ndarray, i: np.ndarray, j: np.ndarray, blocks) -> None:
        k = np.arange(4)
        rows, columns = 4 * i[:, None] + k, 4 * j[:, None] + k
        self.matrix[part[:, None, None], rows[:, :, None], columns[:, None]] = blocks

    def add_background(
        self, mixed: np.ndarray, mixed_nodes: np.ndarray, masses: list
    ) -> None:
        ny, nx = (
            mixed_nodes[axis][self.column] - self.low[self.part, axis, None]
            for axis in (0, 1)
        )
        height, width = (self.high - self.low)[self.part].T[:, :, None]
        entry, k = np.nonzero((ny >= 0) & (nx >= 0) & (ny < height) & (nx < width))
        node = self.nodes + (ny * width + nx)[entry, k]
        rows = 4 * self.place[entry][:, None] + np.arange(4)
        part, node = self.part[entry][:, None], node[:, None]
        values = mixed[self.column[entry], :, k]
        self.matrix[part, rows, node] = values
        self.matrix[part, node, rows] = values
        for matrix, low, high in zip(self.matrix, self.low, self.high):
            along_y, along_x = (m[a:b, a:b] for m, a, b in zip(masses, low, high))
            block = along_y[:, None, :, None] * along_x[:, None]
            end = self.nodes + len(along_y) * len(along_x)
            at_nodes = slice(self.nodes, end)
            matrix[at_nodes, at_nodes] = block.reshape(end - self.nodes, -1)

    def inverse(self) -> np.ndarray:
        """Return the blocks of the inverse of the columns inside [n, 4, 4]."""
        diagonal = np.einsum("pii->pi", self.matrix)
        diagonal[diagonal == 0] = 1.0  # of parts that are smaller than others
        scale = 1 / np.sqrt(np.maximum(diagonal, 1e-300))
        self.matrix *= scale[:, :, None]
        self.matrix *= scale[:, None]
        diagonal += _RIDGE
        # The complement of the rim and the nodes (Schur).
        inside, outside = slice(self.inside), slice(self.inside, None)
        mixed = self.matrix[:, inside, outside]
        others = np.linalg.solve(
            self.matrix[:, outside, outside], mixed.transpose(0, 2, 1)
        )
        inverse = np.linalg.inv(self.matrix[:, inside, inside] - mixed @ others)
        part = self.part[self.mine][:, None]
        rows = 4 * self.place[self.mine][:, None] + np.arange(4)
        scale = scale[part, rows]
        blocks = inverse[part[:, :, None], rows[:, :, None], rows[:, None]]
        return blocks * scale[:, :, None] * scale[:, None]
