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

"""Energies of the elements that explain the energies of cells best."""

from __future__ import annotations

import numpy as np


def element_energies(
    counts: np.ndarray, energies: np.ndarray, ridge: float = 1e-6
) -> np.ndarray:
    """Return the energy of an atom of each element by least squares, [Z] eV.

    What compositions cannot tell apart is shared evenly. Elements that no cell has get
    0.

    Args:
        counts: Atoms by element, [n, Z].
        energies: Energies of the cells, [n] eV.
        ridge: Penalty on the square of an energy above the mean of an atom.

    Example:
        >>> counts = np.array([[2, 0, 1], [4, 0, 1]])
        >>> element_energies(counts, np.array([-11.0, -17.0])).round(3).tolist()
        [-3.0, 0.0, -5.0]
    """
    met = np.flatnonzero(counts.any(axis=0))
    x = counts[:, met]
    mean = energies.sum() / x.sum()  # of one atom
    matrix = x.T @ x + ridge * np.eye(len(met))
    above = np.linalg.solve(matrix, x.T @ (energies - mean * x.sum(axis=1)))
    found = np.zeros(counts.shape[1])
    found[met] = mean + above
    return found
