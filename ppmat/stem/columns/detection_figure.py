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


"""A picture of the columns that were found, on the raw image."""

from __future__ import annotations

import os

import numpy as np

from ppmat.stem.columns.column_table import ColumnTable

_SIDE = 400  # pixels of the part that is shown enlarged
_LIMITS = (0.5, 99.7)  # percentiles
_INCHES = 6.5
_MARKERS = {"o": "fitted", "s": "fitted, at the edge", "x": "not fitted"}


def draw_columns(
    image: np.ndarray,
    table: ColumnTable,
    path: str | os.PathLike,
    title: str = "",
) -> None:
    """Write the raw image with a mark on each column as PNG.

    Colour is the score. Crosses are columns whose fit failed, squares are at the
    edge; a legend says so where there are any. An image of more than 400 pixels a side
    gets a second panel with its middle.

    Args:
        image: Raw image [H, W].
        table: Its columns.
        path: The file.
        title: Written above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    image = np.ma.filled(np.ma.asanyarray(image).astype(np.float64), np.nan)
    views = [((0, image.shape[0]), (0, image.shape[1]))]
    if max(image.shape) > _SIDE:
        views.append(tuple(_middle(size) for size in image.shape))
    figure = Figure(figsize=(_INCHES * len(views) + 1, _INCHES), layout="constrained")
    axes = figure.subplots(1, len(views), squeeze=False)[0]
    low, high = np.percentile(image[np.isfinite(image)], _LIMITS)
    for axis, (rows, columns) in zip(axes, views):
        part = image[slice(*rows), slice(*columns)]
        axis.imshow(
            part,
            cmap="gray",
            vmin=low,
            vmax=high,
            interpolation="nearest",
            extent=(columns[0] - 0.5, columns[1] - 0.5, rows[1] - 0.5, rows[0] - 0.5),
        )
        drawn = _marks(axis, table, rows, columns)
        axis.set_xlim(columns[0] - 0.5, columns[1] - 0.5)
        axis.set_ylim(rows[1] - 0.5, rows[0] - 0.5)
        axis.set_xlabel("x [px]")
        axis.set_ylabel("y [px]")
    if drawn is not None:
        figure.colorbar(drawn, ax=axes, shrink=0.8, label="score")
    found = [marker for marker, which in _kinds(table).items() if which.any()]
    if set(found) - {"o"}:
        handles = [
            Line2D([], [], linestyle="", color="0.4", marker=m, label=_MARKERS[m])
            for m in found
        ]
        place = {"loc": "outside lower center", "ncols": len(handles)}
        figure.legend(handles=handles, fontsize=8, frameon=False, **place)
    number = "1 column" if len(table) == 1 else f"{len(table)} columns"
    figure.suptitle(f"{title}\n{number}".strip(), fontsize=10)
    FigureCanvasAgg(figure).print_png(os.fspath(path))


def _middle(size: int) -> tuple[int, int]:
    start = max(0, (size - _SIDE) // 2)
    return start, min(size, start + _SIDE)


def _kinds(table: ColumnTable) -> dict[str, np.ndarray]:
    """Return which columns have which marker."""
    return {
        "o": table.fitted & ~table.edge,
        "s": table.fitted & table.edge,
        "x": ~table.fitted,
    }


def _marks(axis, table: ColumnTable, rows: tuple, columns: tuple):
    """Draw the columns in view; returns what a colour bar is made of."""
    drawn = None
    side = max(rows[1] - rows[0], columns[1] - columns[0])
    # Sigma in points, so that marks have the size of the columns.
    points = _INCHES * 72 / side * np.median(table.sigma) if len(table) else 1.0
    for marker, which in _kinds(table).items():
        if not which.any() and marker != "o":
            continue
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
            **({} if marker == "x" else {"alpha": 0.7}),
        )
    return drawn
