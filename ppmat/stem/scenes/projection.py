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


"""A structure seen along the beam: repeats across it and along it, and its columns.

Lengths are in Å. A :class:`View` is a structure turned so that x points right in the
image, y down and z away from the viewer, along the beam. A :class:`Projection` is what
an image shows of it: columns of atoms, with how many of which element.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ppmat.stem.scenes.atoms import CrystalError
from ppmat.stem.scenes.atoms import close_gaps
from ppmat.stem.scenes.atoms import read_atoms

_PARALLEL = 1e-3  # sine of the angle between directions that count as one
_LARGEST_INDEX = 6  # of lattice vectors tried for a Cartesian direction


@dataclass(frozen=True)
class View:
    """Atoms with the beam along z.

    Args:
        numbers: Atomic numbers [N].
        occupancies: Of the sites, 0 to 1 [N].
        positions: x, y, z, Å [N, 3].
        repeats: Lattice vectors across the beam, Å [m, 3] with m from 0 to 2; they may
            have a part along the beam.
        along: Repeat along the beam, Å; None if the structure ends.
    """

    numbers: np.ndarray
    occupancies: np.ndarray
    positions: np.ndarray
    repeats: np.ndarray
    along: float | None


@dataclass(frozen=True)
class Projection:
    """Columns of atoms in and around the field of view.

    Args:
        y: Å below the centre of the first pixel [n].
        x: Å to the right of it [n].
        counts: Atoms of each element in each column [n, E].
        full: Atoms of the column before anything was taken out [n].
        spread: How far its atoms are off its line, root mean square along one
            direction, Å [n].
        elements: Symbols [E].
        numbers: Atomic numbers [E].
        shape: ``(H, W)`` of the image, pixels.
        pixel_size: Å.
        margin: How far columns are known beyond the image, Å.
        thickness: Of the specimen along the beam, Å.
        records: What was done to the specimen, for the metadata of an image.
    """

    y: np.ndarray
    x: np.ndarray
    counts: np.ndarray
    full: np.ndarray
    spread: np.ndarray
    elements: tuple[str, ...]
    numbers: np.ndarray
    shape: tuple[int, int]
    pixel_size: float
    margin: float
    thickness: float
    records: tuple[dict, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def positions(self) -> np.ndarray:
        """``(y, x)`` of each column, Å [n, 2]."""
        return np.stack([self.y, self.x], axis=1)

    def take(self, chosen: np.ndarray, **changes: Any) -> Projection:
        """Return the chosen columns (mask or indices), with other fields changed."""
        names = ("y", "x", "counts", "full", "spread")
        kept = {name: getattr(self, name)[chosen] for name in names}
        return dataclasses.replace(self, **{**kept, **changes})

    def done(self, **record: Any) -> Projection:
        """Return the same columns with one more record."""
        return dataclasses.replace(self, records=(*self.records, record))

    @property
    def occupancy(self) -> np.ndarray:
        """Atoms that are there over atoms of the perfect column [n]."""
        return self.counts.sum(axis=1) / self.full

    @property
    def labels(self) -> np.ndarray:
        """Elements of each column, heaviest first: ``"Ti+O"`` [n]."""
        order = np.argsort(-self.numbers)
        there = self.counts[:, order] > 0
        names = np.array(self.elements, dtype=object)[order]
        kinds, which = np.unique(there, axis=0, return_inverse=True)
        texts = np.array(["+".join(names[kind]) for kind in kinds], dtype=object)
        return texts[which.reshape(-1)] if len(kinds) else np.zeros(0, dtype=object)

    @property
    def spacing(self) -> float:
        """Distance of the nearest two columns, Å; infinite for less than two."""
        if len(self) < 2:
            return math.inf
        return float(cKDTree(self.positions).query(self.positions, k=2)[0][:, 1].min())

    @property
    def in_view(self) -> np.ndarray:
        """Mask of the columns whose centre is on a pixel [n]."""
        high = (np.array(self.shape) - 0.5) * self.pixel_size
        low = -0.5 * self.pixel_size
        return (
            (self.y >= low) & (self.y < high[0]) & (self.x >= low) & (self.x < high[1])
        )


# Looking along the beam -----------------------------------------------------------


def view_along(
    structure: Any,
    zone_axis: Sequence[int] = (0, 0, 1),
    direction: Sequence[float] | None = None,
) -> View:
    """Turn a structure so that the beam runs along z.

    A direction of the cell with more than 7 Å of vacuum does not count as periodic, so
    a slab of a periodic calculation is one slab. The shortest repeat across the beam
    points along x; without one, x is as close to the first Cartesian axis as it can be.

    Args:
        structure: See :func:`~ppmat.stem.scenes.atoms.read_atoms`, or a
            :class:`View`, which is returned as it is.
        zone_axis: Indices [uvw] of the direct lattice: the beam runs along
            ``u a + v b + w c``. Cartesian for a structure without lattice.
        direction: Cartesian direction of the beam instead. If the structure repeats in
            three dimensions, it must be along a lattice vector of small indices.

    Raises:
        CrystalError: See ``read_atoms``; indices that are no direction; a beam along
            which a crystal does not repeat.
    """
    if isinstance(structure, View):
        return structure
    atoms = close_gaps(read_atoms(structure))
    lattice = atoms.cell[atoms.periodic]
    if direction is None:
        indices = _indices(zone_axis)
        beam = indices @ atoms.cell
        inside = not indices[~atoms.periodic].any()
        indices = indices[atoms.periodic] if inside and len(lattice) else None
    else:
        beam = np.asarray(direction, dtype=float)
        if beam.shape != (3,) or not np.isfinite(beam).all() or not beam.any():
            raise CrystalError(f"direction {direction!r}: wanted three numbers, not 0")
        indices = _lattice_indices(beam, lattice)
    beam = beam / np.linalg.norm(beam)
    along = None
    if indices is not None:
        lattice, repeat = _split_basis(lattice, indices)
        along = float(np.linalg.norm(repeat))
    lattice = _reduce(lattice, beam)
    if len(lattice) == 3 or _is_flat(lattice, beam):
        raise CrystalError(
            f"the structure does not repeat along the beam {np.round(beam, 4).tolist()}"
            f" (no lattice vector with indices up to {_LARGEST_INDEX}); name a zone "
            "axis [uvw] of the lattice"
        )
    frame = _frame(lattice, beam)
    positions, lattice = atoms.positions @ frame.T, lattice @ frame.T
    if len(lattice) == 2 and lattice[1, 1] < 0:
        lattice[1] *= -1
    if len(lattice) < 2:  # no repeat fills the image: put the middle into its middle
        low, high = positions.min(axis=0), positions.max(axis=0)
        positions = positions - (low + high) / 2
    return View(atoms.numbers, atoms.occupancies, positions, lattice, along)


def _indices(zone_axis: Sequence[int]) -> np.ndarray:
    indices = np.asarray(zone_axis)
    whole = np.issubdtype(indices.dtype, np.integer)
    if indices.shape != (3,) or not whole or not indices.any():
        raise CrystalError(
            f"zone axis {zone_axis!r}: wanted three whole numbers [uvw], not all 0"
        )
    return indices // np.gcd.reduce(indices)


def _lattice_indices(beam: np.ndarray, lattice: np.ndarray) -> np.ndarray | None:
    """Return the indices of the shortest lattice vector along the beam, if any."""
    if not len(lattice):
        return None
    one = np.arange(-_LARGEST_INDEX, _LARGEST_INDEX + 1)
    grid = np.stack(np.meshgrid(*[one] * len(lattice), indexing="ij"), -1)
    grid = grid.reshape(-1, len(lattice))
    vectors = grid @ lattice
    lengths = np.linalg.norm(vectors, axis=1)
    beam = beam / np.linalg.norm(beam)
    off = np.linalg.norm(vectors - lengths[:, None] * beam, axis=1)
    good = np.flatnonzero((lengths > 0) & (off < _PARALLEL * lengths))
    return grid[good[lengths[good].argmin()]] if len(good) else None


def _split_basis(
    lattice: np.ndarray, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return another basis of the lattice: the vector of the indices, and the others.

    Euclid's algorithm: indices are subtracted from each other until one is left, and
    the basis vectors change so that their combination stays the same.
    """
    basis, left = lattice.copy(), indices.copy()
    while np.count_nonzero(left) > 1:
        least = min(np.flatnonzero(left), key=lambda i: abs(left[i]))
        for other in np.flatnonzero(left):
            if other != least:
                times = left[other] // left[least]
                left[other] -= times * left[least]
                basis[least] += times * basis[other]
    last = int(np.flatnonzero(left)[0])
    return np.delete(basis, last, axis=0), left[last] * basis[last]


