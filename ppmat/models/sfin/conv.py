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

"""Several 3x3 convolutions of the same images as one, for training on a CPU.

Paddle's CPU convolution first copies the neighbourhood of each pixel into a matrix,
once forward and twice backward. With few channels, adding a bias costs about as much
as the convolution itself. One convolution for all outputs copies once and multiplies a
larger matrix, which is faster. docs/stem/training.md derives this and has the times.

Shapes: ``B`` images, ``I`` input and ``O`` output channels, ``H x W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F


def merging_pays(x: paddle.Tensor) -> bool:
    """Return whether Paddle's own CPU kernel convolves ``x`` eagerly.

    On other devices cuDNN merges, and in exported programs Paddle's graph passes do.
    """
    return (
        paddle.in_dynamic_mode()
        and x.place.is_cpu_place()
        and x.dtype in (paddle.float32, paddle.float64)
    )


def merged_conv2d(
    inputs: Sequence[paddle.Tensor],
    weights: Sequence[Sequence[paddle.Tensor | None]],
    biases: Sequence[paddle.Tensor],
) -> list[paddle.Tensor]:
    """Return ``y[o] = biases[o] + sum over i of conv2d(inputs[i], weights[o][i])``.

    Zeros around the images keep H and W. A bias becomes the weight of a channel of
    ones at the centre of its kernel, because the centre never lies in the padding.

    Args:
        inputs: Images [B, I_i, H, W].
        weights: A row for each output: its kernels [O, I_i, 3, 3], one for each
            input, or None where no path exists. All rows have the same ``O``.
        biases: [O] for each output.

    Returns:
        An image [B, O, H, W] for each row.
    """
    first = inputs[0]
    rows = []
    for kernels, bias in zip(weights, biases):
        row = [
            paddle.zeros([bias.shape[0], x.shape[1], 3, 3], dtype=x.dtype)
            if kernel is None
            else kernel
            for x, kernel in zip(inputs, kernels)
        ]
        row.append(F.pad(bias.reshape([-1, 1, 1, 1]), [1, 1, 1, 1]))  # [O, 1, 3, 3]
        rows.append(paddle.concat(row, axis=1))  # [O, sum(I) + 1, 3, 3]
    batch, _, height, width = first.shape
    ones = paddle.ones([batch, 1, height, width], dtype=first.dtype)
    x = paddle.concat([*inputs, ones], axis=1)  # [B, sum(I) + 1, H, W]
    y = F.conv2d(x, paddle.concat(rows), padding=1)  # [B, rows * O, H, W]
    return paddle.split(y, len(rows), axis=1)
