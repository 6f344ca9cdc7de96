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


"""SFINEnergy: contract, what is read, normalisation, joint training, errors."""

import copy

import numpy as np
import paddle
import pytest
from helpers import batch_of
from helpers import random_slab
from helpers import repeated

from ppmat.models import SFINEnergy
from ppmat.models import build_model
from ppmat.utils.element_properties import element_properties
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError
from ppmat.utils.save_load import CheckpointError
from ppmat.utils.save_load import apply_weights

GRAPH = {"cutoff": 4.0, "max_neighbors": None, "k_cut": 1.3}
BACKBONE = {
    "channels": 8,
    "vectors": 4,
    "num_blocks": 1,
    "cutoff": 4.0,
    "k_cut": 1.3,
    "num_basis": 6,
    "frequency_ratio": 1.0,
}
ANGULAR = {"vector_messages": 3, "products": True, "tensors": 2}
JOINT = {"displacement_weight": [15.0, 1.0]}


def energy_model(**params):
    paddle.seed(5)
    init = {"backbone_cfg": copy.deepcopy(BACKBONE), **params}
    model = build_model({"__class_name__": "SFINEnergy", "__init_params__": init})
    for head in (model.energy_head, model.error_head):  # not as quiet as at the start
        if head is not None:
            head.out.weight.set_value(paddle.randn(head.out.weight.shape))
    if model.displacement_head is not None:
        weight = model.displacement_head.weight
        weight.set_value(0.3 * paddle.randn(weight.shape))
    return model


def slabs(*seeds, **kwargs):
    return [random_slab(np.random.default_rng(s), **kwargs) for s in seeds]


def batch(*seeds, label=-1.0, **kwargs):
    data = batch_of(slabs(*seeds, **kwargs), "float32", **GRAPH)
    data["y_relaxed"] = label + 0.5 * paddle.arange(len(seeds)).astype(
        "float32"
    ).unsqueeze(-1)
    return data


def energies(model, structures):
    model.eval()
    return model.predict(batch_of(structures, "float32", **GRAPH))["y_relaxed"]


def test_forward_contract():
    model, data = energy_model(), batch(0, 1)
    before = {k: v.numpy().copy() for k, v in data["structure_array"].items()}
    result = model(data)
    assert list(result["loss_dict"]) == ["loss", "energy"]
    assert result["loss_dict"]["loss"].shape == []
    assert result["pred_dict"]["y_relaxed"].shape == [2, 1]
    for key, value in before.items():
        np.testing.assert_array_equal(data["structure_array"][key].numpy(), value)


def test_forward_contract_of_joint_training():
    model = energy_model(**JOINT, predict_error=True, weight_batches=9)
    data = batch(0, 1)
    losses = {k: float(v) for k, v in model(data)["loss_dict"].items()}
    assert list(losses) == ["loss", "energy", "displacement", "error"]
    expected = losses["energy"] + 15 * losses["displacement"] + losses["error"]
    assert losses["loss"] == pytest.approx(expected, rel=1e-5)
    model.eval()
    result = model(data)["pred_dict"]
    assert result["cart_coords_relaxed"].shape == data["displacement"].shape
    predicted = model.predict(data)
    np.testing.assert_allclose(
        predicted["y_relaxed"], result["y_relaxed"].numpy().ravel(), rtol=1e-5
    )
    positions = np.concatenate(predicted["cart_coords_relaxed"])
    np.testing.assert_allclose(
        positions, result["cart_coords_relaxed"].numpy(), atol=1e-5
    )


def test_predict_needs_no_labels():
    model = energy_model(**JOINT, predict_error=True)
    data = batch_of(slabs(0, 1, 2), "float32", **GRAPH)
    for label in ("displacement", "cart_coords_relaxed"):
        del data[label]
    result = model.predict(data)
    assert result["y_relaxed"].shape == (3,)
    assert result["expected_error"].shape == (3,)
    assert (result["expected_error"] > 0).all()
    counts = data["structure_array"]["num_atoms"].tolist()
    assert [len(p) for p in result["cart_coords_relaxed"]] == counts


