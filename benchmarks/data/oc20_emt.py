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

A record is made as OC20 makes one: a surface is cut from a bulk crystal (Miller
indices up to 2, at least 7 Å thick, 20 Å of vacuum, tiled to 8 Å), an adsorbate is
lowered on an ontop, bridge or hollow site until it touches, sub-surface atoms are
frozen, everything else is relaxed. Energies are adsorption energies:

    y = E(slab + adsorbate) - E(relaxed clean slab) - sum of atomic references,
    E(H) = E(H2)/2, E(O) = E(H2O) - E(H2), E(C) = E(CO) - E(O), E(N) = E(N2)/2.

Usage::

    python -m benchmarks.data.oc20_emt OUT --train 3000 --val 400 --seed 0 --jobs 1

Record ``i`` of a split depends on the seed, the split and ``i`` only, so neither the
number of jobs nor an interruption changes the result. Finished blocks are kept under
``OUT/blocks``; the same command continues from there.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
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
from ppmat.datasets.oc20_lmdb import write_lmdb
from ppmat.datasets.oc20_record import OC20Record

FMAX = 0.03  # eV/Å, as OC20
MAX_STEPS = 300
MAX_ENERGY = 10.0  # eV, OC20 keeps |y_relaxed| up to this
MAX_DISPLACEMENT = 5.0  # Å
OVERLAP_SCALE = 0.75  # times the sum of covalent radii: overlapping
MAX_ATTEMPTS = 500
CHEAP = ("size", "other_split")  # drops that cost no relaxation
BLOCK = 20  # records a block file
PER_ATOM = ("atomic_numbers", "tags", "pos", "pos_relaxed", "force")
SPLIT_SID = 10_000_000  # sid = split number times this, plus the index


def relax(atoms: Atoms, fixed: np.ndarray) -> bool:
    """Relax ``atoms`` in place with EMT; True when forces fell below ``FMAX``."""
    atoms.calc = VectorEMT()
    atoms.set_constraint(FixAtoms(mask=fixed))
    with np.errstate(all="ignore"):
        optimizer = LBFGS(atoms, logfile=None)
        return bool(optimizer.run(fmax=FMAX, steps=MAX_STEPS))


def reference_energies() -> dict[int, float]:
    """EMT reference energy of H, C, N, O in eV, by atomic number, as OC20 does."""
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


class Generator:
    """Makes single records; keeps the crystals it has met in memory.

    Args:
        source: ``oc20`` or ``ase``, see
            :class:`~benchmarks.data.oc20_emt_sources.Catalogue`.
        seed: Seed of the set.
        min_atoms: Smallest clean slab taken.
        max_atoms: Largest slab with adsorbate taken.
    """

    def __init__(self, source: str, seed: int, min_atoms: int, max_atoms: int):
        self.catalogue = Catalogue(source, seed)
        self.seed, self.min_atoms, self.max_atoms = seed, min_atoms, max_atoms
        self.choices = {split: self.catalogue.choices(split) for split in SPLITS}
        self.reference = reference_energies()
        self._crystals: dict[str, Crystal] = {}

    def _crystal(self, bulk: str) -> Crystal:
        if bulk not in self._crystals:
            self._crystals[bulk] = Crystal(bulk, self.catalogue.bulks[bulk])
        return self._crystals[bulk]

    def _attempt(self, split: str, rng: np.random.Generator):
        """One try: (fields of a record, "") or (None, why it was dropped)."""
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
        # ASE does not wrap during a relaxation, so plain differences are the path.
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
        """Record ``index`` of a split and how many tries were dropped, by reason.

        Raises:
            GenerationError: None of ``MAX_ATTEMPTS`` relaxations gave a record.
        """
        rng = np.random.default_rng([self.seed, SPLITS.index(split), index])
        dropped = Counter()
        costly = 0
        while costly < MAX_ATTEMPTS and dropped.total() < 20 * MAX_ATTEMPTS:
            fields, reason = self._attempt(split, rng)
            if fields is not None:
                fields["sid"] = SPLITS.index(split) * SPLIT_SID + index
                return fields, dropped
            dropped[reason] += 1
            costly += reason not in CHEAP
        raise GenerationError(
            f"{split} record {index}: no usable structure after {dict(dropped)}; widen "
            f"the allowed sizes (now {self.min_atoms} to {self.max_atoms} atoms)"
        )


# ----------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Block:
    """Records ``start`` to ``stop`` of a split: what one worker does at a time."""

    split: str
    start: int
    stop: int

    def path(self, out: Path) -> Path:
        return out / "blocks" / f"{self.split}-{self.start:07d}-{self.stop:07d}.npz"


def plan(sizes: dict[str, int]) -> list[Block]:
    """Blocks of all splits, interleaved so that each grows in proportion."""
    blocks = []
    for split, size in sizes.items():
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            blocks.append((start / size, Block(split, start, stop)))
    return [block for _, block in sorted(blocks, key=lambda pair: pair[0])]


_worker: Generator | None = None  # one a process, made by _start_worker


