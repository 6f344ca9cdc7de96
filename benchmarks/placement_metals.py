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

"""Success rates of placements on metals that the shipped flow was not trained on.

As :mod:`benchmarks.placement`, with the shipped potential (a student of CHGNet, **not
DFT**) in place of EMT, which does not know these metals. Result:
``docs/results/placement_metals.yaml``::

    python -m benchmarks.placement_metals
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ase import Atoms
from ase.build import fcc100
from ase.build import fcc111

from benchmarks.data.emt_placements import System
from benchmarks.placement import SUCCESS
from benchmarks.placement import Way
from benchmarks.placement import of_system
from benchmarks.placement import score
from benchmarks.runs import RESULTS
from benchmarks.runs import result_of
from benchmarks.runs import write
from ppmat.calculator import SFINCalculator
from ppmat.commands.place import SHIPPED_FLOW
from ppmat.datasets.adsorbates import read_adsorbate
from ppmat.datasets.placements import clean_slab
from ppmat.sampler import StructureSampler
from ppmat.utils.progress import Progress

# Name, builder, element, lattice constant of PBE [Å]
SURFACES = (("Rh(111)", fcc111, "Rh", 3.83), ("Ir(100)", fcc100, "Ir", 3.87))
ADSORBATES = ("CO", "OH", "O", "C")


def systems() -> Iterator[System]:
    """Yield each adsorbate on each surface, three layers of 2 x 2 atoms."""
    for adsorbate in ADSORBATES:
        for name, build, metal, length in SURFACES:
            slab = clean_slab(build(metal, (2, 2, 3), a=length, vacuum=8.0))
            yield System(f"{name}|{adsorbate}", slab, read_adsorbate(adsorbate))


def flow(sampler: StructureSampler, starts: Sequence[Atoms]) -> list[Atoms]:
    """Return where the flow moves placements."""
    return list(sampler.from_structures(starts, progress=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--placements", type=int, default=30, help="of each source")
    add("--work", type=Path, default=Path("output/placement_metals"))
    add("--out", type=Path, default=RESULTS / "placement_metals.yaml")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sampler = StructureSampler(model_name=SHIPPED_FLOW)
    ways = {"flow": Way(partial(flow, sampler), upright=True)}
    calculator = SFINCalculator()
    numbered = list(enumerate(systems()))
    found = []
    for number, system in Progress(numbered, desc="placing", unit=" systems"):
        path = args.work / f"{number:03d}.json"

        def draw(attempt: int, system: System = system) -> System:
            return system

        size = args.placements
        found.append(of_system(path, draw, number, ways, size, calculator, size))
    sources = ("random", "heuristic", *ways)
    rows = [
        {
            "name": source,
            "system": each["name"].replace("|", ", "),
            **score([each], source),
        }
        for each in found
        for source in sources
    ]
    rows += [{"name": name, "system": "all", **score(found, name)} for name in sources]
    note = (
        "2 x 2 x 3 atoms, the shipped potential, a student of CHGNet, not DFT. The "
        "shipped flow was trained on EMT, and on neither metal. Best known: "
        f"{args.placements} random and {args.placements} heuristic placements; a "
        f"success is within {SUCCESS} eV of it. The flow starts upright."
    )
    command = "python -m benchmarks.placement_metals"
    write(result_of(command, note=note, rows=rows), args.out)


if __name__ == "__main__":
    main()
