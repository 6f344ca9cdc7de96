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


"""The atoms of a structure, from whatever describes them, and where its vacuum is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError

_VACUUM = 7.0  # Å without atoms between two planes: the structure ends there


class CrystalError(InputError):
    """A structure, or a way of looking at it, of which no image can be made."""


@dataclass(frozen=True)
class Atoms3D:
    """What an image needs of a structure.

    Args:
        numbers: Atomic numbers [N].
        occupancies: Of the sites, 0 to 1 [N].
        positions: Å [N, 3].
        cell: Rows are lattice vectors, Å [3, 3].
        periodic: Which of them repeat [3].
    """

    numbers: np.ndarray
    occupancies: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    periodic: np.ndarray


def read_atoms(structure: Any) -> Atoms3D:
    """Return what is needed of a structure.

    Args:
        structure: pymatgen ``Structure`` or ``Molecule`` (sites may be partly
            occupied), ``ase.Atoms`` (also with the ``occupancy`` that ASE reads from
            CIF files), or a record with ``atomic_numbers``, ``pos`` and ``cell``.

    Raises:
        CrystalError: It is none of these, has no atoms, positions that are no numbers,
            or atoms without an atomic number.
    """
    if hasattr(structure, "get_atomic_numbers"):
        found = _from_ase(structure)
    elif hasattr(structure, "sites"):
        found = _from_pymatgen(structure)
    elif all(hasattr(structure, name) for name in ("atomic_numbers", "pos", "cell")):
        numbers = np.asarray(structure.atomic_numbers)
        found = (numbers, np.ones(len(numbers)), structure.pos, structure.cell, True)
    else:
        raise CrystalError(
            f"a {type(structure).__name__} is no structure; wanted a pymatgen "
            "Structure, ase.Atoms, or a record with atomic_numbers, pos and cell"
        )
    numbers, occupancies, positions, cell, periodic = found
    numbers = np.asarray(numbers, dtype=int)
    positions = np.asarray(positions, dtype=float).reshape(-1, 3)
    if not len(numbers):
        raise CrystalError("the structure has no atoms")
    if not np.isfinite(positions).all():
        raise CrystalError(
            f"{int((~np.isfinite(positions).all(axis=1)).sum())} of {len(numbers)} "
            "atoms have positions that are NaN or infinite"
        )
    if numbers.min() < 1:
        raise CrystalError(
            f"atom {int(numbers.argmin())} has atomic number {numbers.min()}; an image "
            "needs the elements of all atoms (ASE's X stands for none)"
        )
    cell = np.asarray(cell, dtype=float).reshape(3, 3)
    periodic = np.broadcast_to(np.asarray(periodic, dtype=bool), 3) & cell.any(axis=1)
    cell = _complete(cell)
    return Atoms3D(numbers, np.asarray(occupancies, float), positions, cell, periodic)


def _from_ase(atoms: Any) -> tuple:
    numbers, positions = atoms.get_atomic_numbers(), atoms.get_positions()
    occupancies = np.ones(len(numbers))
    told, kinds = atoms.info.get("occupancy"), atoms.arrays.get("spacegroup_kinds")
    if told and kinds is not None:
        from ase.data import atomic_numbers

        told = {int(kind): shares for kind, shares in told.items()}
        rows = [
            (i, atomic_numbers[symbol], share)
            for i, kind in enumerate(kinds)
            for symbol, share in told[int(kind)].items()
        ]
        which = [row[0] for row in rows]
        numbers = np.array([row[1] for row in rows])
        occupancies = np.array([row[2] for row in rows], dtype=float)
        positions = positions[which]
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


def _complete(cell: np.ndarray) -> np.ndarray:
    """Return the cell with unit vectors for rows of zeros, across the other rows.

    Raises:
        CrystalError: The rows that are there are not independent.
    """
    given = cell.any(axis=1)
    if given.any():
        lengths = np.linalg.norm(cell[given], axis=1)
        singular = np.linalg.svd(cell[given] / lengths[:, None], compute_uv=False)
        if singular.min() < 1e-6:
            raise CrystalError(f"the cell {cell.tolist()} Å has no volume")
    if given.all():
        return cell
    cell = cell.copy()
    if not given.any():
        return np.eye(3)
    # The last right singular vectors span what the given rows do not.
    across = np.linalg.svd(cell[given])[2][given.sum() :]
    cell[~given] = across
    if np.linalg.det(cell) < 0:
        cell[np.flatnonzero(~given)[-1]] *= -1
    return cell


def close_gaps(atoms: Atoms3D) -> Atoms3D:
    """Return the atoms, not periodic along directions with vacuum.

    Those are moved by lattice vectors so that the vacuum is at the end of the cell.
    """
    scaled = atoms.positions @ np.linalg.inv(atoms.cell)
    heights = 1 / np.linalg.norm(np.linalg.inv(atoms.cell), axis=0)
    periodic = atoms.periodic.copy()
    for axis in np.flatnonzero(atoms.periodic):
        levels = np.sort(scaled[:, axis] % 1.0)
        gaps = np.diff(levels, append=levels[0] + 1.0)
        widest = int(gaps.argmax())
        if gaps[widest] * heights[axis] > _VACUUM:
            periodic[axis] = False
            start = levels[(widest + 1) % len(levels)]
            # Rounding must not send the first atom to the other end.
            scaled[:, axis] = (scaled[:, axis] - start + 1e-9) % 1.0 + start
    return dataclasses.replace(atoms, positions=scaled @ atoms.cell, periodic=periodic)
