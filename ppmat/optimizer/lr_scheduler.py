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


"""Learning-rate schedules a YAML file may name.

A schedule is given the number of epochs and of *update* steps per epoch; ``by_epoch``
selects which of the two it counts. Lengths in YAML (``warmup_epoch``, ``step_size``,
``milestones``, ``decay_epochs``, ``T_0``) are in epochs in either case. Calling the
object returns Paddle's scheduler with the attribute ``by_epoch``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from paddle.optimizer import lr

from ppmat.utils import logger
from ppmat.utils.registry import ConfigError

__all__ = [
    "Constant",
    "Cosine",
    "CosineWarmRestarts",
    "ExponentialDecay",
    "Linear",
    "MultiStepDecay",
    "OneCycleLR",
    "Piecewise",
    "ReduceOnPlateau",
    "Step",
]


class _Formula(lr.LRScheduler):
    """A schedule that is a pure function of the number of steps taken."""

    def __init__(self, formula: Callable[[int], float], last_epoch: int) -> None:
        self._formula = formula
        super().__init__(formula(max(last_epoch, 0)), last_epoch)

    def get_lr(self) -> float:
        return self._formula(self.last_epoch)


class LRBase:
    """What all schedules share.

    Args:
        epochs: Number of epochs of the run.
        iters_per_epoch: Number of update steps per epoch.
        learning_rate: The rate after warm-up.
        warmup_epoch: Epochs of linear warm-up; may be a fraction when the schedule
            counts steps. At least ``epochs`` means warm-up to the end, with a warning.
        warmup_start_lr: The rate at step 0 of the warm-up.
        last_epoch: Index of the last step taken; -1 for a new run.
        by_epoch: Count epochs instead of update steps.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        learning_rate: float,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
    ) -> None:
        if warmup_epoch and warmup_epoch >= epochs:
            logger.warning(
                f"warmup_epoch {warmup_epoch} covers all {epochs} epochs: the learning "
                "rate only warms up"
            )
            warmup_epoch = epochs
        self.learning_rate = learning_rate
        self.last_epoch = last_epoch
        self.by_epoch = by_epoch
        self.unit = 1 if by_epoch else iters_per_epoch
        self.warmup_start_lr = warmup_start_lr
        self.warmup_steps = round(warmup_epoch * self.unit)
        self.total_steps = epochs * self.unit
        self.decay_steps = self.total_steps - self.warmup_steps

    def main_schedule(self) -> float | lr.LRScheduler:
        """Return the schedule after warm-up."""
        raise NotImplementedError(f"{type(self).__name__}.main_schedule")

    def __call__(self) -> lr.LRScheduler:
        """Return Paddle's scheduler, with ``by_epoch`` as an attribute."""
        schedule = self.main_schedule()
        if self.warmup_steps > 0:
            schedule = lr.LinearWarmup(
                learning_rate=schedule,
                warmup_steps=self.warmup_steps,
                start_lr=self.warmup_start_lr,
                end_lr=self.learning_rate,
                last_epoch=self.last_epoch,
            )
        schedule.by_epoch = self.by_epoch
        return schedule

    def _constant(self) -> lr.LRScheduler:
        return _Formula(lambda step: self.learning_rate, self.last_epoch)


class Constant(LRBase):
    """The same rate throughout, after warm-up. Arguments: :class:`LRBase`."""

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        return self._constant()


class Linear(LRBase):
    """Polynomial decay to ``end_lr``; linear for ``power`` 1.

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        learning_rate: The rate after warm-up.
        end_lr: The rate at the end.
        power: Power of the polynomial.
        cycle: Rise again after reaching ``end_lr``.
        warmup_epoch: See :class:`LRBase`.
        warmup_start_lr: See :class:`LRBase`.
        last_epoch: See :class:`LRBase`.
        by_epoch: See :class:`LRBase`.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        learning_rate: float,
        end_lr: float = 0.0,
        power: float = 1.0,
        cycle: bool = False,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(
            epochs,
            iters_per_epoch,
            learning_rate,
            warmup_epoch,
            warmup_start_lr,
            last_epoch,
            by_epoch,
        )
        self.end_lr = end_lr
        self.power = power
        self.cycle = cycle

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        if self.decay_steps <= 0:
            return self._constant()
        return lr.PolynomialDecay(
            learning_rate=self.learning_rate,
            decay_steps=self.decay_steps,
            end_lr=self.end_lr,
            power=self.power,
            cycle=self.cycle,
            last_epoch=self.last_epoch,
        )


class ExponentialDecay(LRBase):
    """``learning_rate * gamma ** (step / decay_steps)``.

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        learning_rate: The rate after warm-up.
        gamma: Factor per ``decay_steps``.
        decay_steps: Number of update steps (in either counting) per factor.
        warmup_epoch: See :class:`LRBase`.
        warmup_start_lr: See :class:`LRBase`.
        last_epoch: See :class:`LRBase`.
        by_epoch: See :class:`LRBase`.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        learning_rate: float,
        gamma: float,
        decay_steps: int,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(
            epochs,
            iters_per_epoch,
            learning_rate,
            warmup_epoch,
            warmup_start_lr,
            last_epoch,
            by_epoch,
        )
        steps = decay_steps / iters_per_epoch if by_epoch else decay_steps
        self.gamma = gamma ** (1 / steps)

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        return lr.ExponentialDecay(
            learning_rate=self.learning_rate,
            gamma=self.gamma,
            last_epoch=self.last_epoch,
        )


