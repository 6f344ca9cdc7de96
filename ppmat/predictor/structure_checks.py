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

"""Check a user's structures before an energy is predicted: errors and flags.

An error means that no energy can be predicted. A flag marks an unusual structure: it is
written to the result row beside the energy, which may be less accurate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from pymatgen.core.structure import IStructure

from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_record import structure_to_record
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_reader import add_to_hash

MIN_DISTANCE = 0.5  # Å; real atoms are further apart (0.74 Å in a hydrogen molecule)
FLAGS = {
    "tags_guessed": "tags were missing and guessed from heights and elements",
    "no_surface_atoms": "no atom has tag 1, unlike in the training data",
    "adsorbate_below_surface": "atoms with tag 2 are lower than the others on average: "
    "layer numbers instead of tags, or a slab that is upside down?",
    "no_fixed_atoms": "no atom is fixed; a model that moves atoms moves all of them",
    "made_periodic": "taken as periodic along these lattice vectors too, as in OC20",
    "thin_vacuum": "along these vectors the vacuum is thinner than the cut-off",
    "unseen_elements": "the model has not been trained on these elements",
    "several_adsorbates": "this many molecules have tag 2; the energy is that of all",
    "isolated_atoms": "this many atoms have no neighbour within the cut-off",
}
ADSORBATE, SURFACE = 2, 1  # tags of OC20
_TAG_HELP = (
    "set them with atoms.set_tags([...]): 0 sub-surface, 1 surface, 2 adsorbate; "
    "files: extxyz and ASE trajectories have tags, CIF and POSCAR do not"
)
_ADSORBATE_ELEMENTS = (1, 6, 7, 8)  # H, C, N, O: all elements of OC20's adsorbates
_SURFACE_DEPTH = 2.0  # Å below the highest slab atom, as OC20 assigns tags


class CheckedStructure(NamedTuple):
    """A structure after the checks."""

    sid: str
    record: OC20Record | None  # the model input; None if it cannot be used
    flags: dict[str, str]  # detail by name, see FLAGS
    error: Exception | None = None  # the reason why it cannot be used

    def add_to_hash(self, digest: Any) -> None:
        """Add all that identifies this structure to a running hash."""
        digest.update(repr((self.sid, self.record is None, self.flags)).encode())
        if self.record is not None:
            add_to_hash(digest, self.record)


class StructureChecker(NamedTuple):
    """Converts a user's structures to records, with errors and flags.

    With ``guess_tags``, see :func:`guess_tags`, tags above 2 (the layer numbers of
    ASE's surface builders) count as missing.
    """

    cutoff: float  # Å; closer atoms are neighbours
    readout_tags: Collection[int] | None  # of atoms the model reads; None: any
    elements: Collection[int] | None  # atomic numbers in training; None if unknown
    guess_tags: bool

    def __call__(self, structure: Any, number: int) -> CheckedStructure:
        """Check structure ``number`` of the input."""
        sid = _name_of(structure) or str(number)
        if isinstance(structure, Unreadable):
            return CheckedStructure(sid, None, {}, ValueError(structure.reason))
        try:
            record, flags = self._check(structure, sid)
        except (TypeError, ValueError) as error:
            return CheckedStructure(sid, None, {}, error)
        return CheckedStructure(sid, record, flags)

    def _check(self, structure: Any, sid: str) -> tuple[OC20Record, dict[str, str]]:
        if isinstance(structure, OC20Record):
            # A record made by the user has not been checked.
            structure = OC20Record.from_fields(structure.to_fields(), sid)
        if self.guess_tags and isinstance(structure, Atoms):
            if structure.get_tags().max(initial=0) > ADSORBATE:
                structure = structure.copy()
                structure.set_tags(0)
        record = structure_to_record(structure, sid, closest=MIN_DISTANCE, warn=False)
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
            raise ValueError(f"no atom has tag 2 (the adsorbate); {_TAG_HELP}")
        if adsorbate.all():
            raise ValueError(f"all atoms have tag 2: there is no slab; {_TAG_HELP}")
        if not (tags == SURFACE).any():
            flags["no_surface_atoms"] = ""
        z = heights(record)
        if z[adsorbate].mean() < z[~adsorbate].mean():
            flags["adsorbate_below_surface"] = ""


def _name_of(structure: Any) -> str:
    if isinstance(structure, Atoms):
        return str(structure.info.get("sid", ""))
    return str(getattr(structure, "sid", ""))


def _periodic(structure: Any) -> Sequence[bool]:
    if isinstance(structure, Atoms):
        return structure.pbc
    return structure.lattice.pbc if isinstance(structure, IStructure) else [True] * 3


def _check_vacuum(
    record: OC20Record, periodic: Sequence[bool], cutoff: float, flags: dict[str, str]
) -> None:
    made = [axis for axis in range(3) if not periodic[axis]]
    thin = [axis for axis in made if _along(record, axis)[1] < cutoff]
    for name, axes in (("made_periodic", made), ("thin_vacuum", thin)):
        if axes:
            flags[name] = ",".join("abc"[axis] for axis in axes)


def _along(record: OC20Record, axis: int) -> tuple[np.ndarray, float]:
    """Return heights above the vacuum, [N] Å, and the thickness of the vacuum [Å].

    The vacuum is the largest layer without atoms, normal to ``axis`` of the cell.
    """
    inverse = np.linalg.inv(record.cell.astype(np.float64))
    spacing = 1.0 / np.linalg.norm(inverse[:, axis])
    share = record.pos @ inverse[:, axis]
    ordered = np.sort(share % 1.0)
    gaps = np.append(ordered[1:], ordered[0] + 1.0) - ordered
    largest = int(gaps.argmax())
    lowest = ordered[(largest + 1) % len(ordered)]
    # The tolerance prevents that rounding moves the lowest atom to the top.
    above = (share - lowest + 1e-6) % 1.0 - 1e-6
    return above * spacing, float(gaps[largest] * spacing)


def heights(record: OC20Record) -> np.ndarray:
    """Return the height of each atom above the lowest one, [N] Å.

    Heights are measured along the third lattice direction from the upper end of the
    vacuum, so they do not depend on the origin of the cell.
    """
    return _along(record, 2)[0]


def guess_tags(record: OC20Record) -> np.ndarray:
    """Guess tags for a slab without H, C, N, O: int64 [N].

    All H, C, N and O become the adsorbate (2). Other atoms less than 2 Å below the
    highest of them become the surface (1), the rest sub-surface (0). The third lattice
    direction must be the slab's normal, with the adsorbate on top.
    """
    adsorbate = np.isin(record.atomic_numbers, _ADSORBATE_ELEMENTS)
    if not adsorbate.any() or adsorbate.all():
        raise ValueError(
            "tags cannot be guessed: wanted a slab of other elements with an adsorbate "
            f"of H, C, N, O; {_TAG_HELP}"
        )
    z = heights(record)
    surface = z > z[~adsorbate].max() - _SURFACE_DEPTH
    if not surface[adsorbate].all():
        raise ValueError(
            "tags cannot be guessed: some H, C, N or O atoms are deeper than the "
            f"surface, so they may belong to the slab; {_TAG_HELP}"
        )
    tags = np.where(adsorbate, ADSORBATE, np.where(surface, SURFACE, 0))
    return tags.astype(np.int64)


def count_isolated(batch: Mapping[str, Any]) -> list[int]:
    """Return the number of atoms without an edge, for each structure of a batch."""
    counts = np.asarray(batch["structure_array"]["num_atoms"])
    starts = np.cumsum(counts) - counts
    edges = batch["graph"]
    centre = np.asarray(edges["edge_index"]).reshape(-1, 2)[:, 0]
    centre = centre + np.repeat(starts, np.asarray(edges["num_edges"]))
    isolated = np.bincount(centre, minlength=counts.sum()) == 0
    return np.add.reduceat(isolated.astype(np.int64), starts).tolist()
