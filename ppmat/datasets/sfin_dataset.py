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

A sample: ``noisy``, ``gt_enhance``, ``gt_detect`` [1, H, W] float32 with the grey
values of the files (the network and its metrics are made for 0..255), ``name`` (file
name of the noisy image), ``id`` (number of the sample in its split).

Source: Li et al., "Noise Calibration and Spatial-Frequency Interactive Network for STEM
Image Enhancement", CVPR 2025, arXiv:2504.02555; the archives are those of
PaddleMaterials 0.3.0.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from paddle import io

from ppmat.datasets.build_image import BuildImage
from ppmat.stem.images.image_inputs import image_names
from ppmat.stem.images.micrograph import IMAGE_SUFFIXES
from ppmat.stem.images.micrograph import ImageFormatError
from ppmat.utils import logger
from ppmat.utils.download import get_datasets_path_from_url
from ppmat.utils.errors import check_choice

SPLITS = ("train", "val", "test")
FLIPS = ("left_right", "up_down")

# Upstream's names of the two ways to pair files, and ours.
_MATCH_MODES = {
    "indexed": "indexed",
    "index": "indexed",
    "BuildIndexedNameSamples": "indexed",
    "matched": "matched",
    "same_name": "matched",
    "BuildMatchedNameSamples": "matched",
}
_BRIGHTEST = 1000.0  # an image of grey levels 0..255 does not reach this
_SHOWN = 5  # names in an error


