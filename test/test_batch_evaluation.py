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

"""Structures in batches have the results that they have alone."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.constraints import FixAtoms
from helpers_potential import make_potential

from ppmat.calculator import evaluate_many
from ppmat.calculator.batch_evaluation import has_room
from ppmat.utils.errors import InputError


@pytest.fixture(scope="module")
def calculator(tmp_path_factory):
    calculator = make_potential(tmp_path_factory.mktemp("potential"))
    calculator.allow_unseen = True
    return calculator


def crystal(seed=0):
    """Copper away from its places."""
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=seed)
    return atoms


def structures():
    """Of several sizes, periodic in three, two and no directions."""
    slab = fcc111("Cu", (2, 2, 2), vacuum=1.0)
    slab.pbc = [True, True, False]
    water = molecule("H2O")
    return [crystal(), slab, water, bulk("Cu", a=3.8), Atoms("O"), crystal(1)]


def alone(atoms, calculator):
    """Return the results of ASE's way."""
    atoms.calc = calculator
    atoms.get_potential_energy()
    return calculator.results


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_a_batch_has_the_results_of_its_structures(calculator, batch_size):
    found = list(evaluate_many(structures(), calculator, batch_size))
    assert len(found) == 6
    for (atoms, results), given in zip(found, structures()):
        assert atoms == given
        assert_same(results, alone(given, calculator))
    assert "stress" in found[0][1] and "stress" not in found[1][1]
    energies = [results["energy"] for _, results in found]
    assert len(np.unique(np.round(energies, 3))) == 6


def test_constraints_do_not_change_forces(calculator):
    atoms = fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=True)
    (_, free), *_ = evaluate_many([atoms], calculator)
    atoms.set_constraint(FixAtoms([0, 1]))
    (_, held), *_ = evaluate_many([atoms], calculator)
    assert_same(held, free)
    assert (held["forces"][:2] != 0.0).any()


def test_faults_stand_in_their_places(tmp_path):
    calculator = make_potential(tmp_path)
    touching = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.01]], cell=[9, 9, 9], pbc=True)
    flat = Atoms("Cu", pbc=[True, False, False])
    given = [touching, crystal(), bulk("Au"), flat, Atoms(), structures()[1]]
    found = [result for _, result in evaluate_many(given, calculator)]
    kinds = [isinstance(result, InputError) for result in found]
    assert kinds == [True, False, True, True, True, False]
    words = ["same place", "", "Au is not", "not zero", "no atoms", ""]
    assert all(word in str(result) for word, result in zip(words, found))
    assert_same(found[1], alone(crystal(), calculator))
    assert not list(evaluate_many([], calculator))
    assert isinstance(next(evaluate_many([flat], calculator))[1], InputError)


def test_batches_are_filled(calculator, monkeypatch):
    sizes = []
    evaluate = calculator.evaluate

    def counting(structures, pairs):
        sizes.append(sum(map(len, structures)))
        return evaluate(structures, pairs)

    monkeypatch.setattr(calculator, "evaluate", counting)
    list(evaluate_many([crystal()] * 5, calculator, 2))
    assert sizes == [16, 16, 8]
    many = bulk("Cu", cubic=True).repeat((5, 5, 5))  # 500 atoms
    assert has_room([], many.repeat(2), None)
    assert has_room([many[:-8]], crystal(), None)
    assert not has_room([many[:-7]], crystal(), None)


def test_a_structure_that_overflows_does_not_spoil_the_others(calculator):
    """Padding multiplies the rows of another structure by zero: NaN stays NaN."""
    table = calculator.model.backbone.element.weight
    kept = table.numpy()
    huge = kept.copy()
    huge[79] = 1e38
    table.set_value(huge)
    try:
        given = [bulk("Au", cubic=True), *structures()]
        results = [found for _, found in evaluate_many(given, calculator)]
    finally:
        table.set_value(kept)
    assert not np.isfinite(results[0]["forces"]).all()
    for found, atoms in zip(results[1:], structures()):
        assert_same(found, alone(atoms, calculator))
