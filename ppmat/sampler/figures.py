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

"""Overview figures of relaxed slabs: success curve, displacements, structures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from ppmat.metrics.is2rs_metric import THRESHOLDS
from ppmat.metrics.is2rs_metric import structure_distances
from ppmat.metrics.is2rs_metric import success_curve
from ppmat.utils.periodic import minimum_image

_ADSORBATE = 2  # tag
_MAX_POINTS = 20_000  # atoms in the scatter plot
_COLOURS = {"predicted": "#0072B2", "copy input": "#888888", "adsorbate": "#D55E00"}


def draw_figures(
    results: Sequence, folder: str, num_slabs: int = 4, seed: int = 0
) -> list[str]:
    """Draw curve, displacements and slabs as PNG files.

    Args:
        results: Results with ``cart_coords``, ``cart_coords_initial``,
            ``cart_coords_relaxed``, ``lattice``, ``fixed`` and ``tags``. Of several
            samples of a structure the first is used.
        folder: Output folder; made if missing.
        num_slabs: Slabs drawn, spread evenly over the results.
        seed: Seed of the choice of atoms for the scatter plot.

    Returns:
        The paths of the files.
    """
    firsts, predicted, copied, lengths = [], [], [], []
    for i, result in enumerate(results):
        if result.get("sample", 0) != 0:
            continue
        firsts.append(i)
        if not np.all(result["fixed"]):
            arrays = _arrays(result)
            predicted.append(_distance(arrays, "cart_coords"))
            copied.append(_distance(arrays, "cart_coords_initial"))
            lengths.append(_lengths(arrays))
    points = np.concatenate(lengths)
    if len(points) > _MAX_POINTS:
        chosen = np.random.default_rng(seed).choice(len(points), _MAX_POINTS, False)
        points = points[np.sort(chosen)]
    spread = np.linspace(0, len(firsts) - 1, min(num_slabs, len(firsts)))
    figures = {
        "adwt.png": draw_curve(predicted, copied),
        "displacement.png": draw_displacements(points),
        "slabs.png": draw_slabs([results[firsts[int(i)]] for i in spread]),
    }
    os.makedirs(folder, exist_ok=True)
    paths = [os.path.join(folder, name) for name in figures]
    for path, figure in zip(paths, figures.values()):
        figure.savefig(path, dpi=150)
    return paths


def draw_curve(predicted: Sequence, copied: Sequence) -> Figure:
    """Return a plot of the share of structures within each threshold.

    Arguments are the distances [Å] of the predicted and of the initial structures.
    """
    figure = _figure(5.0, 3.6)
    axes = figure.add_subplot()
    for name, distances in (("predicted", predicted), ("copy input", copied)):
        curve = success_curve(np.asarray(distances))
        axes.plot(
            THRESHOLDS,
            100 * curve,
            color=_COLOURS[name],
            label=f"{name}, ADwT {100 * curve.mean():.1f} %",
        )
    axes.set_xlabel("threshold (Å)")
    axes.set_ylabel("structures within threshold (%)")
    axes.set_title(f"Distance to the relaxed structure, {len(predicted)} structures")
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    return figure


def draw_displacements(points: np.ndarray) -> Figure:
    """Return a plot of predicted against true displacement lengths of free atoms.

    Args:
        points: [N, 3]: true length, predicted length (Å), 1 for adsorbate atoms.
    """
    figure = _figure(4.4, 4.2)
    axes = figure.add_subplot()
    top = max(0.1, 1.05 * float(points[:, :2].max(initial=0)))
    axes.plot([0, top], [0, top], color="black", linewidth=0.8)
    adsorbate = points[:, 2] > 0
    for name, chosen in (("surface", ~adsorbate), ("adsorbate", adsorbate)):
        axes.plot(
            *points[chosen, :2].T,
            linestyle="none",
            marker=".",
            markersize=4,
            alpha=0.5,
            rasterized=True,
            color=_COLOURS.get(name, _COLOURS["predicted"]),
            label=f"{name} ({chosen.sum()} atoms)",
        )
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_xlabel("true displacement (Å)")
    axes.set_ylabel("predicted displacement (Å)")
    axes.set_title("Displacement of free atoms")
    axes.legend(frameon=False)
    return figure


def draw_slabs(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Return drawings of slabs: initial, predicted, relaxed; from the top and the side.

    Each slab is one row. Adsorbate atoms have a thick outline, fixed atoms are pale.
    The first lattice vector points right, the surface normal up.
    """
    figure = _figure(11.0, 1.9 * len(results), layout=None)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.94, 0.05, 0.25)
    grid = figure.subplots(len(results), 6, squeeze=False)
    stages = ("cart_coords_initial", "cart_coords", "cart_coords_relaxed")
    for row, result in zip(grid, results, strict=True):
        arrays = _arrays(result)
        cell, start = arrays["lattice"], arrays["cart_coords_initial"]
        axes_of_view = _view(cell)
        # An atom may be wrapped to another cell: draw the nearest image.
        coords = [
            (start + minimum_image(arrays[stage] - start, cell)) @ axes_of_view.T
            for stage in stages
        ]
        errors = [_distance(arrays, stage) for stage in stages[:2]]
        titles = (
            f"sid {result.get('id', '?')}: initial, {errors[0]:.3f} Å off",
            f"predicted, {errors[1]:.3f} Å off",
            "relaxed",
        )
        outline = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
        outline = outline @ cell @ axes_of_view.T
        for first, (across, up, depth, sign) in ((0, (0, 1, 2, 1)), (3, (0, 2, 1, -1))):
            shown = [*coords, outline] if first == 0 else coords
            everything = np.concatenate(shown)[:, [across, up]]
            for i, axes in enumerate(row[first : first + 3]):
                view = {"across": across, "up": up, "depth": depth, "sign": sign}
                _draw_atoms(axes, arrays, coords[i], **view)
                if first == 0:
                    axes.plot(*outline[:, :2].T, color="black", linewidth=0.6)
                axes.set_xlim(*_limits(everything[:, 0]))
                axes.set_ylim(*_limits(everything[:, 1]))
                axes.set_title(titles[i] if first == 0 else "side", fontsize=7)
    return figure


