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


"""SFIN rearranged for prediction on images of one size: same function, less work.

The file folds each block of Fig. 5 (see ``sfin.py``) into fewer weights, tabulates the
Fourier transform, and holds :class:`FoldedSFIN`. Formulas are in docs/stem/speed.md:

- BatchNorm with fixed statistics is an affine map. Its factor moves into the weights of
  the preceding convolutions, its shift into their biases.
- The two convolutions that give one half of a block become one on both halves.
- In the Fourier unit, real and imaginary parts become two groups of channels, by
  permuting weights instead of data. The ramps and the bias become three constant
  channels of the same matrix product.

Weights are folded in float64; the network runs in float32.

Shapes: ``B`` images, ``C`` channels of one half, ``H x W`` pixels,
``Wf = W // 2 + 1`` frequencies of a real row.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from ppmat.models.sfin.sfin import FFC
from ppmat.models.sfin.sfin import SFIB
from ppmat.models.sfin.sfin import SFIN
from ppmat.utils.errors import check_choice

Affine = tuple[np.ndarray, np.ndarray]


def _float64(tensor: paddle.Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float64)


def affine_of_batch_norm(norm: nn.BatchNorm2D) -> Affine:
    """Return ``scale`` and ``shift`` [C] of a BatchNorm with fixed statistics."""
    spread = np.sqrt(_float64(norm._variance) + norm._epsilon)
    scale = _float64(norm.weight) / spread
    return scale, _float64(norm.bias) - _float64(norm._mean) * scale


def fold_fourier_unit(conv: nn.Conv2D, norm: nn.BatchNorm2D) -> np.ndarray:
    """Return the 1x1 convolution and BatchNorm of Fig. 5c as one matrix.

    Args:
        conv: Its input channels are ``(vertical ramp, horizontal ramp, re 0, im 0,
            re 1, ...)``.
        norm: BatchNorm of its output ``(re 0, im 0, re 1, ...)``.

    Returns:
        [2, C, 2 C + 3], a matrix for the real and one for the imaginary parts. Its
        input channels are ``(re 0, re 1, ..., im 0, im 1, ..., vertical, horizontal,
        1)``.
    """
    scale, shift = affine_of_batch_norm(norm)
    matrix = _float64(conv.weight)[:, :, 0, 0] * scale[:, None]
    ramps, parts = matrix[:, :2], matrix[:, 2:]
    columns = [parts[:, 0::2], parts[:, 1::2], ramps, shift[:, None]]
    matrix = np.concatenate(columns, axis=1)  # [2 C, 2 C + 3]
    return np.stack([matrix[0::2], matrix[1::2]])


def fold_block(block: SFIB) -> dict[str, np.ndarray]:
    """Return the weights of one interactive block, Fig. 5b, in float64.

    Its halves are ``relu(local(x))`` and ``relu(mixed(x) + second(u))``. Here ``x`` is
    both halves, the spatial first, and ``u`` is the Fourier unit applied to ``first``
    of the frequency half.

    Returns:
        ``local``, ``mixed`` [C, 2 C, 3, 3], ``first``, ``second`` [C, C, 3, 3], their
        biases ``<name>_bias`` [C] (``second`` has none), and ``unit``, see
        :func:`fold_fourier_unit`.
    """
    ffc: FFC = block.ffc
    spectral = ffc.convg2g
    half = ffc.convl2l.weight.shape[0]
    scale_l, shift_l = affine_of_batch_norm(block.bn_l)
    scale_g, shift_g = affine_of_batch_norm(block.bn_g)
    conv2 = _float64(spectral.conv2.weight)
    to_local = [_float64(ffc.convl2l.weight), _float64(ffc.convg2l.weight)]
    to_global = [_float64(ffc.convl2g.weight), conv2[:, :half]]
    bias_l = _float64(ffc.convl2l.bias) + _float64(ffc.convg2l.bias)
    bias_g = _float64(ffc.convl2g.bias) + _float64(spectral.conv2.bias)
    return {
        "local": np.concatenate(to_local, axis=1) * scale_l[:, None, None, None],
        "local_bias": bias_l * scale_l + shift_l,
        "mixed": np.concatenate(to_global, axis=1) * scale_g[:, None, None, None],
        "mixed_bias": bias_g * scale_g + shift_g,
        "first": _float64(spectral.conv1.weight),
        "first_bias": _float64(spectral.conv1.bias),
        "second": conv2[:, half:] * scale_g[:, None, None, None],
        "unit": fold_fourier_unit(spectral.fu.conv_layer, spectral.fu.bn),
    }


def ramp_channels(height: int, width: int) -> np.ndarray:
    """Return the vertical ramp, the horizontal ramp and ones, [3, H * Wf]."""
    wf = width // 2 + 1
    shape = (height, wf)
    vertical = np.broadcast_to(np.linspace(0.0, 1.0, height)[:, None], shape)
    horizontal = np.broadcast_to(np.linspace(0.0, 1.0, wf), shape)
    return np.stack([vertical, horizontal, np.ones(shape)]).reshape(3, -1)


def dft_tables(height: int, width: int) -> dict[str, np.ndarray]:
    """Return the orthonormal real Fourier transform as matrices, in float64.

    Returns:
        ``rows`` [W, 2 Wf]: image rows to their (real | imaginary) spectrum.
        ``columns`` [2 H, H]: cosines above sines, for the columns, both ways.
        ``rows_back`` [2 Wf, W]: (real | imaginary) to image rows. A frequency whose
        conjugate is not stored counts twice.
    """
    wf = width // 2 + 1
    # Integer phases are reduced modulo the period before they become angles, [W, Wf].
    phase = np.outer(np.arange(width), np.arange(wf)) % width * (2 * np.pi / width)
    rows = np.concatenate([np.cos(phase), -np.sin(phase)], axis=1)
    twice = np.full(wf, 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    back = [np.cos(phase).T * twice[:, None], -np.sin(phase).T * twice[:, None]]
    phase = np.outer(np.arange(height), np.arange(height)) % height
    phase = phase * (2 * np.pi / height)
    columns = np.concatenate([np.cos(phase), np.sin(phase)])
    return {
        "rows": rows / np.sqrt(width),
        "columns": columns / np.sqrt(height),
        "rows_back": np.concatenate(back) / np.sqrt(width),
    }


class FoldedSFIN(nn.Layer):
    """The function of an :class:`SFIN` in evaluation mode, for one image size.

    The weights are copies; later changes of ``model`` have no effect. Programs make it
    from a trained network; YAML files do not name it.

    Args:
        model: The network, in either mode; its fixed statistics are used.
        height: H, pixels.
        width: W, pixels.
        fourier: ``"fft"``, or ``"matmul"`` for transforms as products with cosine and
            sine tables, which all blocks share. Only for formats without FFT (ONNX):
            it is slower, ``paddle.inference`` computes it wrongly (docs/stem/speed.md),
            and the tables grow as the square of the size.

    Raises:
        InputError: Another ``fourier``.

    Example:
        >>> model = SFIN(base_channels=8, num_blocks=1)
        >>> folded = FoldedSFIN(model, 32, 48)
        >>> folded(paddle.zeros([1, 1, 32, 48])).numpy().shape
        (1, 1, 32, 48)
    """

    def __init__(
        self,
        model: SFIN,
        height: int,
        width: int,
        fourier: Literal["fft", "matmul"] = "fft",
    ) -> None:
        super().__init__()
        check_choice("fourier", fourier, ("fft", "matmul"))
        self.height = height
        self.width = width
        self.fourier = fourier
        self.in_channels = model.in_channels
        self.half = model.base_channels // 2
        blocks = [b for pair in model.body for b in (pair.conv1, pair.conv2)]
        self.num_blocks = len(blocks)
        for name in ("head_conv", "tail_conv"):
            conv = getattr(model, name)
            self._keep(name, _float64(conv.weight))
            self._keep(f"{name}_bias", _float64(conv.bias))
        for i, block in enumerate(blocks):
            weights = fold_block(block)
            weights["unit"] = weights["unit"][None]
            for name, value in weights.items():
                self._keep(f"{name}_{i}", value)
        self._keep("ramps", ramp_channels(height, width)[None])
        if fourier == "matmul":
            for name, value in dft_tables(height, width).items():
                self._keep(name, value)
        self.eval()

    def _keep(self, name: str, value: np.ndarray) -> None:
        self.register_buffer(name, paddle.to_tensor(value.astype(np.float32)))

    def _conv(self, x: paddle.Tensor, name: str, bias: str = "") -> paddle.Tensor:
        bias = getattr(self, bias) if bias else None
        return F.conv2d(x, getattr(self, name), bias, padding=1)

    def _mix(self, parts: list, i: int) -> paddle.Tensor:
        """Return ReLU of the folded 1x1 convolution of block ``i``, [B, 2, C, H * Wf].

        ``parts`` are the real and the imaginary part, [B, C, H * Wf] each.
        """
        ramps = self.ramps
        if parts[0].shape[0] != 1:
            ramps = ramps.expand([parts[0].shape[0], -1, -1])
        # [B, 1, 2 C + 3, H * Wf]
        features = paddle.concat([*parts, ramps], axis=1).unsqueeze(1)
        return F.relu(paddle.matmul(getattr(self, f"unit_{i}"), features))

    def _unit_fft(self, x: paddle.Tensor, i: int) -> paddle.Tensor:
        """Return the Fourier unit, [B, C, H, W] of [B, C, H, W]."""
        batch, size = x.shape[0], [self.height, self.width]
        spectrum = paddle.fft.rfft2(x, norm="ortho").reshape([batch, self.half, -1])
        parts = [paddle.real(spectrum), paddle.imag(spectrum)]
        # Pairs (real, imaginary) in the last axis are a complex number in memory.
        pairs = self._mix(parts, i).transpose([0, 2, 3, 1])  # [B, C, H * Wf, 2]
        if paddle.in_dynamic_mode():  # where transpose only changes the strides
            pairs = pairs.contiguous()
        spectrum = paddle.as_complex(pairs).reshape([batch, self.half, size[0], -1])
        return paddle.fft.irfft2(spectrum, s=size, norm="ortho")

    def _columns(self, x: paddle.Tensor, sign: float) -> list:
        """Multiply the columns of (real | imaginary) ``x`` by ``exp(-i sign k y)``.

        Returns real and imaginary part, [B, C, H, Wf] each, of ``x`` [B, C, H, 2 Wf].
        ``sign`` is 1 for the transform, -1 for its inverse.
        """
        wf = self.width // 2 + 1
        both = paddle.matmul(self.columns, x)  # [B, C, 2 H, 2 Wf]
        cosine, sine = both[:, :, : self.height], both[:, :, self.height :]
        re = cosine[..., :wf] + sign * sine[..., wf:]
        im = cosine[..., wf:] - sign * sine[..., :wf]
        return [re, im]

    def _unit_matmul(self, x: paddle.Tensor, i: int) -> paddle.Tensor:
        """Return the same as :meth:`_unit_fft`, by the tables."""
        parts = self._columns(paddle.matmul(x, self.rows), 1.0)
        mixed = self._mix([part.flatten(2) for part in parts], i)
        mixed = mixed.reshape([x.shape[0], 2, self.half, self.height, -1])
        pair = paddle.concat([mixed[:, 0], mixed[:, 1]], axis=-1)  # [B, C, H, 2 Wf]
        pair = paddle.concat(self._columns(pair, -1.0), axis=-1)
        return paddle.matmul(pair, self.rows_back)

    def _block(self, x_l: paddle.Tensor, x_g: paddle.Tensor, i: int) -> tuple:
        """Return both halves after block ``i``, [B, C, H, W] each."""
        unit = self._unit_fft if self.fourier == "fft" else self._unit_matmul
        u = unit(self._conv(x_g, f"first_{i}", f"first_bias_{i}"), i)
        x = paddle.concat([x_l, x_g], axis=1)  # [B, 2 C, H, W]
        y_l = F.relu(self._conv(x, f"local_{i}", f"local_bias_{i}"))
        mixed = self._conv(x, f"mixed_{i}", f"mixed_bias_{i}")
        return y_l, F.relu(self._conv(u, f"second_{i}") + mixed)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return the enhanced images [B, in_channels, height, width].

        Args:
            x: float32 of the same shape, grey values 0 to 255.
        """
        x = self._conv(x, "head_conv", "head_conv_bias")  # [B, 2 C, H, W]
        x_l, x_g = first_l, first_g = paddle.split(x, 2, axis=1)
        for i in range(0, self.num_blocks, 2):
            y_l, y_g = self._block(*self._block(x_l, x_g, i), i + 1)
            x_l, x_g = x_l + y_l, x_g + y_g
        x = paddle.concat([x_l + first_l, x_g + first_g], axis=1)
        return self._conv(x, "tail_conv", "tail_conv_bias")
