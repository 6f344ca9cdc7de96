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
from dataclasses import fields

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
    values = {f.name: np.full(len(table), np.nan) for f in fields(Strain)}
    size = np.ones(2) if table.pixel_size is None else np.asarray(table.pixel_size)
    place = table.positions * size
    variance = (np.stack([table.y_error, table.x_error], axis=1) * size) ** 2
    for crystal in filter(None, references):
        columns = crystal.columns
        ok = table.fitted[columns]
        found = _gradients(crystal, place[columns], variance[columns], ok, size)
        for name, value in _parts(*found).items():
            values[name][columns] = value
    return Strain(**values)


def _gradients(
    crystal: Crystal,
    place: np.ndarray,
    variance: np.ndarray,
    fitted: np.ndarray,
    size: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of (y, x) by (y, x) and their variances [n, 2, 2]."""
    grid = np.arange(-1, 2)
    steps = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    near = crystal.neighbours(steps, crystal.label[:, None])
    use = (near >= 0) & fitted[near] & fitted[:, None]
    reference = steps @ (crystal.vectors * size)
    # Least squares of position = origin + gradient @ reference, for each column.
    design = np.insert(reference, 0, 1.0, axis=1)
    matrix = np.einsum("nk,ki,kj->nij", use, design, design)
    number = use.sum(axis=1)
    good = number >= _MIN_POINTS
    # Spread about the mean, in units of that of a complete neighbourhood.
    mean = matrix[good, 0, 1:] / number[good, None]
    spread = matrix[good, 1:, 1:] / number[good, None, None]
    spread -= mean[:, :, None] * mean[:, None]
    complete = np.linalg.inv(reference.T @ reference / len(reference))
    good[good] = np.linalg.eigvals(spread @ complete).real.min(axis=1) > _MIN_SPREAD
    weight = np.einsum(
        "nij,kj,nk->nik", np.linalg.inv(matrix[good])[:, 1:], design, use[good]
    )
    gradient, errors = np.full((2, len(place), 2, 2), np.nan)
    gradient[good] = np.einsum("nik,nkj->nji", weight, place[near[good]])
    known = np.where(use[good, :, None], variance[near[good]], 0.0)
    errors[good] = np.einsum("nik,nkj->nji", weight**2, known)
    return gradient, errors


def _parts(gradient: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
    """Return strains, rotation and their errors; errors to first order in the strain.

    Errors of y and of x are taken as independent.
    """
    angle = np.arctan2(
        gradient[:, 1, 0] - gradient[:, 0, 1], gradient[:, 0, 0] + gradient[:, 1, 1]
    )
    cos, sin = np.cos(angle), np.sin(angle)
    back = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], axis=1)
    strain = back @ gradient - np.eye(2)
    mixed = np.sqrt(variance[:, 0, 1] + variance[:, 1, 0]) / 2
    return {
        "e_yy": strain[:, 0, 0],
        "e_xx": strain[:, 1, 1],
        "e_xy": strain[:, 0, 1],
        "rotation": np.degrees(angle),
        "e_yy_error": np.sqrt(variance[:, 0, 0]),
        "e_xx_error": np.sqrt(variance[:, 1, 1]),
        "e_xy_error": mixed,
        "rotation_error": np.degrees(mixed),
    }
