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

"""Scale bars and pictures of micrographs.

A bar has a length of 1, 2 or 5 times a power of ten, in pm, nm or µm. Images without a
pixel size in real space get none. :func:`write_picture` writes an image pixel for pixel
as 8-bit PNG; :func:`draw_scale_bar` draws on the axes of a figure.
"""

from __future__ import annotations

import math
import os
from typing import Any
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from PIL import PngImagePlugin

from ppmat.stem.images.micrograph_base import convert_pixel_size

PICTURE_PERCENTILES = (0.1, 99.9)  # become black and white; leave out hot pixels
_LARGEST_SHARE = 0.3  # of the width of the image that a bar takes at most
_MANTISSAS = (5, 2, 1)
_SMALLEST_BAR = 8  # pixels; a shorter bar shows no length
_MIN_LABEL = 9  # size of the letters in a picture, pixels


class ScaleBar(NamedTuple):
    """The bar of an image.

    Attributes:
        pixels: Its length in pixels of the image.
        label: Its length with unit.
    """

    pixels: float
    label: str


def scale_bar(
    width: int, pixel_size: tuple[float, float] | None, units: str | None
) -> ScaleBar | None:
    """Return the longest bar that takes at most 0.3 of the width of an image.

    Args:
        width: Of the image, pixels.
        pixel_size: (y, x) in ``units``; the bar lies along x.
        units: As in :class:`~ppmat.stem.images.micrograph_base.Micrograph`.

    Returns:
        The bar. None if the pixel size is unknown or no length, or if the image is too
        narrow.

    Example:
        >>> scale_bar(512, (0.0125, 0.0125), "nm")
        ScaleBar(pixels=80.0, label='1 nm')
        >>> scale_bar(64, (0.1, 0.1), "Å").label
        '100 pm'
        >>> scale_bar(512, (0.1, 0.1), "1/nm") is None
        True
    """
    size = None if pixel_size is None else convert_pixel_size(pixel_size, units, "nm")
    longest = _LARGEST_SHARE * width
    if size is None or longest < _SMALLEST_BAR:
        return None
    limit = size[1] * longest * (1 + 1e-9)  # a bar that fits exactly is kept
    power = 10.0 ** math.floor(math.log10(limit))
    mantissa = next(m for m in _MANTISSAS if m * power <= limit)
    length = mantissa * power
    for factor, unit in ((1e3, "pm"), (1.0, "nm"), (1e-3, "µm")):
        if length * factor < 999.5 or unit == "µm":
            break
    return ScaleBar(length / size[1], f"{length * factor:.6g} {unit}")


def grey_picture(image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return an image as 8-bit grey values, and the values of black and white.

    Args:
        image: [H, W] numbers; NaN becomes black.

    Returns:
        uint8 [H, W], and the 0.1 % and 99.9 % percentiles of the finite pixels. If they
        are equal, the smallest and largest value; if all pixels are equal, the picture
        is black.
    """
    values = np.ma.filled(np.ma.asanyarray(image).astype(np.float64), np.nan)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(values.shape, np.uint8), (math.nan, math.nan)
    low, high = (float(v) for v in np.percentile(finite, PICTURE_PERCENTILES))
    if not high > low:
        low, high = float(finite.min()), float(finite.max())
    scaled = (values - low) * (255 / (high - low)) if high > low else values * 0
    grey = np.nan_to_num(np.clip(scaled, 0, 255), nan=0.0)
    return np.rint(grey).astype(np.uint8), (low, high)


def burn_scale_bar(picture: np.ndarray, bar: ScaleBar) -> np.ndarray:
    """Return a grey picture with a white bar and label on a black field, lower left.

    Args:
        picture: uint8 [H, W].
        bar: Of :func:`scale_bar` for this width.
    """
    height, width = picture.shape
    letters = max(_MIN_LABEL, round(min(height, width) / 36))
    font = ImageFont.load_default(letters)
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = draw.textbbox((0, 0), bar.label, font=font)
    text_width, text_height = right - left, bottom - top
    gap, thick = letters // 2, max(2, letters // 4)
    length = round(bar.pixels)
    field_width = max(length, text_width) + 2 * gap
    field_height = text_height + thick + 3 * gap
    x, y = gap, height - gap - field_height
    draw.rectangle((x, y, x + field_width - 1, y + field_height - 1), fill=0)
    middle = x + (field_width - text_width) / 2
    draw.text((middle - left, y + gap - top), bar.label, fill=255, font=font)
    start, above = x + (field_width - length) // 2, y + text_height + 2 * gap
    draw.rectangle((start, above, start + length - 1, above + thick - 1), fill=255)
    return np.asarray(canvas)


def write_picture(
    path: str | os.PathLike,
    image: np.ndarray,
    pixel_size: tuple[float, float] | None = None,
    units: str | None = None,
) -> dict[str, Any]:
    """Write an image pixel for pixel as 8-bit grey PNG with a scale bar.

    The contrast is that of :func:`grey_picture`. The picture is for the eye: its values
    are no data.

    Args:
        path: The PNG file.
        image: [H, W].
        pixel_size: (y, x) in ``units``.
        units: As in :class:`~ppmat.stem.images.micrograph_base.Micrograph`.

    Returns:
        What was drawn, which is also a text chunk of the file: ``black`` and ``white``
        (values of the image), ``percentiles`` and ``scale_bar`` (None without one).
    """
    picture, (low, high) = grey_picture(image)
    bar = scale_bar(picture.shape[1], pixel_size, units)
    if bar is not None:
        picture = burn_scale_bar(picture, bar)
    record = {
        "percentiles": list(PICTURE_PERCENTILES),
        "black": low if math.isfinite(low) else None,
        "white": high if math.isfinite(high) else None,
        "scale_bar": None if bar is None else bar.label,
    }
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", ", ".join(f"{k}: {v}" for k, v in record.items()))
    Image.fromarray(picture).save(path, format="PNG", pnginfo=text)
    return record


def draw_scale_bar(axes: Any, bar: ScaleBar | None, pixel: float = 1.0) -> None:
    """Draw a bar with its label on matplotlib axes, lower left.

    Args:
        axes: Axes that show an image by ``imshow``.
        bar: Of :func:`scale_bar`; None draws nothing.
        pixel: Width of a pixel of the image in the units of the axes.
    """
    if bar is None:
        return
    from matplotlib.offsetbox import AnchoredOffsetbox
    from matplotlib.offsetbox import AuxTransformBox
    from matplotlib.offsetbox import TextArea
    from matplotlib.offsetbox import VPacker
    from matplotlib.patches import Rectangle

    line = AuxTransformBox(axes.transData)
    length = bar.pixels * pixel
    line.add_artist(Rectangle((0, 0), length, 0, ec="white", lw=3, fc="none"))
    label = TextArea(bar.label, textprops={"color": "white", "size": 9})
    packed = VPacker(children=[label, line], align="center", pad=0, sep=3)
    box = AnchoredOffsetbox("lower left", child=packed, pad=0.4, borderpad=0.5)
    box.patch.set(facecolor="black", edgecolor="none", alpha=0.75)
    axes.add_artist(box)
