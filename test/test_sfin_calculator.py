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

"""SFINCalculator in ASE: neighbours, skin, constraints, directions, dynamics."""

import time
from concurrent.futures import ThreadPoolExecutor

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces
from ase.calculators.fd import calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.io import write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from helpers import to_tensors
from helpers_potential import GRAPH
from helpers_potential import write_potential

from ppmat.calculator import SFINCalculator
from ppmat.calculator.sfin_calculator import DEFAULT_MODEL
from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.potential_dataset import PotentialDataset
from ppmat.models.sfin.sfin_potential import SFINPotential
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    """Return a function that writes a potential and makes its calculator."""
    folder = tmp_path_factory.mktemp("potential")

    def make(graph=GRAPH, elements=(1, 6, 8, 29), halves="both", **options):
        paths = write_potential(folder, 3, elements, halves, graph)
        return SFINCalculator(*paths, **options)

    return make


def crystal(seed=0):
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=seed)
    return atoms


def test_it_computes_what_training_sees(potential, tmp_path):
    atoms = crystal()
    atoms.symbols[0] = "O"
    atoms.calc = calc = potential()
    energy, forces, stress = (
        atoms.get_potential_energy(),
        atoms.get_forces(),
        atoms.get_stress(),
    )
    write(tmp_path / "one.extxyz", atoms)
    data = PotentialDataset(
        str(tmp_path / "one.extxyz"), ["energy", "forces", "stress"], None, GRAPH
    )
    batch = DefaultCollator()([data[0]])
    found = calc.model.predict(to_tensors(batch))
    assert energy == pytest.approx(float(found["energy"][0]), abs=1e-5)
    assert energy == pytest.approx(float(batch["energy"][0, 0]), abs=1e-5)
    np.testing.assert_allclose(forces, found["forces"][0], atol=1e-5)
    np.testing.assert_allclose(batch["forces"], found["forces"][0], atol=1e-5)
    xx, yy, zz, yz, xz, xy = stress
    voigt = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
    np.testing.assert_allclose(voigt, found["stress"][0], atol=1e-6)
    np.testing.assert_allclose(batch["stress"], found["stress"], atol=1e-6)


def test_forces_and_stress_are_slopes_of_the_energy(potential):
    atoms = crystal()
    atoms.calc = potential(skin=0.0)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    slopes = calculate_numerical_forces(atoms, eps=0.01, iatoms=[0, 5])
    np.testing.assert_allclose(forces[[0, 5]], slopes, atol=5e-3 * np.ptp(forces))
    numerical = calculate_numerical_stress(atoms, eps=1e-3)
    np.testing.assert_allclose(stress, numerical, atol=1e-2 * np.abs(stress).max())


def test_energies_of_atoms_add_up(potential):
    atoms = crystal()
    atoms.symbols[0] = "O"
    atoms.calc = potential()
    energies = atoms.get_potential_energies()
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    turned = atoms[::-1]
    turned.calc = atoms.calc
    np.testing.assert_allclose(turned.get_potential_energies(), energies[::-1], 1e-5)
    assert np.ptp(energies) > 0.1


def test_threads_compute_one_at_a_time(potential, monkeypatch):
    """Paddle's gradients crash otherwise; NEB(parallel=True) of ASE has threads."""
    predict, busy = SFINPotential.predict, []

    def watched(model, batch):
        busy.append(True)
        assert len(busy) == 1
        time.sleep(0.02)
        busy.pop()
        return predict(model, batch)

    monkeypatch.setattr(SFINPotential, "predict", watched)
    images = [crystal(seed) for seed in range(4)]
    for image in images:
        image.calc = potential()
    alone = [image.get_potential_energy() for image in images]
    for image in images:
        image.calc.reset()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ase.Atoms.get_potential_energy, images))
    np.testing.assert_allclose(found, alone, atol=1e-5)


def dynamics(atoms, steps=30):
    """Run in the micro-canonical ensemble; return the total energies [eV]."""
    atoms.set_velocities(np.random.default_rng(1).normal(0, 0.02, (len(atoms), 3)))
    run = VelocityVerlet(atoms, 1.0 * units.fs)
    totals = []
    run.attach(lambda: totals.append(atoms.get_total_energy()))
    run.run(steps)
    return np.array(totals)


def test_the_skin_saves_searches_and_changes_nothing(potential):
    found = {}
    for skin in (0.0, 0.6):
        atoms = crystal()
        atoms.calc = potential(skin=skin)
        found[skin] = dynamics(atoms), atoms.calc.searches
    (slow, many), (quick, few) = found.values()
    np.testing.assert_allclose(quick, slow, atol=1e-3)
    assert few < 5 < 30 < many


