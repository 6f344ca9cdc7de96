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


"""Optimizers a YAML file may name: settings first, parameters at the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import nn
from paddle import optimizer as optim

from ppmat.utils import logger

__all__ = ["SGD", "Adam", "AdamW", "Momentum", "RMSProp"]

Models = nn.Layer | Sequence[nn.Layer]


def _models(model_list: Models) -> list[nn.Layer]:
    return [model_list] if isinstance(model_list, nn.Layer) else list(model_list)


def _parameters(model_list: Models) -> list:
    return [p for model in _models(model_list) for p in model.parameters()]


def _names_without_decay(
    model_list: Models, patterns: str | None, one_dim: bool = False
) -> set:
    """Return Paddle's names of the parameters that get no weight decay.

    Args:
        model_list: The models.
        patterns: Parts of parameter names, separated by blanks.
        one_dim: Whether vectors (biases, norms) belong to them as well.
    """
    named = [item for m in _models(model_list) for item in m.named_parameters()]
    chosen = {p.name for _, p in named if one_dim and len(p.shape) == 1}
    for pattern in (patterns or "").split():
        matches = {p.name for name, p in named if pattern in name}
        if not matches:
            logger.warning(
                f"no_weight_decay_name '{pattern}' is part of no parameter name"
            )
        chosen |= matches
    return chosen


class SGD:
    """Stochastic gradient descent.

    Args:
        learning_rate: A number or an LR scheduler.
        weight_decay: L2 coefficient.
        grad_clip: Gradient clipping strategy.
    """

    def __init__(
        self,
        learning_rate: float | optim.lr.LRScheduler = 0.001,
        weight_decay: float | None = None,
        grad_clip: Any = None,
    ) -> None:
        self.settings = {
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
        }

    def __call__(self, model_list: Models) -> optim.Optimizer:
        """Return the optimizer of the models' parameters."""
        return optim.SGD(parameters=_parameters(model_list), **self.settings)


class Momentum:
    """Gradient descent with velocity.

    Args:
        learning_rate: A number or an LR scheduler.
        momentum: Share of the old velocity.
        weight_decay: L2 coefficient.
        grad_clip: Gradient clipping strategy.
        use_nesterov: Nesterov's form.
        no_weight_decay_name: Parts of the names of parameters without weight decay,
            separated by blanks.
    """

    def __init__(
        self,
        learning_rate: float | optim.lr.LRScheduler,
        momentum: float,
        weight_decay: float | None = None,
        grad_clip: Any = None,
        use_nesterov: bool = False,
        no_weight_decay_name: str | None = None,
    ) -> None:
        self.settings = {
            "learning_rate": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
            "use_nesterov": use_nesterov,
        }
        self.no_weight_decay_name = no_weight_decay_name

    def __call__(self, model_list: Models) -> optim.Optimizer:
        """Return the optimizer of the models' parameters."""
        parameters = _parameters(model_list)
        bare = _names_without_decay(model_list, self.no_weight_decay_name)
        groups: list = parameters
        if bare:
            groups = [
                {"params": [p for p in parameters if p.name not in bare]},
                {
                    "params": [p for p in parameters if p.name in bare],
                    "weight_decay": 0.0,
                },
            ]
            groups = [group for group in groups if group["params"]]
        return optim.Momentum(parameters=groups, **self.settings)


class Adam:
    """Adam (Kingma and Ba, 2015).

    Args:
        learning_rate: A number or an LR scheduler.
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        epsilon: Added to the root of the second moment.
        weight_decay: L2 coefficient.
        grad_clip: Gradient clipping strategy.
        lazy_mode: Update only rows with a gradient (sparse embeddings).
        amsgrad: Use the largest second moment so far.
    """

    def __init__(
        self,
        learning_rate: float | optim.lr.LRScheduler = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-08,
        weight_decay: float | None = None,
        grad_clip: Any = None,
        lazy_mode: bool = False,
        amsgrad: bool = False,
    ) -> None:
        self.settings = {
            "learning_rate": learning_rate,
            "beta1": beta1,
            "beta2": beta2,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
            "lazy_mode": lazy_mode,
            "amsgrad": amsgrad,
        }

    def __call__(self, model_list: Models) -> optim.Optimizer:
        """Return the optimizer of the models' parameters."""
        return optim.Adam(parameters=_parameters(model_list), **self.settings)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    Args:
        learning_rate: A number or an LR scheduler.
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        epsilon: Added to the root of the second moment.
        weight_decay: Decay coefficient.
        grad_clip: Gradient clipping strategy.
        no_weight_decay_name: Parts of the names of parameters without weight decay,
            separated by blanks.
        one_dim_param_no_weight_decay: No decay on vectors (biases, norms).
        amsgrad: Use the largest second moment so far.
        multi_precision: Keep float32 copies of float16 / bfloat16 weights.
    """

    def __init__(
        self,
        learning_rate: float | optim.lr.LRScheduler = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.001,
        grad_clip: Any = None,
        no_weight_decay_name: str | None = None,
        one_dim_param_no_weight_decay: bool = False,
        amsgrad: bool = False,
        multi_precision: bool = False,
    ) -> None:
        self.settings = {
            "learning_rate": learning_rate,
            "beta1": beta1,
            "beta2": beta2,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
            "amsgrad": amsgrad,
            "multi_precision": multi_precision,
        }
        self.no_weight_decay_name = no_weight_decay_name
        self.one_dim_param_no_weight_decay = one_dim_param_no_weight_decay

    def __call__(self, model_list: Models) -> optim.Optimizer:
        """Return the optimizer of the models' parameters."""
        bare = _names_without_decay(
            model_list, self.no_weight_decay_name, self.one_dim_param_no_weight_decay
        )
        return optim.AdamW(
            parameters=_parameters(model_list),
            apply_decay_param_fun=lambda name: name not in bare,
            **self.settings,
        )


class RMSProp:
    """Gradient descent scaled by a running mean of the squared gradient.

    Args:
        learning_rate: A number or an LR scheduler.
        rho: Share of the old mean square.
        epsilon: Added below the root.
        momentum: Share of the old velocity.
        weight_decay: L2 coefficient.
        grad_clip: Gradient clipping strategy.
    """

    def __init__(
        self,
        learning_rate: float | optim.lr.LRScheduler,
        rho: float = 0.95,
        epsilon: float = 1e-6,
        momentum: float = 0.0,
        weight_decay: float | None = None,
        grad_clip: Any = None,
    ) -> None:
        self.settings = {
            "learning_rate": learning_rate,
            "rho": rho,
            "epsilon": epsilon,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "grad_clip": grad_clip,
        }

    def __call__(self, model_list: Models) -> optim.Optimizer:
        """Return the optimizer of the models' parameters."""
        return optim.RMSProp(parameters=_parameters(model_list), **self.settings)
