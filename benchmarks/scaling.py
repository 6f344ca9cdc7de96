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

"""Time and memory of the structure network, by number of atoms and batch size.

The structures are copper slabs of four layers that grow in their plane, with an oxygen
atom on top. Each point is a process of its own, because peak memory belongs to a
process. It gives medians of training steps and predictions, of the default network and
of each half alone.

Usage::

    python -m benchmarks.scaling            # writes the result file and the figure
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from pathlib import Path

from benchmarks.runs import IMAGES
from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import new_figure
from benchmarks.runs import result_of
from benchmarks.runs import run_one
from benchmarks.runs import tensors_of
from benchmarks.runs import write

CONFIG = ROOT / "structure_generation/configs/sfin/oc20.yaml"
# Atoms, about: cells along a and b.
SIZES = {50: (4, 3), 100: (5, 5), 200: (8, 6), 500: (12, 10), 1000: (16, 16)}
SIZES[2000] = (25, 20)
BATCHES = [1, 4, 16, 64]
HALVES = ["both", "spatial", "frequency"]
BATCH_ATOMS = 50


def slab(cells: tuple[int, int]):
    """Return a slab with adsorbate, tags and fixed atoms, as in OC20."""
    import numpy as np
    from ase.build import add_adsorbate
    from ase.build import fcc111
    from ase.constraints import FixAtoms

    atoms = fcc111("Cu", (*cells, 4), vacuum=10.0, periodic=True)
    layer = atoms.get_tags()
    add_adsorbate(atoms, "O", 1.3, "fcc")
    tags = np.append(np.where(layer <= 2, 1, 0), 2)
    atoms.set_tags(tags)
    atoms.set_constraint(FixAtoms(mask=tags == 0))
    return atoms


def measure(cells: tuple[int, int], batch_size: int, halves: str, steps: int) -> dict:
    """Return medians of one point, in this process."""
    import numpy as np
    import paddle

    from ppmat.datasets.collate_fn import DefaultCollator
    from ppmat.datasets.custom_data_type import ConcatData
    from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
    from ppmat.datasets.oc20_is2re_dataset import record_to_sample
    from ppmat.datasets.structure_record import structure_to_record
    from ppmat.models import build_model
    from ppmat.utils.config import load_config

    override = f"Model.__init_params__.backbone_cfg.halves={halves}"
    config = load_config(str(CONFIG), [override])
    model = build_model(config["Model"])
    graph = PeriodicGraphConverter(**config["Global"]["graph"]["__init_params__"])
    start = time.perf_counter()
    sample = record_to_sample(structure_to_record(slab(cells)), build_graph=graph)
    prepare = time.perf_counter() - start
    atoms = int(sample["structure_array"]["num_atoms"].data[0])
    sample["displacement"] = ConcatData(np.zeros([atoms, 3], "float32"))
    batch = tensors_of(DefaultCollator()([sample] * batch_size))
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=model.parameters())

    def train():
        model.train()
        model(batch)["loss_dict"]["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()

    def infer():
        with paddle.no_grad():
            zero = paddle.zeros([batch_size])
            model.displacement(batch, batch["structure_array"]["cart_coords"], zero)

    result = {
        "atoms": atoms,
        "batch_size": batch_size,
        "halves": halves,
        "wave_vectors": int(batch["graph"]["num_k"][0]),
        "prepare_ms": round(1e3 * prepare, 1),
    }
    for name, step in (("infer", infer), ("train", train)):
        step()
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        result[f"{name}_ms"] = round(1e3 * statistics.median(times), 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result["peak_memory_mib"] = round(peak)
    return result


def draw(result: dict, path: Path) -> None:
    """Draw time and memory against atoms and against batch size."""
    figure, axes = new_figure(1, 3, figsize=(12, 3.6), layout="constrained")
    single = [r for r in result["rows"] if r["batch_size"] == 1]
    for halves in HALVES:
        rows = [r for r in single if r["halves"] == halves]
        x = [r["atoms"] for r in rows]
        axes[0].loglog(x, [r["train_ms"] for r in rows], "o-", label=halves)
        axes[1].loglog(x, [r["peak_memory_mib"] for r in rows], "o-", label=halves)
    small = min(r["atoms"] for r in single)
    rows = [r for r in result["rows"] if (r["atoms"], r["halves"]) == (small, "both")]
    x = [r["batch_size"] for r in rows]
    y = [r["batch_size"] * 1e3 / r["train_ms"] for r in rows]
    axes[2].semilogx(x, y, "o-")
    axes[0].set(xlabel="atoms in the structure", ylabel="training step [ms]")
    axes[1].set(xlabel="atoms in the structure", ylabel="peak memory [MiB]")
    axes[2].set(
        xlabel=f"structures of {small} atoms in a batch",
        ylabel="trained structures/s",
        ylim=(0, None),
    )
    axes[0].legend(frameon=False, title="halves")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.yaml")
    parser.add_argument("--figure", type=Path, default=IMAGES / "scaling.png")
    parser.add_argument(
        "--point", nargs=4, metavar=("SIZE", "BATCH", "HALVES", "STEPS")
    )
    args = parser.parse_args()
    if args.point:
        size, batch, halves, steps = args.point
        print(json.dumps(measure(SIZES[int(size)], int(batch), halves, int(steps))))
        return
    points = [(size, 1, halves) for halves in HALVES for size in SIZES]
    points += [(BATCH_ATOMS, batch, "both") for batch in BATCHES[1:]]
    result = result_of(
        "python -m benchmarks.scaling",
        f"{platform.machine()}, CPU, one thread",
        rows=[
            run_one("benchmarks.scaling", "--point", *point, args.steps)
            for point in points
        ],
    )
    write(result, args.out)
    draw(result, args.figure)
    print(f"wrote {args.figure}")


if __name__ == "__main__":
    main()
