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


import math

import paddle
import pytest

from ppmat.optimizer import LR_SCHEDULES
from ppmat.optimizer import build_lr_scheduler
from ppmat.optimizer.lr_scheduler import Linear
from ppmat.optimizer.lr_scheduler import Piecewise
from ppmat.utils.registry import ConfigError

EPOCHS, STEPS = 4, 5

SCHEDULES = {
    "Constant": {"learning_rate": 0.1},
    "Linear": {"learning_rate": 0.1, "end_lr": 0.01, "power": 2.0},
    "ExponentialDecay": {"learning_rate": 0.1, "gamma": 0.5, "decay_steps": 5},
    "Cosine": {"learning_rate": 0.1, "eta_min": 0.001},
    "Step": {"learning_rate": 0.1, "step_size": 1, "gamma": 0.5},
    "Piecewise": {
        "learning_rate": None,
        "decay_epochs": [1, 2],
        "values": [0.1, 0.05, 0.01],
    },
    "MultiStepDecay": {"learning_rate": 0.1, "milestones": [1, 3], "gamma": 0.5},
    "CosineWarmRestarts": {"learning_rate": 0.1, "T_0": 1, "T_mult": 2},
    "OneCycleLR": {"max_learning_rate": 0.1},
}
SCHEDULES["Piecewise"].pop("learning_rate")


def build(name, by_epoch=False, **params):
    params = {**SCHEDULES.get(name, {}), **params}
    if name != "ReduceOnPlateau":
        params["by_epoch"] = by_epoch
    return build_lr_scheduler(
        {"__class_name__": name, "__init_params__": params}, EPOCHS, STEPS
    )


def rates(schedule, count):
    values = []
    for _ in range(count):
        values.append(schedule())
        schedule.step()
    return values


def test_all_schedules_are_covered():
    assert set(LR_SCHEDULES) == {*SCHEDULES, "ReduceOnPlateau"}


@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_resumed_schedule_goes_on_bit_for_bit(name, warmup, by_epoch):
    count = EPOCHS if by_epoch else EPOCHS * STEPS
    whole = rates(build(name, by_epoch, warmup_epoch=warmup), count)
    for stop in range(count):
        first = build(name, by_epoch, warmup_epoch=warmup)
        assert first.by_epoch is by_epoch
        head = rates(first, stop)
        second = build(name, by_epoch, warmup_epoch=warmup)
        second.set_state_dict(first.state_dict())
        # Loading sets the place, and `()` must already give that place's rate.
        assert head + rates(second, count - stop) == whole


def test_the_broken_twin_fails():
    """Without its state a schedule starts anew (upstream's order of saving)."""
    whole = rates(build("Cosine"), 10)
    first = build("Cosine")
    head = rates(first, 5)
    assert head + rates(build("Cosine"), 5) != whole


