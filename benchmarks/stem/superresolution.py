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

"""Super-resolution by what it is for: pairs told apart, false spots, intensities.

``pairs``: share of close pairs of columns of which detection finds both within half
their distance, and columns found that are none. Seeds come from the raw image or from
the super-resolved one, with the default smallest distance of columns, or with a given
one of 1.6 sigma. ``noise``: peaks of the super-resolved image of noise alone, each
counted if it is higher than a quarter of the usual spot in the super-resolved image of
a lattice, per column that an image of
the lattice would have. ``intensity``: integrals of spots against true ones.

Usage::

    python -m benchmarks.stem.superresolution
"""

from __future__ import annotations

import argparse
import dataclasses
from datetime import date
from pathlib import Path

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from benchmarks.runs import machine
from benchmarks.runs import write

ROOT = Path(__file__).resolve().parents[2]
SIZE = 96  # pixels
SIGMA = 2.5  # pixels; standard deviation of a column
SPACING = 21.0  # pixels; lattice of pairs, or of single columns
HEIGHTS = (120.0, 90.0)  # grey levels; of the columns of a pair
LEVEL = 30.0  # grey levels; background
SEPARATIONS = (2.0, 2.5, 3.0)  # sigma
NOISE = (0.25, 0.5, 1.0)  # times the noise of the paper's example image
SEEDS = (0, 1, 2)
GIVEN = 1.6  # sigma; smallest distance of columns where detection is given one
BORDER = 10.0  # pixels; pairs and columns nearer to the border do not count
RADIUS = 4.0  # pixels around a column that belong to its spot
SHARE = 0.25  # of the height of a column's spot; lower peaks are no false spots


def noise_model(level: float):
    """Return the paper's noise with all standard deviations times ``level``."""
    from ppmat.stem.noise.noise_model import NoiseModel

    model = NoiseModel()
    names = (
        *("background_sd", "scan_slope", "scan_intercept"),
        *("pointwise_slope", "pointwise_intercept"),
    )
    values = {name: level * getattr(model, name) for name in names}
    return dataclasses.replace(model, **values)


def places(rng: np.random.Generator) -> np.ndarray:
    """Return the sites (y, x) of a turned square lattice around the image [n, 2]."""
    index = np.arange(-8, 9)
    index = np.stack(np.meshgrid(index, index), axis=-1).reshape(-1, 2)
    angle = rng.uniform(0, np.pi / 2)
    c, s = np.cos(angle), np.sin(angle)
    sites = SPACING * index @ np.array([[c, -s], [s, c]])
    return sites + SIZE / 2 + rng.uniform(0, SPACING, 2)


def inner(positions: np.ndarray) -> np.ndarray:
    """Return a mask of the positions that count [n]."""
    return np.all((positions > BORDER) & (positions < SIZE - 1 - BORDER), axis=1)


def draw_pairs(separation: float, level: float, seed: int):
    """Return a noisy image [H, W] and the columns of its pairs [n, 2, 2], pixels."""
    from ppmat.stem.scenes.atom_columns import AtomColumns

    rng = np.random.default_rng([seed, round(100 * separation), round(100 * level)])
    sites, angle = places(rng), rng.uniform(0, np.pi)
    half = separation * SIGMA / 2 * np.array([np.sin(angle), np.cos(angle)])
    pairs = np.stack([sites - half, sites + half], axis=1)
    heights = np.tile(HEIGHTS, len(pairs))
    columns = AtomColumns(
        *pairs.reshape(-1, 2).T, heights, np.full(len(heights), SIGMA)
    )
    clean = columns.render((SIZE, SIZE), LEVEL)
    return noise_model(level).apply(clean, rng), pairs


def told_apart(found: np.ndarray, pairs: np.ndarray, reach: float) -> tuple:
    """Return pairs found whole, pairs, columns found, and those at no true column."""
    good = pairs[inner(pairs.mean(axis=1))]
    if not len(found):
        return 0, len(good), 0, 0
    distance, number = cKDTree(found).query(good.reshape(-1, 2))
    distance, number = distance.reshape(-1, 2), number.reshape(-1, 2)
    whole = np.all(distance < reach, axis=1) & (number[:, 0] != number[:, 1])
    counted = found[inner(found)]
    far = cKDTree(pairs.reshape(-1, 2)).query(counted)[0] > reach
    return int(whole.sum()), len(good), len(counted), int(far.sum())


