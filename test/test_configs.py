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

"""Every YAML of the task folders is loaded, built and run for one training step."""

from pathlib import Path

import pytest

from ppmat.datasets import build_dataloader
from ppmat.metrics import build_metric
from ppmat.models import build_model
from ppmat.optimizer import build_optimizer
from ppmat.trainer.config import TrainerConfig
from ppmat.utils.config import load_config

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "structure_generation/example_data/oc20_emt"
CONFIGS = sorted(ROOT.glob("*/configs/**/*.yaml"))


def test_there_are_configs():
    names = [path.name for path in CONFIGS]
    assert {"oc20.yaml", "oc20_10k.yaml", "oc20_all.yaml", "oc20_flow.yaml"} <= set(
        names
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_trains_one_step(path, monkeypatch):
    monkeypatch.setenv("OC20_ROOT", str(SAMPLE))
    config = load_config(
        str(path),
        [
            "Global.num_workers=0",
            "Global.batch_size=2",
            "Dataset.train.dataset.__init_params__.max_samples=2",
            "Dataset.val.dataset.__init_params__.max_samples=2",
            "Optimizer.__init_params__.lr.__init_params__.warmup_epoch=0",
        ],
    )
    model = build_model(config["Model"])
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    train = build_dataloader(config["Dataset"]["train"])
    optimizer, schedule = build_optimizer(config["Optimizer"], model, 2, len(train))
    trainer = TrainerConfig.from_dict(config["Trainer"])
    assert schedule is None or optimizer.get_lr() > 0.0
    (batch,) = train
    model(batch)["loss_dict"]["loss"].backward()
    optimizer.step()
    moved = [n for n, p in model.named_parameters() if (p.numpy() != before[n]).any()]
    assert len(moved) > 0.9 * len(before)
    model.eval()
    (metric,) = build_metric(config["Metric"]).values()
    (batch,) = build_dataloader(config["Dataset"]["val"])
    metric.update_step(result=model(batch), batch=batch, stage="eval")
    values = metric.compute_epoch(stage="eval")
    assert trainer.name_for_best_metric in values


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_graph_reaches_as_far_as_the_network(path, monkeypatch):
    """A network whose cut-off passes the graph's would meet a sharp edge."""
    monkeypatch.setenv("OC20_ROOT", str(SAMPLE))
    config = load_config(str(path))
    graph = config["Global"]["graph"]["__init_params__"]
    backbone = config["Model"]["__init_params__"]["backbone_cfg"]
    assert backbone["cutoff"] <= graph["cutoff"]
    assert backbone["k_cut"] <= graph["k_cut"]
    for split in ("train", "val"):
        block = config["Dataset"][split]["dataset"]["__init_params__"]
        assert block["build_graph_cfg"]["__init_params__"] == graph
