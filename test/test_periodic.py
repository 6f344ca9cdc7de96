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

"""Tests of :mod:`ppmat.utils.periodic`."""

import itertools

import numpy as np
import pytest

from ppmat.utils.periodic import check_cell_size
from ppmat.utils.periodic import empty_layers
from ppmat.utils.periodic import minimum_image
from ppmat.utils.periodic import reduce_cell
from ppmat.utils.periodic import vacuum
from ppmat.utils.periodic import wrap_far


def skewed_cell(rng):
    """Return a compact cell and a skewed basis of the same lattice."""
    while True:
        compact = rng.normal(size=(3, 3))
        compact *= (
            rng.uniform(3, 8, size=(3, 1)) / np.linalg.norm(compact, axis=1)[:, None]
        )
        if abs(np.linalg.det(compact)) > 0.3 * np.linalg.norm(compact, axis=1).prod():
            break
    unimodular = np.eye(3, dtype=int)
    for _ in range(rng.integers(1, 5)):
        i, j = rng.choice(3, size=2, replace=False)
        unimodular[i] += rng.integers(-4, 5) * unimodular[j]
    return compact, unimodular @ compact


def brute_force_length(vectors, compact):
    """Return the smallest length over all images that could be the shortest."""
    vectors = vectors - np.rint(vectors @ np.linalg.inv(compact)) @ compact
    heights = 1 / np.linalg.norm(np.linalg.inv(compact), axis=0)
    # An image further than the vector itself cannot be shorter than it.
    reach = 2 * np.linalg.norm(vectors, axis=1).max()
    sizes = [range(-n, n + 1) for n in np.ceil(reach / heights).astype(int)]
    shifts = np.array(list(itertools.product(*sizes))) @ compact
    return np.array([np.linalg.norm(v + shifts, axis=1).min() for v in vectors])


def rounded(vectors, cell):
    """The broken twin: rounding fractional coordinates of the basis as given."""
    return vectors - np.rint(vectors @ np.linalg.inv(cell)) @ cell


