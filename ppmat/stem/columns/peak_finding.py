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

"""Peaks of an image under a filter for columns, and the level of white noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_laplace
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

_BLOCK = 512  # pixels
_MAX_BLOCKS = 16
_WHITE = 0.25  # ratio of powers; 1 for white noise, 0.04 after a Gaussian of 0.7 px
_NEAR_PEAKS = 24  # peaks around each one, of which the strong ones set the contrast
_FLOOR = 0.1  # of the strong peaks of the image; weaker surroundings count as this


def noise_level(image: np.ndarray, valid: np.ndarray) -> float:
    """Return the standard deviation of white noise in an image [H, W].

    It is that of the waves with more than a quarter of a period for each pixel along
    both axes. Their median power is not raised by a lattice, whose waves are few. It is
    ``log(2)`` times the mean power of noise. ``valid`` is False at missing pixels.
    """
    return float(np.sqrt(_median_power(image, valid, 0.25, 0.5)))


def is_filtered(image: np.ndarray, valid: np.ndarray) -> bool:
    """Return whether the noise of an image [H, W] was smoothed.

    A filter does that, and so does resampling. White noise has the
    same power in all waves. Here the fastest have less than a quarter of that of waves
    of three to five pixels.
    """
    fast = _median_power(image, valid, 0.4, 0.5)
    return fast < _WHITE * _median_power(image, valid, 0.2, 0.3)


def _median_power(
    image: np.ndarray, valid: np.ndarray, low: float, high: float
) -> float:
    """Return the variance of noise from waves between two frequencies along each axis.

    Frequencies are in periods for each pixel. The mean over blocks is taken.
    """
    powers = []
    for part in blocks(image.shape):
        # The window ends smoothly at the border, so that slow waves do not leak.
        window = np.multiply.outer(
            *(np.hanning(n + 2)[1:-1] for n in image[part].shape)
        )
        window *= valid[part]
        number = float(np.sum(window**2))
        frequencies = (abs(np.fft.fftfreq(n)) for n in image[part].shape)
        used = np.ix_(*((f > low) & (f <= high) for f in frequencies))
        if number:
            mean = np.sum(image[part] * window) / np.sum(window)
            values = (image[part] - mean) * window
            power = np.abs(np.fft.fft2(values)[used]) ** 2
            powers.append(float(np.median(power)) / (np.log(2) * number))
    return float(np.mean(powers))


def blocks(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield parts of an image, at most 16 of 512 pixels a side, for mean properties."""
    sides = [min(_BLOCK, size) for size in shape]
    starts = [
        np.unique(np.linspace(0, size - side, -(-size // side)).astype(int))
        for size, side in zip(shape, sides)
    ]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
    step = -(-len(corners) // _MAX_BLOCKS)
    for top, left in corners[::step]:
        yield np.s_[top : top + sides[0], left : left + sides[1]]


def find_peaks(
    image: np.ndarray,
    valid: np.ndarray,
    *,
    width: float,
    apart: float,
    min_height: float = 0.0,
    min_contrast: float = 0.0,
    min_snr: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the peaks of an image under the filter of :func:`filter_spots`.

    Args:
        image: [H, W], 0 at missing pixels.
        valid: False at missing pixels [H, W].
        width: Width of the filter, pixels.
        apart: Smallest distance of two peaks, pixels.
        min_height: Smallest height under the filter.
        min_contrast: The same, as a fraction of strong peaks (95th percentile) nearby:
            columns are weak where the specimen is thin.
        min_snr: The same, in standard deviations of the filtered image, estimated from
            the median deviation.

    Returns:
        Positions ``(y, x)``, pixels [n, 2], and heights under the filter [n]. Positions
        are the vertices of parabolas through three pixels along each axis.
    """
    response = filter_spots(image, width)
    y, x = _maxima(response, valid, apart)
    if min_contrast and len(y):
        strong = _strong_nearby(np.stack([y, x], axis=1), response[y, x])
        strong = np.maximum(strong, 0.0)
        y, x = (v[response[y, x] > min_contrast * strong] for v in (y, x))
    if min_snr:
        values = response[valid]
        spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
        min_height = max(min_height, min_snr * spread)
    keep = response[y, x] > min_height
    y, x = y[keep], x[keep]
    pixels, last = np.stack([y, x]), np.array(response.shape)[:, None] - 1
    height, offset = response[y, x], np.zeros((len(y), 2))
    for axis in (0, 1):
        step = np.eye(2, dtype=int)[:, [axis]]
        low = response[tuple(np.maximum(pixels - step, 0))]
        high = response[tuple(np.minimum(pixels + step, last))]
        bend = 2 * height - low - high
        curved = (pixels[axis] > 0) & (pixels[axis] < last[axis]) & (bend > 0)
        shift = 0.5 * (high - low) / np.where(bend > 0, bend, 1.0)
        offset[curved, axis] = np.clip(shift[curved], -0.5, 0.5)
    return pixels.T + offset, height


def _strong_nearby(position: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Return the height of strong peaks around each peak [n]."""
    count = min(_NEAR_PEAKS, len(height))
    _, near = cKDTree(position).query(position, k=count)
    around = np.percentile(height[near.reshape(-1, count)], 95, axis=1)
    return np.maximum(around, _FLOOR * np.percentile(height, 95))


def filter_spots(image: np.ndarray, width: float) -> np.ndarray:
    """Return an image under the Laplacian of a Gaussian, a filter for spots [H, W].

    A Gaussian column with the width of the filter keeps half its height.
    """
    return -(width**2) * gaussian_laplace(image, width, mode="nearest")


def _maxima(
    response: np.ndarray, valid: np.ndarray, apart: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x [n] of the valid pixels that are the largest within a distance.

    Direct neighbours count even if the distance is below one pixel. Of equal pixels
    the first counts: without noise, a column may have four equal pixels on its top.
    """
    reach = max(int(apart), 1)
    steps = np.arange(-reach, reach + 1)
    dy, dx = np.meshgrid(steps, steps, indexing="ij")
    distance = np.hypot(dy, dx)
    # Few pixels are above their four neighbours; only these are compared further.
    cross = generate_binary_structure(2, 1)
    y, x = np.nonzero(valid & (response >= maximum_filter(response, footprint=cross)))
    last = np.array(response.shape) - 1
    within = (distance > 0) & (distance <= (apart if apart >= 1 else 1.5))
    near = np.argsort(distance[within], kind="stable")
    for down, right in zip(dy[within][near], dx[within][near]):
        there = np.clip(y + down, 0, last[0]), np.clip(x + right, 0, last[1])
        keep = response[y, x] > response[there]
        first = (there[0] > y) | ((there[0] == y) & (there[1] >= x))
        keep |= first & (response[y, x] == response[there])
        y, x = y[keep], x[keep]
    return y, x
