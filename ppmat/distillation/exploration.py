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

"""Explore: perturbed structures, molecular dynamics, and rattling with relaxation.

A trajectory is planned from the seed alone, and is computed in one process. Frames
have the labels of the calculator that moved the atoms. Held atoms move too, since a
potential must know the forces on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field

import numpy as np
from ase import Atoms
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.nptberendsen import Inhomogeneous_NPTBerendsen
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE

from ppmat.distillation.settings import Explore
from ppmat.distillation.teachers import Source
from ppmat.utils.errors import InputError

_FRICTION = 0.02 / units.fs
_COMPRESSIBILITY = 1 / (100 * units.GPa)
_TOO_HOT = 10.0  # times the temperature that was asked for: the atoms fly apart
_LARGEST_FORCE = 1000.0  # eV/Å


@dataclass(frozen=True)
class Trajectory:
    """The plan of a trajectory."""

    start: int  # which structure
    seed: tuple[int, ...]
    role: str = "train"  # or val, test
    temperature: float | None = None  # K; None rattles and relaxes
    pressure: float | None = None  # GPa; None keeps the cell


def plan(
    settings: Explore, starts: int, seed: int, iteration: int, held_out: float = 0.0
) -> list[Trajectory]:
    """Return the trajectories of an iteration.

    Args:
        settings: What to explore.
        starts: Number of start structures.
        seed: Of the run.
        iteration: From 0.
        held_out: Share of the trajectories for validation, and the same for the test;
            at least one each unless it is 0. One of each structure stays in training.

    Raises:
        InputError: There are too few trajectories for that.
    """
    kinds: list[tuple[float | None, float | None]] = [
        (temperature, pressure)
        for temperature in settings.temperatures
        for pressure in settings.pressures
    ] * settings.copies
    kinds += [(None, None)] * settings.rattle_copies
    todo = [(start, *kind) for start in range(starts) for kind in kinds]
    roles = ["train"] * len(todo)
    if held_out:
        count = max(1, round(held_out * len(todo)))
        order = np.random.default_rng([seed, iteration]).permutation(len(todo))
        left = Counter(start for start, *_ in todo)
        names = ["val"] * count + ["test"] * count
        for index in order:
            # One of each start is trained on, so that no element is missing
            if names and left[todo[index][0]] > 1:
                left[todo[index][0]] -= 1
                roles[index] = names.pop(0)
        if names:
            raise InputError(
                f"{len(todo)} trajectories of {starts} structures: validation and test "
                f"want {2 * count}, and one of each structure is trained on",
                hint="More temperatures or copies make more.",
            )
    return [
        Trajectory(start, (seed, iteration, number), role, temperature, pressure)
        for number, ((start, temperature, pressure), role) in enumerate(
            zip(todo, roles)
        )
    ]


def perturbed(
    atoms: Atoms, strain: float, displacement: float, rng: np.random.Generator
) -> Atoms:
    """Return atoms without constraints, strained and displaced at random.

    Args:
        atoms: A structure.
        strain: Largest component of the symmetric strain, if the atoms are periodic in
            all directions.
        displacement: Standard deviation of each coordinate [Å].
        rng: Random numbers.
    """
    moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    if atoms.pbc.all():
        _strain(moved, atoms.cell.array, strain, rng)
    moved.positions += rng.normal(0.0, displacement, moved.positions.shape)
    return moved


def _strain(
    atoms: Atoms, cell: np.ndarray, strain: float, rng: np.random.Generator
) -> None:
    """Give atoms a cell, [3, 3] Å, with a random strain."""
    change = rng.uniform(-strain, strain, (3, 3))
    deformed = np.eye(3) + 0.5 * (change + change.T)
    atoms.set_cell(cell @ deformed, scale_atoms=True)


@dataclass
class Explored:
    """Frames of a trajectory, with labels, and why it ended early."""

    frames: list[Atoms] = field(default_factory=list)
    fault: str = ""


def run_trajectory(
    trajectory: Trajectory, atoms: Atoms, settings: Explore, source: Source
) -> Explored:
    """Compute a trajectory.

    Args:
        trajectory: Its plan.
        atoms: The start structure.
        settings: What to explore.
        source: The calculator that moves the atoms.
    """
    rng = np.random.default_rng(trajectory.seed)
    atoms = perturbed(atoms, settings.strain, settings.displacement, rng)
    atoms.info["trajectory"] = "-".join(map(str, trajectory.seed[1:]))
    atoms.calc = source.calculator()
    found = Explored()
    steps = _rattle if trajectory.temperature is None else _dynamics
    try:
        for fault in steps(trajectory, atoms, settings, rng):
            found.frames.append(labelled(atoms))
            if fault:
                found.fault = fault
                break
    except (ArithmeticError, ValueError, RuntimeError, KeyError) as error:
        found.fault = f"{type(error).__name__}: {error}"
    return found


def labelled(atoms: Atoms) -> Atoms:
    """Return a copy of atoms with energy, forces and stress of their calculator.

    There is no stress if the calculator has none, or a direction is not periodic.
    """
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info = dict(atoms.info)
    labels = {
        "energy": float(atoms.get_potential_energy()),
        "forces": np.array(atoms.get_forces(apply_constraint=False), dtype="float64"),
    }
    if atoms.pbc.all():
        try:
            stress = atoms.get_stress(apply_constraint=False)
            labels["stress"] = np.array(stress, dtype="float64")
        except (PropertyNotImplementedError, NotImplementedError):
            pass
    frame.calc = SinglePointCalculator(frame, **labels)
    return frame


def _dynamics(
    trajectory: Trajectory, atoms: Atoms, settings: Explore, rng: np.random.Generator
) -> Iterator[str]:
    """Move atoms to each frame in turn; yields why the trajectory ends, or ''."""
    kelvin = trajectory.temperature
    step = settings.time_step * units.fs
    thermalize_momenta(atoms, temperature_K=kelvin, rng=rng)
    if trajectory.pressure is None:
        dynamics = Langevin(
            atoms,
            step,
            temperature_K=kelvin,
            friction=_FRICTION,
            rng=rng,
            fixcm=False,  # True is not quite a canonical ensemble, and ends in ASE
        )
    else:
        dynamics = Inhomogeneous_NPTBerendsen(
            atoms,
            step,
            temperature_K=kelvin,
            pressure_au=trajectory.pressure * units.GPa,
            taut=100 * units.fs,
            taup=500 * units.fs,
            compressibility_au=_COMPRESSIBILITY,
        )
    for _ in range(settings.steps // settings.interval):
        dynamics.run(settings.interval)
        yield _blow_up(atoms, kelvin)


def _blow_up(atoms: Atoms, kelvin: float) -> str:
    forces = atoms.get_forces(apply_constraint=False)
    if not np.isfinite(forces).all() or np.abs(forces).max() > _LARGEST_FORCE:
        return f"a force is above {_LARGEST_FORCE:g} eV/Å"
    if len(atoms) > 1 and atoms.get_temperature() > _TOO_HOT * kelvin:
        return f"{atoms.get_temperature():.0f} K, more than {_TOO_HOT:g} x {kelvin:g} K"
    return ""


def _rattle(
    trajectory: Trajectory, atoms: Atoms, settings: Explore, rng: np.random.Generator
) -> Iterator[str]:
    """Strain, displace and relax; as :func:`_dynamics`."""
    cell = atoms.cell.array.copy()
    for _ in range(settings.rattle_rounds):
        if atoms.pbc.all():
            _strain(atoms, cell, settings.strain, rng)
        shift = rng.normal(0.0, settings.rattle_displacement, atoms.positions.shape)
        atoms.positions += shift
        FIRE(atoms, logfile=None).run(fmax=0.01, steps=settings.rattle_steps)
        yield _blow_up(atoms, np.inf)


def label(frames: Sequence[Atoms], source: Source) -> list[Atoms]:
    """Return frames with the labels of a calculator."""
    calculator = source.calculator()
    found = []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        found.append(labelled(atoms))
    return found
