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

"""Structures of a user, read from files, folders and patterns.

extxyz and ASE trajectories have tags and constraints; CIF has neither, POSCAR has
constraints only. Paddle is loaded by the functions that make records only.
"""

from __future__ import annotations

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


class Prepared(list):
    """Structures whose records are made already (``records``)."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[OC20Record] = []


class Chain(Sequence):
    """Several sequences read as one, item by item.

    Args:
        pieces: The sequences; their items are fetched when asked for.
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
    """Return the files that files, folders and patterns mean, in a stable order.

    ``name@index`` picks frames of a file as ASE does (``slab.traj@-1``). A folder
    stands for the files in it that can be read; a folder with ``*.lmdb`` for the data
    set in it.

    Raises:
        ConfigError: Nothing is given, a file is missing or of an unknown format, a
            folder or pattern holds nothing that can be read.
    """
    if not inputs:
        raise ConfigError("no input structure is given; wanted files or folders")
    found: list[str] = []
    for item in inputs:
        path = _split_index(item)[0]
        if os.path.isdir(path):
            names = sorted(os.listdir(path))
            if any(name.endswith(".lmdb") for name in names):
                found.append(path)
                continue
            files = [os.path.join(path, name) for name in names if _reader(name)]
            if not files:
                raise ConfigError(
                    f"folder {path} holds no file that can be read ({_LEGAL})"
                )
            found.extend(files)
        elif os.path.isfile(path):
            if not _reader(path):
                raise ConfigError(f"{path}: unknown format. Legal: {_LEGAL}")
            found.append(item)
        elif glob.has_magic(path):
            matches = sorted(glob.glob(path))
            if not matches:
                raise ConfigError(f"no file matches the pattern {path}")
            found.extend(find_inputs(matches))
        else:
            raise ConfigError(f"input file or folder not found: {path}")
    return found


def read_inputs(inputs: Sequence[str]) -> tuple[Chain, list[str]]:
    """Read structures; what cannot be read is reported and left out.

    Data sets (LMDB) are opened here and read row by row later. Other structures get
    ``info["sid"]`` if they have none: the file name, with the frame number if the
    file holds several.

    Args:
        inputs: See :func:`find_inputs`.

    Returns:
        The structures, and one line for each file or frame left out.

    Raises:
        ConfigError: See :func:`find_inputs`, or nothing at all is left.
    """
    from ppmat.datasets.oc20_record import structure_to_record

    pieces: list[Sequence] = []
    faults: list[str] = []
    for item in find_inputs(inputs):
        if _is_database(item):
            try:
                pieces.append(OC20LMDB(item))
            except (OSError, ValueError) as error:
                faults.append(str(error))
            continue
        good = Prepared()
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
    chain = Chain(pieces)
    if not len(chain):
        raise ConfigError(
            "no input structure can be used"
            + "".join(f"\n  {fault}" for fault in faults)
        )
    return chain, faults


class Unreadable(NamedTuple):
    """Stands for a structure, or a whole file, that cannot be read.

    Attributes:
        sid: Its id as far as it is known: the name of the file, or its path and key.
        reason: What is wrong, with the path.
    """

    sid: str
    reason: str


def iter_structures(
    inputs: Sequence[str],
) -> Iterator[Atoms | OC20Record | Unreadable]:
    """Yield structures one by one as they are read; ids as in :func:`read_inputs`.

    Args:
        inputs: See :func:`find_inputs`.

    Raises:
        ConfigError: See :func:`find_inputs`.
    """
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
    """Yield the rows of an ``OC20LMDB``; one that is no record is ``Unreadable``."""
    for number in range(len(rows)):
        try:
            yield rows[number]
        except OC20FormatError as error:
            yield Unreadable(rows.where(number), str(error))


def _read_frames(item: str) -> Iterator[Atoms | Unreadable]:
    """Yield the frames of a file, one at a time."""
    path, index = _split_index(item)
    stem = Path(path).stem if Path(path).suffix else Path(path).name
    held: Atoms | None = None  # the name depends on whether another one follows
    number = 0
    try:
        for atoms in iread(path, index=index, format=_reader(path)):
            if held is not None:
                yield _named(held, f"{stem}_{number - 1}")
            held = atoms
            number += 1
    # Readers of foreign files raise whatever they stumble over.
    except Exception as error:
        after = f" after {number} frames" if number else ""
        fault = Unreadable(
            stem,
            f"{path}: cannot be read as {_reader(path)}{after}: "
            f"{type(error).__name__}: {_reason(error)}",
        )
    else:
        fault = None if number else Unreadable(stem, f"{item}: holds no structure")
    if held is not None:
        yield _named(held, f"{stem}_{number - 1}" if number > 1 else stem)
    if fault is not None:
        yield fault


def _reason(error: Exception) -> str:
    """Return what an error of a reader tells, or else where the reader gave up."""
    if str(error).strip():
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"the file is damaged or of another format ({os.path.basename(place.filename)}"
        f", line {place.lineno}: {place.line})"
    )


def _named(atoms: Atoms, name: str) -> Atoms:
    atoms.info.setdefault("sid", name)
    return atoms


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
    """Return structures as records; data sets stay on the disk."""
    from ppmat.datasets.structure_dataset import as_records

    if isinstance(structures, OC20LMDB):
        return structures
    if isinstance(structures, Prepared):
        return structures.records
    if isinstance(structures, Chain):
        return Chain([to_records(piece) for piece in structures.pieces])
    return as_records(structures)


def identity(records: Sequence) -> Any:
    """Return plain values that change when the records do."""
    if isinstance(records, Chain):
        return [identity(piece) for piece in records.pieces]
    if isinstance(records, OC20LMDB):
        stats = [os.stat(file) for file in records.files]
        return [
            [os.path.abspath(file), stat.st_size, stat.st_mtime_ns]
            for file, stat in zip(records.files, stats, strict=True)
        ]
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.sid.encode())
        for array in (
            record.atomic_numbers,
            record.pos,
            record.cell,
            record.tags,
            record.fixed,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
