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

"""Small sets of real DFT: fine-tuning after pre-training on EMT, and training alone.

For each metal of Xu and Kitchin, that metal is held out to be predicted. Of the records
of the other metals some are drawn, as if a user had no more. ``oc20 split`` holds out
the records of one of their metals to stop early; all rows have the same records, epochs
at most, patience and seeds, and are scored with their best weights. Each row is the
user's command with ``sfin_oc20_finetune.yaml``. The pre-training is one run of
``sfin_oc20_is2re.yaml``, or ``--weights`` of one. Every (row, size, metal, seed) leaves
a file in ``--work``, so a benchmark that was stopped continues.

Usage::

    python -m benchmarks.data.oc20_emt EMT --train 3000 --val 400
    python -m benchmarks.data.xu_kitchin PATH DATA
    python -m benchmarks.finetune --data DATA --emt EMT --jobs 2
    python -m benchmarks.finetune --data DATA --weights best.pdparams --jobs 2
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import count_parameters
from benchmarks.runs import file_name
from benchmarks.runs import loader_of
from benchmarks.runs import parse
from benchmarks.runs import read_runs
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import run_parser
from benchmarks.runs import train_with_command
from benchmarks.runs import words_of_one
from benchmarks.runs import write

FOLDER = ROOT / "property_prediction/configs/sfin"
CONFIG = FOLDER / "sfin_oc20_finetune.yaml"
FIRST_CONFIG = FOLDER / "sfin_oc20_is2re.yaml"
FACTORS = "Optimizer.__init_params__.lr_mult"
RATE = "Optimizer.__init_params__.lr.__init_params__.learning_rate"
SCRATCH = "from scratch"
MEAN = "mean of each adsorbate"
ROWS = {
    SCRATCH: [f"{FACTORS}=null", "Trainer.pretrained_model_path=null"],
    "fine-tuned": [f"{FACTORS}=null"],
    "fine-tuned, backbone x 0.1": [f"{FACTORS}={{backbone: 0.1}}"],
    "fine-tuned, backbone frozen": [f"{FACTORS}={{backbone: 0}}"],
}
PRETRAINING = "pre-training"
# Epochs at most by records: a small set has few steps an epoch.
SIZES = {50: 120, 150: 60, 500: 30}
PATIENCE = 10  # evaluations, one an epoch
SHARE = 0.25  # of the records to stop early, about: one metal of four
SPLITS = {"val_id": "known metals", "val_ood_cat": "unseen metal"}


# One run ------------------------------------------------------------------------------


def pretrain(args: argparse.Namespace) -> None:
    """Train on the EMT set, and leave the averaged weights and ``.json``."""
    folder = args.work / args.name
    model, _, seconds = train_with_command(
        "property_prediction",
        FIRST_CONFIG,
        [
            f"Global.data_root={args.emt}",
            f"Trainer.max_epochs={args.epochs}",
            "Trainer.eval_freq=0",
            "Trainer.best_metric_indicator=null",
            "Global.num_workers=0",
            f"Trainer.output_dir={folder}",
        ],
        folder,
    )
    result = {"parameters": count_parameters(model), "train_seconds": seconds}
    (args.work / f"{args.name}.json").write_text(json.dumps(result))


def own_records(fold: Path, size: int, seed: int, out: Path) -> None:
    """Draw ``size`` records (all, if there are fewer) and split them by metals."""
    from ppmat.commands import oc20
    from ppmat.datasets.oc20_lmdb import OC20LMDB

    drawn = out.with_name("drawn.lmdb")
    count = min(size, len(OC20LMDB(fold / "train")))
    words = [f"--seed={seed}", "--overwrite"]
    subset = ["subset", str(fold / "train"), str(drawn), f"--random={count}", *words]
    split = ["split", str(drawn), str(out), "--by=metals", f"--share={SHARE}", *words]
    for command in (subset, split):
        if status := oc20.main(command):
            raise SystemExit(status)


def first_rate() -> float:
    """Return the learning rate with which the network is trained from scratch."""
    from ppmat.utils.config import load_config

    config = load_config(str(FIRST_CONFIG))
    for key in RATE.split("."):
        config = config[key]
    return config


def one(row: str, seed: int, args: argparse.Namespace) -> None:
    """Train and score one row on the records of one size, fold and seed."""
    from ppmat.metrics.is2re_metric import energy_mae

    fold, folder = args.data / f"metal_{args.metal}", args.work / args.name
    data = folder / "data"
    own_records(fold, args.size, seed, data)
    words = [
        f"Global.data_root={data}",
        "Global.num_workers=0",
        f"Trainer.pretrained_model_path={args.weights}",
        f"Trainer.seed={seed}",
        f"Trainer.max_epochs={args.epochs}",
        f"Trainer.early_stopping_patience={PATIENCE}",
        f"Trainer.output_dir={folder}",
        *ROWS[row],
    ]
    if row == SCRATCH:
        words.append(f"{RATE}={first_rate()}")
    model, config, seconds = train_with_command(
        "property_prediction", CONFIG, words, folder, weights="best.pdparams"
    )
    result = {
        "row": row,
        "seed": seed,
        "records": len(loader_of(config, "train").dataset),
        "stopped_by": len(loader_of(config, "val_id").dataset),
        "train_seconds": seconds,
    }
    config["Dataset"]["val"]["dataset"]["__init_params__"]["path"] = str(fold)
    for split, rows in scored_rows(data, fold).items():
        found = [
            (
                model.predict(batch)["y_relaxed"],
                batch["y_relaxed"].numpy().ravel(),
                batch["structure_array"]["num_adsorbates"].numpy(),
            )
            for batch in loader_of(config, split)
        ]
        energies, labels, count = (np.concatenate(x)[rows] for x in zip(*found))
        result[split] = energy_mae(energies / count, labels / count)
    (args.work / f"{args.name}.json").write_text(json.dumps(result, indent=2))


def scored_rows(data: Path, fold: Path) -> dict[str, np.ndarray]:
    """Return which rows of each split of a fold are scored, a mask.

    Those of ``val_id`` have metals of the training set ``data``, not the one that stops
    the training. Those of ``val_ood_cat`` are all of another metal.
    """
    from ppmat.datasets.oc20_lmdb import OC20LMDB
    from ppmat.datasets.record_groups import metals_of

    known = {metals_of(record) for record in OC20LMDB(data, "train")}
    metals = {split: map(metals_of, OC20LMDB(fold, split)) for split in SPLITS}
    return {
        split: np.array([(metal in known) == (split == "val_id") for metal in found])
        for split, found in metals.items()
    }


def mean_of_each_adsorbate(data: Path, fold: Path) -> dict[str, float]:
    """Return the MAE [eV] of each split if the energy is that of its adsorbate.

    Means are of the energies per adsorbate in ``train`` and ``val_id`` of ``data``, all
    records that a row has seen.
    """
    from ppmat.datasets.oc20_lmdb import OC20LMDB
    from ppmat.datasets.record_checks import num_adsorbates
    from ppmat.datasets.record_groups import adsorbate_of

    energies: dict[str, list[float]] = {}
    for record in (r for split in ("train", "val_id") for r in OC20LMDB(data, split)):
        energy = record.y_relaxed / num_adsorbates(record)
        energies.setdefault(adsorbate_of(record), []).append(energy)
    means = {name: statistics.mean(values) for name, values in energies.items()}
    overall = statistics.mean(means.values())  # for an adsorbate that was not drawn

    def error(record) -> float:
        energy = record.y_relaxed / num_adsorbates(record)
        return abs(means.get(adsorbate_of(record), overall) - energy)

    return {
        split: statistics.mean(map(error, OC20LMDB(fold, split)[rows]))
        for split, rows in scored_rows(data, fold).items()
    }


# All runs -----------------------------------------------------------------------------


def folds_of(data: Path) -> list[str]:
    """Return the metals that have a fold.

    Raises:
        SystemExit: There are none.
    """
    found = sorted(path.name.removeprefix("metal_") for path in data.glob("metal_*"))
    if not found:
        raise SystemExit(f"{data}: no folder metal_*; see benchmarks.data.xu_kitchin")
    return found


def run_name(row: str, seed: int, size: int, metal: str) -> str:
    """Return the name of a run's files."""
    return file_name(row, seed, size=size, metal=metal)


