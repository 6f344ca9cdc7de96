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


"""Ionic clusters in a periodic cell: a data set whose label is partly long-ranged.

A structure holds four to eight clusters ("motifs") of two to four ions. A motif is a
piece of a rock salt lattice, slightly distorted. Different motifs, and a motif and its
periodic images, are more than 6.2 Å apart. A radius graph with a cut-off of 6 Å
therefore has no edge between motifs, and no network on it passes messages between
them. Most motifs are charged; the cell is neutral.

Energies, in eV, with charges ``q`` in units of e and ``k_e = e^2 / (4 pi eps_0)``::

    E     = Ewald sum of k_e q_i q_j / r_ij  +  sum of A_ij exp(-r_ij / rho)
    A_ij  = alpha k_e |q_i q_j| rho / (6 r_0^2) exp(r_0 / rho),   r_0 = R_i + R_j

The repulsion (Born and Mayer) acts between cations and anions, with ``rho`` = 0.32 Å,
the Madelung constant ``alpha`` of rock salt and Shannon's radii ``R``. A rock salt
crystal of two ions then has its energy minimum at the distance ``r_0``. Labels are
relative to the undistorted motifs in empty space::

    y_relaxed = E(cell) - sum of E(motif, undistorted, alone)
    y_init    = sum of E(motif as it is, alone) - the same sum: the local part

The difference ``y_relaxed - y_init`` is the interaction of the motifs. A model with a
cut-off can only predict its mean over all arrangements of the same motifs. The error
of the best such model is measured: the motifs of part of the validation set are
arranged several times, each time in a new cell. These twins are identical to a model
with a cut-off, so their spread is its error (``cutoff_floor`` in ``statistics.json``).

Usage::

    python -m benchmarks.data.ionic_clusters OUT --train 2000 --val 400 --seed 0

Record ``i`` of a split depends on the seed, the split and ``i`` only, whatever the
number of jobs. Files are in OC20's form, all atoms with tag 1 and free.

Source of the potential: M. Born and J. E. Mayer, Z. Phys. 75 (1932) 1; radii:
R. D. Shannon, Acta Cryst. A32 (1976) 751.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.core import Element
from pymatgen.core import Lattice
from pymatgen.core import Structure
from tqdm import tqdm

from benchmarks.data.generation import SPLIT_SID
from benchmarks.data.generation import add_options
from benchmarks.data.generation import check_options
from benchmarks.data.generation import mapping_in
from benchmarks.data.generation import spread
from benchmarks.data.generation import write_statistics
from ppmat.datasets.graph_utils.periodic_graph import neighbour_pairs
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.utils.errors import InputError

COULOMB = EwaldSummation.CONV_FACT  # k_e, eV Å / e^2
RHO = 0.32  # Å, softness of the repulsion
MADELUNG = 1.7475645946  # of rock salt, for the nearest-neighbour distance
REPULSION_RANGE = 10.0  # Å, where the repulsion is negligible: exp(-6.8 / 0.32) = 6e-10
IONS = {  # charge [e], Shannon's radius for six neighbours [Å]
    "Na": (1, 1.02),
    "K": (1, 1.38),
    "F": (-1, 1.33),
    "Cl": (-1, 1.81),
}
CHARGE = np.zeros(119)
RADIUS = np.zeros(119)
for _symbol, (_charge, _radius) in IONS.items():
    CHARGE[Element(_symbol).Z] = _charge
    RADIUS[Element(_symbol).Z] = _radius
SHAPES = (  # pieces of a rock salt lattice, in units of the nearest distance
    ((0, 0, 0), (1, 0, 0)),
    ((0, 0, 0), (1, 0, 0), (2, 0, 0)),
    ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)),
)
CHARGED = (2, 3)  # number of motifs of charge +1 in a structure, and of charge -1
NEUTRAL = (0, 1, 2)  # number of motifs without charge
ATOMS = (12, 40)  # smallest and largest number in a structure
GAP = 6.2  # Å, smallest distance between motifs
DISTORTION = 0.12  # Å, standard deviation of each coordinate
ARRANGEMENTS = 16  # of the same motifs in the split "twins"
SPLITS = ("train", "val_id")
PACKAGES = ("numpy", "pymatgen")


# ----------------------------------------------------------------------------- energy


def repulsion(
    numbers_i: np.ndarray, numbers_j: np.ndarray, r: np.ndarray
) -> np.ndarray:
    """Return the repulsion of pairs of ions [eV]; zero between ions of like charge.

    Args:
        numbers_i: Atomic numbers, int [P].
        numbers_j: Atomic numbers of the partners, int [P].
        r: Distances, [P] Å.
    """
    product = CHARGE[numbers_i] * CHARGE[numbers_j]
    r_0 = RADIUS[numbers_i] + RADIUS[numbers_j]
    force = MADELUNG * COULOMB * np.maximum(-product, 0.0) / (6.0 * r_0**2)
    return force * RHO * np.exp((r_0 - r) / RHO)


def cluster_energy(numbers: np.ndarray, positions: np.ndarray) -> float:
    """Return the energy of ions in empty space [eV].

    Args:
        numbers: Atomic numbers, int [N].
        positions: [N, 3] Å.
    """
    i, j = np.triu_indices(len(numbers), 1)
    r = np.linalg.norm(positions[i] - positions[j], axis=1)
    coulomb = COULOMB * CHARGE[numbers[i]] * CHARGE[numbers[j]] / r
    return float((coulomb + repulsion(numbers[i], numbers[j], r)).sum())


def crystal_energy(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray
) -> float:
    """Return the energy of a neutral periodic cell [eV], without a surface term.

    Args:
        numbers: Atomic numbers, int [N].
        positions: [N, 3] Å.
        cell: Lattice vectors as rows, [3, 3] Å.
    """
    structure = Structure(Lattice(cell), numbers, positions, coords_are_cartesian=True)
    structure.add_oxidation_state_by_site(CHARGE[numbers].tolist())
    i, j, _, r = neighbour_pairs(positions, cell, REPULSION_RANGE)
    pairs = 0.5 * repulsion(numbers[i], numbers[j], r).sum()
    return float(EwaldSummation(structure).total_energy + pairs)


# ------------------------------------------------------------------------- structures


@dataclass(frozen=True)
class Kind:
    """A kind of motif, undistorted: ions on lattice sites about the origin."""

    numbers: np.ndarray  # int64 [n]
    sites: np.ndarray  # [n, 3] Å
    charge: int

    @property
    def energy(self) -> float:
        return cluster_energy(self.numbers, self.sites)


def kinds() -> list[Kind]:
    """Return all motifs of charge -1, 0 and 1, in a fixed order."""
    positive = [Element(s).Z for s, (q, _) in IONS.items() if q > 0]
    negative = [Element(s).Z for s, (q, _) in IONS.items() if q < 0]
    found = []
    for cation in positive:
        for anion in negative:
            for shape in SHAPES:
                sites = np.array(shape, dtype=float)
                odd = np.array(shape).sum(axis=1) % 2 == 1
                sites = (sites - sites.mean(axis=0)) * (RADIUS[cation] + RADIUS[anion])
                both = [np.where(odd, cation, anion), np.where(odd, anion, cation)]
                # A piece with equally many cations and anions is its own inverse.
                for numbers in both if 2 * odd.sum() != len(odd) else both[:1]:
                    charge = int(CHARGE[numbers].sum())
                    if abs(charge) <= 1:
                        found.append(Kind(numbers.astype(np.int64), sites, charge))
    return found


@dataclass(frozen=True)
class Motif:
    """A distorted motif; all arrangements of a structure share it."""

    kind: Kind
    positions: np.ndarray  # [n, 3] Å, about the origin

    @property
    def strain(self) -> float:
        """Energy that the distortion costs [eV]."""
        energy = cluster_energy(self.kind.numbers, self.positions)
        return energy - self.kind.energy


KINDS = kinds()


def draw_motifs(rng: np.random.Generator) -> list[Motif]:
    """Return equally many motifs of charge +1 and -1, and some neutral ones."""
    while True:
        charged, neutral = rng.choice(CHARGED), rng.choice(NEUTRAL)
        chosen = []
        for charge, count in ((1, charged), (-1, charged), (0, neutral)):
            pool = [kind for kind in KINDS if kind.charge == charge]
            chosen += [pool[i] for i in rng.integers(len(pool), size=count)]
        if ATOMS[0] <= sum(len(kind.numbers) for kind in chosen) <= ATOMS[1]:
            break
    return [
        Motif(kind, kind.sites + rng.normal(0.0, DISTORTION, kind.sites.shape))
        for kind in chosen
    ]


def random_cell(rng: np.random.Generator, volume: float) -> np.ndarray:
    """Return a right-handed triclinic cell of a volume [Å^3], longest row last."""
    while True:
        cell = np.eye(3) + rng.uniform(-0.35, 0.35, (3, 3))
        cell *= np.exp(rng.uniform(-0.4, 0.4, (3, 1)))
        lengths = np.linalg.norm(cell, axis=1)
        size = np.linalg.det(cell)
        if size > 0.5 * lengths.prod():  # not too flat
            break
    cell = cell @ random_rotation(rng) * (volume / size) ** (1 / 3)
    cell = cell[np.argsort(lengths)]
    return cell * np.sign(np.linalg.det(cell))


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a proper rotation matrix, uniformly distributed, from a quaternion."""
    a, b, c, d = rng.normal(size=4)
    norm = 2.0 / (a * a + b * b + c * c + d * d)
    return np.array(
        [
            [
                1 - norm * (c * c + d * d),
                norm * (b * c - a * d),
                norm * (b * d + a * c),
            ],
            [
                norm * (b * c + a * d),
                1 - norm * (b * b + d * d),
                norm * (c * d - a * b),
            ],
            [
                norm * (b * d - a * c),
                norm * (c * d + a * b),
                1 - norm * (b * b + c * c),
            ],
        ]
    )


