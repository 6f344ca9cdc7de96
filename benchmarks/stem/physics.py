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

"""Compare the fast images of crystals with multislice simulations by abTEM.

It takes two environments, because abTEM needs Python 3.11 and numpy 2
(``benchmarks.stem.multislice`` runs there without Paddle)::

    pip install abtem pyfftw
    python -m benchmarks.stem.scenes --out SCENES
    python -m benchmarks.stem.physics simulate --work WORK
    python -m benchmarks.stem.physics compare --work WORK --scenes SCENES
    python -m benchmarks.stem.physics reference --work WORK --scenes SCENES

``reference`` writes small parts of the bright-field images for the tests.

``compare`` writes R2 of each case: the fraction of the simulated image's variance that
the fast one explains after fitting level and scale. HAADF has R2 with the default probe
and with the best one. BF has no fitted probe; ``contrast`` is that of the fast image
over that of abTEM. The heights of the kinds of columns in both images are fitted with
Gaussians of one width. They are given relative to the largest absolute height.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parents[2] / "docs" / "results" / "stem_physics.yaml"
SHAPE, PIXEL_SIZE = (96, 96), 0.1
PICTURE = RESULT.parents[1] / "images" / "stem_synthesis.png"
MODES = ("haadf", "bf")
PROBES = np.arange(0.2, 0.61, 0.02)  # Å
# Name, structure, zone axis, thickness [Å], beam [keV], slices [Å].
CASES = (
    ("MoS2, a layer", "mos2", (0, 0, 1), None, 80.0, 1.0),
    ("SrTiO3 [001], 8 Å", "sto", (0, 0, 1), 8, 200.0, 2.0),
    ("SrTiO3 [001], 20 Å", "sto", (0, 0, 1), 20, 200.0, 2.0),
)
# Scenes of benchmarks.stem.scenes: thickness [Å], beam [keV].
SCENES = {
    "SrTiO3 [001], 78 Å": ("sto", 78.1, 200.0),
    "BaTiO3 [001], 60 Å": ("bto", 60.15, 200.0),
    "MoS2 with vacancies": ("mos2", 3.12, 80.0),
    "NbS2, a layer": ("nbs2", 3.14, 80.0),
}
REFERENCE = {"bto": "BaTiO3 [001], 60 Å", "mos2": "MoS2 with vacancies"}
REFERENCE_FILE = Path(__file__).parents[2] / "test" / "data" / "bright_field_abtem.npz"
# Distance from the top of the simulated box to the first atoms of layers, Å.
ABOVE = {"MoS2, a layer": 2.0, "MoS2 with vacancies": 3.0, "NbS2, a layer": 3.0}
CORNER = 48  # pixels; size of the reference images
REACH = 7.0  # Å around a reference image from which columns are stored
CROP = (20, 116)  # first and last pixel; keeps known columns on all sides


def structure(name: str) -> Any:
    """Return a structure as ase.Atoms."""
    from ase.build import mx2
    from ase.spacegroup import crystal

    if name == "mos2":
        return mx2("MoS2", a=3.18, vacuum=10)
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
    return crystal(
        ["Sr", "Ti", "O"], sites, spacegroup=221, cellpar=[3.905] * 3 + [90] * 3
    )


def file_of(work: Path, name: str) -> Path:
    """Return the file of a simulated case."""
    return work / f"{name.replace(' ', '_').replace(',', '')}.npz"


def simulate(work: Path) -> None:
    """Simulate the cases that have no file yet."""
    import abtem

    from benchmarks.stem.multislice import simulate_images

    work.mkdir(parents=True, exist_ok=True)
    for name, kind, axis, thickness, energy, slices in CASES:
        if file_of(work, name).exists():
            continue
        start = time.perf_counter()
        images = simulate_images(
            structure(kind),
            SHAPE,
            PIXEL_SIZE,
            axis,
            thickness=thickness,
            energy=energy,
            phonons=4,
            slice_thickness=slices,
        )
        seconds = time.perf_counter() - start
        np.savez(file_of(work, name), abtem=abtem.__version__, **images)
        print(f"{name}: {seconds:.0f} s", flush=True)


def explained(wanted: np.ndarray, *terms: np.ndarray) -> tuple[float, np.ndarray]:
    """Return R2 and the factors of a linear fit; the last one is the constant."""
    matrix = np.stack([*(t.ravel() for t in terms), np.ones(wanted.size)], axis=1)
    factors = np.linalg.lstsq(matrix, wanted.ravel(), rcond=None)[0]
    left = matrix @ factors - wanted.ravel()
    return float(1 - left @ left / (wanted.var() * wanted.size)), factors


def scene_case(path: Path, thickness: float) -> tuple[dict, Any]:
    """Return images and columns of a file of ``benchmarks.stem.scenes``."""
    from ase.data import atomic_numbers

    from ppmat.stem.scenes.projection import Projection

    file = np.load(path)
    pixel = float(file["pixel_size"])
    first, last = CROP
    symbols = sorted({s for kind in file["kind"] for s in str(kind).split("+")})
    counts = np.zeros((len(file["row"]), len(symbols)))
    for i, (kind, atoms) in enumerate(zip(file["kind"], file["atoms"])):
        for symbol in str(kind).split("+"):
            counts[i, symbols.index(symbol)] = atoms / (1 + str(kind).count("+"))
    columns = Projection(
        y=(file["row"] - first) * pixel,
        x=(file["col"] - first) * pixel,
        counts=counts,
        full=counts.sum(axis=1),
        spread=np.zeros(len(counts)),
        elements=tuple(symbols),
        numbers=np.array([atomic_numbers[symbol] for symbol in symbols]),
        shape=(last - first, last - first),
        pixel_size=pixel,
        margin=first * pixel,
        thickness=thickness,
    )
    images = {m: file[m][first:last, first:last].astype(float) for m in MODES}
    return images, columns


def column_heights(image: np.ndarray, scene: Any) -> dict[str, float]:
    """Return the relative height of each kind of column, with the best width."""
    from ppmat.stem.scenes.atom_columns import AtomColumns

    columns, pixel = scene.columns, scene.pixel_size
    kinds = sorted(set(columns.element))
    best: tuple = (-np.inf, None)
    for width in PROBES:
        terms = []
        for kind in kinds:
            of = columns.element == kind
            ones = np.ones(of.sum())
            spots = AtomColumns(
                columns.y[of], columns.x[of], ones, width / pixel * ones
            )
            terms.append(spots.render(image.shape, 0.0, (0.1, 1.0 / width)))
        best = max(best, explained(image, *terms), key=lambda found: found[0])
    heights = dict(zip(kinds, best[1].tolist()))
    most = max(map(abs, heights.values()))
    return {kind: height / most for kind, height in heights.items()}


def row_of(
    name: str, mode: str, image: np.ndarray, columns: Any, energy: float
) -> dict:
    """Return the row of the result for one image."""
    from ppmat.stem.scenes.crystal import render_projection

    if mode == "bf":
        fast, found = bright_field_row(name, image, columns, energy)
    else:
        scenes = [render_projection(columns, mode, probe=float(p)) for p in PROBES]
        fits = [explained(image, scene.gt_enhance)[0] for scene in scenes]
        best = int(np.argmax(fits))
        fast = scenes[best]
        found = {
            "R2": explained(image, render_projection(columns, mode).gt_enhance)[0],
            "best probe [Å]": float(PROBES[best]),
            "R2 with it": fits[best],
            "contrast": None,
        }
    heights = [column_heights(i, fast) for i in (image, fast.gt_enhance)]
    return {
        "name": f"{name}, {mode.upper()}",
        **{k: None if v is None else round(v, 3) for k, v in found.items()},
        "columns, abTEM": _text(heights[0]),
        "columns, fast model": _text(heights[1]),
    }


def bright_field_row(
    name: str, image: np.ndarray, columns: Any, energy: float
) -> tuple[Any, dict]:
    """Return the fast scene, and R2 and contrast of its image."""
    from ppmat.stem.scenes.bright_field import BrightField
    from ppmat.stem.scenes.bright_field import bright_field
    from ppmat.stem.scenes.crystal import render_projection

    microscope = BrightField(energy=energy, defocus=-ABOVE.get(name, 0.0))
    share = (microscope.detector / microscope.semiangle) ** 2
    fit, factors = explained(image, bright_field(columns, microscope))
    found = {
        "R2": fit,
        "best probe [Å]": None,
        "R2 with it": None,
        "contrast": share / float(factors[0]),
    }
    return render_projection(columns, "bf", contrast=microscope), found


def read_cases(work: Path, scenes: Path) -> list:
    """Return name, simulated images, columns and energy [keV] of all cases."""
    from ppmat.stem.scenes.projection import project

    cases = []
    for name, kind, axis, thickness, energy, _ in CASES:
        images = np.load(file_of(work, name))
        atoms = structure(kind)
        columns = project(atoms, SHAPE, PIXEL_SIZE, axis, thickness=thickness)
        cases.append((name, images, columns, energy))
    for name, (kind, thickness, energy) in SCENES.items():
        cases.append((name, *scene_case(scenes / f"{kind}.npz", thickness), energy))
    return cases


def compare(cases: list) -> dict:
    """Return the result of all cases."""
    rows, notes = [], []
    for name, images, columns, energy in cases:
        rows += [row_of(name, mode, images[mode], columns, energy) for mode in MODES]
        both = np.corrcoef(images["bf"].ravel(), -images["haadf"].ravel())[0, 1]
        notes.append(f"{name} {both:+.2f}")
    return {
        "command": "python -m benchmarks.stem.physics compare --work W --scenes S",
        "date": datetime.date.today().isoformat(),
        "note": "Correlation of simulated BF with inverted HAADF: " + "; ".join(notes),
        "rows": rows,
    }


def cost(work: Path) -> str:
    """Return the CPU time of images of 256 and of 4096 pixels a side."""
    from ase.io import write as write_structure

    from ppmat.commands.synthesize import main as synthesize
    from ppmat.stem.scenes.crystal import crystal_scene

    file = work / "sto.cif"
    write_structure(file, structure("sto"))
    times = []
    for name, options in (("crystals", ["--structure", str(file)]), ("random", [])):
        folder = work / f"set_{name}"
        words = ["--overwrite", "-o", str(folder), *options]
        synthesize([*words, "-n", "1"])  # imports everything
        start = time.process_time()
        synthesize([*words, "-n", "40"])
        seconds = (time.process_time() - start) / 40
        times.append(f"{name} {seconds:.3f} s an image of 256 x 256")
    for mode, side in (("haadf", 4096), ("bf", 256), ("bf", 1024)):
        start = time.process_time()
        scene = crystal_scene(
            structure("sto"), (side, side), 0.1, mode=mode, rotation=20.0
        )
        seconds = time.process_time() - start
        times.append(
            f"{mode.upper()}, {len(scene.columns)} columns on {side} x {side}, 50 Å "
            f"thick, {seconds:.1f} s"
        )
    return "; ".join(times)


def draw(path: Path, cases: list) -> None:
    """Draw simulated and fast images side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from ppmat.stem.scenes.crystal import render_projection

    shown = [c for c in cases if c[0] in ("MoS2 with vacancies", "SrTiO3 [001], 78 Å")]
    figure, axes = plt.subplots(2, 4, figsize=(8.4, 4.6), layout="constrained")
    pairs = [(case, mode) for case in shown for mode in MODES]
    for column, ((name, images, columns, energy), mode) in zip(axes.T, pairs):
        if mode == "bf":
            fast = bright_field_row(name, images[mode], columns, energy)[0].gt_enhance
        else:
            probe = 0.4 if "MoS2" in name else 0.3
            fast = render_projection(columns, mode, probe=probe).gt_enhance
        for axis, image, who in zip(column, (images[mode], fast), ("abTEM", "fast")):
            axis.imshow(image, cmap="gray")
            axis.set_title(f"{name}\n{mode.upper()}, {who}", fontsize=7)
            axis.axis("off")
    figure.savefig(path, dpi=72)


