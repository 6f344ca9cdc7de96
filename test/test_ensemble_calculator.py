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

"""EnsembleCalculator: means, spreads, one search of neighbours, members that fit."""

import numpy as np
import pytest
from ase.build import bulk
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.constraints import FixAtoms
from helpers_potential import GRAPH
from helpers_potential import make_potential

from ppmat.calculator import EnsembleCalculator
from ppmat.calculator.ensemble_calculator import largest_spread
from ppmat.utils.errors import InputError


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    return [make_potential(folder, seed) for seed in (3, 4, 5)]


@pytest.fixture()
def atoms(members):
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=0)
    atoms.calc = EnsembleCalculator(members)
    return atoms


def test_means_and_spreads(atoms, members):
    each = []
    for member in members:
        one = atoms.copy()
        one.calc = member
        each.append((one.get_potential_energy(), one.get_forces(), one.get_stress()))
    energies, forces, stresses = map(np.array, zip(*each))
    assert atoms.get_potential_energy() == pytest.approx(energies.mean(), abs=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), forces.mean(0), atol=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), stresses.mean(0), atol=1e-6)
    results = atoms.calc.results
    assert results["energy_spread"] == pytest.approx(energies.std(), rel=1e-4)
    by_hand = [
        np.mean([np.linalg.norm(f[i] - forces[:, i].mean(0)) ** 2 for f in forces])
        for i in range(len(atoms))
    ]
    np.testing.assert_allclose(results["forces_spread"], np.sqrt(by_hand), rtol=1e-3)
    assert results["forces_spread"].min() > 0.01  # they do disagree


def test_forces_are_slopes_of_the_mean_energy(atoms):
    forces = atoms.get_forces()
    slopes = calculate_numerical_forces(atoms, eps=0.01, iatoms=[2])
    np.testing.assert_allclose(forces[[2]], slopes, atol=5e-3 * np.ptp(forces))


def test_neighbours_are_searched_once_for_all(atoms, members):
    before = [member.searches for member in members]
    atoms.calc.search_again()  # not those of another test
    atoms.get_forces()
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    after = [member.searches for member in members]
    assert [b - a for a, b in zip(before, after)] == [1, 0, 0]
    atoms.calc.search_again()
    atoms.positions[0, 0] += 0.01
    atoms.get_forces()
    assert members[0].searches == after[0] + 1


def test_open_directions_have_no_stress(atoms):
    water = molecule("H2O")
    water.calc = atoms.calc
    assert water.get_forces().shape == (3, 3)
    with pytest.raises(PropertyNotImplementedError):
        water.get_stress()


def test_held_atoms_do_not_count(atoms):
    atoms.get_forces()
    results = atoms.calc.results
    spread = results["forces_spread"]
    assert largest_spread(atoms, results) == spread.max()
    atoms.set_constraint(FixAtoms([int(spread.argmax())]))
    assert largest_spread(atoms, results) == np.sort(spread)[-2]
    assert largest_spread(atoms, {"energy": 0.0}) is None


def test_members_must_fit(members, tmp_path):
    with pytest.raises(InputError, match="two or more"):
        EnsembleCalculator(members[:1])
    with pytest.raises(InputError, match="members 2 and 3 have the same weights"):
        EnsembleCalculator([*members[:2], members[1]])
    other = make_potential(tmp_path, 6, elements=(1, 29))
    with pytest.raises(InputError, match="other elements"):
        EnsembleCalculator([members[0], other])
    with pytest.raises(InputError, match="other neighbours"):
        EnsembleCalculator([members[0], make_potential(tmp_path, 7, skin=0.0)])
    wide = {"cutoff": 4.0, "max_neighbors": None, "k_cut": 1.0}
    graph = {**GRAPH, "__init_params__": wide}
    with pytest.raises(InputError, match="other neighbours"):
        EnsembleCalculator([members[0], make_potential(tmp_path, 8, graph=graph)])
