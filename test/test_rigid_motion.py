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

"""Motion of molecules: to a target and back, and along the geodesic."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from ppmat.utils.rigid_motion import motion_to
from ppmat.utils.rigid_motion import move
from ppmat.utils.rigid_motion import superpose


def molecule(rng, size, in_line=False):
    """Return a molecule and the same turned, moved and a little deformed."""
    start = 1.5 * rng.standard_normal((size, 1 if in_line else 3))
    start = start * rng.standard_normal(3) if in_line else start
    turn = Rotation.from_quat(rng.standard_normal(4))
    target = turn.apply(start) + 5 * rng.standard_normal(3)
    return start, target + 0.1 * rng.standard_normal((size, 3))


@pytest.mark.parametrize("in_line", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_motion_leads_to_its_target(size, in_line):
    rng = np.random.default_rng(size)
    for _ in range(100):
        start, target = molecule(rng, size, in_line)
        assert np.allclose(move(start, motion_to(start, target)), target, atol=1e-3)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_way_is_the_same_from_each_of_its_points(size):
    rng = np.random.default_rng(size)
    for _ in range(50):
        start, target = molecule(rng, size)
        way = motion_to(start, target)
        middle = move(start, 0.4 * way)
        later = move(middle, 0.5 * motion_to(middle, target))
        assert np.allclose(later, move(start, 0.7 * way), atol=1e-4)


def test_a_turning_molecule_keeps_its_shape():
    rng = np.random.default_rng(0)
    start = rng.standard_normal((4, 3))
    for angle in (0.3, 1.5, 3.1):
        turn = Rotation.from_rotvec([0, angle, 0])
        target = turn.apply(start - start.mean(axis=0))
        half = move(start, 0.5 * motion_to(start, target))
        between = np.linalg.norm(half[:, None] - half, axis=2)
        assert np.allclose(between, np.linalg.norm(start[:, None] - start, axis=2))
        angles = Rotation.align_vectors(half - half.mean(axis=0), target)[0]
        assert angles.magnitude() == pytest.approx(angle / 2, abs=1e-5)


def test_mirrored_molecules_do_not_turn_inside_out():
    rng = np.random.default_rng(1)
    start = rng.standard_normal((5, 3))
    mirrored = start * [1, 1, -1]
    motion = motion_to(start, mirrored)
    assert np.isfinite(motion).all()
    assert np.allclose(move(start, motion), mirrored, atol=1e-4)


@pytest.mark.parametrize("in_line", [False, True])
def test_a_superposed_molecule_keeps_its_shape_and_is_nearest(in_line):
    rng = np.random.default_rng(0)
    for size in (1, 2, 5):
        start, target = molecule(rng, size, in_line)
        found = superpose(start, target)
        assert np.allclose(pdist(found), pdist(start))
        best = ((found - target) ** 2).sum()
        for _ in range(20):
            other = Rotation.from_rotvec(0.1 * rng.standard_normal(3))
            centre = target.mean(axis=0)
            turned = centre + other.apply(found - centre)
            assert ((turned - target) ** 2).sum() > best - 1e-6
