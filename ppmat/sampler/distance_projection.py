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
from typing import Annotated
from typing import Any
from typing import NamedTuple

import numpy as np
from ase.data import atomic_masses
from ase.data import covalent_radii
from scipy.optimize import nnls

from ppmat.utils.bonds import bonded_pairs
from ppmat.utils.neighbours import Pairs
from ppmat.utils.neighbours import neighbour_pairs
from ppmat.utils.plausibility import ADSORBATE
from ppmat.utils.plausibility import SHORTEST_BOND
from ppmat.utils.plausibility import shortest_distances
from ppmat.utils.ranges import Range
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
    """Linear bounds ``rows @ move >= least`` on how far the free atoms move."""

    rows: np.ndarray  # [C, 3 F]
    least: np.ndarray  # [C] Å
    violated: bool  # whether a bound is violated where the atoms are

    def from_shift(self, shift: np.ndarray) -> _Tangents:
        """Return bounds on the shift from the prediction, ``shift`` [3 F] so far."""
        return self._replace(least=self.least + self.rows @ shift)


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
    """

    min_factor: Annotated[float, Range(above=0, most=1)] = 0.75
    max_bond_stretch: Annotated[float, Range(1, below=100)] | None = None

    def __call__(self, slab: Slab, predicted: np.ndarray) -> np.ndarray:
        """Return the nearest allowed positions, [N, 3] Å.

        Fixed atoms stay. If not all bounds can be fulfilled, the result is as near to
        that as the steps came.

        Args:
            slab: The structure.
            predicted: Predicted positions, [N, 3] Å, not wrapped into the cell.
        """
        # The initial structure fulfils all bounds. From there no step finds bounds that
        # contradict each other; bonds far too long and atoms in between often do.
        if self.max_bond_stretch is not None:
            bonds = self._bonds(slab)
            predicted = self._nearest(slab, predicted, slab.initial, bonds)
        positions = self._nearest(slab, predicted, predicted, None)
        if (positions != predicted).any():
            if self._distance_bounds(slab, positions).violated:
                return self._nearest(slab, predicted, slab.initial, None)
        return positions

    def _nearest(
        self,
        slab: Slab,
        predicted: np.ndarray,
        start: np.ndarray,
        bonds: Pairs | None,
    ) -> np.ndarray:
        """Return the allowed positions nearest to the predicted, [N, 3] Å."""
        bounds = self._distance_bounds(slab, predicted)
        stretched = bonds is not None and _bond_bounds(slab, bonds, predicted).violated
        if not bounds.violated and not stretched:
            return predicted.copy()
        free = np.flatnonzero(~slab.fixed)
        weights = np.repeat(np.sqrt(atomic_masses[slab.numbers[free]]), 3)  # [3 F]
        positions = predicted.copy()
        positions[free] = start[free]
        largest = _LARGEST_SHIFT + np.abs(positions - predicted).max()
        kept: list[_Tangents] = []
        for _ in range(_MAX_STEPS):
            done = (positions - predicted)[free].reshape(-1)
            if bonds is not None:
                # A tangent of an upper bound holds everywhere, so all of them stay.
                kept.append(_bond_bounds(slab, bonds, positions).from_shift(done))
            now = [self._distance_bounds(slab, positions).from_shift(done), *kept]
            rows = np.concatenate([bound.rows for bound in now])
            least = np.concatenate([bound.least for bound in now])
            shift = _least_shift(rows / weights, least) / weights
            if not np.abs(shift).max(initial=0.0) < largest:
                break  # the bounds contradict each other
            positions[free] = predicted[free] + shift.reshape(-1, 3)
            if np.abs(shift - done).max(initial=0.0) < _CONVERGED:
                break
        return positions

    def _bonds(self, slab: Slab) -> Pairs:
        """Return the bonds of the adsorbate, with their greatest lengths."""
        rows = np.flatnonzero(slab.tags == ADSORBATE)
        found = bonded_pairs(slab.numbers[rows], slab.initial[rows], slab.cell)
        one = found.centre < found.neighbour  # each bond once
        return Pairs(
            rows[found.centre[one]],
            rows[found.neighbour[one]],
            found.image[one],
            found.distance[one] * self.max_bond_stretch,
        )

    def _distance_bounds(self, slab: Slab, positions: np.ndarray) -> _Tangents:
        """Return the lower bounds of all close pairs at the positions."""
        pairs, least = self._close_pairs(slab, positions)
        return _Tangents(
            _gradients(slab, positions, pairs),
            least + _MARGIN - pairs.distance,
            bool((pairs.distance < least).any()),
        )

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
    return DistanceProjection(**value)


def _largest_radius(numbers: np.ndarray) -> float:
    return float(covalent_radii[numbers].max())


def _vectors(slab: Slab, positions: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the vector from centre to neighbour of each pair, [P, 3] Å."""
    return (
        positions[pairs.neighbour] - positions[pairs.centre] + pairs.image @ slab.cell
    )


def _bond_bounds(slab: Slab, bonds: Pairs, positions: np.ndarray) -> _Tangents:
    """Return the upper bounds of the bonds at the positions."""
    length = np.linalg.norm(_vectors(slab, positions, bonds), axis=1)
    return _Tangents(
        -_gradients(slab, positions, bonds),
        length - bonds.distance,
        bool((length > bonds.distance + _MARGIN).any()),
    )


def _gradients(slab: Slab, positions: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the gradient of each distance by the free coordinates, [P, 3 F]."""
    vector = _vectors(slab, positions, pairs)
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    # Atoms at the same place part along the direction they had in the beginning.
    vector = np.where(length > 1e-6, vector, _vectors(slab, slab.initial, pairs))
    unit = vector / np.linalg.norm(vector, axis=1, keepdims=True).clip(min=1e-9)
    gradients = np.zeros((len(vector), len(positions), 3))
    row = np.arange(len(vector))
    gradients[row, pairs.neighbour] += unit
    gradients[row, pairs.centre] -= unit
    free = np.flatnonzero(~slab.fixed)
    return gradients[:, free].reshape(len(vector), 3 * len(free))


def _least_shift(rows: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return the shortest vector ``z`` [n] with ``rows @ z >= least``.

    If there is none, the numbers are huge or NaN.

    Args:
        rows: [C, n].
        least: [C].
    """
    if len(least) == 0:
        return np.zeros(rows.shape[1])  # nnls aborts the process for no column
    matrix = np.concatenate([rows.T, least[None]])
    target = np.zeros(len(matrix))
    target[-1] = 1.0
    factors, _ = nnls(matrix, target, maxiter=50 * len(least))
    residual = matrix @ factors - target
    with np.errstate(divide="ignore", invalid="ignore"):
        return -residual[:-1] / residual[-1]
