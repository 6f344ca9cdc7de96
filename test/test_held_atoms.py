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

"""An atom is held if it cannot move at all; one that moves in part is refused."""

import numpy as np
import pytest
from ase.build import fcc111
from ase.constraints import FixAtoms
from ase.constraints import FixBondLengths
from ase.constraints import FixCartesian
from ase.constraints import FixedLine
from ase.constraints import FixedPlane
from ase.constraints import FixScaled
from ase.io import read
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp import Poscar

from ppmat.datasets.held_atoms import held_atoms
from ppmat.datasets.held_atoms import held_sites
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.datasets.structure_record import structure_to_record

ALL = (True, True, True)


def slab(*constraints):
    atoms = fcc111("Cu", (1, 2, 3), vacuum=8.0)
    atoms.set_tags([0, 0, 0, 0, 1, 1])
    atoms.set_constraint(list(constraints))
    return atoms


@pytest.mark.parametrize(
    "constraints",
    [
        [FixAtoms([0, 1])],
        [FixCartesian([0, 1], ALL)],
        [FixScaled([0, 1], ALL)],
        [FixCartesian([0, 1], (True, False, False)), FixedLine([0, 1], (1, 0, 0))],
        [FixScaled([0, 1], (True, True, False)), FixedPlane([0, 1], (0, 0, 1))],
        [FixAtoms([0]), FixScaled([1], ALL), FixAtoms([0, 1])],
        [FixAtoms([0, 1]), FixCartesian([2], (False, False, False))],
    ],
)
def test_atoms_that_cannot_move_are_held(constraints):
    atoms = slab(*constraints)
    assert held_atoms(atoms, "a").tolist() == [True] * 2 + [False] * 4
    # ASE itself moves no held atom: the reference by another route.
    before = atoms.positions.copy()
    moved = before + np.random.default_rng(0).normal(size=before.shape)
    atoms.set_positions(moved)
    np.testing.assert_allclose(atoms.positions[:2], before[:2], atol=1e-9)


@pytest.mark.parametrize(
    "constraint",
    [
        FixCartesian([1], (False, False, True)),
        FixScaled([1], (True, True, False)),
        FixedPlane([1], (0, 0, 1)),
        FixedLine([1], (0, 0, 1)),
    ],
)
def test_atoms_that_move_in_part_are_refused(constraint):
    match = "a: atom 1 may move in some directions only; wanted .*Hold these"
    with pytest.raises(OC20FormatError, match=match):
        held_atoms(slab(constraint), "a")
    with pytest.raises(OC20FormatError, match="atom 1 may move"):
        structure_to_record(slab(constraint))


def test_other_constraints_are_refused():
    with pytest.raises(OC20FormatError, match="FixBondLengths is not supported"):
        held_atoms(slab(FixBondLengths([(0, 1)])), "a")


@pytest.mark.parametrize("flags, held", [("F F F", True), ("T T T", False)])
def test_one_policy_for_poscar_ase_and_pymatgen(tmp_path, flags, held):
    path = write_poscar(tmp_path, flags)
    wanted = [held] * 2 + [False] * 4
    structure = Structure.from_file(path)
    through_ase = AseAtomsAdaptor.get_atoms(structure)
    for thing in (read(path), structure, through_ase):
        record = structure_to_record(thing, warn=False)
        assert record.fixed.tolist() == wanted


@pytest.mark.parametrize("flags", ["T T F", "F F T", "T F F"])
def test_partial_flags_are_refused_everywhere(tmp_path, flags):
    path = write_poscar(tmp_path, flags)
    structure = Structure.from_file(path)
    for thing in (read(path), structure, AseAtomsAdaptor.get_atoms(structure)):
        with pytest.raises(OC20FormatError, match="atom 0 may move.* and 1 others"):
            structure_to_record(thing)


def write_poscar(folder, flags):
    atoms = slab()
    movable = np.ones((6, 3), dtype=bool)
    movable[:2] = [letter == "T" for letter in flags.split()]
    structure = AseAtomsAdaptor.get_structure(atoms)
    path = str(folder / "POSCAR")
    Poscar(structure, selective_dynamics=movable.tolist()).write_file(path)
    return path


def test_flags_of_one_site():
    assert held_sites([[False] * 3, [True] * 3], "a").tolist() == [True, False]
    with pytest.raises(OC20FormatError, match="a: atom 0 may move"):
        held_sites([[False, True, True]], "a")


def test_constraint_beyond_the_atoms():
    assert held_atoms(slab(FixAtoms([0, -6])), "slab").tolist() == [True] + 5 * [False]
    for index in (6, -7):
        with pytest.raises(OC20FormatError, match="does not have"):
            held_atoms(slab(FixAtoms([index])), "slab")
