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


"""STEM enhancement against tuned filters, on scenes that no training saw.

Scenes: SrTiO3 and MoS2 simulated with abTEM (``stem_scenes.py``) at several doses with
Poisson noise and line jitter, and random scenes of our own under the default noise
model. Methods: the noisy image, filters tuned on another scene at the same dose
(``stem_filters.py``), the shipped models, and the shipped models after a short training
on noise that was calibrated on the noisy frame itself. ``clean`` is the bound: columns
are sought in the image without noise.

The stages leave files in ``--work`` and do what is missing, so that each can run in an
environment of its own and be interrupted::

    python benchmarks/stem_scenes.py --out SCENES            # abTEM
    python benchmarks/stem.py filters --scenes SCENES        # scikit-image, bm3d
    python benchmarks/stem.py networks --scenes SCENES       # from here on ppmat
    python benchmarks/stem.py calibrated --scenes SCENES
    python benchmarks/stem.py scores --scenes SCENES
    python benchmarks/stem.py gather --scenes SCENES
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import stem_filters
from runs import machine
from runs import write
from scipy.ndimage import convolve
from scipy.ndimage import gaussian_filter
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree
from stem_cases import DOSES
from stem_cases import MODES
from stem_cases import Case
from stem_cases import Exposure
from stem_cases import cases
from stem_cases import expose
from stem_cases import load_image
from stem_cases import load_json
from stem_cases import save_image
from stem_cases import save_json

ROOT = Path(__file__).resolve().parent.parent
CALIBRATED_DOSE = 1e4
SCENES = (*DOSES, "random")
TITLES = {"sto": "SrTiO3", "mos2": "MoS2", "random": "random scenes"}
OURS = {"shipped": "ours", "calibrated": "ours, self-calibrated"}
METHODS = ("clean", "noisy", *stem_filters.FILTERS, *OURS)
BORDER = 12.0  # pixels around the image where columns do not count
RADIUS = 0.3  # of the distance of neighbours: within it a column is found
DISC = 3.0  # pixels around a column whose mean is its intensity
PEAK_SMOOTHING = 1.0  # pixels, of every image alike before peaks are taken


# Networks ----------------------------------------------------------------------------


def model_options(mode: str, models: dict) -> dict:
    """Return what names the model of a mode for ``SpectrumPredictor``."""
    if mode not in models:
        return {"mode": mode}
    config, weights = models[mode]
    return {"config_path": config, "checkpoint_path": weights}


def enhance_with(options: dict) -> Callable[[np.ndarray], np.ndarray]:
    """Return the enhancement by a model."""
    from ppmat.predictor import SpectrumPredictor

    predictor = SpectrumPredictor(device="cpu", **options)
    return predictor.enhance


def networks(args: argparse.Namespace) -> None:
    """Enhance every case with the model of its mode."""
    for mode in MODES:
        enhance = None
        for case in args.cases:
            out = args.work / "images" / "shipped" / f"{case.name}.npz"
            if case.mode != mode or out.exists():
                continue
            noisy = expose(case, args.scenes).noisy
            if enhance is None:
                enhance = enhance_with(model_options(mode, args.models))
                enhance(noisy)  # compiles
            start = time.perf_counter()
            image = enhance(noisy)
            save_image(out, image, time.perf_counter() - start)
            print("shipped", case.name, flush=True)


# Self-calibration --------------------------------------------------------------------


def calibrated(args: argparse.Namespace) -> None:
    """Calibrate on each frame of one dose, train a little, and enhance that frame."""
    for case in args.cases:
        out = args.work / "images" / "calibrated" / f"{case.name}.npz"
        refused = args.work / "refused" / f"{case.name}.json"
        if case.dose != CALIBRATED_DOSE or case.mode not in args.calibrated_modes:
            continue
        if out.exists() or refused.exists():
            continue
        noisy = expose(case, args.scenes).noisy
        folder = args.work / "calibrated" / case.name
        start = time.perf_counter()
        reason = calibrate_and_train(noisy, case.mode, folder, args)
        if reason:
            print("refused", case.name, reason, flush=True)
            save_json(refused, reason)
            continue
        seconds = time.perf_counter() - start
        options = {
            "config_path": str(folder / "run.yaml"),
            "checkpoint_path": str(folder / "checkpoints/best.pdparams"),
        }
        save_image(out, enhance_with(options)(noisy), seconds)
        print("calibrated", case.name, f"{seconds:.0f} s", flush=True)


def calibrate_and_train(
    noisy: np.ndarray, mode: str, folder: Path, args: argparse.Namespace
) -> str:
    """Fine-tune the shipped model on the noise of a frame.

    Args:
        noisy: The frame [H, W].
        mode: ``haadf`` or ``bf``.
        folder: Where the noise model, ``run.yaml`` and checkpoints go.
        args: Command line.

    Returns:
        Why the frame could not be calibrated; empty if it was.
    """
    from ppmat.datasets.stem.calibration import CalibrationError
    from ppmat.datasets.stem.calibration import calibrate_noise
    from ppmat.trainer import entry
    from ppmat.utils.config import load_config
    from ppmat.utils.config import save_config

    try:
        noise = calibrate_noise(noisy, mode=mode)
    except CalibrationError as error:
        return str(error)
    folder.mkdir(parents=True, exist_ok=True)
    noise.save(folder / "noise.json")
    config_path, weights = model_files(mode, args.models)
    words = [
        f"Global.noise={folder / 'noise.json'}",
        f"Trainer.pretrained_model_path={weights}",
        f"Trainer.output_dir={folder}",
        *args.training,
    ]
    config = load_config(config_path, words)
    entry.run(config, str(config_path))
    save_config(config, folder / "run.yaml")
    return ""


def model_files(mode: str, models: dict) -> tuple[Path, Path]:
    """Return configuration and weights of the model of a mode."""
    if mode in models:
        return tuple(map(Path, models[mode]))
    from ppmat.predictor.shipped import SHIPPED

    name = SHIPPED[mode]
    folder = ROOT / "ppmat/models/packages" / name
    return folder / f"{name}.yaml", folder / "checkpoints/best.pdparams"


# Scores ------------------------------------------------------------------------------


def score(image: np.ndarray, exposure: Exposure, mode: str) -> dict[str, float]:
    """Return the scores of a method's image of an exposure.

    PSNR and SSIM take the range of the clean image. ``f1``, and the position error of
    the pairs, are those of ``detect_columns`` at its default threshold: seeds from the
    method's image, fit to the raw one. ``best_f1`` takes the peaks of the method's
    image and the threshold that suits it best, which needs the truth, for each method.
    """
    from ppmat.datasets.stem.detection import detect_columns
    from ppmat.datasets.stem.matching import match_columns
    from ppmat.metrics.sfin_metric import calc_psnr
    from ppmat.metrics.sfin_metric import calc_ssim

    clean, noisy, truth = exposure.clean, exposure.noisy, exposure.truth
    spread = float(np.ptp(clean))
    polarity = "bright" if exposure.bright else "dark"
    seeds = None if image is noisy else image
    table = detect_columns(noisy, seeds, mode=mode, polarity=polarity)
    where = {"shape": noisy.shape, "border": BORDER}
    distance = float(np.median(cKDTree(truth).query(truth, k=2)[0][:, 1]))
    found = match_columns(table, truth, RADIUS * distance, **where)
    picometres = 100 * exposure.pixel_size
    slope, correlation = linearity(image, clean, truth)
    return {
        "psnr": float(calc_psnr(image[None, None], clean[None, None], spread)),
        "ssim": float(calc_ssim(image[None, None], clean[None, None], spread)),
        "f1": found.f1,
        "recall": found.recall,
        "position_pm": picometres * found.rms,
        "best_f1": best_f1(image if exposure.bright else -image, truth, distance),
        "slope": slope,
        "r": correlation,
    }


def linearity(
    image: np.ndarray, clean: np.ndarray, truth: np.ndarray
) -> tuple[float, float]:
    """Return slope and correlation of the columns' intensities with the clean ones."""
    steps = np.arange(-int(DISC), int(DISC) + 1)
    disc = (np.hypot(steps[:, None], steps) <= DISC).astype(np.float64)
    disc /= disc.sum()
    size = np.array(image.shape)
    inside = np.all((truth > BORDER) & (truth < size - 1 - BORDER), axis=1)
    y, x = np.rint(truth[inside]).astype(int).T
    found, true = (convolve(a.astype(np.float64), disc)[y, x] for a in (image, clean))
    covariance = np.cov(true, found)
    return (
        float(covariance[0, 1] / covariance[0, 0]),
        float(np.corrcoef(true, found)[0, 1]),
    )


