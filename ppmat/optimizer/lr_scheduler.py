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

"""Learning-rate schedules that a YAML file may name.

A schedule knows the number of epochs and of *update* steps per epoch; ``by_epoch``
selects which of the two it counts. Lengths in YAML (``warmup_epoch``, ``step_size``,
``milestones``, ``decay_epochs``, ``T_0``) are in epochs in either case. Calling the
object returns Paddle's scheduler with the attribute ``by_epoch``. Every schedule takes
the arguments of :class:`LRBase` and those listed in its class, the latter by keyword.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import KW_ONLY
from dataclasses import dataclass
from dataclasses import field
from typing import Annotated
from typing import Literal

from paddle.optimizer import lr

from ppmat.utils import logger
from ppmat.utils.ranges import Range
from ppmat.utils.registry import ConfigError

# Adam takes steps as long as the rate, and weights are about 1.
Rate = Annotated[float, Range(above=0, most=100)]
_LowRate = Annotated[float, Range(0, 100)]  # where a schedule starts or ends
_Factor = Annotated[float, Range(above=0, most=100)]
_Count = Annotated[int, Range(0, 10**9)]
_Steps = Annotated[int, Range(1, 10**9)]


class _Formula(lr.LRScheduler):
    """A schedule that is a pure function of the step number."""

    def __init__(self, formula: Callable[[int], float], last_epoch: int) -> None:
        self._formula = formula
        super().__init__(formula(max(last_epoch, 0)), last_epoch)

    def get_lr(self) -> float:
        return self._formula(self.last_epoch)


@dataclass
class LRBase:
    """The arguments and the warm-up that all schedules share."""

    epochs: int  # number of epochs of the run
    iters_per_epoch: int  # number of update steps per epoch
    learning_rate: Rate  # the rate after the warm-up
    _: KW_ONLY
    # Epochs of linear warm-up; may be a fraction when the schedule counts steps. From
    # ``epochs`` on, the whole run is warm-up, with a warning.
    warmup_epoch: Annotated[float, Range(0, 10**9)] = 0
    warmup_start_lr: _LowRate = 0.0  # the rate at step 0 of the warm-up
    # Index of the last step; -1 for a new run
    last_epoch: Annotated[int, Range(-1, 10**9)] = -1
    by_epoch: bool = False  # count epochs instead of update steps

    def __post_init__(self) -> None:
        warmup = self.warmup_epoch
        if warmup and warmup >= self.epochs:
            logger.warning(
                f"warmup_epoch {warmup} covers all {self.epochs} epochs: the learning "
                "rate only warms up"
            )
            warmup = self.epochs
        self.unit = 1 if self.by_epoch else self.iters_per_epoch
        self.warmup_steps = round(warmup * self.unit)
        self.main_steps = self.epochs * self.unit - self.warmup_steps

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after the warm-up; here a constant rate."""
        return _Formula(lambda step: self.learning_rate, self.last_epoch)

    def __call__(self) -> lr.LRScheduler:
        """Return Paddle's scheduler, with ``by_epoch`` as an attribute."""
        schedule = self.main_schedule()
        if self.warmup_steps > 0:
            schedule = self._paddles(
                lr.LinearWarmup,
                learning_rate=schedule,
                start_lr=self.warmup_start_lr,
                end_lr=self.learning_rate,
            )
        schedule.by_epoch = self.by_epoch
        return schedule

    def _paddles(self, cls: type, **others: object) -> lr.LRScheduler:
        """Return one of Paddle's; arguments not given are our fields of that name."""
        names = inspect.signature(cls).parameters
        same = {name: vars(self)[name] for name in names if name in vars(self)}
        return cls(**{**same, **others})


class Constant(LRBase):
    """The same rate throughout, after the warm-up."""


@dataclass(kw_only=True)
class Linear(LRBase):
    """Polynomial decay to ``end_lr``; linear for ``power`` 1."""

    end_lr: _LowRate = 0.0  # the rate at the end
    power: Annotated[float, Range(above=0, most=100)] = 1.0  # of the polynomial
    cycle: bool = False  # rise again after reaching end_lr

    def main_schedule(self) -> lr.LRScheduler:
        if self.main_steps <= 0:
            return super().main_schedule()
        return self._paddles(lr.PolynomialDecay, decay_steps=self.main_steps)


@dataclass(kw_only=True)
class ExponentialDecay(LRBase):
    """``learning_rate * gamma ** (step / decay_steps)``."""

    gamma: _Factor  # factor per decay_steps
    decay_steps: _Steps  # number of update steps, in either counting

    def main_schedule(self) -> lr.LRScheduler:
        steps = self.decay_steps / (self.iters_per_epoch if self.by_epoch else 1)
        return self._paddles(lr.ExponentialDecay, gamma=self.gamma ** (1 / steps))


@dataclass(kw_only=True)
class Cosine(LRBase):
    """Half a cosine wave from ``learning_rate`` to ``eta_min``."""

    eta_min: _LowRate = 0.0  # the rate at the end
    T_max: _Steps | None = None  # own steps; default: all steps after the warm-up

    def main_schedule(self) -> lr.LRScheduler:
        length = self.main_steps if self.T_max is None else self.T_max
        if length <= 0:
            return super().main_schedule()
        span = (self.learning_rate - self.eta_min) / 2
        return _Formula(
            lambda step: self.eta_min + span * (1 + math.cos(math.pi * step / length)),
            self.last_epoch,
        )


