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

"""Compare STEM enhancement with tuned filters, on scenes that no training used.

Scenes: SrTiO3 and MoS2 simulated with abTEM (``benchmarks.stem.scenes``) at several
doses with Poisson noise and line jitter, and random scenes under the default noise
model. Methods: the noisy image; filters tuned on another scene at the same dose
(``benchmarks.stem.filters``); the shipped models; and the shipped models after a short
training on noise that was calibrated on the noisy frame itself. ``clean`` is the upper
bound: columns are detected in the image without noise.

Each stage writes its missing files into ``--work``. So each can be interrupted, and run
in an environment of its own::

    python -m benchmarks.stem.scenes --out SCENES            # abTEM
    python -m benchmarks.stem.enhancement filters --scenes SCENES  # scikit-image, bm3d
    python -m benchmarks.stem.enhancement networks --scenes SCENES  # then: ppmat
    python -m benchmarks.stem.enhancement calibrated --scenes SCENES
    python -m benchmarks.stem.enhancement scores --scenes SCENES
    python -m benchmarks.stem.enhancement gather --scenes SCENES
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
from scipy.ndimage import convolve
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from benchmarks.runs import machine
from benchmarks.runs import write
from benchmarks.stem import filters as stem_filters
from benchmarks.stem.cases import DOSES
from benchmarks.stem.cases import Case
from benchmarks.stem.cases import Exposure
from benchmarks.stem.cases import cases
from benchmarks.stem.cases import expose
from benchmarks.stem.cases import load_image
from benchmarks.stem.cases import load_json
from benchmarks.stem.cases import save_image
from benchmarks.stem.cases import save_json
from ppmat.stem.noise.noise_model import MODES

ROOT = Path(__file__).resolve().parents[2]
CALIBRATED_DOSES = (1e4, None)  # None: the random scenes, under the paper's noise
SCENES = (*DOSES, "random")
TITLES = {"sto": "SrTiO3", "mos2": "MoS2", "random": "random scenes"}
OURS = {"shipped": "ours", "calibrated": "ours, self-calibrated"}
METHODS = ("clean", "noisy", *stem_filters.FILTERS, *OURS)
BORDER = 12.0  # pixels; columns this close to the edge do not count
RADIUS = 0.3  # of the neighbour distance; largest distance of a found column
DISC = 3.0  # pixels; radius of the disc whose mean is a column's intensity
# Changes of the model's configuration for the training after a self-calibration.
SHORT_TRAINING = (
    "Trainer.max_epochs=2",
    "Trainer.start_eval_epoch=2",
    "Global.do_test=false",
    "Optimizer.__init_params__.lr.__init_params__.learning_rate=5e-4",
    "Optimizer.__init_params__.lr.__init_params__.warmup_epoch=0.2",
)
PEAK_DISTANCE = 0.5  # of the neighbour distance; smallest distance of two peaks


# Headings of the result tables.
COLUMNS = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "peak_f1": "peak F1",
    "f1": "F1",
    "position_pm": "position [pm]",
    "to_raw": "position / raw",
    "slope": "slope",
    "r": "r",
    "cpu_s": "CPU [s]",
}
OF_SEEDS = ("peak_f1", "f1", "position_pm", "to_raw")


# Networks ----------------------------------------------------------------------------


def model_options(mode: str, models: dict) -> dict:
    """Return the arguments of ``SpectrumPredictor`` for the model of a mode."""
    if mode not in models:
        return {"mode": mode}
    config, weights = models[mode]
    return {"config_path": config, "checkpoint_path": weights}


def enhance_with(options: dict) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that enhances images with a model."""
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
            start = time.process_time()
            image = enhance(noisy)
            save_image(out, image, time.process_time() - start)
            print("shipped", case.name, flush=True)


# Self-calibration --------------------------------------------------------------------


