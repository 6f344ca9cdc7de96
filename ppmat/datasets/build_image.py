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


"""Microscope images from files, as one-channel arrays."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Sequence

import numpy as np

from ppmat.stem.images.micrograph import image_from
from ppmat.stem.images.micrograph import read_micrograph

_FORMATS = ("image_file",)
_MODES = ("L",)
_TYPES = ("float32", "float64")

PathLike = str | os.PathLike


class BuildImage:
    """Turns an image file, or a list of them, into [1, H, W] floats.

    Grey values are those of the file, whatever its depth: 0..65535 of a 16-bit file
    stay 0..65535, fractions and negative values stay what they are.

    Args:
        format: ``image_file``: any file ``read_micrograph`` reads.
        mode: ``L``: one grey value per pixel. (In Pillow it means 8 bits too; not
            here.) A colour picture of a grey image counts, one with real colours is an
            error.
        dtype: ``float32`` or ``float64``. Integers up to 16 bits are exact in both.
        num_cpus: Threads for a list; None or 1 works in this one. Decoding releases
            Python's lock.

    Raises:
        ValueError: An argument with another value.
    """

    def __init__(
        self,
        format: str = "image_file",
        mode: str = "L",
        dtype: str = "float32",
        num_cpus: int | None = None,
    ) -> None:
        _check(format, mode, dtype)
        if num_cpus is not None and (
            isinstance(num_cpus, bool) or not isinstance(num_cpus, int) or num_cpus < 1
        ):
            raise ValueError(f"num_cpus is {num_cpus!r}, wanted at least 1 or None")
        self.format = format
        self.mode = mode
        self.dtype = dtype
        self.num_cpus = 1 if num_cpus is None else num_cpus

    @staticmethod
    def build_one(
        image_data: PathLike,
        format: str = "image_file",
        mode: str = "L",
        dtype: str = "float32",
    ) -> np.ndarray:
        """Return the image [1, H, W] of one file; arguments as in the class.

        Raises:
            ImageFormatError: The file holds no image, a stack, or colours.
        """
        _check(format, mode, dtype)
        image = image_from(read_micrograph(image_data))
        return np.array(image[None], dtype=dtype)

    def __call__(
        self, images_data: PathLike | Sequence[PathLike]
    ) -> np.ndarray | list[np.ndarray]:
        """Return the image of one file, or the images of a list in its order."""
        if not isinstance(images_data, (list, tuple)):
            return self._build(images_data)
        if self.num_cpus == 1:
            return [self._build(path) for path in images_data]
        with concurrent.futures.ThreadPoolExecutor(self.num_cpus) as pool:
            return list(pool.map(self._build, images_data))

    def _build(self, path: PathLike) -> np.ndarray:
        return self.build_one(path, self.format, self.mode, self.dtype)


def _check(format: str, mode: str, dtype: str) -> None:
    found = {"format": format, "mode": mode, "dtype": dtype}
    legal = {"format": _FORMATS, "mode": _MODES, "dtype": _TYPES}
    for name, value in found.items():
        if value not in legal[name]:
            raise ValueError(
                f"{name} is {value!r}, wanted {' or '.join(map(repr, legal[name]))}"
            )
