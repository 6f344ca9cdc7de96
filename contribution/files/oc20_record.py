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
"""One adsorbate-on-slab structure of OC20: its fields, read from a file and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

import ase
import numpy as np
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.geometry.geometry import general_find_mic

from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.utils.errors import InputError
from ppmat.utils.neighbours import neighbour_pairs

MAX_ATOMIC_NUMBER = 118
SMALLEST_DISTANCE = 0.05  # Å; atoms closer than this are two copies of one atom
BOND_FACTOR = 1.2  # bonds are shorter than this times the sum of covalent radii


@dataclasses.dataclass(eq=False)
class OC20Record:
    """One adsorbate-on-slab structure of N atoms and E edges, initial and relaxed.

    Attributes:
        sid: System id.
        atomic_numbers: int64 [N].
        pos: Initial Cartesian positions, float32 [N, 3], Å.
        cell: Lattice vectors as rows, float32 [3, 3], Å; periodic in all directions.
        tags: int64 [N]: 0 sub-surface, 1 surface, 2 adsorbate.
        fixed: bool [N]: atoms that do not move.
        y_relaxed: Adsorption energy of the relaxed structure, float32 [], eV.
        pos_relaxed: Relaxed positions, float32 [N, 3], Å. Files wrap them into the
            cell independently of ``pos``: use :attr:`displacement`, not the difference.
        edge_index: Stored graph, int64 [2, E]: row 0 neighbour, row 1 centre.
        cell_offsets: int64 [E, 3]: edge vector =
            ``pos[row 0] - pos[row 1] + cell_offsets @ cell``.
    """

    sid: str
    atomic_numbers: np.ndarray
    pos: np.ndarray
    cell: np.ndarray
    tags: np.ndarray
    fixed: np.ndarray
    y_relaxed: np.ndarray | None = None
    pos_relaxed: np.ndarray | None = None
    edge_index: np.ndarray | None = None
    cell_offsets: np.ndarray | None = None

    @property
    def displacement(self) -> np.ndarray | None:
        """Minimum-image ``pos_relaxed - pos``, float32 [N, 3], Å; None if unknown."""
        if self.pos_relaxed is None:
            return None
        difference = self.pos_relaxed.astype(np.float64) - self.pos
        images, _ = general_find_mic(difference, self.cell, [True] * 3)
        return images.astype(np.float32)

    def to_atoms(self) -> ase.Atoms:
        """Return the initial structure with tags and fixed atoms."""
        constraint = FixAtoms(mask=self.fixed)
        options = {"tags": self.tags, "pbc": True, "constraint": constraint}
        return ase.Atoms(
            self.atomic_numbers, positions=self.pos, cell=self.cell, **options
        )

    @classmethod
    def from_fields(
        cls, fields: Mapping[str, Any], where: str = "", default_sid: str = ""
    ) -> OC20Record:
        """Make a record from the fields of a file, and check it.

        Args:
            fields: As returned by :func:`ppmat.datasets.pyg_pickle.loads`.
            where: File and key, for errors.
            default_sid: Id if the fields have none.

        Raises:
            OC20FormatError: A field is missing, or has a wrong shape or value.
        """
        field = _Reader(fields, where)
        pos = field.array("pos", (-1, 3), np.float32, required=True)
        count = len(pos)
        numbers = field.array("atomic_numbers", (count,), np.int64, required=True)
        if not count or numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
            field.fail(f"atomic_numbers {np.unique(numbers)} are not all elements")
        cell = np.reshape(field.array("cell", (1, 3, 3), np.float32, True), (3, 3))
        if abs(np.linalg.det(cell)) < 1e-3:
            field.fail(f"the cell {cell.tolist()} has no volume")
        natoms = np.ravel(fields.get("natoms", count)).tolist()
        if natoms != [count]:
            field.fail(f"natoms is {natoms}, but pos has {count} rows")
        fixed = field.array("fixed", (count,), np.int64, required=True)
        if not np.isin(fixed, (0, 1)).all():
            field.fail("fixed holds values other than 0 and 1")
        edge_index = field.array("edge_index", (2, -1), np.int64)
        edges = -1 if edge_index is None else edge_index.shape[1]
        if edges > 0 and not 0 <= edge_index.min() <= edge_index.max() < count:
            field.fail(f"edge_index refers to atoms beyond the {count} there are")
        sid = np.asarray(fields.get("sid", default_sid))
        if sid.size != 1 or sid.dtype.kind not in "iuU":
            field.fail(f"sid is {sid}, expected one whole number or text")
        return cls(
            sid=str(sid.item()),
            atomic_numbers=numbers,
            pos=pos,
            cell=cell,
            tags=field.array("tags", (count,), np.int64, required=True),
            fixed=fixed.astype(bool),
            y_relaxed=field.array("y_relaxed", (), np.float32),
            pos_relaxed=field.array("pos_relaxed", (count, 3), np.float32),
            edge_index=edge_index,
            cell_offsets=field.array("cell_offsets", (edges, 3), np.int64),
        )


class _Reader:
    """Reads the fields of one record; every fault names the file and the key."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields, self.where = fields, where

    def fail(self, reason: str) -> None:
        raise OC20FormatError(reason, where=self.where)

    def array(
        self, name: str, shape: tuple[int, ...], dtype: type, required: bool = False
    ) -> np.ndarray | None:
        """Return a field of a shape (-1: any size), or None if the record has none."""
        if self.fields.get(name) is None:
            if required:
                found = ", ".join(map(str, self.fields))
                self.fail(f"the record has no {name}; it has {found}")
            return None
        array = np.asarray(self.fields[name])
        fits = array.ndim == len(shape) and all(
            wanted in (-1, size) for size, wanted in zip(array.shape, shape)
        )
        if not fits or array.dtype.kind not in "biuf":
            self.fail(f"{name} is {array.dtype} {array.shape}, expected {shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            cast = array.astype(dtype)  # infinite or another number if it does not fit
        if not np.isfinite(cast).all():
            self.fail(f"{name} holds NaN or infinite numbers")
        if dtype is np.int64 and (cast != array).any():
            self.fail(f"{name} holds numbers that are no integers")
        return cast


def check_tags(record: OC20Record) -> None:
    """Raise ``InputError`` for tags other than 0, 1, 2."""
    if not np.isin(record.tags, (0, 1, 2)).all():
        found = f"tags hold {np.unique(record.tags)[:10].tolist()}"
        raise InputError(found, wanted="0 sub-surface, 1 surface, 2 adsorbate")


def check_readout(tags: np.ndarray, readout_tags: Collection[int]) -> None:
    """Raise ``InputError`` if no atom has a tag that the model reads."""
    if not np.isin(tags, list(readout_tags)).any():
        found = f"no atom has a tag among {sorted(readout_tags)}"
        raise InputError(found, wanted="one, as the model reads these atoms")


def check_record(record: OC20Record, closest: float = SMALLEST_DISTANCE) -> None:
    """Raise ``InputError`` for illegal tags, or atoms closer than ``closest`` Å.

    So does an adsorbate that :func:`num_adsorbates` cannot count.
    """
    check_tags(record)
    pairs = neighbour_pairs(record.pos, record.cell, closest)
    if len(pairs.distance):
        atoms = f"{pairs.centre[0]} and {pairs.neighbour[0]}"
        raise InputError(f"atoms {atoms} are {pairs.distance[0]:.2g} Å apart")
    num_adsorbates(record)


def num_adsorbates(record: OC20Record) -> int:
    """Return the number of molecules of the atoms with tag 2, by their bonds.

    Raises:
        InputError: A molecule is bonded to its own periodic image.
    """
    adsorbate = record.tags == 2
    radii = covalent_radii[record.atomic_numbers[adsorbate]]
    if len(radii) < 2:
        return len(radii)
    reach = BOND_FACTOR * 2 * radii.max()
    pairs = neighbour_pairs(record.pos[adsorbate], record.cell, reach)
    limit = BOND_FACTOR * (radii[pairs.centre] + radii[pairs.neighbour])
    i, j, image, _ = (part[pairs.distance < limit] for part in pairs)
    # every bond is a step of the images that its atoms lie in; of M molecules,
    # the rank of these equations is the number of atoms - M
    steps = np.eye(len(radii))[i] - np.eye(len(radii))[j]
    images, _, rank, _ = np.linalg.lstsq(steps, image, rcond=None)
    if not np.allclose(steps @ images, image):
        raise InputError("the adsorbate is bonded to its own periodic image")
    return len(radii) - int(rank)
