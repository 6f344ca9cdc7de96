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


"""What is given to the multislice simulation and made of its result; not abTEM."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.build import mx2

from benchmarks.stem import multislice
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import View
from ppmat.stem.scenes.projection import project
from ppmat.stem.scenes.projection import view_along


def test_a_missing_simulator_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "abtem", None)
    with pytest.raises(ImportError, match=r"pip install 'ppmat\[abtem\]'"):
        multislice.simulate_images(bulk("Cu"), (8, 8), 0.2)


@pytest.mark.parametrize(
    "atoms, axis, cell",
    [
        (bulk("Cu", "fcc", 3.6), (1, 1, 1), (3.6 / 2**0.5, 3.6 * 1.5**0.5)),
        (bulk("GaAs", "zincblende", 5.65, cubic=True), (1, 1, 0), (5.65, 7.99)),
        (mx2("MoS2", a=3.18, vacuum=10), (0, 0, 1), (3.18, 3.18 * 3**0.5)),
    ],
)
def test_the_scanned_cell_has_right_angles_and_all_its_atoms(atoms, axis, cell):
    view = view_along(atoms, axis)
    layers = None if view.along is None else 4 * view.along
    lengths, block, padded = multislice._box(view, layers, 11.0)
    assert not padded.any()
    assert sorted(lengths) == pytest.approx(cell, abs=2e-3)
    assert np.allclose(block.cell.angles(), 90)
    assert block.cell.lengths()[:2].min() >= 11.0
    if layers is not None:
        density = len(block) / block.get_volume()
        assert density == pytest.approx(len(atoms) / atoms.get_volume())
        assert block.cell.lengths()[2] == pytest.approx(layers)
    # No two atoms in one place, and the columns are those of the fast model.
    apart = block.get_all_distances(mic=True)[np.triu_indices(len(block), 1)]
    assert apart.min() > 1.5
    shape = (30, 30)
    found = project(view, shape, 0.2, thickness=layers)
    middle = (np.array(shape[::-1]) - 1) / 2 * 0.2
    places = np.stack([found.x, found.y], axis=1) - middle
    size = block.cell.lengths()[:2]
    gaps = (places[:, None] - block.positions[:, :2]) / size
    gaps = np.linalg.norm((gaps - np.rint(gaps)) * size, axis=-1)
    assert gaps.min(axis=1).max() < 1e-6


def test_what_ends_gets_vacuum():
    water = view_along(molecule("H2O"), (1, 0, 0))
    lengths, block, padded = multislice._box(water, None, 11.0)
    assert padded.all() and len(block) == 3
    assert np.all(lengths - np.ptp(water.positions[:, :2], axis=0) >= 19.9)
    slab = view_along(fcc111("Pt", (2, 2, 3), vacuum=8, periodic=True), (1, 0, 0))
    _, block, padded = multislice._box(slab, 20.0, 5.0)
    assert list(padded) == [False, True]
    # Every other row is half a repeat further along the beam: two make the cell.
    assert len(block) == 12 * 2 * 4
    apart = block.get_all_distances(mic=True)[np.triu_indices(len(block), 1)]
    assert apart.min() > 2.7


def test_simulations_that_cannot_be_done():
    view = view_along(bulk("Cu", cubic=True))
    mixed = View(
        view.numbers, 0.5 * view.occupancies, view.positions, view.repeats, 3.6
    )
    with pytest.raises(CrystalError, match="order the structure first"):
        multislice._box(mixed, None, 11.0)
    skewed = Atoms("Cu", cell=[[3, 0, 0], [0.7, 3.1, 0], [0.3, 0.4, 3]], pbc=True)
    with pytest.raises(CrystalError, match="no rectangular cell"):
        multislice._box(view_along(skewed), None, 11.0)


@pytest.mark.parametrize("source", [0.0, 0.5])
def test_a_cell_is_continued_exactly(source):
    lengths = np.array([4.0, 6.0])
    x, y = (np.arange(n) / n * length for n, length in zip((9, 12), lengths))

    def wave(x, y, width):
        k = 2 * np.pi / lengths
        fade = np.exp(-0.5 * width**2 * np.array([(k[0]) ** 2, (2 * k[1]) ** 2]))
        return 3 + fade[0] * np.cos(k[0] * x + 0.4) + fade[1] * np.sin(2 * k[1] * y)

    cell = wave(x[:, None], y[None, :], 0.0)
    no_side = np.zeros(2, dtype=bool)
    where = multislice._pixels((7, 5), 0.83, 31.0, (0.4, -1.3), lengths, no_side)
    found = multislice.periodic_values(cell, lengths, where, source)
    np.testing.assert_allclose(found, wave(where[..., 0], where[..., 1], source))
    # The frame is that of the fast model: an atom at the origin is where it says.
    lone = project(Atoms("Au"), (40, 40), 0.83, rotation=31.0, offset=(0.4, -1.3))
    middle = (39 / 2 * 0.83 + 0.4, 39 / 2 * 0.83 - 1.3)
    assert (lone.y[0], lone.x[0]) == pytest.approx(middle)
    big = multislice._pixels(
        (40, 40), 0.83, 31.0, (0.4, -1.3), np.full(2, 500.0), no_side
    )
    row, col = (np.array(middle) / 0.83).astype(int)
    gap = big[row, col]
    gap = gap - 500 * np.rint(gap / 500)
    assert np.linalg.norm(gap) < 0.83 * 2**0.5
