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

"""What the generators of data sets share: options, processes, statistics files."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ppmat.utils.errors import InputError
from ppmat.utils.files import replacing

SPLIT_SID = 10_000_000  # sid = number of the split times this, plus the row


def add_options(parser: argparse.ArgumentParser, train: int, val: int) -> None:
    """Add the options of every generator; ``train`` and ``val`` are the defaults."""
    add = parser.add_argument
    add("out", type=Path, help="output folder")
    add("--train", type=int, default=train, help="training records")
    add("--val", type=int, default=val, help="records a validation split")
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=1, help="processes")


def check_options(args: argparse.Namespace, **least: int) -> None:
    """Raise ``InputError`` if an option is below its smallest legal value.

    Args:
        args: Options of :func:`add_options` and more.
        **least: Smallest legal value of further options, by name.
    """
    for name, bound in {"train": 1, "val": 1, "seed": 0, "jobs": 1, **least}.items():
        if getattr(args, name) < bound:
            option = name.replace("_", "-")
            raise InputError(
                f"--{option} is {getattr(args, name)}", wanted=f"at least {bound}"
            )


@contextlib.contextmanager
def mapping_in(
    jobs: int, start: Callable | None = None, arguments: tuple = ()
) -> Iterator[Callable]:
    """Give a function like ``map`` that works in several processes.

    Args:
        jobs: Number of processes; 1 works in this one. Results keep their order.
        start: Called once in each process before its first task.
        arguments: Its arguments.
    """
    if jobs == 1:
        if start is not None:
            start(*arguments)
        yield map
        return
    # "spawn" is the same on every platform, and no library state is inherited.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, start, arguments) as pool:
        yield pool.imap


@contextlib.contextmanager
def reporting(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the program with one line for wrong input, full disks and Ctrl-C."""
    try:
        yield
    except (InputError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: stopped; the same command continues\n")


def spread(values: np.ndarray) -> list[float]:
    """Return mean, standard deviation, minimum and maximum."""
    return [float(f(values)) for f in (np.mean, np.std, np.min, np.max)]


def write_statistics(out: Path, summary: Mapping) -> None:
    """Write ``statistics.json`` into the output folder, and print it."""
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    with replacing(out / "statistics.json") as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    print(text)
