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

"""Pairs of noisy and clean STEM images, the data of the SFIN paper.

Folders::

    root/train/noisy/0.png ...        root/test/noisy/0.png ...
    root/train/gt_enhance/0.png ...   root/test/gt_enhance/0.png ...   clean images
    root/train/gt_detect/0.png ...    root/test/gt_detect/0.png ...    maps of columns

and, in folders that ``synthesize.py`` wrote, ``gt_superresolution/0.tif``: columns as
spots of one pixel with their intensity, on zero.

A sample: ``noisy`` and the targets that exist [1, H, W] float32 with the grey values of
the files (the network and its metrics are made for 0..255), ``name`` (file name of the
noisy image), ``id`` (number of the sample in its split).

Source: Li et al., "Noise Calibration and Spatial-Frequency Interactive Network for STEM
Image Enhancement", CVPR 2025, arXiv:2504.02555; the archives are those of
PaddleMaterials 0.3.0.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Annotated
from typing import Any

import numpy as np
from paddle import io

from ppmat.datasets.build_image import BuildImage
from ppmat.stem.images.image_inputs import image_names
from ppmat.stem.images.micrograph import IMAGE_SUFFIXES
from ppmat.stem.images.micrograph import ImageFormatError
from ppmat.utils import logger
from ppmat.utils.download import get_datasets_path_from_url
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.ranges import Range

SPLITS = ("train", "val", "test")
FLIPS = ("left_right", "up_down")

# Names of the two ways to pair files: those of PaddleMaterials, and short ones.
_MATCH_MODES = {
    "indexed": "indexed",
    "index": "indexed",
    "BuildIndexedNameSamples": "indexed",
    "matched": "matched",
    "same_name": "matched",
    "BuildMatchedNameSamples": "matched",
}
_MAX_GREY_LEVEL = 1000.0  # brighter images are not in grey levels 0 to 255
_NAMES_IN_ERROR = 5


class SFINDataset(io.Dataset):
    """One split of a folder of noisy and clean STEM images.

    ``train`` and ``val`` share the folder ``train``: ``val`` is a fixed random part of
    it, and ``train`` is the rest. If the root has a folder ``val``, the split ``val``
    is that folder, and ``train`` is the whole folder ``train``. (PaddleMaterials 0.3.0
    uses the test images as ``val``, so its best epoch is chosen by the test score.)
    Images are decoded when they are needed; nothing is cached.

    Args:
        path: The root folder.
        split: ``train``, ``val`` or ``test``.
        target_subdir: The target of the network, ``gt_enhance``, ``gt_detect`` or
            ``gt_superresolution``. This folder must exist; the others are loaded if
            they exist. None loads noisy images only.
        data_count: Use only the first samples of the split.
        build_samples_cfg: ``match_mode``: ``indexed`` (default) pairs files whose names
            are the same whole number (``7.png``, ``007.tif``), ``matched`` those whose
            names without suffix are equal.
        build_image_cfg: Arguments of ``BuildImage``.
        transforms: Applied to each sample, after flips and crop.
        cache_path: Ignored, with a message; PaddleMaterials has this key.
        overwrite: Ignored, with a message; PaddleMaterials has this key.
        val_ratio: Share of the folder ``train`` that is ``val``, at least one image.
            With 0 there is no ``val``. Must be the same for both splits.
        split_seed: Seed of the selection; must be the same for both splits.
        flips: ``left_right``, ``up_down`` or both. Each flips all images of a sample,
            with probability 1/2. For training only.
        crop_size: Cut squares of this size (or [height, width]) out of all images of a
            sample: at a random place in training, else from the middle. None uses
            whole images, which must have the same size (see ``same_size``).
        seed: Seed of flips and crops; see :meth:`set_epoch`.
        same_size: Images of different sizes are an error. Set it to False only with
            ``batch_size`` 1.
        download: Fetch the archive if ``path`` does not exist and its last part is
            ``sfin_haadf`` or ``sfin_bf``.

    Raises:
        FileNotFoundError: A folder is missing.
        InputError: An illegal argument, or files without a partner.
        ImageFormatError: A file holds no grey image. Also when a sample is read: a
            pixel is NaN or infinite, or the sizes of images do not fit.
    """

    name = "sfin"
    url = (
        "https://paddle-org.bj.bcebos.com/paddlematerials/datasets/SFIN/sfin_haadf.zip"
    )
    md5 = "f96dea9ac1f722d6ca55c7e49c1b3a41"
    bf_url = (
        "https://paddle-org.bj.bcebos.com/paddlematerials/datasets/SFIN/sfin_bf.zip"
    )
    bf_md5 = "74ec1c1959e162669cc8cbbc8713bda0"
    label_subdirs = ("gt_enhance", "gt_detect", "gt_superresolution")

    nested_params = {"build_image_cfg": BuildImage}

    def __init__(
        self,
        path: str = "./sfin_haadf",
        split: str = "train",
        target_subdir: str | None = "gt_enhance",
        data_count: Annotated[int, Range(1, 10**9)] | None = None,
        build_samples_cfg: dict | None = None,
        build_image_cfg: dict | None = None,
        transforms: Callable[[dict], dict] | None = None,
        cache_path: str | None = None,
        overwrite: bool = False,
        val_ratio: Annotated[float, Range(0, below=1)] = 0.1,
        split_seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
        flips: Sequence[str] | None = None,
        crop_size: Annotated[int | Sequence[int], Range(1, 100_000)] | None = None,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
        same_size: bool = True,
        download: bool = False,
    ) -> None:
        super().__init__()
        check_choice("split", split, SPLITS)
        if target_subdir is not None:
            check_choice("target_subdir", target_subdir, self.label_subdirs)
        if data_count is not None and data_count < 1:
            raise InputError(f"data_count is {data_count}", wanted="at least 1 or None")
        if not 0 <= val_ratio < 1:
            raise InputError(f"val_ratio is {val_ratio}", wanted="0 to below 1")
        if cache_path is not None or overwrite:
            logger.message(
                "SFINDataset has no cache: cache_path and overwrite have no effect"
            )
        self.split = split
        self.target_subdir = target_subdir
        self.flips = _check_flips(flips, split)
        self.crop_size = (
            None if crop_size is None else check_size("crop_size", crop_size, 1)
        )
        self.seed = seed
        self.same_size = same_size
        self.transforms = transforms
        self.build_image = BuildImage(**(build_image_cfg or {}))
        self.epoch: int | None = None
        self.path = self._locate(os.fspath(path), download)
        mode = _match_mode(build_samples_cfg)

        folder, part = self._folder(val_ratio)
        files = {"noisy": _files(os.path.join(folder, "noisy"), mode)}
        for label in self.label_subdirs if target_subdir else ():
            subfolder = os.path.join(folder, label)
            if label == target_subdir or os.path.isdir(subfolder):
                files[label] = _files(subfolder, mode)
                _check_pairs(files["noisy"], files[label], mode)
        keys = sorted(files["noisy"])
        if part is not None:
            keys = _part(keys, part, val_ratio, split_seed, folder)
        self.samples: list[dict[str, str]] = [
            {kind: found[key] for kind, found in files.items()}
            for key in keys[:data_count]
        ]
        first = self._read(0)["noisy"]
        self._shape = first.shape
        if first.max() > _MAX_GREY_LEVEL or -1 <= first.min() <= first.max() <= 1:
            logger.warning(
                f"{self.samples[0]['noisy']} holds values from {first.min():g} to "
                f"{first.max():g}. They are not scaled, but SFIN and its metrics "
                "expect grey levels 0 to 255: scale the files to that range"
            )
        logger.info(
            f"SFIN {split}: {len(self.samples)} of {len(files['noisy'])} images of "
            f"{folder}, with {', '.join(self.samples[0])}"
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        if not 0 <= idx < len(self):
            raise IndexError(f"sample {idx} of {len(self)}")
        images = self._read(idx)
        self._check_size(idx, images["noisy"].shape)
        crop, flip = self._window(idx, images["noisy"].shape)
        sample: dict[str, Any] = {
            kind: np.ascontiguousarray(image[crop][flip])
            for kind, image in images.items()
        }
        sample["name"] = os.path.basename(self.samples[idx]["noisy"])
        sample["id"] = idx
        return sample if self.transforms is None else self.transforms(sample)

    def set_epoch(self, epoch: int) -> None:
        """Make flips and crops a function of (seed, epoch, sample) only.

        They are then the same with any number of workers and after a resume. Without
        this call they come from numpy's global generator.
        """
        self.epoch = epoch

    def _locate(self, path: str, download: bool) -> str:
        if os.path.isdir(path):
            return path
        name = os.path.basename(os.path.normpath(path))
        known = {"sfin_haadf": (self.url, self.md5)}
        known["sfin_bf"] = (self.bf_url, self.bf_md5)
        if name not in known or not download:
            raise FileNotFoundError(
                f"'{path}' is no folder; wanted the root of the images, with train/ "
                "and test/. For a folder named sfin_haadf or sfin_bf, 'download: true' "
                f"fetches {self.url} or {self.bf_url}"
            )
        root = get_datasets_path_from_url(*known[name])
        inner = os.path.join(root, name)
        return inner if os.path.isdir(inner) else root

    def _folder(self, val_ratio: float) -> tuple[str, str | None]:
        """Return the folder of the split, and the split if it is only a part of it."""
        has_val = os.path.isdir(os.path.join(self.path, "val"))
        if self.split != "test" and not has_val and val_ratio > 0:
            return os.path.join(self.path, "train"), self.split
        if self.split == "val" and not has_val:
            raise InputError(
                f"val_ratio is 0 and '{self.path}' has no folder 'val', so there are "
                "no validation images"
            )
        return os.path.join(self.path, self.split), None

    def _read(self, idx: int) -> dict[str, np.ndarray]:
        """Return all images of a sample, checked against each other."""
        paths = self.samples[idx]
        images = {kind: self.build_image(path) for kind, path in paths.items()}
        for kind, image in images.items():
            if bad := int((~np.isfinite(image)).sum()):
                raise ImageFormatError(
                    f"{paths[kind]}: {bad} of {image.size} pixels are NaN or infinite; "
                    "repair or remove the image"
                )
            if image.shape != images["noisy"].shape:
                raise ImageFormatError(
                    f"{paths[kind]} has {_size(image.shape)} pixels, but "
                    f"{paths['noisy']} has {_size(images['noisy'].shape)}"
                )
        return images

    def _check_size(self, idx: int, shape: tuple[int, ...]) -> None:
        path = self.samples[idx]["noisy"]
        if self.crop_size is None:
            if self.same_size and shape != self._shape:
                raise ImageFormatError(
                    f"{path} has {_size(shape)} pixels, but "
                    f"{self.samples[0]['noisy']} has {_size(self._shape)}; images of "
                    "different sizes make no batch. Set crop_size to the size of the "
                    "smallest, or same_size to false and batch_size to 1"
                )
        elif shape[1] < self.crop_size[0] or shape[2] < self.crop_size[1]:
            raise ImageFormatError(
                f"{path} has {_size(shape)} pixels, less than crop_size "
                f"{_size(self.crop_size)}; choose a smaller crop or remove the image"
            )

    def _window(self, idx: int, shape: tuple[int, ...]) -> tuple[tuple, tuple]:
        """Return the slices that crop, and then flip, the images of a sample."""
        height, width = self.crop_size or shape[1:]
        rest = (shape[1] - height, shape[2] - width)
        top, left = rest[0] // 2, rest[1] // 2
        steps = [1, 1]
        if self.split == "train" and (self.flips or self.crop_size):
            if self.epoch is None:
                state = np.random.randint(0, 2**32, 4, dtype=np.uint32)
            else:
                entropy = [self.seed, self.epoch, idx]
                state = np.random.SeedSequence(entropy).generate_state(4)
            rng = np.random.RandomState(state)
            top, left = (int(rng.randint(size + 1)) for size in rest)
            drawn = zip(("up_down", "left_right"), rng.rand(2) < 0.5)
            steps = [-1 if flip and name in self.flips else 1 for name, flip in drawn]
        crop = np.s_[:, top : top + height, left : left + width]
        return crop, np.s_[:, :: steps[0], :: steps[1]]


def _files(folder: str, mode: str) -> dict[Any, str]:
    """Return the image files of a folder by the key that pairs them."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"'{folder}' does not exist; wanted root/<split>/noisy and beside it the "
            "targets gt_enhance, gt_detect or gt_superresolution"
        )
    found: dict[Any, str] = {}
    for name in image_names(folder):
        path, key = os.path.join(folder, name), os.path.splitext(name)[0]
        if mode == "indexed":
            if not (key.isascii() and key.isdigit()):
                raise InputError(
                    f"'{path}': the name is no whole number like '12.png'; rename it, "
                    "or pair by equal names with build_samples_cfg: "
                    "{match_mode: matched}"
                )
            key = int(key)
        if key in found:
            raise InputError(
                f"'{folder}' holds both '{os.path.basename(found[key])}' and '{name}', "
                f"which are the same image ({key}); remove one"
            )
        found[key] = path
    if not found:
        legal = ", ".join(IMAGE_SUFFIXES)
        raise FileNotFoundError(f"'{folder}' holds no image ({legal})")
    return found


