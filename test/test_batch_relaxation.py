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

"""relax_batch takes the steps of ASE's FIRE; structures do not see each other."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.constraints import FixBondLength
from ase.constraints import FixedLine
from ase.io import read
from ase.optimize import FIRE
from helpers_potential import make_potential

from ppmat.calculator import relax_batch
from ppmat.utils.errors import InputError


@pytest.fixture(scope="module")
def calculator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("potential")
    return make_potential(folder, elements=(1, 6, 8, 29))


def crystal(seed=0):
    """Copper away from its places."""
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=seed)
    return atoms


def slab(height=1.3):
    """An adsorbate on a slab whose lower layer is held."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0, periodic=True)
    add_adsorbate(atoms, "O", height, "fcc")
    atoms.set_constraint(FixAtoms([0, 1, 2, 3]))
    return atoms


def structures():
    held = crystal(2)
    held.set_constraint([FixedLine([0, 3], [1, 1, 0]), FixBondLength(4, 5)])
    return [crystal(), slab(), molecule("CH3OH"), held, crystal(1)]


@pytest.fixture(scope="module")
def frames_of_ase(calculator, tmp_path_factory):
    """The frames of ASE's FIRE for each structure."""
    path = tmp_path_factory.mktemp("ase") / "ase.traj"
    frames = []
    for atoms in structures():
        atoms.calc = calculator
        FIRE(atoms, logfile=None, trajectory=str(path)).run(fmax=0.05, steps=25)
        frames.append(read(path, ":"))
    return frames


@pytest.mark.parametrize("batch_size, tolerance", [(1, 0.0), (3, 2e-4), (None, 2e-4)])
def test_each_structure_takes_the_steps_of_ase(
    calculator, frames_of_ase, tmp_path, batch_size, tolerance
):
    given = structures()
    paths = [tmp_path / f"{i}.traj" for i in range(len(given))]
    ended = sorted(
        relax_batch(given, calculator, 0.05, 25, batch_size, trajectories=paths)
    )
    assert [done.index for done in ended] == list(range(len(given)))
    for done, path, wanted in zip(ended, paths, frames_of_ase):
        found = read(path, ":")
        assert len(found) == len(wanted) == done.steps + 1
        for one, two in zip(found, wanted):
            moved = np.abs(one.positions - two.positions).max()
            assert moved <= tolerance
            energies = one.get_potential_energy() - two.get_potential_energy()
            assert abs(energies) <= tolerance
            differ = one.get_forces() - two.get_forces()
            assert np.abs(differ).max() <= 10 * tolerance
        assert len(found) > 5
        assert np.abs(found[-1].positions - found[0].positions).max() > 0.05
        assert done.atoms == found[-1]
        assert done.results["energy"] == done.atoms.get_potential_energy()


def test_held_atoms_stay_and_given_structures_too(calculator):
    given = structures()
    for done in relax_batch(given, calculator, max_steps=5):
        start = structures()[done.index]
        np.testing.assert_array_equal(given[done.index].positions, start.positions)
        moved = done.atoms.positions - start.positions
        if done.index == 1:
            assert (moved[:4] == 0.0).all() and (moved[4:] != 0.0).any()
        if done.index == 3:
            assert (moved[[0, 3], 2] == 0.0).all() and (moved[[0, 3], 0] != 0.0).all()
            bonds = done.atoms.get_distance(4, 5), start.get_distance(4, 5)
            assert bonds[0] == pytest.approx(bonds[1], abs=2e-3)


def test_a_structure_that_has_ended_makes_room(calculator, monkeypatch):
    sizes = []
    evaluate = calculator.evaluate

    def counting(structures, pairs):
        sizes.append(len(structures))
        return evaluate(structures, pairs)

    monkeypatch.setattr(calculator, "evaluate", counting)
    given = [bulk("Cu", cubic=True), *structures()]  # the first is where it should be
    searches = calculator.searches
    ended = list(relax_batch(given, calculator, 0.2, 12, batch_size=2))
    assert ended[0][0] == 0 and ended[0].converged and ended[0].steps == 0
    steps = [done.steps + 1 for done in ended]
    assert sum(sizes) == sum(steps) and len({*steps}) > 2
    # one of two works on alone at most at the end
    assert sizes == sorted(sizes, reverse=True) and sizes.count(1) <= max(steps)
    # neighbours are not searched at each step
    assert len(given) <= calculator.searches - searches < 0.6 * sum(steps)


