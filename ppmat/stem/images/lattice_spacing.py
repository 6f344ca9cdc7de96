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

"""The spacing of a lattice, from the power spectrum of an image.

A lattice gives sharp peaks in the spectrum; noise, thickness and disordered columns do
not. A peak must stand out from its ring (noise) and from its neighbours along its own
direction (edges of crystals and line jitter give streaks). The two shortest peaks give
the reciprocal cell, and its inverse the shortest lattice vector.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_BLOCK = 1024  # pixels; spectra of larger images are averaged over blocks of this side
_MOST_BLOCKS = 3  # along one axis, which bounds the work
# Periods that must fit into a block. The window spreads a peak over two bins, and
# slower waves are thickness.
_LEAST_PERIODS = 3.0
# Power of a peak in units of the mean of its ring. In white noise the power is
# exponentially distributed: one of 10^6 values reaches 14, one of 500 million 20.
_MIN_RING_RATIO = 20.0
# Power of a peak in units of the geometric mean of its neighbours along its own
# direction. Along a streak of noise the largest of some hundred values reaches 27.
_MIN_STREAK_RATIO = 30.0
_STREAK = (2.5, 3.0, 3.5)  # bins from the peak to these neighbours
# Share of the strongest peak's power. Weaker ones belong to other things than the
# columns: an amplitude of a seventh.
_MIN_SHARE = 0.02
_SECOND = (2.3, 40.0)  # the second peak: at most this length of the first; degrees


def lattice_spacing(
    image: np.ndarray, missing: np.ndarray | None = None
) -> float | None:
    """Return the length of the shortest lattice vector, pixels, or None.

    None means that the image shows no lattice: noise, disordered columns, or fewer
    than three periods. Lattice fringes in one direction give their distance. Of a
    lattice whose cell holds nearly equal columns, this is the distance of these.

    Args:
        image: Finite numbers [H, W].
        missing: bool [H, W], pixels that hold no information; None for none.

    Example:
        >>> import numpy as np
        >>> y, x = np.mgrid[:90, :120] * 2 * np.pi
        >>> round(lattice_spacing(np.cos(y / 7.5) + np.cos(x / 7.5)), 1)
        7.5
    """
    power, first = mean_power(image, missing)
    peaks = _find_peaks(power, first)
    if not len(peaks):
        return None
    length = np.hypot(*peaks.T)
    shortest = peaks[0]
    second = _SECOND[0] * length[0]
    cosine = np.abs(peaks @ shortest) / (length * length[0])
    apart = (length <= second) & (cosine <= np.cos(np.deg2rad(_SECOND[1])))
    if not apart.any():
        return float(1.0 / length[0])
    cell = np.linalg.inv(np.array([shortest, peaks[np.argmax(apart)]])).T
    return _shortest_vector(*cell)


def mean_power(
    image: np.ndarray, missing: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Return the mean power of blocks [n, n], zero in the middle, and the least radius.

    The radius is in bins; a bin is ``1 / n`` periods per pixel.
    """
    sides = [min(size, _BLOCK) for size in image.shape]
    size = max(sides)
    starts = []
    for whole, side in zip(image.shape, sides):
        number = min(-(-whole // side), _MOST_BLOCKS)
        starts.append(np.linspace(0, whole - side, number).round().astype(int))
    window = np.hanning(sides[0] + 2)[1:-1, None] * np.hanning(sides[1] + 2)[1:-1]
    total = np.zeros((size, size // 2 + 1))
    for top in starts[0]:
        for left in starts[1]:
            place = np.s_[top : top + sides[0], left : left + sides[1]]
            block = np.asarray(image[place], dtype=np.float64)
            known = None if missing is None else ~missing[place]
            spectrum = np.fft.rfft2(_flat(block, known) * window, (size, size))
            total += np.abs(spectrum) ** 2
    half = np.fft.fftshift(total, axes=0)
    # The other half of the plane follows from the symmetry of real images.
    power = np.empty((size, size))
    middle = size // 2
    power[:, middle:] = half[:, : size - middle]
    rows = (2 * middle - np.arange(size)) % size
    columns = np.arange(middle, 0, -1)
    power[:, :middle] = half[rows][:, columns]
    return power, _LEAST_PERIODS * size / min(sides)


def _flat(block: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """Return a block minus its plane, 0 where nothing is known."""
    y, x = (np.linspace(-1, 1, size) for size in block.shape)
    weight = np.ones(block.shape) if known is None else known.astype(np.float64)
    number = max(weight.sum(), 1.0)
    centred = np.where(weight > 0, block, 0.0)
    centred = (centred - centred.sum() / number) * weight
    slope = (centred * y[:, None]).sum() / max((weight * y[:, None] ** 2).sum(), 1e-9)
    centred -= slope * y[:, None] * weight
    slope = (centred * x).sum() / max((weight * x**2).sum(), 1e-9)
    return centred - slope * x * weight


def _find_peaks(power: np.ndarray, first: float) -> np.ndarray:
    """Return the peaks (y, x), periods per pixel [n, 2], the shortest first.

    One peak stands for the pair of a peak and its opposite.
    """
    size = len(power)
    middle = size // 2
    y, x = (np.arange(size) - middle for _ in range(2))
    radius = np.hypot(y[:, None], x)
    ring = np.rint(radius).astype(int)
    noise = _noise_of_rings(power, ring)
    smallest = np.finfo(np.float64).eps ** 2 * power.max()  # images without noise
    relative = power / np.maximum(noise, smallest)[ring]
    top = power == ndimage.maximum_filter(power, size=5, mode="wrap")
    half = (y[:, None] > 0) | ((y[:, None] == 0) & (x > 0))
    inside = (radius >= first) & (radius < middle - 1)
    # Smoothed noise has next to no power at short waves, where anything stands out.
    inside &= power > noise[ring].mean()
    rows, columns = np.nonzero(top & half & inside & (relative > _MIN_RING_RATIO))
    if not len(rows):
        return np.zeros((0, 2))
    place = np.stack([rows, columns], axis=1) - middle
    keep = power[rows, columns] > _MIN_STREAK_RATIO * _along(power, place)
    place = place[keep]
    if not len(place):
        return np.zeros((0, 2))
    strength = power[tuple(place.T + middle)]
    place = place[strength >= _MIN_SHARE * strength.max()]
    place = np.array([_centre(power, spot) for spot in place + middle]) - middle
    return place[np.argsort(np.hypot(*place.T))] / size


def _noise_of_rings(power: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Return the mean power of noise on each ring, from its lower quarter.

    Peaks and their rims can be more than half of a small ring. A quarter of the values
    of an exponential distribution is below ``-log(3/4)`` of its mean.
    """
    half = np.s_[: len(power) // 2 + 1]
    rings, values = ring[half].ravel(), power[half].ravel()
    order = np.lexsort((values, rings))
    counts = np.bincount(rings)
    quarter = np.cumsum(counts) - counts + counts // 4
    return values[order][np.minimum(quarter, len(values) - 1)] / -np.log(0.75)


def _along(power: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return the power expected at each place [n] from its direction.

    This is the geometric mean of the power nearer to and farther from the middle.
    """
    middle = len(power) // 2
    radius = np.hypot(*place.T)
    logarithms = []
    for step in (*_STREAK, *(-step for step in _STREAK)):
        to = np.maximum(radius + step, 1.0)
        spots = place.T * (to / radius) + middle
        beside = ndimage.map_coordinates(power, spots, order=1, mode="nearest")
        logarithms.append(np.log(np.maximum(beside, np.finfo(np.float64).tiny)))
    return np.exp(np.mean(logarithms, axis=0))


def _centre(power: np.ndarray, spot: np.ndarray) -> np.ndarray:
    """Return the centre of a peak: a parabola through the log power of neighbours."""
    found = []
    for axis in (0, 1):
        step = np.eye(2, dtype=int)[axis]
        low, mid, high = (
            np.log(power[tuple(np.minimum(spot + k * step, len(power) - 1))] + 1e-300)
            for k in (-1, 0, 1)
        )
        curve = low - 2 * mid + high
        shift = 0.5 * (low - high) / curve if curve < 0 else 0.0
        found.append(spot[axis] + np.clip(shift, -0.5, 0.5))
    return np.array(found)


def _shortest_vector(a: np.ndarray, b: np.ndarray) -> float:
    """Return the shortest vector of a lattice (Gauss reduction)."""
    while True:
        if np.dot(a, a) > np.dot(b, b):
            a, b = b, a
        times = np.rint(np.dot(a, b) / np.dot(a, a))
        if times == 0:
            return float(np.sqrt(np.dot(a, a)))
        b = b - times * a
