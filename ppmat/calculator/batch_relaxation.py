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

"""Relax many structures at once with a trained potential."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory
from ase.optimize import FIRE

from ppmat.calculator.batch_evaluation import BatchCalculator
from ppmat.calculator.batch_evaluation import Pairs
from ppmat.calculator.batch_evaluation import has_room
from ppmat.calculator.batch_evaluation import is_finite
from ppmat.datasets.potential_dataset import LARGEST_FORCE
from ppmat.utils.errors import InputError

PathLike = str | os.PathLike


class Relaxation(NamedTuple):
    """How the relaxation of a structure ended."""

    index: int  # of the structure
    atoms: Atoms  # where it ended
    results: dict[str, Any]  # of the calculator there; empty if it was given up
    converged: bool
    steps: int
    fault: InputError | None  # why it was given up


def relax_batch(
    structures: Sequence[Atoms],
    calculator: BatchCalculator,
    fmax: float = 0.05,
    max_steps: int = 300,
    batch_size: int | None = None,
    trajectories: Sequence[PathLike] | None = None,
) -> Iterator[Relaxation]:
    """Relax structures in fixed cells, and yield each when it has ended.

    Each has a ``FIRE`` optimizer of ASE of its own, so that it takes the steps that it
    would take alone; ASE applies its constraints. Energies and forces are computed for
    a batch at once. A structure that has ended makes room for the next one. The given
    structures stay as they are.

    A structure with unseen elements, with atoms at one place, or with forces that are
    no numbers or above 1000 eV/Å is given up; the others go on.

    Args:
        structures: Their index is the order of the results when sorted.
        calculator: The trained potential.
        fmax: A structure has converged if no force is larger [eV/Å].
        max_steps: Most steps of a structure.
        batch_size: Structures at once; None takes 500 atoms, or one structure.
        trajectories: ``.traj`` file of each structure, to which the steps are appended.
            A structure whose file exists goes on from the last frame. A file of other
            weights is an error of its structure.

    Raises:
        InputError: An argument is not valid.

    Example::

        slabs = [done.atoms for done in sorted(relax_batch(slabs, calculator))]
    """
    if not fmax > 0 or max_steps < 0 or (batch_size is not None and batch_size < 1):
        raise InputError(
            f"fmax is {fmax}, max_steps {max_steps}, batch_size {batch_size}",
            wanted="fmax above 0, max_steps 0 or more, batch_size at least 1 or None",
        )
    paths = [None] * len(structures) if trajectories is None else trajectories
    weights = [] if trajectories is None else calculator.fingerprints()
    waiting = deque(zip(range(len(structures)), structures, paths, strict=True))
    running: list[_Running] = []
    while waiting or running:
        while waiting and has_room(
            [r.atoms for r in running], waiting[0][1], batch_size
        ):
            index, atoms, path = waiting.popleft()
            try:
                running.append(_Running(index, atoms, path, weights))
            except InputError as error:
                yield Relaxation(index, atoms, {}, False, 0, error)
        ready = []
        for one in running:
            try:
                one.pairs = calculator.pairs_of(one.atoms, one.pairs)
                ready.append(one)
            except InputError as error:
                yield one.give_up(error)
        running = []
        if not ready:
            continue
        results = calculator.evaluate(
            [one.atoms for one in ready], [one.pairs for one in ready]
        )
        for one, found in zip(ready, results):
            end = one.advance(found, fmax, max_steps)
            if end is None:
                running.append(one)
            else:
                yield end


class _Running:
    """A structure of the batch."""

    def __init__(
        self, index: int, atoms: Atoms, path: PathLike | None, weights: list[str]
    ) -> None:
        self.index, self.path, self.weights = index, path, weights
        self.atoms = atoms.copy() if path is None else last_frame(path, atoms, weights)
        self.pairs: Pairs | None = None
        self.optimizer = FIRE(self.atoms, logfile=None)
        self.steps = 0

    def advance(
        self, results: dict[str, Any], fmax: float, max_steps: int
    ) -> Relaxation | None:
        """Take the results where the atoms are, and move them; or end."""
        largest = np.linalg.norm(results["forces"], axis=1).max()
        if not is_finite(results) or largest > LARGEST_FORCE:
            error = InputError(
                f"a force of {largest:.3g} eV/Å after {self.steps} steps",
                wanted=f"at most {LARGEST_FORCE:g} eV/Å",
                hint="The potential does not know such a structure.",
            )
            return self.give_up(error)
        known = {name: results[name] for name in all_properties if name in results}
        self.atoms.calc = SinglePointCalculator(self.atoms, **known)
        if self.path is not None:
            self._write()
        largest = np.linalg.norm(self.atoms.get_forces(), axis=1).max()
        converged = bool(largest < fmax)
        if converged or self.steps == max_steps:
            return Relaxation(
                self.index, self.atoms, results, converged, self.steps, None
            )
        self.optimizer.step()
        self.steps += 1
        return None

    def give_up(self, error: InputError) -> Relaxation:
        """Return how the relaxation ended, without results."""
        self.atoms.calc = None
        return Relaxation(self.index, self.atoms, {}, False, self.steps, error)

    def _write(self) -> None:
        with Trajectory(self.path, "a") as frames:
            if self.steps or not len(frames):  # else it begins where the file ends
                how = self.optimizer.todict() | {"weights": self.weights}
                frames.set_description(how)
                frames.write(self.atoms)


def last_frame(path: PathLike, atoms: Atoms, weights: list[str]) -> Atoms:
    """Return a copy of atoms, where their relaxation was stopped if there is one.

    Raises:
        InputError: The trajectory cannot be read, starts with another structure, or is
            of other weights.
    """
    stopped = atoms.copy()
    if not os.path.exists(path) or not os.path.getsize(path):
        return stopped
    hint = "Choose another folder, or remove the file."
    try:
        with Trajectory(path) as frames:
            if not len(frames):
                return stopped
            first, last = frames[0], frames[-1]
            moved_by = (frames.description or {}).get("weights")
    except Exception as error:  # ASE raises many
        raise InputError(f"{path} cannot be read: {error}", hint=hint) from error
    same = len(first) == len(atoms) and (first.numbers == atoms.numbers).all()
    if same:
        moved = np.abs(first.positions - atoms.positions).max()
        same = max(moved, np.abs(first.cell - atoms.cell).max()) < 1e-4
    if not same:
        raise InputError(f"{path} is the relaxation of another structure", hint=hint)
    if moved_by != weights:
        raise InputError(f"{path} was not made with these weights", hint=hint)
    stopped.positions = last.positions
    return stopped
