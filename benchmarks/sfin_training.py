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


"""Training the image network on a CPU: images/s of forward, backward and Adam step.

- ``authors``: the authors' network in PyTorch, eager.
- ``separate``: our network, with the paper's convolutions one by one.
- ``merged``: with convolutions of the same input merged, see ppmat/models/sfin/conv.py.
- ``kept``: the same in a process that keeps freed memory, as ``train.py`` does.

Images, widths, depth and threads are the same. Each cell is a process of its own, with
one step to warm up and then ``--steps``; the processes alternate. Rates are medians of
all steps; memory is the largest peak, libraries included.

The authors' row needs a Python with PyTorch and a clone of HeasonLee/SFIN::

    python -m benchmarks.sfin_training --torch TORCH_PYTHON --authors SFIN_REPO
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.runs import RESULTS
from benchmarks.runs import result_of
from benchmarks.runs import run_one
from benchmarks.runs import write

ROWS = {
    "authors": "authors' network, PyTorch",
    "separate": "eager Paddle, convolutions one by one",
    "merged": "eager Paddle, merged convolutions",
    "kept": "the same, memory kept (`train.py`)",
}
CELLS = ((16, 128, 4), (16, 256, 2), (64, 128, 4), (64, 256, 2))  # width, size, batch
LEARNING_RATE = 2e-4


# One process -------------------------------------------------------------------------


def images(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy and clean images [B, 1, H, W] in grey levels."""
    rng = np.random.default_rng(0)
    wave = np.cos(np.arange(size) * (2 * np.pi / 8))
    clean = np.broadcast_to(128 + 50 * wave * wave[:, None], (batch, 1, size, size))
    noisy = clean + rng.normal(0, 25, clean.shape)
    return noisy.astype("float32"), clean.astype("float32")


def torch_step(folder: Path, width: int, blocks: int, data: tuple) -> Callable:
    """Return a training step of the authors' network."""
    import torch

    from benchmarks.sfin_authors import load

    torch.manual_seed(0)
    model = load(folder, "sfin", ch=width, n_blocks=blocks).SFIN()
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    noisy, clean = map(torch.from_numpy, data)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.l1_loss(model(noisy), clean)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def paddle_step(row: str, width: int, blocks: int, data: tuple) -> Callable:
    """Return a training step of our network."""
    if row == "kept":
        from ppmat.commands.options import keep_freed_memory

        keep_freed_memory()
    import paddle

    from ppmat.models.sfin import sfin

    if row == "separate":
        sfin.merging_pays = lambda x: False
    paddle.seed(0)
    model = sfin.SFIN(base_channels=width, num_blocks=blocks)
    optimizer = paddle.optimizer.Adam(LEARNING_RATE, parameters=model.parameters())
    batch = dict(zip(("noisy", "gt_enhance"), map(paddle.to_tensor, data)))

    def step() -> float:
        loss = model(batch)["loss_dict"]["loss"]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step


def print_run(row: str, source: Path, numbers: list[int]) -> None:
    """Print the seconds and the loss of every step and the peak in bytes as JSON."""
    width, size, batch, blocks, steps = numbers
    data = images(size, batch)
    if row == "authors":
        step = torch_step(source, width, blocks, data)
    else:
        step = paddle_step(row, width, blocks, data)
    seconds, losses = [], []
    for _ in range(steps + 1):
        start = time.perf_counter()
        losses.append(step())
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[1:], "losses": losses, "peak": peak}))


# All ---------------------------------------------------------------------------------


def measure(args: argparse.Namespace, row: str, cell: tuple) -> dict:
    """Return the seconds and the peak memory of one process."""
    return run_one(
        "benchmarks.sfin_training",
        *("--one", row, args.authors, *cell, args.blocks, args.steps),
        python=args.torch if row == "authors" else "",
        OMP_NUM_THREADS=str(args.threads),
    )


def summary(row: str, found: dict[tuple, list[dict]]) -> dict:
    """Return the table row: images/s and peak memory of each cell."""
    result: dict = {"name": ROWS[row]}
    for (name, width, size, batch), runs in found.items():
        if name != row:
            continue
        seconds = statistics.median(s for run in runs for s in run["seconds"])
        result[f"{width} channels, {size} x {size}"] = {
            "images/s": float(f"{batch / seconds:.3g}"),
            "GB": round(max(run["peak"] for run in runs) / 1e9, 2),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--one", nargs=7, help=argparse.SUPPRESS, metavar=("ROW", *"ABCDEF")
    )
    parser.add_argument("--torch", help="python with PyTorch")
    parser.add_argument("--authors", type=Path, help="clone of HeasonLee/SFIN")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="of one process")
    parser.add_argument("--turns", type=int, default=3, help="processes of each cell")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS / "sfin_training.yaml")
    args = parser.parse_args()
    if args.one:
        row, source, *numbers = args.one
        return print_run(row, Path(source), [int(number) for number in numbers])
    if not (args.torch and args.authors):
        parser.error("wanted --torch and --authors")
    for name in [n for n in os.environ if n.startswith("MALLOC_")]:
        del os.environ[name]
    found: dict[tuple, list[dict]] = {}
    for _ in range(args.turns):
        for cell in CELLS:
            for row in ROWS:
                run = measure(args, row, cell)
                found.setdefault((row, *cell), []).append(run)
    batches = ", ".join(f"{batch} images of {size}" for _, size, batch in CELLS[:2])
    result = result_of(
        "python -m benchmarks.sfin_training --torch TORCH_PYTHON "
        f"--authors SFIN_REPO --blocks {args.blocks} --steps {args.steps} "
        f"--turns {args.turns} --threads {args.threads}",
        f"x86-64, {os.cpu_count()} cores, {args.threads} threads",
        note=f"Forward, backward and Adam step; {args.blocks} residual blocks; "
        f"batches of {batches} pixels a side. GB: peak of the process.",
        rows=[summary(row, found) for row in ROWS],
    )
    write(result, args.out)


if __name__ == "__main__":
    main()
