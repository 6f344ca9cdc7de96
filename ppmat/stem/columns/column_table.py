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

"""The table of fitted atomic columns: fields, CSV file, exports, warnings.

An image shows neither elements nor heights along the beam. The exports to ASE and
pymatgen are therefore the projected lattice: one atom for each column, all at one
height. Columns of similar intensity get the same label. This is the start of a model,
not a structure solution.
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from typing import Any

import numpy as np

from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.stem.columns.lattice_fit import PlaneLattice
from ppmat.stem.columns.lattice_fit import guess_lattice
from ppmat.stem.columns.lattice_fit import intensity_groups
from ppmat.stem.images.bad_pixels import MAX_CLIPPED_SHARE
from ppmat.stem.images.bad_pixels import clipping_limits
from ppmat.stem.images.bad_pixels import hot_pixel_warning
from ppmat.stem.images.micrograph_base import clean_units
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice

PathLike = str | os.PathLike[str]

UNITS = {"pm": 1e-3, "Å": 0.1, "nm": 1.0, "µm": 1e3}  # legal units, in nm
_NANOMETRE = 10.0  # Å
_MARGIN = 1.0  # Å between the outermost columns and the box of a whole image
_UNKNOWN = "X"  # symbol of ASE and pymatgen for an atom of unknown element
# With fewer grey values, the image shows single electrons: many zeros are then normal.
_MIN_GREY_VALUES = 16
_MAX_UNFITTED = 1 / 3  # share of failed fits above which the user is warned


class ColumnTableError(InputError):
    """A file that is no table of columns, or an export that is not possible."""


def _column(units: str, boolean: bool = False) -> Any:
    return field(metadata={"units": units, "boolean": boolean})


@dataclass
class ColumnTable:
    """Atomic columns of an image; each array has one value for each column [n].

    Errors are standard errors (one sigma), and NaN where the fit failed. *Image units*
    are those of the raw image.

    Example:
        >>> import numpy as np
        >>> values = {name: np.zeros(2) for name in COLUMNS}
        >>> values["x"] = np.array([10.0, 20.0])
        >>> table = ColumnTable(**values, pixel_size=(0.02, 0.02))
        >>> table.select(table.x > 15).positions_nm.tolist()
        [[0.0, 0.4]]
    """

    y: np.ndarray = _column("px")  # row of the centre; that of the first pixel is 0
    x: np.ndarray = _column("px")  # position of the centre along the row
    y_error: np.ndarray = _column("px")
    x_error: np.ndarray = _column("px")
    # Peak above the background; negative for dark columns.
    height: np.ndarray = _column("image units")
    height_error: np.ndarray = _column("image units")
    sigma: np.ndarray = _column("px")  # width of the Gaussian exp(-r^2 / 2 sigma^2)
    sigma_error: np.ndarray = _column("px")
    # Integral of the Gaussian, 2 pi height sigma^2.
    intensity: np.ndarray = _column("image units px^2")
    intensity_error: np.ndarray = _column("image units px^2")
    background: np.ndarray = _column("image units")  # under the column
    snr: np.ndarray = _column("1")  # height divided by its error, 0 or more
    score: np.ndarray = _column("1")  # probability that there is a column, 0 to 1
    # The border or a missing pixel is nearer than two sigma.
    edge: np.ndarray = _column("0/1", boolean=True)
    # A neighbour is nearer than three sigma; errors hold only for Gaussian profiles.
    overlapping: np.ndarray = _column("0/1", boolean=True)
    # False if the fit failed; the position is then the starting one.
    fitted: np.ndarray = _column("0/1", boolean=True)
    pixel_size: tuple[float, float] | None = None  # (y, x), nm; None if unknown
    # How the table was made, plain values; not in the CSV file.
    info: dict[str, Any] = field(default_factory=dict)
    # Further columns [n] of the CSV file, by name and units: ``"e_yy [1]"``.
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def positions(self) -> np.ndarray:
        """Positions ``(y, x)``, pixels [n, 2]."""
        return np.stack([self.y, self.x], axis=1)

    @property
    def positions_nm(self) -> np.ndarray:
        """Positions ``(y, x)``, nm [n, 2].

        Raises:
            ColumnTableError: The pixel size is not known.
        """
        return self.positions * self._known_pixel_size()

    @property
    def errors_nm(self) -> np.ndarray:
        """Standard errors of ``(y, x)``, nm [n, 2]; see :attr:`positions_nm`."""
        errors = np.stack([self.y_error, self.x_error], axis=1)
        return errors * self._known_pixel_size()

    def _known_pixel_size(self) -> np.ndarray:
        if self.pixel_size is None:
            raise ColumnTableError(
                "the pixel size is not known; give pixel_size to detect_columns, or "
                "set table.pixel_size = (y, x) in nm"
            )
        return np.asarray(self.pixel_size)

    def select(self, which: np.ndarray) -> ColumnTable:
        """Return the columns of a mask or of indices, in that order."""
        values = {name: getattr(self, name)[which] for name in COLUMNS}
        extra = {name: column[which] for name, column in self.extra.items()}
        return dataclasses.replace(self, **values, info=dict(self.info), extra=extra)

    def moved(self, y: float, x: float) -> ColumnTable:
        """Return the table with positions moved by ``y`` and ``x``, pixels."""
        return dataclasses.replace(self, y=self.y + y, x=self.x + x)

    @classmethod
    def concatenate(cls, tables: Sequence[ColumnTable]) -> ColumnTable:
        """Return the rows of tables with the same pixel size, one after another.

        Columns in ``extra`` that some tables do not have are filled with NaN there.
        """
        extra = {}
        for title in dict.fromkeys(title for t in tables for title in t.extra):
            parts = [t.extra.get(title, np.full(len(t), np.nan)) for t in tables]
            extra[title] = np.concatenate(parts)
        values = {n: np.concatenate([getattr(t, n) for t in tables]) for n in COLUMNS}
        return cls(**values, pixel_size=tables[0].pixel_size, extra=extra)

    def to_csv(self, path: PathLike) -> None:
        """Write a CSV file with a first line of names and units, such as ``y [px]``.

        With a pixel size, ``y [nm]``, ``x [nm]`` and their errors follow, and last the
        columns of ``extra``. A file that exists is replaced.
        """
        named = {title: getattr(self, name) for title, name in _TITLES.items()}
        if self.pixel_size is not None:
            named.update(zip(_LENGTHS, (*self.positions_nm.T, *self.errors_nm.T)))
        named |= self.extra
        columns = (v.astype(int) if v.dtype == bool else v for v in named.values())
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(named)
            writer.writerows(zip(*(column.tolist() for column in columns)))

    @classmethod
    def from_csv(cls, path: PathLike) -> ColumnTable:
        """Read a file of :meth:`to_csv`.

        Further columns with units in their names go to ``extra``, others are ignored.
        The pixel size is the ratio of positions in nm and in pixels.

        Raises:
            ColumnTableError: A column is missing, or a value is no number.
        """
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
        if not rows:
            raise ColumnTableError(
                "is empty", where=str(path), wanted="a line of names"
            )
        names, rows = rows[0], [row for row in rows[1:] if row]
        missing = [title for title in _TITLES if title not in names]
        if missing:
            raise ColumnTableError(
                f"has no column {', '.join(map(repr, missing[:4]))}",
                where=str(path),
                wanted="a table that detect.py or ColumnTable.to_csv wrote",
            )
        numbers = dict(zip(names, _numbers(rows, names, path).T))
        values = {name: numbers[title] for title, name in _TITLES.items()}
        table = cls(**{n: v != 0 if COLUMNS[n][1] else v for n, v in values.items()})
        for k, name in enumerate(names):
            if "[" in name and name not in (*_TITLES, *_LENGTHS):
                whole = all(row[k].lstrip("-").isdigit() for row in rows)
                column = numbers[name]
                table.extra[name] = column.astype(int) if whole else column
        if all(name in names for name in _LENGTHS[:2]) and len(table):
            farthest = np.abs(table.positions).argmax(axis=0)
            pixels = table.positions[farthest, [0, 1]]
            if pixels.all():
                lengths = (numbers[n][k] for n, k in zip(_LENGTHS, farthest))
                table.pixel_size = tuple(float(a / b) for a, b in zip(lengths, pixels))
        return table

    def to_atomap(self, path: PathLike) -> None:
        """Write positions as Atomap takes them: ``(x, y)`` in pixels [n, 2].

        A ``.npy`` file is for ``numpy.load``. All others are text with a line of names.
        """
        positions = self.positions[:, ::-1]
        if os.fspath(path).endswith(".npy"):
            np.save(path, positions)
        else:
            np.savetxt(path, positions, "%.9g", ",", header="x,y", comments="")

    def to_atoms(
        self,
        elements: Sequence[str] | None = None,
        *,
        whole: bool = False,
        thickness: float = 10.0,
    ) -> Any:
        """Return ``ase.Atoms`` of the average cell, or of all columns.

        The shortest lattice vector is along x; y points up in the image, z towards the
        viewer. ``atoms.arrays`` has ``group``, ``intensity`` and, for a cell,
        ``columns``, the number of averaged columns. ``atoms.info`` has the quality of
        the lattice, and ``groups_from``, the origin of the groups:

        - ``sites``: each site of the lattice has the group of most of its columns. The
          columns of a ``whole`` image have the groups of their sites.
        - ``intensity``: each column has the group of its own intensity. This is for
          ``whole`` without a lattice in which intensities repeat.
        - ``nothing``: intensities do not repeat in the lattice; all sites are group 0.

        Args:
            elements: One for each group, the strongest first. None makes all atoms
                unknown (``X``).
            whole: All columns as found, in a box without periodicity, instead of one
                average cell.
            thickness: Height of the cell along the beam, Å; the image does not show it.

        Raises:
            ColumnTableError: No pixel size, another number of elements than groups, or
                a symbol of no element.
            LatticeError: The columns form no lattice, and ``whole`` is False.
        """
        from ase import Atoms

        if not len(self):
            raise ColumnTableError("the table has no columns")
        # x to the right, y up.
        position = self.positions_nm[:, ::-1] * [_NANOMETRE, -_NANOMETRE]
        groups = intensity_groups(self.intensity)
        try:
            lattice = guess_lattice(position, groups)
        except LatticeError:
            if not whole:
                raise
            lattice = None
        by_intensity = lattice is not None and lattice.by_intensity
        origin = "sites" if by_intensity else "intensity" if whole else "nothing"
        info = {"groups_from": origin}
        cell = np.diag([0.0, 0.0, thickness])
        if whole:
            position = position - position.min(axis=0) + _MARGIN
            cell[[0, 1], [0, 1]] = position.max(axis=0) + _MARGIN
            arrays = {"intensity": self.intensity, "score": self.score}
            if by_intensity:
                of_sites, of_groups = _site_groups(lattice, groups)
                on_site = lattice.site >= 0
                groups = np.where(on_site, of_sites[lattice.site], of_groups[groups])
        else:
            cell[:2, :2], position = _average_cell(lattice)
            members = [lattice.site == k for k in range(len(lattice.sites))]
            arrays = {
                "intensity": np.array([self.intensity[m].mean() for m in members]),
                "columns": np.array([m.sum() for m in members]),
            }
            info |= {
                "lattice_rms_angstrom": lattice.rms,
                "lattice_vector_errors_angstrom": lattice.vector_errors.tolist(),
                "columns_on_sites": float(np.mean(lattice.site >= 0)),
            }
            groups, _ = _site_groups(lattice, groups if by_intensity else 0 * groups)
        atoms = Atoms(
            _symbols(groups, arrays["intensity"], origin, elements),
            np.insert(position, 2, thickness / 2, axis=1),
            cell=cell,
            pbc=[not whole, not whole, False],
            info=info,
        )
        for name, values in {"group": groups, **arrays}.items():
            atoms.set_array(name, values)
        return atoms

    def to_structure(
        self,
        elements: Sequence[str] | None = None,
        *,
        whole: bool = False,
        thickness: float = 10.0,
    ) -> Any:
        """Return a pymatgen ``Structure``, see :meth:`to_atoms`.

        Unknown atoms are ``DummySpecies("X")``. The arrays of ``Atoms`` become site
        properties.
        """
        from pymatgen.core import DummySpecies
        from pymatgen.core import Structure

        atoms = self.to_atoms(elements, whole=whole, thickness=thickness)
        arrays = {name: values.tolist() for name, values in atoms.arrays.items()}
        del arrays["numbers"], arrays["positions"]
        return Structure(
            atoms.cell[:],
            [DummySpecies(s) if s == _UNKNOWN else s for s in atoms.symbols],
            atoms.positions,
            coords_are_cartesian=True,
            site_properties=arrays,
            properties=atoms.info,
        )


# Name of each column of the table: units, and whether its values are true and false.
COLUMNS = {
    f.name: (f.metadata["units"], f.metadata["boolean"])
    for f in fields(ColumnTable)
    if f.metadata
}
_TITLES = {f"{name} [{units}]": name for name, (units, _) in COLUMNS.items()}
_LENGTHS = ("y [nm]", "x [nm]", "y_error [nm]", "x_error [nm]")


def pixel_size_in_nm(pixel_size: Any, units: str | None) -> tuple[float, float] | None:
    """Return a pixel size, a number or ``(y, x)`` or None, as ``(y, x)`` in nm.

    The units are ``pm``, ``Å``, ``nm`` or ``µm``, or another spelling of these.

    Raises:
        InputError: Sizes that are not positive, or other units.

    Example:
        >>> pixel_size_in_nm((20, 25), "pm")
        (0.02, 0.025)
    """
    if pixel_size is None:
        return None
    spelling = clean_units(units)
    check_choice("unit of the pixel size", spelling or units, UNITS)
    try:
        size = np.broadcast_to(np.asarray(pixel_size, dtype=np.float64), 2)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"pixel_size is {pixel_size!r}", wanted="a number or a pair (y, x)"
        ) from error
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise InputError(f"pixel_size is {pixel_size!r}", wanted="numbers above 0")
    return tuple((size * UNITS[spelling]).tolist())


def unknown_elements(symbols: Sequence[str]) -> list[str]:
    """Return the symbols of no element; ``X``, an unknown atom, is legal."""
    from ase.data import atomic_numbers

    return [symbol for symbol in symbols if symbol not in atomic_numbers]


def table_warnings(
    values: np.ndarray, *, bright: bool, fitted: np.ndarray, hot_pixels: int
) -> list[str]:
    """Return warnings on an image and its table: bad pixels, clipping, failed fits.

    ``values`` are those of the used pixels, of any shape. Clipping matters at one end
    only: at the largest values for ``bright`` columns, else at the smallest.
    """
    texts = [hot_pixel_warning(hot_pixels)] if hot_pixels else []
    limit = clipping_limits(values)[bright]
    if limit is not None:
        share = np.mean(values == limit)
        if share > MAX_CLIPPED_SHARE and len(np.unique(values)) >= _MIN_GREY_VALUES:
            which = "largest" if bright else "smallest"
            texts.append(
                f"{100 * share:.2g} % of the pixels have the {which} value, {limit:g}: "
                "the middle of columns is clipped, so they come out wider and lower "
                "than they are. Change gain and offset of the detector"
            )
    failed = np.count_nonzero(~fitted)
    if failed > _MAX_UNFITTED * len(fitted):
        texts.append(
            f"{failed} of {len(fitted)} columns could not be fitted: is mode, polarity "
            "or sigma wrong?"
        )
    return texts


def _numbers(rows: list, names: list, path: PathLike) -> np.ndarray:
    """Return the values of the lines of a CSV file; NaN in columns without units."""
    out = np.full((len(rows), len(names)), np.nan)
    with_units = [k for k, name in enumerate(names) if "[" in name]
    for i, row in enumerate(rows):
        where = f"{path}: line {i + 2}"
        if len(row) != len(names):
            raise ColumnTableError(
                f"{where} has {len(row)} values, the first line {len(names)} names"
            )
        for k in with_units:
            try:
                out[i, k] = float(row[k])
            except ValueError as error:
                found = f"{where}, {names[k]}: {row[k]!r} is no number"
                raise ColumnTableError(found) from error
    return out


def _average_cell(lattice: PlaneLattice) -> tuple[np.ndarray, np.ndarray]:
    """Return cell vectors [2, 2], the first along x, and sites [m, 2], both (x, y)."""
    vectors = lattice.vectors
    if np.linalg.det(vectors) < 0:
        vectors = vectors * [[1.0], [-1.0]]
    angle = np.arctan2(vectors[0, 1], vectors[0, 0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    fraction = (lattice.sites - lattice.sites[0]) @ np.linalg.inv(vectors)
    fraction -= np.floor(fraction + 1e-9)
    vectors = vectors @ turn
    return vectors, fraction @ vectors


def _site_groups(
    lattice: PlaneLattice, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each site [m], and for each intensity group the nearest group
    of sites [k]."""
    members = (groups[lattice.site == k] for k in range(len(lattice.sites)))
    usual = [np.bincount(group).argmax() for group in members]
    kinds, of_sites = np.unique(usual, return_inverse=True)
    # Groups are in the order of their intensities.
    away = abs(kinds[:, None] - np.arange(groups.max() + 1))
    return of_sites, away.argmin(axis=0)


def _symbols(
    groups: np.ndarray,
    intensity: np.ndarray,
    groups_from: str,
    elements: Sequence[str] | None,
) -> list[str]:
    """Return the element of each atom, see :meth:`ColumnTable.to_atoms`."""
    if elements is None:
        return [_UNKNOWN] * len(groups)
    wrong = unknown_elements(elements)
    if wrong:
        raise ColumnTableError(
            f"{', '.join(map(repr, wrong))}: no symbol of an element",
            wanted=f"such as 'Sr', or {_UNKNOWN!r} for unknown atoms",
        )
    count = int(groups.max()) + 1
    if len(elements) != count:
        kinds = (
            f"{np.sum(groups == k)} of {np.mean(intensity[groups == k]):.3g}"
            for k in range(count)
        )
        why = "; intensities do not repeat in the lattice, so all its sites are one"
        raise ColumnTableError(
            f"{len(elements)} elements ({', '.join(elements)}) for {count} "
            f"{'group' if count == 1 else 'groups'} of intensity; wanted one each, the "
            f"strongest first ({', '.join(kinds)}){why * (groups_from == 'nothing')}"
        )
    return [elements[group] for group in groups]
