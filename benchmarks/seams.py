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


"""Seams of tiles in an enhanced image, for several overlaps of a trained network.

``python -m benchmarks.seams -c YAML --checkpoint best.pdparams``

Synthetic noisy scenes, larger than a tile, are enhanced with several overlaps. The
result has the difference to the doubled overlap, divided by the range of the image
(greatest minus least value), and the PSNR against the scene. Small images, cut from the
scenes, are enhanced in two ways: reflected to a full tile, and at their own size.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np

from benchmarks.runs import RESULTS
from benchmarks.runs import result_of
from benchmarks.runs import write

SMALL = (0.25, 0.5, 0.75)  # sides of small images, in tiles


def scenes(number: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of noisy and clean images in grey levels."""
    from ppmat.stem.noise.noise_model import NoiseModel
    from ppmat.stem.scenes.random_scenes import make_scene

    pairs = []
    for seed in range(number):
        rng = np.random.default_rng([2026, seed])
        clean = make_scene(rng, (size, size)).gt_enhance
        pairs.append((NoiseModel().apply(clean, rng), clean))
    return pairs


def psnr(found: np.ndarray, clean: np.ndarray) -> float:
    """Return the PSNR [dB] for grey levels 0 to 255."""
    return float(-10 * np.log10(np.mean((found - clean) ** 2) / 255**2))


def rows_of_overlaps(predictor, pairs: list, tile: int) -> list[dict]:
    """Return a row for each overlap."""
    overlaps = [0, tile // 16, tile // 8, tile // 4, tile // 2]
    table: dict[int, dict[str, list]] = {n: {} for n in overlaps}
    for noisy, clean in pairs:
        results = {
            n: predictor.enhance(noisy, scaling="grey", overlap=n) for n in overlaps
        }
        for n, found in results.items():
            row = table[n]
            row.setdefault("PSNR [dB]", []).append(psnr(found, clean))
            double = results.get(2 * n) if n else None
            if double is not None:
                change = (found - double) / np.ptp(double)
                lines = [float(abs(change.mean(axis)).max()) for axis in (0, 1)]
                row.setdefault("RMS", []).append(float(np.sqrt(np.mean(change**2))))
                row.setdefault("largest pixel", []).append(float(abs(change).max()))
                row.setdefault("largest line", []).append(max(lines))
    return [
        {"name": f"overlap {n}", **{k: mean(v) for k, v in row.items()}}
        for n, row in table.items()
    ]


def rows_of_small_images(predictor, pairs: list, tile: int) -> list[dict]:
    """Return a row for each size below a tile."""
    rows = []
    for share in SMALL:
        size = int(share * tile)
        found: dict[str, list] = {"reflected": [], "own size": []}
        for noisy, clean in pairs:
            part = noisy[:size, :size]
            for name, values in found.items():
                side = tile if name == "reflected" else size
                image = predictor.enhance(part, scaling="grey", tile_size=side)
                values.append(psnr(image, clean[:size, :size]))
        for name, values in found.items():
            label = f"{size} x {size}, {name}"
            rows.append({"name": label, "PSNR [dB]": mean(values)})
    return rows


def mean(values: list[float]) -> float:
    """Return the mean, rounded to four significant digits."""
    return float(f"{statistics.mean(values):.4g}")


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("-c", "--config", required=True)
    add("--checkpoint", required=True)
    add("--size", type=int, default=4, help="side of the scenes, in tiles")
    add("--scenes", type=int, default=4)
    add("--training", default="unknown", help="how the network was trained")
    add("--out", type=Path, default=RESULTS / "seams.yaml")
    args = parser.parse_args()
    from ppmat.predictor import SpectrumPredictor

    predictor = SpectrumPredictor(
        config_path=args.config, checkpoint_path=args.checkpoint
    )
    tile = predictor.defaults.tile_size
    pairs = scenes(args.scenes, args.size * tile)
    rows = rows_of_overlaps(predictor, pairs, tile)
    rows += rows_of_small_images(predictor, pairs, tile)
    name = Path(args.config).name
    result = result_of(
        f"python -m benchmarks.seams -c {name} --checkpoint best.pdparams "
        f"--size {args.size} --scenes {args.scenes}",
        tile=tile,
        rows=rows,
        training=args.training,
        note="RMS, largest pixel, largest line: change when the overlap is doubled, "
        "in units of the range of the image; a line is the mean over a row or column, "
        "in which a seam would show. PSNR: against the scene without noise.",
    )
    write(result, args.out)


if __name__ == "__main__":
    main()
