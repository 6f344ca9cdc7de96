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

"""Write the example data set of this repository, in the folder layout of SFIN.

The recipe is that of the shipped images and must not change. Scenes for training come
from :func:`ppmat.stem.scenes.random_scenes.make_scene`.

``python -m benchmarks.stem.example_sample FOLDER --train 64 --test 16 --size 128``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.stem.scenes.random_scenes import random_lattice
from ppmat.stem.scenes.random_scenes import random_positions
from ppmat.stem.scenes.scene_folder import write_grey_png


def lattice_positions(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sites of a random two-dimensional crystal with one or two atoms.

    Args:
        rng: Random numbers.
        shape: ``(H, W)``.
        spacing: Length of the first lattice vector, pixels.

    Returns:
        Positions ``(y, x)``, pixels [n, 2], and the site in the cell [n].
    """
    cell, corners = random_lattice(rng, shape, spacing, margin=0.0)
    sites = [rng.uniform(size=2)]
    if rng.random() < 0.6:
        sites.append(sites[0] + rng.uniform(0.4, 0.6, size=2))
    middle = np.array(shape) / 2
    positions = np.concatenate([corners + site @ cell for site in sites]) + middle
    kinds = np.repeat(np.arange(len(sites)), len(corners))
    inside = np.all((positions > -4) & (positions < np.array(shape) + 3), axis=1)
    return positions[inside], kinds[inside]


def sample_scene(rng: np.random.Generator, shape: tuple[int, int]) -> Scene:
    """Return a HAADF-like scene: a crystal with defects, or a random arrangement.

    Args:
        rng: Random numbers.
        shape: ``(H, W)``.
    """
    spacing = rng.uniform(9.0, 18.0)
    if rng.random() < 0.75:
        positions, kinds = lattice_positions(rng, shape, spacing)
        positions = positions + rng.normal(0, rng.uniform(0, 0.4), positions.shape)
        present = rng.random(len(positions)) > rng.choice([0.0, 0.03])
        positions, kinds = positions[present], kinds[present]
    else:
        positions = random_positions(rng, shape, 0.8 * spacing)
        kinds = rng.integers(0, 3, len(positions))
    level = rng.uniform(15, 60)
    contrast = rng.uniform(90, 180) * np.array([1.0, *rng.uniform(0.25, 0.9, 2)])
    height = contrast[kinds] * rng.normal(1.0, 0.05, len(kinds))
    sigma = np.full(len(kinds), rng.uniform(0.16, 0.24) * spacing)
    columns = AtomColumns(positions[:, 0], positions[:, 1], height, sigma)
    return Scene(
        np.clip(columns.render(shape, level), 0, 255), columns.spots(shape), columns
    )


def write_pair(
    folder: Path, name: str, rng: np.random.Generator, size: int, noise: NoiseModel
) -> None:
    """Write ``noisy``, ``gt_enhance`` and ``gt_detect`` of one scene as 8-bit PNG.

    Args:
        folder: Folder of the split.
        name: Stem of the three files.
        rng: Random numbers.
        size: Height and width, pixels.
        noise: Noise of the image.
    """
    scene = sample_scene(rng, (size, size))
    images = {
        "noisy": noise.apply(scene.gt_enhance, rng),
        "gt_enhance": scene.gt_enhance,
        "gt_detect": scene.gt_detect,
    }
    for kind, image in images.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_grey_png(folder / kind / f"{name}.png", image)


def main(argv: list[str] | None = None) -> None:
    """Write the data set of a command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train/ and test/ go")
    parser.add_argument("--train", type=int, default=64, help="training images")
    parser.add_argument("--test", type=int, default=16, help="test images")
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if (args.folder / "train").exists() or (args.folder / "test").exists():
        parser.error(f"{args.folder} holds a data set already; name a new folder")
    noise = NoiseModel()
    for split, (name, count) in enumerate((("train", args.train), ("test", args.test))):
        for i in range(count):
            rng = np.random.default_rng([args.seed, split, i])
            write_pair(args.folder / name, str(i), rng, args.size, noise)
    record = {
        "command": "python -m benchmarks.stem.example_sample FOLDER "
        f"--train {args.train} --test {args.test} --size {args.size} "
        f"--seed {args.seed}",
        "noise": json.loads(noise.to_json()),
    }
    (args.folder / "sample.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