def best_f1(image: np.ndarray, truth: np.ndarray, distance: float) -> float:
    """Return the highest F1 of an image's peaks over all thresholds."""
    from ppmat.datasets.stem.matching import match_columns

    smooth = gaussian_filter(image.astype(np.float64), PEAK_SMOOTHING)
    reach = int(0.5 * distance)
    steps = np.arange(-reach, reach + 1)
    disc = np.hypot(steps[:, None], steps) <= 0.5 * distance
    y, x = np.nonzero(smooth == maximum_filter(smooth, footprint=disc))
    height = smooth[y, x]
    order = np.argsort(-height)
    peaks = np.stack([y, x], axis=-1)[order]
    found = match_columns(peaks, truth, RADIUS * distance, image.shape, BORDER)
    hit, extra = np.zeros(len(peaks)), np.zeros(len(peaks))
    hit[found.found], extra[found.extra] = 1, 1
    hits, extras = np.cumsum(hit), np.cumsum(extra)
    wanted = len(found.true) + len(found.missed)
    return float(np.max(2 * hits / (hits + extras + wanted)))


def scores(args: argparse.Namespace) -> None:
    """Score every image that is there."""
    for case, method in itertools.product(args.cases, METHODS):
        out = args.work / "scores" / method / f"{case.name}.json"
        source = args.work / "images" / method / f"{case.name}.npz"
        made = method in ("clean", "noisy") or source.exists()
        if out.exists() or not made:
            continue
        exposure = expose(case, args.scenes)
        seconds = None
        if method == "noisy":
            image = exposure.noisy
        elif method == "clean":
            image = exposure.clean
        else:
            image, record = load_image(source)
            seconds = record["seconds"]
        found = score(image, exposure, case.mode)
        save_json(out, found if seconds is None else {**found, "seconds": seconds})
        print(method, case.name, {k: round(v, 3) for k, v in found.items()}, flush=True)


