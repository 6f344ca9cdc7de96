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

"""The projection: bounds, what must not change, least shift, contradictions."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.build import molecule
from ase.data import atomic_masses
from ase.data import covalent_radii
from ase.geometry import get_distances
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from ppmat.sampler.distance_projection import DistanceProjection
from ppmat.sampler.distance_projection import Slab
from ppmat.sampler.distance_projection import projection_of
from ppmat.utils.registry import ConfigError


def surface(name="CO", size=(2, 2, 3)):
    """Cu(111) with a molecule, the lower layers held."""
    atoms = fcc111("Cu", size, vacuum=9.0)
    fixed = atoms.get_tags() > 1
    number = len(atoms)
    add_adsorbate(atoms, molecule(name), 2.0, "bridge")
    added = len(atoms) - number
    return Slab(
        atoms.numbers,
        np.append(np.where(fixed, 0, 1), [2] * added),
        np.append(fixed, [False] * added),
        atoms.cell.array,
        atoms.positions,
    )


def shortest(slab, positions):
    """Ratio of each distance to its least one, images included, [N, N]."""
    ratio = np.full((len(positions),) * 2, np.inf)
    radii = covalent_radii[slab.numbers]
    least = np.maximum(0.75 * (radii[:, None] + radii), 0.74)
    before = get_distances(slab.initial, cell=slab.cell, pbc=True)[1]
    least = np.minimum(least, np.maximum(before, 0.74))
    distance = get_distances(positions, cell=slab.cell, pbc=True)[1]
    other = ~np.eye(len(positions), dtype=bool)
    ratio[other] = distance[other] / least[other]
    return ratio


def spoiled(slab, seed, scale=0.7):
    rng = np.random.default_rng(seed)
    predicted = slab.initial + rng.normal(0, scale, slab.initial.shape)
    predicted[slab.fixed] = slab.initial[slab.fixed]
    return predicted


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["CO", "H2O", "CH3OH", "N2"]))
def test_no_two_atoms_are_too_close(seed, name):
    slab = surface(name)
    predicted = spoiled(slab, seed)
    positions = DistanceProjection()(slab, predicted)
    assert shortest(slab, positions).min() >= 1 - 1e-6
    np.testing.assert_array_equal(positions[slab.fixed], predicted[slab.fixed])
    again = DistanceProjection()(slab, positions)
    np.testing.assert_array_equal(again, positions)


def test_without_the_projection_they_are():
    """The twin: the inputs of the test above need it."""
    slab = surface("CO")
    ratios = [shortest(slab, spoiled(slab, seed)).min() for seed in range(40)]
    assert np.mean(np.array(ratios) < 0.95) > 0.3


def test_allowed_positions_do_not_change():
    slab = surface("H2O")
    predicted = spoiled(slab, 1, scale=0.02)
    np.testing.assert_array_equal(DistanceProjection()(slab, predicted), predicted)


def test_light_atoms_make_way_by_hand():
    """H 0.2 Å from a free O: on one line, shifts inverse to the masses."""
    cell = 8.0 * np.eye(3)
    initial = np.array([[1.0, 1, 1], [1, 1, 1.97]])
    slab = Slab(np.array([8, 1]), np.array([2, 2]), np.zeros(2, bool), cell, initial)
    predicted = np.array([[1.0, 1, 1], [1, 1, 1.2]])
    positions = DistanceProjection()(slab, predicted)
    shift = positions - predicted
    assert np.linalg.norm(positions[1] - positions[0]) == pytest.approx(0.741, abs=2e-4)
    assert shift[0, 2] / shift[1, 2] == pytest.approx(
        -atomic_masses[1] / atomic_masses[8], rel=1e-6
    )
    assert np.abs(shift[:, :2]).max() < 1e-9
    # Through the cell: the image below is the one that is too close.
    predicted = np.array([[1.0, 1, 1], [1, 1, 8.8]])
    positions = DistanceProjection()(slab, predicted)
    assert positions[1, 2] < 8.4 and positions[0, 2] > 1


def test_shift_is_the_least_that_another_solver_finds():
    slab = surface("H2O", size=(2, 2, 2))
    slab = slab._replace(fixed=slab.tags < 2)
    rng = np.random.default_rng(4)
    weights = np.repeat(atomic_masses[slab.numbers[~slab.fixed]], 3)
    compared = 0
    for _ in range(20):
        predicted = slab.initial.copy()
        predicted[~slab.fixed] += rng.normal(0, 0.7, (3, 3))
        positions = DistanceProjection()(slab, predicted)
        if (positions == predicted).all():
            continue

        def ratios(x, predicted=predicted):
            moved = predicted.copy()
            moved[~slab.fixed] = x.reshape(-1, 3)
            upper = shortest(slab, moved)
            return upper[np.triu_indices(len(upper), 1)] - 1.0

        start = positions[~slab.fixed].reshape(-1)
        target = predicted[~slab.fixed].reshape(-1)
        found = minimize(
            lambda x, target=target: (weights * (x - target) ** 2).sum(),
            start,
            constraints={"type": "ineq", "fun": ratios},
            method="SLSQP",
            options={"maxiter": 200, "ftol": 1e-10},
        )
        mine = (weights * (start - target) ** 2).sum()
        assert mine <= found.fun * 1.02 + 0.01  # the margin of 0.001 Å costs a little
        compared += 1
    assert compared >= 3


def test_frame_order_and_images_do_not_matter():
    slab = surface("CH3OH")
    predicted = spoiled(slab, 8)
    wanted = DistanceProjection()(slab, predicted)
    assert not np.array_equal(wanted, predicted)
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = slab._replace(cell=slab.cell @ q, initial=slab.initial @ q + 1.5)
    found = DistanceProjection()(turned, predicted @ q + 1.5)
    np.testing.assert_allclose(found, wanted @ q + 1.5, atol=2e-3)
    p = rng.permutation(len(predicted))
    mixed = slab._replace(
        numbers=slab.numbers[p],
        tags=slab.tags[p],
        fixed=slab.fixed[p],
        initial=slab.initial[p],
    )
    found = DistanceProjection()(mixed, predicted[p])
    np.testing.assert_allclose(found, wanted[p], atol=2e-3)
    images = rng.integers(-1, 2, (len(p), 3)) @ slab.cell  # of all atoms alike
    moved = slab._replace(initial=slab.initial + images)
    found = DistanceProjection()(moved, predicted + images)
    np.testing.assert_allclose(found, wanted + images, atol=2e-3)


def test_bonds_of_the_adsorbate():
    slab = surface("CO")
    predicted = slab.initial.copy()
    predicted[-1] += [1.5, 0.0, 1.0]
    start = np.linalg.norm(slab.initial[-1] - slab.initial[-2])
    free = DistanceProjection()(slab, predicted)
    kept = DistanceProjection(max_bond_stretch=1.3)(slab, predicted)
    np.testing.assert_array_equal(free, predicted)
    assert np.linalg.norm(kept[-1] - kept[-2]) == pytest.approx(1.3 * start, abs=2e-3)
    assert shortest(slab, kept).min() >= 1 - 1e-6


def test_bonds_that_are_far_too_long_are_kept():
    """Also with atoms in between, and without pushing any two together."""
    projection = DistanceProjection(max_bond_stretch=1.3)
    for name in ("CO", "H2O", "CH3OH"):
        slab = surface(name)
        bonds = projection._bonds(slab)
        for seed in range(8):
            predicted = spoiled(slab, seed, scale=1.5)
            predicted[slab.tags < 2] = slab.initial[slab.tags < 2]
            positions = projection(slab, predicted)
            assert shortest(slab, positions).min() >= 1 - 1e-6
            image = bonds.image @ slab.cell
            vector = positions[bonds.neighbour] - positions[bonds.centre] + image
            assert (np.linalg.norm(vector, axis=1) < bonds.distance + 0.02).all()


def test_atoms_at_one_place_part_as_they_were():
    slab = surface("CO")
    predicted = slab.initial.copy()
    predicted[-1] = predicted[-2]
    positions = DistanceProjection()(slab, predicted)
    before = slab.initial[-1] - slab.initial[-2]
    after = positions[-1] - positions[-2]
    assert np.linalg.norm(after) >= 0.75 * (0.76 + 0.66) - 1e-6
    assert after @ before / np.linalg.norm(after) / np.linalg.norm(before) > 0.9


def test_a_close_pair_of_the_input_may_stay():
    """Bulk bonds shorter than the bound are no reason to move the slab."""
    cell = np.diag([6.0, 6.0, 20.0])
    initial = np.array([[0, 0, 5.0], [0, 0, 8.2]])  # Cs at 0.66 x 4.88 Å
    slab = Slab(np.array([55, 55]), np.array([0, 1]), np.zeros(2, bool), cell, initial)
    np.testing.assert_array_equal(DistanceProjection()(slab, initial), initial)


def test_contradicting_bounds_move_nothing_far():
    """An atom in a cage of held atoms that is too small for it."""
    cell = 2.2 * np.eye(3)
    initial = np.array([[0.0, 0, 0], [1.1, 1.1, 1.1]])
    fixed = np.array([True, False])
    slab = Slab(np.array([78, 78]), np.array([0, 1]), fixed, cell, initial)
    slab = slab._replace(initial=initial * [[1], [1.0]] + [[0], [50.0]])
    for seed in range(5):
        predicted = initial + np.array([[0], [1]]) * np.random.default_rng(seed).normal(
            0, 0.3, 3
        )
        positions = DistanceProjection()(slab, predicted)
        assert np.abs(positions - predicted).max() < 3.0


def test_nothing_is_near():
    """A bond that is too long where no pair is close (no lower bound at all)."""
    initial = np.array([[1.0, 1, 1], [1, 1, 2.13]])
    cell, free = 20 * np.eye(3), np.zeros(2, bool)
    slab = Slab(np.array([6, 8]), np.array([2, 2]), free, cell, initial)
    predicted = initial + [[0, 0, 0], [0, 0, 3.0]]
    positions = DistanceProjection(max_bond_stretch=1.5)(slab, predicted)
    assert np.linalg.norm(positions[1] - positions[0]) == pytest.approx(1.695, abs=2e-3)


def test_no_free_atom():
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.3]], cell=5 * np.eye(3))
    held = np.ones(2, dtype=bool)
    tags = np.array([0, 2])
    slab = Slab(atoms.numbers, tags, held, atoms.cell.array, atoms.positions)
    found = DistanceProjection(max_bond_stretch=1.2)(slab, atoms.positions)
    np.testing.assert_array_equal(found, atoms.positions)


def test_options():
    assert projection_of(None) is None and projection_of(False) is None
    assert projection_of(True) == DistanceProjection()
    assert projection_of({"min_factor": 0.8}) == DistanceProjection(0.8)
    for wrong in ({"min_factr": 0.8}, {"min_factor": "x"}, {"min_factor": 0}, 3):
        with pytest.raises(ConfigError, match="Sample.projection"):
            projection_of(wrong)
    for name, wrong in (
        ("min_factor", (float("nan"), -1, 1.5)),
        ("max_bond_stretch", (float("nan"), 0.9, 100)),
    ):
        for value in wrong:
            with pytest.raises(ConfigError, match=f"Sample.projection.{name}"):
                projection_of({name: value})
