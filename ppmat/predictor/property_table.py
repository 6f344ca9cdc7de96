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


"""Predicted properties as a table: a sequence of plain dicts with a text view."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppmat.utils.files import replacing
from ppmat.utils.result_store import Column
from ppmat.utils.result_store import csv_lines

_MAX_ROWS = 10  # in the text view
_MAX_WIDTH = 60  # characters of a cell in the text view


class PropertyTable(Sequence):
    """One row for each structure, in the order of the input.

    A row is a dict, so plain Python sorts and filters.

    Args:
        rows: The rows; rows on the disk are read on access.
        columns: Their keys, types and units.

    Example:
        >>> columns = [Column("id", "text"), Column("y_relaxed", "number", "eV")]
        >>> rows = [{"id": "a", "y_relaxed": 0.5}, {"id": "b", "y_relaxed": -1.25}]
        >>> table = PropertyTable(rows, columns)
        >>> min(table, key=lambda row: row["y_relaxed"])["id"]
        'b'
        >>> table
        PropertyTable of 2 structures
        id  y_relaxed [eV]
        a   0.5000
        b   -1.2500
    """

    def __init__(self, rows: Sequence, columns: Sequence[Column]) -> None:
        self.rows = rows
        self.columns = tuple(columns)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each column that has one."""
        return {c.name: c.unit for c in self.columns if c.unit}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.rows[i] for i in range(*index.indices(len(self)))]
        return self.rows[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write all rows as CSV; the head has the units, ``y_relaxed [eV]``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            file.writelines(csv_lines(self, self.columns))

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame``, the units in its ``attrs["units"]``.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas

        frame = pandas.DataFrame(list(self), columns=[c.name for c in self.columns])
        frame.attrs["units"] = self.units
        return frame

    def _cells(self, limit: int) -> list[list[str]]:
        """Return head and cells of the first rows, without empty columns."""
        rows = self[:limit]
        cells = [[_shorten(c, row[c.name]) for row in rows] for c in self.columns]
        kept = [i for i, column in enumerate(cells) if any(column) or i == 0]
        head = [self.columns[i].title for i in kept]
        return [head, *([cells[i][row] for i in kept] for row in range(len(rows)))]

    def _rest(self, limit: int) -> str:
        return f"... and {len(self) - limit} more" if len(self) > limit else ""

    def to_text(self, limit: int = _MAX_ROWS) -> str:
        """Return the first ``limit`` rows as aligned text."""
        lines = self._cells(limit)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))
            for line in lines
        ]
        return "\n".join(
            [*(line.rstrip() for line in text), *self._rest(limit).split("\n")]
        ).rstrip()

    def __repr__(self) -> str:
        return f"PropertyTable of {len(self)} structures\n{self.to_text()}"

    def _repr_html_(self) -> str:
        head, *lines = self._cells(_MAX_ROWS)

        def line(cells: list[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(line(cells, "td") for cells in lines)
        return (
            f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
            f"<p>{self._rest(_MAX_ROWS) or f'{len(self)} structures'}</p>"
        )


def _shorten(column: Column, value: Any) -> str:
    if column.kind == "number" and value is not None:
        return f"{value:.4f}"
    text = column.to_text(value)
    return text if len(text) <= _MAX_WIDTH else f"{text[: _MAX_WIDTH - 3]}..."
