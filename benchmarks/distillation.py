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

"""A distilled potential beside its teacher: accuracy, speed, molecular dynamics.

It needs an environment with both, and measures

* ``accuracy``: single points of atoms on metals against DFT (Xu and Kitchin, J. Phys.
  Chem. C 2014, 118, 25597), with one energy of each adsorbate fitted, for H, C, N, O,
  and forces at the minima of DFT;
* ``speed``: seconds of a step of molecular dynamics of a Cu(111) slab with CO, at about
  50, 500 and 5,000 atoms; the median of some steps;
* ``dynamics``: trajectories at a temperature from the same start: how long the
  student's goes on, and how far the distribution of distances is from the teacher's.

Each part leaves a file in ``--work``; the last one collects what is there::

    python -m benchmarks.distillation --potential FOLDER --teacher chgnet --dft PATH
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase import units
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from benchmarks.data.xu_kitchin import read_xyz
from benchmarks.runs import RESULTS
from benchmarks.runs import result_of
from benchmarks.runs import write
from ppmat.calculator.trajectory_figures import pair_distances
from ppmat.distillation.teachers import TEACHERS
from ppmat.distillation.teachers import Source

SIZES = {52: (5, 2, 5), 500: (11, 9, 5), 5000: (37, 27, 5)}
ELEMENTS = ("H", "C", "N", "O")
TIME_STEP = 2.0  # fs
APART = 10  # steps between frames


def slab(size: tuple[int, int, int]) -> Atoms:
    """Return Cu(111) with CO on top, C down."""
    atoms = fcc111("Cu", size, a=3.63, vacuum=6.0, periodic=True)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)
    return atoms


def accuracy(calculator: Calculator, dft: Path) -> dict:
    """Return errors of adsorption energies and forces at the minima of DFT."""
    relaxed, clean = read_xyz(dft)
    rows = []
    for atoms in relaxed:
        name, metal = atoms.info["adsorbate"], atoms.info["metal"]
        if name not in ELEMENTS:
            continue
        bare = clean[metal].copy()
        total = []
        for structure in (atoms.copy(), bare):
            structure.set_constraint()
            structure.pbc = True
            structure.calc = calculator
            total.append(structure.get_potential_energy())
            if len(total) == 1:
                forces = structure.get_forces()
        count = sum(symbol == name for symbol in atoms.symbols)
        rows.append(
            (
                name,
                metal,
                (total[0] - total[1]) / count,
                atoms.info["e_ads_eV_per_adsorbate"],
                float(np.linalg.norm(forces[atoms.symbols == name], axis=1).mean()),
            )
        )
    names = np.array([row[0] for row in rows])
    metals = np.array([row[1] for row in rows])
    error = np.array([row[2] - row[3] for row in rows])
    for name in ELEMENTS:
        error[names == name] -= np.median(error[names == name])
    return {
        "structures": len(rows),
        "energy_mae": round(float(np.abs(error).mean()), 4),
        "energy_mae_of": {
            key: round(float(np.abs(error[(names == key) | (metals == key)]).mean()), 4)
            for key in (*ELEMENTS, *sorted(set(metals)))
        },
        "force_at_minimum": round(statistics.mean(row[4] for row in rows), 4),
        "energies": [round(row[2], 5) for row in rows],
    }


def speed(calculator: Calculator, atoms: Atoms, steps: int) -> dict:
    """Return the seconds of a step of molecular dynamics."""
    atoms = atoms.copy()
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    dynamics = VelocityVerlet(atoms, TIME_STEP * units.fs)
    dynamics.run(1)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        dynamics.run(1)
        seconds.append(time.perf_counter() - start)
    return {
        "atoms": len(atoms),
        "seconds_a_step": round(statistics.median(seconds), 5),
        "seconds_an_atom": round(statistics.median(seconds) / len(atoms), 8),
    }


def trajectory(
    calculator: Calculator, atoms: Atoms, kelvin: float, steps: int
) -> list[Atoms]:
    """Return the frames of a run, until its temperature is ten times too high."""
    atoms = atoms.copy()
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=kelvin, rng=rng)
    dynamics = Langevin(
        atoms,
        TIME_STEP * units.fs,
        temperature_K=kelvin,
        friction=0.02 / units.fs,
        rng=rng,
        fixcm=False,
    )
    frames = []
    for _ in range(steps // APART):
        dynamics.run(APART)
        if atoms.get_temperature() > 10 * kelvin:
            break
        frames.append(atoms.copy())
    return frames


def rdf_distance(first: Sequence[Atoms], second: Sequence[Atoms]) -> dict[str, float]:
    """Return the area between two radial distributions over that of the first one."""
    _, one = pair_distances(first, reach=6.0, bins=60)
    _, other = pair_distances(second, reach=6.0, bins=60)
    return {
        "-".join(pair): round(float(np.abs(one[pair] - other[pair]).sum() / area), 4)
        for pair in one
        if (area := one[pair].sum()) > 0
    }


def calculators(args: argparse.Namespace) -> dict[str, Calculator]:
    """Return teacher and student."""
    (config,) = args.potential.glob("*.yaml")
    (weights,) = args.potential.glob("*.pdparams")
    return {
        "teacher": Source(TEACHERS[args.teacher]).calculator(),
        "student": TEACHERS["sfin"](str(config), str(weights)),
    }


def part(name: str, args: argparse.Namespace) -> dict:
    """Measure a part; returns what its file has."""
    found: dict = {}
    both = calculators(args)
    if name == "accuracy":
        found = {who: accuracy(calc, args.dft) for who, calc in both.items()}
        energies = [np.array(found[who].pop("energies")) for who in both]
        apart = energies[0] - energies[1]
        found["student"]["mae_to_teacher"] = round(float(np.abs(apart).mean()), 4)
    elif name == "speed":
        for who, calculator in both.items():
            found[who] = [
                speed(calculator, slab(size), 3 if atoms > 1000 else 10)
                for atoms, size in SIZES.items()
                if who == "student" or atoms <= args.teacher_atoms
            ]
    elif name == "dynamics":
        runs = {}
        for who, calculator in both.items():
            steps = args.steps if who == "student" else args.teacher_steps
            runs[who] = trajectory(calculator, slab((2, 2, 3)), args.kelvin, steps)
            done = len(runs[who]) * APART * TIME_STEP / 1000
            asked = steps * TIME_STEP / 1000
            found[who] = {"picoseconds": round(done, 3), "asked": asked}
        settled = {who: frames[10:] for who, frames in runs.items()}
        shared = min(map(len, settled.values()))
        found["rdf_distance"] = rdf_distance(settled["teacher"], settled["student"])
        halves = settled["teacher"][: shared // 2], settled["teacher"][shared // 2 :]
        found["rdf_distance_of_teacher_halves"] = rdf_distance(*halves)
        found["kelvin"] = args.kelvin
    return found


def row_of(who: str, found: dict) -> dict:
    """Return the row of teacher or student, of the parts that were measured."""
    row: dict = {"name": who}
    if "accuracy" in found:
        part = found["accuracy"][who]
        row["energy MAE to DFT [eV]"] = part["energy_mae"]
        row["force at minima of DFT [eV/Å]"] = part["force_at_minimum"]
    for size in found.get("speed", {}).get(who, ()):
        row[f"{size['atoms']:,} atoms [s/step]"] = size["seconds_a_step"]
    if "dynamics" in found:
        part = found["dynamics"]
        own = "_of_teacher_halves" if who == "teacher" else ""
        row["stable [ps]"] = part[who]["picoseconds"]
        row["RDF distance"] = max(part[f"rdf_distance{own}"].values())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--potential", type=Path, required=True, help="folder with YAML and weights")
    add("--teacher", choices=list(TEACHERS), default="chgnet")
    add("--dft", type=Path, help="the files of Xu and Kitchin")
    add("--parts", nargs="+", default=["accuracy", "speed", "dynamics"])
    add("--kelvin", type=float, default=500.0)
    add("--steps", type=int, default=5000)
    add("--teacher_steps", type=int, default=1000)
    add("--teacher_atoms", type=int, default=1000, help="most atoms that fit in memory")
    add("--work", type=Path, default=Path("output/benchmark_distillation"))
    add("--out", type=Path, default=RESULTS / "distillation.yaml")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in args.parts:
        path = args.work / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(part(name, args), indent=1))
        found[name] = json.loads(path.read_text())
    rows = [row_of(who, found) for who in ("teacher", "student")]
    result = result_of(
        f"python -m benchmarks.distillation --potential FOLDER --teacher {args.teacher}"
        " --dft PATH",
        note="Adsorption energies of H, C, N, O on five metals at the minima of DFT, "
        "one energy of each adsorbate fitted, and the forces on them there, which DFT "
        "has as 0. Steps of molecular dynamics of Cu(111) with CO, one thread. RDF "
        "distance: the largest area between two radial distributions of a pair of "
        "elements, over that of the teacher; in the teacher's row that of the two "
        "halves of its own run.",
        rows=rows,
    )
    write(result, args.out)


if __name__ == "__main__":
    main()
