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


"""Draw docs/images/results.png, the picture of the README.

    make demo
    python docs/draw_results.py output/demo

Above: a slab of the shipped validation split ``val_id`` before relaxation, as the
demo's model predicts it, and as EMT relaxed it. It is the structure with the median
error of the split. Below: an example image, the same enhanced by the packaged model,
and the columns fitted to the raw image.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from ase.visualize.plot import plot_atoms
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.metrics.is2rs_metric import structure_distances
from ppmat.predictor import SpectrumPredictor
from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.images.micrograph import read_micrograph

ROOT = Path(__file__).resolve().parents[1]
SPLIT = ROOT / "structure_generation/example_data/oc20_emt/val_id"
IMAGE = ROOT / "spectrum_enhancement/example_data/stem_sample/test/noisy/0.png"
OUTPUT = ROOT / "docs" / "images" / "results.png"


def slabs(demo: Path) -> tuple[list[Atoms], list[float]]:
    """Return initial, predicted and relaxed slab, and the distances of two, Å."""
    found = []
    predictions = read(demo / "val_id" / "structures.extxyz", index=":")
    for record, predicted in zip(OC20LMDB(SPLIT), predictions, strict=True):
        relaxed = [record.pos_relaxed]
        cell, fixed = [record.cell], [record.fixed]
        before, after = (
            float(structure_distances([positions], relaxed, cell, fixed)[0])
            for positions in (record.pos, predicted.positions)
        )
        found.append((after, before, record, predicted))
    found.sort(key=lambda row: row[0])
    after, before, record, predicted = found[len(found) // 2]
    structures = [
        Atoms(record.atomic_numbers, positions, cell=record.cell, pbc=True)
        for positions in (record.pos, predicted.positions, record.pos_relaxed)
    ]
    for atoms in structures:
        atoms.wrap()
    return structures, [before, after]


def draw(demo: Path) -> Figure:
    """Return the picture."""
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    axes = figure.subplots(2, 3)
    structures, (before, after) = slabs(demo)
    titles = (
        f"initial slab, {before:.2f} Å off",
        f"predicted, {after:.2f} Å off",
        "relaxed (EMT)",
    )
    height = max(atoms.positions[:, 2].max() for atoms in structures) + 2
    for axis, atoms, title in zip(axes[0], structures, titles, strict=True):
        plot_atoms(atoms, axis, rotation="-90x", show_unit_cell=0)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
        axis.set_ylim(axis.get_ylim()[0], min(axis.get_ylim()[1], height))
    image = read_micrograph(IMAGE).data.astype(np.float64)
    clean = SpectrumPredictor().enhance(image)
    table = detect_columns(image, clean)
    low, high = np.percentile(image, (0.5, 99.5))
    views = (image, clean, image)
    titles = ("noisy image", "enhanced", f"{len(table)} atomic columns")
    for axis, view, title in zip(axes[1], views, titles, strict=True):
        axis.imshow(view, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    limits = axes[1, 2].axis()
    axes[1, 2].plot(table.x, table.y, "o", mfc="none", mec="#ffb000", ms=7, mew=1.3)
    axes[1, 2].axis(limits)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="output folder of make demo")
    FigureCanvasAgg(draw(parser.parse_args().demo)).print_figure(OUTPUT, dpi=110)
    print(f"wrote {OUTPUT.relative_to(ROOT)}")
