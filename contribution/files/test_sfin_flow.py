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
"""SFINFlow: contract, symmetries, samples, metric, configurations."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from omegaconf import OmegaConf

from ppmat.datasets import OC20IS2REDataset
from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.metrics import IS2RSMetric
from ppmat.models import SFINFlow
from ppmat.models import build_model

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "structure_generation" / "configs" / "sfin"
FILES = ROOT / "structure_generation" / "example_data" / "oc20_emt"
GRAPH = {
    "__class_name__": "PeriodicGraphConverter",
    "__init_params__": {"cutoff": 4.0, "max_neighbors": 24, "k_cut": 0.8},
}
BACKBONE = {"channels": 8, "vectors": 4, "num_blocks": 1, "cutoff": 4.0, "k_cut": 0.8}


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture(scope="module")
def samples():
    data = OC20IS2REDataset(str(FILES), "val_id", build_graph_cfg=GRAPH)
    return [data[i] for i in range(3)]


def batch_of(samples):
    def tensors(value):
        if isinstance(value, dict):
            return {key: tensors(item) for key, item in value.items()}
        return paddle.to_tensor(value) if isinstance(value, np.ndarray) else value

    return tensors(DefaultCollator()(samples))


def model(noise_std=0.0, **options):
    paddle.seed(0)
    params = {"noise_std": noise_std, **options}
    block = {"__class_name__": "FlowMatchingScheduler", "__init_params__": params}
    return SFINFlow(BACKBONE, block)


def positions(network, samples, **options):
    network.eval()
    result = network.sample(batch_of(samples), **options)["result"]
    return [np.array(item["cart_coords"]) for item in result]


def test_training_lowers_the_loss(samples):
    network, batch = model(time_sampling="zero"), batch_of(samples)
    adam = paddle.optimizer.Adam(0.01, parameters=network.parameters())
    losses = []
    for _ in range(30):
        loss = network(batch)["loss_dict"]["loss"]
        losses.append(float(loss))
        loss.backward()
        adam.step()
        adam.clear_grad()
    assert losses[-1] < 0.8 * losses[0]


def test_fixed_atoms_stay_and_others_move(samples):
    for sample, found in zip(samples, positions(model(0.1), samples)):
        atoms = sample["structure_array"]
        fixed = atoms["fixed"].data.astype(bool)
        moved = np.linalg.norm(found - atoms["cart_coords"].data, axis=1)
        assert moved[fixed].max() < 1e-5 < moved[~fixed].min()


def test_samples_turn_with_the_cell(samples):
    sample = samples[0]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = {**sample, "structure_array": dict(sample["structure_array"])}
    for key in ("cart_coords", "lattice"):
        data = sample["structure_array"][key].data @ turn
        concat = type(sample["structure_array"][key])
        turned["structure_array"][key] = concat(data.astype("float32"))
    found, other = positions(model(), [sample, turned])
    np.testing.assert_allclose(found @ turn, other, atol=1e-3)


def test_seed_decides_and_batches_do_not(samples):
    network = model(0.3)
    together = positions(network, samples, seed=1, num_inference_steps=3)
    alone = [positions(network, [s], seed=1, num_inference_steps=3)[0] for s in samples]
    for a, b in zip(together, alone):
        np.testing.assert_allclose(a, b, atol=1e-4)
    other = positions(network, samples, seed=2, num_inference_steps=3)
    assert np.abs(other[0] - together[0]).max() > 1e-3


def test_metric_of_results_is_that_of_batches(samples):
    network, batch = model(), batch_of(samples)
    network.eval()
    result = network.sample(batch)
    metric = IS2RSMetric()
    metric.update_step(result=result, batch=batch, stage="sample")
    scores = metric.compute_epoch(stage="sample")
    assert IS2RSMetric()(result["result"]) == pytest.approx(scores)
    assert 0 <= scores["adwt"] <= 1 and scores["position_mae"] > 0


def test_a_perfect_prediction_scores_one(samples):
    batch = batch_of(samples)
    result = {"pred_dict": {"cart_coords_relaxed": batch["cart_coords_relaxed"]}}
    metric = IS2RSMetric()
    metric.update_step(result=result, batch=batch, stage="eval")
    scores = metric.compute_epoch(stage="eval")
    assert scores["adwt"] == 1 and scores["position_mae"] < 1e-5
    assert scores["copy_adwt"] < 1


@pytest.mark.parametrize("name", ["10k", "all"])
def test_configurations_build(name):
    config = OmegaConf.load(CONFIGS / f"sfin_oc20_is2rs_{name}.yaml")
    config = OmegaConf.to_container(config, resolve=True)
    network = build_model(config["Model"])
    assert 5e5 < sum(p.size for p in network.parameters()) < 1e7
    assert config["Sample"]["metrics"]["__class_name__"] == "IS2RSMetric"
