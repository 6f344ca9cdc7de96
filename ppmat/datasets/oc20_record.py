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

"""One OC20 structure: the canonical record, and what a file's fields must satisfy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.constraints import FixAtoms

from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.utils.periodic import check_cell
from ppmat.utils.periodic import minimum_image


@dataclasses.dataclass(eq=False, repr=False)
class OC20Record:
    """One adsorbate-on-slab structure, initial and (when known) relaxed.

    Attributes:
        sid: System id.
        atomic_numbers: int64 [N].
        pos: Initial Cartesian positions, float32 [N, 3], Å.
        cell: Lattice vectors as rows, float32 [3, 3], Å; periodic in all directions.
        tags: int64 [N]: 0 sub-surface, 1 surface, 2 adsorbate.
        fixed: bool [N]: atoms that do not move.
        y_init: Adsorption energy of the initial structure, eV.
        y_relaxed: Adsorption energy of the relaxed structure, eV.
        pos_relaxed: Relaxed positions, float32 [N, 3], Å; wrapped independently of
            ``pos``, so use :attr:`displacement` and not the difference.
        edge_index: Stored graph, int64 [2, E]: row 0 neighbour, row 1 centre.
        cell_offsets: int64 [E, 3]: edge vector =
            ``pos[row 0] - pos[row 1] + cell_offsets @ cell``.
        distances: float32 [E], Å.
        force: Forces on the initial structure, float32 [N, 3], eV/Å.
    """

    sid: str
    atomic_numbers: np.ndarray
    pos: np.ndarray
    cell: np.ndarray
    tags: np.ndarray
    fixed: np.ndarray
    y_init: float | None = None
    y_relaxed: float | None = None
    pos_relaxed: np.ndarray | None = None
    edge_index: np.ndarray | None = None
    cell_offsets: np.ndarray | None = None
    distances: np.ndarray | None = None
    force: np.ndarray | None = None

    def __repr__(self) -> str:
        energy = "unknown" if self.y_relaxed is None else f"{self.y_relaxed:.4f} eV"
        return (
            f"OC20Record(sid={self.sid!r}, {len(self.pos)} atoms, {self.fixed.sum()} "
            f"fixed, y_relaxed {energy})"
        )

    @property
    def displacement(self) -> np.ndarray | None:
        """Minimum-image ``pos_relaxed - pos``, float32 [N, 3], Å; None if unknown."""
        if self.pos_relaxed is None:
            return None
        difference = self.pos_relaxed.astype(np.float64) - self.pos
        return minimum_image(difference, self.cell).astype(np.float32)

    @classmethod
    def from_fields(
        cls, fields: Mapping[str, Any], where: str = "", default_sid: str = ""
    ) -> OC20Record:
        """Make a record from a file's fields, whatever writer made them, and check it.

        ``y`` or ``energy`` stand for ``y_init`` and ``forces`` for ``force`` (fairchem
        1.x). Missing ``tags`` are 0, missing ``fixed`` is False. ``pbc`` is ignored.

        Args:
            fields: As returned by :func:`ppmat.datasets.pyg_pickle.loads`.
            where: File and key, for errors.
            default_sid: Id when the record has none.

        Raises:
            OC20FormatError: A field is missing, has a wrong shape, or a value that
                cannot be: NaN, a cell without volume, an unknown element.
        """
        return _Canonical(fields, where).record(default_sid)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields in the order and dtypes of the official files."""
        sid: Any = self.sid
        if sid.isascii() and sid.isdigit() and str(int(sid)) == sid:
            sid = int(sid)
        fields = {
            "edge_index": _as(self.edge_index, np.int64),
            "pos": _as(self.pos, np.float32),
            "cell": _as(self.cell, np.float32).reshape(1, 3, 3),
            "atomic_numbers": _as(self.atomic_numbers, np.float32),
            "natoms": len(self.pos),
            "cell_offsets": _as(self.cell_offsets, np.int64),
            "force": _as(self.force, np.float32),
            "distances": _as(self.distances, np.float32),
            "fixed": _as(self.fixed, np.float32),
            "sid": sid,
            "tags": _as(self.tags, np.int64),
            "y_init": self.y_init,
            "y_relaxed": self.y_relaxed,
            "pos_relaxed": _as(self.pos_relaxed, np.float32),
        }
        return {name: value for name, value in fields.items() if value is not None}


