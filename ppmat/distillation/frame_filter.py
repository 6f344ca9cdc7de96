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

"""Leave out frames that no potential should learn from, and frames twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from ppmat.distillation.settings import Filter
from ppmat.utils.periodic import geometry_key

CLOSE = "atoms too close"
FORCE = "force too large"
TWICE = "twice"


def closest(atoms: Atoms) -> float:
    """Return the smallest distance of two atoms over the sum of their covalent radii.

    Distances above the sum of the radii are not looked for; then it is infinite.
    """
    radii = covalent_radii[atoms.numbers]
    first, second, distance = neighbor_list("ijd", atoms, list(radii))
    return (distance / (radii[first] + radii[second])).min(initial=np.inf)


def filtered(
    frames: Iterable[Atoms], settings: Filter
) -> tuple[list[Atoms], Counter[str]]:
    """Return the frames that stay, and how many were left out, by reason.

    Args:
        frames: Frames, with forces if they have been computed.
        settings: What is left out.
    """
    kept, left_out, seen = [], Counter(), set()
    for atoms in frames:
        forces = None if atoms.calc is None else atoms.calc.results.get("forces")
        key = geometry_key(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        if closest(atoms) < settings.closest:
            left_out[CLOSE] += 1
        elif forces is not None and not _below(forces, settings.largest_force):
            left_out[FORCE] += 1
        elif key in seen:
            left_out[TWICE] += 1
        else:
            seen.add(key)
            kept.append(atoms)
    return kept, left_out


def _below(forces: np.ndarray, largest: float) -> bool:
    """Return whether all forces are finite and not larger; NaN is not."""
    return bool(np.linalg.norm(forces, axis=1).max(initial=0.0) <= largest)
