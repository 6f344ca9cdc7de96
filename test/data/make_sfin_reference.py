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


"""Write the reference files of the image network with the authors' PyTorch code.

Run with a Python that has torch and pytorch_msssim (no Paddle), from the root::

    git clone https://github.com/HeasonLee/SFIN authors
    OMP_NUM_THREADS=1 python test/data/make_sfin_reference.py authors

The network is theirs with 8 channels and 2 blocks instead of 64 and 8, so that the
files stay small. The files hold arrays only:

- ``weight/NAME``: initial weights and BatchNorm statistics, float32;
- ``case/HxW/input|float32|float64``: an image [1, 1, H, W] and the network's outputs in
  evaluation;
- ``train/noisy``, ``train/target``: pairs [8, 1, 24, 32]; ``train/loss/DTYPE``: the
  losses of two epochs of Adam steps at batch 2; ``train/gradient/DTYPE/NAME``: those
  of the first step; ``train/final/DTYPE/NAME``: weights and statistics at the end;
- in the other file, ``NAME/predicted|true|psnr|ssim|ssim64``: images and their scores,
  ``ssim64`` being their function in double precision.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from benchmarks import sfin_authors  # noqa: E402

SIZES = ((32, 32), (33, 47), (7, 64), (1, 40), (40, 1), (65, 30))
DTYPES = ("float32", "float64")


def network_reference(authors: Path) -> dict[str, np.ndarray]:
    """Return outputs, gradients, losses and final weights of the small network."""
    module = sfin_authors.load(authors, "sfin", ch=8, n_blocks=2)
    torch.manual_seed(0)
    network = module.SFIN()
    sfin_authors.trained_like(network, seed=1)
    start = sfin_authors.weights(network)
    found = {f"weight/{name}": value for name, value in start.items()}
    noisy = sfin_authors.pictures(8, 24, 32, seed=2)
    target = sfin_authors.pictures(8, 24, 32, seed=3)
    found.update({"train/noisy": noisy, "train/target": target})
    for dtype in DTYPES:
        with sfin_authors.precision(dtype) as kind, torch.no_grad():
            network = sfin_authors.fill(module.SFIN(), start).to(kind).eval()
            for height, width in SIZES:
                key = f"case/{height}x{width}"
                found[f"{key}/input"] = sfin_authors.pictures(1, height, width, seed=4)
                output = network(torch.from_numpy(found[f"{key}/input"]).to(kind))
                found[f"{key}/{dtype}"] = output.numpy()
        with sfin_authors.precision(dtype) as kind:
            network = sfin_authors.fill(module.SFIN(), start)
            losses, gradients = sfin_authors.train(network, noisy, target, kind, 2, 2)
        found[f"train/loss/{dtype}"] = losses
        found.update({f"train/gradient/{dtype}/{n}": v for n, v in gradients.items()})
        found.update(sfin_authors.weights(network, f"train/final/{dtype}/"))
    return found


def metric_reference(authors: Path) -> dict[str, np.ndarray]:
    """Return images and their scores."""
    module = sfin_authors.load(authors, "metrics")
    rng = np.random.default_rng(5)
    pairs = {}
    for height, width, noise in (
        (64, 64, 4.0),
        (37, 53, 25.0),
        (11, 11, 1.0),
        (12, 90, 80.0),
        (75, 128, 0.6),
    ):
        true = sfin_authors.picture(height, width, rng)
        pairs[f"{height}x{width}"] = true + rng.normal(0, noise, true.shape), true
    true = sfin_authors.picture(48, 48, rng)
    pairs["inverted"] = 255 - true, true
    pairs["flat"] = np.full((24, 40), 201.7), np.full((24, 40), 200.0)
    pairs["saturated"] = np.where(true > 90, 300.0, -40.0), np.where(true > 90, 255, 0)
    found = {}
    for name, (predicted, true) in pairs.items():
        predicted, true = predicted.astype(np.float32), true.astype(np.uint8)
        if name == "saturated":
            predicted[0, 0] = 254.9  # otherwise equal, where their PSNR fails
        found.update({f"{name}/predicted": predicted, f"{name}/true": true})
        scores = sfin_authors.scores(module, predicted, true)
        for score, value in scores.items():
            found[f"{name}/{score}"] = np.array(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("authors", type=Path, help="a clone of HeasonLee/SFIN")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    for name, make in (
        ("sfin_reference.npz", network_reference),
        ("sfin_metric_reference.npz", metric_reference),
    ):
        path = args.out / name
        np.savez_compressed(path, **make(args.authors))
        print(f"wrote {path}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
