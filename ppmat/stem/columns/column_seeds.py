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


"""Where columns may be: their width, and the peaks of an image under a filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_laplace

_BLOCK = 512  # side of the parts whose autocorrelation is averaged
_MOST_BLOCKS = 16
_HALF_WIDTH = 1.4  # radius at which a lattice's autocorrelation is halved, in sigma
_WIDTHS = (0.8, 20.0)  # smallest and largest sigma that is looked for, pixels
_SEED_CONTRAST = 0.03  # of the strongest seeds
_SEED_NOISE = 2.5  # standard deviations, in the raw image
_RESIDUAL_NOISE = 3.5  # standard deviations, where columns were taken away


@dataclass
class Plane:
    """An image whose columns are bright, with median 0 and a spread near 1.

    Attributes:
        values: 0 where pixels are missing [H, W].
        valid: Where they are not [H, W].
        offset: In units of the image.
        scale: Units of the image in one of ``values``.
    """

    values: np.ndarray
    valid: np.ndarray
    offset: float
    scale: float


def column_width(image: np.ndarray, valid: np.ndarray) -> float | None:
    """Return a rough estimate of the typical sigma of the bright spots, pixels.

    It comes from the radius at which the autocorrelation has fallen halfway to its
    first minimum. Lag 0 and lags along the axes are left out, because noise is
    correlated there, by pixels or along the scan line. A ramp or a wedge of the
    image makes it too wide.

    Calibration knows the fast axis and uses
    :func:`ppmat.stem.noise.clean_image.column_width_across_lines`. That estimate does
    not serve here: with few electrons, fewer columns are found
    (docs/results/column_width.yaml).

    Args:
        image: [H, W], 0 where pixels are missing.
        valid: Mask of the other pixels [H, W].

    Returns:
        None if there are no spots above the noise.
    """
    radius, profile, sure = _radial_autocorrelation(image, valid)
    if not sure:
        return None
    smooth = profile.copy()
    smooth[1:-1] = (profile[:-2] + 2 * profile[1:-1] + profile[2:]) / 4
    rising = np.nonzero(np.diff(smooth) > 0)[0]
    lowest = int(rising[0]) if len(rising) else len(smooth) - 1
    # The value at 0, from the parabola through the first two.
    squares = radius[:2] ** 2
    top = smooth[0] + (smooth[0] - smooth[1]) * squares[0] / (squares[1] - squares[0])
    half = (top + smooth[lowest]) / 2
    below = int(np.argmax(smooth <= half))
    if below == 0:
        return _WIDTHS[0]
    step = (smooth[below - 1] - half) / (smooth[below - 1] - smooth[below])
    at = radius[below - 1] + step * (radius[below] - radius[below - 1])
    return float(np.clip(at / _HALF_WIDTH, *_WIDTHS))


def _radial_autocorrelation(
    image: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return radii, mean autocorrelation there, and whether it stands out of noise."""
    sides = [min(_BLOCK, size) for size in image.shape]
    starts = [
        np.unique(np.linspace(0, size - side, -(-size // side)).astype(int))
        for size, side in zip(image.shape, sides)
    ]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
    step = -(-len(corners) // _MOST_BLOCKS)
    reach = max(6, min(sides) // 3)
    total, number, pixels = 0.0, 0.0, 0.0
    for top, left in corners[::step]:
        part = np.s_[top : top + sides[0], left : left + sides[1]]
        mask = valid[part].astype(np.float64)
        pixels += mask.sum()
        values = (image[part] - image[part].sum() / max(mask.sum(), 1.0)) * mask
        total = total + _autocorrelation(values, reach)
        number = number + _autocorrelation(mask, reach)
    correlation = total / np.maximum(number, 1.0)
    lag = np.arange(-reach, reach + 1)
    distance = np.hypot(lag[:, None], lag)
    use = (lag[:, None] != 0) & (lag != 0) & (distance < reach)
    distance, values = distance[use], correlation[use]
    ring = np.rint(distance).astype(int) - 1
    counts = np.bincount(ring)
    radius, profile = (np.bincount(ring, v) / counts for v in (distance, values))
    power = correlation[reach, reach]
    sure = power > 0 and profile[0] > 5 * power / np.sqrt(2 * max(pixels, 1.0))
    return radius, profile, bool(sure)


def _autocorrelation(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the sums of products at lags up to ``reach`` [2 reach + 1] squared."""
    shape = [size + reach for size in values.shape]
    spectrum = np.fft.rfft2(values, shape)
    product = np.fft.irfft2(np.abs(spectrum) ** 2, shape)
    lag = np.arange(-reach, reach + 1)
    return product[np.ix_(lag, lag)]


def noise_level(plane: Plane) -> float:
    """Return the standard deviation of white noise, from differences that cancel
    everything smooth (Immerkaer 1996)."""
    image = plane.values
    second = image[:-2] - 2 * image[1:-1] + image[2:]
    mixed = second[:, :-2] - 2 * second[:, 1:-1] + second[:, 2:]
    valid = plane.valid
    valid = valid[:-2] & valid[1:-1] & valid[2:]
    valid = valid[:, :-2] & valid[:, 1:-1] & valid[:, 2:]
    return float(np.sqrt(np.mean(mixed[valid] ** 2)) / 6) if valid.any() else 0.0


def peaks(
    plane: Plane, width: float, apart: float, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the peaks ``(y, x)`` [n, 2] of an image under a filter for spots, and
    their heights under the filter [n].

    Args:
        plane: The image.
        width: Of the filter (Laplacian of a Gaussian), pixels.
        apart: Smallest distance of two peaks, pixels.
        noise: Standard deviation of white noise in the image.
    """
    # The filter turns white noise into this: its kernel's norm is 1 / sqrt(2 pi) / s.
    floor = _SEED_NOISE * noise / (np.sqrt(2 * np.pi) * width)
    response = spots(plane.values, width)
    y, x = _maxima(response, plane.valid, apart)
    strength = response[y, x]
    if len(y):
        floor = max(floor, _SEED_CONTRAST * float(np.percentile(strength, 95)))
    keep = strength > floor
    y, x, strength = y[keep], x[keep], strength[keep]
    return np.stack([y, x], axis=1) + _vertex(response, y, x), strength


def residual_seeds(
    plane: Plane, width: float, apart: float, least: float
) -> np.ndarray:
    """Return the peaks ``(y, x)`` [n, 2] of an image that is mostly noise.

    Args:
        plane: The image.
        width: Of the filter, pixels.
        apart: Smallest distance of two peaks, pixels.
        least: Height under the filter that is asked for at least.
    """
    response = spots(plane.values, width)
    values = response[plane.valid]
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    y, x = _maxima(response, plane.valid, apart)
    keep = response[y, x] > max(least, _RESIDUAL_NOISE * spread)
    y, x = y[keep], x[keep]
    return np.stack([y, x], axis=1) + _vertex(response, y, x)


def spots(image: np.ndarray, width: float) -> np.ndarray:
    """Return an image under a filter for spots of some width [H, W].

    A Gaussian column of that width has half its height.
    """
    return -(width**2) * gaussian_laplace(image, width, mode="nearest")


def _maxima(
    response: np.ndarray, valid: np.ndarray, apart: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels that are largest within a distance."""
    # Pixels side by side at least, even where columns are narrow.
    reach = max(int(apart), 1)
    steps = np.arange(-reach, reach + 1)
    dy, dx = np.meshgrid(steps, steps, indexing="ij")
    distance = np.hypot(dy, dx)
    # Few pixels are largest among their four neighbours; only these are looked at.
    largest = valid.copy()
    largest[1:] &= response[1:] >= response[:-1]
    largest[:-1] &= response[:-1] >= response[1:]
    largest[:, 1:] &= response[:, 1:] >= response[:, :-1]
    largest[:, :-1] &= response[:, :-1] >= response[:, 1:]
    y, x = np.nonzero(largest)
    last = np.array(response.shape) - 1
    within = (distance > 1) & (distance <= (apart if apart >= 1 else 1.5))
    near = np.argsort(distance[within], kind="stable")
    for down, right in zip(dy[within][near], dx[within][near]):
        there = np.clip(y + down, 0, last[0]), np.clip(x + right, 0, last[1])
        keep = response[y, x] >= response[there]
        y, x = y[keep], x[keep]
    return y, x


def _vertex(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the offset of the peak of a parabola along each axis [n, 2]."""
    offsets = []
    for axis, place in enumerate((y, x)):
        size = image.shape[axis]
        inside = (place > 0) & (place < size - 1)
        step = np.array([1, 0]) if axis == 0 else np.array([0, 1])
        low = image[np.maximum(y - step[0], 0), np.maximum(x - step[1], 0)]
        high = image[
            np.minimum(y + step[0], image.shape[0] - 1),
            np.minimum(x + step[1], image.shape[1] - 1),
        ]
        bend = 2 * image[y, x] - low - high
        offset = 0.5 * (high - low) / np.where(bend > 0, bend, 1.0)
        offsets.append(np.where(inside & (bend > 0), np.clip(offset, -0.5, 0.5), 0.0))
    return np.stack(offsets, axis=1)