def test_total_energy_is_conserved(potential):
    """The twin whose forces are 5 % too large drifts ten times as far."""
    drifts = []
    for factor in (1.0, 1.05):
        atoms = crystal()
        atoms.calc = calc = potential()
        predict = calc.model.predict

        def scaled(batch, predict=predict, factor=factor):
            found = predict(batch)
            return {**found, "forces": [factor * f for f in found["forces"]]}

        calc.model.predict = scaled
        totals = dynamics(atoms, 60)
        drifts.append(np.abs(totals - totals[0]).max())
    assert drifts[0] < 0.1 * drifts[1]


def test_a_wrapped_or_changed_structure_is_searched_anew(potential):
    atoms = crystal()
    atoms.calc = calc = potential()
    energy = atoms.get_potential_energy()
    atoms.positions[3] += atoms.cell[0]
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-4)
    assert calc.searches == 2
    atoms.set_cell(atoms.cell * 1.05, scale_atoms=True)
    assert abs(atoms.get_potential_energy() - energy) > 1e-3
    fresh = atoms.copy()
    fresh.calc = potential()
    assert atoms.get_potential_energy() == fresh.get_potential_energy()


def test_open_directions_stand_alone_and_have_no_stress(potential):
    slab = fcc111("Cu", (2, 2, 2), vacuum=1.0)
    slab.pbc = [True, True, False]
    slab.calc = potential(halves="spatial")
    wide = slab.copy()
    wide.center(vacuum=10.0, axis=2)
    wide.pbc = True
    wide.calc = slab.calc
    energy = slab.get_potential_energy()
    assert energy == pytest.approx(wide.get_potential_energy(), abs=1e-4)
    with pytest.raises(PropertyNotImplementedError):
        slab.get_stress()
    near = slab.copy()  # the twin: periodic images touch each other
    near.pbc = True
    near.calc = slab.calc
    assert abs(near.get_potential_energy() - energy) > 1e-3
    free = molecule("H2O")
    free.calc = slab.calc
    assert np.isfinite(free.get_forces()).all()


def test_constraints_are_those_of_ase(potential):
    atoms = crystal()
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.calc = potential()
    assert (atoms.get_forces()[:2] == 0.0).all()
    assert (atoms.get_forces(apply_constraint=False)[:2] != 0.0).any()
    start = atoms.positions.copy()
    BFGS(atoms, logfile=None).run(steps=5)
    np.testing.assert_array_equal(atoms.positions[:2], start[:2])
    assert np.abs(atoms.positions - start).max() > 1e-3


def test_unseen_elements_are_reported_once(potential, caplog):
    calc = potential(allow_unseen=True)
    for number in range(3):
        atoms = bulk("Au", a=4.0 + 0.1 * number)
        atoms.calc = calc
        atoms.get_potential_energy()
    assert calc.searches == 3
    assert caplog.text.count("not in the training data: Au") == 1


def test_energies_do_not_depend_on_the_past(potential):
    """A slab with vacuum keeps its box when neighbours are searched again."""
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    slab.pbc = [True, True, False]
    slab.calc = calc = potential()
    slab.positions[-1, 2] += 0.3
    slab.get_potential_energy()
    slab.positions[-1, 2] -= 0.2
    energy, searches = slab.get_potential_energy(), calc.searches
    assert searches == 1
    fresh = slab.copy()
    fresh.calc = potential()
    assert fresh.get_potential_energy() == pytest.approx(energy, abs=1e-5)


def test_refuses_what_it_cannot_know(potential):
    atoms = bulk("Au")
    atoms.calc = potential()
    with pytest.raises(InputError, match="Au is not in the training data"):
        atoms.get_potential_energy()
    atoms.calc = potential(allow_unseen=True)
    assert np.isfinite(atoms.get_potential_energy())
    limited = {**GRAPH, "__init_params__": {"cutoff": 4.0, "max_neighbors": 12}}
    with pytest.raises(ConfigError, match="max_neighbors: null"):
        potential(graph=limited)
    with pytest.raises(InputError, match="skin"):
        potential(skin=-1.0)
    touching = ase.Atoms("Cu2", [[0, 0, 0], [0, 0, 0.01]], cell=[9, 9, 9], pbc=True)
    touching.calc = potential()
    with pytest.raises(InputError, match="same place"):
        touching.get_potential_energy()


def test_atoms_many_cells_away_keep_their_places():
    """In single precision 1e6 cells are further than an atom's place is known."""
    calculator = SFINCalculator()
    near = bulk("Cu", cubic=True).repeat((2, 1, 1))
    near.rattle(0.05, seed=0)
    far = near.copy()
    far.positions[0] += 1e6 * far.cell[0]
    far.positions[3] -= 1e5 * far.cell[2]
    energies, forces = [], []
    for atoms in (near, far):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    assert energies[0] == pytest.approx(energies[1], abs=1e-4)
    assert np.allclose(*forces, atol=1e-4)


def test_a_graph_that_is_too_short_is_refused():
    name = "Predict.graph_converter.__init_params__.cutoff"
    with pytest.raises(ConfigError, match="cutoff 3 .* the potential wants 5"):
        SFINCalculator(model_name=DEFAULT_MODEL, config_overrides=[f"{name}=3.0"])
