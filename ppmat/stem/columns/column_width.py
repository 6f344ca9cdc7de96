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

"""The typical width of the columns of an image, before any column is known."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter

from ppmat.stem.columns.peak_finding import blocks
from ppmat.stem.images.background import LENGTH
from ppmat.stem.images.background import slow_variation

WIDEST = 20.0  # pixels; largest sigma that is searched
_REACH = 170  # pixels; largest lag of the autocorrelation
_HALF_WIDTH = 1.4  # sigma; a lattice's autocorrelation is half as high at this radius
_NARROWEST = 0.6  # pixels; smallest sigma that is possible
# Windows of the slow variation, pixels, in the order of trial; and the widest spots for
# each, as a fraction. Narrow windows keep the shape of wider spots, but not the height.
_WINDOWS = {LENGTH: 0.25, 2 * LENGTH: 0.25, 4 * LENGTH: 0.25, 8 * LENGTH: 0.25}
_WINDOWS |= {LENGTH / 2: 0.75, LENGTH / 4: 0.75}
_REPEATS = 0.4  # of its height; a higher second peak is that of a lattice
_MORE = 0.1  # rise of the second peak that makes another window the better one
_SURE = 5.0  # standard deviations of noise
_SPACINGS = 0.25  # sigma of a lattice's columns, in the distance of the second peak
_MIN_DIRECTIONS = 6  # lags in the middle, for an ellipse
_MAX_NARROW = 0.6  # smallest ratio of the narrow direction to the mean


class NoColumnsError(Exception):
    """The image shows no columns that could be searched; the message says why."""


def column_width(image: np.ndarray, valid: np.ndarray) -> float:
    """Return a rough estimate of the typical sigma of the spots, pixels.

    The estimate comes from the autocorrelation of the image without its slow variation.
    The radius at which that is halfway between its value at 0 and its first minimum is
    1.4 sigma. An ellipse through the lags above the half gives the direction in which
    spots are narrow: pairs of columns that touch are long, but not wide.

    Lag 0 and the lags along the axes are left out: there noise is correlated with
    itself, by pixel or by scan line. The window of the slow variation must be wider
    than the columns and narrower than a support. Of several windows the one is taken
    under which the image repeats best, as lattices do.

    Args:
        image: [H, W], 0 at missing pixels.
        valid: False at missing pixels [H, W].

    Raises:
        NoColumnsError: The autocorrelation is not above that of noise, or there is
            nothing but variation that is too slow for columns.
    """
    best, width, seen = -np.inf, None, False
    for length, widest in _WINDOWS.items():
        found = _width_of(*_autocorrelation(image, valid, length))
        if found is None:
            continue
        seen = True
        # Narrow windows leave ripples of anything: they need a lattice.
        least = best + _MORE if length >= LENGTH else max(best + _MORE, _REPEATS / 2)
        if found[0] <= min(widest * length, WIDEST) and found[1] > least:
            width, best = found
            if best > _REPEATS:
                break
    if width is not None:
        return width
    if seen:
        raise NoColumnsError(
            "the image varies only over lengths that are too large for columns, whose "
            f"sigma is at most {WIDEST:g} pixels. If it shows columns, bin it first"
        )
    raise NoColumnsError("the image shows nothing above its noise")


def _width_of(
    correlation: np.ndarray, power: float, pixels: float
) -> tuple[float, float] | None:
    """Return sigma from an autocorrelation, and the height of its second peak over 1.

    It is None if the autocorrelation is not above noise.
    """
    reach = len(correlation) // 2
    lag = np.arange(-reach, reach + 1)
    dy, dx = np.meshgrid(lag, lag, indexing="ij")
    distance = np.hypot(dy, dx)
    use = (dy != 0) & (dx != 0) & (distance < reach)
    noise = power / np.sqrt(2 * max(pixels, 1.0))
    y, x, away, values = (a[use] for a in (dy, dx, distance, correlation))
    ring = np.rint(away).astype(int) - 1
    counts = np.bincount(ring)
    radius, profile = (np.bincount(ring, v) / counts for v in (away, values))
    if power <= 0:
        return None
    if profile[0] <= _SURE * noise:
        return _width_of_lattice(correlation, distance, use, noise)
    smooth = profile.copy()
    smooth[1:-1] = (profile[:-2] + 2 * profile[1:-1] + profile[2:]) / 4
    # A rise near the top is noise.
    rising = np.nonzero((np.diff(smooth) > 0) & (smooth[:-1] < smooth[0] / 2))[0]
    lowest = int(rising[0]) if len(rising) else len(smooth) - 1
    # The value at 0, from the parabola through the first two.
    squares = radius[:2] ** 2
    top = smooth[0] + (smooth[0] - smooth[1]) * squares[0] / (squares[1] - squares[0])
    half = (top + smooth[lowest]) / 2
    # Beyond the first minimum.
    second = values[away > radius[lowest]].max(initial=0.0) / top
    below = int(np.argmax(smooth <= half))
    if below == 0:
        return _NARROWEST, second
    step = (smooth[below - 1] - half) / (smooth[below - 1] - smooth[below])
    at = radius[below - 1] + step * (radius[below] - radius[below - 1])
    values = (values - smooth[lowest]) / (top - smooth[lowest])
    width = at / _HALF_WIDTH * _narrow_share(y, x, values, at)
    return max(float(width), _NARROWEST), second


def _width_of_lattice(
    correlation: np.ndarray, distance: np.ndarray, use: np.ndarray, noise: float
) -> tuple[float, float] | None:
    """Return the same for columns of about one pixel, from the second peak alone."""
    peak = (correlation == maximum_filter(correlation, 3)) & use & (distance > 1.5)
    # Of so many values noise reaches four standard deviations.
    peak &= correlation > 2 * _SURE * noise
    if not peak.any():
        return None
    return max(_SPACINGS * float(distance[peak].min()), _NARROWEST), 1.0


def _narrow_share(
    dy: np.ndarray, dx: np.ndarray, values: np.ndarray, radius: float
) -> float:
    """Return the half width of the narrow direction over the mean radius.

    ``values`` at the lags are 1 at lag 0 and 0 at the first minimum.
    """
    near = np.hypot(dy, dx) <= radius
    dy, dx, values = dy[near], dx[near], values[near]
    if len(values) < _MIN_DIRECTIONS:
        return 1.0
    # log(values) = a - (lag, Q lag), weighted by the values.
    weight = np.maximum(values, 0.1)
    design = np.stack([np.ones(len(dy)), dy**2, dx**2, 2 * dy * dx], axis=1)
    right = np.log(weight)
    _, yy, xx, yx = np.linalg.lstsq(design * weight[:, None], right * weight)[0]
    low, high = np.linalg.eigvalsh(-np.array([[yy, yx], [yx, xx]]))
    if high <= 0:
        return 1.0
    return float(np.clip(np.sqrt((low + high) / 2 / high), _MAX_NARROW, 1.0))


def _autocorrelation(
    image: np.ndarray, valid: np.ndarray, length: float
) -> tuple[np.ndarray, float, float]:
    """Return the mean product at each lag, that at lag 0, and the number of pixels."""
    reach = max(6, min(_REACH, min(image.shape) // 3))
    total, number, pixels = 0.0, 0.0, 0.0
    for part in blocks(image.shape):
        mask = valid[part].astype(np.float64)
        if not mask.any():
            continue
        pixels += mask.sum()
        flat = image[part] - slow_variation(image[part], ~valid[part], length)
        total = total + _products(flat * mask, reach)
        number = number + _products(mask, reach)
    correlation = total / np.maximum(number, 1.0)
    return correlation, float(correlation[reach, reach]), pixels


def _products(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the sums of products at lags up to ``reach`` [2 reach + 1] squared."""
    shape = [size + reach for size in values.shape]
    spectrum = np.fft.rfft2(values, shape)
    product = np.fft.irfft2(np.abs(spectrum) ** 2, shape)
    lag = np.arange(-reach, reach + 1)
    return product[np.ix_(lag, lag)]
