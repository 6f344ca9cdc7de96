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

Each row of ours trains ``sfin_oc20_is2re.yaml`` with a few values changed, through the
same entry as a user, for the same number of epochs, and is scored with its averaged
weights on three validation splits. The peers are trained by ``is2re_peers.py`` on the
same data, epochs and batches. Every (row, seed) leaves a file in ``--work``, so the run
can be interrupted and continued; the last step gathers them.

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
CONFIG = ROOT / "property_prediction/configs/sfin/sfin_oc20_is2re.yaml"
SPLITS = ["val_id", "val_ood_ads", "val_ood_cat"]
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
# One seed each, beside the last row: why the configuration is as it is.
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
# Fewer records are seen more often, else small sets would be cut off in training.
SIZES = {100: 25, 300: 18, 1000: 9}


def overrides(row: str, seed: int, name: str, args: argparse.Namespace) -> list[str]:
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
    import numpy as np

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
    import numpy as np

    from ppmat.commands.train import main
    from ppmat.metrics.is2re_metric import energy_mae
    from ppmat.metrics.is2re_metric import energy_within_threshold
    from ppmat.models import build_model
    from ppmat.utils import save_load
    from ppmat.utils.config import load_config

    words = overrides(row, seed, args.name, args)
    start = time.perf_counter()
    status = main(str(ROOT / "property_prediction"), ["-c", str(CONFIG), *words])
    if status:
        raise SystemExit(status)
    seconds = time.perf_counter() - start
    folder = args.work / args.name
    config = load_config(str(folder / CONFIG.name))
    model = build_model(config["Model"])
    save_load.load_pretrain(model, str(folder / "checkpoints"), "latest_ema.pdparams")
    model.eval()
    schedule = config["Optimizer"]["__init_params__"]["lr"]["__init_params__"]
    result = {
        "row": row,
        "seed": seed,
        "size": args.size,
        "epochs": args.epochs,
        "learning_rate": schedule["learning_rate"],
        "parameters": int(sum(p.size for p in model.parameters())),
        "train_seconds": round(seconds, 1),
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
    """Median structures/s of training steps and of prediction, without loading."""
    from ppmat.models import build_model
    from ppmat.optimizer import build_optimizer
    from ppmat.utils.config import load_config

    rates = {}
    for row in ROWS:
        config = load_config(str(CONFIG), overrides(row, 0, "speed", args))
        model = build_model(config["Model"])
        optimizer, _ = build_optimizer(config["Optimizer"], model, 1, 100)
        batches = [b for _, b in zip(range(6), loader_of(config, "val_id"))]

        def train(batch, model=model, optimizer=optimizer):
            model.train()
            model(batch)["loss_dict"]["loss"].backward()
            optimizer.step()
            optimizer.clear_grad()

        def infer(batch, model=model):
            model.eval()
            model.predict(batch)

        rates[row] = {
            f"{name}_structures_per_s": median_rate(step, batches)
            for name, step in (("train", train), ("infer", infer))
        }
        print(row, rates[row], flush=True)
    return rates


def command(row: str, seed: int, name: str, args: argparse.Namespace, **more) -> list:
    words = {"data": args.data, "work": args.work, "epochs": args.epochs, **more}
    flags = [part for key, value in words.items() for part in (f"--{key}", value)]
    return [*flags, "--one", row, "--seed", seed, "--name", name]


def run_search(args: argparse.Namespace) -> dict:
    """Try learning rates with our last row; all of ours take the best."""
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
    return {
        "command": f"python -m benchmarks.is2re --data DATA --search {args.search} "
        f"--peers PEERS --jobs {args.jobs}",
        "machine": machine(),
        "date": str(date.today()),
        "note": f"After {args.search} epochs, one seed. Atoms read: all, or those of "
        "surface and adsorbate (tags 1 and 2).",
        "rows": rows,
    }


def run_rows(args: argparse.Namespace, rows: dict, seeds: list[int]) -> None:
    commands = {}
    for seed in seeds:
        for row in rows:
            name = file_name(row, seed)
            commands[name] = command(row, seed, name, args)
    run_all(commands, args.work, args.jobs, "benchmarks.is2re")


def run_curves(args: argparse.Namespace) -> None:
    commands = {}
    for size, epochs in SIZES.items():
        for row in CURVES:
            name = file_name(row, args.seeds[0], size=size)
            commands[name] = command(
                row, args.seeds[0], name, args, epochs=epochs, size=size
            )
    run_all(commands, args.work, args.jobs, "benchmarks.is2re")


def summary(row: str, seeds: list[dict]) -> dict:
    """Put the files of a row's seeds side by side."""
    scores = {
        split: {
            key: [round(seed[split][key], 4) for seed in seeds]
            for key in ("energy_mae", "ewt")
        }
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
        minutes = [round(seed["train_seconds"] / 60, 1) for seed in seeds]
        result["train_minutes"] = minutes
    return {**result, **scores}


def read(folder: Path, row: str, seeds: list[int], **more) -> list[dict]:
    names = [file_name(row, seed, **more) for seed in seeds]
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def gather(args: argparse.Namespace) -> dict:
    """Put the files of all rows and seeds into one result."""
    rates = {}
    for folder in (args.peers, args.work):
        if folder is not None and (folder / "speed.json").exists():
            rates.update(json.loads((folder / "speed.json").read_text()))
    rows = []
    for folder, names in ((args.peers, PEERS), (args.work, ROWS)):
        for row in names if folder is not None else ():
            found = summary(row, read(folder, row, args.seeds))
            rows.append({**found, **rates.get(row, {})})
    return {
        "command": "python -m benchmarks.is2re --data DATA --peers PEERS "
        f"--epochs {args.epochs} --seeds {' '.join(map(str, args.seeds))} "
        f"--jobs {args.jobs}",
        "machine": machine(),
        "date": str(date.today()),
        "epochs": args.epochs,
        "rows": rows,
    }


def gather_choices(args: argparse.Namespace) -> dict:
    """Put the variants below the row they vary."""
    rows = []
    for row in [list(ROWS)[-1], *CHOICES]:
        found = summary(row, read(args.work, row, args.seeds[:1]))
        rows.append({"name": row, **{s: found[s]["energy_mae"] for s in SPLITS}})
        rows[-1]["mean"] = found["mean"]["energy_mae"]
    return {
        "command": "python -m benchmarks.is2re --data DATA --choices "
        f"--epochs {args.epochs} --seeds {args.seeds[0]} --jobs {args.jobs}",
        "machine": machine(),
        "date": str(date.today()),
        "note": "Energy MAE [eV] of one seed; below the first row, one thing changed.",
        "rows": rows,
    }


def gather_curves(args: argparse.Namespace) -> dict:
    """Mean MAE over the splits against the size, and the fitted power of the size."""
    import numpy as np

    rows = []
    for row, name in CURVES.items():
        points = {}
        for size in SIZES:
            points[size] = summary(row, read(args.work, row, args.seeds[:1], size=size))
        points[args.full_size] = summary(row, read(args.work, row, args.seeds[:1]))
        errors = [point["mean"]["energy_mae"][0] for point in points.values()]
        slope, _ = np.polyfit(np.log(list(points)), np.log(errors), 1)
        rows.append(
            {
                "name": name,
                **{f"{n:,} structures": error for n, error in zip(points, errors)},
                "exponent": round(float(slope), 3),
            }
        )
    return {
        "command": "python -m benchmarks.is2re --data DATA --curves "
        f"--epochs {args.epochs} --seeds {args.seeds[0]} --jobs {args.jobs}",
        "machine": machine(),
        "date": str(date.today()),
        "note": "Mean energy MAE [eV] of the validation splits, one seed. Epochs: "
        + ", ".join(f"{e} for {n}" for n, e in SIZES.items())
        + f", {args.epochs} for {args.full_size}.",
        "rows": rows,
    }


def draw_curves(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 4))
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, type=lambda p: Path(p).resolve())
    add("--epochs", type=int, default=5)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--jobs", type=int, default=1)
    add("--work", type=Path, default=Path("output/benchmark_is2re"))
    add("--peers", type=Path, help="--work of is2re_peers.py")
    add("--out", type=Path, default=ROOT / "docs/results")
    add("--search", type=int, metavar="EPOCHS", help="try learning rates")
    add("--curves", action="store_true", help="learning curves, after the rows")
    add("--choices", action="store_true", help="variants, after the rows")
    add("--full_size", type=int, default=3000, help="records of the whole train split")
    add("--speed", action="store_true", help="only measure rates")
    add(
        "--one",
        choices=[*ROWS, *CHOICES],
        help="one run (used by the benchmark itself)",
    )
    add("--seed", type=int, default=0, help="seed of --one")
    add("--name", help="name of --one")
    add("--rate", type=float, help="learning rate of --one")
    add("--size", type=int, help="training records of --one")
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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
        draw_curves(result, ROOT / "docs/images/is2re_curves.png")
    else:
        if args.speed:
            (args.work / "speed.json").write_text(json.dumps(speed(args)))
        else:
            run_rows(args, ROWS, args.seeds)
        write(gather(args), args.out / "is2re.yaml")


if __name__ == "__main__":
    main()
