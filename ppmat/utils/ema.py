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

"""An exponential average of a model's weights over the training steps."""

from __future__ import annotations

import paddle
from paddle import nn


class ExponentialMovingAverage:
    """``average = d * average + (1 - d) * weights``, beside a model that is trained.

    Trained parameters are averaged in float32; everything else (running statistics,
    data mean, frozen weights) is copied.

    Args:
        model: The model whose weights are averaged.
        decay: ``d``.
        warmup: Whether ``d`` grows from 0.1 as ``(1 + n) / (10 + n)`` with the number
            of updates ``n``: initial weights do not dominate a short run.

    Example:
        >>> model = nn.Linear(1, 1, bias_attr=False)
        >>> model.weight.set_value(paddle.zeros([1, 1]))
        >>> average = ExponentialMovingAverage(model, decay=0.75)
        >>> model.weight.set_value(paddle.ones([1, 1]))
        >>> average.update()
        >>> average.params_shadow["weight"].tolist()
        [[0.25]]
    """

    def __init__(
        self, model: nn.Layer, decay: float = 0.9, warmup: bool = False
    ) -> None:
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self.n_avg = 0
        self._averaged = {
            name for name, p in model.named_parameters() if not p.stop_gradient
        }
        self.params_shadow = {
            name: _copy(tensor) for name, tensor in model.state_dict().items()
        }
        self.params_backup: dict[str, paddle.Tensor] = {}

    @paddle.no_grad()
    def update(self) -> None:
        """Add the model's present weights to the average."""
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.n_avg) / (10 + self.n_avg))
        for name, tensor in self.model.state_dict().items():
            shadow = self.params_shadow[name]
            if name in self._averaged and shadow.is_floating_point():
                shadow.lerp_(tensor.astype(shadow.dtype), 1.0 - decay)
            else:
                self.params_shadow[name] = _copy(tensor)
        self.n_avg += 1

    @paddle.no_grad()
    def apply_shadow(self) -> None:
        """Put the average into the model and keep the trained weights for later."""
        for name, tensor in self.model.state_dict().items():
            self.params_backup[name] = tensor.clone()
            tensor.set_value(self.params_shadow[name].astype(tensor.dtype))

    @paddle.no_grad()
    def restore(self) -> None:
        """Put the trained weights back; undoes :meth:`apply_shadow`."""
        if not self.params_backup:
            raise RuntimeError("restore() without a preceding apply_shadow()")
        for name, tensor in self.model.state_dict().items():
            tensor.set_value(self.params_backup[name])
        self.params_backup = {}

    def state_dict(self) -> dict[str, paddle.Tensor]:
        """Return the averages by parameter name, and the update count ``n_avg``."""
        return {**self.params_shadow, "n_avg": paddle.to_tensor(self.n_avg)}

    def set_state_dict(self, state_dict: dict[str, paddle.Tensor]) -> None:
        """Load what :meth:`state_dict` returned.

        Raises:
            KeyError: A parameter of the model, or ``n_avg``, is missing.
        """
        missing = [k for k in (*self.params_shadow, "n_avg") if k not in state_dict]
        if missing:
            raise KeyError(f"averaged weights lack {', '.join(missing[:5])}")
        self.n_avg = int(state_dict["n_avg"])
        for name in self.params_shadow:
            value = paddle.to_tensor(state_dict[name])
            self.params_shadow[name] = value.astype(self.params_shadow[name].dtype)


def _copy(tensor: paddle.Tensor) -> paddle.Tensor:
    copy = tensor.detach().clone()
    if copy.is_floating_point() and copy.dtype != paddle.float64:
        copy = copy.astype("float32")
    return copy
