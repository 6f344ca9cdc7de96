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


"""Adsorption energies and relaxed positions on an EMT-relaxed set: SFIN and its peers.

Each row of SFIN trains ``sfin_oc20_is2re.yaml`` with a few values changed, by the
user's command, for the same number of epochs. Its averaged weights are scored on the
validation splits. ``is2re_peers.py`` trains the peers on the same data, epochs, batches
and targets. Every (row, seed) leaves a file in ``--work``, so a benchmark that was
stopped continues; the last step collects them. The learning rate of a row is the best
of a ``--search`` if there was one in ``--work``, else that of the configuration.

Usage::

    python -m benchmarks.data.oc20_emt DATA --train 3000 --val 400
    python -m benchmarks.is2re --data DATA --search --epochs 2  # learning rates
    python -m benchmarks.is2re --data DATA --jobs 2 --peers WORK_OF_THE_PEERS
    python -m benchmarks.is2re --data DATA --speed            # on an idle machine
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.is2re_peers import BATCH
from benchmarks.is2re_peers import ROWS as PEERS
from benchmarks.is2re_peers import SURFACE
from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import SPLITS
from benchmarks.runs import WARMUP
from benchmarks.runs import best_rate
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
from benchmarks.runs import search_name
from benchmarks.runs import searched_rates
from benchmarks.runs import splits_in
from benchmarks.runs import train_with_command
from benchmarks.runs import values_of
from benchmarks.runs import words_of_one
from benchmarks.runs import write

CONFIG = ROOT / "property_prediction/configs/sfin/sfin_oc20_is2re.yaml"
MODEL = "Model.__init_params__"
SCHEDULE = "Optimizer.__init_params__.lr.__init_params__"
ENERGY_ONLY = [
    f"{MODEL}.displacement_weight=null",
    f"{MODEL}.noisy_nodes=0.0",
    f"{MODEL}.num_recycles=0",
]
BACKBONE = f"{MODEL}.backbone_cfg"
ROWS = {
    "full network": ENERGY_ONLY,
    "spatial half, with relaxed structure": [f"{BACKBONE}.halves=spatial"],
    "frequency half, with relaxed structure": [f"{BACKBONE}.halves=frequency"],
    "no exchange, with relaxed structure": [f"{BACKBONE}.exchange=false"],
    "full network with tensors, with relaxed structure": [  # as sfin_potential.yaml
        f"{BACKBONE}.{option}"
        for option in ("vector_messages=12", "products=true", "tensors=24")
    ],
    "full network, with relaxed structure": [],
}
# With the reference for metals that are not in the training data
NEW_METALS = {
    list(ROWS)[-1] + SURFACE: ["Dataset.transform.__class_name__=surface_scaling"]
}
COPY = "copy of the input"
RATES = [0.001, 0.002, 0.004]  # learning rates of a search, as many as the peers'


def overrides(row: str, seed: int, name: str, args: argparse.Namespace) -> list[str]:
    """Return the changes of the configuration for a run."""
    words = [
        *{**ROWS, **NEW_METALS}[row],
        f"Global.data_root={args.data}",
        f"Trainer.seed={seed}",
        f"Trainer.max_epochs={args.epochs}",
        "Trainer.eval_freq=0",
        "Trainer.best_metric_indicator=null",
        f"Global.batch_size={BATCH}",
        "Global.num_workers=0",
        f"Trainer.output_dir={args.work / name}",
        f"{SCHEDULE}.warmup_epoch={WARMUP * args.epochs}",
    ]
    rate = args.rate or best_rate(args.work, row)
    if rate:
        words.append(f"{SCHEDULE}.learning_rate={rate}")
    if args.read == "adsorbate":
        words.append(f"{MODEL}.readout_tags=[2]")
    return words


def predict(model, config: dict, split: str) -> tuple[dict, dict]:
    """Return the predictions of a split, and the scores of the relaxed positions.

    The first has labels, predictions and expected errors, each [S] eV, and the numbers
    of adsorbates. The second is empty if the model predicts no positions.
    """
    from ppmat.metrics import IS2RSMetric

    metric = IS2RSMetric()
    names = ("label", "energy", "adsorbates", "expected_error")
    found: dict[str, list] = {name: [] for name in names}
    for batch in loader_of(config, split):
        result = model.predict(batch)
        adsorbates = batch["structure_array"]["num_adsorbates"].numpy()
        found["adsorbates"].append(adsorbates.clip(min=1))
        found["label"].append(batch["y_relaxed"].numpy().ravel())
        found["energy"].append(result["y_relaxed"])
        if "expected_error" in result:
            found["expected_error"].append(result["expected_error"])
        if "cart_coords_relaxed" in result:
            positions = np.concatenate(result["cart_coords_relaxed"])
            predicted = {"pred_dict": {"cart_coords_relaxed": positions}}
            metric.update_step(result=predicted, batch=batch, stage="eval")
    energies = {key: np.concatenate(parts) for key, parts in found.items() if parts}
    return energies, metric.compute_epoch()


def score(model, config: dict, split: str, args: argparse.Namespace) -> dict:
    """Return the scores of a split; energies are those of one adsorbate."""
    from ppmat.metrics.is2re_metric import energy_mae
    from ppmat.metrics.is2re_metric import energy_within_threshold

    energies, positions = predict(model, config, split)
    np.savez_compressed(args.work / f"{args.name}_{split}.npz", **energies)
    pair = [energies[name] / energies["adsorbates"] for name in ("energy", "label")]
    return {
        "energy_mae": energy_mae(*pair),
        "ewt": energy_within_threshold(*pair),
        **{key: positions[key] for key in ("adwt", "copy_adwt") if key in positions},
    }


def one(row: str, seed: int, args: argparse.Namespace) -> None:
    """Train and score one row with one seed."""
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
        "epochs": args.epochs,
        "learning_rate": schedule["learning_rate"],
        "parameters": count_parameters(model),
        "train_seconds": seconds,
    }
    for split in splits_in(args.data):
        result[split] = score(model, config, split, args)
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
    return words_of_one(row, seed, name, **words)


def run_search(args: argparse.Namespace) -> dict:
    """Try the learning rates with every row."""
    commands = {}
    for row in args.rows:
        for rate in RATES:
            name = search_name(row, rate)
            commands[name] = command(row, 0, name, args, rate=rate)
    run_all(commands, args.work, args.jobs, "benchmarks.is2re")
    return gather_search(
        [args.peers, args.work],
        f"python -m benchmarks.is2re --data DATA --peers PEERS --search --epochs "
        f"{args.epochs} --jobs {args.jobs}",
        note=f"After {args.epochs} epochs, one seed.",
    )


def gather_search(folders: list[Path | None], command: str, note: str) -> dict:
    """Return the mean energy MAE on val_id of each row and learning rate.

    ``folders`` are those of the peers, if there is one, and of our rows.
    """
    rows = []
    for folder, names in zip(folders, (PEERS, ROWS)):
        for row in names if folder is not None else ():
            if means := searched_rates(folder, row):
                shown = {f"{rate:g}": round(error, 4) for rate, error in means.items()}
                rows.append({"name": row, "val_id MAE [eV] at rate": shown})
    return result_of(command, note=note, rows=rows)


def run_rows(args: argparse.Namespace, rows: Iterable[str], seeds: list[int]) -> None:
    """Run what is missing of some rows."""
    commands = {}
    for seed in seeds:
        for row in rows:
            name = file_name(row, seed)
            commands[name] = command(row, seed, name, args)
    run_all(commands, args.work, args.jobs, "benchmarks.is2re")


def summary(row: str, seeds: list[dict]) -> dict:
    """Return the table row of a row's seeds."""
    splits = [split for split in SPLITS if split in seeds[0]]
    keys = [key for key in ("energy_mae", "ewt", "adwt") if key in seeds[0][splits[0]]]
    scores = {
        split: {key: values_of(seeds, split, key) for key in keys} for split in splits
    }
    scores["mean"] = {
        key: [
            round(sum(seed[split][key] for split in splits) / len(splits), 4)
            for seed in seeds
        ]
        for key in keys
    }
    result = {"name": row, "parameters": seeds[0]["parameters"]}
    if seeds[0].get("learning_rate"):
        result["learning_rate"] = seeds[0]["learning_rate"]
        result["train_minutes"] = minutes_of(seeds)
    return {**result, **scores}


