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

"""Optimizers that a YAML file may name: settings first, parameters at the call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import KW_ONLY
from dataclasses import dataclass
from typing import Annotated
from typing import Any

from paddle import nn
from paddle import optimizer as optim

from ppmat.utils import logger
from ppmat.utils.name_parts import names_in_part
from ppmat.utils.ranges import Range
from ppmat.utils.registry import ConfigError

_Share = Annotated[float, Range(0, below=1)]  # of the old value in a running mean
_Tiny = Annotated[float, Range(above=0, most=1)]
_Decay = Annotated[float, Range(0, 100)]
_Factors = Annotated[Mapping[str, float], Range(0, 1000)]
Models = nn.Layer | Sequence[nn.Layer]
Named = list[tuple[str, Any]]  # parameters by their names in the models


def _match(named: Named, patterns: str | None) -> set[str]:
    """Return Paddle's names of the parameters that ``no_weight_decay_name`` selects."""
    chosen = set()
    for pattern in (patterns or "").split():
        matches = {p.name for name, p in named if pattern in name}
        if not matches:
            text = f"no_weight_decay_name '{pattern}' is part of no parameter name"
            logger.warning(text)
        chosen |= matches
    return chosen


def rate_factors(named: Named, lr_mult: Mapping[str, float]) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter that has one.

    Args:
        named: Parameters by their names in the models.
        lr_mult: Factor by the beginning of names; the longest beginning counts.

    Raises:
        InputError: No name begins so.

    Example:
        >>> layer = nn.Sequential(nn.Linear(1, 1))
        >>> rate_factors(list(layer.named_parameters()), {"0": 0.1, "0.bias": 0})
        {'0.weight': 0.1, '0.bias': 0}
    """
    names = [name for name, _ in named]
    factors = {}
    for part in sorted(lr_mult, key=len):
        chosen = names_in_part(names, part, "Optimizer.__init_params__.lr_mult")
        factors.update({name: lr_mult[part] for name in names if name in chosen})
    return factors


@dataclass
class OptimizerBase:
    """The arguments that all optimizers share.

    ``lr_mult`` trains parts of a model more slowly than the rest, or not at all, which
    is what a small set needs after pre-training: ``{backbone: 0.1}`` multiplies the
    learning rate of all parameters whose names begin with ``backbone.``, ``{backbone:
    0}`` freezes them. Weight decay is multiplied too.
    """

    learning_rate: float | optim.lr.LRScheduler
    _: KW_ONLY
    weight_decay: _Decay | None = None  # L2 coefficient
    grad_clip: Any = None  # Paddle's strategy of gradient clipping
    lr_mult: _Factors | None = None  # factor of the rate by beginning of names; 0: none

    def __call__(self, model_list: Models) -> optim.Optimizer:
        """Return Paddle's optimizer of the same name for the models' parameters.

        Raises:
            InputError: ``lr_mult`` names no parameter, or freezes all of them.
        """
        models = [model_list] if isinstance(model_list, nn.Layer) else model_list
        named = [item for model in models for item in model.named_parameters()]
        bases = [c.__name__ for c in type(self).__mro__ if hasattr(optim, c.__name__)]
        cls = getattr(optim, bases[0])
        legal = inspect.signature(cls).parameters
        settings = {name: v for name, v in vars(self).items() if name in legal}
        factors = rate_factors(named, self.lr_mult or {})
        frozen = {name for name, factor in factors.items() if factor == 0}
        trained = [(n, p) for n, p in named if n not in frozen and not p.stop_gradient]
        if frozen and not trained:
            raise ConfigError(
                f"Optimizer.__init_params__.lr_mult: {dict(self.lr_mult)} freezes all "
                "parameters; leave one part to be trained"
            )
        optimizer = cls(**settings, **self._parameters(named))
        # After Paddle's groups, which set the factor to 1
        for name, parameter in [item for item in named if item[0] in factors]:
            parameter.optimize_attr["learning_rate"] = factors[name]
            parameter.stop_gradient |= factors[name] == 0
        for part, factor in (self.lr_mult or {}).items():
            what = f"learns at {factor:g} times the rate" if factor else "is frozen"
            logger.message(f"lr_mult: {part} {what}")
        return optimizer

    def _parameters(self, named: Named) -> dict[str, Any]:
        """Return the arguments that say what is trained, and what of it decays."""
        return {"parameters": [parameter for _, parameter in named]}


@dataclass
class SGD(OptimizerBase):
    """Stochastic gradient descent.

    Example:
        >>> optimizer = SGD(learning_rate=0.1)(nn.Linear(3, 1))
        >>> optimizer.get_lr()
        0.1
    """

    learning_rate: float | optim.lr.LRScheduler = 0.001


@dataclass
class Momentum(OptimizerBase):
    """Gradient descent with velocity."""

    momentum: _Share  # share of the old velocity
    _: KW_ONLY
    use_nesterov: bool = False  # Nesterov's form
    no_weight_decay_name: str | None = None  # parts of names, separated by blanks

    def _parameters(self, named: Named) -> dict[str, Any]:
        bare = _match(named, self.no_weight_decay_name)
        if not bare:
            return super()._parameters(named)
        decayed = [p for _, p in named if p.name not in bare]
        rest = [p for _, p in named if p.name in bare]
        groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
        return {"parameters": [group for group in groups if group["params"]]}


@dataclass
class Adam(OptimizerBase):
    """Adam (Kingma and Ba, 2015)."""

    learning_rate: float | optim.lr.LRScheduler = 0.001
    _: KW_ONLY
    beta1: _Share = 0.9  # decay rate of the first moment
    beta2: _Share = 0.999  # decay rate of the second moment
    epsilon: _Tiny = 1e-08  # added to the root of the second moment
    lazy_mode: bool = False  # update only rows with a gradient (sparse embeddings)
    amsgrad: bool = False  # use the largest second moment so far


@dataclass
class AdamW(OptimizerBase):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    learning_rate: float | optim.lr.LRScheduler = 0.001
    _: KW_ONLY
    beta1: _Share = 0.9  # decay rate of the first moment
    beta2: _Share = 0.999  # decay rate of the second moment
    epsilon: _Tiny = 1e-8  # added to the root of the second moment
    weight_decay: _Decay = 0.001  # decay coefficient
    no_weight_decay_name: str | None = None  # parts of names, separated by blanks
    one_dim_param_no_weight_decay: bool = False  # no decay on vectors (biases, norms)
    amsgrad: bool = False  # use the largest second moment so far
    multi_precision: bool = False  # float32 copies of float16 / bfloat16 weights

    def _parameters(self, named: Named) -> dict[str, Any]:
        bare = _match(named, self.no_weight_decay_name)
        if self.one_dim_param_no_weight_decay:
            bare |= {p.name for _, p in named if len(p.shape) == 1}
        decays = {"apply_decay_param_fun": lambda name: name not in bare}
        return {**super()._parameters(named), **decays}


@dataclass
class RMSProp(OptimizerBase):
    """Gradient descent scaled by a running mean of the squared gradient."""

    _: KW_ONLY
    rho: _Share = 0.95  # share of the old mean square
    epsilon: _Tiny = 1e-6  # added below the root
    momentum: _Share = 0.0  # share of the old velocity
