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
"""Pairs of points closer than a cut-off, in a periodic cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pymatgen.optimization.neighbors import find_points_in_spheres


class Pairs(NamedTuple):
    """Ordered pairs of points closer than a cut-off, ``P`` of them.

    Attributes:
        centre: int64 [P], row of the centre.
        neighbour: int64 [P], row of the neighbour.
        image: int64 [P, 3]. The vector from centre to neighbour is
            ``points[neighbour] + image @ cell - points[centre]``.
        distance: float64 [P], Å.
    """

    centre: np.ndarray
    neighbour: np.ndarray
    image: np.ndarray
    distance: np.ndarray


def neighbour_pairs(points: np.ndarray, cell: np.ndarray, cutoff: float) -> Pairs:
    """Return all pairs of points closer than a cut-off, periodic images included.

    A point forms pairs with its own images, but not with itself.

    Args:
        points: Cartesian positions, [N, 3], Å.
        cell: Lattice vectors as rows, [3, 3], Å; periodic in all directions.
        cutoff: Largest distance, Å.
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    centre, neighbour, image, distance = find_points_in_spheres(
        points,
        points,
        r=float(cutoff),
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(cell, dtype=np.float64),
    )
    image = image.astype(np.int64)
    other = (centre != neighbour) | image.any(axis=1)
    return Pairs(centre[other], neighbour[other], image[other], distance[other])
