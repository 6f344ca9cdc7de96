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

"""Compare found columns with true ones: pairs, distances, precision, recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ppmat.utils.errors import InputError


@dataclass(frozen=True)
class Match:
    """Pairs of found and true columns."""

    found: np.ndarray  # index of the found column of each pair [n]
    true: np.ndarray  # index of the true column of each pair [n]
    offset: np.ndarray  # found minus true position (y, x) of each pair, pixels [n, 2]
    missed: np.ndarray  # indices of true columns without a pair, outside the border
    extra: np.ndarray  # indices of found columns without a pair, outside the border

    @property
    def precision(self) -> float:
        """Share of found columns that are true; 1 if nothing was found."""
        return _share(len(self.found), len(self.extra))

    @property
    def recall(self) -> float:
        """Share of true columns that were found; 1 if there are none."""
        return _share(len(self.true), len(self.missed))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        pairs = len(self.found)
        wrong = len(self.extra) + len(self.missed)
        return 2 * pairs / (2 * pairs + wrong) if pairs + wrong else 1.0

    @property
    def rms(self) -> float:
        """Root mean square distance of the pairs, pixels; NaN without pairs."""
        squares = np.sum(self.offset**2, axis=1)
        return float(np.sqrt(np.mean(squares))) if len(squares) else np.nan

    @property
    def median(self) -> float:
        """Median distance of the pairs, pixels; NaN without pairs."""
        distance = np.hypot(*self.offset.T)
        return float(np.median(distance)) if len(distance) else np.nan


def match_columns(
    found: Any,
    true: Any,
    radius: float,
    shape: tuple[int, int] | None = None,
    border: float = 0.0,
) -> Match:
    """Pair found columns with true ones, the nearest pairs first, each column once.

    Columns in the border are neither missed nor extra. A pair counts if its true column
    is outside the border.

    Args:
        found: Positions ``(y, x)``, pixels [n, 2], or an object with ``y`` and ``x``.
        true: The same for true columns.
        radius: Largest distance of a pair, pixels. Below half the shortest distance of
            true columns, pairs are unique.
        shape: ``(H, W)`` of the image, needed for a border.
        border: Width of the border of the image that does not count, pixels.

    Raises:
        InputError: An argument is not legal.

    Example:
        >>> match = match_columns([[5.0, 5.0], [9.0, 1.0]], [[5.0, 6.0]], radius=2.0)
        >>> match.precision, match.recall, match.offset.tolist()
        (0.5, 1.0, [[0.0, -1.0]])
    """
    found, true = _positions(found, "found"), _positions(true, "true")
    if not radius > 0:
        raise InputError(f"radius is {radius!r}", wanted="pixels above 0")
    if border and shape is None:
        raise InputError("border needs the shape (H, W) of the image")
    trees = cKDTree(found), cKDTree(true)
    near = trees[0].sparse_distance_matrix(trees[1], radius, output_type="ndarray")
    near = near[np.lexsort((near["j"], near["i"], near["v"]))]
    of_found, of_true = np.full(len(found), -1), np.full(len(true), -1)
    for i, j in zip(near["i"].tolist(), near["j"].tolist()):
        if of_found[i] < 0 and of_true[j] < 0:
            of_found[i], of_true[j] = j, i
    inside = _inside(true, shape, border)
    (paired,) = np.nonzero((of_true >= 0) & inside)
    return Match(
        found=of_true[paired],
        true=paired,
        offset=found[of_true[paired]] - true[paired],
        missed=np.nonzero((of_true < 0) & inside)[0],
        extra=np.nonzero((of_found < 0) & _inside(found, shape, border))[0],
    )


def _positions(columns: Any, name: str) -> np.ndarray:
    """Return ``(y, x)`` [n, 2], float64, of an array or an object with y and x."""
    if hasattr(columns, "y") and hasattr(columns, "x"):
        columns = np.stack([np.asarray(columns.y), np.asarray(columns.x)], axis=-1)
    positions = np.asarray(columns, dtype=np.float64)
    if positions.size == 0:
        return positions.reshape(0, 2)
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise InputError(
            f"{name} has shape {list(positions.shape)}",
            wanted="positions (y, x) [n, 2] or an object with y and x",
        )
    if not np.isfinite(positions).all():
        raise InputError(f"{name} has positions that are NaN or infinite")
    return positions


def _inside(
    positions: np.ndarray, shape: tuple[int, int] | None, border: float
) -> np.ndarray:
    """Return the mask of positions outside the border [n]."""
    if shape is None:
        return np.ones(len(positions), dtype=bool)
    last = np.array(shape) - 1.0
    return np.all((positions >= border) & (positions <= last - border), axis=1)


def _share(pairs: int, others: int) -> float:
    return pairs / (pairs + others) if pairs + others else 1.0
