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

"""Strain: known tensors, errors, invariances, an independent route."""

import dataclasses

import numpy as np
import pytest
from helpers_columns import lattice
from helpers_columns import moved
from helpers_columns import table_of
from scipy.interpolate import RBFInterpolator
from scipy.linalg import polar

from ppmat.stem.columns.displacement import lattice_displacements
from ppmat.stem.columns.displacement import reference_lattices
from ppmat.stem.columns.strain import Strain
from ppmat.stem.columns.strain import column_strain
from ppmat.stem.columns.sublattices import find_sublattices

LEFT = (0, 320, 0, 150)  # region without strain
ERROR = 0.05


def strain_of(table, region=LEFT):
    found = find_sublattices(table.positions, table.intensity)
    return column_strain(table, reference_lattices(table, found, region))


def half_strained(down, along, error=ERROR, **options):
    """Right of x = 160, displacements grow by (down, along) pixels per pixel of x."""
    place, intensity, _ = lattice(320, **options)
    beyond = np.clip(place[:, 1] - 160, 0, None)
    place = place + beyond[:, None] * [down, along]
    table = table_of(moved(place, error), intensity, max(error, 1e-3))
    return table, (place[:, 1] > 180) & (place[:, 1] < 310), place[:, 1] < 140


def true_parts(down, along):
    """Strain and rotation [degree] of the gradient of (y, x) by (y, x)."""
    turn, stretch = polar(np.array([[1, down], [0, 1 + along]]))
    strain = stretch - np.eye(2)
    angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
    return dict(e_yy=strain[0, 0], e_xx=strain[1, 1], e_xy=strain[0, 1], rotation=angle)


@pytest.mark.parametrize("down, along", [(0.012, -0.02), (0.0, 0.03), (-0.08, 0.0)])
def test_known_strain_and_its_errors(down, along):
    table, strained, reference = half_strained(down, along)
    strain = strain_of(table)
    for which, truth in ((strained, true_parts(down, along)), (reference, {})):
        for name in ("e_yy", "e_xx", "e_xy", "rotation"):
            off = getattr(strain, name)[which] - truth.get(name, 0.0)
            error = getattr(strain, f"{name}_error")[which]
            scale = 1.0 if name != "rotation" else 57.0
            assert abs(np.nanmean(off)) < 1e-3 * scale / 2
            assert np.nanstd(off / error) == pytest.approx(1, abs=0.12), name
            # Nine columns of 0.05 px, steps of 14 px to both sides.
            wanted = ERROR / 14 / np.sqrt(6) * (1 if name[2:] in ("yy", "xx") else 0.71)
            assert np.nanmedian(error) == pytest.approx(wanted * scale, rel=0.1)
        assert np.isfinite(strain.e_yy[which]).mean() > 0.98


def test_a_broken_twin_has_the_other_sign():
    table, strained, _ = half_strained(0.05, 0.0, error=0.0)
    truth = true_parts(0.05, 0.0)
    strain = strain_of(table)
    known = strained & np.isfinite(strain.rotation)
    np.testing.assert_allclose(strain.rotation[known], truth["rotation"], atol=1e-6)
    np.testing.assert_allclose(strain.e_xy[known], truth["e_xy"], atol=1e-9)
    mirrored = table_of(table.positions * [-1, 1], table.intensity)
    strain = strain_of(mirrored, (-320, 0, 0, 150))
    np.testing.assert_allclose(-strain.rotation[known], truth["rotation"], atol=1e-6)


def test_counter_clockwise_is_positive():
    place, intensity, _ = lattice(250, vacancies=0)
    angle = np.radians(3)
    # y points down: +x goes up, to smaller y.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert (turn @ [0, 1])[0] < 0
    table = table_of(place, intensity)
    found = find_sublattices(table.positions, table.intensity)
    reference = reference_lattices(table, found)
    turned = dataclasses.replace(table, **dict(zip("yx", (place @ turn.T).T)))
    strain = column_strain(turned, reference)
    known = np.isfinite(strain.e_yy)
    assert known.mean() > 0.95
    np.testing.assert_allclose(strain.rotation[known], 3.0, atol=1e-6)
    for name in ("e_yy", "e_xx", "e_xy"):  # a rotation is no strain
        np.testing.assert_allclose(getattr(strain, name)[known], 0, atol=1e-9)


