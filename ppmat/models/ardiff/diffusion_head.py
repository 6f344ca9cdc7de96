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


"""The diffusion head: an MLP that denoises triples, told what they are for.

It has the form of MAR's loss network (Li et al., arXiv 2406.11838): condition and time
shift, scale and gate each block (AdaLN-Zero, Peebles and Xie, arXiv 2212.09748).

Shapes: ``M`` triples, ``D`` channels of the condition, ``W`` width of the head.
"""

from __future__ import annotations

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

_WAVES = 128  # frequencies of the embedding of time, each a sine and a cosine
_SLOWEST = 10_000.0  # ratio of the fastest to the slowest


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer whose weights start at 0."""
    zero = nn.initializer.Constant(0.0)
    return nn.Linear(inputs, outputs, weight_attr=zero, bias_attr=zero)


def time_waves(timesteps: paddle.Tensor, dtype: paddle.dtype) -> paddle.Tensor:
    """Return cosines and sines of the timesteps [M], [M, 2 _WAVES]."""
    power = paddle.arange(_WAVES, dtype=dtype) / _WAVES
    phase = timesteps.astype(dtype).unsqueeze(-1) * paddle.exp(
        -math.log(_SLOWEST) * power
    )
    return paddle.concat([phase.cos(), phase.sin()], axis=-1)


class HeadBlock(nn.Layer):
    """A residual MLP on normalised channels, which start as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = zero_linear(width, 3 * width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: paddle.Tensor, told: paddle.Tensor) -> paddle.Tensor:
        """Return [M, W] of x [M, W] and the condition with time, [M, W]."""
        shift, scale, gate = self.modulation(F.silu(told)).chunk(3, axis=-1)
        changed = self.norm(x) * (1.0 + scale) + shift
        return x + gate * self.out(F.silu(self.hidden(changed)))


class DiffusionHead(nn.Layer):
    """Predicts what the scheduler asks for, of noisy triples.

    Args:
        condition: Channels of the condition, ``D``.
        width: ``W``.
        depth: Residual blocks.
    """

    def __init__(self, condition: int, width: int, depth: int) -> None:
        super().__init__()
        self.triple = nn.Linear(3, width)
        self.time = nn.Sequential(
            nn.Linear(2 * _WAVES, width), nn.Silu(), nn.Linear(width, width)
        )
        self.condition = nn.Linear(condition, width)
        self.blocks = nn.LayerList([HeadBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, weight_attr=False, bias_attr=False)
        self.modulation = zero_linear(width, 2 * width)
        self.out = zero_linear(width, 3)

    def forward(
        self, noisy: paddle.Tensor, timesteps: paddle.Tensor, condition: paddle.Tensor
    ) -> paddle.Tensor:
        """Return [M, 3] of noisy triples [M, 3], timesteps [M], conditions [M, D]."""
        told = self.time(time_waves(timesteps, noisy.dtype)) + self.condition(condition)
        x = self.triple(noisy)
        for block in self.blocks:
            x = block(x, told)
        shift, scale = self.modulation(F.silu(told)).chunk(2, axis=-1)
        return self.out(self.norm(x) * (1.0 + scale) + shift)
