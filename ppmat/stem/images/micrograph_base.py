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


"""What a microscope image is here, and the units, checks and errors of its files."""

from __future__ import annotations

import datetime
import enum
import math
import numbers
import os
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError

PathLike = str | os.PathLike

# Metres.
_LENGTHS = {
    "pm": 1e-12,
    "Å": 1e-10,
    "nm": 1e-9,
    "µm": 1e-6,
    "mm": 1e-3,
    "cm": 1e-2,
    "m": 1.0,
}
_NAMES = {
    "a": "Å",
    "ang": "Å",
    "angstrom": "Å",
    "angstroms": "Å",
    "ångström": "Å",
    "picometer": "pm",
    "nanometer": "nm",
    "nanometers": "nm",
    "nanometre": "nm",
    "um": "µm",
    "micron": "µm",
    "microns": "µm",
    "micrometer": "µm",
    "micrometre": "µm",
}
_NO_UNITS = {"", "[]", "px", "pixel", "pixels", "none", "undefined", "<undefined>"}
_LARGEST = 1e-3  # m; a larger "pixel" is a wrong unit (diffraction patterns in "m")
_MOST_ELEMENTS = 1000
_LONGEST_TEXT = 100_000


class ImageFormatError(InputError):
    """A file that is no microscope image, or a request that its format cannot keep."""


@dataclass
class Micrograph:
    """An image or a stack of images as its file has it.

    Attributes:
        data: [..., H, W] integers or floats in the type of the file; may be read-only
            (large ``.npy`` files are mapped into memory).
        pixel_size: Size of a pixel along (y, x) in ``units``; None if the file does
            not say.
        units: ``pm``, ``Å``, ``nm``, ``µm`` or whatever else the file says; None if it
            does not.
        metadata: What else the file says; plain values that can be written as JSON.
        path: The file.
    """

    data: np.ndarray
    pixel_size: tuple[float, float] | None = None
    units: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    path: str | None = None


def clean_units(text: Any) -> str | None:
    """Return units in one spelling: ``µm`` for um or micron; None for pixels."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if not isinstance(text, str):
        return None
    # ImageJ escapes letters beyond ASCII; there are two letters mu and two for Å.
    text = text.strip("\0 ").replace("\\u00B5", "µ").replace("\\u00C5", "Å")
    text = text.replace("μ", "µ").replace("Å", "Å").replace(" / ", "/")
    if text.lower() in _NO_UNITS:
        return None
    return text if text in _LENGTHS else _NAMES.get(text.lower(), text)


def convert_pixel_size(
    pixel_size: tuple[float, float], units: str | None, wanted: str
) -> tuple[float, float] | None:
    """Return the pixel size in other units of length; None if ``units`` are none."""
    units = clean_units(units)
    if units not in _LENGTHS:
        return None
    factor = _LENGTHS[units] / _LENGTHS[wanted]
    return (pixel_size[0] * factor, pixel_size[1] * factor)


def calibration(
    sizes: Sequence[Any], units: Sequence[Any]
) -> tuple[tuple[float, float] | None, str | None]:
    """Return pixel size and units as :class:`Micrograph` has them.

    Sizes that are no positive numbers, a size of 1 without units, or one above a
    millimetre mean that the file is not calibrated. Metres, centimetres and
    millimetres become nm.

    Args:
        sizes: Of the axes (y, x), in ``units``; the sign is left out.
        units: Of the axes (y, x).
    """
    try:
        y, x = (abs(float(size)) for size in sizes)
    except (TypeError, ValueError):
        return None, None
    if not (0 < y < math.inf and 0 < x < math.inf):
        return None, None
    unit_y, unit_x = (clean_units(text) for text in units)
    if unit_y != unit_x:
        if unit_y not in _LENGTHS or unit_x not in _LENGTHS:
            return None, None
        y *= _LENGTHS[unit_y] / _LENGTHS[unit_x]
    if unit_x is None and (y, x) == (1, 1):
        return None, None
    if unit_x in _LENGTHS and max(y, x) * _LENGTHS[unit_x] > _LARGEST:
        return None, None
    if unit_x in ("m", "cm", "mm"):
        y, x = convert_pixel_size((y, x), unit_x, "nm")
        unit_x = "nm"
    return (y, x), unit_x


def jsonable(value: Any) -> Any:
    """Return metadata as plain values; what is too large is replaced by a note."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return value if value is None else bool(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        if value.size > _MOST_ELEMENTS:
            return f"left out: array of shape {value.shape}, {value.dtype}"
        return jsonable(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        if len(value) > _MOST_ELEMENTS:
            return f"left out: {len(value)} values"
        return [jsonable(entry) for entry in value]
    if isinstance(value, (bytes, bytearray)):
        try:
            value = bytes(value).rstrip(b"\0").decode()
        except UnicodeDecodeError:
            return f"left out: {len(value)} bytes"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (str, os.PathLike, complex)):
        text = str(value)
        if len(text) > _LONGEST_TEXT:
            return f"left out: text of {len(text)} characters"
        return text
    return f"left out: {type(value).__name__}"


def check_array(data: np.ndarray, where: str) -> np.ndarray:
    """Return ``data`` in the machine's byte order if it can be an image.

    Raises:
        ImageFormatError: Complex, boolean or other values, fewer than two axes, no
            pixels.
    """
    kind = data.dtype.kind
    if kind == "c":
        raise ImageFormatError(
            f"{where}: holds complex numbers ({data.dtype}), and the networks here "
            "know real grey values only; save what is meant (magnitude, phase or real "
            "part) as an image of its own"
        )
    if kind == "b":
        raise ImageFormatError(
            f"{where}: holds true and false, which is a mask and no image; save it as "
            "uint8 if grey values are meant"
        )
    if kind not in "iuf":
        raise ImageFormatError(
            f"{where}: holds values of type {data.dtype}; wanted integers or floats"
        )
    if data.ndim < 2:
        raise ImageFormatError(
            f"{where}: has shape {data.shape}; wanted an image [H, W] or a stack "
            "[..., H, W]"
        )
    if data.size == 0:
        raise ImageFormatError(f"{where}: has no pixels (shape {data.shape})")
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return data


def grey_from_colour(data: np.ndarray, alphas: int, where: str) -> np.ndarray:
    """Return the one channel of a colour picture of a grey image.

    Args:
        data: [..., H, W, channels].
        alphas: How many of the last channels are alpha channels, 0 or 1.
        where: The file, for errors.

    Raises:
        ImageFormatError: The channels differ, or something is transparent.
    """
    colours = data[..., : data.shape[-1] - alphas]
    opaque = np.iinfo(data.dtype).max if data.dtype.kind == "u" else 1
    if alphas and (data[..., -1] != opaque).any():
        raise ImageFormatError(
            f"{where}: is partly transparent; save the image without alpha channel"
        )
    if (colours != colours[..., :1]).any():
        raise ImageFormatError(
            f"{where}: is a colour picture ({data.shape[-1]} channels that differ), so "
            "its grey values cannot be told; export the detector's image as grey TIFF "
            "(16 bit or float), or save the channel that is meant"
        )
    return np.ascontiguousarray(colours[..., 0])
