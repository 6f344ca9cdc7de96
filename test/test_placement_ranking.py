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

"""Placements compared, checked and ranked."""

import csv

import numpy as np
import pytest
from ase.build import fcc111

from ppmat.datasets.adsorbates import read_adsorbate
from ppmat.datasets.placements import clean_slab
from ppmat.datasets.placements import heuristic_placements
from ppmat.sampler.placement_ranking import SAME_PLACE
from ppmat.sampler.placement_ranking import add_checks
from ppmat.sampler.placement_ranking import count_anomalies
from ppmat.sampler.placement_ranking import find_repeated
from ppmat.sampler.placement_ranking import is_same
from ppmat.sampler.placement_ranking import rank
from ppmat.sampler.placement_ranking import write_table

METHYL = read_adsorbate("CH3")


@pytest.fixture(scope="module")
def placed():
    """Return four placements on different sites."""
    slab = clean_slab(fcc111("Cu", (3, 3, 4), vacuum=10))
    return list(heuristic_placements(slab, METHYL, 4, 0))


def test_same_place_knows_images_and_equal_atoms(placed):
    first = placed[0]
    moved = first.copy()
    moved.positions[-4:] += first.cell[0] - 2 * first.cell[1]
    moved.positions[[-1, -2]] = moved.positions[[-2, -1]]  # two H
    assert is_same(first, moved)
    moved.positions[-1, 2] += SAME_PLACE + 0.01
    assert not is_same(first, moved)
    swapped = first.copy()
    swapped.positions[[-4, -1]] = first.positions[[-1, -4]]  # C and H
    assert not is_same(first, swapped)
    assert not is_same(first, placed[1])


def test_repeated_placements_agree_in_energy_too(placed):
    again = placed[0].copy()
    again.info["placement"] = 9
    assert find_repeated([*placed, again]) == {9: 0}
    for atoms in (*placed, again):
        atoms.info["total_energy"] = 1.0
    again.info["total_energy"] = 1.2
    assert find_repeated([*placed, again]) == {}


def test_ranking_puts_anomalies_and_faults_last(placed, tmp_path):
    ended = [atoms.copy() for atoms in placed]
    for atoms, energy in zip(ended, (3.0, 1.0, 0.5, 0.0)):
        atoms.info["total_energy"] = energy
    ended[2].positions[-4:, 2] += 4.0  # leaves
    del ended[3].info["total_energy"]
    ended[3].info["fault"] = "unknown element"
    for atoms, start in zip(ended, placed):
        add_checks(atoms, start)
    assert ended[2].info["desorbed"] and not ended[0].info["desorbed"]
    ranked = rank(ended)
    assert [atoms.info["placement"] for atoms in ranked] == [1, 0, 2, 3]
    write_table(tmp_path / "table.csv", ranked)
    with open(tmp_path / "table.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["rank"] for row in rows] == ["1", "2", "", ""]
    assert [row["above_best"] for row in rows] == ["0.0000", "2.0000", "", ""]
    assert count_anomalies(ended) == "desorbed 1"
    assert count_anomalies(ended[:2]) == ""
    assert rows[3]["fault"] == "unknown element"


def test_a_repeated_placement_has_no_rank(placed, tmp_path):
    ended = [atoms.copy() for atoms in (*placed[:2], placed[0])]
    for number, atoms in enumerate(ended):
        atoms.info |= {"placement": number, "total_energy": [1.0, 2.0, 1.01][number]}
        add_checks(atoms, placed[number % 2])
    write_table(tmp_path / "table.csv", rank(ended))
    with open(tmp_path / "table.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["rank"], row["same_as"]) for row in rows] == [
        ("1", ""),
        ("", "0"),
        ("2", ""),
    ]
    assert np.isclose(float(rows[0]["closest_distance"]), 1.08, atol=0.02)
