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

"""Writers of microscope images: TIFF in the form of ImageJ, npy, MRC, HyperSpy."""

from __future__ import annotations

import fractions
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ppmat.stem.images.micrograph_base import ImageFormatError
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.micrograph_base import PathLike
from ppmat.stem.images.micrograph_base import check_array
from ppmat.stem.images.micrograph_base import clean_units
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.images.micrograph_base import jsonable
from ppmat.stem.images.micrograph_readers import OWN_KEY
from ppmat.stem.images.micrograph_readers import rosettasciio_plugin
from ppmat.utils.files import replacing

_LOG = logging.getLogger("ppmat")
PixelSize = tuple[float, float] | None

# Types of each format: TIFF as ImageJ reads it, MRC by its standard, None for all.
_TYPES = {
    **dict.fromkeys((".tif", ".tiff"), ("float32", "uint8", "uint16")),
    ".mrc": ("float32", "float16", "int8", "int16", "uint16"),
    ".npy": None,
    ".hspy": None,
}
_MAX_TIFF_BYTES = (1 << 32) - (1 << 24)  # 4 GB less space for the tags
# ImageJ's text is ASCII. It understands micron and displays angstrom.
_ASCII_UNITS = {"µm": "micron", "Å": "angstrom"}
# Pixels per unit for which the error of a TIFF rational is negligible.
_MIN_RESOLUTION, _MAX_RESOLUTION = 1e-4, 1e6