def copy_row(run: dict) -> dict:
    """Return the table row of the input's positions, from a run that scored them."""
    splits = [split for split in SPLITS if split in run]
    values = {split: values_of([run], split, "copy_adwt") for split in splits}
    return {"name": COPY, **{split: {"adwt": values[split]} for split in splits}}


def read_rates(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the rates that were measured of the peers and of our rows."""
    rates = {}
    for folder in (args.peers, args.work):
        if folder is not None and (folder / "speed.json").exists():
            rates.update(json.loads((folder / "speed.json").read_text()))
    return rates


def gather_speed(args: argparse.Namespace) -> dict:
    """Return the result of the rates alone."""
    return result_of(
        "python -m benchmarks.is2re --data DATA --peers PEERS --speed",
        note="Medians of twelve batches of 16 structures, no loading.",
        rows=[{"name": row, **rates} for row, rates in read_rates(args).items()],
    )


def gather(args: argparse.Namespace) -> dict:
    """Return the result of the rows that were run, with the seeds that were."""
    rates = read_rates(args)
    rows = [copy_row(*read_runs(args.work, list(ROWS)[-1], args.seeds[:1]))]
    for folder, names in ((args.peers, PEERS), (args.work, ROWS)):
        for row in names if folder is not None else ():
            seeds = [
                s for s in args.seeds if (folder / f"{file_name(row, s)}.json").exists()
            ]
            if seeds:
                found = summary(row, read_runs(folder, row, seeds))
                rows.append({**found, **rates.get(row, {})})
    return result_of(
        "python -m benchmarks.is2re --data DATA --peers PEERS "
        f"--epochs {args.epochs} --seeds {' '.join(map(str, args.seeds))} "
        f"--jobs {args.jobs}",
        epochs=args.epochs,
        rows=rows,
    )


def main() -> None:
    parser = run_parser(__doc__, "output/benchmark_is2re", 5, [*ROWS, *NEW_METALS])
    add = parser.add_argument
    add("--peers", type=Path, help="--work of is2re_peers.py")
    add("--out", type=Path, default=RESULTS)
    add("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    add("--search", action="store_true", help="try the learning rates")
    add("--speed", action="store_true", help="only measure rates")
    add(
        "--read",
        choices=["surface", "adsorbate"],
        default="surface",
        help="atoms that have energies: surface and adsorbate, or the adsorbate alone, "
        "of --one",
    )
    add("--name", help="name of --one")
    add("--rate", type=float, help="learning rate of --one")
    args = parse(parser)
    if args.one:
        one(args.one, args.seed, args)
    elif args.search:
        write(run_search(args), args.out / "is2re_search.yaml")
    elif args.speed:
        (args.work / "speed.json").write_text(json.dumps(speed(args)))
        write(gather_speed(args), args.out / "is2re_speed.yaml")
    else:
        run_rows(args, args.rows, args.seeds)
        write(gather(args), args.out / "is2re.yaml")


if __name__ == "__main__":
    main()
