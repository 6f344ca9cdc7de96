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


"""Images in tiles: their places, how they are blended, bounded memory. Numpy only.

Along one axis of length ``L``, tiles of length ``T`` begin at evenly spread starts
``s_0 = 0 <= ... <= s_(n-1) = L - T``. Their number is the smallest with which
neighbours share at least ``V`` pixels: ``n = ceil((L - T) / (T - V)) + 1``. So no tile
goes beyond the image, and none is cut.

Neighbours ``i`` and ``i + 1`` are blended over ``m <= V`` pixels in the middle of the
pixels they share. With ``k = 0 .. m-1`` counting those pixels, the weight of tile
``i + 1`` is

    u_k = sin^2(pi/2 * (k + 1/2) / m),   and that of tile ``i`` is  1 - u_k,

a raised cosine. It is smooth at both ends, so the result has no step and no kink. Since
``u_k + u_(m-1-k) = 1``, both neighbours are treated alike. Outside of the ramps one
tile has the weight 1. Pixels of a tile beyond its ramps have the weight 0: at the rim,
the periodic Fourier transform of a tile mixes opposite edges.

Ramps of different neighbours do not meet, because ``m`` is at most the distance between
starts, and ``V <= T / 2``. So at most two weights are not zero at a pixel. The smaller
is stored as ``1 - larger``, which is exact in floating point for a number between 1/2
and 1 (Sterbenz lemma). Therefore the two sum to exactly one. In two dimensions weights
are products: tiles of a row are blended along the width into one strip, then strips
along the height, and each step keeps the exact sum.

An image shorter than the tile is reflected at its end up to the tile's length, and cut
again. Run at its own size instead, it would have another spectrum than in training:
with the orthonormal Fourier transform, the height of a lattice's peak grows as the
square root of the number of pixels, while noise stays. The normalisation layers in the
Fourier units were trained for one ratio of both. Zeros would create an edge that no
image has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError

TileRunner = Callable[[np.ndarray], np.ndarray]  # [B, 1, h, w] -> [B, 1, h, w]

TILE_SIZE = 256  # pixels of a tile's side, as in training
OVERLAP = 64  # pixels that neighbours share, a quarter of a tile
WINDOW = "raised cosine"  # name of the weights in records


def is_whole_number(value: Any, smallest: int) -> bool:
    """Return whether a value is an integer (not a bool) of at least ``smallest``."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and value >= smallest


def check_tiles(tile: int, overlap: int) -> None:
    """Check the side of tiles and their overlap, in pixels."""
    if not is_whole_number(tile, 1):
        raise InputError(f"tile_size is {tile!r}", wanted="at least 1 pixel")
    if not is_whole_number(overlap, 0) or overlap > tile // 2:
        raise InputError(
            f"overlap is {overlap!r}", wanted=f"0 to half a tile of {tile}, {tile // 2}"
        )


def ramp(length: int) -> np.ndarray:
    """Return the rising weights ``u_k``, float32; ``u + u[::-1] == 1`` exactly.

    Example:
        >>> ramp(3) + ramp(3)[::-1]
        array([1., 1., 1.], dtype=float32)
    """
    u = np.sin(np.pi / 2 * (np.arange(length) + 0.5) / max(length, 1)) ** 2
    u = u.astype(np.float32)
    half = length // 2
    if length % 2:
        u[half] = 0.5
    u[:half] = np.float32(1) - u[length - half :][::-1]
    return u


@dataclass(frozen=True)
class AxisTiles:
    """The tiles along one axis."""

    length: int  # pixels of the image
    tile: int  # pixels of a tile; more than ``length`` means reflection
    starts: tuple[int, ...]  # first pixel of each tile
    weights: np.ndarray = field(repr=False, compare=False)  # float32 [tiles, tile]

    @property
    def kept(self) -> int:
        """Pixels of a tile that lie in the image."""
        return min(self.length, self.tile)


def plan_axis(length: int, tile: int, overlap: int) -> AxisTiles:
    """Place tiles along an axis of ``length`` pixels.

    Neighbours share at least ``overlap`` pixels, at most half a tile.

    Example:
        >>> plan_axis(400, 256, 64).starts
        (0, 144)
    """
    check_tiles(tile, overlap)
    if length < 1:
        raise InputError(f"an axis of {length} pixels", wanted="at least 1")
    free = max(length - tile, 0)
    gaps = math.ceil(free / (tile - overlap))
    starts = tuple(round(i * free / gaps) for i in range(gaps)) + (free,)
    steps = np.diff(starts)
    width = overlap if gaps < 2 else min(overlap, int(steps.min()))
    weights = np.ones((gaps + 1, tile), dtype=np.float32)
    up = ramp(width)
    for i, step in enumerate(steps):
        shared = tile - int(step)
        first = (shared - width) // 2  # first pixel of the ramp in tile i + 1
        weights[i + 1, :first] = 0.0
        weights[i + 1, first : first + width] = up
        weights[i, step + first : step + first + width] = np.float32(1) - up
        weights[i, step + first + width :] = 0.0
    return AxisTiles(length, tile, starts, weights)


