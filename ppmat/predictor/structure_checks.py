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
import hashlib
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
from ppmat.datasets.record_checks import check_record
from ppmat.datasets.record_checks import num_adsorbates
from ppmat.datasets.record_checks import with_guessed_tags
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_reader import add_to_hash
from ppmat.datasets.structure_record import unchecked_record
from ppmat.datasets.surface_tags import ADSORBATE
from ppmat.datasets.surface_tags import SUBSURFACE
from ppmat.datasets.surface_tags import SURFACE
from ppmat.datasets.surface_tags import TAG_HELP
from ppmat.datasets.surface_tags import check_readout
from ppmat.utils.bonds import bonded_pairs
from ppmat.utils.bonds import molecules
from ppmat.utils.errors import InputError
from ppmat.utils.neighbours import Pairs
from ppmat.utils.periodic import empty_layers
from ppmat.utils.periodic import vacuum

MIN_DISTANCE = 0.5  # Å; real atoms are further apart (0.74 Å in a hydrogen molecule)
# Multiple of the sum of covalent radii. Adsorbates of OC20 are placed at 1.0 to 1.07;
# of 631 relaxed adatoms on fcc(111) 4 % are above 1.3, nearly all of these above 1.5.
_BOND_TO_SLAB = 1.3
FLAGS = {
    "tags_guessed": "tags were missing or layer numbers, and are guessed from heights "
    "and elements",
    "no_surface_atoms": "no atom has tag 1, unlike in the training data",
    "adsorbate_below_surface": "atoms with tag 2 are on the side of those with tag 0, "
    "not on that of tag 1: are tags in another order, or is the adsorbate inside?",
    "unbound_adsorbates": "this many molecules with tag 2 have no bond to the slab",
    "no_fixed_atoms": "no atom is fixed; a model that moves atoms moves all of them",
    "made_periodic": "taken as periodic along these lattice vectors too, as in OC20",
    "thin_vacuum": "along these vectors the vacuum is thinner than the cut-off",
    "unseen_elements": "the model has not been trained on these elements",
    "stated_adsorbates": "info['num_adsorbates'] says the first number, the bonds say "
    "the second: molecules broke, or the cell was repeated and the entry kept",
    "several_adsorbates": "this many molecules have tag 2; the energy is that of all",
    "isolated_atoms": "this many atoms have no neighbour within the cut-off",
}


class CheckedStructure(NamedTuple):
    """A structure after the checks."""

    sid: str
    record: OC20Record | None  # the model input; None if it cannot be used
    flags: dict[str, str]  # detail by name, see FLAGS
    error: Exception | None = None  # the reason why it cannot be used
    source: str | None = None  # file that it was read from
    frame: int | None = None  # number of its frame there

    def digest(self) -> bytes:
        """Return a hash of all that identifies this structure."""
        digest = hashlib.sha256()
        digest.update(repr((self.sid, self.record is None, self.flags)).encode())
        if self.record is not None:
            add_to_hash(digest, self.record)
        return digest.digest()


