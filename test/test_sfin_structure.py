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

"""Invariances of the structure network in float64, each with a broken twin."""

import math

import numpy as np
import paddle
import pytest
from helpers import batch_of
from helpers import random_slab

from ppmat.models.sfin.sfin_flow import SFINFlow
from ppmat.models.sfin.sfin_structure import SFINBackbone

EXACT = 1e-9  # float64, relative to outputs of order one
BROKEN = 1e-4  # what a broken twin must exceed
GRAPH = {"cutoff": 4.0, "max_neighbors": None, "k_cut": 1.3}
SMALL = {
    "channels": 8,
    "vectors": 4,
    "num_blocks": 1,
    "cutoff": 4.0,
    "k_cut": 1.3,
    "num_basis": 6,
}
ANGULAR = {"vector_messages": 3, "products": True, "tensors": 2}
VARIANTS = [
    {"halves": "both"},
    {"halves": "both", "exchange": False},
    {"halves": "spatial"},
    {"halves": "frequency"},
    {"frequency_ratio": 1.0},
    ANGULAR,
]


@pytest.fixture(autouse=True)
def float64():
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def backbone(cls=SFINBackbone, **kwargs):
    paddle.seed(3)
    model = cls(**{**SMALL, **kwargs})
    model.eval()
    return model


def run(model, slabs, **graph):
    """Return scalars and vectors of all atoms as arrays."""
    with paddle.no_grad():
        x, _ = model(batch_of(slabs, **{**GRAPH, **graph}))
    return x.s.numpy(), x.v.numpy()


def slab(seed=0, **kwargs):
    return random_slab(np.random.default_rng(seed), **kwargs)


def changed(slab, **fields):
    return {**slab, **fields}


def assert_close(a, b):
    for x, y in zip(a, b):
        np.testing.assert_allclose(x, y, atol=EXACT * max(1.0, np.abs(y).max()))


def difference(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b))


def rotation(seed, reflect=False):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if (np.linalg.det(q) < 0) != reflect:
        q[:, 0] *= -1
    return q


class FrameBlind(SFINBackbone):
    """Broken twin: adds a fixed direction to every vector."""

    def forward(self, *args, **kwargs):
        x, geo = super().forward(*args, **kwargs)
        ramp = paddle.to_tensor([[1.0], [0.0], [0.0]])
        return x._replace(v=x.v + ramp), geo


class OriginBound(SFINBackbone):
    """Broken twin: the Fourier unit sees phases squared, not their products."""

    def geometry(self, batch, positions):
        geo = super().geometry(batch, positions)
        cos, sin = geo.wave.split(2, axis=-1)
        return geo._replace(wave=paddle.concat([cos.abs(), sin], axis=-1))


class IndexBox(SFINBackbone):
    """Broken twin: wave vectors of an index box, all alike, as in Ewald message
    passing with free weights per index."""

    def geometry(self, batch, positions):
        geo = super().geometry(batch, positions)
        there = geo.k_unit.abs().sum(axis=[1, 3, 4]) > 0  # [S, K]
        flat = there.astype(geo.k_radial.dtype).unsqueeze(-1)
        return geo._replace(k_radial=flat.expand_as(geo.k_radial))


class NoVolume(SFINBackbone):
    """Broken twin: sums over the cell without dividing by its volume."""

    def geometry(self, batch, positions):
        geo = super().geometry(batch, positions)
        return geo._replace(density=paddle.full_like(geo.density, 0.1))


class Leaky(SFINBackbone):
    """Broken twin: normalises over the batch."""

    def forward(self, *args, **kwargs):
        x, geo = super().forward(*args, **kwargs)
        return x._replace(s=x.s - x.s.mean(axis=0)), geo


@pytest.mark.parametrize("variant", VARIANTS)
def test_translation(variant):
    a = slab()
    b = changed(a, pos=a["pos"] + [0.7, -1.1, 2.3])
    model = backbone(**variant)
    assert_close(run(model, [b]), run(model, [a]))


def test_translation_twin():
    a = slab()
    b = changed(a, pos=a["pos"] + [0.7, -1.1, 2.3])
    model = backbone(OriginBound)
    assert difference(run(model, [b]), run(model, [a])) > BROKEN


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reflect", [False, True])
def test_rotation_and_reflection(variant, reflect):
    a, q = slab(), rotation(5, reflect)
    b = changed(a, pos=a["pos"] @ q, cell=a["cell"] @ q)
    model = backbone(**variant)
    s, v = run(model, [a])
    assert np.abs(v).max() > 1e-3  # vectors are there to be turned
    assert_close(run(model, [b]), (s, np.einsum("nxc,xy->nyc", v, q)))


def test_rotation_twin():
    a, q = slab(), rotation(5)
    b = changed(a, pos=a["pos"] @ q, cell=a["cell"] @ q)
    model = backbone(FrameBlind)
    s, v = run(model, [a])
    turned = (s, np.einsum("nxc,xy->nyc", v, q))
    assert difference(run(model, [b]), turned) > BROKEN


