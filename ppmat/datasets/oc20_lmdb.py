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

"""OC20 IS2RE / IS2RS records in LMDB files: reading, checking, writing.

    >>> rows = OC20LMDB("is2re/10k/train")
    >>> rows[0].pos.shape, rows[0].y_relaxed

On the command line::

    python -m ppmat.datasets.oc20_lmdb check PATH
    python -m ppmat.datasets.oc20_lmdb write OUT.lmdb INPUT.traj INPUT.extxyz ...

The format is that of the Open Catalyst Project (fairchem documentation,
``core/datasets/oc20.md``): one file per split without sub-folder, keys "0", "1", ...
as text, values pickled PyTorch Geometric objects, which
:mod:`ppmat.datasets.pyg_pickle` reads without torch.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import os
import sys
import threading
import warnings
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from ase.data import chemical_symbols
from tqdm import tqdm

from ppmat.datasets import pyg_pickle
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_record import record_from_frames
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.utils import restricted_pickle

SUBSETS = ("10k", "100k", "all")
SPLITS = ("train",) + tuple(
    f"{stage}_{kind}"
    for stage in ("val", "test")
    for kind in ("id", "ood_ads", "ood_cat", "ood_both")
)
# Where the official archive, and what its own script makes of it, keep the splits.
_TREES = ("", "is2re", "data/is2re", "is2res_train_val_test_lmdbs/data/is2re")

_BATCH_BYTES = 64 << 20
_FIRST_MAP = 1 << 24

# `python -m` warns that importing the package has imported this module already.
warnings.filterwarnings("ignore", "'ppmat.datasets.oc20_lmdb' found", RuntimeWarning)


# Finding files -----------------------------------------------------------------------


def lmdb_files(path: Path) -> list[Path]:
    """Return the LMDB files ``path`` stands for: itself, or those directly inside it,
    sorted by name."""
    if path.is_file():
        return [path]
    files = [file for file in path.glob("*.lmdb") if file.is_file()]
    return sorted(files) or [file for file in [path / "data.mdb"] if file.is_file()]


def find_split(root: str | os.PathLike, split: str, subset: str = "all") -> Path:
    """Return the folder or file that holds one split.

    Looked for in ``root`` itself and below ``is2re``, ``data/is2re`` and
    ``is2res_train_val_test_lmdbs/data/is2re`` (the official archive and what the
    official script makes of it): ``<split>``, then ``<subset>/train`` or
    ``all/<split>``. A ``root`` that is a file or holds LMDB files is the split itself.

    Args:
        root: Root of the data.
        split: "train", "val_id", ... or any folder name.
        subset: "10k", "100k" or "all"; of meaning where train has subsets.

    Raises:
        FileNotFoundError: Nothing there.
        OC20FormatError: ``root`` is itself a split, but another one.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(
            f"{root} does not exist; expected the root of the OC20 files, a split "
            "folder or an LMDB file"
        )
    if lmdb_files(root):
        name = root.parent.name if root.is_file() else root.name
        if name in SPLITS and name != split:
            raise OC20FormatError(
                f"{root}: is the split '{name}', but '{split}' is wanted; give the "
                "folder above, which holds all splits"
            )
        return root
    for tree in _TREES:
        for part in ("", subset if split == "train" else "all"):
            folder = root / tree / part / split
            if folder.is_dir() and lmdb_files(folder):
                return folder
    raise FileNotFoundError(
        f"{root}: no split '{split}' (subset '{subset}') here; found "
        + (", ".join(map(str, splits_below(root))) or "no *.lmdb file at all")
    )


def splits_below(root: Path) -> list[Path]:
    """Return the folders of the known layouts below ``root`` that hold LMDB files."""
    folders = {root / tree for tree in _TREES}
    folders |= {folder / subset for folder in folders for subset in SUBSETS}
    return sorted(
        folder
        for parent in folders
        if parent.is_dir()
        for folder in parent.iterdir()
        if folder.is_dir() and lmdb_files(folder)
    )


# Environments ------------------------------------------------------------------------

# LMDB refuses to open a file twice in a process, so environments are shared and
# counted. A child must not use its parent's, and must close its copies before it can
# open its own.
_ENVIRONMENTS: dict[tuple[int, int, int], list] = {}
# Re-entrant: the garbage collector may close one object while another one opens.
_LOCK = threading.RLock()


def _forget_inherited() -> None:
    global _LOCK
    _LOCK = threading.RLock()
    for env, _ in _ENVIRONMENTS.values():
        env.close()
    _ENVIRONMENTS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)


