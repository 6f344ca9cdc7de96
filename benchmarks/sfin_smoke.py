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


"""Scores of ``sfin_smoke.yaml``, compared with the noisy image and a Gaussian blur.

Each seed trains the configuration by the user's command. Its best weights are scored on
whole images, by both protocols. The width of the blur is the one with the highest
validation PSNR (protocol ``author``); test images choose nothing. Every seed leaves a
file in ``--work``, so a benchmark that was stopped continues.

The images are synthetic and few. The numbers show that the commands work; they say
nothing about real micrographs or about the paper.

Usage::

    python -m benchmarks.sfin_smoke --seeds 42 43 44 --jobs 2
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.runs import RESULTS
from benchmarks.runs import ROOT
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import write

CONFIG = ROOT / "spectrum_enhancement/configs/sfin/sfin_smoke.yaml"
SPLITS = ("val", "test")
WIDTHS = np.arange(0.5, 4.01, 0.25)  # standard deviation of the blur, pixels


def settings(seed: int, folder: Path, words: list[str]) -> dict:
    """Return the configuration of a run."""
    from ppmat.utils.config import load_config

    return load_config(
        CONFIG, [*words, f"Trainer.seed={seed}", f"Trainer.output_dir={folder}"]
    )


def images(config: Mapping, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the noisy and the true images of a split, [N, 1, H, W] grey levels."""
    from ppmat.commands.train import build_loaders

    wanted = {name: name == split for name in ("train", *SPLITS)}
    batches = list(build_loaders(config["Dataset"], wanted, seed=0)[split])
    keys = (
        config["Model"]["__init_params__"]["input_name"],
        config["Global"]["target"],
    )
    return tuple(np.concatenate([batch[k].numpy() for batch in batches]) for k in keys)


def scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, dict[str, float]]:
    """Return PSNR [dB] and SSIM of images by both protocols."""
    from ppmat.metrics.sfin_metric import calc_psnr
    from ppmat.metrics.sfin_metric import calc_ssim

    return {
        protocol: {
            name: round(float(metric(predicted, true, protocol=protocol)), 4)
            for name, metric in (("psnr", calc_psnr), ("ssim", calc_ssim))
        }
        for protocol in ("author", "pooled")
    }


def one(seed: int, args: argparse.Namespace) -> None:
    """Train and score one seed."""
    from ppmat.commands import train
    from ppmat.models import build_trained_model
    from ppmat.utils.config import save_config

    folder = args.work / f"seed_{seed}"
    config = settings(seed, folder, args.overrides)
    start = time.perf_counter()
    train.run(config, str(CONFIG), overwrite=True)
    minutes = (time.perf_counter() - start) / 60
    save_config(config, folder / "run.yaml")
    model, _ = build_trained_model(
        config_path=str(folder / "run.yaml"),
        checkpoint_path=str(folder / "checkpoints/best.pdparams"),
    )
    result = {"train_minutes": round(minutes, 2)}
    for split in SPLITS:
        noisy, true = images(config, split)
        enhanced = [model.predict(image)[model.target_name] for image in noisy]
        result[split] = scores(np.concatenate([x.numpy() for x in enhanced]), true)
    (args.work / f"seed_{seed}.json").write_text(json.dumps(result))


def baselines(config: Mapping) -> list[dict]:
    """Return the rows of the noisy image and of the blur."""
    from scipy.ndimage import gaussian_filter

    def blurred(stack: np.ndarray, width: float) -> np.ndarray:
        return gaussian_filter(stack, [0, 0, width, width])

    pairs = {split: images(config, split) for split in SPLITS}
    noisy, true = pairs["val"]
    width = max(WIDTHS, key=lambda w: scores(blurred(noisy, w), true)["author"]["psnr"])
    rows = [{"name": "noisy"}, {"name": f"Gaussian blur of {width:.2f} pixels"}]
    for split, (noisy, true) in pairs.items():
        rows[0][split] = scores(noisy, true)
        rows[1][split] = scores(blurred(noisy, width), true)
    return rows


def gather(args: argparse.Namespace) -> dict:
    """Return the result of all seeds."""
    from ppmat.models import build_model

    found = [
        json.loads((args.work / f"seed_{seed}.json").read_text()) for seed in args.seeds
    ]
    ours = {"name": "sfin_smoke.yaml"}
    for split in SPLITS:
        ours[split] = {
            protocol: {k: [run[split][protocol][k] for run in found] for k in values}
            for protocol, values in found[0][split].items()
        }
    config = settings(args.seeds[0], args.work, args.overrides)
    weights = build_model(config["Model"]).parameters()
    ours["parameters"] = sum(int(w.size) for w in weights if not w.stop_gradient)
    ours["train_minutes"] = [run["train_minutes"] for run in found]
    words = [*map(str, args.seeds), f"--jobs {args.jobs}", *args.overrides]
    return result_of(
        f"python -m benchmarks.sfin_smoke --seeds {' '.join(words)}",
        note="PSNR [dB] / SSIM on synthetic images of the shipped sample; columns "
        "name split and protocol. The best weights and the width of the blur are "
        "chosen on val.",
        epochs=config["Trainer"]["max_epochs"],
        rows=[*baselines(config), ours],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("output/benchmark_smoke"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--one", type=int, help="one run (used by the benchmark itself)"
    )
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as train.py takes")
    args = parser.parse_intermixed_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)  # the sample's path in the configuration starts here
    if args.one is not None:
        one(args.one, args)
        return
    commands = {
        f"seed_{seed}": ["--one", seed, "--work", args.work, *args.overrides]
        for seed in args.seeds
    }
    run_all(commands, args.work, args.jobs, "benchmarks.sfin_smoke")
    write(gather(args), args.out / "sfin_smoke.yaml")


if __name__ == "__main__":
    main()
