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

"""Enhancement and detection on scenes of real specimens, against the truth.

Flat lattices are only some of the scenes: there are ramps, a wedge, edges, particles on
vacuum and on carbon, a boundary, light columns beside heavy ones, other spacings, close
pairs and displaced lines. The noise is white (counting noise in one scene).

- RMS error against the clean image, image units: noisy image, the best Gaussian filter
  (its width is chosen with the truth), BM3D with the true noise (if the package bm3d is
  installed; its licence allows non-commercial use only), and the packaged model.
- Columns found in the raw image, and from the enhanced image: recall, precision, and
  the pull, which is the RMS of (found - true) / standard error and should be 1. Recall
  counts columns that can be seen: a matched filter gives them at least five standard
  deviations of noise. Columns within two sigma of the border do not count.

Usage::

    python -m benchmarks.stem.real_scenes
    python -m benchmarks.stem.real_scenes --scenes wedge ramp_1 --seeds 0 --pictures OUT
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.runs import machine
from benchmarks.runs import write
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.scenes.uneven_specimen import smooth_field

ROOT = Path(__file__).resolve().parents[2]
SIZE = 512  # pixels
WIDTHS = np.concatenate([[0.0], np.geomspace(0.3, 24.0, 30)])  # of Gaussians, pixels
VISIBLE = 5.0  # signal-to-noise ratio of a matched filter
PAIR = [(0.0, 0.0, 100.0), (0.5, 0.5, 50.0)]  # strong and weak column of a cell


@dataclass
class RealScene:
    """A clean image with its columns, image units and pixels."""

    clean: np.ndarray  # [H, W]
    columns: AtomColumns
    noise: float = 12.0  # standard deviation of white noise
    jitter: float = 0.0  # standard deviation of the displacement of lines, pixels
    counts: float = 0.0  # electrons per image unit; 0 for white noise

    def noisy(self, rng: np.random.Generator) -> np.ndarray:
        """Return an image with noise [H, W]."""
        from ppmat.stem.noise.counting_noise import shift_lines

        image = self.clean
        if self.jitter:
            image = shift_lines(image, rng.normal(0, self.jitter, len(image)))
        if self.counts:
            return rng.poisson(np.maximum(image, 0) * self.counts) / self.counts
        return image + rng.normal(0, self.noise, image.shape)


def lattice(
    size: int,
    cell: tuple[float, float],
    basis: list[tuple[float, float, float]],
    sigma: float,
    turn: float = 0.1,
) -> AtomColumns:
    """Return a turned lattice; the basis is (u, v, height) in units of the cell."""
    reach = int(0.75 * size / min(cell)) + 3
    index = np.arange(-reach, reach + 1)
    corner = np.stack(np.meshgrid(index, index), axis=-1).reshape(-1, 1, 2)
    site = np.array(basis)
    place = (corner + site[:, :2]).reshape(-1, 2) * cell
    turned = [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    place = size / 2 + place @ np.array(turned)
    height = np.tile(site[:, 2], len(corner))
    near = ((place > -15) & (place < size + 15)).all(axis=1)
    y, x = place[near].T
    return AtomColumns(y, x, height[near], np.full(near.sum(), sigma))


def bent(columns: AtomColumns, thickness: np.ndarray, bulk: float) -> RealScene:
    """Return a scene of this thickness [H, W], with a signal of the bulk."""
    shape = thickness.shape
    image = 20 + thickness * (columns.render(shape) + bulk)
    columns.height = columns.height * columns.values(thickness)
    return RealScene(image, columns.select(columns.height > 1.0))


def scenes(rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], RealScene]]]:
    """Yield names and functions that make the scenes."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    shape = (SIZE, SIZE)

    def plain() -> AtomColumns:
        return lattice(SIZE, (14, 14), PAIR, 2.8)

    def on(background: np.ndarray, noise: float = 15.0) -> RealScene:
        return RealScene(plain().render(shape) + background, plain(), noise)

    yield "flat", lambda: on(np.full(shape, 30.0))
    for slope in (0.2, 1.0, 3.0):
        yield f"ramp_{slope:g}", lambda slope=slope: on(slope * x)
    yield "wedge", lambda: bent(plain(), np.clip(1 - x / 400, 0, 1), 200)
    yield "crystal_edge", lambda: bent(plain(), 1 / (1 + np.exp((x - 300) / 10)), 60)
    radius = np.hypot(y - 256, x - 256)
    ball = np.sqrt(np.clip(1 - (radius / 180) ** 2, 0, None))
    yield "particle_on_vacuum", lambda: bent(plain(), ball, 300)

    def supported() -> RealScene:
        scene, carbon = bent(plain(), ball, 300), 40 * smooth_field(rng, shape, 6.0)
        scene.clean += carbon - carbon.min()
        return scene

    yield "particle_on_carbon", supported

    def boundary() -> RealScene:
        left = plain()
        right = lattice(SIZE, (14, 14), PAIR, 2.8, turn=0.45)
        left, right = left.select(left.x < 254), right.select(right.x > 258)
        names = ("y", "x", "height", "sigma")
        both = (np.concatenate([getattr(s, n) for s in (left, right)]) for n in names)
        columns = AtomColumns(*both)
        return RealScene(30 + columns.render(shape), columns)

    yield "grain_boundary", boundary
    light = [(0.0, 0.0, 150.0), (0.5, 0.5, 90.0), (0.5, 0.0, 20.0), (0.0, 0.5, 20.0)]

    def light_columns() -> RealScene:
        columns = lattice(SIZE, (24, 24), light, 3.0)
        tail = (0.25, 2.2)  # of the probe
        return RealScene(30 + columns.render(shape, tail=tail), columns, noise=4.0)

    yield "light_columns", light_columns
    empty = AtomColumns(*np.zeros((4, 0)))
    blob = 100 * np.exp(-(radius**2) / 2 / 90**2)
    yield "blob_without_columns", lambda: RealScene(blob, empty, 4.0)
    yield "noise_without_columns", lambda: RealScene(np.full(shape, 50.0), empty, 15.0)

    def few_counts() -> RealScene:
        columns = plain()
        return RealScene(columns.render(shape, 2.0), columns, counts=0.02)

    yield "two_counts", few_counts
    for a in (2.5, 4, 5, 6, 9, 20, 45, 70):

        def spaced(a: float = a) -> RealScene:
            columns = lattice(256, (a, a), PAIR, max(0.5, 0.19 * a))
            return RealScene(30 + columns.render((256, 256)), columns, noise=8.0)

        yield f"spacing_{a:g}", spaced
    long, apart = 56.53, 14.13
    atoms = [(0, 0, 100.0), (apart / long, 0, 111.0)]
    atoms += [(0.5 + u, 0.5, height) for u, _, height in atoms]
    for sigma in (3.5, 5.0, 6.0):

        def pairs(sigma: float = sigma) -> RealScene:
            columns = lattice(400, (long, 39.97), atoms, sigma, turn=0.05)
            return RealScene(20 + columns.render((400, 400)), columns, noise=15.0)

        yield f"pairs_{apart / sigma:.2f}_sigma", pairs
    yield (
        "line_jitter",
        lambda: RealScene(plain().render(shape, 30.0), plain(), 6.0, jitter=1.2),
    )