def _check_pairs(noisy: dict, target: dict, mode: str) -> None:
    alone = [noisy[key] for key in sorted(noisy.keys() - target.keys())]
    alone += [target[key] for key in sorted(target.keys() - noisy.keys())]
    if alone:
        raise InputError(
            f"{len(alone)} images have no partner (match_mode {mode}): "
            + ", ".join(alone[:_NAMES_IN_ERROR])
            + (", ..." if len(alone) > _NAMES_IN_ERROR else "")
        )


def _part(
    keys: list[Any], split: str, val_ratio: float, seed: int, folder: str
) -> list[Any]:
    """Return the images of ``train`` or ``val``, which share one folder."""
    count = max(1, round(val_ratio * len(keys)))
    if count >= len(keys):
        raise InputError(
            f"'{folder}' has {len(keys)} images, so val_ratio {val_ratio} leaves none "
            "for training"
        )
    # RandomState: its numbers are the same in all versions of numpy.
    order = np.random.RandomState(seed).permutation(len(keys))
    chosen = order[:count] if split == "val" else order[count:]
    return [keys[i] for i in sorted(chosen)]


def _match_mode(cfg: Mapping | None) -> str:
    cfg = {"match_mode": "indexed", **(cfg or {})}
    mode = cfg.pop("match_mode")
    if cfg:
        raise InputError(
            f"build_samples_cfg: unknown key {next(iter(cfg))!r}; the only one is "
            "match_mode"
        )
    check_choice("build_samples_cfg.match_mode", mode, _MATCH_MODES)
    return _MATCH_MODES[mode]


def _check_flips(flips: Sequence[str] | None, split: str) -> tuple[str, ...]:
    flips = (flips,) if isinstance(flips, str) else tuple(flips or ())
    for flip in flips:
        if flip not in FLIPS:
            raise InputError(
                f"flips: {flip!r} is not possible, only {', '.join(FLIPS)}. Scan noise "
                "differs along rows and columns: images must not be rotated by 90°"
            )
    if flips and split != "train":
        raise InputError(f"flips are for training, not for the split '{split}'")
    return flips


def check_size(name: str, size: int | Sequence[int], smallest: int) -> tuple[int, int]:
    """Return height and width of an image, pixels, given as one number or as both."""
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    if len(sizes) != 2 or not all(isinstance(s, int) and s >= smallest for s in sizes):
        wanted = f"at least {smallest}, or [height, width]"
        raise InputError(f"{name} is {size!r}", wanted=wanted)
    return sizes


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape[-2:])
