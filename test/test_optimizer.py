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


import numpy as np
import paddle
import pytest
from paddle import nn

from ppmat.optimizer import OPTIMIZERS
from ppmat.optimizer import Adam
from ppmat.optimizer import Momentum
from ppmat.optimizer import build_optimizer
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError


def setup_module():
    paddle.set_device("cpu")


def block(name="AdamW", lr=0.1, beside=None, **params):
    return {
        "__class_name__": name,
        "__init_params__": {"lr": lr, **params},
        **(beside or {}),
    }


def make_model():
    paddle.seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))


def test_legal_optimizers():
    assert sorted(OPTIMIZERS) == ["Adam", "AdamW", "Momentum", "RMSProp", "SGD"]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_optimizer_lowers_a_loss(name):
    model = make_model()
    params = {"momentum": 0.5} if name == "Momentum" else {}
    optimizer, schedule = build_optimizer(block(name, 0.01, **params), model, 5, 10)
    assert schedule is None
    x = paddle.randn([16, 3])
    y = x.sum(axis=1, keepdim=True)
    losses = []
    for _ in range(20):
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


def test_configuration_is_not_changed():
    cfg = block(lr={"__class_name__": "Cosine", "__init_params__": {}})
    cfg["__init_params__"]["lr"]["__init_params__"]["learning_rate"] = 0.1
    before = repr(cfg)
    optimizer, schedule = build_optimizer(cfg, make_model(), 2, 5)
    assert repr(cfg) == before
    assert optimizer.get_lr() == schedule() == 0.1


def test_several_models_share_an_optimizer():
    models = [make_model(), make_model()]
    optimizer, _ = build_optimizer(block(), models, 1, 1)
    assert len(optimizer._parameter_list) == 12


@pytest.mark.parametrize(
    "key, bound",
    [("clip_norm", 1e-3), ("clip_norm_global", 1e-3), ("clip_value", 1e-3)],
)
def test_clipping_bounds_the_step(key, bound):
    def step_of(beside):
        model = make_model()
        optimizer, _ = build_optimizer(block("SGD", 1, beside), model, 1, 1)
        before = [p.numpy().copy() for p in model.parameters()]
        (model(paddle.ones([2, 3])) * 100).sum().backward()
        optimizer.step()
        pairs = zip(model.parameters(), before)
        return [(p.numpy() - b).ravel() for p, b in pairs]

    def size(step):
        if key == "clip_value":
            return max(np.abs(s).max() for s in step)
        if key == "clip_norm":
            return max(np.linalg.norm(s) for s in step)
        return np.linalg.norm(np.concatenate(step))

    assert size(step_of({key: bound})) == pytest.approx(bound, rel=1e-3)
    assert size(step_of(None)) > 10 * bound


@pytest.mark.parametrize("name", ["AdamW", "Momentum"])
def test_no_weight_decay_name(name):
    """With a zero gradient only the decay moves a weight."""
    model = make_model()
    extra = {"momentum": 0.0} if name == "Momentum" else {}
    optimizer, _ = build_optimizer(
        block(name, 0.5, weight_decay=0.1, no_weight_decay_name="bias 1.", **extra),
        model,
        1,
        1,
    )
    for parameter in model.parameters():
        parameter.set_value(paddle.ones_like(parameter))
    (model(paddle.ones([2, 3])).sum() * 0).backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if abs(p.numpy() - 1).max() > 0}
    assert moved == {"0.weight", "2.weight"}


def test_one_dim_param_no_weight_decay():
    model = make_model()
    cfg = block("AdamW", 0.5, weight_decay=0.1, one_dim_param_no_weight_decay=True)
    optimizer, _ = build_optimizer(cfg, model, 1, 1)
    for parameter in model.parameters():
        parameter.set_value(paddle.ones_like(parameter))
    (model(paddle.ones([2, 3])).sum() * 0).backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if abs(p.numpy() - 1).max() > 0}
    assert moved == {"0.weight", "2.weight"}


def test_pattern_without_a_match_is_said(capsys):
    build_optimizer(block(no_weight_decay_name="typo"), make_model(), 1, 1)
    assert "'typo' is part of no parameter name" in capsys.readouterr().out


