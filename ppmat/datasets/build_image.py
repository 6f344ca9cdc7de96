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
from typing import Annotated

import numpy as np

from ppmat.stem.images.micrograph import image_from
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.ranges import Range

PathLike = str | os.PathLike


class BuildImage:
    """Reads an image file, or a list of them, as [1, H, W] floats.

    Grey values are those of the file, whatever its depth.

    Args:
        format: ``image_file``: any file ``read_micrograph`` reads.
        mode: ``L``: one grey value per pixel, of any depth (in Pillow, ``L`` means 8
            bits). A colour image with equal channels is grey; other colours are an
            error.
        dtype: ``float32`` or ``float64``. Integers up to 16 bits are exact in both.
        num_cpus: Threads for a list; None or 1 uses the current one. Decoding releases
            Python's global lock.
    """

    def __init__(
        self,
        format: str = "image_file",
        mode: str = "L",
        dtype: str = "float32",
        num_cpus: Annotated[int, Range(1, 1024)] | None = None,
    ) -> None:
        _check(format, mode, dtype)
        if num_cpus is not None and (type(num_cpus) is not int or num_cpus < 1):
            raise InputError(f"num_cpus is {num_cpus!r}", wanted="at least 1 or None")
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
        return np.array(image_from(read_micrograph(image_data))[None], dtype=dtype)

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
    check_choice("format", format, ("image_file",))
    check_choice("mode", mode, ("L",))
    check_choice("dtype", dtype, ("float32", "float64"))