@pytest.mark.parametrize("variant", VARIANTS)
def test_permutation(variant):
    a = slab()
    p = np.random.default_rng(1).permutation(len(a["z"]))
    b = {k: v if k == "cell" else v[p] for k, v in a.items()}
    model = backbone(**variant)
    assert_close(run(model, [b]), [x[p] for x in run(model, [a])])


def test_permutation_twin():
    a = slab()
    p = np.roll(np.arange(len(a["z"])), 1)
    b = {k: v[p] if k == "pos" else v for k, v in a.items()}  # elements stay behind
    model = backbone()
    assert difference(run(model, [b]), [x[p] for x in run(model, [a])]) > BROKEN


@pytest.mark.parametrize("variant", VARIANTS)
def test_lattice_shift_of_single_atoms(variant):
    a = slab()
    shift = np.random.default_rng(2).integers(-2, 3, a["pos"].shape)
    b = changed(a, pos=a["pos"] + shift @ a["cell"])
    model = backbone(**variant)
    assert_close(run(model, [b]), run(model, [a]))
    half = changed(a, pos=a["pos"] + 0.5 * shift @ a["cell"])
    assert difference(run(model, [half]), run(model, [a])) > BROKEN


@pytest.mark.parametrize("variant", VARIANTS)
def test_change_of_lattice_basis(variant):
    a = slab()
    basis = np.array([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])
    assert round(np.linalg.det(basis)) == 1
    b = changed(a, cell=basis @ a["cell"])
    model = backbone(**variant)
    assert_close(run(model, [b]), run(model, [a]))


def box_indices(cell, half=(1, 1, 2)):
    """The half set of an index box, whatever the lengths of its vectors."""
    span = np.mgrid[tuple(slice(-h, h + 1) for h in half)].reshape(3, -1).T
    return np.array([m for m in span if tuple(m) > (0, 0, 0)])


def run_on_box(model, slab):
    batch = batch_of([slab], **GRAPH)
    index = box_indices(slab["cell"])
    batch["graph"]["k_index"] = paddle.to_tensor(index)
    batch["graph"]["num_k"] = paddle.to_tensor([len(index)])
    with paddle.no_grad():
        x, _ = model(batch)
    return x.s.numpy(), x.v.numpy()


def test_change_of_lattice_basis_twin():
    a = slab()
    basis = np.array([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])
    b = changed(a, cell=basis @ a["cell"])
    model = backbone(IndexBox, k_cut=4.0)
    assert difference(run_on_box(model, b), run_on_box(model, a)) > BROKEN


def supercell(a):
    """2x1x1: the atoms, then their copies one ``a`` vector on."""
    twice = {k: v if k == "cell" else np.concatenate([v, v]) for k, v in a.items()}
    twice["pos"] = np.concatenate([a["pos"], a["pos"] + a["cell"][0]])
    twice["cell"] = a["cell"] * [[2], [1], [1]]
    return twice


@pytest.mark.parametrize("variant", VARIANTS)
def test_supercell(variant):
    a = slab()
    model = backbone(**variant)
    want = [np.concatenate([x, x]) for x in run(model, [a])]
    assert_close(run(model, [supercell(a)]), want)


@pytest.mark.parametrize("twin", [NoVolume, IndexBox])
def test_supercell_twin(twin):
    a = slab()
    model = backbone(twin, k_cut=4.0)
    want = [np.concatenate([x, x]) for x in run_on_box(model, a)]
    assert difference(run_on_box(model, supercell(a)), want) > BROKEN


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_equals_single_and_hears_nothing_of_others(variant):
    slabs = [slab(0, n=7), slab(1, n=4), slab(2, n=9)]
    model = backbone(**variant)
    together = run(model, slabs)
    single = [np.concatenate(x) for x in zip(*(run(model, [s]) for s in slabs))]
    assert_close(together, single)
    moved = changed(slabs[1], pos=slabs[1]["pos"] * 1.01)
    other = run(model, [slabs[0], moved, slabs[2]])
    rows = np.r_[0:7, 11:20]
    assert_close([x[rows] for x in other], [x[rows] for x in together])


def test_batch_twin():
    slabs = [slab(0, n=7), slab(1, n=4)]
    model = backbone(Leaky)
    single = [np.concatenate(x) for x in zip(*(run(model, [s]) for s in slabs))]
    assert difference(run(model, slabs), single) > BROKEN


def test_full_network_differs_from_its_parts():
    a = slab()
    full = backbone()
    outputs = [run(full, [a])]
    for path in ("l2l", "g2l", "l2g"):
        model = backbone()
        for name, weight in model.named_parameters():
            if name.endswith(path):
                weight.set_value(paddle.zeros_like(weight))
        outputs.append(run(model, [a]))
    assert difference(outputs[0], outputs[1]) > BROKEN
    assert difference(outputs[0], outputs[2]) > BROKEN
    assert difference(outputs[0], outputs[3]) > BROKEN


@pytest.mark.parametrize("name", ["send_v", "send_t", "factors"])
def test_vector_messages_products_and_tensors_count(name):
    a = slab()
    model = backbone(**ANGULAR)
    before = run(model, [a])
    for path, weight in model.named_parameters():
        if name in path:
            weight.set_value(paddle.zeros_like(weight))
    assert difference(before, run(model, [a])) > BROKEN


