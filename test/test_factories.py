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

"""build_model, build_metric, build_loss, build_scheduler, transforms: the contract."""

import copy
import math

import numpy as np
import paddle
import pytest

from ppmat.datasets.transform import build_post_transforms
from ppmat.datasets.transform import build_transforms
from ppmat.losses import LOSSES
from ppmat.losses import LossWarper
from ppmat.losses import build_loss
from ppmat.metrics import METRICS
from ppmat.metrics import StreamingMetricBase
from ppmat.metrics import build_metric
from ppmat.models import GRAPH_CONVERTERS
from ppmat.models import MODELS
from ppmat.models import build_graph_converter
from ppmat.models import build_model
from ppmat.schedulers import SCHEDULERS
from ppmat.schedulers import build_scheduler
from ppmat.utils.registry import ConfigError

BUILDERS = {
    "model": (build_model, MODELS),
    "graph converter": (build_graph_converter, GRAPH_CONVERTERS),
    "metric": (build_metric, METRICS),
    "loss": (build_loss, LOSSES),
    "scheduler": (build_scheduler, SCHEDULERS),
}


def block(name, **params):
    return {"__class_name__": name, "__init_params__": params}


@pytest.mark.parametrize("kind", sorted(BUILDERS))
def test_every_factory_refuses_what_it_does_not_know(kind, tmp_path):
    build, registry = BUILDERS[kind]
    assert registry.kind == kind
    assert build(None) is None
    marker = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch() or dict"
    with pytest.raises(ConfigError, match=f"unknown {kind}"):
        build(block(code), where="Some.place")
    assert not marker.exists()
    typo = next(iter(registry))[:-1]
    with pytest.raises(ConfigError, match=f"Some.place.*Did you mean '{typo}.+'"):
        build(block(typo), where="Some.place")
    with pytest.raises(ConfigError, match="Some.place"):
        build([1], where="Some.place")


class TinyModel(paddle.nn.Layer):
    def __init__(self, width: int, vocab=None, shared=None) -> None:
        super().__init__()
        self.values = (width, vocab, shared)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(MODELS, "data", dict(MODELS))
    MODELS.register(TinyModel)


def test_model_takes_runtime_arguments(tiny):
    cfg = block("TinyModel", width=2, shared=1)
    before = copy.deepcopy(cfg)
    assert build_model(cfg, vocab="v", shared=5).values == (2, "v", 5)
    assert build_model(cfg, shared=5, override=False).values == (2, None, 1)
    assert build_model(cfg, unknown=3).values == (2, None, 1)
    with pytest.raises(TypeError, match="TinyModel does not take unknown.*width"):
        build_model(cfg, unknown=3, strict_unused=True)
    assert cfg == before


def test_metrics_by_key():
    cfg = {"energy": block("paddle.nn.L1Loss"), "forces": block("paddle.nn.MSELoss")}
    before = copy.deepcopy(cfg)
    metrics = build_metric(cfg)
    pred, label = paddle.to_tensor([1.0, 3.0]), paddle.to_tensor([0.0, 0.0])
    assert float(metrics["energy"](pred, label)) == 2.0
    assert float(metrics["forces"](pred, label)) == 5.0
    assert cfg == before
    cfg["energy"]["__class_name__"] = "paddle.nn.L2Loss"
    with pytest.raises(ConfigError, match="Metric.energy.__class_name__"):
        build_metric(cfg)


def test_metric_over_known_labels_only():
    metric = build_metric(
        block(
            "IgnoreNanMetricWrapper",
            __class_name__="paddle.nn.L1Loss",
            __init_params__={},
        )
    )
    nan = math.nan
    pred = paddle.to_tensor([[1.0], [5.0], [2.0]])
    assert float(metric(pred, paddle.to_tensor([[0.0], [nan], [0.0]]))) == 1.5
    assert math.isnan(float(metric(pred, paddle.to_tensor([[nan]] * 3))))


def test_streaming_metric_without_a_method_says_so():
    class Half(StreamingMetricBase):
        pass

    half = Half()
    half.bind(model=None)
    with pytest.raises(NotImplementedError, match="Half.update_step"):
        half.update_step(result={}, batch={}, stage="eval")
    with pytest.raises(NotImplementedError, match="Half.compute_epoch"):
        half.compute_epoch(stage="eval")
    with pytest.raises(NotImplementedError, match="Half.reset"):
        half.reset()


