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


"""Differences of the image network and its metrics from the authors' PyTorch code.

The network has the paper's size (64 channels, 8 blocks). Its weights are random, with
BatchNorm factors of both signs and statistics of images, as after a training. Both
codes get the same weights and images, in float32 and float64. Compared are outputs in
evaluation, gradients, the losses of two epochs of Adam steps, PSNR and SSIM. The first
command leaves a file for the second, so PyTorch and Paddle may have environments of
their own.

Usage::

    git clone https://github.com/HeasonLee/SFIN authors
    TORCH_PYTHON -m benchmarks.sfin_agreement reference --authors authors
    python -m benchmarks.sfin_agreement compare
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import result_of
from benchmarks.runs import write

sys.path.insert(0, str(ROOT / "test"))

import agreement  # noqa: E402
from agreement import below  # noqa: E402

DTYPES = ("float32", "float64")
SIZES = ((64, 64), (65, 63), (96, 130), (127, 201), (256, 256))
EPOCHS, PAIRS, BATCH, SIDE, RATE = 2, 8, 2, 64, 2e-4
SCORED = 20  # images of 256 x 256, half of them bright as in bright field
OUTPUT_BOUND = {"float32": 1e-3, "float64": 1e-6}  # grey levels
LOSS_BOUND = {"float32": 5e-6, "float64": 1e-7}  # relative
# Relative to a layer's largest gradient; derived in test/test_sfin_agreement.py.
GRADIENT_BOUND = {"float32": 10 / (BATCH * SIDE * (SIDE // 2 + 1)), "float64": 1.2e-9}
NOTE = """Largest differences from the authors' PyTorch code with the same weights and
images, at the paper's size (64 channels, 8 blocks). The weights are random, with
BatchNorm factors of both signs and statistics of images: the authors' checkpoints
were not at hand. The last column is the rounding of the reference itself; that of
gradients comes from the few ReLUs whose input is within rounding of zero. The authors
compute PSNR in double and SSIM in single precision; SSIM in float64 is their function
with double input."""
PSNR_BOUND, SSIM_BOUND = 1e-4, 5e-5  # dB, 1


def reference(authors: Path, path: Path) -> None:
    """Run the authors' code and write inputs, weights and results to a file."""
    import torch

    from benchmarks import sfin_authors

    module = sfin_authors.load(authors, "sfin")
    torch.manual_seed(0)
    network = module.SFIN()
    sfin_authors.trained_like(network, seed=1)
    start = sfin_authors.weights(network)
    noisy = sfin_authors.pictures(PAIRS, SIDE, SIDE, seed=2)
    target = sfin_authors.pictures(PAIRS, SIDE, SIDE, seed=3)
    found = {"torch": np.array(torch.__version__), "noisy": noisy, "target": target}
    found.update({f"weight/{name}": value for name, value in start.items()})
    for dtype in DTYPES:
        with sfin_authors.precision(dtype) as kind, torch.no_grad():
            network = sfin_authors.fill(module.SFIN(), start).to(kind).eval()
            for height, width in SIZES:
                image = sfin_authors.pictures(1, height, width, seed=4)
                found[f"input/{height} x {width}"] = image
                output = network(torch.from_numpy(image).to(kind)).numpy()
                found[f"output/{dtype}/{height} x {width}"] = output
        with sfin_authors.precision(dtype) as kind:
            network = sfin_authors.fill(module.SFIN(), start)
            losses, gradients = sfin_authors.train(
                network, noisy, target, kind, EPOCHS, BATCH
            )
        found[f"loss/{dtype}"] = losses
        found.update({f"gradient/{dtype}/{n}": v for n, v in gradients.items()})
    metrics = sfin_authors.load(authors, "metrics")
    rng = np.random.default_rng(5)
    for image in range(SCORED):
        true = sfin_authors.picture(256, 256, rng, noise=0.0)
        true = 255 - np.maximum(true - 90, 0) if image % 2 else np.maximum(true - 90, 0)
        predicted = true + rng.normal(0, 1 + image / 2, true.shape)
        predicted, true = predicted.astype(np.float32), true.astype(np.uint8)
        found.update({f"predicted/{image}": predicted, f"true/{image}": true})
        for score, value in sfin_authors.scores(metrics, predicted, true).items():
            found[f"{score}/{image}"] = np.array(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.0f} MB")


def build(stored: dict[str, np.ndarray], dtype: str):
    """Return our network with the reference's weights."""
    from ppmat.models.sfin.sfin import SFIN

    return agreement.fill(SFIN(), below(stored, "weight/"), dtype)


