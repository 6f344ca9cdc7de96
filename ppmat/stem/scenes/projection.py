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

"""A structure seen along the beam, and the atomic columns that an image shows of it.

Lengths are in Å. A :class:`View` is a structure turned so that x points right in the
image, y down and z away from the viewer, along the beam. A :class:`Projection` is the
list of atomic columns in a field of view, with the number of atoms of each element.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ppmat.stem.scenes.structure_arrays import CrystalError
from ppmat.stem.scenes.structure_arrays import end_at_vacuum
from ppmat.stem.scenes.structure_arrays import structure_to_arrays

_MAX_SINE = 1e-3  # sine of the angle between directions that count as parallel
_MAX_INDEX = 6  # of the lattice vectors tried for a Cartesian direction
_MAX_STEPS = 50  # of the search for the shortest basis; parallel vectors have none
_DEFAULT_THICKNESS = 50.0  # Å; of a crystal that repeats along the beam
_BRIGHTNESS_EXPONENT = 1.6  # HAADF intensity of an atom is about Z to this power
_COLUMN_FIELDS = ("y", "x", "counts", "full", "spread")  # one value or row a column


@dataclass(frozen=True)
class View:
    """Atoms with the beam along z."""

    numbers: np.ndarray  # atomic numbers [N]
    occupancies: np.ndarray  # of the sites, 0 to 1 [N]
    positions: np.ndarray  # x, y, z, Å [N, 3]
    # Lattice vectors across the beam, Å [m, 3] with m from 0 to 2; they may have a
    # component along the beam.
    repeats: np.ndarray
    along: float | None  # length of the repeat along the beam, Å; None if it ends


@dataclass(frozen=True)
class Projection:
    """Atomic columns in and around the field of view."""

    y: np.ndarray  # Å below the centre of the first pixel [n]
    x: np.ndarray  # Å to the right of it [n]
    counts: np.ndarray  # atoms of each element in each column [n, E]
    full: np.ndarray  # atoms of each column in the perfect structure [n]
    # Root mean square distance of the column's atoms from its line, along one
    # direction, Å [n].
    spread: np.ndarray
    elements: tuple[str, ...]  # symbols [E]
    numbers: np.ndarray  # atomic numbers [E]
    shape: tuple[int, int]  # (H, W) of the image, pixels
    pixel_size: float  # Å
    margin: float  # width of the strip around the image where columns are known, Å
    thickness: float  # of the specimen along the beam, Å
    records: tuple[dict, ...] = ()  # defects that were added

    def __len__(self) -> int:
        return len(self.y)

    @property
    def positions(self) -> np.ndarray:
        """``(y, x)`` of each column, Å [n, 2]."""
        return np.stack([self.y, self.x], axis=1)

    def select(self, which: np.ndarray, **changes: Any) -> Projection:
        """Return the columns of a mask or of indices, with other fields changed."""
        kept = {name: getattr(self, name)[which] for name in _COLUMN_FIELDS}
        return dataclasses.replace(self, **{**kept, **changes})

    def append(self, **columns: np.ndarray) -> Projection:
        """Return the projection with more columns: ``y, x, counts, full, spread``."""
        both = {n: np.append(getattr(self, n), columns[n], 0) for n in _COLUMN_FIELDS}
        return dataclasses.replace(self, **both)

    def with_record(self, **record: Any) -> Projection:
        """Return the same columns with one more record."""
        return dataclasses.replace(self, records=(*self.records, record))

    @property
    def occupancy(self) -> np.ndarray:
        """Fraction of the perfect column's atoms that are present [n]."""
        return self.counts.sum(axis=1) / self.full

    @property
    def labels(self) -> np.ndarray:
        """Elements of each column, heaviest first: ``"Ti+O"`` [n]."""
        order = np.argsort(-self.numbers)
        present = self.counts[:, order] > 0
        names = np.array(self.elements, dtype=object)[order]
        kinds, which = np.unique(present, axis=0, return_inverse=True)
        texts = np.array(["+".join(names[kind]) for kind in kinds], dtype=object)
        return texts[which.reshape(-1)]

    @property
    def spacing(self) -> float:
        """Distance of the nearest two columns, Å; infinite for fewer than two."""
        apart, _ = cKDTree(self.positions).query(self.positions, k=2)
        return float(apart[:, 1].min(initial=math.inf))

    @property
    def in_view(self) -> np.ndarray:
        """Mask of the columns whose centre lies on a pixel [n]."""
        high = (np.array(self.shape) - 0.5) * self.pixel_size
        low = -0.5 * self.pixel_size
        return np.all((self.positions >= low) & (self.positions < high), axis=1)


