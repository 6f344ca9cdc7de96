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

"""Make folders of train, val and test frames of published DFT data.

None of the data are shipped here. ``PATH`` is a folder that holds what there is of:

- ``mlearn_{Cu,Mo,Si}.npz``: the published training and test frames of Zuo et al.,
  J. Phys. Chem. A 2020, 124, 731 (materialsvirtuallab/mlearn), PBE. Arrays
  ``{train,test}_{natoms,cell,pos,energy,forces}`` and ``element``, atoms one after the
  other.
- ``acac_train_300K.xyz``, ``acac_test_MD_300K.xyz``: acetylacetone (arXiv 2205.06643,
  davkovacs/BOTNet-datasets).
- ``lode_dimers_CC_PA_AA.npz``: dimers of molecules at 13 distances, HSE06, in boxes of
  30 Å (LiangJiuyang/SOG-Net); the last three distances are the test. Arrays
  ``{CC,PA,AA}_{Z,pos,forces,energy}``.

Usage::

    python -m benchmarks.data.real_potentials PATH OUT

``OUT`` has a folder for each set. One training frame in ten, evenly spread, is moved to
validation, and no test frame is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.io import write

VAL_SHARE = 10  # one in so many training frames is for validation
VAL_FIRST = 4  # the first of them; of ten distances one in the middle
METALS = ("Cu", "Mo", "Si")
ACAC = ("acac_train_300K.xyz", "acac_test_MD_300K.xyz")
DIMERS, DIMER_FILE = ("CC", "PA", "AA"), "lode_dimers_CC_PA_AA.npz"
DIMER_BOX = 30.0  # Å
DIMER_TEST = 3  # the farthest distances

Frames = list[Atoms]


def labelled(atoms: Atoms, energy: float, forces: np.ndarray) -> Atoms:
    """Return the atoms with an energy [eV] and forces [N, 3] eV/Å."""
    atoms.calc = SinglePointCalculator(atoms, energy=float(energy), forces=forces)
    return atoms


def mlearn_frames(file: Path, split: str) -> Frames:
    """Return the frames of one published split."""
    with np.load(file) as data:
        element = str(data["element"])
        names = ("natoms", "cell", "energy", "pos", "forces")
        counts, cells, energies, pos, forces = (data[f"{split}_{n}"] for n in names)
    cuts = np.cumsum(counts)[:-1]
    return [
        labelled(Atoms(f"{element}{len(x)}", x, cell=cell, pbc=True), energy, f)
        for x, cell, energy, f in zip(
            np.split(pos, cuts), cells, energies, np.split(forces, cuts)
        )
    ]


def dimer_frames(file: Path, name: str) -> Frames:
    """Return the frames of one dimer, from near to far."""
    with np.load(file) as data:
        keys = ("Z", "pos", "energy", "forces")
        numbers, *frames = (data[f"{name}_{key}"] for key in keys)
    return [
        labelled(Atoms(numbers, pos, cell=[DIMER_BOX] * 3, pbc=True), energy, forces)
        for pos, energy, forces in zip(*frames)
    ]


def sets_in(path: Path) -> Iterator[tuple[str, Frames, Frames]]:
    """Yield name, training frames and test frames of each set that is there."""
    for metal in METALS:
        if (file := path / f"mlearn_{metal}.npz").exists():
            frames = (mlearn_frames(file, split) for split in ("train", "test"))
            yield f"mlearn_{metal}", *frames
    if all((path / name).exists() for name in ACAC):
        yield "acac", *(read(path / name, ":") for name in ACAC)
    if (file := path / DIMER_FILE).exists():
        for name in DIMERS:
            frames = dimer_frames(file, name)
            yield f"lode_{name}", frames[:-DIMER_TEST], frames[-DIMER_TEST:]


def write_sets(path: Path, out: Path) -> None:
    """Write all sets of the files in ``path`` to ``out``.

    Raises:
        SystemExit: There are none.
    """
    written = 0
    for name, train, test in sets_in(path):
        val = train[VAL_FIRST::VAL_SHARE]
        del train[VAL_FIRST::VAL_SHARE]
        (out / name).mkdir(parents=True, exist_ok=True)
        for split, frames in (("train", train), ("val", val), ("test", test)):
            write(out / name / f"{split}.extxyz.gz", frames)
        written += 1
        print(f"{out / name}: {len(train)} train, {len(val)} val, {len(test)} test")
    if not written:
        raise SystemExit(f"{path}: no file that is known; see the head of this module")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder of the files")
    parser.add_argument("out", type=Path, help="folder of the sets")
    args = parser.parse_args()
    write_sets(args.path, args.out)


if __name__ == "__main__":
    main()
