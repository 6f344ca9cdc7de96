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

"""Make placements in OC20 form: for each slab and adsorbate the lowest of many.

A system is a surface and an adsorbate of :mod:`benchmarks.data.oc20_emt` (bulks of
``ase.build``), not relaxed. Adsorbates are placed at random and on heuristic sites, all
are relaxed with EMT (**not DFT**), and the distinct ones within ``--window`` eV of the
best are kept, without those that fail a check of ``ppmat/utils/plausibility.py`` or
whose slab slides. ``y_relaxed`` is the energy above the best of the system.

Usage::

    python -m benchmarks.data.emt_placements OUT --train 120 --val 12

Numbers are those of systems. Each is a function of the seed, the split and its number
only; the same command goes on where it stopped (``OUT/systems``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from benchmarks.data.generation import SPLIT_SID
from benchmarks.data.generation import add_options
from benchmarks.data.generation import check_options
from benchmarks.data.generation import mapping_in
from benchmarks.data.generation import reporting
from benchmarks.data.oc20_emt import MAX_SURFACE_SHIFT
from benchmarks.data.oc20_emt_potential import VectorEMT
from benchmarks.data.oc20_emt_sources import SPLITS
from benchmarks.data.oc20_emt_sources import Catalogue
from benchmarks.data.oc20_emt_surfaces import Crystal
from ppmat.calculator import AseBatch
from ppmat.calculator import relax_batch
from ppmat.calculator.batch_evaluation import BatchCalculator
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.placements import PLACEMENTS
from ppmat.datasets.placements import check_room
from ppmat.datasets.placements import clean_slab
from ppmat.datasets.structure_record import record_from_frames
from ppmat.distillation.labelling import read_frames
from ppmat.distillation.labelling import write_frames
from ppmat.sampler.placement_ranking import add_checks
from ppmat.sampler.placement_ranking import find_repeated
from ppmat.sampler.placement_ranking import is_valid
from ppmat.sampler.placement_ranking import rank
from ppmat.utils.errors import InputError
from ppmat.utils.files import RunManifest
from ppmat.utils.files import locked
from ppmat.utils.progress import Progress

FMAX, MAX_STEPS = 0.05, 200  # eV/Å, of every relaxation
ENERGY = "adsorption_energy"
_MOST_DRAWS = 1000


class System(NamedTuple):
    """A clean slab and an adsorbate."""

    name: str
    slab: Atoms
    adsorbate: Atoms


class Systems:
    """Draws the systems of the splits.

    Args:
        seed: Of the set, and of which adsorbates and compositions are held out.
        max_atoms: Atoms of the largest clean slab.
    """

    def __init__(self, seed: int, max_atoms: int) -> None:
        self.catalogue = Catalogue("ase", seed)
        self.seed, self.max_atoms = seed, max_atoms
        self._crystals: dict[str, Crystal] = {}

    def draw(self, split: str, number: int, attempt: int = 0) -> System:
        """Return a system of a split.

        Raises:
            InputError: None of many slabs is small enough.
        """
        rng = np.random.default_rng([self.seed, SPLITS.index(split), number, attempt])
        bulks, adsorbates = self.catalogue.choices(split)
        for _ in range(_MOST_DRAWS):
            bulk = bulks[rng.integers(len(bulks))]
            if bulk not in self._crystals:
                self._crystals[bulk] = Crystal(bulk, self.catalogue.bulks[bulk])
            crystal = self._crystals[bulk]
            plane = int(rng.integers(len(crystal.millers)))
            found = self.catalogue.adsorbates[adsorbates[rng.integers(len(adsorbates))]]
            if split in ("train", "val_id"):
                held = self.catalogue.is_val_id(crystal.key(plane), found.name)
                if held != (split == "val_id"):
                    continue
            cut = crystal.cut(plane, rng)
            if len(cut.numbers) > self.max_atoms:
                continue
            slab = Atoms(cut.numbers, cut.positions, cell=cut.cell, tags=cut.tags)
            slab.set_constraint(FixAtoms(mask=cut.tags == 0))
            adsorbate = Atoms(found.numbers, found.positions)
            try:
                slab = clean_slab(slab)
                check_room(slab, adsorbate)
            except InputError:
                continue
            return System(f"{cut.key}|{found.name}", slab, adsorbate)
        raise InputError(
            f"{split}: none of {_MOST_DRAWS} slabs has at most {self.max_atoms} atoms "
            "and room for its adsorbate"
        )


def emt() -> AseBatch:
    """Return EMT for many structures."""
    return AseBatch(VectorEMT())


def relax_all(
    placed: Sequence[Atoms], initial: Sequence[Atoms], calculator: BatchCalculator
) -> list[Atoms]:
    """Return relaxed placements, with energies and checks, in their order.

    Args:
        placed: Where the relaxations start.
        initial: What the checks compare with.
        calculator: It relaxes.
    """
    ended: list[Atoms] = [None] * len(placed)
    for done in relax_batch(placed, calculator, FMAX, MAX_STEPS):
        atoms, start = done.atoms.copy(), initial[done.index]
        atoms.info |= {"force_calls": done.steps + 1, "converged": done.converged}
        add_checks(atoms, start)
        surface = start.get_tags() == 1
        moved = np.linalg.norm((atoms.positions - start.positions)[surface], axis=1)
        if done.fault is not None:
            atoms.info["fault"] = str(done.fault)
        else:
            atoms.info["total_energy"] = float(done.results["energy"])
        if moved.mean() > MAX_SURFACE_SHIFT:
            atoms.info["fault"] = "the slab slides"
        ended[done.index] = atoms
    return ended


def search(
    system: System, random: int, heuristic: int, seed: int, calculator: BatchCalculator
) -> list[tuple]:
    """Return initial and relaxed placements of an exhaustive search, the best first."""
    initial: list[Atoms] = []
    for source, count in (("random", random), ("heuristic", heuristic)):
        initial += PLACEMENTS[source](system.slab, system.adsorbate, count, seed)
    for number, atoms in enumerate(initial):
        atoms.info = {"placement": number}
    relaxed = relax_all(initial, initial, calculator)
    return [(initial[atoms.info["placement"]], atoms) for atoms in rank(relaxed)]


def lowest(found: Iterable[tuple[Atoms, Atoms]], window: float) -> list[tuple]:
    """Return the distinct valid ones within ``window`` eV of the best."""
    valid = [pair for pair in found if is_valid(pair[1]) and pair[1].info["converged"]]
    repeated = find_repeated([relaxed for _, relaxed in valid])
    best = valid[0][1].info["total_energy"] if valid else 0.0
    return [
        pair
        for pair in valid
        if pair[1].info["total_energy"] <= best + window
        and pair[1].info["placement"] not in repeated
    ]


def _make(task: tuple) -> Path:
    """Search one system and write its placements."""
    path, split, number, systems, args = task
    for attempt in range(100):
        system = systems.draw(split, number, attempt)
        found = search(system, args.random, args.heuristic, number, emt())
        kept = lowest(found, args.window)
        if kept:
            break
    else:
        raise InputError(f"{split} system {number}: no valid placement in 100 systems")
    best = kept[0][1].info["total_energy"]
    frames = []
    for initial, relaxed in kept:
        initial.info = {ENERGY: 0.0, "system": system.name}
        above = relaxed.info["total_energy"] - best
        relaxed.info = {ENERGY: above, "system": system.name}
        frames += [initial, relaxed]
    write_frames(path, frames)
    return path


def _records(paths: Sequence[Path], split: str) -> Iterator[OC20Record]:
    row = SPLITS.index(split) * SPLIT_SID
    for path in paths:
        frames = read_frames(path)
        for pair in zip(frames[::2], frames[1::2]):
            yield record_from_frames(pair, str(row), ENERGY)
            row += 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data.emt_placements",
        description="Make a set of low-energy placements, relaxed with EMT (not DFT).",
    )
    add_options(parser, train=120, val=12)
    add = parser.add_argument
    add("--random", type=int, default=40, help="random placements of a system")
    add("--heuristic", type=int, default=20, help="placements on heuristic sites")
    add("--window", type=float, default=0.1, help="eV above the best that are kept")
    add("--max-atoms", type=int, default=44, help="of the clean slab")
    args = parser.parse_args(argv)
    names = ("seed", "random", "heuristic", "window", "max_atoms")
    settings = {name: getattr(args, name) for name in names}
    sizes = {"train": args.train, **dict.fromkeys(SPLITS[1:], args.val)}
    hint = "Use the same settings to continue, or another output folder."
    with reporting(parser):
        check_options(args, random=1, heuristic=0, max_atoms=8)
        folder = args.out / "systems"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(args.out), mapping_in(args.jobs) as map_tasks:
            RunManifest(args.out / "settings.json", settings, hint).write()
            systems = Systems(args.seed, args.max_atoms)
            for split, size in sizes.items():
                paths = [folder / f"{split}-{i:05d}.extxyz" for i in range(size)]
                tasks = [
                    (path, split, i, systems, args)
                    for i, path in enumerate(paths)
                    if not path.exists()
                ]
                done = map_tasks(_make, tasks)
                for _ in Progress(done, split, total=len(tasks), unit=" systems"):
                    pass
                path = args.out / split / "data.lmdb"
                count = write_lmdb(path, _records(paths, split), overwrite=True)
                print(f"{split}: {size} systems, {count} placements", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
