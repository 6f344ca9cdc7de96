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

"""Measure time and memory of ``detect_columns`` by the size of the image.

The image is a square lattice of two kinds of columns, rotated by 7°, with 28 pixels
between strong columns and the noise of the default ``NoiseModel``. Seeds come from the
raw image. Each size runs in a new process with one thread. The columns are compared
with the true ones.

Usage::

    python -m benchmarks.stem.detection
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.runs import machine
from benchmarks.runs import write

ROOT = Path(__file__).resolve().parents[2]
SIZES = (512, 1024, 2048, 4096)
SPACING = 28.0  # pixels
SIGMA = 3.2  # pixels; standard deviation of a column
MARGIN = 10.0  # pixels around the image where columns still reach into it
RADIUS = 3.0  # pixels; largest distance of a found column from a true one


def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image [H, W] float32 and its columns ``(y, x)`` [n, 2]."""
    from ppmat.stem.noise.noise_model import NoiseModel
    from ppmat.stem.scenes.atom_columns import AtomColumns

    rng = np.random.default_rng(size)
    reach = int(0.75 * size / SPACING) + 3
    index = np.arange(-reach, reach + 1)
    index = np.stack(np.meshgrid(index, index), axis=-1).reshape(-1, 2)
    c, s = np.cos(np.deg2rad(7)), np.sin(np.deg2rad(7))
    cell = SPACING * np.array([[c, -s], [s, c]])
    positions = np.concatenate([index @ cell, (index + 0.5) @ cell]) + size / 2
    heights = np.repeat([130.0, 60.0], len(index))
    inside = np.all((positions > -MARGIN) & (positions < size + MARGIN), axis=1)
    positions, heights = positions[inside], heights[inside]
    positions = positions + rng.normal(0, 0.3, positions.shape)
    heights = heights * rng.normal(1, 0.05, len(heights))
    widths = np.full(len(heights), SIGMA)
    clean = AtomColumns(*positions.T, heights, widths).render((size, size), 30.0)
    return NoiseModel().apply(clean, rng).astype(np.float32), positions


def measure(folder: Path) -> dict:
    """Detect the columns of the image in a folder; return a row of the result."""
    from ppmat.metrics.column_matching import match_columns
    from ppmat.stem.columns.detection import detect_columns

    image = np.load(folder / "image.npy")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    table = detect_columns(image)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    true = np.load(folder / "true.npy")
    match = match_columns(table, true, RADIUS, image.shape, border=2 * SIGMA)
    return {
        "image": f"{image.shape[0]} x {image.shape[1]}",
        "columns": len(table),
        "CPU [s]": round(cpu, 1),
        "wall clock [s]": round(wall, 1),
        "columns / CPU s": round(len(table) / cpu, 1),
        "peak memory [MB]": round(after / 1024),
        "of it before [MB]": round(before / 1024),
        "F1": round(match.f1, 4),
    }


def run(*words: str) -> str:
    """Run this script in a new process with one thread; return its output."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.stem.detection", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--note", default="", help="other load of the machine")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    if args.draw:
        image, true = draw(*args.sizes)
        np.save(args.draw / "image.npy", image)
        np.save(args.draw / "true.npy", true)
        return
    rows = []
    for size in args.sizes:
        # This process must stay small, because children inherit its peak memory.
        with tempfile.TemporaryDirectory() as folder:
            run("--draw", folder, "--sizes", str(size))
            out = run("--measure", folder)
        rows.append(json.loads(out))
        print(rows[-1], flush=True)
    result = {
        "command": "python -m benchmarks.stem.detection",
        "machine": machine(),
        "date": str(date.today()),
        "rows": rows,
    }
    if args.note:
        result["note"] = args.note
    write(result, args.out / "stem_detection.yaml")


if __name__ == "__main__":
    main()
