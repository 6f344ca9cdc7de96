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

"""Draw docs/images/coordinates.png: ``python docs/draw_coordinates.py``.

The energy of a carbon atom that is moved over the surface of a shipped record at
constant height (EMT), in Cartesian and in fractional coordinates, with the force and a
displacement along it.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ppmat.datasets.oc20_lmdb import OC20LMDB

ROOT = Path(__file__).resolve().parents[1]
SPLIT = ROOT / "structure_generation/example_data/oc20_emt/train"
OUTPUT = ROOT / "docs" / "images" / "coordinates.png"
ROW = 1  # a C atom on a hexagonal surface, angle of the cell 60 degrees
SHIFT = np.array([1 / 6, 1 / 6])  # fractional, from its hollow site to above an atom
LIFT = 2.0  # Å
SPAN = np.linspace(-0.17, 0.17, 35)  # fractional, about that place
POINT = np.array([-0.10, 0.01])  # where the arrows start, fractional
MOVE, FORCE = "#2f6fa8", "#c8792b"


def landscape(atoms: Atoms) -> np.ndarray:
    """Return the energy of the last atom at all pairs of SPAN, [35, 35] eV."""
    frac = atoms.get_scaled_positions(wrap=False)
    start = frac[-1].copy()
    energies = np.empty((len(SPAN), len(SPAN)))
    for i, a in enumerate(SPAN):
        for j, b in enumerate(SPAN):
            frac[-1] = start + [a, b, 0]
            atoms.set_scaled_positions(frac)
            energies[i, j] = atoms.get_potential_energy()
    frac[-1] = start + [*POINT, 0]
    atoms.set_scaled_positions(frac)
    return energies


def arrow(ax: Axes, along: np.ndarray, color: str, width: float, text: str) -> None:
    """Draw an arrow from the origin."""
    style = {"arrowstyle": "-|>", "color": color, "lw": width, "mutation_scale": 16}
    ax.annotate("", along, (0, 0), arrowprops={**style, "shrinkA": 0, "shrinkB": 0})
    ax.plot([], [], color=color, lw=width, label=text)


def draw() -> Figure:
    """Return the figure."""
    record = OC20LMDB(SPLIT)[ROW]
    atoms = record.to_atoms()
    atoms.positions[-1] += SHIFT @ atoms.cell.array[:2] + [0, 0, LIFT]
    atoms.calc = EMT()
    energies = landscape(atoms)
    plane = atoms.cell.array[:2, :2]  # a and b as rows; they have no z component
    force = atoms.get_forces(apply_constraint=False)[-1, :2]
    a, b = np.meshgrid(SPAN, SPAN, indexing="ij")
    frac = np.stack([a, b], axis=-1) - POINT
    cart = frac @ plane
    move = 0.85 * force / np.linalg.norm(force)  # Å, towards the minimum
    border = np.concatenate([energies[[0, -1]], energies[:, [0, -1]].T])
    levels = np.linspace(energies.min(), border.min(), 9)[1:]  # closed curves

    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax, grid in ((left, cart), (right, frac)):
        ax.contour(grid[..., 0], grid[..., 1], energies, levels, cmap="Greys_r")
        ax.set_aspect("equal")
        ax.plot(0, 0, "ko", ms=5)
    arrow(left, 1.4 * move, FORCE, 5, "force")
    arrow(left, move, MOVE, 2, "displacement")
    slope = force @ plane.T
    slope *= 0.14 / np.linalg.norm(slope)  # its length has another unit than the axes
    arrow(right, slope, FORCE, 5, "force @ cell.T")
    arrow(right, move @ np.linalg.inv(plane), MOVE, 2, "displacement @ inv(cell)")
    left.set(title="Cartesian", xlabel="x [Å]", ylabel="y [Å]")
    left.set(xlim=(-1.3, 2.7), ylim=(-1.9, 2.1))
    right.set(title="fractional", xlabel="along a", ylabel="along b")
    right.set(xlim=(-0.1, 0.32), ylim=(-0.25, 0.17))
    for ax in (left, right):
        ax.locator_params(nbins=5)
        ax.legend(loc="lower left", fontsize=9)
    return figure


if __name__ == "__main__":
    FigureCanvasAgg(draw()).print_figure(OUTPUT, dpi=90)
    print(f"wrote {OUTPUT.relative_to(ROOT)}")
