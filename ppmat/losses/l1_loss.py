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


"""Mean absolute error and its smooth relative."""

from __future__ import annotations

from typing import Literal

import paddle
import paddle.nn as nn
import paddle.nn.functional as F


class L1Loss(nn.Layer):
    """Absolute error ``|pred - label|``.

    Args:
        reduction: Mean or sum over all entries.
    """

    def __init__(self, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, pred: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Return the scalar loss of two tensors of one shape."""
        return F.l1_loss(pred, label, self.reduction)


class MAELoss(L1Loss):
    """:class:`L1Loss` under its other name."""


class SmoothL1Loss(nn.Layer):
    """Quadratic for errors below ``delta``, linear above.

    ``0.5 e^2`` if ``|e| < delta`` else ``delta |e| - 0.5 delta^2``.

    Args:
        reduction: Mean or sum over all entries.
        delta: Error at which the two branches meet, in the unit of the label.
    """

    def __init__(
        self, reduction: Literal["mean", "sum"] = "mean", delta: float = 1.0
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.delta = delta

    def forward(self, pred: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Return the scalar loss of two tensors of one shape."""
        return F.smooth_l1_loss(pred, label, self.reduction, delta=self.delta)


class HuberLoss(SmoothL1Loss):
    """:class:`SmoothL1Loss` under its other name."""
