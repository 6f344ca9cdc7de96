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


"""Augmentations of ARDiff: what each keeps, and what it changes."""

import numpy as np
import paddle
import pytest
from helpers import batch_of
from helpers import random_slab

from ppmat.models.ardiff.augmentation import Augmentation
from ppmat.models.ardiff.augmentation import random_turns
from ppmat.utils.periodic import minimum_image


def batch(count=2):
    slabs = [random_slab(np.random.default_rng(i)) for i in range(count)]
    return batch_of(slabs, cutoff=4.0, max_neighbors=None, k_cut=1.3)


def changed(data, seed=0, **options):
    paddle.seed(seed)
    atoms, moved = Augmentation(**options)(
        data["structure_array"], data["displacement"]
    )
    return {key: value.numpy() for key, value in atoms.items()}, moved.numpy()


def distances(positions, cell):
    """All minimum-image distances within a structure, sorted."""
    pairs = (positions[:, None] - positions[None]).reshape(-1, 3)
    return np.sort(np.linalg.norm(minimum_image(pairs, cell), axis=1))


@pytest.mark.parametrize("option", ["rotate", "translate", "reorder"])
def test_shapes_before_and_after_relaxation_stay(option):
    data = batch()
    old = {key: value.numpy() for key, value in data["structure_array"].items()}
    old_moved = data["displacement"].numpy()
    new, moved = changed(data, **{option: True})
    assert np.abs(new["cart_coords"] - old["cart_coords"]).max() > 0.1
    ends = old["num_atoms"].cumsum()
    for i, (count, end) in enumerate(zip(old["num_atoms"], ends, strict=True)):
        rows = slice(end - count, end)
        for share in (0.0, 1.0):  # initial and relaxed
            before, after = (
                distances((a["cart_coords"] + share * d)[rows], a["lattice"][i])
                for a, d in ((old, old_moved), (new, moved))
            )
            np.testing.assert_allclose(after, before, atol=1e-9)
    assert sorted(new["atom_types"]) == sorted(old["atom_types"])


def test_turns_are_about_the_normal_of_the_surface():
    lattice = batch()["structure_array"]["lattice"]
    turn = random_turns(lattice).numpy()
    np.testing.assert_allclose(
        turn @ turn.transpose(0, 2, 1), [np.eye(3)] * 2, atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(turn), 1.0)
    cells = lattice.numpy()
    normal = np.cross(cells[:, 0], cells[:, 1])
    np.testing.assert_allclose(np.einsum("si,sij->sj", normal, turn), normal, atol=1e-9)
    assert np.abs(turn[0] - turn[1]).max() > 0.01  # each structure has its own


def test_translation_is_one_shift_along_the_surface_for_a_structure():
    data = batch()
    old = data["structure_array"]
    new, moved = changed(data, translate=True)
    np.testing.assert_array_equal(moved, data["displacement"].numpy())
    shift = new["cart_coords"] - old["cart_coords"].numpy()
    for i, part in enumerate(np.split(shift, 2)):
        np.testing.assert_allclose(part, part[:1].repeat(len(part), 0), atol=1e-12)
        share = part[0] @ np.linalg.inv(old["lattice"][i].numpy())
        assert 0 < share[0] < 1 and 0 < share[1] < 1 and abs(share[2]) < 1e-12


def test_reordering_moves_whole_atoms_within_their_structure():
    data = batch()
    old = {key: value.numpy() for key, value in data["structure_array"].items()}
    new, moved = changed(data, reorder=True)

    def atoms(a, displacement):
        names = ("atom_types", "tags", "fixed", "cart_coords")
        columns = [a[name].reshape(len(displacement), -1) for name in names]
        return np.concatenate([*columns, displacement], axis=1)

    first, last = atoms(old, data["displacement"].numpy()), atoms(new, moved)
    assert (first != last).any()
    for a, b in zip(np.split(first, 2), np.split(last, 2), strict=True):
        np.testing.assert_array_equal(a[np.lexsort(a.T)], b[np.lexsort(b.T)])


def test_jitter_changes_the_start_of_free_atoms_and_not_their_end():
    data = batch()
    old = data["structure_array"]
    new, moved = changed(data, jitter=0.2)
    shift = new["cart_coords"] - old["cart_coords"].numpy()
    fixed = old["fixed"].numpy()
    assert (shift[fixed] == 0).all() and (np.abs(shift[~fixed]) > 0).all()
    end = (old["cart_coords"] + data["displacement"]).numpy()
    np.testing.assert_allclose(new["cart_coords"] + moved, end, atol=1e-12)
    noise = Augmentation(jitter=0.2).noise(paddle.zeros([20000]))
    assert float(noise.std()) == pytest.approx(0.2, rel=0.03)


def test_without_options_nothing_changes():
    data = batch()
    new, moved = changed(data)
    for key, value in new.items():
        np.testing.assert_array_equal(value, data["structure_array"][key].numpy())
    np.testing.assert_array_equal(moved, data["displacement"].numpy())