def check_writable(
    path: PathLike,
    pixel_size: PixelSize = None,
    units: str | None = None,
    dtype: Any = "float32",
) -> None:
    """Check the arguments of :func:`write_micrograph` without the pixels.

    Raises:
        ImageFormatError: The format is unknown, cannot store the type or the pixel
            size, or needs a package that is not installed.
        OSError: The folder does not exist or cannot be written to.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _TYPES:
        raise ImageFormatError(
            f"{path}: {suffix or 'a name without suffix'} is not written here; wanted "
            f"one of {', '.join(_TYPES)}"
        )
    dtype, legal = np.dtype(dtype), _TYPES[suffix]
    if dtype.kind not in "iuf" or (legal and dtype.name not in legal):
        raise ImageFormatError(
            f"{path}: {dtype.name} is not written to {suffix}; wanted "
            f"{' or '.join(legal or ('an integer', 'float type'))}"
        )
    sizes = np.asarray((1, 1) if pixel_size is None else pixel_size, dtype=float)
    if sizes.shape != (2,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ImageFormatError(
            f"{path}: the pixel size is {pixel_size!r}; wanted two positive numbers, "
            "(y, x)"
        )
    if suffix == ".mrc" and pixel_size is not None:
        if convert_pixel_size(pixel_size, units, "Å") is None:
            raise ImageFormatError(
                f"{path}: MRC keeps pixel sizes in Å, and {pixel_size} {units!r} is no "
                "length; write .tif or .hspy"
            )
    if suffix == ".hspy":
        rosettasciio_plugin("hspy", str(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; wanted the name of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: no permission to write into {path.parent}")


def write_micrograph(
    path: PathLike,
    data: np.ndarray,
    pixel_size: PixelSize = None,
    units: str | None = None,
    metadata: dict[str, Any] | None = None,
    dtype: Any = "float32",
) -> None:
    """Write an image or stack; the file appears complete or not at all.

    ============  ==================================================================
    ``.tif``      pixel size and units for ImageJ, DigitalMicrograph and HyperSpy;
                  metadata as JSON in ImageJ's "Info"
    ``.npy``      the array alone
    ``.mrc``      pixel size, in Å; no metadata, at most one leading axis
    ``.hspy``     pixel size, units; metadata as HyperSpy's ``original_metadata``
    ============  ==================================================================

    Args:
        path: The file; an older one is replaced.
        data: [..., H, W].
        pixel_size: (y, x) in ``units``.
        units: Units of length if the format is MRC.
        metadata: Values for :func:`~ppmat.stem.images.micrograph_base.jsonable`.
        dtype: Type of the file. An integer type rounds to the nearest integer; values
            beyond its range become its limits, and the log reports how many.

    Raises:
        ImageFormatError: The format cannot store the image.
        OSError: The file cannot be written; an older one stays.
    """
    path = Path(path)
    check_writable(path, pixel_size, units, dtype)
    data = _as_type(check_array(np.asarray(data), str(path)), np.dtype(dtype), path)
    if pixel_size is not None:
        pixel_size = (float(pixel_size[0]), float(pixel_size[1]))
    image = Micrograph(data, pixel_size, clean_units(units), jsonable(metadata or {}))
    with replacing(path) as temporary:
        _WRITERS[path.suffix.lower()](temporary, image)


def _as_type(data: np.ndarray, dtype: np.dtype, path: Path) -> np.ndarray:
    if data.dtype == dtype:
        return np.ascontiguousarray(data)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = data.astype(dtype)
        too_large = int((np.isinf(cast) & np.isfinite(data)).sum())
        if too_large:
            raise ImageFormatError(
                f"{path}: {too_large} values are too large for {dtype}; scale the "
                "image or choose another type"
            )
        exact = 1 << (np.finfo(dtype).nmant + 1)
        if data.dtype.kind in "iu" and np.abs(data.astype(np.float64)).max() > exact:
            _LOG.warning(
                f"{path}: integers beyond {exact} are rounded by {dtype}; an integer "
                "type, or float64 in .npy and .hspy, keeps them"
            )
        return cast
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise ImageFormatError(
            f"{path}: {int((~np.isfinite(data)).sum())} pixels are NaN or infinite, "
            f"which {dtype} cannot store; write float32"
        )
    limits = np.iinfo(dtype)
    if data.dtype.kind == "f":
        data = np.rint(data)
        # The largest 64-bit integer has no float64; the next one has.
        low, high = data < limits.min, data >= float(limits.max + 1)
    else:
        low, high = data < limits.min, data > limits.max
    beyond = int(low.sum() + high.sum())
    if beyond:
        _LOG.warning(
            f"{path}: {beyond} of {data.size} pixels are beyond {dtype} and become its "
            f"limits {limits.min} and {limits.max}"
        )
    inside = np.where(low | high, 0, data).astype(dtype)
    inside[low] = limits.min
    inside[high] = limits.max
    return inside


def _write_tiff(path: Path, image: Micrograph) -> None:
    import tifffile

    data, units = image.data, image.units
    if data.nbytes > _MAX_TIFF_BYTES:
        raise ImageFormatError(
            f"{path.name}: {data.nbytes / 1e9:.1f} GB, but TIFF holds less than 4; "
            "write .npy or .hspy"
        )
    own = {"shape": list(data.shape), "metadata": image.metadata}
    frames = data.reshape(-1, *data.shape[-2:]) if data.ndim > 2 else data
    if 1 in data.shape[-2:]:  # tifffile has no stacks of single lines
        frames = data.reshape(-1, data.shape[-1])
    details = {"axes": "TYX"[-frames.ndim :], "Info": json.dumps({OWN_KEY: own})}
    options: dict[str, Any] = {}
    if image.pixel_size is not None:
        (y, x), units = _fit_for_rationals(path, image.pixel_size, units)
        options["resolution"] = _rational(1 / x), _rational(1 / y)
        tags = [(65009, "d", 1, x, True), (65010, "d", 1, y, True)]
        if units is not None:
            text = _ASCII_UNITS.get(units, units)
            details["unit"] = text.encode("ascii", "backslashreplace").decode()
            text = units.encode("latin-1", "replace")
            tags += [(code, "s", 0, text, True) for code in (65003, 65004)]
        options["extratags"] = sorted(tags)  # of DigitalMicrograph
    tifffile.imwrite(path, frames, imagej=True, metadata=details, **options)


def _fit_for_rationals(
    path: Path, pixel_size: tuple[float, float], units: str | None
) -> tuple[tuple[float, float], str | None]:
    """Return the pixel size in units that the resolution tags can store."""
    for unit in (units, "nm", "pm", "µm"):
        sizes = pixel_size
        if unit != units:
            sizes = convert_pixel_size(pixel_size, units, unit) or (math.inf,)
        if all(_MIN_RESOLUTION <= 1 / size <= _MAX_RESOLUTION for size in sizes):
            return sizes, unit
    raise ImageFormatError(
        f"{path.name}: a pixel size of {pixel_size} {units!r} does not fit into the "
        "tags of a TIFF file; give it in nm"
    )


def _rational(value: float) -> tuple[int, int]:
    """Return two unsigned 32-bit integers, more exact than those of tifffile."""
    largest = (1 << 32) - 1
    limit = int(largest / max(value, 1.0)) - 1
    return fractions.Fraction(value).limit_denominator(limit).as_integer_ratio()


def _write_npy(path: Path, image: Micrograph) -> None:
    with open(path, "wb") as file:
        np.save(file, image.data, allow_pickle=False)


def _write_mrc(path: Path, image: Micrograph) -> None:
    import mrcfile

    data = image.data
    if data.ndim > 3:
        raise ImageFormatError(
            f"{path.name}: MRC holds images and stacks, not the shape {data.shape}; "
            "write .npy, .tif or .hspy"
        )
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data)
        if data.ndim == 3:
            file.set_image_stack()
        if image.pixel_size is not None:
            y, x = convert_pixel_size(image.pixel_size, image.units, "Å")
            file.voxel_size = (x, y, 1.0)


def _write_hspy(path: Path, image: Micrograph) -> None:
    leading = image.data.ndim - 2
    names = [*(f"axis {i}" for i in range(leading)), "y", "x"]
    axes = [
        {"name": name, "size": size, "scale": 1.0, "offset": 0.0, "units": None}
        | {"navigate": position < leading, "index_in_array": position}
        for position, (name, size) in enumerate(zip(names, image.data.shape))
    ]
    if image.pixel_size is not None:
        for axis, size in zip(axes[-2:], image.pixel_size):
            axis.update(scale=size, units=image.units)
    signal = {
        "data": image.data,
        "axes": axes,
        "metadata": {"General": {"title": ""}, "Signal": {"signal_type": ""}},
        "original_metadata": image.metadata,
        "attributes": {"_lazy": False},
        "package_info": {"package": "", "package_version": ""},
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
    }
    plugin = rosettasciio_plugin("hspy", str(path))
    plugin.file_writer(str(path), signal, show_progressbar=False)


_WRITERS = {
    **dict.fromkeys((".tif", ".tiff"), _write_tiff),
    ".npy": _write_npy,
    ".mrc": _write_mrc,
    ".hspy": _write_hspy,
}
