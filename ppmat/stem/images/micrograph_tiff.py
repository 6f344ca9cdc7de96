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

"""Reader of TIFF files: grey values, stacks, pixel sizes, metadata.

The pixel size comes from the first of these that has one:

1. ImageJ's description with the resolution tags,
2. OME XML,
3. the tags of DigitalMicrograph (65003 to 65010),
4. the resolution tags alone, if their pixels are too small for a printer.

Sources: TIFF 6.0; the documentation of tifffile (BSD), which decodes the files; the tag
numbers of DigitalMicrograph in the documentation of HyperSpy.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import xml.etree.ElementTree
from collections.abc import Iterator
from typing import Any

import numpy as np

from ppmat.stem.images.micrograph_base import ImageFormatError
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.micrograph_base import checked_pixel_size
from ppmat.stem.images.micrograph_base import clean_units
from ppmat.stem.images.micrograph_base import grey_from_colour
from ppmat.stem.images.micrograph_base import jsonable
from ppmat.stem.images.micrograph_readers import choose

OWN_KEY = "ppmat"  # in the JSON text that write_micrograph puts into ImageJ's "Info"
_MIN_PRINTER_PIXEL = 1000.0  # nm; resolution tags with larger pixels are for printers
_OME_DEFAULT_UNITS = "µm"
# Tags that describe the storage; they are not kept as metadata.
_STORAGE_TAGS = {
    *("ColorMap", "IJMetadata", "IJMetadataByteCounts"),
    *("StripByteCounts", "StripOffsets", "TileByteCounts", "TileOffsets"),
}

Scale = tuple[tuple[float, float] | None, str | None]


def read_tiff(path: str, index: int | None) -> Micrograph:
    """Read one image or stack of a TIFF file completely.

    Raises:
        ImageFormatError: The file is damaged or truncated (also a stack with missing
            pages), coloured, in an unknown compression, or holds several images and
            ``index`` is None.
    """
    import tifffile

    try:
        with _logged_errors() as logged, tifffile.TiffFile(path) as file:
            series = _series(file, path, index)
            data, axes = _pixels(series, path)
            page = series.keyframe
            data = _grey(data, axes, page, bool(file.is_imagej), path)
            own = _own_information(file)
            pixel_size, units = _scale(file, page)
            tags = _tags(page)
            imagej = file.imagej_metadata or {}
    except ImageFormatError:
        raise
    except MemoryError as error:
        raise ImageFormatError(
            f"{path}: is damaged, or larger than the memory: {error}"
        ) from error
    except Exception as error:  # damaged files raise many kinds of errors
        raise ImageFormatError(f"{path}: {_reason(error)}") from error
    if logged:
        raise ImageFormatError(
            f"{path}: damaged or truncated TIFF file: {'; '.join(logged)}"
        )
    if own is not None:
        shape = own.get("shape")
        if isinstance(shape, list) and int(np.prod(shape)) == data.size:
            data = data.reshape(shape)
        metadata = own.get("metadata", {})
        return Micrograph(data, pixel_size, units, metadata, path)
    metadata = {"format": "TIFF", "tags": tags, "imagej": imagej}
    return Micrograph(data, pixel_size, units, jsonable(metadata), path)


@contextlib.contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Collect errors that tifffile only logs, such as missing pages of a stack."""
    found: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                found.append(record.getMessage())

    logger = logging.getLogger("tifffile")
    collector = Collector(logging.ERROR)
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)


def _reason(error: Exception) -> str:
    if "imagecodecs" in str(error):
        return (
            f"{error}. pip install imagecodecs (part of 'ppmat[stem]'), or save the "
            "image without compression"
        )
    return f"cannot be read as TIFF, damaged or truncated: {error}"


def _series(file: Any, path: str, index: int | None) -> Any:
    """Return the wanted series of pages; thumbnails are ignored."""
    found = list(file.series)
    whole = [s for s in found if not s.keyframe.is_reduced] or found
    names = [f"{series.name!r} {series.shape}" for series in whole]
    return whole[choose(path, names, index)]


def _pixels(series: Any, path: str) -> tuple[np.ndarray, str]:
    if any(page is None for page in series.pages):
        raise ImageFormatError(
            f"{path}: planes of its stack are missing; they may be in other files that "
            "belong to it"
        )
    # tifffile would fill missing strips and tiles with zeros.
    chunks = math.prod(series.keyframe.chunked)
    for page in series.pages:
        if len(page.dataoffsets) != chunks or not all(page.databytecounts):
            raise ImageFormatError(
                f"{path}: parts of its pixels are missing ({len(page.dataoffsets)} of "
                f"{chunks} strips or tiles), damaged or truncated"
            )
    axes = series.axes
    data = series.asarray()
    if "Y" not in axes or "X" not in axes:
        raise ImageFormatError(
            f"{path}: has the axes {axes!r} with shape {data.shape}; wanted Y and X"
        )
    return data.reshape(series.shape), axes


