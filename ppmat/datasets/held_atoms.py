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

"""Which atoms the constraints of a user's structure hold.

A record holds whole atoms or leaves them free. An atom is held if it cannot move in any
direction, whatever constraints say so. An atom that may move in some directions only
is refused, from every kind of file: no model here can hold a part of an atom.
"""

from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np
from ase.constraints import FixAtoms
from ase.constraints import FixCartesian
from ase.constraints import FixedLine
from ase.constraints import FixedPlane
from ase.constraints import FixScaled

from ppmat.datasets.pyg_pickle import OC20FormatError

# The directions each constraint holds, as rows of unit length: a displacement d of its
# atoms has d @ row = 0. FixScaled holds scaled coordinates, so its rows are reciprocal.
_HELD_DIRECTIONS: dict[type, Callable] = {
    FixAtoms: lambda constraint, cell: np.eye(3),
    FixCartesian: lambda constraint, cell: np.eye(3)[constraint.mask],
    FixScaled: lambda constraint, cell: _reciprocal(cell)[constraint.mask],
    FixedPlane: lambda constraint, cell: np.reshape(constraint.dir, (1, 3)),
    FixedLine: lambda constraint, cell: _normal_to(constraint.dir),
}


def held_atoms(atoms: ase.Atoms, where: str) -> np.ndarray:
    """Return which atoms the constraints of ``ase.Atoms`` hold, bool [N].

    Args:
        atoms: The structure, with a cell in three directions.
        where: Name of the structure, for errors.

    Raises:
        OC20FormatError: Some atoms are held in some directions only, or a constraint
            holds no single atoms, like ``FixBondLengths``.

    Example:
        >>> from ase.build import fcc111
        >>> slab = fcc111("Cu", (1, 1, 3), vacuum=8.0)
        >>> slab.set_constraint(FixCartesian([0], mask=(True, True, True)))
        >>> held_atoms(slab, "slab").tolist()
        [True, False, False]
    """
    # Sum of the projectors on the held directions; its rank is their number.
    held = np.zeros((len(atoms), 3, 3))
    for constraint in atoms.constraints:
        directions = _HELD_DIRECTIONS.get(type(constraint))
        if directions is None:
            legal = ", ".join(kind.__name__ for kind in _HELD_DIRECTIONS)
            raise OC20FormatError(
                f"constraint {type(constraint).__name__} is not supported",
                where=where,
                wanted=f"{legal}, which hold whole atoms",
                hint="Remove it (atoms.set_constraint()) or hold whole atoms",
            )
        rows = directions(constraint, atoms.cell.array)
        if not _within(constraint.index, len(atoms)):
            raise OC20FormatError(
                f"constraint {type(constraint).__name__} holds an atom that the "
                f"structure of {len(atoms)} atoms does not have",
                where=where,
            )
        held[constraint.index] += rows.T @ rows
    return _all_or_nothing(np.linalg.matrix_rank(held, tol=1e-6), where)


def _within(index: np.ndarray, count: int) -> bool:
    index = np.asarray(index)
    if index.dtype == bool:
        return index.shape == (count,)
    return bool((-count <= index).all() and (index < count).all())


def held_sites(movable: np.ndarray, where: str) -> np.ndarray:
    """Return which atoms ``selective_dynamics`` holds, bool [N].

    Args:
        movable: Whether a site may move along each lattice vector, bool [N, 3].
        where: Name of the structure, for errors.

    Raises:
        OC20FormatError: A site may move along some lattice vectors only.
    """
    movable = np.asarray(movable, dtype=bool).reshape(-1, 3)
    return _all_or_nothing((~movable).sum(axis=1), where)


def _all_or_nothing(number: np.ndarray, where: str) -> np.ndarray:
    """Return which atoms are held, from the number of held directions [N]."""
    partial = np.flatnonzero((number > 0) & (number < 3))
    if partial.size:
        raise OC20FormatError(
            f"atom {partial[0]} may move in some directions only"
            + (f", and {partial.size - 1} others" if partial.size > 1 else ""),
            where=where,
            wanted="atoms that are free, or held in all three directions",
            hint="Hold these atoms (F F F in a POSCAR, FixAtoms in ASE) or free them",
        )
    return number == 3


def _reciprocal(cell: np.ndarray) -> np.ndarray:
    columns = np.linalg.inv(cell)
    return (columns / np.linalg.norm(columns, axis=0)).T


def _normal_to(direction: np.ndarray) -> np.ndarray:
    """Return two unit vectors normal to a direction, as rows [2, 3]."""
    return np.linalg.svd(np.reshape(direction, (1, 3)))[2][1:]
