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

"""Draw docs/images/sfin_structure.png: ``python docs/draw_sfin_structure.py``."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

SPATIAL, FREQUENCY, GREY = "#c8792b", "#2f6fa8", "#5a5a5a"
OUTPUT = Path(__file__).resolve().parent / "images" / "sfin_structure.png"


def box(
    ax: Axes, centre: tuple[float, float], size: tuple[float, float], text: str, color
) -> None:
    """Draw a rounded box with text in it."""
    (x, y), (w, h) = centre, size
    ax.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2),
            w,
            h,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            edgecolor=color,
            facecolor=(*matplotlib.colors.to_rgb(color), 0.12),
            linewidth=1.4,
        )
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5, linespacing=1.35)


def arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], color=GREY
) -> None:
    """Draw a straight arrow."""
    style = {
        "arrowstyle": "-|>",
        "color": color,
        "lw": 1.6,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    ax.annotate("", end, start, arrowprops=style)


def slab(ax: Axes, left: float, bottom: float, relaxed: bool) -> None:
    """Draw a small slab in side view, three layers and a diatomic adsorbate."""
    x = np.arange(5) * 0.36
    for layer, color in enumerate(("#9a9a9a", "#9a9a9a", "#d8b365")):
        shift = 0.18 * (layer % 2)
        rise = np.array([0, 0.02, -0.07, 0.03, 0]) if relaxed and layer == 2 else 0.0
        y = np.full(5, bottom + 0.3 * layer) + rise
        ax.scatter(left + x + shift, y, s=120, c=color, ec="k", lw=0.5, zorder=3)
    top = np.array([[1.0, 0.92], [1.0, 1.28]])
    if relaxed:
        top = np.array([[0.72, 0.84], [0.78, 1.18]])
    for (dx, dy), color in zip(top, ("#444444", "#c0392b")):
        ax.scatter(left + dx, bottom + dy, s=80, c=color, ec="k", lw=0.5, zorder=3)


def draw() -> plt.Figure:
    """Return the figure."""
    fig, ax = plt.subplots(figsize=(12.6, 5.0))
    ax.set(xlim=(0, 15.6), ylim=(-0.6, 6.0))
    ax.axis("off")

    slab(ax, 0.2, 2.6, relaxed=False)
    ax.text(
        1.1,
        1.5,
        "initial structure,\npresent positions,\ntime $t$",
        ha="center",
        va="center",
        fontsize=9,
    )
    box(ax, (3.3, 3.1), (1.3, 1.5), "head:\nelement, tag,\nmoved by", GREY)
    arrow(ax, (2.15, 3.1), (2.62, 3.1))
    arrow(ax, (3.98, 3.5), (4.62, 4.4), SPATIAL)
    arrow(ax, (3.98, 2.7), (4.62, 1.8), FREQUENCY)

    ax.add_patch(
        FancyBboxPatch(
            (4.45, 0.55),
            6.5,
            5.1,
            boxstyle="round,pad=0.02,rounding_size=0.15",
            edgecolor=GREY,
            facecolor="none",
            linestyle="--",
        )
    )
    ax.text(
        7.7,
        5.4,
        "interaction block (two in each residual block)",
        ha="center",
        va="center",
        fontsize=8.5,
        color=GREY,
    )
    box(ax, (5.5, 4.4), (1.75, 1.0), "spatial half\n$x_l$", SPATIAL)
    box(ax, (5.5, 1.8), (1.75, 1.0), "frequency half\n$x_g$", FREQUENCY)
    box(ax, (9.9, 4.4), (1.75, 1.0), "spatial half\n$l2l + g2l$", SPATIAL)
    box(ax, (9.9, 1.8), (1.75, 1.0), "frequency half\n$l2g + g2g$", FREQUENCY)
    arrow(ax, (6.43, 4.4), (8.97, 4.4), SPATIAL)
    arrow(ax, (6.43, 1.8), (8.97, 1.8), FREQUENCY)
    arrow(ax, (6.43, 2.1), (8.97, 4.1), SPATIAL)
    arrow(ax, (6.43, 4.1), (8.97, 2.1), SPATIAL)
    note = {"ha": "center", "va": "center", "fontsize": 8.5}
    ax.text(7.7, 4.82, "l2l: convolution on\nthe radius graph", color=SPATIAL, **note)
    ax.text(
        7.7,
        1.3,
        "g2g: structure factors,\nsphere $|k| \\leq k_{cut}$,\nback to the atoms",
        color=FREQUENCY,
        **note,
    )
    ax.text(7.2, 2.35, "g2l", color=SPATIAL, **note)
    ax.text(7.2, 3.85, "l2g", color=SPATIAL, **note)

    arrow(ax, (10.82, 4.4), (11.47, 3.5), SPATIAL)
    arrow(ax, (10.82, 1.8), (11.47, 2.7), FREQUENCY)
    box(ax, (12.15, 3.1), (1.36, 1.5), "sum, readout:\nvelocity of\nfree atoms", GREY)
    arrow(ax, (12.88, 3.1), (13.35, 3.1))
    slab(ax, 13.5, 2.6, relaxed=True)
    ax.text(
        14.4,
        1.5,
        "integrated to $t = 1$:\nrelaxed structure",
        ha="center",
        va="center",
        fontsize=9,
    )
    ax.plot([3.3, 3.3, 12.15], [2.35, 0.1, 0.1], color=GREY, lw=1.6)
    arrow(ax, (12.15, 0.085), (12.15, 2.33))
    ax.text(7.7, -0.15, "long skip", color=GREY, **note)
    return fig


if __name__ == "__main__":
    OUTPUT.parent.mkdir(exist_ok=True)
    draw().savefig(OUTPUT, dpi=110, bbox_inches="tight", facecolor="white")