def write_reference(path: Path, cases: list) -> None:
    """Write corners of bright-field images, with the columns that make them."""
    values = {}
    for key, wanted in REFERENCE.items():
        _, images, columns, _ = next(case for case in cases if case[0] == wanted)
        near = np.ones(len(columns), dtype=bool)
        for place in (columns.y, columns.x):
            near &= (place > -REACH) & (place < CORNER * columns.pixel_size + REACH)
        for name in ("y", "x", "counts"):
            values[f"{key}_{name}"] = getattr(columns, name)[near].astype("float32")
        image = images["bf"][:CORNER, :CORNER]
        values[f"{key}_image"] = image.astype("float32")
        values[f"{key}_elements"] = np.array(columns.elements)
        values[f"{key}_lengths"] = np.array([columns.pixel_size, columns.thickness])
    np.savez_compressed(path, **values)


def _text(heights: dict[str, float]) -> str:
    return ", ".join(f"{kind} {height:+.2f}" for kind, height in heights.items())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("simulate", "compare", "reference"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the images")
    parser.add_argument("--scenes", type=Path, help="folder of benchmarks.stem.scenes")
    args = parser.parse_args(argv)
    if args.what == "simulate":
        simulate(args.work)
        return
    from benchmarks.runs import machine
    from benchmarks.runs import write

    cases = read_cases(args.work, args.scenes)
    if args.what == "reference":
        write_reference(REFERENCE_FILE, cases)
        return
    draw(PICTURE, cases)
    result = {"machine": machine(), "CPU time": cost(args.work), **compare(cases)}
    write(result, RESULT)


if __name__ == "__main__":
    main()