def test_reads_adsorbate_and_surface_alone():
    """The energy is the sum of the head over tags > 0, whatever tag 0 says."""
    model = energy_model()
    model.eval()
    data = batch(0, 1)
    features, _ = model.backbone(data)
    per_atom = model.energy_head(model.readout(features).s).numpy()
    tags = data["structure_array"]["tags"].numpy()
    rows = np.split(np.arange(len(tags)), np.cumsum([7]))
    want = [per_atom[r][tags[r] > 0].sum() for r in rows]
    every = [per_atom[r].sum() for r in rows]
    found = model.predict(data)["y_relaxed"]
    np.testing.assert_allclose(found, want, rtol=1e-5)
    assert np.abs(found - every).max() > 1e-3


def test_mean_pooling():
    total, mean = energy_model(), energy_model(pooling="mean")
    structures = slabs(0, 1)
    count = np.array([(s["tags"] > 0).sum() for s in structures])
    np.testing.assert_allclose(
        energies(mean, structures) * count, energies(total, structures), rtol=1e-5
    )


SLOPES = {"H": [0.1, -0.4, 0.2, 0.3, -0.2], "Cu": [1.5, 0.1, -0.3, 0.2, 0.4]}
EXTENSIVE = {
    "data_mean": -1.5,
    "data_std": 0.7,
    "element_reference": {"H": 0.3},
    "surface_reference": SLOPES,
}


def mean_taken_once(model):
    """The broken twin: ``data_mean`` whatever the number of adsorbates."""
    model.adsorbates = lambda atoms: paddle.ones(atoms["num_atoms"].shape)
    return model


@pytest.mark.parametrize("n", [2, 3])
def test_supercell_has_the_energy_of_its_cells(n):
    a = slabs(3)[0]
    options = {**JOINT, **EXTENSIVE, "num_recycles": 1, "predict_error": True}
    data = batch_of([a, repeated(a, n)], "float32", **GRAPH)
    for change, excess in ((lambda model: model, 0.0), (mean_taken_once, 1.5)):
        model = change(energy_model(**options))
        model.eval()
        found = model.predict(data)
        one, many = found["y_relaxed"].tolist()
        assert many - n * one == pytest.approx(excess * (n - 1), abs=1e-3)
        one, many = found["expected_error"]
        assert many / one == pytest.approx(1 if excess else n, rel=1e-4)


def test_labels_of_several_adsorbates_are_normalised_as_predicted():
    a = slabs(3)[0]
    model = energy_model(**EXTENSIVE, predict_error=True)
    data = batch_of([a, repeated(a, 2)], "float32", **GRAPH)
    model.eval()
    data["y_relaxed"] = paddle.to_tensor(model.predict(data)["y_relaxed"]).unsqueeze(-1)
    losses = model(data)["loss_dict"]
    assert float(losses["energy"]) == pytest.approx(0, abs=1e-5)
    data["y_relaxed"] += paddle.to_tensor([[0.7], [1.4]])  # one and two eV / data_std
    losses = model(data)["loss_dict"]
    # one adsorbate each
    assert float(losses["energy"]) == pytest.approx(1.0, rel=1e-4)
    expected = model.predict(data)["expected_error"] / 0.7
    wanted = np.mean([1, 2] / expected + np.log(expected))
    assert float(losses["error"]) == pytest.approx(wanted, rel=1e-3)


def test_a_clean_slab_counts_as_one():
    a = slabs(3)[0]
    model = energy_model(**EXTENSIVE)
    clean = energies(model, [{**a, "num_adsorbates": 0}])
    np.testing.assert_array_equal(clean, energies(model, [a]))


def test_frame_and_order_do_not_matter():
    a = slabs(3)[0]
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    p = rng.permutation(len(a["z"]))
    turned = {**a, "pos": a["pos"] @ q, "cell": a["cell"] @ q}
    mixed = {k: v if k == "cell" else v[p] for k, v in a.items()}
    model = energy_model(**JOINT, num_recycles=1)
    found = energies(model, [a, turned, mixed])
    np.testing.assert_allclose(found, found[0], rtol=1e-4)
    swapped = {**a, "z": a["z"][::-1].copy()}  # the twin: elements on other places
    assert abs(energies(model, [swapped])[0] - found[0]) > 1e-3


