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

"""Molecules in periodic cells: by hand, of ASE, and of cells that are repeated."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.build import graphene
from ase.build import molecule
from ase.collections import g2
from ase.neighborlist import natural_cutoffs
from ase.neighborlist import neighbor_list

from ppmat.utils.bonds import bonded_pairs
from ppmat.utils.bonds import count_molecules

ORGANIC = {"H", "C", "N", "O"}
NAMES = [n for n in g2.names if set(molecule(n).get_chemical_symbols()) <= ORGANIC]


def count(atoms):
    return count_molecules(atoms.numbers, atoms.positions, atoms.cell.array)


def boxed(name, shift=0.0):
    """A molecule in a skewed box, across its border."""
    atoms = molecule(name)
    atoms.set_cell([[9.0, 0, 0], [3.0, 8.5, 0], [1.0, -2.0, 10.0]])
    atoms.pbc = True
    atoms.positions += shift
    atoms.wrap()
    return atoms


@pytest.mark.parametrize("name", NAMES)
def test_a_molecule_is_one(name):
    assert count(boxed(name)) == 1


@pytest.mark.parametrize("name", ["CO", "H2O", "CH3OH", "C6H6"])
@pytest.mark.parametrize("repeat", [(2, 1, 1), (1, 3, 1), (2, 2, 2)])
def test_a_repeated_cell_has_as_many_as_copies(name, repeat):
    for shift in (0.0, 4.3):
        assert count(boxed(name, shift).repeat(repeat)) == np.prod(repeat)


def test_nothing_and_single_atoms():
    assert count(Atoms(cell=5 * np.eye(3))) == 0
    assert count(Atoms("O", cell=5 * np.eye(3))) == 1
    assert count(Atoms("O", cell=[1.2, 5, 5])) == 1  # a chain of its own images
    assert count(Atoms("O2", [[0, 0, 0], [2.5, 0, 0]], cell=9 * np.eye(3))) == 2


@pytest.mark.parametrize("repeat", [(1, 1, 1), (2, 1, 1), (1, 3, 1), (2, 2, 1)])
def test_endless_layers_count_their_atoms(repeat):
    layer = graphene(vacuum=5.0).repeat(repeat)
    layer.pbc = True
    assert count(layer) == len(layer)
    both = layer.copy()
    both.extend(Atoms("CO", [[0, 0, 8.0], [0, 0, 9.13]]))
    assert count(both) == len(layer) + 1


def test_monolayers_do_not_join():
    """O at full coverage of a close-packed surface is one adsorbate a cell."""
    slab = fcc111("Cu", (1, 1, 3), vacuum=8.0)
    add_adsorbate(slab, "O", 1.1, "fcc")
    for n in (1, 2, 3):
        layer = slab.repeat((n, n, 1))
        oxygen = layer[layer.numbers == 8]
        assert count(oxygen) == n * n


def test_bonds_are_those_of_ase():
    atoms = boxed("C6H6", 4.0)
    atoms.extend(boxed("CH3OH", 1.0))
    cutoffs = natural_cutoffs(atoms, mult=1.2)
    i, j, s = neighbor_list("ijS", atoms, cutoffs)
    wanted = {(a, b, *c) for a, b, c in zip(i, j, s.tolist(), strict=True)}
    pairs = bonded_pairs(atoms.numbers, atoms.positions, atoms.cell.array)
    found = zip(pairs.centre, pairs.neighbour, pairs.image.tolist(), strict=True)
    assert {(a, b, *c) for a, b, c in found} == wanted
