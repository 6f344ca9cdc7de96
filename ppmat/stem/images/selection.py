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

"""A part of an image: a rectangle of pixels, a mask, or both.

Pixels outside the mask become NaN, as missing pixels are everywhere in this package.
Pixel size, units and metadata stay. ``Micrograph.offset`` says where the part lies.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppmat.stem.images.micrograph import image_from
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.micrograph_readers import read_npy
from ppmat.utils.errors import InputError

_NPY_START = b"\x93NUMPY"


def cut_region(image: Micrograph, region: Sequence[int]) -> Micrograph:
    """Return a rectangle of an image or stack, as a view.

    Args:
        image: The image.
        region: Top, left, height and width in pixels.

    Raises:
        InputError: The rectangle is empty or leaves the image.

    Example:
        >>> part = cut_region(Micrograph(np.arange(20).reshape(4, 5)), (1, 2, 2, 3))
        >>> part.data.tolist(), part.offset
        ([[7, 8, 9], [12, 13, 14]], (1, 2))
    """
    top, left, height, width = region
    rows, columns = image.data.shape[-2:]
    inside = 0 <= top < top + height <= rows and 0 <= left < left + width <= columns
    if not inside:
        raise InputError(
            f"the region {' '.join(map(str, region))} (top left height width) is not "
            f"inside its {rows} x {columns} pixels",
            where=image.path or "image",
            wanted="a region of at least one pixel",
        )
    data = image.data[..., top : top + height, left : left + width]
    offset = (image.offset[0] + top, image.offset[1] + left)
    return dataclasses.replace(image, data=data, offset=offset)


def apply_mask(image: Micrograph, mask: np.ndarray, where: str = "mask") -> Micrograph:
    """Return an image whose pixels are NaN where a mask is zero.

    Args:
        image: The image or stack [..., H, W].
        mask: [H, W]; pixels that are not zero are used.
        where: Name of the mask for the error.

    Returns:
        float32 pixels; float64 if float32 would round the values.

    Raises:
        InputError: The mask has another size, or uses no pixel.
    """
    rows, columns = image.data.shape[-2:]
    if mask.shape != (rows, columns):
        raise InputError(
            f"the mask has {mask.shape[0]} x {mask.shape[1]} pixels",
            where=where,
            wanted=f"{rows} x {columns} as {image.path or 'the image'}",
        )
    if not mask.any():
        raise InputError("the mask is zero everywhere", where=where)
    data = np.where(mask != 0, image.data, np.float32(np.nan))
    return dataclasses.replace(image, data=data)


@dataclasses.dataclass(frozen=True)
class Selection:
    """The part of each input image that a command uses.

    Attributes:
        region: Top, left, height and width in pixels; None is the whole image.
        mask: File of an image of the size of the whole inputs; pixels that are not
            zero are used. None uses all.
    """

    region: tuple[int, int, int, int] | None = None
    mask: str | None = None

    def apply(self, image: Micrograph) -> Micrograph:
        """Return the part of an image; the mask has the size of the whole image.

        Raises:
            InputError: Region or mask do not fit the image.
        """
        if self.mask is not None:
            image = apply_mask(image, self._mask_pixels, self.mask)
        return image if self.region is None else cut_region(image, self.region)

    def record(self) -> dict[str, Any]:
        """Return region and mask as plain values, for descriptions of outputs.

        The hash of the mask is that of its used pixels, one bit each in stored order.
        """
        found: dict[str, Any] = {}
        if self.region is not None:
            found["region"] = list(self.region)
        if self.mask is not None:
            bits = np.packbits(self._mask_pixels != 0).tobytes()
            path = os.path.abspath(self.mask)
            found["mask"] = {"path": path, "sha256": hashlib.sha256(bits).hexdigest()}
        return found

    @functools.cached_property
    def _mask_pixels(self) -> np.ndarray:
        with open(self.mask, "rb") as file:
            is_npy = file.read(len(_NPY_START)) == _NPY_START
        # numpy's masks are boolean, which is no type of an image.
        image = read_npy(self.mask, None) if is_npy else read_micrograph(self.mask)
        return image_from(image)
