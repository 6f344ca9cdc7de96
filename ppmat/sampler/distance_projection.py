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

"""Move atoms of a predicted structure apart, as little as possible.

A network that predicts each atom's displacement does not know that two atoms cannot be
at one place: where it is unsure of a bond's direction, it predicts the mean of both
ends. The projection finds the nearest positions that keep distances above lower bounds
and, if asked, bonds of the adsorbate below upper bounds. Nearest means the least sum of
mass times squared shift, as where molecular dynamics keeps bond lengths (SHAKE): light
atoms make way.

Each step replaces the bounds by their tangents at the present positions. The least
shift that fulfils linear bounds is a non-negative least-squares problem (Lawson and
Hanson, Solving Least Squares Problems, 1974, chapter 23). The tangent of a lower bound
is stricter than the bound, so each step ends at allowed positions, with a smaller shift
than the step before; pairs that come close on the way join in the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import NamedTuple

import numpy as np
from ase.data import atomic_masses
from ase.data import covalent_radii
from scipy.optimize import nnls

from ppmat.utils.bonds import bonded_pairs
from ppmat.utils.errors import InputError
from ppmat.utils.neighbours import Pairs
from ppmat.utils.neighbours import neighbour_pairs
from ppmat.utils.plausibility import ADSORBATE
from ppmat.utils.plausibility import SHORTEST_BOND
from ppmat.utils.plausibility import shortest_distances
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call

_MAX_STEPS = 20
_CONVERGED = 1e-3  # Å; a step that changes no coordinate by more is the last
_MARGIN = 1e-3  # Å above a lower bound, so that rounding does not violate it
_LARGEST_SHIFT = 3.0  # Å; more is asked only where bounds contradict each other
_WATCHED = 0.3  # Å above a lower bound; closer pairs take part in a step


class Slab(NamedTuple):
    """What the projection knows of a structure beside the predicted positions."""

    numbers: np.ndarray  # [N] atomic numbers
    tags: np.ndarray  # [N]
    fixed: np.ndarray  # [N] bool
    cell: np.ndarray  # [3, 3] Å, rows
    initial: np.ndarray  # [N, 3] Å


class _Tangents(NamedTuple):
    """Linear bounds ``rows @ shift >= least`` on the shifts of the free atoms."""

    rows: np.ndarray  # [C, 3 F]
    least: np.ndarray  # [C] Å


@dataclass(frozen=True)
class DistanceProjection:
    """Keeps the distances of predicted structures physical.

    Args:
        min_factor: Least distance of two atoms, in sums of their covalent radii. In
            DFT-relaxed structures the shortest are 0.77 (N2; C on Rh). Never less than
            0.74 Å, the bond of H2. A pair that is closer in the initial structure may
            stay as close as there.
        max_bond_stretch: Greatest length of the adsorbate's own bonds, in their initial
            lengths, such as 1.3. None lets bonds break, as molecules may dissociate.

    Raises:
        InputError: A number without meaning.
    """

    min_factor: float = 0.75
    max_bond_stretch: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_factor <= 1:
            raise InputError(
                f"min_factor is {self.min_factor!r}", wanted="above 0, at most 1"
            )
        if self.max_bond_stretch is not None and not 1 <= self.max_bond_stretch < 100:
            raise InputError(
                f"max_bond_stretch is {self.max_bond_stretch!r}",
                wanted="at least 1, such as 1.3, or null",
            )

    def __call__(self, slab: Slab, predicted: np.ndarray) -> np.ndarray:
        """Return the nearest allowed positions, [N, 3] Å.

        Fixed atoms stay. If not all bounds can be fulfilled, the result is as near to
        that as the steps came.

        Args:
            slab: The structure.
            predicted: Predicted positions, [N, 3] Å, not wrapped into the cell.
        """
        free = np.flatnonzero(~slab.fixed)
        weights = np.repeat(np.sqrt(atomic_masses[slab.numbers[free]]), 3)  # [3 F]
        bonds = self._bonds(slab)
        positions = predicted.copy()
        for step in range(_MAX_STEPS):
            tangents, violated = self._tangents(slab, bonds, positions)
            if step == 0 and not violated:
                break
            done = (positions - predicted)[free].reshape(-1)
            wanted = tangents.least + tangents.rows @ done
            shift = _least_shift(tangents.rows / weights, wanted) / weights
            if not np.abs(shift).max() < _LARGEST_SHIFT:
                break  # the bounds contradict each other
            change = np.abs(shift - done).max()
            positions[free] = predicted[free] + shift.reshape(-1, 3)
            if change < _CONVERGED:
                break
        return positions

    def _bonds(self, slab: Slab) -> Pairs | None:
        if self.max_bond_stretch is None:
            return None
        rows = np.flatnonzero(slab.tags == ADSORBATE)
        found = bonded_pairs(slab.numbers[rows], slab.initial[rows], slab.cell)
        one = found.centre < found.neighbour  # each bond once
        return Pairs(
            rows[found.centre[one]],
            rows[found.neighbour[one]],
            found.image[one],
            found.distance[one] * self.max_bond_stretch,
        )

    def _tangents(
        self, slab: Slab, bonds: Pairs | None, positions: np.ndarray
    ) -> tuple[_Tangents, bool]:
        """Return the bounds near the positions, and whether one is violated."""
        pairs, least = self._close_pairs(slab, positions)
        violated = bool((pairs.distance < least).any())
        rows = [_gradients(slab, positions, pairs)]
        wanted = [least + _MARGIN - pairs.distance]
        if bonds is not None:
            length = np.linalg.norm(_vectors(slab, positions, bonds), axis=1)
            violated |= bool((length > bonds.distance + _MARGIN).any())
            rows.append(-_gradients(slab, positions, bonds))
            wanted.append(length - bonds.distance)
        free = np.flatnonzero(~slab.fixed)
        columns = (3 * free[:, None] + np.arange(3)).reshape(-1)
        matrix = np.concatenate(rows)[:, columns]
        return _Tangents(matrix, np.concatenate(wanted)), violated

    def _close_pairs(
        self, slab: Slab, positions: np.ndarray
    ) -> tuple[Pairs, np.ndarray]:
        """Return the pairs near their least distance, each once, and that distance."""
        far = 2 * _largest_radius(slab.numbers) * self.min_factor
        pairs = neighbour_pairs(
            positions, slab.cell, max(far, SHORTEST_BOND) + _WATCHED
        )
        least = shortest_distances(slab.numbers, pairs, self.min_factor)
        before = np.linalg.norm(_vectors(slab, slab.initial, pairs), axis=1)
        least = np.minimum(least, np.maximum(before, SHORTEST_BOND))
        taken = pairs.centre < pairs.neighbour
        taken &= ~(slab.fixed[pairs.centre] & slab.fixed[pairs.neighbour])
        taken &= pairs.distance < least + _WATCHED
        return Pairs(*(part[taken] for part in pairs)), least[taken]


def projection_of(value: Any) -> DistanceProjection | None:
    """Return the projection that ``Sample.projection`` describes; None for none.

    Args:
        value: False or None for none, True for the defaults, a mapping of arguments,
            or the projection itself.

    Raises:
        ConfigError: Another value, or arguments that do not fit.
    """
    if value is None or value is False:
        return None
    if value is True or isinstance(value, DistanceProjection):
        return DistanceProjection() if value is True else value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"Sample.projection is {value!r}, wanted true, false or arguments such as "
            "{min_factor: 0.75}"
        )
    check_call(DistanceProjection, value, "Sample.projection")
    try:
        return DistanceProjection(**value)
    except InputError as error:
        raise ConfigError(f"Sample.projection: {error}") from error


def _largest_radius(numbers: np.ndarray) -> float:
    return float(covalent_radii[numbers].max())


def _vectors(slab: Slab, positions: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the vector from centre to neighbour of each pair, [P, 3] Å."""
    return (
        positions[pairs.neighbour] - positions[pairs.centre] + pairs.image @ slab.cell
    )


def _gradients(slab: Slab, positions: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the gradient of each distance by all coordinates, [P, 3 N]."""
    vector = _vectors(slab, positions, pairs)
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    # Atoms at the same place part along the direction they had in the beginning.
    vector = np.where(length > 1e-6, vector, _vectors(slab, slab.initial, pairs))
    unit = vector / np.linalg.norm(vector, axis=1, keepdims=True).clip(min=1e-9)
    gradients = np.zeros((len(vector), len(positions), 3))
    row = np.arange(len(vector))
    gradients[row, pairs.neighbour] += unit
    gradients[row, pairs.centre] -= unit
    return gradients.reshape(len(vector), 3 * len(positions))


def _least_shift(rows: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the shortest vector ``z`` [n] with ``rows @ z >= least``.

    If there is none, the numbers are huge or NaN.

    Args:
        rows: [C, n].
        least: [C].
    """
    matrix = np.concatenate([rows.T, least[None]])
    target = np.zeros(len(matrix))
    target[-1] = 1.0
    factors, _ = nnls(matrix, target, maxiter=50 * len(least))
    residual = matrix @ factors - target
    with np.errstate(divide="ignore", invalid="ignore"):
        return -residual[:-1] / residual[-1]
