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

"""Two sets of frames whose energies have different references become one."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ppmat.distillation.references import aligned
from ppmat.distillation.references import energies_of_elements


def frame(formula, energy):
    atoms = Atoms(formula, np.zeros((len(Atoms(formula)), 3)))
    forces = np.ones((len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def total(formula, copper, oxygen):
    atoms = Atoms(formula)
    return copper * (atoms.numbers == 29).sum() + oxygen * (atoms.numbers == 8).sum()


NAMES = ["Cu4", "Cu4O", "Cu8O3", "Cu2"]


def test_element_energies_are_found():
    found = energies_of_elements([frame(n, total(n, -3.0, -5.0)) for n in NAMES])
    assert found[29] == pytest.approx(-3.0, abs=1e-4)
    assert found[8] == pytest.approx(-5.0, abs=1e-4)
    assert found[1] == 0.0


def test_aligned_energies_have_the_new_reference():
    old = [frame(n, total(n, -3.0, -5.0) + 0.1) for n in NAMES]
    new = [frame(n, total(n, -900.0, -2000.0)) for n in NAMES]
    found = aligned(old[1:3], old, new)
    for result, before, name in zip(found, old[1:3], NAMES[1:3]):
        expected = total(name, -900.0, -2000.0)
        assert result.get_potential_energy() == pytest.approx(expected, abs=0.2)
        assert np.array_equal(result.get_forces(), before.get_forces())
    assert old[1].get_potential_energy() == total("Cu4O", -3.0, -5.0) + 0.1


def test_an_element_of_the_old_set_alone_keeps_its_energy():
    old = [frame(n, total(n, -3.0, -5.0)) for n in NAMES]
    new = [frame("Cu4", -40.0), frame("Cu2", -20.0)]
    (found,) = aligned(old[1:2], old, new)
    assert found.get_potential_energy() == pytest.approx(-45.0, abs=1e-2)
