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

"""Crystals of an image and the sublattice of each column.

The average cell is found in a small part of the image and grown from column to column.
Strain and slow changes of thickness therefore do not matter. Where the lattice ends,
for instance at a grain boundary, growth ends; the columns beyond make further crystals.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.stem.columns.lattice_fit import PlaneLattice
from ppmat.stem.columns.lattice_fit import fit_sites
from ppmat.stem.columns.lattice_fit import guess_lattice
from ppmat.stem.columns.lattice_fit import intensity_groups

# Columns of a part in which the cell is searched; more for large cells.
_PART_COLUMNS = (150, 1000)
_PARTS = 16  # places where such parts are tried
_SHARE_MARGIN = 0.1  # a part may explain this share of columns less than the best one
_TOLERANCE = 0.25  # of the distance of nearest sites; columns farther away are off
_BONDS = 8  # neighbouring sites, at least, from which a column gets its site
_SAME_LENGTH = 1.1  # ratio of lengths up to which bonds count as equally long
_MIN_VOTES = 2  # neighbours that must agree on a site
_MIN_SUPPORT = 0.5  # share of the columns around one that must belong to its lattice
_MIN_CRYSTAL = 25  # columns; smaller groups are no crystal of their own
_MIN_SHARE = 0.05  # of the largest crystal, likewise
_GRID_MARGIN = 0.3  # of the cells across the image, for strained crystals


@dataclass(frozen=True)
class Crystal:
    """A crystal in the image: its columns, and the lattice fitted to them.

    The ideal position of a column is ``sites[label] + cell @ vectors``.
    """

    columns: np.ndarray  # indices of its columns in the table [n]
    label: np.ndarray  # sublattice of each, 0 for the strongest intensity [n]
    cell: np.ndarray  # lattice indices of the cell of each [n, 2]
    vectors: np.ndarray  # lattice vectors (y, x) as rows, pixels [2, 2]
    vector_errors: np.ndarray  # standard errors of ``vectors``, pixels [2, 2]
    sites: np.ndarray  # (y, x) of each sublattice in cell (0, 0), pixels [m, 2]
    rms: float  # root mean square distance of columns to their sites, pixels

    def ideal(self) -> np.ndarray:
        """Return the lattice position (y, x) of each column, pixels [n, 2]."""
        return self.sites[self.label] + self.cell @ self.vectors

    def neighbours(self, steps: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return which columns are some cells away, as numbers in this crystal.

        Args:
            steps: Cells between a column and its neighbours [k, 2].
            labels: Sublattices of these neighbours, [k] or [n, k] or [n, 1].

        Returns:
            Numbers from 0 to n - 1, or -1 where the site is empty [n, k].
        """
        margin = abs(steps).max() + 1
        low = self.cell.min(axis=0) - margin
        shape = (*(self.cell.max(axis=0) - low + margin + 1), len(self.sites))
        holder = np.full(shape, -1)
        holder[(*(self.cell - low).T, self.label)] = np.arange(len(self.label))
        place = self.cell[:, None] - low + steps
        return holder[place[..., 0], place[..., 1], labels]


@dataclass(frozen=True)
class Sublattices:
    """The crystals of an image, the largest first."""

    crystals: list[Crystal]
    crystal: np.ndarray  # number of the crystal of each column, -1 for none [n]
    label: np.ndarray  # sublattice of each column, -1 for none [n]


@dataclass(frozen=True)
class _Bonds:
    """Steps from a site of one kind to its neighbours."""

    steps: np.ndarray  # cells [k, 2]
    labels: np.ndarray  # kinds of site [k]
    vectors: np.ndarray  # pixels [k, 2]


def find_sublattices(positions: np.ndarray, intensity: np.ndarray) -> Sublattices:
    """Return the crystals of an image and the sublattice of each column.

    A sublattice is a site of the average cell. Columns that no crystal explains have
    the label -1: between crystals, on interstitial places, or displaced by more than a
    quarter of the distance of nearest columns. Crystals have their own sublattices.

    Args:
        positions: ``(y, x)``, pixels [n, 2].
        intensity: Of each column, to tell the kinds apart; unit and sign do not matter.

    Raises:
        LatticeError: No part of the image has columns that repeat.

    Example:
        >>> import numpy as np
        >>> y, x = np.divmod(np.arange(100), 10)
        >>> kind = (y + x) % 2
        >>> found = find_sublattices(np.stack([8.0 * y, 8.0 * x], 1), 2.0 - kind)
        >>> len(found.crystals), bool((found.label == kind).all())
        (1, True)
    """
    crystals: list[Crystal] = []
    number = np.full(len(positions), -1)
    crystal, label = number.copy(), number.copy()
    least = _MIN_CRYSTAL
    left = np.arange(len(positions))
    while not crystals or len(left) >= least:
        try:
            found = _largest_part(positions[left], intensity[left])
        except LatticeError:
            if not crystals:
                raise
            break
        if crystals and len(found.columns) < least:
            break
        columns = left[found.columns]
        crystals.append(dataclasses.replace(found, columns=columns))
        least = max(least, int(_MIN_SHARE * len(columns)))
        left = np.setdiff1d(left, columns)
    crystals.sort(key=lambda found: -len(found.columns))
    for k, found in enumerate(crystals):
        crystal[found.columns], label[found.columns] = k, found.label
    return Sublattices(crystals, crystal, label)


