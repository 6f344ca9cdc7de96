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

"""A figure of the found columns on the raw image."""

from __future__ import annotations

import os

import numpy as np

from ppmat.stem.columns.column_table import ColumnTable

_ENLARGED_SIDE = 400  # pixels; side of the part in the second panel
_GREY_LIMITS = (0.5, 99.7)  # percentiles of the image that are black and white
_PANEL_INCHES = 6.5
_MARKERS = {"o": "fitted", "s": "fitted, at the edge", "x": "not fitted"}


def draw_columns(
    image: np.ndarray, table: ColumnTable, path: str | os.PathLike, title: str = ""
) -> None:
    """Write a PNG file of the raw image with a marker on each column.

    The colour is the score. Crosses are columns whose fit failed, squares are at the
    edge; a legend explains them. An image [H, W] of more than 400 pixels a side gets a
    second panel with its middle.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    image = np.ma.filled(np.ma.asanyarray(image).astype(np.float64), np.nan)
    shape = np.array(image.shape)
    views = [(0 * shape, shape)]  # first and last + 1 row and column
    if shape.max() > _ENLARGED_SIDE:
        start = np.maximum(0, (shape - _ENLARGED_SIDE) // 2)
        views.append((start, np.minimum(shape, start + _ENLARGED_SIDE)))
    size = (_PANEL_INCHES * len(views) + 1, _PANEL_INCHES)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(views), squeeze=False)[0]
    low, high = np.percentile(image[np.isfinite(image)], _GREY_LIMITS)
    fitted, edge = table.fitted, table.edge
    kinds = {"o": fitted & ~edge, "s": fitted & edge, "x": ~fitted}
    kinds = {marker: which for marker, which in kinds.items() if which.any()}
    for axis, (start, end) in zip(axes, views):
        axis.imshow(image, "gray", vmin=low, vmax=high, interpolation="nearest")
        for marker, which in kinds.items():
            # Sigma in points, so that markers have the size of the columns.
            points = _PANEL_INCHES * 72 / max(end - start) * np.median(table.sigma)
            drawn = axis.scatter(
                table.x[which],
                table.y[which],
                s=np.clip(points, 1.5, 30) ** 2,
                c=table.score[which],
                marker=marker,
                cmap="plasma",
                vmin=0.0,
                vmax=1.0,
                linewidths=0.8,
                alpha=None if marker == "x" else 0.7,
            )
        (top, left), (bottom, right) = start - 0.5, end - 0.5
        axis.set(xlim=(left, right), ylim=(bottom, top))
        axis.set(xlabel="x [px]", ylabel="y [px]")
    if kinds:
        figure.colorbar(drawn, ax=axes, shrink=0.8, label="score")
    if set(kinds) - {"o"}:
        grey = {"linestyle": "", "color": "0.4"}
        handles = [Line2D([], [], marker=m, label=_MARKERS[m], **grey) for m in kinds]
        place = {"loc": "outside lower center", "ncols": len(handles)}
        figure.legend(handles=handles, fontsize=8, frameon=False, **place)
    number = "1 column" if len(table) == 1 else f"{len(table)} columns"
    figure.suptitle(f"{title}\n{number}".strip(), fontsize=10)
    FigureCanvasAgg(figure).print_png(os.fspath(path))
