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

"""Find a user's structures in files, folders and patterns, and give each its own id.

:mod:`~ppmat.datasets.structure_files` reads the files. Only the functions that make
records load Paddle.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import traceback
from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.io.formats import string2index

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.datasets.structure_files import LEGAL
from ppmat.datasets.structure_files import RUN_FORMATS
from ppmat.datasets.structure_files import format_of
from ppmat.datasets.structure_files import iter_frames
from ppmat.datasets.structure_files import stem_of
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.errors import text_of
from ppmat.utils.registry import ConfigError

_INDEX = re.compile(r"-?\d+|(-?\d+)?(:(-?\d+)?){1,2}")  # as ASE: 5, -1, 2:, ::10
_ID_CHOICES = ("rename", "refuse")


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


# Inputs -----------------------------------------------------------------------------


class InputFile(NamedTuple):
    """A file, or a folder that is one data set, and which of its frames are wanted."""

    path: str
    index: int | slice | None = None  # None: all

    @property
    def is_data_set(self) -> bool:
        """Whether it is LMDB, whose rows are read one at a time."""
        return os.path.isdir(self.path) or format_of(self.path) == "lmdb"


def find_inputs(inputs: Sequence[str], relaxations: bool = False) -> list[InputFile]:
    """Return the files for a list of files, folders and patterns, in a fixed order.

    ``name@index`` picks frames as ASE does (``slab.traj@-1``), of each file of a folder
    or pattern. A file whose own name ends so is taken as it is. For a folder all
    readable files in it are returned except ``.json``; its ``*.lmdb`` are one data set,
    named by the folder. Of the folder of a VASP run the final files count, or with
    ``relaxations`` the file of all steps.

    Raises:
        ConfigError: There is none, or one is missing or of an unknown format.
    """
    if not inputs:
        raise ConfigError("no input structure is given; wanted files or folders")
    found: list[InputFile] = []
    for item in inputs:
        path, index = _split_index(item)
        if os.path.isdir(path):
            found += [InputFile(file, index) for file in _folder(path, relaxations)]
        elif os.path.isfile(path):
            if not format_of(path):
                raise ConfigError(f"{path}: unknown format. Legal: {LEGAL}")
            found.append(InputFile(path, index))
        elif not glob.has_magic(path):
            raise ConfigError(f"input file or folder not found: {path}")
        elif matches := sorted(glob.glob(path)):
            files = find_inputs(matches, relaxations)
            found += [InputFile(file.path, index) for file in files]
        else:
            raise ConfigError(f"no file matches the pattern {path}")
    return found


def _split_index(item: str) -> tuple[str, int | slice | None]:
    path, at, index = item.rpartition("@")
    if not at or not index or os.path.exists(item) or not _INDEX.fullmatch(index):
        return item, None
    picked = string2index(index)
    if isinstance(picked, slice) and picked.step == 0:
        raise ConfigError(f"{item}: the step of @{index} is 0, wanted another number")
    return path, picked


def _folder(path: str, relaxations: bool) -> list[str]:
    formats = {name: format_of(name) for name in sorted(os.listdir(path))}
    data_set = [path] if "lmdb" in formats.values() else []
    skipped = (None, "json", "lmdb")
    files = [name for name, format in formats.items() if format not in skipped]
    runs = [name for name in files if formats[name] in RUN_FORMATS]
    finals = [name for name in files if formats[name] == "vasp"]
    if runs and relaxations:
        best = min(runs, key=lambda name: RUN_FORMATS.index(formats[name]))
        unwanted = {*finals, *runs} - {best}
    else:
        unwanted = set(runs) if finals else set()
    if not files and not data_set:
        inner = any(os.path.isdir(os.path.join(path, name)) for name in formats)
        raise ConfigError(
            f"folder {path} holds no file that can be read ({LEGAL})",
            hint=f"Folders in it are read if you give {path}/*" if inner else "",
        )
    wanted = [os.path.join(path, name) for name in files if name not in unwanted]
    return data_set + wanted


# Ids --------------------------------------------------------------------------------


def shortest_names(paths: Iterable[str]) -> dict[str, str]:
    """Return for each path its shortest name that no other path has.

    This is the stem, the file name, or one of these with as many folders as needed.

    Example:
        >>> shortest_names(["Cu/slab.traj", "Ni/slab.traj", "a.cif"])
        {'Cu/slab.traj': 'Cu/slab', 'Ni/slab.traj': 'Ni/slab', 'a.cif': 'a'}
    """
    full = {path: os.path.abspath(path) for path in paths}
    parts = {path: Path(path).parts for path in full.values()}
    names: dict[str, str] = {}
    depth = 0
    while len(names) < len(parts):
        stems, whole = {}, {}
        for path, pieces in parts.items():
            folders = pieces[max(0, len(pieces) - 1 - depth) : -1]
            stems[path] = "/".join((*folders, stem_of(pieces[-1])))
            whole[path] = "/".join((*folders, pieces[-1]))
        for candidates in (stems, whole):
            used = Counter(candidates.values()) + Counter(names.values())
            new = {path: name for path, name in candidates.items() if used[name] == 1}
            names = {**new, **names}
        depth += 1
    return {path: names[full[path]] for path in full}


class UniqueIds:
    """Makes ids that occur again unique, or finds them.

    Attributes:
        renamed: Number of ids that were changed.

    Example:
        >>> ids = UniqueIds()
        >>> [ids("a", file, 3, file) for file in ("x", "x", "y")]
        ['a', 'a_3', 'a_y']
    """

    def __init__(self) -> None:
        self.renamed = 0
        self._places: dict[str, tuple[str | None, int | None]] = {}

    def holder(self, sid: str) -> str:
        """Return where an id occurred, or ``""``."""
        return place_text(*self._places[sid]) if sid in self._places else ""

    def __call__(
        self, sid: str, source: str | None, frame: int | None, name: str
    ) -> str:
        """Return an id that was not returned before; ``name`` is that of the source."""
        wanted, number = sid, 1
        if sid in self._places:
            self.renamed += 1
            same_file = self._places[sid][0] == source and frame is not None
            wanted = f"{sid}_{frame}" if same_file else f"{sid}_{name}"
            if wanted in self._places and frame is not None:
                wanted = f"{sid}_{name}_{frame}"
        unique = wanted
        while unique in self._places:
            number += 1
            unique = f"{wanted}_{number}"
        self._places[unique] = (source, frame)
        return unique

    def report(self) -> None:
        """Log how many ids were changed."""
        if self.renamed:
            logger.warning(
                f"{self.renamed} structures had the id of an earlier one and have new "
                "ids, made of file and frame; 'source' and 'frame' say where they are"
            )


def place_text(source: str | None, frame: int | None) -> str:
    """Return file and frame for a message.

    Example:
        >>> place_text("a.traj", 3), place_text(None, 3)
        ('a.traj frame 3', 'structure 3')
        >>> place_text("a.lmdb", 3)
        "a.lmdb key '3'"
    """
    if source is None:
        return f"structure {frame}"
    if frame is None:
        return source
    row = source.endswith((".lmdb", ".mdb"))
    return f"{source} key '{frame}'" if row else f"{source} frame {frame}"


def place_of(structure: Any) -> tuple[str | None, int | None]:
    """Return file and frame of a structure, None if they are not known."""
    if isinstance(structure, Atoms):
        source, frame = structure.info.get("source"), structure.info.get("frame")
    else:
        source = getattr(structure, "source", None)
        frame = getattr(structure, "frame", None)
    if not isinstance(source, str):
        return None, None
    return source, int(frame) if isinstance(frame, (int, np.integer)) else None


# Structures -------------------------------------------------------------------------


class Unreadable(NamedTuple):
    """Replaces a structure or file that cannot be read: its id, place, and why."""

    sid: str
    reason: str
    source: str | None = None
    frame: int | None = None

    def __str__(self) -> str:
        """Return one line that names file and frame, and the id if it adds something.

        Example:
            >>> str(Unreadable("b", "no cell", "b.traj", 3))
            'b.traj frame 3: no cell'
        """
        return fault_line(self.sid, self.source, self.frame, self.reason)


def fault_line(sid: str, source: str | None, frame: int | None, reason: object) -> str:
    """Return a line about a structure that names it once.

    Args:
        sid: Its id.
        source: Its file; None if it was given in memory.
        frame: Number of its frame, or its position among those in memory.
        reason: Why it cannot be used.

    Example:
        >>> fault_line("a", None, None, "structure 'a' has no cell")
        "structure 'a' has no cell"
        >>> fault_line("a", "b.traj", 3, "sid a: tags hold [5]")
        'b.traj frame 3 (sid a): tags hold [5]'
    """
    reason = str(reason)
    for start in (f"structure '{sid}': ", f"sid {sid}: ", f"{source}: "):
        reason = reason.removeprefix(start)
    if source is None and frame is None:
        named = re.search(rf"(structure|sid) '?{re.escape(sid)}'?(?!\w)", reason)
        return reason if named else f"{sid}: {reason}"
    place = place_text(source, frame)
    if reason.startswith(place):
        return reason
    stem = "" if source is None else stem_of(source)
    known = source is None or sid in (stem, f"{stem}_{frame}", str(frame), place)
    known |= f"'{sid}'" in reason or f"sid {sid}" in reason
    return f"{place}: {reason}" if known else f"{place} (sid {sid}): {reason}"


def read_inputs(inputs: Sequence[str]) -> JoinedSequences:
    """Read structures; one that cannot be read is an :class:`Unreadable`.

    Data sets (LMDB) are opened here and read row by row later. Inputs are those of
    :func:`find_inputs`, ids those of :func:`iter_structures`.

    Raises:
        ConfigError: See :func:`find_inputs`.
    """
    files = find_inputs(inputs)
    names = shortest_names(file.path for file in files)
    pieces: list[Sequence] = []
    for file in files:
        if file.is_data_set:
            pieces.append(_rows_or_fault(file))
        else:
            pieces.append(list(read_frames(file, names[file.path])))
    return JoinedSequences(pieces)


def read_one(text: str, where: str) -> Atoms:
    """Return the only structure of a file, or the frame that ``FILE@INDEX`` picks.

    Args:
        text: See :func:`find_inputs`.
        where: What it is, for errors.

    Raises:
        InputError: There are none or several, or it cannot be read.
    """
    structures = read_inputs([text])
    if len(structures) != 1:
        raise InputError(
            f"holds {len(structures)} structures",
            where=where,
            wanted="one",
            hint="FILE@0 takes the first frame",
        )
    found = structures[0]
    if isinstance(found, Unreadable):
        raise InputError(str(found.reason), where=where)
    return found if isinstance(found, Atoms) else found.to_atoms()


def iter_structures(
    inputs: Sequence[str], repeated: str = "rename"
) -> Iterator[Atoms | OC20Record | Unreadable]:
    """Yield structures one by one, each with its own id.

    Atoms keep ``info["sid"]``, else the id is the shortest name of the file that no
    other has, with the frame number if the file has several frames. ``info["source"]``
    and ``info["frame"]`` become file and frame; a record has attributes of these names.

    Args:
        inputs: See :func:`find_inputs`.
        repeated: For an id that occurred before: ``rename`` adds file or frame to it,
            ``refuse`` makes the structure an :class:`Unreadable`.

    Raises:
        InputError: See :func:`find_inputs`, or another value of ``repeated``.
    """
    check_choice("repeated", repeated, _ID_CHOICES)
    files = find_inputs(inputs)
    names = shortest_names(file.path for file in files)
    ids = UniqueIds()
    for file in files:
        for structure in _structures_of(file, names[file.path]):
            yield _with_unique_id(structure, ids, names[file.path], repeated)
    ids.report()


def iter_by_stem(inputs: Sequence[str]) -> Iterator[Atoms | OC20Record | Unreadable]:
    """Yield structures with ids that no other file changes, and that may be repeated.

    As :func:`iter_structures`, where the id of a file is its name without folder and
    suffix.
    """
    for file in find_inputs(inputs):
        yield from _structures_of(file, stem_of(file.path))


def _structures_of(
    file: InputFile, name: str
) -> Iterator[Atoms | OC20Record | Unreadable]:
    if file.is_data_set:
        yield from iter_rows(_rows_or_fault(file))
    else:
        yield from read_frames(file, name)


def _with_unique_id(
    structure: Any, ids: UniqueIds, name: str, repeated: str
) -> Atoms | OC20Record | Unreadable:
    sid, (source, frame) = id_of(structure), place_of(structure)
    holder = ids.holder(sid)
    if holder and repeated == "refuse":
        return Unreadable(sid, f"sid {sid} is already that of {holder}", source, frame)
    unique = ids(sid, source, frame, name)
    if unique == sid:
        return structure
    if isinstance(structure, Unreadable):
        return structure._replace(sid=unique)
    if isinstance(structure, Atoms):
        structure.info["sid"] = unique
    else:
        structure.sid = unique
    return structure


def id_of(structure: Any) -> str:
    """Return the id of a structure, or ``""``."""
    if isinstance(structure, Atoms):
        return str(structure.info.get("sid", ""))
    return str(getattr(structure, "sid", ""))


def iter_rows(rows: Sequence) -> Iterator[OC20Record | Unreadable]:
    """Yield the rows of an ``OC20LMDB``; a row that is no record as ``Unreadable``."""
    for number in range(len(rows)):
        try:
            yield rows[number]
        except OC20FormatError as error:
            yield unreadable_row(rows, number, error)


def unreadable_row(rows: OC20LMDB, number: int, error: Exception) -> Unreadable:
    """Return what replaces a row that is no record."""
    where = rows.where(number)
    file, _, key = where.rpartition(" key ")
    reason = str(error).removeprefix(f"{where}: ")
    return Unreadable(where, reason, file, int(key.strip("'")))


def _rows_or_fault(file: InputFile) -> Sequence:
    """Return the wanted rows of a data set, or one item that says why not."""
    try:
        return open_rows(file)
    except (OSError, ValueError) as error:
        return [Unreadable(file.path, str(error), file.path)]


def open_rows(file: InputFile) -> OC20LMDB:
    """Return the wanted rows of a data set."""
    rows = OC20LMDB(file.path)
    if file.index is None:
        return rows
    if isinstance(file.index, slice):
        return rows[file.index]
    if not -len(rows) <= file.index < len(rows):
        raise ConfigError(f"{file.path}: has {len(rows)} rows, so no row {file.index}")
    return rows[[file.index % len(rows)]]


def read_frames(
    file: InputFile, name: str, name_frames: bool = True
) -> Iterator[Atoms | Unreadable]:
    """Yield the frames of a file, one at a time, with id, source and frame.

    Without ``name_frames`` a frame without ``info["sid"]`` stays without one.
    """
    held: Atoms | None = None  # its name depends on whether another frame follows
    count = 0
    fault = None
    try:
        for number, atoms in iter_frames(file.path, file.index):
            if held is not None:
                yield _named(held, name, True) if name_frames else held
            held = atoms
            held.info |= {"source": file.path, "frame": number}
            count += 1
    except InputError as error:
        fault = str(error)
    except Exception as error:  # the readers of ASE raise errors of any class
        after = f" after {count} frames" if count else ""
        fault = f"cannot be read as {format_of(file.path)}{after}: {_reason(error)}"
    else:
        if not count:
            fault = "holds no structure" if file.index is None else "has no such frame"
    if held is not None:
        several = count > 1 or held.info["frame"] > 0
        yield _named(held, name, several) if name_frames else held
    if fault is not None:
        yield Unreadable(name, fault, file.path)


def _named(atoms: Atoms, name: str, several: bool) -> Atoms:
    number = atoms.info["frame"]
    atoms.info.setdefault("sid", f"{name}_{number}" if several else name)
    return atoms


def _reason(error: Exception) -> str:
    """Return the text of a reader's error, or else the line where it failed."""
    if str(error).strip():
        return text_of(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: the file is damaged or of another format "
        f"({os.path.basename(place.filename)}, line {place.lineno}: {place.line})"
    )


# Hashes -----------------------------------------------------------------------------


def fingerprint_rows(rows: OC20LMDB) -> Any:
    """Return plain values that change when the rows of a data set change."""
    files = [
        [os.path.abspath(file), (stat := os.stat(file)).st_size, stat.st_mtime_ns]
        for file in rows.files
    ]
    if rows.selected is None:
        return files
    return [files, hashlib.sha256(rows.selected.tobytes()).hexdigest()[:16]]


def add_to_hash(digest: Any, record: OC20Record) -> None:
    """Add the arrays of a record without its labels to a running hash."""
    for name in ("atomic_numbers", "pos", "cell", "tags", "fixed"):
        digest.update(np.ascontiguousarray(getattr(record, name)).tobytes())
    if record.num_adsorbates is not None:
        digest.update(str(record.num_adsorbates).encode())
