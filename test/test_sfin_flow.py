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

"""SFINFlow: contract of the model, what moves, seeds, learning."""

import copy

import numpy as np
import paddle
import pytest
from helpers import batch_of
from helpers import random_slab

from ppmat.metrics import IS2RSMetric
from ppmat.models import build_model
from ppmat.sampler import StructureSampler
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError

GRAPH = {"cutoff": 4.0, "max_neighbors": None, "k_cut": 1.3}
CONFIG = {
    "__class_name__": "SFINFlow",
    "__init_params__": {
        "backbone_cfg": {
            "channels": 8,
            "vectors": 4,
            "num_blocks": 1,
            "cutoff": 4.0,
            "k_cut": 1.3,
            "num_basis": 6,
        },
        "scheduler_cfg": {
            "__class_name__": "FlowMatchingScheduler",
            "__init_params__": {"noise_std": 0.1},
        },
        "num_inference_steps": 2,
    },
}


def flow(**params):
    paddle.seed(5)
    config = copy.deepcopy(CONFIG)
    scheduler = params.pop("scheduler", {})
    config["__init_params__"].update(params)
    config["__init_params__"]["scheduler_cfg"]["__init_params__"].update(scheduler)
    return build_model(config)


def regressor(**params):
    return flow(
        scheduler={"noise_std": 0.0, "time_sampling": "zero"},
        num_inference_steps=1,
        **params,
    )


def slabs(*seeds, **kwargs):
    return [random_slab(np.random.default_rng(s), **kwargs) for s in seeds]


def batch(*seeds, **kwargs):
    return batch_of(slabs(*seeds, **kwargs), "float32", **GRAPH)


def test_forward_contract():
    model = flow()
    data = batch(0, 1)
    before = {k: v.numpy().copy() for k, v in data["structure_array"].items()}
    result = model(data)
    assert list(result) == ["loss_dict"]  # training: noise and time drawn inside
    assert result["loss_dict"]["loss"].shape == []
    model.eval()
    predicted = model(data)["pred_dict"]["cart_coords_relaxed"]
    assert predicted.shape == data["cart_coords_relaxed"].shape
    for key, value in before.items():
        np.testing.assert_array_equal(value, data["structure_array"][key].numpy())


def test_loss_is_the_mean_over_structures_of_means_over_free_atoms():
    model = regressor()
    data = batch(0, 1)
    with paddle.no_grad():
        loss = float(model(data)["loss_dict"]["loss"])
        zero = paddle.zeros([2])
        positions = data["structure_array"]["cart_coords"]
        error = model.displacement(data, positions, zero) - data["displacement"]
    lengths = np.linalg.norm(error.numpy(), axis=1)
    counts = data["structure_array"]["num_atoms"].tolist()
    free = ~data["structure_array"]["fixed"].numpy()
    parts = zip(np.split(lengths, counts[:1]), np.split(free, counts[:1]))
    assert loss == pytest.approx(np.mean([e[f].mean() for e, f in parts]), rel=1e-5)


def test_fixed_atoms_do_not_move_and_free_ones_do():
    model = flow()
    weight = model.displacement_head.weight  # not as quiet as at the start
    weight.set_value(0.3 * paddle.ones(weight.shape))
    model.eval()
    data = batch(0, 1, 2)
    results = model.sample(data, seed=1)["result"]
    start = data["structure_array"]["cart_coords"].numpy()
    end = np.concatenate([r["cart_coords"] for r in results])
    fixed = np.concatenate([r["fixed"] for r in results])
    np.testing.assert_array_equal(end[fixed].astype("float32"), start[fixed])
    assert np.abs(end[~fixed] - start[~fixed]).min(axis=1).min() >= 0
    assert np.linalg.norm(end[~fixed] - start[~fixed], axis=1).min() > 1e-4
    unfixed = {**data["structure_array"], "fixed": paddle.zeros([len(end)], "bool")}
    loose = model.sample({**data, "structure_array": unfixed}, seed=1)["result"]
    loose = np.concatenate([r["cart_coords"] for r in loose])
    assert np.abs(loose[fixed] - start[fixed]).max() > 1e-4  # the mask did it


def test_sample_contract_and_cell_relations():
    data = batch(0, 1)
    results = flow().sample(data, num_inference_steps=2, num_samples=3)["result"]
    assert [(r["id"], r["sample"]) for r in results] == [
        (name, k) for name in ("0", "1") for k in range(3)
    ]
    for r in results:
        n = r["num_atoms"]
        assert len(r["atom_types"]) == len(r["tags"]) == len(r["fixed"]) == n
        frac = np.array(r["frac_coords"])
        np.testing.assert_allclose(
            frac @ np.array(r["lattice"]), r["cart_coords"], atol=1e-5
        )
        assert isinstance(r["cart_coords"][0][0], float)
    first, second = results[0]["cart_coords"], results[1]["cart_coords"]
    assert np.abs(np.array(first) - second).max() > 1e-3  # samples differ


