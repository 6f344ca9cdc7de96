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

"""Results on disk while they are made, so that a run can stop and go on.

:class:`ResultStore` keeps what ``model.sample`` returns: one dict of plain lists and
numbers a structure. Each batch becomes one file ``part_<batch>.json.gz``, written under
another name and renamed. Runs with different settings (weights, data, seed, ...) have
folders of their own, named by a hash of the settings; ``run.json`` tells them in clear.

:class:`RowFile` keeps one line a structure in a CSV file, which the user named. Beside
it, ``<file>.run.json`` tells the settings and how far the file is good; other settings
or inputs are refused.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
from array import array
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import NamedTuple

from ppmat.utils.files import StoredRunError

Result = dict[str, Any]


class ResultStore(Sequence):
    """The results of one run, readable as a sequence once every part is there.

    Args:
        folder: Folder of all runs; made if missing.
        settings: What decides the results, as plain values.
        num_parts: Number of batches of the run.
        part_size: Results in each part; the last may hold fewer.
        num_results: Results in all.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: Mapping[str, Any],
        num_parts: int,
        part_size: int,
        num_results: int,
    ) -> None:
        text = _dumps({**settings, "results": num_results}, sort_keys=True, indent=1)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = Path(folder) / name
        self.num_parts = num_parts
        self._part_size = part_size
        self._num_results = num_results
        self._cached: tuple = (-1, [])
        self.folder.mkdir(parents=True, exist_ok=True)
        _replace(self.folder / "run.json", text.encode())

    def _path(self, part: int) -> Path:
        return self.folder / f"part_{part:06d}.json.gz"

    def has(self, part: int) -> bool:
        """Tell whether the results of batch ``part`` are there."""
        return self._path(part).exists()

    def write(self, part: int, results: list[Result]) -> None:
        """Store the results of one batch, whole or not at all."""
        _replace(self._path(part), gzip.compress(_dumps(results).encode(), 1, mtime=0))

    def read(self, part: int) -> list[Result]:
        """Return the results of one batch."""
        if self._cached[0] != part:
            path = self._path(part)
            try:
                results = json.loads(gzip.decompress(path.read_bytes()))
            except (EOFError, gzip.BadGzipFile, ValueError) as error:
                raise StoredRunError(
                    f"{path} is damaged; delete it and run again"
                ) from error
            self._cached = (part, results)
        return self._cached[1]

    def __len__(self) -> int:
        return self._num_results

    def __getitem__(self, index: int) -> Result:
        if not -len(self) <= index < len(self):
            raise IndexError(f"result {index} of {len(self)}")
        part, row = divmod(index % len(self), self._part_size)
        return self.read(part)[row]

    def __iter__(self) -> Iterator[Result]:
        for part in range(self.num_parts):
            yield from self.read(part)


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: Key in a row.
        kind: What a row holds: ``text``, ``number`` and ``count`` (or None), or
            ``flags``, a dict of texts.
        unit: Written behind the name in the head of a file.
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
    yield _csv_line([column.title for column in columns])
    for row in rows:
        yield _csv_line([column.to_text(row[column.name]) for column in columns])


def _csv_line(cells: Sequence) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


class RowFile(Sequence):
    """A CSV file that grows by rows, and can be read as a sequence of dicts.

    Nothing is written before the first rows come. Only the position of each row is
    kept in memory.

    Args:
        path: The file.
        columns: Its columns.
        settings: What decides the rows beside the inputs, as plain values.

    Attributes:
        inputs: Text that tells the inputs of the rows that are there; "" for none.

    Raises:
        StoredRunError: There is a file that holds something else.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        columns: Sequence,
        settings: Mapping[str, Any],
    ) -> None:
        self.path = Path(path)
        self.columns = tuple(columns)
        self.inputs = ""
        self._manifest = self.path.with_name(f"{self.path.name}.run.json")
        # Through JSON and back, so that it can be compared with what a file says.
        self._settings = json.loads(
            _dumps({**settings, "columns": [c.title for c in self.columns]})
        )
        self._digest = hashlib.sha256()
        self._starts = array("q")
        self._size = 0
        if self._manifest.exists():
            self._resume()
        elif self.path.exists():
            self._refuse("was not written by such a run")

    def _refuse(self, reason: str) -> None:
        raise StoredRunError(
            f"{self.path} {reason}. Choose another name, or remove it (and "
            f"{self._manifest.name}, if it is there) to start anew"
        )

    def _resume(self) -> None:
        try:
            state = json.loads(self._manifest.read_text(encoding="utf-8"))
            then, rows = state["settings"], state["rows"]
            self.inputs, size = state["inputs"], state["bytes"]
        except (KeyError, TypeError, ValueError) as error:
            raise StoredRunError(
                f"{self._manifest} is damaged; remove it and {self.path.name}"
            ) from error
        names = sorted({*then, *self._settings})
        other = [n for n in names if then.get(n) != self._settings.get(n)]
        if other:
            self._refuse(f"holds rows made with other {', '.join(other)}")
        if rows:
            self._find_rows(size)
        if len(self) != rows or self._digest.hexdigest() != state["sha256"]:
            self._refuse("was changed since it was written")

    def _find_rows(self, size: int) -> None:
        with open(self.path, "rb") as file:
            self._digest.update(file.readline())
            self._size = file.tell()
            while self._size < size:
                line = file.readline()
                if not line:
                    break
                self._keep(line)

    def _keep(self, line: bytes) -> None:
        self._starts.append(self._size)
        self._size += len(line)
        self._digest.update(line)

    def append(self, rows: Iterable[Mapping[str, Any]], inputs: str) -> None:
        """Add rows.

        Args:
            rows: Dicts with the keys of the columns.
            inputs: Becomes :attr:`inputs`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._size:
            self._describe()
        lines = (line.encode() for line in csv_lines(rows, self.columns))
        head = next(lines)
        with open(self.path, "r+b" if self._size else "wb") as file:
            # An interrupted run may have left rows its manifest does not know of.
            file.truncate(self._size)
            file.seek(self._size)
            if not self._size:
                file.write(head)
                self._digest.update(head)
                self._size = len(head)
            for line in lines:
                file.write(line)
                self._keep(line)
        self.inputs = inputs
        self._describe()

    def _describe(self) -> None:
        state = {
            "rows": len(self),
            "bytes": self._size,
            "sha256": self._digest.hexdigest(),
            "inputs": self.inputs,
            "settings": self._settings,
        }
        _replace(self._manifest, _dumps(state, indent=1).encode())

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Result:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        with open(self.path, "rb") as file:
            file.seek(self._starts[index])
            return self._row(file.readline())

    def __iter__(self) -> Iterator[Result]:
        if not len(self):
            return
        with open(self.path, "rb") as file:
            file.seek(self._starts[0])
            for _ in range(len(self)):
                yield self._row(file.readline())

    def _row(self, line: bytes) -> Result:
        (cells,) = csv.reader([line.decode()])
        pairs = zip(self.columns, cells, strict=True)
        return {column.name: column.from_text(text) for column, text in pairs}


def _dumps(value: Any, **options: Any) -> str:
    return json.dumps(value, default=lambda array: array.tolist(), **options)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
