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

"""Displacements from the lattice and from neighbours, with known truth."""

import numpy as np
import pytest
from helpers_columns import lattice
from helpers_columns import moved
from helpers_columns import table_of

from ppmat.stem.columns.displacement import lattice_displacements
from ppmat.stem.columns.displacement import neighbour_shifts
from ppmat.stem.columns.displacement import reference_lattices
from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.stem.columns.sublattices import find_sublattices

POLAR = np.array([0.7, -0.4])  # shift of sublattice 1, pixels


def polar_table(error=0.05, **options):
    """A crystal of two kinds; the weak one is shifted on the right half only."""
    place, intensity, kind = lattice(300, **options)
    shifted = (kind == 1) & (place[:, 1] > 150)
    place = moved(place + shifted[:, None] * POLAR, error)
    return table_of(place, intensity, error), kind, shifted


def test_a_polar_half_is_measured():
    table, kind, shifted = polar_table()
    found = find_sublattices(table.positions, table.intensity)
    shift, error = neighbour_shifts(table, found)
    # Off the wall, where the strong neighbours of a column are all alike anyway.
    off = shift[kind == 1] - shifted[kind == 1, None] * POLAR
    known = np.isfinite(off).all(axis=1)
    assert known.mean() > 0.75
    assert abs(off[known].mean(axis=0)).max() < 0.01
    pulls = off[known] / error[kind == 1][known]
    assert np.std(pulls) == pytest.approx(1, abs=0.1)
    assert error[kind == 1][known].mean() == pytest.approx(0.05 * np.sqrt(5 / 4))
    # The strong sublattice sees its own neighbours, of which none moved.
    own = shift[kind == 0]
    assert np.nanstd(own) == pytest.approx(0.05 * np.sqrt(5 / 4), rel=0.15)
    assert abs(np.nanmean(own)) < 0.01


def test_a_shift_that_all_share_is_no_displacement_but_a_shift():
    place, intensity, kind = lattice(200)
    table = table_of(place + (kind == 1)[:, None] * POLAR, intensity)
    found = find_sublattices(table.positions, table.intensity)
    away = lattice_displacements(table, reference_lattices(table, found))
    assert abs(away).max() < 1e-6
    shift, _ = neighbour_shifts(table, found)
    known = np.isfinite(shift).all(axis=1) & (kind == 1)
    np.testing.assert_allclose(shift[known] - POLAR, 0, atol=1e-6)


def test_displacements_are_relative_to_the_region():
    table, kind, shifted = polar_table(error=0.02)
    found = find_sublattices(table.positions, table.intensity)
    reference = reference_lattices(table, found, (0, 300, 0, 140))
    away = lattice_displacements(table, reference)
    np.testing.assert_allclose(away[shifted].mean(axis=0), POLAR, atol=0.02)
    np.testing.assert_allclose(away[~shifted].mean(axis=0), 0, atol=0.02)
    whole = lattice_displacements(table, reference_lattices(table, found))
    assert abs(whole[shifted].mean(axis=0) - POLAR).max() > 0.1  # the mean is shared
    with pytest.raises(LatticeError, match=r"reference region \(0, 3, 0, 3\).*usable"):
        reference_lattices(table, found, (0, 3, 0, 3))


def test_missing_and_unfitted_neighbours_give_no_shift():
    table, _, _ = polar_table(vacancies=0.0)
    found = find_sublattices(table.positions, table.intensity)
    middle = np.argmin(np.hypot(table.y - 150, table.x - 150) + 99 * found.label)
    before = np.isnan(neighbour_shifts(table, found)[0][:, 0])
    table.fitted[middle] = False
    after = np.isnan(neighbour_shifts(table, found)[0][:, 0])
    # Itself, four of sublattice 1 and four of its own kind.
    assert (after & ~before).sum() == 9 and not (before & ~after).any()
    table.y[middle] += 3.0  # a position that is not measured moves no lattice
    reference = reference_lattices(table, found)[0]
    other = reference_lattices(table.select(np.arange(len(table))), found)[0]
    np.testing.assert_array_equal(reference.vectors, other.vectors)
    assert reference.rms < 0.9