def run_rows(args: argparse.Namespace) -> None:
    """Run what is missing: the pre-training, then all rows."""
    shared = {"data": args.data, "work": args.work}
    module = "benchmarks.finetune"
    if args.weights is None:
        name = "pretrained"
        more = {**shared, "emt": args.emt, "epochs": args.epochs}
        words = words_of_one(PRETRAINING, 0, name, **more)
        run_all({name: words}, args.work, 1, module)
        args.weights = args.work / name / "checkpoints/latest_ema.pdparams"
    commands = {}
    for size in args.sizes:
        for seed in args.seeds:
            for metal in args.metals:
                for row in ROWS:
                    name = run_name(row, seed, size, metal)
                    more = {"size": size, "metal": metal, "weights": args.weights}
                    epochs = args.most_epochs or SIZES[size]
                    commands[name] = words_of_one(
                        row, seed, name, **shared, **more, epochs=epochs
                    )
    run_all(commands, args.work, args.jobs, module)


def found_runs(row: str, size: int, metal: str, args: argparse.Namespace) -> list:
    """Return the scores of all seeds; the mean of each adsorbate is computed here."""
    if row != MEAN:
        return read_runs(args.work, row, args.seeds, size=size, metal=metal)
    folders = (args.work / run_name(SCRATCH, seed, size, metal) for seed in args.seeds)
    fold = args.data / f"metal_{metal}"
    return [mean_of_each_adsorbate(folder / "data", fold) for folder in folders]