def _grey(
    data: np.ndarray, axes: str, page: Any, is_imagej: bool, path: str
) -> np.ndarray:
    """Return [..., H, W], colours and bilevel pictures as grey values."""
    ending = "YXS" if "S" in axes else "YX"
    leading = [i for i, axis in enumerate(axes) if axis not in ending]
    data = data.transpose(*leading, *(axes.index(axis) for axis in ending))
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if photometric == "PALETTE" and not is_imagej:
        # ImageJ uses colour tables for display only; in other files they are data.
        data = np.moveaxis(np.asarray(page.colormap)[:, data], 0, -1)
        return grey_from_colour(data, 0, path)
    if ending == "YXS":
        alphas = int(any(int(kind) in (1, 2) for kind in page.extrasamples))
        # Floats in separate planes are three images that a program stored as RGB.
        stack = page.planarconfig == 2 and data.dtype.kind == "f"
        if not stack and (photometric == "RGB" or data.shape[-1] == 1 + alphas):
            if page.planarconfig == 2:
                path = f"{path} (or a stack of {data.shape[-1]} images written as one)"
            return grey_from_colour(data, alphas, path)
        if not stack and photometric not in ("MINISBLACK", "MINISWHITE"):
            raise ImageFormatError(
                f"{path}: is a colour picture ({photometric}); export the image of the "
                "detector as grey TIFF"
            )
        return np.moveaxis(data, -1, -3)
    if data.dtype == bool:
        if photometric == "MINISWHITE":
            data = ~data
        data = data * np.uint8(255)
    return data


def _own_information(file: Any) -> dict[str, Any] | None:
    """Return the record of ``write_micrograph``; None for files of other programs."""
    if not file.is_imagej:
        return None
    try:
        found = json.loads(file.imagej_metadata["Info"])
    except (KeyError, TypeError, ValueError):
        return None
    own = found.get(OWN_KEY) if isinstance(found, dict) else None
    return own if isinstance(own, dict) else None


def _scale(file: Any, page: Any) -> Scale:
    if file.is_imagej:
        return _scale_of_imagej(file, page)
    if file.is_ome:
        scale = _scale_of_ome(file.ome_metadata)
        if scale[0] is not None:
            return scale
    scale = _scale_of_digital_micrograph(page)
    return scale if scale[0] is not None else _scale_of_resolution(page)


def _resolution_sizes(page: Any) -> tuple[float | None, float | None]:
    """Return the pixel size (y, x) in the unknown unit of the resolution tags."""
    sizes = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        numerator, denominator = tag.value if tag is not None else (0, 0)
        sizes.append(denominator / numerator if numerator else None)
    return sizes[0], sizes[1]


def _scale_of_imagej(file: Any, page: Any) -> Scale:
    units = clean_units((file.imagej_metadata or {}).get("unit"))
    if units in ("inch", "in"):
        return _printable(_resolution_sizes(page), 2.54)
    return checked_pixel_size(_resolution_sizes(page), (units, units))


def _scale_of_resolution(page: Any) -> Scale:
    unit = page.tags.get("ResolutionUnit")
    centimetres = {2: 2.54, 3: 1.0}.get(int(unit.value) if unit is not None else 2)
    if centimetres is None:
        return None, None
    return _printable(_resolution_sizes(page), centimetres)


def _printable(sizes: tuple[float | None, float | None], factor: float) -> Scale:
    """Return a scale in nm, or None if its pixels are as large as a printer's."""
    if None in sizes:
        return None, None
    scale = checked_pixel_size([size * factor for size in sizes], ("cm", "cm"))
    return scale if scale[0] and max(scale[0]) < _MIN_PRINTER_PIXEL else (None, None)


def _scale_of_ome(text: str) -> Scale:
    try:
        root = xml.etree.ElementTree.fromstring(text)
    except xml.etree.ElementTree.ParseError:
        return None, None
    found = root.findall("{*}Image/{*}Pixels")
    scales = {
        checked_pixel_size(
            [pixels.get(f"PhysicalSize{axis}") for axis in "YX"],
            [
                pixels.get(f"PhysicalSize{axis}Unit", _OME_DEFAULT_UNITS)
                for axis in "YX"
            ],
        )
        for pixels in found
    }
    return scales.pop() if len(scales) == 1 else (None, None)


def _scale_of_digital_micrograph(page: Any) -> Scale:
    tags = {code: page.tags.get(code) for code in (65010, 65009, 65004, 65003)}
    values = [tag.value if tag is not None else None for tag in tags.values()]
    return checked_pixel_size(values[:2], values[2:])


def _tags(page: Any) -> dict[str, Any]:
    return {tag.name: tag.value for tag in page.tags if tag.name not in _STORAGE_TAGS}
