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


"""Synthetic pairs of noisy and clean STEM images, made when they are asked for.

A sample is that of :class:`~ppmat.datasets.sfin_dataset.SFINDataset`: ``noisy``,
``gt_enhance``, ``gt_detect`` [1, H, W] float32, ``name``, ``id``. Nothing is downloaded
or stored; the loader's workers draw scene and noise.

Source: the idea of Li et al., CVPR 2025, arXiv:2504.02555, Sec. 3; the recipe, which
the paper does not publish, is described in docs/stem_synthetic_training.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from paddle import io

from ppmat.datasets.sfin_dataset import SPLITS
from ppmat.datasets.sfin_dataset import SFINDataset
from ppmat.stem.images.grey_scaling import robust_scaling
from ppmat.stem.noise.counting_noise import random_noise
from ppmat.stem.noise.noise_model import MODES
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.utils.errors import check_choice

_ANY = "any"
_RANGE = (30.0, 180.0)  # of clean images under noise of any kind; any would do


class SFINSyntheticDataset(io.Dataset):
    """Images drawn at random, each a function of (seed, split, epoch, number) only.

    So an image is the same with any number of workers or processes and after a resume;
    no two processes get the same one, because the sampler deals them different numbers.

    Args:
        count: Images in an epoch.
        size: Height and width of an image, pixels, or ``[height, width]``.
        split: ``train``, ``val`` or ``test``; no image is in two of them.
        mode: ``haadf`` or ``bf``.
        noise: ``any`` draws the noise of another microscope for each image; else the
            path of a calibrated noise model (``calibrate.py``), or a list of them, one
            of which is drawn for each image.
        endless: Each epoch has new images. False gives the same in every epoch. Only
            ``train`` can be endless, so that scores stay comparable.
        spacing: Shortest and longest first lattice vector, pixels.
        width: Standard deviation of a column, of the smallest distance between two.
        random_share: Part of the scenes that is no crystal.
        scaling: ``robust`` scales each noisy image by its percentiles as prediction
            does, and the clean image alike; ``grey`` leaves the values of the noise
            model, which is right for the grey levels 0 to 255 of the paper's data.
        seed: Of all random numbers.
        target_subdir: Accepted so that a configuration of ``SFINDataset`` serves; both
            targets are always made.
        transforms: Applied to each sample.

    Raises:
        ValueError: An argument that cannot be meant.
        NoiseFormatError: A file is no noise model, or of the other mode.
    """

    name = "sfin_synthetic"

    def __init__(
        self,
        count: int = 1000,
        size: int | Sequence[int] = 128,
        split: str = "train",
        mode: str = "haadf",
        noise: str | Sequence[str] = _ANY,
        endless: bool = False,
        spacing: Sequence[float] = (9.0, 36.0),
        width: Sequence[float] = (0.1, 0.36),
        random_share: float = 0.25,
        scaling: str = "robust",
        seed: int = 0,
        target_subdir: str | None = "gt_enhance",
        transforms: Callable[[dict], dict] | None = None,
    ) -> None:
        super().__init__()
        check_choice("split", split, SPLITS)
        check_choice("mode", mode, MODES)
        check_choice("scaling", scaling, ("robust", "grey"))
        check_choice("target_subdir", target_subdir, (*SFINDataset.label_subdirs, None))
        if count < 1:
            raise ValueError(f"count is {count}, wanted at least 1")
        if not isinstance(seed, Integral) or seed < 0:
            raise ValueError(f"seed is {seed!r}, wanted a whole number of at least 0")
        if endless and split != "train":
            raise ValueError(
                f"endless is for training: with new images in every epoch, scores of "
                f"the split '{split}' could not be compared"
            )
        self.count = count
        self.shape = _shape(size)
        self.split = split
        self.mode = mode
        self.endless = endless
        self.scaling = scaling
        self.seed = seed
        self.transforms = transforms
        self.epoch = 0
        self.noise = _models(noise, mode)
        self.recipe = SceneRecipe(
            mode=mode,
            spacing=_pair("spacing", spacing),
            width=_pair("width", width),
            random_share=random_share,
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, idx: int) -> dict[str, Any]:
        if not 0 <= idx < len(self):
            raise IndexError(f"sample {idx} of {len(self)}")
        epoch = self.epoch if self.endless else 0
        rng = np.random.default_rng(
            [self.seed, SPLITS.index(self.split), MODES.index(self.mode), epoch, idx]
        )
        images = self._draw(rng)
        sample: dict[str, Any] = {
            kind: image[None].astype(np.float32) for kind, image in images.items()
        }
        sample["name"] = f"{self.split}_{epoch}_{idx}"
        sample["id"] = idx
        return sample if self.transforms is None else self.transforms(sample)

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch, of which an endless data set's images are a function."""
        self.epoch = epoch

    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self.noise:
            noise = self.noise[rng.integers(len(self.noise))]
            low, high = noise.low, noise.high
        else:
            low, high = _RANGE
            noise = random_noise(rng, self.mode, low, high)
        recipe = dataclasses.replace(self.recipe, low=low, high=high)
        scene = make_scene(rng, self.shape, recipe)
        clean, noisy = scene.gt_enhance, noise.apply(scene.gt_enhance, rng)
        if self.scaling == "robust" and noisy.min() < noisy.max():
            offset, scale, _ = robust_scaling(noisy)
            clean, noisy = (clean - offset) / scale, (noisy - offset) / scale
        return {"noisy": noisy, "gt_enhance": clean, "gt_detect": scene.gt_detect}


def _models(noise: str | Sequence[str], mode: str) -> list[NoiseModel]:
    """Return the noise models of files; none for noise of any kind."""
    if noise == _ANY:
        return []
    paths = [noise] if isinstance(noise, (str, Path)) else list(noise)
    if not paths:
        raise ValueError(
            f"noise is an empty list; wanted '{_ANY}' or files that calibrate.py wrote"
        )
    models = []
    for path in paths:
        if not Path(path).is_file():
            raise ValueError(
                f"noise: '{path}' is no file; wanted '{_ANY}' or the path of a noise "
                "model, which spectrum_enhancement/calibrate.py writes"
            )
        model = NoiseModel.load(path)
        if model.mode != mode:
            raise ValueError(
                f"noise: '{path}' was calibrated on {model.mode} images, but mode is "
                f"'{mode}'"
            )
        models.append(model)
    return models


def _shape(size: int | Sequence[int]) -> tuple[int, int]:
    shape = (size, size) if isinstance(size, int) else tuple(size)
    if len(shape) != 2 or not all(isinstance(s, int) and s >= 8 for s in shape):
        raise ValueError(f"size is {size!r}, wanted at least 8, or [height, width]")
    return shape


def _pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    if isinstance(values, str) or len(values) != 2:
        raise ValueError(f"{name} is {values!r}, wanted [smallest, largest]")
    return float(values[0]), float(values[1])
