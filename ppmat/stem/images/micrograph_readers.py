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

"""Readers of the image formats; ``ppmat.stem.images.micrograph`` chooses one.

Each takes ``(path, index)`` and returns a ``Micrograph`` whose array is not checked
yet. The image libraries are imported when they are needed.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

from ppmat.stem.images.micrograph_base import ImageFormatError
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.micrograph_base import checked_pixel_size
from ppmat.stem.images.micrograph_base import grey_from_colour
from ppmat.stem.images.micrograph_base import jsonable

# Fields of the MRC header kept as metadata; the others describe the storage.
_MRC_HEADER = (
    "mode nxstart nystart nzstart cella cellb dmin dmax dmean rms ispg exttyp nversion "
    "origin"
).split()
_MIN_MAPPED_BYTES = 1 << 26  # larger .npy files are mapped instead of read

# Readers of RosettaSciIO, by the names of ``ppmat.stem.images.micrograph``.
_PLUGINS = {"dm": "digitalmicrograph", "emd": "emd", "hspy": "hspy", "ser": "tia"}


def choose(path: str, names: list[str], index: int | None) -> int:
    """Return the number of the image to read.

    Args:
        path: The file, for errors.
        names: Of the images in the file.
        index: The wanted image; None for the only one.

    Raises:
        ImageFormatError: There is no such image, or ``index`` is None and there are
            several.
    """
    if not names:
        raise ImageFormatError(f"{path}: holds no image")
    if index is None:
        if len(names) == 1:
            return 0
        listing = "; ".join(f"{i}: {name}" for i, name in enumerate(names))
        raise ImageFormatError(
            f"{path}: holds {len(names)} images ({listing}); choose one with index, or "
            "save it in its own file"
        )
    if not 0 <= index < len(names):
        raise ImageFormatError(
            f"{path}: has no image {index}; it holds {len(names)}, counted from 0"
        )
    return index


def read_png(path: str, index: int | None) -> Micrograph:
    """Read grey PNG of 1 to 16 bits, and colour PNG whose channels are equal.

    Depths below 8 bits become 0..255, with black 0 and white 255 (PNG standard).
    """
    from PIL import Image

    with open(path, "rb") as file:
        head = file.read(26)
    if len(head) < 26:
        raise ImageFormatError(f"{path}: truncated PNG file ({len(head)} bytes)")
    depth, colour = head[24], head[25]
    if depth == 16 and colour != 0:
        raise ImageFormatError(
            f"{path}: is a colour PNG of 16 bits a channel, which Pillow would cut to "
            "8 bits; save it as 16-bit grey PNG or as TIFF"
        )
    try:
        with Image.open(path, formats=["PNG"]) as image:
            frames = getattr(image, "n_frames", 1)
            choose(path, [f"frame {i}" for i in range(frames)], index)
            image.seek(index or 0)
            image.load()
            info = {"format": "PNG", "mode": image.mode, **image.info}
            if image.mode == "P" or "transparency" in image.info:
                image = image.convert("RGBA")
            data = np.array(image)
    except ImageFormatError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageFormatError(
            f"{path}: {error}. Images as large as this are read from TIFF or npy"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageFormatError(
            f"{path}: cannot be read as PNG, probably truncated: {error}"
        ) from error
    if data.dtype == bool:
        data = data * np.uint8(255)
    elif data.dtype == np.int32:  # Pillow before 11.3 gives 16 bits as 32
        data = data.astype(np.uint16)
    if data.ndim == 3:
        data = grey_from_colour(data, int(data.shape[-1] in (2, 4)), path)
    return Micrograph(data, metadata=jsonable(info), path=path)


def read_npy(path: str, index: int | None) -> Micrograph:
    """Read an array; arrays of pickled objects are refused."""
    choose(path, ["array"], index)
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the head as Python tokens
        raise ImageFormatError(
            f"{path}: cannot be read as npy array (truncated, or made of Python "
            f"objects): {error}"
        ) from error
    if data.nbytes <= _MIN_MAPPED_BYTES:
        data = np.array(data)
    return Micrograph(data, metadata={"format": "NPY"}, path=path)


def read_mrc(path: str, index: int | None) -> Micrograph:
    """Read MRC; the voxel size of its header is in Å. Rows stay in stored order."""
    import mrcfile

    choose(path, ["array"], index)
    try:
        with mrcfile.open(path, permissive=False) as file:
            data = np.array(file.data)
            voxel = file.voxel_size
            sizes = (float(voxel.y), float(voxel.x))
            header = {name: file.header[name].tolist() for name in _MRC_HEADER}
            labels = file.get_labels()
    except (ValueError, OSError, EOFError) as error:
        raise ImageFormatError(
            f"{path}: cannot be read as MRC, damaged or truncated: {error}"
        ) from error
    pixel_size, units = checked_pixel_size(sizes, ("Å", "Å"))
    metadata = {"format": "MRC", "header": header, "labels": labels}
    return Micrograph(data, pixel_size, units, jsonable(metadata), path)


def require_rosettasciio(path: str) -> None:
    """Raise ``ImageFormatError`` if RosettaSciIO is not installed."""
    if importlib.util.find_spec("rsciio") is None:
        raise ImageFormatError(
            f"{path}: files of this kind are read and written through RosettaSciIO, "
            "which is not installed: pip install 'ppmat[stem]' (from this tree: "
            "pip install '.[stem]')"
        )


def rosettasciio_plugin(kind: str, path: str) -> Any:
    """Return the module of RosettaSciIO for a kind of file.

    Raises:
        ImageFormatError: It, or what it needs for this kind, is not installed.
    """
    require_rosettasciio(path)
    try:
        return importlib.import_module(f"rsciio.{_PLUGINS[kind]}")
    except ImportError as error:
        raise ImageFormatError(
            f"{path}: RosettaSciIO lacks something for this kind of file: {error}; "
            "pip install 'ppmat[stem]' brings it"
        ) from error


def read_rosettasciio(kind: str, path: str, index: int | None) -> Micrograph:
    """Read one image or stack of a file through RosettaSciIO.

    Spectra and maps in the same file are ignored. The axes are put in the order
    [..., y, x] with the information of the file.
    """
    plugin = rosettasciio_plugin(kind, path)
    try:
        signals = plugin.file_reader(path)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise many kinds of errors
        raise ImageFormatError(
            f"{path}: cannot be read by RosettaSciIO ({plugin.__name__}), damaged or "
            f"truncated: {type(error).__name__}: {error}"
        ) from error
    images = [signal for signal in signals if len(_axes(signal)[1]) >= 2]
    if signals and not images:
        raise ImageFormatError(
            f"{path}: holds {len(signals)} data sets but no image (spectra only)"
        )
    names = [f"{_title(signal)!r} {np.shape(signal['data'])}" for signal in images]
    signal = images[choose(path, names, index)]
    leading, (*more, y, x) = _axes(signal)
    axes = [*leading, *more, y, x]
    data = np.asarray(signal["data"])
    data = data.transpose([axis["index_in_array"] for axis in axes])
    if data.dtype.names and set("RGB") <= set(data.dtype.names):
        colours = np.stack([data[name] for name in "RGB"], axis=-1)
        data = grey_from_colour(colours, 0, path)
    pixel_size, units = checked_pixel_size(
        (y.get("scale"), x.get("scale")), (y.get("units"), x.get("units"))
    )
    metadata = {
        "format": plugin.__name__.rpartition(".")[2],
        "axes": axes,
        "metadata": signal.get("metadata", {}),
        "original_metadata": signal.get("original_metadata", {}),
    }
    return Micrograph(data, pixel_size, units, jsonable(metadata), path)


def _axes(signal: dict[str, Any]) -> tuple[list[dict], list[dict]]:
    """Return the axes of the stack and those of one image, in the array's order."""
    axes = [{"index_in_array": i, **axis} for i, axis in enumerate(signal["axes"])]
    axes.sort(key=lambda axis: axis["index_in_array"])
    stacked = [axis for axis in axes if axis.get("navigate")]
    return stacked, [axis for axis in axes if not axis.get("navigate")]


def _title(signal: dict[str, Any]) -> str:
    return str(signal.get("metadata", {}).get("General", {}).get("title", ""))