def refit(crystal: Crystal, positions: np.ndarray, which: np.ndarray) -> Crystal:
    """Return the crystal with the lattice of some of its columns.

    Args:
        crystal: The crystal.
        positions: Of all columns of the table, pixels.
        which: Whether to use each column of the crystal [n].

    Raises:
        LatticeError: A sublattice has none of these columns, or they lie in one row.
    """
    label = crystal.label[which]
    missing = np.setdiff1d(np.arange(len(crystal.sites)), label)
    if len(missing):
        names = ", ".join(map(str, missing))
        raise LatticeError(
            f"sublattice {names} has no usable column there",
            wanted="a region with columns of each sublattice",
        )
    where, cell = positions[crystal.columns[which]], crystal.cell[which]
    return dataclasses.replace(crystal, **_fitted(where, label, cell))


def _fitted(
    positions: np.ndarray, label: np.ndarray, cell: np.ndarray
) -> dict[str, Any]:
    """Return the fields of a crystal that the fit of its lattice gives."""
    vectors, sites, rms, errors = fit_sites(positions, label, cell)
    return {"vectors": vectors, "sites": sites, "rms": rms, "vector_errors": errors}


def _largest_part(positions: np.ndarray, intensity: np.ndarray) -> Crystal:
    """Return the crystal that grows from the most regular part of the columns."""
    part, lattice = _regular_part(positions, intensity)
    nearest = _nearest_sites(lattice)
    # The middle of the part; the rest is assigned again by the growth.
    order = np.argsort(np.hypot(*(positions[part] - positions[part].mean(0)).T))
    seeds = [k for k in order if lattice.site[k] >= 0][: max(4, len(part) // 4)]
    fraction = positions[part][seeds] - lattice.sites[lattice.site[seeds]]
    cell = np.rint(fraction @ np.linalg.inv(lattice.vectors)).astype(int)
    start = part[seeds], lattice.site[seeds], cell
    label, cell = _grow(positions, lattice, start, _TOLERANCE * nearest)
    columns = np.flatnonzero(label >= 0)
    if not len(columns):
        raise LatticeError("neighbouring columns do not agree on one lattice")
    label, cell = label[columns], cell[columns]
    kinds, label = np.unique(label, return_inverse=True)
    values = [abs(intensity[columns[label == k]]) for k in range(len(kinds))]
    strength = [np.median(value) for value in values]
    label = np.argsort(np.argsort(strength)[::-1])[label]
    lattice = _fitted(positions[columns], label, cell)
    return Crystal(columns=columns, label=label, cell=cell, **lattice)


def _regular_part(
    positions: np.ndarray, intensity: np.ndarray
) -> tuple[np.ndarray, PlaneLattice]:
    """Return the columns of a small part of the image, and their lattice.

    Of the parts whose lattice explains about as many columns as the best one, it is
    the one with the smallest deviations.
    """
    if not len(positions):
        raise LatticeError("there are no columns")
    tree = cKDTree(positions)
    low, high = positions.min(axis=0), positions.max(axis=0)
    side = int(np.sqrt(_PARTS))
    middle = np.stack(np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2), -1)
    centres = low + middle.reshape(-1, 2) * (high - low)
    error = None
    for size in _PART_COLUMNS:
        found = []
        size = min(size, len(positions))
        for near in tree.query(centres, k=range(1, size + 1))[1]:
            part = np.sort(near)
            try:
                groups = intensity_groups(intensity[part])
                found.append((part, guess_lattice(positions[part], groups)))
            except LatticeError as reason:
                error = reason
        if found:
            share = np.array([np.mean(fit.site >= 0) for _, fit in found])
            rms = np.array([fit.rms / _nearest_sites(fit) for _, fit in found])
            rms[share < share.max() - _SHARE_MARGIN] = np.inf
            return found[rms.argmin()]
    raise error


def _nearest_sites(lattice: PlaneLattice) -> float:
    """Return the smallest distance of two sites of a lattice."""
    bonds = _bonds(lattice.vectors, lattice.sites)
    return min(np.hypot(*bond.vectors.T).min() for bond in bonds)


def _bonds(vectors: np.ndarray, sites: np.ndarray) -> list[_Bonds]:
    """Return the steps to the nearest neighbours, for each kind of site."""
    grid = np.arange(-3, 4)
    steps = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 1, 2)
    steps, labels = np.broadcast_arrays(steps, np.arange(len(sites))[None, :, None])
    steps, labels = steps.reshape(-1, 2), labels[..., 0].ravel()
    found = []
    for k, site in enumerate(sites):
        offset = steps @ vectors + sites[labels] - site
        # Sites may be given in different cells, so any whole number of cells is left.
        length = np.hypot(*offset.T)
        length[(labels == k) & ~steps.any(axis=1)] = np.inf
        near = length <= _SAME_LENGTH * np.sort(length)[_BONDS - 1]
        found.append(_Bonds(steps[near], labels[near], offset[near]))
    return found


