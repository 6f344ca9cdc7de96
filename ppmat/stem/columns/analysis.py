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

"""What is computed from a table of columns: further columns, with units in their names.

Definitions are in docs/stem/analysis.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.displacement import Region
from ppmat.stem.columns.displacement import lattice_displacements
from ppmat.stem.columns.displacement import neighbour_shifts
from ppmat.stem.columns.displacement import reference_lattices
from ppmat.stem.columns.strain import column_strain
from ppmat.stem.columns.sublattices import find_sublattices
from ppmat.stem.columns.voronoi import voronoi_cells
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice

ANALYSES = ("sublattices", "displacement", "strain", "voronoi")
_OF_LATTICE = ANALYSES[:3]


def analyse(
    table: ColumnTable,
    analyses: Sequence[str] = _OF_LATTICE,
    *,
    image: Any = None,
    region: Region | None = None,
) -> ColumnTable:
    """Return the table with further columns in ``extra``.

    Args:
        table: The columns, found by ``detect_columns`` or read from a CSV file.
        analyses: Some of :data:`ANALYSES`. Displacement and strain include sublattices.
        image: Raw image [H, W] of the table, for ``voronoi``.
        region: ``(y0, y1, x0, x1)``, pixels: displacement and strain are relative to
            the mean lattice of the columns in it. None takes all of a crystal.

    Returns:
        A new table. ``info["lattices"]`` has vectors and sites of each crystal.

    Raises:
        LatticeError: The columns form no lattice.
        InputError: An analysis is unknown, or the image is missing.

    Example:
        >>> from ppmat.stem.columns.column_table import COLUMNS
        >>> values = {name: np.ones(100) for name in COLUMNS}
        >>> values["y"], values["x"] = 9.0 * np.stack(np.divmod(np.arange(100), 10))
        >>> values["fitted"] = np.ones(100, dtype=bool)
        >>> table = analyse(ColumnTable(**values), ["strain"])
        >>> sorted(table.extra)[:2], bool(np.nanmax(table.extra["e_yy [1]"]) < 1e-9)
        (['crystal [1]', 'e_xx [1]'], True)
    """
    for name in analyses:
        check_choice("analysis", name, ANALYSES)
    extra, info = dict(table.extra), dict(table.info)
    if set(analyses) & set(_OF_LATTICE):
        found = find_sublattices(table.positions, table.intensity)
        references = reference_lattices(table, found, region)
        extra["crystal [1]"] = found.crystal
        extra["sublattice [1]"] = found.label
        info["lattices"] = [_description(crystal) for crystal in references]
        info["reference_region"] = region
        if "displacement" in analyses:
            away = lattice_displacements(table, references)
            shift, error = neighbour_shifts(table, found)
            extra |= _lengths(table, displacement=away, shift=shift, shift_error=error)
        if "strain" in analyses:
            for name, value in vars(column_strain(table, references)).items():
                units = "deg" if name.startswith("rotation") else "1"
                extra[f"{name} [{units}]"] = value
    if "voronoi" in analyses:
        if image is None:
            raise InputError("voronoi needs the image", wanted="image=...")
        cells = voronoi_cells(image, table.positions)
        extra["voronoi_intensity [image units px^2]"] = cells.intensity
        above = cells.intensity - table.background * cells.area
        extra["voronoi_above_background [image units px^2]"] = above
        extra["voronoi_area [px^2]"] = cells.area
    return dataclasses.replace(table, info=info, extra=extra)


def _lengths(table: ColumnTable, **vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Return vectors (y, x) [n, 2] in pixels as columns in pixels, and in nm if known.

    The axis goes before ``_error`` in a name, as in ``y_error``.
    """
    sizes = {"px": (1.0, 1.0)}
    if table.pixel_size is not None:
        sizes["nm"] = table.pixel_size
    named = {}
    for units, size in sizes.items():
        for name, vector in vectors.items():
            stem, error = name.removesuffix("_error"), name.endswith("_error")
            for k, axis in enumerate("yx"):
                title = f"{stem}_{axis}{'_error' * error} [{units}]"
                named[title] = vector[:, k] * size[k]
    return named


def _description(crystal: Any) -> dict[str, Any] | None:
    """Return a lattice as plain values; None if it has no columns in the region."""
    if crystal is None:
        return None
    return {
        "columns": len(crystal.columns),
        "vectors_px": crystal.vectors.tolist(),
        "vector_errors_px": crystal.vector_errors.tolist(),
        "sites_px": crystal.sites.tolist(),
        "columns_of_sublattices": np.bincount(crystal.label).tolist(),
        "rms_px": crystal.rms,
    }