class SFINDataset(io.Dataset):
    """One split of a folder of noisy and clean STEM images.

    ``train`` and ``val`` share the folder ``train``: ``val`` is a random part of it,
    the same at every start, that ``train`` leaves out. ``test`` is the folder ``test``
    and nothing else. (PaddleMaterials 0.3.0 takes the test images for ``val`` too, so
    that the best epoch is chosen by its test score.) A root that has a folder ``val``
    keeps it, and ``train`` is whole.

    Images are decoded when asked for, in the loader's workers; nothing is cached.

    Args:
        path: The root folder.
        split: ``train``, ``val`` or ``test``.
        target_subdir: What the network learns, ``gt_enhance`` or ``gt_detect``. It must
            be there; the other one is loaded too if it is. None loads noisy images
            only.
        data_count: Use the first samples of the split only.
        build_samples_cfg: ``match_mode``: ``indexed`` (default) pairs files whose names
            are the same whole number (``7.png``, ``007.tif``), ``matched`` those whose
            names without suffix are equal.
        build_image_cfg: Arguments of ``BuildImage``.
        transforms: Applied to each sample, after flips and crop.
        cache_path: Accepted because upstream's files have it; there is no cache, and
            the log says so.
        overwrite: The same.
        val_ratio: Part of the folder ``train`` that is ``val``, at least one image; 0
            leaves ``train`` whole, and there is no ``val``. Must be the same for both.
        split_seed: Which part; must be the same for both.
        flips: ``left_right``, ``up_down`` or both: each is done to half of the samples,
            to all images of a sample alike. Training only.
        crop_size: Cut squares of this size (or [height, width]) out of all images of a
            sample: at a random place in training, else from the middle. None takes
            whole images, which then must all have one size (see ``same_size``).
        seed: Of flips and crops; see :meth:`set_epoch`.
        same_size: Images of several sizes are an error. False is for batches of one.
        download: Fetch the archive if ``path`` does not exist and its last part is
            ``sfin_haadf`` or ``sfin_bf``.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: An argument that cannot be meant, or files that do not pair.
        ImageFormatError: A file holds no grey image; or (also when a sample is read) a
            pixel without a number, or images of a size that does not fit.
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
    label_subdirs = ("gt_enhance", "gt_detect")

    def __init__(
        self,
        path: str = "./sfin_haadf",
        split: str = "train",
        target_subdir: str | None = "gt_enhance",
        data_count: int | None = None,
        build_samples_cfg: dict | None = None,
        build_image_cfg: dict | None = None,
        transforms: Callable[[dict], dict] | None = None,
        cache_path: str | None = None,
        overwrite: bool = False,
        val_ratio: float = 0.1,
        split_seed: int = 0,
        flips: Sequence[str] | None = None,
        crop_size: int | Sequence[int] | None = None,
        seed: int = 0,
        same_size: bool = True,
        download: bool = False,
    ) -> None:
        super().__init__()
        check_choice("split", split, SPLITS)
        if target_subdir is not None:
            check_choice("target_subdir", target_subdir, self.label_subdirs)
        if data_count is not None and data_count < 1:
            raise ValueError(f"data_count is {data_count}, wanted at least 1 or None")
        if not 0 <= val_ratio < 1:
            raise ValueError(f"val_ratio is {val_ratio}, wanted 0 to below 1")
        if cache_path is not None or overwrite:
            logger.message(
                "SFINDataset reads the image files themselves and has no cache: "
                "cache_path and overwrite change nothing and can be left out"
            )
        self.split = split
        self.target_subdir = target_subdir
        self.flips = _check_flips(flips, split)
        self.crop_size = _check_crop(crop_size)
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
        if first.max() > _BRIGHTEST or -1 <= first.min() <= first.max() <= 1:
            logger.warning(
                f"{self.samples[0]['noisy']} holds values from {first.min():g} to "
                f"{first.max():g}. They are used as they are, but SFIN and its metrics "
                "are made for grey levels 0 to 255: scale the files to that"
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
        window = self._window(idx, images["noisy"].shape)
        sample: dict[str, Any] = {
            kind: np.ascontiguousarray(image[window]) for kind, image in images.items()
        }
        sample["name"] = os.path.basename(self.samples[idx]["noisy"])
        sample["id"] = idx
        return sample if self.transforms is None else self.transforms(sample)

    def set_epoch(self, epoch: int) -> None:
        """Make flips and crops a function of (seed, epoch, sample) only.

        So they are the same with any number of workers and after a resume. Without a
        call they are drawn from numpy's global generator.
        """
        self.epoch = epoch

    def _locate(self, path: str, download: bool) -> str:
        if os.path.isdir(path):
            return path
        name = os.path.basename(os.path.normpath(path))
        known = {
            "sfin_haadf": (self.url, self.md5),
            "sfin_bf": (self.bf_url, self.bf_md5),
        }
        if name not in known:
            raise FileNotFoundError(
                f"'{path}' is no folder; wanted the root of the images, with train/ "
                f"and test/. Folders named {' or '.join(known)} can be fetched with "
                "'download: true'"
            )
        if not download:
            raise FileNotFoundError(
                f"'{path}' is no folder. 'download: true' fetches {known[name][0]}"
            )
        root = get_datasets_path_from_url(*known[name])
        inner = os.path.join(root, name)
        return inner if os.path.isdir(inner) else root

    def _folder(self, val_ratio: float) -> tuple[str, str | None]:
        """Return the folder of the split, and which part of it the split is."""
        own = os.path.join(self.path, self.split)
        if self.split == "test" or os.path.isdir(os.path.join(self.path, "val")):
            return own, None
        if val_ratio == 0:
            if self.split == "val":
                raise ValueError(
                    f"val_ratio is 0 and '{self.path}' has no folder 'val', so there "
                    "are no images to validate with"
                )
            return own, None
        return os.path.join(self.path, "train"), self.split

    def _read(self, idx: int) -> dict[str, np.ndarray]:
        """Return all images of a sample, checked against each other."""
        paths = self.samples[idx]
        images = {kind: self.build_image(path) for kind, path in paths.items()}
        for kind, image in images.items():
            if not np.isfinite(image).all():
                raise ImageFormatError(
                    f"{paths[kind]}: {int((~np.isfinite(image)).sum())} of "
                    f"{image.size} pixels are NaN or infinite, which no network can "
                    "learn from; mend or remove the image"
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
                    f"{self.samples[0]['noisy']} has {_size(self._shape)}, and images "
                    "of several sizes make no batch; set crop_size to the size of the "
                    "smallest, or same_size to false and batch_size to 1"
                )
        elif shape[1] < self.crop_size[0] or shape[2] < self.crop_size[1]:
            raise ImageFormatError(
                f"{path} has {_size(shape)} pixels, less than crop_size "
                f"{_size(self.crop_size)}; choose a smaller crop or remove the image"
            )

    def _window(self, idx: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Return what to cut out of the images of a sample, and in which direction."""
        if not self.flips and self.crop_size is None:
            return (slice(None),) * 3
        height, width = self.crop_size or shape[1:]
        rest = (shape[1] - height, shape[2] - width)
        if self.split != "train":
            top, left = rest[0] // 2, rest[1] // 2
            return slice(None), slice(top, top + height), slice(left, left + width)
        rng = np.random.RandomState(self._entropy(idx))
        top, left = (int(rng.randint(size + 1)) for size in rest)
        up_down, left_right = rng.rand(2) < 0.5
        return (
            slice(None),
            _span(top, height, up_down and "up_down" in self.flips),
            _span(left, width, left_right and "left_right" in self.flips),
        )

    def _entropy(self, idx: int) -> np.ndarray:
        if self.epoch is None:
            return np.random.randint(0, 2**32, 4, dtype=np.uint32)
        return np.random.SeedSequence([self.seed, self.epoch, idx]).generate_state(4)


