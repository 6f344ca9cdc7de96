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

"""Strain and rotation around each column, from the vectors to its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.sublattices import Crystal

_MIN_POINTS = 5  # columns of one fit; fewer hang on single errors
# Smallest share of the weaker direction in the spread of a neighbourhood, relative to a
# complete one. Neighbours along one line say nothing of the other direction.
_MIN_SPREAD = 0.2


@dataclass(frozen=True)
class Strain:
    """Strain of the lattice at each column; NaN where it is unknown [n].

    The gradient ``F`` of the present positions by the positions in the reference
    lattice is ``F = R U``, a rotation ``R`` after a stretch ``U``. The strain is
    ``U - 1``, along the axes of the image. Errors are standard errors.
    """

    e_yy: np.ndarray
    e_xx: np.ndarray
    e_xy: np.ndarray  # half of the engineering shear
    rotation: np.ndarray  # degrees, positive if counter-clockwise in the image
    e_yy_error: np.ndarray
    e_xx_error: np.ndarray
    e_xy_error: np.ndarray
    rotation_error: np.ndarray


def column_strain(table: ColumnTable, references: list[Crystal | None]) -> Strain:
    """Return the strain at each column, relative to the reference of its crystal.

    At each column, a linear map from the reference lattice to the measured positions
    is fitted by least squares. The fit has the column and its neighbours of the same
    sublattice, at most one cell away along each lattice vector: up to nine columns. A
    shift between sublattices is therefore no strain. Steps are in nm if the pixel size
    is known, so pixels need not be square.

    Args:
        table: The columns; those not fitted are left out.
        references: See :func:`~ppmat.stem.columns.displacement.reference_lattices`.
    """
    names = ("e_yy", "e_xx", "e_xy", "rotation")
    values = {n + end: np.full(len(table), np.nan) for n in names for end in ("", "_error")}
    size = np.ones(2) if table.pixel_size is None else np.asarray(table.pixel_size)
    place = table.positions * size
    variance = (np.stack([table.y_error, table.x_error], axis=1) * size) ** 2
    for crystal in filter(None, references):
        gradient, spread = _gradients(
            crystal,
            place[crystal.columns],
            variance[crystal.columns],
            table.fitted[crystal.columns],
            size,
        )
        for name, value in _parts(gradient, spread).items():
            values[name][crystal.columns] = value
    return Strain(**values)


def _gradients(
    crystal: Crystal,
    place: np.ndarray,
    variance: np.ndarray,
    fitted: np.ndarray,
    size: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return dy/dy, dy/dx, dx/dy, dx/dx of the map, and their variances [n, 2, 2]."""
    grid = np.arange(-1, 2)
    steps = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    near = np.stack(
        [
            crystal.neighbours(steps, np.full(len(steps), k))[members]
            for k, members in _by_label(crystal)
        ]
    )
    return near
