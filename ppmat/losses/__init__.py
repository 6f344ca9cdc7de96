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


"""Losses that a YAML file may name, and :func:`build_loss`."""

from __future__ import annotations

from collections.abc import Mapping

from paddle import nn

from ppmat.losses.losses import HuberLoss
from ppmat.losses.losses import L1Loss
from ppmat.losses.losses import LossWarper
from ppmat.losses.losses import MAELoss
from ppmat.losses.losses import MSELoss
from ppmat.losses.losses import SmoothL1Loss
from ppmat.utils.registry import PARAMS_KEY
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import Registry

LOSSES = Registry(
    "loss", [MSELoss, L1Loss, SmoothL1Loss, MAELoss, HuberLoss, LossWarper]
)

__all__ = [*LOSSES, "build_loss"]


def build_loss(cfg: Mapping | None, where: str = "loss") -> nn.Layer | None:
    """Build a loss, with those inside a :class:`LossWarper`; None for None.

    Args:
        cfg: The block; it is not changed.
        where: YAML path of ``cfg``, for errors.

    Raises:
        ConfigError: Unknown class, key or wrong type, with the YAML path.
    """
    if cfg is None:
        return None
    cls, params = LOSSES.parse(cfg, where)
    if cls is not LossWarper:
        return LOSSES.build(cfg, where)
    inner = f"{where}.{PARAMS_KEY}.loss_fn"
    blocks = params.get("loss_fn")
    if not isinstance(blocks, Mapping) or not blocks:
        raise ConfigError(
            f"{inner}: expected a mapping from output name to a loss block, "
            f"got {blocks!r}"
        )
    losses = {key: build_loss(block, f"{inner}.{key}") for key, block in blocks.items()}
    return LOSSES.build(cfg, where, loss_fn=losses)
