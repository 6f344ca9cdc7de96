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


"""Write a small synthetic data set in the folder layout of the SFIN data.

``python -m ppmat.datasets.stem.sample FOLDER --train 64 --test 16 --size 128``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ppmat.datasets.stem.noise import NoiseModel
from ppmat.datasets.stem.synthesis import make_scene


def write_pair(
    folder: Path, name: str, rng: np.random.Generator, size: int, noise: NoiseModel
) -> None:
    """Write ``noisy``, ``gt_enhance`` and ``gt_detect`` of one scene as 8-bit PNG.

    Args:
        folder: Folder of the split.
        name: Stem of the three files.
        rng: Random numbers of this scene.
        size: Height and width, pixels.
        noise: Noise of the image.
    """
    scene = make_scene(rng, (size, size))
    images = {
        "noisy": noise.apply(scene.gt_enhance, rng),
        "gt_enhance": scene.gt_enhance,
        "gt_detect": scene.gt_detect,
    }
    for kind, image in images.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        grey = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / kind / f"{name}.png", optimize=True)


def main(argv: list[str] | None = None) -> None:
    """Write the data set that the command line describes."""
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
        "command": f"python -m ppmat.datasets.stem.sample FOLDER --train {args.train} "
        f"--test {args.test} --size {args.size} --seed {args.seed}",
        "noise": json.loads(noise.to_json()),
    }
    (args.folder / "sample.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
