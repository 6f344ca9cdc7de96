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

"""Rigid alignment of frames of one area, by cross-correlation.

A frame is shifted against a reference by ``s``, if what the reference shows at ``p`` is
at ``p + s`` in the frame. The cross-correlation of both has its peak at ``s``.

- :func:`find_shift` looks for a peak near an expected shift. A lattice correlates with
  itself at each of its vectors. So of the peaks that are as high as the highest, but
  for 5 % or six standard deviations of noise, the one nearest to the expected shift
  counts. A jump by more than half a lattice
  vector cannot be seen in a perfect lattice.
- :func:`refine_shift` finds the peak between the pixels by Newton steps on the Fourier
  series of the correlation. Waves longer than the columns have little weight, so that
  the broad peak of slow variation does not pull.
- :func:`shifted` moves an image by its Fourier series, which keeps white noise white.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import tukey

_BLUR = 1.0  # pixels; Gaussian low pass of both images, against pixel noise
_SLOW = 4.0  # pixels; standard deviation of the mean that refine_shift subtracts
_TAPER = 0.2  # share of each axis over which the window of refine_shift falls to 0
_ALIKE = 0.95  # of the highest peak; peaks above count as equal
_MIN_WINDOW = 0.3  # of the correlation of the windows; smaller ones are noise
_STEPS = 8  # of Newton's method, at most
_EXACT = 1e-4  # pixels; a smaller step is the last one
_PADDING = 16  # pixels of mirrored image around a shifted one
_SIGNIFICANT = 6.0  # least correlation of images of one area, in that of noise
_SAME_PIXEL = 0.5  # pixels; a larger shift moves the windows by whole pixels


class Shift(NamedTuple):
    """How far a frame is shifted against a reference."""

    shift: np.ndarray  # (y, x), pixels
    correlation: float  # correlation coefficient there, without slow variation
    noise: float  # standard deviation of that coefficient for noise alone

    @property
    def is_found(self) -> bool:
        """Whether the images have more in common than noise has."""
        return self.correlation > _SIGNIFICANT * self.noise


def find_shift(
    reference: np.ndarray, frame: np.ndarray, expected: np.ndarray, reach: float
) -> Shift:
    """Return the shift of a frame, at most ``reach`` pixels from the expected one.

    Args:
        reference: [H, W], finite.
        frame: [H, W], finite.
        expected: (y, x), pixels; at least 8 rows and columns are common to both.
        reach: Pixels; peaks beyond a third of the common area are not looked for.

    Example:
        >>> import numpy as np
        >>> image = np.random.default_rng(0).normal(size=(64, 60))
        >>> found = find_shift(image, np.roll(image, (3, -2), (0, 1)), np.zeros(2), 8)
        >>> bool(np.allclose(found.shift, [3, -2], atol=0.1))
        True
    """
    whole = np.rint(expected).astype(int)
    first, second = _common(reference, frame, whole)
    products, power, noise = _spectrum(first, second, fine=False)
    surface = fft.irfft2(products, first.shape)
    window = np.maximum(_window_correlation(first.shape), _MIN_WINDOW)
    surface /= window
    y, x = (fft.fftfreq(n, 1 / n) for n in first.shape)
    reach = min(reach, min(first.shape) / 3)
    off = whole - np.asarray(expected)
    distance = np.hypot(y[:, None] + off[0], x + off[1])
    surface[distance > max(reach, 1.0)] = -np.inf
    around = [np.roll(surface, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    peaks = surface >= np.max(around, axis=0)
    top = np.unravel_index(np.argmax(surface), surface.shape)
    spread = noise * power / surface.size / window[top]
    peaks &= surface >= min(
        _ALIKE * abs(surface[top]), surface[top] - _SIGNIFICANT * spread
    )
    places = np.argwhere(peaks if peaks.any() else surface == surface.max())
    best = places[np.argmin(distance[tuple(places.T)])]
    near = whole + [y[best[0]], x[best[1]]]
    return refine_shift(reference, frame, near)


def refine_shift(reference: np.ndarray, frame: np.ndarray, near: np.ndarray) -> Shift:
    """Return the shift of a frame from an estimate that is about 2 pixels near.

    For arguments see :func:`find_shift`.
    """
    near = np.asarray(near, dtype=float)
    for _ in range(3):
        whole = np.rint(near).astype(int)
        first, second = _common(reference, frame, whole)
        products, power, noise = _spectrum(first, second, fine=True)
        rest, height = _peak(products, first.shape, near - whole)
        near = whole + rest
        if np.abs(rest).max() <= _SAME_PIXEL:
            break
    return Shift(near, float(height / max(power, 1e-30)), noise)


def shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the image sampled at ``p + shift``, for a shift below one pixel [H, W].

    The image is mirrored at its borders, so a pixel at the border is not exact.

    Example:
        >>> import numpy as np
        >>> wave = np.cos(2 * np.pi * np.arange(64) / 8) * np.ones((16, 1))
        >>> moved = shifted(wave, np.array([0.0, 0.5]))
        >>> expected = np.cos(2 * np.pi * (np.arange(64) + 0.5) / 8)
        >>> bool(np.allclose(moved[8, 4:-4], expected[4:-4], atol=0.01))
        True
    """
    if not np.any(shift):
        return image
    size = [fft.next_fast_len(n + 2 * _PADDING, real=True) for n in image.shape]
    after = [s - n - _PADDING for s, n in zip(size, image.shape)]
    padded = np.pad(image, [(_PADDING, a) for a in after], mode="symmetric")
    y, x = _waves(size, padded.dtype)
    spectrum = fft.rfft2(padded)
    for wave, step, n, axis in zip((y, x), shift, size, (0, 1)):
        phase = np.exp(1j * step * wave)
        if n % 2 == 0:
            phase[n // 2] = phase[n // 2].real  # the wave of +pi and -pi
        spectrum *= np.expand_dims(phase, 1 - axis)
    moved = fft.irfft2(spectrum, size)
    return moved[_PADDING : _PADDING + image.shape[0], _PADDING:][:, : image.shape[1]]


def _common(
    reference: np.ndarray, frame: np.ndarray, whole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the parts of both images that show the same area at a whole shift."""
    cuts = [(max(0, -s), n - max(0, s)) for s, n in zip(whole, reference.shape)]
    first = tuple(slice(a, b) for a, b in cuts)
    second = tuple(slice(a + s, b + s) for (a, b), s in zip(cuts, whole))
    return reference[first], frame[second]


def _waves(shape: tuple, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return wave numbers of the rows and columns of ``rfft2``, 1 / pixel."""
    complex_type = np.result_type(dtype, np.complex64)
    real = np.empty(0, complex_type).real.dtype
    y = 2 * np.pi * fft.fftfreq(shape[0])
    x = 2 * np.pi * fft.rfftfreq(shape[1])
    return y.astype(real), x.astype(real)


def _hann(size: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(size) + 0.5) / size).astype(np.float32) ** 2


def _tapered(size: int) -> np.ndarray:
    return tukey(size + 2, _TAPER)[1:-1].astype(np.float32)


def _window_correlation(shape: tuple) -> np.ndarray:
    """Return the autocorrelation of the window, 1 at no shift [H, W]."""
    rows, columns = (
        fft.irfft(abs(fft.rfft(_hann(n))) ** 2, n) / np.sum(_hann(n) ** 2)
        for n in shape
    )
    return np.outer(rows, columns)


def _spectrum(
    first: np.ndarray, second: np.ndarray, fine: bool
) -> tuple[np.ndarray, float, float]:
    """Return the Fourier series of the cross-correlation of two windowed images.

    Returns:
        Products [H, W // 2 + 1]; the height of a perfect correlation; and the standard
        deviation of the correlation coefficient of white noise.
    """
    rows, columns = map(_tapered if fine else _hann, first.shape)
    window = rows[:, None] * columns
    if fine:  # before the window, which would give a ramp short waves
        first, second = (v - gaussian_filter(v, _SLOW) for v in (first, second))
    a, b = (fft.rfft2((v - np.mean(v)) * window) for v in (first, second))
    y, x = _waves(first.shape, first.dtype)
    square = y[:, None] ** 2 + x**2
    weight = np.exp(-square * _BLUR**2)
    weight[0, 0] = 0.0
    count = np.full(len(x), 2.0, x.dtype)  # each wave but the first has a conjugate
    count[0] = 1.0
    counted = weight * count
    powers = [np.sum(counted * abs(v) ** 2) for v in (a, b)]
    noise = np.sqrt(np.sum(weight * counted)) / max(np.sum(counted), 1e-30)
    # A window of less than full height leaves fewer independent waves.
    full = np.sum(window**4) * window.size / np.sum(window**2) ** 2
    products = np.conj(a) * b * weight
    power = float(np.sqrt(powers[0] * powers[1]))
    return products, power, float(noise * np.sqrt(full))


def _peak(
    products: np.ndarray, shape: tuple, start: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the place of the maximum of a Fourier series near a start, and its height.

    Newton's method; where the series is not curved like a peak, a step of the gradient.
    """
    y, x = _waves(shape, products.real.dtype)
    count = np.full(len(x), 2.0, x.dtype)
    count[0] = 1.0
    if shape[1] % 2 == 0:
        count[-1] = 1.0
    place = np.array(start, dtype=float)
    change = np.ones(2)
    for step in range(_STEPS + 1):
        right = count * np.exp(1j * x * place[1])
        along = products @ np.stack([right, 1j * x * right, -(x**2) * right], axis=1)
        left = np.exp(1j * y * place[0])
        rows = np.stack([left, 1j * y * left, -(y**2) * left])
        m = (rows @ along).real.astype(float)  # derivatives by y and x, 0 to 2
        if step == _STEPS or np.abs(change).max() < _EXACT:
            break
        slope = np.array([m[1, 0], m[0, 1]])
        bend = np.array([[m[2, 0], m[1, 1]], [m[1, 1], m[0, 2]]])
        if np.linalg.eigvalsh(bend)[-1] < 0:
            change = -np.linalg.solve(bend, slope)
        else:
            change = 0.25 * slope / max(np.linalg.norm(slope), 1e-30)
        change *= min(1.0, 0.5 / max(np.abs(change).max(), 1e-30))
        place += change
    return place, float(m[0, 0])
