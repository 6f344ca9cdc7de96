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

"""What the benchmarks share: options, runs in processes of their own, result files.

A training benchmark makes many short runs, one for each row of its table and each seed.
Every run is a process that leaves ``<name>.json`` in the folder ``--work``, so a
benchmark can be stopped and continued; its last step collects these files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
IMAGES = ROOT / "docs/images"
SPLITS = ["val_id", "val_ood_ads", "val_ood_cat"]  # validation splits of OC20
WARMUP = 0.05  # share of the steps in which the learning rate rises


# Options -----------------------------------------------------------------------------


def run_parser(
    description: str, work: str, epochs: int, rows: Iterable[str]
) -> argparse.ArgumentParser:
    """Return a parser with the options of a training benchmark.

    Args:
        description: Docstring of the benchmark; its first line is shown.
        work: Default of ``--work``.
        epochs: Default of ``--epochs``.
        rows: Names of the rows, of which ``--one`` takes one.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, type=lambda path: Path(path).resolve())
    add("--epochs", type=int, default=epochs)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--jobs", type=int, default=1, help="processes at a time")
    add("--work", type=Path, default=Path(work), help="files of the runs")
    add("--one", choices=list(rows), help="one run (used by the benchmark itself)")
    add("--seed", type=int, default=0, help="seed of --one")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options; create the folder ``--work``, and set one thread a run."""
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return args


# Runs --------------------------------------------------------------------------------


def file_name(row: str, seed: int, **more: object) -> str:
    """Return the name of a run's files."""
    extra = "".join(f"_{key}{value}" for key, value in more.items())
    return f"{row.replace(' ', '_').replace(',', '')}{extra}_{seed}"


def search_name(row: str, rate: float) -> str:
    """Return the name of the files of a run that tries a learning rate."""
    return f"search_{file_name(row, 0, lr=rate)}"


def searched_rates(work: Path, row: str) -> dict[float, float]:
    """Return the mean energy MAE on val_id of each learning rate that was tried.

    Args:
        work: The files of the search are in this folder and those below it.
        row: The row.
    """
    errors: dict[float, list[float]] = {}
    for path in work.rglob("search_*.json"):
        found = json.loads(path.read_text())
        if found["row"] == row:
            error = found["val_id"]["energy_mae"]
            errors.setdefault(found["learning_rate"], []).append(error)
    return {rate: statistics.mean(errors[rate]) for rate in sorted(errors)}


def best_rate(work: Path, row: str) -> float | None:
    """Return the best of :func:`searched_rates`; None if no rates were tried."""
    means = searched_rates(work, row)
    return min(means, key=means.get) if means else None


def words_of_one(row: str, seed: int, name: str, **options: object) -> list:
    """Return the arguments with which a benchmark makes one run, ``--one``.

    Args:
        row: The row.
        seed: Its seed.
        name: Name of the run's files.
        options: Options of the benchmark; those that are None are left out.
    """
    given = {key: value for key, value in options.items() if value is not None}
    flags = [part for key, value in given.items() for part in (f"--{key}", value)]
    return [*flags, "--one", row, "--seed", seed, "--name", name]


def splits_in(data: Path) -> list[str]:
    """Return the validation splits that a folder of data has."""
    return [split for split in SPLITS if (data / split).exists()]


def run_all(
    commands: Mapping[str, Sequence], work: Path, jobs: int, module: str
) -> None:
    """Run what is missing, ``jobs`` processes of one thread each.

    Args:
        commands: Arguments of ``module`` for each run, by the run's name. A run leaves
            ``<name>.json`` in ``work``, and is not repeated where that exists.
        work: Folder of results and logs.
        jobs: Processes at a time.
        module: Name of the benchmark's module.

    Raises:
        SystemExit: A run failed; the others are done.
    """
    missing = [name for name in commands if not (work / f"{name}.json").exists()]
    running: dict[str, subprocess.Popen] = {}
    failed = []
    while missing or running:
        while missing and len(running) < jobs:
            name = missing.pop(0)
            with open(work / f"{name}.log", "w") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, "-m", module, *map(str, commands[name])],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        time.sleep(1)
        for name in [n for n, p in running.items() if p.poll() is not None]:
            if running.pop(name).returncode:
                failed.append(name)
    if failed:
        raise SystemExit(f"failed, see the logs in {work}: {', '.join(failed)}")


