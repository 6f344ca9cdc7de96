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

"""Use all cores of a machine without a GPU: threads, or several processes.

The networks for structures multiply many small matrices. Paddle computes these slower
with several threads, so their commands run one thread in each of several processes
(docs/core/cores.md). The networks for images gain from threads.

The process that the user started is rank 0 and starts the others. These are the
processes of ``paddle.distributed.launch``, but they share one batch: ``batch_size`` and
``num_workers`` of the YAML are those of all processes together. Importing this module
loads no Paddle.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

from ppmat.utils.cores import available_cores
from ppmat.utils.cores import threads_per_process
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError

_PARENT = "PPMAT_FIRST_PROCESS"  # variable: process id of rank 0, for the others
_MAX_PROCESSES = 8  # chosen by "auto"; the user may ask for more
_GRACE = 5.0  # seconds for rank 0 to end by itself after another rank has ended
_CHECK = 0.5  # seconds between two checks that the other processes run
_LAST_CHARACTERS = 2000  # of the output of a lost process, shown with the error


# What "auto" does when a trained model is used.
AUTO_PROCESSES = (
    "one for each core for --split and LMDB data sets if there is no GPU, else 1"
)


def add_processes(parser: argparse.ArgumentParser, auto: str) -> None:
    """Add ``--processes``; ``auto`` says what its default chooses."""
    parser.add_argument(
        "--processes",
        type=_count,
        default="auto",
        metavar="N",
        help=f"processes on the cores of this machine; auto: {auto}",
    )


def _count(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"'{text}': wanted auto, or 1 to 1024")
    return int(text)


def set_threads(several: bool) -> None:
    """Set ``OMP_NUM_THREADS`` unless the user has: one thread, or those of all cores.

    Without it Paddle sets it to 1 when it is imported.
    """
    threads = threads_per_process() if several else 1
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def processes_for(args: argparse.Namespace) -> int:
    """Return how many processes are useful at most for ``--split`` and ``--input``.

    Starting one takes 2 to 3 s, which pays off from some hundred structures on.
    """
    large = args.split or any(name.endswith(".lmdb") for name in args.input)
    return _MAX_PROCESSES if large else 1


def share_batches() -> bool:
    """Return whether the ranks of this run share the batch of the YAML file."""
    return _PARENT in os.environ


def choose_processes(asked: int | str, useful: int, possible: int = 1024) -> int:
    """Return the number of processes to run as.

    Args:
        asked: The option; ``auto`` takes one for each core, at most 8 and at most
            ``useful``. It takes one if Paddle can use a GPU, or if it is loaded already
            (in a notebook): then nothing can be changed any more.
        useful: More would mostly wait.
        possible: More would have nothing to do.

    Raises:
        ConfigError: More than possible, or another program started this process as one
            of several.
    """
    if share_batches():
        return 1
    launched = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if launched > 1:
        if asked not in ("auto", launched):
            raise ConfigError(
                f"--processes={asked}, but paddle.distributed.launch has started "
                f"{launched}: leave the option out"
            )
        return 1
    if asked == "auto":
        if "paddle" in sys.modules or _has_gpu_build():
            return 1
        threads = int(os.environ.get("OMP_NUM_THREADS", "1") or "1")
        cores = available_cores() // max(1, threads)
        return max(1, min(cores, useful, _MAX_PROCESSES))
    if asked > possible:
        raise ConfigError(
            f"--processes={asked}", wanted=f"at most {possible}, the batch size"
        )
    if asked > 1 and "paddle" in sys.modules:
        raise ConfigError(
            f"--processes={asked}: Paddle is loaded already, so this process cannot "
            "become one of several",
            hint="Run the command in a shell.",
        )
    return asked


def _has_gpu_build() -> bool:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("paddlepaddle")
        return False
    return True  # another build, such as paddlepaddle-gpu


class LostProcessError(InputError):
    """Another process of this run has ended."""

    status = 1


class Ranks(contextlib.AbstractContextManager):
    """Runs a block as rank 0 of several processes.

    The others end when this process ends, also after SIGKILL. If one of them ends
    early, the block ends with :class:`LostProcessError`.

    Args:
        number: Processes together; 1 starts none.
        command: Arguments of the Python interpreter that start another one.
    """

    def __init__(self, number: int, command: Sequence[str]) -> None:
        self.number = number
        self.command = list(command)
        self._processes: list[subprocess.Popen] = []
        self._outputs: list[Any] = []
        self._added: list[str] = []
        self._closing = threading.Event()

    def __enter__(self) -> Ranks:
        first = os.environ.get(_PARENT)
        if first not in (None, str(os.getpid())):
            threading.Thread(target=_end_with, args=[int(first)], daemon=True).start()
        elif first is None and self.number > 1:
            common, endpoints = self._variables()
            mine = {**common, **_of_rank(0, endpoints)}
            self._added = list(mine)
            os.environ.update(mine)
            for rank in range(1, self.number):
                # Rank 0 speaks for all; this is read only if the process is lost.
                output = tempfile.TemporaryFile()  # noqa: SIM115
                self._outputs.append(output)
                process = subprocess.Popen(
                    [sys.executable, *self.command],
                    env={**os.environ, **_of_rank(rank, endpoints)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                self._processes.append(process)
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _variables(self) -> tuple[dict[str, str], list[str]]:
        """Return the variables that all ranks share, and their addresses."""
        with contextlib.ExitStack() as stack:
            ports = []
            for _ in range(self.number):
                free = stack.enter_context(socket.socket())
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        endpoints = [f"127.0.0.1:{port}" for port in ports]
        return {
            "PADDLE_TRAINERS_NUM": str(self.number),
            "PADDLE_LOCAL_SIZE": str(self.number),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_MASTER": endpoints[0],
            "PADDLE_DISTRI_BACKEND": "gloo",
            "GLOG_minloglevel": "1",  # no lines about connections
            _PARENT: str(os.getpid()),
        }, endpoints

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if not self._processes:
            return
        expected = kind is None or issubclass(kind, (InputError, SystemExit))
        # A rank that is lost makes the next exchange of rank 0 fail.
        lost = None if expected else self._lost(_GRACE)
        self._closing.set()
        if kind is None or issubclass(kind, SystemExit):
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
        for process in self._processes:
            process.kill()
            process.wait()
        for name in self._added:
            del os.environ[name]
        if lost is not None:
            raise LostProcessError(lost) from error

    def _lost(self, seconds: float = 0.0) -> str | None:
        """Return what is known of a process that has failed, waiting for one."""
        end = time.monotonic() + seconds
        while True:
            for rank, process in enumerate(self._processes, 1):
                if process.poll():
                    return self._describe(rank, process.returncode)
            if time.monotonic() >= end:
                return None
            time.sleep(_CHECK / 5)

    def _describe(self, rank: int, status: int) -> str:
        output = self._outputs[rank - 1]
        output.seek(0)
        text = output.read().decode(errors="replace")[-_LAST_CHARACTERS:].strip()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        memory = " (9 is also sent when memory is used up)" if status == -9 else ""
        said = f"; its last lines:\n{text}" if text else ""
        return (
            f"process {rank} of {self.number} has ended with {how}{memory}, so the "
            f"run stops. What is stored stays; --processes={self.number - 1} needs "
            f"less memory{said}"
        )

    def _watch(self) -> None:
        """End rank 0 if it hangs in an exchange with a process that is lost."""
        while not self._closing.wait(_CHECK):
            if (lost := self._lost()) is None:
                continue
            if not self._closing.wait(_GRACE):
                os.write(2, f"LostProcessError: {lost}\n".encode())
                os._exit(LostProcessError.status)
            return


def _of_rank(rank: int, endpoints: Sequence[str]) -> dict[str, str]:
    return {
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_RANK_IN_NODE": str(rank),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
    }


def _end_with(first: int) -> None:
    """End this process when rank 0, which started it, has ended."""
    while os.getppid() == first:
        time.sleep(_CHECK)
    os._exit(1)