class StructureChecker(NamedTuple):
    """Converts a user's structures to records, with errors and flags.

    With ``guess_tags``, layer numbers and tags beyond 2 are replaced, and missing tags
    if the model reads tags; see :func:`ppmat.datasets.surface_tags.guess_tags`.
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
            kept = ("source", "frame", "num_adsorbates")
            structure = dataclasses.replace(
                OC20Record.from_fields(structure.to_fields()),
                **{name: getattr(structure, name) for name in kept},
            )
        record = plain = unchecked_record(structure, sid, where="")
        if self.guess_tags and (self.readout_tags is not None or plain.tags.any()):
            record = with_guessed_tags(plain)
        check_record(record, MIN_DISTANCE, where="")
        flags = {} if record is plain else {"tags_guessed": ""}
        if self.readout_tags is not None:
            self._check_tags(record, flags)
        if record.sid != sid:
            record = dataclasses.replace(record, sid=sid)
        if not record.fixed.any():
            flags["no_fixed_atoms"] = ""
        is_slab = self.readout_tags is not None and ADSORBATE in self.readout_tags
        _check_vacuum(record, _periodic(structure), self.cutoff, is_slab, flags)
        if self.elements is not None:
            unseen = sorted(set(record.atomic_numbers.tolist()) - set(self.elements))
            if unseen:
                flags["unseen_elements"] = ",".join(chemical_symbols[z] for z in unseen)
        return record, flags

    def _check_tags(self, record: OC20Record, flags: dict[str, str]) -> None:
        tags = record.tags
        check_readout(tags, self.readout_tags)
        if ADSORBATE not in self.readout_tags:
            return
        adsorbate = tags == ADSORBATE
        if not adsorbate.any():
            raise InputError("no atom has tag 2 (the adsorbate)", hint=TAG_HELP)
        if adsorbate.all():
            raise InputError("all atoms have tag 2: there is no slab", hint=TAG_HELP)
        if not (tags == SURFACE).any():
            flags["no_surface_atoms"] = ""
        elif (tags == SUBSURFACE).any() and _is_below(record):
            flags["adsorbate_below_surface"] = ""
        if (stated := record.num_adsorbates) is not None:
            counted = num_adsorbates(dataclasses.replace(record, num_adsorbates=None))
            if counted != stated:
                flags["stated_adsorbates"] = f"{stated},{counted}"
        unbound = count_unbound(record)
        if unbound:
            flags["unbound_adsorbates"] = str(unbound)


def _is_below(record: OC20Record) -> bool:
    """Return whether atoms of tag 2 are lower than the slab; tag 1 is above tag 0."""
    z, tags = vacuum(record.pos, record.cell).heights, record.tags
    up = z[tags == SURFACE].mean() - z[tags == SUBSURFACE].mean()
    above = z[tags == ADSORBATE].mean() - z[tags != ADSORBATE].mean()
    return bool(up * above < 0)


def _name_of(structure: Any) -> str:
    if isinstance(structure, Atoms):
        return str(structure.info.get("sid", ""))
    return str(getattr(structure, "sid", ""))


def _periodic(structure: Any) -> Sequence[bool]:
    if isinstance(structure, Atoms):
        return structure.pbc
    return structure.lattice.pbc if isinstance(structure, IStructure) else [True] * 3


def _check_vacuum(
    record: OC20Record,
    periodic: Sequence[bool],
    cutoff: float,
    is_slab: bool,
    flags: dict[str, str],
) -> None:
    """Flag directions made periodic, and a vacuum in which images see each other.

    The vacuum is expected along directions that are not periodic, and in a slab also
    along the vector with the thickest empty layer.
    """
    layers = empty_layers(record.pos, record.cell)
    made = [layer.axis for layer in layers if not periodic[layer.axis]]
    open_axes = {*made, vacuum(record.pos, record.cell).axis} if is_slab else made
    thin = [axis for axis in sorted(open_axes) if layers[axis].thickness < cutoff]
    for name, axes in (("made_periodic", made), ("thin_vacuum", thin)):
        if axes:
            flags[name] = ",".join("abc"[axis] for axis in axes)


def count_unbound(record: OC20Record) -> int:
    """Return the number of adsorbate molecules without a bond to the slab.

    A bond is shorter than 1.3 x sum of covalent radii. Atoms bonded to each other are
    one molecule. An adsorbate 2 Å above its place on a surface has no bond.
    """
    pairs = bonded_pairs(record.atomic_numbers, record.pos, record.cell, _BOND_TO_SLAB)
    adsorbate = record.tags == ADSORBATE
    centre, neighbour = adsorbate[pairs.centre], adsorbate[pairs.neighbour]
    bound = np.unique(pairs.centre[centre & ~neighbour])
    inside = Pairs(*(part[centre & neighbour] for part in pairs))
    molecule = molecules(inside, len(adsorbate))
    return len(set(molecule[adsorbate].tolist()) - set(molecule[bound].tolist()))


def count_isolated(batch: Mapping[str, Any]) -> list[int]:
    """Return the number of atoms without an edge, for each structure of a batch."""
    counts = np.asarray(batch["structure_array"]["num_atoms"])
    starts = np.cumsum(counts) - counts
    edges = batch["graph"]
    centre = np.asarray(edges["edge_index"]).reshape(-1, 2)[:, 0]
    centre = centre + np.repeat(starts, np.asarray(edges["num_edges"]))
    isolated = np.bincount(centre, minlength=counts.sum()) == 0
    return np.add.reduceat(isolated.astype(np.int64), starts).tolist()
