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

"""Speed and memory of the potential beside PaiNN, from 50 to 10,000 atoms.

Structures are slabs of Cu(111) with CO. A point is a process of its own, because peak
memory belongs to a process; points of both networks alternate.

* ``steps``: energy and forces along a trajectory that ASE's EMT made once, so that both
  see the same frames. Both keep pairs up to 0.5 Å beyond the cut-off and search anew
  when an atom has moved by half of it; the time of searches counts.
* ``training``: steps on frames with EMT's energies and forces, second derivatives and
  the optimizer included; pairs are made before.

Networks are those of ``potentials.py``, with new weights: their values do not change
the work. PaiNN runs in the environment of ``is2re_peers.py``, without compilation: the
compiler of PyTorch has no second derivatives. Result:
``docs/results/potential_speed.yaml``::

    python -m benchmarks.potential_speed --python PEERS/bin/python
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase import units
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from benchmarks import potential_peers
from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import result_of
from benchmarks.runs import run_one
from benchmarks.runs import tensors_of
from benchmarks.runs import write

CONFIG = ROOT / "interatomic_potentials/configs/sfin/sfin_potential.yaml"
SIZES = {50: (4, 3), 500: (12, 10), 1000: (16, 16), 5000: (37, 34), 10_000: (50, 50)}
TRAINED = [50, 500]  # atoms of the frames of ``training``
BATCH_ATOMS = 200  # of a training step, but at least one frame
SKIN = 0.5  # Å
SFIN, SPATIAL, PAINN = "SFIN", "SFIN, spatial half only", "PaiNN"


def trajectory(size: int, frames: int) -> list[Atoms]:
    """Return frames at 300 K, 2 fs apart, with the labels of EMT."""
    atoms = fcc111("Cu", (*SIZES[size], 4), vacuum=6.0, periodic=True)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop", mol_index=1)
    atoms.calc = EMT()
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    friction = 0.02 / units.fs
    dynamics = Langevin(
        atoms,
        2.0 * units.fs,
        temperature_K=300,
        friction=friction,
        rng=rng,
        fixcm=False,
    )
    found = []
    for _ in range(frames):
        dynamics.run(1)
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(apply_constraint=False),
        }
        frame.calc = SinglePointCalculator(frame, **labels)
        found.append(frame)
    return found


# The two networks --------------------------------------------------------------------


def sfin(row: str) -> tuple[Callable, Callable]:
    """Return what computes a frame, and what prepares training steps on frames."""
    import paddle

    from ppmat.calculator.batch_evaluation import Pairs
    from ppmat.calculator.batch_evaluation import evaluate_batch
    from ppmat.datasets.collate_fn import DefaultCollator
    from ppmat.datasets.custom_data_type import ConcatData
    from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
    from ppmat.models import build_model
    from ppmat.utils.config import load_config

    halves = "spatial" if row == SPATIAL else "both"
    words = [f"Model.__init_params__.backbone_cfg.halves={halves}"]
    words += ["Model.__init_params__.stress_weight=[0,0]"]
    words += ["Model.__init_params__.weight_batches=1000"]
    config = load_config(str(CONFIG), words)
    model = build_model(config["Model"])
    cutoff, k_cut = model.backbone.reach
    known: list[Pairs] = []

    def compute(atoms: Atoms) -> None:
        if not known or not known[0].hold(atoms, SKIN):
            graph = PeriodicGraphConverter(cutoff + SKIN, None, k_cut)
            known[:] = [Pairs(atoms, graph)]
        evaluate_batch(model, [atoms], known)

    def training(frames: list[Atoms]) -> Callable[[], None]:
        graph = PeriodicGraphConverter(cutoff, None, k_cut)
        samples = []
        for atoms in frames:
            sample = Pairs(atoms, graph).sample(atoms)
            sample["energy"] = np.array([atoms.get_potential_energy()])
            sample["forces"] = ConcatData(atoms.get_forces().astype("float32"))
            samples.append(sample)
        batch = tensors_of(DefaultCollator()(samples))
        optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())

        def step() -> None:
            model.train()
            model(batch)["loss_dict"]["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()

        return step

    return compute, training


def painn(row: str) -> tuple[Callable, Callable]:
    """Return the same as :func:`sfin` of the peer."""
    import torch
    from matscipy.neighbours import neighbour_list

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    run = potential_peers.Training(row, 1e-4, 1.0, 1000, 1)
    zeros = np.zeros(potential_peers.ELEMENTS)
    known: dict = {}

    def compute(atoms: Atoms) -> None:
        moved = atoms.positions - known.get("start", np.inf)
        if not np.linalg.norm(moved, axis=1).max() < 0.5 * SKIN:
            reach = potential_peers.CUTOFF + SKIN
            centre, other, image = neighbour_list("ijS", atoms, reach)
            offset = (image @ atoms.cell.array).astype("float32")
            known.update(start=atoms.positions.copy(), edges=(centre, other, offset))
        centre, other, offset = known["edges"]
        apart = atoms.positions[other] - atoms.positions[centre] + offset
        near = (apart**2).sum(1) < potential_peers.CUTOFF**2
        batch = {
            "numbers": torch.from_numpy(atoms.numbers),
            "pos": torch.from_numpy(atoms.positions.astype("float32")),
            "offset": torch.from_numpy(offset[near]),
            "centre": torch.from_numpy(centre[near].astype("int64")),
            "other": torch.from_numpy(other[near].astype("int64")),
            "frame": torch.zeros(len(atoms), dtype=torch.int64),
            "size": torch.tensor([float(len(atoms))]),
        }
        potential_peers.derivatives(run.model.eval(), batch, 1.0, keep_graph=False)

    def training(frames: list[Atoms]) -> Callable[[], None]:
        batch = potential_peers.tensors(
            [potential_peers.Frame(atoms) for atoms in frames], zeros
        )
        return lambda: run.step(batch)

    return compute, training


NETWORKS = {SFIN: sfin, SPATIAL: sfin, PAINN: painn}


def point(row: str, kind: str, size: int, repeats: int) -> dict:
    """Return the time of a step [s] and the peak memory [MiB], in this process."""
    compute, training = NETWORKS[row](row)
    if kind == "training":
        count = max(1, BATCH_ATOMS // size)
        step = training(trajectory(size, count))
        steps: list[Callable] = [step] * (repeats + 1)
    else:
        count = 1
        frames = trajectory(size, repeats + 1)
        steps = [lambda atoms=atoms: compute(atoms) for atoms in frames]
    seconds = []
    for step in steps:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    # searches are rare and long: their part belongs to the mean; the first warms up
    average = statistics.median if kind == "training" else statistics.mean
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": average(seconds[1:]) / count, "memory": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--python", help="Python of the environment of the peers")
    add("--steps", type=int, default=20, help="of a point; a quarter above 1,000 atoms")
    add("--repeats", type=int, default=3, help="processes of a point, alternating")
    add("--out", type=Path, default=RESULTS / "potential_speed.yaml")
    add("--point", nargs=4, metavar=("ROW", "KIND", "ATOMS", "STEPS"))
    args = parser.parse_args()
    if args.point:
        row, kind, size, steps = args.point
        print(json.dumps(point(row, kind, int(size), int(steps))))
        return
    pythons = {SFIN: "", SPATIAL: ""} | ({PAINN: args.python} if args.python else {})
    rows: dict[int, dict] = {size: {"name": f"{size:,} atoms"} for size in SIZES}
    points = [("steps", size) for size in SIZES]
    points += [("training", size) for size in TRAINED]
    for kind, size in points:
        steps = args.steps if size <= 1000 else args.steps // 4
        found: dict[str, list[dict]] = {row: [] for row in pythons}
        for _ in range(args.repeats):
            for row, python in pythons.items():
                words = (row, kind, size, steps)
                module = "benchmarks.potential_speed"
                found[row].append(run_one(module, "--point", *words, python=python))
        for row, runs in found.items():
            seconds = statistics.median(run["seconds"] for run in runs)
            figures = {"[trained frames/s]": float(f"{1 / seconds:.3g}")}
            if kind == "steps":
                memory = statistics.median(run["memory"] for run in runs)
                figures = {"[s]": float(f"{seconds:.3g}")}
                figures["[GiB]"] = round(memory / 1024, 2)
            rows[size].setdefault(row, {}).update(figures)
    note = (
        f"Medians of {args.repeats} processes a point. A step is the mean of "
        f"{args.steps} calls ({args.steps // 4} above 1,000 atoms), searches of "
        "neighbours included, of energy and forces, ours also of stress."
    )
    where = f"{platform.machine()}, CPU, one thread"
    command = "python -m benchmarks.potential_speed --python PEERS/bin/python "
    command += f"--repeats {args.repeats} --steps {args.steps}"
    write(result_of(command, where, note=note, rows=list(rows.values())), args.out)


if __name__ == "__main__":
    main()
