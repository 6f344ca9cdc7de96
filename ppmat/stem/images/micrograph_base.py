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

"""The class of microscope images, and the units, checks and errors of their files."""

from __future__ import annotations

import datetime
import enum
import math
import numbers
import os
import re
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError

PathLike = str | os.PathLike

_METRES = {"pm": 1e-12, "Å": 1e-10, "nm": 1e-9, "µm": 1e-6}
_METRES |= {"mm": 1e-3, "cm": 1e-2, "m": 1.0}
_SPELLINGS = {
    **dict.fromkeys(("a", "ang", "angstrom", "angstroms", "ångström"), "Å"),
    "picometer": "pm",
    **dict.fromkeys(("nanometer", "nanometers", "nanometre"), "nm"),
    **dict.fromkeys(("um", "micron", "microns", "micrometer", "micrometre"), "µm"),
}
# Berkeley EMD writes prefix and unit with "_", units in brackets: "[n_m]".
_EMD_LENGTH = re.compile(r"([pnuµmc])_m")
_RECIPROCAL = re.compile(r"1/(.+)|(.+?)\^?(?:-1|⁻¹)")
_ANGLES = {"rad", "mrad", "µrad", "deg", "°"}
_NO_UNITS = {"", "px", "pixel", "pixels", "none", "undefined", "<undefined>"}
# Metres. Larger pixels have a wrong unit, such as diffraction patterns in "m".
_MAX_PIXEL_SIZE = 1e-3
_MAX_ELEMENTS = 1000  # of a list or array in the metadata
_MAX_CHARACTERS = 100_000  # of a text in the metadata


class ImageFormatError(InputError):
    """A file holds no microscope image, or its format cannot store the image."""


@dataclass
class Micrograph:
    """An image or a stack of images, as stored in its file.

    Attributes:
        data: [..., H, W] integers or floats in the type of the file; may be read-only
            (large ``.npy`` files are mapped into memory).
        pixel_size: Size of a pixel along (y, x) in ``units``; None if unknown.
        units: ``pm``, ``Å``, ``nm``, ``µm`` or another unit; None if unknown.
        metadata: The other information of the file, as values that JSON can store.
        path: The file.
        offset: Row and column of the first pixel in the image of the file, if
            ``data`` is a region of it.
    """

    data: np.ndarray
    pixel_size: tuple[float, float] | None = None
    units: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    offset: tuple[int, int] = (0, 0)


