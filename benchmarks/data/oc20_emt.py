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

"""Make slab + adsorbate relaxations in OC20 form with ASE's EMT potential.

Effective-medium theory (EMT) is a classical potential for a few face-centred metals
with rough parameters for H, C, N and O. **It is not DFT.** The records exercise
readers, training and evaluation; they say nothing about real catalysts.

A record is made as in OC20. A surface is cut from a bulk crystal: Miller indices up to
2, at least 7 Å thick, 20 Å of vacuum, tiled to 8 Å. An adsorbate is lowered on an
ontop, bridge or hollow site until it touches the surface. Sub-surface atoms are fixed,
all others are relaxed. Slabs that slide or change in it are left out: an artefact of
the potential (see ``slab_fault``). Energies are adsorption energies:

    y = E(slab + adsorbate) - E(relaxed clean slab) - sum of atomic references,
    E(H) = E(H2)/2, E(O) = E(H2O) - E(H2), E(C) = E(CO) - E(O), E(N) = E(N2)/2.

Usage::

    python -m benchmarks.data.oc20_emt OUT --train 3000 --val 400 --seed 0 --jobs 1

Record ``i`` of a split depends on the seed, the split and ``i`` only, so neither the
number of jobs nor an interruption changes the result. Finished blocks are kept under
``OUT/blocks``, and the same command continues from there. ``OUT/settings.json`` holds
the settings; other settings need another folder.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.data import chemical_symbols
from ase.optimize import LBFGS
from tqdm import tqdm

from benchmarks.data.generation import SPLIT_SID
from benchmarks.data.generation import add_options
from benchmarks.data.generation import check_options
from benchmarks.data.generation import mapping_in
from benchmarks.data.generation import reporting
from benchmarks.data.generation import spread
from benchmarks.data.generation import write_statistics
from benchmarks.data.oc20_emt_potential import VectorEMT
from benchmarks.data.oc20_emt_sources import SOURCES
from benchmarks.data.oc20_emt_sources import SPLITS
from benchmarks.data.oc20_emt_sources import Catalogue
from benchmarks.data.oc20_emt_sources import GenerationError
from benchmarks.data.oc20_emt_surfaces import Crystal
from benchmarks.data.oc20_emt_surfaces import closest_ratio
from benchmarks.data.oc20_emt_surfaces import is_adsorbed
from benchmarks.data.oc20_emt_surfaces import place_adsorbate
from benchmarks.data.oc20_emt_surfaces import rotation_about_z
from benchmarks.data.oc20_emt_surfaces import wrap
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.utils.errors import InputError
from ppmat.utils.files import RunManifest
from ppmat.utils.files import locked
from ppmat.utils.files import replacing

FMAX = 0.03  # eV/Å, largest force on a free atom of a relaxed structure, as OC20
MAX_STEPS = 300  # of a relaxation
MAX_ENERGY = 10.0  # eV, OC20 keeps |y_relaxed| up to this
MAX_DISPLACEMENT = 5.0  # Å; atoms that move farther have left the surface
# Some DFT bulks are not stable in EMT: their thin slabs slide or change the stacking
# when an adsorbate touches them, and the label would hold the energy of that. Of 690
# records made without these limits, 11 % slide by 0.5 to 3 Å; the others' surface atoms
# move by 0.2 Å on average. Relaxed again without their adsorbate, 91 % of the slabs
# return to the clean slab's energy within 0.1 eV; the others miss it by up to 4 eV.
MAX_SURFACE_SHIFT = 0.5  # Å, mean displacement of the surface atoms
MAX_SLAB_CHANGE = 0.1  # eV, of the slab relaxed again without its adsorbate
OVERLAP_SCALE = 0.75  # atoms closer than this times their covalent radii overlap
MAX_RELAXATIONS = 500  # for one record
DROPPED_EARLY = ("size", "other_split")  # reasons found without a relaxation
BLOCK_RECORDS = 20  # records in a block file
PER_ATOM = ("atomic_numbers", "tags", "pos", "pos_relaxed", "force")


def relax(atoms: Atoms, fixed: np.ndarray) -> bool:
    """Relax ``atoms`` in place with EMT; return whether forces fell below ``FMAX``."""
    atoms.calc = VectorEMT()
    atoms.set_constraint(FixAtoms(mask=fixed))
    with np.errstate(all="ignore"):
        optimizer = LBFGS(atoms, logfile=None)
        return bool(optimizer.run(fmax=FMAX, steps=MAX_STEPS))


def reference_energies() -> dict[int, float]:
    """Return OC20's reference energies of H, C, N, O in EMT [eV], by atomic number."""
    energy = {}
    for name in ("H2", "H2O", "CO", "N2"):
        atoms = molecule(name, vacuum=10.0, pbc=True)
        relax(atoms, np.zeros(len(atoms), dtype=bool))
        energy[name] = atoms.get_potential_energy()
    oxygen = energy["H2O"] - energy["H2"]
    return {
        1: energy["H2"] / 2,
        6: energy["CO"] - oxygen,
        7: energy["N2"] / 2,
        8: oxygen,
    }


