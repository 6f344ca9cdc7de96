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

"""SFIN, the spatial-frequency interactive network that enhances STEM images.

Source: Li et al., "Noise Calibration and Spatial-Frequency Interactive Network for
STEM Image Enhancement", CVPR 2025, arXiv:2504.02555. Figure 5 of the paper shows:

- 5a, the network: :class:`SFIN`, with :class:`ResnetBlock` around each pair of blocks;
- 5b, the spatial-frequency interactive block: :class:`SFIB`, whose four paths and two
  sums are :class:`FFC`;
- 5c, the frequency convolution module (FCM): :class:`SpectralTransform`, whose five
  boxes are :class:`FourierUnit`.

The classes follow from the innermost outwards. All but the first and the last take
``in_channels``, the channels of both halves together, ``2 C``. Parameters have the
names of the authors' code, so their weights load.

Shapes: ``B`` images, ``C`` channels of one half (spatial or frequency), ``H x W``
pixels, ``Wf = W // 2 + 1`` frequencies of a real row. Images are raw grey values, 0 to
255; the network does not scale them.
"""

from __future__ import annotations

import math
from typing import Annotated
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn

from ppmat.models.sfin.conv import merged_conv2d
from ppmat.models.sfin.conv import merging_pays
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.ranges import Range

ImageLike = paddle.Tensor | np.ndarray
Halves = tuple[paddle.Tensor, paddle.Tensor]  # spatial, frequency; [B, C, H, W] each

_LOSSES = {"l1": nn.L1Loss, "mse": nn.MSELoss}


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = True
) -> nn.Conv2D:
    """Return a convolution that keeps H and W.

    Its weights and biases start uniform within ``1 / sqrt(fan_in)``, as the authors'.
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
    # Paddle's momentum weighs the old statistics, that of PyTorch (0.1) the new ones.
    return nn.BatchNorm2D(channels, momentum=0.9, epsilon=1e-5)


class FourierUnit(nn.Layer):
    """Mix the channels at each spatial frequency: the boxes of Fig. 5c.

    FFT, 1x1 convolution, BatchNorm, ReLU, inverse FFT. As in the authors' code, two
    ramps from 0 to 1 give each frequency its position. Both transforms are orthonormal.
    A lattice peak grows with the square root of the number of pixels and exceeds the
    range of float16; the whole unit therefore ignores mixed precision.

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
            spectrum = paddle.fft.rfft2(x, norm="ortho")  # [B, in, H, Wf], complex
            # Channels: real and imaginary part of the first, of the second, ...
            # (The gradients of real() and imag() cost three times as much.)
            parts = paddle.unbind(paddle.as_real(spectrum), axis=-1)
            parts = paddle.stack(parts, axis=2)  # [B, in, 2, H, Wf]
            wf = width // 2 + 1
            vertical = paddle.linspace(0, 1, height, dtype=x.dtype)  # [H]
            horizontal = paddle.linspace(0, 1, wf, dtype=x.dtype)  # [Wf]
            ramp_shape = [x.shape[0], 1, height, wf]
            features = paddle.concat(
                [
                    vertical.reshape([1, 1, -1, 1]).expand(ramp_shape),
                    horizontal.reshape([1, 1, 1, -1]).expand(ramp_shape),
                    parts.flatten(1, 2),
                ],
                axis=1,
            )  # [B, 2 + 2 in, H, Wf]
            weight = self.conv_layer.weight.astype(x.dtype)
            features = self.bn(nn.functional.conv2d(features, weight))
            features = nn.functional.relu(features)  # [B, 2 out, H, Wf]
            features = features.reshape([x.shape[0], -1, 2, height, wf])
            spectrum = paddle.complex(*paddle.unbind(features, axis=2))
            return paddle.fft.irfft2(spectrum, s=[height, width], norm="ortho")


class SpectralTransform(nn.Layer):
    """The frequency convolution module (FCM), Fig. 5c.

    As in the authors' code, a 3x3 convolution precedes the boxes of the figure. A
    second one follows and sees the input of the module too.
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
    """The four paths of Fig. 5b and their sums, up to BatchNorm.

    The authors' names: ``l`` (local) is the spatial half, ``g`` (global) the frequency
    half. The paths l2g and g2l are the figure's domain interaction.
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
        out_l = self.convl2l(x_l) + self.convg2l(x_g)  # [B, C, H, W]
        out_g = self.convl2g(x_l) + self.convg2g(x_g)  # [B, C, H, W]
        return out_l, out_g

    def _merged(self, x_l: paddle.Tensor, x_g: paddle.Tensor) -> Halves:
        """Return the same, with all convolutions of ``x_l`` and ``x_g`` in one."""
        spectral = self.convg2g
        of_x, of_unit = paddle.split(spectral.conv2.weight, 2, axis=1)  # [C, C, 3, 3]
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
        )  # [B, C, H, W] each
        unit = spectral.fu(first)  # [B, C, H, W]
        return out_l, out_g + nn.functional.conv2d(unit, of_unit, padding=1)


