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


"""Tables of columns as structures of ASE and pymatgen.

An image shows neither elements nor heights along the beam. What is made here is the
projected lattice: one atom for each column, all at the same height, with labels for
columns that look alike. It is a start for a model, not a structure solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.column_table import ColumnTableError
from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.stem.columns.lattice_fit import PlaneLattice
from ppmat.stem.columns.lattice_fit import guess_lattice
from ppmat.stem.columns.lattice_fit import intensity_groups

_ANGSTROM = 10.0  # in one nm
_UNKNOWN = "X"


def not_elements(symbols: Sequence[str]) -> list:
    """Return which of these are no symbols of elements; ``X`` stands for none."""
    from ase.data import atomic_numbers

    return [symbol for symbol in symbols if symbol not in atomic_numbers]


def to_atoms(
    table: ColumnTable,
    elements: Sequence[str] | None = None,
    *,
    whole: bool = False,
    thickness: float = 10.0,
) -> Any:
    """Return ``ase.Atoms`` of the average cell, or of all columns.

    The first lattice vector, the shortest, is along x; y points up in the image, z to
    the viewer. ``atoms.arrays`` has ``group``, ``intensity`` and, for a cell,
    ``columns``, how many were averaged; ``atoms.info`` the lattice's quality and
    ``groups_from``, what the groups are:

    - ``sites``: each site of the lattice is of the group that most of its columns have,
      and so are its columns in a ``whole`` image.
    - ``intensity``: each column is of the group of its own intensity (``whole`` without
      a lattice, or without one in which intensities repeat).
    - ``nothing``: intensities do not repeat in the lattice; all sites are one group.

    Args:
        table: With a pixel size.
        elements: Of the groups, the strongest first; None leaves all atoms unknown
            (``X``).
        whole: All columns as they were found, in a box that is not periodic, instead of
            one average cell.
        thickness: Height of the cell along the beam, Å; nothing is known about it.

    Raises:
        ColumnTableError: No pixel size, not as many elements as groups, or a symbol
            that is no element.
        LatticeError: The columns form no lattice, and not all are asked for.
    """
    from ase import Atoms

    cell, positions, groups, extra, info = _model(table, whole, thickness)
    symbols = _labels(groups, extra["intensity"], info["groups_from"], elements)
    atoms = Atoms(
        symbols=symbols,
        positions=positions,
        cell=cell,
        pbc=[not whole, not whole, False],
        info=info,
    )
    for name, values in {"group": groups, **extra}.items():
        atoms.set_array(name, values)
    return atoms


def to_structure(
    table: ColumnTable,
    elements: Sequence[str] | None = None,
    *,
    whole: bool = False,
    thickness: float = 10.0,
) -> Any:
    """Return a pymatgen ``Structure``, see :func:`to_atoms`.

    Atoms without an element are ``DummySpecies("X")``; what ASE has as arrays are site
    properties.
    """
    from pymatgen.core import DummySpecies
    from pymatgen.core import Structure

    cell, positions, groups, extra, info = _model(table, whole, thickness)
    species = [
        DummySpecies(_UNKNOWN) if label == _UNKNOWN else label
        for label in _labels(groups, extra["intensity"], info["groups_from"], elements)
    ]
    properties = {k: v.tolist() for k, v in {"group": groups, **extra}.items()}
    return Structure(
        cell,
        species,
        positions,
        coords_are_cartesian=True,
        site_properties=properties,
        properties=info,
    )


def _model(table: ColumnTable, whole: bool, thickness: float) -> tuple:
    """Return cell [3, 3] and positions [n, 3] in Å, groups, arrays, and quality."""
    if not len(table):
        raise ColumnTableError("the table has no columns")
    # x to the right, y up.
    position = table.positions_nm[:, ::-1] * [_ANGSTROM, -_ANGSTROM]
    groups = intensity_groups(table.intensity)
    try:
        lattice = guess_lattice(position, groups)
    except LatticeError:
        if not whole:
            raise
        lattice = None
    if whole:
        margin = 1.0
        position = position - position.min(axis=0) + margin
        cell = np.diag([*(position.max(axis=0) + margin), thickness])
        extra = {"intensity": table.intensity, "score": table.score}
        info = {"groups_from": "intensity"}
        if lattice is not None and lattice.by_intensity:
            of_sites, of_groups = _site_groups(lattice, groups)
            on_site = lattice.site >= 0
            groups = np.where(on_site, of_sites[lattice.site], of_groups[groups])
            info = {"groups_from": "sites"}
        return cell, _in_space(position, thickness), groups, extra, info
    members = [lattice.site == k for k in range(len(lattice.sites))]
    vectors = lattice.vectors
    if np.linalg.det(vectors) < 0:
        vectors = vectors * [[1.0], [-1.0]]
    angle = np.arctan2(vectors[0, 1], vectors[0, 0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    fraction = (lattice.sites - lattice.sites[0]) @ np.linalg.inv(vectors)
    fraction -= np.floor(fraction + 1e-9)
    vectors = vectors @ turn
    cell = np.zeros((3, 3))
    cell[:2, :2], cell[2, 2] = vectors, thickness
    extra = {
        "intensity": np.array([table.intensity[m].mean() for m in members]),
        "columns": np.array([m.sum() for m in members]),
    }
    groups, _ = _site_groups(lattice, groups)
    info = {
        "groups_from": "sites" if lattice.by_intensity else "nothing",
        "lattice_rms_angstrom": lattice.rms,
        "lattice_vector_errors_angstrom": (lattice.vector_errors).tolist(),
        "columns_on_sites": float(np.mean(lattice.site >= 0)),
    }
    return cell, _in_space(fraction @ vectors, thickness), groups, extra, info


def _site_groups(
    lattice: PlaneLattice, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each site [m], and the one that each group of columns comes
    nearest to [k]."""
    if not lattice.by_intensity:
        return np.zeros(len(lattice.sites), dtype=int), np.zeros(groups.max() + 1, int)
    usual = [
        np.bincount(groups[lattice.site == k]).argmax()
        for k in range(len(lattice.sites))
    ]
    kinds, of_sites = np.unique(usual, return_inverse=True)
    # Groups are in the order of their intensities.
    away = abs(kinds[:, None] - np.arange(groups.max() + 1))
    return of_sites, away.argmin(axis=0)


def _in_space(position: np.ndarray, thickness: float) -> np.ndarray:
    return np.column_stack([position, np.full(len(position), thickness / 2)])


def _labels(
    groups: np.ndarray,
    intensity: np.ndarray,
    groups_from: str,
    elements: Sequence[str] | None,
) -> list:
    count = int(groups.max()) + 1
    if elements is None:
        return [_UNKNOWN] * len(groups)
    wrong = not_elements(elements)
    if wrong:
        raise ColumnTableError(
            f"{', '.join(map(repr, wrong))}: no symbol of an element; wanted such as "
            f"'Sr', or {_UNKNOWN!r} for atoms that are not known"
        )
    if len(elements) != count:
        kinds = (
            f"{np.sum(groups == k)} of {np.mean(intensity[groups == k]):.3g}"
            for k in range(count)
        )
        noun = "group" if count == 1 else "groups"
        why = "; intensities do not repeat in the lattice, so all its sites are one"
        raise ColumnTableError(
            f"{len(elements)} elements ({', '.join(elements)}) for {count} {noun} of "
            f"intensity; wanted one each, the strongest first ({', '.join(kinds)})"
            + (why if groups_from == "nothing" else "")
        )
    return [elements[group] for group in groups]