def slab_fault(start: np.ndarray, atoms: Atoms, tags: np.ndarray, clean: Atoms) -> str:
    """Return why the slab of a relaxed structure is not the clean slab, or "".

    A surface that the adsorbate reconstructs passes: without it, it relaxes back.

    Args:
        start: Positions [N, 3] before the relaxation, Å.
        atoms: The relaxed structure.
        tags: int [N], 0 sub-surface, 1 surface, 2 adsorbate.
        clean: The relaxed clean slab, with its calculator.
    """
    moved = np.linalg.norm(atoms.positions - start, axis=1)
    if moved[tags == 1].mean() > MAX_SURFACE_SHIFT:
        return "slab_slides"
    left = atoms[tags < 2]
    converged = relax(left, tags[tags < 2] == 0)
    change = left.get_potential_energy() - clean.get_potential_energy()
    return "" if converged and abs(change) <= MAX_SLAB_CHANGE else "slab_changes"


class Generator:
    """Makes single records; keeps the crystals of earlier records in memory.

    Args:
        source: ``oc20`` or ``ase``, see
            :class:`~benchmarks.data.oc20_emt_sources.Catalogue`.
        seed: Seed of the set.
        min_atoms: Atoms of the smallest clean slab that is used.
        max_atoms: Atoms of the largest slab with adsorbate that is used.
    """

    def __init__(self, source: str, seed: int, min_atoms: int, max_atoms: int) -> None:
        self.catalogue = Catalogue(source, seed)
        self.seed, self.min_atoms, self.max_atoms = seed, min_atoms, max_atoms
        self.choices = {split: self.catalogue.choices(split) for split in SPLITS}
        self.reference = reference_energies()
        self._crystals: dict[str, Crystal] = {}

    def _crystal(self, bulk: str) -> Crystal:
        if bulk not in self._crystals:
            self._crystals[bulk] = Crystal(bulk, self.catalogue.bulks[bulk])
        return self._crystals[bulk]

    def _attempt(self, split: str, rng: np.random.Generator) -> tuple[dict | None, str]:
        """Return (fields of a record, "") or (None, reason for dropping it)."""
        bulks, adsorbates = self.choices[split]
        crystal = self._crystal(bulks[rng.integers(len(bulks))])
        plane = int(rng.integers(len(crystal.millers)))
        name = adsorbates[rng.integers(len(adsorbates))]
        adsorbate = self.catalogue.adsorbates[name]
        if split in ("train", "val_id"):
            held = self.catalogue.is_val_id(crystal.key(plane), adsorbate.name)
            if held != (split == "val_id"):
                return None, "other_split"
        slab = crystal.cut(plane, rng)
        total = len(slab.numbers) + len(adsorbate.numbers)
        if len(slab.numbers) < self.min_atoms or total > self.max_atoms:
            return None, "size"

        numbers = np.concatenate([slab.numbers, adsorbate.numbers])
        tags = np.concatenate([slab.tags, np.full(len(adsorbate.numbers), 2)])
        start = np.concatenate([slab.positions, place_adsorbate(slab, adsorbate, rng)])
        angle = 2 * np.pi * rng.random()
        atoms = Atoms(numbers, start, cell=slab.cell, pbc=True)
        if closest_ratio(atoms, tags == 2) < OVERLAP_SCALE:
            return None, "overlap"

        fixed = tags == 0
        atoms.calc = VectorEMT()
        initial, force = atoms.get_potential_energy(), atoms.get_forces()
        converged = relax(atoms, fixed)
        # ASE does not wrap positions during a relaxation: no minimum image is needed.
        moved = np.linalg.norm(atoms.positions - start, axis=1).max()
        if not moved < MAX_DISPLACEMENT:  # also true for NaN
            return None, "exploded"
        if not converged:
            return None, "not_converged"
        if not is_adsorbed(atoms, tags == 2):
            return None, "desorbed"
        clean = Atoms(slab.numbers, slab.positions, cell=slab.cell, pbc=True)
        if not relax(clean, slab.tags == 0):
            return None, "clean_slab_not_converged"
        fault = slab_fault(start, atoms, tags, clean)
        if fault:
            return None, fault
        gas = clean.get_potential_energy()
        gas += sum(self.reference[z] for z in adsorbate.numbers.tolist())
        y_relaxed = atoms.get_potential_energy() - gas
        if abs(y_relaxed) > MAX_ENERGY:
            return None, "energy"

        turn = rotation_about_z(angle).T
        cell = slab.cell @ turn
        fields = {
            "atomic_numbers": numbers,
            "tags": tags,
            "pos": wrap(start @ turn, cell).astype(np.float32),
            "pos_relaxed": wrap(atoms.positions @ turn, cell).astype(np.float32),
            "force": (force @ turn).astype(np.float32),
            "cell": cell.astype(np.float32),
            "y_init": float(initial - gas),
            "y_relaxed": float(y_relaxed),
            "slab": slab.key,
            "adsorbate": adsorbate.name,
        }
        return fields, ""

    def record(self, split: str, index: int) -> tuple[dict, Counter]:
        """Return record ``index`` of a split, and the number of drops by reason.

        Raises:
            GenerationError: None of ``MAX_RELAXATIONS`` relaxations gave a record.
        """
        rng = np.random.default_rng([self.seed, SPLITS.index(split), index])
        dropped = Counter()
        relaxed = 0
        while relaxed < MAX_RELAXATIONS and dropped.total() < 20 * MAX_RELAXATIONS:
            fields, reason = self._attempt(split, rng)
            if fields is not None:
                fields["sid"] = SPLITS.index(split) * SPLIT_SID + index
                return fields, dropped
            dropped[reason] += 1
            relaxed += reason not in DROPPED_EARLY
        raise GenerationError(
            f"{split} record {index}: no usable structure after {dict(dropped)}; widen "
            f"the allowed sizes (now {self.min_atoms} to {self.max_atoms} atoms)"
        )