def calibrated(args: argparse.Namespace) -> None:
    """Calibrate on each frame of some doses, train shortly, and enhance the frame."""
    for case in args.cases:
        out = args.work / "images" / "calibrated" / f"{case.name}.npz"
        refused = args.work / "refused" / f"{case.name}.json"
        if case.dose not in CALIBRATED_DOSES or case.mode not in args.calibrated_modes:
            continue
        if out.exists() or refused.exists():
            continue
        noisy = expose(case, args.scenes).noisy
        folder = args.work / "calibrated" / case.name
        start = time.process_time()
        reason = calibrate_and_train(noisy, case.mode, folder, args)
        if reason:
            print("refused", case.name, reason, flush=True)
            save_json(refused, reason)
            continue
        seconds = time.process_time() - start
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
        The reason why calibration failed; empty if it did not.
    """
    from ppmat.commands import train
    from ppmat.stem.noise.calibration import CalibrationError
    from ppmat.stem.noise.calibration import calibrate_noise
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
    train.run(config, str(config_path), overwrite=True)
    save_config(config, folder / "run.yaml")
    return ""


def model_files(mode: str, models: dict) -> tuple[Path, Path]:
    """Return configuration and weights of the model of a mode."""
    if mode in models:
        return tuple(map(Path, models[mode]))
    from ppmat.predictor.packaged_models import PACKAGED_MODELS

    name = PACKAGED_MODELS[mode]
    folder = ROOT / "ppmat/models/packages" / name
    return folder / f"{name}.yaml", folder / "checkpoints/best.pdparams"


# Scores ------------------------------------------------------------------------------


def score(image: np.ndarray, exposure: Exposure, mode: str) -> dict[str, float]:
    """Return the scores of a method's image of an exposure.

    PSNR and SSIM use the range of the clean image. ``f1`` and the position error are
    those of ``detect_columns`` at its default threshold, with seeds from the method's
    image and a fit to the raw one. ``peak_f1`` is that of the peaks of the method's
    image at the best threshold, which is found with the true columns.
    """
    from ppmat.metrics.sfin_metric import calc_psnr
    from ppmat.metrics.sfin_metric import calc_ssim
    from ppmat.stem.columns.detection import detect_columns

    clean, noisy = exposure.clean, exposure.noisy
    spread = float(np.ptp(clean))
    table = detect_columns(
        noisy,
        None if image is noisy else image,
        mode=mode,
        polarity="bright" if exposure.bright else "dark",
    )
    hits, missed, extra, pairs = compare(table.positions, exposure)
    squares = [value**2 for value in pairs.values()]
    wrong = missed.sum() + extra.sum()
    slope, correlation = linearity(image, clean, exposure.columns)
    return {
        "psnr": float(calc_psnr(image[None, None], clean[None, None], spread)),
        "ssim": float(calc_ssim(image[None, None], clean[None, None], spread)),
        "f1": float(2 * hits.sum() / max(2 * hits.sum() + wrong, 1)),
        "recall": float(hits.sum() / max(hits.sum() + missed.sum(), 1)),
        "position_pm": float(np.sqrt(np.mean(squares))) if squares else float("nan"),
        "peak_f1": peak_f1(image if exposure.bright else -image, exposure),
        "slope": slope,
        "r": correlation,
        "pairs": pairs,
    }


def neighbour_distance(columns: np.ndarray) -> float:
    """Return the typical distance of neighbours, pixels."""
    return float(np.median(cKDTree(columns).query(columns, k=2)[0][:, 1]))


def compare(
    found: np.ndarray, exposure: Exposure
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
    """Compare found columns with the true ones.

    Returns:
        Masks of the found columns that are wanted, of the wanted columns that are
        missing, and of the found columns that do not exist; and the distance of each
        wanted pair by the index of the true column, pm.
    """
    from ppmat.metrics.column_matching import match_columns

    radius = RADIUS * neighbour_distance(exposure.columns)
    match = match_columns(found, exposure.columns, radius, exposure.noisy.shape, BORDER)
    hits, extra = np.zeros((2, len(found)), dtype=bool)
    right = exposure.wanted[match.true]
    hits[match.found[right]] = True
    extra[match.extra] = True
    missed = np.zeros(len(exposure.columns), dtype=bool)
    missed[match.missed] = exposure.wanted[match.missed]
    distance = 100 * exposure.pixel_size * np.hypot(*match.offset[right].T)
    pairs = dict(zip(map(str, match.true[right]), distance.round(4).tolist()))
    return hits, missed, extra, pairs


def linearity(
    image: np.ndarray, clean: np.ndarray, columns: np.ndarray
) -> tuple[float, float]:
    """Return slope and correlation of the columns' intensities with the clean ones."""
    steps = np.arange(-int(DISC), int(DISC) + 1)
    disc = (np.hypot(steps[:, None], steps) <= DISC).astype(np.float64)
    disc /= disc.sum()
    last = np.array(image.shape) - 1
    inside = np.all((columns > BORDER) & (columns < last - BORDER), axis=1)
    y, x = np.rint(columns[inside]).astype(int).T
    found, true = (convolve(a.astype(np.float64), disc)[y, x] for a in (image, clean))
    covariance = np.cov(true, found)
    return (
        float(covariance[0, 1] / covariance[0, 0]),
        float(np.corrcoef(true, found)[0, 1]),
    )


def peak_f1(image: np.ndarray, exposure: Exposure) -> float:
    """Return the highest F1 of an image's peaks over all thresholds."""
    apart = PEAK_DISTANCE * neighbour_distance(exposure.columns)
    steps = np.arange(-int(apart), int(apart) + 1)
    disc = np.hypot(steps[:, None], steps) <= apart
    y, x = np.nonzero(image == maximum_filter(image, footprint=disc))
    peaks = np.stack([y, x], axis=-1)[np.argsort(-image[y, x], kind="stable")]
    # Neighbouring pixels can have equal counts; the first of them is kept.
    lone = np.ones(len(peaks), dtype=bool)
    for first, second in sorted(cKDTree(peaks).query_pairs(apart)):
        lone[second] &= not lone[first]
    hits, missed, extra, _ = compare(peaks[lone], exposure)
    wanted = hits.sum() + missed.sum()
    hits, extra = np.cumsum(hits), np.cumsum(extra)
    return float(np.max(2 * hits / (hits + extra + wanted)))