# The view along the beam ----------------------------------------------------------


def view_along(
    structure: Any,
    zone_axis: Sequence[int] = (0, 0, 1),
    direction: Sequence[float] | None = None,
) -> View:
    """Turn a structure so that the beam runs along z.

    A cell vector that crosses more than 7 Å of vacuum does not count as periodic. The
    shortest repeat across the beam points along x. Without one, x is the first
    Cartesian axis made perpendicular to the beam.

    Args:
        structure: See :func:`ppmat.stem.scenes.structure_arrays.structure_to_arrays`;
            a :class:`View` is returned unchanged, whatever the beam.
        zone_axis: Indices [uvw] of the direct lattice: the beam runs along
            ``u a + v b + w c``. Cartesian for a structure without lattice.
        direction: Cartesian direction of the beam instead. If the structure repeats in
            three dimensions, it must be along a lattice vector of small indices.

    Raises:
        CrystalError: A structure that cannot be used, indices that are no direction,
            or a beam along which a crystal does not repeat.

    Example:
        >>> from ase.build import bulk
        >>> round(view_along(bulk("Cu", a=3.6, cubic=True), (1, 1, 0)).along, 2)
        5.09
    """
    if isinstance(structure, View):
        return structure
    atoms = end_at_vacuum(structure_to_arrays(structure))
    lattice = atoms.cell[atoms.periodic]
    indices = along = None
    if direction is None:
        axis = np.asarray(zone_axis)
        whole = np.issubdtype(axis.dtype, np.integer)
        if axis.shape != (3,) or not whole or not axis.any():
            raise CrystalError(
                f"zone axis {zone_axis!r}", wanted="three whole numbers, not all 0"
            )
        axis = axis // np.gcd.reduce(axis)
        beam = axis @ atoms.cell
        if len(lattice) and not axis[~atoms.periodic].any():
            indices = axis[atoms.periodic]
    else:
        beam = np.asarray(direction, dtype=float)
        if beam.shape != (3,) or not np.isfinite(beam).all() or not beam.any():
            raise CrystalError(f"direction {direction!r}: wanted three numbers, not 0")
    beam = beam / np.linalg.norm(beam)
    if direction is not None and len(lattice):
        indices = _lattice_indices(beam, lattice)
    if indices is not None:
        lattice, repeat = _split_basis(lattice, indices)
        along = float(np.linalg.norm(repeat))
    lattice = _shortest_basis(lattice, beam)
    sines = _across(lattice, beam) / np.linalg.norm(lattice, axis=1, keepdims=True)
    parallel = np.linalg.svd(sines, compute_uv=False).min(initial=1.0) < _MAX_SINE
    if len(lattice) == 3 or parallel:
        raise CrystalError(
            f"the structure does not repeat along the beam {np.round(beam, 4).tolist()}"
            f" (no lattice vector with indices up to {_MAX_INDEX})",
            hint="Give a zone axis [uvw] of smaller indices.",
        )
    frame = _image_frame(lattice, beam)
    positions, lattice = atoms.positions @ frame.T, lattice @ frame.T
    if len(lattice) == 2 and lattice[1, 1] < 0:
        lattice[1] *= -1
    if len(lattice) < 2:  # it does not fill the image: put its middle at the origin
        low, high = positions.min(axis=0), positions.max(axis=0)
        positions = positions - (low + high) / 2
    return View(atoms.numbers, atoms.occupancies, positions, lattice, along)