# ----------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Block:
    """Records ``start`` to ``stop`` of a split, the unit of work of a process."""

    split: str
    start: int
    stop: int

    def path(self, out: Path) -> Path:
        return out / "blocks" / f"{self.split}-{self.start:07d}-{self.stop:07d}.npz"


def plan(sizes: dict[str, int]) -> list[Block]:
    """Return the blocks of all splits, interleaved so that they grow in proportion."""
    blocks = []
    for split, size in sizes.items():
        for start in range(0, size, BLOCK_RECORDS):
            stop = min(start + BLOCK_RECORDS, size)
            blocks.append((start / size, Block(split, start, stop)))
    return [block for _, block in sorted(blocks, key=lambda pair: pair[0])]


_generator: Generator | None = None  # of this process


def _start_process(settings: dict) -> None:
    global _generator
    _generator = Generator(**settings)


def _make_block(task: tuple[Block, Path]) -> Block:
    """Generate one block and write its file."""
    block, out = task
    rows, dropped = [], Counter()
    for index in range(block.start, block.stop):
        row, reasons = _generator.record(block.split, index)
        rows.append(row)
        dropped += reasons
    arrays = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        per_atom = name in PER_ATOM
        arrays[name] = np.concatenate(values) if per_atom else np.array(values)
    arrays["natoms"] = np.array([len(row["tags"]) for row in rows])
    arrays["dropped"] = np.array(json.dumps(dropped))
    with replacing(block.path(out)) as temporary:
        np.savez(temporary, **arrays)
    return block