def _acquire(path: Path, readahead: bool) -> tuple[tuple[int, int, int], Any]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: the LMDB file does not exist") from None
    key = (os.getpid(), status.st_dev, status.st_ino)
    with _LOCK:
        entry = _ENVIRONMENTS.get(key)
        if entry is None:
            try:
                env = lmdb.open(
                    str(path),
                    subdir=False,
                    readonly=True,
                    lock=False,
                    readahead=readahead,
                    meminit=False,
                    max_readers=1,
                )
            except lmdb.Error as err:
                raise OC20FormatError(
                    f"{path}: cannot be opened as an LMDB file "
                    f"({status.st_size} bytes): {err}"
                ) from err
            entry = _ENVIRONMENTS[key] = [env, 0]
        entry[1] += 1
        return key, entry[0]


def _release(key: tuple[int, int, int]) -> None:
    with _LOCK:
        entry = _ENVIRONMENTS.get(key)
        if entry is not None:
            entry[1] -= 1
            if entry[1] == 0:
                entry[0].close()
                del _ENVIRONMENTS[key]


class OC20LMDB:
    """The rows of one split, as a sequence of :class:`OC20Record` in index order.

    Files are opened at first use in each process, so an object can be handed to forked
    and spawned workers, and any number of objects may read the same file. Opening
    reads no rows. A row without ``sid`` gets its row number, "<file>_<row>" in a folder
    of several files.

    Args:
        path: An LMDB file, a folder of them (rows follow in the order of the file
            names), or with ``split`` the root of the data, see :func:`find_split`.
        split: Name of the split below ``path``.
        subset: "10k", "100k" or "all", see :func:`find_split`.
        readahead: Let the system read ahead: good for one pass in order, bad for
            shuffled access to a file larger than memory.

    Raises:
        FileNotFoundError: Nothing there.
        OC20FormatError: A file is no LMDB, is empty, or holds something else.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        split: str | None = None,
        subset: str = "all",
        readahead: bool = False,
    ) -> None:
        root = Path(path) if split is None else find_split(path, split, subset)
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist; expected an LMDB file")
        self.path = root
        self.files = lmdb_files(root)
        self.readahead = readahead
        self._held: dict[int, tuple] = {}
        self._pid = os.getpid()
        if not self.files:
            found = ", ".join(map(str, splits_below(root)))
            raise FileNotFoundError(
                f"{root}: no *.lmdb file in this folder"
                + (f"; choose one of its splits: {found}" if found else "")
            )
        self._ends: list[int] = []
        for number in range(len(self.files)):
            total = self._ends[-1] if self._ends else 0
            self._ends.append(total + self._count(number))
        self.close()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> OC20Record:
        fields = self.fields(index)
        return OC20Record.from_fields(fields, self.where(index), self._row_name(index))

    def fields(self, index: int) -> dict[str, Any]:
        """Return the fields of one row as stored (see :func:`pyg_pickle.loads`)."""
        return pyg_pickle.loads(self.raw(index), self.where(index))

    def raw(self, index: int) -> bytes:
        """Return the pickled bytes of one row."""
        number, row = self._locate(index)
        with self._environment(number).begin() as txn:
            data = txn.get(str(row).encode("ascii"))
        if data is None:
            raise OC20FormatError(
                f"{self.where(index)}: the key is missing; the file holds "
                f"{self._ends[-1]} rows by its own count"
            )
        return data

    def where(self, index: int) -> str:
        """Return file and key of one row, as errors name them."""
        number, row = self._locate(index)
        return f"{self.files[number]} key '{row}'"

    def close(self) -> None:
        """Close the files; the next access opens them again."""
        held, self._held = self._held, {}
        if self._pid == os.getpid():
            for key, _ in held.values():
                _release(key)

    def __del__(self) -> None:
        if getattr(self, "_held", None):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}, "_pid": None}

    def __repr__(self) -> str:
        return f"OC20LMDB({str(self.path)!r}, {len(self)} rows)"

    def _locate(self, index: int) -> tuple[int, int]:
        row = int(index)
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        number = bisect.bisect_right(self._ends, row)
        return number, row - (self._ends[number - 1] if number else 0)

    def _row_name(self, index: int) -> str:
        number, row = self._locate(index)
        return str(row) if len(self.files) == 1 else f"{self.files[number].stem}_{row}"

    def _environment(self, number: int) -> Any:
        if self._pid != os.getpid():
            self._held = {}
            self._pid = os.getpid()
        if number not in self._held:
            self._held[number] = _acquire(self.files[number], self.readahead)
        return self._held[number][1]

    def _count(self, number: int) -> int:
        """Return the rows of a file: its ``length`` if it has one, else its entries."""
        env = self._environment(number)
        path = self.files[number]
        entries = env.stat()["entries"]
        with env.begin() as txn:
            stored = txn.get(b"length")
            first = txn.get(b"0")
        if stored is None:
            count = entries
        else:
            try:
                count = restricted_pickle.loads(stored, {})
            except restricted_pickle.RestrictedPickleError as err:
                raise OC20FormatError(f"{path} key 'length': {err}") from err
            if type(count) is not int or not 0 <= count < entries:
                raise OC20FormatError(
                    f"{path} key 'length': is {str(count)[:40]}, but the file has "
                    f"{entries - 1} other entries"
                )
        if count == 0:
            raise OC20FormatError(f"{path}: the LMDB file is empty")
        if first is None:
            raise OC20FormatError(
                f"{path}: has {entries} entries but no key '0'; an OC20 file numbers "
                "its records '0', '1', ..."
            )
        return count


# Writing -----------------------------------------------------------------------------


def write_lmdb(
    path: str | os.PathLike,
    records: Iterable[OC20Record],
    generation: str = "old",
    overwrite: bool = False,
) -> int:
    """Write records to one LMDB file, as the official files hold them.

    The file appears under its name only when it is complete.

    Args:
        path: The file.
        records: Any iterable; only a few are kept in memory.
        generation: Pickle generation, see :func:`pyg_pickle.dumps`.
        overwrite: Replace an existing file.

    Returns:
        The number of records.

    Raises:
        FileExistsError: The file exists and ``overwrite`` is False.
        OSError: The disk is full or cannot be written to; nothing is left behind.
        OC20FormatError: A record cannot be written, or there is none.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or overwrite it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        with lmdb.open(
            str(partial), subdir=False, lock=False, map_size=_FIRST_MAP
        ) as env:
            count = _write_batches(env, path, records, generation)
            env.sync(True)
        os.replace(partial, path)
    except lmdb.Error as err:
        raise OSError(f"{path}: cannot be written: {err}") from err
    finally:
        partial.unlink(missing_ok=True)
    return count