@dataclass(kw_only=True)
class Step(LRBase):
    """Multiply the rate by ``gamma`` every ``step_size`` epochs."""

    step_size: _Steps  # epochs between reductions
    gamma: _Factor  # factor of a reduction

    def main_schedule(self) -> lr.LRScheduler:
        return self._paddles(lr.StepDecay, step_size=self.step_size * self.unit)


@dataclass(kw_only=True)
class Piecewise(LRBase):
    """Given rates between given epochs."""

    learning_rate: Rate = field(init=False)  # values[0]
    decay_epochs: list[_Steps]  # epochs at which the rate changes
    values: list[_LowRate]  # the rates, one more than decay_epochs

    def __post_init__(self) -> None:
        count, rates = len(self.decay_epochs), len(self.values)
        if rates != count + 1:
            text = f"{count} decay_epochs need {count + 1} values, got {rates}"
            raise ConfigError(f"Piecewise: {text}")
        self.learning_rate = self.values[0]
        super().__post_init__()

    def main_schedule(self) -> lr.LRScheduler:
        boundaries = [epoch * self.unit for epoch in self.decay_epochs]
        return self._paddles(lr.PiecewiseDecay, boundaries=boundaries)


@dataclass(kw_only=True)
class MultiStepDecay(LRBase):
    """Multiply the rate by ``gamma`` at given epochs."""

    milestones: list[_Steps]  # increasing epochs
    gamma: _Factor = 0.1  # factor at each of them

    def main_schedule(self) -> lr.LRScheduler:
        steps = [epoch * self.unit for epoch in self.milestones]
        return self._paddles(lr.MultiStepDecay, milestones=steps)


@dataclass(kw_only=True)
class CosineWarmRestarts(LRBase):
    """Half cosine waves with restarts (Loshchilov and Hutter, SGDR, 2017)."""

    T_0: _Steps  # epochs of the first wave
    # Each wave is this times as long as the one before
    T_mult: Annotated[int, Range(1, 1000)]
    eta_min: _LowRate = 0.0  # the rate at the end of each wave

    def _rate(self, step: int) -> float:
        length = self.T_0 * self.unit
        while step >= length:
            step -= length
            length *= self.T_mult
        wave = (1 + math.cos(math.pi * step / length)) / 2
        return self.eta_min + (self.learning_rate - self.eta_min) * wave

    def main_schedule(self) -> lr.LRScheduler:
        return _Formula(self._rate, self.last_epoch)


@dataclass(kw_only=True)
class OneCycleLR(LRBase):
    """Up to ``max_learning_rate`` and down again (Smith and Topin, 2018).

    The cycle follows the warm-up.
    """

    learning_rate: Rate = field(init=False)  # max_learning_rate / divide_factor
    max_learning_rate: Rate  # the highest rate
    # The highest rate over the first rate
    divide_factor: Annotated[float, Range(1, 10**9)] = 25.0
    end_learning_rate: _LowRate = 0.0001  # the last rate
    # Share of the steps that go up
    phase_pct: Annotated[float, Range(above=0, below=1)] = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"  # shape of the flanks
    three_phase: bool = False  # go down in two phases, as in the paper

    def __post_init__(self) -> None:
        self.learning_rate = self.max_learning_rate / self.divide_factor
        super().__post_init__()

    def main_schedule(self) -> lr.LRScheduler:
        if self.main_steps < 2:
            return super().main_schedule()
        return self._paddles(lr.OneCycleLR, total_steps=self.main_steps)


@dataclass(kw_only=True)
class ReduceOnPlateau(LRBase):
    """Reduce the rate when a watched value has stopped improving.

    The value is compared after every evaluation (``eval_*``) or epoch (``train_*``).
    ``warmup_epoch``, ``warmup_start_lr``, ``last_epoch`` and ``by_epoch`` are fixed.
    """

    # Where the watched value is found, and its name there
    indicator: Literal["train_loss", "eval_loss", "train_metric", "eval_metric"]
    indicator_name: str
    mode: Literal["min", "max"] = "min"  # whether smaller or larger is better
    factor: Annotated[float, Range(above=0, below=1)] = 0.1  # factor of a reduction
    patience: _Count = 10  # comparisons without improvement before a reduction
    # Smallest change that counts as an improvement
    threshold: Annotated[float, Range(0, 10**9)] = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"  # relative to the best, or absolute
    cooldown: _Count = 0  # comparisons to wait after a reduction
    min_lr: _LowRate = 0.0  # lower bound
    epsilon: Annotated[float, Range(0, 1)] = 1e-8  # smaller reductions are not made
    by_epoch: bool = True

    def __post_init__(self) -> None:
        warmup = self.warmup_epoch or self.warmup_start_lr
        if warmup or self.last_epoch != -1 or not self.by_epoch:
            raise ConfigError(
                "ReduceOnPlateau: warmup_epoch, warmup_start_lr, last_epoch and "
                "by_epoch must keep their defaults; its steps follow the watched value"
            )
        super().__post_init__()

    def main_schedule(self) -> lr.LRScheduler:
        schedule = self._paddles(lr.ReduceOnPlateau)
        schedule.indicator = self.indicator
        schedule.indicator_name = self.indicator_name
        return schedule