def pair_rows(narrow) -> list[dict]:
    """Return a row for each separation, noise and way of detection."""
    from ppmat.stem.columns.detection import detect_columns

    rows = []
    for separation in SEPARATIONS:
        for level in NOISE:
            print(f"pairs: separation {separation} sigma, noise {level}", flush=True)
            totals = {}
            for seed in SEEDS:
                image, pairs = draw_pairs(separation, level, seed)
                seeds = {"enhanced": narrow(image), "seeds_from": "map"}
                for source, options in (("raw", {}), ("super-resolved", seeds)):
                    for given in (None, GIVEN * SIGMA):
                        table = detect_columns(image, separation=given, **options)
                        counts = told_apart(
                            table.positions, pairs, separation * SIGMA / 2
                        )
                        key = source, "default" if given is None else "given"
                        totals[key] = np.add(totals.get(key, 0), counts)
            for (source, distance), (whole, count, found, far) in totals.items():
                rows.append(
                    {
                        "separation [sigma]": separation,
                        "noise": level,
                        "seeds": source,
                        "smallest distance": distance,
                        "pairs": int(count),
                        "told apart": round(float(whole / count), 3),
                        "false columns": round(float(far / max(found, 1)), 3),
                    }
                )
    return rows


def spot_rows(narrow) -> list[dict]:
    """Return a row for each noise: false spots of noise alone, and intensities."""
    from ppmat.stem.scenes.atom_columns import AtomColumns

    y, x = np.mgrid[:SIZE, :SIZE]
    rows = []
    for level in NOISE:
        false = columns_seen = 0
        true, measured = [], []
        for seed in SEEDS:
            rng = np.random.default_rng([seed, round(100 * level)])
            sites = places(rng)
            heights = rng.uniform(20.0, 130.0, len(sites))
            columns = AtomColumns(*sites.T, heights, np.full(len(sites), SIGMA))
            noise = noise_model(level)
            image = noise.apply(columns.render((SIZE, SIZE), LEVEL), rng)
            spots, seen = narrow(image), inner(sites)
            for site in sites[seen]:
                near = (y - site[0]) ** 2 + (x - site[1]) ** 2 < RADIUS**2
                measured.append(float(spots[near].sum()))
            true += columns.volume[seen].tolist()
            usual = np.median(columns.select(seen).values(spots))
            empty = narrow(noise.apply(np.full((SIZE, SIZE), LEVEL), rng))
            peaks = (empty == maximum_filter(empty, 5)) & (empty > SHARE * usual)
            false += int(peaks.sum())
            columns_seen += SIZE**2 / SPACING**2
        true, measured = np.array(true), np.array(measured)
        rows.append(
            {
                "noise": level,
                "false spots per column": round(false / columns_seen, 3),
                "slope of intensity": round(float(true @ measured / (true @ true)), 3),
                "correlation": round(float(np.corrcoef(true, measured)[0, 1]), 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="of another model")
    parser.add_argument("--weights", type=Path, help="of another model")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results")
    args = parser.parse_args()
    from ppmat.predictor.spectrum_predictor import SpectrumPredictor

    own = {"config_path": args.config, "checkpoint_path": args.weights}
    task = None if args.config else "superresolution"
    predictor = SpectrumPredictor(task=task, **own)
    write(
        {
            "command": "python -m benchmarks.stem.superresolution",
            "machine": machine(),
            "date": str(date.today()),
            "note": f"columns of {SIGMA} px; noise: times that of the paper's example; "
            f"seeds {', '.join(map(str, SEEDS))}; images {SIZE} x {SIZE}",
            "spots": spot_rows(predictor.enhance),
            "rows": pair_rows(predictor.enhance),
        },
        args.out / "stem_superresolution.yaml",
    )


if __name__ == "__main__":
    main()
