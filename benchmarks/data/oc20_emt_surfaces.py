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

"""Geometry for :mod:`benchmarks.data.oc20_emt`: cut surfaces, place adsorbates.

The rows of a cell are its lattice vectors. The normal of a surface is +z. Lengths are
in Å.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import spglib
from ase import Atoms
from ase.data import covalent_radii
from pymatgen.core import Structure
from pymatgen.core.surface import get_symmetrically_distinct_miller_indices
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from benchmarks.data.oc20_emt_sources import Adsorbate
from benchmarks.data.oc20_emt_sources import GenerationError
from ppmat.datasets.graph_utils.periodic_graph import neighbour_pairs

MAX_MILLER = 2
MIN_THICKNESS = 7.0  # of a slab
MIN_VACUUM = 20.0
MIN_WIDTH = 8.0  # shortest in-plane lattice vector after tiling
MIN_GAP = 0.3  # between two atomic planes of different terminations
SURFACE_DEPTH = 2.0  # atoms at most this far below the highest atom are surface atoms
CONTACT_GAP = 0.1  # from adsorbate to slab, in addition to the covalent radii
BOND_MARGIN = 1.0  # longest bond, in addition to the covalent radii


@dataclass(frozen=True)
class Slab:
    """A clean surface, normal along +z, cut but not relaxed.

    ``key`` names bulk and Miller indices only: all terminations and sides share it,
    so that equivalent ones cannot fall into both training and validation.
    """

    key: str
    numbers: np.ndarray  # [N] int64
    positions: np.ndarray  # [N, 3] float64, Å
    cell: np.ndarray  # [3, 3] float64, rows, Å
    tags: np.ndarray  # [N] int64, 0 sub-surface, 1 surface


def _turn_normal_to_z(cell: np.ndarray) -> np.ndarray:
    """Return R [3, 3] such that ``cell @ R.T`` has a along x and a x b along z."""
    x = cell[0] / np.linalg.norm(cell[0])
    z = np.cross(cell[0], cell[1])
    z = z / np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z])


def wrap(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return positions [N, 3] moved into the cell: fractional coordinates in [0, 1)."""
    fractional = np.linalg.solve(cell.T, positions.T).T % 1.0
    fractional[fractional >= 1.0 - 1e-9] = 0.0
    return fractional @ cell


def _coordination(positions, cell, cutoff: float) -> np.ndarray:
    return np.bincount(
        neighbour_pairs(positions, cell, cutoff)[0], minlength=len(positions)
    )


