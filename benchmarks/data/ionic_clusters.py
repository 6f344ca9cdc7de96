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

A structure holds four to eight clusters ("motifs") of two to four ions, pieces of a
rock salt lattice, each a little distorted. Atoms of different motifs, and of a motif
and its periodic images, are more than 6.2 Å apart, so that a radius graph with a
cut-off of 6 Å falls into the motifs and messages never pass from one to another,
however deep the network is. Most motifs are charged; the cell is neutral.

Energies, in eV, with charges ``q`` in units of e and ``k_e = e^2 / (4 pi eps_0)``::

    E     = Ewald sum of k_e q_i q_j / r_ij  +  sum of A_ij exp(-r_ij / rho)
    A_ij  = alpha k_e |q_i q_j| rho / (6 r_0^2) exp(r_0 / rho),   r_0 = R_i + R_j

The repulsion (Born and Mayer) acts between cations and anions, with ``rho`` = 0.32 Å,
the Madelung constant ``alpha`` of rock salt and Shannon's radii ``R``: a rock salt
crystal of two ions then has its minimum at the distance ``r_0``. Labels are relative
to the motifs as cut, undistorted and alone::

    y_relaxed = E(cell) - sum of E(motif, undistorted, alone)
    y_init    = sum of E(motif as it is, alone) - the same sum: the local part

The difference ``y_relaxed - y_init`` is what the motifs do to each other. A model that
sees one motif at a time can only guess it from what the motifs are. How good the best
guess is, is measured: for part of the validation set the *same* motifs are arranged
anew several times, in a new cell each, by the same procedure. Such twins are alike to
a cut-off model; their spread is its error (``cutoff_floor`` in ``statistics.json``).

Usage::

    python -m benchmarks.data.ionic_clusters OUT --train 2000 --val 400 --seed 0

Record ``i`` of a split depends on the seed, the split and ``i`` only, whatever the
number of jobs. Files are in OC20's form, all atoms with tag 1 and free.

Source of the potential: M. Born and J. E. Mayer, Z. Phys. 75 (1932) 1; radii:
R. D. Shannon, Acta Cryst. A32 (1976) 751.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.core import Element
from pymatgen.core import Lattice
from pymatgen.core import Structure
from pymatgen.optimization.neighbors import find_points_in_spheres
from tqdm import tqdm

from ppmat.datasets.oc20_lmdb import write_lmdb
from ppmat.datasets.oc20_record import OC20Record

COULOMB = EwaldSummation.CONV_FACT  # k_e, eV Å / e^2
RHO = 0.32  # Å, softness of the repulsion
MADELUNG = 1.7475645946  # rock salt, referred to the nearest distance
REPULSION_RANGE = 10.0  # Å; exp(-(10 - 3.2) / 0.32) = 6e-10
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
CHARGED = (2, 3)  # motifs of charge +1 in a structure, and as many of charge -1
NEUTRAL = (0, 1, 2)  # motifs without charge
ATOMS = (12, 40)
GAP = 6.2  # Å, smallest distance between motifs
DISTORTION = 0.12  # Å, standard deviation of each coordinate
ARRANGEMENTS = 16  # of the same motifs in the split "twins"
SPLITS = ("train", "val_id")
SPLIT_SID = 10_000_000  # sid = split number times this, plus the index
PACKAGES = ("numpy", "pymatgen")


# ----------------------------------------------------------------------------- energy