def _write_batches(env: Any, path: Path, records: Iterable, generation: str) -> int:
    batch: list[tuple[bytes, bytes]] = []
    size = 0
    count = 0
    for record in records:
        where = f"{path} key '{count}' (sid {record.sid})"
        fields = record.to_fields()
        OC20Record.from_fields(fields, where)
        data = pyg_pickle.dumps(fields, generation)
        batch.append((str(count).encode("ascii"), data))
        size += len(data)
        count += 1
        if size >= _BATCH_BYTES:
            _put(env, batch, size)
            batch, size = [], 0
    _put(env, batch, size)
    if count == 0:
        raise OC20FormatError(f"{path}: no records to write")
    return count


def _put(env: Any, batch: list[tuple[bytes, bytes]], size: int) -> None:
    # The map grows with the content: an oversized one needs a sparse file, which not
    # every file system has.
    while True:
        try:
            with env.begin(write=True) as txn:
                for key, data in batch:
                    txn.put(key, data)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()["map_size"] + 2 * size)


# Command line ------------------------------------------------------------------------


class _Range:
    """Count, smallest, mean, largest and standard deviation of a stream of numbers."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, value: float | None) -> None:
        if value is None:
            return
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self.squares += step * (value - self.mean)
        self.low, self.high = min(self.low, value), max(self.high, value)

    def __str__(self) -> str:
        if not self.count:
            return "none"
        spread = (self.squares / self.count) ** 0.5
        return (
            f"{self.count} values, {self.low:.4g} .. {self.high:.4g}, mean "
            f"{self.mean:.6g}, std {spread:.6g}"
        )


def check(path: str | os.PathLike, max_faults: int = 10) -> int:
    """Read every row below ``path`` and print statistics and the first faults.

    Args:
        path: A file, a split folder, or a root with several splits.
        max_faults: Faults printed; all are counted.

    Returns:
        The number of faulty rows and files.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist")
    sources = [root] if lmdb_files(root) else splits_below(root)
    if not sources:
        raise FileNotFoundError(f"{root}: no *.lmdb file here or in a known split")
    total = 0
    for source in sources:
        faults: list[str] = []
        try:
            rows = OC20LMDB(source, readahead=True)
        except OC20FormatError as err:
            print(f"{source}\n  fault: {err}")
            total += 1
            continue
        _check_rows(rows, faults)
        for fault in faults[:max_faults]:
            print(f"  fault: {fault}")
        if len(faults) > max_faults:
            print(f"  ... and {len(faults) - max_faults} more")
        total += len(faults)
    print(f"{'FAULTY' if total else 'OK'}: {total} faults in {len(sources)} splits")
    return total


