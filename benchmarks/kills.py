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

"""Trainings that are killed again and again, and what the last process leaves.

A training that is killed with SIGKILL and continued from its newest checkpoint must end
with the checkpoints and the ``metrics.csv`` of one that was never killed.

Example, for a run of two epochs that is killed three times::

    python -m benchmarks.kills --kills 3 --work output/kills -- \\
      structure_generation/train.py -c configs/sfin/oc20_smoke.yaml
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import ROOT
from ppmat.trainer.run_folder import newest_checkpoint
from ppmat.utils import save_load

# Depends on other layers of the process; loading translates it.
_NAME_TABLE = "StructuredToParameterName@@"
_TIMES = ("reader_cost", "batch_cost", "samples_per_s")
_STARTED = "trainable parameters"  # in the line before the first step


def train_with_kills(
    command: Sequence[str], output: Path, delays: Sequence[float]
) -> Iterator[str | None]:
    """Train to the end although the process is killed; yields once for each kill.

    Args:
        command: Script of a training command with its arguments.
        output: Folder of the run, new.
        delays: Seconds between the start of the loop and SIGKILL, one for each process
            that is killed. A process that ends earlier is the last one.

    Yields:
        The newest checkpoint at the time of the kill; None if there was none.

    Raises:
        subprocess.CalledProcessError: A process failed by itself.
    """
    words = [sys.executable, "-W", "ignore", *command, f"Trainer.output_dir={output}"]
    for delay in [*delays, None]:
        process = subprocess.Popen(
            [*words, "--resume"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        if delay is not None:
            _wait_for_the_loop(process)
            time.sleep(delay)
            process.kill()
        process.communicate()
        if process.returncode == 0:
            return
        if process.returncode != -9:
            raise subprocess.CalledProcessError(process.returncode, words)
        yield newest_checkpoint(output)


def _wait_for_the_loop(process: subprocess.Popen) -> None:
    for line in process.stdout:
        if _STARTED in line:
            return


def differences(output: Path, reference: Path) -> list[str]:
    """Return what differs between the final files of two runs, bit for bit.

    All checkpoints, and ``metrics.csv`` without its times, are compared. An empty list
    means that the runs are equal.
    """
    found = []
    for path in sorted((reference / "checkpoints").glob("*.pd*")):
        if not (output / "checkpoints" / path.name).exists():
            found.append(f"{path.name} is missing")
            continue
        mine = dict(_leaves(save_load.load_file(output / "checkpoints" / path.name)))
        other = dict(_leaves(save_load.load_file(path)))
        keys = {**mine, **other}
        found += [
            f"{path.name}{key}"
            for key in keys
            if key not in mine or key not in other or not _equal(mine[key], other[key])
        ]
    if _rows(output) != _rows(reference):
        found.append("metrics.csv")
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested containers with their places."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield path, value
        return
    for key, item in items:
        if key not in (_NAME_TABLE, *_TIMES):
            yield from _leaves(item, f"{path}/{key}")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _rows(output: Path) -> list[dict[str, str]]:
    with open(output / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]


def chains(
    command: Sequence[str],
    work: Path,
    *,
    kills: int = 60,
    chain: int = 6,
    longest: float = 1.0,
    seed: int = 0,
) -> Iterator[tuple[int, list[str]]]:
    """Yield for each chain its number of kills, and what differs at its end.

    Args:
        command: Script of a training command with its arguments.
        work: Folder of the runs; chains that are done are not run again.
        kills: Kills in all.
        chain: Kills of one training.
        longest: Seconds to a kill, at most.
        seed: Of the times.
    """
    work = work.resolve()
    whole, draw = work / "whole", random.Random(seed)
    if not (work / "whole.done").exists():
        list(train_with_kills(command, whole, []))
        (work / "whole.done").touch()
    for number in range(-(-kills // chain)):
        count = min(chain, kills - number * chain)
        delays = [draw.uniform(0, longest) for _ in range(count)]
        output, done = work / f"chain_{number}", work / f"chain_{number}.json"
        if not done.exists():
            shutil.rmtree(output, ignore_errors=True)
            places = list(train_with_kills(command, output, delays))
            result = [len(places), differences(output, whole)]
            done.write_text(json.dumps(result))
        yield tuple(json.loads(done.read_text()))


def main() -> int:
    """Run the example; returns 1 if a chain ended with other files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--chain", type=int, default=6, help="kills of one training")
    parser.add_argument("--longest", type=float, default=1, help="seconds to a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("output/kills"))
    parser.add_argument("command", nargs="+", help="script and arguments")
    options = vars(parser.parse_args())
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wrong = 0
    for done, changed in chains(options.pop("command"), options.pop("work"), **options):
        print(f"{done} kills, different: {changed}", flush=True)
        wrong += bool(changed)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
