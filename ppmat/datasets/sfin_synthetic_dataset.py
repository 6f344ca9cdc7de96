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

"""Synthetic pairs of noisy and clean STEM images, drawn when they are read.

A sample has the form of :class:`~ppmat.datasets.sfin_dataset.SFINDataset`: ``noisy``,
``gt_enhance``, ``gt_detect``, in HAADF ``gt_superresolution`` [1, H, W] float32,
``name``, ``id``. Nothing is downloaded or stored; the loader's workers draw scene and
noise.

Source: the idea of Li et al., CVPR 2025, arXiv:2504.02555, Sec. 3. The paper does not
publish its recipe; docs/stem/synthetic_training.md describes the one used here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Annotated
from typing import Any

import numpy as np
from paddle import io

from ppmat.datasets.sfin_dataset import SPLITS
from ppmat.datasets.sfin_dataset import SFINDataset
from ppmat.datasets.sfin_dataset import check_size
from ppmat.stem.images.background import slow_variation
from ppmat.stem.images.grey_scaling import robust_scaling
from ppmat.stem.noise.counting_noise import random_noise
from ppmat.stem.noise.noise_model import MODES
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.utils.errors import check_choice
from ppmat.utils.ranges import Range

_ANY = "any"
# Grey levels of clean images under noise of any kind; the scaling removes the choice.
_CLEAN_RANGE = (30.0, 180.0)
_Share = Annotated[float, Range(0, 1)]


class SFINSyntheticDataset(io.Dataset):
    """Random images, each a function of (seed, split, epoch, number) only.

    So an image does not depend on the number of workers or processes, or on a resume,
    if the loader calls :meth:`set_epoch`. Where nobody ever does, an endless data set
    draws the epoch of each image from NumPy's global generator.

    Args:
        count: Images in an epoch.
        size: Height and width of an image, pixels, or ``[height, width]``.
        split: ``train``, ``val`` or ``test``; no image is in two of them.
        mode: ``haadf`` or ``bf``.
        noise: ``any`` draws the noise of a random microscope for each image. Otherwise
            the path of a noise model (written by ``calibrate.py``), or a list of paths
            from which each image draws one.
        endless: Each epoch has new images. False gives the same in every epoch. Only
            ``train`` can be endless, so that scores stay comparable.
        spacing: Shortest and longest first lattice vector, pixels.
        width: Smallest and largest standard deviation of a column, as a fraction of
            the smallest distance between two.
        random_share: Fraction of the scenes without a lattice.
        pair_share: Fraction of the scenes of spots whose columns are close pairs, 2 to
            3.5 standard deviations apart.
        uneven_share: Fraction of the scenes with uneven thickness, an edge, a support
            or vacuum (:mod:`ppmat.stem.scenes.uneven_specimen`).
        background: ``remove``: the smooth background of the noise model is noise, as in
            the paper. ``keep``: it belongs to the clean image.
        flat_share: Fraction of the images from which the slow variation is subtracted,
            as prediction does (:func:`ppmat.stem.images.background.slow_variation`).
            Needs ``scaling: robust``.
        scaling: ``robust`` scales the noisy image by its percentiles, as prediction
            does, and the clean image with the same factor and offset.
            ``gt_superresolution``, whose background is zero, gets the factor alone.
            ``grey`` keeps the values of the noise model, for data with the grey levels
            0 to 255.
        seed: Of all random numbers.
        target_subdir: Accepted for configurations of ``SFINDataset``, without effect:
            a sample has all targets of its mode.
        transforms: Applied to each sample.

    Raises:
        ValueError: An argument that is not legal.
        NoiseFormatError: A file that is no noise model.

    Example:
        >>> SFINSyntheticDataset(count=2, size=32)[0]["noisy"].shape
        (1, 32, 32)
    """

    name = "sfin_synthetic"

    def __init__(
        self,
        count: Annotated[int, Range(1, 10**9)] = 1000,
        size: Annotated[int | Sequence[int], Range(8, 8192)] = 128,
        split: str = "train",
        mode: str = "haadf",
        noise: str | Sequence[str] = _ANY,
        endless: bool = False,
        spacing: Annotated[Sequence[float], Range(2, 1000)] = (9.0, 36.0),
        width: Annotated[Sequence[float], Range(above=0, most=2)] = (0.1, 0.36),
        random_share: _Share = 0.25,
        pair_share: _Share = 0.0,
        uneven_share: _Share = 0.0,
        background: str = "remove",
        flat_share: _Share = 0.0,
        scaling: str = "robust",
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
        target_subdir: str | None = "gt_enhance",
        transforms: Callable[[dict], dict] | None = None,
    ) -> None:
        super().__init__()
        check_choice("split", split, SPLITS)
        check_choice("mode", mode, MODES)
        check_choice("scaling", scaling, ("robust", "grey"))
        check_choice("target_subdir", target_subdir, (*SFINDataset.label_subdirs, None))
        if mode == "bf" and target_subdir == "gt_superresolution":
            raise ValueError(
                "target_subdir is gt_superresolution, but mode is 'bf', where a column "
                "has no intensity of its own; wanted mode 'haadf'"
            )
        check_choice("background", background, ("remove", "keep"))
        if not 0 <= flat_share <= 1 or (flat_share and scaling == "grey"):
            raise ValueError(
                f"flat_share is {flat_share} with scaling '{scaling}', wanted 0 to 1, "
                "and 0 with 'grey': without its slow variation an image has no grey "
                "levels"
            )
        if count < 1:
            raise ValueError(f"count is {count}, wanted at least 1")
        if not isinstance(seed, Integral) or seed < 0:
            raise ValueError(f"seed is {seed!r}, wanted a whole number of at least 0")
        if endless and split != "train":
            raise ValueError(
                "endless is for training: with new images in every epoch, scores of "
                f"the split '{split}' could not be compared"
            )
        self.count = count
        self.shape = check_size("size", size, 8)
        self.split = split
        self.mode = mode
        self.endless = endless
        self.scaling = scaling
        self.background = background
        self.flat_share = flat_share
        self.seed = seed
        self.transforms = transforms
        self.epoch: int | None = None  # nobody has told it yet
        self.noise = _read_noise_models(noise, mode)
        self.recipe = SceneRecipe(
            mode=mode,
            spacing=_pair("spacing", spacing),
            width=_pair("width", width),
            random_share=random_share,
            pair_share=pair_share,
            uneven_share=uneven_share,
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, idx: int) -> dict[str, Any]:
        if not 0 <= idx < len(self):
            raise IndexError(f"sample {idx} of {len(self)}")
        epoch = self.epoch if self.endless else 0
        if epoch is None:
            epoch = int(np.random.randint(2**31))
        rng = np.random.default_rng(
            [self.seed, SPLITS.index(self.split), MODES.index(self.mode), epoch, idx]
        )
        sample: dict[str, Any] = {
            kind: image[None].astype(np.float32)
            for kind, image in self._draw(rng).items()
        }
        sample["name"] = f"{self.split}_{epoch}_{idx}"
        sample["id"] = idx
        return sample if self.transforms is None else self.transforms(sample)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the images of an endless data set depend on it."""
        self.epoch = epoch

    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self.noise:
            noise = self.noise[rng.integers(len(self.noise))]
            low, high = noise.low, noise.high
        else:
            low, high = _CLEAN_RANGE
            noise = random_noise(rng, self.mode, low, high)
        recipe = dataclasses.replace(self.recipe, low=low, high=high)
        scene = make_scene(rng, self.shape, recipe)
        clean = scene.gt_enhance
        if self.background == "keep" and isinstance(noise, NoiseModel):
            clean = clean + noise.background(rng, clean.shape)
            noise = dataclasses.replace(noise, background_sd=0.0)
        noisy = noise.apply(clean, rng)
        if self.flat_share and rng.random() < self.flat_share:
            slow = slow_variation(noisy)
            clean, noisy = clean - slow, noisy - slow
        offset, scale = 0.0, 1.0
        if self.scaling == "robust" and noisy.min() < noisy.max():
            offset, scale, _ = robust_scaling(noisy)
        images = {
            "noisy": (noisy - offset) / scale,
            "gt_enhance": (clean - offset) / scale,
            "gt_detect": scene.gt_detect,
        }
        if self.mode == "haadf":
            images["gt_superresolution"] = scene.gt_superresolution / scale
        return images


def _read_noise_models(noise: str | Sequence[str], mode: str) -> list[NoiseModel]:
    """Return the noise models of files; an empty list for noise of any kind."""
    if noise == _ANY:
        return []
    paths = [noise] if isinstance(noise, (str, Path)) else list(noise)
    wanted = f"'{_ANY}' or files that spectrum_enhancement/calibrate.py wrote"
    if not paths:
        raise ValueError(f"noise is an empty list; wanted {wanted}")
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(f"noise: '{path}' is no file; wanted {wanted}")
    models = [NoiseModel.load(path) for path in paths]
    for path, model in zip(paths, models):
        if model.mode != mode:
            raise ValueError(
                f"noise: '{path}' was calibrated on {model.mode} images, but mode is "
                f"'{mode}'"
            )
    return models


def _pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    if isinstance(values, str) or len(values) != 2:
        raise ValueError(f"{name} is {values!r}, wanted [smallest, largest]")
    return float(values[0]), float(values[1])