def _check_rows(rows: OC20LMDB, faults: list[str]) -> None:
    names = (
        "atoms a structure",
        "free atoms",
        "edges an atom",
        "y_init (eV)",
        "y_relaxed (eV)",
        "largest displacement (Å)",
    )
    ranges = {name: _Range() for name in names}
    elements: collections.Counter = collections.Counter()
    tags: collections.Counter = collections.Counter()
    seen: set[str] = set()
    for index in tqdm(range(len(rows)), desc=str(rows.path), unit="row"):
        try:
            record = rows[index]
        except OC20FormatError as err:
            faults.append(str(err))
            continue
        if record.sid in seen:
            faults.append(f"{rows.where(index)}: sid {record.sid} appears twice")
        seen.add(record.sid)
        natoms = len(record.pos)
        moved = record.displacement
        values = (
            natoms,
            natoms - int(record.fixed.sum()),
            None if record.edge_index is None else record.edge_index.shape[1] / natoms,
            record.y_init,
            record.y_relaxed,
            None if moved is None else np.linalg.norm(moved, axis=1).max(),
        )
        for name, value in zip(names, values, strict=True):
            ranges[name].add(value)
        elements.update(set(record.atomic_numbers.tolist()))
        tags.update(record.tags.tolist())
    print(f"{rows.path}\n  records: {len(rows)} in {len(rows.files)} files")
    for name, values in ranges.items():
        print(f"  {name}: {values}")
    counts = ", ".join(
        f"{chemical_symbols[z]} {n}" for z, n in sorted(elements.items())
    )
    print(f"  structures with element: {counts}")
    print("  atoms by tag: " + ", ".join(f"{t}: {n}" for t, n in sorted(tags.items())))


def _frames_to_records(
    inputs: list[str], energy_key: str | None, sid_key: str | None
) -> Iterator[OC20Record]:
    # Imported here because every data worker imports this module.
    from ase.io import read as read_frames

    seen: dict[str, str] = {}
    for name in tqdm(inputs, unit="file"):
        frames = read_frames(name, index=":")
        if not frames:
            raise OC20FormatError(f"{name}: holds no structure")
        sid = Path(name).stem
        if sid_key is not None:
            if sid_key not in frames[0].info:
                raise OC20FormatError(f"{name}: no '{sid_key}' in atoms.info")
            sid = str(frames[0].info[sid_key])
        if sid in seen:
            raise OC20FormatError(f"{name}: sid {sid} is already that of {seen[sid]}")
        seen[sid] = name
        yield record_from_frames(frames, sid, energy_key)


def main(argv: list[str] | None = None) -> int:
    """Run ``check`` or ``write``; return the exit status, 1 if there is any fault."""
    parser = argparse.ArgumentParser(prog="python -m ppmat.datasets.oc20_lmdb")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="read every row, print statistics")
    checking.add_argument("path", help="LMDB file, split folder, or root of the splits")
    checking.add_argument("--max-faults", type=int, default=10, help="faults to print")
    writing = commands.add_parser(
        "write",
        help="make a file from relaxations",
        description="Each input (ASE trajectory, extxyz, ...) is one system: its first "
        "frame is the initial structure, its last the relaxed one. Tags and FixAtoms "
        "are kept.",
    )
    writing.add_argument("out", help="LMDB file to write")
    writing.add_argument("inputs", nargs="+", help="files that ase.io.read understands")
    writing.add_argument(
        "--energy-key",
        help="key of atoms.info with your adsorption energy in eV (never a total "
        "energy); without it no energy is written",
    )
    writing.add_argument("--sid-key", help="key of atoms.info with the id; else stem")
    writing.add_argument("--overwrite", action="store_true", help="replace the file")
    args = parser.parse_args(argv)
    try:
        if args.command == "check":
            return 1 if check(args.path, args.max_faults) else 0
        records = _frames_to_records(args.inputs, args.energy_key, args.sid_key)
        count = write_lmdb(args.out, records, overwrite=args.overwrite)
        print(f"{args.out}: {count} records")
        return 0
    except (OC20FormatError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    # The package has imported this module already; use that one, not a second copy.
    from ppmat.datasets import oc20_lmdb

    sys.exit(oc20_lmdb.main())
