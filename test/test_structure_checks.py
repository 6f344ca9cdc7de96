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

"""Flags of structures whose energy is predicted: tags, heights, vacuum, bonds."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.build import molecule
from ase.constraints import FixAtoms
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.structure_record import structure_to_record
from ppmat.predictor.structure_checks import FLAGS
from ppmat.predictor.structure_checks import StructureChecker
from ppmat.predictor.structure_checks import count_unbound
from ppmat.utils.periodic import minimum_image

CUTOFF = 6.0
EXAMPLES = "structure_generation/example_data/oc20_emt"


def checked(structure, guess=False, readout=(1, 2)):
    found = StructureChecker(CUTOFF, readout, None, guess)(structure, 0)
    assert set(found.flags) <= set(FLAGS)
    return found


def slab(adsorbate="CO", height=1.9, layers=3, vacuum=8.0):
    """A Cu(111) slab with tags of OC20."""
    atoms = fcc111("Cu", (2, 2, layers), vacuum=vacuum)
    atoms.set_tags(np.where(atoms.get_tags() == 1, 1, 0))
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 0))
    thing = molecule(adsorbate) if len(adsorbate) > 1 else Atoms(adsorbate)
    if adsorbate == "CO":
        thing.rotate(180, "x")
    thing.set_tags([2] * len(thing))
    thing.translate(-thing.positions[thing.positions[:, 2].argmin()])
    add_adsorbate(atoms, thing, height, (0.0, 0.0))
    atoms.pbc = True
    return atoms


def turned(atoms, seed):
    """The same crystal in another cell and frame: axes, handedness, turn, origin."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    order = rng.permutation(3)
    atoms.cell[:] = atoms.cell.array[order] * rng.choice([-1, 1], 3)[:, None]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    atoms.cell[:] = atoms.cell.array @ turn
    atoms.positions = atoms.positions @ turn + rng.normal(size=3) * 9
    atoms.wrap()
    return atoms, "abc"[order.tolist().index(2)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_flags_do_not_depend_on_the_cell(seed):
    atoms, _ = turned(slab(), seed)
    assert checked(atoms).flags == {}
    atoms, _ = turned(slab(height=5.0), seed)
    assert checked(atoms).flags == {"unbound_adsorbates": "1"}
    upside_down = slab()
    upside_down.set_tags([1] * 4 + [0] * 8 + [2] * 2)
    atoms, _ = turned(upside_down, seed)
    assert checked(atoms).flags == {"adsorbate_below_surface": ""}
    bare = slab()
    bare.set_tags(0)
    atoms, _ = turned(bare, seed)
    found = checked(atoms, guess=True)
    assert found.flags == {"tags_guessed": ""}
    np.testing.assert_array_equal(found.record.tags, slab().get_tags())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_thin_vacuum_is_flagged_along_its_vector(seed):
    atoms, axis = turned(slab("O", 1.3, vacuum=2.5), seed)
    assert checked(atoms).flags == {"thin_vacuum": axis}
    atoms, _ = turned(slab("O", 1.3, vacuum=4.0), seed)
    assert checked(atoms).flags == {}


def test_vacuum_of_structures_that_are_not_periodic():
    atoms = slab(vacuum=2.0)
    atoms.pbc = (True, True, False)
    assert checked(atoms).flags == {"made_periodic": "c", "thin_vacuum": "c"}
    bulk = slab()
    bulk.cell[2, 2] = 3 * 2.08  # no vacuum at all
    del bulk[-2:]
    bulk.set_tags([1] * 12)
    assert checked(bulk, readout=None).flags == {}  # a model of crystals
    assert checked(bulk, readout=(1,)).flags == {}


@pytest.mark.parametrize("adsorbate", ["O", "H", "N", "CO", "CH3OH"])
def test_desorbed_molecules_are_flagged(adsorbate):
    near = {"O": 1.8, "H": 1.6, "N": 1.8, "CO": 1.9, "CH3OH": 1.4}[adsorbate]
    atoms = slab(adsorbate, near, vacuum=10.0)
    assert checked(atoms).flags == {}
    for lift in (2.0, 3.0, 4.0, 6.0):
        lifted = atoms.copy()
        lifted.positions[lifted.get_tags() == 2, 2] += lift
        assert checked(lifted).flags == {"unbound_adsorbates": "1"}


def test_each_molecule_needs_a_bond():
    atoms = slab("O", 1.8).repeat((2, 2, 1))
    for z, wanted in ((1.8, 0), (4.0, 1)):
        more = atoms.copy()
        more += Atoms("CO", [[0, 0, z], [0, 0, z + 1.15]], tags=[2, 2])
        more.positions[-2:] += [
            2.0,
            2.0,
            atoms.positions[atoms.get_tags() == 1, 2].max(),
        ]
        assert count_unbound(structure_to_record(more, warn=False)) == wanted


def test_structures_of_training_are_bound():
    flagged = [
        record.sid
        for number, record in enumerate(OC20LMDB(f"{EXAMPLES}/train"))
        if number % 3 == 0 and checked(record).flags
    ]
    assert not flagged


def test_layer_numbers_are_an_error_and_are_guessed():
    atoms = fcc111("Cu", (2, 2, 2), vacuum=10.0)
    add_adsorbate(atoms, "O", 1.5, "fcc")
    found = checked(atoms)
    assert found.record is None
    assert str(found.error).startswith("tags hold layer numbers of ASE's")
    for readout in ((1, 2), None):
        found = checked(atoms, guess=True, readout=readout)
        assert found.flags["tags_guessed"] == ""
        assert found.record.tags.tolist() == [0] * 4 + [1] * 4 + [2]
    assert atoms.get_tags().tolist() == [2] * 4 + [1] * 4 + [0]
    assert "tags_guessed" not in checked(found.record, guess=True).flags
    bulk = Atoms("Cu", cell=[3, 3, 3], pbc=True)
    assert checked(bulk, guess=True, readout=None).error is None


def test_far_atoms_are_wrapped_or_refused_and_others_go_on():
    good, far, gone = slab(), slab(), slab()
    far.positions[-1] += 10**7 * far.cell[2]
    gone.positions[-1, 2] += 1e8
    gone.pbc = (True, True, False)
    nan = slab()
    nan.positions[0, 0] = np.nan
    cells = [slab() for _ in range(3)]
    cells[0].set_cell(1e-7 * np.eye(3))
    cells[1].set_cell(1e6 * np.eye(3))
    cells[2].set_cell(np.diag([1e-3, 1e3, 1e3]))
    found = [checked(atoms) for atoms in (good, far, gone, nan, *cells, good)]
    first, wrapped, *bad, last = found
    assert first.error is None and last.error is None
    moved = wrapped.record.pos.astype(float) - first.record.pos
    np.testing.assert_allclose(minimum_image(moved, good.cell.array), 0, atol=1e-5)
    assert np.abs(wrapped.record.pos).max() < 30
    for item, match in zip(
        bad,
        (
            "cells along c, which is not periodic",
            "NaN",
            "too small",
            "up to 1e",
            "vector of",
        ),
        strict=True,
    ):
        assert match in str(item.error)
