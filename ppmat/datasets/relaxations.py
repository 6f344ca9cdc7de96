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

"""Relaxations as records for training, and what is wrong with those that are not.

A relaxation is a file of frames, or the frames of one ``info["sid"]`` that follow each
other in a file. The first frame is the initial structure, the last one is relaxed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from scipy.optimize import linear_sum_assignment

from ppmat.datasets.graph_utils.periodic_graph import check_distances
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.record_checks import SMALLEST_DISTANCE
from ppmat.datasets.structure_reader import InputFile
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_reader import find_inputs
from ppmat.datasets.structure_reader import iter_rows
from ppmat.datasets.structure_reader import iter_structures
from ppmat.datasets.structure_reader import open_rows
from ppmat.datasets.structure_reader import place_of
from ppmat.datasets.structure_reader import read_frames
from ppmat.datasets.structure_reader import shortest_names
from ppmat.datasets.structure_record import record_from_frames
from ppmat.datasets.structure_record import structure_to_record
from ppmat.datasets.surface_tags import ADSORBATE
from ppmat.utils.errors import InputError
from ppmat.utils.neighbours import neighbour_pairs
from ppmat.utils.periodic import LARGEST_COORDINATE
from ppmat.utils.periodic import minimum_image

MAX_STEP = 1.0  # Å; optimisers move an atom by at most 0.2 (ASE) to 0.5 Å in one step
_HELD = 1e-3  # Å; rounding moves a held atom by less
_UNMOVED = 2e-5  # Å; rounding of float32 and of text files is smaller
_PLACED = 0.5  # Å; adsorption sites are further apart (fcc and bridge of Ni(111): 0.72)
_EXCHANGED = 1.0  # Å; slab atoms that change places move further


class RelaxationOptions(NamedTuple):
    """How relaxations become records."""

    energy_key: str | None = None  # of info or calc.results; None: no energies
    sid_key: str | None = None  # of info; None takes "sid" if there is one
    missing_tags: str = "raise"  # or "guess", see structure_record.structure_to_record
    initial_only: bool = False  # each frame is an initial structure, as in a test set
    max_step: float = MAX_STEP  # Å, of an atom between neighbouring frames


def read_relaxations(
    inputs: Sequence[str], options: RelaxationOptions
) -> Iterator[OC20Record | Unreadable]:
    """Yield the record of each relaxation, or an ``Unreadable`` that says what is bad.

    Args:
        inputs: Files, folders and patterns, as in
            :func:`~ppmat.datasets.structure_reader.find_inputs`. Rows of LMDB files are
            taken as they are. Of the folder of a VASP run the file of all steps counts.
        options: See the class.

    Raises:
        ConfigError: See ``find_inputs``.
    """
    found = _initial if options.initial_only else _relaxed
    seen: dict[str, str] = {}
    labels: dict[str, bool] = {}
    for record in found(inputs, options):
        if isinstance(record, OC20Record):
            where = f"{record.source}" if record.source else "an earlier file"
            reasons = label_faults(record, labels)
            if record.sid in seen:
                reasons = [f"sid {record.sid} is already that of {seen[record.sid]}"]
            if reasons:
                reason = "; ".join(reasons)
                record = Unreadable(record.sid, reason, record.source, record.frame)
            else:
                seen[record.sid] = where
        yield record


def label_faults(record: OC20Record, labels: dict[str, bool]) -> list[str]:
    """Return the labels that a record has or lacks, unlike the first one.

    Args:
        record: The record.
        labels: Which labels the first record has; filled by it.
    """
    faults = []
    for name in ("y_init", "y_relaxed", "pos_relaxed"):
        known = getattr(record, name) is not None
        if labels.setdefault(name, known) != known:
            faults.append(f"has {'a' if known else 'no'} {name}, unlike the first row")
    return faults


def _initial(
    inputs: Sequence[str], options: RelaxationOptions
) -> Iterator[OC20Record | Unreadable]:
    for structure in iter_structures(inputs, "refuse"):
        if isinstance(structure, Unreadable):
            yield structure
            continue
        source, frame = place_of(structure)
        if isinstance(structure, OC20Record):
            sid, frames = structure.sid, [structure]
        else:
            key = options.sid_key or "sid"
            sid, frames = str(structure.info.get(key, "")), [structure]
        yield _record_or_fault(frames, sid, source, frame, options)


def _relaxed(
    inputs: Sequence[str], options: RelaxationOptions
) -> Iterator[OC20Record | Unreadable]:
    files = find_inputs(inputs, relaxations=True)
    names = shortest_names(file.path for file in files)
    for file in files:
        if file.is_data_set:
            try:
                rows = open_rows(file)
            except (OSError, ValueError) as error:
                yield Unreadable(file.path, str(error), file.path)
                continue
            for row in iter_rows(rows):
                if isinstance(row, OC20Record):
                    row = _record_or_fault([row], row.sid, *place_of(row), options)
                yield row
            continue
        for frames in _groups(file, names[file.path], options.sid_key or "sid"):
            if isinstance(frames, Unreadable):
                yield frames
                continue
            sid = frames[0].info.get(options.sid_key or "sid")
            sid = names[file.path] if sid is None else str(sid)
            source = f"{file.path} {_range_text(frames)}"
            yield _record_or_fault(frames, sid, source, None, options)


def _range_text(frames: Sequence[Atoms]) -> str:
    first, last = (atoms.info["frame"] for atoms in (frames[0], frames[-1]))
    return f"frame {first}" if first == last else f"frames {first}-{last}"


def _groups(
    file: InputFile, name: str, sid_key: str
) -> Iterator[list[Atoms] | Unreadable]:
    """Yield the frames of each relaxation of a file; nothing of a damaged one."""

    def key(atoms: Atoms | Unreadable) -> str:
        if isinstance(atoms, Unreadable):
            return ""
        return str(atoms.info.get(sid_key))

    groups = (
        list(group)
        for _, group in itertools.groupby(read_frames(file, name, False), key)
    )
    held: list[Atoms] | None = None  # the last one is cut if the file is damaged
    for group in groups:
        if isinstance(group[0], Unreadable):
            yield group[0]
            return
        if held is not None:
            yield held
        held = group
    if held is not None:
        yield held


def _record_or_fault(
    frames: Sequence,
    sid: str,
    source: str | None,
    frame: int | None,
    options: RelaxationOptions,
) -> OC20Record | Unreadable:
    try:
        record = _record(frames, sid, options)
        check_relaxation(record, options.initial_only)
        if not isinstance(frames[0], OC20Record):
            _check_steps(frames, options.max_step)
    except (TypeError, ValueError) as error:
        text = str(error)
        for start in (f"{sid}: ", f"structure '{sid}': ", f"sid {sid}: "):
            text = text.removeprefix(start)
        return Unreadable(sid, text, source, frame)
    record.source, record.frame = source, frame
    return record


def _record(frames: Sequence, sid: str, options: RelaxationOptions) -> OC20Record:
    first = frames[0]
    if isinstance(first, OC20Record):
        return structure_to_record(first, missing_tags=options.missing_tags, warn=False)
    if options.sid_key is not None and options.sid_key not in first.info:
        raise InputError(f"no '{options.sid_key}' in atoms.info")
    for atoms in frames:
        _check_positions(atoms.positions)
    _check_tags_agree(first, frames[-1])
    record = record_from_frames(
        frames, sid, options.energy_key, missing_tags=options.missing_tags
    )
    return record


def _check_tags_agree(first: Atoms, last: Atoms) -> None:
    one, two = first.get_tags(), last.get_tags()
    if len(one) == len(two) and two.any() and (one != two).any():
        atom = int(np.flatnonzero(one != two)[0])
        raise InputError(
            f"atom {atom} has tag {one[atom]} in the first frame and {two[atom]} in "
            "the last one: are the atoms in another order?"
        )


def _check_steps(frames: Sequence[Atoms], max_step: float) -> None:
    """Refuse a file whose neighbouring frames are too different for a relaxation."""
    if len(frames) < 3:
        return  # first and last frame alone may be far apart
    for before, after in itertools.pairwise(frames):
        if len(before) != len(after):
            number = after.info["frame"]
            raise InputError(
                f"frame {number} has {len(after)} atoms, not {len(before)}"
            )
        moved = np.linalg.norm(
            minimum_image(after.positions - before.positions, before.cell.array), axis=1
        )
        if not moved.max() <= max_step:
            raise InputError(
                f"atom {int(moved.argmax())} moves by {moved.max():.2f} Å from frame "
                f"{before.info['frame']} to {after.info['frame']}, more than "
                f"{max_step:g} Å: several placements instead of one relaxation",
                hint="Give each structure a file or info['sid'], or raise --max_step.",
            )


def check_relaxation(record: OC20Record, initial_only: bool = False) -> None:
    """Check that one can train on a record: tags, distances and displacements.

    Args:
        record: The record.
        initial_only: There need be no relaxed positions, as in a test set.

    Raises:
        InputError: Tags are missing, no tags of OC20, or do not tell slab and
            adsorbate; positions are absurd, or two atoms are at one place; relaxed
            positions are missing; a held atom moved; slab atoms changed places; an
            adsorbate moved while no free slab atom did.
    """
    for pos in (record.pos, record.pos_relaxed):
        if pos is not None:
            _check_positions(pos)
    structure_to_record(record, warn=False, missing_tags="raise")
    adsorbate = record.tags == ADSORBATE
    if adsorbate.all() or not adsorbate.any():
        found = "all atoms have" if adsorbate.all() else "no atom has"
        raise InputError(f"{found} tag 2 (the adsorbate)")
    if record.pos_relaxed is None:
        if initial_only:
            return
        raise InputError(
            "has only an initial structure, no relaxed one",
            hint="--initial_only is for a test set without relaxed ones.",
        )
    pairs = neighbour_pairs(record.pos_relaxed, record.cell, SMALLEST_DISTANCE)
    check_distances(pairs, SMALLEST_DISTANCE, "relaxed structure: ")
    _check_displacement(record, adsorbate)


def _check_positions(pos: np.ndarray) -> None:
    far = ~(np.abs(pos).max(axis=1) <= LARGEST_COORDINATE)
    if far.any():
        atom = int(far.argmax())
        raise InputError(
            f"atom {atom} is at {pos[atom].tolist()} Å",
            wanted=f"coordinates up to {LARGEST_COORDINATE:g} Å",
        )


def _check_displacement(record: OC20Record, adsorbate: np.ndarray) -> None:
    moved = np.linalg.norm(record.displacement, axis=1)
    if (moved[~adsorbate] > _EXCHANGED).sum() > 1:
        _check_order(record, np.flatnonzero(~adsorbate), moved)
    held = np.where(record.fixed, moved, 0.0)
    if held.max() > _HELD:
        raise InputError(
            f"atom {int(held.argmax())} is held, but moves by {held.max():.3g} Å; "
            f"{int((held > _HELD).sum())} held atoms do"
        )
    free = ~adsorbate & ~record.fixed
    if free.any() and moved[free].max() < _UNMOVED and moved.max() > _PLACED:
        raise InputError(
            f"atom {int(moved.argmax())} moves by {moved.max():.2f} Å while no free "
            "slab atom moves at all: two placements instead of a relaxation"
        )


def _check_order(record: OC20Record, slab: np.ndarray, moved: np.ndarray) -> None:
    """Refuse a relaxed structure whose slab atoms are in another order.

    Atoms of a slab do not change places. If each would be near the start of another one
    of its element, the order of the atoms has changed.
    """
    numbers = record.atomic_numbers[slab]
    start, end = record.pos[slab].astype(float), record.pos_relaxed[slab].astype(float)
    nearest = np.empty(len(slab))
    for number in np.unique(numbers):
        same = np.flatnonzero(numbers == number)
        ways = end[same][:, None] - start[same][None]
        distances = np.linalg.norm(minimum_image(ways, record.cell), axis=2)
        rows, columns = linear_sum_assignment(distances)
        nearest[same[rows]] = distances[rows, columns]
    exchanged = (moved[slab] > _EXCHANGED) & (nearest < 0.5 * _EXCHANGED)
    if exchanged.sum() > 1:
        atom = slab[int(np.flatnonzero(exchanged)[0])]
        raise InputError(
            f"{int(exchanged.sum())} slab atoms, the first {atom}, end where others of "
            "their element began: the relaxed structure has another order of atoms"
        )