def _grow(
    positions: np.ndarray,
    lattice: PlaneLattice,
    start: tuple[np.ndarray, np.ndarray, np.ndarray],
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the site of each column, -1 for none [n], and its cell [n, 2].

    ``start`` has some columns, their sites and cells. In each round, columns found
    last propose sites for the columns around them. A column takes a site on which at
    least two neighbours, and most of them, agree.
    """
    tree = cKDTree(positions)
    bonds = _bonds(lattice.vectors, lattice.sites)
    label = np.full(len(positions), -1)
    cell = np.zeros((len(positions), 2), dtype=np.int64)
    away = positions - positions[start[0][0]]
    span = np.rint(away @ np.linalg.inv(lattice.vectors))
    margin = 3 + (_GRID_MARGIN * np.ptp(span, axis=0)).astype(int)
    low = start[2][0] + span.min(axis=0).astype(int) - margin
    shape = (*(np.ptp(span, axis=0).astype(int) + 2 * margin + 1), len(bonds))
    taken = np.zeros(shape, dtype=bool).ravel()

    front = start[0]
    label[front], cell[front] = start[1:]
    taken[np.ravel_multi_index((*(cell[front] - low).T, label[front]), shape)] = True
    votes = np.empty((2, 0), dtype=np.int64)  # columns, and places in ``taken``
    while len(front):
        proposed = _proposals(tree, front, label, cell, bonds, tolerance)
        proposed[1:3] -= low[:, None]
        inside = (proposed[1:3] >= 0) & (proposed[1:3].T < shape[:2]).T
        column, *where = proposed[:, inside.all(axis=0)]
        place = np.ravel_multi_index(where, shape)
        votes = np.append(votes, [column, place], axis=1)
        votes = votes[:, (label[votes[0]] < 0) & ~taken[votes[1]]]
        front, place = _elected(votes)
        *index, label[front] = np.unravel_index(place, shape)
        cell[front] = np.stack(index, axis=1) + low
        taken[place] = True
    label[~_supported(tree, label, cell, bonds, tolerance)] = -1
    return label, cell


def _proposals(
    tree: cKDTree,
    front: np.ndarray,
    label: np.ndarray,
    cell: np.ndarray,
    bonds: list[_Bonds],
    tolerance: float,
) -> np.ndarray:
    """Return what some columns propose: columns, their cells (2) and sites [4, v]."""
    found = [np.empty((4, 0), dtype=np.int64)]
    for k, bond in enumerate(bonds):
        members = front[label[front] == k]
        goal = tree.data[members][:, None] + bond.vectors
        distance, column = tree.query(goal, distance_upper_bound=tolerance)
        hit = distance < np.inf
        cells = (cell[members][:, None] + bond.steps)[hit]
        sites = np.broadcast_to(bond.labels, hit.shape)[hit]
        found.append(np.stack([column[hit], *cells.T, sites]))
    return np.concatenate(found, axis=1)


def _elected(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and the places that most of their neighbours agree on."""
    pair, number = np.unique(votes, axis=1, return_counts=True)
    total = np.bincount(votes[0])
    good = (number >= _MIN_VOTES) & (2 * number > total[pair[0]])
    pair, number = pair[:, good], number[good]
    order = np.argsort(-number, kind="stable")
    # A place goes to the column with the most votes; a column has one such place.
    first = np.unique(pair[1, order], return_index=True)[1]
    return pair[0, order[first]], pair[1, order[first]]


def _supported(
    tree: cKDTree,
    label: np.ndarray,
    cell: np.ndarray,
    bonds: list[_Bonds],
    tolerance: float,
) -> np.ndarray:
    """Return whether enough of the columns around a column belong to its lattice [n].

    Rows that two crystals share would otherwise lead from one into the other.
    """
    while True:
        front = np.flatnonzero(label >= 0)
        column, row, place, site = _proposals(
            tree, front, label, cell, bonds, tolerance
        )
        right = (label[column] == site) & (cell[column, 0] == row)
        right &= cell[column, 1] == place
        agree = np.bincount(column[right], minlength=len(label))
        reach = np.array([np.hypot(*bond.vectors.T).max() for bond in bonds])
        around = np.ones(len(label), dtype=int)  # with the column itself
        around[front] = tree.query_ball_point(
            tree.data[front], reach[label[front]], return_length=True
        )
        good = agree >= _MIN_SUPPORT * (around - 1)
        lost = (label >= 0) & ~good
        if not lost.any():
            return label >= 0
        label = np.where(lost, -1, label)
