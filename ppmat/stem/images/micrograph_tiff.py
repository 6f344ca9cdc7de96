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


"""Reading of TIFF: what of its many ways to store grey values and scales is understood.

Scales are taken from, in this order: ImageJ's description with the resolution tags, OME
XML, the tags of DigitalMicrograph (65003 to 65010), and the resolution tags alone if
they are too fine to be meant for a printer.

Sources: TIFF 6.0; the documentation of tifffile (BSD), which decodes; the tag numbers
of DigitalMicrograph as the documentation of HyperSpy has them.
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
from ppmat.stem.images.micrograph_base import calibration
from ppmat.stem.images.micrograph_base import clean_units
from ppmat.stem.images.micrograph_base import grey_from_colour
from ppmat.stem.images.micrograph_base import jsonable
from ppmat.stem.images.micrograph_readers import choose

OWN_KEY = "ppmat"  # in the JSON text that write_micrograph puts into ImageJ's "Info"
_COARSEST = 1000.0  # nm; a resolution tag with larger pixels is meant for a printer
_OME_MICROMETRE = "µm"  # what OME means if it gives no unit
# Tags that say where the pixels are, not what they mean.
_STORAGE_TAGS = {
    "ColorMap",
    "IJMetadata",
    "IJMetadataByteCounts",
    "StripByteCounts",
    "StripOffsets",
    "TileByteCounts",
    "TileOffsets",
}

Scale = tuple[tuple[float, float] | None, str | None]


def read_tiff(path: str, index: int | None) -> Micrograph:
    """Read one image or stack of a TIFF file completely, or raise.

    Raises:
        ImageFormatError: The file is damaged or truncated (a stack with missing pages
            too), coloured, compressed in a way nothing here decodes, or holds several
            images and ``index`` does not say which.
    """
    import tifffile

    try:
        with _complaints() as complaints, tifffile.TiffFile(path) as file:
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
            f"{path}: is larger than the memory, or says so because it is damaged: "
            f"{error}"
        ) from error
    except Exception as error:  # whatever a damaged file does to a foreign reader
        raise ImageFormatError(f"{path}: {_reason(error)}") from error
    if complaints:
        raise ImageFormatError(
            f"{path}: damaged or truncated TIFF file: {'; '.join(complaints)}"
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
def _complaints() -> Iterator[list[str]]:
    """Collect what tifffile only logs as an error, such as missing pages of a stack."""
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
    """Return the series of pages that is meant; thumbnails do not count."""
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
        # ImageJ's colour tables only say how values look; others say what they are.
        data = np.moveaxis(np.asarray(page.colormap)[:, data], 0, -1)
        return grey_from_colour(data, 0, path)
    if ending == "YXS":
        alphas = int(any(int(kind) in (1, 2) for kind in page.extrasamples))
        # Floats in separate planes: three images that the writer took for RGB.
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
    """Return what ``write_micrograph`` noted in the file; None for other files."""
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
    return calibration(_resolution_sizes(page), (units, units))


def _scale_of_resolution(page: Any) -> Scale:
    unit = page.tags.get("ResolutionUnit")
    centimetres = {2: 2.54, 3: 1.0}.get(int(unit.value) if unit is not None else 2)
    if centimetres is None:
        return None, None
    return _printable(_resolution_sizes(page), centimetres)


def _printable(sizes: tuple[float | None, float | None], factor: float) -> Scale:
    """Return a scale in nm unless its pixels are as large as those of a printer."""
    if None in sizes:
        return None, None
    scale = calibration([size * factor for size in sizes], ("cm", "cm"))
    return scale if scale[0] and max(scale[0]) < _COARSEST else (None, None)


def _scale_of_ome(text: str) -> Scale:
    try:
        root = xml.etree.ElementTree.fromstring(text)
    except xml.etree.ElementTree.ParseError:
        return None, None
    pixels = root.findall("{*}Image/{*}Pixels")
    scales = {
        calibration(
            [entry.get(f"PhysicalSize{axis}") for axis in "YX"],
            [entry.get(f"PhysicalSize{axis}Unit", _OME_MICROMETRE) for axis in "YX"],
        )
        for entry in pixels
    }
    return scales.pop() if len(scales) == 1 else (None, None)


def _scale_of_digital_micrograph(page: Any) -> Scale:
    tags = {code: page.tags.get(code) for code in (65010, 65009, 65004, 65003)}
    values = [tag.value if tag is not None else None for tag in tags.values()]
    return calibration(values[:2], values[2:])


def _tags(page: Any) -> dict[str, Any]:
    return {tag.name: tag.value for tag in page.tags if tag.name not in _STORAGE_TAGS}
