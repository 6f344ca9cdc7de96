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

The gradient is that of the mean loss over all structures of the update. With ``w_i``
the number of structures (or the model's own ``loss_weight``) of micro-batch ``i`` on
any rank, it is ``sum_i w_i grad(loss_i) / sum_i w_i``. One process with one large batch
and several processes with unequal parts of it therefore take the same step.
"""

from __future__ import annotations

import contextlib
from typing import Any
from typing import NamedTuple

import paddle
from paddle import nn

from ppmat.trainer.run import Run
from ppmat.trainer.utils import batch_ids
from ppmat.trainer.utils import compute_batch_size
from ppmat.trainer.utils import loss_weight
from ppmat.utils import logger
from ppmat.utils.meeting import meet
from ppmat.utils.misc import gather_objects
from ppmat.utils.misc import sum_over_ranks


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite."""


class _LossOnly(nn.Layer):
    """Returns the loss alone and keeps the rest in ``result``.

    ``paddle.DataParallel`` wraps this layer. It so sees which parameters the loss
    depends on, whatever else the model returns.
    """

    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model
        self.result: dict[str, Any] = {}

    def forward(self, batch: Any) -> paddle.Tensor:
        self.result = self.model(batch)
        return self.result["loss_dict"]["loss"]


class _Flags(NamedTuple):
    """What :meth:`Update.check` reads of a step."""

    ids: list  # ids of each micro-batch, or its number
    finite: list  # whether the loss of each micro-batch is finite, [] bool
    shared: paddle.Tensor | None  # what Update._share returned last
    norm: paddle.Tensor  # of the gradient
    epoch: int


class Update:
    """Takes the update steps of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.layer = _LossOnly(run.model)
        self.parallel: paddle.DataParallel | None = None
        self.world_size = paddle.distributed.get_world_size()
        if self.world_size > 1:
            meet()
            self.parallel = paddle.DataParallel(
                self.layer, find_unused_parameters=run.config.find_unused_parameters
            )
        self.parameters = [p for p in run.model.parameters() if not p.stop_gradient]
        self.grad_norm: Any = float("nan")
        self.stop_agreed = False  # by all ranks
        self._skip = run.config.nan_policy == "skip"
        # On a GPU reading a flag waits for the device, so it is read one step later.
        self._at_once = self._skip or paddle.get_device() == "cpu"
        self._unread: _Flags | None = None

    def step(self, group: list[Any]) -> None:
        """Take one step with the micro-batches of this rank.

        Raises:
            NonFiniteError: A value is not finite and the policy is to stop.
        """
        self.check()
        meet()  # one rank may have waited for its data
        layer = self.layer if self.parallel is None else self.parallel
        buffers = self._copy_buffers()
        finite: list[paddle.Tensor] = []
        batches: list[tuple] = []
        reference, total, shared = None, 0.0, None
        for number, batch in enumerate(group):
            size = compute_batch_size(batch)
            is_last = number == len(group) - 1
            with self._no_sync_unless(is_last):
                with self.run.autocast():
                    loss = layer(batch)
                result = self.layer.result
                weight = loss_weight(result, "loss", size)
                finite.append(paddle.isfinite(loss.detach()).reshape([]))
                total = total + weight
                if reference is None:
                    shared = self._share(weight, finite)
                    reference = weight
                    if shared is not None:
                        reference = shared[0] / self.world_size
                    if len(group) > 1:  # any positive number that all ranks share
                        reference = reference + 1
                if len(group) > 1 or self.parallel is not None:
                    loss = loss * _as_type(weight / reference, loss)
                if self.run.scaler is not None:
                    loss = self.run.scaler.scale(loss)
                loss.backward()
            batches.append((_detached(result), batch, size))
            self.layer.result = {}
        if len(group) > 1:
            shared = self._share(total, finite)
            factor = reference / total
            if shared is not None:
                factor = reference * self.world_size / shared[0]
            self._scale_gradients(factor)
        if self._apply(group, finite, shared, buffers):
            for result, batch, size in batches:
                self.run.add_batch(result, batch, size)

    def _copy_buffers(self) -> dict[str, paddle.Tensor]:
        """Return copies of what a skipped step has to put back."""
        if not self._skip:
            return {}
        state = self.run.model.state_dict().items()
        return {name: t.clone() for name, t in state if t.stop_gradient}

    def _no_sync_unless(self, is_last: bool) -> contextlib.AbstractContextManager:
        """Return a context in which gradients stay on their rank, but for the last."""
        if self.parallel is None or is_last:
            return contextlib.nullcontext()
        return self.parallel.no_sync()

    def _share(self, weight: Any, finite: list[paddle.Tensor]) -> paddle.Tensor | None:
        """Sum over ranks: loss weight, non-finite flag, stop request; None for one."""
        if self.parallel is None:
            return None
        bad = paddle.logical_not(paddle.stack(finite).all())
        return sum_over_ranks([weight, bad, float(self.run.stop.received > 0)])

    @paddle.no_grad()
    def _scale_gradients(self, factor: Any) -> None:
        for parameter in self.parameters:
            if parameter.grad is not None:
                scaled = parameter.grad * _as_type(factor, parameter.grad)
                parameter.grad.set_value(scaled)

    def _apply(
        self,
        group: list[Any],
        finite: list[paddle.Tensor],
        shared: paddle.Tensor | None,
        buffers: dict[str, paddle.Tensor],
    ) -> bool:
        """Change the weights unless the step is skipped; returns whether it did."""
        run = self.run
        if run.scaler is not None:
            run.scaler.unscale_(run.stepper)
        self.grad_norm = _norm([p.grad for p in self.parameters if p.grad is not None])
        ids = [batch_ids(b) or f"(number {i}, no ids)" for i, b in enumerate(group)]
        self._unread = _Flags(ids, finite, shared, self.grad_norm, run.state.epoch)
        taken = self.check() if self._at_once else True
        if taken and run.scaler is not None:
            run.scaler.step(run.stepper)
        elif taken:
            run.stepper.step()
        if run.scaler is not None:
            run.scaler.update()
        run.optimizer.clear_grad(set_to_zero=False)
        if not taken:
            state = run.model.state_dict()
            for name, value in buffers.items():
                state[name].set_value(value)
        elif run.ema_model is not None:
            run.ema_model.update()
        return taken

    def check(self) -> bool:
        """Read the flags of the last step; return whether its values were finite."""
        run, flags = self.run, self._unread
        if flags is None:
            requested = self.parallel is None and run.stop.received > 0
            self.stop_agreed = self.stop_agreed or requested
            return True
        self._unread = None
        losses_are_finite = bool(paddle.stack(flags.finite).all())
        if flags.shared is None:
            self.stop_agreed = run.stop.received > 0
        else:
            _, bad, stops = flags.shared.tolist()
            losses_are_finite, self.stop_agreed = bad == 0, stops > 0
        # With a loss scaler an infinite gradient is part of its search for a scale.
        gradient_is_finite = run.scaler is not None or bool(paddle.isfinite(flags.norm))
        if losses_are_finite and gradient_is_finite:
            return True
        # The gradient is the same on all ranks, so all of them come here together.
        pairs = zip(flags.ids, flags.finite)
        mine = [ids for ids, ok in pairs if losses_are_finite or not bool(ok)]
        culprits = [ids for part in gather_objects(mine) for ids in part]
        what = "gradient" if losses_are_finite else "loss"
        text = (
            f"the {what} is not finite in epoch {flags.epoch}, after step "
            f"{run.state.global_step}; ids of the batch: {culprits}"
        )
        if self._skip:
            run.state.skipped_steps += 1
            logger.warning(f"Update skipped: {text}")
            return False
        raise NonFiniteError(
            f"{text}. The last checkpoint is not affected. Check these records, lower "
            "the learning rate, or set Trainer.nan_policy: skip"
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


def _as_type(value: Any, like: paddle.Tensor) -> Any:
    return value.astype(like.dtype) if isinstance(value, paddle.Tensor) else value


@paddle.no_grad()
def _norm(gradients: list[paddle.Tensor]) -> paddle.Tensor:
    """Return the length of all gradients together, float32 []."""
    if not gradients:
        return paddle.zeros([])
    squares = [g.astype("float32").square().sum() for g in gradients]
    return paddle.stack(squares).sum().sqrt()
