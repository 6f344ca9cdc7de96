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

"""Read the frames of one structure file, with their numbers.

extxyz, ASE trajectories and databases have tags and constraints, CIF has neither,
POSCAR and the files of a VASP run have only constraints. ``.gz``, ``.xz`` and ``.bz2``
are unpacked to a temporary file of bounded size.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import json
import lzma
import os
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.db import connect
from ase.db.row import AtomsRow
from ase.io import iread
from ase.io import read
from ase.io.extxyz import key_val_str_to_dict
from ase.io.jsonio import decode

from ppmat.datasets.held_atoms import held_sites
from ppmat.datasets.lmdb_file import LMDBFile
from ppmat.datasets.surface_tags import tags_of_properties
from ppmat.utils.errors import InputError

MAX_UNPACKED = 1 << 30  # bytes of an unpacked file, several million lines of extxyz
_MAX_JSON = 1 << 28  # bytes of a JSON file, which is read as a whole
_MAX_ROW = 1 << 26  # bytes of one unpacked row of an .aselmdb file
_MAX_COLUMNS = 1000  # of an extxyz file; ASE writes about ten
_CHUNK = 1 << 20  # bytes unpacked at once
_XZ_MEMORY = 1 << 27  # bytes; the strongest setting of xz needs 65 MiB
_SUFFIXES = {
    ".traj": "traj",
    ".cif": "cif",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".vasp": "vasp",
    ".poscar": "vasp",
    ".db": "db",
    ".json": "json",
    ".aselmdb": "aselmdb",
    ".lmdb": "lmdb",
}
_VASP_NAMES = {
    "POSCAR": "vasp",
    "CONTCAR": "vasp",
    "OUTCAR": "vasp-out",
    "vasprun": "vasp-xml",
}
_PACKED = (".gz", ".xz", ".bz2")
LEGAL = (
    f"{', '.join(_SUFFIXES)}, POSCAR, CONTCAR, OUTCAR, vasprun.xml; all but .lmdb and "
    f".aselmdb also with {', '.join(_PACKED)}"
)
RUN_FORMATS = ("vasp-xml", "vasp-out")  # all steps of a relaxation
_HELD = "selective_dynamics"


def format_of(path: str | os.PathLike) -> str | None:
    """Return the name of a file's format, or None if it is unknown.

    Example:
        >>> format_of("run/CONTCAR.extxyz"), format_of("POSCAR_2.gz")
        ('extxyz', 'vasp')
    """
    name, packed = _without_packing(Path(path).name)
    suffix = os.path.splitext(name)[1]
    found = _SUFFIXES.get(suffix.lower())
    if found is None:
        for start, format in _VASP_NAMES.items():
            if name.startswith(start) and (suffix == ".xml") == (start == "vasprun"):
                found = format
    return None if packed and found in ("lmdb", "aselmdb") else found


def stem_of(path: str | os.PathLike) -> str:
    """Return the name of a file without folder and known suffixes."""
    name = _without_packing(Path(path).name)[0]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in (*_SUFFIXES, ".xml") else name


def _without_packing(name: str) -> tuple[str, str]:
    stem, suffix = os.path.splitext(name)
    return (stem, suffix.lower()) if suffix.lower() in _PACKED else (name, "")


def iter_frames(
    path: str, index: int | slice | None = None
) -> Iterator[tuple[int, Atoms]]:
    """Yield number and atoms of the frames of a file, one at a time.

    Args:
        path: The file, of a format of :func:`format_of` except ``lmdb``.
        index: Frames to read; None reads all.

    Yields:
        The number of the frame in the file, from 0, also for a negative index.

    Raises:
        InputError: The file is too large when unpacked, or has no such frame.
        Exception: Any class; the readers of ASE raise many.
    """
    format = format_of(path)
    with _unpacked(path) as plain:
        frames = _picked(plain, format, slice(None) if index is None else index)
        for number, atoms in frames:
            if format == "vasp-out" and plain != path and not atoms.constraints:
                atoms.set_constraint(_constraints_beside(path))
            yield number, atoms


@contextlib.contextmanager
def _unpacked(path: str) -> Iterator[str]:
    """Give the path itself, or that of its unpacked copy while it is in use."""
    name, packing = _without_packing(os.path.basename(path))
    if not packing:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ppmat_") as folder:
        plain = os.path.join(folder, name)
        size = 0
        with open(plain, "wb") as target:
            for chunk in _unpacked_chunks(path, packing):
                size += len(chunk)
                if size > MAX_UNPACKED:
                    raise InputError(
                        f"is larger than {MAX_UNPACKED >> 20} MiB when unpacked",
                        hint="Unpack it yourself.",
                    )
                target.write(chunk)
        yield plain


def _unpacked_chunks(path: str, packing: str) -> Iterator[bytes]:
    """Yield the content of a packed file in chunks of at most 1 MiB."""
    if packing != ".xz":
        with (gzip.open if packing == ".gz" else bz2.open)(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        return
    with open(path, "rb") as file:  # lzma.open has no limit for its own memory
        rest = file.read(_CHUNK)
        while rest:
            stream = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            while not stream.eof:
                yield stream.decompress(rest, _CHUNK)
                rest = b""
                if stream.needs_input and not stream.eof:
                    rest = file.read(_CHUNK)
                    if not rest:
                        raise EOFError("the compressed file is cut short")
            rest = stream.unused_data or file.read(_CHUNK)
            rest = rest.lstrip(b"\0") or file.read(_CHUNK)  # padding between streams


def _picked(path: str, format: str, index: int | slice) -> Iterator[tuple[int, Atoms]]:
    if isinstance(index, int) and index >= 0:
        index = slice(index, index + 1)
    start, stop, step = (
        (index.start, index.stop, index.step) if isinstance(index, slice) else (-1,) * 3
    )
    if any(value is not None and value < 0 for value in (start, stop, step)):
        yield from _picked_from_end(path, format, index)
        return
    numbers = itertools.count(start or 0, step or 1)
    yield from zip(numbers, _frames(path, format, index), strict=False)


def _picked_from_end(
    path: str, format: str, index: int | slice
) -> Iterator[tuple[int, Atoms]]:
    """Count the frames first, so that each has its true number."""
    total = sum(1 for _ in _frames(path, format, slice(None)))
    if isinstance(index, int):
        if total + index < 0:
            raise InputError(f"has {total} frames, so no frame {index}")
        numbers = range(total + index, total + index + 1)
    else:
        numbers = range(total)[index]
    if numbers.step > 0:
        wanted = slice(numbers.start, numbers.stop, numbers.step)
        yield from zip(numbers, _frames(path, format, wanted), strict=False)
        return
    for number in numbers:
        for atoms in _frames(path, format, slice(number, number + 1)):
            yield number, atoms


def _frames(path: str, format: str, index: slice) -> Iterable[Atoms]:
    """Read frames by a slice without negative numbers."""
    if format in _READERS:
        frames = _READERS[format](path)
        return itertools.islice(frames, index.start, index.stop, index.step)
    if format == "extxyz":
        _check_extxyz(path)
    elif format in ("vasp", "vasp-out"):
        _check_counts(path, format)
    return iread(path, index=index, format=format, do_not_split_by_at_sign=True)


def _check_counts(path: str, format: str) -> None:
    """Refuse more atoms than bytes, for which ASE would make a list."""
    size = os.path.getsize(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        if format == "vasp":
            lines = list(itertools.islice(file, 7))[5:]
        else:
            lines = [line for line in file if "ions per type" in line]
    for line in lines:
        counts = [int(word) for word in line.split() if word.isdecimal()]
        if sum(counts) > size:
            raise InputError(
                f"declares {sum(counts)} atoms, but has {size} bytes; it is damaged"
            )


def _check_extxyz(path: str) -> None:
    """Refuse more atoms than lines, and columns without end, which ASE would follow."""
    with open(path, encoding="utf-8") as file:
        for frame in itertools.count():
            while (line := file.readline()).lstrip().startswith("VEC"):
                pass  # cell vectors of an older kind of file, after the atoms
            if not line.strip():
                return
            atoms, comment = int(line), file.readline()
            found = sum(1 for _ in itertools.islice(file, max(0, atoms)))
            if found < atoms:
                raise InputError(
                    f"frame {frame} has {atoms} atoms, but {found} lines follow; the "
                    "file is damaged or cut short"
                )
            columns = key_val_str_to_dict(comment).get("Properties", "")
            counts = [int(count) for count in str(columns).split(":")[2::3]]
            if sum(counts) > _MAX_COLUMNS or min(counts, default=1) < 1:
                raise InputError(
                    f"frame {frame} has {sum(counts)} columns in Properties",
                    wanted=f"at most {_MAX_COLUMNS}, at least 1 of each",
                )


def _constraints_beside(path: str) -> list:
    """Return the constraints of the structure in the folder of a VASP run."""
    for name in ("CONTCAR", "POSCAR"):
        for file in (Path(path).with_name(name), Path(path).with_name(f"{name}.gz")):
            if file.is_file():
                return read(file, format="vasp").constraints
    return []


# Databases and JSON ----------------------------------------------------------------


def _read_database(path: str, kind: str = "db") -> Iterator[Atoms]:
    if kind == "db":
        _check_database(path)
    with connect(path, type=kind, serial=True) as database:
        for row in database.select():
            yield _atoms_of_row(row)


def _check_database(path: str) -> None:
    """Refuse a file that is no database of ASE, to which ASE would add tables."""
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master").fetchall()
    if ("systems",) not in found:
        raise InputError("is no database of ASE: it has no table 'systems'")


def _atoms_of_row(row: AtomsRow) -> Atoms:
    atoms = row.toatoms()
    plain = (str, int, float, bool)
    data = (row.get("data") or {}).items()
    atoms.info.update({name: v for name, v in data if isinstance(v, plain)})
    atoms.info.update(row.key_value_pairs)
    return atoms


def _read_json(path: str) -> Iterator[Atoms]:
    size = os.path.getsize(path)
    if size > _MAX_JSON:
        raise InputError(f"has {size >> 20} MiB", wanted=f"at most {_MAX_JSON >> 20}")
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    if isinstance(content, dict) and "ids" in content:
        yield from _read_database(path, "json")
        return
    for item in content if isinstance(content, list) else [content]:
        if not isinstance(item, Mapping) or "sites" not in item:
            raise InputError(
                "holds neither a database of ASE nor a structure of pymatgen"
            )
        yield _atoms_of_pymatgen(item)


def _atoms_of_pymatgen(content: Mapping) -> Atoms:
    """Make atoms of a pymatgen ``Structure`` or ``Slab`` as its ``as_dict`` wrote it.

    pymatgen's own reader imports the modules that a file names, so it is not used.
    """
    lattice = np.asarray(content["lattice"]["matrix"], dtype=float)
    sites = content["sites"]
    symbols, columns = [], {}
    for site in sites:
        (kind,) = site["species"] if len(site["species"]) == 1 else (None,)
        if kind is None or kind.get("occu", 1) != 1:
            raise InputError("has partly occupied sites", hint="Choose one ordering.")
        symbols.append(str(kind["element"]).rstrip("+-0123456789"))
        for name, value in (site.get("properties") or {}).items():
            columns.setdefault(name, []).append(value)
    atoms = Atoms(
        symbols,
        scaled_positions=np.asarray([site["abc"] for site in sites], dtype=float),
        cell=lattice,
        pbc=content["lattice"].get("pbc", True),
    )
    full = {name: values for name, values in columns.items() if _full(values, atoms)}
    if "tags" in full:
        atoms.set_tags(full["tags"])
    elif "surface_properties" in full:
        atoms.set_tags(tags_of_properties(full["surface_properties"]))
    if "fixed" in full:
        atoms.set_constraint(FixAtoms(mask=np.asarray(full["fixed"], dtype=bool)))
    elif _HELD in full:
        held = held_sites(full[_HELD], "selective_dynamics")
        atoms.set_constraint(FixAtoms(mask=held))
    return atoms


def _full(values: list, atoms: Atoms) -> bool:
    return len(values) == len(atoms) and all(value is not None for value in values)


def _read_aselmdb(path: str) -> Iterator[Atoms]:
    """Read an ASE database in LMDB, as fairchem and its data sets have them.

    Keys are the row numbers as text, values the JSON of a row, packed with zlib.
    """
    file = LMDBFile(path)
    last, deleted = (_value_of(file, key) or 0 for key in ("nextid", "deleted_ids"))
    last = last - 1 if last else len(file)
    gaps = len(deleted) if deleted else 0
    if last > len(file) + gaps:
        raise InputError(
            f"key 'nextid' says {last} rows, but the file has {len(file)} entries and "
            f"{gaps} deleted rows",
            hint="The file is incomplete, or no ASE database.",
        )
    for key in range(1, last + 1):
        if (row := _value_of(file, str(key))) is None:
            continue
        if not isinstance(row, dict):
            raise InputError(f"key '{key}' holds no row of an ASE database")
        yield _atoms_of_row(AtomsRow({**row, "id": key}))


def _value_of(file: LMDBFile, key: str) -> Any:
    """Return what the JSON text of a key says, or None if there is no such key."""
    data = file.get(key.encode())
    if data is None:
        return None
    unpack = zlib.decompressobj()
    text = unpack.decompress(data, _MAX_ROW)
    if unpack.unconsumed_tail:
        raise InputError(f"key '{key}' is larger than {_MAX_ROW >> 20} MiB")
    return decode(text.decode())


_READERS = {"db": _read_database, "json": _read_json, "aselmdb": _read_aselmdb}
