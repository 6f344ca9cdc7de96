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

"""Motion of a molecule: translation, rotation, and what is left.

A motion is one vector for each atom. Those of all atoms together say how the centre
moves (their mean), how the molecule turns (a rotation vector, the least-squares
solution of ``w x s = d``) and how it deforms meanwhile, in its own frame (the rest).
:func:`motion_to` of a target and :func:`move` by it are inverse, and a fraction of the
motion moves along the geodesic: the centre straight, the rotation at constant speed.

Shapes: ``A`` atoms of the molecule. Lengths are in Å.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

# Å^2; chooses the smallest of equally good rotations: of one atom, of atoms in a line
_EPS = 1e-9


def motion_to(positions: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the motion from positions to target positions, [A, 3] each.

    Example:
        >>> line = np.array([[0.0, 0, 0], [2.0, 0, 0]])
        >>> quarter = np.array([[1.0, -1, 0], [1.0, 1, 0]])
        >>> motion_to(line, quarter)[1].round(3).tolist()  # the angle times 1 Å
        [0.0, 1.571, 0.0]
    """
    centre, goal = positions.mean(axis=0), target.mean(axis=0)
    shape, wanted = positions - centre, target - goal
    turn = _best_turn(shape, wanted)
    rest = wanted @ turn - shape  # in the frame of the positions
    rotation = Rotation.from_matrix(turn).as_rotvec()
    return goal - centre + np.cross(rotation, shape) + rest


def superpose(positions: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the positions moved as a rigid body onto the target, [A, 3].

    Example:
        >>> line = np.array([[0.0, 0, 0], [2.0, 0, 0]])
        >>> longer = np.array([[1.0, -2, 0], [1.0, 2, 0]])
        >>> superpose(line, longer).round(3).tolist()
        [[1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]
    """
    goal, shape = target.mean(axis=0), positions - positions.mean(axis=0)
    return goal + shape @ _best_turn(shape, target - goal).T


def _best_turn(shape: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the rotation that brings a shape nearest to another one, [3, 3]."""
    u, _, v = np.linalg.svd(wanted.T @ shape + _EPS * np.eye(3))
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v


def move(positions: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Return the positions after a motion, [A, 3].

    Example:
        >>> start = np.array([[0.0, 0, 0], [2.0, 0, 0]])
        >>> target = np.array([[5.0, -1, 0], [5.0, 1, 0]])
        >>> move(start, motion_to(start, target)).round(6).tolist()
        [[5.0, -1.0, 0.0], [5.0, 1.0, 0.0]]
    """
    centre, shift = positions.mean(axis=0), motion.mean(axis=0)
    shape, motion = positions - centre, motion - shift
    inertia = (shape**2).sum() * np.eye(3) - shape.T @ shape
    moment = np.cross(shape, motion).sum(axis=0)
    rotation = np.linalg.lstsq(inertia, moment, rcond=1e-6)[0]
    rest = motion - np.cross(rotation, shape)
    return centre + shift + Rotation.from_rotvec(rotation).apply(shape + rest)
