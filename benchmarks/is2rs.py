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

"""Relaxed structures on an EMT-relaxed set: the halves, their exchange, flow.

Each row trains the configuration ``oc20.yaml`` with a few values changed, by the
user's command, for the same number of epochs. Its averaged weights are scored on three
validation splits. Every (row, seed) leaves a file in ``--work``, so a benchmark that
was stopped continues; the last step collects them.

Usage::

    python -m benchmarks.data.oc20_emt DATA --train 3000 --val 400
    python -m benchmarks.is2rs --data DATA --epochs 4 --seeds 0 1 2 --jobs 2
    python -m benchmarks.is2rs --data DATA --speed     # on an idle machine
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import SPLITS
from benchmarks.runs import count_parameters
from benchmarks.runs import file_name
from benchmarks.runs import loader_of
from benchmarks.runs import measure_rates
from benchmarks.runs import minutes_of
from benchmarks.runs import parse
from benchmarks.runs import read_runs
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import run_parser
from benchmarks.runs import train_with_command
from benchmarks.runs import values_of
from benchmarks.runs import write

CONFIG = ROOT / "structure_generation/configs/sfin/oc20.yaml"
BACKBONE = "Model.__init_params__.backbone_cfg"
SCHEDULER = "Model.__init_params__.scheduler_cfg.__init_params__"
FLOW = [
    f"{SCHEDULER}.noise_std=0.1",
    f"{SCHEDULER}.time_sampling=uniform",
    f"{SCHEDULER}.time_power=3.0",
    "Model.__init_params__.num_inference_steps=2",
]
ROWS = {
    "spatial half only": [f"{BACKBONE}.halves=spatial"],
    "spatial half only, as many parameters as full": [
        f"{BACKBONE}.halves=spatial",
        f"{BACKBONE}.channels=60",
        f"{BACKBONE}.vectors=30",
    ],
    "frequency half only": [f"{BACKBONE}.halves=frequency"],
    "both halves without exchange": [f"{BACKBONE}.exchange=false"],
    "full network, regressor": [],
    "full network, flow": FLOW,
}
COPY = "copy input"


def overrides(row: str, seed: int, args: argparse.Namespace) -> list[str]:
    """Return the changes of the configuration for a run."""
    return [
        *ROWS[row],
        f"Global.data_root={args.data}",
        f"Trainer.seed={seed}",
        f"Trainer.max_epochs={args.epochs}",
        "Trainer.eval_freq=0",
        "Trainer.best_metric_indicator=null",
        "Global.num_workers=0",
        f"Trainer.output_dir={args.work / file_name(row, seed)}",
    ]


def score(model, config: dict, split: str) -> dict[str, float]:
    """Sample a split and return its metrics."""
    from ppmat.metrics import IS2RSMetric

    metric = IS2RSMetric()
    for batch in loader_of(config, split):
        result = model.sample(batch)["result"]
        rows = np.cumsum(batch["structure_array"]["num_atoms"].numpy())[:-1]
        metric.update(
            [np.array(r["cart_coords"]) for r in result],
            np.split(batch["cart_coords_relaxed"].numpy(), rows),
            np.split(batch["structure_array"]["cart_coords"].numpy(), rows),
            [np.array(r["lattice"]) for r in result],
            [np.array(r["fixed"]) for r in result],
        )
    return metric.compute_epoch()


def one(row: str, seed: int, args: argparse.Namespace) -> None:
    """Train and score one row with one seed."""
    model, config, seconds = train_with_command(
        "structure_generation",
        CONFIG,
        overrides(row, seed, args),
        args.work / file_name(row, seed),
    )
    result = {
        "row": row,
        "seed": seed,
        "parameters": count_parameters(model),
        "train_seconds": seconds,
        **{split: score(model, config, split) for split in SPLITS},
    }
    path = args.work / f"{file_name(row, seed)}.json"
    path.write_text(json.dumps(result, indent=2))


def speed(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the rates of all rows."""
    from ppmat.utils.config import load_config

    rates = {}
    for row in ROWS:
        config = load_config(str(CONFIG), overrides(row, 0, args))
        rates[row] = measure_rates(config, "sample", lambda m, batch: m.sample(batch))
        print(row, rates[row], flush=True)
    return rates


def run_missing(args: argparse.Namespace) -> None:
    """Run what is missing."""
    words = ["--data", args.data, "--epochs", args.epochs, "--work", args.work]
    commands = {
        file_name(row, seed): [*words, "--one", row, "--seed", seed]
        for seed in args.seeds
        for row in ROWS
    }
    run_all(commands, args.work, args.jobs, "benchmarks.is2rs")


def gather(args: argparse.Namespace) -> dict:
    """Return the result of all rows and seeds."""
    rows = [{"name": COPY, "parameters": 0}]
    for row in ROWS:
        seeds = read_runs(args.work, row, args.seeds)
        for split in SPLITS:
            rows[0][split] = {
                "adwt": values_of(seeds[:1], split, "copy_adwt"),
                "mae": values_of(seeds[:1], split, "copy_position_mae"),
            }
        rows.append(
            {
                "name": row,
                "parameters": seeds[0]["parameters"],
                "train_minutes": minutes_of(seeds),
                **{
                    split: {
                        "adwt": values_of(seeds, split, "adwt"),
                        "mae": values_of(seeds, split, "position_mae"),
                    }
                    for split in SPLITS
                },
            }
        )
    return result_of(
        f"python -m benchmarks.is2rs --data DATA --epochs {args.epochs} "
        f"--seeds {' '.join(map(str, args.seeds))} --jobs {args.jobs}",
        epochs=args.epochs,
        rows=rows,
    )


def main() -> None:
    parser = run_parser(__doc__, "output/benchmark_is2rs", 4, ROWS)
    parser.add_argument("--out", type=Path, default=RESULTS / "is2rs.yaml")
    parser.add_argument("--speed", action="store_true", help="only measure rates")
    args = parse(parser)
    if args.one:
        one(args.one, args.seed, args)
        return
    if args.speed:
        (args.work / "speed.json").write_text(json.dumps(speed(args)))
    else:
        run_missing(args)
    result = gather(args)
    if (args.work / "speed.json").exists():
        rates = json.loads((args.work / "speed.json").read_text())
        for row in result["rows"]:
            row.update(rates.get(row["name"], {}))
    write(result, args.out)


if __name__ == "__main__":
    main()
