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

"""Bonds between atoms by their covalent radii, and the molecules that they form."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ppmat.utils.neighbours import Pairs
from ppmat.utils.neighbours import neighbour_pairs

# Two atoms are bonded below this multiple of the sum of their covalent radii. In the 86
# adsorbates of OC20 bonds reach 1.12, and atoms without a bond begin at 1.59; sulphur
# atoms on neighbouring sites of Cu(111) are at 1.22.
BOND_FACTOR = 1.2


def radius_sums(numbers: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the sum of the covalent radii [Å] of each pair, [P].

    Args:
        numbers: Atomic numbers, [N].
        pairs: Pairs of these atoms.
    """
    radii = covalent_radii[np.asarray(numbers)]
    return radii[pairs.centre] + radii[pairs.neighbour]


def bonded_pairs(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    factor: float = BOND_FACTOR,
    margin: float = 0.0,
) -> Pairs:
    """Return all pairs closer than ``factor`` x sum of covalent radii + ``margin``.

    Args:
        numbers: Atomic numbers, [N].
        positions: Cartesian positions, [N, 3], Å.
        cell: Lattice vectors as rows, [3, 3], Å; periodic in all directions.
        factor: Multiple of the sum of the covalent radii.
        margin: Added to it [Å].

    Returns:
        Each pair in both orders, periodic images included.
    """
    if len(numbers) == 0:
        none = np.zeros(0, dtype=np.int64)
        return Pairs(none, none, np.zeros((0, 3), dtype=np.int64), np.zeros(0))
    largest = covalent_radii[np.asarray(numbers)].max()
    pairs = neighbour_pairs(positions, cell, 2 * largest * factor + margin)
    near = pairs.distance < radius_sums(numbers, pairs) * factor + margin
    return Pairs(*(part[near] for part in pairs))


def molecules(pairs: Pairs, num_atoms: int) -> np.ndarray:
    """Return the number of each atom's molecule, int64 [N], from the bonds."""
    bonds = coo_array(
        (np.ones(len(pairs.centre)), (pairs.centre, pairs.neighbour)),
        shape=(num_atoms, num_atoms),
    )
    return connected_components(bonds, directed=False)[1].astype(np.int64)


def count_molecules(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray
) -> int:
    """Return the number of molecules in a periodic cell.

    A molecule is a set of atoms joined by bonds. Atoms joined to their own periodic
    images form no molecule but an endless layer or chain. Each atom of it counts, so
    that a cell of n copies always has n times as many.

    Args:
        numbers: Atomic numbers, [N].
        positions: Cartesian positions, [N, 3], Å.
        cell: Lattice vectors as rows, [3, 3], Å; periodic in all directions.

    Example:
        >>> pair = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.13]])  # CO
        >>> both = np.concatenate([pair, pair + [4.0, 0.0, 0.0]])
        >>> count_molecules([6, 8, 6, 8], both, 8.0 * np.eye(3))
        2
    """
    if len(numbers) < 2:
        return len(numbers)
    pairs = bonded_pairs(numbers, positions, cell)
    labels = molecules(pairs, len(numbers))
    endless = np.unique(labels[_closes_through_cell(pairs, len(numbers))])
    in_endless = np.isin(labels, endless)
    return int(labels.max() + 1 - len(endless) + in_endless.sum())


def unwrap(
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    factor: float = BOND_FACTOR,
) -> np.ndarray | None:
    """Return the positions of one molecule in one piece, [N, 3] Å, by its bonds.

    The first atom stays. None: it is several molecules, or joined to its own images.

    Args:
        numbers: Atomic numbers, [N].
        positions: Cartesian positions, [N, 3], Å.
        cell: Lattice vectors as rows, [3, 3], Å; periodic in all directions.
        factor: Bonds are below this multiple of the sum of the covalent radii.

    Example:
        >>> carbon_monoxide = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 7.37]])
        >>> unwrap([6, 8], carbon_monoxide, 8.0 * np.eye(3)).round(2).tolist()
        [[0.0, 0.0, 0.5], [0.0, 0.0, -0.63]]
    """
    pairs = bonded_pairs(numbers, positions, cell, factor)
    images = _walk(pairs, len(numbers))
    if molecules(pairs, len(numbers)).any() or _closing(pairs, images).any():
        return None
    return positions + images @ cell


def _closes_through_cell(pairs: Pairs, num_atoms: int) -> np.ndarray:
    """Return the atoms at bonds that close a path to another image of themselves."""
    return np.unique(pairs.centre[_closing(pairs, _walk(pairs, num_atoms))])


def _closing(pairs: Pairs, images: np.ndarray) -> np.ndarray:
    """Return which bonds do not lead to the image in which a walk reached the atom."""
    step = images[pairs.centre] + pairs.image - images[pairs.neighbour]
    return step.any(axis=1)


def _walk(pairs: Pairs, num_atoms: int) -> np.ndarray:
    """Return the image in which each atom is reached along bonds, int64 [N, 3].

    Each molecule is walked from its first atom, which is in image 0.
    """
    bonds: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(num_atoms)]
    for i, j, image in zip(pairs.centre, pairs.neighbour, pairs.image, strict=True):
        bonds[i].append((j, image))
    reached = np.full((num_atoms, 3), np.iinfo(np.int64).min)
    seen = np.zeros(num_atoms, dtype=bool)
    for start in range(num_atoms):
        if seen[start]:
            continue
        seen[start], reached[start], todo = True, 0, [start]
        while todo:
            i = todo.pop()
            for j, image in bonds[i]:
                if not seen[j]:
                    seen[j], reached[j] = True, reached[i] + image
                    todo.append(j)
    return reached
