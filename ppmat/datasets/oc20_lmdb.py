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

"""OC20 IS2RE / IS2RS records in LMDB files: finding and reading.

The format is that of the Open Catalyst Project (fairchem documentation,
``core/datasets/oc20.md``). Each split is one file without sub-folder. Its keys are "0",
"1", ... as text, its values pickled PyTorch Geometric objects, which
:mod:`ppmat.datasets.pyg_pickle` reads without torch. The command
``python -m ppmat.commands.oc20`` checks and writes such files.
"""

from __future__ import annotations

import bisect
import copy
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import overload

import numpy as np

from ppmat.datasets import pyg_pickle
from ppmat.datasets.lmdb_file import LMDBFile
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.pyg_pickle import OC20FormatError

SUBSETS = ("10k", "100k", "all")
SPLITS = ("train",) + tuple(
    f"{stage}_{kind}"
    for stage in ("val", "test")
    for kind in ("id", "ood_ads", "ood_cat", "ood_both")
)
# Folders of the splits in the official archive, and after the official script.
_TREES = ("", "is2re", "data/is2re", "is2res_train_val_test_lmdbs/data/is2re")


def lmdb_files(path: Path) -> list[Path]:
    """Return the LMDB files of a path: itself, or those in the folder, by name."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; wanted the root of the OC20 files, the folder of "
            "a split or an LMDB file"
        )
    if path.is_file():
        return [path]
    files = [file for file in path.glob("*.lmdb") if file.is_file()]
    return sorted(files) or [file for file in [path / "data.mdb"] if file.is_file()]


def find_split(root: str | os.PathLike, split: str, subset: str = "all") -> Path:
    """Return the folder or file that holds one split.

    A ``root`` that is a file or holds LMDB files is the split itself. Otherwise the
    split is ``<split>``, ``<subset>/train`` or ``all/<split>`` below ``root``, or below
    its folder ``is2re`` of the official archive or script.

    Args:
        root: Root of the data.
        split: "train", "val_id", ... or any folder name.
        subset: "10k", "100k" or "all", of the train split.

    Raises:
        FileNotFoundError: There is no such split.
        OC20FormatError: ``root`` is itself a split, but another one.
    """
    root = Path(root)
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


class OC20LMDB:
    """The rows of one split, as a sequence of :class:`OC20Record` in index order.

    Files are opened at first use, so forked and spawned workers can use an object. A
    row without ``sid`` gets its row number as id, or "<file>_<row>" in a folder of
    several files. ``rows[10:20]`` and ``rows[[3, 1, 4]]`` are the same object with
    fewer rows, also of the type ``OC20LMDB``.

    Args:
        path: An LMDB file, a folder of them (in the order of their names), or with
            ``split`` the root of the data.
        split: See :func:`find_split`.
        subset: See :func:`find_split`.
        readahead: Let the system read ahead: good for one pass in order, bad for
            random access to a file larger than memory.

    Raises:
        FileNotFoundError: There is no such file or folder.
        OC20FormatError: A file is no LMDB file, is empty, or has other contents.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        split: str | None = None,
        subset: str = "all",
        readahead: bool = False,
    ) -> None:
        self.path = Path(path) if split is None else find_split(path, split, subset)
        self.files = lmdb_files(self.path)
        self.readahead = readahead
        if not self.files:
            found = ", ".join(map(str, splits_below(self.path)))
            raise FileNotFoundError(
                f"{self.path}: no *.lmdb file in this folder"
                + (f"; choose one of its splits: {found}" if found else "")
            )
        self.close()
        counts = [self._count(number) for number in range(len(self.files))]
        self._ends = list(itertools.accumulate(counts))
        self._selected: np.ndarray | None = None  # rows of a selection
        self.close()

    def __len__(self) -> int:
        return self._ends[-1] if self._selected is None else len(self._selected)

    @overload
    def __getitem__(self, index: int) -> OC20Record:
        """Return a record."""

    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> OC20LMDB:
        """Return the rows of a slice, list or mask."""

    def __getitem__(self, index: Any) -> Any:
        """Return a record, or the rows of a slice, list or mask as an ``OC20LMDB``."""
        if isinstance(index, (slice, list, tuple, range, np.ndarray)):
            return self._select(index)
        number, row = self._locate(index)
        sid = str(row) if len(self.files) == 1 else f"{self.files[number].stem}_{row}"
        record = OC20Record.from_fields(self.fields(index), self.where(index), sid)
        record.source, record.frame = str(self.files[number]), row
        return record

    @property
    def selected(self) -> np.ndarray | None:
        """Numbers of the rows of a selection, int64; None for all rows."""
        return self._selected

    def _select(self, index: Any) -> OC20LMDB:
        rows = np.arange(len(self)) if self._selected is None else self._selected
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index.astype(np.int64) if index.size == 0 else index
            if index.dtype.kind not in "biu" or index.ndim != 1:
                raise TypeError(
                    "rows are selected by a slice, a list of integers or a mask"
                )
        try:
            selected = rows[index]
        except IndexError as error:
            raise IndexError(f"{error} in {self.path}") from None
        chosen = copy.copy(self)
        chosen._selected = selected
        chosen.close()
        return chosen

    def fields(self, index: int) -> dict[str, Any]:
        """Return the fields of one row as stored (see :func:`pyg_pickle.loads`)."""
        return pyg_pickle.loads(self.raw(index), self.where(index))

    def raw(self, index: int) -> bytes:
        """Return the pickled bytes of one row."""
        number, row = self._locate(index)
        try:  # a page may be damaged
            data = self._file(number).get(str(row).encode("ascii"))
        except OC20FormatError as err:
            where = self.where(index)
            raise OC20FormatError(err.found, where=where, hint=err.hint) from err
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
        self._opened: dict[int, LMDBFile] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __repr__(self) -> str:
        rows = len(self) if self._selected is None else f"{len(self)} selected"
        return f"OC20LMDB({str(self.path)!r}, {rows} rows)"

    def _locate(self, index: int) -> tuple[int, int]:
        row = int(index)
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        if self._selected is not None:
            row = int(self._selected[row])
        number = bisect.bisect_right(self._ends, row)
        return number, row - (self._ends[number - 1] if number else 0)

    def _file(self, number: int) -> LMDBFile:
        if number not in self._opened:
            self._opened[number] = LMDBFile(self.files[number], self.readahead)
        return self._opened[number]

    def _count(self, number: int) -> int:
        """Return the rows of a file: its ``length`` if it has one, else its entries."""
        file, path = self._file(number), self.files[number]
        count = entries = len(file)
        stored, first = file.get(b"length"), file.get(b"0")
        if stored is not None:
            try:
                count = pyg_pickle.load_plain(stored)
            except OC20FormatError as err:
                raise OC20FormatError(f"{path} key 'length': {err}") from err
            if type(count) is not int or not 0 <= count < entries:
                found = count if type(count) is int else type(count).__name__
                raise OC20FormatError(
                    f"{path} key 'length': is {found}, but the file has "
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


if __name__ == "__main__":
    raise SystemExit("this command has moved: python -m ppmat.commands.oc20")
