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

"""Energies, forces and stress of many structures at once.

Neighbours of a structure are found once, as :class:`Pairs`, and used while its atoms
move little. The calculator keeps one structure's, a relaxation those of a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import numpy as np
import paddle
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.potential_dataset import CLOSEST
from ppmat.datasets.potential_dataset import periodic_box
from ppmat.datasets.structure_record import structure_to_record
from ppmat.models.sfin.sfin_potential import SFINPotential
from ppmat.utils.errors import InputError
from ppmat.utils.errors import text_of

ATOMS_AT_ONCE = 500  # of a batch whose size is not given
_ONE_THREAD = threading.Lock()  # gradients of Paddle in two threads crash


class Pairs:
    """Pairs of neighbours, found once and used while atoms move little."""

    def __init__(self, atoms: Atoms, build_graph: PeriodicGraphConverter) -> None:
        # In single precision an atom many cells away would lose its place
        self.shift = _into_cell(atoms)
        near = atoms.copy()
        near.positions += self.shift
        box = periodic_box(near, build_graph.cutoff)
        # checks the structure; its atoms may be wrapped, those of ``box`` are not
        structure_to_record(box, "", CLOSEST, warn=False)
        self.start = atoms.positions.copy()
        self.cell, self.pbc = atoms.cell.array.copy(), atoms.pbc.copy()
        self.numbers = atoms.numbers.copy()
        self.graph = build_graph(AseAtomsAdaptor.get_structure(box))
        self.structure = {
            "lattice": ConcatData(box.cell.array[None].astype("float32")),
            "atom_types": ConcatData(atoms.numbers.astype("int64")),
            "num_atoms": ConcatData(np.array([len(atoms)])),
        }

    def hold(self, atoms: Atoms, skin: float) -> bool:
        """Return whether the pairs are still all within the cut-off."""
        if len(atoms) != len(self.start) or (atoms.numbers != self.numbers).any():
            return False
        if (atoms.pbc != self.pbc).any() or (atoms.cell.array != self.cell).any():
            return False
        moved = np.linalg.norm(atoms.positions - self.start, axis=1)
        return bool(moved.max(initial=0.0) < 0.5 * skin)

    def sample(self, atoms: Atoms) -> dict[str, Any]:
        """Return the atoms, which the pairs hold for, as a sample of a batch."""
        positions = ConcatData((atoms.positions + self.shift).astype("float32"))
        structure = {**self.structure, "cart_coords": positions}
        return {"structure_array": structure, "graph": self.graph}


def _into_cell(atoms: Atoms) -> np.ndarray:
    """Return the lattice vectors, [N, 3] Å, that bring each atom into the cell.

    Only along periodic directions. Values that are not finite stay, to be refused.
    """
    cell, periodic = atoms.cell.complete().array, atoms.pbc
    if not periodic.any() or abs(np.linalg.det(cell)) < 1e-9:
        return np.zeros_like(atoms.positions)
    with np.errstate(invalid="ignore"):
        cells = np.floor(atoms.positions @ np.linalg.inv(cell))
    cells[:, ~periodic] = 0.0
    return np.where(np.isfinite(cells), -cells, 0.0) @ cell


class BatchCalculator(Protocol):
    """What computes batches, such as ``SFINCalculator``."""

    def pairs_of(self, atoms: Atoms, known: Pairs | None = None) -> Pairs:
        """Return the neighbours: the known ones if they hold, else those of a search.

        Raises:
            InputError: The structure cannot be used.
        """

    def evaluate(
        self, structures: Sequence[Atoms], pairs: Sequence[Pairs]
    ) -> list[dict[str, Any]]:
        """Return the results of each structure, whose pairs hold."""

    def fingerprints(self) -> list[str]:
        """Return a hash of the weights of each network."""


class AseBatch:
    """Any calculator of ASE as a ``BatchCalculator``; it computes one by one.

    Args:
        calculator: The calculator.
    """

    def __init__(self, calculator: Calculator) -> None:
        self.calculator = calculator

    def pairs_of(self, atoms: Atoms, known: Any = None) -> dict[str, Any]:
        """Return the results, which stand for the pairs.

        So a structure that the calculator refuses is given up, and the others go on.

        Raises:
            InputError: The calculator refuses the structure.
        """
        try:
            with np.errstate(all="ignore"):  # of atoms at one place
                self.calculator.calculate(atoms, ["energy", "forces"], all_changes)
        except Exception as error:  # calculators raise many
            raise InputError(f"the calculator: {text_of(error)}") from error
        results = self.calculator.results
        return {name: np.copy(results[name]) for name in ("energy", "forces")}

    def evaluate(
        self, structures: Sequence[Atoms], pairs: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the results of each structure."""
        return [{**found, "energy": float(found["energy"])} for found in pairs]

    def fingerprints(self) -> list[str]:
        """Return the name of the calculator, which tells nothing of its settings."""
        return [type(self.calculator).__name__]