def _read_block(path: Path) -> Iterator[tuple[OC20Record, str, str]]:
    """Yield the records of one block with the names of their surface and adsorbate."""
    with np.load(path, allow_pickle=False) as arrays:
        arrays = dict(arrays)
    ends = np.cumsum(arrays["natoms"])
    for row, (end, size) in enumerate(zip(ends, arrays["natoms"], strict=True)):
        atoms = {name: arrays[name][end - size : end] for name in PER_ATOM}
        record = OC20Record(
            sid=str(arrays["sid"][row]),
            cell=arrays["cell"][row],
            fixed=atoms["tags"] == 0,
            y_init=float(arrays["y_init"][row]),
            y_relaxed=float(arrays["y_relaxed"][row]),
            **atoms,
        )
        yield record, str(arrays["slab"][row]), str(arrays["adsorbate"][row])


def open_run(out: Path, settings: dict) -> RunManifest:
    """Return the manifest of the run in a folder; a new run writes it.

    Args:
        out: Output folder; made if it does not exist.
        settings: Arguments of :class:`Generator`.

    Raises:
        StoredRunError: The folder holds a run with other settings.
    """
    (out / "blocks").mkdir(parents=True, exist_ok=True)
    hint = "Use the same settings to continue, or another output folder."
    manifest = RunManifest(out / "settings.json", settings, hint)
    if not manifest.path.exists():
        manifest.write()
    return manifest


def generate(out: Path, settings: dict, sizes: dict[str, int], jobs: int = 1) -> None:
    """Make all blocks that do not exist yet, with a progress bar.

    Args:
        out: Output folder; blocks go to ``out/blocks``.
        settings: Arguments of :class:`Generator`.
        sizes: Records of each split.
        jobs: Processes; 1 works in this one. The result does not depend on it.

    Raises:
        StoredRunError: The folder holds a run with other settings.
    """
    open_run(out, settings)
    blocks = plan(sizes)
    todo = [(block, out) for block in blocks if not block.path(out).is_file()]
    total = sum(sizes.values())
    done = total - sum(block.stop - block.start for block, _ in todo)
    with tqdm(total=total, initial=done, unit="record", desc="EMT") as bar:
        if not todo:
            return
        with mapping_in(jobs, _start_process, (settings,)) as map_tasks:
            for block in map_tasks(_make_block, todo):
                bar.update(block.stop - block.start)


def pack(out: Path, settings: dict, sizes: dict[str, int]) -> dict:
    """Write ``<split>/data.lmdb`` from the blocks made so far, and statistics.

    Args:
        out: Folder of :func:`generate`.
        settings: Arguments of :class:`Generator`.
        sizes: Records of each split, as planned.

    Returns:
        Statistics by split, also written to ``statistics.json`` and printed.
    """
    packages = ["ase", "numpy", "pymatgen", "spglib"]
    packages += ["fairchem-data-oc"] if settings["source"] == "oc20" else []
    versions = {name: importlib.metadata.version(name) for name in packages}
    summary = {"settings": settings, "packages": versions}
    for split in sizes:
        paths = [b.path(out) for b in plan(sizes) if b.split == split]
        paths = [path for path in paths if path.is_file()]
        if not paths:
            continue
        statistics = Statistics()
        path = out / split / "data.lmdb"
        write_lmdb(path, statistics.collect(paths), overwrite=True)
        summary[split] = statistics.summary()
        summary[split]["megabytes"] = round(path.stat().st_size / 1e6, 2)
    write_statistics(out, summary)
    return summary


