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

"""Molecular dynamics that goes on after a kill, and stops where it has no meaning.

A run is a chain of blocks of ``interval`` steps. Between two blocks all that decides
the next one is in a frame of the trajectory: positions, velocities, cell, number of the
step, and the momentum of the barostat. A block makes its own integrator, draws its
noise from seed and step, and starts with a new search of neighbours. So a run that is
continued has the same frames as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import TextIO

import numpy as np
from ase import Atoms
from ase import units
from ase.constraints import FixCom
from ase.io import Trajectory
from ase.io import write
from ase.io.jsonio import encode
from ase.io.trajectory import TrajectoryWriter
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics as Integrator
from ase.md.velocitydistribution import Stationary
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from ppmat.calculator.ensemble_calculator import EnsembleCalculator
from ppmat.calculator.ensemble_calculator import largest_spread
from ppmat.calculator.sfin_calculator import SFINCalculator
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.errors import text_of
from ppmat.utils.files import RunManifest
from ppmat.utils.files import replacing
from ppmat.utils.files import writing
from ppmat.utils.periodic import empty_layers
from ppmat.utils.result_store import Column
from ppmat.utils.result_store import csv_lines

ENSEMBLES = ("nve", "nvt", "npt")
COLUMNS = (
    Column("step", "count"),
    Column("time", "number", "fs"),
    Column("potential", "number", "eV"),
    Column("kinetic", "number", "eV"),
    Column("total", "number", "eV"),
    Column("temperature", "number", "K"),
    Column("pressure", "number", "GPa"),  # empty unless periodic in all directions
    Column("volume", "number", "Å^3"),  # likewise
    Column("forces_spread", "number", "eV/Å"),  # empty without an ensemble
)
LARGEST_MOVE = 0.5  # Å in one step; hydrogen at 3000 K moves by 0.09 Å in 1 fs
LARGEST_SWELLING = 2.0  # volume over that of the start, or the inverse
_HINT = "Choose another folder, or remove the files of this structure."


class RunStopped(Exception):
    """The structure is where going on has no meaning; the text says why."""


@dataclass(frozen=True)
class MDSettings:
    """What decides a trajectory, beside structure and potential.

    Attributes:
        ensemble: ``nve`` (velocity Verlet), ``nvt`` (Langevin) or ``npt`` (Langevin for
            atoms and volume; the shape of the cell stays).
        temperature: K; of the first velocities, and of the thermostat.
        pressure: GPa; ``npt`` only.
        time_step: fs.
        interval: Steps between two frames.
        seed: Of the first velocities and of the noise.
        coupling_time: fs; the inverse friction of the thermostat. The barostat has ten
            times as much.

    Raises:
        InputError: A value that has no meaning.
    """

    ensemble: str = "nvt"
    temperature: float = 300.0
    pressure: float = 0.0
    time_step: float = 1.0
    interval: int = 20
    seed: int = 0
    coupling_time: float = 100.0

    def __post_init__(self) -> None:
        check_choice("ensemble", self.ensemble, ENSEMBLES)
        limits = {
            "temperature": (1e-3, 1e5, "K"),
            "pressure": (-1e3, 1e3, "GPa"),
            "time_step": (1e-3, 20.0, "fs"),
            "interval": (1, 10**9, "steps"),
            "seed": (0, 2**63, ""),
            "coupling_time": (1.0, 1e6, "fs"),
        }
        for name, (least, most, unit) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                wanted = f"{least:g} to {most:g} {unit}".strip()
                raise InputError(f"{name} is {value!r}", wanted=wanted)
        if self.coupling_time < 5 * self.time_step:
            raise InputError(
                f"coupling_time is {self.coupling_time:g} fs",
                wanted=f"at least five steps, {5 * self.time_step:g} fs",
            )


@dataclass(frozen=True)
class StopRules:
    """Where a run stops; a step that would move an atom by 0.5 Å stops it too.

    Attributes:
        max_temperature: K; None takes ten times that of the settings, at least 3000 K.
        max_spread: eV/Å; the largest spread of the forces on an atom, of an ensemble.
    """

    max_temperature: float | None = None
    max_spread: float | None = None


class MolecularDynamics:
    """A run of one structure, which grows a trajectory.

    Beside ``NAME.traj`` it writes ``NAME.csv``, one line a frame, and ``NAME.json``,
    what decides the trajectory. After a stop ``NAME_stopped.extxyz`` has the structure
    that broke a rule: the one to label next. Held atoms stay; without constraints the
    centre of mass does (in ``npt`` it diffuses).

    Args:
        atoms: The structure at the start. Its velocities are not used.
        calculator: A trained potential, or an ensemble.
        settings: See :class:`MDSettings`.
        path: The trajectory, ``NAME.traj``. If it exists it is continued.
        rules: Where to stop.

    Attributes:
        rows: The lines of ``NAME.csv`` as dicts.
        step: Number of steps that are done.

    Raises:
        InputError: The structure or the settings do not fit, or the trajectory is that
            of another run. Nothing has been written then.

    Example::

        run = MolecularDynamics(atoms, calculator, MDSettings("nve"), "slab.traj")
        for frame in run.frames(1000):
            print(frame.get_temperature())
    """

    def __init__(
        self,
        atoms: Atoms,
        calculator: SFINCalculator | EnsembleCalculator,
        settings: MDSettings,
        path: str | os.PathLike,
        rules: StopRules | None = None,
    ) -> None:
        rules = rules or StopRules()
        _check_structure(atoms, settings, calculator.cutoff)
        if rules.max_spread and not isinstance(calculator, EnsembleCalculator):
            raise InputError("max_spread, and a single potential", wanted="an ensemble")
        self.settings, self.rules, self.path = settings, rules, Path(path)
        self.calculator = calculator
        self._hottest = rules.max_temperature or max(10 * settings.temperature, 3000.0)
        decides = asdict(settings)
        decides |= {"structure": _hash_of(atoms), "weights": calculator.fingerprints()}
        self._manifest = RunManifest(self.path.with_suffix(".json"), decides, _HINT)
        last = self._read_trajectory(known=self._manifest.path.exists())
        self.atoms = _first_frame(atoms, settings) if last is None else last
        self.step = self.atoms.info["step"]
        self._first_volume = atoms.cell.volume
        calculator.reset()
        calculator.search_again()
        self.atoms.calc = calculator
        self.atoms.get_forces()  # refuses a structure before anything is written

    def frames(self, steps: int) -> Iterator[Atoms]:
        """Run until ``steps`` are done in all; yield each frame after it is written.

        Raises:
            InputError: ``steps`` is no multiple of the interval.
            RunStopped: A rule is broken. The frames before it are kept.
        """
        interval = self.settings.interval
        if steps < 1 or steps % interval:
            raise InputError(
                f"{steps} steps", wanted=f"a multiple of the interval, {interval}"
            )
        self._manifest.write()
        self._stopped.unlink(missing_ok=True)
        with replacing(self._log) as temporary:  # the trajectory decides what is in it
            temporary.write_text("".join(csv_lines(self.rows, COLUMNS)), "utf-8")
        with Trajectory(self.path, "a") as out, open(self._log, "a", 1, "utf-8") as csv:
            if not self.rows:
                self._check(0)
                yield self._write(out, csv)
            while self.step < steps:
                self._block()
                yield self._write(out, csv)

    def _write(self, out: TrajectoryWriter, csv: TextIO) -> Atoms:
        """Add a frame and its line; return the frame."""
        spread = largest_spread(self.atoms, self.calculator.results)
        self.atoms.info |= {"step": self.step, "forces_spread": spread}
        self.rows.append(log_row(self.atoms, self.settings))
        frame = self.atoms.copy()
        frame.calc = self.calculator
        frame.set_constraint([c for c in frame.constraints if type(c) is not FixCom])
        with writing(self.path):
            out.write(frame)
            csv.write(list(csv_lines(self.rows[-1:], COLUMNS))[1])
        return self.atoms

    @property
    def _log(self) -> Path:
        return self.path.with_suffix(".csv")

    @property
    def _stopped(self) -> Path:
        return self.path.with_name(f"{self.path.stem}_stopped.extxyz")

    def _read_trajectory(self, known: bool) -> Atoms | None:
        """Fill ``rows`` from the trajectory; return its last frame."""
        self.rows: list[dict[str, Any]] = []
        for path in (self.path, self._log, self._stopped):
            if path.exists() and not known:
                found = "is there, and no run of molecular dynamics wrote it"
                raise InputError(found, where=str(path), hint=_HINT)
        if not self.path.exists() or not self.path.stat().st_size:
            return None
        last, fault = None, ""
        try:
            with Trajectory(self.path) as stored:
                for last in stored:
                    _hold_centre(last, self.settings)
                    self.rows.append(log_row(last, self.settings))
        except Exception as error:  # ASE raises many
            fault = f"cannot be read: {text_of(error)}"
        steps = [row["step"] for row in self.rows]
        if steps != [i * self.settings.interval for i in range(len(steps))]:
            fault = "lacks frames"
        if fault:
            raise InputError(fault, where=str(self.path), hint=_HINT)
        return last

    def _block(self) -> None:
        """Go on to the next frame."""
        integrator = self._integrator()
        for number in range(1, self.settings.interval + 1):
            if number == self.settings.interval:
                self.calculator.search_again()  # as a run does that starts here
            try:
                integrator.run(1)
            except InputError as error:  # of the calculator: atoms in one place, ...
                self._stop(self.step + number, str(error))
            self._check(self.step + number)
        self.step += self.settings.interval
        if isinstance(integrator, LangevinBAOAB):
            self.atoms.info["barostat_momentum"] = float(integrator.p_eps)

    def _integrator(self) -> Integrator:
        settings = self.settings
        time_step = settings.time_step * units.fs
        coupling = settings.coupling_time * units.fs
        noise = {
            "temperature_K": settings.temperature,
            "rng": np.random.default_rng([settings.seed, self.step]),
        }
        if settings.ensemble == "nve":
            return VelocityVerlet(self.atoms, time_step)
        if settings.ensemble == "nvt":
            friction = 1.0 / coupling
            return Langevin(
                self.atoms, time_step, friction=friction, fixcm=False, **noise
            )
        with warnings.catch_warnings():  # it tells that it chooses the barostat's mass
            warnings.simplefilter("ignore")
            integrator = LangevinBAOAB(
                self.atoms,
                time_step,
                externalstress=-settings.pressure * units.GPa,
                hydrostatic=True,
                T_tau=coupling,
                P_tau=10.0 * coupling,
                **noise,
            )
        integrator.p_eps = self.atoms.info.get("barostat_momentum", 0.0)
        return integrator

    def _check(self, step: int) -> None:
        """Stop if the structure breaks a rule, or would in the next step."""
        atoms, time_step = self.atoms, self.settings.time_step * units.fs
        forces, velocities = atoms.get_forces(), atoms.get_velocities()
        if not (np.isfinite(forces).all() and np.isfinite(velocities).all()):
            self._stop(step, "forces or velocities are not finite")
        temperature = atoms.get_temperature()
        if temperature > self._hottest:
            text = f"the temperature is {temperature:.0f} K, above {self._hottest:g} K"
            self._stop(step, text)
        gained = time_step * forces / atoms.get_masses()[:, None]
        moves = np.linalg.norm(time_step * (velocities + 0.5 * gained), axis=1)
        if moves.max() > LARGEST_MOVE:
            i = moves.argmax()
            self._stop(
                step,
                f"atom {i} ({atoms.symbols[i]}) would move by {moves[i]:.2g} Å in one "
                f"step, more than {LARGEST_MOVE} Å",
            )
        swelling = atoms.cell.volume / (self._first_volume or 1.0)
        changes = self.settings.ensemble == "npt"
        if changes and not 1 / LARGEST_SWELLING < swelling < LARGEST_SWELLING:
            self._stop(step, f"the volume is {swelling:.2f} times that of the start")
        spread = largest_spread(atoms, self.calculator.results)
        limit = self.rules.max_spread
        if limit and spread > limit:
            self._stop(
                step,
                "the structure leaves what the potentials know: their forces differ by "
                f"{spread:.3f} eV/Å, above {limit:g} eV/Å",
            )

    def _stop(self, step: int, reason: str) -> None:
        """Write the structure and raise :class:`RunStopped`."""
        atoms = self.atoms.copy()
        atoms.info = {"step": step, "stopped": reason}
        if "forces_spread" in self.calculator.results:
            atoms.arrays["forces_spread"] = self.calculator.results["forces_spread"]
        with replacing(self._stopped) as temporary:
            write(temporary, atoms, format="extxyz")
        raise RunStopped(f"stopped at step {step}: {reason}")


def log_row(frame: Atoms, settings: MDSettings) -> dict[str, Any]:
    """Return a line of the log, by the names of ``COLUMNS``."""
    potential, kinetic = frame.get_potential_energy(), frame.get_kinetic_energy()
    pressure = volume = None
    if frame.pbc.all():
        volume = frame.cell.volume
        stress = frame.get_stress(apply_constraint=False)[:3].mean()
        pressure = (2.0 * kinetic / (3.0 * volume) - stress) / units.GPa
    return {
        "step": frame.info["step"],
        "time": frame.info["step"] * settings.time_step,
        "potential": potential,
        "kinetic": kinetic,
        "total": potential + kinetic,
        "temperature": frame.get_temperature(),
        "pressure": pressure,
        "volume": volume,
        "forces_spread": frame.info.get("forces_spread"),
    }


def _check_structure(atoms: Atoms, settings: MDSettings, cutoff: float) -> None:
    """Raise ``InputError`` if the ensemble has no meaning for the structure."""
    if settings.ensemble != "npt":
        return
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise InputError(
            f"npt, and periodic are {(atoms.pbc & atoms.cell.any(1)).tolist()}",
            wanted="a structure that is periodic in all directions",
            hint="Use nvt.",
        )
    if atoms.constraints:
        raise InputError(
            "npt, and atoms are held",
            wanted="no constraints, since all atoms move with the cell",
            hint="Use nvt, or remove the constraints.",
        )
    empty = max(layer.thickness for layer in empty_layers(atoms.positions, atoms.cell))
    if empty > cutoff:
        raise InputError(
            f"npt, and a layer of {empty:.1f} Å is empty",
            wanted=f"at most the cut-off, {cutoff:g} Å: a vacuum has no pressure",
            hint="Use nvt.",
        )


def _first_frame(atoms: Atoms, settings: MDSettings) -> Atoms:
    """Return the structure with velocities of the temperature."""
    atoms = atoms.copy()
    _hold_centre(atoms, settings)
    if len(atoms) < 2 or atoms.get_number_of_degrees_of_freedom() < 1:
        raise InputError(
            "nothing can move",
            wanted="at least two atoms, and one that is not held",
        )
    noise = np.random.default_rng([settings.seed])
    temperature = settings.temperature
    thermalize_momenta(atoms, temperature, rng=noise, exact_temperature=True)
    if not atoms.constraints:
        Stationary(atoms)
    atoms.info.pop("barostat_momentum", None)  # of the run that the structure is from
    atoms.info["step"] = 0
    return atoms


def _hold_centre(atoms: Atoms, settings: MDSettings) -> None:
    """Hold the centre of mass, if nothing else is held.

    The integrator of ``npt`` does not work with it. Frames are written without it,
    since it is no property of the structure.
    """
    if settings.ensemble != "npt" and not atoms.constraints:
        atoms.set_constraint(FixCom())


def _hash_of(atoms: Atoms) -> str:
    """Return a hash of what a run starts from."""
    digest = hashlib.sha256(encode([c.todict() for c in atoms.constraints]).encode())
    for value in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
        digest.update(np.ascontiguousarray(value).tobytes())
    digest.update(atoms.get_masses().tobytes())
    return digest.hexdigest()[:16]
