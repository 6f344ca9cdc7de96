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

"""Commands that cannot write more than a few bytes to a file, as on a full disk.

Each command runs with a limit of the size of a file, then again without it. The first
run must end with one line and status 1 or 2; the second must do the whole work. A
command that ends with status 0 under the limit must have done the whole work, too.

Usage::

    python -m benchmarks.disk_full --work output/disk_full
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.runs import ROOT

_LIMITS = (64, 4096)  # bytes of one file
_SLABS = "structure_generation/example_data/slabs.traj"
_SAMPLES = "structure_generation/configs/sfin/oc20_smoke.yaml"
_ENERGIES = "property_prediction/configs/sfin/sfin_oc20_is2re_smoke.yaml"


class Case(NamedTuple):
    """A command that writes to ``{out}``, and the file that it leaves there."""

    name: str
    words: str
    again: str  # words that the second run has as well
    result: str


def cases(work: Path) -> list[Case]:
    """Return the commands; they need trained weights in ``work``."""
    energies, samples = (
        f"--checkpoint_path {work}/{name}/checkpoints/latest.pdparams"
        for name in ("energies", "samples")
    )
    train = f"structure_generation/train.py --processes=1 -c {_SAMPLES}"
    return [
        Case(
            "train.py", f"{train} Trainer.output_dir={{out}}", "--resume", "metrics.csv"
        ),
        Case(
            "predict.py",
            f"property_prediction/predict.py -c {_ENERGIES} {energies} --processes=1 "
            f"--input {_SLABS} --save_path {{out}}/energies.csv",
            "",
            "energies.csv",
        ),
        Case(
            "sample.py",
            f"structure_generation/sample.py -c {_SAMPLES} {samples} --processes=1 "
            f"--mode=by_structures --input {_SLABS} --save_path {{out}}",
            "",
            "*.extxyz",
        ),
        Case(
            "oc20 write",
            f"-m ppmat.commands.oc20 write --initial_only {{out}}/a.lmdb {_SLABS}",
            "",
            "a.lmdb",
        ),
    ]


def run(words: str, limit: int | None = None) -> subprocess.CompletedProcess:
    """Run a command, whose files have at most ``limit`` bytes."""

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-W", "ignore", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=None if limit is None else before,
    )


def faults(case: Case, limit: int, work: Path) -> list[str]:
    """Return what was wrong with a command under a limit; nothing if all was well."""
    whole, out = work / "whole", work / "limited"
    for folder in (whole, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    found = []
    first = run(case.words.format(out=out), limit)
    text = first.stdout + first.stderr
    if first.returncode not in (0, 1, 2):
        found.append(f"status {first.returncode}")
    if "Traceback" in text:
        found.append("traceback")
    if first.returncode and not _names_the_cause(text):
        found.append(f"unclear: {text.strip().splitlines()[-1:]}")
    if first.returncode:
        again = run(f"{case.words} {case.again}".format(out=out))
        if again.returncode:
            last = again.stderr.strip().splitlines()[-1:]
            found.append(f"second run ends with {again.returncode}: {last}")
    run(case.words.format(out=whole))
    wanted, got = (_size(folder, case.result) for folder in (whole, out))
    if wanted is None or got != wanted:
        found.append(f"{case.result}: {got} rows or bytes, wanted {wanted}")
    return found


def _names_the_cause(text: str) -> bool:
    return "File too large" in text or "No space" in text or "disk" in text


def _size(folder: Path, pattern: str) -> int | None:
    """Return the lines of a text or the bytes of an LMDB file."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        return None
    if pattern.endswith(".lmdb"):
        return sum(path.stat().st_size for path in paths)
    return sum(len(path.read_text().splitlines()) for path in paths)


def measure(work: Path, tell: Callable[[str], None] = print) -> list[dict]:
    """Run all commands with all limits; return a row for each command."""
    work.mkdir(parents=True, exist_ok=True)
    train = "{0}/train.py --processes=1 -c {1} Trainer.output_dir={2} --overwrite"
    run(train.format("structure_generation", _SAMPLES, work / "samples"))
    run(train.format("property_prediction", _ENERGIES, work / "energies"))
    rows = []
    for case in cases(work):
        wrong = 0
        for limit in _LIMITS:
            found = faults(case, limit, work)
            tell(f"{case.name}, {limit} bytes: {found or 'well'}")
            wrong += bool(found)
        rows.append({"command": case.name, "runs": len(_LIMITS), "wrong": wrong})
    return rows


def main() -> int:
    """Run the example; returns 1 if a command did not end well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("output/disk_full"))
    work = parser.parse_args().work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = measure(work, lambda line: print(line, flush=True))
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