@dataclass(frozen=True)
class TilePlan:
    """How an image is cut into tiles and assembled from them."""

    rows: AxisTiles  # along the height
    columns: AxisTiles  # along the width

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a tile."""
        return self.rows.tile, self.columns.tile

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)


def plan_tiles(height: int, width: int, tile: int, overlap: int) -> TilePlan:
    """Return the plan of an image; see :func:`plan_axis`."""
    return TilePlan(plan_axis(height, tile, overlap), plan_axis(width, tile, overlap))


def iter_tiles(image: np.ndarray, plan: TilePlan) -> Iterator[np.ndarray]:
    """Yield the tiles ``[h, w]`` of an image row by row, from the upper left.

    A tile is a view of the image, unless it is reflected.
    """
    height, width = plan.tile
    short = height > image.shape[0] or width > image.shape[1]
    pad = [(0, max(0, t - n)) for t, n in zip(plan.tile, image.shape, strict=True)]
    for top in plan.rows.starts:
        for left in plan.columns.starts:
            piece = image[top : top + height, left : left + width]
            yield np.pad(piece, pad, mode="reflect") if short else piece


def run_tiles(
    image: np.ndarray,
    run: TileRunner,
    plan: TilePlan,
    batch_size: int = 1,
    on_tiles: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Run an image through a network tile by tile.

    Memory holds the image, the result, one batch of tiles, and one strip of the width
    of the image and the height of a tile.

    Args:
        image: ``[H, W]`` in the network's grey levels.
        run: float32 ``[B, 1, h, w]`` to the same shape; the last batch may be smaller.
        plan: From :func:`plan_tiles` for this height and width.
        batch_size: Tiles given to ``run`` at once.
        on_tiles: Called with the number of tiles of each finished batch.

    Returns:
        float32 ``[H, W]``.
    """
    rows, columns = plan.rows, plan.columns
    if image.shape != (rows.length, columns.length):
        raise InputError(
            f"the image is {list(image.shape)}, but the plan is for "
            f"{[rows.length, columns.length]}"
        )
    out = np.zeros(image.shape, dtype=np.float32)
    strip = np.zeros((rows.kept, columns.length), dtype=np.float32)
    number = 0
    for batch in _batches(iter_tiles(image, plan), batch_size):
        result = np.asarray(run(batch))
        if result.shape != batch.shape:
            raise InputError(
                f"the network turned tiles {list(batch.shape)} into "
                f"{list(result.shape)}",
                wanted="the same shape",
            )
        for tile in result[:, 0]:
            i, j = divmod(number, len(columns.starts))
            left, kept = columns.starts[j], columns.kept
            piece = tile[: rows.kept, :kept] * columns.weights[j, :kept]
            strip[:, left : left + kept] += piece
            if j == len(columns.starts) - 1:
                strip *= rows.weights[i, : rows.kept, None]
                out[rows.starts[i] : rows.starts[i] + rows.kept] += strip
                strip[...] = 0.0
            number += 1
        if on_tiles is not None:
            on_tiles(len(batch))
    return out


def _batches(tiles: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield float32 ``[B, 1, h, w]`` of up to ``size`` tiles."""
    while batch := list(itertools.islice(tiles, size)):
        yield np.stack(batch).astype(np.float32, copy=False)[:, None]


# Flipped axes of [B, 1, h, w], and weight. The weights were tuned on a related network,
# where they gained 0.5 dB. No transposes: scan noise has a direction.
FLIPS: tuple[tuple[tuple[int, ...], float], ...] = (
    ((), 0.4),
    ((3,), 0.2),
    ((2,), 0.2),
    ((2, 3), 0.2),
)


def with_flips(run: TileRunner) -> TileRunner:
    """Return a runner that averages over the flips of a tile; four times the work."""

    def run_flips(tiles: np.ndarray) -> np.ndarray:
        total = np.zeros(tiles.shape, dtype=np.float32)
        for axes, weight in FLIPS:
            flipped = np.ascontiguousarray(np.flip(tiles, axes))
            total += np.float32(weight) * np.flip(run(flipped), axes)
        return total

    return run_flips
