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


"""Adsorption energies on an EMT-relaxed set: SFIN and its peers; learning curves.

Each row of SFIN trains ``sfin_oc20_is2re.yaml`` with a few values changed, by the
user's command, for the same number of epochs. Its averaged weights are scored on three
validation splits. ``is2re_peers.py`` trains the peers on the same data, epochs and
batches. Every (row, seed) leaves a file in ``--work``, so a benchmark that was stopped
continues; the last step collects them.

Usage::

    python -m benchmarks.data.oc20_emt DATA --train 3000 --val 400
    python -m benchmarks.is2re --data DATA --search 2         # learning rates
    python -m benchmarks.is2re --data DATA --jobs 2 --peers WORK_OF_THE_PEERS
    python -m benchmarks.is2re --data DATA --curves --jobs 2  # learning curves
    python -m benchmarks.is2re --data DATA --choices --jobs 2 # variants, one seed
    python -m benchmarks.is2re --data DATA --speed            # on an idle machine
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.runs import IMAGES
from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import SPLITS
from benchmarks.runs import count_parameters
from benchmarks.runs import file_name
from benchmarks.runs import loader_of
from benchmarks.runs import measure_rates
from benchmarks.runs import minutes_of
from benchmarks.runs import new_figure
from benchmarks.runs import parse
from benchmarks.runs import read_runs
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import run_parser
from benchmarks.runs import train_with_command
from benchmarks.runs import values_of
from benchmarks.runs import write

CONFIG = ROOT / "property_prediction/configs/sfin/sfin_oc20_is2re.yaml"
MODEL = "Model.__init_params__"
SCHEDULE = "Optimizer.__init_params__.lr.__init_params__"
ENERGY_ONLY = [
    f"{MODEL}.displacement_weight=null",
    f"{MODEL}.noisy_nodes=0.0",
    f"{MODEL}.num_recycles=0",
]
SPATIAL = [f"{MODEL}.backbone_cfg.halves=spatial"]
ROWS = {
    "spatial half, energy only": [*ENERGY_ONLY, *SPATIAL],
    "full network, energy only": ENERGY_ONLY,
    "spatial half, with relaxed structure": SPATIAL,
    "full network, with relaxed structure": [],
}
# Variants of the last row, one seed each: reasons for the configuration's settings.
CHOICES = {
    "noisy nodes, share 0.5": [f"{MODEL}.noisy_nodes=0.5"],
    "energy read from all atoms": [f"{MODEL}.readout_tags=[0,1,2]"],
}
PEERS = ["mean", "composition ridge", "SchNet", "PaiNN"]
RATES = [0.001, 0.003, 0.006]
CURVES = {
    "spatial half, energy only": "spatial half",
    "full network, energy only": "full network",
    "full network, with relaxed structure": "full, with relaxed structure",
}
# Epochs by records: with few records the training needs more epochs to converge.
SIZES = {100: 25, 300: 18, 1000: 9}


def overrides(row: str, seed: int, name: str, args: argparse.Namespace) -> list[str]:
    """Return the changes of the configuration for a run."""
    words = [
        *{**ROWS, **CHOICES}[row],
        f"Global.data_root={args.data}",
        f"Trainer.seed={seed}",
        f"Trainer.max_epochs={args.epochs}",
        "Trainer.eval_freq=0",
        "Trainer.best_metric_indicator=null",
        "Global.num_workers=0",
        f"Trainer.output_dir={args.work / name}",
        f"{SCHEDULE}.warmup_epoch=0.25",
    ]
    if args.rate:
        words.append(f"{SCHEDULE}.learning_rate={args.rate}")
    if args.size:
        size = "Dataset.train.dataset.__init_params__.max_samples"
        words.append(f"{size}={args.size}")
    return words


def predict(model, config: dict, split: str) -> dict:
    """Return labels, predictions and expected errors of a split, each [S] eV."""
    found: dict[str, list] = {"label": [], "energy": [], "expected_error": []}
    for batch in loader_of(config, split):
        result = model.predict(batch)
        found["label"].append(batch["y_relaxed"].numpy().ravel())
        found["energy"].append(result["y_relaxed"])
        if "expected_error" in result:
            found["expected_error"].append(result["expected_error"])
    return {key: np.concatenate(parts) for key, parts in found.items() if parts}


def one(row: str, seed: int, args: argparse.Namespace) -> None:
    """Train and score one row with one seed."""
    from ppmat.metrics.is2re_metric import energy_mae
    from ppmat.metrics.is2re_metric import energy_within_threshold

    model, config, seconds = train_with_command(
        "property_prediction",
        CONFIG,
        overrides(row, seed, args.name, args),
        args.work / args.name,
    )
    schedule = config["Optimizer"]["__init_params__"]["lr"]["__init_params__"]
    result = {
        "row": row,
        "seed": seed,
        "size": args.size,
        "epochs": args.epochs,
        "learning_rate": schedule["learning_rate"],
        "parameters": count_parameters(model),
        "train_seconds": seconds,
    }
    for split in SPLITS:
        found = predict(model, config, split)
        np.savez_compressed(args.work / f"{args.name}_{split}.npz", **found)
        result[split] = {
            "energy_mae": energy_mae(found["energy"], found["label"]),
            "ewt": energy_within_threshold(found["energy"], found["label"]),
        }
    (args.work / f"{args.name}.json").write_text(json.dumps(result, indent=2))


def speed(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the rates of all rows."""
    from ppmat.utils.config import load_config

    rates = {}
    for row in ROWS:
        config = load_config(str(CONFIG), overrides(row, 0, "speed", args))
        rates[row] = measure_rates(config, "infer", lambda m, batch: m.predict(batch))
        print(row, rates[row], flush=True)
    return rates