def repulsion(numbers_i: np.ndarray, numbers_j: np.ndarray, r: np.ndarray):
    """Repulsion of pairs of ions [eV]; zero between ions of like charge.

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
    """Energy of ions in empty space [eV]; ``numbers`` [N], ``positions`` [N, 3] Å."""
    i, j = np.triu_indices(len(numbers), 1)
    r = np.linalg.norm(positions[i] - positions[j], axis=1)
    coulomb = COULOMB * CHARGE[numbers[i]] * CHARGE[numbers[j]] / r
    return float((coulomb + repulsion(numbers[i], numbers[j], r)).sum())


def crystal_energy(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray):
    """Energy of a neutral periodic cell [eV], without a surface term.

    Args:
        numbers: Atomic numbers, int [N].
        positions: [N, 3] Å.
        cell: Lattice vectors as rows, [3, 3] Å.
    """
    structure = Structure(Lattice(cell), numbers, positions, coords_are_cartesian=True)
    structure.add_oxidation_state_by_site(CHARGE[numbers].tolist())
    i, j, _, r = neighbours(positions, positions, cell, REPULSION_RANGE)
    pairs = 0.5 * repulsion(numbers[i], numbers[j], r).sum()
    return float(EwaldSummation(structure).total_energy + pairs)


def neighbours(centres: np.ndarray, points: np.ndarray, cell, radius: float):
    """Return the pairs nearer than a radius, but no atom with itself.

    Args:
        centres: [M, 3] Å, the first of ``points``.
        points: [N, 3] Å.
        cell: Lattice vectors as rows, [3, 3] Å.
        radius: Å.

    Returns:
        Rows of centres and of points, lattice shifts of the points, distances.
    """
    i, j, shift, r = find_points_in_spheres(
        np.ascontiguousarray(points),
        np.ascontiguousarray(centres),
        r=radius,
        pbc=np.array([1, 1, 1], dtype=np.int64),
        lattice=np.ascontiguousarray(cell),
        min_r=3.0,  # size of the search grid
    )
    other = (i != j) | shift.any(axis=1)
    return i[other], j[other], shift[other], r[other]


# ------------------------------------------------------------------------- structures


@dataclass(frozen=True)
class Kind:
    """A motif before distortion: ions on lattice sites, centred on the origin."""

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
                # turning a piece with as many of both kinds gives the same piece
                for numbers in both if 2 * odd.sum() != len(odd) else both[:1]:
                    charge = int(CHARGE[numbers].sum())
                    if abs(charge) <= 1:
                        found.append(Kind(numbers.astype(np.int64), sites, charge))
    return found


@dataclass(frozen=True)
class Motif:
    """A distorted motif, as every arrangement of a structure holds it."""

    kind: Kind
    positions: np.ndarray  # [n, 3] Å, about the origin

    @property
    def strain(self) -> float:
        """Energy of the distortion [eV]."""
        energy = cluster_energy(self.kind.numbers, self.positions)
        return energy - self.kind.energy


KINDS = kinds()


def draw_motifs(rng: np.random.Generator) -> list[Motif]:
    """Draw as many motifs of charge +1 as of charge -1, and some neutral ones."""
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


def arrange(motifs: Sequence[Motif], rng: np.random.Generator):
    """Place motifs in a random cell, turned at random, ``GAP`` apart.

    Returns:
        Positions [N, 3] and cell [3, 3], Å, both float32 as files hold them.
    """
    extents = [np.ptp(m.positions, axis=0).max() for m in motifs]
    # a little above the density at which random placing gets stuck
    volume = sum(2.0 * (extent + GAP) * GAP**2 for extent in extents)
    while True:
        cell = random_cell(rng, volume * rng.uniform(1.0, 1.6))
        placed = _place(motifs, cell, rng)
        if placed is not None:
            return placed.astype(np.float32), cell.astype(np.float32)
        volume *= 1.03


def _place(motifs: Sequence[Motif], cell: np.ndarray, rng) -> np.ndarray | None:
    """Place one motif after the other; None if one found no room."""
    placed = np.zeros((0, 3))
    for motif in reversed(motifs):  # the first one stands first in the end
        for _ in range(30):
            own = motif.positions @ random_rotation(rng) + rng.random(3) @ cell
            trial = np.concatenate([own, placed])
            _, j, shift, _ = neighbours(own, trial, cell, GAP)
            if not ((j >= len(own)) | shift.any(axis=1)).any():
                placed = trial
                break
        else:
            return None
    return placed


def make_record(motifs: Sequence[Motif], rng: np.random.Generator, sid: str):
    """Arrange motifs and compute the labels; see the module's docstring."""
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
    """Return what each split consists of.

    Args:
        seed: Seed of the set.
        sizes: Records of ``train`` and ``val_id``.
        twins: How many records of ``val_id`` are arranged ``ARRANGEMENTS`` times, the
            record itself being the first; they become the split ``twins``.
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
    """Carry out a task, by a name that other processes know."""
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
    # spawn: the same on every platform, and no library state is inherited
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs) if jobs > 1 else nullcontext() as pool:
        for split, todo in tasks.items():
            records = pool.imap(run, todo, chunksize=4) if pool else map(run, todo)
            bar = tqdm(records, total=len(todo), unit="record", desc=split)
            rows[split] = []
            write_lmdb(
                out / split / "data.lmdb", noted(bar, rows[split]), overwrite=True
            )
            summary[split] = describe(np.array(rows[split]))
    if "twins" in rows:
        scale = np.array(rows["val_id"])[:, 2].var()
        summary["cutoff_floor"] = cutoff_floor(np.array(rows["twins"]), scale)
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    (out / "statistics.json").write_text(text + "\n")
    return summary


def noted(records: Iterable[OC20Record], rows: list[tuple]) -> Iterator[OC20Record]:
    """Pass records on; leave atoms, volume, total and local energy of each."""
    for record in records:
        volume = abs(np.linalg.det(record.cell.astype(np.float64)))
        rows.append((len(record.pos), volume, record.y_relaxed, record.y_init))
        yield record


def describe(rows: np.ndarray) -> dict:
    """Plain numbers of a split, from the rows of :func:`noted`; energies in eV."""
    atoms, volume, total, local = rows.T
    spread = (np.mean, np.std, np.min, np.max)
    energies = {"total": total, "local": local, "between_motifs": total - local}
    return {
        "records": len(rows),
        "atoms": [int(atoms.min()), float(atoms.mean()), int(atoms.max())],
        "volume": [float(volume.min()), float(volume.mean()), float(volume.max())],
        **{
            name: [float(measure(values)) for measure in spread]
            for name, values in energies.items()
        },
        "long_range_share": float((total - local).var() / total.var()),
    }


def cutoff_floor(rows: np.ndarray, variance: float) -> dict:
    """Measure the error of the best model that sees one motif at a time.

    Its prediction is the same for all arrangements of the same motifs. The smallest
    mean absolute error has the median of their energies; the median of a finite
    number of arrangements lies too well in their midst, the one of all others not
    well enough, so that the two bracket the error.

    Args:
        rows: Of the split ``twins``, from :func:`noted`.
        variance: Variance of the total energy [eV^2] of the set.

    Returns:
        ``mae`` (lower and upper bracket) and ``rmse`` in eV; ``share``, the part of
        the variance that cannot be seen; counts.
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
    """Command line: generate a set."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data.ionic_clusters",
        description="Make periodic cells of ionic clusters that a cut-off keeps apart.",
    )
    parser.add_argument("out", type=Path, help="output folder")
    parser.add_argument("--train", type=int, default=2000, help="training records")
    parser.add_argument("--val", type=int, default=400, help="validation records")
    parser.add_argument(
        "--twins",
        type=int,
        default=100,
        help=f"validation records that are arranged {ARRANGEMENTS} times, to measure "
        "what a cut-off leaves; 0 for none",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args(argv)
    least = {"train": 1, "val": 1, "twins": 0, "seed": 0, "jobs": 1}
    for name, bound in least.items():
        if getattr(args, name) < bound:
            parser.error(f"--{name} is {getattr(args, name)}, wanted {bound} or more")
    sizes = {"train": args.train, "val_id": args.val}
    try:
        summary = generate(args.out, plan(args.seed, sizes, args.twins), args.jobs)
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
