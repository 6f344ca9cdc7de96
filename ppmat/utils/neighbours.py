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

import math
from typing import NamedTuple

import numpy as np
from pymatgen.optimization.neighbors import find_points_in_spheres

from ppmat.utils.errors import InputError
from ppmat.utils.periodic import reduce_cell

_SEARCH_CELL = 3.0  # Å, edge of the boxes of the search; 1 Å takes ten times as long
_ALL_PERIODIC = np.array([1, 1, 1], dtype=np.int64)
# Limits of the work. A slab of OC20 needs 1e3 boxes and 1e4 images, and has 1e4 pairs.
_MAX_BOXES = 2e5  # 224 bytes each
_MAX_IMAGES = 2e7  # points in all images of the cell within reach
_MAX_PAIRS = 1e7  # 100 bytes each
_FAR = 8  # cells from the origin; farther points are wrapped before the search
_FARTHEST = 1e12  # cells from the origin; of farther points float64 loses the place


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


def neighbour_pairs(
    points: np.ndarray,
    cell: np.ndarray,
    cutoff: float,
    centres: np.ndarray | None = None,
) -> Pairs:
    """Return all pairs of points closer than a cut-off, periodic images included.

    A point forms pairs with its own images, but not with itself.

    Args:
        points: Cartesian positions, [N, 3], Å.
        cell: Lattice vectors as rows, [3, 3], Å; periodic in all directions.
        cutoff: Largest distance, Å.
        centres: The first M of ``points``, [M, 3]; None takes all points.

    Raises:
        InputError: Cut-off, cell and number of points would need too much time or
            memory: the points are crowded, or the cell is very small or thin.

    Example:
        >>> pairs = neighbour_pairs(np.zeros((1, 3)), 2.0 * np.eye(3), 2.1)
        >>> len(pairs.distance), float(pairs.distance.max())
        (6, 2.0)
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    centres = points if centres is None else centres
    centres = np.ascontiguousarray(centres, dtype=np.float64)
    cell = np.ascontiguousarray(cell, dtype=np.float64)
    inverse = np.linalg.inv(cell)
    with np.errstate(invalid="ignore"):
        share = points @ inverse
        low, high = share.min(axis=0, initial=0.0), share.max(axis=0, initial=0.0)
    if not (low.min() >= -_FAR and high.max() <= _FAR):  # NaN compares as False
        return _search_wrapped(points, len(centres), cell, cutoff, np.floor(share))
    reach = _reach(centres, cutoff)
    if _images_in_reach(inverse, reach, high - low) * len(points) > _MAX_IMAGES:
        return _search_reduced(points, len(centres), cell, cutoff)
    _check_number_of_pairs(points, cell, cutoff)
    centre, neighbour, image, distance = find_points_in_spheres(
        points,
        centres,
        r=float(cutoff),
        pbc=_ALL_PERIODIC,
        lattice=cell,
        min_r=reach,
    )
    image = image.astype(np.int64)
    other = (centre != neighbour) | image.any(axis=1)
    return Pairs(centre[other], neighbour[other], image[other], distance[other])


def _search_wrapped(
    points: np.ndarray,
    num_centres: int,
    cell: np.ndarray,
    cutoff: float,
    cells: np.ndarray,
) -> Pairs:
    """Search with all points moved by whole ``cells`` [N, 3] into the cell."""
    if not np.abs(cells).max() <= _FARTHEST:
        raise InputError(
            "positions hold NaN, or atoms are too far away for a neighbour search"
        )
    inside = points - cells @ cell
    found = neighbour_pairs(inside, cell, cutoff, inside[:num_centres])
    moved = cells.astype(np.int64)
    image = found.image - moved[found.neighbour] + moved[found.centre]
    return found._replace(image=image)


def _search_reduced(
    points: np.ndarray, num_centres: int, cell: np.ndarray, cutoff: float
) -> Pairs:
    """Search in the reduced basis of the lattice, in which few images are in reach."""
    basis = reduce_cell(cell)
    inverse = np.linalg.inv(basis)
    inside = points - np.floor(points @ inverse) @ basis
    centres = inside[:num_centres]
    images = _images_in_reach(inverse, _reach(centres, cutoff), np.ones(3))
    if images * len(points) > _MAX_IMAGES:
        raise InputError(
            f"the neighbour search would visit {images * len(points):.1g} images of "
            f"{len(points)} atoms: the cell is too thin or has too many atoms for a "
            f"cut-off of {cutoff:g} Å; its shortest vector has "
            f"{np.linalg.norm(basis[0]):.2g} Å"
        )
    found = neighbour_pairs(inside, basis, cutoff, centres)
    to_cell = np.rint(basis @ np.linalg.inv(cell)).astype(np.int64)
    moved = np.rint((points - inside) @ np.linalg.inv(cell)).astype(np.int64)
    image = found.image @ to_cell - moved[found.neighbour] + moved[found.centre]
    return found._replace(image=image)


def _reach(centres: np.ndarray, cutoff: float) -> float:
    """Return the radius of the search [Å], not so small that boxes fill the memory."""
    extent = np.ptp(centres, axis=0).tolist() if len(centres) else [0.0]
    reach = max(float(cutoff), _SEARCH_CELL)
    while math.prod(length / reach + 3 for length in extent) > _MAX_BOXES:
        reach *= 2
    return reach


def _images_in_reach(inverse: np.ndarray, reach: float, spread: np.ndarray) -> float:
    """Return how many images of the cell the search visits.

    Args:
        inverse: Inverse of the cell, [3, 3], 1/Å.
        reach: Radius of the search, Å.
        spread: Largest differences of fractional coordinates, [3].
    """
    planes = np.sqrt((inverse**2).sum(axis=0)).tolist()  # 1 / distance, 1/Å
    return math.prod(
        2 * math.ceil(reach * plane) + 1 + width
        for plane, width in zip(planes, spread.tolist(), strict=True)
    )


def _check_number_of_pairs(points: np.ndarray, cell: np.ndarray, cutoff: float) -> None:
    """Refuse crowded points before the memory of their pairs is needed."""
    sphere = 4.2 * cutoff**3 / abs(np.linalg.det(cell))
    number = len(points) ** 2 * sphere
    if len(points) > 2000:
        # Points in one box of this edge are closer than the reach.
        edge = max(cutoff, _SEARCH_CELL) / math.sqrt(3)
        boxes = np.floor(points / edge)
        counts = np.unique(boxes, axis=0, return_counts=True)[1]
        number = max(number, float((counts**2).sum()))
    if number > _MAX_PAIRS:
        raise InputError(
            f"the neighbour search would find {number:.1g} pairs: {len(points)} atoms "
            f"are too crowded for a cut-off of {cutoff:g} Å"
        )