class SFIB(nn.Layer):
    """Spatial-frequency interactive block, Fig. 5b: exchange, BatchNorm, ReLU."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.ffc = FFC(in_channels)
        self.bn_l = _batch_norm(in_channels // 2)
        self.bn_g = _batch_norm(in_channels // 2)

    def forward(self, x: Halves) -> Halves:
        """Return both halves, [B, C, H, W] each, without negative values."""
        out_l, out_g = self.ffc(x)
        relu = nn.functional.relu
        return relu(self.bn_l(out_l)), relu(self.bn_g(out_g))


class ResnetBlock(nn.Layer):
    """Two interactive blocks with the skip connection of Fig. 5a around them."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = SFIB(in_channels)
        self.conv2 = SFIB(in_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [B, 2 C, H, W] of [B, 2 C, H, W], the spatial half first."""
        halves = tuple(paddle.split(x, 2, axis=1))  # [B, C, H, W] each
        return x + paddle.concat(self.conv2(self.conv1(halves)), axis=1)


class SFIN(nn.Layer):
    """The image network, Fig. 5a: 3x3 head, residual blocks, long skip, 3x3 tail.

    The long skip adds the head's output to that of the last block; it is in the
    authors' code, not in the figure. With the defaults the network has 960,193
    parameters. It accepts any height and width. Predict at the image size of training,
    because the frequency half receives lattice peaks that grow with the image.

    In YAML::

        Model:
          __class_name__: SFIN
          __init_params__:
            base_channels: 64
            num_blocks: 8
            target_name: gt_enhance
            loss_type: l1

    Args:
        in_channels: Channels of the image.
        base_channels: Channels of both halves together, ``2 C``, an even number.
        num_blocks: Residual blocks of two interactive blocks each.
        input_name: Key of the noisy images [B, in_channels, H, W] in a batch.
        target_name: Key of the target in a batch, and of the prediction.
        loss_type: ``"l1"`` (the paper's) or ``"mse"``.
        loss_weight: Factor of the loss.

    Raises:
        InputError: An odd ``base_channels`` or an unknown ``loss_type``.
    """

    def __init__(
        self,
        in_channels: Annotated[int, Range(1, 1024)] = 1,
        base_channels: Annotated[int, Range(2, 4096)] = 64,
        num_blocks: Annotated[int, Range(1, 256)] = 8,
        input_name: str = "noisy",
        target_name: str = "gt_enhance",
        loss_type: str = "l1",
        loss_weight: Annotated[float, Range(above=0, most=10**6)] = 1.0,
    ) -> None:
        super().__init__()
        if base_channels < 2 or base_channels % 2:
            raise InputError(
                f"base_channels is {base_channels}",
                wanted="an even number, for a spatial and a frequency half",
            )
        check_choice("loss_type", loss_type.lower(), _LOSSES)
        self.in_channels = in_channels
        self.base_channels = base_channels
        self.num_blocks = num_blocks
        self.input_name = input_name
        self.target_name = target_name
        self.loss_weight = loss_weight
        self.criterion = _LOSSES[loss_type.lower()]()
        self.head_conv = _convolution(in_channels, base_channels)
        self.body = nn.Sequential(
            *(ResnetBlock(base_channels) for _ in range(num_blocks))
        )
        self.tail_conv = _convolution(base_channels, in_channels)

    def enhance(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return the enhanced images [B, in_channels, H, W], not clipped."""
        x = self.head_conv(x)  # [B, 2 C, H, W]
        return self.tail_conv(self.body(x) + x)

    def images(self, x: ImageLike) -> paddle.Tensor:
        """Return images [in_channels, H, W] or [B, in_channels, H, W] as a batch.

        Integers and half precision become float32.

        Raises:
            InputError: Another number of dimensions.
        """
        x = paddle.to_tensor(x)
        if x.ndim == 3:
            x = x.unsqueeze(0)
        if x.ndim != 4:
            raise InputError(
                f"SFIN: images of shape {x.shape}", wanted="[C, H, W] or [B, C, H, W]"
            )
        double = self.head_conv.weight.dtype == paddle.float64
        return x.astype("float64" if double else "float32")

    def forward(self, batch: dict[str, Any] | ImageLike) -> Any:
        """Return loss and prediction of a batch, or the enhanced images of images.

        Args:
            batch: Dict with ``input_name`` and ``target_name``, or the images alone:
                [in_channels, H, W] or [B, in_channels, H, W], grey values 0 to 255.

        Returns:
            For a dict ``{"loss_dict": {"loss": []}, "pred_dict": {target_name: [B,
            in_channels, H, W]}}``, otherwise [B, in_channels, H, W].
        """
        if not isinstance(batch, dict):
            return self.enhance(self.images(batch))
        enhanced = self.enhance(self.images(batch[self.input_name]))
        target = self.images(batch[self.target_name])  # [B, in_channels, H, W]
        loss = self.criterion(enhanced.astype(target.dtype), target) * self.loss_weight
        return {
            "loss_dict": {"loss": loss},
            "pred_dict": {self.target_name: enhanced},
        }

    def predict(
        self, samples: ImageLike | list[ImageLike]
    ) -> dict[str, paddle.Tensor] | list[dict[str, paddle.Tensor]]:
        """Return ``{target_name: [B, in_channels, H, W]}`` of images.

        Args:
            samples: Images [in_channels, H, W] or [B, in_channels, H, W] in grey
                values 0 to 255. A list of such, which may differ in size, gives a
                list of results.

        Example:
            >>> import numpy as np
            >>> model = SFIN(base_channels=8, num_blocks=1)
            >>> _ = model.eval()
            >>> model.predict(np.zeros([1, 32, 48]))["gt_enhance"].numpy().shape
            (1, 1, 32, 48)
        """
        if isinstance(samples, list):
            return [self.predict(sample) for sample in samples]
        with paddle.no_grad():
            return {self.target_name: self.enhance(self.images(samples))}