def index_grid(*axes: np.ndarray) -> np.ndarray:
    """Return all combinations of one value from each axis, last axis fastest [n, m]."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _lattice_indices(beam: np.ndarray, lattice: np.ndarray) -> np.ndarray | None:
    """Return the indices of the shortest lattice vector along the beam, if any."""
    grid = index_grid(*[np.arange(-_MAX_INDEX, _MAX_INDEX + 1)] * len(lattice))
    vectors = grid @ lattice
    lengths = np.linalg.norm(vectors, axis=1)
    off = np.linalg.norm(vectors - lengths[:, None] * beam, axis=1)
    good = np.flatnonzero((lengths > 0) & (off < _MAX_SINE * lengths))
    return grid[good[lengths[good].argmin()]] if len(good) else None


def _split_basis(
    lattice: np.ndarray, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a basis of the lattice with the vector of the indices, split off.

    Euclid's algorithm: indices are subtracted from each other until one is left. The
    basis vectors change so that their combination stays the same.
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
    """Return the components of vectors perpendicular to the beam."""
    return vectors - (vectors @ beam)[..., None] * beam


def _shortest_basis(lattice: np.ndarray, beam: np.ndarray) -> np.ndarray:
    """Return a basis whose two projections are the shortest (Lagrange, Gauss)."""
    if len(lattice) != 2:
        return lattice
    first, second = lattice
    for _ in range(_MAX_STEPS):
        if np.linalg.norm(_across(first, beam)) > np.linalg.norm(_across(second, beam)):
            first, second = second, first
        flat = _across(first, beam)
        times = np.rint(flat @ second / max(flat @ flat, 1e-12))
        if times == 0 or flat @ flat < 1e-12:
            break
        second = second - times * first
    return np.stack([first, second])


def _image_frame(lattice: np.ndarray, beam: np.ndarray) -> np.ndarray:
    """Return the axes x, y, z of the image as rows; right-handed."""
    candidates = [*lattice[:1], *np.eye(3)]
    flat = (_across(vector, beam) for vector in candidates)
    x = next(vector for vector in flat if np.linalg.norm(vector) > 1e-2)
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(beam, x), beam])


# The columns in a field of view ---------------------------------------------------


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
    """Return the atomic columns in and around a field of view.

    Args:
        structure: With zone axis and direction, see :func:`view_along`.
        shape: ``(H, W)``, pixels.
        pixel_size: Å.
        thickness: Of a crystal along the beam, Å, rounded to whole repeats, at least
            one. None means 50 Å. A structure that ends along the beam has its own.
        rotation: Of the structure in the image, degrees, from x to y (clockwise).
        offset: Position ``(y, x)`` of the structure's origin relative to the middle of
            the image, Å. A structure that does not repeat in two directions has its
            origin in its middle.
        tolerance: Atoms within this distance of the heaviest, seen along the beam, are
            one column, Å.
        margin: Width of the strip around the image where columns are wanted, Å.

    Raises:
        CrystalError: See :func:`view_along`; a thickness for a structure that ends; no
            atoms in view; repeats across the beam shorter than two tolerances.

    Example:
        >>> from ase.build import bulk
        >>> columns = project(bulk("Cu", a=3.6), (64, 64), 0.2, thickness=36)
        >>> set(columns.labels), columns.counts.max().item()
        ({'Cu'}, 14.0)
    """
    from ase.data import chemical_symbols

    if len(shape) != 2 or min(shape) < 2:
        raise CrystalError(f"shape {tuple(shape)}: wanted (height, width) above 1")
    for name, value in (("pixel_size", pixel_size), ("tolerance", tolerance)):
        if not 0 < value < math.inf:
            raise CrystalError(f"{name} is {value}", wanted="a positive length in Å")
    if not 0 <= margin < math.inf:
        raise CrystalError(f"margin is {margin}", wanted="a length in Å")
    view = view_along(structure, zone_axis, direction)
    layers, thickness = specimen_layers(view, thickness)
    repeats = view.repeats[:, :2]
    apart = np.linalg.norm(repeats, axis=1).min(initial=math.inf)
    if apart < 2 * tolerance:
        raise CrystalError(
            f"columns along this axis are only {apart:.2f} Å apart: not resolved",
            hint="Choose an axis of smaller indices.",
        )
    centres, spread, counts, kinds = _cell_columns(view, repeats, tolerance)
    turn = rotation_matrix(rotation)
    middle = (np.array(shape) - 1) / 2 * pixel_size + np.asarray(offset, dtype=float)
    placed = centres @ turn + middle[::-1]
    low = np.full(2, -0.5 * pixel_size - margin)
    high = (np.array(shape[::-1]) - 0.5) * pixel_size + margin
    positions, which = _fill(placed, repeats @ turn, low, high)
    projection = Projection(
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
    if not projection.in_view.any():
        height, width = (np.array(shape) * pixel_size).round(2)
        raise CrystalError(
            f"no atoms in view: the image shows {height} x {width} Å (y, x), moved by "
            f"{tuple(np.round(offset, 2).tolist())} Å from the middle of the structure",
            hint="Choose an offset nearer to (0, 0), or a larger image.",
        )
    return projection


def rotation_matrix(rotation: float) -> np.ndarray:
    """Return the matrix that turns rows ``(x, y)`` by degrees, from x to y [2, 2]."""
    angle = math.radians(rotation)
    return np.array(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    )


def specimen_layers(view: View, thickness: float | None) -> tuple[int, float]:
    """Return the number of repeats along the beam, and the specimen's thickness, Å."""
    if view.along is None:
        own = float(np.ptp(view.positions[:, 2]))
        if thickness is not None:
            raise CrystalError(
                f"thickness {thickness} Å: this structure ends along the beam and is "
                f"{own:.1f} Å thick",
                hint="Leave thickness out, or build a thicker structure.",
            )
        return 1, own
    wanted = _DEFAULT_THICKNESS if thickness is None else float(thickness)
    if not 0 < wanted < math.inf:
        raise CrystalError(f"thickness is {thickness}", wanted="a positive length in Å")
    layers = max(1, round(wanted / view.along))
    return layers, layers * view.along


