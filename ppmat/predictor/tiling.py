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


"""Images in tiles: where they lie, how they are blended, bounded memory. Numpy only.

Along one axis of length ``L``, tiles of length ``T`` stand at evenly spread starts
``s_0 = 0 <= ... <= s_(n-1) = L - T``, as few as let neighbours share at least ``V``
pixels: ``n = ceil((L - T) / (T - V)) + 1``. So no tile sticks out, and none is cut.

Neighbours ``i`` and ``i + 1`` are blended over ``m <= V`` pixels in the middle of what
they share. With ``k = 0 .. m-1`` counting those pixels, the weight of tile ``i + 1`` is

    u_k = sin^2(pi/2 * (k + 1/2) / m),   and that of tile ``i`` is  1 - u_k,

a raised cosine. It is smooth at both ends (no step and no kink in the result), and
``u_k + u_(m-1-k) = 1``, so both neighbours are treated alike. Outside of the ramps one
tile counts alone; what a tile holds beyond them, at its rim, counts not at all, which
is where the periodic Fourier transform of a tile sees its opposite edge. Ramps of
different neighbours do not meet: ``m`` is at most the distance between starts, and
``V <= T / 2``. So at most two weights are not zero at a pixel. The smaller is stored as
``1 - larger``, which is exact in floating point for a number between 1/2 and 1
(Sterbenz), therefore the two sum to one exactly, not only up to rounding. In two
dimensions weights are products; rows of tiles are blended along the width into one
strip, then strips along the height, so each step keeps the exact sum.

An image that is shorter than the tile is reflected at its end up to the tile's
length, and cut off again. Run at its own size instead it would give the network
another spectrum than in training: with the orthonormal Fourier transform the height of
a lattice's peak grows as the square root of the number of pixels while noise stays,
and the normalisation layers in the Fourier units know one ratio. Zeros would put an
edge into the tile that no micrograph has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field

import numpy as np

TileRunner = Callable[[np.ndarray], np.ndarray]  # [B, 1, h, w] -> [B, 1, h, w]

WINDOW = "raised cosine"


def ramp(length: int) -> np.ndarray:
    """Return the rising weights ``u_k`` of the module's text.

    Args:
        length: Pixels of the ramp, 0 or more.

    Returns:
        float32 ``[length]``; ``u + u[::-1] == 1`` without rounding.
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
    """The tiles along one axis.

    Attributes:
        length: Pixels of the image.
        tile: Pixels of a tile; more than ``length`` means reflection.
        starts: First pixel of each tile.
        weights: float32 ``[tiles, tile]``; see the module's text.
    """

    length: int
    tile: int
    starts: tuple[int, ...]
    weights: np.ndarray = field(repr=False, compare=False)

    @property
    def kept(self) -> int:
        """Pixels of a tile that lie in the image."""
        return min(self.length, self.tile)


def plan_axis(length: int, tile: int, overlap: int) -> AxisTiles:
    """Place tiles along an axis.

    Args:
        length: Pixels of the image.
        tile: Pixels of a tile.
        overlap: Least number of pixels neighbours share, at most half a tile.

    Raises:
        ValueError: Numbers that cannot be meant.
    """
    if length < 1 or tile < 1:
        raise ValueError(
            f"an axis of {length} pixels in tiles of {tile}: wanted at least 1 and 1"
        )
    if not 0 <= overlap <= tile // 2:
        raise ValueError(
            f"overlap is {overlap}, wanted 0 to half a tile of {tile}, {tile // 2}"
        )
    free = max(length - tile, 0)
    gaps = math.ceil(free / (tile - overlap))
    starts = tuple(round(i * free / gaps) for i in range(gaps)) + (free,)
    steps = np.diff(starts)
    width = overlap if gaps < 2 else min(overlap, int(steps.min()))
    weights = np.ones((gaps + 1, tile), dtype=np.float32)
    up = ramp(width)
    for i, step in enumerate(steps):
        shared = tile - int(step)
        first = (shared - width) // 2  # of the ramp, counted in tile i + 1
        weights[i + 1, :first] = 0.0
        weights[i + 1, first : first + width] = up
        weights[i, step + first : step + first + width] = np.float32(1) - up
        weights[i, step + first + width :] = 0.0
    return AxisTiles(length, tile, starts, weights)


@dataclass(frozen=True)
class TilePlan:
    """How an image is cut and put together.

    Attributes:
        rows: Tiles along the height.
        columns: Tiles along the width.
    """

    rows: AxisTiles
    columns: AxisTiles

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

    A tile is a view of the image where that is possible.
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
    out: np.ndarray | None = None,
    on_tiles: Callable[[int], None] = lambda number: None,
) -> np.ndarray:
    """Run an image through a network tile by tile.

    Beside image and result, one batch of tiles and one strip of the width of the image
    and the height of a tile are in memory.

    Args:
        image: ``[H, W]`` in the network's grey levels.
        run: float32 ``[B, 1, h, w]`` to the same shape; the last batch may be smaller.
        plan: From :func:`plan_tiles` for this height and width.
        batch_size: Tiles given to ``run`` at once.
        out: Where to put the result; a new float32 array when None.
        on_tiles: Called with the number of tiles that were just done.

    Returns:
        ``[H, W]``, float32 or ``out``.

    Raises:
        ValueError: ``image`` is not of the plan's size, or ``run`` changes the shape.
    """
    rows, columns = plan.rows, plan.columns
    if image.shape != (rows.length, columns.length):
        raise ValueError(
            f"the image is {list(image.shape)}, but the plan is for "
            f"{[rows.length, columns.length]}"
        )
    if out is None:
        out = np.empty(image.shape, dtype=np.float32)
    out[...] = 0.0
    strip = np.zeros((rows.kept, columns.length), dtype=np.float32)
    number = 0
    for batch in _batches(iter_tiles(image, plan), batch_size):
        result = np.asarray(run(batch))
        if result.shape != batch.shape:
            raise ValueError(
                f"the network turned tiles {list(batch.shape)} into "
                f"{list(result.shape)}, wanted the same shape"
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
        on_tiles(len(batch))
    return out


def _batches(tiles: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield float32 ``[B, 1, h, w]`` of up to ``size`` tiles."""
    held: list[np.ndarray] = []
    for tile in tiles:
        held.append(tile)
        if len(held) == size:
            yield np.stack(held).astype(np.float32, copy=False)[:, None]
            held = []
    if held:
        yield np.stack(held).astype(np.float32, copy=False)[:, None]


# Flips ----------------------------------------------------------------------------

# Axes that are turned round, of [B, 1, h, w], and weight. Weights as in the tuning of a
# sibling network (+0.5 dB there). No transposes: scan noise has a direction.
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
