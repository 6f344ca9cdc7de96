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

"""Measure alignment, average and noise of frame series of known drift and noise.

``python -m benchmarks.stem.series`` writes docs/results/stem_series.yaml and
stem_background.yaml in about two minutes of one core. Each series has 8 frames of 256 x
256 of a lattice of 14 px with columns of 2.8 px; it drifts by 1.5 px a frame, unevenly.
The specimens differ in thickness; no scene has background noise unless its row says
so.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
from collections.abc import Callable

import numpy as np

from benchmarks.runs import RESULTS
from benchmarks.runs import write
from ppmat.stem.noise.calibration import CalibrationError
from ppmat.stem.noise.calibration import calibrate
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.series.averaging import average_frames

SIDE, FRAMES = 256, 8
STEP = np.array([1.3, -0.7])  # mean drift of a frame, pixels
THICKNESS: dict[str, Callable] = {
    "flat": lambda y, x: np.ones_like(x),
    "wedge": lambda y, x: np.clip(1 - x / 300, 0.1, 1),
    "turned wedge": lambda y, x: np.clip(1 - (x + 0.6 * y) / 420, 0.1, 1),
    "edge": lambda y, x: 1 / (1 + np.exp((x + 0.3 * y - 190) / 8)),
    "particle": lambda y, x: np.sqrt(
        np.clip(1 - ((y - 128) ** 2 + (x - 128) ** 2) / 110**2, 0, 1)
    ),
}
BACKGROUNDS = [(specimen, 0.0) for specimen in THICKNESS]
BACKGROUNDS += [("flat", 4.0), ("wedge", 4.0)]
STILL = NoiseModel(
    background_sd=0.0, scan_slope=0.0, scan_intercept=0.0, pointwise_slope=0.0
)


def lattice(offset: np.ndarray) -> np.ndarray:
    """Return columns on a turned lattice, the smaller ones between them [H, W]."""
    grid = np.stack(np.meshgrid(*[np.arange(-24, 25)] * 2), axis=-1).reshape(-1, 2)
    cell = 14 * np.array([[0.995, -0.0998], [0.0998, 0.995]])
    y, x = np.concatenate([grid, grid + 0.5]).dot(cell).T + SIDE / 2
    height = np.repeat([100.0, 50.0], len(grid))
    y, x = y + offset[0], x + offset[1]
    inside = (abs(y - SIDE / 2) < SIDE / 2 + 15) & (abs(x - SIDE / 2) < SIDE / 2 + 15)
    sigma = np.full(np.count_nonzero(inside), 2.8)
    columns = AtomColumns(y[inside], x[inside], height[inside], sigma)
    return columns.render((SIDE, SIDE), 0.0)


def series(
    specimen: str, noise: NoiseModel, jitter: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return frames [n, H, W] and their shifts [n, 2]."""
    steps = STEP + rng.normal(0, 0.3, (FRAMES, 2))
    shifts = np.cumsum(steps, axis=0) - steps[0]
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    frames = []
    for shift in shifts:
        thick = THICKNESS[specimen](y - shift[0], x - shift[1])
        clean = 30 + thick * (lattice(shift) + 150)
        if jitter:
            moved = x + rng.normal(0, jitter, (SIDE, 1))
            clean = np.stack([np.interp(m, x[0], row) for m, row in zip(moved, clean)])
        frames.append(noise.apply(clean, rng))
    return np.array(frames), shifts


def average_row(specimen: str, noise: NoiseModel, jitter: float, seeds: int) -> dict:
    """Return errors of alignment, of the average and of the jitter."""
    errors, excess, found = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        frames, shifts = series(specimen, noise, jitter, rng)
        average = average_frames(frames)
        errors.append(average.drift.shifts[1:] - shifts[1:])
        excess.append(average.noise / average.frame_noise * np.sqrt(FRAMES))
        found.append(np.sqrt(np.mean(average.drift.jitter**2)))
    return {
        "specimen": specimen,
        "pointwise noise": noise.pointwise_intercept,
        "jitter, px": jitter,
        "alignment error, RMS, px": round(float(np.std(errors)), 3),
        "largest": round(float(np.abs(errors).max()), 3),
        "noise of average x sqrt(n) / noise of frame": round(float(np.mean(excess)), 3),
        "jitter found, px": round(float(np.mean(found)), 2),
    }


def background_row(specimen: str, background: float) -> dict:
    """Return the background found in one frame and by the differences of four."""
    noise = NoiseModel(background_sd=background)
    frames, _ = series(specimen, noise, 0.0, np.random.default_rng(5))
    row: dict = {"specimen": specimen, "true background": background}
    for name, images, options in (
        ("one frame", frames[:1], {}),
        ("series of 2", frames[:2], {"series": True}),
    ):
        try:
            found = calibrate(images, **options)
        except CalibrationError:
            row[name] = "refused"
            continue
        row[name] = round(found.model.background_sd, 2)
        row[f"{name}: specimen"] = round(found.specimen_sd, 1)
        ratio = found.model.pointwise_sd(150.0) / noise.pointwise_sd(150.0)
        row[f"{name}: pointwise / true"] = round(float(ratio), 3)
    return row


def main() -> None:
    """Measure all rows, or those of one table, and write the result files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("series", "background"))
    only = parser.parse_args().only
    made = {
        "command": "python -m benchmarks.stem.series",
        "machine": "2 shared cores, one thread",
        "date": datetime.date.today().isoformat(),
    }
    if only != "background":
        rows = [
            average_row(
                specimen,
                dataclasses.replace(STILL, pointwise_intercept=level),
                jitter,
                3,
            )
            for specimen in THICKNESS
            for level, jitter in ((15.0, 0.0), (40.0, 0.0), (15.0, 0.5))
        ]
        note = "Series of 8 frames of 256 x 256, 3 seeds. Errors are against frame 0."
        write({**made, "note": note, "rows": rows}, RESULTS / "stem_series.yaml")
    if only != "series":
        rows = [background_row(*case) for case in BACKGROUNDS]
        note = (
            "Standard deviations in grey levels, beside the pointwise and scan noise "
            "of the paper. A background of 0 was not found, or not measured and said so"
        )
        write({**made, "note": note, "rows": rows}, RESULTS / "stem_background.yaml")


if __name__ == "__main__":
    main()
