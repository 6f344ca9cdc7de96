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

"""Lattices of columns with known truth, and tables of them."""

import numpy as np

from ppmat.stem.columns.column_table import COLUMNS
from ppmat.stem.columns.column_table import ColumnTable

PAIR = ((0.0, 0.0, 2.0), (0.5, 0.5, 1.0))  # sites in cells, and intensities


def lattice(side, *, turn=0.1, sites=PAIR, cell=14.0, vacancies=0.03, seed=0):
    """Return positions [n, 2], intensities [n] and true sublattices [n].

    ``cell`` is a length in pixels, or the two lattice vectors as rows.
    """
    rng = np.random.default_rng(seed)
    vectors = np.eye(2) * cell if np.ndim(cell) == 0 else np.asarray(cell)
    cos, sin = np.cos(turn), np.sin(turn)
    vectors = vectors @ np.array([[cos, sin], [-sin, cos]])
    count = int(1.5 * side / np.hypot(*vectors.T).min()) + 2
    index = np.stack(np.meshgrid(*[np.arange(-count, count)] * 2), -1).reshape(-1, 2)
    place = np.concatenate([(index + s[:2]) @ vectors + side / 2 for s in sites])
    kind = np.repeat(np.arange(len(sites)), len(index))
    keep = np.all((place > 0) & (place < side), axis=1)
    keep &= rng.random(len(place)) >= vacancies
    kind = kind[keep]
    strength = np.array([s[2] for s in sites])[kind] * rng.normal(1, 0.05, len(kind))
    return place[keep], strength, kind


def table_of(place, intensity, error=0.05, pixel_size=None):
    """Return a table of fitted columns with equal standard errors."""
    values = {
        name: np.zeros(len(place), dtype=bool) if boolean else np.ones(len(place))
        for name, (_, boolean) in COLUMNS.items()
    }
    values.update(y=place[:, 0].copy(), x=place[:, 1].copy(), intensity=intensity)
    values["fitted"] = ~values["fitted"]
    values["y_error"] = values["x_error"] = np.full(len(place), error)
    return ColumnTable(**values, pixel_size=pixel_size)


def moved(place, error, seed=0):
    """Return positions with normal errors."""
    return place + np.random.default_rng(seed).normal(0, error, place.shape)


def whole_errors(fit):
    """Errors from the inverse of the whole normal matrix [n, 4]."""
    n = len(fit.values)
    equations = fit._equations(fit._view(fit._windows_of(np.arange(n))))
    of_columns, mixed = (
        m.toarray() for m in (equations.column_matrix(), equations.mixed_matrix())
    )
    mass = fit.background.mass.toarray()
    inverse = np.linalg.inv(np.block([[of_columns, mixed], [mixed.T, mass]]))
    return np.sqrt(np.diag(inverse)[: 4 * n].reshape(n, 4))