def run_one(module: str, *words: object, python: str = "", **variables: str) -> dict:
    """Run a benchmark's module in a process; returns the JSON of its last line.

    Args:
        module: Name of the module.
        words: Its arguments.
        python: Another interpreter, in which this project is not installed.
        variables: Environment variables; ``OMP_NUM_THREADS`` is 1 if not among them.

    Raises:
        SystemExit: The process failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    if python:
        environment.pop("PYTHONPATH", None)
    command = [python or sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    result = json.loads(done.stdout.splitlines()[-1])
    print(*words, result, flush=True)
    return result


def train_with_command(
    task: str,
    config: Path,
    overrides: Sequence[str],
    output: Path,
    weights: str = "latest_ema.pdparams",
) -> tuple[Any, dict, float]:
    """Train a configuration through the command of a task folder.

    Args:
        task: The task folder.
        config: The YAML file.
        overrides: Changes, ``KEY=VALUE``.
        output: ``Trainer.output_dir`` among them.
        weights: File of the weights, the average after the last step or the best.

    Returns:
        The model with these weights, the merged configuration, and seconds.

    Raises:
        SystemExit: The training failed.
    """
    from ppmat.commands.train import main
    from ppmat.models import build_model
    from ppmat.utils import save_load
    from ppmat.utils.config import load_config

    start = time.perf_counter()
    status = main(str(ROOT / task), ["-c", str(config), "--overwrite", *overrides])
    if status:
        raise SystemExit(status)
    seconds = time.perf_counter() - start
    merged = load_config(str(output / config.name))
    model = build_model(merged["Model"])
    save_load.load_pretrain(model, str(output / "checkpoints"), weights)
    model.eval()
    return model, merged, round(seconds, 1)


def count_parameters(model: Any) -> int:
    """Return how many numbers the parameters of a model hold."""
    return int(sum(p.size for p in model.parameters()))


def loader_of(config: dict, split: str):
    """Return the loader of ``Dataset.val`` for another split."""
    from ppmat.datasets import build_dataloader

    block = config["Dataset"]["val"]
    block["dataset"]["__init_params__"]["split"] = split
    return build_dataloader(block)


def tensors_of(batch: Any) -> Any:
    """Return a collated batch with tensors in place of arrays."""
    import numpy as np
    import paddle

    if isinstance(batch, dict):
        return {key: tensors_of(value) for key, value in batch.items()}
    return paddle.to_tensor(batch) if isinstance(batch, np.ndarray) else batch


# Rates -------------------------------------------------------------------------------


def median_rate(step: Callable, batches: Iterable[Mapping]) -> float:
    """Return the median number of structures/s of a step, after one to warm up."""
    import paddle

    batches = list(batches)
    step(batches[0])
    rates = []
    for batch in batches * 2:
        start = time.perf_counter()
        step(batch)
        if paddle.get_device() != "cpu":
            paddle.device.synchronize()
        rates.append(len(batch["id"]) / (time.perf_counter() - start))
    return round(statistics.median(rates), 1)


def measure_rates(
    config: dict, name: str, apply: Callable[[Any, dict], object]
) -> dict[str, float]:
    """Return median structures/s of training steps and of prediction, without loading.

    Args:
        config: All sections.
        name: Name of the prediction in the result.
        apply: The prediction, called with model and batch.
    """
    from ppmat.models import build_model
    from ppmat.optimizer import build_optimizer

    model = build_model(config["Model"])
    if hasattr(model, "num_batches"):
        model.num_batches = 100  # over which weights of the loss change
    optimizer, _ = build_optimizer(config["Optimizer"], model, 1, 100)
    batches = [batch for _, batch in zip(range(6), loader_of(config, "val_id"))]

    def train(batch: dict) -> None:
        model.train()
        model(batch)["loss_dict"]["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()

    def predict(batch: dict) -> None:
        model.eval()
        apply(model, batch)

    return {
        f"{key}_structures_per_s": median_rate(step, batches)
        for key, step in (("train", train), (name, predict))
    }


# Results -----------------------------------------------------------------------------


def read_runs(folder: Path, row: str, seeds: Iterable[int], **more: object) -> list:
    """Return the contents of the files that the runs of a row left, one for each seed.

    Args:
        folder: Folder ``--work``.
        row: The row.
        seeds: Its seeds.
        more: As in :func:`file_name`.
    """
    paths = [folder / f"{file_name(row, seed, **more)}.json" for seed in seeds]
    return [json.loads(path.read_text()) for path in paths]


def values_of(runs: Sequence[Mapping], *keys: str, digits: int = 4) -> list[float]:
    """Return one value of each run, rounded; ``keys`` lead to it."""
    result = []
    for run in runs:
        value: Any = run
        for key in keys:
            value = value[key]
        result.append(round(value, digits))
    return result


def minutes_of(runs: Sequence[Mapping]) -> list[float]:
    """Return the minutes of training of each run."""
    return [round(run["train_seconds"] / 60, 1) for run in runs]


def result_of(command: str, machine_text: str = "", **more: Any) -> dict:
    """Return a result: the command, the machine, the date, then ``more``.

    Args:
        command: The command that makes it.
        machine_text: Description of the machine, if it is not :func:`machine`.
        more: Other keys, in the order of the file, with the list ``rows``.
    """
    where = machine_text or machine()
    today = str(date.today())
    return {"command": command, "machine": where, "date": today, **more}


def write(result: Mapping, path: Path) -> None:
    """Write a result file."""
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(result, sort_keys=False, allow_unicode=True))
    print(f"wrote {path}")


def new_figure(*args: int, **options: Any) -> tuple[Any, Any]:
    """Return ``pyplot.subplots(*args, **options)``, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(*args, **options)


def machine() -> str:
    """Return a description of the machine for a result file."""
    return f"{platform.machine()}, {os.cpu_count()} cores, one thread a run"
