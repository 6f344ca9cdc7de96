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

"""Is a relaxed structure possible? Checks of an adsorbate on a slab.

Desorption, dissociation, reconstruction and intercalation are judged as AdsorbML does
(Lan et al., npj Comput. Mater. 9, 172 (2023)), by the rules of ``DetectTrajAnomaly`` in
``fairchem.data.oc`` and with its numbers. There two atoms are connected below
``multiplier x sum of covalent radii + 0.6 Å``. The multiplier is 1, or 1.5 where a
small change shall not count. The 0.6 Å are the skin of ASE's neighbour list, 0.3 Å for
each atom. Other than there, each of several adsorbates is judged by itself, and an atom
that has a free way to the vacuum is not intercalated: on a stepped surface atoms of the
lower terraces have tag 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from ppmat.utils.bonds import bonded_pairs
from ppmat.utils.bonds import molecules
from ppmat.utils.bonds import radius_sums
from ppmat.utils.neighbours import Pairs
from ppmat.utils.neighbours import neighbour_pairs
from ppmat.utils.periodic import vacuum

# Two atoms overlap below this multiple of the sum of their covalent radii. The closest
# atoms are at 0.67 in the 11,410 bulks of OC20, at 0.77 in its adsorbates and in 631
# relaxed adsorbates on fcc(111), and at 0.68 in the shipped EMT set.
OVERLAP_FACTOR = 0.65
SHORTEST_BOND = 0.74  # Å, of H2; no two atoms in a relaxed structure are closer
CONNECTION_MARGIN = 0.6  # Å, see above
CUSHION = 1.5  # multiplier for desorption and reconstruction
ADSORBATE, SUBSURFACE = 2, 0  # tags
# A free way to the vacuum is straight, up to 45 degrees tilted, and passes no atom of
# the slab nearer than this multiple of the sum of the covalent radii. Beside a step of
# fcc(211) a carbon atom has 0.92; at an octahedral site below fcc(111) it has 0.74.
_FREE_WAY = 0.85
_TILTS, _AZIMUTHS = np.radians([0, 15, 30, 45]), np.radians(np.arange(0, 360, 30))


class StructureChecks(NamedTuple):
    """What was found in one structure. See ``CHECKS`` for the meanings."""

    closest_distance: float
    overlap: bool
    desorbed: bool
    dissociated: bool
    surface_reconstructed: bool
    intercalated: bool


CHECKS = {
    "closest_distance": "distance [Å] of the two closest atoms",
    "overlap": "two atoms are closer than 0.65 x sum of covalent radii, or than 0.74 Å",
    "desorbed": "no atom of an adsorbate is near an atom of the slab",
    "dissociated": "bonds within the adsorbate were broken or made",
    "surface_reconstructed": "slab atoms gained or lost neighbours",
    "intercalated": "a covered adsorbate atom is bonded to an atom with tag 0",
}


def check_structure(
    numbers: np.ndarray,
    tags: np.ndarray,
    cell: np.ndarray,
    initial: np.ndarray,
    relaxed: np.ndarray,
) -> StructureChecks:
    """Compare a relaxed structure with the initial one.

    Args:
        numbers: Atomic numbers, [N].
        tags: 0 sub-surface, 1 surface, 2 adsorbate, [N].
        cell: Lattice vectors as rows, [3, 3], Å; periodic in all directions.
        initial: Initial positions, [N, 3], Å.
        relaxed: Relaxed positions, [N, 3], Å.
    """
    numbers, tags = np.asarray(numbers), np.asarray(tags)
    reach = 2 * covalent_radii[numbers].max() * CUSHION + CONNECTION_MARGIN
    before, after = (neighbour_pairs(x, cell, reach) for x in (initial, relaxed))
    near, wide = (_connected(numbers, after, factor) for factor in (1.0, CUSHION))
    near_before = _connected(numbers, before, 1.0)
    wide_before = _connected(numbers, before, CUSHION)
    adsorbate = tags == ADSORBATE
    slab = np.ix_(~adsorbate, ~adsorbate)
    own = np.ix_(adsorbate, adsorbate)
    overlap = after.distance < shortest_distances(numbers, after)
    touches = wide[np.ix_(adsorbate, ~adsorbate)].any(axis=1)
    bonds = bonded_pairs(numbers[adsorbate], np.asarray(initial)[adsorbate], cell)
    molecule = molecules(bonds, int(adsorbate.sum()))
    within = adsorbate & near[:, tags == SUBSURFACE].any(axis=1)
    if within.any():
        within &= ~_open_to_vacuum(numbers, tags, cell, np.asarray(relaxed), after)
    reconstructed = (near & ~wide_before | near_before & ~wide)[slab]
    return StructureChecks(
        closest_distance=float(after.distance.min(initial=math.inf)),
        overlap=bool(overlap.any()),
        desorbed=bool(len(np.unique(molecule[touches])) < len(np.unique(molecule))),
        dissociated=bool((near[own] != near_before[own]).any()),
        surface_reconstructed=bool(reconstructed.any()),
        intercalated=bool(within.any()),
    )


def shortest_distances(
    numbers: np.ndarray, pairs: Pairs, factor: float = OVERLAP_FACTOR
) -> np.ndarray:
    """Return the distance [Å] below which each pair overlaps, [P]."""
    return np.maximum(radius_sums(numbers, pairs) * factor, SHORTEST_BOND)


def _open_to_vacuum(
    numbers: np.ndarray,
    tags: np.ndarray,
    cell: np.ndarray,
    positions: np.ndarray,
    pairs: Pairs,
) -> np.ndarray:
    """Return whether each atom has a free way to the vacuum, [N]; see ``_FREE_WAY``."""
    axis, _, heights = vacuum(positions, cell)
    up = np.linalg.inv(cell)[:, axis]
    if heights[tags == SUBSURFACE].mean() > heights[tags != SUBSURFACE].mean():
        up = -up
    frame = np.linalg.svd(up[None])[2]  # rows: the normal, either sign, and the plane
    tilt, azimuth = (x.ravel() for x in np.meshgrid(_TILTS, _AZIMUTHS))
    ways = np.sin(tilt) * np.stack([np.cos(azimuth), np.sin(azimuth)])  # [2, W]
    ways = frame[1:].T @ ways + np.outer(up / np.linalg.norm(up), np.cos(tilt))
    slab = tags[pairs.neighbour] != ADSORBATE
    centre, other = pairs.centre[slab], pairs.neighbour[slab]
    away = positions[other] + pairs.image[slab] @ cell - positions[centre]  # [P, 3]
    along = away @ ways  # [P, W]
    beside = np.sqrt(np.maximum((away**2).sum(axis=1)[:, None] - along**2, 0.0))
    limit = _FREE_WAY * radius_sums(numbers, pairs)[slab]
    blocked = np.zeros((len(numbers), ways.shape[1]), dtype=bool)
    np.logical_or.at(blocked, centre, (along > 0) & (beside < limit[:, None]))
    return ~blocked.all(axis=1)


def _connected(numbers: np.ndarray, pairs: Pairs, factor: float) -> np.ndarray:
    """Return whether atoms, or periodic images of them, are connected, [N, N]."""
    near = pairs.distance < radius_sums(numbers, pairs) * factor + CONNECTION_MARGIN
    matrix = np.zeros((len(numbers), len(numbers)), dtype=bool)
    matrix[pairs.centre[near], pairs.neighbour[near]] = True
    return matrix