def _minimum_image(vectors: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """Return vectors [n, 2] minus the nearest repeats.

    This is the shortest image for vectors well below half a repeat.
    """
    return vectors - np.rint(vectors @ np.linalg.pinv(repeats)) @ repeats


def _cell_columns(
    view: View, repeats: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return centres (x, y) [q, 2], spreads [q], counts [q, E], atomic numbers [E].

    Each column is gathered around the heaviest atom that is left, so no column is
    wider than twice the tolerance.
    """
    kinds, kind = np.unique(view.numbers, return_inverse=True)
    flat = view.positions[:, :2]
    # Heavy atoms make most of the intensity, and so of the visible centre.
    weights = view.occupancies * view.numbers**_BRIGHTNESS_EXPONENT
    left = np.ones(len(flat), dtype=bool)
    centres, spreads, counts = [], [], []
    # A stable order, so that the same structure always gives the same columns.
    for leader in np.argsort(-view.numbers, kind="stable"):
        if not left[leader]:
            continue
        apart = _minimum_image(flat - flat[leader], repeats)
        near = left & (np.hypot(*apart.T) <= tolerance)
        near[leader] = False
        atoms = np.append(leader, np.flatnonzero(near))
        left[atoms] = False
        apart = _minimum_image(flat[atoms] - flat[leader], repeats)
        weight = weights[atoms] / max(weights[atoms].sum(), 1e-12)
        centre = weight @ apart
        centres.append(flat[leader] + centre)
        spreads.append(np.sqrt(weight @ ((apart - centre) ** 2).mean(axis=1)))
        counts.append(np.bincount(kind[atoms], view.occupancies[atoms], len(kinds)))
    present = np.sum(counts, axis=1) > 0
    return *(np.array(v)[present] for v in (centres, spreads, counts)), kinds


def _fill(
    cell_positions: np.ndarray, repeats: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Repeat the columns of one cell over the rectangle from ``low`` to ``high``.

    Return positions (x, y) in the rectangle [n, 2], and the column of the cell [n].
    """
    moves = np.zeros((1, 2))
    if len(repeats):
        corners = low + index_grid((0, 1), (0, 1)) * (high - low)
        reach = (corners[:, None] - cell_positions).reshape(-1, 2)
        reach = reach @ np.linalg.pinv(repeats)
        ends = zip(np.floor(reach.min(axis=0)), np.ceil(reach.max(axis=0)))
        moves = index_grid(*(np.arange(a, b + 1) for a, b in ends)) @ repeats
    found = cell_positions[:, None] + moves
    inside = np.all((found >= low) & (found < high), axis=2)
    return found[inside], np.nonzero(inside)[0]
