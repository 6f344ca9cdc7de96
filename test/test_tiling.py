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


"""Tiles: every pixel once, whatever the size; the result does not know the tiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppmat.predictor.tiling import FLIPS
from ppmat.predictor.tiling import iter_tiles
from ppmat.predictor.tiling import plan_axis
from ppmat.predictor.tiling import plan_tiles
from ppmat.predictor.tiling import ramp
from ppmat.predictor.tiling import run_tiles
from ppmat.predictor.tiling import with_flips


def sum_of_weights(axis, weights):
    """Return the sum of all tiles' weights at each pixel."""
    total = np.zeros(max(axis.length, axis.tile), dtype=np.float32)
    for start, row in zip(axis.starts, weights, strict=True):
        total[start : start + axis.tile] += row
    return total


def sloppy_weights(axis, overlap):
    """Broken twin: every tile falls to both sides over the least overlap."""
    up = ramp(overlap)
    row = np.ones(axis.tile, dtype=np.float32)
    row[:overlap] *= up
    row[axis.tile - overlap :] *= up[::-1]
    rows = np.tile(row, (len(axis.starts), 1))
    rows[0, :overlap] = 1.0
    rows[-1, axis.tile - overlap :] = 1.0
    return rows


axes = st.integers(1, 60).flatmap(
    lambda tile: st.tuples(
        st.integers(1, 500), st.just(tile), st.integers(0, tile // 2)
    )
)


@given(axes)
def test_weights_sum_to_one_exactly(numbers):
    length, tile, overlap = numbers
    axis = plan_axis(length, tile, overlap)
    assert (sum_of_weights(axis, axis.weights) == 1.0).all()
    assert axis.weights.min() >= 0.0
    assert axis.starts[0] == 0 and axis.starts[-1] == max(0, length - tile)
    shared = [tile - b + a for a, b in zip(axis.starts, axis.starts[1:])]
    assert all(overlap <= n < tile for n in shared)


def test_broken_twin_with_one_window_for_all_does_not_sum_to_one():
    axis = plan_axis(100, 32, 8)
    assert (sum_of_weights(axis, axis.weights) == 1.0).all()
    assert abs(sum_of_weights(axis, sloppy_weights(axis, 8)) - 1.0).max() > 0.3


def test_tiles_are_as_few_as_the_overlap_allows():
    assert plan_axis(4096, 256, 64).starts[:3] == (0, 192, 384)
    assert len(plan_axis(4096, 256, 64).starts) == 21
    assert len(plan_axis(1024, 256, 64).starts) == 5
    assert plan_axis(256, 256, 64).starts == (0,)
    assert plan_axis(257, 256, 64).starts == (0, 1)


def test_the_window_is_smooth_and_leaves_the_rim_out():
    up = ramp(64)
    assert up[0] < 1e-3 and 1 - up[-1] < 1e-3 and (np.diff(up) > 0).all()
    assert abs(np.diff(up, 2)).max() < 2 * (np.pi / 2 / 64) ** 2 * 1.01
    axis = plan_axis(257, 256, 64)  # nearly the same tile twice
    assert (axis.weights[1, :95] == 0).all() and (axis.weights[0, 161:] == 0).all()


@pytest.mark.parametrize(("tile", "overlap"), [(32, 17), (32, -1), (0, 0)])
def test_numbers_that_cannot_be_meant(tile, overlap):
    with pytest.raises(ValueError, match="wanted"):
        plan_axis(100, tile, overlap)


def position_sum(tiles):
    """A network that looks at one pixel at a time."""
    return 2.0 * tiles + 1.0


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([(16, 0), (16, 5), (16, 8), (31, 15)]),
    st.integers(1, 5),
)
def test_a_pixelwise_network_does_not_see_the_tiles(height, width, tiling, batch):
    image = np.random.default_rng(height).normal(size=(height, width)).astype("f4")
    plan = plan_tiles(height, width, *tiling)
    counted = []
    result = run_tiles(image, position_sum, plan, batch, on_tiles=counted.append)
    assert result.shape == image.shape and result.dtype == np.float32
    np.testing.assert_allclose(result, 2 * image + 1, atol=2e-6)
    assert sum(counted) == len(plan) and max(counted) <= batch


def blur(tiles):
    """A network that looks at the eight neighbours, round the edge of its tile."""
    rows = np.roll(tiles, 1, 2) + tiles + np.roll(tiles, -1, 2)
    return (np.roll(rows, 1, 3) + rows + np.roll(rows, -1, 3)) / 9


def test_what_wraps_round_a_tile_stays_in_its_rim():
    def seam(size, overlap):
        image = np.random.default_rng(0).normal(size=(size, size)).astype("f4")
        expected = blur(image[None, None])[0, 0]
        plan = plan_tiles(size, size, 64, overlap)
        assert len(plan) > 1 and plan.rows.starts[1] == 64 - overlap
        found = run_tiles(image, blur, plan)
        return abs(found - expected)[1:-1, 1:-1].max()

    # The outermost pixel of a tile has the weight sin^2(pi / 4m).
    assert seam(160, 16) < 0.01 and seam(160, 32) < 0.003
    assert seam(128, 0) > 0.3  # broken twin: butted tiles


def test_tiles_are_what_the_image_has_there():
    image = np.arange(20.0).reshape(4, 5)
    plan = plan_tiles(4, 5, 3, 1)
    tiles = list(iter_tiles(image, plan))
    assert len(tiles) == len(plan) == 4
    np.testing.assert_array_equal(tiles[3], image[1:, 2:])
    assert tiles[0].base is not None  # a view


def test_small_images_are_reflected_at_their_end():
    image = np.arange(6.0).reshape(2, 3)
    (tile,) = iter_tiles(image, plan_tiles(2, 3, 5, 2))
    np.testing.assert_array_equal(tile[0], [0, 1, 2, 1, 0])
    np.testing.assert_array_equal(tile[:, 0], [0, 3, 0, 3, 0])


def test_faults_of_image_and_network_are_told():
    plan = plan_tiles(8, 8, 4, 1)
    with pytest.raises(ValueError, match=r"\[8, 9\], but the plan is for \[8, 8\]"):
        run_tiles(np.zeros((8, 9)), position_sum, plan)
    with pytest.raises(ValueError, match="wanted the same shape"):
        run_tiles(np.zeros((8, 8)), lambda t: t[:, :, 1:], plan)


def test_flips_are_averaged_with_their_weights():
    assert sum(weight for _, weight in FLIPS) == pytest.approx(1.0)
    image = np.random.default_rng(1).normal(size=(1, 1, 6, 8)).astype("f4")

    def lean(tiles):  # looks at the left neighbour only
        return np.roll(tiles, 1, 3)

    found = with_flips(lean)(image)
    left, right = np.roll(image, 1, 3), np.roll(image, -1, 3)
    np.testing.assert_allclose(found, 0.6 * left + 0.4 * right, atol=1e-6)
    even = with_flips(blur)(image)
    np.testing.assert_allclose(even, blur(image), atol=1e-6)