def outputs(stored: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Return our output of each input."""
    import paddle

    model = build(stored, dtype)
    model.eval()
    with paddle.no_grad():
        return {
            size: model(image.astype(dtype)).numpy()
            for size, image in below(stored, "input/").items()
        }


def train(
    stored: dict[str, np.ndarray], dtype: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return our losses, and the gradients of the first step."""
    noisy, target = (stored[name].astype(dtype) for name in ("noisy", "target"))
    return agreement.train(build(stored, dtype), noisy, target, RATE, BATCH, EPOCHS)


def gradient_difference(
    found: dict[str, np.ndarray],
    wanted: dict[str, np.ndarray],
    exact: dict[str, np.ndarray],
) -> float:
    """Return the largest difference relative to the layer's largest gradient."""
    return max(agreement.gradient_differences(found, wanted, exact).values())


def row(
    name: str,
    difference: Callable[[str], float],
    bounds: dict[str, float],
    own: float | None,
) -> dict:
    """Return a row: our difference in each precision, and the reference's own error."""
    found: dict = {"name": name}
    for dtype in DTYPES:
        found[dtype] = {}
        if dtype in bounds:
            value = float(difference(dtype))
            found[dtype] = {"difference": value, "bound": float(bounds[dtype])}
            verdict = "ok" if value <= bounds[dtype] else "BEYOND THE BOUND"
            print(f"{name}, {dtype}: {value:.1e} of {bounds[dtype]:.1e}, {verdict}")
    if own is not None:
        found["float32 against float64 in PyTorch"] = float(own)
    return found


def largest(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference."""
    return np.abs(found - wanted).max()


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest relative difference."""
    return np.abs(found / wanted - 1).max()


def output_range(stored: dict[str, np.ndarray]) -> str:
    """Return the range of the reference's outputs, as text."""
    values = np.concatenate([v.ravel() for v in below(stored, "output/").values()])
    return f"{values.min():.0f} to {values.max():.0f}"


def network_rows(stored: dict[str, np.ndarray]) -> list[dict]:
    """Return the rows of outputs, gradients and losses."""
    ours = {dtype: outputs(stored, dtype) for dtype in DTYPES}
    theirs = {dtype: below(stored, f"output/{dtype}/") for dtype in DTYPES}
    rows = [
        row(
            f"output at {size} [grey levels]",
            lambda dtype, size=size: largest(ours[dtype][size], theirs[dtype][size]),
            OUTPUT_BOUND,
            largest(theirs["float32"][size], theirs["float64"][size]),
        )
        for size in theirs["float64"]
    ]
    trained = {dtype: train(stored, dtype) for dtype in DTYPES}
    wanted = {dtype: below(stored, f"gradient/{dtype}/") for dtype in DTYPES}
    exact = wanted["float64"]
    rows.append(
        row(
            "gradients of all parameters [largest of the layer]",
            lambda dtype: gradient_difference(trained[dtype][1], wanted[dtype], exact),
            GRADIENT_BOUND,
            gradient_difference(wanted["float32"], exact, exact),
        )
    )
    rows.append(
        row(
            f"losses of {len(stored['loss/float64'])} Adam steps, {EPOCHS} epochs "
            "[relative]",
            lambda dtype: relative(trained[dtype][0], stored[f"loss/{dtype}"]),
            LOSS_BOUND,
            relative(stored["loss/float32"], stored["loss/float64"]),
        )
    )
    return rows


def metric_rows(stored: dict[str, np.ndarray]) -> list[dict]:
    """Return the rows of PSNR and SSIM: the worst image, and the mean over images."""
    from ppmat.metrics.sfin_metric import calc_psnr
    from ppmat.metrics.sfin_metric import calc_ssim

    names = list(below(stored, "true/"))
    ours = {
        function: np.array(
            [
                float(
                    function(
                        stored[f"predicted/{name}"][None, None],
                        stored[f"true/{name}"][None, None],
                        protocol="author",
                    )
                )
                for name in names
            ]
        )
        for function in (calc_psnr, calc_ssim)
    }
    theirs = {
        score: np.array([float(stored[f"{score}/{name}"]) for name in names])
        for score in ("psnr", "ssim", "ssim64")
    }
    rows = []
    for what, take in (
        ("worst of", lambda x: np.abs(x).max()),
        ("mean over", lambda x: np.abs(x.mean())),
    ):
        rows.append(
            row(
                f"PSNR, {what} {len(names)} images [dB]",
                lambda dtype, take=take: take(ours[calc_psnr] - theirs["psnr"]),
                {"float64": PSNR_BOUND},
                None,
            )
        )
        keys = {"float32": "ssim", "float64": "ssim64"}
        rows.append(
            row(
                f"SSIM, {what} {len(names)} images",
                lambda dtype, take=take, keys=keys: take(
                    ours[calc_ssim] - theirs[keys[dtype]]
                ),
                dict.fromkeys(DTYPES, SSIM_BOUND),
                take(theirs["ssim"] - theirs["ssim64"]),
            )
        )
    return rows


def compare(path: Path, out: Path) -> None:
    """Run ours and write the table."""
    import paddle

    with np.load(path) as file:
        stored = {key: file[key] for key in file.files}
    rows = network_rows(stored) + metric_rows(stored)
    result = result_of(
        "python -m benchmarks.sfin_agreement compare",
        **{
            "PyTorch": str(stored["torch"]),
            "Paddle": paddle.__version__,
            "outputs in grey levels": output_range(stored),
            "note": " ".join(NOTE.split()),
            "rows": rows,
        },
    )
    write(result, out / "sfin_agreement.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("reference", "compare"))
    parser.add_argument("--authors", type=Path, help="a clone of HeasonLee/SFIN")
    parser.add_argument(
        "--reference",
        type=Path,
        default=Path("output/benchmark_sfin_agreement/reference.npz"),
        help="the file between the two steps",
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.step == "compare":
        compare(args.reference, args.out)
    elif args.authors is None:
        parser.error("reference needs --authors")
    else:
        reference(args.authors, args.reference)


if __name__ == "__main__":
    main()
