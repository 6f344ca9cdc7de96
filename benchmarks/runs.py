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


"""What the training benchmarks share: many short runs, each leaving its own file."""

from __future__ import annotations

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
from pathlib import Path


def run_all(
    commands: Mapping[str, Sequence], work: Path, jobs: int, module: str
) -> None:
    """Run what is missing, ``jobs`` processes of one thread each.

    Args:
        commands: Arguments of ``module`` for each run, by the run's name; a run
            leaves ``<name>.json`` in ``work``, and is left out where that exists.
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


def file_name(row: str, seed: int, **more: object) -> str:
    """Return the name of a run's files."""
    extra = "".join(f"_{key}{value}" for key, value in more.items())
    return f"{row.replace(' ', '_').replace(',', '')}{extra}_{seed}"


def loader_of(config: dict, split: str):
    """Return the loader of ``Dataset.val`` for another split."""
    from ppmat.datasets import build_dataloader

    block = config["Dataset"]["val"]
    block["dataset"]["__init_params__"]["split"] = split
    return build_dataloader(block)


def write(result: Mapping, path: Path) -> None:
    """Write a result file."""
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(result, sort_keys=False, allow_unicode=True))
    print(f"wrote {path}")


def machine() -> str:
    """Describe the machine for a result file."""
    return f"{platform.machine()}, {os.cpu_count()} cores, one thread a run"
