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

"""Figures of strain and displacement, from the further columns of a table."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.detection_figure import View
from ppmat.stem.columns.detection_figure import new_figure
from ppmat.stem.columns.detection_figure import plain_image
from ppmat.stem.columns.detection_figure import save_png
from ppmat.stem.columns.detection_figure import show_view
from ppmat.stem.columns.detection_figure import spacing_of
from ppmat.stem.columns.detection_figure import views_of

_LIMIT = 98  # percentile of absolute values at the ends of a colour scale
_ARROW = 0.8  # length of a long arrow, in distances of nearest columns
_STRAINS = {
    "e_yy [1]": ("e_yy [%]", 100.0),
    "e_xx [1]": ("e_xx [%]", 100.0),
    "e_xy [1]": ("e_xy [%]", 100.0),
    "rotation [deg]": ("rotation [°], counter-clockwise > 0", 1.0),
}
_ARROWS = {
    "displacement": "displacement from the lattice",
    "shift": "shift from the middle of the neighbours",
}


def draw_strain(
    image: np.ndarray, table: ColumnTable, path: str | os.PathLike, title: str = ""
) -> None:
    """Write a PNG file with maps of the three strains and the rotation.

    Each column is a dot, white for no strain. ``table`` has the strain of
    :func:`~ppmat.stem.columns.analysis.analyse`; of the image [H, W] only the size is
    used. The end of a colour scale is the 98th percentile of the absolute values.
    """
    figure, axes = new_figure(2, 2)
    whole = View(np.zeros(2), np.array(np.shape(image)))
    for axis, (name, (label, factor)) in zip(axes.ravel(), _STRAINS.items()):
        size = show_view(axis, None, whole, table.pixel_size)
        values = table.extra[name] * factor
        known = np.isfinite(values)
        limit = np.percentile(abs(values[known]), _LIMIT) if known.any() else 1.0
        y, x = (table.positions[known] * size).T
        inches = axis.get_position().width * figure.get_figwidth()
        dot = spacing_of(table) * inches * 72 / max(whole.end)
        drawn = axis.scatter(
            x,
            y,
            np.clip(dot, 1, 30) ** 2,
            values[known],
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            linewidths=0,
        )
        axis.set_facecolor("0.85")
        figure.colorbar(drawn, ax=axis, shrink=0.8, label=label)
    figure.suptitle(title, fontsize=10)
    save_png(figure, path)


def draw_displacement(
    image: np.ndarray, table: ColumnTable, path: str | os.PathLike, title: str = ""
) -> None:
    """Write a PNG file with arrows of the displacements on the raw image [H, W].

    The upper row has displacements from the lattice, the lower one shifts from the
    middle of the neighbours. The title of a panel has the magnification of its arrows.
    """
    image = plain_image(image)
    views = views_of(image)
    figure, axes = new_figure(len(_ARROWS), len(views))
    for row, (name, label) in zip(axes, _ARROWS.items()):
        away = [table.extra[f"{name}_{axis} [px]"] for axis in "yx"]
        for axis, view in zip(row, views):
            show_view(axis, image, view, table.pixel_size)
            drawn, times = _draw_arrows(axis, table, np.stack(away, axis=1))
            axis.set_title(f"{label}, arrows {times:.3g} times", fontsize=9)
        units = "px" if table.pixel_size is None else "pm"
        figure.colorbar(drawn, ax=row, shrink=0.8, label=f"{name} [{units}]")
    figure.suptitle(title, fontsize=10)
    save_png(figure, path)


def _draw_arrows(axis: Any, table: ColumnTable, away: np.ndarray) -> tuple[Any, float]:
    """Draw arrows of displacements (y, x), pixels [n, 2]; returns the magnification."""
    size = np.asarray(table.pixel_size or (1.0, 1.0))
    known = np.isfinite(away).all(axis=1)
    away, (y, x) = away[known], (table.positions[known] * size).T
    length = np.hypot(*(away * size).T)
    largest = np.percentile(length, _LIMIT) if len(length) else 0.0
    factor = 1.0 if table.pixel_size is None else 1e3  # pm of one nm
    times = _ARROW * spacing_of(table) * size.mean() / largest if largest else 1.0
    drawn = axis.quiver(
        x,
        y,
        *(times * away * size).T[::-1],
        factor * length,
        angles="xy",
        scale_units="xy",
        scale=1.0,
        cmap="plasma",
        clim=(0, factor * largest or 1.0),
        width=0.0025,
    )
    return drawn, times
