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

"""Trajectories are planned and computed from the seed, and end when atoms fly apart."""

from collections import Counter

import numpy as np
import pytest
from ase.build import bulk
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from ppmat.distillation import exploration
from ppmat.distillation.exploration import Trajectory
from ppmat.distillation.exploration import label
from ppmat.distillation.exploration import plan
from ppmat.distillation.exploration import run_trajectory
from ppmat.distillation.settings import Explore
from ppmat.distillation.teachers import Source
from ppmat.distillation.teachers import emt
from ppmat.utils.errors import InputError

SHORT = Explore(steps=6, interval=2, rattle_rounds=2, rattle_steps=2)
MD = Trajectory(0, (1, 0, 0), temperature=300.0)
RATTLE = Trajectory(0, (1, 0, 1))


def copper():
    return bulk("Cu", cubic=True)


def test_each_start_has_each_temperature_and_pressure():
    settings = Explore(temperatures=[300, 900], pressures=[None, 1.0], copies=2)
    found = plan(settings, 3, seed=0, iteration=1)
    kinds = Counter((t.start, t.temperature, t.pressure) for t in found)
    assert len(found) == 3 * (2 * 2 * 2 + 1)
    assert kinds[2, 900, 1.0] == 2 and kinds[0, None, None] == 1
    assert len({t.seed for t in found}) == len(found)


def test_held_out_trajectories_are_of_both_roles():
    settings = Explore(temperatures=[300])
    roles = Counter(t.role for t in plan(settings, 10, 0, 0, held_out=0.1))
    assert roles == {"train": 16, "val": 2, "test": 2}


@pytest.mark.parametrize("seed", range(5))
def test_each_start_has_a_trajectory_to_train_on(seed):
    found = plan(Explore(temperatures=[300]), 10, seed, 0, held_out=0.25)
    assert {t.start for t in found if t.role == "train"} == set(range(10))
    with pytest.raises(InputError, match="2 trajectories of 1 structures"):
        plan(Explore(temperatures=[300]), 1, seed, 0, held_out=0.1)


@pytest.mark.parametrize("trajectory", [MD, RATTLE], ids=["dynamics", "rattle"])
def test_a_trajectory_depends_on_its_seed_alone(trajectory):
    first = run_trajectory(trajectory, copper(), SHORT, Source(emt)).frames
    np.random.seed(3)
    again = run_trajectory(trajectory, copper(), SHORT, Source(emt)).frames
    other = Trajectory(0, (2, 0, 0), temperature=trajectory.temperature)
    other = run_trajectory(other, copper(), SHORT, Source(emt)).frames
    assert len(first) == len(again)
    for a, b, c in zip(first, again, other):
        assert np.array_equal(a.positions, b.positions)
        assert not np.allclose(a.positions, c.positions)


def test_frames_have_the_labels_of_their_own_positions():
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0, periodic=True)
    slab.set_constraint(FixAtoms([0]))  # such atoms move, and have forces
    for trajectory in (MD, RATTLE):
        for frame in run_trajectory(trajectory, slab, SHORT, Source(emt)).frames:
            fresh = frame.copy()
            fresh.calc = EMT()
            assert frame.get_potential_energy() == pytest.approx(
                fresh.get_potential_energy()
            )
            assert np.allclose(frame.get_forces(), fresh.get_forces(), atol=1e-6)
            assert np.abs(frame.get_forces()[0]).max() > 0
            assert np.allclose(frame.get_stress(), fresh.get_stress(), atol=1e-8)


def test_pressure_changes_the_cell():
    settings = Explore(steps=60, interval=60, strain=0.0)
    squeezed = Trajectory(0, (0,), temperature=300.0, pressure=50.0)
    (frame,) = run_trajectory(squeezed, copper(), settings, Source(emt)).frames
    assert frame.get_volume() < 0.99 * copper().get_volume()


def test_an_open_structure_has_no_stress_and_keeps_its_cell():
    atoms = fcc111("Cu", (1, 1, 2), vacuum=5.0)
    assert not atoms.pbc.all()
    found = run_trajectory(MD, atoms, SHORT, Source(emt)).frames
    assert all("stress" not in frame.calc.results for frame in found)
    assert np.array_equal(found[0].cell, atoms.cell)


def test_an_exploding_trajectory_ends_with_its_reason():
    atoms = copper()
    atoms.positions[1] = atoms.positions[0] + [0.4, 0, 0]
    # the distance of neighbours in copper is 2.55 Å
    source = Source(LennardJones, sigma=2.3, epsilon=0.4, rc=6.0)
    found = run_trajectory(MD, atoms, Explore(steps=40, interval=2), source)
    assert "K, more than 10 x 300 K" in found.fault or "a force is above" in found.fault
    assert len(found.frames) < 20
    calm = run_trajectory(MD, copper(), Explore(steps=40, interval=2), source)
    assert calm.fault == "" and len(calm.frames) == 20


class LooksUp(EMT):
    """As potentials do that look elements up in a dictionary."""

    def initialize(self, atoms):
        raise KeyError(atoms.symbols[0])


@pytest.mark.parametrize(
    "teacher, fault", [(emt, "NotImplementedError: "), (LooksUp, "KeyError: 'Fe'")]
)
def test_a_teacher_that_fails_ends_the_trajectory(teacher, fault):
    found = run_trajectory(MD, bulk("Fe"), SHORT, Source(teacher))
    assert found.frames == [] and found.fault.startswith(fault)


def test_label_keeps_positions():
    frames = [copper() for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.rattle(0.1, seed=number)
    found = label(frames, Source(emt))
    for frame, result in zip(frames, found):
        assert np.array_equal(frame.positions, result.positions)
    energies = {round(frame.get_potential_energy(), 6) for frame in found}
    assert len(energies) == 3


def test_strain_stays_within_its_limit():
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = exploration.perturbed(copper(), 0.03, 0.0, rng)
        change = moved.cell.array @ np.linalg.inv(copper().cell.array) - np.eye(3)
        assert np.allclose(change, change.T) and np.abs(change).max() <= 0.03
