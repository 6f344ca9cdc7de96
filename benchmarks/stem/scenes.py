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


"""Simulate with abTEM the clean scenes of ``stem.py``: multislice, frozen phonons.

Two test scenes (``sto``: 20 unit cells of SrTiO3 along [001]; ``mos2``: a monolayer
with vacancies) and two others for choosing the filters' parameters (``bto``, ``nbs2``).
Each becomes ``<name>.npz``: ``haadf`` and ``bf`` as fractions of the beam [H, W], the
pixel size [Å], and a row, column, kind and number of atoms for each atomic column in
view. Positions are means over the displaced atoms, so that they are where the
simulated columns are.

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

HAADF = (70.0, 180.0)  # mrad
BF = (0.0, 11.0)


@dataclass(frozen=True)
class Recipe:
    """One scene. Lengths in Å, energies in eV, angles in mrad unless said.

    Args:
        cell: Lengths of the rectangular unit cell, x, y and z.
        sites: Element and fractional position of each atom.
        phonons: Root mean square displacement along an axis of each element.
        repeat: Unit cells in the simulated block.
        gpts: Grid of the wave function, x and y.
        scan_block: Scan the whole block instead of one unit cell.
        vacancies: Columns of ``vacancy_element`` that lose one atom, and both.
        rotation: Of the view, degrees.
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
    layer: bool = False
    vacancy_element: str = ""
    vacancies: tuple = (0, 0)
    rotation: float = 0.0
    seed: int = 0


def perovskite(a: str, b: str) -> tuple:
    """Return the sites of ABO3, none on the edge of the cell."""
    return (
        (a, (0.25, 0.25, 0.0)),
        (b, (0.75, 0.75, 0.5)),
        ("O", (0.75, 0.75, 0.0)),
        ("O", (0.25, 0.75, 0.5)),
        ("O", (0.75, 0.25, 0.5)),
    )


def trigonal_layer(metal: str, other: str, thickness: float, height: float) -> tuple:
    """Return the sites of a monolayer MX2 in its rectangular cell of two formulas."""
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
        layer=True,
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
        layer=True,
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
        column: Index into the columns, [N].
        kinds: Name of each column, such as ``Ti+O``; ``""`` of one without atoms.
        size: Lengths of the block, Å [3].
    """

    symbols: np.ndarray
    positions: np.ndarray
    column: np.ndarray
    kinds: list
    size: np.ndarray


def build(recipe: Recipe, rng: np.random.Generator) -> Block:
    """Return the block of a recipe, vacancies taken out."""
    cell = np.array(recipe.cell)
    corners = np.stack(
        np.meshgrid(*map(np.arange, recipe.repeat), indexing="ij"), axis=-1
    ).reshape(-1, 1, 3)
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
        of_kind = np.array(
            [
                set(symbols[column == i]) == {recipe.vacancy_element}
                for i in range(len(first))
            ]
        )
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
    """Return the scanned images, the scanned lengths and the mean displacements.

    Returns:
        ``haadf`` and ``bf``, fractions of the beam [x, y] as abTEM has them; lengths
        of the scanned area, Å [2]; mean displacement of each atom, Å [N, 3].
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
    step = float(probe.aperture.nyquist_sampling)
    scan = abtem.GridScan(
        start=(0.0, 0.0),
        end=tuple(lengths),
        gpts=tuple(np.ceil(lengths / step).astype(int)),
        endpoint=False,
    )
    detectors = [abtem.AnnularDetector(*HAADF), abtem.AnnularDetector(*BF)]
    haadf, bf = probe.scan(potential, detectors=detectors, scan=scan).compute()
    images = {"haadf": np.asarray(haadf.array), "bf": np.asarray(bf.array)}
    return images, lengths, moves.mean(axis=0)


def sample(
    image: np.ndarray, lengths: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Return a periodic image at any positions, by its Fourier series.

    Args:
        image: One period [x, y], sampled at least at the Nyquist rate.
        lengths: Of the period, Å [2].
        x: Positions, Å.
        y: Likewise, of the same shape.
    """
    series = np.fft.fft2(image) / image.size
    waves = [
        np.exp(2j * np.pi * np.outer(where.ravel() / length, np.fft.fftfreq(n, 1 / n)))
        for where, length, n in zip((x, y), lengths, image.shape)
    ]
    values = np.einsum("pi,pi->p", waves[0] @ series, waves[1])
    return values.real.reshape(x.shape)


def view(
    recipe: Recipe, block: Block, lengths: np.ndarray, displaced: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], dict]:
    """Return where the pixels are, Å, and the columns in view."""
    angle = np.deg2rad(recipe.rotation)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    height, width = recipe.shape
    rows, columns = np.mgrid[:height, :width]
    place = np.stack([columns, rows], axis=-1) * recipe.pixel_size @ turn.T
    # Only the atoms of the scanned area were seen by the beam.
    mean = block.positions + displaced
    seen = np.all(block.positions[:, :2] < lengths - 1e-6, axis=1)
    table: dict = {key: [] for key in ("row", "col", "kind", "atoms")}
    reach = int(np.ceil(np.hypot(height, width) * recipe.pixel_size / min(lengths)))
    shifts = np.arange(-reach, reach + 1)
    shifts = np.stack(np.meshgrid(shifts, shifts), axis=-1).reshape(-1, 2) * lengths
    for i, kind in enumerate(block.kinds):
        atoms = np.nonzero((block.column == i) & seen)[0]
        if not len(atoms):
            continue
        found = (mean[atoms, :2].mean(axis=0) + shifts) @ turn / recipe.pixel_size
        inside = np.all((found > -0.5) & (found < (width - 0.5, height - 0.5)), axis=1)
        for col, row in found[inside]:
            for key, value in zip(table, (row, col, kind, len(atoms))):
                table[key].append(value)
    return (place[..., 0], place[..., 1]), {k: np.array(v) for k, v in table.items()}


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
    (x, y), table = view(recipe, block, lengths, displaced)
    arrays = {
        key: sample(image, lengths, x, y).astype(np.float32)
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
