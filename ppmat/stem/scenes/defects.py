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

"""Defects of a specimen, added to its atomic columns.

Each function takes a :class:`~ppmat.stem.scenes.projection.Projection` and returns a
new one with one more entry in ``records``. All random numbers come from ``rng``.

Illegal values, and elements that the specimen does not have, are a ``CrystalError``. So
are defects that leave no atoms in view or move columns by more than the margin.
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

_NODES_PER_LENGTH = 4  # grid points of a displacement field per correlation length
_TRIES_PER_ADATOM = 50  # random places tried for each adatom


def vacancies(
    projection: Projection,
    rng: np.random.Generator,
    share: float,
    element: str | None = None,
    whole: bool = False,
) -> Projection:
    """Remove a share of the atoms of one element, or of all, at random.

    Args:
        share: 0 to 1.
        element: None for all elements.
        whole: Remove whole columns instead of single atoms.
    """
    which = _element_indices(projection, share, element)
    counts = projection.counts.copy()
    if whole:
        hit = rng.random(len(projection)) < share
        lost = np.where(hit[:, None], counts[:, which], 0.0)
    else:
        lost = _draw_atoms(rng, counts[:, which], share)
    counts[:, which] -= lost
    kept = counts.sum(axis=1) > 1e-9
    if not (kept & projection.in_view).any():
        raise CrystalError(
            f"vacancies with a share of {share} leave no atoms in view",
            hint="Choose a smaller share.",
        )
    return projection.select(kept, counts=counts[kept]).with_record(
        defect="vacancies",
        share=share,
        element=element,
        whole=whole,
        **_changes(lost),
        columns_gone=int(np.count_nonzero(~kept)),
    )


def substitution(
    projection: Projection,
    rng: np.random.Generator,
    share: float,
    element: str,
    by: str,
) -> Projection:
    """Replace a share (0 to 1) of the atoms of one element by another one."""
    which = _element_indices(projection, share, element)
    projection = _with_element(projection, by)
    counts = projection.counts.copy()
    replaced = _draw_atoms(rng, counts[:, which], share)
    counts[:, which] -= replaced
    counts[:, projection.elements.index(by)] += replaced.sum(axis=1)
    record = {"share": share, "element": element, "by": by, **_changes(replaced)}
    return dataclasses.replace(projection, counts=counts).with_record(
        defect="substitution", **record
    )


def adatoms(
    projection: Projection,
    rng: np.random.Generator,
    density: float,
    element: str,
    distance: float = 1.5,
    tolerance: float = 0.3,
) -> Projection:
    """Put single atoms at random places on the specimen.

    Args:
        density: Expected adatoms per nm².
        element: Symbol.
        distance: Smallest distance between two adatoms, Å.
        tolerance: An adatom within this distance of a column becomes part of it, Å.
    """
    if not 0 <= density < math.inf:
        raise CrystalError(f"density is {density}", wanted="atoms per nm², at least 0")
    projection = _with_element(projection, element)
    low = np.full(2, -projection.margin)
    high = np.array(projection.shape) * projection.pixel_size + projection.margin
    number = int(rng.poisson(density * np.prod(high - low) / 100))
    places: list[np.ndarray] = []
    for _ in range(_TRIES_PER_ADATOM * number):
        if len(places) == number:
            break
        place = rng.uniform(low, high)
        if all(np.hypot(*(place - other)) >= distance for other in places):
            places.append(place)
    else:
        if number:
            raise CrystalError(
                f"there is no room for {number} adatoms at least {distance} Å apart",
                hint="Choose a lower density or a shorter distance.",
            )
    place = np.reshape(places, (-1, 2))
    apart, nearest = cKDTree(projection.positions).query(place)
    alone = apart > tolerance
    counts = projection.counts.copy()
    kind = np.eye(counts.shape[1])[projection.elements.index(element)]
    np.add.at(counts, nearest[~alone], kind)
    y, x = place[alone].T
    one = np.ones(len(y))
    projection = dataclasses.replace(projection, counts=counts).append(
        y=y, x=x, counts=one[:, None] * kind, full=one, spread=0 * one
    )
    record = {"atoms": number, "on_columns": number - len(y)}
    return projection.with_record(
        defect="adatoms", density=density, element=element, **record
    )


def strain(projection: Projection, tensor: Sequence[Sequence[float]]) -> Projection:
    """Stretch, shear or rotate the specimen about the middle of the image.

    Args:
        tensor: Gradient of the displacement ``(y, x)`` [2, 2].
    """
    tensor = np.asarray(tensor, dtype=float)
    if tensor.shape != (2, 2) or not np.isfinite(tensor).all():
        raise CrystalError(f"strain {tensor.tolist()}: wanted two rows of two numbers")
    middle = (np.array(projection.shape) - 1) / 2 * projection.pixel_size
    moves = (projection.positions - middle) @ tensor.T
    return _displace(projection, moves, defect="strain", tensor=tensor.tolist())


def local_strain(
    projection: Projection, rng: np.random.Generator, size: float, length: float = 15.0
) -> Projection:
    """Displace the columns by a smooth random field.

    Args:
        size: Root mean square displacement along one direction, Å.
        length: Correlation length of the field, Å.
    """
    if not (0 <= size < math.inf and 0 < length < math.inf):
        raise CrystalError(
            f"size {size} Å, length {length} Å: wanted at least 0 and above 0"
        )
    margin, step = projection.margin, length / _NODES_PER_LENGTH
    extent = np.array(projection.shape) * projection.pixel_size + 2 * margin
    nodes = np.ceil(extent / step).astype(int) + 8 * _NODES_PER_LENGTH
    points = (projection.positions + margin).T / step + 4 * _NODES_PER_LENGTH
    moves = np.empty((len(projection), 2))
    for axis in range(2):
        white = rng.standard_normal(nodes)
        field = gaussian_filter(white, _NODES_PER_LENGTH, mode="wrap")
        # A Gaussian of standard deviation s leaves 1 / (4 pi s^2) of the variance of
        # white noise.
        field *= size * 2 * math.sqrt(math.pi) * _NODES_PER_LENGTH
        moves[:, axis] = map_coordinates(field, points, order=3)
    largest = float(np.linalg.norm(moves, axis=1).max(initial=0.0))
    record = {"size": size, "length": length, "largest": largest}
    return _displace(projection, moves, defect="local strain", **record)


def grain_boundary(
    first: Projection,
    second: Projection,
    angle: float,
    through: tuple[float, float] = (0.5, 0.5),
    distance: float = 1.2,
) -> Projection:
    """Join two specimens along a straight line.

    Args:
        first: Specimen on one side.
        second: Specimen on the other side, of the same field of view: the same crystal
            with another ``rotation``, or another crystal.
        angle: Of the line, degrees, from x to y.
        through: Point ``(y, x)`` on the line, as fractions of height and width.
        distance: Columns of the second specimen nearer to one of the first are left
            out, Å.
    """
    if (first.shape, first.pixel_size) != (second.shape, second.pixel_size):
        raise CrystalError(
            f"two fields of view: {first.shape} at {first.pixel_size} Å and "
            f"{second.shape} at {second.pixel_size} Å",
            hint="Project both with the same shape and pixel size.",
        )
    for symbol in second.elements:
        first = _with_element(first, symbol)
    for symbol in first.elements:
        second = _with_element(second, symbol)
    order = [second.elements.index(symbol) for symbol in first.elements]
    point = np.array(through) * (np.array(first.shape) - 1) * first.pixel_size
    turn = math.radians(angle)
    normal = np.array([math.cos(turn), -math.sin(turn)])  # (y, x)
    here = first.select((first.positions - point) @ normal < 0)
    there = second.select((second.positions - point) @ normal >= 0)
    close = np.zeros(len(there), dtype=bool)
    if len(here) and len(there):
        close = cKDTree(here.positions).query(there.positions)[0] < distance
    there = there.select(~close)
    joined = dataclasses.replace(
        here.append(**vars(there) | {"counts": there.counts[:, order]}),
        margin=min(first.margin, second.margin),
        records=(*first.records, *second.records),
    )
    if not joined.in_view.any():
        raise CrystalError("no atoms in view on either side of the boundary")
    return joined.with_record(
        defect="grain boundary",
        angle=angle,
        through=[float(value) for value in through],
        columns_left_out=int(np.count_nonzero(close)),
    )


def _element_indices(
    projection: Projection, share: float, element: str | None
) -> list[int]:
    """Return the indices of an element, or of all, along the last axis of counts."""
    if not 0 <= share <= 1:
        raise CrystalError(f"share is {share}", wanted="0 to 1")
    if element not in (None, *projection.elements):
        raise CrystalError(
            f"there is no {element} in the specimen, which has "
            f"{', '.join(projection.elements)}"
        )
    return [k for k, e in enumerate(projection.elements) if element in (None, e)]


def _draw_atoms(
    rng: np.random.Generator, counts: np.ndarray, share: float
) -> np.ndarray:
    """Return how many atoms are chosen at random; the mean for fractions of atoms."""
    whole = np.floor(counts + 1e-9)
    return rng.binomial(whole.astype(np.int64), share) + share * (counts - whole)


def _changes(atoms: np.ndarray) -> dict:
    """Return the record of the atoms that were changed in each column [n, k]."""
    columns = int(np.count_nonzero(atoms.sum(axis=1)))
    return {"atoms": float(atoms.sum()), "columns_changed": columns}


def _with_element(projection: Projection, symbol: str) -> Projection:
    """Return the projection with an element among its elements."""
    if symbol in projection.elements:
        return projection
    from ase.data import atomic_numbers

    number = atomic_numbers.get(symbol, 0)
    if number < 1:
        raise CrystalError(f"'{symbol}' is no element", wanted="a symbol such as Pt")
    return dataclasses.replace(
        projection,
        elements=(*projection.elements, symbol),
        numbers=np.append(projection.numbers, number),
        counts=np.pad(projection.counts, ((0, 0), (0, 1))),
    )


def _displace(projection: Projection, moves: np.ndarray, **record) -> Projection:
    """Return the columns moved by ``(y, x)``, Å [n, 2], with a record.

    The margin becomes smaller by the largest move. A larger move than the margin is
    refused: columns from outside the known area would be missing in the image.
    """
    furthest = float(np.linalg.norm(moves, axis=1).max(initial=0.0))
    if furthest > projection.margin:
        raise CrystalError(
            f"columns would move by up to {furthest:.2f} Å, but they are known only "
            f"{projection.margin:g} Å beyond the image",
            hint=f"Use project with margin={math.ceil(2 * furthest) + 5}, or a smaller "
            "strain.",
        )
    return dataclasses.replace(
        projection,
        y=projection.y + moves[:, 0],
        x=projection.x + moves[:, 1],
        margin=projection.margin - furthest,
    ).with_record(**record)
