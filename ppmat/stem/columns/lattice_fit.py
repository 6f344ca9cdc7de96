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

"""The two-dimensional lattice of a set of columns, and groups of equal intensity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ppmat.utils.errors import InputError

_NEIGHBOURS = 24  # nearest columns whose differences may be lattice vectors
_TOLERANCE = 0.25  # of the distance of nearest neighbours; larger shifts are no match
_MIN_TRANSLATED = 0.7  # share of columns with a partner one lattice vector away
_MIN_ON_SITES = 0.7  # share of columns on sites that repeat
_MIN_COLUMNS = 9
_MAX_GROUPS = 4
_MIN_INTENSITY = 0.05  # of the median; smaller values are raised to this
_MIN_EVIDENCE = 6.0  # fall of the information criterion for one more group ("strong")
_SETTLED = 1e-5  # of the spread; smaller steps of the centres end the iteration
_ROUNDS = 4  # of assigning columns to sites and fitting the lattice


class LatticeError(InputError):
    """Positions that form no lattice."""


@dataclass(frozen=True)
class PlaneLattice:
    """A lattice in the plane of the image."""

    vectors: np.ndarray  # lattice vectors (y, x) as rows, pixels [2, 2], shortest first
    sites: np.ndarray  # positions (y, x) of the sites of one cell, pixels [m, 2]
    site: np.ndarray  # site of each column, -1 for none [n]
    rms: float  # root mean square distance of columns to their sites, pixels
    vector_errors: np.ndarray  # standard errors of ``vectors``, pixels [2, 2]
    # Whether lattice vectors join columns of the same intensity group. If False, no
    # vectors do, and the groups were ignored.
    by_intensity: bool


def intensity_groups(intensity: np.ndarray) -> np.ndarray:
    """Return the group of each column by its intensity, 0 for the strongest [n].

    The logarithms are fitted by a mixture of Gaussians with one width, since the
    scatter of equal columns is a fraction of their intensity. The Bayesian information
    criterion gives the number of groups, at most 4. A group is no element: its columns
    only look alike. Units and sign of the intensities do not matter.

    Example:
        >>> import numpy as np
        >>> intensity_groups(np.array([9, 3, 3.1, 9.2, 2.9, 9.1, 3, 8.9])).tolist()
        [0, 1, 1, 0, 1, 0, 1, 0]
    """
    values = np.abs(np.asarray(intensity, dtype=np.float64))
    if len(values):
        values = np.log(np.maximum(values, _MIN_INTENSITY * np.median(values) or 1.0))
    best, groups = np.inf, np.zeros(len(values), dtype=int)
    for count in range(1, _MAX_GROUPS + 1):
        if len(values) < 4 * count or np.ptp(values) == 0:
            break
        criterion, found = _mixture(values, count)
        if criterion < best - _MIN_EVIDENCE:
            best, groups = criterion, found
    order = np.argsort([-values[groups == g].mean() for g in range(groups.max() + 1)])
    return np.argsort(order)[groups] if len(values) else groups


def _mixture(values: np.ndarray, count: int) -> tuple[float, np.ndarray]:
    """Return the information criterion and the groups of a mixture of Gaussians."""
    centre = np.quantile(values, (np.arange(count) + 0.5) / count)
    spread = np.ptp(values)
    centre = centre + 1e-9 * np.arange(count) * spread
    width, share = np.std(values) / count, np.full(count, 1 / count)
    for _ in range(100):
        log = np.log(share) - 0.5 * ((values[:, None] - centre) / width) ** 2
        top = log.max(axis=1, keepdims=True)
        part = np.exp(log - top)
        likelihood = part.sum(axis=1)
        part /= likelihood[:, None]
        weight = np.maximum(part.sum(axis=0), 1e-9)
        share = weight / len(values)
        before, centre = centre, part.T @ values / weight
        square = np.sum(part * (values[:, None] - centre) ** 2)
        width = max(np.sqrt(square / len(values)), 1e-6 * spread)
        if abs(centre - before).max() < _SETTLED * spread:
            break
    total = np.sum(np.log(likelihood) + top[:, 0]) - len(values) * np.log(width)
    groups = np.unique(part.argmax(axis=1), return_inverse=True)[1]
    return -2 * total + 2 * count * np.log(len(values)), groups


def guess_lattice(positions: np.ndarray, groups: np.ndarray) -> PlaneLattice:
    """Return the lattice of columns.

    A lattice vector is a difference of two columns that leads from most columns to
    another of the same group. The shortest two that are not parallel are refined with
    the sites by least squares. If the groups form no lattice, as in alloys with random
    heights, all columns count as one group.

    Args:
        positions: ``(y, x)``, pixels [n, 2].
        groups: Group of each column, see :func:`intensity_groups` [n].

    Raises:
        LatticeError: There are too few columns, or they do not repeat.
    """
    if len(positions) < _MIN_COLUMNS:
        raise LatticeError(
            f"{len(positions)} columns, too few for a lattice",
            wanted=f"at least {_MIN_COLUMNS}",
        )
    try:
        return _lattice(positions, groups, True)
    except LatticeError:
        if not np.ptp(groups):
            raise
    return _lattice(positions, np.zeros(len(positions), dtype=int), False)


def _lattice(
    positions: np.ndarray, groups: np.ndarray, by_intensity: bool
) -> PlaneLattice:
    tree = cKDTree(positions)
    nearest = float(np.median(tree.query(positions, k=2)[0][:, 1]))
    tolerance = _TOLERANCE * nearest
    vectors = _translations(positions, groups, tree, tolerance)
    for _ in range(_ROUNDS):
        sites, site, index = _sites(positions, vectors, tolerance)
        vectors, sites, rms, errors = fit_sites(positions, site, index)
    explained = np.mean(site >= 0)
    if explained < _MIN_ON_SITES:
        raise LatticeError(
            f"only {explained:.0%} of {len(positions)} columns are on sites that "
            "repeat: the columns form no lattice, or more than one (a grain boundary); "
            "select the columns of one grain first"
        )
    return PlaneLattice(vectors, sites, site, rms, errors, by_intensity)


def _translations(
    positions: np.ndarray, groups: np.ndarray, tree: cKDTree, tolerance: float
) -> np.ndarray:
    """Return the two shortest differences [2, 2] that lead to columns of one group."""
    count = min(_NEIGHBOURS, len(positions) - 1)
    _, near = tree.query(positions, k=count + 1)
    origin = np.repeat(np.arange(len(positions)), count)
    partner = near[:, 1:].ravel()
    alike = groups[origin] == groups[partner]
    steps = (positions[partner] - positions[origin])[alike]
    low, high = positions.min(axis=0), positions.max(axis=0)
    candidates = _clusters(steps, tolerance)
    first = None
    for step in candidates[np.argsort(np.hypot(*candidates.T))]:
        target = positions + step
        inside = np.all((target >= low) & (target <= high), axis=1)
        if inside.sum() < max(4, 0.1 * len(positions)):
            continue
        distance, where = tree.query(target[inside])
        same = groups[where] == groups[inside]
        if np.mean((distance < tolerance) & same) < _MIN_TRANSLATED:
            continue
        if first is None:
            first = step
        sine = abs(step[0] * first[1] - step[1] * first[0])
        if sine > 0.3 * np.hypot(*step) * np.hypot(*first):
            return np.array([first, step])
    what = "no translation leads"
    if first is not None:
        what = "translations along one line only lead"
    raise LatticeError(
        f"{what} from {_MIN_TRANSLATED:.0%} of the {len(positions)} columns to others, "
        "of whatever intensity, so they form no lattice",
        wanted="one crystal of which most columns were found",
    )


def _clusters(steps: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the centres of clusters of vectors, one of each pair +-v [m, 2]."""
    up = (steps[:, 0] > 0) | ((steps[:, 0] == 0) & (steps[:, 1] > 0))
    steps = np.concatenate([steps[up], -steps[~up]])
    left = np.ones(len(steps), dtype=bool)
    tree = cKDTree(steps)
    number = tree.query_ball_point(steps, tolerance, return_length=True)
    centres = []
    for i in np.argsort(-number, kind="stable"):
        if left[i] and number[i] >= 4:
            near = tree.query_ball_point(steps[i], tolerance)
            centres.append(np.median(steps[near], axis=0))
            left[tree.query_ball_point(steps[i], 2 * tolerance)] = False
    return np.array(centres).reshape(-1, 2)