def command(row: str, seed: int, name: str, args: argparse.Namespace, **more) -> list:
    """Return the arguments of a run."""
    words = {"data": args.data, "work": args.work, "epochs": args.epochs, **more}
    flags = [part for key, value in words.items() for part in (f"--{key}", value)]
    return [*flags, "--one", row, "--seed", seed, "--name", name]


def run_search(args: argparse.Namespace) -> dict:
    """Try learning rates with the last row; all rows of SFIN use the best."""
    row = list(ROWS)[-1]
    names = {rate: file_name(row, 0, search=rate) for rate in RATES}
    commands = {
        name: command(row, 0, name, args, epochs=args.search, rate=rate)
        for rate, name in names.items()
    }
    run_all(commands, args.work, args.jobs, "benchmarks.is2re")
    files = [args.work / f"{name}.json" for name in names.values()]
    if args.peers is not None:
        files = [*sorted(args.peers.glob("search_*.json")), *files]
    rows = []
    for found in map(json.loads, (path.read_text() for path in files)):
        rows.append(
            {
                "name": found["row"],
                "learning_rate": found["learning_rate"],
                "atoms read": found.get("readout", "surface"),
                "val_id": {"energy_mae": round(found["val_id"]["energy_mae"], 4)},
            }
        )
    return result_of(
        f"python -m benchmarks.is2re --data DATA --search {args.search} "
        f"--peers PEERS --jobs {args.jobs}",
        note=f"After {args.search} epochs, one seed. Atoms read: all, or those of "
        "surface and adsorbate (tags 1 and 2).",
        rows=rows,
    )


def run_rows(args: argparse.Namespace, rows: dict, seeds: list[int]) -> None:
    """Run what is missing of some rows."""
    commands = {}
    for seed in seeds:
        for row in rows:
            name = file_name(row, seed)
            commands[name] = command(row, seed, name, args)
    run_all(commands, args.work, args.jobs, "benchmarks.is2re")


def run_curves(args: argparse.Namespace) -> None:
    """Run what is missing of the learning curves."""
    commands = {}
    for size, epochs in SIZES.items():
        for row in CURVES:
            name = file_name(row, args.seeds[0], size=size)
            commands[name] = command(
                row, args.seeds[0], name, args, epochs=epochs, size=size
            )
    run_all(commands, args.work, args.jobs, "benchmarks.is2re")


def summary(row: str, seeds: list[dict]) -> dict:
    """Return the table row of a row's seeds."""
    scores = {
        split: {key: values_of(seeds, split, key) for key in ("energy_mae", "ewt")}
        for split in SPLITS
    }
    scores["mean"] = {
        key: [
            round(sum(seed[split][key] for split in SPLITS) / len(SPLITS), 4)
            for seed in seeds
        ]
        for key in ("energy_mae", "ewt")
    }
    result = {"name": row, "parameters": seeds[0]["parameters"]}
    if seeds[0].get("learning_rate"):
        result["learning_rate"] = seeds[0]["learning_rate"]
        result["train_minutes"] = minutes_of(seeds)
    return {**result, **scores}