def clean_units(text: Any) -> str | None:
    """Return units in one spelling; None for pixels.

    Example:
        >>> clean_units("micron"), clean_units("[n_m]"), clean_units("nm^-1")
        ('µm', 'nm', '1/nm')
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if not isinstance(text, str):
        return None
    # ImageJ escapes non-ASCII letters. Unicode has two characters each for µ and Å.
    text = text.strip("\0 ").replace("\\u00B5", "µ").replace("\\u00C5", "Å")
    text = text.replace("μ", "µ").replace("\u212b", "Å").replace(" / ", "/")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    text = _EMD_LENGTH.sub(r"\1m", text)
    if text.lower() in _NO_UNITS:
        return None
    reciprocal = _RECIPROCAL.fullmatch(text)
    if reciprocal:
        base = clean_units(reciprocal[1] or reciprocal[2])
        return f"1/{base}" if base in _METRES else text
    return text if text in _METRES else _SPELLINGS.get(text.lower(), text)


def not_real_space(units: str | None) -> str | None:
    """Return what axes with these units show, if it is no place on the specimen.

    Args:
        units: As in :class:`Micrograph`.

    Returns:
        A text for a message; None for lengths, and for unknown units.

    Example:
        >>> not_real_space("1/nm"), not_real_space("nm")
        ('a diffraction pattern or Fourier transform', None)
    """
    units = clean_units(units)
    if units is None or units in _METRES:
        return None
    if units.startswith("1/") and clean_units(units[2:]) in _METRES:
        return "a diffraction pattern or Fourier transform"
    return "a diffraction pattern" if units in _ANGLES else f"an image along {units!r}"


def convert_pixel_size(
    pixel_size: tuple[float, float], units: str | None, wanted: str
) -> tuple[float, float] | None:
    """Return the pixel size in other units; None if ``units`` is no length.

    Example:
        >>> convert_pixel_size((12.0, 12.0), "pm", "nm")
        (0.012, 0.012)
    """
    units = clean_units(units)
    if units not in _METRES:
        return None
    factor = _METRES[units] / _METRES[wanted]
    return (pixel_size[0] * factor, pixel_size[1] * factor)


def checked_pixel_size(
    sizes: Sequence[Any], units: Sequence[Any]
) -> tuple[tuple[float, float] | None, str | None]:
    """Return pixel size and units for :class:`Micrograph`, or None for both.

    The pixel size is unknown if a size is no positive number, if it is 1 without
    units, or if it is above a millimetre. Metres, centimetres and millimetres become
    nm.

    Args:
        sizes: Of the axes (y, x), in ``units``; the sign is ignored.
        units: Of the axes (y, x).
    """
    try:
        y, x = (abs(float(size)) for size in sizes)
    except (TypeError, ValueError):
        return None, None
    unit_y, unit_x = map(clean_units, units)
    if unit_y != unit_x:
        if unit_y not in _METRES or unit_x not in _METRES:
            return None, None
        y *= _METRES[unit_y] / _METRES[unit_x]
    if (
        not (0 < y < math.inf and 0 < x < math.inf)
        or (unit_x is None and (y, x) == (1, 1))
        or (unit_x in _METRES and max(y, x) * _METRES[unit_x] > _MAX_PIXEL_SIZE)
    ):
        return None, None
    if unit_x in ("m", "cm", "mm"):
        y, x = convert_pixel_size((y, x), unit_x, "nm")
        unit_x = "nm"
    return (y, x), unit_x


def jsonable(value: Any) -> Any:
    """Return metadata as values that JSON can store; a note replaces large ones."""
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
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        if value.size > _MAX_ELEMENTS:
            return f"left out: array of shape {value.shape}, {value.dtype}"
        return jsonable(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        if len(value) > _MAX_ELEMENTS:
            return f"left out: {len(value)} values"
        return [jsonable(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        try:
            value = bytes(value).rstrip(b"\0").decode()
        except UnicodeDecodeError:
            return f"left out: {len(value)} bytes"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (str, os.PathLike, complex)):
        text = str(value)
        if len(text) > _MAX_CHARACTERS:
            return f"left out: text of {len(text)} characters"
        return text
    return f"left out: {type(value).__name__}"


def check_array(data: np.ndarray, where: str) -> np.ndarray:
    """Return ``data`` in the machine's byte order if it can be an image.

    Raises:
        ImageFormatError: Complex, boolean or other values, fewer than two axes, no
            pixels.
    """
    hints = {
        "c": "; these are complex numbers: save magnitude, phase or real part",
        "b": "; this is a mask: save it as uint8 if it is an image",
    }
    if data.dtype.kind not in "iuf":
        raise ImageFormatError(
            f"{where}: holds values of type {data.dtype}; wanted integers or floats"
            + hints.get(data.dtype.kind, "")
        )
    if data.ndim < 2:
        raise ImageFormatError(
            f"{where}: has shape {data.shape}; wanted an image [H, W] or a stack "
            "[..., H, W]"
        )
    if data.size == 0:
        raise ImageFormatError(f"{where}: has no pixels (shape {data.shape})")
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def grey_from_colour(data: np.ndarray, alphas: int, where: str) -> np.ndarray:
    """Return the one channel of a colour picture of a grey image.

    The data are [..., H, W, channels]; the last channel is alpha if ``alphas`` is 1.

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
            f"{where}: is a colour picture ({data.shape[-1]} channels that differ), "
            "wanted one grey value a pixel; export the detector's image as grey TIFF "
            "(16 bit or float), or save one channel"
        )
    return np.ascontiguousarray(colours[..., 0])
