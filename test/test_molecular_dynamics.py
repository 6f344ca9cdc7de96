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

"""MolecularDynamics: ensembles, constraints, restart after a kill, stop rules."""

import numpy as np
import pytest
from ase import Atoms
from ase import units
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read
from ase.io import write
from helpers_potential import make_potential

from ppmat.calculator import EnsembleCalculator
from ppmat.calculator.molecular_dynamics import MDSettings
from ppmat.calculator.molecular_dynamics import MolecularDynamics
from ppmat.calculator.molecular_dynamics import RunStopped
from ppmat.calculator.molecular_dynamics import StopRules
from ppmat.utils.errors import InputError


@pytest.fixture(scope="module")
def calc(tmp_path_factory):
    return make_potential(tmp_path_factory.mktemp("potential"))


class Metal(EMT):
    """ASE's EMT in place of a trained potential, where real forces matter."""

    cutoff = 5.0

    def search_again(self):
        """Do nothing: EMT looks for neighbours by itself."""

    def fingerprints(self):
        return ["EMT"]


def crystal():
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.symbols[0] = "O"
    return atoms


def run(atoms, calc, path, steps=12, **options):
    """Run with a frame each 4 steps; return the run."""
    rules = StopRules(options.pop("max_temperature", None), options.pop("spread", None))
    settings = MDSettings(**{"interval": 4, "time_step": 2.0, **options})
    dynamics = MolecularDynamics(atoms, calc, settings, path, rules)
    assert [frame.info["step"] for frame in dynamics.frames(steps)][-1:] == [steps]
    return dynamics


@pytest.mark.parametrize("factor, largest", [(1.0, 0.002), (1.05, 1.0)])
def test_energy_is_conserved_without_a_thermostat(factor, largest, tmp_path):
    """The twin whose forces are 5 % too large drifts far."""
    calc = Metal()
    calculate = calc.calculate

    def scaled(*args):
        calculate(*args)
        calc.results["forces"] *= factor

    calc.calculate = scaled
    copper = bulk("Cu", cubic=True)
    rows = run(copper, calc, tmp_path / "a.traj", 200, ensemble="nve").rows
    totals = np.array([row["total"] for row in rows])
    drift = np.abs(totals - totals[0]).max() / np.ptp([row["kinetic"] for row in rows])
    assert 0.01 * largest < drift < largest
    assert (drift < 0.002) == (factor == 1.0)


def test_start_has_the_temperature_and_no_drift(calc, tmp_path):
    hot, again, other = (
        run(crystal(), calc, tmp_path / f"{i}.traj", 4, ensemble="nve", seed=seed)
        for i, seed in enumerate((1, 1, 2))
    )
    first = [read(tmp_path / f"{i}.traj", 0) for i in range(3)]
    kinetic = 0.5 * units.kB * 300.0 * (3 * 8 - 3)
    assert hot.rows[0]["kinetic"] == pytest.approx(kinetic)
    assert hot.rows[0]["temperature"] == pytest.approx(300.0)
    assert (first[0].get_momenta() == first[1].get_momenta()).all()
    assert (first[0].get_momenta() != first[2].get_momenta()).any()
    assert hot.rows == again.rows != other.rows
    assert not first[0].constraints  # other tools would refuse them
    for atoms in (first[0], hot.atoms):
        np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0.0, atol=1e-9)


