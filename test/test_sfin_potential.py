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

"""SFINPotential: gradients against finite differences, size, fragments, training."""

import numpy as np
import paddle
import pytest
from ase.build import bulk
from helpers import batch_of
from helpers import random_slab
from helpers import repeated

from ppmat.models.sfin.sfin_potential import SFINPotential
from ppmat.utils.errors import InputError
from ppmat.utils.save_load import CheckpointError
from ppmat.utils.save_load import apply_weights

GRAPH = {"cutoff": 4.0, "max_neighbors": None, "k_cut": 1.3}
BACKBONE = {
    "channels": 8,
    "vectors": 4,
    "messages": 4,
    "num_blocks": 1,
    "cutoff": 4.0,
    "k_cut": 1.3,
    "num_basis": 6,
    "frequency_ratio": 0.5,
}

ANGULAR = {"vector_messages": 3, "products": True, "tensors": 2}
BACKBONES = [{"halves": half} for half in ("both", "spatial", "frequency")] + [ANGULAR]


@pytest.fixture(autouse=True)
def float64():
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def potential(**params):
    """Return a potential whose energies are not as quiet as at the start."""
    paddle.seed(5)
    backbone = {**BACKBONE, **params.pop("backbone", {})}
    model = SFINPotential(backbone, **params)
    weight = model.energy_head.out.weight
    weight.set_value(paddle.randn(weight.shape))
    model.eval()
    return model


def slab(seed=0, **kwargs):
    return random_slab(np.random.default_rng(seed), **kwargs)


def energy(model, *slabs):
    return model.predict(batch_of(slabs, **GRAPH))["energy"]


def strained(a, strain):
    change = np.eye(3) + strain
    return {**a, "pos": a["pos"] @ change, "cell": a["cell"] @ change}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_forces_are_the_negative_gradient(backbone):
    model = potential(backbone=backbone)
    a, h = slab(1), 1e-4
    forces = model.predict(batch_of([a], **GRAPH))["forces"][0]
    assert np.abs(forces).max() > 1e-3
    for i, axis in ((0, 0), (3, 1), (6, 2)):
        step = np.zeros_like(a["pos"])
        step[i, axis] = h
        up, down = energy(
            model, {**a, "pos": a["pos"] + step}, {**a, "pos": a["pos"] - step}
        )
        slope = (up - down) / (2 * h)
        scale = np.abs(forces).max()
        assert -slope == pytest.approx(forces[i, axis], abs=1e-6 * scale)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_soft_lengths_make_a_crystal_a_harmonic_solid(backbone):
    """Where vectors vanish, a length without them has a cusp, and no force constant."""
    crystal = bulk("Cu", cubic=True).repeat((2, 2, 1))
    plain = {"cell": crystal.cell.array, "pos": crystal.positions, "z": crystal.numbers}
    plain |= {"tags": 0 * crystal.numbers, "fixed": 0 * crystal.numbers}
    plain["displacement"] = 0 * crystal.positions

    def constant(model, moved):
        step = np.zeros_like(plain["pos"])
        step[0, 0] = moved
        a = {**plain, "pos": plain["pos"] + step}
        return -model.predict(batch_of([a], **GRAPH))["forces"][0][0, 0] / moved

    def change(soft):
        model = potential(backbone=backbone, soft_lengths=soft)
        near, far = constant(model, 1e-4), constant(model, 1e-2)
        return abs(near / far - 1)

    assert change(True) < 0.01 and change(False) > 0.1


@pytest.mark.parametrize("soft", [True, False])
def test_weights_know_whether_lengths_are_soft(soft):
    """Else another function than the trained one would be computed, in silence."""
    model, other = potential(soft_lengths=soft), potential(soft_lengths=not soft)
    weights = {name: value.numpy() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="soft_lengths the other value"):
        apply_weights(model, weights, "best.pdparams")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_stress_is_the_derivative_by_strain(backbone):
    """With k vectors and edges that change with the cell; symmetric, of right sign."""
    model = potential(backbone=backbone)
    a, h = slab(2), 1e-4
    stress = model.predict(batch_of([a], **GRAPH))["stress"][0]
    np.testing.assert_allclose(stress, stress.T, atol=1e-12)
    assert np.abs(stress).max() > 1e-6
    volume = np.linalg.det(a["cell"])
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2)):
        strain = np.zeros((3, 3))
        strain[i, j] += h / 2
        strain[j, i] += h / 2
        up, down = energy(model, strained(a, strain), strained(a, -strain))
        slope = (up - down) / (2 * h * volume)
        scale = np.abs(stress).max()
        assert slope == pytest.approx(stress[i, j], abs=1e-5 * scale)


def test_a_supercell_has_the_energy_and_forces_of_its_cells():
    model, a = potential(element_reference={"Cu": -3.0, "H": 1.0}), slab(3)
    found = model.predict(batch_of([a, repeated(a, 2)], **GRAPH))
    one, two = found["energy"]
    assert two == pytest.approx(2 * one, rel=1e-9)
    forces, both = found["forces"]
    np.testing.assert_allclose(both, np.concatenate([forces] * 2), atol=1e-9)
    np.testing.assert_allclose(*found["stress"], atol=1e-9)
    mean = two / 14  # the twin with a mean over atoms is not extensive
    assert abs(mean - 2 * one / 7) > 1e-3


