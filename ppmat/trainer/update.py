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


"""One update of the weights from one or several micro-batches on one or several ranks.

The gradient is that of the mean loss over everything the update saw: with ``w_i`` the
number of structures (or the model's own ``loss_weight``) of micro-batch ``i`` on any
rank, ``sum_i w_i grad(loss_i) / sum_i w_i``. One process with one large batch and
several processes with unequal parts of it therefore take the same step.
"""

from __future__ import annotations

import contextlib
from typing import Any

import paddle
from paddle import nn

from ppmat.trainer.utils import batch_ids
from ppmat.trainer.utils import compute_batch_size
from ppmat.trainer.utils import gather_objects
from ppmat.trainer.utils import loss_weight
from ppmat.trainer.utils import reduce_sum
from ppmat.utils import logger


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite."""


class _LossOnly(nn.Layer):
    """What is wrapped for several ranks: the wrapper then sees which parameters the
    loss depends on, whatever else the model returns."""

    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model
        self.result: dict[str, Any] = {}

    def forward(self, batch: Any) -> paddle.Tensor:
        self.result = self.model(batch)
        return self.result["loss_dict"]["loss"]


class Update:
    """Takes the steps of a trainer.

    Args:
        trainer: The trainer; its model, optimizer, scaler and settings are used.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.layer = _LossOnly(trainer.model)
        self.parallel: paddle.DataParallel | None = None
        if trainer.world_size > 1:
            self.parallel = paddle.DataParallel(
                self.layer,
                find_unused_parameters=trainer.config.find_unused_parameters,
            )
        self.parameters = [p for p in trainer.model.parameters() if not p.stop_gradient]
        self.grad_norm: Any = float("nan")
        self.stop_agreed = False
        self._skip = trainer.config.nan_policy == "skip"
        # On a GPU reading a flag waits for the device, so it is read one step later.
        self._at_once = self._skip or paddle.get_device() == "cpu"
        self._unread: tuple | None = None

    def step(self, group: list[Any]) -> None:
        """Take one step.

        Args:
            group: The micro-batches of this rank.

        Raises:
            NonFiniteError: A value is not finite and the policy is to stop.
        """
        trainer = self.trainer
        self.check()
        buffers = {}
        if self._skip:
            state = trainer.model.state_dict()
            buffers = {k: t.clone() for k, t in state.items() if t.stop_gradient}
        layer = self.layer if self.parallel is None else self.parallel
        finite: list[Any] = []
        reference, total = None, 0.0
        shared = None
        seen: list[tuple] = []
        for number, batch in enumerate(group):
            last = number == len(group) - 1
            size = compute_batch_size(batch)
            waiting = self.parallel is not None and not last
            with self.parallel.no_sync() if waiting else contextlib.nullcontext():
                with trainer.autocast():
                    loss = layer(batch)
                result = self.layer.result
                weight = loss_weight(result, "loss", size)
                finite.append(paddle.isfinite(loss.detach()).reshape([]))
                total = total + weight
                if reference is None:
                    shared = self._share(weight, finite)
                    reference = weight
                    if shared is not None:
                        reference = shared[0] / trainer.world_size
                    if len(group) > 1:  # any positive number the ranks agree on
                        reference = reference + 1
                if len(group) > 1 or self.parallel is not None:
                    loss = loss * _scalar(weight / reference, loss)
                if trainer.scaler is not None:
                    loss = trainer.scaler.scale(loss)
                loss.backward()
            seen.append((_detached(result), batch, size))
            self.layer.result = {}
        factor = None
        if len(group) > 1:
            shared = self._share(total, finite)
            factor = reference / total
            if shared is not None:
                factor = reference * trainer.world_size / shared[0]
        if self._apply(group, finite, shared, factor, buffers):
            for result, batch, size in seen:
                trainer.record(result, batch, size)

    def _share(self, weight: Any, finite: list[Any]) -> paddle.Tensor | None:
        """Add up over ranks: weight, losses that are not finite, wishes to stop."""
        trainer = self.trainer
        if self.parallel is None:
            return None
        bad = paddle.logical_not(paddle.stack(finite).all())
        return reduce_sum(
            [weight, bad.astype("float64"), float(trainer.stop.received > 0)]
        )

    def _apply(
        self,
        group: list[Any],
        finite: list[Any],
        shared: paddle.Tensor | None,
        factor: Any,
        buffers: dict[str, paddle.Tensor],
    ) -> bool:
        trainer = self.trainer
        if factor is not None:
            with paddle.no_grad():
                for parameter in self.parameters:
                    if parameter.grad is not None:
                        parameter.grad.set_value(
                            parameter.grad * _scalar(factor, parameter.grad)
                        )
        if trainer.scaler is not None:
            trainer.scaler.unscale_(trainer.optimizer)
        self.grad_norm = _norm([p.grad for p in self.parameters if p.grad is not None])
        ids = [batch_ids(b) or f"(number {i}, no ids)" for i, b in enumerate(group)]
        self._unread = (ids, finite, shared, self.grad_norm, trainer.state.epoch)
        taken = self.check() if self._at_once else True
        if taken:
            if trainer.scaler is not None:
                trainer.scaler.step(trainer.optimizer)
                trainer.scaler.update()
            else:
                trainer.optimizer.step()
        elif trainer.scaler is not None:
            trainer.scaler.update()
        trainer.optimizer.clear_grad(set_to_zero=False)
        if not taken:
            state = trainer.model.state_dict()
            for name, value in buffers.items():
                state[name].set_value(value)
        elif trainer.ema_model is not None:
            trainer.ema_model.update()
        return taken

    def check(self) -> bool:
        """Read the flags of the last step, if they are unread.

        Returns:
            Whether all its values were finite.

        Raises:
            NonFiniteError: They were not and the policy is to stop.
        """
        trainer = self.trainer
        if self._unread is None:
            self.stop_agreed = self.stop_agreed or (
                self.parallel is None and trainer.stop.received > 0
            )
            return True
        ids, finite, shared, norm, epoch = self._unread
        self._unread = None
        loss_is_finite = bool(paddle.stack(finite).all())
        everywhere = loss_is_finite
        if shared is None:
            self.stop_agreed = trainer.stop.received > 0
        else:
            _, bad, stops = shared.tolist()
            everywhere, self.stop_agreed = bad == 0, stops > 0
        # With a loss scaler an infinite gradient is part of its search for a scale.
        gradient_is_finite = trainer.scaler is not None or bool(paddle.isfinite(norm))
        if everywhere and gradient_is_finite:
            return True
        # The gradient is the same on all ranks, so all of them come here together.
        mine = [i for i, ok in zip(ids, finite) if everywhere or not bool(ok)]
        culprits = [ids for part in gather_objects(mine) for ids in part]
        what = "gradient" if everywhere else "loss"
        text = (
            f"the {what} is not finite in epoch {epoch}, after step "
            f"{trainer.state.global_step}; ids of the batch: {culprits}"
        )
        if self._skip:
            trainer.state.skipped_steps += 1
            logger.warning(f"Update left out: {text}")
            return False
        raise NonFiniteError(
            f"{text}. The last checkpoint is not affected. Look at these records, "
            "lower the learning rate, or set Trainer.nan_policy: skip"
        )


def _detached(value: Any) -> Any:
    """Return a result without the graph behind its tensors."""
    if isinstance(value, paddle.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_detached(item) for item in value]
    return value


def _scalar(value: Any, like: paddle.Tensor) -> Any:
    return value.astype(like.dtype) if isinstance(value, paddle.Tensor) else value


@paddle.no_grad()
def _norm(gradients: list[paddle.Tensor]) -> paddle.Tensor:
    if not gradients:
        return paddle.zeros([])
    squares = [g.astype("float32").square().sum() for g in gradients]
    return paddle.stack(squares).sum().sqrt()
