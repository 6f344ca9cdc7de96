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


"""Time and memory of enhancing one image on a CPU, by three programs.

- ``authors``: the authors' network in PyTorch, eager, the whole image at once, as in
  their demo (on a GPU there, here on the CPU).
- ``upstream``: the network of ppmat 0.3.0 in eager Paddle, the whole image at once.
- ``ours``: :func:`ppmat.predictor.enhance`, with tiles of 256 that overlap by 64,
  scaling, blending, and the whiteness of the residual.

All have 64 channels, 8 blocks and random weights. Each cell is a process of its own,
with one call to warm up and then ``--repeats`` calls (at 1024 x 1024 1/16 as many, at
least one); the processes alternate. The large image is enhanced once. Seconds are
medians. The first call is given too: it includes building the network and, where it is
not in the cache yet, exporting our program. Memory is the peak of the process,
libraries included. Results of a process stay in ``--work``, so a benchmark that was
stopped continues.

The first two need files that are not part of the project::

    python -m benchmarks.enhance --torch TORCH_PYTHON --authors SFIN_REPO \
        --upstream PPMAT_0_3_0/ppmat/models/sfin/sfin.py
"""

from __future__ import annotations

import argparse
import importlib.util
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
    "upstream": "ppmat 0.3.0, eager Paddle",
    "ours": "ours",
}


# One process -------------------------------------------------------------------------


def authors(path: Path) -> Callable[[np.ndarray], object]:
    """Return the authors' network as a function of an image [H, W]."""
    import torch

    from benchmarks.sfin_authors import load

    model = load(path, "sfin").SFIN().eval()
    torch.set_grad_enabled(False)
    return lambda image: model(torch.from_numpy(image)[None, None])


def upstream(path: Path) -> Callable[[np.ndarray], object]:
    """Return upstream's network as a function of an image [H, W]."""
    import paddle

    spec = importlib.util.spec_from_file_location("upstream_sfin", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.SFIN()
    model.eval()

    @paddle.no_grad()
    def run(image: np.ndarray) -> object:
        return model(paddle.to_tensor(image[None, None])).numpy()

    return run


def ours(_: Path) -> Callable[[np.ndarray], object]:
    """Return our enhancement as a function of an image [H, W]."""
    import paddle

    from ppmat.models.sfin.sfin import SFIN
    from ppmat.predictor import enhance

    paddle.seed(0)
    model = SFIN()
    model.eval()
    return lambda image: enhance(image, model, tile_size=256, overlap=64)


def print_run(row: str, source: Path | None, size: int, repeats: int) -> None:
    """Print the seconds of every call and the peak memory in bytes as JSON."""
    image = np.random.default_rng(0).uniform(0, 255, (size, size)).astype("float32")
    start = time.perf_counter()
    run = {"authors": authors, "upstream": upstream, "ours": ours}[row](source)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter() if seconds else start
        run(image)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


# All ---------------------------------------------------------------------------------


def measure(args: argparse.Namespace, row: str, size: int, turn: int) -> dict:
    """Return the seconds and the peak memory of one process, or of its file."""
    left = args.work / f"{row}_{size}_{turn}.json"
    if not left.exists():
        cache = args.work / "programs"
        source = {"authors": args.authors, "upstream": args.upstream, "ours": cache}[
            row
        ]
        repeats = max(1, args.repeats // (size // 256) ** 2)
        found = run_one(
            "benchmarks.enhance",
            *("--one", row, source, size, repeats if size < args.large else 0),
            python=args.torch if row == "authors" else "",
            OMP_NUM_THREADS=str(args.threads),
            PADDLEMAT_HOME=str(cache),
        )
        left.write_text(json.dumps(found))
    return json.loads(left.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=4, metavar=("ROW", "SOURCE", "SIZE", "REPEATS"))
    parser.add_argument("--torch", help="python with PyTorch")
    parser.add_argument("--authors", type=Path, help="clone of HeasonLee/SFIN")
    parser.add_argument("--upstream", type=Path, help="sfin.py of ppmat 0.3.0")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--large", type=int, default=4096, help="ours alone")
    parser.add_argument("--repeats", type=int, default=8, help="calls at 256 x 256")
    parser.add_argument("--turns", type=int, default=2, help="processes of each cell")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=Path("output/benchmark_enhance"))
    args = parser.parse_args()
    if args.one:
        row, source, size, repeats = args.one
        return print_run(row, Path(source), int(size), int(repeats))
    if not (args.torch and args.authors and args.upstream):
        parser.error("wanted --torch, --authors and --upstream")
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    cells: dict[tuple[str, int], list[dict]] = {}
    for turn in range(args.turns):
        for size in args.sizes:
            for row in ROWS:
                if row == "upstream" and size > 512 and turn:
                    continue  # minutes a call; once is enough
                found = measure(args, row, size, turn)
                cells.setdefault((row, size), []).append(found)
    if args.large:
        cells["ours", args.large] = [measure(args, "ours", args.large, 0)]
    result = result_of(
        "python -m benchmarks.enhance --torch TORCH_PYTHON --authors SFIN_REPO "
        "--upstream PPMAT_0_3_0/ppmat/models/sfin/sfin.py",
        f"x86-64, {os.cpu_count()} cores, {args.threads} threads",
        rows=[summary(row, cells) for row in ROWS],
    )
    write(result, RESULTS / "enhance.yaml")


def summary(row: str, cells: dict[tuple[str, int], list[dict]]) -> dict:
    """Return the table row: median seconds, first call and peak MB for each size."""
    result: dict = {"name": ROWS[row]}
    for (name, size), found in cells.items():
        if name == row:
            calls = [process["seconds"] for process in found]
            later = [s for c in calls for s in c[1:]] or calls[0]
            result[f"{size} x {size}"] = {
                "s": round(statistics.median(later), 3),
                "first_s": round(calls[0][0], 2),
                "peak_MB": round(max(p["peak"] for p in found) / 1e6),
            }
    return result


if __name__ == "__main__":
    main()
