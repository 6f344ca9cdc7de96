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

"""Optimizers and learning-rate schedules that a YAML file may name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from paddle import nn
from paddle import optimizer as optim

from ppmat.optimizer import lr_scheduler
from ppmat.optimizer.optimizer import SGD
from ppmat.optimizer.optimizer import Adam
from ppmat.optimizer.optimizer import AdamW
from ppmat.optimizer.optimizer import Models
from ppmat.optimizer.optimizer import Momentum
from ppmat.optimizer.optimizer import RMSProp
from ppmat.utils.ranges import Range
from ppmat.utils.registry import PARAMS_KEY
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import Registry
from ppmat.utils.registry import fits

OPTIMIZERS = Registry("optimizer", [SGD, Adam, AdamW, Momentum, RMSProp])
LR_SCHEDULES = Registry("learning-rate schedule", lr_scheduler.LRBase.__subclasses__())
_CLIPS = {
    "clip_norm": nn.ClipGradByNorm,
    "clip_norm_global": nn.ClipGradByGlobalNorm,
    "clip_value": nn.ClipGradByValue,
}
_Clip = Annotated[float, Range(above=0, most=10**9)]

__all__ = [
    *OPTIMIZERS,
    "build_lr_scheduler",
    "build_optimizer",
    "check_optimizer",
    "lr_scheduler",
]


def build_lr_scheduler(
    cfg: Mapping,
    epochs: int,
    iters_per_epoch: int,
    where: str = "Optimizer.__init_params__.lr",
) -> optim.lr.LRScheduler:
    """Return a learning-rate schedule of Paddle with the attribute ``by_epoch``.

    Arguments and errors as in :func:`build_optimizer`.

    Example:
        >>> params = {"learning_rate": 0.1, "step_size": 1, "gamma": 0.5}
        >>> block = {"__class_name__": "Step", "__init_params__": params}
        >>> build_lr_scheduler(block, epochs=3, iters_per_epoch=10)()
        0.1
    """
    lengths = {"epochs": epochs, "iters_per_epoch": iters_per_epoch}
    return LR_SCHEDULES.build(cfg, where, **lengths)()


def check_optimizer(cfg: Mapping, where: str = "Optimizer") -> None:
    """Check the block of an optimizer, see :func:`build_optimizer`.

    Raises:
        ConfigError: Unknown class, key, wrong type or range, with the YAML path.
    """
    _, params = OPTIMIZERS.parse(cfg, where, extra_keys=_CLIPS)
    clips = {key: cfg[key] for key in _CLIPS if cfg.get(key) is not None}
    if len(clips) > 1:
        raise ConfigError(f"{where}: only one of {', '.join(clips)} can be given")
    for key, value in clips.items():
        if not fits(value, _Clip):
            raise ConfigError(f"{where}.{key}: wanted a number above 0, got {value!r}")
    at = f"{where}.{PARAMS_KEY}.lr"
    wanted = "a number above 0 or the block of a schedule"
    if "lr" not in params:
        raise ConfigError(f"{at} is missing: {wanted}")
    rate = params.pop("lr")
    if isinstance(rate, Mapping):
        LR_SCHEDULES.check(rate, at, runtime=("epochs", "iters_per_epoch"))
    elif not fits(rate, lr_scheduler.Rate):
        raise ConfigError(f"{at}: wanted {wanted}, at most 100; got {rate!r}")
    block = {**cfg, PARAMS_KEY: params}
    OPTIMIZERS.check(block, where, _CLIPS, ("learning_rate", "grad_clip"))


def build_optimizer(
    cfg: Mapping,
    model_list: Models,
    epochs: int,
    iters_per_epoch: int,
    where: str = "Optimizer",
) -> tuple[optim.Optimizer, optim.lr.LRScheduler | None]:
    """Build an optimizer and its learning-rate schedule.

    Args:
        cfg: The block; it is not changed. ``__init_params__.lr`` is a number or the
            block of a schedule. Beside ``__init_params__`` at most one of ``clip_norm``
            (each tensor), ``clip_norm_global`` (all together) and ``clip_value``.
        model_list: One model or several.
        epochs: Number of epochs of the run.
        iters_per_epoch: Number of update steps (not micro-batches) per epoch.
        where: YAML path of ``cfg``, for errors.

    Returns:
        The optimizer, and the schedule or None for a fixed rate.

    Raises:
        ConfigError: Unknown class, key or wrong type, with the YAML path.
    """
    check_optimizer(cfg, where)
    _, params = OPTIMIZERS.parse(cfg, where, extra_keys=_CLIPS)
    grad_clip = None
    for key, clip in _CLIPS.items():
        if cfg.get(key) is not None:
            grad_clip = clip(cfg[key])
    rate, scheduler = params.pop("lr"), None
    if isinstance(rate, Mapping):
        at = f"{where}.{PARAMS_KEY}.lr"
        rate = scheduler = build_lr_scheduler(rate, epochs, iters_per_epoch, at)
    settings = OPTIMIZERS.build(
        {**cfg, PARAMS_KEY: params},
        where,
        extra_keys=_CLIPS,
        learning_rate=rate if scheduler else float(rate),
        grad_clip=grad_clip,
    )
    return settings(model_list), scheduler
