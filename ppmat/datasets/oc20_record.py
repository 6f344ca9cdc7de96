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

"""One adsorbate-on-slab structure: the record that files and users' structures become.

:class:`OC20Record` is the only form in which the library handles a structure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import ase
import numpy as np
from ase.constraints import FixAtoms

from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import check_cell
from ppmat.utils.periodic import minimum_image

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

SMALLEST_DISTANCE = 0.05  # Å; atoms closer than this are two copies of one atom
MAX_ATOMIC_NUMBER = 118
# Fields of the official files in their order, with the dtype of their arrays.
_FILE_FIELDS = {
    "edge_index": np.int64,
    "pos": np.float32,
    "cell": np.float32,
    "atomic_numbers": np.float32,
    "natoms": None,
    "cell_offsets": np.int64,
    "force": np.float32,
    "distances": np.float32,
    "fixed": np.float32,
    "sid": None,
    "tags": np.int64,
    "y_init": None,
    "y_relaxed": None,
    "pos_relaxed": np.float32,
}


@dataclasses.dataclass(eq=False, repr=False)
class OC20Record:
    """One adsorbate-on-slab structure of N atoms and E edges, initial and relaxed.

    Attributes:
        sid: System id.
        atomic_numbers: int64 [N].
        pos: Initial Cartesian positions, float32 [N, 3], Å.
        cell: Lattice vectors as rows, float32 [3, 3], Å; periodic in all directions.
        tags: int64 [N]: 0 sub-surface, 1 surface, 2 adsorbate.
        fixed: bool [N]: atoms that do not move.
        y_init: Adsorption energy of the initial structure, eV.
        y_relaxed: Adsorption energy of the relaxed structure, eV.
        pos_relaxed: Relaxed positions, float32 [N, 3], Å. Files wrap them into the
            cell independently of ``pos``: use :attr:`displacement`, not the difference.
        edge_index: Stored graph, int64 [2, E]: row 0 neighbour, row 1 centre.
        cell_offsets: int64 [E, 3]: edge vector =
            ``pos[row 0] - pos[row 1] + cell_offsets @ cell``.
        distances: Length of each edge, float32 [E], Å.
        force: Forces on the initial structure, float32 [N, 3], eV/Å.
        num_adsorbates: Number of adsorbate molecules, if the user states it; None
            counts them by their bonds. A generated structure states the number before
            its molecules dissociated.
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
    num_adsorbates: int | None = None

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
        """Make a record from the fields of a file, and check it.

        ``y`` and ``energy`` mean ``y_init``, ``forces`` means ``force`` (fairchem 1.x).
        Missing ``tags`` are 0, missing ``fixed`` is False. ``pbc`` is ignored.

        Args:
            fields: As returned by :func:`ppmat.datasets.pyg_pickle.loads`.
            where: File and key, for errors.
            default_sid: Id if the fields have none.

        Raises:
            OC20FormatError: A field is missing or has a wrong shape; a value is NaN;
                the cell has no volume; an element is unknown.
        """
        return _FieldReader(fields, where).record(default_sid)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields in the order and dtypes of the official files."""
        sid: Any = self.sid
        if sid.isascii() and sid.isdigit() and str(int(sid)) == sid:
            sid = int(sid)
        cell = np.reshape(self.cell, (1, 3, 3))
        values = {**vars(self), "cell": cell, "natoms": len(self.pos), "sid": sid}
        return {
            name: np.asarray(values[name]).astype(dtype, copy=False)
            if dtype
            else values[name]
            for name, dtype in _FILE_FIELDS.items()
            if values[name] is not None
        }


class _FieldReader:
    """Reads the fields of one record; every fault names the file and the key."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields = fields
        self.prefix = f"{where}: " if where else ""

    def record(self, default_sid: str) -> OC20Record:
        pos = self.array("pos", (-1, 3), np.float32, required=True)
        natoms = len(pos)
        if natoms == 0:
            self.fail("the structure has no atoms")
        stated = self.number("natoms")
        if stated is not None and stated != natoms:
            self.fail(f"natoms is {stated:g}, but pos has {natoms} rows")
        numbers = self.array("atomic_numbers", (natoms,), np.int64, required=True)
        if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
            bad = numbers[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)][0]
            self.fail(f"atomic_numbers holds {bad}, which is no element (1 to 118)")
        tags = self.array("tags", (natoms,), np.int64)
        fixed = self.array("fixed", (natoms,), np.int64)
        if fixed is not None and not np.isin(fixed, (0, 1)).all():
            self.fail("fixed holds values other than 0 and 1")
        edge_index = self.array("edge_index", (2, -1), np.int64)
        edges = -1 if edge_index is None else edge_index.shape[1]
        if edges > 0 and not 0 <= edge_index.min() <= edge_index.max() < natoms:
            self.fail(f"edge_index refers to atoms beyond the {natoms} there are")
        force = "force" if "force" in self.fields else "forces"
        return OC20Record(
            sid=self.sid(default_sid),
            atomic_numbers=numbers,
            pos=pos,
            cell=self.cell(),
            tags=np.zeros(natoms, dtype=np.int64) if tags is None else tags,
            fixed=np.zeros(natoms, bool) if fixed is None else fixed.astype(bool),
            y_init=self.number("y_init", "y", "energy"),
            y_relaxed=self.number("y_relaxed"),
            pos_relaxed=self.array("pos_relaxed", (natoms, 3), np.float32),
            edge_index=edge_index,
            cell_offsets=self.array("cell_offsets", (edges, 3), np.int64),
            distances=self.array("distances", (edges,), np.float32),
            force=self.array(force, (natoms, 3), np.float32),
        )

    def fail(self, reason: str) -> None:
        raise OC20FormatError(self.prefix + reason)

    def raw(self, name: str, required: bool = False) -> np.ndarray | None:
        """Return a field as an array of numbers, or None if the record has none."""
        value = self.fields.get(name)
        if value is None:
            if required:
                found = ", ".join(self.fields) or "nothing"
                self.fail(f"the record has no {name}; it has {found}")
            return None
        try:
            array = np.asarray(value)
        except ValueError:  # a list of lists of different lengths
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            self.fail(f"{name} is no array of numbers")
        return array

    def array(
        self, name: str, shape: tuple[int, ...], dtype: type, required: bool = False
    ) -> np.ndarray | None:
        """Return a field of a shape (-1: any size) as float32 or int64, checked."""
        array = self.raw(name, required)
        if array is None:
            return None
        if array.ndim != len(shape) or any(
            want not in (-1, got) for got, want in zip(array.shape, shape, strict=True)
        ):
            text = ", ".join("any" if size < 0 else str(size) for size in shape)
            self.fail(f"{name} has shape {array.shape}, expected ({text})")
        if dtype is np.int64 and array.dtype.kind == "f":
            if not (np.abs(array) < 1 << 31).all() or (array != np.rint(array)).any():
                self.fail(f"{name} holds numbers that are no integers")
        array = array.astype(dtype, copy=False)
        if dtype is np.float32 and not np.isfinite(array).all():
            self.fail(f"{name} holds NaN or infinite numbers")
        return array

    def cell(self) -> np.ndarray:
        cell = self.raw("cell", required=True)
        if cell.size != 9:
            self.fail(f"cell has shape {cell.shape}, expected (3, 3) or (1, 3, 3)")
        cell = cell.reshape(3, 3).astype(np.float32)
        try:
            check_cell(cell.astype(np.float64))
        except ValueError as err:
            self.fail(str(err))
        return cell

    def number(self, *names: str) -> float | None:
        """Return the first of several fields that the record has."""
        name = next((n for n in names if self.fields.get(n) is not None), names[0])
        array = self.raw(name)
        if array is None:
            return None
        if array.size != 1:
            self.fail(f"{name} has shape {array.shape}, expected one number")
        value = float(array.reshape(()))
        if not np.isfinite(value):
            self.fail(f"{name} is {value}")
        return value

    def sid(self, default: str) -> str:
        value = self.fields.get("sid")
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        if value is None or isinstance(value, str):
            return default if value is None else value
        array = self.raw("sid")
        if array.size != 1:
            self.fail(f"sid has shape {array.shape}, expected one number or a string")
        return str(int(array.reshape(())))


