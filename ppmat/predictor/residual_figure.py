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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ppmat.predictor.enhancement import FLAGS
from ppmat.predictor.enhancement import Enhancement

_SIDE = 512  # largest side of an image that is drawn pixel by pixel, pixels
_LIMITS = (0.5, 99.5)  # percentiles of the colour scale, which leave out hot pixels


def draw_residual(
    result: Enhancement, path: str | os.PathLike, title: str = ""
) -> None:
    """Write raw image, enhanced image and residual, with statistics, as PNG.

    Images of more than 512 x 512 pixels get two rows: the whole image as means of
    blocks, and its middle pixel by pixel. Of a stack the first frame is drawn.

    Args:
        result: What :func:`ppmat.predictor.enhancement.enhance_image` returned.
        path: The PNG file.
        title: Text above the statistics.
    """
    first = (0,) * (len(result.record["input"]["shape"]) - 2)
    images = [
        _plain(getattr(x, "data", x) if hasattr(x, "axes_manager") else x, first)
        for x in (result.raw, result.image)
    ]
    images.append(images[0] - images[1])
    height, width = images[0].shape
    shown = [("", images)]
    if max(height, width) > _SIDE:
        factor = -(-max(height, width) // _SIDE)
        starts = [max(0, n - _SIDE) // 2 for n in (height, width)]
        middle = tuple(slice(start, start + _SIDE) for start in starts)
        shown = [
            (f", means of {factor} x {factor}", [_means(x, factor) for x in images]),
            (", middle", [x[middle] for x in images]),
        ]
    figure = Figure(figsize=(13, 0.9 + 4.4 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 3, squeeze=False)
    limits = [_limits(images[0]), _limits(images[0]), _limits(images[2], True)]
    for row, (what, parts) in zip(axes, shown, strict=True):
        names = ("raw", "enhanced", "raw - enhanced")
        for axis, name, part, limit in zip(row, names, parts, limits, strict=True):
            drawn = axis.imshow(
                part,
                cmap="RdBu_r" if name == names[2] else "gray",
                vmin=limit[0],
                vmax=limit[1],
                interpolation="nearest",
            )
            axis.set(title=name + what, xticks=[], yticks=[])
            figure.colorbar(drawn, ax=axis, shrink=0.8)
    figure.suptitle(f"{title}\n{numbers_text(result)}".strip(), fontsize=10)
    FigureCanvasAgg(figure).print_png(os.fspath(path))


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


def _means(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = (n // factor * factor for n in image.shape)
    if not height or not width:
        return image
    blocks = image[:height, :width].reshape(
        height // factor, factor, width // factor, factor
    )
    return blocks.mean(axis=(1, 3))