def test_held_atoms_stay_and_do_not_count(calc, tmp_path):
    slab = fcc111("Cu", (2, 1, 3), vacuum=4.0)
    slab.set_constraint(FixAtoms([0, 1]))
    done = run(slab, calc, tmp_path / "slab.traj", temperature=500.0)
    frames = read(tmp_path / "slab.traj", ":")
    kinetic = 0.5 * units.kB * 500.0 * 3 * 4
    assert done.rows[0]["kinetic"] == pytest.approx(kinetic)
    assert done.rows[0]["pressure"] is None  # open along z
    for frame in frames:
        assert (frame.positions[:2] == slab.positions[:2]).all()
        assert (frame.get_momenta()[:2] == 0.0).all()
    assert np.abs(frames[-1].positions - slab.positions).max() > 0.01


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_a_continued_run_has_the_same_frames(ensemble, calc, tmp_path):
    """To the last digit, though atoms move so far that neighbours are found anew."""
    atoms = crystal()
    atoms.rattle(0.1, seed=0)
    options = {"ensemble": ensemble, "time_step": 4.0, "temperature": 1000.0}
    whole = run(atoms, calc, tmp_path / "whole.traj", 16, **options)
    for steps in (4, 8, 16):
        parts = run(atoms, calc, tmp_path / "parts.traj", steps, **options)
    frames = [read(tmp_path / f"{name}.traj", ":") for name in ("whole", "parts")]
    assert len(frames[0]) == len(frames[1]) == 5
    for one, other in zip(*frames):
        assert (one.positions == other.positions).all()
        assert (one.get_momenta() == other.get_momenta()).all()
        assert (one.cell == other.cell).all()
    assert whole.rows == parts.rows
    texts = [(tmp_path / f"{name}.csv").read_text() for name in ("whole", "parts")]
    assert texts[0] == texts[1] and texts[0].count("\n") == 6
    moved = np.abs(frames[0][-1].cell.array - atoms.cell.array).max()
    assert (moved > 1e-4) == (ensemble == "npt")


def test_the_barostat_goes_on_with_its_momentum(tmp_path):
    copper = bulk("Cu", cubic=True)
    volumes = []
    for change in (0.0, 10.0):
        path = tmp_path / f"{change}.traj"
        run(copper, Metal(), path, 8, ensemble="npt")
        frames = read(path, ":")
        assert frames[-1].info["barostat_momentum"] != 0.0
        frames[-1].info["barostat_momentum"] += change
        write(path, frames)
        volumes.append(
            run(copper, Metal(), path, 12, ensemble="npt").rows[-1]["volume"]
        )
    assert volumes[1] > volumes[0] + 1e-4
    copper.info["barostat_momentum"] = 1e3  # of the run that the structure is from
    run(copper, Metal(), tmp_path / "other.traj", 4, ensemble="npt")
    assert read(path, 1).info == read(tmp_path / "other.traj", 1).info


def test_each_block_has_its_own_noise(tmp_path):
    """Hot atoms that nothing but noise moves: velocities of blocks are unlike."""
    gas = Atoms("Cu8", 20.0 * np.indices((2, 2, 2)).reshape(3, 8).T, pbc=False)
    options = {"coupling_time": 10.0, "interval": 50}
    run(gas, Metal(), tmp_path / "a.traj", 400, **options)
    momenta = [frame.get_momenta().ravel() for frame in read(tmp_path / "a.traj", ":")]
    alike = np.corrcoef(momenta[1:])[~np.eye(8, dtype=bool)]
    assert np.abs(alike).max() < 0.7


