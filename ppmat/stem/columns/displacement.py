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

"""Displacement of columns from the ideal lattice, and from their neighbours."""

from __future__ import annotations

import numpy as np

from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.stem.columns.sublattices import Crystal
from ppmat.stem.columns.sublattices import Sublattices
from ppmat.stem.columns.sublattices import refit

# Neighbours within this ratio to the nearest are one shell. A column that is off the
# middle of its shell by a sixth of the distance still has the whole shell.
_SHELL = 1.4
_MIN_SHELL = 2  # neighbours; one has no middle

Region = tuple[float, float, float, float]  # first and last row, first and last x, px


def reference_lattices(
    table: ColumnTable, found: Sublattices, region: Region | None = None
) -> list[Crystal | None]:
    """Return the crystals, with the mean lattice of their measured columns.

    Args:
        table: The columns.
        found: Their sublattices.
        region: ``(y0, y1, x0, x1)``, pixels; only columns in it are used. None uses
            all columns of a crystal.

    Returns:
        The crystals; None for one whose lattice cannot be fitted there.

    Raises:
        LatticeError: This is the case for all crystals.
    """
    use = table.fitted.copy()
    if region is not None:
        use &= (table.y >= region[0]) & (table.y <= region[1])
        use &= (table.x >= region[2]) & (table.x <= region[3])
    references: list[Crystal | None] = []
    for crystal in found.crystals:
        try:
            which = use[crystal.columns]
            references.append(refit(crystal, table.positions, which))
        except LatticeError as error:
            references.append(None)
            reason = error
    if not any(references):
        where = f"reference region {region}" if region is not None else "all columns"
        raise LatticeError(f"no reference lattice: {reason}", where=where)
    return references


def lattice_displacements(
    table: ColumnTable, references: list[Crystal | None]
) -> np.ndarray:
    """Return the displacements ``(y, x)`` from the reference lattice, pixels [n, 2].

    The lattice has the mean place of each sublattice, so a shift that all columns of a
    sublattice share is not seen. Columns of no crystal have NaN.
    """
    away = np.full((len(table), 2), np.nan)
    for crystal in filter(None, references):
        away[crystal.columns] = table.positions[crystal.columns] - crystal.ideal()
    return away


def neighbour_shifts(
    table: ColumnTable, found: Sublattices
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shifts of columns from the mean position of their neighbours.

    The neighbours are the nearest columns of sublattice 0: in a perovskite, the shift
    of B columns inside their cage of A columns is proportional to the polarisation. A
    column of sublattice 0 has the nearest ones of its own sublattice.

    Returns:
        Shifts ``(y, x)``, pixels [n, 2], and their standard errors [n, 2]. NaN if a
        neighbour is missing or not fitted, and if there is one neighbour only.
    """
    shift, error = np.full((2, len(table), 2), np.nan)
    place = np.where(table.fitted[:, None], table.positions, np.nan)
    variance = np.stack([table.y_error, table.x_error], axis=1) ** 2
    for crystal in found.crystals:
        for label in range(len(crystal.sites)):
            steps = _shell(crystal, label)
            if len(steps) < _MIN_SHELL:
                continue
            members = crystal.label == label
            of_zero = np.zeros(len(steps), dtype=int)
            near = crystal.neighbours(steps, of_zero)[members]
            whole = np.all(near >= 0, axis=1)
            near = crystal.columns[near[whole]]
            columns = crystal.columns[members][whole]
            shift[columns] = place[columns] - place[near].mean(axis=1)
            error[columns] = np.sqrt(
                variance[columns] + variance[near].mean(axis=1) / len(steps)
            )
    return shift, error


def _shell(crystal: Crystal, label: int) -> np.ndarray:
    """Return the cells of the nearest sites of sublattice 0, from a site [k, 2]."""
    grid = np.arange(-3, 4)
    steps = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    # Sites of one cell can be in different cells of the image.
    between = crystal.sites[0] - crystal.sites[label]
    steps = steps - np.rint(between @ np.linalg.inv(crystal.vectors)).astype(int)
    if label == 0:
        steps = steps[steps.any(axis=1)]
    length = np.hypot(*(steps @ crystal.vectors + between).T)
    return steps[length <= _SHELL * length.min()]