def test_values():
    n = EPOCHS * STEPS
    assert rates(build("Constant"), n) == [0.1] * n
    assert rates(build("Cosine"), n) == pytest.approx(
        [0.001 + 0.099 * (1 + math.cos(math.pi * t / n)) / 2 for t in range(n)]
    )
    assert rates(build("Linear", power=1.0), n + 1) == pytest.approx(
        [0.1 - 0.09 * t / n for t in range(n + 1)]
    )
    assert rates(build("Step"), n) == pytest.approx(
        [0.1 * 0.5 ** (t // STEPS) for t in range(n)]
    )
    assert rates(build("ExponentialDecay"), n) == pytest.approx(
        [0.1 * 0.5 ** (t / 5) for t in range(n)]
    )
    piecewise = rates(build("Piecewise"), n)
    assert piecewise == [0.1] * 5 + [0.05] * 5 + [0.01] * 10
    multi = rates(build("MultiStepDecay"), n)
    assert multi == pytest.approx([0.1] * 5 + [0.05] * 10 + [0.025] * 5)
    waves = rates(build("CosineWarmRestarts"), n)
    assert waves[0] == waves[5] == waves[15] == 0.1
    assert waves[6] == pytest.approx(0.1 * (1 + math.cos(math.pi / 10)) / 2)
    cycle = rates(build("OneCycleLR"), n)
    assert max(cycle) == pytest.approx(0.1) and cycle[0] == pytest.approx(0.004)


def test_counting_epochs_gives_the_rate_at_epoch_starts():
    for name in ("Cosine", "Step", "Linear", "CosineWarmRestarts", "ExponentialDecay"):
        by_epoch = rates(build(name, True), EPOCHS)
        by_step = rates(build(name, False), EPOCHS * STEPS)
        assert by_epoch == pytest.approx(by_step[::STEPS]), name


@pytest.mark.parametrize("by_epoch", [False, True])
def test_warmup_is_linear_and_hands_over(by_epoch):
    unit = 1 if by_epoch else STEPS
    values = rates(
        build("Linear", by_epoch, warmup_epoch=2, warmup_start_lr=0.02), EPOCHS * unit
    )
    length = 2 * unit
    expected = [0.02 + 0.08 * t / length for t in range(length)]
    assert values[:length] == pytest.approx(expected)
    assert values[length] == pytest.approx(0.1)
    plain = build_lr_scheduler(
        {
            "__class_name__": "Linear",
            "__init_params__": {**SCHEDULES["Linear"], "by_epoch": by_epoch},
        },
        EPOCHS - 2,
        STEPS,
    )
    assert values[length:] == pytest.approx(rates(plain, EPOCHS * unit - length))


def test_warmup_longer_than_the_run_is_said(capsys):
    values = rates(build("Cosine", warmup_epoch=9), EPOCHS * STEPS + 1)
    assert "only warms up" in capsys.readouterr().out
    assert values == pytest.approx([0.1 * t / 20 for t in range(21)])


def test_reduce_on_plateau():
    params = {
        "learning_rate": 0.1,
        "indicator": "eval_loss",
        "indicator_name": "loss",
        "patience": 1,
        "factor": 0.5,
    }
    schedule = build("ReduceOnPlateau", **params)
    assert schedule.indicator == "eval_loss" and schedule.indicator_name == "loss"
    assert schedule.by_epoch is True
    seen = []
    for number, loss in enumerate([3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]):
        if number == 3:
            resumed = build("ReduceOnPlateau", **params)
            resumed.set_state_dict(schedule.state_dict())
            schedule = resumed
        schedule.step(loss)
        seen.append(schedule())
    assert seen == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025]


@pytest.mark.parametrize(
    "name, params, text",
    [
        ("Cosine", {"lr": 0.1}, "unknown key 'lr'"),
        ("Cosine", {"learning_rate": "x"}, "learning_rate: Cosine wants float"),
        ("Cosinus", {}, "Did you mean 'Cosine'"),
        ("OneCycleLR", {"anneal_strategy": "log"}, "anneal_strategy: OneCycleLR wants"),
        ("Piecewise", {"values": [0.1]}, "2 decay_epochs need 3 values, got 1"),
        ("CosineWarmRestarts", {"T_0": 0}, "T_0: .* wants 1 to 1,000,000,000"),
        (
            "ReduceOnPlateau",
            {
                "learning_rate": 0.1,
                "indicator": "eval_loss",
                "indicator_name": "loss",
                "warmup_epoch": 2,
            },
            "warmup_epoch.*must keep their defaults",
        ),
    ],
)
def test_wrong_configuration(name, params, text):
    with pytest.raises(ConfigError, match=text):
        build(name, **params)


def test_lengths_and_rate_may_be_positional():
    assert Linear(EPOCHS, STEPS, 0.1)()() == 0.1
    assert Piecewise(EPOCHS, STEPS, decay_epochs=[1], values=[0.2, 0.1])()() == 0.2


def test_optimizer_follows_the_schedule():
    schedule = build("Cosine")
    layer = paddle.nn.Linear(1, 1)
    optimizer = paddle.optimizer.SGD(schedule, layer.parameters())
    schedule.step()
    assert optimizer.get_lr() == schedule() < 0.1
