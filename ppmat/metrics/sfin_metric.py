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


"""PSNR and SSIM of enhanced images, by one of two protocols.

The two give very different numbers for the same images. So always name the protocol
beside a number.

- ``author``: protocol of the paper's tables. A prediction is clipped to 0..255 and
  truncated (not rounded) to whole grey levels, as if saved in 8 bits and read back.
  True images are not changed. PSNR and SSIM of each image are averaged over images.
- ``pooled``: protocol of PaddleMaterials 0.3.0. Predictions are not changed. One PSNR
  is computed from the squared errors of all pixels; SSIM is averaged over images. A
  pooled PSNR is never above the mean of the images' PSNRs, because dB levels are convex
  in the error.

SSIM follows Wang et al. (2004) as the authors' tool computes it: Gaussian window, only
at positions where it fits into the image. All arithmetic is in float64 on the host, and
no gradient flows through it. The authors' tool computes in float32. Its rounding errors
are visible on flat, bright images: 3e-4 of SSIM on a constant image of 200 (results
above 1 occur), about 1e-5 on images of a lattice.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import paddle

from ppmat.metrics.streaming_base import StreamingMetricBase
from ppmat.utils import logger
from ppmat.utils.misc import sum_over_ranks
from ppmat.utils.ranges import Range

ImageLike = paddle.Tensor | np.ndarray

PROTOCOLS = {
    "pooled": "predictions as they are, one PSNR of all pixels, mean SSIM of images",
    "author": "predictions clipped and truncated to 8 bits, means over images",
}
_BLOCK = 64  # pixels filtered by one matrix product; the matrices fit into the cache


@dataclass(frozen=True)
class SSIMWindow:
    """Window and constants of SSIM."""

    win_size: int = 11  # side of the Gaussian window, pixels, odd
    win_sigma: float = 1.5  # its standard deviation, pixels
    k1: float = 0.01  # stabilises the ratio of means
    k2: float = 0.03  # stabilises the ratio of variances
    nonnegative_ssim: bool = False  # count a negative similarity of a position as 0


def _check_protocol(protocol: str, data_range: float) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"protocol='{protocol}': wanted one of {', '.join(map(repr, PROTOCOLS))}"
        )
    if protocol == "author" and data_range != 255:
        raise ValueError(
            f"data_range={data_range} with protocol='author': that protocol is for "
            "8-bit images and needs 255; scale the images or use 'pooled'"
        )


def _array(images: ImageLike) -> np.ndarray:
    if isinstance(images, paddle.Tensor):
        images = images.detach().astype("float64").numpy()
    return np.asarray(images, dtype=np.float64)


def _pair(
    pred: ImageLike, label: ImageLike, protocol: str, data_range: float
) -> list[np.ndarray]:
    """Return both as float64 [N, C, H, W]; ``author`` truncates the prediction."""
    _check_protocol(protocol, data_range)
    pred, label = _array(pred), _array(label)
    if pred.shape != label.shape or pred.ndim != 4 or 0 in pred.shape:
        raise ValueError(
            f"predicted images {list(pred.shape)} and true images "
            f"{list(label.shape)}: wanted the same shape [N, C, H, W] of both"
        )
    if protocol == "author":
        # NaN stays NaN, so that the score shows it.
        pred = np.trunc(np.clip(pred, 0.0, 255.0))
    return [pred, label]


def _squared_errors(pred: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each image, [N]."""
    difference = (pred - label).reshape(len(pred), -1)
    return np.einsum("np,np->n", difference, difference) / difference.shape[1]


def _decibel(mse: np.ndarray, data_range: float, eps: float) -> np.ndarray:
    return -10.0 * np.log10(np.maximum(mse / data_range**2, eps))


def _band(size: int, sigma: float) -> np.ndarray:
    """Return the matrix of a one-dimensional Gaussian mean.

    Each column holds the normalised Gaussian, one row lower than the column before.
    ``x @ band[: len(x), : len(x) - size + 1]`` is the Gaussian mean of each ``size``
    neighbours in ``x``; on a CPU several times faster than a convolution.
    """
    steps = np.arange(size) - size // 2
    kernel = np.exp(-(steps**2) / (2.0 * sigma**2))
    columns = np.arange(max(_BLOCK, 2 * size) - size + 1)
    band = np.zeros((len(columns) + size - 1, len(columns)))
    for offset, weight in enumerate(kernel / kernel.sum()):
        band[columns + offset, columns] = weight
    return band