def _span(start: int, size: int, reverse: bool) -> slice:
    """Return the slice of ``size`` elements from ``start``, forwards or backwards."""
    if not reverse:
        return slice(start, start + size)
    return slice(start + size - 1, start - 1 if start else None, -1)


def _files(folder: str, mode: str) -> dict[Any, str]:
    """Return the image files of a folder by what they are paired by.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: A name is no number, or two files have the same one.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"'{folder}' does not exist; wanted root/<split>/noisy and beside it the "
            "targets gt_enhance, gt_detect"
        )
    names = image_names(folder)
    if not names:
        raise FileNotFoundError(
            f"'{folder}' holds no image ({', '.join(IMAGE_SUFFIXES)})"
        )
    found: dict[Any, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        key: int | str = stem
        if mode == "indexed":
            if not (stem.isascii() and stem.isdigit()):
                raise ValueError(
                    f"'{os.path.join(folder, name)}': the name is no whole number like "
                    "'12.png'; rename it, or pair by equal names with "
                    "build_samples_cfg: {match_mode: matched}"
                )
            key = int(stem)
        if key in found:
            raise ValueError(
                f"'{folder}' holds both '{os.path.basename(found[key])}' and '{name}', "
                f"which are the same image ({key}); remove one"
            )
        found[key] = os.path.join(folder, name)
    return found


def _check_pairs(noisy: dict, target: dict, mode: str) -> None:
    alone = [noisy[key] for key in sorted(noisy.keys() - target.keys())]
    alone += [target[key] for key in sorted(target.keys() - noisy.keys())]
    if alone:
        more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
        raise ValueError(
            f"{len(alone)} images have no partner (match_mode {mode}): "
            f"{', '.join(alone[:_SHOWN])}{more}"
        )


def _part(
    keys: list[Any], split: str, val_ratio: float, seed: int, folder: str
) -> list[Any]:
    """Return the images of ``train`` or ``val`` out of one folder."""
    count = max(1, round(val_ratio * len(keys)))
    if count >= len(keys):
        raise ValueError(
            f"'{folder}' has {len(keys)} images, so val_ratio {val_ratio} leaves none "
            "to train on"
        )
    # RandomState: its numbers are the same in all versions of numpy.
    order = np.random.RandomState(seed).permutation(len(keys))
    chosen = order[:count] if split == "val" else order[count:]
    return [keys[i] for i in sorted(chosen)]


def _match_mode(cfg: Mapping | None) -> str:
    cfg = {"match_mode": "indexed", **(cfg or {})}
    mode = cfg.pop("match_mode")
    for key in cfg:
        raise ValueError(
            f"build_samples_cfg: unknown key {key!r}; the only one is match_mode"
        )
    check_choice("build_samples_cfg.match_mode", mode, _MATCH_MODES)
    return _MATCH_MODES[mode]


def _check_flips(flips: Sequence[str] | None, split: str) -> tuple[str, ...]:
    if flips is None:
        return ()
    if isinstance(flips, str):
        flips = [flips]
    for flip in flips:
        if flip not in FLIPS:
            raise ValueError(
                f"flips: {flip!r} is not possible, only {', '.join(FLIPS)}. Noise of a "
                "scan differs along rows and columns, so images must not be transposed "
                "or turned by 90 degrees"
            )
    if flips and split != "train":
        raise ValueError(f"flips are for training, not for the split '{split}'")
    return tuple(flips)


def _check_crop(crop: int | Sequence[int] | None) -> tuple[int, int] | None:
    if crop is None:
        return None
    sizes = (crop, crop) if isinstance(crop, int) else tuple(crop)
    if len(sizes) != 2 or not all(isinstance(s, int) and s > 0 for s in sizes):
        raise ValueError(
            f"crop_size is {crop!r}, wanted a positive number or [height, width]"
        )
    return sizes


def _size(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape[-2:])
