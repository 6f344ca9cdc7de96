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


"""A background that is linear between nodes on a grid: the slow part of an image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse


class Background:
    """Products of triangles ("hats") along both axes, one product a node.

    Args:
        shape: ``(H, W)`` of the image.
        spacing: About the distance of nodes, pixels.
        level: Value of all nodes at first.
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
        # Pixels where each hat is not 0, and along y its values.
        self._ends = [[_ends(hat[k]) for k in range(hat.shape[0])] for hat in hats]
        self._rows = [
            hats[0][k, slice(*ends)].toarray()[0]
            for k, ends in enumerate(self._ends[0])
        ]

    def _between(self, places: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the nodes before some places, and how far these are to the next."""
        grid = places / self.spacings[axis]
        left = np.minimum(grid.astype(int), self.nodes.shape[axis] - 2)
        return left, grid - left

    def grid(self) -> list[np.ndarray]:
        """Return the places (y, x) of the nodes, pixels, two arrays [P, Q]."""
        places = (
            np.arange(count) * spacing
            for count, spacing in zip(self.nodes.shape, self.spacings)
        )
        return np.meshgrid(*places, indexing="ij")

    def at(
        self, y: np.ndarray, x: np.ndarray, nodes: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the background at points of the image [n], or that of other nodes."""
        nodes = self.nodes if nodes is None else nodes
        (top, dy), (left, dx) = self._between(y, 0), self._between(x, 1)
        upper, lower = (
            (1 - dx) * nodes[k, left] + dx * nodes[k, left + 1] for k in (top, top + 1)
        )
        return (1 - dy) * upper + dy * lower

    def change(self, step: np.ndarray, residual: np.ndarray) -> None:
        """Add a step to the nodes, and take what it changes from a residual [H, W]."""
        self.nodes = self.nodes + step
        self._take(step, residual)

    def take_from(self, image: np.ndarray) -> None:
        """Subtract the background from an image [H, W]."""
        self._take(self.nodes, image)

    def _take(self, nodes: np.ndarray, image: np.ndarray) -> None:
        for a, part in self._strips(nodes != 0):
            left, share = (v[part] for v in self._axes[1])
            along = (1 - share) * nodes[a, left] + share * nodes[a, left + 1]
            rows = slice(*self._ends[0][a])
            image[rows, part] -= self._rows[a][:, None] * along

    def project(self, residual: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Return the sums of an image [H, W] with each node's hat.

        Args:
            residual: The image.
            nodes: Mask of the nodes that are asked for; the others are 0 [P, Q].
        """
        out = np.zeros(self.nodes.shape)
        for a, part in self._strips(nodes):
            left, share = (v[part] for v in self._axes[1])
            sums = self._rows[a] @ residual[slice(*self._ends[0][a]), part]
            out[a] += np.bincount(left, (1 - share) * sums, len(out[a]))
            out[a] += np.bincount(left + 1, share * sums, len(out[a]))
        return np.where(nodes, out, 0.0)

    def _strips(self, nodes: np.ndarray) -> Iterator[tuple[int, slice]]:
        """Yield rows of nodes that a mask is in, and the columns of pixels that the
        nodes of the mask reach."""
        for a in np.nonzero(nodes.any(axis=1))[0].tolist():
            used = np.nonzero(nodes[a])[0]
            yield a, slice(self._ends[1][used[0]][0], self._ends[1][used[-1]][1])

    def under(
        self, profiles: np.ndarray, start: np.ndarray, axis: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of profiles with the hats along an axis [n, 3, k], and which
        nodes these are [n, k]; some may lie beyond the image.

        Args:
            profiles: On the pixels from ``start`` [n, 3, w].
            start: First pixel [n].
            axis: 0 or 1.
        """
        width, spacing = profiles.shape[2], self.spacings[axis]
        first = np.floor(start / spacing).astype(int)
        node = first[:, None] + np.arange(int(width / spacing) + 3)
        grid = start[:, None] + np.arange(width)
        value = 1 - np.abs(grid[:, None] / spacing - node[:, :, None])
        return profiles @ np.maximum(value, 0).transpose(0, 2, 1), node


def _ends(hat: sparse.csr_matrix) -> tuple[int, int]:
    used = hat.indices[hat.data > 0]
    return int(used.min()), int(used.max()) + 1
