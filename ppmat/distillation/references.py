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

"""Energies of the elements of two sets of frames, brought to the same reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from ppmat.utils.element_energies import element_energies


def energies_of_elements(frames: Sequence[Atoms]) -> np.ndarray:
    """Return the energy of an atom of each element, [119] eV, by least squares."""
    size = len(chemical_symbols)
    counts = np.array([np.bincount(f.numbers, minlength=size) for f in frames], float)
    energies = np.array([frame.get_potential_energy() for frame in frames])
    return element_energies(counts, energies)


def aligned(
    frames: Sequence[Atoms], old: Sequence[Atoms], new: Sequence[Atoms]
) -> list[Atoms]:
    """Return frames whose energies have the reference of the new set.

    Args:
        frames: Frames of the old set.
        old: The old set.
        new: The new set; elements that it lacks keep their energies.
    """
    before, after = energies_of_elements(old), energies_of_elements(new)
    shift = np.where(after != 0.0, after - before, 0.0)
    result = []
    for frame in frames:
        labels = dict(frame.calc.results)
        labels["energy"] = labels["energy"] + shift[frame.numbers].sum()
        moved = frame.copy()
        moved.calc = SinglePointCalculator(moved, **labels)
        result.append(moved)
    return result