def _start_worker(settings: dict) -> None:
    global _worker
    _worker = Generator(**settings)


def _make_block(task: tuple[Block, Path]) -> Block:
    """Generate one block and write it in one atomic step."""
    block, out = task
    rows, dropped = [], Counter()
    for index in range(block.start, block.stop):
        row, reasons = _worker.record(block.split, index)
        rows.append(row)
        dropped += reasons
    arrays = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        per_atom = name in PER_ATOM
        arrays[name] = np.concatenate(values) if per_atom else np.array(values)
    arrays["natoms"] = np.array([len(row["tags"]) for row in rows])
    arrays["dropped"] = np.array(json.dumps(dropped))
    path = block.path(out)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(partial, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return block


def _read_block(path: Path) -> Iterator[tuple[OC20Record, str, str]]:
    """Records of one block, with the names of their surface and adsorbate."""
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


def _check_settings(out: Path, settings: dict) -> None:
    """Refuse to continue a run made with other settings."""
    path = out / "settings.json"
    if path.is_file():
        found = json.loads(path.read_text())
        if found != settings:
            raise GenerationError(
                f"{path} has {found}, this command has {settings}: use the same "
                "settings to continue, or another output folder"
            )
        return
    (out / "blocks").mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1) + "\n")


def generate(out: Path, settings: dict, sizes: dict[str, int], jobs: int = 1) -> None:
    """Make all blocks that do not exist yet, with a progress bar.

    Args:
        out: Output folder; blocks go to ``out/blocks``.
        settings: Arguments of :class:`Generator`.
        sizes: Records a split.
        jobs: Processes; 1 works in this one. The result does not depend on it.

    Raises:
        GenerationError: The folder holds a run with other settings.
    """
    _check_settings(out, settings)
    blocks = plan(sizes)
    todo = [(block, out) for block in blocks if not block.path(out).is_file()]
    total = sum(sizes.values())
    done = total - sum(block.stop - block.start for block, _ in todo)
    with tqdm(total=total, initial=done, unit="record", desc="EMT") as bar:
        if not todo:
            return
        if jobs == 1:
            _start_worker(settings)
            for task in todo:
                block = _make_block(task)
                bar.update(block.stop - block.start)
            return
        # spawn: the same on every platform, and no library state is inherited
        context = multiprocessing.get_context("spawn")
        with context.Pool(jobs, _start_worker, (settings,)) as pool:
            for block in pool.imap_unordered(_make_block, todo):
                bar.update(block.stop - block.start)


def pack(out: Path, sizes: dict[str, int]) -> dict:
    """Write ``<split>/data.lmdb`` from the blocks made so far.

    Args:
        out: Folder of :func:`generate`.
        sizes: Records a split, as planned.

    Returns:
        Statistics by split, also written to ``statistics.json``.
    """
    settings = json.loads((out / "settings.json").read_text())
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
        write_lmdb(path, statistics.watch(paths), overwrite=True)
        summary[split] = statistics.summary()
        summary[split]["megabytes"] = round(path.stat().st_size / 1e6, 2)
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (out / "statistics.json").write_text(text + "\n")
    return summary


class Statistics:
    """Collects what describes a split while its records pass by."""

    def __init__(self):
        self.dropped = Counter()
        self.slabs, self.adsorbates, self.metals = set(), set(), set()
        self.rows: list[tuple] = []

    def watch(self, paths: Sequence[Path]) -> Iterator[OC20Record]:
        """Yield the records of block files."""
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
        """Plain numbers: counts, sizes, displacements in Å, energies in eV."""
        atoms, free, surface, adsorbate, y_init, y_relaxed = np.array(self.rows).T
        # ADwT of "nothing moves": the share of 490 thresholds above the distance.
        thresholds = np.arange(0.01, 0.5, 0.001)
        within = (free[:, None] < thresholds).mean()
        energies = {"y_init": y_init, "y_relaxed": y_relaxed}
        spread = (np.mean, np.std, np.min, np.max)
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
            **{
                name: [float(measure(values)) for measure in spread]
                for name, values in energies.items()
            },
            "dropped": dict(sorted(self.dropped.items())),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: generate a set, then write its LMDB files."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data.oc20_emt",
        description="Make an OC20-format set of EMT relaxations (EMT is not DFT).",
    )
    parser.add_argument("out", type=Path, help="output folder")
    parser.add_argument("--train", type=int, default=3000, help="training records")
    parser.add_argument("--val", type=int, default=400, help="records a validation set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
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
    try:
        for name in ("train", "val", "jobs", "min_atoms"):
            if getattr(args, name) < 1:
                option = name.replace("_", "-")
                raise GenerationError(f"--{option} must be at least 1")
        if args.max_atoms <= args.min_atoms:
            raise GenerationError("--max-atoms must be larger than --min-atoms")
        if args.seed < 0:
            raise GenerationError("--seed must not be negative")
        if args.pack_only:
            _check_settings(args.out, settings)
        else:
            generate(args.out, settings, sizes, args.jobs)
        summary = pack(args.out, sizes)
    except (GenerationError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: stopped; the same command continues\n")
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