def test_a_killed_run_loses_and_doubles_nothing(calc, tmp_path, monkeypatch):
    whole = run(crystal(), calc, tmp_path / "whole.traj", 16)
    calls, evaluate = [], calc.evaluate

    def killed(structures, pairs):
        calls.append(1)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return evaluate(structures, pairs)

    with monkeypatch.context() as patch:
        patch.setattr(calc, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            run(crystal(), calc, tmp_path / "killed.traj", 16)
    log = tmp_path / "killed.csv"
    lines = log.read_text().splitlines()
    assert len(lines) == 1 + 3  # steps 0, 4, 8
    log.write_text("\n".join(lines[:-1]))  # killed after a frame, before its line
    assert run(crystal(), calc, tmp_path / "killed.traj", 16).rows == whole.rows
    assert log.read_text() == (tmp_path / "whole.csv").read_text()
    assert len(read(tmp_path / "killed.traj", ":")) == 5


@pytest.mark.parametrize("ensemble, mean", [("nvt", 1200), ("nve", 600)])
def test_the_thermostat_keeps_the_temperature(ensemble, mean, tmp_path):
    """Without one, half of it becomes potential energy."""
    copper = bulk("Cu", cubic=True).repeat((2, 2, 1))
    options = {"time_step": 4.0, "temperature": 1200.0, "ensemble": ensemble}
    if ensemble == "nvt":
        options["coupling_time"] = 50.0
    rows = run(copper, Metal(), tmp_path / "a.traj", 200, **options).rows
    found = np.mean([row["temperature"] for row in rows[15:]])
    assert found == pytest.approx(mean, rel=0.15)


def test_the_barostat_keeps_the_pressure(tmp_path):
    """The volume under 10 GPa is that of the equation of state."""
    copper = bulk("Cu", cubic=True).repeat((2, 2, 1))
    options = {"ensemble": "npt", "pressure": 10.0, "coupling_time": 20.0}
    options |= {"time_step": 4.0, "temperature": 200.0}
    rows = run(copper, Metal(), tmp_path / "a.traj", 200, **options).rows
    names = "pressure", "volume", "temperature"
    mean = {name: np.mean([row[name] for row in rows[20:]]) for name in names}
    assert mean["pressure"] == pytest.approx(10.0, abs=1.0)
    assert mean["temperature"] == pytest.approx(200.0, rel=0.2)
    scale = (mean["volume"] / copper.cell.volume) ** (1 / 3)
    copper.set_cell(scale * copper.cell, scale_atoms=True)
    copper.calc = EMT()
    static = -copper.get_stress()[:3].mean() / units.GPa
    assert static == pytest.approx(10.0, abs=1.5)  # the rest is thermal


def test_stop_rules(tmp_path):
    path = tmp_path / "hot.traj"
    copper = bulk("Cu", cubic=True)
    with pytest.raises(RunStopped, match=r"step \d+: the temperature is .* above 310"):
        run(copper, Metal(), path, 800, max_temperature=310.0, coupling_time=10.0)
    stopped = read(tmp_path / "hot_stopped.extxyz")
    good = read(path, ":")
    assert good[-1].info["step"] < stopped.info["step"] <= good[-1].info["step"] + 4
    assert all(frame.get_temperature() < 310.0 for frame in good)
    run(copper, Metal(), path, 4 * len(good), coupling_time=10.0)  # goes on
    assert not (tmp_path / "hot_stopped.extxyz").exists()


def test_stops_when_atoms_fly_apart(tmp_path):
    near = bulk("Cu", cubic=True)
    near.positions[1] = [0.5, 0.0, 0.0]
    with pytest.raises(RunStopped, match="step 0: atom . .Cu. would move by"):
        run(near, Metal(), tmp_path / "near.traj", time_step=10.0)
    assert len(read(tmp_path / "near_stopped.extxyz")) == 4
    near.positions[1] = [1.2, 0.0, 0.0]
    with pytest.raises(RunStopped, match=r"step [1-9]\d*: (the temper|atom)"):
        run(near, Metal(), tmp_path / "later.traj", ensemble="nve", temperature=1e-3)
    assert read(tmp_path / "later.traj", 0).positions[1, 0] == 1.2


def test_stops_when_the_cell_collapses(tmp_path):
    copper = bulk("Cu", cubic=True)
    options = {"ensemble": "npt", "coupling_time": 10.0, "pressure": 1000.0}
    with pytest.raises(RunStopped, match="the volume is 0.* times that of the start"):
        run(copper, Metal(), tmp_path / "a.traj", 400, **options)


def test_stops_when_forces_are_not_finite(calc, tmp_path, monkeypatch):
    evaluate = calc.evaluate
    calls = []

    def broken(structures, pairs):
        calls.append(1)
        (found,) = evaluate(structures, pairs)
        return [found | {"forces": found["forces"] * (np.nan if len(calls) > 6 else 1)}]

    monkeypatch.setattr(calc, "evaluate", broken)
    with pytest.raises(RunStopped, match="step 6: forces or velocities"):
        run(crystal(), calc, tmp_path / "nan.traj")
    assert len(read(tmp_path / "nan.traj", ":")) == 2


def test_stops_where_potentials_disagree(calc, tmp_path):
    ensemble = EnsembleCalculator([calc, make_potential(tmp_path, 4)])
    with pytest.raises(RunStopped, match="leaves what the potentials know"):
        run(crystal(), ensemble, tmp_path / "a.traj", spread=1e-3)
    stopped = read(tmp_path / "a_stopped.extxyz")
    assert stopped.arrays["forces_spread"].max() > 1e-3
    rows = run(crystal(), ensemble, tmp_path / "a.traj", spread=100.0).rows
    assert all(1e-3 < row["forces_spread"] < 100.0 for row in rows)
    with pytest.raises(InputError, match="wanted an ensemble"):
        run(crystal(), calc, tmp_path / "b.traj", spread=1.0)


def test_npt_wants_a_crystal(calc, tmp_path):
    slab = fcc111("Cu", (2, 1, 3), vacuum=4.0)
    with pytest.raises(InputError, match="periodic in all directions"):
        run(slab, calc, tmp_path / "a.traj", ensemble="npt")
    with pytest.raises(InputError, match="npt, and periodic are .False, False, False"):
        run(Atoms("Cu2", [[0, 0, 0], [0, 0, 3]], pbc=True), calc, tmp_path / "a.traj",
            ensemble="npt")  # fmt: skip
    slab.pbc = True
    with pytest.raises(InputError, match="a layer of 8.0 Å is empty"):
        run(slab, calc, tmp_path / "a.traj", ensemble="npt")
    held = crystal()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(InputError, match="atoms are held"):
        run(held, calc, tmp_path / "a.traj", ensemble="npt")


def test_refuses_what_cannot_move(calc, tmp_path):
    held = crystal()
    held.set_constraint(FixAtoms(range(8)))
    for atoms in (held, bulk("Cu")):
        with pytest.raises(InputError, match="nothing can move"):
            run(atoms, calc, tmp_path / "a.traj")


def test_what_is_refused_leaves_no_file(calc, tmp_path):
    with pytest.raises(InputError, match="Au is not in the training data"):
        run(bulk("Au", cubic=True), calc, tmp_path / "a.traj")
    near = crystal()
    near.positions[1] = near.positions[0] + 0.1
    with pytest.raises(InputError, match="at the same place"):
        run(near, calc, tmp_path / "a.traj")
    with pytest.raises(InputError, match="a multiple of the interval"):
        run(crystal(), calc, tmp_path / "a.traj", 13)
    assert not list(tmp_path.iterdir())


def test_another_run_is_refused_and_kept(calc, tmp_path):
    path = tmp_path / "a.traj"
    run(crystal(), calc, path, 4)
    before = path.read_bytes()
    with pytest.raises(InputError, match="other temperature"):
        run(crystal(), calc, path, temperature=310.0)
    moved = crystal()
    moved.rattle(0.01)
    with pytest.raises(InputError, match="other structure"):
        run(moved, calc, path)
    with pytest.raises(InputError, match="other weights"):
        run(crystal(), make_potential(tmp_path, 4), path)
    (tmp_path / "a.json").unlink()
    with pytest.raises(InputError, match="no run of molecular dynamics wrote it"):
        run(crystal(), calc, path)
    assert path.read_bytes() == before
    (tmp_path / "c.csv").write_text("mine")
    with pytest.raises(InputError, match="c.csv: is there, and no run"):
        run(crystal(), calc, tmp_path / "c.traj")
    (tmp_path / "b").mkdir()
    run(crystal(), calc, tmp_path / "b/a.traj", 8)
    frames = read(tmp_path / "b/a.traj", ":")
    write(tmp_path / "b/a.traj", frames[::2])
    with pytest.raises(InputError, match="lacks frames"):
        run(crystal(), calc, tmp_path / "b/a.traj")
    (tmp_path / "b/a.traj").write_bytes(b"- of Ulm")
    with pytest.raises(InputError, match="cannot be read"):
        run(crystal(), calc, tmp_path / "b/a.traj")


@pytest.mark.parametrize(
    "options, fault",
    [
        ({"ensemble": "nvp"}, "one of nve, nvt, npt"),
        ({"temperature": -1.0}, "temperature is -1.0; wanted 0.001"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"time_step": 0.0}, "time_step is 0.0"),
        ({"interval": 0}, "interval is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"coupling_time": 5.0, "time_step": 2.0}, "at least five steps, 10 fs"),
        ({"pressure": 1e6}, "pressure"),
    ],
)
def test_settings_without_meaning(options, fault):
    with pytest.raises(InputError, match=fault):
        MDSettings(**options)


def test_a_molecule_in_open_space(calc, tmp_path):
    done = run(molecule("H2O"), calc, tmp_path / "h2o.traj", time_step=0.5)
    assert [row["volume"] for row in done.rows] == [None] * 4
    with pytest.raises(InputError, match="a multiple of the interval, 4"):
        list(done.frames(13))