def test_normalisation_and_reference():
    reference = {"H": 0.25, "Cu": -1.5}
    plain = energy_model()
    model = energy_model(data_mean=-1.2, data_std=0.7, element_reference=reference)
    structures = slabs(0, 1)
    offset = [
        sum(
            {1: 0.25, 29: -1.5}.get(z, 0.0)
            for z, tag in zip(s["z"], s["tags"])
            if tag > 0
        )
        for s in structures
    ]
    want = energies(plain, structures) * 0.7 - 1.2 + offset
    np.testing.assert_allclose(energies(model, structures), want, rtol=1e-5)
    data = batch(0, 1)
    model.eval()
    result = model(data)
    error = result["pred_dict"]["y_relaxed"] - data["y_relaxed"]
    assert float(result["loss_dict"]["energy"]) == pytest.approx(
        float(error.abs().mean()) / 0.7, rel=1e-5
    )


def test_statistics_may_be_arrays_without_axes():
    """PaddleMaterials 0.3.0 measures them as NumPy arrays and hands those over."""
    measured = {"data_mean": np.array(-1.25, "float32"), "data_std": np.array(0.5)}
    model = SFINEnergy(copy.deepcopy(BACKBONE), **measured)
    assert (float(model.data_mean), float(model.data_std)) == (-1.25, 0.5)
    assert model.data_std.dtype == model.data_mean.dtype == paddle.float32


def test_adsorbate_energy_is_linear_in_the_properties_of_the_surface():
    plain, model = energy_model(), energy_model(surface_reference=SLOPES)
    structures, table = slabs(0, 1), element_properties()
    for s in structures:
        s["z"][np.flatnonzero(s["tags"] == 1)[0]] = 78  # an alloy
        s["z"][np.flatnonzero(s["tags"] == 2)[0]] = 1
    difference = energies(model, structures) - energies(plain, structures)
    want = [
        sum(
            np.dot(SLOPES[symbol], table[s["z"][s["tags"] == 1]].mean(axis=0))
            for symbol, z in (("H", 1), ("Cu", 29))
            for _ in np.flatnonzero((s["z"] == z) & (s["tags"] == 2))
        )
        for s in structures
    ]
    assert min(np.abs(want)) > 0.01
    np.testing.assert_allclose(difference, want, atol=1e-5)


def test_statistics_travel_with_the_weights():
    trained = energy_model(data_mean=-1.2, data_std=0.7, element_reference={"H": 1.0})
    fresh = energy_model()
    fresh.set_state_dict(trained.state_dict())
    structures = slabs(0, 1)
    np.testing.assert_allclose(
        energies(fresh, structures), energies(trained, structures), rtol=1e-6
    )


class OfTrainer:
    """What the hook looks at."""

    max_epochs = 2
    train_dataloader = range(5)


def test_auxiliary_weight_falls_over_the_training():
    model, data = energy_model(**JOINT), batch(0)
    model.before_train(OfTrainer())
    seen = []
    for _ in range(12):
        seen.append(model.weight_now(model.displacement_weight))
        model(data)
    np.testing.assert_allclose(seen[:10], 15 - 1.4 * np.arange(10), rtol=1e-6)
    assert seen[10:] == [1.0, 1.0]
    model.eval()
    model(data)
    assert int(model.batches_seen) == 12  # evaluation is not training
    again = energy_model(**JOINT)
    again.set_state_dict(model.state_dict())
    again.before_train(OfTrainer())
    assert again.weight_now(again.displacement_weight) == 1.0


def test_auxiliary_weight_falls_when_nobody_calls_the_hook():
    model, data = energy_model(**JOINT, weight_batches=4), batch(0)
    seen = []
    for _ in range(6):
        losses = {k: float(v) for k, v in model(data)["loss_dict"].items()}
        seen.append((losses["loss"] - losses["energy"]) / losses["displacement"])
    np.testing.assert_allclose(seen, [15, 11.5, 8, 4.5, 1, 1], rtol=1e-4)
    model.before_train(OfTrainer())  # the number in the YAML holds
    assert model.num_batches == 4


def test_auxiliary_weight_of_a_training_of_unknown_length():
    model, data = energy_model(**JOINT), batch(0)
    with pytest.raises(InputError, match="from 15.0 to 1.0 .*weight_batches"):
        model(data)
    assert int(model.batches_seen) == 0
    model.eval()
    losses = {k: float(v) for k, v in model(data)["loss_dict"].items()}
    want = losses["energy"] + losses["displacement"]  # as at the end of the training
    assert losses["loss"] == pytest.approx(want, rel=1e-5)
    same = energy_model(displacement_weight=[2.0, 2.0])
    assert "displacement" in same(data)["loss_dict"]


