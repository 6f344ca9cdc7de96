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

"""Start structures of the shipped potential: metals, alloys, and small adsorbates.

Eight fcc metals with the lattice constants of PBE: bulk, the (111) and (100) surfaces
(cells of 2 x 2, three layers), these with another metal mixed in, with one adsorbate of
H, C, N, O and small molecules of them, and with one to four of the same atom. ::

    python -m benchmarks.data.metal_slabs OUT.extxyz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import bulk
from ase.build import fcc100
from ase.build import fcc111
from ase.build import molecule
from ase.io import write

LATTICE = {  # Å
    "Cu": 3.63,
    "Ag": 4.15,
    "Au": 4.16,
    "Ni": 3.52,
    "Pd": 3.94,
    "Pt": 3.97,
    "Rh": 3.83,
    "Ir": 3.88,
}
ATOMS = ["H", "C", "N", "O"]
MOLECULES = {"CO": 1, "OH": 0, "NO": 0, "NH": 0, "CH": 0, "H2O": 0}  # atom that binds
SITES = {"111": ["fcc", "hcp", "bridge", "ontop"], "100": ["hollow", "bridge", "ontop"]}
HEIGHTS = {"H": 1.0, "C": 1.1, "N": 1.1, "O": 1.2}
HIGHER = 0.6  # Å; what binds with a molecule sits higher
VACUUM = 6.0  # Å, on each side


def slab(metal: str, facet: str) -> Atoms:
    """Return a clean surface."""
    build = {"111": fcc111, "100": fcc100}[facet]
    return build(metal, (2, 2, 3), a=LATTICE[metal], vacuum=VACUUM, periodic=True)


def structures(rng: np.random.Generator) -> list[Atoms]:
    """Return all structures."""
    found = []
    for metal, length in LATTICE.items():
        found.append(bulk(metal, a=length, cubic=True).repeat((2, 1, 1)))
        for facet, sites in SITES.items():
            clean = slab(metal, facet)
            found.append(clean)
            mixed = clean.copy()
            other = rng.choice([name for name in LATTICE if name != metal])
            mixed.symbols[rng.permutation(12)[: rng.integers(2, 7)]] = other
            add_adsorbate(mixed, rng.choice(ATOMS), 1.2, str(rng.choice(sites)))
            found.append(mixed)
            for name in ATOMS:
                found.append(_covered(clean, name, sites, int(rng.integers(1, 5)), rng))
            name = str(rng.choice(list(MOLECULES)))
            found.append(_with_molecule(clean, name, str(rng.choice(sites)), rng))
        for name in ATOMS:
            found.append(_covered(slab(metal, "111"), name, SITES["111"], 1, rng))
    return found


def _covered(
    clean: Atoms, name: str, sites: list[str], count: int, rng: np.random.Generator
) -> Atoms:
    """Return a slab with the same atom at one to four equivalent sites."""
    atoms, site = clean.copy(), str(rng.choice(sites))
    for number in rng.permutation(4)[:count]:
        offset = (int(number) % 2, int(number) // 2)
        add_adsorbate(atoms, name, HEIGHTS[name], site, offset=offset)
    return atoms


def _with_molecule(
    clean: Atoms, name: str, site: str, rng: np.random.Generator
) -> Atoms:
    atoms, adsorbate = clean.copy(), molecule(name)
    first = MOLECULES[name]
    # The other atoms point away from the surface
    rest = np.delete(adsorbate.positions, first, axis=0).mean(axis=0) + 1e-6
    adsorbate.rotate(rest - adsorbate.positions[first], "z")
    adsorbate.rotate(rng.uniform(0, 360), "z")
    height = HEIGHTS[adsorbate.symbols[first]] + HIGHER
    add_adsorbate(atoms, adsorbate, height, site, mol_index=first)
    return atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = [
        Atoms(a.numbers, a.positions, cell=a.cell, pbc=True)
        for a in structures(np.random.default_rng(args.seed))
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, found, format="extxyz")
    print(f"{args.out}: {len(found)} structures, {sum(map(len, found))} atoms")


if __name__ == "__main__":
    main()
