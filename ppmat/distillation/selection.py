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

"""Choose the frames that differ most from those that are chosen: farthest points.

An atom is described by its neighbours within 5 Å, element by element: Gaussians of
their distances, summed, and the lengths of the summed unit vectors with the same
weights, which tell directions apart. Numbers are divided by their standard deviation
over all atoms of the element. The novelty of an atom is the distance of its numbers to
those of the nearest chosen atom of its element, over ``sqrt(2 d)``, the distance of two
independent atoms with d numbers. The novelty of a frame is the mean over its atoms, so
that large cells are not preferred; the novelty of the next frame is the gain.

Memory: an atom has 18 numbers for each element, in single precision, and all else
needs little. 100,000 frames of 60 atoms with four elements take 2.1 GB (ten times what
10,000 took); the frames themselves are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from scipy.spatial.distance import cdist

from ppmat.utils.progress import Progress

CUTOFF = 5.0  # Å
CENTRES = np.linspace(1.0, CUTOFF, 9)  # Å
WIDTH = 0.5  # Å
BLOCK = 20_000  # atoms whose distances are computed at once


def describe(atoms: Atoms, elements: Sequence[int]) -> np.ndarray:
    """Return the numbers of each atom, [N, len(elements) * 2 * len(CENTRES)].

    They do not change with the frame, the cell or the order of neighbours.
    """
    first, second, distance, vector = neighbor_list("ijdD", atoms, CUTOFF)
    smooth = 0.5 * (1 + np.cos(np.pi * distance / CUTOFF))
    gauss = np.exp(-0.5 * ((distance[:, None] - CENTRES) / WIDTH) ** 2)
    weight = gauss * smooth[:, None]  # [pairs, G]
    unit = vector / distance[:, None]
    kind = np.searchsorted(elements, atoms.numbers[second])
    slot = first * len(elements) + kind
    slots = len(atoms) * len(elements)
    density = np.zeros((slots, len(CENTRES)))
    np.add.at(density, slot, weight)
    sums = np.zeros((slots, len(CENTRES), 3))
    np.add.at(sums, slot, weight[:, :, None] * unit[:, None, :])
    both = np.concatenate([density, np.linalg.norm(sums, axis=2)], axis=1)
    return both.reshape(len(atoms), -1)


class Selection:
    """Frames by novelty.

    Args:
        candidates: Frames to choose from.
        chosen: Frames that are chosen already.
    """

    def __init__(self, candidates: Sequence[Atoms], chosen: Sequence[Atoms] = ()):
        frames = [*candidates, *chosen]
        elements = np.unique(np.concatenate([frame.numbers for frame in frames]))
        numbers = np.concatenate([frame.numbers for frame in frames])
        ends = np.cumsum([len(frame) for frame in frames])
        self.starts = ends - [len(frame) for frame in frames]
        self.count = len(candidates)
        total = self.starts[self.count] if chosen else ends[-1]
        self.numbers = numbers
        width = len(elements) * 2 * len(CENTRES)
        self.rows = np.empty((len(numbers), width), "float32")
        for i, frame in enumerate(Progress(frames, "descriptors")):
            self.rows[self.starts[i] : ends[i]] = describe(frame, elements)
        for element in elements:  # to standard deviations
            own = np.flatnonzero(numbers == element)
            for column in self.rows.T:  # one at a time, which takes little memory
                spread = column[own].std(dtype=float)
                column[own] /= (spread if spread > 1e-6 else 1.0) * np.sqrt(2 * width)
        self.novelty = np.full(total, np.inf)  # of the candidates' atoms
        self.of_element = {e: np.flatnonzero(numbers[:total] == e) for e in elements}
        self.ends = ends
        for frame in range(self.count, len(frames)):
            self._add(frame)

    def _add(self, frame: int) -> None:
        """Let the atoms of a frame count as chosen."""
        own = np.arange(self.starts[frame], self.ends[frame])
        for element in np.unique(self.numbers[own]):
            atoms = self.of_element[element]
            new = self.rows[own[self.numbers[own] == element]]
            for part in np.array_split(atoms, len(atoms) // BLOCK + 1):
                nearest = cdist(self.rows[part], new).min(axis=1)
                self.novelty[part] = np.minimum(self.novelty[part], nearest)

    def gains(self) -> np.ndarray:
        """Return the novelty of each candidate; infinite if an element is new."""
        starts, ends = self.starts[: self.count], self.ends[: self.count]
        sums = np.add.reduceat(self.novelty, starts)
        return sums / (ends - starts)

    def choose(self, frames: int, min_gain: float) -> tuple[list[int], list[float]]:
        """Return which candidates to take, in order, and the gain of each.

        The first frame is that with the most atoms of new elements, or the first one.

        Args:
            frames: How many at most.
            min_gain: The least novelty.
        """
        taken, gains = [], []
        while len(taken) < min(frames, self.count):
            found = self.gains()
            best = int(np.argmax(found))
            if not found[best] >= max(min_gain, 1e-6):
                break
            taken.append(best)
            gains.append(float(found[best]))
            self._add(best)
        return taken, gains