def test_noisy_nodes_stand_on_their_way():
    """Without noise each free atom is between its ends; no fixed atom ever moves."""
    data = batch(0, 1, 2, 3, n=9)
    model = energy_model(**JOINT, noisy_nodes=1.0, noise_std=0.0)
    start = data["structure_array"]["cart_coords"].numpy()
    way = data["displacement"].numpy()
    free = ~data["structure_array"]["fixed"].numpy()
    moved = model.draw_positions(data).numpy() - start
    share = (moved * way).sum(-1)[free] / (way**2).sum(-1)[free]
    assert share.min() > 0 and share.max() < 1 and share.std() > 0.1
    np.testing.assert_allclose(moved[free], share[:, None] * way[free], atol=2e-5)
    assert not moved[~free].any()


def test_noise_and_share_of_noisy_nodes():
    paddle.seed(3)
    data = batch(*range(40), n=12)
    data["displacement"] = paddle.zeros_like(data["displacement"])
    model = energy_model(**JOINT, noisy_nodes=0.25, noise_std=0.2)
    start = data["structure_array"]["cart_coords"].numpy()
    free = ~data["structure_array"]["fixed"].numpy()
    moved = np.stack(
        [model.draw_positions(data).numpy() - start for _ in range(20)]
    ).reshape(20, 40, 12, 3)
    free = free.reshape(40, 12)
    shown = np.abs(moved).sum((2, 3)) > 0
    assert 0.2 < shown.mean() < 0.3  # 800 draws of 0.25: sd 0.015
    noise = moved[shown[:, :, None] & free[None]]
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert not moved[:, ~free].any()


def test_recycling_reads_the_energy_where_the_atoms_went():
    model, data = energy_model(**JOINT, num_recycles=2), batch(0, 1)
    model.eval()
    positions = data["structure_array"]["cart_coords"]
    for _ in range(2):
        _, positions, _ = model.predict_at(data, positions)
    energy, relaxed, _ = model.predict_at(data, positions)
    result = model.predict(data)
    np.testing.assert_allclose(result["y_relaxed"], energy.numpy(), rtol=1e-5)
    np.testing.assert_allclose(
        np.concatenate(result["cart_coords_relaxed"]), relaxed.numpy(), atol=1e-5
    )
    once = energy_model(**JOINT)
    assert np.abs(result["y_relaxed"] - once.predict(data)["y_relaxed"]).max() > 1e-3


def test_training_recycles_a_random_number_of_times():
    model, data = energy_model(**JOINT, num_recycles=2), batch(0)
    asked = []
    recycle = model.recycle
    model.recycle = lambda batch, count: asked.append(count) or recycle(batch, count)
    for _ in range(40):
        model.draw_positions(data)
    assert {0, 1, 2} == set(asked)
    assert model.draw_positions(data).stop_gradient


def test_fixed_atoms_stay():
    model, data = energy_model(**JOINT, num_recycles=1), batch(0, 1)
    model.eval()
    fixed = data["structure_array"]["fixed"].numpy()
    moved = np.concatenate(model.predict(data)["cart_coords_relaxed"])
    moved = moved - data["structure_array"]["cart_coords"].numpy()
    assert np.abs(moved[fixed]).max() == 0
    assert np.abs(moved[~fixed]).max() > 1e-3


def test_error_head_leaves_the_energy_alone():
    with_head, data = energy_model(predict_error=True), batch(0, 1)
    without = energy_model()
    state = {k: v for k, v in with_head.state_dict().items() if "error_head" not in k}
    without.set_state_dict(state)
    for model in (with_head, without):
        model.eval()
        model(data)["loss_dict"]["loss"].backward()
    other = dict(without.named_parameters())
    for name, parameter in with_head.named_parameters():
        if name in other and parameter.grad is not None:
            np.testing.assert_allclose(
                parameter.grad.numpy(), other[name].grad.numpy(), atol=1e-6
            )
    head = with_head.error_head.out.weight
    assert np.abs(head.grad.numpy()).max() > 0