def gather(args: argparse.Namespace) -> tuple[dict, dict]:
    """Return the learning curve, and its last points metal by metal."""
    scores = {
        (row, size, metal): found_runs(row, size, metal, args)
        for row in (MEAN, *ROWS)
        for size in args.sizes
        for metal in args.metals
    }

    def over_metals(row: str, size: int, split: str) -> list[float]:
        """Return the mean over the metals, one number a seed."""
        seeds = zip(*(scores[row, size, metal] for metal in args.metals))
        means = (statistics.mean(run[split] for run in runs) for runs in seeds)
        return [round(mean, 4) for mean in means]

    curve = [
        {
            "name": row,
            **{
                f"{size} records": {
                    title: over_metals(row, size, split)
                    for split, title in SPLITS.items()
                }
                for size in args.sizes
            },
        }
        for row in (MEAN, *ROWS)
    ]
    by_metal = [
        {
            "name": f"{metal}, {size} records",
            **{
                row: [round(run["val_ood_cat"], 4) for run in scores[row, size, metal]]
                for row in (MEAN, *ROWS)
            },
        }
        for metal in args.metals
        for size in args.sizes
    ]
    return result(curve, args, note_of(scores, args)), result(
        by_metal,
        args,
        "Energy MAE [eV] per adsorbate, of a metal that is neither in training nor in "
        "validation.",
    )


def note_of(scores: Mapping, args: argparse.Namespace) -> str:
    """Return what the numbers of the learning curve are."""
    largest = max(args.sizes)
    runs = [run for m in args.metals for run in scores[SCRATCH, largest, m]]
    sizes = [run["records"] + run["stopped_by"] for run in runs]
    epochs = ", ".join(f"{args.most_epochs or SIZES[n]} for {n}" for n in args.sizes)
    return (
        "Energy MAE [eV] per adsorbate, mean over the metals held out. Records are "
        f"those of training and of the metal that stops it; {largest} means all of a "
        f"fold if it has fewer ({min(sizes)} to {max(sizes)} used). Epochs at most: "
        f"{epochs}; stopped after {PATIENCE} without a better error."
    )


def result(rows: list, args: argparse.Namespace, note: str) -> dict:
    """Return a result file of rows."""
    words = ["--weights WEIGHTS"]
    if args.emt is not None:
        words = [f"--emt EMT --epochs {args.epochs}"]
    for key in ("sizes", "metals", "seeds"):
        words.append(f"--{key} {' '.join(map(str, getattr(args, key)))}")
    if args.most_epochs:
        words.append(f"--most_epochs {args.most_epochs}")
    text = f"python -m benchmarks.finetune --data DATA {' '.join(words)}"
    return result_of(f"{text} --jobs {args.jobs}", note=note, rows=rows)


def main() -> None:
    rows = [PRETRAINING, *ROWS]
    parser = run_parser(__doc__, "output/benchmark_finetune", 8, rows)
    add = parser.add_argument
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--emt", type=lambda path: Path(path).resolve(),
        help="EMT set; --epochs are those of its training")  # fmt: skip
    start.add_argument("--weights", type=lambda path: Path(path).resolve(),
        help="weights of sfin_oc20_is2re.yaml, instead of --emt")  # fmt: skip
    add("--sizes", type=int, nargs="+", choices=list(SIZES), default=list(SIZES))
    add("--metals", nargs="+", help="folds; all if not given")
    add("--most_epochs", type=int, help="epochs at most of all sizes")
    add("--out", type=Path, default=RESULTS)
    add("--name", help="name of --one")
    add("--size", type=int, help="records of --one")
    add("--metal", help="fold of --one")
    args = parse(parser)
    if args.one == PRETRAINING:
        pretrain(args)
    elif args.one:
        one(args.one, args.seed, args)
    else:
        if args.emt is None and args.weights is None:
            parser.error("give --emt or --weights")
        args.metals = args.metals or folds_of(args.data)
        run_rows(args)
        curve, by_metal = gather(args)
        write(curve, args.out / "finetune.yaml")
        write(by_metal, args.out / "finetune_metals.yaml")


if __name__ == "__main__":
    main()