def test_frequency_half_sees_beyond_the_cutoff():
    far = slab(4, n=2)
    far["cell"] = np.diag([9.0, 9.0, 40.0])
    far["pos"] = np.array([[0.0, 0, 0], [0.0, 0, 12.0]])
    near = changed(far, pos=far["pos"] + [[0, 0, 0], [0, 0, 1.0]])
    first = [x[0] for x in run(backbone(halves="spatial"), [far])]
    assert_close([x[0] for x in run(backbone(halves="spatial"), [near])], first)
    full = backbone()
    a, b = run(full, [far]), run(full, [near])
    assert difference([x[0] for x in a], [x[0] for x in b]) > 1e3 * EXACT


@pytest.mark.parametrize("what", ["edge", "wave vector"])
def test_smooth_at_the_cutoffs(what):
    """The output and its slope pass the moment an edge or a k enters unharmed."""
    a = slab(4, n=2)
    a["cell"] = np.diag([6.0, 6.5, 12.0])

    def at(x):
        if what == "edge":  # the pair distance crosses 4 Å
            b = changed(a, pos=np.array([[0.0, 0, 0], [0.3, 0.2, 4.0 + x]]))
        else:  # |b_1| crosses 1.3 1/Å
            cell = a["cell"].copy()
            cell[0, 0] = 2 * math.pi / (1.3 + x)
            b = changed(a, cell=cell, pos=np.array([[0.0, 0, 0], [0.3, 0.2, 2.0]]))
        return np.concatenate([y.ravel() for y in run(backbone(), [b])])

    centre = 0.0 if what == "wave vector" else math.sqrt(16 - 0.13) - 4.0
    h = 1e-4
    before = (at(centre - h) - at(centre - 2 * h)) / h
    after = (at(centre + 2 * h) - at(centre + h)) / h
    step = at(centre + h) - at(centre - h)
    assert np.abs(step).max() < 3 * h * max(np.abs(before).max(), 1.0)
    assert np.abs(after - before).max() < 0.02 * max(np.abs(before).max(), 1.0)


def test_isolated_atom_without_edges_or_wave_vectors():
    a = slab(0, n=2)
    one = {k: v if k == "cell" else v[:1] for k, v in a.items()}
    one["cell"] = np.eye(3) * 4.5  # 2 pi / 4.5 > k_cut = 1.3: no wave vector
    model = backbone()
    batch = batch_of([one], **GRAPH)
    assert int(batch["graph"]["num_edges"].sum()) == 0
    assert int(batch["graph"]["num_k"].sum()) == 0
    assert all(np.isfinite(x).all() for x in run(model, [one]))
    both = run(model, [one, a])
    assert_close([x[:1] for x in both], run(model, [one]))


@pytest.mark.parametrize("more", [{}, ANGULAR])
def test_gradients_reach_every_parameter_and_are_finite(more):
    model = SFINFlow(
        backbone_cfg={**SMALL, **more},
        scheduler_cfg={
            "__class_name__": "FlowMatchingScheduler",
            "__init_params__": {"noise_std": 0.1},
        },
    )
    model(batch_of([slab(0), slab(1)], **GRAPH))["loss_dict"]["loss"].backward()
    # the last block's scalars of no consequence for vectors have zero gradients,
    # but no parameter is left out of the graph
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []
    assert all(bool(paddle.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize("more", [{}, ANGULAR])
def test_second_derivatives_exist(more):
    """Needed by potentials: forces inside a loss."""
    batch = batch_of([slab(0)], **GRAPH)
    model = backbone(**more)
    positions = batch["structure_array"]["cart_coords"].clone()
    positions.stop_gradient = False
    x, _ = model(batch, positions)
    (force,) = paddle.grad(x.s.sum(), positions, create_graph=True)
    (force**2).sum().backward()
    weight = model.blocks[0][0].g2g.unit.mix.weight
    assert float(weight.grad.abs().max()) > 0.0


def test_drop_path_leaves_out_whole_structures():
    """A structure passes each block entirely or not at all, twice as strongly."""
    slabs = [slab(i, n=5) for i in range(12)]
    batch = batch_of(slabs, **GRAPH)
    plain = backbone()
    (full, _), model = plain(batch), backbone(drop_path=0.5)
    for block in plain.blocks[0]:  # the block adds nothing when its last gate is shut
        for act in block.act:
            act.out.weight.set_value(paddle.zeros_like(act.out.weight))
            act.out.bias.set_value(paddle.zeros_like(act.out.bias))
    none, _ = plain(batch)
    model.train()
    paddle.seed(1)
    x, _ = model(batch)
    share = (x.s - none.s).numpy() / (full.s - none.s).numpy()
    share = share.reshape(len(slabs), -1)
    np.testing.assert_allclose(
        share, np.round(share[:, :1]) * np.ones_like(share), atol=1e-6
    )
    assert set(np.round(share[:, 0])) == {0.0, 2.0}
    model.eval()
    np.testing.assert_allclose(model(batch)[0].s.numpy(), full.s.numpy())