class Cosine(LRBase):
    """Half a cosine wave from ``learning_rate`` to ``eta_min``.

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        learning_rate: The rate after warm-up.
        eta_min: The rate at the end.
        warmup_epoch: See :class:`LRBase`.
        warmup_start_lr: See :class:`LRBase`.
        last_epoch: See :class:`LRBase`.
        by_epoch: See :class:`LRBase`.
        T_max: Length of the half wave, in the schedule's own steps; default the
            whole run after warm-up.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        learning_rate: float,
        eta_min: float = 0.0,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
        T_max: int | None = None,
    ) -> None:
        super().__init__(
            epochs,
            iters_per_epoch,
            learning_rate,
            warmup_epoch,
            warmup_start_lr,
            last_epoch,
            by_epoch,
        )
        self.eta_min = eta_min
        self.T_max = self.decay_steps if T_max is None else T_max

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        if self.T_max <= 0:
            return self._constant()
        span = (self.learning_rate - self.eta_min) / 2
        return _Formula(
            lambda step: (
                self.eta_min + span * (1 + math.cos(math.pi * step / self.T_max))
            ),
            self.last_epoch,
        )


class Step(LRBase):
    """Multiply the rate by ``gamma`` every ``step_size`` epochs.

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        learning_rate: The rate after warm-up.
        step_size: Epochs between reductions.
        gamma: Factor of a reduction.
        warmup_epoch: See :class:`LRBase`.
        warmup_start_lr: See :class:`LRBase`.
        last_epoch: See :class:`LRBase`.
        by_epoch: See :class:`LRBase`.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        learning_rate: float,
        step_size: int,
        gamma: float,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(
            epochs,
            iters_per_epoch,
            learning_rate,
            warmup_epoch,
            warmup_start_lr,
            last_epoch,
            by_epoch,
        )
        self.step_size = step_size * self.unit
        self.gamma = gamma

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        return lr.StepDecay(
            learning_rate=self.learning_rate,
            step_size=self.step_size,
            gamma=self.gamma,
            last_epoch=self.last_epoch,
        )


class Piecewise(LRBase):
    """Given rates between given epochs.

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        decay_epochs: Epochs at which the rate changes.
        values: The rates, one more than ``decay_epochs``.
        warmup_epoch: See :class:`LRBase`.
        warmup_start_lr: See :class:`LRBase`.
        last_epoch: See :class:`LRBase`.
        by_epoch: See :class:`LRBase`.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        decay_epochs: list[int],
        values: list[float],
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
    ) -> None:
        if len(values) != len(decay_epochs) + 1:
            raise ConfigError(
                f"Piecewise: {len(decay_epochs)} decay_epochs need "
                f"{len(decay_epochs) + 1} values, got {len(values)}"
            )
        super().__init__(
            epochs,
            iters_per_epoch,
            values[0],
            warmup_epoch,
            warmup_start_lr,
            last_epoch,
            by_epoch,
        )
        self.boundaries = [epoch * self.unit for epoch in decay_epochs]
        self.values = list(values)

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        return lr.PiecewiseDecay(
            boundaries=self.boundaries, values=self.values, last_epoch=self.last_epoch
        )


class MultiStepDecay(LRBase):
    """Multiply the rate by ``gamma`` at given epochs.

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        learning_rate: The rate after warm-up.
        milestones: Increasing epochs.
        gamma: Factor at each of them.
        warmup_epoch: See :class:`LRBase`.
        warmup_start_lr: See :class:`LRBase`.
        last_epoch: See :class:`LRBase`.
        by_epoch: See :class:`LRBase`.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        learning_rate: float,
        milestones: list[int],
        gamma: float = 0.1,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(
            epochs,
            iters_per_epoch,
            learning_rate,
            warmup_epoch,
            warmup_start_lr,
            last_epoch,
            by_epoch,
        )
        self.milestones = [epoch * self.unit for epoch in milestones]
        self.gamma = gamma

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        return lr.MultiStepDecay(
            learning_rate=self.learning_rate,
            milestones=self.milestones,
            gamma=self.gamma,
            last_epoch=self.last_epoch,
        )


