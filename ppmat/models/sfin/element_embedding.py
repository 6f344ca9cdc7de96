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

"""Embeddings of elements: a learned row for each, or computed from properties.

A row of its own describes an element best, if the training data have it. It says
nothing of other elements; rows computed from properties place them near elements that
are like them.
"""

from __future__ import annotations

from typing import Literal

import paddle
from paddle import nn
from paddle.nn import functional as F

from ppmat.utils.element_properties import MAX_ATOMIC_NUMBER
from ppmat.utils.element_properties import PROPERTIES
from ppmat.utils.element_properties import element_properties


class Lookup(nn.Layer):
    """Rows of a learned table, [N] to [N, channels].

    Paddle's Embedding has no second derivative, which forces in a loss need.
    """

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.weight = self.create_parameter(
            [rows, channels], default_initializer=nn.initializer.Normal(std=0.5)
        )

    def forward(self, index: paddle.Tensor) -> paddle.Tensor:
        """Return the rows [N, channels] at ``index`` [N]."""
        return paddle.gather(self.weight, index)


class PropertyEmbedding(nn.Layer):
    """Scalar channels of elements, computed from their properties.

    The hidden units are bounded, so an element outside the range of those in the
    training data is not far from them.

    Args:
        channels: Scalar channels.
        hidden: Hidden units.
    """

    def __init__(self, channels: int, hidden: int = 32) -> None:
        super().__init__()
        table = paddle.to_tensor(element_properties(), paddle.get_default_dtype())
        self.register_buffer("properties", table, persistable=False)
        self.hidden = nn.Linear(len(PROPERTIES), hidden)
        self.out = nn.Linear(hidden, channels)

    def forward(self, atom_types: paddle.Tensor) -> paddle.Tensor:
        """Return [N, channels] of the atomic numbers [N]."""
        table = self.out(F.tanh(self.hidden(self.properties)))  # [119, channels]
        return paddle.gather(table, atom_types)


def element_embedding(
    kind: Literal["table", "properties"], channels: int
) -> Lookup | PropertyEmbedding:
    """Return a layer from atomic numbers [N] to [N, channels]."""
    if kind == "table":
        return Lookup(MAX_ATOMIC_NUMBER + 1, channels)
    return PropertyEmbedding(channels)
