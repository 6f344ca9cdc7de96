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

"""Search for columns: their typical width, and the peaks of an image under a filter."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_laplace
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import maximum_filter

_BLOCK = 512  # pixels; side of the parts whose autocorrelations are averaged
_MAX_BLOCKS = 16
_HALF_WIDTH = 1.4  # sigma; a lattice's autocorrelation is half as high at this radius
_WIDTHS = (0.8, 20.0)  # pixels; smallest and largest sigma that is possible


def column_width(image: np.ndarray, valid: np.ndarray) -> float | None:
    """Return a rough estimate of the typical sigma of the bright spots, pixels.

    The estimate is the radius at which the autocorrelation is halfway between its
    value at 0 and its first minimum, divided by 1.4. Lag 0 and the lags along the axes
    are left out: there noise is correlated with itself, by pixel or by scan line. A
    ramp or a wedge of the image makes the estimate too large.

    It is None if the autocorrelation of columns is not above that of noise. The image
    [H, W] is 0 at missing pixels, where ``valid`` is False.

    Calibration knows the fast axis and uses
    :func:`ppmat.stem.noise.clean_image.column_width_across_lines`. Each estimate fails
    where the other works (docs/results/column_width.yaml).
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
    """Return radii, mean autocorrelation at each, and whether it is above noise."""
    sides = [min(_BLOCK, size) for size in image.shape]
    starts = [
        np.unique(np.linspace(0, size - side, -(-size // side)).astype(int))
        for size, side in zip(image.shape, sides)
    ]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
    step = -(-len(corners) // _MAX_BLOCKS)
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


def noise_level(image: np.ndarray, valid: np.ndarray) -> float:
    """Return the standard deviation of white noise in an image [H, W].

    Differences cancel everything smooth (Immerkaer, Comput. Vis. Image Underst. 64,
    300, 1996). ``valid`` is False at missing pixels [H, W].
    """
    second = image[:-2] - 2 * image[1:-1] + image[2:]
    mixed = second[:, :-2] - 2 * second[:, 1:-1] + second[:, 2:]
    valid = valid[:-2] & valid[1:-1] & valid[2:]
    valid = valid[:, :-2] & valid[:, 1:-1] & valid[:, 2:]
    return float(np.sqrt(np.mean(mixed[valid] ** 2)) / 6) if valid.any() else 0.0


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
        min_contrast: The same, as a fraction of strong peaks (95th percentile).
        min_snr: The same, in standard deviations of the filtered image, estimated from
            the median deviation.

    Returns:
        Positions ``(y, x)``, pixels [n, 2], and heights under the filter [n]. Positions
        are the vertices of parabolas through three pixels along each axis.
    """
    response = filter_spots(image, width)
    y, x = _maxima(response, valid, apart)
    if min_contrast and len(y):
        strong = float(np.percentile(response[y, x], 95))
        min_height = max(min_height, min_contrast * strong)
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


def filter_spots(image: np.ndarray, width: float) -> np.ndarray:
    """Return an image under the Laplacian of a Gaussian, a filter for spots [H, W].

    A Gaussian column with the width of the filter keeps half its height.
    """
    return -(width**2) * gaussian_laplace(image, width, mode="nearest")


def _maxima(
    response: np.ndarray, valid: np.ndarray, apart: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x [n] of the valid pixels that are the largest within a distance.

    Direct neighbours count even if the distance is below one pixel.
    """
    reach = max(int(apart), 1)
    steps = np.arange(-reach, reach + 1)
    dy, dx = np.meshgrid(steps, steps, indexing="ij")
    distance = np.hypot(dy, dx)
    # Few pixels are above their four neighbours; only these are compared further.
    cross = generate_binary_structure(2, 1)
    y, x = np.nonzero(valid & (response >= maximum_filter(response, footprint=cross)))
    last = np.array(response.shape) - 1
    within = (distance > 1) & (distance <= (apart if apart >= 1 else 1.5))
    near = np.argsort(distance[within], kind="stable")
    for down, right in zip(dy[within][near], dx[within][near]):
        there = np.clip(y + down, 0, last[0]), np.clip(x + right, 0, last[1])
        keep = response[y, x] >= response[there]
        y, x = y[keep], x[keep]
    return y, x