class Crystal:
    """A bulk crystal from which surfaces are cut.

    Args:
        name: Name of the bulk, first part of each slab's key.
        structure: Any cell of the bulk.
    """

    def __init__(self, name: str, structure: Structure) -> None:
        analyzer = SpacegroupAnalyzer(structure, symprec=0.1)
        cell = analyzer.get_conventional_standard_structure()
        self.name = name
        self.conventional = cell.lattice.matrix
        self.millers = sorted(
            get_symmetrically_distinct_miller_indices(cell, MAX_MILLER)
        )
        primitive = spglib.standardize_cell(
            (cell.lattice.matrix, cell.frac_coords, cell.atomic_numbers),
            to_primitive=True, no_idealize=True, symprec=0.1,
        )  # fmt: skip
        if primitive is None:
            raise GenerationError(f"bulk {name}: spglib finds no primitive cell")
        self.cell, self.fractional, self.numbers = map(np.asarray, primitive)
        positions = self.fractional @ self.cell
        centre, _, _, distance = neighbour_pairs(positions, self.cell, 4.5)
        nearest = [distance[centre == i].min() for i in range(len(positions))]
        # between the first and the second neighbour shell of close-packed metals
        self.cutoff = 1.25 * float(np.mean(nearest))
        count = _coordination(positions, self.cell, self.cutoff)
        self.coordination = {
            int(z): int(count[self.numbers == z].min()) for z in set(self.numbers)
        }

    def plane_basis(self, miller: Sequence[int]) -> np.ndarray:
        """Return the basis of a lattice plane in units of the primitive vectors.

        Args:
            miller: Miller indices of the plane, for the conventional cell.

        Returns:
            int [3, 3], rows: the two shortest vectors in the plane, and one vector to
            the next lattice plane.

        Raises:
            GenerationError: ``miller`` is no lattice plane of the primitive cell.
        """
        normal = np.asarray(miller) @ np.linalg.inv(self.conventional).T
        plane = self.cell @ normal
        for factor in range(1, 13):
            whole = np.rint(plane * factor).astype(int)
            if np.abs(plane * factor - whole).max() < 1e-4:
                break
        else:
            raise GenerationError(f"{self.name}: {miller} is no lattice plane")
        plane = whole // np.gcd.reduce(whole)
        span = np.arange(-6, 7)
        steps = np.array(list(itertools.product(span, repeat=3)))
        length = np.linalg.norm(steps @ self.cell, axis=1)
        # Lengths are rounded, so that ties are broken by index on every machine.
        steps = steps[np.lexsort((*steps.T, length.round(4)))]
        level = steps @ plane
        within = steps[(level == 0) & steps.any(axis=1)]
        first = within[0]
        area = np.cross(first, within)
        # Two neighbouring lattice points of the plane span exactly one cell.
        second = within[np.flatnonzero((area == plane).all(axis=1))[0]]
        return np.stack([first, second, steps[level == 1][0]])

    def key(self, number: int) -> str:
        """Return the name of the bulk and Miller indices, such as ``mp-30|1 1 1``."""
        return f"{self.name}|{' '.join(map(str, self.millers[number]))}"

    def cut(self, number: int, rng: np.random.Generator) -> Slab:
        """Return a slab along ``millers[number]`` with random termination and side."""
        miller = self.millers[number]
        basis = self.plane_basis(miller)
        cell = basis @ self.cell
        cell = cell @ _turn_normal_to_z(cell).T
        spacing = cell[2, 2]
        fractional = self.fractional @ np.linalg.inv(basis)
        height = np.sort(fractional[:, 2] % 1.0)
        gaps = np.diff(np.append(height, height[0] + 1.0))
        # Dense stackings have no wide gap; they are cut at the widest one.
        cuts = np.flatnonzero(gaps >= min(MIN_GAP / spacing, gaps.max()))
        chosen = cuts[rng.integers(len(cuts))]
        fractional = fractional - [0.0, 0.0, height[chosen] + gaps[chosen] / 2]
        fractional %= 1.0

        layers = int(np.ceil(MIN_THICKNESS / spacing))
        empty = int(np.ceil(MIN_VACUUM / spacing))
        wide = np.ceil(MIN_WIDTH / np.linalg.norm(cell[:2], axis=1)).astype(int)
        images = np.array(
            list(itertools.product(range(wide[0]), range(wide[1]), range(layers)))
        )
        positions = (images[:, None] + fractional[None]).reshape(-1, 3) @ cell
        numbers = np.tile(self.numbers, len(images)).astype(np.int64)
        cell = cell * np.array([[wide[0]], [wide[1]], [layers + empty]])
        # Of the equivalent third vectors, take the one closest to the normal.
        cell[2] -= np.rint(cell[2, :2] @ np.linalg.inv(cell[:2, :2])) @ cell[:2]
        if rng.random() < 0.5:
            # A rotation by 180 degrees about x exposes the other side; b and c change
            # their signs with it.
            positions = positions * [1.0, -1.0, -1.0]
            cell = cell * [1.0, -1.0, -1.0] * np.array([[1.0], [-1.0], [-1.0]])
        middle = (positions[:, 2].max() + positions[:, 2].min()) / 2
        positions = positions + (0.5 - middle / cell[2, 2]) * cell[2]
        positions = wrap(positions, cell)
        tags = self._tags(numbers, positions, cell)
        return Slab(self.key(number), numbers, positions, cell, tags)

    def _tags(self, numbers, positions, cell) -> np.ndarray:
        """Return tag 1 near the top and where upper atoms are under-coordinated."""
        full = np.array([self.coordination[z] for z in numbers.tolist()])
        lacking = _coordination(positions, cell, self.cutoff) < full
        height = positions[:, 2]
        top = height > height.max() - SURFACE_DEPTH
        upper = height > (height.max() + height.min()) / 2
        return (top | (upper & lacking)).astype(np.int64)


def choose_site(slab: Slab, rng: np.random.Generator) -> np.ndarray:
    """Return a random ontop, bridge or hollow site [3] of the surface atoms, Å."""
    surface = slab.positions[slab.tags == 1]
    images = np.array(list(itertools.product((-1, 0, 1), (-1, 0, 1), (0,))))
    tiled = (surface[None] + (images @ slab.cell)[:, None]).reshape(-1, 3)
    members = [surface[rng.integers(len(surface))]]
    for _ in range(rng.integers(3)):
        distance = np.linalg.norm(tiled[None] - np.array(members)[:, None], axis=-1)
        # The next corner is close to all chosen corners, random among near ties.
        score = np.where(distance.min(axis=0) < 0.5, np.inf, distance.max(axis=0))
        near = np.flatnonzero(score < score.min() + 0.3)
        members.append(tiled[near[rng.integers(len(near))]])
    return np.mean(members, axis=0)


