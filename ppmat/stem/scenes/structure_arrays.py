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

"""Read a structure into arrays: atoms, cell, and along which vectors it repeats."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError

_MIN_VACUUM = 7.0  # Å without atoms between two planes; wider than any layer distance
_MIN_SINGULAR_VALUE = 1e-6  # of the unit cell vectors; a smaller one means no volume


class CrystalError(InputError):
    """A structure, view or microscope of which no image can be made."""


@dataclass(frozen=True)
class StructureArrays:
    """The part of a structure that an image needs."""

    numbers: np.ndarray  # atomic numbers [N]
    occupancies: np.ndarray  # of the sites, 0 to 1 [N]
    positions: np.ndarray  # Å [N, 3]
    cell: np.ndarray  # lattice vectors as rows, Å [3, 3]
    periodic: np.ndarray  # whether the structure repeats along each vector [3]


def structure_to_arrays(structure: Any) -> StructureArrays:
    """Return the arrays of a structure.

    Args:
        structure: pymatgen ``Structure`` or ``Molecule`` (sites may be partly
            occupied), ``ase.Atoms`` (also with the ``occupancy`` that ASE reads from
            CIF files), or a record with ``atomic_numbers``, ``pos`` and ``cell``.

    Raises:
        CrystalError: Another type, no atoms, positions that are not finite, or atoms
            without an atomic number.

    Example:
        >>> from ase.build import bulk
        >>> structure_to_arrays(bulk("Cu")).numbers
        array([29])
    """
    if hasattr(structure, "get_atomic_numbers"):
        arrays = _from_ase(structure)
    elif hasattr(structure, "sites"):
        arrays = _from_pymatgen(structure)
    elif all(hasattr(structure, name) for name in ("atomic_numbers", "pos", "cell")):
        numbers = np.asarray(structure.atomic_numbers)
        arrays = (numbers, np.ones(len(numbers)), structure.pos, structure.cell, True)
    else:
        raise CrystalError(
            f"a {type(structure).__name__} is no structure",
            wanted="a pymatgen Structure, ase.Atoms, or a record with atomic_numbers, "
            "pos and cell",
        )
    numbers, occupancies, positions, cell, periodic = arrays
    numbers = np.asarray(numbers, dtype=int)
    positions = np.asarray(positions, dtype=float).reshape(-1, 3)
    if not len(numbers):
        raise CrystalError("the structure has no atoms")
    if wrong := int((~np.isfinite(positions).all(axis=1)).sum()):
        raise CrystalError(
            f"{wrong} of {len(numbers)} atoms have positions that are NaN or infinite"
        )
    if numbers.min() < 1:
        raise CrystalError(
            f"atom {int(numbers.argmin())} has atomic number {numbers.min()}",
            hint="An image needs the element of every atom (ASE's X is no element).",
        )
    cell = np.asarray(cell, dtype=float).reshape(3, 3)
    occupancies = np.asarray(occupancies, dtype=float)
    periodic = np.broadcast_to(np.asarray(periodic, bool), 3) & cell.any(axis=1)
    cell = _complete_cell(cell)
    return StructureArrays(numbers, occupancies, positions, cell, periodic)


def _from_ase(atoms: Any) -> tuple:
    numbers, positions = atoms.get_atomic_numbers(), atoms.get_positions()
    occupancies = np.ones(len(numbers))
    shares, kinds = atoms.info.get("occupancy"), atoms.arrays.get("spacegroup_kinds")
    if len(numbers) and shares and kinds is not None:
        from ase.data import atomic_numbers

        shares = {int(kind): elements for kind, elements in shares.items()}
        rows = [
            (site, atomic_numbers[symbol], share)
            for site, kind in enumerate(kinds)
            for symbol, share in shares[int(kind)].items()
        ]
        sites, numbers, occupancies = zip(*rows)
        positions = positions[list(sites)]
    return numbers, occupancies, positions, np.asarray(atoms.cell), atoms.pbc


def _from_pymatgen(structure: Any) -> tuple:
    rows = [
        (getattr(kind, "Z", 0), share, site.coords)
        for site in structure.sites
        for kind, share in site.species.items()
    ]
    numbers, occupancies, positions = zip(*rows) if rows else ((), (), ())
    lattice = getattr(structure, "lattice", None)
    if lattice is None:
        return numbers, occupancies, positions, np.zeros((3, 3)), False
    return numbers, occupancies, positions, lattice.matrix, lattice.pbc


def _complete_cell(cell: np.ndarray) -> np.ndarray:
    """Replace zero rows of a cell by unit vectors perpendicular to the other rows."""
    given = cell.any(axis=1)
    if not given.any():
        return np.eye(3)
    lengths = np.linalg.norm(cell[given], axis=1)
    singular = np.linalg.svd(cell[given] / lengths[:, None], compute_uv=False)
    if singular.min() < _MIN_SINGULAR_VALUE:
        raise CrystalError(f"the cell {cell.tolist()} Å has no volume")
    if given.all():
        return cell
    cell = cell.copy()
    # The last right singular vectors span the complement of the given rows.
    cell[~given] = np.linalg.svd(cell[given])[2][given.sum() :]
    if np.linalg.det(cell) < 0:
        cell[np.flatnonzero(~given)[-1]] *= -1
    return cell


def end_at_vacuum(atoms: StructureArrays) -> StructureArrays:
    """Return the atoms, no longer periodic along cell vectors that cross vacuum.

    Vacuum is a gap of more than 7 Å without atoms. The atoms are moved by lattice
    vectors so that the gap lies at the end of the cell.
    """
    inverse = np.linalg.inv(atoms.cell)
    scaled = atoms.positions @ inverse
    heights = 1 / np.linalg.norm(inverse, axis=0)
    periodic = atoms.periodic.copy()
    for axis in np.flatnonzero(atoms.periodic):
        levels = np.sort(scaled[:, axis] % 1.0)
        gaps = np.diff(levels, append=levels[0] + 1.0)
        widest = int(gaps.argmax())
        if gaps[widest] * heights[axis] > _MIN_VACUUM:
            periodic[axis] = False
            start = levels[(widest + 1) % len(levels)]
            # The small shift keeps rounding from moving the first atom to the end.
            scaled[:, axis] = (scaled[:, axis] - start + 1e-9) % 1.0 + start
    return dataclasses.replace(atoms, positions=scaled @ atoms.cell, periodic=periodic)
