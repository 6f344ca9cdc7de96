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

"""Geometry of periodic cells: shortest periodic images, empty layers, equal frames.

Cells are rows: ``cart = frac @ cell``.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SHIFTS = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=np.float64)
_PLANE_SHIFTS = np.array(list(itertools.product((-1, 0, 1), repeat=2)))

ROUNDING = 1e-4  # Å; frames are the same if nothing differs by more
LARGEST_COORDINATE = 4000.0  # Å; float32 holds smaller ones to 0.0002 Å
_NEAR = 200.0  # Å; float32 holds smaller coordinates to 0.00001 Å
_LARGEST_WRAPPED = 1e11  # Å; float64 holds smaller ones to 0.00002 Å
_LONGEST_VECTOR = 1000.0  # Å; cells of OC20 are shorter than 50 Å
_LARGEST_VOLUME = 1e7  # Å^3; cells of OC20 are smaller than 3e4 Å^3
_SHORTEST_VECTOR = 0.5  # Å; the distance of an atom from its own image
_LARGEST_DENSITY = 1.0  # atoms / Å^3; diamond has 0.18


def minimum_image(vectors: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return the shortest periodic image of each vector.

    The result is exact for any cell. In a very skewed cell, rounding fractional
    coordinates is not exact. If it may be wrong for a vector, all 27 images in a
    Minkowski-reduced basis of the lattice are compared. In such a basis the vectors
    that bound the Voronoi cell have coefficients -1, 0, 1 (Nguyen and Stehle 2009).

    Args:
        vectors: Differences of Cartesian positions, shape [..., 3], in Å.
        cell: Lattice vectors as rows, shape [3, 3], in Å.

    Returns:
        Images of ``vectors``, same shape; the dtype of ``vectors`` if it is a float
        type, else float64. Computed in float64.

    Raises:
        ValueError: The cell has no volume or a wrong shape.

    Example:
        >>> minimum_image(np.array([3.5, 0.0, -0.5]), 4.0 * np.eye(3)).tolist()
        [-0.5, 0.0, -0.5]
    """
    vectors = np.asarray(vectors)
    dtype = vectors.dtype if vectors.dtype.kind == "f" else np.dtype(np.float64)
    flat = vectors.astype(np.float64).reshape(-1, 3)
    cell = np.asarray(cell, dtype=np.float64)
    check_cell(cell)
    inverse = np.linalg.inv(cell)
    images = flat - np.rint(flat @ inverse) @ cell
    # No lattice vector is shorter than the smallest distance between lattice planes,
    # 1 / |column of the inverse|. An image below half of it is the shortest.
    safe = 0.5 / np.linalg.norm(inverse, axis=0).max()
    uncertain = np.flatnonzero(~(np.linalg.norm(images, axis=1) < safe))
    if uncertain.size:
        images[uncertain] = _search(images[uncertain], reduce_cell(cell))
    return images.reshape(vectors.shape).astype(dtype, copy=False)


def check_cell(cell: np.ndarray) -> None:
    """Raise ``ValueError`` unless ``cell`` is [3, 3], finite and spans a volume."""
    if cell.shape != (3, 3):
        raise ValueError(f"a cell has shape {cell.shape}, expected (3, 3)")
    if not np.isfinite(cell).all():
        raise ValueError("a cell holds NaN or infinite numbers")
    volume = abs(np.linalg.det(cell))
    if volume <= 1e-9 * np.prod(np.linalg.norm(cell, axis=1)):
        raise ValueError(f"a cell has no volume ({volume:.3g} Å^3): {cell.tolist()}")


def check_cell_size(cell: np.ndarray, natoms: int) -> None:
    """Raise ``ValueError`` for a cell of a size that no slab of ``natoms`` has.

    The limits bound the time and memory of a neighbour search.
    """
    longest = np.linalg.norm(cell, axis=1).max()
    volume = abs(np.linalg.det(cell))
    if longest > _LONGEST_VECTOR or volume > _LARGEST_VOLUME:
        raise ValueError(
            f"a cell has vectors up to {longest:.3g} Å and {volume:.3g} Å^3, wanted at "
            f"most {_LONGEST_VECTOR:g} Å and {_LARGEST_VOLUME:g} Å^3"
        )
    if natoms > _LARGEST_DENSITY * volume:
        raise ValueError(
            f"a cell of {volume:.3g} Å^3 is too small for {natoms} atoms (more than "
            f"{_LARGEST_DENSITY:g} atom per Å^3)"
        )
    # Distances of lattice planes: no lattice vector is shorter than the smallest.
    spacing = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    if spacing.min() < _SHORTEST_VECTOR:
        shortest = np.linalg.norm(reduce_cell(cell)[0])
        if shortest < _SHORTEST_VECTOR:
            raise ValueError(
                f"a cell has a lattice vector of {shortest:.2g} Å, wanted at least "
                f"{_SHORTEST_VECTOR} Å: each atom would touch its own image"
            )


