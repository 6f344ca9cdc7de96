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

"""Layer numbers are recognised, OC20's own tags never are; tags are guessed."""

import dataclasses
import itertools

import ase
import numpy as np
import pytest
from ase import build
from ase.constraints import FixAtoms
from ase.spacegroup import crystal
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.surface_tags import check_tags
from ppmat.datasets.surface_tags import guess_tags
from ppmat.datasets.surface_tags import has_layer_tags
from ppmat.datasets.surface_tags import slab_heights
from ppmat.datasets.surface_tags import tags_are_missing
from ppmat.datasets.surface_tags import tags_of_properties
from ppmat.utils.errors import InputError

EXAMPLES = "structure_generation/example_data/oc20_emt"
BUILDERS = {
    "fcc111": "Cu",
    "fcc100": "Pt",
    "fcc110": "Ni",
    "bcc100": "Fe",
    "bcc110": "Fe",
    "bcc111": "W",
    "hcp0001": "Ru",
    "hcp10m10": "Ru",
    "diamond100": "Si",
    "diamond111": "Si",
}
ADSORBATES = ("O", "S", "Pt", "CO", "CH3OH", "CH3CH2OH")


def as_record(atoms):
    """The arrays of ASE's atoms, unchecked."""
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        fixed[constraint.index] = True
    arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.get_tags())
    return OC20Record("", *arrays, fixed=fixed)


def ase_slab(builder="fcc111", layers=2, adsorbate="O", size=(2, 2), height=1.8):
    """A slab with an adsorbate as the tutorials of ASE make it, with layer numbers."""
    slab = getattr(build, builder)(BUILDERS[builder], (*size, layers), vacuum=10.0)
    if adsorbate is not None:
        one = adsorbate in ase.data.atomic_numbers
        thing = adsorbate if one else build.molecule(adsorbate)
        build.add_adsorbate(slab, thing, height, (0.0, 0.0))
    return slab