def test_metric_of_the_results_is_that_of_the_trainer():
    data = batch(0, 1, 2)
    start = data["structure_array"]["cart_coords"]
    data["cart_coords_relaxed"] = start + data["displacement"]
    model, metric = flow(), IS2RSMetric()
    model.eval()
    metric.update_step(result=model(data), batch=data, stage="eval")
    want = metric.compute_epoch()
    results = model.sample(data)["result"]
    assert metric(results) == pytest.approx(want, rel=1e-6)
    assert want["adwt"] > 0 and want["position_mae"] != want["copy_position_mae"]
    assert metric.compute_epoch() == want  # a call leaves the sums alone
    del data["cart_coords_relaxed"]
    with pytest.raises(InputError, match="result 0 has no cart_coords_relaxed"):
        metric(model.sample(data)["result"])


def test_seed_decides_and_batching_does_not():
    model = flow()
    model.eval()

    def positions(data, seed):
        return [
            np.array(r["cart_coords"]) for r in model.sample(data, seed=seed)["result"]
        ]

    together = batch(0, 1)
    a, b = positions(together, 7)
    again, _ = positions(together, 7)
    np.testing.assert_array_equal(a, again)
    (alone,) = positions(batch(0), 7)
    np.testing.assert_allclose(alone, a, atol=2e-5)
    other, _ = positions(together, 8)
    assert np.abs(other - a).max() > 1e-3


def test_regressor_needs_one_call_and_ignores_the_seed():
    model = regressor()
    model.eval()
    data = batch(0)
    calls = []
    inner = model.displacement
    model.displacement = lambda *args: calls.append(1) or inner(*args)
    first = model.sample(data, seed=0)["result"][0]["cart_coords"]
    assert len(calls) == 1
    assert first == model.sample(data, seed=1)["result"][0]["cart_coords"]


@pytest.mark.parametrize("build", [flow, regressor])
@pytest.mark.parametrize("loss_type", ["l2_norm", "mse"])
def test_training_beats_standing_still(build, loss_type):
    model = build(loss_type=loss_type)
    data = batch(0, 1)
    weight = model.displacement_head.weight.clone()
    model.displacement_head.weight.set_value(paddle.zeros_like(weight))
    still = np.mean([float(model(data)["loss_dict"]["loss"]) for _ in range(10)])
    model.displacement_head.weight.set_value(weight)
    optimizer = paddle.optimizer.Adam(5e-3, parameters=model.parameters())
    losses = []
    for _ in range(60):
        loss = model(data)["loss_dict"]["loss"]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert np.mean(losses[-30:]) < 0.6 * still


def test_evaluation_is_repeatable_and_training_noise_is_not():
    model = flow()
    data = batch(0, 1)
    drawn = {float(model(data)["loss_dict"]["loss"]) for _ in range(3)}
    assert len(drawn) == 3
    model.eval()
    fixed = {float(model(data)["loss_dict"]["loss"]) for _ in range(3)}
    assert len(fixed) == 1


def test_state_dict_round_trip():
    model, other = flow(), flow()
    for p in other.parameters():
        p.set_value(p + 0.1)
    other.set_state_dict(model.state_dict())
    model.eval()
    other.eval()
    data = batch(0)
    assert model.sample(data) == other.sample(data)


@pytest.mark.parametrize(
    "call", [("sample_by_num_atoms", 4), ("sample_by_chemical_formula", "CuO")]
)
def test_sampler_refuses_to_start_from_nothing(call):
    sampler = StructureSampler.__new__(StructureSampler)
    sampler.model, (method, argument) = flow(), call
    with pytest.raises(InputError, match="takes structures"):
        getattr(sampler, method)(argument)


def test_a_formula_alone_is_refused():
    counts = {"num_atoms": paddle.to_tensor([2])}
    formula = {"atom_types": paddle.to_tensor([29, 8]), **counts}
    for arrays in (counts, formula):  # batches that other samplers would make
        with pytest.raises(InputError, match="no positions.*by_chemical_formula"):
            flow().sample({"structure_array": arrays})


def test_no_steps_is_an_error_not_the_default():
    with pytest.raises(ValueError, match="num_inference_steps must be at least 1"):
        flow().sample(batch(0), num_inference_steps=0)


def test_wrong_settings_name_the_key():
    with pytest.raises(ConfigError, match="loss_type"):
        flow(loss_type="l3")
    with pytest.raises(
        ConfigError, match="backbone_cfg.*chanels.*Did you mean 'channels'"
    ):
        flow(backbone_cfg={"chanels": 8})
