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

"""The autoregressive diffusion model beside the regressor, on an EMT-relaxed set.

Every row is ``ardiff/oc20_small.yaml`` with a few values changed, trained by the user's
command for the same number of epochs, but for the long one; the last row is the
regressor of SFIN, ``sfin/oc20.yaml``. The averaged weights are scored by one sample of
each structure of the validation splits, at temperature 0. The long row is also sampled
in other ways, on ``val_id``. Every (row, seed) leaves a file in ``--work``, so a
benchmark that was stopped continues.

Usage::

    python -m benchmarks.ardiff --data structure_generation/example_data/oc20_emt \\
        --epochs 15 --long 60 --seeds 0
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT

from benchmarks import is2rs
from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import count_parameters
from benchmarks.runs import file_name
from benchmarks.runs import loader_of
from benchmarks.runs import minutes_of
from benchmarks.runs import parse
from benchmarks.runs import read_runs
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import run_parser
from benchmarks.runs import splits_in
from benchmarks.runs import train_with_command
from benchmarks.runs import values_of
from benchmarks.runs import write

CONFIG = ROOT / "structure_generation/configs/ardiff/oc20_small.yaml"
MODEL = "Model.__init_params__"
AUGMENTED = f"{MODEL}.augmentation_cfg"
LONG, REGRESSOR = "ARDiff, more epochs", "SFIN, regressor"
ROWS = {
    LONG: [],
    "ARDiff": [],
    "not rotated": [f"{AUGMENTED}.rotate=false"],
    "not translated": [f"{AUGMENTED}.translate=false"],
    "atoms reordered": [f"{AUGMENTED}.reorder=true"],
    "no jitter": [f"{AUGMENTED}.jitter=0"],
    **{
        f"scale_coords {scale}": [
            f"{MODEL}.displacement_std=null",
            f"{MODEL}.scale_coords={scale}",
        ]
        for scale in (1, 10)
    },
    REGRESSOR: [],
}
SOLVER = f"{MODEL}.scheduler_cfg.__init_params__.solver"
SAMPLED = {  # words and arguments of ``sample``
    "temperature 0.3": ([], {"temperature": 0.3}),
    "temperature 1": ([], {"temperature": 1.0}),
    "temperature 1, 10 steps": ([], {"temperature": 1.0, "diff_steps": 10}),
    **{
        f"temperature 1, {steps} random steps": (
            [f"{SOLVER}=ddpm"],
            {"temperature": 1.0, "diff_steps": steps},
        )
        for steps in (20, 100)
    },
    "temperature 1, lowest EMT energy of 8": (
        [],
        {"temperature": 1.0, "num_samples": 8},
    ),
}


def score(model, config: dict, split: str, **how: float) -> dict[str, float]:
    """Return the metrics of one sample of each structure, and structures/s."""
    from ppmat.metrics import IS2RSMetric
    from ppmat.metrics import StructureCheckMetric

    metrics = [IS2RSMetric(), StructureCheckMetric()]
    seconds, count = 0.0, 0
    for batch in loader_of(config, split):
        start = time.perf_counter()
        found = model.sample(batch, **how)["result"]
        seconds += time.perf_counter() - start
        count += len(batch["id"])
        found = lowest_energies(found, len(found) // len(batch["id"]))
        positions = np.concatenate([one["cart_coords"] for one in found])
        result = {"pred_dict": {"cart_coords_relaxed": positions}}
        for metric in metrics:
            metric.update_step(result=result, batch=batch, stage="eval")
    values = {k: v for m in metrics for k, v in m.compute_epoch(stage="eval").items()}
    return {**values, "structures_per_s": count / seconds}


def lowest_energies(results: list[dict], samples: int) -> list[dict]:
    """Return of each structure's samples, which are neighbours, that of least energy.

    The energy is that of EMT, which relaxed the true structures: no model of energies
    ranks better.
    """
    if samples == 1:
        return results
    energies = []
    for result in results:
        atoms = Atoms(result["atom_types"], result["cart_coords"], pbc=True)
        atoms.set_cell(result["lattice"])
        atoms.calc = EMT()
        energies.append(atoms.get_potential_energy())
    least = np.reshape(energies, [-1, samples]).argmin(axis=1)
    return [results[samples * i + best] for i, best in enumerate(least)]


def one(row: str, seed: int, args: argparse.Namespace) -> None:
    """Train and score one row with one seed."""
    folder = args.work / args.name
    config = is2rs.CONFIG if row == REGRESSOR else CONFIG
    words = [
        *ROWS[row],
        f"Global.data_root={args.data}",
        f"Trainer.seed={seed}",
        f"Trainer.max_epochs={args.long if row == LONG else args.epochs}",
        "Trainer.eval_freq=0",
        "Trainer.best_metric_indicator=null",
        "Global.num_workers=0",
        f"Trainer.output_dir={folder}",
    ]
    model, config, seconds = train_with_command(
        "structure_generation", config, words, folder
    )
    result = {
        "row": row,
        "seed": seed,
        "epochs": config["Trainer"]["max_epochs"],
        "parameters": count_parameters(model),
        "train_seconds": seconds,
        **{split: score(model, config, split) for split in splits_in(args.data)},
    }
    if row == LONG:
        result["sampled"] = sample_in_ways(folder, config["Trainer"]["output_dir"])
    (args.work / f"{args.name}.json").write_text(json.dumps(result, indent=2))


def sample_in_ways(folder: Path, output: str) -> dict[str, dict[str, float]]:
    """Return the scores on ``val_id`` of the ways of sampling."""
    from ppmat.models import build_model
    from ppmat.utils import save_load
    from ppmat.utils.config import load_config

    found = {}
    for name, (words, how) in SAMPLED.items():
        config = load_config(str(folder / CONFIG.name), words)
        model = build_model(config["Model"])
        weights = Path(output) / "checkpoints"
        save_load.load_pretrain(model, str(weights), "latest_ema.pdparams")
        model.eval()
        found[name] = score(model, config, "val_id", **how)
    return found


def gather(args: argparse.Namespace) -> dict:
    """Return the figures of all rows, and of the ways of sampling the long one."""
    splits = splits_in(args.data)
    rows = []
    for row in ROWS:
        runs = read_runs(args.work, row, args.seeds)
        rows.append({
            "name": row,
            "epochs": runs[0]["epochs"],
            "parameters": runs[0]["parameters"],
            "minutes": minutes_of(runs),
            **{f"ADwT {s}": values_of(runs, s, "adwt", digits=3) for s in splits},
            "MAE val_id [Å]": values_of(runs, "val_id", "position_mae", digits=3),
            "overlap": values_of(runs, "val_id", "overlap", digits=3),
            "dissociated": values_of(runs, "val_id", "dissociated", digits=3),
        })  # fmt: skip
    copied = {
        f"ADwT {split}": values_of(runs[:1], split, "copy_adwt", digits=3)
        for split in splits
    }
    rows.insert(0, {"name": "copy input", **copied})
    long = read_runs(args.work, LONG, args.seeds)
    for name in SAMPLED:
        runs = [run["sampled"] for run in long]
        rows.append({
            "name": f"{LONG}: {name}",
            "ADwT val_id": values_of(runs, name, "adwt", digits=3),
            "MAE val_id [Å]": values_of(runs, name, "position_mae", digits=3),
            "overlap": values_of(runs, name, "overlap", digits=3),
            "dissociated": values_of(runs, name, "dissociated", digits=3),
            "structures/s": values_of(runs, name, "structures_per_s", digits=3),
        })  # fmt: skip
    return result_of(
        f"python -m benchmarks.ardiff --data DATA --epochs {args.epochs} "
        f"--long {args.long} --seeds {' '.join(map(str, args.seeds))}",
        note="One sample of each structure; overlap and dissociated are shares of "
        "val_id. The lowest energy is that of EMT, which made the data. Minutes and "
        "structures/s include other work on the machine.",
        rows=rows,
    )


def main() -> None:
    parser = run_parser(__doc__, "output/benchmark_ardiff", 15, ROWS)
    add = parser.add_argument
    add("--long", type=int, default=60, help="epochs of the long row")
    add("--out", type=Path, default=RESULTS / "ardiff.yaml")
    add("--name", help="name of --one")
    args = parse(parser)
    if args.one:
        one(args.one, args.seed, args)
        return
    words = ["--data", args.data, "--epochs", args.epochs, "--long", args.long]
    commands = {}
    for seed in args.seeds:
        for row in ROWS:
            name = file_name(row, seed)
            more = ["--work", args.work, "--name", name, "--one", row, "--seed", seed]
            commands[name] = [*words, *more]
    run_all(commands, args.work, args.jobs, "benchmarks.ardiff")
    write(gather(args), args.out)


if __name__ == "__main__":
    main()
