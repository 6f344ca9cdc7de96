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

"""Errors of a student, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols


def force_scores(frames: Sequence[Atoms], found: Sequence[Atoms]) -> dict:
    """Return the errors of a student.

    Args:
        frames: Frames with the teacher's labels.
        found: The same with those of the student.

    Returns:
        ``energy_mae``, ``energy_rmse`` [eV] of an atom; ``force_mae``, ``force_rmse``
        [eV/Å] of a component; ``force_std``, that of the teacher's components;
        ``force_error``, the error over it; ``force_rmse_of`` by element.
    """
    sizes = np.array([len(frame) for frame in frames])
    energy = (_energies(found) - _energies(frames)) / sizes
    truth, error = _forces(frames), _forces(found) - _forces(frames)
    numbers = np.concatenate([frame.numbers for frame in frames])
    rmse = _root_mean_square(error)
    return {
        "energy_mae": float(np.abs(energy).mean()),
        "energy_rmse": _root_mean_square(energy),
        "force_mae": float(np.abs(error).mean()),
        "force_rmse": rmse,
        "force_std": float(truth.std()),
        "force_error": rmse / float(truth.std()),
        "force_rmse_of": {
            chemical_symbols[z]: _root_mean_square(error[numbers == z])
            for z in np.unique(numbers)
        },
    }


def _energies(frames: Sequence[Atoms]) -> np.ndarray:
    return np.array([frame.get_potential_energy() for frame in frames])


def _forces(frames: Sequence[Atoms]) -> np.ndarray:
    return np.concatenate([f.get_forces(apply_constraint=False) for f in frames])


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def draw_parity(
    frames: Sequence[Atoms],
    found: Sequence[Atoms],
    path: Path,
    names: tuple[str, str] = ("teacher", "student"),
) -> None:
    """Draw energies and forces of a student against the truth.

    Args:
        frames: Frames with labels.
        found: The same with those of the student.
        path: The picture.
        names: What the labels are of, and the predictions.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    sizes = np.array([len(frame) for frame in frames])
    pairs = [
        (_energies(frames) / sizes, _energies(found) / sizes, "energy [eV/atom]", left),
        (_forces(frames).ravel(), _forces(found).ravel(), "force [eV/Å]", right),
    ]
    for x, y, name, axes in pairs:
        size = 2 if len(x) > 500 else 6
        axes.plot(x, y, ".", markersize=size, alpha=0.5, rasterized=True)
        ends = [min(x.min(), y.min()), max(x.max(), y.max())]
        axes.plot(ends, ends, color="black", linewidth=0.8)
        rmse = _root_mean_square(y - x)
        axes.set(xlabel=f"{names[0]}: {name}", ylabel=f"{names[1]}: {name}")
        axes.set_title(f"RMSE {rmse:.4f}")
        axes.set_aspect("equal", "datalim")
    figure.savefig(path, dpi=150)


def draw_learning(iterations: Sequence[dict], path: Path) -> None:
    """Draw the force error against the number of labelled frames."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    frames = [found["frames"] for found in iterations]
    axes.plot(frames, [found["force_rmse"] for found in iterations], "o-")
    axes.set(xlabel="labelled frames", ylabel="force RMSE [eV/Å]", ylim=(0, None))
    figure.savefig(path, dpi=150)
