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


"""Noise and flow schedulers that a YAML file may name, and :func:`build_scheduler`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppmat.schedulers.scheduling_ddpm import DDPMScheduler
from ppmat.schedulers.scheduling_flow_matching import FlowMatchingScheduler
from ppmat.utils.registry import Registry

__all__ = ["DDPMScheduler", "FlowMatchingScheduler", "build_scheduler"]

SCHEDULERS = Registry("scheduler", [DDPMScheduler, FlowMatchingScheduler])


def build_scheduler(cfg: Mapping | None, where: str = "scheduler") -> Any:
    """Build a scheduler, or a dict of schedulers; None for None.

    Args:
        cfg: One block, or a mapping from name to block. It is not changed.
        where: YAML path of ``cfg``, for errors.

    Raises:
        ConfigError: Unknown class, key or wrong type, with the YAML path.
    """
    return SCHEDULERS.build_all(cfg, where)