def _sites(
    positions: np.ndarray, vectors: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sites [m, 2], the site of each column [n] and its cell [n, 2].

    Columns of different groups can be on one site, since noise or missing atoms change
    the group of some columns. A site has at least a fifth of the columns of the site
    with the most.
    """
    # From the middle: errors of the vectors add up over half the image only.
    middle = positions[np.argmin(np.hypot(*(positions - positions.mean(0)).T))]
    fraction = (positions - middle) @ np.linalg.inv(vectors)
    site = np.full(len(positions), -1)
    sites: list = []
    index = np.zeros((len(positions), 2), dtype=int)
    for start in np.argsort(np.hypot(*(positions - middle).T)):
        if site[start] >= 0:
            continue
        centre = fraction[start] - np.floor(fraction[start])
        for _ in range(2):
            off = fraction - centre
            off -= np.rint(off)
            near = (np.hypot(*(off @ vectors).T) < tolerance) & (site < 0)
            centre = centre + off[near].mean(axis=0)
        if near.any():
            site[near] = len(sites)
            index[near] = np.rint(fraction[near] - centre).astype(int)
            sites.append(middle + centre @ vectors)
    counts = np.bincount(site[site >= 0], minlength=len(sites))
    real = counts >= max(2, 0.2 * counts.max())
    number = np.where(real, np.cumsum(real) - 1, -1)
    site = np.where(site >= 0, number[site], -1)
    return np.array(sites)[real], site, index


def fit_sites(
    positions: np.ndarray, site: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Return the least-squares lattice of columns with known sites and cells.

    Args:
        positions: ``(y, x)``, pixels [n, 2].
        site: Site of each column, -1 leaves it out [n].
        index: Cell of each column [n, 2].

    Returns:
        Lattice vectors [2, 2], sites in cell (0, 0) [m, 2], root mean square distance
        of columns to their sites, standard errors of the vectors [2, 2].

    Raises:
        LatticeError: The columns lie in one row.
    """
    use = site >= 0
    count = site.max() + 1
    design = np.zeros((use.sum(), 2 + count))
    design[:, :2] = index[use]
    design[np.arange(use.sum()), 2 + site[use]] = 1.0
    found, _, rank, _ = np.linalg.lstsq(design, positions[use], rcond=None)
    if rank < design.shape[1]:
        raise LatticeError("the columns on repeating sites lie in one row")
    off = positions[use] - design @ found
    free = max(len(off) - design.shape[1], 1)
    inverse = np.linalg.inv(design.T @ design)
    errors = np.sqrt(np.outer(np.diag(inverse), np.sum(off**2, axis=0) / free))
    rms = float(np.sqrt(np.mean(np.sum(off**2, axis=1))))
    return found[:2], found[2:], rms, errors[:2]