def turned(atoms, seed):
    """The same crystal, in another cell and frame: axes, handedness, origin, turn."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    order = rng.permutation(3)
    atoms.cell[:] = atoms.cell.array[order] * rng.choice([-1, 1], 3)[:, None]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]  # also reflections
    atoms.cell[:] = atoms.cell.array @ turn
    atoms.positions = atoms.positions @ turn + rng.normal(size=3) * 7
    atoms.pbc = True
    atoms.wrap()
    return atoms


# Recognition ------------------------------------------------------------------------


@pytest.mark.parametrize("builder", BUILDERS)
def test_slabs_of_ase_have_layer_numbers(builder):
    for layers, adsorbate in itertools.product((2, 3, 4), ADSORBATES):
        if BUILDERS[builder] == adsorbate:
            continue
        slab = ase_slab(builder, layers, adsorbate)
        assert set(slab.get_tags()) == set(range(layers + 1))
        assert has_layer_tags(as_record(slab)), (layers, adsorbate)
        assert has_layer_tags(as_record(turned(slab, layers))), (layers, adsorbate)


@pytest.mark.parametrize("adsorbate", ["O", "CO", "CH3OH"])
def test_one_layer_with_an_adsorbate(adsorbate):
    assert has_layer_tags(as_record(ase_slab("fcc111", 1, adsorbate, (3, 3))))


def test_an_atom_of_the_slabs_own_element():
    slab = ase_slab("fcc111", 2, "Cu", (2, 2))
    assert has_layer_tags(as_record(slab))
    slab.set_tags([0, 0, 0, 0, 1, 1, 1, 1, 2])
    assert not has_layer_tags(as_record(slab))


def test_clean_slabs_of_ase():
    assert has_layer_tags(as_record(ase_slab("fcc111", 3, None)))
    slab = ase_slab("fcc111", 2, None)
    assert slab.get_tags().max() == 2 and has_layer_tags(as_record(slab))
    build.add_adsorbate(slab, ase.Atoms("O", tags=[2]), 1.8, "fcc")
    assert has_layer_tags(as_record(slab))  # the bottom layer counts as adsorbate


def test_an_oxide_and_an_alloy():
    rutile = crystal(
        ["Ti", "O"],
        [(0, 0, 0), (0.3, 0.3, 0)],
        spacegroup=136,
        cellpar=[4.6, 4.6, 2.95, 90, 90, 90],
    )
    nial = build.bulk("NiAl", "cesiumchloride", a=2.89)
    for bulk, plane in itertools.product((rutile, nial), ((1, 1, 0), (1, 1, 1))):
        for adsorbate in "OHS":
            slab = build.surface(bulk, plane, 2, vacuum=10.0)
            build.add_adsorbate(slab, adsorbate, 1.5, (0.0, 0.0))
            assert has_layer_tags(as_record(slab))


def test_layers_of_different_elements():
    slab = ase_slab("fcc111", 2, "S")
    slab.numbers[:4] = 78  # both layers are foreign to each other
    assert has_layer_tags(as_record(slab))
    slab.set_tags([0, 0, 0, 0, 1, 1, 1, 1, 2])
    assert not has_layer_tags(as_record(slab))


def test_several_adsorbates_relaxed_layers_and_held_atoms():
    rng = np.random.default_rng(0)
    slab = ase_slab("fcc111", 2, "CO", (3, 3))
    build.add_adsorbate(slab, "O", 1.5, (2.6, 0.0))
    build.add_adsorbate(slab, "N", 1.4, (5.2, 0.0))
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 2))
    slab.positions += rng.normal(scale=0.15, size=slab.positions.shape)
    assert has_layer_tags(as_record(slab))
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 0))  # as OC20 holds tag 0
    slab.numbers[:] = 29
    assert not has_layer_tags(as_record(slab))


@pytest.mark.parametrize("split", ["train", "val_id", "val_ood_ads", "val_ood_cat"])
def test_no_false_alarm_on_tags_of_oc20(split):
    for number, record in enumerate(OC20LMDB(f"{EXAMPLES}/{split}")):
        if number % 4 == 0:
            assert not has_layer_tags(record)
            free = dataclasses.replace(record, fixed=np.zeros(len(record.pos), bool))
            assert not has_layer_tags(free)
            inverted = dataclasses.replace(free, cell=-record.cell)
            assert not has_layer_tags(inverted)
            check_tags(record)


def with_oc20_tags(slab):
    """A slab of ASE, with tags of OC20."""
    tags = slab.get_tags()
    slab.set_tags(np.where(tags == 0, 2, np.where(tags == 1, 1, 0)))
    return slab


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(BUILDERS)),
    st.integers(2, 4),
    st.sampled_from(ADSORBATES),
    st.booleans(),
    st.integers(0, 1000),
)
def test_legal_tags_on_the_same_slabs_are_no_layer_numbers(
    builder, layers, adsorbate, held, seed
):
    slab = with_oc20_tags(ase_slab(builder, layers, adsorbate))
    if held:
        slab.set_constraint(FixAtoms(mask=slab.get_tags() == 0))
    record = as_record(turned(slab, seed))
    assert not has_layer_tags(record) and not tags_are_missing(record)
    check_tags(record)


def test_metals_on_light_supports_are_no_layer_numbers():
    sheet = build.graphene(size=(3, 3, 1), vacuum=10.0)
    lower = sheet.copy()
    lower.translate([0, 0, -3.35])
    slab = lower + sheet
    slab.set_tags([0] * 18 + [1] * 18)
    assert not has_layer_tags(as_record(slab))
    build.add_adsorbate(slab, ase.Atoms("Pt", tags=[2]), 1.8, (0.0, 0.0))
    assert not has_layer_tags(as_record(slab))
    assert not has_layer_tags(as_record(slab[18:]))  # one sheet, tags 1 and 2


def test_huge_and_negative_tags_are_refused_in_little_memory():
    slab = ase_slab()
    for tag in (1 << 40, -1, 3):
        record = as_record(slab)
        record.tags[0] = tag
        assert not has_layer_tags(record)
        with pytest.raises(InputError, match="wanted 0 .sub-surface.*guess"):
            check_tags(record, "slab")


def test_the_error_names_layer_numbers():
    with pytest.raises(InputError, match="slab: tags hold layer numbers of ASE's"):
        check_tags(as_record(ase_slab()), "slab")


# Guess --------------------------------------------------------------------------------


@pytest.mark.parametrize("adsorbate", ADSORBATES)
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_guess_from_layer_numbers_in_any_cell(layers, adsorbate):
    slab = ase_slab("fcc111", layers, adsorbate)
    number = slab.get_tags()
    wanted = np.where(number == 0, 2, np.where(number == 1, 1, 0))
    for seed in range(5):
        record = as_record(turned(slab, seed))
        assert tags_are_missing(record)
        np.testing.assert_array_equal(guess_tags(record), wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["O", "CO", "CH3OH"]))
def test_guess_without_tags_in_any_cell(seed, adsorbate):
    slab = with_oc20_tags(ase_slab("fcc111", 3, adsorbate))
    wanted = slab.get_tags()
    slab.set_tags(0)
    record = as_record(turned(slab, seed))
    assert tags_are_missing(record)
    np.testing.assert_array_equal(guess_tags(record), wanted)
    heights = slab_heights(record, wanted == 2)
    assert heights[wanted == 2].min() > heights[wanted < 2].max()


def test_a_guess_that_assumes_c_would_fail():
    """The broken twin: heights along the third vector, whatever the vacuum."""
    slab = ase_slab("fcc111", 3, "O")
    slab.set_tags(0)
    slab.cell[:] = slab.cell.array[[2, 0, 1]]
    record = as_record(slab)
    along_c = record.pos @ np.linalg.inv(record.cell)[:, 2]
    metal = record.atomic_numbers != 8
    twin = metal & (along_c > along_c[metal].max() - 2.0)
    assert (twin != (guess_tags(record) == 1)).any()


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda a: a.set_tags(0), "wanted a slab of other elements"),  # no adsorbate
        (lambda a: (a.set_tags(0), a.numbers.fill(6)), "wanted a slab of other"),
        (lambda a: (a.set_tags(0), a.numbers.__setitem__(0, 7)), "may belong to"),
        (lambda a: None, "wanted a slab of other"),  # layer numbers, no adsorbate
    ],
)
def test_what_cannot_be_guessed(change, match):
    slab = ase_slab("fcc111", 3, None)
    change(slab)
    with pytest.raises(InputError, match=match) as error:
        guess_tags(as_record(slab))
    assert "missing_tags" not in str(error.value)  # that is what has failed


@pytest.mark.parametrize("adsorbate", ["SO2", "PH3", "SiH4", "CH3Cl", "SH2"])
def test_other_elements_of_an_adsorbate_are_not_taken_as_slab(adsorbate):
    slab = ase_slab("fcc111", 3, adsorbate, (3, 3), height=2.5)
    wanted = np.where(slab.get_tags() == 0, 2, np.where(slab.get_tags() == 1, 1, 0))
    np.testing.assert_array_equal(guess_tags(as_record(slab)), wanted)
    slab.set_tags(0)
    for seed in range(3):
        with pytest.raises(InputError, match="may belong to the adsorbate|or in it"):
            guess_tags(as_record(turned(slab, seed)))
    skin = ase_slab("fcc111", 3, "CO", (3, 3))
    skin.numbers[skin.get_tags() == 1] = 78  # a full layer is slab
    skin.set_tags(0)
    assert (guess_tags(as_record(skin)) == 1).sum() == 9


def test_names_of_pymatgen():
    names = ["subsurface", "surface", "substitute", "adsorbate"]
    assert tags_of_properties(names) == [0, 1, 1, 2]
    with pytest.raises(InputError, match="x: a surface property is 'bulk'"):
        tags_of_properties(["bulk"], "x")
