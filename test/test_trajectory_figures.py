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

"""Distances of atoms in trajectories."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.build import molecule
from ase.geometry.rdf import get_rdf

from ppmat.calculator.trajectory_figures import draw_pair_distances
from ppmat.calculator.trajectory_figures import pair_distances


def test_is_that_of_ase_where_the_cell_is_large():
    alloy = bulk("Cu", cubic=True).repeat(3)
    alloy.symbols[::3] = "Pt"
    alloy.rattle(0.1, seed=1)
    distances, found = pair_distances([alloy], reach=5.0, bins=50)
    assert set(found) == {("Cu", "Cu"), ("Cu", "Pt"), ("Pt", "Pt")}
    for pair, values in found.items():
        theirs, where = get_rdf(alloy, 5.0, 50, elements=pair)
        np.testing.assert_allclose(distances, where)
        np.testing.assert_allclose(values, theirs, atol=1e-9)


def test_a_small_skewed_cell_is_that_of_a_large_one():
    small = bulk("Cu")
    for atoms in (bulk("Cu", cubic=True), small.repeat(3)):
        one = pair_distances([small], reach=8.1)[1]["Cu", "Cu"]
        other = pair_distances([atoms], reach=8.1)[1]["Cu", "Cu"]
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_gas_has_one():
    random = np.random.default_rng(0)
    frames = [
        Atoms("Ar200", random.uniform(0, 12.0, (200, 3)), cell=[12.0] * 3, pbc=True)
        for _ in range(20)
    ]
    found = pair_distances(frames, bins=8)[1]["Ar", "Ar"]
    np.testing.assert_allclose(found[1:], 1.0, atol=0.05)


def test_molecules_have_numbers_of_neighbours():
    distances, found = pair_distances([molecule("CH4")] * 2, reach=3.0, bins=300)
    assert set(found) == {("C", "H"), ("H", "H")}
    assert found["C", "H"].sum() * 0.01 == pytest.approx(4.0)
    assert found["H", "H"].sum() * 0.01 == pytest.approx(3.0)
    assert distances[found["C", "H"].argmax()] == pytest.approx(1.09, abs=0.01)


def test_six_of_ten_pairs_are_drawn(tmp_path):
    atoms = Atoms("Cu4O2H3C2", np.arange(33.0).reshape(11, 3))
    draw_pair_distances([atoms], tmp_path / "a.png", "many")
    assert (tmp_path / "a.png").stat().st_size > 10_000