PRED = np.array([[0.3, -2.0], [1.0, 0.0]], "float32")
LABEL = np.array([[0.0, 0.0], [1.0, 4.0]], "float32")
ERROR = np.abs(PRED - LABEL)
EXPECTED = {
    "MSELoss": ERROR**2,
    "L1Loss": ERROR,
    "MAELoss": ERROR,
    "SmoothL1Loss": np.where(ERROR < 0.5, ERROR**2 / 2, 0.5 * ERROR - 0.125),
    "HuberLoss": np.where(ERROR < 0.5, ERROR**2 / 2, 0.5 * ERROR - 0.125),
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_losses(name, reduction):
    params = {"delta": 0.5} if name in ("SmoothL1Loss", "HuberLoss") else {}
    loss = build_loss(block(name, reduction=reduction, **params))
    value = loss(paddle.to_tensor(PRED), paddle.to_tensor(LABEL))
    expected = getattr(EXPECTED[name], reduction)()
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    with pytest.raises(ConfigError, match="loss.__init_params__.reduction"):
        build_loss(block(name, reduction="none"))


def warper(**params):
    inner = {"e": block("L1Loss"), "f": block("MSELoss")}
    return block("LossWarper", loss_fn=inner, **params)


def test_weighted_losses():
    tensors = {"e": paddle.to_tensor([2.0]), "f": paddle.to_tensor([3.0])}
    labels = {"e": paddle.zeros([1]), "f": paddle.zeros([1]), "other": None}
    cfg = warper(weights={"e": 10.0, "f": 2})
    before = copy.deepcopy(cfg)
    loss = build_loss(cfg)
    assert isinstance(loss, LossWarper)
    values = {name: float(v) for name, v in loss(tensors, labels).items()}
    assert values == {"e": 2.0, "f": 9.0, "loss": 38.0}
    assert cfg == before
    # Without weights the losses add up; a sum of nothing would train nothing.
    assert float(build_loss(warper())(tensors, labels)["loss"]) == 11.0


def test_weighted_losses_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"weights are given for \['e'\]"):
        build_loss(warper(weights={"e": 1.0}))
    with pytest.raises(ConfigError, match="loss_fn.e.__class_name__.*'L1Los'"):
        build_loss(block("LossWarper", loss_fn={"e": block("L1Los")}), "Model.loss")
    with pytest.raises(ConfigError, match="expected a mapping from output name"):
        build_loss(block("LossWarper", loss_fn=[]))


def test_schedulers_by_key():
    cfg = {"coords": block("FlowMatchingScheduler")}
    schedulers = build_scheduler(cfg)
    assert list(schedulers) == ["coords"]
    with pytest.raises(ConfigError, match="scheduler.coords.__init_params__"):
        build_scheduler({"coords": block("FlowMatchingScheduler", no_such=1)})


def test_graph_converter():
    converter = build_graph_converter(block("PeriodicGraphConverter", cutoff=4))
    assert converter.cutoff == 4.0


def test_transforms_apply_in_order_to_named_keys():
    steps = [
        block("Abs", apply_keys="y"),
        block("Log10", apply_keys=["y"]),
        block("Normalize", mean=1.0, std=2.0, apply_keys=["y", "absent"]),
        block("Scale", scale=3.0, apply_keys="y"),
    ]
    sample = {"y": np.array([-1000.0], "float32"), "id": "a"}
    changed = build_transforms(steps)(sample)
    np.testing.assert_allclose(changed["y"], [3.0], rtol=1e-6)
    assert changed["y"].dtype == np.float32 and changed["id"] == "a"
    assert sample["y"][0] == -1000.0


def test_post_transforms_undo_transforms():
    forward = [block("Log10"), block("Normalize", mean=0.3, std=1.7)]
    backward = [block("UnNormalize", mean=0.3, std=1.7), block("PowerData", base=10)]
    data = {"a": np.array([0.5, 20.0]), "b": np.array([1e3])}
    there = build_transforms(forward)(data)
    back = build_post_transforms(backward)(there)
    for name in data:
        np.testing.assert_allclose(back[name], data[name], rtol=1e-12)
    cube = build_post_transforms([block("PowerData", exp=3)])
    np.testing.assert_allclose(cube({"a": np.array([2.0])})["a"], [8.0])


def test_transforms_refuse_what_does_not_fit():
    assert build_transforms(None) is None and build_post_transforms([]) is None
    with pytest.raises(ConfigError, match="Predict.post_transforms.1.__class_name__"):
        build_post_transforms(
            [block("Scale", scale=1.0), block("Sclae")], "Predict.post_transforms"
        )
    with pytest.raises(ConfigError, match="expected a list of blocks"):
        build_transforms(block("Abs"))
    for params in ({}, {"base": 1.0, "exp": 2.0}):
        with pytest.raises(ValueError, match="exactly one|either base or exp"):
            build_post_transforms([block("PowerData", **params)])


def test_schedulers_check_their_arguments():
    assert (
        build_scheduler({"__class_name__": "FlowMatchingScheduler"}).solver == "euler"
    )
    with pytest.raises(ConfigError, match="solver"):
        build_scheduler(block("FlowMatchingScheduler", solver="rk4"))
