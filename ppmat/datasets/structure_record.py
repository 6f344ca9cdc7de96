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

"""Records of users' structures: ``ase.Atoms``, pymatgen structures, trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import ase
import numpy as np

from ppmat.datasets.held_atoms import held_atoms
from ppmat.datasets.held_atoms import held_sites
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.datasets.record_checks import MISSING_TAGS
from ppmat.datasets.record_checks import SMALLEST_DISTANCE
from ppmat.datasets.record_checks import check_record
from ppmat.datasets.record_checks import with_wanted_tags
from ppmat.datasets.surface_tags import tags_of_properties
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.periodic import check_cell
from ppmat.utils.periodic import wrap_far

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

SAME_CELL = 1e-4  # Å; larger than the rounding of text files


def structure_to_record(
    structure: ase.Atoms | Structure | OC20Record,
    sid: str = "",
    closest: float = SMALLEST_DISTANCE,
    warn: bool = True,
    missing_tags: str = "keep",
) -> OC20Record:
    """Make a record without labels of a structure of a user.

    - ``ase.Atoms``: tags from ``get_tags()`` in OC20's meaning, fixed atoms from the
      constraints (see :mod:`ppmat.datasets.held_atoms`), id from ``info["sid"]``,
      number of adsorbates from ``info["num_adsorbates"]`` if it is there.
    - pymatgen ``Structure``: site properties ``tags`` (or ``surface_properties``, as
      ``AdsorbateSiteFinder`` writes them) and ``fixed`` (or ``selective_dynamics``).
    - ``OC20Record``: itself.

    All three directions count as periodic. Atoms more than 200 Å from the origin are
    wrapped into the cell. Along a direction that is not periodic in the structure, its
    atoms must fit into one cell. Without constraints no atom is fixed; the log reports
    it.

    Args:
        structure: The structure.
        sid: Id of the record; "" takes the structure's own if it has one.
        closest: Atoms closer than this [Å] are an error.
        warn: Report missing tags and fixed atoms in the log.
        missing_tags: For a structure without tags: ``keep`` counts every atom as
            sub-surface, ``raise`` is an error, ``guess`` guesses them. The layer
            numbers of ASE's surface builders are an error unless ``guess`` is given.

    Raises:
        InputError: No cell, a cell or positions of absurd size, NaN, unknown elements
            or tags, missing tags, two atoms at one place, atoms held in part, partial
            occupation.
        TypeError: Another kind of object.

    Example:
        >>> from ase.build import fcc111
        >>> slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
        >>> slab.set_tags([0] * 8 + [1] * 4)
        >>> structure_to_record(slab, "clean", warn=False)
        OC20Record(sid='clean', 12 atoms, 0 fixed, y_relaxed unknown)
    """
    check_choice("missing_tags", missing_tags, MISSING_TAGS)
    found = unchecked_record(structure, sid)
    where = f"structure {found.sid!r}"
    try:
        record = with_wanted_tags(found, missing_tags)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if warn and record is not found:
        logger.warning(f"{where}: its tags are guessed")
    elif warn and not record.tags.any():
        logger.warning(
            f"{where} has no tags (0 sub-surface, 1 surface, 2 adsorbate): every atom "
            "counts as sub-surface"
        )
    if warn and not record.fixed.any():
        logger.warning(f"{where} has no fixed atoms: all of them may move")
    check_record(record, closest)
    return record


def unchecked_record(
    structure: ase.Atoms | Structure | OC20Record,
    sid: str = "",
    where: str | None = None,
) -> OC20Record:
    """Make a record like :func:`structure_to_record`; tags and distances unchecked.

    An error names ``where``, or if that is None the id.
    """
    # Imported here because the commands start without pymatgen.
    from pymatgen.core.structure import IStructure

    if isinstance(structure, OC20Record):
        return structure
    if isinstance(structure, ase.Atoms):
        sid = sid or str(structure.info.get("sid", ""))
    where = f"structure {sid!r}" if where is None else where
    if isinstance(structure, (ase.Atoms, IStructure)) and not len(structure):
        raise InputError("holds no atoms", where=where)
    if isinstance(structure, ase.Atoms):
        fields = _fields_of_atoms(structure, where)
    elif isinstance(structure, IStructure):
        fields = _fields_of_pymatgen(structure, where)
    else:
        raise TypeError(
            f"structure {sid!r} is {type(structure).__name__}; wanted ase.Atoms, a "
            "pymatgen Structure (a molecule has no cell) or an OC20Record"
        )
    record = OC20Record.from_fields({**fields, "sid": sid}, where)
    if isinstance(structure, ase.Atoms):
        record.num_adsorbates = stated_adsorbates(structure)
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


def _fields_of_atoms(atoms: ase.Atoms, where: str) -> dict[str, Any]:
    if atoms.cell.rank < 3:
        raise InputError(
            f"{atoms.get_chemical_formula()} has no cell in all three directions",
            where=where,
            wanted="vacuum along the normal of the slab",
            hint="atoms.center(vacuum=10, axis=2) makes it",
        )
    return {
        "atomic_numbers": atoms.numbers,
        "pos": _positions(atoms.positions, atoms.cell.array, atoms.pbc, where),
        "cell": atoms.cell.array,
        "tags": atoms.get_tags() if atoms.has("tags") else None,
        "fixed": held_atoms(atoms, where),
    }


def _fields_of_pymatgen(structure: Structure, where: str) -> dict[str, Any]:
    if not structure.is_ordered:
        raise InputError(
            "partly occupied sites", where=where, hint="Choose one ordering"
        )
    tags = _site_property(structure, where, "tags")
    fixed = _site_property(structure, where, "fixed")
    if tags is None:
        names = _site_property(structure, where, "surface_properties")
        tags = names and tags_of_properties(names, where)
    if fixed is None:
        movable = _site_property(structure, where, "selective_dynamics")
        fixed = movable and held_sites(movable, where)
    lattice = structure.lattice
    return {
        "atomic_numbers": [site.specie.Z for site in structure],
        "pos": _positions(structure.cart_coords, lattice.matrix, lattice.pbc, where),
        "cell": lattice.matrix,
        "tags": tags,
        "fixed": fixed,
    }


def _site_property(structure: Structure, where: str, name: str) -> list | None:
    """Return a site property, or None if no site has it."""
    values = structure.site_properties.get(name)
    missing = [i for i, value in enumerate(values or ()) if value is None]
    if missing:
        raise InputError(
            f"atom {missing[0]} has no site property '{name}', unlike others",
            where=where,
        )
    return values


def _positions(
    pos: np.ndarray, cell: np.ndarray, periodic: Sequence[bool], where: str
) -> np.ndarray:
    """Return positions near the origin; refuse what a periodic cell cannot hold."""
    try:
        check_cell(cell)
    except ValueError as error:
        raise InputError(str(error), where=where) from error
    with np.errstate(all="ignore"):  # NaN and infinite numbers are found later
        cells = np.ptp(pos @ np.linalg.inv(cell), axis=0)
    for axis in np.flatnonzero((cells > 1.0) & ~np.asarray(periodic, dtype=bool)):
        raise InputError(
            f"the atoms extend over {cells[axis]:.3g} cells along {'abc'[axis]}, which "
            "is not periodic",
            where=where,
            wanted="at most 1, as all directions are taken as periodic",
            hint="Make the cell longer, or remove atoms that are far away",
        )
    return wrap_far(pos, cell, periodic)


def record_from_frames(
    frames: Sequence[ase.Atoms],
    sid: str,
    energy_key: str | None = None,
    missing_tags: str = "raise",
) -> OC20Record:
    """Make a record from the frames of one relaxation.

    Args:
        frames: The first is initial, the last relaxed; a single one only initial. Tags
            and constraints are those of the first.
        sid: System id.
        energy_key: Key of ``atoms.info``, or of the results of ``atoms.calc``, with the
            **adsorption** energy in eV, as OC20 defines it (slab + adsorbate minus
            clean slab minus gas-phase reference). Total energies are never converted.
            The last frame must have it. None stores no energy.
        missing_tags: See :func:`structure_to_record`.

    Raises:
        OC20FormatError: The frames differ in atoms or cell, atoms are held in part, or
            an energy is missing.
        InputError: The first frame cannot be used, see :func:`structure_to_record`.
    """
    first, last = frames[0], frames[-1]
    if first.numbers.tolist() != last.numbers.tolist():
        same = sorted(first.numbers) == sorted(last.numbers)
        change = (
            "the same atoms are in another order"
            if same
            else f"{first.get_chemical_formula()} and {last.get_chemical_formula()}. "
            "Several structures need a file or info['sid'] each"
        )
        raise OC20FormatError(f"{sid}: first and last frame differ in atoms: {change}")
    change = np.abs(first.cell.array - last.cell.array).max()
    if not change <= SAME_CELL:
        raise OC20FormatError(
            f"{sid}: first and last frame differ in their cells, by {change:.2g} Å; "
            "the cell of an OC20 relaxation is constant"
        )
    record = structure_to_record(first, sid, warn=False, missing_tags=missing_tags)
    energies = (None, None)
    if energy_key is not None:
        energies = [_energy_of(atoms, energy_key, sid) for atoms in (first, last)]
        if energies[1] is None:
            results = {} if last.calc is None else last.calc.results
            raise OC20FormatError(
                f"{sid}: no '{energy_key}' in atoms.info of the last frame; it has "
                f"{', '.join(map(str, last.info)) or 'nothing'}, and the results of a "
                f"calculator {', '.join(results) or 'nothing'}"
            )
    relaxed = len(frames) > 1
    fields = record.to_fields() | {
        "y_init": energies[0],
        "y_relaxed": energies[1] if relaxed else None,
        "pos_relaxed": _fields_of_atoms(last, sid)["pos"] if relaxed else None,
    }
    return OC20Record.from_fields(fields, sid)


def _energy_of(atoms: ase.Atoms, key: str, sid: str) -> float | None:
    """Return an energy from ``atoms.info`` or the results of a calculator, eV."""
    results = {} if atoms.calc is None else atoms.calc.results
    for place in (atoms.info, results):
        value = place.get(key)
        if value is not None:
            try:
                return float(value)
            except (TypeError, ValueError):
                wrong = f"{sid}: '{key}' is {value!r}; wanted a number in eV"
                raise OC20FormatError(wrong) from None
    return None
