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


"""Several losses on several outputs, added with weights."""

from __future__ import annotations

import paddle
import paddle.nn as nn


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
