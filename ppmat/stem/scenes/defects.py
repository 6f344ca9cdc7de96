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


"""Defects of a specimen, put into its columns of atoms.

Each function takes a :class:`~ppmat.stem.scenes.projection.Projection` and returns
another one, whose ``records`` tell what was done. Random numbers come from the
generator that is given, nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import Projection

_NODES = 4  # of a displacement field, for each length over which it changes
_TRIES = 50  # places tried for an adatom


def vacancies(
    projection: Projection,
    rng: np.random.Generator,
    share: float,
    element: str | None = None,
    whole: bool = False,
) -> Projection:
    """Take atoms out at random.

    Args:
        projection: The columns.
        rng: Random numbers.
        share: Of the atoms that go, 0 to 1.
        element: Only of these; None: of all.
        whole: Take out whole columns, of the share, instead of single atoms.

    Raises:
        CrystalError: A share that is none, an element that is not there, nothing left.
    """
    which = _chosen(projection, share, element)
    counts = projection.counts.copy()
    if whole:
        hit = rng.random(len(projection)) < share
        lost = np.where(hit[:, None], counts[:, which], 0.0)
    else:
        lost = _some(rng, counts[:, which], share)
    counts[:, which] -= lost
    there = counts.sum(axis=1) > 1e-9
    if not (there & projection.in_view).any():
        raise CrystalError(
            f"vacancies with a share of {share} leave no atoms in view; take fewer"
        )
    columns = int(np.count_nonzero(lost.sum(axis=1)))
    return projection.take(there, counts=counts[there]).done(
        defect="vacancies",
        share=share,
        element=element,
        whole=whole,
        atoms=float(lost.sum()),
        columns_changed=columns,
        columns_gone=int(np.count_nonzero(~there)),
    )


def substitution(
    projection: Projection,
    rng: np.random.Generator,
    share: float,
    element: str,
    by: str,
) -> Projection:
    """Replace atoms of one element by another one.

    Args:
        projection: The columns.
        rng: Random numbers.
        share: Of the atoms of ``element``, 0 to 1.
        element: What is replaced.
        by: Symbol of the other element.

    Raises:
        CrystalError: A share that is none, an element that is not there or not known.
    """
    which = _chosen(projection, share, element)
    projection = _with_element(projection, by)
    counts = projection.counts.copy()
    moved = _some(rng, counts[:, which], share)
    counts[:, which] -= moved
    counts[:, projection.elements.index(by)] += moved.sum(axis=1)
    return dataclasses.replace(projection, counts=counts).done(
        defect="substitution",
        share=share,
        element=element,
        by=by,
        atoms=float(moved.sum()),
        columns_changed=int(np.count_nonzero(moved.sum(axis=1))),
    )


def adatoms(
    projection: Projection,
    rng: np.random.Generator,
    density: float,
    element: str,
    distance: float = 1.5,
    tolerance: float = 0.3,
) -> Projection:
    """Put single atoms on the specimen, anywhere.

    One that falls on a column, within the tolerance, becomes part of it.

    Args:
        projection: The columns.
        rng: Random numbers.
        density: Atoms for each nm².
        element: Symbol.
        distance: Least distance between two of them, Å.
        tolerance: Å.

    Raises:
        CrystalError: A density that is none or finds no room, an unknown element.
    """
    if not 0 <= density < math.inf:
        raise CrystalError(f"density is {density}, wanted atoms for each nm²")
    projection = _with_element(projection, element)
    low = np.full(2, -projection.margin)
    high = np.array(projection.shape) * projection.pixel_size + projection.margin
    number = int(rng.poisson(density * np.prod(high - low) / 100))
    places: list[np.ndarray] = []
    for _ in range(_TRIES * number):
        if len(places) == number:
            break
        place = rng.uniform(low, high)
        if all(np.hypot(*(place - other)) >= distance for other in places):
            places.append(place)
    else:
        if number:
            raise CrystalError(
                f"{number} adatoms find no room at least {distance} Å apart; lower the "
                "density or the distance"
            )
    kind = projection.elements.index(element)
    counts = projection.counts.copy()
    fresh = []
    tree = cKDTree(projection.positions)
    for place in places:
        apart, nearest = tree.query(place)
        if apart <= tolerance:
            counts[nearest, kind] += 1
        else:
            fresh.append(place)
    added = np.zeros((len(fresh), len(projection.elements)))
    added[:, kind] = 1
    more = np.reshape(fresh, (-1, 2))
    return dataclasses.replace(
        projection,
        y=np.concatenate([projection.y, more[:, 0]]),
        x=np.concatenate([projection.x, more[:, 1]]),
        counts=np.concatenate([counts, added]),
        full=np.concatenate([projection.full, np.ones(len(fresh))]),
        spread=np.concatenate([projection.spread, np.zeros(len(fresh))]),
    ).done(
        defect="adatoms",
        density=density,
        element=element,
        atoms=number,
        on_columns=number - len(fresh),
    )


def strain(projection: Projection, tensor: Sequence[Sequence[float]]) -> Projection:
    """Stretch, shear or turn the specimen about the middle of the image.

    Args:
        projection: The columns.
        tensor: Gradient of the displacement ``(y, x)`` [2, 2].

    Raises:
        CrystalError: It would move columns further than they are known.
    """
    tensor = np.asarray(tensor, dtype=float)
    if tensor.shape != (2, 2) or not np.isfinite(tensor).all():
        raise CrystalError(f"strain {tensor.tolist()}: wanted two rows of two numbers")
    middle = (np.array(projection.shape) - 1) / 2 * projection.pixel_size
    return _moved(projection, (projection.positions - middle) @ tensor.T).done(
        defect="strain", tensor=tensor.tolist()
    )


def local_strain(
    projection: Projection,
    rng: np.random.Generator,
    size: float,
    length: float = 15.0,
) -> Projection:
    """Displace columns smoothly, by a random field.

    Args:
        projection: The columns.
        rng: Random numbers.
        size: Root mean square displacement along one direction, Å.
        length: Over which it changes, Å.

    Raises:
        CrystalError: It would move columns further than they are known, or numbers
            that cannot be meant.
    """
    if not (0 <= size < math.inf and 0 < length < math.inf):
        raise CrystalError(
            f"size {size} Å, length {length} Å: wanted at least 0 and above 0"
        )
    margin, step = projection.margin, length / _NODES
    extent = np.array(projection.shape) * projection.pixel_size + 2 * margin
    nodes = np.ceil(extent / step).astype(int) + 8 * _NODES
    points = (projection.positions + margin).T
    moves = []
    for _ in range(2):
        field = gaussian_filter(rng.standard_normal(nodes), _NODES, mode="wrap")
        # The variance that averaging with this kernel leaves of white noise.
        field *= size * 2 * math.sqrt(math.pi) * _NODES
        moves.append(map_coordinates(field, points / step + 4 * _NODES, order=3))
    moves = np.stack(moves, axis=1)
    return _moved(projection, moves).done(
        defect="local strain",
        size=size,
        length=length,
        largest=float(np.linalg.norm(moves, axis=1).max(initial=0.0)),
    )


def grain_boundary(
    first: Projection,
    second: Projection,
    angle: float,
    through: tuple[float, float] | None = None,
    distance: float = 1.2,
) -> Projection:
    """Join two specimens along a straight line.

    Columns of the second that are closer than a distance to one of the first are left
    out.

    Args:
        first: On one side.
        second: On the other side, of the same field of view: the same crystal turned
            (another ``rotation`` of ``project``), or another crystal.
        angle: Of the line, degrees, from x to y.
        through: A point on it, part of height and width; None: the middle.
        distance: Å.

    Raises:
        CrystalError: Fields of view that differ, or no atoms in view.
    """
    if (first.shape, first.pixel_size) != (second.shape, second.pixel_size):
        raise CrystalError(
            f"two fields of view: {first.shape} at {first.pixel_size} Å and "
            f"{second.shape} at {second.pixel_size} Å; project both alike"
        )
    for symbol in second.elements:
        first = _with_element(first, symbol)
    for symbol in first.elements:
        second = _with_element(second, symbol)
    order = [second.elements.index(symbol) for symbol in first.elements]
    height, width = first.shape
    part = (0.5, 0.5) if through is None else through
    point = np.array([part[0] * (height - 1), part[1] * (width - 1)]) * first.pixel_size
    turn = math.radians(angle)
    normal = np.array([math.cos(turn), -math.sin(turn)])  # (y, x)

    def beyond(projection: Projection) -> np.ndarray:
        return (projection.positions - point) @ normal

    here, there = first.take(beyond(first) < 0), second.take(beyond(second) >= 0)
    if len(here) and len(there):
        apart, _ = cKDTree(here.positions).query(there.positions)
        close = apart < distance
    else:
        close = np.zeros(len(there), dtype=bool)
    there = there.take(~close)
    joined = dataclasses.replace(
        here,
        y=np.concatenate([here.y, there.y]),
        x=np.concatenate([here.x, there.x]),
        counts=np.concatenate([here.counts, there.counts[:, order]]),
        full=np.concatenate([here.full, there.full]),
        spread=np.concatenate([here.spread, there.spread]),
        margin=min(first.margin, second.margin),
        records=(*first.records, *second.records),
    )
    if not joined.in_view.any():
        raise CrystalError("no atoms in view on either side of the boundary")
    return joined.done(
        defect="grain boundary",
        angle=angle,
        through=[float(value) for value in part],
        columns_left_out=int(np.count_nonzero(close)),
    )


def _chosen(projection: Projection, share: float, element: str | None) -> list[int]:
    """Return the columns of ``counts`` that are meant."""
    if not 0 <= share <= 1:
        raise CrystalError(f"share is {share}, wanted 0 to 1")
    if element is None:
        return list(range(len(projection.elements)))
    if element not in projection.elements:
        raise CrystalError(
            f"there is no {element} in the specimen, which has "
            f"{', '.join(projection.elements)}"
        )
    return [projection.elements.index(element)]


def _some(rng: np.random.Generator, counts: np.ndarray, share: float) -> np.ndarray:
    """Return how many of the atoms are hit; of parts of atoms, their mean."""
    whole = np.floor(counts + 1e-9)
    return rng.binomial(whole.astype(np.int64), share) + share * (counts - whole)


def _with_element(projection: Projection, symbol: str) -> Projection:
    """Return the projection with an element among its elements."""
    if symbol in projection.elements:
        return projection
    from ase.data import atomic_numbers

    number = atomic_numbers.get(symbol, 0)
    if number < 1:
        raise CrystalError(f"'{symbol}' is no element; wanted a symbol such as Pt")
    return dataclasses.replace(
        projection,
        elements=(*projection.elements, symbol),
        numbers=np.append(projection.numbers, number),
        counts=np.pad(projection.counts, ((0, 0), (0, 1))),
    )


def _moved(projection: Projection, moves: np.ndarray) -> Projection:
    """Return the columns moved by ``(y, x)``, Å [n, 2]; their margin shrinks by it.

    Raises:
        CrystalError: Columns from outside the known area would come into view.
    """
    furthest = float(np.linalg.norm(moves, axis=1).max(initial=0.0))
    if furthest > projection.margin:
        raise CrystalError(
            f"columns would move by up to {furthest:.2f} Å, but they are known only "
            f"{projection.margin:g} Å beyond the image; project with margin="
            f"{math.ceil(2 * furthest) + 5} or strain less"
        )
    return dataclasses.replace(
        projection,
        y=projection.y + moves[:, 0],
        x=projection.x + moves[:, 1],
        margin=projection.margin - furthest,
    )
