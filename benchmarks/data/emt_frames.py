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

"""Make frames with energies, forces and stress from ASE's EMT potential.

Every frame is from molecular dynamics (Langevin, 300 to 900 K) of a small cell: bulk of
Cu, Pt and an ordered alloy, and a slab with an oxygen atom. The validation frames are
from other runs than the training frames, and the test frames from hotter ones. EMT is
a quick stand-in for DFT, not a reference::

    python -m benchmarks.data.emt_frames OUT

writes ``train``, ``val`` and ``test.extxyz.gz``.
"""

from __future__ import annotations

import argparse
import gzip
import io
from pathlib import Path

import numpy as np
from ase import Atoms
from ase import units
from ase.build import add_adsorbate
from ase.build import bulk
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

SPLITS = {"train": (16, (300, 600)), "val": (4, (450,)), "test": (4, (900,))}
TIME_STEP = 4.0  # fs
APART = 20  # steps between frames
SETTLE = 40  # steps before the first frame


def cells() -> list[Atoms]:
    """Return the cells that the runs start from."""
    alloy = bulk("Cu", a=3.75, cubic=True)
    alloy.symbols[[0, 1]] = "Pt"  # L1_0
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    add_adsorbate(slab, "O", 1.2, "fcc")
    return [
        bulk("Cu", cubic=True).repeat((2, 2, 1)),
        bulk("Pt", cubic=True).repeat((2, 2, 1)),
        alloy.repeat((2, 2, 1)),
        slab,
    ]


def run(atoms: Atoms, kelvin: float, count: int, rng: np.random.Generator) -> list:
    """Return frames of a run, strained by up to 2 %, with their labels."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell * (1 + rng.uniform(-0.02, 0.02)), scale_atoms=True)
    atoms.rattle(0.02, rng=rng)
    atoms.calc = EMT()
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    dynamics = Langevin(
        atoms,
        TIME_STEP * units.fs,
        temperature_K=kelvin,
        friction=0.02 / units.fs,
        rng=rng,
    )
    frames = []
    for number in range(count):
        dynamics.run(APART if number else SETTLE)
        frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        names = ("energy", "forces", "stress")
        found = {name: atoms.calc.get_property(name, atoms) for name in names}
        frame.calc = SinglePointCalculator(frame, **found)
        frames.append(frame)
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    for split, (count, temperatures) in SPLITS.items():
        frames = []
        for kelvin in temperatures:
            for atoms in cells():
                frames += run(atoms, kelvin, count // len(temperatures), rng)
        text = io.StringIO()
        write(text, frames, format="extxyz")
        path = args.out / f"{split}.extxyz.gz"
        path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
        print(f"{path}: {len(frames)} frames")


if __name__ == "__main__":
    main()
