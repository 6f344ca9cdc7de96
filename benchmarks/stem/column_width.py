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

"""Which estimate of the width of columns serves calibration, and which detection.

``across``: autocorrelation across the scan lines, fitted by a Gaussian
(``ppmat.stem.noise.clean_image``). ``around``: autocorrelation averaged over all
directions but the axes, radius at half height (``ppmat.stem.columns.column_width``).
``python -m benchmarks.stem.column_width --cases FILE``: ten minutes on one core; FILE
has ``scenes()``: name, clean image, columns [n, 3], noise SD, shifts of the lines.
"""

from __future__ import annotations

import argparse
import runpy
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from benchmarks.runs import machine
from benchmarks.runs import write
from benchmarks.stem.calibration import PAPER
from benchmarks.stem.calibration import STRONG
from benchmarks.stem.calibration import errors
from benchmarks.stem.example_sample import sample_scene
from ppmat.metrics.column_matching import match_columns
from ppmat.stem.columns import column_search
from ppmat.stem.columns import detection
from ppmat.stem.columns.column_width import NoColumnsError
from ppmat.stem.columns.column_width import column_width as around
from ppmat.stem.noise import calibration
from ppmat.stem.noise.clean_image import column_width_across_lines as across
from ppmat.stem.noise.counting_noise import CountingNoise
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "spectrum_enhancement/example_data/stem_sample/test/noisy"
NOISE = {"paper": PAPER, "strong": STRONG}
NOISE |= {f"{n} counts": CountingNoise(n, jitter=0.3) for n in (2, 50)}
WHITE = dict(background_sd=0.0, scan_slope=0.0, scan_intercept=0.0, pointwise_slope=0.0)
SPACINGS = ((9.0, 15.0), (15.0, 25.0), (25.0, 40.0))  # pixels
WIDTHS = {"HAADF, narrow": (0.1, 0.2), "HAADF, wide": (0.2, 0.36), "BF": (0.1, 0.36)}


def scenes(file: Path) -> Iterator[tuple]:
    """Yield row, noisy and clean image, true columns (y, x), noise, mode."""
    for (name, width), (kind, noise) in product(WIDTHS.items(), NOISE.items()):
        mode = name.split(",")[0].lower()
        for spacing, seed in product(SPACINGS, range(2)):
            recipe = SceneRecipe(mode, spacing=spacing, width=width, wave_share=0.0)
            rng = np.random.default_rng([seed, int(spacing[0])])
            scene = make_scene(rng, (160, 160), recipe)
            clean, true = scene.gt_enhance, (scene.columns.y, scene.columns.x)
            yield f"{name}, {kind}", noise.apply(clean, rng), clean, true, noise, mode
    for path in sorted(SAMPLE.glob("*.png")):
        scene = sample_scene(np.random.default_rng([0, 1, int(path.stem)]), (128, 128))
        noisy, true = np.asarray(Image.open(path)), (scene.columns.y, scene.columns.x)
        yield "example sample", noisy, scene.gt_enhance, true, PAPER, "haadf"
    rng = np.random.default_rng(1)
    for name, clean, columns, sd, shifts in runpy.run_path(str(file))["scenes"]():
        seen, grid = clean, np.arange(clean.shape[1])
        if shifts is not None:
            seen = [np.interp(grid + s, grid, row) for s, row in zip(shifts, clean)]
        noise = NoiseModel(**WHITE, pointwise_intercept=sd, pointwise_lambda=0.135)
        noisy, true = seen + rng.normal(0, sd, clean.shape), columns[:, :2].T
        yield name.split("_")[0], noisy, clean, true, noise, "haadf"


def calibrated(use_across: bool, noisy, clean, true, noise, mode) -> dict[str, float]:
    """Return the errors of a calibration with one of the estimates."""

    def width(image: np.ndarray) -> float:
        if use_across:
            return across(image)
        try:
            return around(image - np.median(image), np.ones(image.shape, bool))
        except NoColumnsError:
            return across(image)

    noisy, clean = noisy[:256, :256], clean[:256, :256]
    with mock.patch.object(calibration, "column_width_across_lines", width):
        try:
            model = calibration.calibrate(noisy, mode=mode).model
        except calibration.CalibrationError:
            return {"refused": 1.0}
    found = errors(clean, noise, model).items()
    return {"refused": 0.0, **{f"{name} error": abs(e) for name, e in found}}


def detected(use_across: bool, noisy, clean, true, noise, mode) -> dict[str, float]:
    """Return recall, precision and position error with one of the estimates."""

    def width(image: np.ndarray, valid: np.ndarray) -> float:
        found = around(image, valid)
        return across(image) if use_across else found

    with mock.patch.object(column_search, "column_width", width):
        table = detection.detect_columns(noisy, mode=mode)
    true = np.stack(true, axis=1)
    if not len(true):
        return {"found without columns": float(len(table))}
    radius = min(3.0, 0.45 * float(np.median(cKDTree(true).query(true, 2)[0][:, 1])))
    match = match_columns(table, true, radius, noisy.shape, 6.0)
    found = {"recall": match.recall, "precision": match.precision}
    return {**found, "position error [px]": match.median}


def row_of(pairs: list) -> dict:
    """Return means over the images for which both estimates gave a number."""
    row = {"images": len(pairs)}
    for key in dict.fromkeys(key for pair in pairs for key in pair[0] | pair[1]):
        values = np.array([[found.get(key, np.nan) for found in p] for p in pairs])
        values = values[np.isfinite(values).all(axis=1)]
        for name, each in zip(("across", "around"), values.T):
            if len(each):
                row[f"{key}, {name}"] = round(float(each.mean()), 4)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, required=True, help="more scenes")
    cases, pairs = scenes(parser.parse_args().cases), {}
    for (name, *scene), task in product(cases, (calibrated, detected)):
        if task is detected or isinstance(scene[3], NoiseModel):
            pair = [task(use_across, *scene) for use_across in (True, False)]
            pairs.setdefault((name, task.__name__), []).append(pair)
    command = "python -m benchmarks.stem.column_width --cases FILE"
    result = {"command": command, "machine": machine(), "date": str(date.today())}
    rows = [{"scenes": n, "task": t, **row_of(p)} for (n, t), p in pairs.items()]
    write({**result, "rows": rows}, ROOT / "docs/results/column_width.yaml")


if __name__ == "__main__":
    main()
