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

"""How fast structures relax in batches, compared with one by one in ASE.

The training frames of the example set (13 or 16 atoms) are relaxed with a potential
that was trained on them: with ASE's FIRE one after another, and with ``relax_batch`` of
several batch sizes. All ways alternate ``--repeats`` times in one process of one
thread; figures are medians. Differences are those to ASE's results, and come from
rounding only. Result: ``docs/results/relaxation.yaml``::

    python interatomic_potentials/train.py -c configs/sfin/sfin_potential.yaml
    OMP_NUM_THREADS=1 python -m benchmarks.relaxation --weights \\
        output/sfin_potential/checkpoints/best.pdparams
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from ase.optimize import FIRE

from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import result_of
from benchmarks.runs import write
from ppmat.calculator import SFINCalculator
from ppmat.calculator import relax_batch

FRAMES = ROOT / "interatomic_potentials/example_data/emt/train.extxyz.gz"
CONFIG = ROOT / "interatomic_potentials/configs/sfin/sfin_potential.yaml"
FMAX, MAX_STEPS = 0.05, 300
BATCH_SIZES = (1, 4, 16, 32)


def one_by_one(frames: Sequence[Atoms], calculator: SFINCalculator) -> list[tuple]:
    """Relax with ASE's FIRE; return energy [eV], steps, convergence of each."""
    ends = []
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        optimizer = FIRE(atoms, logfile=None)
        converged = optimizer.run(fmax=FMAX, steps=MAX_STEPS)
        ends.append((atoms.get_potential_energy(), optimizer.nsteps, converged))
    return ends


def in_batches(
    frames: Sequence[Atoms], calculator: SFINCalculator, batch_size: int
) -> list[tuple]:
    """Relax with ``relax_batch``; return the same."""
    ended = sorted(relax_batch(frames, calculator, FMAX, MAX_STEPS, batch_size))
    return [(one.results["energy"], one.steps, one.converged) for one in ended]


def measure(
    ways: dict[str, Callable[[], list[tuple]]], repeats: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return the median seconds and the results of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    ends = {}
    for _ in range(repeats):
        for name, relax in ways.items():
            start = time.perf_counter()
            ends[name] = np.array(relax(), dtype="float64")
            seconds[name].append(time.perf_counter() - start)
            print(name, round(seconds[name][-1], 2), "s", flush=True)
    return {name: statistics.median(all_) for name, all_ in seconds.items()}, ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--weights", required=True, type=Path, help="of the trained potential")
    add("--config", type=Path, default=CONFIG, help="its YAML")
    add("--frames", type=int, default=32)
    add("--repeats", type=int, default=3)
    add("--out", type=Path, default=RESULTS / "relaxation.yaml")
    args = parser.parse_args()
    frames = read(FRAMES, f":{args.frames}")
    calculator = SFINCalculator(args.config, args.weights)
    one_by_one(frames[:1], calculator)  # to warm up
    ways = {"ASE, one by one": partial(one_by_one, frames, calculator)}
    for size in BATCH_SIZES:
        name = f"relax_batch, {size} at once"
        ways[name] = partial(in_batches, frames, calculator, size)
    seconds, ends = measure(ways, args.repeats)
    slow, wanted = seconds["ASE, one by one"], ends["ASE, one by one"]
    rows = []
    for name, found in ends.items():
        difference = np.abs(found[:, 0] - wanted[:, 0]).max()
        rows.append({
            "name": name,
            "structures/s": round(len(frames) / seconds[name], 2),
            "steps/s": round(float(found[:, 1].sum()) / seconds[name], 1),
            "times as fast": round(slow / seconds[name], 2),
            "converged": int(found[:, 2].sum()),
            "largest difference [meV]": round(1000 * float(difference), 3),
        })  # fmt: skip
    atoms = statistics.mean(map(len, frames))
    note = (
        f"{len(frames)} training frames of the EMT example, {atoms:.1f} atoms on "
        f"average, to {FMAX} eV/Å; medians of {args.repeats} alternating repeats."
    )
    command = "OMP_NUM_THREADS=1 python -m benchmarks.relaxation --weights WEIGHTS"
    write(result_of(command, note=note, rows=rows), args.out)


if __name__ == "__main__":
    main()
