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

"""Interatomic potentials on published DFT data: SFIN with and without frequency half.

The sets are those of ``real_potentials.py``: bulk, surfaces and defects of Cu, Mo and
Si, a molecule, and dimers of molecules whose test is at larger distances than the
training. Each run is the user's command with ``sfin_potential.yaml``; the weights that
are best on ``val`` are scored on ``test``. Molecules without a cell have only the
spatial half, as their box would be artificial. Every (set, row, seed) leaves a file in
``--work``, so a benchmark that was stopped continues. ``potential_peers.py`` trains
PaiNN on the same frames.

Usage::

    python -m benchmarks.data.real_potentials PATH DATA
    python -m benchmarks.potentials --data DATA --jobs 2
    python -m benchmarks.potentials --data DATA --gather --peers WORK_OF_THE_PEERS
    python -m benchmarks.potentials --data DATA --sets acac --epochs 12 --rows \
        "SFIN, spatial half only" "SFIN, tensors=0" ... --result potential_network.yaml
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from benchmarks.potential_peers import BATCH
from benchmarks.potential_peers import ENERGY_WEIGHT
from benchmarks.potential_peers import EPOCHS
from benchmarks.potential_peers import ROWS as PEERS
from benchmarks.potential_peers import evaluation_epochs
from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import count_parameters
from benchmarks.runs import file_name
from benchmarks.runs import minutes_of
from benchmarks.runs import parse
from benchmarks.runs import read_runs
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import run_parser
from benchmarks.runs import train_with_command
from benchmarks.runs import values_of
from benchmarks.runs import words_of_one
from benchmarks.runs import write

CONFIG = ROOT / "interatomic_potentials/configs/sfin/sfin_potential.yaml"
MODEL = "Model.__init_params__"
RESULT = "potentials.yaml"
FULL, SPATIAL, EQUAL = "SFIN", "SFIN, spatial half only", "SFIN, equal halves"
ROWS = {
    FULL: [],
    SPATIAL: [f"{MODEL}.backbone_cfg.halves=spatial"],
    EQUAL: [f"{MODEL}.backbone_cfg.frequency_ratio=1"],  # for what is far apart
}
MAIN = list(ROWS)
OPTIONS = ["vector_messages=0", "products=false", "tensors=0"]
ABLATED = {f"SFIN, {o}": [f"{MODEL}.backbone_cfg.{o}"] for o in OPTIONS}
ABLATED["SFIN, none of the three"] = [
    words for row in ABLATED.values() for words in row
]
ROWS.update(ABLATED)
WITHOUT_CELL = ("acac",)
# The dimers are in a box of 30 Å, with 78 pairs of wave vectors below 0.7 1/Å. The 228
# below 1.0 1/Å resolve the ions as well as their distance.
WAVES = 1.0
DIMERS = [
    f"Global.graph.__init_params__.k_cut={WAVES}",
    f"{MODEL}.backbone_cfg.k_cut={WAVES}",
]
WORDS = {name: DIMERS if name.startswith("lode") else [] for name in EPOCHS}
WORDS |= {name: ROWS[SPATIAL] for name in WITHOUT_CELL}


def rows_of(name: str) -> list[str]:
    """Return the rows of a set."""
    if name in WITHOUT_CELL:
        return [SPATIAL, *ABLATED]
    both = [FULL, SPATIAL, *ABLATED]
    return [*both, EQUAL] if name.startswith("lode") else both


def score_test(model: Any, config: dict) -> dict[str, float]:
    """Return the errors of a potential on the test frames of a configuration."""
    from ppmat.datasets import build_dataloader
    from ppmat.metrics.potential_metric import PotentialMetric

    metric = PotentialMetric()
    for batch in build_dataloader(config["Dataset"]["test"]):
        metric.update_step(result=model(batch), batch=batch, stage="test")
    return metric.compute_epoch(stage="test")


def one(row: str, seed: int, args: argparse.Namespace) -> None:
    """Train one row on one set, and score it on the test frames."""
    folder = args.work / args.name
    words = [
        f"Global.data_root={args.data / args.set}",
        "Global.label_names=[energy,forces]",
        "Global.num_workers=0",
        f"Global.batch_size={BATCH}",
        f"{MODEL}.energy_weight=[{ENERGY_WEIGHT[0]},{ENERGY_WEIGHT[1]}]",
        f"{MODEL}.stress_weight=[0,0]",
        f"Trainer.seed={seed}",
        f"Trainer.max_epochs={args.epochs}",
        f"Trainer.eval_freq={evaluation_epochs(args.epochs)}",
        f"Trainer.output_dir={folder}",
        *ROWS[row],
        *WORDS[args.set],
    ]
    model, config, seconds = train_with_command(
        "interatomic_potentials", CONFIG, words, folder, weights="best.pdparams"
    )
    result = {
        "set": args.set,
        "row": row,
        "seed": seed,
        "parameters": count_parameters(model),
        "train_seconds": seconds,
        "epochs": args.epochs,
        "test": score_test(model, config),
    }
    (args.work / f"{args.name}.json").write_text(json.dumps(result, indent=2))


def run_rows(args: argparse.Namespace) -> None:
    """Run what is missing."""
    commands = {}
    for name in args.sets:
        for seed in args.seeds:
            for row in rows_of(name):
                if row not in args.rows:
                    continue
                epochs = args.epochs or EPOCHS[name]
                run = file_name(row, seed, set=name, epochs=epochs)
                more = {"data": args.data, "work": args.work, "set": name}
                commands[run] = words_of_one(row, seed, run, **more, epochs=epochs)
    run_all(commands, args.work, args.jobs, "benchmarks.potentials")


def gather(args: argparse.Namespace) -> dict:
    """Return the errors on the test frames of what was run, one number a seed."""
    rows = []
    for name in args.sets:
        more = {"set": name, "epochs": args.epochs or EPOCHS[name]}
        wanted = [(args.work, row) for row in rows_of(name) if row in args.rows]
        wanted += [(args.peers, row) for row in PEERS if args.peers]
        for folder, row in wanted:
            seeds = [
                seed
                for seed in args.seeds
                if (folder / f"{file_name(row, seed, **more)}.json").exists()
            ]
            if seeds:
                runs = read_runs(folder, row, seeds, **more)
                rows.append({"name": f"{name}, {row}", **figures_of(runs)})
    words = ["--sets", *args.sets, "--seeds", *map(str, args.seeds)]
    words += ["--rows", *args.rows] if args.rows != MAIN else []
    words += ["--epochs", str(args.epochs)] if args.epochs else []
    words += ["--peers", "PEERS"] if args.peers else []
    words += ["--result", args.result] if args.result != RESULT else []
    return result_of(
        f"python -m benchmarks.potentials --data DATA {shlex.join(words)}",
        note="Errors on the test frames, one number a seed. mlearn: Zuo et al., J. "
        "Phys. Chem. A 2020, published split. acac: acetylacetone at 300 K, BOTNet "
        "data set. lode: dimers of molecules, the three largest of 13 distances. One "
        "training frame in ten stops the training and is not trained on.",
        rows=rows,
    )


def figures_of(runs: list[dict]) -> dict:
    """Return the figures of a row, those of each run in a list."""
    scores = [run["test"] for run in runs]
    energy = [{"value": 1000 * score["energy_mae"]} for score in scores]
    force = [{"value": 1000 * score["forces_rmse"]} for score in scores]
    return {
        "parameters": runs[0]["parameters"],
        "epochs": runs[0]["epochs"],
        "minutes": minutes_of(runs),
        "energy MAE [meV/atom]": values_of(energy, "value", digits=3),
        "force MAE [eV/Å]": values_of(scores, "forces_mae"),
        "force RMSE [meV/Å]": values_of(force, "value", digits=2),
    }


def main() -> None:
    parser = run_parser(__doc__, "output/benchmark_potentials", None, ROWS)
    add = parser.add_argument
    add("--sets", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    add("--rows", nargs="+", choices=list(ROWS), default=MAIN)
    add("--gather", action="store_true", help="only collect the runs that are there")
    add("--peers", type=Path, help="--work of potential_peers.py, for --gather")
    add("--out", type=Path, default=RESULTS)
    add("--result", default=RESULT, help="name of the file in --out")
    add("--name", help="name of --one")
    add("--set", choices=list(EPOCHS), help="set of --one")
    args = parse(parser)
    if args.one:
        one(args.one, args.seed, args)
        return
    if not args.gather:
        run_rows(args)
    write(gather(args), args.out / args.result)


if __name__ == "__main__":
    main()
