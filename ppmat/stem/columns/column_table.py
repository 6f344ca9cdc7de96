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


"""A table of atomic columns, and its CSV form."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError

PathLike = str | os.PathLike[str]

# Lengths in nm.
UNITS = {"pm": 1e-3, "Å": 0.1, "nm": 1.0, "µm": 1e3}
_OTHER_NAMES = {"A": "Å", "Å": "Å", "angstrom": "Å", "um": "µm", "μm": "µm"}


class ColumnTableError(InputError):
    """A file that is no table of columns, or a table that cannot be what is asked."""


def _column(units: str, boolean: bool = False) -> Any:
    return field(metadata={"units": units, "boolean": boolean})


@dataclass
class ColumnTable:
    """Atomic columns of an image, one entry of each array a column.

    Errors are standard errors (one sigma); NaN where the fit failed. ``image units``
    are those of the raw image.

    Attributes:
        y: Row of the centre, pixels; the centre of the first pixel is 0.
        x: Likewise along a row.
        y_error: Its error.
        x_error: Its error.
        height: Peak above the background, image units; negative where columns are dark.
        height_error: Its error.
        sigma: Width of the Gaussian, pixels.
        sigma_error: Its error.
        intensity: Integral of the Gaussian, ``2 pi height sigma^2``, image units times
            pixels squared.
        intensity_error: Its error.
        background: Under the column, image units.
        snr: Height divided by its error, 0 or more.
        score: How sure it is that there is a column, 0 to 1, see
            :func:`ppmat.stem.columns.detection.detect_columns`.
        edge: Nearer to the rim of the image, or to a missing pixel, than twice sigma.
        overlapping: A neighbour is nearer than three sigma: errors hold, but depend on
            the profile being a Gaussian.
        fitted: False where the fit failed; the position is then the one it began with.
        pixel_size: Size of a pixel ``(y, x)``, nm; None if it is not known.
        info: Plain values on how the table was made; not in the CSV file.
    """

    y: np.ndarray = _column("px")
    x: np.ndarray = _column("px")
    y_error: np.ndarray = _column("px")
    x_error: np.ndarray = _column("px")
    height: np.ndarray = _column("image units")
    height_error: np.ndarray = _column("image units")
    sigma: np.ndarray = _column("px")
    sigma_error: np.ndarray = _column("px")
    intensity: np.ndarray = _column("image units px^2")
    intensity_error: np.ndarray = _column("image units px^2")
    background: np.ndarray = _column("image units")
    snr: np.ndarray = _column("1")
    score: np.ndarray = _column("1")
    edge: np.ndarray = _column("0/1", boolean=True)
    overlapping: np.ndarray = _column("0/1", boolean=True)
    fitted: np.ndarray = _column("0/1", boolean=True)
    pixel_size: tuple[float, float] | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def positions(self) -> np.ndarray:
        """``(y, x)`` in pixels [n, 2]."""
        return np.stack([self.y, self.x], axis=1)

    @property
    def positions_nm(self) -> np.ndarray:
        """``(y, x)`` in nm [n, 2].

        Raises:
            ColumnTableError: The pixel size is not known.
        """
        return self.positions * self._known_pixel_size()

    @property
    def errors_nm(self) -> np.ndarray:
        """Standard errors of ``(y, x)`` in nm [n, 2]; see :attr:`positions_nm`."""
        errors = np.stack([self.y_error, self.x_error], axis=1)
        return errors * self._known_pixel_size()

    def _known_pixel_size(self) -> np.ndarray:
        if self.pixel_size is None:
            raise ColumnTableError(
                "the pixel size is not known, so there are no lengths; give pixel_size "
                "to detect_columns, or set table.pixel_size = (y, x) in nm"
            )
        return np.asarray(self.pixel_size)

    def select(self, which: np.ndarray) -> ColumnTable:
        """Return the columns of a mask or of indices, in that order."""
        values = {name: getattr(self, name)[which] for name in COLUMNS}
        return ColumnTable(**values, pixel_size=self.pixel_size, info=dict(self.info))

    def to_csv(self, path: PathLike) -> None:
        """Write a table with a line of names and units, such as ``y [px]``.

        With a pixel size, ``y [nm]``, ``x [nm]`` and their errors follow.

        Args:
            path: The file; replaced if it exists.
        """
        named = {f"{n} [{u}]": getattr(self, n) for n, (u, _) in COLUMNS.items()}
        if self.pixel_size is not None:
            lengths = np.concatenate([self.positions_nm, self.errors_nm], axis=1)
            named.update(zip(_LENGTHS, lengths.T))
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(named)
            columns = [
                v.astype(int).tolist() if v.dtype == bool else v.tolist()
                for v in named.values()
            ]
            writer.writerows(zip(*columns))

    @classmethod
    def from_csv(cls, path: PathLike) -> ColumnTable:
        """Read what :meth:`to_csv` wrote; further columns are left out.

        The pixel size is the ratio of positions in nm and in pixels.

        Raises:
            ColumnTableError: A column is missing, or a value is no number.
        """
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
        if not rows:
            raise ColumnTableError(f"{path}: is empty; wanted a line of names")
        names, rows = rows[0], [row for row in rows[1:] if row]
        wanted = {f"{n} [{u}]": n for n, (u, _) in COLUMNS.items()}
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ColumnTableError(
                f"{path}: has no column {', '.join(map(repr, missing[:4]))}; wanted a "
                "table that detect.py or ColumnTable.to_csv wrote"
            )
        numbers = _numbers(rows, names, path)
        values = {}
        for title, name in wanted.items():
            column = numbers[:, names.index(title)]
            values[name] = column != 0 if COLUMNS[name][1] else column
        table = cls(**values)
        if all(name in names for name in _LENGTHS[:2]) and len(table):
            lengths = numbers[:, [names.index(name) for name in _LENGTHS[:2]]]
            table.pixel_size = _ratio(lengths, table.positions)
        return table

    def to_atomap(self, path: PathLike) -> None:
        """Write positions as Atomap takes them: ``(x, y)`` in pixels [n, 2].

        Args:
            path: ``.npy`` for ``numpy.load``, anything else for text with a line of
                names.
        """
        positions = self.positions[:, ::-1]
        if os.fspath(path).endswith(".npy"):
            np.save(path, positions)
        else:
            np.savetxt(path, positions, "%.9g", ",", header="x,y", comments="")

    def to_atoms(self, elements: Sequence[str] | None = None, **options: Any) -> Any:
        """Return ``ase.Atoms``: see :func:`ppmat.stem.columns.column_export.to_atoms`.

        Raises:
            ColumnTableError: There is no pixel size or no lattice.
        """
        from ppmat.stem.columns.column_export import to_atoms

        return to_atoms(self, elements, **options)

    def to_structure(
        self, elements: Sequence[str] | None = None, **options: Any
    ) -> Any:
        """Return a pymatgen ``Structure``, see :meth:`to_atoms`."""
        from ppmat.stem.columns.column_export import to_structure

        return to_structure(self, elements, **options)


# Name of each column: units, and whether it holds true and false.
COLUMNS = {
    f.name: (f.metadata["units"], f.metadata["boolean"])
    for f in fields(ColumnTable)
    if f.metadata
}
_LENGTHS = ("y [nm]", "x [nm]", "y_error [nm]", "x_error [nm]")


def pixel_size_in_nm(pixel_size: Any, units: str | None) -> tuple[float, float] | None:
    """Return a pixel size as ``(y, x)`` in nm.

    Args:
        pixel_size: A number, a pair ``(y, x)``, or None.
        units: ``pm``, ``Å``, ``nm`` or ``µm``.

    Raises:
        ValueError: Sizes that are not positive, or other units.
    """
    if pixel_size is None:
        return None
    units = _OTHER_NAMES.get(units, units)
    if units not in UNITS:
        raise ValueError(
            f"units of the pixel size are {units!r}; wanted one of {', '.join(UNITS)}"
        )
    try:
        size = np.broadcast_to(np.asarray(pixel_size, dtype=np.float64), (2,))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"pixel_size is {pixel_size!r}; wanted a number or a pair (y, x)"
        ) from error
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError(f"pixel_size is {pixel_size!r}; wanted numbers above 0")
    return float(size[0] * UNITS[units]), float(size[1] * UNITS[units])


def _numbers(rows: list, names: list, path: PathLike) -> np.ndarray:
    out = np.full((len(rows), len(names)), np.nan)
    known = [k for k, name in enumerate(names) if "[" in name]
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise ColumnTableError(
                f"{path}: line {i + 2} has {len(row)} values, the first line "
                f"{len(names)} names"
            )
        for k in known:
            try:
                out[i, k] = float(row[k])
            except ValueError as error:
                raise ColumnTableError(
                    f"{path}: line {i + 2}, {names[k]}: {row[k]!r} is no number"
                ) from error
    return out


def _ratio(lengths: np.ndarray, pixels: np.ndarray) -> tuple[float, float] | None:
    """Return the pixel size (y, x), from the columns farthest from 0."""
    farthest = np.abs(pixels).argmax(axis=0)
    over, under = (a[farthest, [0, 1]] for a in (lengths, pixels))
    if not (under != 0).all():
        return None
    return float(over[0] / under[0]), float(over[1] / under[1])