def _similarity(
    pred: np.ndarray, label: np.ndarray, band: np.ndarray, c1: float, c2: float
) -> Iterator[np.ndarray]:
    """Yield the similarity at each position of two images [H, W], strip by strip."""
    block, columns = band.shape
    border = block - columns
    height, width = pred.shape[0] - border, pred.shape[1] - border
    for top in range(0, height, columns):
        high = min(columns, height - top)
        x, y = pred[top : top + high + border], label[top : top + high + border]
        maps = np.stack([x, y, x * x + y * y, x * y])
        maps = band[: high + border, :high].T @ maps
        filtered = np.empty((4, high, width))
        for left in range(0, width, columns):
            wide = min(columns, width - left)
            np.matmul(
                maps[..., left : left + wide + border],
                band[: wide + border, :wide],
                out=filtered[..., left : left + wide],
            )
        mean_x, mean_y, squares, product = filtered
        means, mean_squares = mean_x * mean_y, mean_x**2 + mean_y**2
        similarity = (2.0 * means + c1) * (2.0 * (product - means) + c2)
        similarity /= (mean_squares + c1) * (squares - mean_squares + c2)
        yield similarity


def _similarities(
    pred: np.ndarray, label: np.ndarray, data_range: float, window: SSIMWindow
) -> np.ndarray:
    """Return the SSIM of each image, [N], averaged over positions and channels."""
    win_size = window.win_size
    if win_size % 2 != 1 or win_size < 1:
        raise ValueError(f"win_size={win_size}: wanted an odd number of pixels")
    count, channels, height, width = pred.shape
    if min(height, width) < win_size:
        raise ValueError(
            f"images of {height} x {width} pixels are smaller than the SSIM window of "
            f"{win_size} x {win_size}; use larger images, or a smaller win_size, whose "
            "scores cannot be compared with others"
        )
    band = _band(win_size, window.win_sigma)
    constants = (window.k1 * data_range) ** 2, (window.k2 * data_range) ** 2
    positions = (height - win_size + 1) * (width - win_size + 1)
    scores = np.zeros((count, channels))
    for index in np.ndindex(count, channels):
        # An infinite pixel makes the score NaN; a warning would add nothing.
        with np.errstate(invalid="ignore"):
            for strip in _similarity(pred[index], label[index], band, *constants):
                if window.nonnegative_ssim:
                    strip = np.maximum(strip, 0.0)
                scores[index] += strip.sum() / positions
    return scores.mean(axis=1)


def calc_psnr(
    pred: ImageLike,
    label: ImageLike,
    data_range: float = 255.0,
    eps: float = 1e-12,
    protocol: str = "pooled",
) -> paddle.Tensor:
    """Return the peak signal-to-noise ratio of a batch, dB.

    Args:
        pred: Predicted images, [N, C, H, W].
        label: True images, likewise.
        data_range: Peak value.
        eps: Floor of the mean squared error relative to the squared peak. Equal images
            have ``-10 log10(eps)`` = 120 dB, where the authors' function fails. Unequal
            8-bit images of up to 15 megapixels are below that.
        protocol: ``"pooled"`` or ``"author"``, see above.

    Returns:
        A float64 scalar; NaN if an image holds NaN.

    Raises:
        ValueError: Shapes differ, are not [N, C, H, W] or empty; unknown protocol.

    Example:
        >>> label = np.full((1, 1, 8, 8), 100.0)
        >>> round(float(calc_psnr(label + 25.5, label)), 3)
        20.0
    """
    errors = _squared_errors(*_pair(pred, label, protocol, data_range))
    if protocol == "pooled":
        errors = errors.mean(keepdims=True)
    value = _decibel(errors, data_range, eps).mean()
    return paddle.to_tensor(value, dtype="float64")


def calc_ssim(
    pred: ImageLike,
    label: ImageLike,
    data_range: float = 255.0,
    win_size: int = 11,
    win_sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    nonnegative_ssim: bool = False,
    protocol: str = "pooled",
) -> paddle.Tensor:
    """Return the structural similarity of a batch, averaged over images.

    Args:
        pred: Predicted images, [N, C, H, W].
        label: True images, likewise.
        data_range: Range of the values.
        win_size, win_sigma, k1, k2, nonnegative_ssim: See :class:`SSIMWindow`.
        protocol: ``"pooled"`` or ``"author"``; here they differ only in the truncation.

    Returns:
        A float64 scalar; NaN if an image holds NaN.

    Raises:
        ValueError: As :func:`calc_psnr`; or an image is smaller than the window. (The
            authors' tool skips the smoothing along such an axis and returns another
            quantity under the same name.)
    """
    window = SSIMWindow(win_size, win_sigma, k1, k2, nonnegative_ssim)
    pred, label = _pair(pred, label, protocol, data_range)
    scores = _similarities(pred, label, data_range, window)
    return paddle.to_tensor(scores.mean(), dtype="float64")