def place_adsorbate(
    slab: Slab, adsorbate: Adsorbate, rng: np.random.Generator
) -> np.ndarray:
    """Return adsorbate positions [A, 3] in Å that touch the surface at a random site.

    The binding atom points down with a random tilt of up to 20 degrees; the angle about
    the normal is random. The fragment is lowered until the distance of the first pair
    of atoms is the sum of their covalent radii plus ``CONTACT_GAP``.
    """
    anchor = adsorbate.positions[rng.choice(adsorbate.binding)]
    shape = adsorbate.positions - anchor
    centre = shape.mean(axis=0)
    if np.linalg.norm(centre) > 1e-6:
        shape = shape @ _rotation_between(centre, np.array([0.0, 0.0, 1.0])).T
    tilt, azimuth = np.radians(20) * np.sqrt(rng.random()), 2 * np.pi * rng.random()
    target = [np.sin(tilt) * np.cos(azimuth), np.sin(tilt) * np.sin(azimuth)]
    target = np.array([*target, np.cos(tilt)])
    spin = rotation_about_z(2 * np.pi * rng.random())
    shape = shape @ spin.T @ _rotation_between(np.array([0.0, 0.0, 1.0]), target).T
    shape = shape + choose_site(slab, rng)

    images = np.array(list(itertools.product((-1, 0, 1), (-1, 0, 1), (0,))))
    tiled = (slab.positions[None] + (images @ slab.cell)[:, None]).reshape(-1, 3)
    radii = covalent_radii[np.tile(slab.numbers, len(images))]
    own = covalent_radii[adsorbate.numbers]
    contact = radii[None] + own[:, None] + CONTACT_GAP  # [A, M]
    lateral = np.linalg.norm(tiled[None, :, :2] - shape[:, None, :2], axis=-1)
    reach = contact**2 - lateral**2
    lift = tiled[None, :, 2] + np.sqrt(np.maximum(reach, 0.0)) - shape[:, 2:]
    shape[:, 2] += lift[reach > 0].max()
    return shape


def rotation_about_z(angle: float) -> np.ndarray:
    """Return the rotation [3, 3] of column vectors (``R @ x``) by ``angle`` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _rotation_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] from the direction of ``source`` to ``target``."""
    u, v = source / np.linalg.norm(source), target / np.linalg.norm(target)
    middle = u + v
    length = np.linalg.norm(middle)
    if length < 1e-6:  # opposite: by 180 degrees about any perpendicular axis
        axis = np.cross(u, np.eye(3)[np.argmin(np.abs(u))])
        axis = axis / np.linalg.norm(axis)
        return 2 * np.outer(axis, axis) - np.eye(3)
    middle = middle / length
    # Two reflections make a rotation: the first maps u to -u, the second -u to v.
    first = np.eye(3) - 2 * np.outer(u, u)
    second = np.eye(3) - 2 * np.outer(middle, middle)
    return second @ first


def closest_ratio(atoms: Atoms, first: np.ndarray) -> float:
    """Return the smallest distance divided by the sum of covalent radii.

    Args:
        atoms: The structure.
        first: bool [N]. Pairs have one atom of these; the other is none of them, or a
            periodic image.
    """
    i, j, image, d = neighbour_pairs(atoms.positions, atoms.cell.array, 3.0)
    between = first[i] & (~first[j] | image.any(axis=1))
    radii = covalent_radii[atoms.numbers]
    ratio = d[between] / (radii[i] + radii[j])[between]
    return float(ratio.min()) if len(ratio) else np.inf


def is_adsorbed(atoms: Atoms, adsorbate: np.ndarray) -> bool:
    """Return whether every adsorbate atom is bound to the slab, perhaps via others."""
    i, j, _, d = neighbour_pairs(atoms.positions, atoms.cell.array, 4.0)
    radii = covalent_radii[atoms.numbers]
    bond = d < radii[i] + radii[j] + BOND_MARGIN
    i, j = i[bond], j[bond]
    bound = ~adsorbate
    for _ in range(int(adsorbate.sum())):
        grown = bound.copy()
        grown[i[bound[j]]] = True
        if (grown == bound).all():
            break
        bound = grown
    return bool(bound.all())