def evaluate_batch(
    model: SFINPotential, structures: Sequence[Atoms], pairs: Sequence[Pairs]
) -> list[dict[str, Any]]:
    """Return the results of each structure, in ASE's names and units.

    Args:
        model: The potential.
        structures: At least one.
        pairs: Those of each structure, which hold for it.

    Returns:
        ``energy`` and ``free_energy`` [eV], ``energies`` of the atoms float64 [N] eV,
        ``forces`` float64 [N, 3] eV/Å, and if all directions are periodic ``stress``
        float64 [6] eV/Å^3 in Voigt's order.
    """
    samples = [known.sample(atoms) for known, atoms in zip(pairs, structures)]
    batch = DefaultCollator()(samples)
    with _ONE_THREAD:
        found = model.predict(paddle.utils.map_structure(paddle.to_tensor, batch))
    results = []
    for i, atoms in enumerate(structures):
        energy = float(found["energy"][i])
        own = {"energy": energy, "free_energy": energy}
        own["energies"] = found["energies"][i]
        own["forces"] = found["forces"][i].astype("float64")
        if atoms.pbc.all():
            stress = found["stress"][i].astype("float64")
            own["stress"] = full_3x3_to_voigt_6_stress(stress)
        results.append(own)
    if len(structures) > 1 and not all(map(is_finite, results)):
        # Zeros that pad one structure do not hide NaN of another
        alone = zip(structures, pairs)
        return [evaluate_batch(model, [atoms], [own])[0] for atoms, own in alone]
    return results


def is_finite(results: dict[str, Any]) -> bool:
    """Return whether energy and forces are numbers."""
    return bool(np.isfinite(results["energy"]) and np.isfinite(results["forces"]).all())


def has_room(batch: Sequence[Atoms], atoms: Atoms, batch_size: int | None) -> bool:
    """Return whether a structure fits into a batch as well.

    Args:
        batch: The structures that are in it.
        atoms: Another one.
        batch_size: Structures at once; None takes 500 atoms, or one structure.
    """
    if batch_size is not None:
        return len(batch) < batch_size
    return not batch or sum(map(len, batch)) + len(atoms) <= ATOMS_AT_ONCE


def evaluate_many(
    structures: Iterable[Atoms],
    calculator: BatchCalculator,
    batch_size: int | None = None,
) -> Iterator[tuple[Atoms, dict[str, Any] | InputError]]:
    """Yield each structure with its results, or with the reason why it has none.

    Args:
        structures: Read as they are needed. Constraints do not change forces here.
        calculator: The trained potential.
        batch_size: Structures at once; None takes 500 atoms, or one structure.

    Example::

        for atoms, found in evaluate_many(frames, calculator):
            print(found if isinstance(found, InputError) else found["energy"])
    """
    batch: list[Atoms] = []
    for atoms in structures:
        if not has_room(batch, atoms, batch_size):
            yield from _results_or_faults(batch, calculator)
            batch = []
        batch.append(atoms)
    yield from _results_or_faults(batch, calculator)


def _results_or_faults(
    batch: Sequence[Atoms], calculator: BatchCalculator
) -> Iterator[tuple[Atoms, dict[str, Any] | InputError]]:
    found: list[Pairs | InputError] = []
    for atoms in batch:
        try:
            found.append(calculator.pairs_of(atoms))
        except InputError as error:
            found.append(error)
    good = [i for i, own in enumerate(found) if isinstance(own, Pairs)]
    results: list[Any] = list(found)
    if good:
        computed = calculator.evaluate(
            [batch[i] for i in good], [found[i] for i in good]
        )
        for i, values in zip(good, computed):
            results[i] = values
    yield from zip(batch, results)
