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

"""Pictures of molecular dynamics: the log against time, and distances of atoms."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ppmat.datasets.potential_dataset import periodic_box
from ppmat.utils.files import replacing
from ppmat.utils.neighbours import neighbour_pairs

_MOST_PAIRS = 6  # lines in a picture that can still be told apart


def draw_log(
    rows: Sequence[Mapping[str, Any]],
    natoms: int,
    path: str | os.PathLike,
    title: str,
    limits: Mapping[str, float],
) -> None:
    """Write total energy, temperature and what else is known against time, as PNG.

    Args:
        rows: Lines of the log, by the names of ``molecular_dynamics.COLUMNS``.
        natoms: Number of atoms.
        path: The PNG file.
        title: Text above.
        limits: Dashed lines, by name of the column: wanted values and stop rules.
    """
    labels = {
        "total": "total energy - first\n[meV/atom]",
        "temperature": "temperature [K]",
        "pressure": "pressure [GPa]",
        "forces_spread": "spread of forces\n[eV/Å]",
    }
    known = [name for name in labels if rows[0][name] is not None]
    figure = Figure(figsize=(7, 0.6 + 1.8 * len(known)), layout="constrained")
    time = [row["time"] / 1000.0 for row in rows]
    for axes, name in zip(figure.subplots(len(known), sharex=True), known):
        values = np.array([row[name] for row in rows])
        if name == "total":
            values = 1000.0 * (values - values[0]) / natoms
        axes.plot(time, values, linewidth=1.0, marker="." if len(rows) < 30 else None)
        if name in limits:
            axes.axhline(limits[name], color="black", linestyle="--", linewidth=0.8)
        axes.set_ylabel(labels[name])
    axes.set_xlabel("time [ps]")
    figure.suptitle(title)
    _save(figure, path)


def pair_distances(
    frames: Sequence[Atoms], reach: float = 8.0, bins: int = 160
) -> tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]:
    """Return the radial distribution of each pair of elements, the mean over frames.

    All periodic images within ``reach`` count, so small and skewed cells are right.

    Args:
        frames: Structures with the same atoms.
        reach: Largest distance, Å.
        bins: Number of distances.

    Returns:
        The distances, [bins] Å, and for each pair (A, B), A first in the alphabet: the
        number of B around an A, per Å, as [bins]; if all directions are periodic,
        divided by that of a gas of the same density, which is ``g(r)``.

    Example:
        >>> from ase.build import bulk
        >>> r, found = pair_distances([bulk("Cu")], reach=3.0, bins=30)
        >>> [round(float(x), 2) for x in r[found["Cu", "Cu"] > 0]]  # a / sqrt(2)
        [2.55]
    """
    edges = np.linspace(0.0, reach, bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)  # Å^3
    symbols = np.array(frames[0].get_chemical_symbols())
    count = Counter(symbols.tolist())
    found = {}
    for a, b in combinations_with_replacement(sorted(count), 2):
        if a != b or count[a] > 1 or frames[0].pbc.any():
            found[a, b] = np.zeros(bins)
    for frame in frames:
        box = periodic_box(frame, reach)
        pairs = neighbour_pairs(box.positions, box.cell.array, reach)
        for a, b in found:
            chosen = (symbols[pairs.centre] == a) & (symbols[pairs.neighbour] == b)
            around = np.histogram(pairs.distance[chosen], edges)[0] / count[a]
            if frame.pbc.all():
                around = around * frame.cell.volume / (shells * count[b])
            else:
                around = around / np.diff(edges)
            found[a, b] += around / len(frames)
    return 0.5 * (edges[1:] + edges[:-1]), found


def draw_pair_distances(
    frames: Sequence[Atoms], path: str | os.PathLike, title: str
) -> None:
    """Write :func:`pair_distances` as PNG, of at most six pairs, the commonest.

    An atom that is alone of its element has only its own images, which are left out.
    """
    distances, found = pair_distances(frames)
    count = Counter(frames[0].get_chemical_symbols())
    pairs = [pair for pair in found if set(pair) != {pair[0]} or count[pair[0]] > 1]
    pairs.sort(key=lambda pair: -count[pair[0]] * count[pair[1]])
    shown = pairs[:_MOST_PAIRS]
    if len(pairs) > len(shown):
        title += f" ({len(shown)} of {len(pairs)} pairs)"
    figure = Figure(figsize=(7, 1.0 + 1.4 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for axes, (a, b) in zip(panels, shown):
        axes.plot(distances, found[a, b], linewidth=1.0)
        axes.set_ylim(bottom=0.0)
        axes.set_ylabel(f"{a}-{b}")
        if frames[0].pbc.all():
            axes.axhline(1.0, color="black", linestyle="--", linewidth=0.8)
    panels[-1].set_xlabel("distance r [Å]")
    what = "g(r)" if frames[0].pbc.all() else "neighbours of an atom, 1/Å"
    figure.suptitle(f"{title}: {what}")
    _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
