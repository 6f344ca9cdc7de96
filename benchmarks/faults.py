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

"""Campaign of faults: damaged inputs, trainings that are killed, full disks.

Part ``fuzz``: every reader gets copies of valid files with faults, 100,000 inputs in
all, no two of a reader equal. Child processes read them with limits of processor time
and memory. Everything follows from ``--seed``. Finished pieces stay in ``--work``, so a
campaign can be stopped and continued. One input is made again and read alone with
``--show``. Part ``kills``: see :mod:`benchmarks.kills`. Part ``disk``: see
:mod:`benchmarks.disk_full`.

Usage::

    python -m benchmarks.faults
    python -m benchmarks.faults --parts fuzz --readers TIFF PNG --inputs 2000
    python -m benchmarks.faults --show TIFF 1234
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import disk_full
from benchmarks import kills
from benchmarks.fuzz import child_processes
from benchmarks.fuzz.mutations import mutate
from benchmarks.fuzz.readers import READERS
from benchmarks.runs import RESULTS
from benchmarks.runs import result_of
from benchmarks.runs import write
from ppmat.utils.files import replacing

_PARTS = ("fuzz", "kills", "disk")
# A training of four epochs of eight steps, with a checkpoint after each step.
_TRAINING = (
    "structure_generation/train.py -c structure_generation/configs/sfin/oc20_smoke.yaml"
    " --processes=1 Trainer.max_epochs=4 Trainer.save_freq_steps=1"
    " Dataset.train.dataset.__init_params__.max_samples=32"
)
_CHUNK = 500  # inputs of one file in --work
_MOST_LISTED = 20  # findings printed for a reader


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--inputs", type=int, default=100_000, help="damaged inputs in all")
    add("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    add("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    add("--seed", type=int, default=0)
    add("--work", type=Path, default=Path("output/faults"))
    add("--show", nargs=2, metavar=("READER", "NUMBER"), help="read one input alone")
    add("--out", type=Path, default=RESULTS / "faults.yaml")
    return parser.parse_args(argv)


def damaged_inputs(name: str, count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Yield ``count`` damaged inputs of a reader with their numbers, no two equal.

    An input that is valid as it stands, or was yielded before, is left out, and its
    number with it.
    """
    reader = READERS[name]
    seeds = reader.seeds()
    seen = {_digest(data) for data in seeds}
    number = -1
    while count:
        number += 1
        rng = random.Random(f"{seed} {name} {number}")
        data = mutate(seeds, reader.text, rng)
        digest = _digest(data)
        if digest not in seen:
            seen.add(digest)
            count -= 1
            yield number, data


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=12).digest()


def fuzz(args: argparse.Namespace) -> None:
    """Read all damaged inputs that have not been read yet."""
    for name in args.readers:
        reader = READERS[name]
        count = args.inputs * reader.share // 1000
        inputs = list(damaged_inputs(name, count, args.seed))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / reader.file
            for start in range(0, count, _CHUNK):
                result = chunk_file(args, name, start)
                if result.exists():
                    continue
                tally = child_processes.Tally()
                begin = time.monotonic()
                used = _cpu_seconds()
                chunk = inputs[start : start + _CHUNK]
                child_processes.run(reader.read, chunk, path, tally)
                record = {
                    "inputs": len(chunk),
                    "counts": dict(tally.counts),
                    "peak": tally.peak,
                    "seconds": time.monotonic() - begin,
                    "cpu_seconds": _cpu_seconds() - used,
                    "findings": [list(finding) for finding in tally.findings],
                }
                with replacing(result) as temporary:
                    temporary.write_text(json.dumps(record, indent=1))
        print_reader(args, name)