def check_record(record: OC20Record, closest: float = SMALLEST_DISTANCE) -> None:
    """Check the tags and distances of a record.

    Raises:
        InputError: A tag is not 0, 1 or 2, or two atoms are closer than ``closest`` Å.
    """
    from ppmat.datasets.graph_utils.periodic_graph import check_distances
    from ppmat.datasets.graph_utils.periodic_graph import neighbour_pairs

    check_tags(record)
    pairs = neighbour_pairs(record.pos, record.cell, closest)
    check_distances(pairs, closest, f"sid {record.sid}: ")


def check_tags(record: OC20Record) -> None:
    """Raise ``InputError`` if a tag is not 0, 1 or 2."""
    if record.tags.min() < 0 or record.tags.max() > 2:
        raise InputError(
            f"sid {record.sid}: tags hold {np.unique(record.tags).tolist()}; OC20 "
            "uses 0 (sub-surface), 1 (surface), 2 (adsorbate). The surface builders "
            "of ASE number layers instead: set new tags"
        )


def structure_to_record(
    structure: ase.Atoms | Structure | OC20Record,
    sid: str = "",
    closest: float = SMALLEST_DISTANCE,
    warn: bool = True,
) -> OC20Record:
    """Make a record without labels of a structure of a user.

    - ``ase.Atoms``: tags from ``get_tags()`` in OC20's meaning, fixed atoms from
      ``FixAtoms``, id from ``info["sid"]``, number of adsorbates from
      ``info["num_adsorbates"]`` if it is there. All three directions count as periodic.
    - pymatgen ``Structure``: site properties ``tags`` and ``fixed`` (or
      ``selective_dynamics``), where they exist.
    - ``OC20Record``: itself.

    Without tags every atom counts as sub-surface. Without constraints no atom is
    fixed. The log reports both.

    Args:
        structure: The structure.
        sid: Id of the record; "" takes the structure's own if it has one.
        closest: Atoms closer than this [Å] are an error.
        warn: Report missing tags and fixed atoms in the log.

    Raises:
        InputError: No cell, NaN, unknown elements or tags, two atoms at one place, a
            constraint other than ``FixAtoms``, partial occupation.
        TypeError: Another kind of object.

    Example:
        >>> from ase.build import fcc111
        >>> slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
        >>> slab.set_tags([0] * 8 + [1] * 4)
        >>> structure_to_record(slab, "clean", warn=False)
        OC20Record(sid='clean', 12 atoms, 0 fixed, y_relaxed unknown)
    """
    # Imported here because the commands start without pymatgen.
    from pymatgen.core.structure import IStructure

    if isinstance(structure, OC20Record):
        record = structure
    elif isinstance(structure, ase.Atoms):
        record = _from_atoms(structure, sid, warn)
        record.num_adsorbates = stated_adsorbates(structure)
    elif isinstance(structure, IStructure):
        record = _from_pymatgen(structure, sid, warn)
    else:
        raise TypeError(
            f"structure {sid!r} is {type(structure).__name__}; wanted ase.Atoms, a "
            "pymatgen Structure (a molecule has no cell) or an OC20Record"
        )
    check_record(record, closest)
    return record


