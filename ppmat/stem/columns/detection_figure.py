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
from typing import Any
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from ppmat.stem.columns.column_table import ColumnTable

_ENLARGED_SIDE = 400  # pixels; side of the part in the second panel
_GREY_LIMITS = (0.5, 99.7)  # percentiles of the image that are black and white
_PANEL_INCHES = 6.5
_MARKERS = {"o": "fitted", "s": "fitted, at the edge", "x": "not fitted"}
# Diameter of a marker in sigma; the middle of the column stays free. In dense lattices
# it is less, a share of the distance of nearest columns.
_MARKER_SIGMAS, _MARKER_SHARE = 3.0, 0.7
_SMALLEST_MARKER, _LARGEST_MARKER = 1.5, 30  # points
_LIMITS = (1, 99)  # percentiles of the values at the ends of a colour scale
_NO_VALUE = "0.6"  # grey

COLORS = ("score", "sublattice", "intensity", "displacement")


class View(NamedTuple):
    """A part of an image in one panel: first, and last + 1, row and column."""

    start: np.ndarray
    end: np.ndarray


def views_of(image: np.ndarray) -> list[View]:
    """Return the whole image and, if it is large, its middle."""
    shape = np.array(image.shape)
    views = [View(0 * shape, shape)]
    if shape.max() > _ENLARGED_SIDE:
        start = np.maximum(0, (shape - _ENLARGED_SIDE) // 2)
        views.append(View(start, np.minimum(shape, start + _ENLARGED_SIDE)))
    return views


def new_figure(rows: int, columns: int) -> tuple[Any, np.ndarray]:
    """Return a Matplotlib figure and its axes [rows, columns]."""
    from matplotlib.figure import Figure

    size = (_PANEL_INCHES * columns + 1, _PANEL_INCHES * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def show_view(
    axis: Any, image: np.ndarray | None, view: View, pixel_size: tuple | None
) -> np.ndarray:
    """Draw a view of an image with axes in nm, or in pixels if the size is unknown.

    Returns:
        The size of a pixel (y, x) in units of the axes [2].
    """
    size = np.asarray(pixel_size or (1.0, 1.0))
    (top, left), (bottom, right) = (view.start - 0.5) * size, (view.end - 0.5) * size
    if image is not None:
        low, high = np.percentile(image[np.isfinite(image)], _GREY_LIMITS)
        height, width = (np.array(image.shape) - 0.5) * size
        axis.imshow(
            image,
            "gray",
            vmin=low,
            vmax=high,
            interpolation="nearest",
            extent=(-0.5 * size[1], width, height, -0.5 * size[0]),
        )
    units = "px" if pixel_size is None else "nm"
    axis.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axis.set(xlabel=f"x [{units}]", ylabel=f"y [{units}]")
    return size


def save_png(figure: Any, path: str | os.PathLike) -> None:
    """Write a figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(os.fspath(path))


def plain_image(image: np.ndarray) -> np.ndarray:
    """Return an image as floats, NaN at masked pixels."""
    return np.ma.filled(np.ma.asanyarray(image).astype(np.float64), np.nan)


def draw_columns(
    image: np.ndarray,
    table: ColumnTable,
    path: str | os.PathLike,
    title: str = "",
    color: str = "score",
) -> None:
    """Write a PNG file of the raw image with an open marker around each column.

    Crosses are columns whose fit failed, squares are at the edge; a legend explains
    them. An image [H, W] of more than 400 pixels a side gets a second panel with its
    middle. Axes are in nm if the pixel size is known.

    Args:
        image: Raw image [H, W].
        table: The columns.
        path: The file.
        title: First line above the figure.
        color: One of :data:`COLORS`. ``sublattice`` and ``displacement`` need the
            columns of :func:`~ppmat.stem.columns.analysis.analyse`. Columns without
            a value are grey.
    """
    image = plain_image(image)
    views = views_of(image)
    figure, axes = new_figure(1, len(views))
    values, scale = _scale(table, color)
    edgecolors = scale.to_rgba(np.ma.masked_invalid(values))
    fitted, edge = table.fitted, table.edge
    kinds = {"o": fitted & ~edge, "s": fitted & edge, "x": ~fitted}
    kinds = {marker: which for marker, which in kinds.items() if which.any()}
    diameter = _marker_diameter(table)
    for axis, view in zip(axes[0], views):
        size = show_view(axis, image, view, table.pixel_size)
        y, x = (table.positions * size).T
        for marker, which in kinds.items():
            points = _PANEL_INCHES * 72 / max(view.end - view.start) * diameter
            points = np.clip(points, _SMALLEST_MARKER, _LARGEST_MARKER)
            colors = edgecolors[which]
            paint = {"c": colors}
            if marker != "x":
                paint = {"facecolors": "none", "edgecolors": colors}
            axis.scatter(
                x[which], y[which], points**2, marker=marker, linewidths=0.9, **paint
            )
    if kinds:
        bar = figure.colorbar(scale, ax=axes, shrink=0.8, label=_label(table, color))
        if color == "sublattice":
            bar.set_ticks(np.arange(-1, np.nanmax(values) + 1))
    if set(kinds) - {"o"}:
        _add_legend(figure, kinds)
    number = "1 column" if len(table) == 1 else f"{len(table)} columns"
    figure.suptitle(f"{title}\n{number}".strip(), fontsize=10)
    save_png(figure, path)


def spacing_of(table: ColumnTable) -> float:
    """Return the typical distance of nearest columns, pixels; infinite for one."""
    if len(table) < 2:
        return np.inf
    nearest = cKDTree(table.positions).query(table.positions, k=2)[0][:, 1]
    return float(np.median(nearest))


def _marker_diameter(table: ColumnTable) -> float:
    """Return the diameter of markers, pixels."""
    if not len(table):
        return 1.0
    wide = _MARKER_SIGMAS * np.median(table.sigma)
    return min(wide, _MARKER_SHARE * spacing_of(table))


def _add_legend(figure: Any, markers: Any) -> None:
    """Explain the markers below the figure."""
    from matplotlib.lines import Line2D

    grey = {"linestyle": "", "color": "0.4", "fillstyle": "none"}
    handles = [Line2D([], [], marker=m, label=_MARKERS[m], **grey) for m in markers]
    place = {"loc": "outside lower center", "ncols": len(handles)}
    figure.legend(handles=handles, fontsize=8, frameon=False, **place)


def _scale(table: ColumnTable, color: str) -> tuple[np.ndarray, Any]:
    """Return the value of each column [n], and the mapping of values to colours."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm
    from matplotlib.colors import ListedColormap
    from matplotlib.colors import Normalize

    if color == "sublattice":
        values = table.extra["sublattice [1]"].astype(float)
        # One colour for each label, which repeat after ten; grey for none.
        number = int(values.max(initial=0)) + 1
        colors = [_NO_VALUE, *(colormaps["tab10"](k % 10) for k in range(number))]
        norm = BoundaryNorm(np.arange(-1.5, number), number + 1)
        return values, ScalarMappable(norm, ListedColormap(colors))
    if color == "score":
        values, limits = table.score, (0.0, 1.0)
    elif color == "intensity":
        values = table.intensity
        limits = np.percentile(values, _LIMITS) if len(values) else (0, 1)
    else:
        units = "px" if table.pixel_size is None else "nm"
        away = [table.extra[f"displacement_{axis} [{units}]"] for axis in "yx"]
        values = np.hypot(*away) * (1 if table.pixel_size is None else 1e3)
        known = values[np.isfinite(values)]
        limits = (0, np.percentile(known, _LIMITS[1]) if len(known) else 1)
    colormap = colormaps["plasma"].with_extremes(bad=_NO_VALUE)
    return values, ScalarMappable(Normalize(*limits), colormap)


def _label(table: ColumnTable, color: str) -> str:
    """Return the label of a colour scale, with units."""
    length = "px" if table.pixel_size is None else "pm"
    return {
        "score": "score",
        "sublattice": "sublattice (-1: none)",
        "intensity": "intensity [image units px²]",
        "displacement": f"displacement from the lattice [{length}]",
    }[color]