def _cpu_seconds() -> float:
    """Return the processor time of the children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def chunk_file(args: argparse.Namespace, name: str, start: int) -> Path:
    """Return the file of a chunk of inputs in ``--work``."""
    slug = re.sub(r"\W+", "_", name).strip("_").lower()
    return args.work / f"fuzz_{args.seed}_{slug}_{start:06d}.json"


def reader_result(args: argparse.Namespace, name: str) -> tuple[dict, list]:
    """Return the row of a reader, and its findings."""
    count = args.inputs * READERS[name].share // 1000
    chunks = []
    for start in range(0, count, _CHUNK):
        chunks.append(json.loads(chunk_file(args, name, start).read_text()))
    counts: collections.Counter = collections.Counter()
    for chunk in chunks:
        counts.update(chunk["counts"])
    row = {"name": name, "inputs": sum(chunk["inputs"] for chunk in chunks)}
    row |= {outcome: counts[outcome] for outcome in child_processes.OUTCOMES}
    row["peak_memory_mib"] = max(chunk["peak"] for chunk in chunks) >> 20
    cpu = sum(chunk["cpu_seconds"] for chunk in chunks)
    row["ms_per_input"] = round(1000 * cpu / row["inputs"], 2)
    return row, [finding for chunk in chunks for finding in chunk["findings"]]


def print_reader(args: argparse.Namespace, name: str) -> None:
    """Print the counts of a reader and its findings, equal reasons together."""
    row, findings = reader_result(args, name)
    print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    reasons: dict[tuple[str, str], list[int]] = {}
    for number, outcome, reason in findings:
        reasons.setdefault((outcome, re.sub(r"\d+", "N", reason)), []).append(number)
    by_count = sorted(reasons.items(), key=lambda item: -len(item[1]))
    for (outcome, reason), numbers in by_count[:_MOST_LISTED]:
        print(
            f"  {len(numbers)} x {outcome}: {reason} (input {numbers[0]})", flush=True
        )


def show(args: argparse.Namespace) -> int:
    """Make one input again and read it here, without limits."""
    name, number = args.show[0], int(args.show[1])
    reader = READERS[name]
    rng = random.Random(f"{args.seed} {name} {number}")
    path = args.work / reader.file
    path.write_bytes(mutate(reader.seeds(), reader.text, rng))
    print(f"{path}, {path.stat().st_size} bytes", flush=True)
    reader.read(path)
    print("accepted")
    return 0


def fuzz_result(args: argparse.Namespace) -> dict:
    """Return the result of damaged inputs, a row for each reader."""
    rows = [reader_result(args, name)[0] for name in args.readers]
    command = "python -m benchmarks.faults --parts fuzz"
    if args.readers != list(READERS):
        command += f" --readers {' '.join(map(shlex.quote, args.readers))}"
    total = sum(row["inputs"] for row in rows)
    note = f"Seed {args.seed}; {total} inputs. Accepted: read in full."
    return result_of(command, note=note, rows=rows)


def kills_result(done: list[tuple[int, list[str]]], seed: int) -> dict:
    """Return the result of killed trainings, a row for each chain."""
    rows = [
        {"chain": number, "kills": count, "files that differ": len(changed)}
        for number, (count, changed) in enumerate(done)
    ]
    note = f"Seed {seed}; {sum(row['kills'] for row in rows)} kills."
    return result_of("python -m benchmarks.faults --parts kills", note=note, rows=rows)


def main(argv: list[str] | None = None) -> int:
    """Run the parts and write the result; returns the exit status."""
    args = parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.show:
        return show(args)
    work = args.work.resolve()
    if "fuzz" in args.parts:
        fuzz(args)
        write(fuzz_result(args), args.out)
    if "kills" in args.parts:
        done = list(kills.chains(_TRAINING.split(), work / "kills", seed=args.seed))
        write(kills_result(done, args.seed), args.out.with_stem("faults_kills"))
    if "disk" in args.parts:
        rows = disk_full.measure(work / "disk")
        result = result_of("python -m benchmarks.faults --parts disk", rows=rows)
        write(result, args.out.with_stem("faults_disk"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
