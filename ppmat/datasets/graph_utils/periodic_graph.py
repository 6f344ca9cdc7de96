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

"""Neighbours and reciprocal vectors of a periodic structure, as plain arrays.

Both branches of the spatial-frequency network read these: edges between atoms closer
than a cut-off, periodic images included, and the reciprocal lattice vectors inside a
sphere. Neither depends on the choice of the lattice basis.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pymatgen.core.structure import Structure

from ppmat.datasets.custom_data_type import ConcatData
from ppmat.utils.errors import InputError
from ppmat.utils.neighbours import Pairs
from ppmat.utils.neighbours import neighbour_pairs
from ppmat.utils.ranges import Range

# Å; neighbours this much farther than the last one kept stay too, as in fairchem.
TIE_TOLERANCE = 0.01
_MAX_INDICES = 1e7  # integer triples that are tried; a slab of OC20 has about 200


def check_distances(pairs: Pairs, closest: float, prefix: str = "") -> None:
    """Raise ``InputError`` (``prefix`` first) for atoms closer than ``closest`` Å."""
    if pairs.distance.min(initial=math.inf) < closest:
        p = pairs.distance.argmin()
        raise InputError(
            f"{prefix}atoms {pairs.centre[p]} and {pairs.neighbour[p]} are at the same "
            f"place ({pairs.distance[p]:.2g} Å apart; wanted at least {closest} Å)"
        )


class PeriodicGraphConverter:
    """Converts structures to edges and reciprocal vectors.

    Args:
        cutoff: Edges join atoms closer than this [Å].
        max_neighbors: Edges a centre keeps, nearest first; every neighbour within
            0.01 Å of the last one kept stays too, so that equivalent neighbours are
            never split. None keeps all. A limit makes the graph asymmetric: j may be
            a neighbour of i without i being one of j.
        k_cut: Radius of the sphere of reciprocal vectors [1/Å]; 0 leaves them out.

    Raises:
        InputError: A parameter outside its range.
    """

    def __init__(
        self,
        cutoff: Annotated[float, Range(above=0, most=50)] = 5.0,
        max_neighbors: Annotated[int, Range(1, 10_000)] | None = 24,
        k_cut: Annotated[float, Range(0, 10)] = 1.0,
    ) -> None:
        if not 0 < cutoff < math.inf:
            raise InputError(f"cutoff is {cutoff} Å, wanted a positive number")
        if max_neighbors is not None and max_neighbors < 1:
            raise InputError(
                f"max_neighbors is {max_neighbors}, wanted at least 1, or null for all"
            )
        if not 0 <= k_cut < math.inf:
            raise InputError(f"k_cut is {k_cut} 1/Å, wanted 0 (off) or more")
        self.cutoff = float(cutoff)
        self.max_neighbors = max_neighbors
        self.k_cut = float(k_cut)

    def __call__(
        self, structure: Structure | list[Structure], closest: float = 0.0
    ) -> dict[str, ConcatData] | list[dict[str, ConcatData]]:
        """Return the graph of a structure, or the graphs of a list.

        Args:
            structure: The structure, periodic in all directions.
            closest: Atoms closer than this [Å] are an error.

        Returns:
            ``edge_index`` int64 [E, 2]: centre i, neighbour j, sorted by centre and
            then by distance; ``pbc_offset`` int64 [E, 3]: the vector from i to j is
            ``x_j + pbc_offset @ lattice - x_i``; ``num_edges`` int64 [1];
            ``k_index`` int64 [K, 3]: integer triples m with
            ``k = 2 pi m @ inv(lattice).T`` and ``0 < |k| <= k_cut``, one of each pair
            k, -k, shortest first; ``num_k`` int64 [1]. E and K may be 0.

        Raises:
            InputError: Two atoms are closer than ``closest``.
        """
        if isinstance(structure, list):
            return [self(item, closest) for item in structure]
        cell = structure.lattice.matrix
        return self.of_positions(structure.cart_coords, cell, closest)

    def of_positions(
        self, positions: np.ndarray, cell: np.ndarray, closest: float = 0.0
    ) -> dict[str, ConcatData]:
        """Return the graph of positions [N, 3] Å in a cell [3, 3] Å."""
        pairs = neighbour_pairs(positions, cell, max(self.cutoff, closest))
        check_distances(pairs, closest)
        return self._graph(pairs, cell)

    def from_edges(
        self, structure: Structure, edge_index: np.ndarray, cell_offsets: np.ndarray
    ) -> dict[str, ConcatData]:
        """Return the graph made of stored OC20 edges instead of a search.

        The cut-off and the neighbour limit are applied to them.

        Args:
            structure: The structure the edges belong to.
            edge_index: int [2, E]; row 0 neighbour j, row 1 centre i.
            cell_offsets: int [E, 3]; the vector from i to j is
                ``x_j - x_i + cell_offsets @ lattice``.
        """
        coords, cell = structure.cart_coords, structure.lattice.matrix
        neighbour, centre = np.asarray(edge_index, dtype=np.int64)
        offset = np.asarray(cell_offsets, dtype=np.int64)
        vector = coords[neighbour] - coords[centre] + offset @ cell
        distance = np.linalg.norm(vector, axis=1)
        return self._graph(Pairs(centre, neighbour, offset, distance), cell)

    def _graph(self, pairs: Pairs, cell: np.ndarray) -> dict[str, ConcatData]:
        inside = pairs.distance < self.cutoff
        centre, neighbour, image, distance = (part[inside] for part in pairs)
        order = np.lexsort((distance, centre))
        if self.max_neighbors is not None and order.size:
            order = order[
                _within_limit(centre[order], distance[order], self.max_neighbors)
            ]
        k_index = reciprocal_indices(cell, self.k_cut)
        return {
            "edge_index": ConcatData(np.stack([centre, neighbour], axis=1)[order]),
            "pbc_offset": ConcatData(image[order]),
            "num_edges": ConcatData(np.array([order.size], dtype=np.int64)),
            "k_index": ConcatData(k_index),
            "num_k": ConcatData(np.array([len(k_index)], dtype=np.int64)),
        }


def reciprocal_indices(cell: np.ndarray, k_cut: float) -> np.ndarray:
    """Return the reciprocal lattice vectors of a sphere as integer triples.

    Since ``m_i = k . a_i / (2 pi)``, every vector of the sphere has
    ``|m_i| <= k_cut |a_i| / (2 pi)``, however skewed the cell is.

    Args:
        cell: float64 [3, 3], rows are lattice vectors [Å].
        k_cut: Radius [1/Å].

    Returns:
        int64 [K, 3], shortest first; the first non-zero entry of each is positive.

    Raises:
        InputError: There are too many for the memory.
    """
    bound = np.floor(k_cut * np.linalg.norm(cell, axis=1) / (2 * np.pi) + 1e-9)
    if np.prod(2 * bound + 1) > _MAX_INDICES:
        longest = np.linalg.norm(cell, axis=1).max()
        raise InputError(
            f"a cell vector of {longest:.3g} Å gives too many reciprocal vectors for "
            f"k_cut = {k_cut:g} 1/Å",
            hint="Lower k_cut or make the cell smaller",
        )
    h, k, l = (int(b) for b in bound)  # noqa: E741, Miller indices
    index = np.mgrid[0 : h + 1, -k : k + 1, -l : l + 1].reshape(3, -1).T
    upper = (index[:, 0] > 0) | (index[:, 1] > 0)
    upper |= (index[:, 1] == 0) & (index[:, 2] > 0)
    index = index[upper].astype(np.int64)
    length = 2 * np.pi * np.linalg.norm(index @ np.linalg.inv(cell).T, axis=1)
    inside = length <= k_cut
    return index[inside][np.argsort(length[inside], kind="stable")]


def _within_limit(centre, distance, limit):
    """Return a mask of the edges a limit keeps; sorted by centre, then distance."""
    _, first, count = np.unique(centre, return_index=True, return_counts=True)
    last_kept = distance[first + np.minimum(count, limit) - 1]
    return distance <= np.repeat(last_kept + TIE_TOLERANCE, count)
