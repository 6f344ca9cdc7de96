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


"""Compare found columns with true ones: which are the same, and how far apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class Match:
    """Found columns beside true ones.

    Attributes:
        found: Index into the found columns of each pair [n].
        true: Index into the true columns of each pair [n].
        offset: Found minus true position ``(y, x)`` of each pair, pixels [n, 2].
        missed: Index of each true column that counts and was not found.
        extra: Index of each found column that counts and is none.
    """

    found: np.ndarray
    true: np.ndarray
    offset: np.ndarray
    missed: np.ndarray
    extra: np.ndarray

    @property
    def precision(self) -> float:
        """Share of the found columns that are real; 1 if nothing was found."""
        return _share(len(self.found), len(self.extra))

    @property
    def recall(self) -> float:
        """Share of the true columns that were found; 1 if there are none."""
        return _share(len(self.true), len(self.missed))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        pairs = len(self.found)
        wrong = len(self.extra) + len(self.missed)
        return 2 * pairs / (2 * pairs + wrong) if pairs + wrong else 1.0

    @property
    def rms(self) -> float:
        """Root of the mean squared distance of the pairs, pixels; NaN without pairs."""
        return _root_mean(np.sum(self.offset**2, axis=1))

    @property
    def median(self) -> float:
        """Median distance of the pairs, pixels; NaN without pairs."""
        distance = np.hypot(*self.offset.T)
        return float(np.median(distance)) if len(distance) else float("nan")


def match_columns(
    found: Any,
    true: Any,
    radius: float,
    shape: tuple[int, int] | None = None,
    border: float = 0.0,
) -> Match:
    """Pair found columns with true ones, nearest pairs first, each used once.

    A column in the border neither counts as missed nor as extra, and a pair only if its
    true column is inside.

    Args:
        found: Positions ``(y, x)`` in pixels [n, 2], or an object with ``y`` and ``x``.
        true: Likewise.
        radius: Largest distance of a pair, pixels; below half the shortest distance of
            true columns pairs are unique.
        shape: ``(H, W)`` of the image, needed for a border.
        border: Width of the rim of the image that does not count, pixels.

    Raises:
        ValueError: The arguments cannot be meant.
    """
    found, true = positions_of(found, "found"), positions_of(true, "true")
    if not radius > 0:
        raise ValueError(f"radius is {radius!r}; wanted pixels above 0")
    if border and shape is None:
        raise ValueError("border needs the shape (H, W) of the image")
    near = cKDTree(found).sparse_distance_matrix(
        cKDTree(true), radius, output_type="ndarray"
    )
    near = near[np.lexsort((near["j"], near["i"], near["v"]))]
    of_found = np.full(len(found), -1)
    of_true = np.full(len(true), -1)
    for i, j in zip(near["i"].tolist(), near["j"].tolist()):
        if of_found[i] < 0 and of_true[j] < 0:
            of_found[i], of_true[j] = j, i
    counts_found = _inside(found, shape, border)
    counts_true = _inside(true, shape, border)
    (paired,) = np.nonzero((of_true >= 0) & counts_true)
    return Match(
        found=of_true[paired],
        true=paired,
        offset=found[of_true[paired]] - true[paired],
        missed=np.nonzero((of_true < 0) & counts_true)[0],
        extra=np.nonzero((of_found < 0) & counts_found)[0],
    )


def positions_of(columns: Any, name: str = "columns") -> np.ndarray:
    """Return ``(y, x)`` [n, 2], float64, of an array or an object with y and x.

    Raises:
        ValueError: No such array, or positions that are not finite.
    """
    if hasattr(columns, "y") and hasattr(columns, "x"):
        columns = np.stack([np.asarray(columns.y), np.asarray(columns.x)], axis=-1)
    positions = np.asarray(columns, dtype=np.float64)
    if positions.size == 0:
        return positions.reshape(0, 2)
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(
            f"{name} has shape {list(positions.shape)}; wanted positions (y, x) [n, 2] "
            "or an object with y and x"
        )
    if not np.isfinite(positions).all():
        raise ValueError(f"{name} holds positions that are NaN or infinite")
    return positions


def _inside(
    positions: np.ndarray, shape: tuple[int, int] | None, border: float
) -> np.ndarray:
    if shape is None:
        return np.ones(len(positions), dtype=bool)
    last = np.array(shape) - 1.0
    return np.all((positions >= border) & (positions <= last - border), axis=1)


def _share(pairs: int, others: int) -> float:
    return pairs / (pairs + others) if pairs + others else 1.0


def _root_mean(squares: np.ndarray) -> float:
    return float(np.sqrt(np.mean(squares))) if len(squares) else float("nan")
