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

"""Placements of adsorbates on slabs: where they are, and what is refused."""

import numpy as np
import pytest
from ase.build import add_adsorbate
from ase.build import fcc100
from ase.build import fcc111
from ase.build import fcc211
from ase.constraints import FixAtoms
from ase.data import covalent_radii

from ppmat.datasets.adsorbates import read_adsorbate
from ppmat.datasets.placements import CONTACT_GAP
from ppmat.datasets.placements import PLACEMENTS
from ppmat.datasets.placements import check_room
from ppmat.datasets.placements import clean_slab
from ppmat.datasets.placements import heuristic_placements
from ppmat.datasets.placements import random_placements
from ppmat.datasets.placements import surface_normal
from ppmat.datasets.placements import with_given_shape
from ppmat.utils.errors import InputError

METHANOL = read_adsorbate("CH3OH")


def stepped():
    """Return a stepped slab, whose c is not normal to its surface."""
    slab = fcc211("Pt", (3, 2, 3), vacuum=10)
    slab.cell[2] += 0.4 * slab.cell[1]
    return clean_slab(slab)


def test_placements_touch_the_slab_from_above():
    shape = METHANOL.get_all_distances()
    for slab in (stepped(), clean_slab(fcc111("Cu", (3, 3, 4), vacuum=10))):
        for make in PLACEMENTS.values():
            for placed in make(slab, METHANOL, 12, 3):
                size = len(slab)
                assert np.allclose(placed.positions[:size], slab.positions)
                own = placed[size:]
                assert np.allclose(own.get_all_distances(), shape)
                assert (placed.get_tags()[size:] == 2).all()
                gap = placed.get_all_distances(mic=True)[size:, :size]
                gap -= covalent_radii[own.numbers][:, None]
                gap -= covalent_radii[slab.numbers]
                assert gap.min() == pytest.approx(CONTACT_GAP, abs=1e-6)
                normal = surface_normal(slab.cell.array)
                middle = (slab.positions @ normal).mean()
                assert (own.positions @ normal).mean() > middle
                held = placed.constraints[0].get_indices()
                assert (placed.get_tags()[held] == 0).all()


def test_random_points_and_orientations_are_uniform():
    slab = clean_slab(fcc100("Cu", (3, 3, 3), vacuum=10))
    placed = list(random_placements(slab, read_adsorbate("CO"), 600, 0))
    own = np.array([atoms.positions[-2:] for atoms in placed])
    share = own.mean(axis=1) @ np.linalg.inv(slab.cell.array)[:, :2] % 1.0
    axes = own[:, 1] - own[:, 0]
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    for values in (share.T, (axes.T + 1) / 2):
        counts = [np.histogram(row, 4, (0, 1))[0] for row in values]
        assert np.abs(np.array(counts) - 150).max() < 45  # 4 standard deviations


def test_a_placement_depends_on_seed_and_number_only():
    slab = clean_slab(fcc111("Cu", (3, 3, 4), vacuum=10))
    few = list(random_placements(slab, METHANOL, 2, 5))
    many = list(random_placements(slab, METHANOL, 4, 5))
    other = next(random_placements(slab, METHANOL, 1, 6))
    assert np.array_equal(few[1].positions, many[1].positions)
    assert np.abs(few[0].positions - other.positions).max() > 0.1


def test_the_binding_atom_is_the_lowest():
    slab = clean_slab(fcc111("Cu", (3, 3, 4), vacuum=10))
    carbon_oxide = read_adsorbate("CO")
    for make in PLACEMENTS.values():
        for binding in (0, 1):
            for placed in make(slab, carbon_oxide, 5, 0, binding):
                heights = placed.positions[-2:, 2]
                assert heights.argmin() == binding
                assert np.ptp(heights) > 1.0  # stands


@pytest.mark.parametrize(
    ("stretch", "shift", "kept"),
    [(1.2, 0.4, True), (1.4, 0.0, False), (1.2, 0.6, False)],
)
def test_a_shape_is_credible_up_to_a_stretch_and_a_shift(stretch, shift, kept):
    slab, adsorbate = (
        clean_slab(fcc111("Cu", (3, 3, 3), vacuum=8)),
        read_adsorbate("CO"),
    )
    start = next(iter(random_placements(slab, adsorbate, 1, 0)))
    moved = start.copy()
    own = np.flatnonzero(start.get_tags() == 2)
    moved.positions[own] += [1.5, 0.5, 0.8]
    middle = moved.positions[own].mean(axis=0)
    moved.positions[own] = middle + stretch * (moved.positions[own] - middle)
    moved.info["projection_shift"] = shift
    rigid = with_given_shape(moved, start)
    assert (rigid is None) == kept
    if rigid is not None:
        assert rigid.get_distance(*own) == pytest.approx(start.get_distance(*own))
        np.testing.assert_allclose(rigid.positions[own].mean(axis=0), middle, atol=1e-6)
        np.testing.assert_array_equal(
            rigid.positions[: own[0]], moved.positions[: own[0]]
        )


def test_heuristic_sites_are_those_of_the_surface():
    slab = clean_slab(fcc111("Cu", (3, 3, 4), vacuum=10))
    placed = list(heuristic_placements(slab, read_adsorbate("H"), 4, 0))
    spacing = slab.cell[0, 0] / 3
    lowest = []
    for atoms in placed:
        distance = atoms.get_all_distances(mic=True)[-1, :-1]
        top = atoms.positions[:-1, 2].max()
        near = distance[np.abs(atoms.positions[:-1, 2] - top) < 0.1]
        lowest.append(int((near < near.min() + 0.1).sum()))
    assert sorted(lowest) == [1, 2, 3, 3]  # ontop, bridge, two hollow sites
    assert spacing == pytest.approx(2.55, abs=0.05)


def test_tags_and_constraints_are_kept_or_made():
    slab = fcc111("Cu", (2, 2, 4), vacuum=10)
    clean = clean_slab(slab)
    assert clean.get_tags().sum() == 4 and len(clean.constraints[0].index) == 12
    slab.set_tags([0] * 8 + [1] * 8)
    slab.set_constraint(FixAtoms([0, 1]))
    clean = clean_slab(slab)
    assert clean.get_tags().sum() == 8 and clean.constraints[0].index.tolist() == [0, 1]


def test_a_slab_across_the_cell_face_becomes_one_piece():
    slab = fcc111("Cu", (2, 2, 4), vacuum=10)
    slab.positions += 0.4 * slab.cell[2]
    wrapped = slab.copy()
    wrapped.wrap()
    clean = clean_slab(wrapped)
    assert np.ptp(clean.positions[:, 2]) == pytest.approx(np.ptp(slab.positions[:, 2]))


def _without_vacuum():
    return fcc111("Cu", (2, 2, 4), vacuum=1)


def _along_a():
    slab = fcc111("Cu", (2, 2, 4), vacuum=10)
    slab.set_cell(slab.cell[[2, 0, 1]])
    return slab


def _small():
    return fcc111("Cu", (1, 1, 4), vacuum=10)


def _covered():
    slab = fcc111("Cu", (2, 2, 4), vacuum=10)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.set_tags([0] * 12 + [1] * 4 + [2])
    return slab


@pytest.mark.parametrize(
    "make, words",
    [
        (_without_vacuum, "of vacuum along c"),
        (_along_a, "vacuum is along a"),
        (_small, "images are 2.6 Å apart"),
        (_covered, "tag 2"),
    ],
)
def test_slabs_that_do_not_fit_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        check_room(clean_slab(make()), METHANOL)
