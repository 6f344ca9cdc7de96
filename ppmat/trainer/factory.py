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


"""Trainers a YAML file may name, and :func:`build_trainer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ppmat.trainer.base_trainer import BaseTrainer
from ppmat.utils.registry import CLASS_KEY
from ppmat.utils.registry import Registry

TRAINERS = Registry("trainer", [BaseTrainer])


def build_trainer(cfg: Mapping, **kwargs: Any) -> BaseTrainer:
    """Build the trainer a ``Trainer`` section asks for.

    Args:
        cfg: The section. ``__class_name__`` selects a registered trainer, default
            ``BaseTrainer``; the other keys are its settings.
        **kwargs: Model, loaders, optimizer, ... of the constructor.

    Raises:
        ConfigError: Unknown class or setting.
    """
    cls = TRAINERS.lookup(cfg.get(CLASS_KEY, "BaseTrainer"), "Trainer")
    return cls({k: v for k, v in cfg.items() if k != CLASS_KEY}, **kwargs)