def test_faults_do_not_end_the_others(calculator, monkeypatch):
    touching = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.01]], cell=[9, 9, 9], pbc=True)
    exploding = fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=True)
    evaluate = calculator.evaluate
    seen = []

    def blowing_up(structures, pairs):
        results = evaluate(structures, pairs)
        for atoms, result in zip(structures, results):
            if len(atoms) == 3:
                seen.append(atoms)
                result["forces"] *= [1.0, 1e9, np.nan][len(seen) - 1]
        return results

    alone = sorted(relax_batch(structures(), calculator, max_steps=6))
    monkeypatch.setattr(calculator, "evaluate", blowing_up)
    given = [touching, bulk("Au"), *structures(), exploding, Atoms(), exploding]
    ended = sorted(relax_batch(given, calculator, max_steps=6))
    faults = [str(done.fault or "") for done in ended]
    words = ["same place", "Au is not", *5 * [""], "eV/Å after", "no atoms"]
    assert all(word in fault for word, fault in zip(words, faults))
    assert [not done.results for done in ended] == [bool(fault) for fault in faults]
    assert [bool(fault) for fault in faults] == [True] * 2 + [False] * 5 + [True] * 3
    assert "force of nan" in faults[-1] or "force of nan" in faults[-3]
    for one, two in zip(ended[2:7], alone):
        np.testing.assert_allclose(one.atoms.positions, two.atoms.positions, atol=1e-4)


def test_a_trajectory_of_other_weights_does_not_go_on(
    calculator, tmp_path, monkeypatch
):
    path = str(tmp_path / "one.traj")
    list(relax_batch([crystal()], calculator, max_steps=2, trajectories=[path]))
    before = Path(path).read_bytes()
    monkeypatch.setattr(type(calculator), "fingerprints", lambda self: ["others"])
    (end,) = relax_batch([crystal()], calculator, max_steps=2, trajectories=[path])
    assert "one.traj was not made with these weights" in str(end.fault)
    assert Path(path).read_bytes() == before


def test_a_stopped_relaxation_goes_on(calculator, tmp_path):
    given = structures()
    paths = [tmp_path / f"{i}.traj" for i in range(len(given))]
    run = relax_batch(given, calculator, 0.2, 200, 2, trajectories=paths)
    first = next(run)
    run.close()  # as a kill
    kept = [len(read(path, ":")) if path.exists() else 0 for path in paths]
    assert kept[first.index] == first.steps + 1 and 0 in kept
    before = paths[first.index].read_bytes()
    ended = sorted(relax_batch(given, calculator, 0.2, 200, 2, trajectories=paths))
    assert all(done.converged for done in ended)
    assert ended[first.index].steps == 0  # it is not done again
    assert paths[first.index].read_bytes() == before
    for done, path, old in zip(ended, paths, kept):
        frames = read(path, ":")
        assert len(frames) == (old + done.steps if old else done.steps + 1)
        moved = [
            np.abs(a.positions - b.positions).max() for a, b in zip(frames, frames[1:])
        ]
        assert min(moved, default=1.0) > 0.0  # no frame twice
        assert frames[-1] == done.atoms
    (held,) = ended[1].atoms.constraints
    assert held.index.tolist() == [0, 1, 2, 3]


def test_trajectories_that_do_not_fit_are_faults(calculator, tmp_path):
    paths = [tmp_path / f"{name}.traj" for name in "abcd"]
    list(relax_batch([crystal()], calculator, max_steps=2, trajectories=paths[:1]))
    whole = paths[0].read_bytes()
    paths[1].write_bytes(b"- of Ulm")
    paths[2].write_bytes(b"")
    given = [crystal(1), *3 * [crystal()]]
    ended = sorted(relax_batch(given, calculator, max_steps=1, trajectories=paths))
    assert "relaxation of another structure" in str(ended[0].fault)
    assert "cannot be read" in str(ended[1].fault)
    assert [done.steps for done in ended] == [0, 0, 1, 1]
    assert paths[0].read_bytes() == whole


@pytest.mark.parametrize(
    "wrong", [{"fmax": 0.0}, {"fmax": np.nan}, {"max_steps": -1}, {"batch_size": 0}]
)
def test_wrong_arguments(calculator, wrong):
    with pytest.raises(InputError, match="fmax is"):
        next(relax_batch([crystal()], calculator, **wrong))
    with pytest.raises(ValueError):
        next(relax_batch([crystal()], calculator, trajectories=[]))
    assert not list(relax_batch([], calculator))
