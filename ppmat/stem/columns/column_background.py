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

"""The slowly varying background of an image: linear between the nodes of a grid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse


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
        masses: Sums over pixels of the products of two hats, for y [P, P] and x [Q, Q].
        mass: The same for the products of both axes [P Q, P Q].
    """

    def __init__(self, shape: tuple[int, int], spacing: float, level: float) -> None:
        self.shape = shape
        pieces = [max(1, int(np.ceil((size - 1) / spacing))) for size in shape]
        self.spacings = tuple((size - 1) / p for size, p in zip(shape, pieces))
        self.nodes = np.full([p + 1 for p in pieces], level)
        self._axes = [self._between(np.arange(size), k) for k, size in enumerate(shape)]
        hats = [
            sparse.csr_matrix(
                (
                    np.concatenate([1 - share, share]),
                    (np.concatenate([left, left + 1]), np.tile(np.arange(size), 2)),
                ),
                shape=(p + 1, size),
            )
            for (left, share), size, p in zip(self._axes, shape, pieces)
        ]
        self.masses = [sparse.csr_matrix(hat @ hat.T) for hat in hats]
        self.mass = sparse.csr_matrix(sparse.kron(*self.masses))
        # First and last pixel of each hat; along y also its values.
        self._ends = [[_ends(hat[k]) for k in range(hat.shape[0])] for hat in hats]
        self._rows = [
            hats[0][k, slice(*ends)].toarray()[0]
            for k, ends in enumerate(self._ends[0])
        ]

    def _between(self, places: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the node before each place, and the fraction behind it."""
        grid = places / self.spacings[axis]
        left = np.minimum(grid.astype(int), self.nodes.shape[axis] - 2)
        return left, grid - left

    def grid(self) -> list[np.ndarray]:
        """Return the positions (y, x) of the nodes, pixels, two arrays [P, Q]."""
        places = (
            np.arange(count) * spacing
            for count, spacing in zip(self.nodes.shape, self.spacings)
        )
        return np.meshgrid(*places, indexing="ij")

    def at(
        self, y: np.ndarray, x: np.ndarray, nodes: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the background at points ``(y, x)``, pixels; the result has shape [n].

        ``nodes`` [P, Q] replaces the values of the nodes.
        """
        nodes = self.nodes if nodes is None else nodes
        (top, dy), (left, dx) = self._between(y, 0), self._between(x, 1)
        upper, lower = (
            (1 - dx) * nodes[k, left] + dx * nodes[k, left + 1] for k in (top, top + 1)
        )
        return (1 - dy) * upper + dy * lower

    def change(self, step: np.ndarray, residual: np.ndarray) -> None:
        """Add a step to the nodes and subtract its effect from a residual [H, W]."""
        self.nodes = self.nodes + step
        self._subtract(step, residual)

    def subtract_from(self, image: np.ndarray) -> None:
        """Subtract the background from an image [H, W]."""
        self._subtract(self.nodes, image)

    def _subtract(self, nodes: np.ndarray, image: np.ndarray) -> None:
        for a, part in self._strips(nodes != 0):
            left, share = (v[part] for v in self._axes[1])
            along = (1 - share) * nodes[a, left] + share * nodes[a, left + 1]
            rows = slice(*self._ends[0][a])
            image[rows, part] -= self._rows[a][:, None] * along

    def project(self, residual: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Return the sum over pixels of an image times each node's hats [P, Q].

        Args:
            residual: The image [H, W].
            nodes: Mask of the wanted nodes [P, Q]; the others get 0.
        """
        out = np.zeros(self.nodes.shape)
        for a, part in self._strips(nodes):
            left, share = (v[part] for v in self._axes[1])
            sums = self._rows[a] @ residual[slice(*self._ends[0][a]), part]
            out[a] += np.bincount(left, (1 - share) * sums, len(out[a]))
            out[a] += np.bincount(left + 1, share * sums, len(out[a]))
        return np.where(nodes, out, 0.0)

    def _strips(self, nodes: np.ndarray) -> Iterator[tuple[int, slice]]:
        """Yield each row of nodes with a node of the mask, and the pixels along x that
        these nodes reach."""
        for a in np.nonzero(nodes.any(axis=1))[0].tolist():
            used = np.nonzero(nodes[a])[0]
            yield a, slice(self._ends[1][used[0]][0], self._ends[1][used[-1]][1])

    def profile_sums(
        self, profiles: np.ndarray, start: np.ndarray, axis: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums over pixels of profiles times hats along one axis.

        Args:
            profiles: Values on the pixels from ``start`` [n, 3, w].
            start: First pixel [n].
            axis: 0 for y, 1 for x.

        Returns:
            The sums [n, 3, k], and the indices of the hats' nodes [n, k]; some may lie
            outside the image.
        """
        width, spacing = profiles.shape[2], self.spacings[axis]
        first = np.floor(start / spacing).astype(int)
        node = first[:, None] + np.arange(int(width / spacing) + 3)
        grid = start[:, None] + np.arange(width)
        value = 1 - np.abs(grid[:, None] / spacing - node[:, :, None])
        return profiles @ np.maximum(value, 0).transpose(0, 2, 1), node


def _ends(hat: sparse.csr_matrix) -> tuple[int, int]:
    """Return the range of pixels where a hat [1, size] is not 0."""
    used = hat.indices[hat.data > 0]
    return int(used.min()), int(used.max()) + 1