def _from_atoms(atoms: ase.Atoms, sid: str, warn: bool) -> OC20Record:
    sid = sid or str(atoms.info.get("sid", ""))
    if atoms.cell.rank < 3:
        raise InputError(
            f"structure {sid!r} ({atoms.get_chemical_formula()}) has no cell in all "
            "three directions; a slab needs one, with vacuum along its normal "
            "(atoms.center(vacuum=10, axis=2))"
        )
    fields = {
        "atomic_numbers": atoms.numbers,
        "pos": atoms.positions,
        "cell": atoms.cell.array,
        "tags": atoms.get_tags() if atoms.has("tags") else None,
        "fixed": fixed_atoms(atoms, f"structure {sid!r}"),
    }
    return _checked_record(fields, sid, warn)


def _from_pymatgen(structure: Structure, sid: str, warn: bool) -> OC20Record:
    if not structure.is_ordered:
        raise InputError(
            f"structure {sid!r} has partly occupied sites; choose one ordering"
        )
    properties = structure.site_properties
    for name in ("tags", "fixed", "selective_dynamics"):
        missing = [i for i, v in enumerate(properties.get(name, ())) if v is None]
        if missing:
            raise InputError(
                f"structure {sid!r}: atom {missing[0]} has no site property '{name}', "
                "unlike others"
            )
    fixed = properties.get("fixed")
    if fixed is None and "selective_dynamics" in properties:
        fixed = ~np.array(properties["selective_dynamics"], dtype=bool).any(axis=1)
    fields = {
        "atomic_numbers": [site.specie.Z for site in structure],
        "pos": structure.cart_coords,
        "cell": structure.lattice.matrix,
        "tags": properties.get("tags"),
        "fixed": fixed,
    }
    return _checked_record(fields, sid, warn)


