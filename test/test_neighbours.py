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

"""Neighbours: any image gives the same pairs, and hostile input costs little."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from ppmat.utils import neighbours
from ppmat.utils.errors import InputError
from ppmat.utils.neighbours import neighbour_pairs


def crystal(seed, num_atoms=6):
    """Random positions [N, 3] and a cell [3, 3]."""
    rng = np.random.default_rng(seed)
    cell = 4.0 * np.eye(3) + rng.uniform(-1.2, 1.2, (3, 3))
    return rng.uniform(0, 1, (num_atoms, 3)) @ cell, cell


def pair_set(pairs, moved):
    """The pairs as of points that are not moved by ``moved`` cells [N, 3]."""
    image = pairs.image + moved[pairs.neighbour] - moved[pairs.centre]
    rows = np.column_stack([pairs.centre, pairs.neighbour, image])
    return set(map(tuple, rows.tolist()))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 1, 30, 10**4, 10**8]))
def test_images_far_away_have_the_same_pairs(seed, far):
    points, cell = crystal(seed)
    rng = np.random.default_rng(seed)
    moved = rng.integers(-far, far + 1, points.shape)
    near = neighbour_pairs(points, cell, 3.7)
    away = neighbour_pairs(points + moved @ cell, cell, 3.7)
    # Pairs at the cut-off may differ by the rounding of the far coordinates.
    edge = np.abs(near.distance - 3.7).min(initial=1.0)
    if edge > 1e-5:
        assert pair_set(away, moved) == pair_set(near, np.zeros_like(moved))
    np.testing.assert_allclose(
        np.sort(away.distance)[:5], np.sort(near.distance)[:5], atol=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_skewed_basis_of_the_lattice_has_the_same_pairs(seed):
    points, cell = crystal(seed)
    rng = np.random.default_rng(seed)
    skew = np.eye(3, dtype=int)
    skew[1, 0], skew[2, 1] = rng.integers(3000, 9000, 2)
    start = time.process_time()
    pairs = neighbour_pairs(points, skew @ cell, 3.7)
    assert time.process_time() - start < 1.0
    pairs = pairs._replace(image=pairs.image @ skew)
    none = np.zeros_like(points, dtype=int)
    assert pair_set(pairs, none) == pair_set(neighbour_pairs(points, cell, 3.7), none)


def test_centres_are_the_first_points():
    points, cell = crystal(0)
    all_pairs = neighbour_pairs(points, cell, 3.0)
    for shift in (0, 50):
        moved = points + shift * cell[0]
        some = neighbour_pairs(moved, cell, 3.0, centres=moved[:2])
        assert len(some.centre) == (all_pairs.centre < 2).sum()


HOSTILE = {
    "a tiny cell": (np.zeros((1, 3)), 1e-7 * np.eye(3)),
    "a thin cell": (np.zeros((3, 3)), np.diag([1e-5, 1e5, 1e5])),
    "a long cell": (np.diag([1, 1, 1e9]) * 0.9, np.diag([3.0, 3.0, 1e9])),
    "a crowd": (np.zeros((50_000, 3)), 20.0 * np.eye(3)),
    "a dense cell": (np.zeros((2000, 3)), 3.0 * np.eye(3)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused_at_once(name):
    points, cell = HOSTILE[name]
    start = time.process_time()
    with pytest.raises(InputError, match="the neighbour search would"):
        neighbour_pairs(points, cell, 6.0)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e14, 1e300])
def test_positions_without_a_place_are_refused(value):
    points, cell = crystal(0)
    points[2, 1] = value
    with pytest.raises(InputError, match="NaN, or atoms are too far"):
        neighbour_pairs(points, cell, 3.0)


def test_without_limits_the_same_input_is_work(monkeypatch):
    """The broken twin: a limit that is too high lets the work through."""
    monkeypatch.setattr(neighbours, "_MAX_PAIRS", 1e12)
    pairs = neighbour_pairs(np.zeros((300, 3)), 5.0 * np.eye(3), 3.0)
    assert len(pairs.centre) == 300 * 299
    monkeypatch.setattr(neighbours, "_MAX_PAIRS", 1e4)
    with pytest.raises(InputError, match="too crowded"):
        neighbour_pairs(np.zeros((300, 3)), 5.0 * np.eye(3), 3.0)


def test_a_huge_cell_with_few_atoms_is_no_work():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1e6, (20, 3))
    points[1] = points[0] + 1.0
    start = time.process_time()
    pairs = neighbour_pairs(points, 1e6 * np.eye(3), 6.0)
    assert len(pairs.distance) == 2 and time.process_time() - start < 2.0
