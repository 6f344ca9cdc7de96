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

"""Microscope images in files, with pixel size, units and metadata.

Read: PNG, TIFF, npy, MRC, and through RosettaSciIO (``pip install 'ppmat[stem]'``)
DigitalMicrograph 3 and 4, EMD (Velox, Berkeley), TIA ``.ser``, and HyperSpy's ``.hspy``
and ``.hdf5``.
The first bytes of a file decide its format, not its name.

Written: TIFF in the form of ImageJ, npy, MRC, and ``.hspy`` through RosettaSciIO.

Values stay as they are stored: they are not scaled, clipped or converted to 8 bits.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

import numpy as np

from ppmat.stem.images import micrograph_readers
from ppmat.stem.images.micrograph_base import ImageFormatError
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.micrograph_base import check_array
from ppmat.stem.images.micrograph_base import not_real_space
from ppmat.stem.images.micrograph_readers import Index
from ppmat.stem.images.micrograph_writers import check_writable
from ppmat.stem.images.micrograph_writers import write_micrograph

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageFormatError",
    "Micrograph",
    "check_writable",
    "image_from",
    "read_micrograph",
    "write_micrograph",
]

_LOG = logging.getLogger("ppmat")
# Suffixes of image files in a folder, lower case.
IMAGE_SUFFIXES = tuple(
    ".png .tif .tiff .npy .mrc .dm3 .dm4 .emd .ser .hspy .hdf5".split()
)

_READERS: dict[str, Callable[[str, Index], Micrograph]] = {
    "png": micrograph_readers.read_png,
    "tiff": micrograph_readers.read_tiff,
    "npy": micrograph_readers.read_npy,
    "mrc": micrograph_readers.read_mrc,
}
for _name in ("dm", "emd", "hspy", "ser"):
    _READERS[_name] = functools.partial(micrograph_readers.read_rosettasciio, _name)
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "png",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tiff"),
    b"\x93NUMPY": "npy",
    **dict.fromkeys((b"\0\0\0\x03", b"\0\0\0\x04"), "dm"),
    b"II\x97\x01": "ser",
    b"\x89HDF\r\n\x1a\n": "hdf5",
}
_REFUSED = {
    b"\xff\xd8\xff": "is a JPEG picture, whose compression has changed the grey values",
    b"BM": "is a BMP picture",
    b"GIF8": "is a GIF picture",
    b"PK\x03\x04": "is a zip archive (npz?)",
    b"%PDF": "is a PDF document",
}
_HEAD_BYTES = 212  # MRC files have their name at byte 208


def read_micrograph(path: str | os.PathLike, index: Index = None) -> Micrograph:
    """Read an image or a stack of images, in the type of the file.

    Args:
        path: The file.
        index: Number of the image, from 0, or its title, in a file that holds
            several, such as a Velox EMD file with HAADF and BF.

    Raises:
        ImageFormatError: The file cannot be read completely, or does not hold one grey
            value per pixel.
        OSError: The file does not exist, or the user may not read it.
    """
    path = os.fspath(path)
    image = _READERS[_kind(path)](path, index)
    image.data = check_array(image.data, path)
    other = not_real_space(image.units)
    if other is not None:
        _LOG.warning(
            f"{path}: its axes are in {image.units}, so it is {other}, and no image of "
            "columns; its pixels have no size in nm"
        )
    return image


def image_from(image: Micrograph) -> np.ndarray:
    """Return the one image [H, W] of a micrograph, or refuse a stack of several."""
    data = image.data
    if any(size != 1 for size in data.shape[:-2]):
        raise ImageFormatError(
            f"{image.path}: is a stack of shape {data.shape}; wanted one image [H, W]. "
            "Save its images as single files, or their mean"
        )
    return data.reshape(data.shape[-2:])


def _kind(path: str) -> str:
    """Return the format of a file, from its first bytes."""
    if os.path.isdir(path):
        raise ImageFormatError(f"{path}: is a folder; wanted an image file")
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise ImageFormatError(f"{path}: the file is empty")
    for beginning, reason in _REFUSED.items():
        if head.startswith(beginning):
            raise ImageFormatError(
                f"{path}: {reason}; export the image as TIFF, or save the array with "
                "numpy.save"
            )
    if head[208:212] == b"MAP ":
        return "mrc"
    found = [kind for start, kind in _BEGINNINGS.items() if head.startswith(start)]
    if found == ["hdf5"]:
        return micrograph_readers.kind_of_hdf5(path)
    if not found:
        raise ImageFormatError(
            f"{path}: is none of PNG, TIFF, npy, MRC, DM3, DM4, EMD, SER, HSPY, HDF5 "
            f"(it begins with {head[:8]!r})"
        )
    return found[0]
