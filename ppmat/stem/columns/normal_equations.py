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

"""The model of an image, round Gaussians on a background, and its normal equations.

A Gaussian and its derivatives are products of a profile along y and one along x. So the
sums over pixels in the equations are products of sums along one axis.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

Y, X, HEIGHT, WIDTH = range(4)  # parameters of a column; WIDTH is log(sigma)
DAMPING = 1e-4  # smallest damping, as a fraction of the diagonal
_CHUNK = 512  # columns whose windows are in memory at a time
# Solved if the residual of the equations is below this fraction of the right-hand side.
# The next Gauss-Newton step corrects the rest.
_TOLERANCE = 1e-2
_MAX_ITERATIONS = 100
# Profiles along one axis, with u = offset / sigma and e = exp(-u^2 / 2):
# BELL is e, SLOPE is u e / sigma, SPREAD is u^2 e.
BELL, SLOPE, SPREAD = range(3)
# The derivative by each parameter: a sum of products of a profile along y and one along
# x, times the height (for HEIGHT times 1).
TERMS = {
    Y: [(SLOPE, BELL)],
    X: [(BELL, SLOPE)],
    HEIGHT: [(BELL, BELL)],
    WIDTH: [(SPREAD, BELL), (BELL, SPREAD)],
}


class Background:
    """A background with one value at each node of a grid, bilinear in between.

    It is a sum over nodes: the value times a product of two triangles ("hat
    functions"), one along each axis.

    Args:
        shape: ``(H, W)`` of the image.
        spacing: Approximate distance of nodes, pixels.
        level: Starting value of all nodes.

    Attributes:
        nodes: Values of the nodes [P, Q].
        spacings: Distance of nodes along y and x, pixels.
        mass: Sums over pixels of the products of two nodes' hats [P Q, P Q].
        masses: The same for the hats along y [P, P] and along x [Q, Q].
    """

    def __init__(self, shape: tuple[int, int], spacing: float, level: float) -> None:
        pieces = [max(1, int(np.ceil((size - 1) / spacing))) for size in shape]
        self.spacings = tuple((size - 1) / p for size, p in zip(shape, pieces))
        self.nodes = np.full([p + 1 for p in pieces], level)
        self._axes = [self._between(np.arange(size), k) for k, size in enumerate(shape)]
        hats = []
        for (left, share), size, p in zip(self._axes, shape, pieces):
            places = np.append(left, left + 1), np.tile(np.arange(size), 2)
            values = np.append(1 - share, share)
            hats.append(sparse.csr_matrix((values, places), shape=(p + 1, size)))
        self.masses = [sparse.csr_matrix(hat @ hat.T) for hat in hats]
        self.mass = sparse.csr_matrix(sparse.kron(*self.masses))
        # First and last pixel of each hat; along y also its values.
        used = [[h.indices[h.data > 0] for h in hat] for hat in hats]
        self._ends = [[(int(u.min()), int(u.max()) + 1) for u in each] for each in used]
        self._rows = [h.toarray()[0, slice(*e)] for h, e in zip(hats[0], self._ends[0])]

    def _between(self, places: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the node before each place, and the distance to it in spacings."""
        grid = places / self.spacings[axis]
        left = np.minimum(grid.astype(int), self.nodes.shape[axis] - 2)
        return left, grid - left

    def grid(self) -> list[np.ndarray]:
        """Return the positions (y, x) of the nodes, pixels, two arrays [P, Q]."""
        sizes = zip(self.nodes.shape, self.spacings)
        return np.meshgrid(*(np.arange(n) * step for n, step in sizes), indexing="ij")

    def at(
        self, y: np.ndarray, x: np.ndarray, nodes: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the background, or that of other nodes, at points, pixels [n]."""
        nodes = self.nodes if nodes is None else nodes
        (top, dy), (left, dx) = self._between(y, 0), self._between(x, 1)
        upper, lower = (
            (1 - dx) * nodes[k, left] + dx * nodes[k, left + 1] for k in (top, top + 1)
        )
        return (1 - dy) * upper + dy * lower

    def change(self, step: np.ndarray, residual: np.ndarray) -> None:
        """Add a step to the nodes and subtract its effect from a residual [H, W]."""
        self.nodes = self.nodes + step
        self.subtract_from(residual, step)

    def subtract_from(self, image: np.ndarray, nodes: np.ndarray | None = None) -> None:
        """Subtract the background, or that of other nodes, from an image [H, W]."""
        nodes = self.nodes if nodes is None else nodes
        for a, part in self._strips(nodes != 0):
            left, share = (v[part] for v in self._axes[1])
            along = (1 - share) * nodes[a, left] + share * nodes[a, left + 1]
            rows = slice(*self._ends[0][a])
            image[rows, part] -= self._rows[a][:, None] * along

    def project(self, residual: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Return the sum over pixels of an image times each node's hats [P, Q].

        ``nodes`` is the mask of the wanted nodes [P, Q]; the others get 0.
        """
        out = np.zeros(self.nodes.shape)
        for a, part in self._strips(nodes):
            left, share = (v[part] for v in self._axes[1])
            sums = self._rows[a] @ residual[slice(*self._ends[0][a]), part]
            out[a] += np.bincount(left, (1 - share) * sums, len(out[a]))
            out[a] += np.bincount(left + 1, share * sums, len(out[a]))
        return np.where(nodes, out, 0.0)

    def _strips(self, nodes: np.ndarray) -> Iterator[tuple[int, slice]]:
        """Yield each row with nodes of the mask, and the pixels along x they reach."""
        for a in np.nonzero(nodes.any(axis=1))[0].tolist():
            used = np.nonzero(nodes[a])[0]
            yield a, slice(self._ends[1][used[0]][0], self._ends[1][used[-1]][1])

    def profile_sums(
        self, profiles: np.ndarray, start: np.ndarray, axis: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums over pixels of profiles times hats along one axis [n, 3, k].

        The profiles are values on the pixels from ``start`` [n, 3, w]. The indices of
        the hats' nodes follow [n, k]; some may lie outside the image.
        """
        width, spacing = profiles.shape[2], self.spacings[axis]
        first = np.floor(start / spacing).astype(int)
        node = first[:, None] + np.arange(int(width / spacing) + 3)
        grid = start[:, None] + np.arange(width)
        value = 1 - np.abs(grid[:, None] / spacing - node[:, :, None])
        return profiles @ np.maximum(value, 0).transpose(0, 2, 1), node


def profiles(
    centre: np.ndarray, log_sigma: np.ndarray, start: np.ndarray, half: int, size: int
) -> np.ndarray:
    """Return the profiles BELL, SLOPE, SPREAD of columns along one axis [n, 3, w].

    Windows of ``w = 2 half + 1`` pixels begin at ``start`` [n]. Profiles are 0 outside
    the image, which has ``size`` pixels along the axis.
    """
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


class ColumnWindows:
    """Some columns of a fit, with their profiles on square windows of pixels.

    Args:
        which: Index of each column in the fit [m].
        values: y, x, height, log(sigma) [m, 4].
        half: Windows have ``w = 2 half + 1`` pixels a side.
        shape: ``(H, W)`` of the image.

    Attributes:
        corners: First row and first column of each window [2, m].
        profiles: Profiles along y and along x, each [m, 3, w].
        scales: Factors between products of profiles and derivatives [m, 4].
    """

    def __init__(
        self, which: np.ndarray, values: np.ndarray, half: int, shape: tuple[int, int]
    ) -> None:
        self.which, self.values, self.half, self.shape = which, values, half, shape
        self.corners = np.rint(values[:, :2].T).astype(int) - half
        self.profiles = tuple(
            profiles(values[:, axis], values[:, WIDTH], start, half, size)
            for axis, start, size in zip((Y, X), self.corners, shape)
        )
        self.scales = np.repeat(values[:, HEIGHT, None], 4, axis=1)
        self.scales[:, HEIGHT] = 1.0

    def chunks(self) -> Iterator[slice]:
        """Yield slices of the columns, so that few windows are in memory at a time."""
        for first in range(0, len(self.which), _CHUNK):
            yield slice(first, first + _CHUNK)

    def spots(self, part: slice) -> np.ndarray:
        """Return the Gaussians of some columns on their windows [m, w, w]."""
        fy, fx = (f[part, BELL] for f in self.profiles)
        return (self.values[part, HEIGHT, None] * fy)[:, :, None] * fx[:, None]

    def own_products(self) -> np.ndarray:
        """Return sums of products of each column's own derivatives [m, 4, 4]."""
        fy, fx = self.profiles
        sums = (f @ f.transpose(0, 2, 1) for f in (fy, fx))
        return _combine(*sums) * self.scales[:, :, None] * self.scales[:, None]

    def squares(
        self, part: slice = slice(None), window: np.ndarray | None = None
    ) -> np.ndarray:
        """Return sums of squared derivatives, as if heights were 1 [m, 4].

        ``window`` are weights of the pixels [m, w, w]; None for 1.
        """
        fy, fx = (
            np.concatenate([f[part] ** 2, f[part, :1] * f[part, 2:]], axis=1)
            for f in self.profiles
        )
        if window is None:
            sums = fy.sum(axis=2)[:, :, None] * fx.sum(axis=2)[:, None]
        else:
            sums = fy @ window @ fx.transpose(0, 2, 1)
        y, x, height = sums[:, [SLOPE, BELL, BELL], [BELL, SLOPE, BELL]].T
        width = sums[:, SPREAD, BELL] + sums[:, BELL, SPREAD] + 2 * sums[:, 3, 3]
        return np.stack([y, x, height, width], axis=1)

    def pair_products(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return sums of products of the derivatives of two columns [k, 4, 4].

        ``i`` and ``j`` are the columns of each pair, indices into ``which`` [k]. The
        sums are over the windows of ``i``.
        """
        out, scales = np.empty((len(i), 4, 4)), self.scales
        for first in range(0, len(i), 2 * _CHUNK):
            part = slice(first, first + 2 * _CHUNK)
            a, b = i[part], j[part]
            sums = []
            for axis, size in zip((Y, X), self.shape):
                centre, width = self.values[b, axis], self.values[b, WIDTH]
                start = self.corners[axis, a]
                other = profiles(centre, width, start, self.half, size)
                sums.append(self.profiles[axis][a] @ other.transpose(0, 2, 1))
            out[part] = _combine(*sums) * scales[a][:, :, None] * scales[b][:, None]
        return out

    def background_products(
        self, background: Background
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return sums of products of derivatives with hats of a background [m, 4, k].

        Row and column of the nodes in the grid follow [2, m, k]. Nodes outside the grid
        are -1, with sums of 0.
        """
        parts, chunks = [], list(self.chunks())
        for axis, (f, start) in enumerate(zip(self.profiles, self.corners)):
            sums = [background.profile_sums(f[c], start[c], axis) for c in chunks]
            parts.append([np.concatenate(p) for p in zip(*sums)])
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
class NormalEquations:
    """Linear equations for a step of some columns and of the background's nodes."""

    own: np.ndarray  # products of each column's derivatives, with the prior [m, 4, 4]
    pairs: tuple[np.ndarray, np.ndarray]  # columns i and j of overlapping pairs [k]
    pair_products: np.ndarray  # derivatives of i times those of j [k, 4, 4]
    mixed: np.ndarray  # derivatives times hats of the background [m, 4, h]
    mixed_nodes: np.ndarray  # row and column of the nodes of these hats [2, m, h]
    free_nodes: np.ndarray  # mask of the nodes that may change [P, Q]
    gradient: np.ndarray  # right-hand side of the columns [m, 4]
    node_gradient: np.ndarray  # right-hand side of the nodes [P, Q]

    def solve(
        self, background: Background, free: np.ndarray, damping: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of the columns [m, 4] and of the nodes [P, Q].

        ``free`` is 1 for parameters that may change, 0 for the others [m, 4].
        ``damping`` is added to each column's diagonal, as a fraction of it [m].
        """
        m, grid = len(self.own), self.free_nodes.shape
        size = 4 * m
        own = np.diagonal(self.own, axis1=1, axis2=2)
        diagonal = np.append(own, background.mass.diagonal())
        mask = np.append(free, self.free_nodes)
        scale = 1 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max()))
        inner = mask * scale
        extra = DAMPING + 1 - mask
        extra[:size] += np.repeat(damping, 4)
        local = inner[:size].reshape(m, 4)
        blocks = self.own * local[:, :, None] * local[:, None]
        k = np.arange(4)
        blocks[:, k, k] = 1.0 + damping[:, None]
        inverse = sparse.bsr_matrix(
            (np.linalg.inv(blocks), np.arange(m), np.arange(m + 1)), shape=(size, size)
        )
        of_columns, mixed = self.column_matrix(), self.mixed_matrix()
        turned, mass = mixed.T, background.mass

        def multiply(v: np.ndarray) -> np.ndarray:
            scaled = inner * v
            columns, nodes = scaled[:size], scaled[size:]
            top = of_columns @ columns + mixed @ nodes
            low = turned @ columns + mass @ nodes
            return inner * np.append(top, low) + extra * v

        def precondition(v: np.ndarray) -> np.ndarray:
            return np.append(inverse @ v[:size], v[size:])

        right = np.append(self.gradient, self.node_gradient)
        step = inner * _conjugate_gradients(multiply, precondition, inner * right)
        return step[:size].reshape(m, 4), step[size:].reshape(grid)

    def column_matrix(self) -> sparse.bsr_matrix:
        """Return the part between columns, in blocks of 4 x 4 [4 m, 4 m]."""
        m, (i, j) = len(self.own), self.pairs
        rows = np.concatenate([np.arange(m), i, j])
        order = np.argsort(rows, kind="stable")
        columns = np.concatenate([np.arange(m), j, i])[order]
        turned = self.pair_products.transpose(0, 2, 1)
        blocks = np.concatenate([self.own, self.pair_products, turned])[order]
        ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
        return sparse.bsr_matrix((blocks, columns, ends), shape=(4 * m, 4 * m))

    def mixed_matrix(self) -> sparse.csr_matrix:
        """Return the part between columns and nodes [4 m, P Q]."""
        m, each = len(self.own), self.mixed.shape[2]
        row, column = np.maximum(self.mixed_nodes, 0)
        node = row * self.free_nodes.shape[1] + column
        nodes, ends = np.repeat(node, 4, axis=0), np.arange(0, 4 * m * each + 1, each)
        parts = self.mixed.ravel(), nodes.ravel(), ends
        return sparse.csr_matrix(parts, shape=(4 * m, self.free_nodes.size))


def _conjugate_gradients(
    multiply: Callable, precondition: Callable, right: np.ndarray
) -> np.ndarray:
    """Solve symmetric equations by preconditioned conjugate gradients.

    Source: Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49, 409 (1952).
    """
    found, left = np.zeros_like(right), right.copy()
    enough = _TOLERANCE * np.linalg.norm(right)
    direction, before = 0.0, 1.0
    for _ in range(_MAX_ITERATIONS):
        if np.linalg.norm(left) <= enough:
            break
        prepared = precondition(left)
        product = float(left @ prepared)
        direction = prepared + product / before * direction
        before = product
        applied = multiply(direction)
        share = product / float(direction @ applied)
        found += share * direction
        left -= share * applied
    return found