def test_error_head_learns_the_mean_absolute_error():
    """Two kinds of structures, errors 0.1 and 0.6 eV: the head tells them apart."""
    model = energy_model(predict_error=True, data_std=0.5)
    data = batch(0, 1)
    model.eval()
    model.energy_head.out.weight.set_value(
        paddle.zeros_like(model.energy_head.out.weight)
    )
    model.energy_head.out.bias.set_value(paddle.zeros([1]))
    data["y_relaxed"] = paddle.to_tensor([[0.1], [-0.6]])
    optimizer = paddle.optimizer.Adam(0.02, parameters=model.error_head.parameters())
    for _ in range(120):
        model(data)["loss_dict"]["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
    found = model.predict(data)["expected_error"]
    np.testing.assert_allclose(found, [0.1, 0.6], rtol=0.05)


def test_elements_met_in_training_are_remembered():
    model, data = energy_model(), batch(0, 1)
    assert not model.elements_seen.numpy().any()
    model.eval()
    model(data)
    assert not model.elements_seen.numpy().any()
    model.train()
    model(data)
    met = set(np.flatnonzero(model.elements_seen.numpy()).tolist())
    assert met == set(data["structure_array"]["atom_types"].numpy().tolist())


@pytest.mark.parametrize(
    "params",
    [
        {},
        {**JOINT, "weight_batches": 30, "noisy_nodes": 0.5, "num_recycles": 1},
        {"predict_error": True, **JOINT, "weight_batches": 20},
        {"dropout": 0.1, "pooling": "mean"},
    ],
)
def test_learns(params):
    model, data = energy_model(**params), batch(0, 1, 2, 3)
    optimizer = paddle.optimizer.Adam(3e-3, parameters=model.parameters())

    def loss():
        model.eval()
        return float(model(data)["loss_dict"]["energy"])

    first = loss()
    for _ in range(30):
        model.train()
        model(data)["loss_dict"]["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
    assert loss() < 0.5 * first


@pytest.mark.parametrize(
    "params, word",
    [
        ({"noisy_nodes": 0.5}, "displacement_weight"),
        ({"num_recycles": 1}, "displacement_weight"),
        ({"data_std": 0.0}, "data_std"),
        ({"pooling": "max"}, "pooling"),
        ({"element_reference": {"Xx": 1.0}}, "element_reference names 'Xx'"),
        ({"surface_reference": {"Xx": [1.0] * 5}}, "surface_reference names 'Xx'"),
        ({"surface_reference": {"H": [1.0]}}, "surface_reference.H has 1 slopes"),
        ({"displacement_weight": [1.0]}, "displacement_weight"),
        ({"readout_tags": [3]}, "readout_tags"),
        ({"backbone_cfg": {"chanels": 8}}, "chanels"),
    ],
)
def test_refuses(params, word):
    init = {"backbone_cfg": BACKBONE, **params}
    with pytest.raises((ConfigError, ValueError), match=word):
        build_model({"__class_name__": "SFINEnergy", "__init_params__": init})


def test_weights_of_the_former_network_are_refused_with_advice():
    model = energy_model()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    apply_weights(model, weights, "new.pdparams")
    weights["backbone.distance_basis.centers"] = np.zeros(6, dtype="float32")
    with pytest.raises(CheckpointError, match="before the blocks.*Train again"):
        apply_weights(model, weights, "old.pdparams")
    weights.pop("backbone.distance_basis.centers")
    weights["backbone.something"] = np.zeros(1, dtype="float32")
    with pytest.raises(CheckpointError, match="another model") as fault:
        apply_weights(model, weights, "other.pdparams")
    assert "Train again" not in str(fault.value)


@pytest.mark.parametrize("angular", [{}, ANGULAR])
@pytest.mark.parametrize("halves", ["both", "spatial", "frequency"])
def test_each_half_learns_energies_and_displacements(halves, angular):
    backbone = {**BACKBONE, "halves": halves, **angular}
    model = energy_model(backbone_cfg=backbone, displacement_weight=[1.0, 1.0])
    data = batch(0, 1)
    model(data)["loss_dict"]["loss"].backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    unused = [n for n, g in grads.items() if g is None]
    taps = ["backbone.structure_geometry.taps.mix.weight"]  # of the spatial half
    assert unused == (taps if halves == "frequency" else [])
    assert all(bool(paddle.isfinite(grads[n]).all()) for n in grads if n not in unused)
