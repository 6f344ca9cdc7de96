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

"""Checks of relaxed slabs: by hand, and beside ASE's neighbour lists."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.build import fcc211
from ase.build import molecule
from ase.neighborlist import NeighborList
from ase.neighborlist import natural_cutoffs

from ppmat.utils.plausibility import CHECKS
from ppmat.utils.plausibility import check_structure

FAULTS = [name for name in CHECKS if name != "closest_distance"]


def slab_with(*adsorbates, size=(3, 3, 3)):
    """Cu(111) with molecules on ontop sites; tags as in OC20, cell not orthogonal."""
    slab = fcc111("Cu", size, vacuum=9.0)
    tags = np.where(slab.get_tags() == 1, 1, 0)
    number = len(slab)
    for i, name in enumerate(adsorbates):
        atoms = Atoms(name) if len(name) == 1 else molecule(name)
        if name == "CO":
            atoms.rotate(180, "x")  # carbon below
        add_adsorbate(slab, atoms, 1.9, "ontop", offset=(2 * i, 0), mol_index=0)
    slab.set_tags([*tags, *[2] * (len(slab) - number)])
    slab.pbc = True
    return slab


def checks(before, after):
    cell = before.cell.array
    return check_structure(
        before.numbers, before.get_tags(), cell, before.positions, after.positions
    )


def faults(before, after):
    found = checks(before, after)
    return {name for name in FAULTS if getattr(found, name)}


@pytest.mark.parametrize("name", ["O", "CO", "H2O", "CH4"])
def test_an_unchanged_structure_has_no_fault(name):
    slab = slab_with(name)
    assert faults(slab, slab) == set()
    wrapped = slab.copy()
    wrapped.positions += slab.cell.array[0] * 0.5
    wrapped.wrap()
    assert checks(wrapped, wrapped) == pytest.approx(checks(slab, slab))


def test_faults_by_hand():
    slab = slab_with("CO")
    c, o = len(slab) - 2, len(slab) - 1
    assert {slab.numbers[c], slab.numbers[o]} == {6, 8}

    def moved(*shifts):
        after = slab.copy()
        for atom, shift in shifts:
            after.positions[atom] += shift
        return faults(slab, after)

    assert moved((c, [0, 0, 3]), (o, [0, 0, 3])) == {"desorbed"}
    assert moved((c, [0, 0, 1]), (o, [0, 0, 1])) == set()
    assert moved((o, [1.5, 1.5, -1.5])) == {"dissociated"}
    assert moved((o, [0, 0, 0.3])) == set()
    top = int(np.argmax(np.where(slab.get_tags() == 1, slab.positions[:, 0], -99)))
    assert "surface_reconstructed" in moved((top, [0, 0, 4.0]))
    assert moved((top, [0, 0, 0.3])) == set()
    bottom = int(np.argmax(slab.get_tags() == 0))
    low = slab.positions[bottom] + [0, 0, -1.9]
    inside = moved((c, low - slab.positions[c]), (o, low - slab.positions[o]))
    assert {"intercalated", "overlap"} <= inside


def test_an_atom_open_to_the_vacuum_is_not_intercalated():
    # Lower terraces of a stepped surface are less than 2 Å below the highest atoms only
    # in part, so their atoms have tag 0.
    step = fcc211("Pd", (3, 3, 3), vacuum=8)
    heights = step.positions[:, 2]
    tags = (heights > heights.max() - 1.0).astype(int)
    low = int(np.argmax(np.where(tags == 0, heights, 0)))
    step.set_tags(tags)
    step += Atoms("C", [step.positions[low] + [0, 0, 1.9]], tags=[2])
    assert faults(step, step) == set()
    upside_down = step.copy()
    upside_down.positions[:, 2] *= -1
    assert faults(upside_down, upside_down) == set()
    # At an octahedral site below three surface atoms it is covered.
    flat = fcc111("Pd", (3, 3, 4), vacuum=8)
    flat.set_tags(flat.get_tags() < 2)
    add_adsorbate(flat, "C", -1.123, "fcc")
    flat.set_tags([*flat.get_tags()[:-1], 2])
    for sign in (1, -1):
        flat.positions[:, 2] *= sign
        assert faults(flat, flat) == {"intercalated"}


def test_overlap_and_closest_distance_through_the_cell():
    slab = slab_with("O")
    for distance, wanted in ((0.3, True), (1.25, True), (1.35, False)):
        after = slab.copy()
        image = slab.cell.array[0] - slab.cell.array[1]
        copper = int(np.argmax(slab.get_tags() == 1))
        after.positions[-1] = slab.positions[copper] + image + [0, 0, distance]
        found = checks(slab, after)
        assert found.closest_distance == pytest.approx(distance)
        assert found.overlap == wanted  # 0.65 x (1.32 + 0.66) = 1.287 Å
    pair = Atoms("H2", [[0, 0, 0], [0, 0, 0.73]], cell=6 * np.eye(3), tags=[1, 2])
    assert checks(pair, pair).overlap  # closer than in a hydrogen molecule
    pair.positions[1, 2] = 0.75
    assert not checks(pair, pair).overlap


def test_each_of_several_adsorbates_must_stay():
    slab = slab_with("O", "O")
    for atom in (-1, -2):
        after = slab.copy()
        after.positions[atom, 2] += 4.0
        assert faults(slab, after) == {"desorbed"}
    clean = slab[slab.get_tags() < 2]
    assert faults(clean, clean) == set()


def connected(atoms, multiplier):
    """The rule of fairchem's DetectTrajAnomaly, with ASE: bonds of each atom."""
    found = NeighborList(
        natural_cutoffs(atoms, mult=multiplier), self_interaction=False, bothways=True
    )
    found.update(atoms)
    return found.get_connectivity_matrix(sparse=False).astype(int)


def by_ase(before, after):
    """Faults of a slab with one adsorbate, written with matrices as fairchem does."""
    tags = before.get_tags()
    ads, slab = np.flatnonzero(tags == 2), np.flatnonzero(tags != 2)
    bonds = [connected(x[ads], 1.0) for x in (before, after)]
    touch = connected(after, 1.5)[np.ix_(ads, slab)]
    old, new = before[slab], after[slab]
    made = (connected(new, 1.0) - connected(old, 1.5)).max() == 1
    lost = (connected(old, 1.0) - connected(new, 1.5)).max() == 1
    within = connected(after, 1.0)[np.ix_(ads, np.flatnonzero(tags == 0))]
    verdicts = {
        "desorbed": not touch.any(),
        "dissociated": (bonds[0] != bonds[1]).any(),
        "surface_reconstructed": made or lost,
        "intercalated": within.any(),
    }
    return {name for name, found in verdicts.items() if found}


def test_verdicts_are_those_of_the_rules_with_ase():
    rng = np.random.default_rng(0)
    seen = []
    for number in range(60):
        before = slab_with(["O", "CO", "H2O", "CH3OH"][number % 4], size=(2, 2, 3))
        after = before.copy()
        scale = [0.1, 0.4, 0.8][number % 3]
        after.positions += rng.normal(0, scale, (len(after), 3))
        after.positions[before.get_tags() == 2, 2] += rng.choice([-2.5, 0, 2.5])
        wanted = by_ase(before, after)
        found = faults(before, after) - {"overlap"}
        # Here an atom with a free way to the vacuum is not intercalated.
        assert found - {"intercalated"} == wanted - {"intercalated"}
        assert found <= wanted
        seen.extend(wanted or {"none"})
    counts = {name: seen.count(name) for name in (*FAULTS[1:], "none")}
    assert min(counts.values()) >= 3, counts
