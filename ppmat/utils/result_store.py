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

"""Results on disk while a run makes them, so that an interrupted run can be resumed.

:class:`ResultStore` keeps the results of ``model.sample``: for each structure one dict
of plain lists and numbers. Each batch is one file of arrays, ``part_<batch>.npz``. Runs
with different settings (weights, data, seed, ...) have different folders, named by a
hash of the settings; ``run.json`` lists them.

:class:`RowFile` keeps one line for each structure in a CSV file that the user named;
``<file>.run.json`` beside it lists settings and valid rows. Other settings are refused.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import zipfile
import zlib
from array import array
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from typing import NamedTuple

import numpy as np

from ppmat.utils.files import RunManifest
from ppmat.utils.files import StoredRunError
from ppmat.utils.files import replacing

Result = dict[str, Any]

_FORMAT = 2  # of the parts; another number starts another folder
_MAX_KEPT = 2**28  # bytes of parts in memory, so that most runs read no file twice


class ResultStore(Sequence):
    """The results of one run, readable as a sequence once all parts exist.

    Args:
        folder: Folder of all runs; made if missing.
        settings: All that determines the results, as plain values.
        num_parts: Number of batches of the run.
        part_size: Results in each part; the last may hold fewer.
        num_results: Results in all parts together.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = ResultStore(folder, {"seed": 1}, 1, 2, 2)
        ...     store.write(0, [{"id": "a", "x": [0.5]}, {"id": "b", "x": [1.5, 2.0]}])
        ...     ResultStore(folder, {"seed": 1}, 1, 2, 2)[1]
        {'id': 'b', 'x': [1.5, 2.0]}
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: Mapping[str, Any],
        num_parts: int,
        part_size: int,
        num_results: int,
    ) -> None:
        settings = {**settings, "results": num_results, "format": _FORMAT}
        text = json.dumps(settings, sort_keys=True, default=lambda a: a.tolist())
        self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:12]
        self.num_parts = num_parts
        self._part_size, self._num_results = part_size, num_results
        self._kept: dict[int, list[dict[str, np.ndarray]]] = {}
        self._kept_bytes = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "run.json"
        manifest = RunManifest(path, settings, f"Delete {self.folder} and run again.")
        if not path.exists():
            manifest.write()

    def _path(self, part: int) -> Path:
        return self.folder / f"part_{part:06d}.npz"

    def has(self, part: int) -> bool:
        """Return whether the results of batch ``part`` are stored."""
        return self._path(part).exists()

    def write(self, part: int, results: list[Result]) -> None:
        """Store the results of one batch, completely or not at all.

        Raises:
            TypeError: A result holds more than numbers, text and nested lists.
        """
        arrays = _pack(results)
        with replacing(self._path(part)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        self._keep(part, arrays)

    def _keep(self, part: int, arrays: dict[str, np.ndarray]) -> list:
        rows = _unpack(arrays)
        size = sum(values.nbytes for values in arrays.values())
        if self._kept_bytes + size <= _MAX_KEPT:
            self._kept[part] = rows
            self._kept_bytes += size
        return rows

    def _read(self, part: int) -> list[dict[str, np.ndarray]]:
        if part in self._kept:
            return self._kept[part]
        path = self._path(part)
        try:
            with np.load(path) as file:
                return self._keep(part, dict(file))
        except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
            raise StoredRunError(f"{path} is damaged; delete it, run again") from None

    def __len__(self) -> int:
        return self._num_results

    def __getitem__(self, index: int) -> Result:
        if not -len(self) <= index < len(self):
            raise IndexError(f"result {index} of {len(self)}")
        part, row = divmod(index % len(self), self._part_size)
        return _to_lists(self._read(part)[row])

    def __iter__(self) -> Iterator[Result]:
        for part in range(self.num_parts):
            yield from map(_to_lists, self._read(part))


def _pack(results: list[Result]) -> dict[str, np.ndarray]:
    """Return results as arrays: the values of each key in one row, and all shapes."""
    shapes: list[dict[str, tuple]] = []
    values: dict[str, list[np.ndarray]] = {}
    for result in results:
        shapes.append({})
        for name, value in result.items():
            try:
                value = np.asarray(value)
            except ValueError:  # a list of lists of different lengths
                value = np.asarray(None)
            shapes[-1][name] = value.shape
            values.setdefault(f"value_{name}", []).append(value.ravel())
    packed = {"shapes": np.array(json.dumps(shapes))}
    for name, parts in values.items():
        kinds = {part.dtype.kind for part in parts}
        if not (kinds <= set("biuf") or kinds == {"U"}):
            raise TypeError(
                f"the model returned a result whose {name.removeprefix('value_')} is "
                "not a number, a text or a nested list of equal lengths"
            )
        # An empty list has no type of its own and must not change that of the others.
        packed[name] = np.concatenate([part for part in parts if part.size] or parts)
    return packed


def _unpack(packed: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Undo :func:`_pack`; the arrays are views."""
    used: dict[str, int] = {}
    rows = []
    for shapes in json.loads(str(packed["shapes"])):
        rows.append({})
        for name, shape in shapes.items():
            start = used.get(name, 0)
            used[name] = start + math.prod(shape)
            values = packed[f"value_{name}"][start : used[name]]
            rows[-1][name] = values.reshape(shape)
    return rows


def _to_lists(arrays: Mapping[str, np.ndarray]) -> Result:
    return {name: values.tolist() for name, values in arrays.items()}


class Column(NamedTuple):
    """A column of a table of results.

    Attributes:
        name: Key in a row.
        kind: Type of the values: ``text``, ``number`` or ``count`` (an integer), each
            of which may be None, or ``flags``, a dict of texts.
        unit: Follows the name in the head of a file.

    Example:
        >>> Column("y_relaxed", "number", "eV").title
        'y_relaxed [eV]'
        >>> Column("flags", "flags").to_text({"unseen_elements": "Xe,Au"})
        'unseen_elements=Xe,Au'
    """

    name: str
    kind: str
    unit: str = ""

    @property
    def title(self) -> str:
        """The name with the unit."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def to_text(self, value: Any) -> str:
        """Return a value as the text of one cell, without line breaks."""
        if value is None:
            return ""
        if self.kind == "flags":
            value = ";".join(f"{k}={v}" if v else k for k, v in value.items())
        return " ".join(str(value).splitlines())

    def from_text(self, text: str) -> Any:
        """Return the value of a cell."""
        if self.kind == "flags":
            pairs = (item.partition("=") for item in text.split(";") if item)
            return {name: detail for name, _, detail in pairs}
        if not text:
            return None
        return {"number": float, "count": int, "text": str}[self.kind](text)


def csv_lines(rows: Iterable[Mapping[str, Any]], columns: Sequence) -> Iterator[str]:
    """Yield the head of a CSV file, then its lines."""
    # A csv.writer returns what the method write of its file returns.
    write = csv.writer(SimpleNamespace(write=str), lineterminator="\n").writerow
    yield write([column.title for column in columns])
    for row in rows:
        yield write([column.to_text(row[column.name]) for column in columns])


class RowFile(Sequence):
    """A CSV file to which rows are added, readable as a sequence of dicts.

    Nothing is written before the first rows are added. Only the position of each row
    is kept in memory.

    Args:
        path: The file.
        columns: Its columns.
        settings: All that determines the rows beside the inputs, as plain values.

    Attributes:
        inputs: Hash of the inputs of the rows in the file; "" for none.

    Raises:
        StoredRunError: The file holds something else.
    """

    def __init__(
        self, path: str | os.PathLike, columns: Sequence, settings: Mapping[str, Any]
    ) -> None:
        self.path = Path(path)
        self.columns = tuple(columns)
        self.inputs = ""
        self._digest = hashlib.sha256()
        self._starts = array("q")  # byte of each line, the head first
        self._size = 0
        manifest = self.path.with_name(f"{self.path.name}.run.json")
        self._hint = (
            f"Choose another name, or remove {self.path.name} (and {manifest.name}, if "
            "it exists) to start again."
        )
        settings = {**settings, "columns": [c.title for c in self.columns]}
        self._manifest = RunManifest(manifest, settings, self._hint)
        if manifest.exists():
            self._resume(self._manifest.state)
        elif self.path.exists():
            self._refuse("was not written by such a run")

    def _refuse(self, reason: str) -> None:
        raise StoredRunError(f"{self.path} {reason}", hint=self._hint)

    def _resume(self, state: Mapping[str, Any]) -> None:
        if not {"rows", "bytes", "sha256", "inputs"} <= set(state):
            self._refuse("has a damaged manifest")
        self.inputs = state["inputs"]
        if state["bytes"] and self.path.exists():
            with open(self.path, "rb") as file:
                while self._size < state["bytes"] and (line := file.readline()):
                    self._add_line(line)
        found = (len(self), self._digest.hexdigest())
        if found != (state["rows"], state["sha256"]):
            self._refuse("was changed since it was written")

    def _add_line(self, line: bytes) -> None:
        self._starts.append(self._size)
        self._size += len(line)
        self._digest.update(line)

    def append(self, rows: Iterable[Mapping[str, Any]], inputs: str) -> None:
        """Add rows, dicts with the keys of the columns, and set :attr:`inputs`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = csv_lines(rows, self.columns)
        if self._size:
            next(lines)  # the file has a head
        else:
            self._write_manifest()
        with open(self.path, "r+b" if self._size else "wb") as file:
            # An interrupted run may have left rows that its manifest does not list.
            file.truncate(self._size)
            file.seek(self._size)
            for line in map(str.encode, lines):
                file.write(line)
                self._add_line(line)
        self.inputs = inputs
        self._write_manifest()

    def _write_manifest(self) -> None:
        self._manifest.write(
            rows=len(self),
            bytes=self._size,
            sha256=self._digest.hexdigest(),
            inputs=self.inputs,
        )

    def __len__(self) -> int:
        return max(0, len(self._starts) - 1)

    def __getitem__(self, index: int) -> Result:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        with open(self.path, "rb") as file:
            file.seek(self._starts[index % len(self) + 1])
            return self._row(file.readline())

    def __iter__(self) -> Iterator[Result]:
        if not len(self):
            return
        with open(self.path, "rb") as file:
            file.seek(self._starts[1])
            for _ in range(len(self)):
                yield self._row(file.readline())

    def _row(self, line: bytes) -> Result:
        (cells,) = csv.reader([line.decode()])
        pairs = zip(self.columns, cells, strict=True)
        return {column.name: column.from_text(text) for column, text in pairs}
