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

"""Read a user's structures from files, folders and patterns.

extxyz and ASE trajectories have tags and constraints, CIF has neither, POSCAR has only
constraints. Only the functions that make records load Paddle.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
import re
import traceback
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io import iread
from ase.io.formats import string2index

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_record import structure_to_record
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.utils.registry import ConfigError

_READERS = {
    ".traj": "traj",
    ".cif": "cif",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".vasp": "vasp",
    ".poscar": "vasp",
}
_VASP_NAMES = ("POSCAR", "CONTCAR")
_LEGAL = f"{', '.join(_READERS)}, .lmdb, POSCAR, CONTCAR"


class StructuresWithRecords(list):
    """Structures together with their records (``records``)."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[OC20Record] = []


class JoinedSequences(Sequence):
    """Several sequences as one; items are read on access.

    Example:
        >>> JoinedSequences(["ab", "c"])[2]
        'c'
    """

    def __init__(self, pieces: list[Sequence]) -> None:
        self.pieces = pieces
        self._ends = np.cumsum([0, *(len(piece) for piece in pieces)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index %= len(self)
        piece = int(np.searchsorted(self._ends, index, side="right")) - 1
        return self.pieces[piece][index - int(self._ends[piece])]


def find_inputs(inputs: Sequence[str]) -> list[str]:
    """Return the files for a list of files, folders and patterns, in a fixed order.

    ``name@index`` picks frames of a file as ASE does (``slab.traj@-1``). For a folder
    all readable files in it are returned. A folder with ``*.lmdb`` is one data set.

    Raises:
        ConfigError: There is none, or one is missing or of an unknown format.
    """
    if not inputs:
        raise ConfigError("no input structure is given; wanted files or folders")
    found: list[str] = []
    for item in inputs:
        path = _split_index(item)[0]
        if os.path.isdir(path):
            names = sorted(os.listdir(path))
            files = [os.path.join(path, name) for name in names if _reader(name)]
            if any(name.endswith(".lmdb") for name in names):
                files = [path]
            if not files:
                raise ConfigError(
                    f"folder {path} holds no file that can be read ({_LEGAL})"
                )
            found += files
        elif os.path.isfile(path):
            if not _reader(path):
                raise ConfigError(f"{path}: unknown format. Legal: {_LEGAL}")
            found.append(item)
        elif not glob.has_magic(path):
            raise ConfigError(f"input file or folder not found: {path}")
        elif matches := sorted(glob.glob(path)):
            found += find_inputs(matches)
        else:
            raise ConfigError(f"no file matches the pattern {path}")
    return found


def read_inputs(inputs: Sequence[str]) -> tuple[JoinedSequences, list[str]]:
    """Read structures; report and leave out those that cannot be read.

    Data sets (LMDB) are opened here and read row by row later. Other structures
    without ``info["sid"]`` receive the file name, with the frame number if the file has
    several frames. Inputs are those of :func:`find_inputs`.

    Returns:
        The structures, and one line for each file or frame that was left out.

    Raises:
        ConfigError: See :func:`find_inputs`, or no structure is left.
    """
    pieces: list[Sequence] = []
    faults: list[str] = []
    for item in find_inputs(inputs):
        if _is_database(item):
            try:
                pieces.append(OC20LMDB(item))
            except (OSError, ValueError) as error:
                faults.append(str(error))
            continue
        good = StructuresWithRecords()
        for number, atoms in enumerate(_read_frames(item)):
            if isinstance(atoms, Unreadable):
                faults.append(atoms.reason)
                continue
            try:
                good.records.append(structure_to_record(atoms))
                good.append(atoms)
            except ValueError as error:
                faults.append(f"{_split_index(item)[0]} frame {number}: {error}")
        pieces.append(good)
    structures = JoinedSequences(pieces)
    if not len(structures):
        raise ConfigError("\n  ".join(["no input structure can be used", *faults]))
    return structures, faults


class Unreadable(NamedTuple):
    """Replaces a structure or file that cannot be read: its id (or path), and why."""

    sid: str
    reason: str


def iter_structures(inputs: Sequence[str]) -> Iterator[Atoms | OC20Record | Unreadable]:
    """Yield structures one by one; inputs and ids as in :func:`read_inputs`."""
    for item in find_inputs(inputs):
        if not _is_database(item):
            yield from _read_frames(item)
            continue
        try:
            rows = OC20LMDB(item)
        except (OSError, ValueError) as error:
            yield Unreadable(item, str(error))
        else:
            yield from iter_rows(rows)


def iter_rows(rows: Sequence) -> Iterator[OC20Record | Unreadable]:
    """Yield the rows of an ``OC20LMDB``; a row that is no record as ``Unreadable``."""
    for number in range(len(rows)):
        try:
            yield rows[number]
        except OC20FormatError as error:
            yield Unreadable(rows.where(number), str(error))


def _read_frames(item: str) -> Iterator[Atoms | Unreadable]:
    """Yield the frames of a file, one at a time."""
    path, index = _split_index(item)
    stem = Path(path).stem
    held: Atoms | None = None  # its name depends on whether another frame follows
    number = 0
    try:
        for atoms in iread(path, index=index, format=_reader(path)):
            if held is not None:
                held.info.setdefault("sid", f"{stem}_{number - 1}")
                yield held
            held = atoms
            number += 1
    except Exception as error:  # the readers of ASE raise errors of any class
        after = f" after {number} frames" if number else ""
        fault = Unreadable(
            stem,
            f"{path}: cannot be read as {_reader(path)}{after}: "
            f"{type(error).__name__}: {_reason(error)}",
        )
    else:
        fault = None if number else Unreadable(stem, f"{item}: holds no structure")
    if held is not None:
        held.info.setdefault("sid", f"{stem}_{number - 1}" if number > 1 else stem)
        yield held
    if fault is not None:
        yield fault


def _reason(error: Exception) -> str:
    """Return the text of a reader's error, or else the line where it failed."""
    if str(error).strip():
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"the file is damaged or of another format ({os.path.basename(place.filename)}"
        f", line {place.lineno}: {place.line})"
    )


def _is_database(item: str) -> bool:
    return os.path.isdir(item) or item.endswith(".lmdb")


def _split_index(item: str) -> tuple[str, Any]:
    path, at, index = item.rpartition("@")
    if at and re.fullmatch(r"-?\d*(:-?\d*){0,2}", index) and index:
        return path, string2index(index)
    return item, slice(None)


def _reader(path: str) -> str | None:
    name = os.path.basename(path)
    if name.endswith(".lmdb"):
        return "lmdb"
    if name.startswith(_VASP_NAMES):
        return "vasp"
    return _READERS.get(os.path.splitext(name)[1].lower())


def to_records(structures: Sequence) -> Sequence:
    """Return structures as records; data sets are read on access."""
    if isinstance(structures, JoinedSequences):
        return JoinedSequences([to_records(piece) for piece in structures.pieces])
    if isinstance(structures, StructuresWithRecords):
        return structures.records
    return structures if isinstance(structures, OC20LMDB) else as_records(structures)


def as_records(structures: Sequence) -> list[OC20Record]:
    """Return the record of each structure; its position becomes a missing id.

    Raises:
        ValueError: A structure that cannot be used; its position is named.
        TypeError: An object that is not a structure.
    """
    records = []
    for i, structure in enumerate(structures):
        try:
            record = structure_to_record(structure)
        except (TypeError, ValueError) as error:
            raise type(error)(f"structure {i}: {error}") from error
        records.append(dataclasses.replace(record, sid=record.sid or str(i)))
    return records


def fingerprint_records(records: Sequence) -> Any:
    """Return plain values that change when the records change."""
    if isinstance(records, JoinedSequences):
        return [fingerprint_records(piece) for piece in records.pieces]
    if isinstance(records, OC20LMDB):
        return [
            [os.path.abspath(file), (stat := os.stat(file)).st_size, stat.st_mtime_ns]
            for file in records.files
        ]
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.sid.encode())
        add_to_hash(digest, record)
    return digest.hexdigest()[:16]


def add_to_hash(digest: Any, record: OC20Record) -> None:
    """Add the arrays of a record without its labels to a running hash."""
    for name in ("atomic_numbers", "pos", "cell", "tags", "fixed"):
        digest.update(np.ascontiguousarray(getattr(record, name)).tobytes())
    if record.num_adsorbates is not None:
        digest.update(str(record.num_adsorbates).encode())