class SFINStreamingAdapter(StreamingMetricBase):
    """PSNR [dB] and SSIM of the batches of a trainer, by one protocol.

    Only sums are kept. Batches of any size and several processes give the scores of
    all images together. The log of every epoch names the protocol.

    Args:
        target_name: Key of the true images in the batch.
        pred_name: Key of the prediction in ``pred_dict``; ``target_name`` if None.
        psnr_name: Name of the PSNR in the result; ``Trainer.name_for_best_metric``.
        ssim_name: Name of the SSIM in the result.
        data_range, eps: See :func:`calc_psnr`.
        win_size, win_sigma, k1, k2, nonnegative_ssim: See :class:`SSIMWindow`.
        stages: Stages that are scored; training and evaluation if None.
        protocol: ``"pooled"`` or ``"author"``. For both, use two adapters with names
            such as ``psnr_author``.

    Raises:
        ValueError: An unknown protocol, a ``data_range`` that it does not allow, or a
            name that ends with another protocol.
    """

    def __init__(
        self,
        target_name: str,
        pred_name: str | None = None,
        psnr_name: str = "psnr",
        ssim_name: str = "ssim",
        data_range: Annotated[float, Range(above=0, most=10**9)] = 255.0,
        eps: Annotated[float, Range(0, 1)] = 1e-12,
        win_size: Annotated[int, Range(3, 1001)] = 11,
        win_sigma: Annotated[float, Range(above=0, most=1000)] = 1.5,
        k1: Annotated[float, Range(0, 1)] = 0.01,
        k2: Annotated[float, Range(0, 1)] = 0.03,
        nonnegative_ssim: bool = False,
        stages: Sequence[str] | None = None,
        protocol: str = "pooled",
    ) -> None:
        _check_protocol(protocol, data_range)
        for name in (psnr_name, ssim_name):
            for other in set(PROTOCOLS) - {protocol}:
                if name.endswith(other):
                    raise ValueError(
                        f"'{name}' would name a number of protocol='{protocol}'; "
                        f"choose a name that does not end with '{other}'"
                    )
        self.target_name = target_name
        self.pred_name = pred_name or target_name
        self.psnr_name = psnr_name
        self.ssim_name = ssim_name
        self.data_range = data_range
        self.eps = eps
        self.window = SSIMWindow(win_size, win_sigma, k1, k2, nonnegative_ssim)
        self.stages = set(stages or ("train", "eval"))
        self.protocol = protocol
        self.reset()

    def reset(self) -> None:
        """Clear the sums."""
        # Squared errors, pixels, PSNRs [dB] (``author`` only), SSIMs, images
        self._sums = np.zeros(5)

    def update_step(self, *, result: dict, batch: dict, stage: str) -> None:
        """Add a batch of predicted and true images [N, C, H, W].

        Raises:
            KeyError: The prediction or the true images are not there.
            ValueError: As :func:`calc_ssim`.
        """
        if stage not in self.stages:
            return
        predictions = result.get("pred_dict", {})
        for key, place, values in (
            (self.pred_name, "the model's pred_dict", predictions),
            (self.target_name, "the batch", batch),
        ):
            if key not in values:
                raise KeyError(f"{place} has no '{key}'; it has {', '.join(values)}")
        images = predictions[self.pred_name], batch[self.target_name]
        pred, label = _pair(*images, self.protocol, self.data_range)
        similarity = _similarities(pred, label, self.data_range, self.window).sum()
        errors, pixels = _squared_errors(pred, label), pred[0].size
        levels = 0.0
        if self.protocol == "author":
            levels = _decibel(errors, self.data_range, self.eps).sum()
        error = errors.sum() * pixels
        self._sums += [error, pixels * len(pred), levels, similarity, len(pred)]

    def compute_epoch(self, *, stage: str) -> dict[str, float]:
        """Return both scores over all processes; empty if there were no images."""
        if stage not in self.stages:
            return {}
        # A rank without images takes part, or the others would wait for ever.
        total = sum_over_ranks(self._sums).numpy()
        squared_errors, pixels, levels, similarities, images = total
        if images == 0:
            return {}
        if self.protocol == "author":
            psnr = levels / images
        else:
            psnr = _decibel(squared_errors / pixels, self.data_range, self.eps)
        logger.info(
            f"{stage}: {self.psnr_name} and {self.ssim_name} of {int(images)} images "
            f"'{self.target_name}' by protocol '{self.protocol}' "
            f"({PROTOCOLS[self.protocol]})"
        )
        ssim = similarities / images
        return {self.psnr_name: float(psnr), self.ssim_name: float(ssim)}
