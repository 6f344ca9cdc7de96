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


"""A causal transformer: root-mean-square norms, gated MLPs, rotary positions.

The layout is that of Llama (Touvron et al., arXiv 2302.13971). It takes embeddings and
returns hidden states; it knows neither atoms nor tokens.

Shapes: ``S`` sequences, ``T`` new columns, ``C`` columns with those of the cache,
``D`` width, ``H`` heads of width ``D / H``.
"""

from __future__ import annotations

from typing import Annotated

import paddle
from paddle import nn
from paddle.nn import functional as F

from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range

Seen = tuple[paddle.Tensor, paddle.Tensor]  # keys and values, [S, C, H, D / H] each
Cache = list[Seen]  # of each layer


class RMSNorm(nn.Layer):
    """Divide by the root mean square of the channels, and scale each channel."""

    def __init__(self, channels: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        ones = nn.initializer.Constant(1.0)
        self.scale = self.create_parameter([channels], default_initializer=ones)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        mean_square = x.square().mean(axis=-1, keepdim=True)
        return x * paddle.rsqrt(mean_square + self.epsilon) * self.scale


def rotate(x: paddle.Tensor, position: paddle.Tensor, theta: float) -> paddle.Tensor:
    """Turn pairs of channels by angles that grow with the position.

    The product of two turned vectors depends on the difference of their positions.

    Args:
        x: Queries or keys, [S, T, H, D / H].
        position: [S, T].
        theta: The slowest pair turns by about ``1 / theta`` a position.
    """
    half = x.shape[-1] // 2
    power = paddle.arange(half, dtype=x.dtype) / half
    angle = position.astype(x.dtype).unsqueeze(-1) * theta**-power  # [S, T, half]
    cos, sin = angle.cos().unsqueeze(2), angle.sin().unsqueeze(2)  # [S, T, 1, half]
    a, b = x[..., :half], x[..., half:]
    return paddle.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer without bias."""
    return nn.Linear(inputs, outputs, bias_attr=False)


class Attention(nn.Layer):
    """Attention among the columns of a sequence."""

    def __init__(self, width: int, heads: int, theta: float) -> None:
        super().__init__()
        self.heads, self.theta = heads, theta
        self.query = linear(width, width)
        self.key = linear(width, width)
        self.value = linear(width, width)
        self.out = linear(width, width)

    def forward(
        self,
        x: paddle.Tensor,
        position: paddle.Tensor,
        mask: paddle.Tensor,
        before: Seen | None,
    ) -> tuple[paddle.Tensor, Seen]:
        """Return [S, T, D], and keys and values [S, C, H, D / H] for the next call."""
        shape = [*x.shape[:2], self.heads, -1]
        query = rotate(self.query(x).reshape(shape), position, self.theta)
        key = rotate(self.key(x).reshape(shape), position, self.theta)
        value = self.value(x).reshape(shape)
        if before is not None:
            key = paddle.concat([before[0], key], axis=1)
            value = paddle.concat([before[1], value], axis=1)
        mixed = F.scaled_dot_product_attention(query, key, value, mask.unsqueeze(1))
        return self.out(mixed.reshape(x.shape)), (key, value)


class GatedMLP(nn.Layer):
    """Two linear layers; the hidden channels are gated by SiLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = linear(width, hidden)
        self.up = linear(width, hidden)
        self.down = linear(hidden, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class DecoderLayer(nn.Layer):
    """Attention and gated MLP, each on normalised channels and added to them."""

    def __init__(self, width: int, hidden: int, heads: int, theta: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, heads, theta)
        self.mlp_norm = RMSNorm(width)
        self.mlp = GatedMLP(width, hidden)

    def forward(
        self,
        x: paddle.Tensor,
        position: paddle.Tensor,
        mask: paddle.Tensor,
        before: Seen | None,
    ) -> tuple[paddle.Tensor, Seen]:
        mixed, seen = self.attention(self.attention_norm(x), position, mask, before)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), seen


class Decoder(nn.Layer):
    """Layers of causal attention.

    Args:
        hidden_size: Width, ``D``.
        intermediate_size: Hidden channels of the gated MLPs.
        num_hidden_layers: Layers.
        num_attention_heads: Heads, ``H``.
        rope_theta: Base of the rotary positions.
    """

    def __init__(
        self,
        hidden_size: Annotated[int, Range(2, 65_536)] = 1024,
        intermediate_size: Annotated[int, Range(1, 262_144)] = 4096,
        num_hidden_layers: Annotated[int, Range(1, 1000)] = 6,
        num_attention_heads: Annotated[int, Range(1, 1024)] = 16,
        rope_theta: Annotated[float, Range(1, 10**9)] = 10_000.0,
    ) -> None:
        super().__init__()
        if hidden_size % (2 * num_attention_heads):
            raise InputError(
                f"hidden_size {hidden_size} and num_attention_heads "
                f"{num_attention_heads}",
                wanted="a width that is a multiple of twice the heads",
            )
        self.hidden_size = hidden_size
        sizes = (hidden_size, intermediate_size, num_attention_heads, rope_theta)
        self.layers = nn.LayerList(
            [DecoderLayer(*sizes) for _ in range(num_hidden_layers)]
        )
        self.norm = RMSNorm(hidden_size)

    def forward(
        self,
        x: paddle.Tensor,
        position: paddle.Tensor,
        mask: paddle.Tensor,
        cache: Cache | None = None,
    ) -> tuple[paddle.Tensor, Cache]:
        """Return hidden states [S, T, D] and the cache of the next call.

        Args:
            x: Embeddings of the new columns, [S, T, D].
            position: Their places in their sequences, [S, T].
            mask: Whether a new column sees a column, [S, T, C] bool. Each must see one.
            cache: What the call for the columns before returned.
        """
        seen: Cache = []
        for number, layer in enumerate(self.layers):
            x, kept = layer(x, position, mask, cache[number] if cache else None)
            seen.append(kept)
        return self.norm(x), seen