class Statistics:
    """Statistics of a split, collected while its records are written."""

    def __init__(self) -> None:
        self.dropped = Counter()
        self.slabs, self.adsorbates, self.metals = set(), set(), set()
        self.rows: list[tuple] = []

    def collect(self, paths: Sequence[Path]) -> Iterator[OC20Record]:
        """Yield the records of block files, and add them to the statistics."""
        for path in paths:
            with np.load(path, allow_pickle=False) as arrays:
                self.dropped.update(json.loads(str(arrays["dropped"])))
            for record, slab, adsorbate in _read_block(path):
                self.slabs.add(slab)
                self.adsorbates.add(adsorbate)
                metals = record.atomic_numbers[record.tags < 2]
                names = sorted(chemical_symbols[z] for z in np.unique(metals))
                self.metals.add("-".join(names))
                moved = np.linalg.norm(record.displacement, axis=1)
                means = [moved[~record.fixed].mean()]
                means += [moved[record.tags == tag].mean() for tag in (1, 2)]
                energies = (record.y_init, record.y_relaxed)
                self.rows.append((len(moved), *means, *energies))
                yield record

    def summary(self) -> dict:
        """Return plain numbers: counts, sizes, displacements in Å, energies in eV."""
        atoms, free, surface, adsorbate, y_init, y_relaxed = np.array(self.rows).T
        # ADwT of a copy of the input: the share of 490 thresholds above the distance.
        thresholds = np.arange(0.01, 0.5, 0.001)
        within = (free[:, None] < thresholds).mean()
        return {
            "records": len(self.rows),
            "atoms": [int(atoms.min()), float(atoms.mean()), int(atoms.max())],
            "surfaces": len(self.slabs),
            "adsorbates": sorted(self.adsorbates),
            "compositions": sorted(self.metals),
            "displacement_free": float(free.mean()),
            "displacement_surface": float(surface.mean()),
            "displacement_adsorbate": float(adsorbate.mean()),
            "copy_input_adwt": float(within),
            "y_init": spread(y_init),
            "y_relaxed": spread(y_relaxed),
            "dropped": dict(sorted(self.dropped.items())),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: generate a set, then write its LMDB files."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data.oc20_emt",
        description="Make an OC20-format set of EMT relaxations (EMT is not DFT).",
    )
    add_options(parser, train=3000, val=400)
    parser.add_argument(
        "--bulks",
        choices=SOURCES,
        default="oc20",
        help="oc20: bulks and adsorbates of OC20, from the package fairchem-data-oc; "
        "ase: simple crystals and molecules of ase.build",
    )
    parser.add_argument("--min-atoms", type=int, default=24, help="of the clean slab")
    parser.add_argument("--max-atoms", type=int, default=72, help="with the adsorbate")
    parser.add_argument(
        "--pack-only",
        action="store_true",
        help="write the LMDB files from the blocks made so far and stop",
    )
    args = parser.parse_args(argv)
    sizes = {"train": args.train, **dict.fromkeys(SPLITS[1:], args.val)}
    settings = {
        "source": args.bulks,
        "seed": args.seed,
        "min_atoms": args.min_atoms,
        "max_atoms": args.max_atoms,
    }
    with reporting(parser):
        check_options(args, min_atoms=1)
        if args.max_atoms <= args.min_atoms:
            raise InputError("--max-atoms must be larger than --min-atoms")
        open_run(args.out, settings)
        with locked(args.out):
            if not args.pack_only:
                generate(args.out, settings, sizes, args.jobs)
            pack(args.out, settings, sizes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