def _across(vectors: np.ndarray, beam: np.ndarray) -> np.ndarray:
    return vectors - (vectors @ beam)[..., None] * beam


def _reduce(lattice: np.ndarray, beam: np.ndarray) -> np.ndarray:
    """Return a basis whose two projections are the shortest (Lagrange, Gauss)."""
    if len(lattice) != 2:
        return lattice
    first, second = lattice
    while True:
        if np.linalg.norm(_across(first, beam)) > np.linalg.norm(_across(second, beam)):
            first, second = second, first
        flat = _across(first, beam)
        times = np.rint(flat @ second / max(flat @ flat, 1e-12))
        if times == 0 or flat @ flat < 1e-12:
            return np.stack([first, second])
        second = second - times * first


def _is_flat(lattice: np.ndarray, beam: np.ndarray) -> bool:
    """Tell whether repeats coincide in projection, so that they fill it densely."""
    if not len(lattice):
        return False
    flat = _across(lattice, beam)
    lengths = np.linalg.norm(lattice, axis=1, keepdims=True)
    return np.linalg.svd(flat / lengths, compute_uv=False).min() < _PARALLEL


def _frame(lattice: np.ndarray, beam: np.ndarray) -> np.ndarray:
    """Return the rows x, y, z of the image's frame; right-handed."""
    candidates = [*lattice[:1], *np.eye(3)]
    flat = (_across(vector, beam) for vector in candidates)
    x = next(vector for vector in flat if np.linalg.norm(vector) > 1e-2)
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(beam, x), beam])