def _as(array: np.ndarray | None, dtype: type) -> np.ndarray | None:
    return None if array is None else np.asarray(array).astype(dtype, copy=False)


class _Canonical:
    """The checks of one record's fields."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields = fields
        self.prefix = f"{where}: " if where else ""

    def record(self, default_sid: str) -> OC20Record:
        pos = self.floats("pos", (-1, 3), required=True)
        natoms = len(pos)
        if natoms == 0:
            self.fail("the structure has no atoms")
        stated = self.number("natoms")
        if stated is not None and stated != natoms:
            self.fail(f"natoms is {stated:g}, but pos has {natoms} rows")
        cell = self.array("cell", required=True)
        if cell.size != 9:
            self.fail(f"cell has shape {cell.shape}, expected (3, 3) or (1, 3, 3)")
        cell = cell.reshape(3, 3).astype(np.float32)
        try:
            check_cell(cell.astype(np.float64))
        except ValueError as err:
            self.fail(str(err))
        numbers = self.integers("atomic_numbers", (natoms,), required=True)
        if numbers.min() < 1 or numbers.max() > 118:
            bad = numbers[(numbers < 1) | (numbers > 118)][0]
            self.fail(f"atomic_numbers holds {bad}, which is no element (1..118)")
        tags = self.integers("tags", (natoms,))
        fixed = self.integers("fixed", (natoms,))
        if fixed is None:
            fixed = np.zeros(natoms, dtype=np.int64)
        elif fixed.min() < 0 or fixed.max() > 1:
            self.fail("fixed holds values other than 0 and 1")
        edge_index = self.integers("edge_index", (2, -1))
        edges = -1 if edge_index is None else edge_index.shape[1]
        if edges > 0 and not 0 <= edge_index.min() <= edge_index.max() < natoms:
            self.fail(f"edge_index refers to atoms beyond the {natoms} there are")
        return OC20Record(
            sid=self.sid(default_sid),
            atomic_numbers=numbers,
            pos=pos,
            cell=cell,
            tags=np.zeros(natoms, dtype=np.int64) if tags is None else tags,
            fixed=fixed.astype(bool),
            y_init=self.number("y_init", "y", "energy"),
            y_relaxed=self.number("y_relaxed"),
            pos_relaxed=self.floats("pos_relaxed", (natoms, 3)),
            edge_index=edge_index,
            cell_offsets=self.integers("cell_offsets", (edges, 3)),
            distances=self.floats("distances", (edges,)),
            force=self.floats("force", (natoms, 3))
            if "force" in self.fields
            else self.floats("forces", (natoms, 3)),
        )

    def fail(self, reason: str) -> None:
        raise OC20FormatError(self.prefix + reason)

    def array(self, name: str, required: bool = False) -> np.ndarray | None:
        value = self.fields.get(name)
        if value is None:
            if required:
                self.fail(
                    f"the record has no {name}; it has {', '.join(self.fields) or '-'}"
                )
            return None
        try:
            array = np.asarray(value)
        except ValueError:
            array = None
        if array is None or array.dtype.kind not in "biuf":
            self.fail(f"{name} is no array of numbers")
        return array

    def shaped(self, name: str, shape: tuple, required: bool) -> np.ndarray | None:
        array = self.array(name, required)
        if array is None:
            return None
        if array.ndim != len(shape) or any(
            want not in (-1, got) for got, want in zip(array.shape, shape, strict=True)
        ):
            text = ", ".join("any" if size < 0 else str(size) for size in shape)
            self.fail(f"{name} has shape {array.shape}, expected ({text})")
        return array

    def floats(
        self, name: str, shape: tuple, required: bool = False
    ) -> np.ndarray | None:
        array = self.shaped(name, shape, required)
        if array is None:
            return None
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            self.fail(f"{name} holds NaN or infinite numbers")
        return array

    def integers(
        self, name: str, shape: tuple, required: bool = False
    ) -> np.ndarray | None:
        array = self.shaped(name, shape, required)
        if array is None or array.dtype == np.int64:
            return array
        if array.dtype.kind == "f":
            if not (np.abs(array) < 1 << 31).all() or (array != np.rint(array)).any():
                self.fail(f"{name} holds numbers that are no integers")
        return array.astype(np.int64)

    def number(self, *names: str) -> float | None:
        for name in names:
            array = self.array(name)
            if array is not None:
                if array.size != 1:
                    self.fail(f"{name} has shape {array.shape}, expected one number")
                value = float(array.reshape(()))
                if not np.isfinite(value):
                    self.fail(f"{name} is {value}")
                return value
        return None

    def sid(self, default: str) -> str:
        value = self.fields.get("sid")
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        if value is None:
            return default
        if isinstance(value, str):
            return value
        array = self.array("sid")
        if array.size != 1:
            self.fail(f"sid has shape {array.shape}, expected one number or a string")
        return str(int(array.reshape(())))


def fixed_atoms(atoms: Any, where: str) -> np.ndarray:
    """Return which atoms the ``FixAtoms`` constraints of ``ase.Atoms`` hold, bool [N].

    Args:
        atoms: The ``ase.Atoms``.
        where: Their name, for the error.

    Raises:
        OC20FormatError: There is a constraint of another kind.
    """
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise OC20FormatError(
                f"{where}: constraint {type(constraint).__name__}; only FixAtoms has "
                "a meaning here. Remove it or fix whole atoms"
            )
        fixed[constraint.index] = True
    return fixed


def record_from_frames(
    frames: list, sid: str, energy_key: str | None = None
) -> OC20Record:
    """Make a record from the ``ase.Atoms`` of one relaxation.

    Args:
        frames: The first is the initial structure, the last the relaxed one; a single
            frame gives a record without relaxed structure.
        sid: System id.
        energy_key: Key of ``atoms.info`` with the **adsorption** energy in eV, as OC20
            defines it (slab + adsorbate minus clean slab minus gas-phase reference).
            A total energy is never turned into one; without a key none is stored.

    Raises:
        OC20FormatError: The frames differ in atoms or cell, a constraint is not
            ``FixAtoms``, or an energy is missing.
    """
    first, last = frames[0], frames[-1]
    if (first.numbers.tolist(), first.cell.tolist()) != (
        last.numbers.tolist(),
        last.cell.tolist(),
    ):
        raise OC20FormatError(f"{sid}: first and last frame differ in atoms or cell")
    fixed = fixed_atoms(first, sid)
    energies = []
    for atoms in (first, last) if energy_key is not None else ():
        if energy_key not in atoms.info:
            raise OC20FormatError(
                f"{sid}: no '{energy_key}' in atoms.info; it has "
                f"{', '.join(map(str, atoms.info)) or 'nothing'}"
            )
        energies.append(float(atoms.info[energy_key]))
    relaxed = len(frames) > 1
    return OC20Record(
        sid=sid,
        atomic_numbers=first.numbers.astype(np.int64),
        pos=first.positions.astype(np.float32),
        cell=first.cell.array.astype(np.float32),
        tags=first.get_tags().astype(np.int64),
        fixed=fixed,
        y_init=energies[0] if energies else None,
        y_relaxed=energies[1] if energies and relaxed else None,
        pos_relaxed=last.positions.astype(np.float32) if relaxed else None,
    )
