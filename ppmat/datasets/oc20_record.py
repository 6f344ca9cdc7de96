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

:class:`OC20Record` is the only form in which the library handles a structure; those of
users become one in ``structure_record.py``. ``record_checks.py`` checks a whole record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ase
import numpy as np
from ase.constraints import FixAtoms

from ppmat.datasets.record_fields import FieldReader
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import minimum_image

ENERGY_KEY = "adsorption_energy"  # of ``atoms.info``, eV
# Fields of the official files in their order, with the dtype of their arrays; the last
# one is our own, and only in records that state it.
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
    "num_adsorbates": None,
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
        source: File that it was read from.
        frame: Number of its frame or row in that file.
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
    source: str | None = None
    frame: int | None = None
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

    def to_atoms(self, relaxed: bool = False) -> ase.Atoms:
        """Return the structure as ``ase.Atoms``.

        Tags are those of OC20, held atoms are a ``FixAtoms``, and all directions are
        periodic. ``info`` has the id as ``sid`` and, if it is known, the adsorption
        energy of this structure [eV] as ``adsorption_energy``. The initial and the
        relaxed structure together give the record again::

            frames = [record.to_atoms(), record.to_atoms(relaxed=True)]
            record_from_frames(frames, record.sid, "adsorption_energy")

        Args:
            relaxed: Return the relaxed structure instead of the initial one, with the
                positions as they are stored.

        Raises:
            InputError: The relaxed positions are not known.
        """
        pos = self.pos_relaxed if relaxed else self.pos
        if pos is None:
            raise InputError(f"sid {self.sid}: the record has no relaxed positions")
        atoms = ase.Atoms(
            self.atomic_numbers, positions=pos, cell=self.cell, tags=self.tags, pbc=True
        )
        if self.fixed.any():
            atoms.set_constraint(FixAtoms(mask=self.fixed))
        energy = self.y_relaxed if relaxed else self.y_init
        atoms.info["sid"] = self.sid
        if energy is not None:
            atoms.info[ENERGY_KEY] = float(energy)
        if self.num_adsorbates is not None:
            atoms.info["num_adsorbates"] = self.num_adsorbates
        return atoms

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
        return cls(**FieldReader(fields, where).values(default_sid))

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