# Columns --------------------------------------------------------------------------


def project(
    structure: Any,
    shape: tuple[int, int],
    pixel_size: float,
    zone_axis: Sequence[int] = (0, 0, 1),
    *,
    direction: Sequence[float] | None = None,
    thickness: float | None = None,
    rotation: float = 0.0,
    offset: tuple[float, float] = (0.0, 0.0),
    tolerance: float = 0.3,
    margin: float = 5.0,
) -> Projection:
    """Return the columns of atoms that an image of this size shows.

    Args:
        structure: See :func:`view_along`; for a :class:`View`, zone axis and direction
            do not count.
        shape: ``(H, W)``, pixels.
        pixel_size: Å.
        zone_axis: See :func:`view_along`.
        direction: See :func:`view_along`.
        thickness: Of a crystal along the beam, Å; the nearest number of whole repeats
            is taken, at least one. None: 50 Å. A structure that ends along the beam
            has its own.
        rotation: Of the structure in the image, degrees, from x to y (clockwise).
        offset: Where the origin of the structure (its middle, if it does not repeat in
            two directions) is, seen from the middle of the image, Å ``(y, x)``.
        tolerance: Atoms within this distance of the heaviest, seen along the beam, are
            one column, Å.
        margin: How far beyond the image columns are wanted, Å.

    Raises:
        CrystalError: See :func:`view_along`; a thickness for a structure that ends; no
            atoms in view; repeats across the beam that nothing could resolve.
    """
    _check_frame(shape, pixel_size, margin, tolerance)
    view = view_along(structure, zone_axis, direction)
    layers, thickness = specimen_layers(view, thickness)
    repeats = view.repeats[:, :2]
    if len(repeats) and np.linalg.norm(repeats, axis=1).min() < 2 * tolerance:
        raise CrystalError(
            f"along this axis columns are {np.linalg.norm(repeats, axis=1).min():.2f} Å"
            " apart, so they could not be told from each other; choose an axis of "
            "smaller indices"
        )
    members = _merge(view, repeats, tolerance)
    centres, spread, counts, kinds = _columns(view, repeats, members)
    turn = turn_matrix(rotation)
    middle = (np.array(shape) - 1) / 2 * pixel_size + np.asarray(offset, dtype=float)
    placed = centres @ turn + middle[::-1]
    positions, which = _tile(placed, repeats @ turn, shape, pixel_size, margin)
    from ase.data import chemical_symbols

    found = Projection(
        y=positions[:, 1],
        x=positions[:, 0],
        counts=counts[which] * layers,
        full=counts[which].sum(axis=1) * layers,
        spread=spread[which],
        elements=tuple(chemical_symbols[z] for z in kinds),
        numbers=kinds,
        shape=tuple(shape),
        pixel_size=float(pixel_size),
        margin=float(margin),
        thickness=thickness,
    )
    if not found.in_view.any():
        high, wide = (np.array(shape) * pixel_size).round(2)
        extent = np.ptp(view.positions[:, :2], axis=0)[::-1].round(2)
        raise CrystalError(
            f"no atoms in view: the image shows {high} x {wide} Å (y, x), moved by "
            f"{tuple(np.round(offset, 2).tolist())} Å from the middle of the structure,"
            f" whose cell covers {extent[0]} x {extent[1]} Å; choose an offset nearer "
            "to (0, 0), more pixels or a larger pixel size"
        )
    return found


def turn_matrix(rotation: float) -> np.ndarray:
    """Return what turns rows ``(x, y)`` by an angle in degrees, from x to y."""
    angle = math.radians(rotation)
    return np.array(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )


def _check_frame(
    shape: tuple[int, int], pixel_size: float, margin: float, tolerance: float
) -> None:
    if len(shape) != 2 or min(shape) < 2:
        raise CrystalError(f"shape {tuple(shape)}: wanted (height, width) above 1")
    for name, value in (("pixel_size", pixel_size), ("tolerance", tolerance)):
        if not 0 < value < math.inf:
            raise CrystalError(f"{name} is {value}, wanted a positive length in Å")
    if not 0 <= margin < math.inf:
        raise CrystalError(f"margin is {margin}, wanted a length in Å")


def specimen_layers(view: View, thickness: float | None) -> tuple[int, float]:
    """Return how often the structure is repeated along the beam, and the sum, Å."""
    if view.along is None:
        own = float(np.ptp(view.positions[:, 2]))
        if thickness is not None:
            raise CrystalError(
                f"thickness {thickness} Å: this structure ends along the beam and is "
                f"{own:.1f} Å thick; leave thickness out, or build a thicker structure"
            )
        return 1, own
    wanted = 50.0 if thickness is None else float(thickness)
    if not 0 < wanted < math.inf:
        raise CrystalError(f"thickness is {thickness}, wanted a positive length in Å")
    layers = max(1, round(wanted / view.along))
    return layers, layers * view.along


def _merge(view: View, repeats: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Return the atoms of each column of the cell, heaviest first.

    Each column is gathered around the heaviest atom that is left, so none is wider
    than twice the tolerance, however close the columns are.
    """
    left = np.ones(len(view.numbers), dtype=bool)
    flat = view.positions[:, :2]
    # A stable order, so that the same structure always gives the same columns.
    order = np.lexsort((np.arange(len(left)), -view.numbers))
    members = []
    for leader in order:
        if not left[leader]:
            continue
        apart = _shortest(flat - flat[leader], repeats)
        near = left & (np.hypot(apart[:, 0], apart[:, 1]) <= tolerance)
        near[leader] = False
        members.append(np.concatenate([[leader], np.flatnonzero(near)]))
        left[members[-1]] = False
    return members


def _shortest(vectors: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """Return vectors [n, 2] less the repeats nearest to them.

    The shortest of all for vectors well below half a repeat, which is what matters.
    """
    if not len(repeats):
        return vectors
    return vectors - np.rint(vectors @ np.linalg.pinv(repeats)) @ repeats


def _columns(
    view: View, repeats: np.ndarray, members: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return centre [q, 2], spread [q], counts [q, E], and elements [E] of a cell."""
    kinds, kind = np.unique(view.numbers, return_inverse=True)
    flat = view.positions[:, :2]
    # Heavy atoms make most of the intensity, and so of the centre.
    weights = view.occupancies * view.numbers**1.6
    centres, spread = np.zeros((len(members), 2)), np.zeros(len(members))
    counts = np.zeros((len(members), len(kinds)))
    for i, atoms in enumerate(members):
        apart = _shortest(flat[atoms] - flat[atoms[0]], repeats)
        weight = weights[atoms] / max(weights[atoms].sum(), 1e-12)
        centre = weight @ apart
        centres[i] = flat[atoms[0]] + centre
        spread[i] = np.sqrt(weight @ ((apart - centre) ** 2).mean(axis=1))
        np.add.at(counts[i], kind[atoms], view.occupancies[atoms])
    there = counts.sum(axis=1) > 0
    return centres[there], spread[there], counts[there], kinds


def _tile(
    placed: np.ndarray,
    repeats: np.ndarray,
    shape: tuple[int, int],
    pixel_size: float,
    margin: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (x, y) [n, 2] that fill the image, and which column each is."""
    low = np.full(2, -0.5 * pixel_size - margin)
    high = (np.array(shape[::-1]) - 0.5) * pixel_size + margin
    moves = np.zeros((1, 2))
    if len(repeats):
        corners = np.array([[x, y] for x in (0, 1) for y in (0, 1)])
        corners = low + corners * (high - low)
        inverse = np.linalg.pinv(repeats)
        reach = (corners[:, None] - placed).reshape(-1, 2) @ inverse
        ends = zip(np.floor(reach.min(axis=0)), np.ceil(reach.max(axis=0)))
        steps = [np.arange(first, last + 1) for first, last in ends]
        moves = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1)
        moves = moves.reshape(-1, len(repeats)) @ repeats
    positions, which = [], []
    for number, start in enumerate(placed):
        some = start + moves
        some = some[np.all((some >= low) & (some < high), axis=1)]
        positions.append(some)
        which.append(np.full(len(some), number))
    return np.concatenate(positions), np.concatenate(which)
