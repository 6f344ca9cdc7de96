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

"""Filters without training for the STEM benchmark, and the choice of their parameters.

Counts are scaled to noise of variance 1 in one of two ways. One is Anscombe's transform
with the closed form of its exact unbiased inverse (Mäkitalo and Foi, IEEE Trans. Image
Process. 20, 2697 (2011)); the other is one factor for the whole image. The way and all
parameters are those with the highest PSNR on another scene at the same dose.

scikit-image and bm3d (licensed for non-commercial use only) are not dependencies of
this project; they have an environment of their own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.stem.cases import Case
from benchmarks.stem.cases import Exposure
from benchmarks.stem.cases import expose
from benchmarks.stem.cases import load_json
from benchmarks.stem.cases import save_image
from benchmarks.stem.cases import save_json

TUNED_SIZE = 144  # pixels of the validation scene that are used


def anscombe(counts: np.ndarray) -> np.ndarray:
    """Return ``2 sqrt(counts + 3/8)``, with noise of variance about 1."""
    return 2 * np.sqrt(counts + 3 / 8)


def expected_counts(value: np.ndarray) -> np.ndarray:
    """Return the expected counts for an expected value of the transform."""
    d = np.maximum(value, 2 * np.sqrt(3 / 8))
    root = np.sqrt(3 / 2)
    found = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 1 / 8
    return np.maximum(found, 0.0)


def gaussian(image: np.ndarray, width: float) -> np.ndarray:
    return gaussian_filter(image, width, mode="reflect")


def total_variation(image: np.ndarray, weight: float) -> np.ndarray:
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(image, weight=weight, eps=2e-4, max_num_iter=200)


def non_local_means(image: np.ndarray, h: float, patch: int) -> np.ndarray:
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(
        image, patch_size=patch, patch_distance=11, h=h, sigma=1.0, fast_mode=True
    )


def bm3d(image: np.ndarray, sigma: float) -> np.ndarray:
    from bm3d import bm3d as filtered

    return filtered(image, sigma)


# Each filter's function and the parameter values that are tried. Those of TV, NL-means
# and BM3D are for noise of variance 1.
FILTERS: dict[str, tuple[Callable, dict[str, Sequence]]] = {
    "Gaussian": (gaussian, {"width": [*np.arange(0.5, 8.1, 0.25)]}),
    "TV": (total_variation, {"weight": [*np.geomspace(0.5, 16, 9)]}),
    "NL-means": (
        non_local_means,
        {"h": [0.15, 0.25, 0.4, 0.6, 0.9, 1.3, 2.0], "patch": [5, 9, 15]},
    ),
    "BM3D": (bm3d, {"sigma": [0.5, 0.75, 1.1, 1.7, 2.6, 4.0]}),
}


def apply(name: str, noisy: np.ndarray, counts: bool, values: dict) -> np.ndarray:
    """Return a filtered image, in its units.

    Args:
        name: Of the filter.
        noisy: Image [H, W].
        counts: Whether the image holds counts.
        values: Parameters of the filter, and ``transform``: whether to use Anscombe's.
    """
    values = dict(values)
    transform = values.pop("transform")
    function = FILTERS[name][0]
    image = noisy.astype(np.float64)
    if name == "Gaussian":
        return function(image, **values)
    if transform:
        return expected_counts(function(anscombe(image), **values))
    unit = noise_unit(image, counts)
    return unit * function(image / unit, **values)


def noise_unit(image: np.ndarray, counts: bool) -> float:
    """Return an estimate of the noise's standard deviation."""
    if counts:
        return float(np.sqrt(image.mean()))
    from skimage.restoration import estimate_sigma

    return float(estimate_sigma(image))


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """Return the PSNR [dB] for the range of the clean image."""
    error = np.mean((image - clean) ** 2, dtype=np.float64)
    return float(10 * np.log10(np.ptp(clean) ** 2 / error))


def tune(name: str, exposures: Sequence[Exposure], counts: bool) -> dict:
    """Return the best parameters, ``transform``, and their PSNR.

    The parameters are optimised one after the other: all values of the first, then all
    values of the second with the best first one, and so on.
    """
    size = slice(0, TUNED_SIZE)
    pairs = [(e.noisy[size, size], e.clean[size, size]) for e in exposures]

    def score(values: dict) -> float:
        found = [psnr(apply(name, a, counts, values), b) for a, b in pairs]
        return float(np.mean(found))

    best: dict = {"psnr": -np.inf}
    transforms = [True, False] if counts and name != "Gaussian" else [False]
    grid = FILTERS[name][1]
    for transform in transforms:
        now = {key: values[len(values) // 2] for key, values in grid.items()}
        now["transform"] = transform
        for key, values in grid.items():
            scores = {v: score({**now, key: v}) for v in values}
            now[key] = max(scores, key=scores.__getitem__)
            if scores[now[key]] > best["psnr"]:
                best = {"psnr": scores[now[key]], **now}
    return {
        key: v if isinstance(v, (bool, int)) else float(v) for key, v in best.items()
    }


def run(cases: Sequence[Case], names: Sequence[str], scenes: Path, work: Path) -> None:
    """Tune each filter and apply it to each case; existing results are kept."""
    for name, case in itertools.product(names, cases):
        out = work / "images" / name / f"{case.name}.npz"
        if out.exists():
            continue
        counts = case.dose is not None
        chosen = work / "tuned" / name / f"{case.group}.json"
        if not chosen.exists():
            exposures = [expose(other, scenes) for other in case.validation()]
            save_json(chosen, tune(name, exposures, counts))
        values = load_json(chosen)
        print(name, case.name, values, flush=True)
        values.pop("psnr")
        noisy = expose(case, scenes).noisy
        start = time.process_time()
        image = apply(name, noisy, counts, values)
        save_image(out, image, time.process_time() - start)
