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


"""The image network SFIN: spatial-frequency interactive network for STEM images.

From the inside out, as in Fig. 5 of Li et al., "Noise Calibration and
Spatial-Frequency Interactive Network for STEM Image Enhancement", CVPR 2025,
arXiv:2504.02555. Parameters have the names of the authors' released code, so that
their weights load.

Shapes: ``B`` images, ``C`` channels of one half, ``H x W`` pixels, ``Wf = W // 2 + 1``
frequencies of a real row. Images are raw grey values 0 to 255; nothing is scaled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn

from ppmat.models.sfin.conv import merged_conv2d
from ppmat.models.sfin.conv import merging_pays

ImageLike = paddle.Tensor | np.ndarray
Halves = tuple[paddle.Tensor, paddle.Tensor]

_LOSSES = {"l1": nn.L1Loss, "mse": nn.MSELoss}


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = True
) -> nn.Conv2D:
    """Return a convolution that keeps H and W and starts as the authors' do.

    Weights and biases are uniform within ``1 / sqrt(fan_in)``.
    """
    bound = 1.0 / math.sqrt(in_channels * kernel_size**2)
    uniform = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        weight_attr=uniform,
        bias_attr=uniform if bias else False,
    )


def _batch_norm(channels: int) -> nn.BatchNorm2D:
    # Paddle's momentum is the share of the old statistics, the authors' of the new.
    return nn.BatchNorm2D(channels, momentum=0.9, epsilon=1e-5)


class FourierUnit(nn.Layer):
    """Mix channels at each spatial frequency.

    Real FFT, two ramps that tell the frequency, 1x1 convolution, BatchNorm, ReLU,
    inverse FFT. Both transforms are orthonormal: a lattice peak grows with the square
    root of the number of pixels and passes the range of float16, so all of the unit
    stays out of mixed precision.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_layer = _convolution(
            2 * in_channels + 2, 2 * out_channels, kernel_size=1, bias=False
        )
        self.bn = _batch_norm(2 * out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [B, out, H, W] of [B, in, H, W], real or half precision."""
        with paddle.amp.auto_cast(enable=False):
            if x.dtype != paddle.float64:
                x = x.astype("float32")
            height, width = x.shape[-2:]
            spectrum = paddle.fft.rfft2(x, norm="ortho")
            # Channels: real and imaginary part of the first, of the second, ...
            # (The gradients of real() and imag() cost three times as much.)
            parts = paddle.unbind(paddle.as_real(spectrum), axis=-1)
            parts = paddle.stack(parts, axis=2)
            wf = width // 2 + 1
            vertical = paddle.linspace(0, 1, height, dtype=x.dtype)
            horizontal = paddle.linspace(0, 1, wf, dtype=x.dtype)
            ramp_shape = [x.shape[0], 1, height, wf]
            features = paddle.concat(
                [
                    vertical.reshape([1, 1, -1, 1]).expand(ramp_shape),
                    horizontal.reshape([1, 1, 1, -1]).expand(ramp_shape),
                    parts.flatten(1, 2),
                ],
                axis=1,
            )
            weight = self.conv_layer.weight.astype(x.dtype)
            features = self.bn(nn.functional.conv2d(features, weight))
            features = nn.functional.relu(features)
            features = features.reshape([x.shape[0], -1, 2, height, wf])
            spectrum = paddle.complex(*paddle.unbind(features, axis=2))
            return paddle.fft.irfft2(spectrum, s=[height, width], norm="ortho")


class SpectralTransform(nn.Layer):
    """The frequency path of the frequency half (FCM in the paper).

    Args:
        in_channels: Channels of both halves together.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        half = in_channels // 2
        self.conv1 = _convolution(half, half)
        self.fu = FourierUnit(half, half)
        self.conv2 = _convolution(in_channels, half)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [B, C, H, W] of [B, C, H, W]."""
        return self.conv2(paddle.concat([x, self.fu(self.conv1(x))], axis=1))


class FFC(nn.Layer):
    """The four paths between the spatial ("local") and the frequency ("global") half.

    Args:
        in_channels: Channels of both halves together.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        half = in_channels // 2
        self.convl2l = _convolution(half, half)
        self.convl2g = _convolution(half, half)
        self.convg2l = _convolution(half, half)
        self.convg2g = SpectralTransform(in_channels)

    def forward(self, x: Halves) -> Halves:
        """Return both halves, [B, C, H, W] each, after the exchange."""
        x_l, x_g = x
        if merging_pays(x_l):
            return self._merged(x_l, x_g)
        out_l = self.convl2l(x_l) + self.convg2l(x_g)
        out_g = self.convl2g(x_l) + self.convg2g(x_g)
        return out_l, out_g

    def _merged(self, x_l: paddle.Tensor, x_g: paddle.Tensor) -> Halves:
        """Return the same from all convolutions of ``x_l`` and ``x_g`` in one."""
        spectral = self.convg2g
        of_x, of_unit = paddle.split(spectral.conv2.weight, 2, axis=1)
        out_l, out_g, first = merged_conv2d(
            [x_l, x_g],
            [
                [self.convl2l.weight, self.convg2l.weight],
                [self.convl2g.weight, of_x],
                [None, spectral.conv1.weight],
            ],
            [
                self.convl2l.bias + self.convg2l.bias,
                self.convl2g.bias + spectral.conv2.bias,
                spectral.conv1.bias,
            ],
        )
        unit = spectral.fu(first)
        return out_l, out_g + nn.functional.conv2d(unit, of_unit, padding=1)


class SFIB(nn.Layer):
    """Spatial-frequency interactive block: exchange, BatchNorm, ReLU.

    Args:
        in_channels: Channels of both halves together.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.ffc = FFC(in_channels)
        self.bn_l = _batch_norm(in_channels // 2)
        self.bn_g = _batch_norm(in_channels // 2)

    def forward(self, x: Halves) -> Halves:
        """Return both halves, [B, C, H, W] each, none negative."""
        out_l, out_g = self.ffc(x)
        relu = nn.functional.relu
        return relu(self.bn_l(out_l)), relu(self.bn_g(out_g))


class ResnetBlock(nn.Layer):
    """Two interactive blocks around which each half is added.

    Args:
        in_channels: Channels of both halves together.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = SFIB(in_channels)
        self.conv2 = SFIB(in_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [B, 2 C, H, W] of [B, 2 C, H, W], the spatial half first."""
        halves = tuple(paddle.split(x, 2, axis=1))
        return x + paddle.concat(self.conv2(self.conv1(halves)), axis=1)


class SFIN(nn.Layer):
    """SFIN for images: 3x3 head, residual blocks, long skip, 3x3 tail.

    With the defaults it has 960,193 parameters. Any height and width pass, but the
    frequency half sees a lattice peak that grows with the image: predict at the size
    of training.

    Args:
        in_channels: Channels of the image.
        base_channels: Channels of both halves together, an even number.
        num_blocks: Residual blocks of two interactive blocks each.
        input_name: Key of the noisy images [B, in_channels, H, W] in a batch.
        target_name: Key of the target in a batch, and of the prediction.
        loss_type: ``"l1"`` (the paper's) or ``"mse"``.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: An odd ``base_channels`` or an unknown ``loss_type``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        base_channels: int = 64,
        num_blocks: int = 8,
        input_name: str = "noisy",
        target_name: str = "gt_enhance",
        loss_type: str = "l1",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if base_channels < 2 or base_channels % 2:
            raise ValueError(
                f"base_channels={base_channels}: wanted an even number, which is "
                "split into the spatial and the frequency half"
            )
        if loss_type.lower() not in _LOSSES:
            raise ValueError(
                f"loss_type='{loss_type}': wanted one of {', '.join(_LOSSES)}"
            )
        self.in_channels = in_channels
        self.base_channels = base_channels
        self.num_blocks = num_blocks
        self.input_name = input_name
        self.target_name = target_name
        self.loss_type = loss_type.lower()
        self.loss_weight = loss_weight
        self.criterion = _LOSSES[self.loss_type]()
        self.head_conv = _convolution(in_channels, base_channels)
        self.body = nn.Sequential(
            *(ResnetBlock(base_channels) for _ in range(num_blocks))
        )
        self.tail_conv = _convolution(base_channels, in_channels)

    def enhance(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return the images [B, in_channels, H, W] after the network, not clipped."""
        x = self.head_conv(x)
        return self.tail_conv(self.body(x) + x)

    def images(self, x: ImageLike) -> paddle.Tensor:
        """Return [C, H, W] or [B, C, H, W] as a batch, float32 at least.

        Raises:
            ValueError: Another number of dimensions.
        """
        x = paddle.to_tensor(x)
        if x.ndim == 3:
            x = x.unsqueeze(0)
        if x.ndim != 4:
            raise ValueError(
                f"SFIN: images of shape {x.shape}, wanted [C, H, W] or [B, C, H, W]"
            )
        double = self.head_conv.weight.dtype == paddle.float64
        return x.astype("float64" if double else "float32")

    def forward(self, batch: dict[str, Any] | ImageLike) -> Any:
        """Return loss and prediction of a batch; of bare images, the images.

        Args:
            batch: Dict with ``input_name`` and ``target_name``, or images [C, H, W]
                or [B, C, H, W], in grey values 0 to 255.

        Returns:
            ``{"loss_dict": {"loss"}, "pred_dict": {target_name}}`` of a dict, else
            the enhanced images [B, C, H, W].
        """
        if not isinstance(batch, dict):
            return self.enhance(self.images(batch))
        enhanced = self.enhance(self.images(batch[self.input_name]))
        target = self.images(batch[self.target_name])
        loss = self.criterion(enhanced.astype(target.dtype), target) * self.loss_weight
        return {
            "loss_dict": {"loss": loss},
            "pred_dict": {self.target_name: enhanced},
        }

    def predict(
        self, samples: ImageLike | list[ImageLike]
    ) -> dict[str, paddle.Tensor] | list[dict[str, paddle.Tensor]]:
        """Return ``{target_name: [B, C, H, W]}`` of images, or a list of them.

        Args:
            samples: Images [C, H, W] or [B, C, H, W] in grey values 0 to 255, or a
                list of such, which may differ in size.
        """
        if isinstance(samples, list):
            return [self.predict(sample) for sample in samples]
        with paddle.no_grad():
            return {self.target_name: self.enhance(self.images(samples))}
