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

"""Sublattices: vacancies, several crystals, strain, bad columns."""

import dataclasses

import numpy as np
import pytest
from helpers_columns import PAIR
from helpers_columns import lattice
from helpers_columns import moved

from ppmat.stem.columns import sublattices
from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.stem.columns.sublattices import find_sublattices
from ppmat.stem.columns.sublattices import refit

HEXAGONAL = 24.0 * np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
STRUCTURES = {
    "two kinds": {},
    "perovskite": {
        "cell": 28.0,
        "sites": (*[(s[0], s[1], 10 * s[2]) for s in PAIR], (0, 0.5, 3), (0.5, 0, 2)),
    },
    "hexagonal": {"cell": HEXAGONAL, "sites": ((0, 0, 1.0),)},
    "honeycomb": {"cell": HEXAGONAL, "sites": ((0, 0, 2.0), (1 / 3, 1 / 3, 1.0))},
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_each_column_gets_its_site(structure):
    place, intensity, kind = lattice(300, vacancies=0.08, **STRUCTURES[structure])
    found = find_sublattices(moved(place, 0.3), intensity)
    assert len(found.crystals) == 1
    np.testing.assert_array_equal(found.label, kind)
    (crystal,) = found.crystals
    assert crystal.rms == pytest.approx(0.3 * np.sqrt(2), rel=0.1)
    # Scatter of a fit: the ideal positions are the true ones.
    assert abs(crystal.ideal() - place[crystal.columns]).max() < 0.1


def test_units_sign_and_order_do_not_matter():
    place, intensity, _ = lattice(250)
    place = moved(place, 0.2)
    found = find_sublattices(place, intensity)
    order = np.random.default_rng(1).permutation(len(place))
    other = find_sublattices(place[order] + [31.0, -7.0], -1e3 * intensity[order])
    np.testing.assert_array_equal(other.label, found.label[order])
    turned = find_sublattices(place[:, ::-1], intensity)
    np.testing.assert_array_equal(turned.label, found.label)


def two_grains(turn):
    """Two crystals left and right of x = 200, with a gap of 6 pixels."""
    left, right = lattice(400, turn=0.0), lattice(400, turn=turn, seed=1)
    first, second = left[0][:, 1] < 197, right[0][:, 1] > 203
    parts = [np.concatenate([a[first], b[second]]) for a, b in zip(left, right)]
    return *parts, np.repeat([0, 1], [first.sum(), second.sum()])


@pytest.mark.parametrize("turn", [0.3, 0.6])
def test_grain_boundary(turn):
    place, intensity, kind, grain = two_grains(turn)
    found = find_sublattices(moved(place, 0.15), intensity)
    assert len(found.crystals) == 2
    far = abs(place[:, 1] - 200) > 15
    assert (found.crystal >= 0)[far].all() and (found.label == kind)[far].all()
    wrong = found.crystal != (grain == grain[found.crystal == 0][0]) * -1 + 1
    assert not wrong[far].any() and wrong.mean() < 0.02


def test_a_broken_twin_runs_over_the_boundary(monkeypatch):
    monkeypatch.setattr(sublattices, "_TOLERANCE", 0.7)
    place, intensity, kind, grain = two_grains(0.3)
    found = find_sublattices(moved(place, 0.15), intensity)
    far = abs(place[:, 1] - 200) > 15
    assert len(found.crystals) != 2 or not (found.label == kind)[far].all()


def test_columns_that_do_not_belong():
    place, intensity, kind = lattice(250)
    cell = 14 * np.array([[np.cos(0.1), np.sin(0.1)], [-np.sin(0.1), np.cos(0.1)]])
    beside = place[kind == 0][20:60:10] + 0.5 * cell[0]  # between the columns
    amorphous = np.random.default_rng(0).uniform(0, 250, (40, 2)) + [0, 270]
    whole = np.concatenate([place, beside, amorphous])
    strength = np.append(intensity, np.ones(len(whole) - len(place)))
    found = find_sublattices(moved(whole, 0.15), strength)
    assert (found.label[: len(place)] == kind).all()
    assert (found.label[len(place) :] == -1).mean() > 0.9


def test_large_strain_and_a_wedge():
    place, intensity, kind = lattice(500, vacancies=0.02)
    # 8 % of strain on the right: 20 pixels in the end, more than a cell.
    place[:, 1] += 0.08 * np.clip(place[:, 1] - 250, 0, None)
    found = find_sublattices(moved(place, 0.2), intensity * (0.1 + place[:, 1] / 500))
    assert len(found.crystals) == 1 and (found.label == kind).all()


@pytest.mark.parametrize("number", [0, 1, 5, 200])
def test_no_lattice(number):
    place = np.random.default_rng(0).uniform(0, 200, (number, 2))
    with pytest.raises(LatticeError):
        find_sublattices(place, np.ones(number))


def test_neighbours_and_reference():
    place, intensity, _ = lattice(150, turn=0.0, vacancies=0.05)
    (crystal,) = find_sublattices(place, intensity).crystals
    near = crystal.neighbours(np.array([[1, 0], [0, 1]]), crystal.label[:, None])
    for k, vector in enumerate(crystal.vectors):
        here = near[:, k] >= 0
        step = place[crystal.columns[near[here, k]]] - place[crystal.columns[here]]
        np.testing.assert_allclose(step, np.broadcast_to(vector, step.shape), atol=1e-6)
        goal = place[crystal.columns[~here]] + vector
        nearest = abs(goal[:, None] - place).max(axis=2).min(axis=1)
        assert (nearest > 1).all()
    stretched = place * [1.0, 1.05]
    again = refit(crystal, stretched, np.ones(len(crystal.columns), dtype=bool))
    np.testing.assert_allclose(again.vectors, crystal.vectors * [1.0, 1.05], atol=1e-6)
    assert dataclasses.replace(again, columns=crystal.columns).rms < 1e-6
    with pytest.raises(LatticeError, match="sublattice 1 has no usable column"):
        refit(crystal, place, crystal.label == 0)