def scores(args: argparse.Namespace) -> None:
    """Score every existing image."""
    for case, method in itertools.product(args.cases, METHODS):
        out = args.work / "scores" / method / f"{case.name}.json"
        source = args.work / "images" / method / f"{case.name}.npz"
        made = method in ("clean", "noisy") or source.exists()
        if out.exists() or not made:
            continue
        exposure = expose(case, args.scenes)
        if method == "noisy":
            image = exposure.noisy
        elif method == "clean":
            image = exposure.clean
        else:
            image, _ = load_image(source)
        found = score(image, exposure, case.mode)
        save_json(out, found)
        words = (f"{k} {v:.3f}" for k, v in found.items() if isinstance(v, float))
        print(method, case.name, *words, flush=True)


# Results -----------------------------------------------------------------------------


def gather(args: argparse.Namespace) -> None:
    """Write the result files from the scores."""
    made = {
        "command": "python -m benchmarks.stem.enhancement filters networks calibrated "
        f"scores gather --scenes SCENES --seeds {' '.join(map(str, args.seeds))}",
        "machine": machine(),
        "date": str(date.today()),
    }
    for scene, mode in itertools.product(SCENES, MODES):
        rows = list(score_rows(args, scene, mode))
        if rows:
            result = {**made, "rows": rows}
            write(result, args.out / f"stem_{scene}_{mode}.yaml")
    write({**made, "rows": list(chosen_rows(args))}, args.out / "stem_filters.yaml")
    summary = {**made, "rows": list(summary_rows(args))}
    note = refusals(args)
    if note:
        summary["note"] = note
    write(summary, args.out / "stem.yaml")


def groups(args: argparse.Namespace) -> dict[str, list[Case]]:
    """Return the cases of each scene, mode and dose."""
    found: dict[str, list[Case]] = {}
    for case in args.cases:
        found.setdefault(case.group, []).append(case)
    return found


def collected(args: argparse.Namespace, group: Sequence[Case], method: str) -> dict:
    """Return lists of scores, one value for each seed (mean over its scenes)."""
    per_seed: dict[int, list[dict]] = {}
    for case in group:
        path = args.work / "scores" / method / f"{case.name}.json"
        raw = args.work / "scores/noisy" / f"{case.name}.json"
        if not (path.exists() and raw.exists()):
            return {}
        found = load_json(path)
        found["to_raw"] = relative_error(found, load_json(raw))
        image = args.work / "images" / method / f"{case.name}.npz"
        if image.exists():
            found["cpu_s"] = load_image(image)[1]
        per_seed.setdefault(case.seed, []).append(found)
    keys = [key for key in COLUMNS if key in next(iter(per_seed.values()))[0]]
    lists = {
        COLUMNS[key]: [
            round(float(np.mean([found[key] for found in many])), 4)
            for many in per_seed.values()
        ]
        for key in keys
    }
    # Without found columns there is no position error.
    return {k: v if np.isfinite(v).all() else None for k, v in lists.items()}


def relative_error(found: dict, raw: dict) -> float:
    """Return the RMS position error relative to that with seeds from the noisy image.

    Only columns that both found count: weak ones, found by one, have larger errors.
    """
    both = sorted(set(raw["pairs"]) & set(found["pairs"]))
    if not both:
        return float("nan")
    mine, other = (
        np.mean([one["pairs"][i] ** 2 for i in both]) for one in (found, raw)
    )
    return float(np.sqrt(mine / other))


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
                if method == "clean":  # it has no error to itself
                    found = {COLUMNS[key]: found[COLUMNS[key]] for key in OF_SEEDS}
                yield {"name": dose + OURS.get(method, method), **found}


def chosen_rows(args: argparse.Namespace):
    """Yield the chosen parameters of the filters."""
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
    """Yield one row for each method with the main results."""
    for method in METHODS:
        row: dict = {"name": OURS.get(method, method)}
        wanted = ("peak_f1", "f1", "to_raw", *(["slope"] * (method != "clean")))
        for group in groups(args).values():
            case = group[0]
            if case.dose not in CALIBRATED_DOSES or case.mode != "haadf":
                continue
            found = collected(args, group, method)
            if found:
                row[TITLES[case.scene]] = {
                    COLUMNS[k]: found[COLUMNS[k]] for k in wanted
                }
        if len(row) > 1:
            yield row


def refusals(args: argparse.Namespace) -> str:
    """Return which frames were refused by calibration, and why."""
    found: dict[str, list[str]] = {}
    for case in args.cases:
        path = args.work / "refused" / f"{case.name}.json"
        if path.exists():
            found.setdefault(f"{case.group}: {load_json(path)}", []).append(case.name)
    texts = [f"{len(names)} of {text}." for text, names in found.items()]
    return " ".join(["Frames that calibrate_noise refused:", *texts]) if texts else ""


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
        default=SHORT_TRAINING,
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
