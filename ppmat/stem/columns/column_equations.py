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


"""Normal equations of many round Gaussians: profiles, products, and the solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ppmat.stem.columns.column_background import Background

Y, X, HEIGHT, WIDTH = range(4)  # parameters of a column; WIDTH is log(sigma)
DAMPING = 1e-4
CHUNK = 512  # columns whose windows are held at a time
_RESIDUAL = 1e-2  # of the equations, at which they count as solved
_MOST_ITERATIONS = 100
# A column's derivatives in terms of three profiles along each axis: e = exp(-u^2 / 2),
# d = u / sigma e, s = u^2 e, with u = offset / sigma; (y, x) profiles summed.
BELL, SLOPE, SPREAD = range(3)
TERMS = {
    Y: [(SLOPE, BELL)],
    X: [(BELL, SLOPE)],
    HEIGHT: [(BELL, BELL)],
    WIDTH: [(SPREAD, BELL), (BELL, SPREAD)],
}


def profiles(
    centre: np.ndarray, log_sigma: np.ndarray, start: np.ndarray, half: int, size: int
) -> np.ndarray:
    """Return the profiles e, d, s [n, 3, w] on the pixels from ``start``."""
    grid = start[:, None] + np.arange(2 * half + 1)
    sigma = np.exp(log_sigma)[:, None]
    u = (grid - centre[:, None]) / sigma
    out = np.empty((len(u), 3, u.shape[1]))
    bell = np.exp(-0.5 * u**2, out=out[:, BELL])
    bell[(grid < 0) | (grid >= size)] = 0.0
    np.multiply(u, bell, out=out[:, SLOPE])
    np.multiply(u, out[:, SLOPE], out=out[:, SPREAD])
    out[:, SLOPE] /= sigma
    return out


@dataclass
class Frames:
    """Some columns, and their profiles on the pixels of their windows.

    Attributes:
        which: Index of each column [m].
        values: y, x, height, log(sigma) [m, 4].
        corners: First row and first column of each window [2, m].
        profiles: Along y and x, each [m, 3, w].
        shape: ``(H, W)`` of the image.
    """

    which: np.ndarray
    values: np.ndarray
    corners: np.ndarray
    profiles: tuple[np.ndarray, np.ndarray]
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, which: np.ndarray, values: np.ndarray, half: int, shape: tuple[int, int]
    ) -> Frames:
        """Return the frames of columns whose windows have ``2 half + 1`` pixels."""
        corners = np.rint(values[:, :2].T).astype(int) - half
        both = tuple(
            profiles(values[:, axis], values[:, WIDTH], corners[axis], half, size)
            for axis, size in zip((Y, X), shape)
        )
        return cls(which, values, corners, both, shape)

    @property
    def half(self) -> int:
        return self.profiles[0].shape[2] // 2

    @property
    def scales(self) -> np.ndarray:
        """Factors [m, 4] between profiles and derivatives."""
        scales = np.repeat(self.values[:, HEIGHT, None], 4, axis=1)
        scales[:, HEIGHT] = 1.0
        return scales

    def chunks(self):
        """Yield slices of the columns."""
        for first in range(0, len(self.which), CHUNK):
            yield slice(first, first + CHUNK)

    def spots(self, part: slice) -> np.ndarray:
        """Return some of the columns on the pixels of their windows [m, w, w]."""
        fy, fx = (f[part, BELL] for f in self.profiles)
        return (self.values[part, HEIGHT, None] * fy)[:, :, None] * fx[:, None]

    def own(self) -> np.ndarray:
        """Return the products of each column's derivatives [m, 4, 4]."""
        fy, fx = self.profiles
        sums = (f @ f.transpose(0, 2, 1) for f in (fy, fx))
        return _combine(*sums) * self.scales[:, :, None] * self.scales[:, None]

    def squares(
        self, part: slice = slice(None), window: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the sums of squared derivatives, as of height 1 [m, 4].

        Args:
            part: Of the columns.
            window: What the squares are weighted with [m, w, w]; None for 1.
        """
        fy, fx = (
            np.concatenate([f[part] ** 2, f[part, :1] * f[part, 2:]], axis=1)
            for f in self.profiles
        )
        if window is None:
            sums = fy.sum(axis=2)[:, :, None] * fx.sum(axis=2)[:, None]
        else:
            sums = fy @ window @ fx.transpose(0, 2, 1)
        out = np.empty((len(sums), 4))
        out[:, Y], out[:, X] = sums[:, SLOPE, BELL], sums[:, BELL, SLOPE]
        out[:, HEIGHT] = sums[:, BELL, BELL]
        out[:, WIDTH] = sums[:, SPREAD, BELL] + sums[:, BELL, SPREAD]
        out[:, WIDTH] += 2 * sums[:, 3, 3]
        return out

    def products(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the products of the derivatives of columns i with those of j, both
        counted in ``which``, over the windows of i [k, 4, 4]."""
        out = np.empty((len(i), 4, 4))
        scales = self.scales
        for first in range(0, len(i), 2 * CHUNK):
            part = slice(first, first + 2 * CHUNK)
            a, b = i[part], j[part]
            sums = []
            for axis, size in zip((Y, X), self.shape):
                centre, width = self.values[b, axis], self.values[b, WIDTH]
                start = self.corners[axis, a]
                other = profiles(centre, width, start, self.half, size)
                sums.append(self.profiles[axis][a] @ other.transpose(0, 2, 1))
            out[part] = _combine(*sums) * scales[a][:, :, None] * scales[b][:, None]
        return out

    def with_background(self, background: Background) -> tuple[np.ndarray, np.ndarray]:
        """Return the products of the columns' derivatives with hats of the background
        [m, 4, k], and their nodes, as a row and a column of the grid [2, m, k].

        Nodes beyond the grid are -1, with products of 0.
        """
        parts = []
        for axis, (f, start) in enumerate(zip(self.profiles, self.corners)):
            pieces = [background.under(f[c], start[c], axis) for c in self.chunks()]
            parts.append([np.concatenate(p) for p in zip(*pieces)])
        (sums_y, ny), (sums_x, nx) = parts
        block = np.zeros((len(ny), 4, ny.shape[1], nx.shape[1]))
        for k, terms in TERMS.items():
            for a, b in terms:
                block[:, k] += sums_y[:, a, :, None] * sums_x[:, b, None]
        block *= self.scales[:, :, None, None]
        ny, nx = np.broadcast_arrays(ny[:, :, None], nx[:, None])
        rows, columns = background.nodes.shape
        legal = (ny >= 0) & (nx >= 0) & (ny < rows) & (nx < columns)
        block *= legal[:, None]
        nodes = np.stack([np.where(legal, n, -1) for n in (ny, nx)])
        return block.reshape(len(block), 4, -1), nodes.reshape(2, len(block), -1)


def _combine(sums_y: np.ndarray, sums_x: np.ndarray) -> np.ndarray:
    """Return products of derivatives [n, 4, 4] from those of profiles [n, 3, 3]."""
    out = np.empty((len(sums_y), 4, 4))
    for p, of_p in TERMS.items():
        for q, of_q in TERMS.items():
            out[:, p, q] = sum(
                sums_y[:, a, c] * sums_x[:, b, d] for a, b in of_p for c, d in of_q
            )
    return out


@dataclass
class Equations:
    """Linear equations for a step of some columns and the background under them.

    Attributes:
        own: Products of each column's derivatives, with the prior [m, 4, 4].
        pairs: Columns ``i`` and ``j`` that overlap, counted among these.
        other: Products of the derivatives of i with those of j [k, 4, 4].
        mixed: Products with the background, see :meth:`Frames.with_background`.
        mixed_nodes: Nodes of these [2, m, k].
        free_nodes: Which nodes may change [P, Q].
        gradient: Of the columns [m, 4].
        of_nodes: Gradient of the nodes [P, Q].
    """

    own: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray]
    other: np.ndarray
    mixed: np.ndarray
    mixed_nodes: np.ndarray
    free_nodes: np.ndarray
    gradient: np.ndarray
    of_nodes: np.ndarray

    def solve(
        self, background: Background, free: np.ndarray, damping: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of the columns [m, 4] and of the nodes [P, Q].

        Args:
            background: Of the image.
            free: 1 for parameters of the columns that may change, 0 for others [m, 4].
            damping: Of each column, in parts of the diagonal [m].
        """
        m, grid = len(self.own), self.free_nodes.shape
        size = 4 * m
        diagonal = np.concatenate(
            [
                np.diagonal(self.own, axis1=1, axis2=2).ravel(),
                background.mass.diagonal(),
            ]
        )
        mask = np.concatenate([free.ravel(), self.free_nodes.ravel()])
        scale = 1 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max()))
        inner = mask * scale
        extra = DAMPING + 1 - mask
        extra[:size] += np.repeat(damping, 4)
        local = inner[:size].reshape(m, 4)
        blocks = self.own * local[:, :, None] * local[:, None]
        k = np.arange(4)
        blocks[:, k, k] = 1.0 + damping[:, None]
        precondition = _block_diagonal(np.linalg.inv(blocks))
        of_columns, mixed = self._matrices()
        turned, mass = mixed.T, background.mass

        def apply(v: np.ndarray) -> np.ndarray:
            scaled = inner * v
            columns, nodes = scaled[:size], scaled[size:]
            out = np.concatenate(
                [of_columns @ columns + mixed @ nodes, turned @ columns + mass @ nodes]
            )
            return inner * out + extra * v

        def prepare(v: np.ndarray) -> np.ndarray:
            return np.concatenate([precondition @ v[:size], v[size:]])

        right = np.concatenate([self.gradient.ravel(), self.of_nodes.ravel()])
        step = inner * _conjugate_gradients(apply, prepare, inner * right)
        return step[:size].reshape(m, 4), step[size:].reshape(grid)

    def _matrices(self) -> tuple[sparse.bsr_matrix, sparse.csr_matrix]:
        m, (i, j) = len(self.own), self.pairs
        rows = np.concatenate([np.arange(m), i, j])
        order = np.argsort(rows, kind="stable")
        columns = np.concatenate([np.arange(m), j, i])[order]
        turned = self.other.transpose(0, 2, 1)
        blocks = np.concatenate([self.own, self.other, turned])[order]
        ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
        of_columns = sparse.bsr_matrix((blocks, columns, ends), shape=(4 * m, 4 * m))
        each = self.mixed.shape[2]
        row, column = np.maximum(self.mixed_nodes, 0)
        node = row * self.free_nodes.shape[1] + column
        mixed = sparse.csr_matrix(
            (
                self.mixed.ravel(),
                np.repeat(node, 4, axis=0).ravel(),
                np.arange(0, 4 * m * each + 1, each),
            ),
            shape=(4 * m, self.free_nodes.size),
        )
        return of_columns, mixed


def _block_diagonal(blocks: np.ndarray) -> sparse.bsr_matrix:
    n, size = blocks.shape[:2]
    return sparse.bsr_matrix(
        (blocks, np.arange(n), np.arange(n + 1)), shape=(size * n, size * n)
    )


def _conjugate_gradients(
    apply: Callable, prepare: Callable, right: np.ndarray
) -> np.ndarray:
    """Solve for a symmetric operator, with a preconditioner (Hestenes 1952)."""
    found, left = np.zeros_like(right), right.copy()
    enough = _RESIDUAL * np.linalg.norm(right)
    direction, before = None, 1.0
    for _ in range(_MOST_ITERATIONS):
        if np.linalg.norm(left) <= enough:
            break
        prepared = prepare(left)
        product = float(left @ prepared)
        if direction is None:
            direction = prepared
        else:
            direction = prepared + product / before * direction
        before = product
        applied = apply(direction)
        share = product / float(direction @ applied)
        found += share * direction
        left -= share * applied
    return found