class CosineWarmRestarts(LRBase):
    """Half cosine waves, each ``T_mult`` times as long as the one before.

    Loshchilov and Hutter, SGDR (2017).

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        learning_rate: The rate at each restart.
        T_0: Epochs of the first wave.
        T_mult: Growth factor of the waves.
        eta_min: The rate at the end of each wave.
        warmup_epoch: See :class:`LRBase`.
        warmup_start_lr: See :class:`LRBase`.
        last_epoch: See :class:`LRBase`.
        by_epoch: See :class:`LRBase`.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        learning_rate: float,
        T_0: int,
        T_mult: int,
        eta_min: float = 0.0,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
    ) -> None:
        if T_0 < 1 or T_mult < 1:
            raise ConfigError(
                f"CosineWarmRestarts: T_0 and T_mult must be at least 1, got {T_0} "
                f"and {T_mult}"
            )
        super().__init__(
            epochs,
            iters_per_epoch,
            learning_rate,
            warmup_epoch,
            warmup_start_lr,
            last_epoch,
            by_epoch,
        )
        self.T_0 = T_0 * self.unit
        self.T_mult = T_mult
        self.eta_min = eta_min

    def _formula(self, step: int) -> float:
        length = self.T_0
        while step >= length:
            step -= length
            length *= self.T_mult
        wave = (1 + math.cos(math.pi * step / length)) / 2
        return self.eta_min + (self.learning_rate - self.eta_min) * wave

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        return _Formula(self._formula, self.last_epoch)


class OneCycleLR(LRBase):
    """Up to ``max_learning_rate`` and down again (Smith and Topin, 2018).

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        max_learning_rate: The highest rate.
        divide_factor: The first rate is ``max_learning_rate / divide_factor``.
        end_learning_rate: The last rate.
        phase_pct: Share of the steps that go up.
        anneal_strategy: Shape of the flanks.
        three_phase: Go down in two phases, as in the paper.
        warmup_epoch: See :class:`LRBase`; the cycle follows the warm-up.
        warmup_start_lr: See :class:`LRBase`.
        last_epoch: See :class:`LRBase`.
        by_epoch: See :class:`LRBase`.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        max_learning_rate: float,
        divide_factor: float = 25.0,
        end_learning_rate: float = 0.0001,
        phase_pct: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        three_phase: bool = False,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = False,
    ) -> None:
        super().__init__(
            epochs,
            iters_per_epoch,
            max_learning_rate / divide_factor,
            warmup_epoch,
            warmup_start_lr,
            last_epoch,
            by_epoch,
        )
        self.max_learning_rate = max_learning_rate
        self.settings = {
            "divide_factor": divide_factor,
            "end_learning_rate": end_learning_rate,
            "phase_pct": phase_pct,
            "anneal_strategy": anneal_strategy,
            "three_phase": three_phase,
        }

    def main_schedule(self) -> lr.LRScheduler:
        """Return the schedule after warm-up."""
        if self.decay_steps < 2:
            return self._constant()
        return lr.OneCycleLR(
            max_learning_rate=self.max_learning_rate,
            total_steps=self.decay_steps,
            last_epoch=self.last_epoch,
            **self.settings,
        )


class ReduceOnPlateau(LRBase):
    """Reduce the rate when a watched value has stopped improving.

    It is looked at after every evaluation (``eval_*``) or epoch (``train_*``).

    Args:
        epochs: See :class:`LRBase`.
        iters_per_epoch: See :class:`LRBase`.
        learning_rate: The first rate.
        indicator: Where the watched value is found.
        indicator_name: Its name there.
        mode: Whether smaller or larger is better.
        factor: Factor of a reduction.
        patience: Looks without improvement before a reduction.
        threshold: Smallest change that counts as an improvement.
        threshold_mode: ``threshold`` relative to the best value, or absolute.
        cooldown: Looks to wait after a reduction.
        min_lr: Lower bound.
        epsilon: A smaller reduction than this is left out.
        warmup_epoch: Not possible with this schedule; must be 0.
        warmup_start_lr: Not possible with this schedule; must be 0.
        last_epoch: Must be -1.
        by_epoch: Must be true.
    """

    def __init__(
        self,
        epochs: int,
        iters_per_epoch: int,
        learning_rate: float,
        indicator: Literal["train_loss", "eval_loss", "train_metric", "eval_metric"],
        indicator_name: str,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        epsilon: float = 1e-8,
        warmup_epoch: float = 0,
        warmup_start_lr: float = 0.0,
        last_epoch: int = -1,
        by_epoch: bool = True,
    ) -> None:
        if warmup_epoch or warmup_start_lr or last_epoch != -1 or not by_epoch:
            raise ConfigError(
                "ReduceOnPlateau: warmup_epoch, warmup_start_lr, last_epoch and "
                "by_epoch must keep their defaults; its steps follow the watched value"
            )
        super().__init__(epochs, iters_per_epoch, learning_rate, by_epoch=True)
        self.indicator = indicator
        self.indicator_name = indicator_name
        self.settings = {
            "mode": mode,
            "factor": factor,
            "patience": patience,
            "threshold": threshold,
            "threshold_mode": threshold_mode,
            "cooldown": cooldown,
            "min_lr": min_lr,
            "epsilon": epsilon,
        }

    def main_schedule(self) -> lr.LRScheduler:
        """Return Paddle's scheduler with the two ``indicator`` attributes."""
        schedule = lr.ReduceOnPlateau(learning_rate=self.learning_rate, **self.settings)
        schedule.indicator = self.indicator
        schedule.indicator_name = self.indicator_name
        return schedule
