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

"""SFINPlacement: loss, motion, independence of the batch, learning."""

import numpy as np
import paddle
import pytest
from helpers import to_tensors
from scipy.spatial.transform import Rotation
from test_placement_dataset import GRAPH
from test_placement_dataset import data_set
from test_placement_dataset import records

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.placement_dataset import nearest_target
from ppmat.datasets.placements import random_placements
from ppmat.datasets.structure_record import structure_to_record
from ppmat.models import build_model
from ppmat.utils.errors import InputError
from ppmat.utils.rigid_motion import motion_to

SCHEDULER = {"__class_name__": "FlowMatchingScheduler", "__init_params__": {}}


def placement(scheduler=None, quiet=False):
    paddle.seed(5)
    sizes = {"channels": 16, "vectors": 8, "messages": 8, "num_blocks": 1}
    params = {
        "backbone_cfg": {**sizes, "cutoff": 4.0, "k_cut": 0.7},
        "scheduler_cfg": {**SCHEDULER, "__init_params__": scheduler or {}},
        "graph_cfg": GRAPH,
    }
    model = build_model({"__class_name__": "SFINPlacement", "__init_params__": params})
    if not quiet:  # as the head is at the start
        weight = model.displacement_head.weight
        weight.set_value(0.3 * paddle.randn(weight.shape))
    return model


def batch_of(samples):
    return to_tensors(DefaultCollator()(samples))


def starts(data, *numbers):
    """Return samples of placements without labels."""
    return [{**data[i], "id": str(i)} for i in numbers]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = [*records(), *records("O"), *records("CH3")]
    return data_set(tmp_path_factory.mktemp("data"), rows, draws=8)


def test_loss_is_the_sum_of_the_means_of_adsorbate_and_slab(data):
    model = placement()
    samples = [data[i] for i in (0, 1, 2)]
    batch = batch_of(samples)
    with paddle.no_grad():
        losses = {k: float(v) for k, v in model(batch)["loss_dict"].items()}
        position = batch["structure_array"]["cart_coords"]
        found = model.displacement(batch, position, batch["time"].reshape([-1]))
    error = np.linalg.norm((found - batch["displacement"]).numpy(), axis=1)
    counts = [len(s["displacement"].data) for s in samples]
    parts = np.split(error, np.cumsum(counts)[:-1])
    tags = [s["structure_array"]["tags"].data for s in samples]
    free = [~s["structure_array"]["fixed"].data for s in samples]
    own = np.mean([e[t == 2].mean() for e, t in zip(parts, tags)])
    slab = np.mean([e[(t < 2) & f].mean() for e, t, f in zip(parts, tags, free)])
    assert losses["adsorbate"] == pytest.approx(own, rel=1e-5)
    assert losses["slab"] == pytest.approx(slab, rel=1e-5)
    assert losses["loss"] == pytest.approx(own + slab, rel=1e-5)


def test_a_model_knows_the_elements_it_was_trained_on(data):
    model = placement()
    batch = batch_of([data[0]])
    model.eval()
    model(batch)
    assert not model.elements_seen.numpy().any()
    model.train()
    model(batch)
    met = set(np.flatnonzero(model.elements_seen.numpy()).tolist())
    assert met == set(batch["structure_array"]["atom_types"].numpy().tolist())


def test_a_network_that_knows_the_way_arrives(data, monkeypatch):
    model = placement()
    system = data.systems[2]
    (sample,) = starts(data, 2)
    own = sample["structure_array"]["tags"].data == 2
    first = sample["structure_array"]["cart_coords"].data[own].astype(float)
    target, slab_move = nearest_target(system, first)
    begin = sample["structure_array"]["cart_coords"].data[~own]
    seen = []

    def know(batch, positions, time):
        here = positions.numpy().astype(float)
        motion = np.zeros_like(here)
        motion[own] = motion_to(here[own], target)
        motion[~own] = begin + slab_move - here[~own]
        seen.append((float(time[0]), batch["graph"]["num_edges"].numpy().sum()))
        return paddle.to_tensor(motion.astype("float32"))

    monkeypatch.setattr(model, "displacement", know)
    for steps in (1, 5):
        seen.clear()
        (result,) = model.sample(batch_of([sample]), num_inference_steps=steps)[
            "result"
        ]
        end = np.array(result["cart_coords"])
        assert np.abs(end[own] - target).max() < 1e-4
        assert np.abs(end[~own] - begin - slab_move).max() < 1e-4
        initial = sample["structure_array"]["cart_coords"].data
        np.testing.assert_allclose(result["cart_coords_initial"], initial)
        assert [time for time, _ in seen] == pytest.approx(np.arange(steps) / steps)
    assert len({edges for _, edges in seen}) > 1  # the graph is that of each step


def test_results_do_not_depend_on_the_batch(data):
    model = placement()
    model.eval()
    samples = starts(data, 0, 1, 2, 3)
    together = model.sample(batch_of(samples))["result"]
    assert [r["id"] for r in together] == ["0", "1", "2", "3"]
    for sample, result in zip(samples, together):
        (alone,) = model.sample(batch_of([sample]))["result"]
        assert np.allclose(alone["cart_coords"], result["cart_coords"], atol=1e-4)
    moved = np.array(together[2]["cart_coords"])
    start = samples[2]["structure_array"]
    change = np.linalg.norm(moved - start["cart_coords"].data, axis=1)
    assert not change[start["fixed"].data].any() and change[-4:].min() > 0.01


def test_turned_input_gives_turned_results(data):
    model = placement()
    model.eval()
    turn = Rotation.from_euler("z", 40, degrees=True).as_matrix().T.astype("float32")
    (sample,) = starts(data, 2)
    result = np.array(model.sample(batch_of([sample]))["result"][0]["cart_coords"])
    arrays = dict(sample["structure_array"])
    for name in ("cart_coords", "lattice"):
        arrays[name] = type(arrays[name])(arrays[name].data @ turn)
    turned = {**sample, "structure_array": arrays}
    found = np.array(model.sample(batch_of([turned]))["result"][0]["cart_coords"])
    assert np.allclose(found, result @ turn, atol=1e-3)


def test_it_learns_where_oxygen_goes(tmp_path):
    data = data_set(tmp_path, records("O", (0.0,)), draws=16)  # ontop
    model = placement(quiet=True)
    rate = paddle.optimizer.lr.CosineAnnealingDecay(0.005, 60)
    optimizer = paddle.optimizer.Adam(rate, parameters=model.parameters())
    for epoch in range(60):
        data.set_epoch(epoch)
        batch = batch_of([data[i] for i in range(16)])
        model(batch)["loss_dict"]["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
    model.eval()
    system = data.systems[0]
    before, after = [], []
    for placed in random_placements(system.slab, system.adsorbate, 8, 3):
        record = structure_to_record(placed, warn=False)
        sample = record_to_sample(record, build_graph=model.build_graph, labels=())
        (result,) = model.sample(batch_of([sample]))["result"]
        end = np.array(result["cart_coords"])[-1]
        for place, found in ((placed.positions[-1], before), (end, after)):
            target, _ = nearest_target(system, place[None])
            found.append(np.linalg.norm(place - target[0]))
    assert np.median(after) < 0.2 * np.median(before)


@pytest.mark.parametrize(
    "scheduler",
    [{"noise_std": 0.1}, {"solver": "heun"}, {"time_power": 2.0}],
)
def test_options_that_would_do_nothing_are_refused(scheduler):
    with pytest.raises(InputError, match="PlacementDataset draws start and time"):
        placement(scheduler)