def test_position_scale_and_intensity_do_not_matter():
    table, _, _ = half_strained(0.012, -0.02)
    strain = strain_of(table)
    place = 1.7 * table.positions + [50, 9]
    other = table_of(place, 1e4 * table.intensity, 1.7 * ERROR)
    region = 1.7 * np.array(LEFT) + [50, 50, 9, 9]
    other = strain_of(other, tuple(region))
    for field in dataclasses.fields(Strain):
        ours, theirs = getattr(strain, field.name), getattr(other, field.name)
        np.testing.assert_allclose(theirs, ours, atol=1e-6, err_msg=field.name)


def test_pixels_that_are_not_square():
    table, strained, _ = half_strained(0.03, 0.01, error=0.0)
    size = (0.02, 0.01)
    flat = table_of(table.positions / size * 0.01, table.intensity, pixel_size=size)
    strain = strain_of(flat, (0, 160, 0, 150))
    truth = true_parts(0.03, 0.01)
    known = strained & np.isfinite(strain.rotation)
    for name, value in truth.items():
        np.testing.assert_allclose(getattr(strain, name)[known], value, atol=1e-6)


def test_a_shift_of_a_sublattice_is_no_strain():
    place, intensity, kind = lattice(300)
    table = table_of(place + (kind == 1)[:, None] * [0.9, 0.3], intensity)
    strain = strain_of(table, None)
    assert np.nanmax(abs(strain.e_xy)) < 1e-9 and np.nanmax(abs(strain.e_yy)) < 1e-9


def test_columns_that_are_not_fitted_are_left_out():
    table, _, _ = half_strained(0.0, 0.0)
    middle = np.argmin(np.hypot(table.y - 160, table.x - 160))
    table.fitted[middle], table.y_error[middle] = False, np.nan
    before = strain_of(table)
    table.y[middle] += 2.0
    after = strain_of(table)
    np.testing.assert_allclose(before.e_yy, after.e_yy, atol=1e-9)
    assert np.isnan(after.e_yy[middle])
    assert np.isfinite(after.e_yy_error).mean() > 0.98


def test_finite_differences_of_the_displacement_field():
    """The independent route: a smooth field through all displacements."""
    place, intensity, _ = lattice(300, vacancies=0)
    y, x = place.T
    moves = [1.2 * np.sin(y / 40) + 0.8 * np.sin(x / 40), 1.5 * np.cos(x / 45)]
    place = place + np.stack(moves, axis=1)
    table = table_of(place, intensity)
    found = find_sublattices(table.positions, table.intensity)
    reference = reference_lattices(table, found)
    strain = column_strain(table, reference)
    ideal = place - lattice_displacements(table, reference)
    field = RBFInterpolator(ideal, place, neighbors=60)
    inside = np.all((ideal > 30) & (ideal < 270), axis=1)
    step = 7.0  # half a step between columns on either side
    columns = []
    for move in (np.array([step, 0]), np.array([0, step])):
        ends = field(ideal[inside] + move) - field(ideal[inside] - move)
        columns.append(ends / 2 / step)
    gradient = np.stack(columns, axis=-1)
    for k, name in ((0, "e_yy"), (1, "e_xx"), (2, "e_xy")):
        truth = np.array([polar(g)[1] - np.eye(2) for g in gradient])
        truth = truth[:, [0, 1, 0][k], [0, 1, 1][k]]
        off = getattr(strain, name)[inside] - truth
        assert np.std(truth) > 6e-3
        assert np.sqrt(np.mean(off**2)) < 1.2e-3