def rms(image: np.ndarray, clean: np.ndarray) -> float:
    return float(np.sqrt(np.mean((image - clean) ** 2)))


def bm3d_error(noisy: np.ndarray, scene: RealScene) -> float | None:
    """Return the RMS error of BM3D with the true noise; None if not installed."""
    try:
        import bm3d
    except ImportError:
        return None
    return rms(bm3d.bm3d(noisy, np.std(noisy - scene.clean)), scene.clean)


def scores(table: Any, scene: RealScene) -> dict[str, float]:
    """Return recall, precision and pull of found columns, and their number."""
    from ppmat.metrics.column_matching import match_columns

    columns, shape = scene.columns, scene.clean.shape
    if not len(columns):
        return {"false": len(table)}
    near = np.stack([columns.y, columns.x], axis=-1)
    sigma = float(np.median(columns.sigma))
    radius = 1.2 * sigma
    match = match_columns(table, near, radius, shape, border=2 * sigma)
    noise = scene.noise
    if scene.counts:
        noise = np.sqrt(columns.values(scene.clean) / scene.counts)
    visible = columns.height * sigma * np.sqrt(np.pi) / noise >= VISIBLE
    found, missed = visible[match.true].sum(), visible[match.missed].sum()
    errors = np.stack([table.y_error, table.x_error], axis=-1)[match.found]
    pulls = match.offset / errors
    finite = np.isfinite(pulls)
    return {
        "recall": round(float(found / max(found + missed, 1)), 4),
        "precision": round(match.precision if len(table) else 0.0, 4),
        "pull": round(float(np.sqrt(np.mean(pulls[finite] ** 2))), 2)
        if finite.any()
        else None,
    }


