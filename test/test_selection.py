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

"""Frames are chosen by novelty, whatever their orientation and size."""

import tracemalloc

import numpy as np
import pytest
from ase.build import bulk
from ase.build import fcc111
from ase.io import read
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from ppmat.distillation import selection
from ppmat.distillation.selection import Selection
from ppmat.distillation.selection import describe

FRAMES = read("interatomic_potentials/example_data/emt/train.extxyz.gz", ":")


def rattled(atoms, size, seed):
    atoms = atoms.copy()
    atoms.rattle(size, seed=seed)
    return atoms


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 63), st.floats(0, 360), st.integers(0, 1000))
def test_descriptors_do_not_depend_on_the_frame(index, angle, seed):
    atoms = FRAMES[index].copy()
    elements = np.unique(atoms.numbers)
    before = describe(atoms, elements)
    order = np.random.default_rng(seed).permutation(len(atoms))
    moved = atoms[order]
    moved.rotate(angle, (1, 2, 3), rotate_cell=True)
    moved.positions += np.random.default_rng(seed).normal(size=3)
    assert np.allclose(describe(moved, elements), before[order], atol=1e-10)


def test_descriptors_tell_directions_and_elements_apart():
    # the same distances around the atom: opposite, or in a right angle
    from ase import Atoms

    straight = Atoms("Cu3", [[0, 0, 0], [0, 0, 2.5], [0, 0, -2.5]])
    bent = Atoms("Cu3", [[0, 0, 0], [0, 0, 2.5], [0, 2.5, 0]])
    other = Atoms("CuPt2", straight.positions)
    elements = [29, 78]
    first = describe(straight, elements)[0]
    assert np.abs(first - describe(bent, elements)[0]).max() > 0.1
    assert np.abs(first - describe(other, elements)[0]).max() > 0.1


def test_new_elements_come_first_and_copies_last():
    copper = [rattled(bulk("Cu", cubic=True), 0.05, i) for i in range(6)]
    platinum = rattled(bulk("Pt", cubic=True), 0.05, 0)
    twin = copper[2].copy()
    frames = [*copper, platinum, twin]
    taken, gains = Selection(frames, copper[:1]).choose(8, 0.0)
    assert taken[0] == 6 and gains[0] == np.inf
    assert not {2, 7} <= set(taken)  # one of the twins adds nothing
    assert 0 not in taken  # it is chosen already
    finite = gains[1:]
    assert finite == sorted(finite, reverse=True)


def test_gain_is_that_of_the_nearest_by_definition():
    """Against distances between all atoms, computed without the class."""
    frames, chosen = FRAMES[:6], FRAMES[20:23]
    everything = [*frames, *chosen]
    elements = np.unique(np.concatenate([a.numbers for a in everything]))
    rows = [describe(a, elements) for a in everything]
    numbers = np.concatenate([a.numbers for a in everything])
    spread = {}
    for element in elements:
        std = np.concatenate(rows)[numbers == element].std(axis=0)
        spread[element] = np.where(std > 1e-6, std, 1.0)
    expected = []
    for atoms, own in zip(frames, rows):
        nearest = []
        for number, row in zip(atoms.numbers, own):
            others = [
                other
                for far, their in zip(chosen, rows[6:])
                for other, kind in zip(their, far.numbers)
                if kind == number
            ]
            apart = (np.array(others) - row) / spread[number]
            nearest.append(np.linalg.norm(apart, axis=1).min())
        expected.append(np.mean(nearest) / np.sqrt(2 * own.shape[1]))
    assert np.allclose(Selection(frames, chosen).gains(), expected, rtol=1e-4)


def test_size_does_not_matter():
    small = rattled(bulk("Cu", cubic=True), 0.08, 0)
    large = small.repeat((3, 1, 1))
    reference = [bulk("Cu", cubic=True)]
    gains = Selection([small, large], reference).gains()
    assert gains[0] == pytest.approx(gains[1], rel=1e-4)


def test_min_gain_ends_the_selection():
    slabs = [rattled(fcc111("Cu", (2, 2, 2), vacuum=5), 0.02 * i, i) for i in range(8)]
    taken, gains = Selection(slabs).choose(8, 0.3)
    more, _ = Selection(slabs).choose(8, 0.0)
    assert min(gains) >= 0.3 and len(taken) < len(more) == 8
    assert Selection(slabs[:1], slabs[:1]).choose(3, 0.0) == ([], [])


def test_memory_is_that_of_one_table(monkeypatch):
    numbers = np.random.default_rng(0).random((500, 36))
    monkeypatch.setattr(selection, "describe", lambda atoms, _: numbers[: len(atoms)])
    monkeypatch.setattr(selection, "BLOCK", 500)
    frames = 100 * [bulk("CuPt", "rocksalt", a=5.0).repeat((5, 5, 10))]
    tracemalloc.start()
    found = Selection(frames, [frames[0][:20]])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rows.dtype == "float32" and len(found.rows) == 100 * 500 + 20
    assert peak < 1.5 * found.rows.nbytes
