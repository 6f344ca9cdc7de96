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


"""Defects of columns of atoms."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import mx2
from scipy.spatial import cKDTree

from ppmat.stem.scenes import defects
from ppmat.stem.scenes.crystal import render_projection
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import project

SHAPE = (200, 160)
MOS2 = project(mx2("MoS2", a=3.18, vacuum=10), SHAPE, 0.2)
CUBIC = Atoms("CuAu", [[0, 0, 0], [2, 2, 0]], cell=[4, 4, 4], pbc=True)
THICK = project(CUBIC, SHAPE, 0.2, thickness=80)


def rng(seed=0):
    return np.random.default_rng(seed)


def atoms_of(projection, element):
    return projection.counts[:, projection.elements.index(element)].sum()


def test_vacancies_take_their_share_of_an_element():
    found = defects.vacancies(MOS2, rng(), 0.2, "S")
    assert atoms_of(found, "Mo") == atoms_of(MOS2, "Mo")
    before, after = atoms_of(MOS2, "S"), atoms_of(found, "S")
    assert abs((before - after) / before - 0.2) < 4 * np.sqrt(0.16 / before)
    record = found.records[-1]
    assert record["atoms"] == before - after
    assert record["columns_gone"] == len(MOS2) - len(found)
    # Columns of two atoms lose one far more often than both.
    half = (found.labels == "S") & (found.occupancy == 0.5)
    assert half.sum() > 4 * record["columns_gone"]
    scene = render_projection(found)
    heights = scene.columns.height[scene.columns.element == "S"]
    assert heights.min() / heights.max() == pytest.approx(0.5, abs=0.05)
    # What was given is left alone.
    assert MOS2.records == () and np.all(MOS2.occupancy == 1)


def test_whole_columns_can_go():
    found = defects.vacancies(THICK, rng(), 0.3, "Au", whole=True)
    assert np.all(found.occupancy == 1)
    gone = len(THICK) - len(found)
    assert gone == found.records[-1]["columns_gone"] > 0.2 * len(THICK) / 2
    assert set(found.labels) == {"Au", "Cu"}


def test_vacancies_of_thick_columns_spread():
    found = defects.vacancies(THICK, rng(), 0.1)
    assert len(found) == len(THICK)
    assert found.occupancy.mean() == pytest.approx(0.9, abs=0.01)
    assert 0.4 < found.occupancy.min() < 0.8


def test_substitution_keeps_the_number_of_atoms():
    found = defects.substitution(MOS2, rng(), 0.3, "Mo", "W")
    assert found.counts.sum() == MOS2.counts.sum()
    assert atoms_of(found, "W") == found.records[-1]["atoms"] > 0
    assert set(found.labels) == {"S", "Mo", "W"}
    assert np.all(found.occupancy == 1)
    everything = defects.substitution(MOS2, rng(), 1.0, "Mo", "S")
    assert set(everything.labels) == {"S"}


def test_adatoms_are_added_apart_or_on_columns():
    found = defects.adatoms(THICK, rng(), 1.0, "Pt", tolerance=0.6)
    record = found.records[-1]
    area = (np.array(SHAPE) * 0.2 + 2 * THICK.margin).prod() / 100
    assert abs(record["atoms"] - area) < 4 * np.sqrt(area)
    assert atoms_of(found, "Pt") == record["atoms"]
    assert len(found) == len(THICK) + record["atoms"] - record["on_columns"]
    assert record["on_columns"] > 0
    assert {"Pt", "Au+Cu"}.isdisjoint(set(THICK.labels)) and "Pt" in found.labels
    lone = found.labels == "Pt"
    apart = cKDTree(found.positions[lone]).query(found.positions[lone], k=2)[0][:, 1]
    assert apart.min() >= 1.5


def test_strain_is_the_gradient_of_the_displacement():
    tensor = np.array([[0.02, 0.01], [-0.03, 0.005]])
    found = defects.strain(THICK, tensor)
    middle = (np.array(SHAPE) - 1) / 2 * 0.2
    moved = found.positions - THICK.positions
    np.testing.assert_allclose(moved, (THICK.positions - middle) @ tensor.T, atol=1e-12)
    assert found.margin == pytest.approx(
        THICK.margin - np.linalg.norm(moved, axis=1).max()
    )


def test_local_strain_is_smooth_and_of_its_size():
    wide = project(CUBIC, (500, 500), 0.2)
    found = defects.local_strain(wide, rng(), 0.3, length=6.0)
    moved = found.positions - wide.positions
    assert np.sqrt((moved**2).mean()) == pytest.approx(0.3, rel=0.12)
    apart = np.linalg.norm(wide.positions[:, None] - wide.positions[::20], axis=-1)
    both = np.sum(moved[:, None] * moved[::20], axis=-1) / (2 * 0.3**2)
    # Neighbours move alike, far columns do not.
    assert both[(apart > 1) & (apart < 3)].mean() > 0.75
    assert abs(both[(apart > 30) & (apart < 40)].mean()) < 0.2


def test_columns_never_come_from_where_nothing_is_known():
    with pytest.raises(CrystalError, match="project with margin="):
        defects.strain(THICK, [[0.5, 0], [0, 0]])
    with pytest.raises(CrystalError, match="project with margin="):
        defects.local_strain(THICK, rng(), 6.0)


@pytest.mark.parametrize("angle", [0.0, 35.0, 90.0])
def test_grain_boundary_keeps_two_crystals_apart(angle):
    other = project(CUBIC, SHAPE, 0.2, thickness=80, rotation=27.0)
    found = defects.grain_boundary(THICK, other, angle, (0.4, 0.6), distance=1.2)
    apart = cKDTree(found.positions).query(found.positions, k=2)[0][:, 1]
    assert apart.min() >= 1.2
    # Each column is one of either crystal, on its side of the line.
    point = np.array([0.4 * 199, 0.6 * 159]) * 0.2
    turn = np.deg2rad(angle)
    side = (found.positions - point) @ [np.cos(turn), -np.sin(turn)] >= 0
    for grain, here in ((THICK, ~side), (other, side)):
        assert here.sum() > 50
        gaps = cKDTree(grain.positions).query(found.positions[here])[0]
        assert gaps.max() < 1e-9
    # Hardly anything is lost but in the narrow strip.
    assert len(found) > 0.9 * len(THICK)


def test_grain_boundary_of_two_materials():
    found = defects.grain_boundary(THICK, MOS2, 0.0)
    assert set(found.labels) == {"Au", "Cu", "Mo", "S"}
    assert np.all(found.occupancy == 1)


def test_same_seed_same_defects_and_records_are_json():
    def all_of_them(seed):
        stream = rng(seed)
        found = defects.vacancies(MOS2, stream, 0.1)
        found = defects.substitution(found, stream, 0.1, "Mo", "W")
        found = defects.adatoms(found, stream, 0.3, "Pt")
        found = defects.strain(found, [[0.01, 0], [0, 0.01]])
        return defects.local_strain(found, stream, 0.1)

    one, two, three = all_of_them(1), all_of_them(1), all_of_them(2)
    assert np.array_equal(one.positions, two.positions)
    assert np.array_equal(one.counts, two.counts)
    assert len(one) != len(three) or not np.array_equal(one.positions, three.positions)
    assert len(json.loads(json.dumps(one.records))) == 5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: defects.vacancies(MOS2, rng(), 1.2), "share is 1.2"),
        (lambda: defects.vacancies(MOS2, rng(), 0.1, "Fe"), "no Fe .* has S, Mo"),
        (lambda: defects.vacancies(MOS2, rng(), 1.0), "no atoms in view"),
        (lambda: defects.substitution(MOS2, rng(), 0.1, "Mo", "Xx"), "no element"),
        (lambda: defects.adatoms(MOS2, rng(), -1, "Pt"), "density is -1"),
        (lambda: defects.adatoms(MOS2, rng(), 1, "Pt", distance=30), "no room"),
        (lambda: defects.strain(MOS2, [0.1, 0.2]), "two rows"),
        (lambda: defects.local_strain(MOS2, rng(), 0.1, length=0), "above 0"),
        (
            lambda: defects.grain_boundary(MOS2, project(CUBIC, SHAPE, 0.1), 0.0),
            "two fields of view",
        ),
    ],
)
def test_defects_that_cannot_be_meant(call, message):
    with pytest.raises(CrystalError, match=message):
        call()