def arrange(
    motifs: Sequence[Motif], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Place motifs in a random cell, in random orientation, at least ``GAP`` apart.

    Returns:
        Positions [N, 3] and cell [3, 3], Å, both float32 as in the files.
    """
    extents = [np.ptp(m.positions, axis=0).max() for m in motifs]
    # slightly denser than random placement usually reaches
    volume = sum(2.0 * (extent + GAP) * GAP**2 for extent in extents)
    while True:
        cell = random_cell(rng, volume * rng.uniform(1.0, 1.6))
        placed = _place(motifs, cell, rng)
        if placed is not None:
            return placed.astype(np.float32), cell.astype(np.float32)
        volume *= 1.03


def _place(motifs: Sequence[Motif], cell: np.ndarray, rng) -> np.ndarray | None:
    """Place one motif after the other; return None if there is no room for one."""
    placed = np.zeros((0, 3))
    for motif in reversed(motifs):  # each is put in front of the others
        for _ in range(30):
            own = motif.positions @ random_rotation(rng) + rng.random(3) @ cell
            trial = np.concatenate([own, placed])
            _, j, shift, _ = neighbour_pairs(trial, cell, GAP, centres=own)
            if not ((j >= len(own)) | shift.any(axis=1)).any():
                placed = trial
                break
        else:
            return None
    return placed


def make_record(
    motifs: Sequence[Motif], rng: np.random.Generator, sid: str
) -> OC20Record:
    """Arrange motifs and compute the labels, as in the docstring of the module."""
    positions, cell = arrange(motifs, rng)
    numbers = np.concatenate([m.kind.numbers for m in motifs])
    energy = crystal_energy(
        numbers, positions.astype(np.float64), cell.astype(np.float64)
    )
    return OC20Record(
        sid=sid,
        atomic_numbers=numbers,
        pos=positions,
        cell=cell,
        tags=np.ones(len(numbers), dtype=np.int64),
        fixed=np.zeros(len(numbers), dtype=bool),
        y_init=float(sum(m.strain for m in motifs)),
        y_relaxed=energy - float(sum(m.kind.energy for m in motifs)),
    )


# ---------------------------------------------------------------------------- data set


@dataclass(frozen=True)
class Task:
    """One record: arrangement ``copy`` of the motifs of a split's record ``index``."""

    seed: int
    split: str
    index: int
    copy: int = 0

    def __call__(self) -> OC20Record:
        number = SPLITS.index(self.split)
        words = [self.seed, number, self.index]
        sid = str(number * SPLIT_SID + self.index)
        return make_record(
            draw_motifs(np.random.default_rng(words)),
            np.random.default_rng([*words, self.copy]),
            f"{sid}-{self.copy}" if self.copy else sid,
        )


def plan(seed: int, sizes: dict[str, int], twins: int) -> dict[str, list[Task]]:
    """Return the tasks of each split.

    Args:
        seed: Seed of the set.
        sizes: Records of ``train`` and ``val_id``.
        twins: Number of records of ``val_id`` that are arranged ``ARRANGEMENTS``
            times; the first arrangement is the record. They form the split ``twins``.
    """
    tasks = {
        split: [Task(seed, split, index) for index in range(size)]
        for split, size in sizes.items()
    }
    tasks["twins"] = [
        Task(seed, "val_id", index, copy)
        for index in range(min(twins, sizes["val_id"]))
        for copy in range(ARRANGEMENTS)
    ]
    return {split: todo for split, todo in tasks.items() if todo}


def run(task: Task) -> OC20Record:
    """Return the record of a task; a function that other processes can import."""
    return task()


def generate(out: Path, tasks: dict[str, list[Task]], jobs: int = 1) -> dict:
    """Write ``<split>/data.lmdb`` for each split, and ``statistics.json``.

    Args:
        out: Output folder.
        tasks: Result of :func:`plan`.
        jobs: Processes; 1 works in this one. The result does not depend on it.

    Returns:
        The statistics.
    """
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    summary = {"packages": packages}
    rows = {}
    with mapping_in(jobs) as map_tasks:
        for split, todo in tasks.items():
            records = map_tasks(run, todo)
            bar = tqdm(records, total=len(todo), unit="record", desc=split)
            rows[split] = []
            records = collect_rows(bar, rows[split])
            write_lmdb(out / split / "data.lmdb", records, overwrite=True)
            summary[split] = describe(np.array(rows[split]))
    if "twins" in rows:
        scale = np.array(rows["val_id"])[:, 2].var()
        summary["cutoff_floor"] = cutoff_floor(np.array(rows["twins"]), scale)
    write_statistics(out, summary)
    return summary


def collect_rows(
    records: Iterable[OC20Record], rows: list[tuple]
) -> Iterator[OC20Record]:
    """Yield records, and add a row of each: atoms, volume, total and local energy."""
    for record in records:
        volume = abs(np.linalg.det(record.cell.astype(np.float64)))
        rows.append((len(record.pos), volume, record.y_relaxed, record.y_init))
        yield record


def describe(rows: np.ndarray) -> dict:
    """Return plain numbers of a split, from :func:`collect_rows`; energies in eV."""
    atoms, volume, total, local = rows.T
    return {
        "records": len(rows),
        "atoms": [int(atoms.min()), float(atoms.mean()), int(atoms.max())],
        "volume": [float(volume.min()), float(volume.mean()), float(volume.max())],
        "total": spread(total),
        "local": spread(local),
        "between_motifs": spread(total - local),
        "long_range_share": float((total - local).var() / total.var()),
    }


def cutoff_floor(rows: np.ndarray, variance: float) -> dict:
    """Estimate the error of the best model with a cut-off.

    Its prediction is the same for all arrangements of the same motifs. The smallest
    mean absolute error belongs to the median of their energies. The median of the
    arrangements at hand gives a lower bound of that error. For an upper bound, each
    arrangement is compared with the median of all the others.

    Args:
        rows: Of the split ``twins``, from :func:`collect_rows`.
        variance: Variance of the total energy [eV^2] of the set.

    Returns:
        ``mae`` (lower and upper bound) and ``rmse`` in eV; ``share``, the part of the
        variance that such a model cannot explain; counts.
    """
    energy = rows[:, 2].reshape(-1, ARRANGEMENTS)
    within = np.abs(energy - np.median(energy, axis=1, keepdims=True)).mean()
    others = np.stack(
        [np.median(np.delete(energy, c, axis=1), axis=1) for c in range(ARRANGEMENTS)],
        axis=1,
    )
    mean_square = energy.var(axis=1, ddof=1).mean()
    return {
        "structures": len(energy),
        "arrangements": ARRANGEMENTS,
        "mae": [float(within), float(np.abs(energy - others).mean())],
        "rmse": float(np.sqrt(mean_square)),
        "share": float(mean_square / variance),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: generate a set."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data.ionic_clusters",
        description="Make periodic cells of ionic clusters that a cut-off keeps apart.",
    )
    add_options(parser, train=2000, val=400)
    parser.add_argument(
        "--twins",
        type=int,
        default=100,
        help=f"validation records that are arranged {ARRANGEMENTS} times, to measure "
        "the error of a model with a cut-off; 0 for none",
    )
    args = parser.parse_args(argv)
    try:
        check_options(args, twins=0)
        sizes = {"train": args.train, "val_id": args.val}
        generate(args.out, plan(args.seed, sizes, args.twins), args.jobs)
    except InputError as error:
        parser.error(str(error))
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
