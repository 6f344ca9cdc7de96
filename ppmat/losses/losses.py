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

"""Losses of a prediction and its label, and a weighted sum of several."""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import nn


class _ElementLoss(nn.Layer):
    """A loss of each entry; ``reduction`` is the mean or the sum over all entries."""

    def __init__(self, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        self.reduction = reduction


class MSELoss(_ElementLoss):
    """Squared error ``(pred - label)^2``; ``reduction`` is its mean or its sum.

    Example:
        >>> float(MSELoss()(paddle.zeros([2]), paddle.to_tensor([1.0, 3.0])))
        5.0
    """

    def forward(self, pred: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Return the scalar loss of two tensors of one shape."""
        return F.mse_loss(pred, label, self.reduction)


class L1Loss(_ElementLoss):
    """Absolute error ``|pred - label|``; ``reduction`` is its mean or its sum."""

    def forward(self, pred: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Return the scalar loss of two tensors of one shape."""
        return F.l1_loss(pred, label, self.reduction)


class MAELoss(L1Loss):
    """:class:`L1Loss` under its other name."""


class SmoothL1Loss(_ElementLoss):
    """Quadratic for errors below ``delta``, linear above.

    ``0.5 e^2`` if ``|e| < delta`` else ``delta |e| - 0.5 delta^2``.

    Args:
        reduction: Mean or sum over all entries.
        delta: Error at which the two branches meet, in the unit of the label.
    """

    def __init__(
        self, reduction: Literal["mean", "sum"] = "mean", delta: float = 1.0
    ) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, pred: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Return the scalar loss of two tensors of one shape."""
        return F.smooth_l1_loss(pred, label, self.reduction, delta=self.delta)


class HuberLoss(SmoothL1Loss):
    """:class:`SmoothL1Loss` under its other name."""


class LossWarper(nn.Layer):
    """Weighted sum of one loss for each output.

    Args:
        loss_fn: Loss by output name.
        weights: Weight by output name; 1 for every output when None.

    Raises:
        ValueError: ``weights`` and ``loss_fn`` do not have the same names.
    """

    def __init__(
        self, loss_fn: dict[str, nn.Layer], weights: dict[str, float] | None = None
    ) -> None:
        super().__init__()
        if weights is not None and set(weights) != set(loss_fn):
            raise ValueError(
                f"LossWarper: weights are given for {sorted(weights)}, losses for "
                f"{sorted(loss_fn)}; name the same outputs in both"
            )
        self.loss_fn = nn.LayerDict(loss_fn)
        self.weights = dict(weights) if weights else dict.fromkeys(loss_fn, 1.0)

    def forward(
        self, pred: dict[str, paddle.Tensor], label: dict[str, paddle.Tensor]
    ) -> dict[str, paddle.Tensor]:
        """Return every loss by its name, and their weighted sum as ``loss``."""
        losses = {
            name: loss(pred[name], label[name]) for name, loss in self.loss_fn.items()
        }
        losses["loss"] = sum(self.weights[name] * losses[name] for name in self.loss_fn)
        return losses