def measure(job: tuple[str, int, str | None]) -> dict[str, Any]:
    """Return the row of one scene and seed."""
    from ppmat.predictor.spectrum_predictor import SpectrumPredictor
    from ppmat.stem.columns.detection import detect_columns

    name, seed, pictures = job
    rng = np.random.default_rng([seed, *name.encode()])
    scene = dict(scenes(rng))[name]()
    noisy = scene.noisy(rng)
    start = time.process_time()
    result = SpectrumPredictor().enhance_image(noisy)
    gaussian = [rms(gaussian_filter(noisy, w), scene.clean) for w in WIDTHS]
    row: dict[str, Any] = {"scene": name}
    row["RMS"] = {
        "noisy": rms(noisy, scene.clean),
        "Gaussian": min(gaussian),
        "BM3D": bm3d_error(noisy, scene),
        "ours": rms(result.image, scene.clean),
    }
    row["flags"] = sorted(result.flags)
    for kind, seeds in (("raw", None), ("network", result.image)):
        table = detect_columns(noisy, seeds)
        row[kind] = scores(table, scene)
    row["CPU [s]"] = round(time.process_time() - start, 1)
    if pictures:
        draw(Path(pictures) / f"{name}_{seed}.png", noisy, result.image, scene, table)
    return row


def draw(path: Path, noisy: Any, enhanced: Any, scene: RealScene, table: Any) -> None:
    """Write noisy, enhanced and clean image, error, and the found columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(25, 5.4), layout="constrained")
    axes = figure.subplots(1, 5)
    images = [noisy, enhanced, scene.clean, enhanced - scene.clean, noisy]
    for axis, image in zip(axes, images):
        low, high = np.percentile(image, (0.5, 99.5))
        axis.imshow(image, "gray", vmin=low, vmax=high)
        axis.axis("off")
    axes[4].plot(scene.columns.x, scene.columns.y, "c.", markersize=2)
    axes[4].plot(table.x, table.y, "ro", fillstyle="none", markersize=4)
    axes[4].set(xlim=(0, noisy.shape[1]), ylim=(noisy.shape[0], 0))
    figure.suptitle(path.stem)
    FigureCanvasAgg(figure).print_png(str(path))


def gathered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a scene; numbers of several seeds are lists."""
    names = list(dict.fromkeys(row["scene"] for row in rows))
    out = []
    for name in names:
        same = [row for row in rows if row["scene"] == name]
        merged: dict[str, Any] = {"name": name}
        for group in ("RMS", "raw", "network"):
            merged[group] = {
                key: [round(row[group][key], 4) for row in same]
                for key, value in same[0][group].items()
                if value is not None
            }
        flags = sorted({flag for row in same for flag in row["flags"]})
        if flags:
            merged["flags"] = ", ".join(flags)
        out.append(merged)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name, _ in scenes(np.random.default_rng(0))]
    parser.add_argument("--scenes", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--pictures", type=Path, help="folder for pictures")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results")
    parser.add_argument("--note", default="", help="other load of the machine")
    args = parser.parse_args()
    pictures = None
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        pictures = str(args.pictures)
    os.environ["OMP_NUM_THREADS"] = "1"
    jobs = [(name, seed, pictures) for name in args.scenes for seed in args.seeds]
    rows = []
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.processes) as pool:
        for row in pool.imap(measure, jobs):
            print(row, flush=True)
            rows.append(row)
    result = {
        "command": "python -m benchmarks.stem.real_scenes",
        "machine": machine(),
        "date": str(date.today()),
        "rows": gathered(rows),
    }
    if args.note:
        result["note"] = args.note
    write(result, args.out / "stem_real_scenes.yaml")


if __name__ == "__main__":
    main()