def wrap_far(pos: np.ndarray, cell: np.ndarray, periodic: Sequence[bool]) -> np.ndarray:
    """Move atoms that are far from the origin into the cell, in float64.

    Atoms within 200 Å keep their positions. Along a vector that is not periodic,
    nothing moves. Coordinates above 1e11 Å, NaN and infinite ones stay as they are.

    Args:
        pos: Cartesian positions, [N, 3], Å.
        cell: Lattice vectors as rows, [3, 3], Å, with a volume.
        periodic: Which lattice vectors are periods.

    Example:
        >>> wrap_far([[1e8, 0, 0], [-1, 0, 0]], 3 * np.eye(3), [True] * 3).tolist()
        [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
    """
    pos = np.array(pos, dtype=np.float64)
    reach = np.abs(pos).max(axis=1, initial=0.0)
    far = (reach > _NEAR) & (reach <= _LARGEST_WRAPPED)
    if far.any():
        cell = np.asarray(cell, dtype=np.float64)
        cells = np.floor(pos[far] @ np.linalg.inv(cell))
        pos[far] -= (cells * np.asarray(periodic, dtype=bool)) @ cell
    return pos


def reduce_cell(cell: np.ndarray) -> np.ndarray:
    """Return a Minkowski-reduced basis of the lattice spanned by the rows of ``cell``.

    Args:
        cell: Lattice vectors as rows, shape [3, 3], in Å, with a volume.

    Returns:
        The three shortest independent lattice vectors as rows, shortest first; the
        handedness may change.
    """
    basis = np.array(cell, dtype=np.float64)
    while True:
        basis = basis[np.argsort(np.linalg.norm(basis, axis=1), kind="stable")]
        first, second, third = basis
        shorter = second - np.rint(first @ second / (first @ first)) * first
        if _norm(shorter) < _norm(second) * (1 - 1e-12):
            basis[1] = shorter
            continue
        # Nearest point of the plane lattice: round, then try the neighbours.
        plane = basis[:2]
        coefficients = np.rint(np.linalg.solve(plane @ plane.T, plane @ third))
        candidates = third - (coefficients + _PLANE_SHIFTS) @ plane
        shorter = candidates[np.linalg.norm(candidates, axis=1).argmin()]
        if _norm(shorter) >= _norm(third) * (1 - 1e-12):
            return basis
        basis[2] = shorter


class EmptyLayer(NamedTuple):
    """The thickest layer without atoms that is parallel to a face of the cell.

    Attributes:
        axis: The lattice vector that leaves the face: 0, 1, 2.
        thickness: Distance of the atoms below and above the layer, Å.
        heights: Heights of the atoms above the layer, normal to the face, [N] Å. The
            lowest is 0.
    """

    axis: int
    thickness: float
    heights: np.ndarray


def empty_layers(pos: np.ndarray, cell: np.ndarray) -> list[EmptyLayer]:
    """Return the thickest empty layer parallel to each face of the cell.

    Neither the origin nor the periodic image of an atom changes the result. For a cell
    with inverted vectors, the heights count from the other side.

    Args:
        pos: Cartesian positions, [N, 3], Å, of at least one atom.
        cell: Lattice vectors as rows, [3, 3], Å, with a volume.

    Example:
        >>> slab = np.array([[0, 0, 9], [0, 0, 2]])
        >>> [round(layer.thickness) for layer in empty_layers(slab, 10 * np.eye(3))]
        [10, 10, 7]
        >>> empty_layers(slab, 10 * np.eye(3))[2].heights.round().tolist()
        [0.0, 3.0]
    """
    inverse = np.linalg.inv(np.asarray(cell, dtype=np.float64))
    spacing = 1.0 / np.linalg.norm(inverse, axis=0)
    share = np.asarray(pos, dtype=np.float64) @ inverse
    ordered = np.sort(share % 1.0, axis=0)
    gaps = np.concatenate([ordered[1:], ordered[:1] + 1.0]) - ordered
    largest = gaps.argmax(axis=0)
    axes = np.arange(3)
    lowest = ordered[(largest + 1) % len(ordered), axes]
    # The tolerance prevents that rounding moves the lowest atom to the top.
    heights = ((share - lowest + 1e-6) % 1.0 - 1e-6) * spacing
    thickness = gaps[largest, axes] * spacing
    return [EmptyLayer(i, float(thickness[i]), heights[:, i]) for i in range(3)]


def vacuum(pos: np.ndarray, cell: np.ndarray) -> EmptyLayer:
    """Return the thickest empty layer of all faces; see :func:`empty_layers`.

    In a slab this is the vacuum, whatever the axis. Of equal ones the last is taken.
    """
    layers = empty_layers(pos, cell)
    return max(reversed(layers), key=lambda layer: round(layer.thickness, 3))


def geometry_key(
    numbers: np.ndarray, pos: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> bytes:
    """Return bytes that are equal for the same frame, in any order of its atoms.

    Elements, positions and cell to :data:`ROUNDING`, and periodic directions count. A
    frame that is moved, turned, wrapped or repeated has another key.

    Args:
        numbers: Atomic numbers, shape [N].
        pos: Positions, shape [N, 3], in Å.
        cell: Lattice vectors as rows, shape [3, 3], in Å.
        pbc: Which directions are periodic, bool, shape [3].
    """
    places = np.rint(pos / ROUNDING).astype(np.int64)
    table = np.column_stack([numbers, places])
    table = table[np.lexsort(table.T[::-1])]
    cell = np.rint(cell / ROUNDING).astype(np.int64)
    return hashlib.blake2b(
        table.tobytes() + cell.tobytes() + pbc.tobytes(), digest_size=16
    ).digest()


def _search(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    vectors = vectors - np.rint(vectors @ np.linalg.inv(basis)) @ basis
    images = vectors[:, None, :] + _SHIFTS @ basis
    best = (images**2).sum(axis=2).argmin(axis=1)
    return images[np.arange(len(images)), best]


def _norm(vector: np.ndarray) -> float:
    return float(np.sqrt(vector @ vector))
