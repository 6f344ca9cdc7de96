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

"""Frames that are too close, too strained by forces, or there twice are left out."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii

from ppmat.distillation.frame_filter import CLOSE
from ppmat.distillation.frame_filter import FORCE
from ppmat.distillation.frame_filter import TWICE
from ppmat.distillation.frame_filter import closest
from ppmat.distillation.frame_filter import filtered
from ppmat.distillation.settings import Filter


def with_force(atoms, force):
    forces = np.zeros((len(atoms), 3))
    forces[0] = force
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    return atoms


def test_closest_is_relative_to_the_radii_and_sees_images():
    radius = covalent_radii[29] + covalent_radii[8]
    pair = Atoms("CuO", [[0, 0, 0], [0, 0, 0.5 * radius]])
    assert closest(pair) == pytest.approx(0.5)
    across = Atoms("CuO", [[0, 0, 0.2], [0, 0, 9.6]], cell=[10, 10, 10], pbc=True)
    assert closest(across) == pytest.approx(0.6 / radius)
    across.pbc = False
    assert closest(across) == np.inf


def test_each_reason_is_counted():
    good = with_force(bulk("Cu", cubic=True), [1, 0, 0])
    strong = with_force(bulk("Cu", cubic=True), [20, 20, 20])
    broken = with_force(bulk("Cu", cubic=True), [np.nan, 0, 0])
    pair = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.7]])
    again = good[[2, 0, 3, 1]]  # the order of the atoms does not count
    again.positions += 1e-7
    moved = good.copy()
    moved.positions[0, 0] += 0.01
    frames = [good, strong, broken, pair, again, moved]
    kept, left_out = filtered(frames, Filter())
    assert kept == [good, moved]
    assert left_out == {FORCE: 2, CLOSE: 1, TWICE: 1}
    kept, _ = filtered(frames, Filter(largest_force=50, closest=0.1))
    assert kept == [good, pair, moved]  # the strong one is at the places of the first
