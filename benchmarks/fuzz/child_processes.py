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

"""Inputs read in child processes, with limits of processor time and memory.

A child reads many inputs one after the other and says before each which one it is. If
it dies, its parent knows the input, counts it, and starts the next child after it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ppmat.utils.errors import InputError

CPU_SECONDS = 5.0  # for one input
WALL_SECONDS = 300.0  # for one input; the machine may be busy with other work
MEMORY = 512 << 20  # bytes that one input may take beyond what the child has
_LONGEST_MESSAGE = 2000  # characters
ACCEPTED, REFUSED, UNCLEAR, TRACEBACK, HANG, CRASH, TOO_LARGE = (
    "accepted refused unclear traceback hang crash memory".split()
)
OUTCOMES = (ACCEPTED, REFUSED, UNCLEAR, TRACEBACK, HANG, CRASH, TOO_LARGE)


class Finding(NamedTuple):
    """What one input did, if it was neither accepted nor refused."""

    number: int
    outcome: str
    reason: str


class Tally:
    """Outcomes of inputs, and the findings among them."""

    def __init__(self) -> None:
        self.counts: collections.Counter = collections.Counter()
        self.findings: list[Finding] = []
        self.peak = 0  # bytes

    def add(self, number: int, outcome: str, reason: str) -> None:
        """Count one input."""
        self.counts[outcome] += 1
        if outcome not in (ACCEPTED, REFUSED):
            self.findings.append(Finding(number, outcome, reason))


def judge(read: Callable[[Path], None], path: Path) -> tuple[str, str]:
    """Read one input; return its outcome, and why.

    A refusal is an ``InputError`` whose text is one line of reasonable length.
    """
    try:
        read(path)
    except InputError as error:
        text = str(error)
        if "\n" in text.strip() or len(text) > _LONGEST_MESSAGE:
            return UNCLEAR, f"{len(text)} characters: {text[:200]!r}"
        return REFUSED, ""
    except MemoryError:
        return TOO_LARGE, "MemoryError"
    except Exception as error:
        spots = traceback.extract_tb(error.__traceback__)
        own = [s for s in spots if "/ppmat/" in s.filename] or spots
        places = " < ".join(
            f"{Path(s.filename).name}:{s.lineno}" for s in (spots[-1], own[-1])
        )
        return TRACEBACK, f"{type(error).__name__}: {str(error)[:200]} ({places})"
    return ACCEPTED, ""


def _serve(
    read: Callable[[Path], None],
    inputs: Sequence[tuple[int, bytes]],
    path: Path,
    pipe: int,
) -> None:
    """Read the inputs in a child; write a line before and after each."""
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    size = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = _status("VmRSS")
    for number, data in inputs:
        path.write_bytes(data)
        os.write(pipe, f"start {number}\n".encode())
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        outcome, reason = judge(read, path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start
        if peak > MEMORY:
            outcome, reason = TOO_LARGE, f"{peak >> 20} MiB"
        reason = " ".join(reason.split())
        os.write(pipe, f"end {number} {outcome} {peak} {reason}\n".encode())
        if peak > MEMORY:  # the peak of a process never falls
            return


def _status(key: str) -> int:
    """Return a size of this process in bytes."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def run(
    read: Callable[[Path], None],
    inputs: Sequence[tuple[int, bytes]],
    path: Path,
    tally: Tally,
) -> None:
    """Read all inputs in children and count what they did.

    Args:
        read: Reads one file, or raises ``InputError``.
        inputs: Number and bytes of each.
        path: The file that they are written to, one after the other.
        tally: Receives the outcomes.
    """
    left = list(inputs)
    while left:
        done, open_input, reason = 0, None, ""
        for words in _lines_of_child(read, left, path):
            if words[0] == "start":
                open_input = int(words[1])
            elif words[0] == "end":
                tally.add(open_input, words[2], words[4])
                if words[2] != TOO_LARGE:
                    tally.peak = max(tally.peak, int(words[3]))
                done, open_input = done + 1, None
            else:
                reason = words[1]
        if open_input is not None:
            slow = reason in (
                f"signal {int(signal.SIGPROF)}",
                f"signal {int(signal.SIGKILL)}",
            )
            tally.add(open_input, HANG if slow else CRASH, reason)
            done += 1
        if not done:
            raise RuntimeError(f"a child read nothing: {reason}")
        left = left[done:]


def _lines_of_child(
    read: Callable[[Path], None], inputs: Sequence[tuple[int, bytes]], path: Path
) -> Iterator[list[str]]:
    """Yield the lines of one child, as five words, then how it ended."""
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.close(source)
            _serve(read, inputs, path, target)
            os._exit(0)
        os._exit(1)
    os.close(target)
    pending = b""
    last = time.monotonic()
    with open(source, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], 1.0)
            if ready:
                block = pipe.read(1 << 16)
                if not block:
                    break
                last = time.monotonic()
                *lines, pending = (pending + block).split(b"\n")
                for line in lines:
                    words = line.decode(errors="replace").split(" ", 4)
                    yield words + [""] * (5 - len(words))
            elif time.monotonic() - last > WALL_SECONDS:
                os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    yield ["died", f"signal {-code}" if code < 0 else f"status {code}", "", "", ""]