# Results -----------------------------------------------------------------------------


def gather(args: argparse.Namespace) -> None:
    """Write the result files from the scores."""
    made = {
        "command": "python benchmarks/stem.py gather --scenes SCENES --seeds "
        + " ".join(map(str, args.seeds)),
        "machine": machine(),
        "date": str(date.today()),
    }
    for scene, mode in itertools.product(SCENES, MODES):
        rows = list(score_rows(args, scene, mode))
        if rows:
            result = {**made, "rows": rows}
            write(result, args.out / f"stem_{scene}_{mode}.yaml")
    write({**made, "rows": list(chosen_rows(args))}, args.out / "stem_filters.yaml")
    write({**made, "rows": list(summary_rows(args))}, args.out / "stem.yaml")


def groups(args: argparse.Namespace) -> dict[str, list[Case]]:
    """Return the cases of each scene, mode and dose."""
    found: dict[str, list[Case]] = {}
    for case in args.cases:
        found.setdefault(case.group, []).append(case)
    return found


def collected(args: argparse.Namespace, group: Sequence[Case], method: str) -> dict:
    """Return the lists of scores, one number a seed (mean over its scenes)."""
    per_seed: dict[int, list[dict]] = {}
    for case in group:
        path = args.work / "scores" / method / f"{case.name}.json"
        if not path.exists():
            return {}
        per_seed.setdefault(case.seed, []).append(load_json(path))
    keys = next(iter(per_seed.values()))[0]
    return {
        key: [
            round(float(np.mean([found[key] for found in many])), 4)
            for many in per_seed.values()
        ]
        for key in keys
    }


def score_rows(args: argparse.Namespace, scene: str, mode: str):
    """Yield the rows of one scene and mode."""
    for group in groups(args).values():
        case = group[0]
        if (case.scene, case.mode) != (scene, mode):
            continue
        dose = "" if case.dose is None else f"{case.dose:.0e}, ".replace("e+0", "e")
        for method in METHODS:
            found = collected(args, group, method)
            if found:
                if method == "clean":  # of itself
                    found = {k: found[k] for k in ("f1", "position_pm", "best_f1")}
                found.pop("recall", None)
                yield {"name": dose + OURS.get(method, method), **found}


def chosen_rows(args: argparse.Namespace):
    """Yield the parameters that the filters were given."""
    for name in groups(args):
        row: dict = {"name": name.replace("_", " ")}
        for method in stem_filters.FILTERS:
            path = args.work / "tuned" / method / f"{name}.json"
            if path.exists():
                values = dict(load_json(path))
                row[method] = ", ".join(
                    f"{key} {value:.3g}"
                    for key, value in values.items()
                    if key not in ("psnr", "transform")
                ) + (", Anscombe" if values["transform"] else "")
        yield row


def summary_rows(args: argparse.Namespace):
    """Yield a row a method with what the aims of the project are about."""
    wanted = {"best_f1": "F1", "slope": "slope", "position_pm": "position [pm]"}
    for method in METHODS:
        row: dict = {"name": OURS.get(method, method)}
        for group in groups(args).values():
            case = group[0]
            if case.dose != 1e4 or case.mode != "haadf":
                continue
            found = collected(args, group, method)
            if method == "clean":
                found.pop("slope", None)
            scores_ = {title: found[k] for k, title in wanted.items() if k in found}
            if scores_:
                row[TITLES[case.scene]] = scores_
        if len(row) > 1:
            yield row


STAGES = {
    "filters": lambda args: stem_filters.run(
        args.cases, list(stem_filters.FILTERS), args.scenes, args.work
    ),
    "networks": networks,
    "calibrated": calibrated,
    "scores": scores,
    "gather": gather,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=list(STAGES))
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="MODE=CONFIG:WEIGHTS",
        help="a model in place of the shipped one",
    )
    parser.add_argument(
        "--training",
        nargs="+",
        metavar="KEY=VALUE",
        default=["Trainer.max_epochs=2"],
        help="changes of the model's configuration for the short training",
    )
    parser.add_argument(
        "--calibrated_modes", nargs="+", choices=MODES, default=["haadf"]
    )
    parser.add_argument("--work", type=Path, default=Path("output/benchmark_stem"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results")
    args = parser.parse_args()
    args.models = {}
    for word in args.model:
        mode, _, files = word.partition("=")
        config, _, weights = files.partition(":")
        if mode not in MODES or not weights:
            parser.error(f"--model {word}: wanted MODE=CONFIG:WEIGHTS")
        args.models[mode] = (config, weights)
    args.work, args.scenes = args.work.resolve(), args.scenes.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    args.cases = list(cases(args.seeds, args.only))
    os.chdir(ROOT)
    for stage in args.stages:
        STAGES[stage](args)


if __name__ == "__main__":
    main()
