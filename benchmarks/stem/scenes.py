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

"""Simulate the clean scenes of the STEM benchmark with abTEM: frozen phonons.

Two scenes are for testing: ``sto``, 20 unit cells of SrTiO3 along [001], and ``mos2``,
a monolayer with vacancies. Two are for choosing the filters' parameters: ``bto`` and
``nbs2``. Each becomes ``<name>.npz`` with

* ``haadf`` and ``bf``: fractions of the beam [H, W];
* ``pixel_size``: Å;
* ``row``, ``col``, ``kind``, ``atoms``: of each atomic column in view. Positions are
  means over the displaced atoms, as in the simulated image.

abTEM is GPL and needs numpy 2, so it has an environment of its own::

    pip install abtem pyfftw
    python -m benchmarks.stem.scenes --out SCENES
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.stem.multislice import BF
from benchmarks.stem.multislice import HAADF
from benchmarks.stem.multislice import periodic_values
from benchmarks.stem.multislice import scan_images
from ppmat.stem.scenes.atom_columns import on_image
from ppmat.stem.scenes.projection import index_grid
from ppmat.stem.scenes.projection import rotation_matrix


@dataclass(frozen=True)
class Recipe:
    """Parameters of one scene.

    Args:
        energy: Of the electrons, eV.
        cell: Lengths of the rectangular unit cell along x, y and z, Å.
        sites: Element and fractional position of each atom.
        phonons: Root mean square displacement along an axis of each element, Å.
        repeat: Unit cells in the simulated block.
        gpts: Grid of the wave function along x and y.
        slice_thickness: Å.
        shape: ``(H, W)``, pixels.
        pixel_size: Å.
        semiangle: Convergence semiangle of the probe, mrad.
        configurations: Of frozen phonons.
        scan_block: Scan the whole block instead of one unit cell.
        vacancy_element: Element of the columns with vacancies.
        vacancies: Number of columns that lose one atom, and both atoms.
        rotation: Of the view, degrees.
        seed: Of vacancies and displacements.
    """

    energy: float
    cell: tuple
    sites: tuple
    phonons: dict
    repeat: tuple
    gpts: tuple
    slice_thickness: float
    shape: tuple
    pixel_size: float
    semiangle: float = 22.0
    configurations: int = 8
    scan_block: bool = False
    vacancy_element: str = ""
    vacancies: tuple = (0, 0)
    rotation: float = 0.0
    seed: int = 0


def perovskite(a: str, b: str) -> tuple:
    """Return the sites of ABO3, shifted away from the edges of the cell."""
    return (
        (a, (0.25, 0.25, 0.0)),
        (b, (0.75, 0.75, 0.5)),
        ("O", (0.75, 0.75, 0.0)),
        ("O", (0.25, 0.75, 0.5)),
        ("O", (0.75, 0.25, 0.5)),
    )


def trigonal_layer(metal: str, other: str, thickness: float, height: float) -> tuple:
    """Return the sites of a monolayer MX2 in a rectangular cell of two formula units.

    Args:
        metal: Symbol.
        other: Symbol of X.
        thickness: Distance of the two X planes, Å.
        height: Of the cell, Å.
    """
    z = 0.5 * thickness / height
    sites = []
    for x, y in ((0.25, 1 / 12), (0.75, 7 / 12)):
        sites.append((metal, (x, y, 0.5)))
        for sign in (-1, 1):
            sites.append((other, (x + 0.5, y + 1 / 6, 0.5 + sign * z)))
    return tuple(sites)


RECIPES = {
    "sto": Recipe(
        energy=200e3,
        cell=(3.905, 3.905, 3.905),
        sites=perovskite("Sr", "Ti"),
        phonons={"Sr": 0.089, "Ti": 0.075, "O": 0.095},
        repeat=(3, 3, 20),
        gpts=(256, 256),
        slice_thickness=1.9525,
        shape=(512, 512),
        pixel_size=3.905 / 33,
        seed=1,
    ),
    "mos2": Recipe(
        energy=80e3,
        cell=(3.184, 3.184 * 3**0.5, 9.12),
        sites=trigonal_layer("Mo", "S", 3.12, 9.12),
        phonons={"Mo": 0.065, "S": 0.080},
        repeat=(8, 5, 1),
        gpts=(384, 400),
        slice_thickness=1.0,
        shape=(276, 255),
        pixel_size=0.1,
        configurations=4,
        scan_block=True,
        vacancy_element="S",
        vacancies=(4, 1),
        seed=2,
    ),
    "bto": Recipe(
        energy=200e3,
        cell=(4.01, 4.01, 4.01),
        sites=perovskite("Ba", "Ti"),
        phonons={"Ba": 0.083, "Ti": 0.080, "O": 0.095},
        repeat=(3, 3, 15),
        gpts=(256, 256),
        slice_thickness=2.005,
        shape=(512, 512),
        pixel_size=0.118,
        rotation=12.0,
        seed=3,
    ),
    "nbs2": Recipe(
        energy=80e3,
        cell=(3.33, 3.33 * 3**0.5, 9.14),
        sites=trigonal_layer("Nb", "S", 3.14, 9.14),
        phonons={"Nb": 0.070, "S": 0.080},
        repeat=(5, 3, 1),
        gpts=(256, 270),
        slice_thickness=1.0,
        shape=(276, 255),
        pixel_size=0.1,
        rotation=17.0,
        seed=4,
    ),
}


@dataclass
class Block:
    """Atoms at rest and the column each belongs to.

    Args:
        symbols: Elements [N].
        positions: Å [N, 3].
        column: Index of each atom's column [N].
        kinds: Elements of each column, such as ``Ti+O``; ``""`` without atoms.
        size: Lengths of the block, Å [3].
    """

    symbols: np.ndarray
    positions: np.ndarray
    column: np.ndarray
    kinds: list
    size: np.ndarray


def build(recipe: Recipe, rng: np.random.Generator) -> Block:
    """Return the block of a recipe, with vacancies."""
    cell = np.array(recipe.cell)
    corners = index_grid(*map(np.arange, recipe.repeat))[:, None]
    places = np.array([place for _, place in recipe.sites])
    positions = ((corners + places % 1.0) * cell).reshape(-1, 3)
    symbols = np.tile([element for element, _ in recipe.sites], len(corners))
    size = cell * recipe.repeat
    keys = np.rint(positions[:, :2] / 0.01).astype(int)
    first, column = np.unique(keys, axis=0, return_inverse=True)
    column = column.ravel()
    lone, double = recipe.vacancies
    present = np.ones(len(symbols), dtype=bool)
    if lone + double:
        middle = first * 0.01
        inner = np.all((middle > 4.0) & (middle < size[:2] - 4.0), axis=1)
        elements = (set(symbols[column == i]) for i in range(len(first)))
        of_kind = np.array([e == {recipe.vacancy_element} for e in elements])
        chosen: list = []
        for i in rng.permutation(np.nonzero(inner & of_kind)[0]):
            apart = [np.linalg.norm(middle[i] - middle[j]) > 5.0 for j in chosen]
            if all(apart) and len(chosen) < lone + double:
                chosen.append(i)
        for number, i in enumerate(chosen):
            atoms = np.nonzero(column == i)[0]
            present[atoms[: 1 if number < lone else 2]] = False
    symbols, positions, column = symbols[present], positions[present], column[present]
    kinds = []
    for i in range(len(first)):
        found = dict.fromkeys(symbols[column == i])
        kinds.append("+".join(sorted(found, key="O".__eq__)))
    return Block(symbols, positions, column, kinds, size)


def simulate(
    recipe: Recipe, block: Block, rng: np.random.Generator
) -> tuple[dict, np.ndarray, np.ndarray]:
    """Simulate a block.

    Returns:
        ``haadf`` and ``bf``, fractions of the beam [x, y]; lengths of the scanned
        area, Å [2]; mean displacement of each atom, Å [N, 3].
    """
    import abtem
    from ase import Atoms

    sigma = np.array([recipe.phonons[symbol] for symbol in block.symbols])
    moves = rng.normal(size=(recipe.configurations, len(sigma), 3)) * sigma[:, None]
    ensemble = [
        Atoms(block.symbols, block.positions + move, cell=block.size, pbc=True)
        for move in moves
    ]
    for atoms in ensemble:
        atoms.wrap(pbc=True)
    potential = abtem.Potential(
        abtem.AtomsEnsemble(ensemble),
        gpts=recipe.gpts,
        slice_thickness=recipe.slice_thickness,
    )
    probe = abtem.Probe(energy=recipe.energy, semiangle_cutoff=recipe.semiangle)
    lengths = np.array(block.size if recipe.scan_block else recipe.cell)[:2]
    return scan_images(probe, potential, lengths), lengths, moves.mean(axis=0)


def view(
    recipe: Recipe, block: Block, lengths: np.ndarray, displaced: np.ndarray
) -> tuple[np.ndarray, dict]:
    """Return the positions (x, y) of the pixels, Å [H, W, 2], and columns in view."""
    turn = rotation_matrix(recipe.rotation).T
    height, width = recipe.shape
    rows, columns = np.mgrid[:height, :width]
    place = np.stack([columns, rows], axis=-1) * recipe.pixel_size @ turn.T
    # Only the atoms of the scanned area are in the images.
    mean = block.positions + displaced
    seen = np.all(block.positions[:, :2] < lengths - 1e-6, axis=1)
    table: dict = {key: [] for key in ("row", "col", "kind", "atoms")}
    reach = int(np.ceil(np.hypot(height, width) * recipe.pixel_size / min(lengths)))
    shifts = np.arange(-reach, reach + 1)
    shifts = index_grid(shifts, shifts)[:, ::-1] * lengths
    for i, kind in enumerate(block.kinds):
        atoms = np.nonzero((block.column == i) & seen)[0]
        if not len(atoms):
            continue
        found = (mean[atoms, :2].mean(axis=0) + shifts) @ turn / recipe.pixel_size
        for col, row in found[on_image(found, (width, height))]:
            for key, value in zip(table, (row, col, kind, len(atoms))):
                table[key].append(value)
    return place, {k: np.array(v) for k, v in table.items()}


def make(name: str, recipe: Recipe, threads: int) -> dict:
    """Return the arrays of a scene's file."""
    import abtem
    import dask

    abtem.config.set({"fft": "fftw", "fftw.threads": 1})
    abtem.config.set({"diagnostics.progress_bar": False})
    start = time.perf_counter()
    structure, thermal = np.random.default_rng(recipe.seed).spawn(2)
    block = build(recipe, structure)
    with dask.config.set(scheduler="threads", num_workers=threads):
        images, lengths, displaced = simulate(recipe, block, thermal)
    place, table = view(recipe, block, lengths, displaced)
    arrays = {
        key: periodic_values(image, lengths, place).astype(np.float32)
        for key, image in images.items()
    }
    settings = {
        **dataclasses.asdict(recipe),
        "scan": list(images["haadf"].shape),
        "haadf_mrad": HAADF,
        "bf_mrad": BF,
        "abtem": abtem.__version__,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(name, settings["seconds"], "s, scan", settings["scan"], flush=True)
    return {
        **arrays,
        "pixel_size": np.array(recipe.pixel_size),
        **table,
        "settings": np.array(json.dumps(settings)),
    }


def main(argv: list | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the scenes")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        np.savez(args.out / f"{name}.npz", **make(name, RECIPES[name], args.threads))


if __name__ == "__main__":
    main()
