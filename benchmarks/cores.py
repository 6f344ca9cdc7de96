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


"""How fast the structure commands use two cores: threads against processes.

- ``threads``: one process with as many threads as cores, the default before;
- ``one thread``: one process, one thread;
- ``processes``: ``--processes auto``, one thread each, the default now.

Training is timed by the command's own ``samples_per_s``, of which the first line of a
run is left out; prediction and sampling by the seconds of the whole command for the 240
structures of the sample's training split. The settings alternate ``--repeats`` times,
and each figure is a median. Result: ``docs/results/cores.yaml``::

    python -m benchmarks.cores
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import result_of
from benchmarks.runs import write
from ppmat.utils.cores import available_cores

SETTINGS = {
    "threads": (available_cores(), 1),
    "one thread": (1, 1),
    "processes": (1, "auto"),
}
# Task folder and configuration of each model.
MODELS = {
    "SFINFlow, oc20.yaml": ("structure_generation", "oc20.yaml"),
    "SFINEnergy, sfin_oc20_is2re.yaml": ("property_prediction", "sfin_oc20_is2re.yaml"),
}
STEPS = 45  # three epochs of the sample


def command(setting: str, script: str, *words: object) -> float:
    """Run a command of the tree with a setting; returns its seconds."""
    threads, processes = SETTINGS[setting]
    words = [f"--processes={processes}", *map(str, words)]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / script, *words],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def training(setting: str, task: str, config: str, folder: Path) -> float:
    """Train some steps; returns the median structures/s of the log lines."""
    words = [f"Trainer.output_dir={folder}", f"Trainer.max_iter={STEPS}"]
    words += ["Trainer.eval_freq=0", "Trainer.log_freq=5"]
    command(setting, f"{task}/train.py", "-c", f"configs/sfin/{config}", *words)
    with open(folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "train(step)"]
    return statistics.median(float(row["samples_per_s"]) for row in rows[1:])


def use(setting: str, task: str, config: str, trained: Path, folder: Path) -> float:
    """Predict or sample a split with a trained model; returns seconds."""
    words = ["-c", f"configs/sfin/{config}", "--split", "train", "--save_path", folder]
    words += ["--checkpoint_path"]
    words += [trained / "checkpoints/latest.pdparams"]
    if task == "property_prediction":
        return command(setting, f"{task}/predict.py", *words)
    return command(setting, f"{task}/sample.py", "--mode=by_dataloader", *words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    found: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            for name, (task, config) in MODELS.items():
                for setting in SETTINGS:
                    place = Path(folder) / f"{task} {setting} {repeat}".replace(
                        " ", "_"
                    )
                    rate = training(setting, task, config, place)
                    seconds = use(setting, task, config, place, place / "used")
                    found.setdefault((name, setting, "training"), []).append(rate)
                    found.setdefault((name, setting, "use"), []).append(seconds)
                    print(name, setting, round(rate, 1), round(seconds, 1), flush=True)
    rows = []
    for name in MODELS:
        middle = {
            (setting, what): statistics.median(found[name, setting, what])
            for setting in SETTINGS
            for what in ("training", "use")
        }
        for setting in SETTINGS:
            rate = middle[setting, "training"]
            rows.append({
                "model": name,
                "cores as": setting,
                "training [structures/s]": round(rate, 1),
                "to threads": round(rate / middle["threads", "training"], 2),
                "240 structures [s]": round(middle[setting, "use"], 1),
            })  # fmt: skip
    note = f"Medians of {args.repeats} alternating runs, nothing else on the machine."
    where = f"{platform.machine()}, {available_cores()} cores"
    result = result_of("python -m benchmarks.cores", where, note=note, rows=rows)
    write(result, RESULTS / "cores.yaml")


if __name__ == "__main__":
    main()