def excess(function, trials=60):
    """Return by how much the images of ``function`` exceed the shortest ones, Å."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(trials):
        compact, cell = skewed_cell(rng)
        vectors = rng.normal(size=(10, 3)) * 20
        lengths = np.linalg.norm(function(vectors, cell), axis=1)
        worst = max(worst, (lengths - brute_force_length(vectors, compact)).max())
    return worst


def test_shortest_of_all_images():
    assert excess(minimum_image) < 1e-9


def test_rounding_alone_fails_on_skewed_cells():
    assert excess(rounded) > 1.0


def test_rounding_of_a_reduced_cell_still_fails():
    assert excess(lambda vectors, cell: rounded(vectors, reduce_cell(cell))) > 0.1


def test_images_differ_by_lattice_vectors():
    rng = np.random.default_rng(1)
    for _ in range(20):
        _, cell = skewed_cell(rng)
        vectors = rng.normal(size=(10, 3)) * 20
        steps = (minimum_image(vectors, cell) - vectors) @ np.linalg.inv(cell)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)


def test_independent_of_the_basis():
    rng = np.random.default_rng(2)
    compact, cell = skewed_cell(rng)
    vectors = rng.normal(size=(50, 3)) * 10
    np.testing.assert_allclose(
        minimum_image(vectors, cell), minimum_image(vectors, compact), atol=1e-9
    )


def test_reduced_cell_spans_the_same_lattice():
    rng = np.random.default_rng(3)
    for _ in range(50):
        compact, cell = skewed_cell(rng)
        reduced = reduce_cell(cell)
        relation = reduced @ np.linalg.inv(compact)
        np.testing.assert_allclose(relation, np.rint(relation), atol=1e-8)
        assert abs(abs(np.linalg.det(relation)) - 1) < 1e-8
        lengths = np.linalg.norm(reduced, axis=1)
        assert (np.diff(lengths) >= -1e-9).all()
        # Minkowski: no combination with -1, 0, 1 shortens a longer vector.
        for x, y in itertools.product((-1, 0, 1), repeat=2):
            third = reduced[2] + x * reduced[0] + y * reduced[1]
            assert np.linalg.norm(third) >= lengths[2] - 1e-9


def test_shape_and_dtype_are_kept():
    cell = np.diag([4.0, 5.0, 6.0]).astype(np.float32)
    vectors = np.full((2, 3, 3), 3.5, dtype=np.float32)
    images = minimum_image(vectors, cell)
    assert images.shape == (2, 3, 3) and images.dtype == np.float32
    np.testing.assert_allclose(images[0, 0], [-0.5, -1.5, -2.5])
    assert minimum_image(np.array([3, 0, 0]), cell).dtype == np.float64
    assert minimum_image(np.zeros((0, 3)), cell).shape == (0, 3)


def test_short_vectors_are_returned_unchanged():
    _, cell = skewed_cell(np.random.default_rng(4))
    vectors = np.random.default_rng(5).normal(size=(100, 3)) * 0.05
    np.testing.assert_array_equal(minimum_image(vectors, cell), vectors)


@pytest.mark.parametrize(
    "cell, reason",
    [
        (np.zeros((3, 3)), "no volume"),
        (np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]), "no volume"),
        (np.full((3, 3), np.nan), "NaN"),
        (np.eye(2), r"shape \(2, 2\)"),
    ],
)
def test_impossible_cells(cell, reason):
    with pytest.raises(ValueError, match=reason):
        minimum_image(np.zeros((1, 3)), cell)


# Empty layers -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_empty_layers_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    _, cell = skewed_cell(rng)
    pos = rng.uniform(-2, 2, (rng.integers(1, 9), 3)) @ cell
    for layer in empty_layers(pos, cell):
        others = [i for i in range(3) if i != layer.axis]
        normal = np.cross(*cell[others])
        normal *= np.sign(normal @ cell[layer.axis]) / np.linalg.norm(normal)
        period = cell[layer.axis] @ normal
        steps = np.arange(-40, 41)
        planes = np.sort((pos @ normal)[:, None] + steps * period, axis=None)
        inner = planes[np.abs(planes - planes.mean()) < 15 * period]
        assert layer.thickness == pytest.approx(np.diff(inner).max(), abs=1e-3)
        assert layer.heights.min() == pytest.approx(0, abs=1e-3)
        assert layer.heights.max() == pytest.approx(period - layer.thickness, abs=1e-3)


def test_the_vacuum_is_found_along_each_vector():
    rng = np.random.default_rng(0)
    pos = rng.uniform(0, 1, (30, 3)) * [9, 9, 5]
    for axis in range(3):
        order = np.roll(np.arange(3), axis - 2)
        turned = pos[:, np.argsort(order)]
        cell = np.diag(np.array([9.0, 9.0, 25.0])[np.argsort(order)])
        found = vacuum(turned, cell)
        wanted = int(np.argmax(np.diag(cell)))
        assert found.axis == wanted and 19 < found.thickness < 22
        flipped = vacuum(turned, -cell)
        assert flipped.axis == wanted
        total = found.heights + flipped.heights
        np.testing.assert_allclose(total, found.heights.max(), atol=1e-4)
    assert vacuum(np.zeros((1, 3)), 4.0 * np.eye(3)).axis == 2  # equal: c, the habit


# Sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [2.5, 4, 6, 8])
def test_far_atoms_are_wrapped_by_whole_cells(power):
    rng = np.random.default_rng(int(power))
    _, cell = skewed_cell(rng)
    near = rng.uniform(0, 1, (5, 3)) @ cell
    steps = np.rint(10**power * rng.uniform(1, 2, (5, 3)))
    found = wrap_far(near + steps @ cell, cell, [True] * 3)
    rounding = 10**power * 100 * 1e-15
    np.testing.assert_allclose(
        minimum_image(found - near, cell), 0, atol=rounding + 1e-9
    )
    inside = found @ np.linalg.inv(cell)
    assert ((inside > -1e-3) & (inside < 1 + 1e-3)).all()


def test_what_is_not_wrapped():
    cell = 3.0 * np.eye(3)
    near = np.array([[199.0, -199.0, 0.0]])
    np.testing.assert_array_equal(wrap_far(near, cell, [True] * 3), near)
    far = np.array([[1e8, 0.0, 1e8]])
    assert wrap_far(far, cell, [True, True, False])[0].tolist() == [1.0, 0.0, 1e8]
    for value in (np.nan, np.inf, 1e12):
        kept = wrap_far([[value, 0.0, 0.0]], cell, [True] * 3)
        np.testing.assert_array_equal(kept, [[value, 0.0, 0.0]])


@pytest.mark.parametrize(
    "cell, natoms, match",
    [
        (1e-7 * np.eye(3), 1, "too small for 1 atoms"),
        (3.0 * np.eye(3), 28, "too small for 28 atoms"),
        (np.diag([1001.0, 5, 5]), 1, "vectors up to 1e.03 Å"),
        (900.0 * np.eye(3), 1, "and 7.29e.08 Å"),
        (np.array([[0.4, 0, 0], [0, 9, 0], [0, 0, 9.0]]), 1, "vector of 0.4 Å"),
        (np.array([[4.0, 0.3, 0], [4, 0, 0], [0, 0, 9.0]]), 1, "vector of 0.3 Å"),
    ],
)
def test_cells_of_absurd_size(cell, natoms, match):
    with pytest.raises(ValueError, match=match):
        check_cell_size(cell, natoms)


def test_cells_of_any_real_size():
    check_cell_size(2.5 * np.eye(3), 1)
    check_cell_size(100.0 * np.eye(3), 50_000)
    check_cell_size(np.array([[3.0, 0, 0], [300, 0.6, 0], [0, 0, 30]]), 2)  # skewed
