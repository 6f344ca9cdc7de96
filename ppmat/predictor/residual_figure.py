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

"""Figure of raw image, enhanced image and residual, to check a result by eye."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import scipy.fft
import scipy.signal
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ppmat.predictor.enhancement import FLAGS
from ppmat.predictor.enhancement import Enhancement
from ppmat.stem.images.micrograph_base import Micrograph
from ppmat.stem.images.micrograph_base import convert_pixel_size
from ppmat.stem.images.scale_bar import draw_scale_bar
from ppmat.stem.images.scale_bar import scale_bar

_SIDE = 512  # largest side of an image that is drawn pixel by pixel, pixels
_LIMITS = (0.5, 99.5)  # percentiles of the colour scale, which leave out hot pixels
_FFT_LIMITS = (5.0, 99.98)  # likewise; few pixels of a transform are reflections
_NAMES = ("raw", "enhanced", "raw - enhanced")


def draw_residual(
    result: Enhancement,
    path: str | os.PathLike,
    title: str = "",
    source: Micrograph | None = None,
) -> None:
    """Write raw image, enhanced image and residual, with statistics, as PNG.

    Images of more than 512 x 512 pixels get two rows: the whole image as means of
    blocks, and its middle pixel by pixel. The last row has the Fourier transforms of
    the whole images: the logarithm of the power, with a Hann window. All three have
    one scale. Of a stack the first frame is drawn.

    Args:
        result: What :func:`ppmat.predictor.enhancement.enhance_image` returned.
        path: The PNG file.
        title: Text above the statistics.
        source: Where pixel size and offset come from. With a pixel size in real space
            the axes are in nm and 1/nm, and the images have scale bars; without it they
            are in pixels and 1/pixel.
    """
    first = (0,) * (len(result.record["input"]["shape"]) - 2)
    images = [
        _plain(getattr(x, "data", x) if hasattr(x, "axes_manager") else x, first)
        for x in (result.raw, result.image)
    ]
    with np.errstate(invalid="ignore"):  # infinite pixels stay what they are
        images.append(images[0] - images[1])
    height, width = images[0].shape
    whole = (0, 0, height, width)
    shown = [("", whole, images)]
    if max(height, width) > _SIDE:
        factor = -(-max(height, width) // _SIDE)
        top, left = (max(0, n - _SIDE) // 2 for n in (height, width))
        middle = (top, left, min(height, _SIDE), min(width, _SIDE))
        place = np.s_[top : top + middle[2], left : left + middle[3]]
        means = [_blocks(x, factor).mean(axis=(1, 3)) for x in images]
        shown = [
            (f", means of {factor} x {factor}", whole, means),
            (", middle", middle, [x[place] for x in images]),
        ]
    rows = len(shown) + 1
    figure = Figure(figsize=(13.5, 0.9 + 4.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    source = source or Micrograph(images[0])
    limits = [_limits(images[0]), _limits(images[0]), _limits(images[2], True)]
    for row, (what, part, pictures) in zip(axes, shown):
        for axis, name, picture, limit in zip(row, _NAMES, pictures, limits):
            _draw_image(axis, picture, limit, part, source)
            axis.set_title(name + what)
    _draw_transforms(axes[-1], images, source)
    figure.suptitle(f"{title}\n{numbers_text(result)}".strip(), fontsize=10)
    FigureCanvasAgg(figure).print_png(os.fspath(path))


def log_power(image: np.ndarray) -> np.ndarray:
    """Return the logarithm of the power of an image, zero frequency in the middle.

    Missing pixels become the mean of the others. The mean is removed before a Hann
    window is applied. Images of more than 512 pixels give the largest power of each
    block, so that reflections stay.

    Args:
        image: float32 [H, W].

    Returns:
        log10 of the power; [H, W], or at most 512 values along an axis.
    """
    finite = np.isfinite(image)
    image = np.where(finite, image - image[finite].mean(), np.float32(0))
    for axis, size in enumerate(image.shape):
        window = scipy.signal.windows.hann(size, sym=False).astype(np.float32)
        image = image * np.expand_dims(window, 1 - axis)
    power = scipy.fft.fftshift(np.abs(scipy.fft.fft2(image)) ** 2)
    power = _blocks(power, -(-max(power.shape) // _SIDE)).max(axis=(1, 3))
    # Below the rounding of float32 there is no information.
    return np.log10(np.maximum(power, 1e-12 * power.max() or 1.0))


def _draw_image(
    axis: Axes,
    picture: np.ndarray,
    limits: tuple,
    part: tuple[int, int, int, int],
    source: Micrograph,
) -> None:
    """Draw an image with axes; ``part`` is its top, left, height and width, pixels."""
    size = _size_in_nm(source)
    y, x = size or (1.0, 1.0)
    top, left = part[0] + source.offset[0], part[1] + source.offset[1]
    edges = (left * x, (left + part[3]) * x, (top + part[2]) * y, top * y)
    symmetric = limits[0] == -limits[1]
    drawn = axis.imshow(
        picture,
        cmap="RdBu_r" if symmetric else "gray",
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
        extent=edges,
    )
    unit = "nm" if size else "pixels"
    axis.set(xlabel=f"x [{unit}]", ylabel=f"y [{unit}]")
    draw_scale_bar(axis, scale_bar(part[3], size, "nm"), x)
    axis.figure.colorbar(drawn, ax=axis, shrink=0.8)


def _draw_transforms(row: Any, images: list[np.ndarray], source: Micrograph) -> None:
    """Draw the powers of the images in one scale, that of the raw image."""
    size = _size_in_nm(source)
    half_y, half_x = (0.5 / step for step in size or (1.0, 1.0))
    unit = "1/nm" if size else "1/pixel"
    powers = [log_power(image) for image in images]
    low, high = np.percentile(powers[0], _FFT_LIMITS)
    for axis, name, power in zip(row, _NAMES, powers, strict=True):
        edges = (-half_x, half_x, half_y, -half_y)
        drawn = axis.imshow(power, cmap="gray", vmin=low, vmax=high, extent=edges)
        axis.set(xlabel=f"x [{unit}]", ylabel=f"y [{unit}]")
        axis.set_title(f"log10 of the power, {name}")
        axis.figure.colorbar(drawn, ax=axis, shrink=0.8)


def _size_in_nm(source: Micrograph) -> tuple[float, float] | None:
    if source.pixel_size is None:
        return None
    return convert_pixel_size(source.pixel_size, source.units, "nm")


def numbers_text(result: Enhancement) -> str:
    """Return the residual's statistics (first frame), and the meaning of the flags."""
    found = result.record["frames"][0]["residual"]
    lines = []
    if found is not None:
        lines.append(
            f"residual: std {found['std']:.4g}, mean {found['mean']:.3g}; correlation "
            f"of neighbours: lines {_number(found['slow_axis'][0])}, along a line "
            f"{_number(found['fast_axis'][0])} (white: 0 ± {found['spread']:.1g}); "
            f"contrast lost {_number(found['lost_contrast'])}"
        )
    for name, detail in result.flags.items():
        lines.append(f"{name} {detail}".strip() + f": {FLAGS[name]}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _plain(data: Any, first: tuple) -> np.ndarray:
    return np.ma.filled(np.ma.asanyarray(data[first]).astype(np.float32), np.nan)


def _limits(image: np.ndarray, symmetric: bool = False) -> tuple:
    values = image[np.isfinite(image)]
    if symmetric:
        limit = float(np.percentile(abs(values), _LIMITS[1])) or 1.0
        return -limit, limit
    return tuple(np.percentile(values, _LIMITS))


def _blocks(image: np.ndarray, factor: int) -> np.ndarray:
    """Return [h, factor, w, factor]; incomplete blocks at the end are left out."""
    factors = [min(factor, n) for n in image.shape]
    height, width = (n // f for n, f in zip(image.shape, factors))
    cut = image[: height * factors[0], : width * factors[1]]
    return cut.reshape(height, factors[0], width, factors[1])
