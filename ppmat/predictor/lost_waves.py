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

"""Waves of a lattice that a network took for noise, found in the residual.

A network can lose a lattice that is finer than those of its training. The lattice is
then in the residual, as sharp peaks of the spectrum, which noise does not have.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

# Power of a wave over that of noise around, above which it belongs to a lattice. Of
# white noise one wave in nine million is above.
_LATTICE_POWER = 16.0
_RINGS = 32  # rings of the spectrum in one cycle per pixel; noise is measured in each
# Waves on both sides along an axis. Displaced scan lines smear a peak along one axis,
# over more waves than these; a smeared peak is no lattice that the network lost.
_AROUND = np.r_[-15:-3, 4:16]


def lost_waves(residual: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the part of a residual that is waves of a lattice, and their number.

    Each wave has the weight ``1 - 16 noise / power``, as in a Wiener filter. The power
    of noise is the median in a ring of equal frequency, or that of the waves around it
    along one axis, whichever is largest. A periodic disturbance of the detector has
    sharp peaks too and is not told from a lattice.

    Args:
        residual: Raw image minus enhanced image [H, W], 0 at missing pixels.

    Example:
        >>> import numpy as np
        >>> wave = np.cos(2 * np.pi * 0.375 * np.arange(64)) + np.zeros((64, 1))
        >>> noise = np.random.default_rng(0).normal(size=(64, 64))
        >>> found, number = lost_waves(wave + noise)
        >>> number, bool(np.std(found - wave) < 0.1)
        (1, True)
    """
    size = float(np.max(np.abs(residual)))
    if size == 0:
        return np.zeros_like(residual), 0
    spectrum = fft.rfft2(residual / size)  # squares of any units are finite
    power = np.square(np.abs(spectrum))
    height, width = power.shape
    frequency = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(residual.shape[1]))
    ring = (_RINGS * frequency).astype(np.uint8)
    # The median of an exponential distribution is log(2) of its mean.
    medians = [np.median(power[ring == k]) for k in np.unique(ring)]
    noise = (np.array(medians) / np.log(2))[ring]
    row, column = np.nonzero(power > _LATTICE_POWER * noise)
    beside = np.abs(column[:, None] + _AROUND)  # the spectrum is even
    beside = np.where(beside < width, beside, 2 * (width - 1) - beside)
    along = (
        power[(row[:, None] + _AROUND) % height, column[:, None]],
        power[row[:, None], np.abs(beside)],
    )
    around = np.max([np.median(part, axis=1) for part in along], axis=0) / np.log(2)
    noise = np.maximum(noise[row, column], around)
    weight = np.maximum(1 - _LATTICE_POWER * noise / power[row, column], 0.0)
    waves = np.zeros_like(spectrum)
    waves[row, column] = weight * spectrum[row, column]
    found = size * fft.irfft2(waves, residual.shape)
    return found, int(np.count_nonzero(weight))