def _checked_record(fields: dict[str, Any], sid: str, warn: bool) -> OC20Record:
    if fields["tags"] is None and warn:
        logger.warning(
            f"structure {sid!r} has no tags (0 sub-surface, 1 surface, 2 adsorbate): "
            "every atom counts as sub-surface"
        )
    record = OC20Record.from_fields({**fields, "sid": sid}, f"structure {sid!r}")
    if warn and not record.fixed.any():
        logger.warning(f"structure {sid!r} has no fixed atoms: all of them may move")
    return record


def stated_adsorbates(atoms: ase.Atoms) -> int | None:
    """Return ``info["num_adsorbates"]``; None if it is missing.

    Raises:
        InputError: It is not an integer, or negative.
    """
    stated = atoms.info.get("num_adsorbates")
    if stated is None:
        return None
    whole = isinstance(stated, (int, np.integer)) and not isinstance(stated, bool)
    if not whole or stated < 0:
        raise InputError(
            f"info['num_adsorbates'] is {stated!r}",
            wanted="the number of adsorbate molecules in the cell, or no such entry",
        )
    return int(stated)


def fixed_atoms(atoms: ase.Atoms, where: str) -> np.ndarray:
    """Return which atoms the ``FixAtoms`` constraints of ``ase.Atoms`` hold, bool [N].

    Raises:
        OC20FormatError: There is a constraint of another kind; names ``where``.
    """
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise OC20FormatError(
                f"{where}: constraint {type(constraint).__name__} is not supported, "
                "only FixAtoms. Remove it or fix whole atoms"
            )
        fixed[constraint.index] = True
    return fixed


def record_from_frames(
    frames: Sequence[ase.Atoms], sid: str, energy_key: str | None = None
) -> OC20Record:
    """Make a record from the frames of one relaxation.

    Args:
        frames: The first is initial, the last relaxed; a single one only initial.
        sid: System id.
        energy_key: Key of ``atoms.info`` with the **adsorption** energy in eV, as OC20
            defines it (slab + adsorbate minus clean slab minus gas-phase reference).
            Total energies are never converted. None stores no energy.

    Raises:
        OC20FormatError: The frames differ in atoms or cell, a constraint is not
            ``FixAtoms``, or an energy is missing.
    """
    first, last = frames[0], frames[-1]
    kinds = [(atoms.numbers.tolist(), atoms.cell.tolist()) for atoms in (first, last)]
    if kinds[0] != kinds[1]:
        raise OC20FormatError(f"{sid}: first and last frame differ in atoms or cell")
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
        fixed=fixed_atoms(first, sid),
        y_init=energies[0] if energies else None,
        y_relaxed=energies[1] if energies and relaxed else None,
        pos_relaxed=last.positions.astype(np.float32) if relaxed else None,
    )
