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


"""A user's structures before an energy is predicted: errors, and flags for doubts.

An error means that no number can stand for the structure; a flag goes into the result
row, beside the number, so that nobody takes it for more than it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from pymatgen.core.structure import IStructure

from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_record import structure_to_record
from ppmat.datasets.structure_reader import Unreadable

CLOSEST = 0.5  # Å; no two nuclei come so near, a hydrogen molecule has 0.74
FLAGS = {
    "tags_guessed": "tags were missing and guessed from heights and elements",
    "no_surface_atoms": "no atom has tag 1, unlike in the data trained on",
    "adsorbate_below_surface": "tag 2 lies lower than the other atoms on average: "
    "layer numbers instead of tags, or a slab that is upside down?",
    "no_fixed_atoms": "no atom is held; a model that moves atoms moves them all",
    "made_periodic": "taken as periodic along these lattice vectors too, as OC20 does",
    "thin_vacuum": "too little vacuum along these for that: images see each other",
    "unseen_elements": "the model has not been trained on these elements",
    "isolated_atoms": "this many atoms have no neighbour within the cut-off",
}
ADSORBATE = 2
SURFACE = 1
_TAG_HELP = (
    "set them with atoms.set_tags([...]): 0 sub-surface, 1 surface, 2 adsorbate; "
    "files: extxyz and ASE trajectories have tags, CIF and POSCAR do not"
)
_LIGHT = (1, 6, 7, 8)  # H, C, N, O, of which the adsorbates of OC20 are made
_SURFACE_DEPTH = 2.0  # Å below the topmost slab atom, as OC20 tags by height


class Checked(NamedTuple):
    """A structure on its way to the model.

    Attributes:
        sid: Its id.
        record: None if it cannot be used.
        flags: Flag to detail; see ``FLAGS``.
        error: Why it cannot be used.
    """

    sid: str
    record: OC20Record | None
    flags: dict[str, str]
    error: Exception | None = None

    def add_to(self, digest: Any) -> None:
        """Add what tells this structure from others to a running hash."""
        digest.update(repr((self.sid, self.record is None, self.flags)).encode())
        if self.record is None:
            return
        for name in ("atomic_numbers", "pos", "cell", "tags", "fixed"):
            digest.update(np.ascontiguousarray(getattr(self.record, name)).tobytes())


class StructureChecker:
    """Turns structures of a user into records, with errors and flags.

    Args:
        cutoff: Atoms nearer than this [Å] see each other.
        readout_tags: Tags of the atoms the model reads; None if it needs no tags.
        elements: Atomic numbers trained on; None if that is not known.
        guess_tags: Guess missing tags, see :func:`guess_tags`; tags beyond 2, the
            layer numbers of ASE's surface builders, count as missing then.
    """

    def __init__(
        self,
        cutoff: float,
        readout_tags: Collection[int] | None,
        elements: Collection[int] | None,
        guess_tags: bool,
    ) -> None:
        self.cutoff = cutoff
        self.readout_tags = readout_tags
        self.elements = elements
        self.guess_tags = guess_tags

    def __call__(self, structure: Any, number: int) -> Checked:
        """Return structure ``number`` of the input, checked."""
        sid = _name_of(structure) or str(number)
        if isinstance(structure, Unreadable):
            return Checked(sid, None, {}, ValueError(structure.reason))
        try:
            record, flags = self._check(structure, sid)
        except (TypeError, ValueError) as error:
            return Checked(sid, None, {}, error)
        return Checked(sid, record, flags)

    def _check(self, structure: Any, sid: str) -> tuple[OC20Record, dict[str, str]]:
        if isinstance(structure, OC20Record):
            # One that was made by hand has been through no check.
            structure = OC20Record.from_fields(structure.to_fields(), sid)
        if self.guess_tags and isinstance(structure, Atoms):
            if structure.get_tags().max(initial=0) > ADSORBATE:
                # Numbers of layers, as the surface builders of ASE count them.
                structure = structure.copy()
                structure.set_tags(0)
        record = structure_to_record(structure, sid, closest=CLOSEST, warn=False)
        flags: dict[str, str] = {}
        if self.readout_tags is not None:
            if not record.tags.any() and self.guess_tags:
                record = dataclasses.replace(record, sid=sid, tags=guess_tags(record))
                flags["tags_guessed"] = ""
            self._check_tags(record, flags)
        if record.sid != sid:
            record = dataclasses.replace(record, sid=sid)
        if not record.fixed.any():
            flags["no_fixed_atoms"] = ""
        _check_vacuum(record, _periodic(structure), self.cutoff, flags)
        if self.elements is not None:
            unseen = sorted(set(record.atomic_numbers.tolist()) - set(self.elements))
            if unseen:
                flags["unseen_elements"] = ",".join(chemical_symbols[z] for z in unseen)
        return record, flags

    def _check_tags(self, record: OC20Record, flags: dict[str, str]) -> None:
        tags = record.tags
        if not np.isin(tags, list(self.readout_tags)).any():
            if not tags.any():
                raise ValueError(f"the structure has no tags; {_TAG_HELP}")
            raise ValueError(
                f"no atom has a tag among {sorted(self.readout_tags)}, which the model "
                f"reads; {_TAG_HELP}"
            )
        if ADSORBATE not in self.readout_tags:
            return
        adsorbate = tags == ADSORBATE
        if not adsorbate.any():
            raise ValueError(
                "no atom has tag 2, so there is no adsorbate whose energy could be "
                f"predicted; {_TAG_HELP}"
            )
        if adsorbate.all():
            raise ValueError(
                "all atoms have tag 2, so there is no slab that it adsorbs on; "
                f"{_TAG_HELP}"
            )
        if not (tags == SURFACE).any():
            flags["no_surface_atoms"] = ""
        z = heights(record)
        if z[adsorbate].mean() < z[~adsorbate].mean():
            flags["adsorbate_below_surface"] = ""


def _name_of(structure: Any) -> str:
    info = getattr(structure, "info", None)
    if isinstance(structure, Atoms) and isinstance(info, Mapping):
        return str(info.get("sid", ""))
    return str(getattr(structure, "sid", ""))


def _periodic(structure: Any) -> list[bool]:
    if isinstance(structure, Atoms):
        return structure.pbc.tolist()
    if isinstance(structure, IStructure):
        return list(structure.lattice.pbc)
    return [True] * 3


def _check_vacuum(
    record: OC20Record, periodic: list[bool], cutoff: float, flags: dict[str, str]
) -> None:
    made = [axis for axis in range(3) if not periodic[axis]]
    if not made:
        return
    thin = [axis for axis in made if _along(record, axis)[1] < cutoff]
    flags["made_periodic"] = ",".join("abc"[axis] for axis in made)
    if thin:
        flags["thin_vacuum"] = ",".join("abc"[axis] for axis in thin)


def _along(record: OC20Record, axis: int) -> tuple[np.ndarray, float]:
    """Return heights above the largest empty layer, [N] Å, and its thickness [Å]."""
    inverse = np.linalg.inv(record.cell.astype(np.float64))
    spacing = 1.0 / np.linalg.norm(inverse[:, axis])
    share = record.pos @ inverse[:, axis]
    ordered = np.sort(share % 1.0)
    gaps = np.append(ordered[1:], ordered[0] + 1.0) - ordered
    largest = int(gaps.argmax())
    lowest = ordered[(largest + 1) % len(ordered)]
    # The tolerance keeps the lowest atom from appearing at the top.
    above = (share - lowest + 1e-6) % 1.0 - 1e-6
    return above * spacing, float(gaps[largest] * spacing)


def heights(record: OC20Record) -> np.ndarray:
    """Return how high atoms are along the third lattice direction, [N] Å.

    Counted from the lowest atom above the vacuum, wherever the cell is cut.
    """
    return _along(record, 2)[0]


def guess_tags(record: OC20Record) -> np.ndarray:
    """Guess tags of a slab of other elements than H, C, N, O: int64 [N].

    H, C, N and O are the adsorbate (2), atoms less than 2 Å below the topmost other
    atom the surface (1), the rest sub-surface (0). The slab's normal is the third
    lattice direction and the adsorbate is on top.

    Raises:
        ValueError: No such slab: everything or nothing is H, C, N, O, or some of these
            are deeper than the surface.
    """
    light = np.isin(record.atomic_numbers, _LIGHT)
    if not light.any() or light.all():
        raise ValueError(
            "tags cannot be guessed: wanted a slab of other elements with an adsorbate "
            f"of H, C, N, O; {_TAG_HELP}"
        )
    z = heights(record)
    surface = z > z[~light].max() - _SURFACE_DEPTH
    if not surface[light].all():
        raise ValueError(
            "tags cannot be guessed: some H, C, N or O atoms are deeper than the "
            f"surface, so they may belong to the slab; {_TAG_HELP}"
        )
    return np.where(light, ADSORBATE, np.where(surface, SURFACE, 0)).astype(np.int64)


def count_isolated(batch: Mapping[str, Any]) -> list[int]:
    """Return how many atoms of each structure of a batch have no edge."""
    counts = np.asarray(batch["structure_array"]["num_atoms"])
    starts = np.cumsum(counts) - counts
    edges = batch["graph"]
    centre = np.asarray(edges["edge_index"]).reshape(-1, 2)[:, 0]
    centre = centre + np.repeat(starts, np.asarray(edges["num_edges"]))
    lonely = np.bincount(centre, minlength=counts.sum()) == 0
    return np.add.reduceat(lonely.astype(np.int64), starts).tolist()


def digest_of_inputs() -> Any:
    """Return a running hash for :meth:`Checked.add_to`."""
    return hashlib.sha256()