def gather(args: argparse.Namespace) -> dict:
    """Return the result of all rows and seeds."""
    rates = {}
    for folder in (args.peers, args.work):
        if folder is not None and (folder / "speed.json").exists():
            rates.update(json.loads((folder / "speed.json").read_text()))
    rows = []
    for folder, names in ((args.peers, PEERS), (args.work, ROWS)):
        for row in names if folder is not None else ():
            found = summary(row, read_runs(folder, row, args.seeds))
            rows.append({**found, **rates.get(row, {})})
    return result_of(
        "python -m benchmarks.is2re --data DATA --peers PEERS "
        f"--epochs {args.epochs} --seeds {' '.join(map(str, args.seeds))} "
        f"--jobs {args.jobs}",
        epochs=args.epochs,
        rows=rows,
    )


def gather_choices(args: argparse.Namespace) -> dict:
    """Return the result of the variants, below the row that they vary."""
    rows = []
    for row in [list(ROWS)[-1], *CHOICES]:
        found = summary(row, read_runs(args.work, row, args.seeds[:1]))
        rows.append({"name": row, **{s: found[s]["energy_mae"] for s in SPLITS}})
        rows[-1]["mean"] = found["mean"]["energy_mae"]
    return result_of(
        "python -m benchmarks.is2re --data DATA --choices "
        f"--epochs {args.epochs} --seeds {args.seeds[0]} --jobs {args.jobs}",
        note="Energy MAE [eV] of one seed; below the first row, one thing changed.",
        rows=rows,
    )


def gather_curves(args: argparse.Namespace) -> dict:
    """Return mean MAE over the splits by size, and the fitted power of the size."""
    rows = []
    for row, name in CURVES.items():
        points = {}
        for size in SIZES:
            seeds = read_runs(args.work, row, args.seeds[:1], size=size)
            points[size] = summary(row, seeds)
        points[args.full_size] = summary(row, read_runs(args.work, row, args.seeds[:1]))
        errors = [point["mean"]["energy_mae"][0] for point in points.values()]
        slope, _ = np.polyfit(np.log(list(points)), np.log(errors), 1)
        rows.append(
            {
                "name": name,
                **{f"{n:,} structures": error for n, error in zip(points, errors)},
                "exponent": round(float(slope), 3),
            }
        )
    return result_of(
        "python -m benchmarks.is2re --data DATA --curves "
        f"--epochs {args.epochs} --seeds {args.seeds[0]} --jobs {args.jobs}",
        note="Mean energy MAE [eV] of the validation splits, one seed. Epochs: "
        + ", ".join(f"{e} for {n}" for n, e in SIZES.items())
        + f", {args.epochs} for {args.full_size}.",
        rows=rows,
    )


def draw_curves(result: dict, path: Path) -> None:
    """Draw the learning curves."""
    figure, axes = new_figure(figsize=(5, 4))
    for row in result["rows"]:
        points = {k: v for k, v in row.items() if k.endswith("structures")}
        sizes = [int(key.split()[0].replace(",", "")) for key in points]
        label = f"{row['name']}: N^{row['exponent']:.2f}"
        axes.loglog(sizes, list(points.values()), "o-", label=label)
    axes.set_xlabel("training structures N")
    axes.set_ylabel("mean energy MAE [eV]")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = run_parser(__doc__, "output/benchmark_is2re", 5, [*ROWS, *CHOICES])
    add = parser.add_argument
    add("--peers", type=Path, help="--work of is2re_peers.py")
    add("--out", type=Path, default=RESULTS)
    add("--search", type=int, metavar="EPOCHS", help="try learning rates")
    add("--curves", action="store_true", help="learning curves, after the rows")
    add("--choices", action="store_true", help="variants, after the rows")
    add("--full_size", type=int, default=3000, help="records of the whole train split")
    add("--speed", action="store_true", help="only measure rates")
    add("--name", help="name of --one")
    add("--rate", type=float, help="learning rate of --one")
    add("--size", type=int, help="training records of --one")
    args = parse(parser)
    if args.one:
        one(args.one, args.seed, args)
    elif args.search:
        write(run_search(args), args.out / "is2re_search.yaml")
    elif args.choices:
        run_rows(args, CHOICES, args.seeds[:1])
        write(gather_choices(args), args.out / "is2re_choices.yaml")
    elif args.curves:
        run_curves(args)
        result = gather_curves(args)
        write(result, args.out / "is2re_curves.yaml")
        draw_curves(result, IMAGES / "is2re_curves.png")
    else:
        if args.speed:
            (args.work / "speed.json").write_text(json.dumps(speed(args)))
        else:
            run_rows(args, ROWS, args.seeds)
        write(gather(args), args.out / "is2re.yaml")


if __name__ == "__main__":
    main()