def test_only_elements_positions_and_cell_count():
    model, a = potential(), slab(4)
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(7)
    turned = {**a, "pos": a["pos"] @ q, "cell": a["cell"] @ q}
    mixed = {k: v if k == "cell" else v[order] for k, v in a.items()}
    other_tags = {**a, "tags": 2 - a["tags"], "fixed": ~a["fixed"]}
    shifted = {**a, "pos": a["pos"] + rng.normal(size=3) + a["cell"][1]}
    found = model.predict(batch_of([a, turned, mixed, other_tags, shifted], **GRAPH))
    np.testing.assert_allclose(found["energy"], found["energy"][0], rtol=1e-9)
    forces = found["forces"]
    scale = np.abs(forces[0]).max()
    np.testing.assert_allclose(forces[1], forces[0] @ q, atol=1e-9 * scale)
    np.testing.assert_allclose(forces[2], forces[0][order], atol=1e-9 * scale)
    swapped = {**a, "z": a["z"][::-1].copy()}  # the twin: elements on other places
    assert abs(energy(model, swapped)[0] - found["energy"][0]) > 1e-4


def two_fragments(gap):
    """Two clusters in a large cell, with ``gap`` Å between their centres."""
    rng = np.random.default_rng(1)
    cluster = np.array([[0, 0, 0], [1.9, 0, 0], [0, 1.9, 0]]) + rng.normal(
        0, 0.1, (3, 3)
    )
    pos = np.concatenate([cluster + 8.0, cluster + [8.0, 8.0, 8.0 + gap]])
    return {
        "cell": np.eye(3) * 40.0,
        "pos": pos,
        "z": np.array([29, 8, 1] * 2),
        "tags": np.zeros(6, int),
        "fixed": np.zeros(6, bool),
        "displacement": np.zeros((6, 3)),
    }


def test_far_fragments_are_additive_without_the_frequency_half():
    model = potential(backbone={"halves": "spatial"})
    near, far, farther = energy(model, *map(two_fragments, (3.5, 9.0, 15.0)))
    assert far == pytest.approx(farther, abs=1e-10)
    assert abs(near - far) > 1e-5
    long = potential()  # the frequency half sees further than the cut-off
    far, farther = energy(long, *map(two_fragments, (9.0, 15.0)))
    assert abs(far - farther) > 1e-9


def test_energy_is_smooth_where_a_neighbour_leaves():
    """Slopes on both sides of the cut-off agree; a cut without envelope would jump."""
    model, h = potential(backbone={"halves": "spatial"}), 1e-3
    atoms = two_fragments(0.0)
    first = {k: v[:2] if len(v) == 6 else v for k, v in atoms.items()}

    def at(distance):
        pos = np.array([[8.0, 8, 8], [8.0 + distance, 8, 8]])
        return {**first, "pos": pos}

    grid = 4.0 + h * np.arange(-5, 6)
    energies = energy(model, *map(at, grid))
    second = np.diff(energies, 2) / h**2
    assert np.abs(second).max() < 1e-2
    assert np.abs(np.diff(energies)).max() < 1e-6


def labelled(model, slabs, seed=0):
    rng = np.random.default_rng(seed)
    batch = batch_of(slabs, **GRAPH)
    found = model.derivatives(batch)
    noise = 0.3 * rng.normal(size=found.forces.shape)
    batch["energy"] = found.energy.detach().unsqueeze(-1) + 0.2
    batch["forces"] = found.forces.detach() + paddle.to_tensor(noise)
    batch["stress"] = found.stress.detach() + 1e-3
    return batch


def test_losses_are_those_of_one_atom_and_weights_change():
    model = potential(data_std=0.5, energy_weight=[1.0, 3.0], stress_weight=[2.0, 2.0])
    batch = labelled(model, [slab(0), slab(1, n=5)])
    losses = model(batch)["loss_dict"]
    assert float(losses["energy"]) == pytest.approx((0.2 / 7 + 0.2 / 5) / 2)
    error = batch["forces"] - model.derivatives(batch).forces
    length = np.linalg.norm(error.numpy(), axis=1).mean()
    assert float(losses["forces"]) == pytest.approx(length, rel=1e-6)
    assert float(losses["stress"]) == pytest.approx(1e-3, rel=1e-6)
    model.num_batches = 4
    model.batches_seen.set_value(paddle.to_tensor(2))
    loss = model(batch)["loss_dict"]
    parts = 2 * loss["energy"] + loss["forces"] + 2 * loss["stress"]
    assert float(loss["loss"]) == pytest.approx(float(parts) / 0.5)


def test_forces_are_learned_through_second_derivatives():
    model = potential(energy_weight=[0.0, 0.0])
    batch = labelled(model, [slab(0), slab(1)])
    optimizer = paddle.optimizer.Adam(3e-3, parameters=model.parameters())

    def loss():
        model.eval()
        return float(model(batch)["loss_dict"]["forces"])

    first = loss()
    for _ in range(30):
        model.train()
        model(batch)["loss_dict"]["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
    assert loss() < 0.8 * first
    met = set(np.flatnonzero(model.elements_seen.numpy()).tolist())
    assert met == set(batch["structure_array"]["atom_types"].numpy().tolist())


def test_refuses_weights_that_are_no_pair():
    with pytest.raises(InputError, match="weights of forces"):
        potential(force_weight=[1.0])
