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

Each row trains the configuration ``oc20.yaml`` with a few values changed, through the
same entry as a user, for the same number of epochs, and is scored with its averaged
weights on three validation splits. Every (row, seed) leaves a file in ``--work``, so
the run can be interrupted and continued; the last step gathers them.

Usage::

    python -m benchmarks.data.oc20_emt DATA --train 3000 --val 400
    python -m benchmarks.is2rs --data DATA --epochs 4 --seeds 0 1 2 --jobs 2
    python -m benchmarks.is2rs --data DATA --speed     # on an idle machine
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import date
from pathlib import Path

from benchmarks.runs import file_name
from benchmarks.runs import loader_of
from benchmarks.runs import machine
from benchmarks.runs import median_rate
from benchmarks.runs import run_all
from benchmarks.runs import write

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "structure_generation/configs/sfin/oc20.yaml"
SPLITS = ["val_id", "val_ood_ads", "val_ood_cat"]
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
    import numpy as np

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
    from ppmat.commands.train import main
    from ppmat.models import build_model
    from ppmat.utils import save_load
    from ppmat.utils.config import load_config

    words = overrides(row, seed, args)
    start = time.perf_counter()
    status = main(str(ROOT / "structure_generation"), ["-c", str(CONFIG), *words])
    if status:
        raise SystemExit(status)
    seconds = time.perf_counter() - start
    config = load_config(str(CONFIG), words)
    model = build_model(config["Model"])
    folder = Path(config["Trainer"]["output_dir"]) / "checkpoints"
    save_load.load_pretrain(model, str(folder), "latest_ema.pdparams")
    model.eval()
    result = {
        "row": row,
        "seed": seed,
        "parameters": int(sum(p.size for p in model.parameters())),
        "train_seconds": round(seconds, 1),
        **{split: score(model, config, split) for split in SPLITS},
    }
    path = args.work / f"{file_name(row, seed)}.json"
    path.write_text(json.dumps(result, indent=2))


def speed(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median structures/s of training steps and of sampling, one thread, no loading."""
    from ppmat.models import build_model
    from ppmat.optimizer import build_optimizer
    from ppmat.utils.config import load_config

    rates = {}
    for row in ROWS:
        config = load_config(str(CONFIG), overrides(row, 0, args))
        model = build_model(config["Model"])
        optimizer, _ = build_optimizer(config["Optimizer"], model, 1, 100)
        batches = [b for _, b in zip(range(6), loader_of(config, "val_id"))]

        def train(batch, model=model, optimizer=optimizer):
            model.train()
            model(batch)["loss_dict"]["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()

        def sample(batch, model=model):
            model.eval()
            model.sample(batch)

        rates[row] = {
            f"{name}_structures_per_s": median_rate(step, batches)
            for name, step in (("train", train), ("sample", sample))
        }
        print(row, rates[row], flush=True)
    return rates


def run_missing(args: argparse.Namespace) -> None:
    words = ["--data", args.data, "--epochs", args.epochs, "--work", args.work]
    commands = {
        file_name(row, seed): [*words, "--one", row, "--seed", seed]
        for seed in args.seeds
        for row in ROWS
    }
    run_all(commands, args.work, args.jobs, "benchmarks.is2rs")


def gather(args: argparse.Namespace) -> dict:
    """Put the files of all rows and seeds into one result."""
    rows = [{"name": COPY, "parameters": 0}]
    for row in ROWS:
        seeds = [
            json.loads((args.work / f"{file_name(row, seed)}.json").read_text())
            for seed in args.seeds
        ]
        for split in SPLITS:
            rows[0][split] = {
                "adwt": [round(seeds[0][split]["copy_adwt"], 4)],
                "mae": [round(seeds[0][split]["copy_position_mae"], 4)],
            }
        rows.append(
            {
                "name": row,
                "parameters": seeds[0]["parameters"],
                "train_minutes": [round(s["train_seconds"] / 60, 1) for s in seeds],
                **{
                    split: {
                        "adwt": [round(s[split]["adwt"], 4) for s in seeds],
                        "mae": [round(s[split]["position_mae"], 4) for s in seeds],
                    }
                    for split in SPLITS
                },
            }
        )
    return {
        "command": f"python -m benchmarks.is2rs --data DATA --epochs {args.epochs} "
        f"--seeds {' '.join(map(str, args.seeds))} --jobs {args.jobs}",
        "machine": machine(),
        "date": str(date.today()),
        "epochs": args.epochs,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=lambda p: Path(p).resolve())
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("output/benchmark_is2rs"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/is2rs.yaml")
    parser.add_argument("--speed", action="store_true", help="only measure rates")
    parser.add_argument("--one", choices=ROWS, help="one row (used by the run itself)")
    parser.add_argument("--seed", type=int, default=0, help="seed of --one")
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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