def steps_of(name, lr_mult, **extra):
    """Return how far a step moves each weight, and the weights."""
    model = make_model()
    extra = {"momentum": 0.5, **extra} if name == "Momentum" else extra
    before = {n: p.numpy().copy() for n, p in model.named_parameters()}
    cfg = block(name, 0.01, lr_mult=lr_mult, weight_decay=0.1, **extra)
    optimizer, _ = build_optimizer(cfg, model, 1, 1)
    x = paddle.to_tensor(np.random.default_rng(0).normal(size=(8, 3)), "float32")
    (model(x) - 1).square().mean().backward()
    optimizer.step()
    after = dict(model.named_parameters())
    return {n: after[n].numpy() - value for n, value in before.items()}, after


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_lr_mult(name):
    """The longest beginning counts; weight decay is slower too; 0 changes no bit."""
    whole, _ = steps_of(name, {"2": 1})
    some, parameters = steps_of(name, {"0": 0, "2": 0.1, "2.bias": 0.5})
    factors = dict.fromkeys(whole, 1) | {"2.weight": 0.1, "2.bias": 0.5}
    factors |= {"0.weight": 0, "0.bias": 0}
    for key, factor in factors.items():
        assert np.abs(whole[key]).max() > 1e-4
        np.testing.assert_allclose(some[key], factor * whole[key], rtol=2e-3, atol=2e-7)
        assert factor or not some[key].any()
        assert parameters[key].stop_gradient == (factor == 0)


def test_lr_mult_holds_beside_other_groups():
    names = {"no_weight_decay_name": "bias"}
    whole, _ = steps_of("Momentum", {"2": 1}, **names)
    some, _ = steps_of("Momentum", {"2": 0.1, "1": 0}, **names)
    np.testing.assert_allclose(some["2.bias"], 0.1 * whole["2.bias"], rtol=1e-3)
    np.testing.assert_array_equal(some["0.bias"], whole["0.bias"])
    assert not some["1.weight"].any()


def test_a_name_is_a_whole_word():
    model = nn.LayerDict({"back": nn.Linear(1, 1), "backbone": nn.Linear(1, 1)})
    build_optimizer(block(lr_mult={"back": 0}), model, 1, 1)
    frozen = {name for name, p in model.named_parameters() if p.stop_gradient}
    assert frozen == {"back.weight", "back.bias"}


@pytest.mark.parametrize(
    "factors, text",
    [
        ({"3": 0.1}, "lr_mult: no name in the model begins with '3'; .*: 0, 1, 2"),
        ({"0.wight": 0}, "begins with '0.wight'.*Did you mean '0.weight'"),
        ({"0": 0, "1": 0, "2": 0}, "freezes all parameters"),
        ({"0": -0.1}, "lr_mult.0: AdamW wants 0 to 1,000, got -0.1"),
        ({"1": 1, "0": "x"}, "__init_params__.lr_mult.0: AdamW wants float, got str"),
        (0.1, "Optimizer.__init_params__.lr_mult: AdamW wants .*Mapping"),
    ],
)
def test_lr_mult_that_cannot_be_meant_is_refused(factors, text):
    with pytest.raises(InputError, match=text):
        build_optimizer(block(lr_mult=factors), make_model(), 1, 1)


@pytest.mark.parametrize(
    "cfg, text",
    [
        (block("Adamw"), "unknown optimizer 'Adamw'.*Did you mean 'Adam'"),
        (block("__import__('os')"), "unknown optimizer"),
        (block(beta3=0.9), "unknown key 'beta3'.*Did you mean 'beta1|beta2"),
        (
            block(beta1="x"),
            "beta1: AdamW wants float, got str 'x'",
        ),
        (block(lr="fast"), "Optimizer.__init_params__.lr: wanted a number"),
        (block(lr=True), "Optimizer.__init_params__.lr: wanted a number"),
        ({"__class_name__": "Adam", "__init_params__": {}}, "lr is missing"),
        (block(beside={"clip_nrom": 1.0}), "clip_nrom.*Did you mean 'clip_norm'"),
        (block(beside={"clip_norm": 0}), "Optimizer.clip_norm: wanted a number above"),
        (
            block(beside={"clip_norm": 1.0, "clip_value": 1.0}),
            "only one of clip_norm, clip_value",
        ),
        (block("Momentum"), "Momentum needs momentum"),
        (
            block(lr={"__class_name__": "Cosin", "__init_params__": {}}),
            "Optimizer.__init_params__.lr.__class_name__.*Did you mean 'Cosine'",
        ),
    ],
)
def test_wrong_configuration_names_the_place(cfg, text):
    with pytest.raises(ConfigError, match=text):
        build_optimizer(cfg, make_model(), 1, 1)


def test_the_rate_may_be_positional_and_other_settings_have_names():
    model = make_model()
    assert Adam(0.1)(model).get_lr() == Adam(learning_rate=0.1)(model).get_lr() == 0.1
    assert Momentum(0.1, 0.9).momentum == 0.9
    with pytest.raises(TypeError, match="positional"):
        Adam(0.1, 0.9)


def test_a_subclass_with_another_name_builds_the_same_optimizer():
    class Mine(Adam):
        pass

    assert type(Mine(0.1)(make_model())) is paddle.optimizer.Adam


def test_whole_number_as_rate():
    optimizer, _ = build_optimizer(block(lr=1), make_model(), 1, 1)
    assert optimizer.get_lr() == 1.0