def draw_placements(placements: Sequence[Atoms], titles: Sequence[str]) -> Figure:
    """Return drawings of slabs with adsorbates, next to each other.

    Each is seen from the top and, below, from the side, with the adsorbate in the
    middle of the cell; the style is that of :func:`draw_slabs`.
    """
    figure = _figure(2.4 * len(placements), 4.4, layout=None)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.92, 0.05, 0.05)
    columns = figure.subplots(2, len(placements), squeeze=False).T
    for (top, side), atoms, title in zip(columns, placements, titles, strict=True):
        cell, axes_of_view = atoms.cell.array, _view(atoms.cell.array)
        held = np.zeros(len(atoms), dtype=bool)
        for constraint in atoms.constraints:
            held[constraint.get_indices()] = True
        arrays = {"atom_types": atoms.numbers, "tags": atoms.get_tags(), "fixed": held}
        # The adsorbate in the middle of the cell, the slab around it
        own = atoms.get_tags() == _ADSORBATE
        share = (atoms.positions - atoms.positions[own].mean(axis=0)) @ np.linalg.inv(
            cell
        )
        share += [0.5, 0.5, 0.0]
        share[~own, :2] %= 1.0
        coords = share @ cell @ axes_of_view.T
        outline = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
        outline = outline @ cell @ axes_of_view.T
        across, up = np.concatenate([coords, outline])[:, :2].T
        _draw_atoms(top, arrays, coords, across=0, up=1, depth=2, sign=1)
        _draw_atoms(side, arrays, coords, across=0, up=2, depth=1, sign=-1)
        top.plot(*outline[:, :2].T, color="black", linewidth=0.6)
        top.set_title(title, fontsize=7)
        for axes, height in ((top, up), (side, coords[:, 2])):
            axes.set_xlim(*_limits(across))
            axes.set_ylim(*_limits(height))
    return figure


def _view(cell: np.ndarray) -> np.ndarray:
    """Return unit vectors as rows: along a, in the surface, along its normal."""
    along = cell[0] / np.linalg.norm(cell[0])
    normal = np.cross(cell[0], cell[1])
    normal /= np.linalg.norm(normal)
    return np.stack([along, np.cross(normal, along), normal])


def _limits(values: np.ndarray, margin: float = 1.8) -> tuple:
    return float(values.min()) - margin, float(values.max()) + margin


def _draw_atoms(axes, arrays, coords, *, across, up, depth, sign) -> None:
    order = np.argsort(sign * coords[:, depth], kind="stable")
    numbers = arrays["atom_types"][order]
    adsorbate = arrays["tags"][order] == _ADSORBATE
    colours = np.array(jmol_colors[numbers])
    held = arrays["fixed"][order]
    colours[held] = 0.5 + 0.5 * colours[held]
    diameters = 1.6 * covalent_radii[numbers]
    axes.add_collection(
        EllipseCollection(
            diameters,
            diameters,
            np.zeros(len(order)),
            units="xy",
            offsets=coords[order][:, [across, up]],
            offset_transform=axes.transData,
            facecolors=colours,
            edgecolors="black",
            linewidths=np.where(adsorbate, 1.4, 0.3),
        )
    )
    axes.set_aspect("equal")
    axes.set_axis_off()


def _arrays(result: Mapping[str, Any]) -> dict:
    names = ("cart_coords", "cart_coords_initial", "cart_coords_relaxed")
    return {
        **{name: np.asarray(result[name], float) for name in names},
        "atom_types": np.asarray(result["atom_types"], int),
        "lattice": np.reshape(np.asarray(result["lattice"], float), (3, 3)),
        "fixed": np.asarray(result["fixed"], bool),
        "tags": np.asarray(result.get("tags", np.zeros(len(result["fixed"])))),
    }


def _distance(arrays: Mapping[str, np.ndarray], name: str) -> float:
    """Return the mean distance of free atoms to their relaxed positions, Å."""
    relaxed, cell = arrays["cart_coords_relaxed"], arrays["lattice"]
    held = arrays["fixed"]
    return float(structure_distances([arrays[name]], [relaxed], [cell], [held])[0])


def _lengths(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return columns for :func:`draw_displacements`."""
    free = ~arrays["fixed"]
    start = arrays["cart_coords_initial"][free]
    columns = [
        np.linalg.norm(
            minimum_image(arrays[name][free] - start, arrays["lattice"]), axis=1
        )
        for name in ("cart_coords_relaxed", "cart_coords")
    ]
    return np.stack([*columns, arrays["tags"][free] == _ADSORBATE], axis=1)


def _figure(width: float, height: float, layout: str | None = "constrained"):
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure
