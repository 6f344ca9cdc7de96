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

"""Write the example slabs of the repository: six surfaces with an adsorbate each.

The elements are those of the shipped EMT sample, so a model trained on it can relax
these slabs. Tags are those of OC20 (0 sub-surface, 1 surface, 2 adsorbate); atoms with
tag 0 are fixed. Nothing is relaxed.

Usage::

    python -m benchmarks.data.example_slabs [OUT.traj]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import fcc100
from ase.build import fcc110
from ase.build import fcc111
from ase.build import molecule
from ase.constraints import FixAtoms
from ase.io import write

from ppmat.utils.files import replacing

OUT = Path("structure_generation/example_data/slabs.traj")
VACUUM = 10.0  # Å on each side of the clean slab
_CO = Atoms("CO", [[0, 0, 0], [0, 0, 1.15]])
_OH = Atoms("OH", [[0, 0, 0], [0.75, 0, 0.61]])
# Surface, metal, size in unit cells and layers, adsorbate, height [Å], site.
_SLABS = (
    (fcc111, "Cu", (3, 3, 4), "O", 1.2, "fcc"),
    (fcc111, "Pt", (3, 3, 4), _CO, 1.9, "ontop"),
    (fcc100, "Pd", (3, 3, 4), "N", 1.0, "hollow"),
    (fcc111, "Ni", (3, 3, 4), molecule("CH3"), 1.9, "ontop"),
    (fcc110, "Ag", (2, 3, 5), _OH, 1.4, "shortbridge"),
    (fcc100, "Au", (3, 3, 4), "H", 1.0, "bridge"),
)


def example_slabs() -> list[Atoms]:
    """Return the slabs, tagged and with fixed sub-surface atoms.

    Example:
        >>> slab = example_slabs()[0]
        >>> slab.info["sid"], len(slab), slab.get_tags().max().item()
        ('Cu111_O', 37, 2)
    """
    slabs = []
    for surface, metal, size, adsorbate, height, site in _SLABS:
        slab = surface(metal, size, vacuum=VACUUM, periodic=True)
        top = slab.get_tags() == 1  # ASE counts the layers from the top
        add_adsorbate(slab, adsorbate, height, site)
        tags = np.full(len(slab), 2)
        tags[: len(top)] = top
        slab.set_tags(tags)
        slab.set_constraint(FixAtoms(mask=tags == 0))
        formula = slab[tags == 2].get_chemical_formula()
        slab.info = {"sid": f"{metal}{surface.__name__[3:]}_{formula}"}
        slabs.append(slab)
    return slabs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: write the slabs to a file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data.example_slabs",
        description="Write slabs with adsorbates, tagged as in OC20.",
    )
    parser.add_argument("out", nargs="?", type=Path, default=OUT)
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as temporary:
        write(temporary, example_slabs())
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
