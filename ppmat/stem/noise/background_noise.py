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

"""Background noise in the cosine waves of an image, apart from the slow specimen.

A stationary Gaussian field gives the waves independent normal amplitudes of variance
``b exp(-L^2 k^2)`` over a floor of other noise; both have maximum likelihood.
Thickness, edges, particles and ramps do not: their waves are few and strong. So the
scatter of the squared amplitudes ``u``, in units of the fitted variance, tells both
apart. For normal amplitudes ``u - log(u) - 1`` has the mean 1.270 and the standard
deviation 1.713 (``u`` is chi-squared with one degree of freedom).

A specimen whose slow variation is itself such a field passes this test. Only frames of
one area tell it from noise (:mod:`ppmat.stem.series.frame_differences`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

# Least increase of twice the log likelihood at which a background is reported.
MIN_GAIN = 16.0
# Largest length of a field, in sides of the image. There the correlation of opposite
# borders, exp(-d^2 / 4 L^2), is e^-4; a longer field is no different from a ramp.
_MAX_LENGTH = 0.25
# Least and largest length in the fit, pixels. Misfits of columns end at the least one.
_SHORTEST, _LONGEST = 4.0, 400.0
_MAX_SCATTER = 3.0  # standard errors of the mean of u - log(u) - 1
_SCATTER_MEAN, _SCATTER_SD = 1.270, 1.713  # of u - log(u) - 1, see above
# Of waves along the axes: how many of the longest are always judged, and by how many
# standard deviations their mean power may exceed that of the other waves.
_FIRST, _MAX_RATIO = 4, 4.0
_MIN_WAVES = 5  # above the floor, to judge their scatter
_NO_RISE = np.zeros(3)

# What of the slow variation is put aside as specimen.
NOTHING, ALONG_AXES, EVERYTHING = "nothing", "along the axes", "everything"


class Waves(NamedTuple):
    """Amplitudes of cosine waves of a frame, without the level, each array [waves].

    The waves are orthonormal over the root of the number of pixels.
    """

    power: np.ndarray  # squared amplitudes
    wave: np.ndarray  # wave numbers, angular, 1 / pixel
    floor: np.ndarray  # variance of the amplitudes by other noise


class Background(NamedTuple):
    """A smooth field in an image."""

    sd: float  # standard deviation, image units
    length: float  # pixels
    sd_error: float  # standard errors
    length_error: float
    gain: float  # twice the increase of the log likelihood by the field
    scatter: float  # mean of u - log(u) - 1 beyond that of a field, standard errors
    peak: float  # variance b of the longest waves, squared image units
    rise: float  # factor of the floor

    def variances(self, waves: Waves) -> tuple[np.ndarray, np.ndarray]:
        """Return the variance of waves by the field, and by other noise [waves]."""
        smooth = self.peak * np.exp(-((self.length * waves.wave) ** 2))
        return smooth, self.rise * waves.floor

    def is_stationary(self, side: int) -> bool:
        """Return whether this can be a stationary field in an image of that side."""
        smooth = self.length > 1.01 * _SHORTEST
        short = self.length <= _MAX_LENGTH * side
        even = self.scatter <= _MAX_SCATTER
        return self.gain <= MIN_GAIN or (smooth and short and even)


def separate(spectra: list[Waves], axes: list[np.ndarray], side: int) -> list[str]:
    """Return what of each frame is specimen.

    Waves along one axis only are put aside first: a ramp, a wedge or an edge along an
    axis has no others. If the rest is no stationary field either, nothing of the frame
    is used. If the frames are no field together, none is used.

    Args:
        spectra: Waves of each frame, with a floor from :func:`raised`.
        axes: Which waves of each frame run along an axis of the image [waves].
        side: The shorter one of the frames, pixels.

    Returns:
        :data:`NOTHING`, :data:`ALONG_AXES` or :data:`EVERYTHING` for each frame.
    """
    parts = []
    for waves, along in zip(spectra, axes):
        rest, every = (
            fit_chosen([waves], [along], [part]) for part in (ALONG_AXES, NOTHING)
        )
        if every.is_stationary(side) and not _has_ramp(rest, waves, along):
            parts.append(NOTHING)
        else:
            parts.append(ALONG_AXES if rest.is_stationary(side) else EVERYTHING)
    found = fit_chosen(spectra, axes, parts)
    if found is None or found.is_stationary(side):
        return parts
    return [EVERYTHING] * len(parts)


def fit_chosen(
    spectra: list[Waves], axes: list[np.ndarray], parts: list[str]
) -> Background | None:
    """Return the background without what was put aside; None if nothing is left.

    For arguments see :func:`separate`; ``parts`` is its result.
    """
    kept = [
        (waves, ~along if part == ALONG_AXES else np.ones(len(along), bool))
        for waves, along, part in zip(spectra, axes, parts)
        if part != EVERYTHING
    ]
    return fit_background(*zip(*kept)) if kept else None


def raised(spectra: list[Waves], false: list[Waves]) -> list[Waves]:
    """Return the waves with the floor raised to the noise that a fit leaves there.

    ``false`` are waves that the fit of the columns found in noise alone. They have more
    power than the noise has at their wave numbers, above all the short ones.
    """
    power, wave, floor = (np.concatenate(part) for part in zip(*false))
    top = wave.max()

    def rise(p: np.ndarray, wave: np.ndarray) -> np.ndarray:
        x = (wave / top) ** 2
        return np.exp(p[0] + p[1] * x + p[2] * x**2)

    best = _minimized(
        lambda p: _misfit(power, floor * rise(p, wave)), _NO_RISE, bounds=[(-3, 6)] * 3
    )
    return [w._replace(floor=w.floor * rise(best.x, w.wave)) for w in spectra]


_minimized = functools.partial(minimize, method="L-BFGS-B")


def _misfit(power: np.ndarray, expected: np.ndarray) -> float:
    return 0.5 * float(np.sum(np.log(expected) + power / expected))


def fit_background(spectra: Sequence[Waves], used: Sequence[np.ndarray]) -> Background:
    """Return the background by maximum likelihood; ``used`` masks the waves [waves]."""
    power, wave, floor = (np.concatenate(part) for part in zip(*spectra))
    used = np.concatenate(used)
    hidden = wave[~used]
    power, wave, floor = power[used], wave[used], floor[used]

    def field(p: np.ndarray, wave: np.ndarray) -> np.ndarray:
        return np.exp(p[1] - np.exp(2 * p[2]) * wave**2)

    def loss(p: np.ndarray) -> float:
        smooth = field(p, wave) if len(p) > 1 else 0.0
        return _misfit(power, np.exp(p[0]) * floor + smooth)

    # Columns that are not Gaussian leave power, which may add to the floor.
    limits = [(-0.2, 0.7), (-60.0, 30.0), (np.log(_SHORTEST), np.log(_LONGEST))]
    without = _minimized(loss, [0.0], bounds=limits[:1])
    first = np.log(max(power[wave <= np.quantile(wave, 0.1)].mean(), 1e-20))
    starts = ([0.0, first, np.log(length)] for length in (8.0, 20.0, 50.0))
    fits = [_minimized(loss, start, bounds=limits) for start in starts]
    best = min(fits, key=lambda fit: fit.fun)
    length = float(np.exp(best.x[2]))
    rest, smooth = np.exp(best.x[0]) * floor, field(best.x, wave)
    # Variance of the field in these frames: mean and variance of each amplitude, given
    # the measured one (Wiener filter). Of waves put aside, the mean variance.
    share = smooth / (smooth + rest)
    unseen = field(best.x, hidden)
    variance = np.sum(share**2 * power + share * rest) + unseen.sum()
    spread = np.sum(2 * share**2 * rest * (rest + 2 * smooth)) + 2 * np.sum(unseen**2)
    sd = float(np.sqrt(variance / len(spectra)))
    return Background(
        sd=sd,
        length=length,
        sd_error=float(np.sqrt(spread) / len(spectra) / (2 * sd)),
        length_error=float(_errors(loss, best.x)[2] * length),
        gain=float(2 * (without.fun - best.fun)),
        scatter=_scatter(power / (smooth + rest), smooth > rest),
        peak=float(np.exp(best.x[1])),
        rise=float(np.exp(best.x[0])),
    )


def _has_ramp(rest: Background, waves: Waves, along: np.ndarray) -> bool:
    """Return whether waves along the axes are stronger than the field of the others."""
    smooth, noise = rest.variances(waves)
    first = waves.wave <= np.sort(waves.wave[along])[_FIRST - 1]
    judged = along & ((smooth > noise) | first)
    # The mean of n ratios of a field is 1, its standard deviation sqrt(2 / n).
    ratio = np.mean(waves.power[judged] / (smooth + noise)[judged])
    return bool(ratio > 1 + _MAX_RATIO * np.sqrt(2 / np.count_nonzero(judged)))


def _scatter(u: np.ndarray, above: np.ndarray) -> float:
    """Return how far amplitudes are from normal, standard errors; 0 if they are few."""
    u = np.maximum(u[above], 1e-12)
    if len(u) < _MIN_WAVES:
        return 0.0
    excess = np.mean(u - np.log(u) - 1) - _SCATTER_MEAN
    return float(excess / _SCATTER_SD * np.sqrt(len(u)))


def _errors(loss: Callable, best: np.ndarray) -> np.ndarray:
    """Return standard errors from the curvature of the loss."""
    step, signs = 1e-2, list(itertools.product((1, -1), repeat=2))
    unit = step * np.eye(len(best))
    hessian = [
        [
            sum(s * t * loss(best + s * u + t * v) for s, t in signs) / (4 * step**2)
            for v in unit
        ]
        for u in unit
    ]
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.maximum(np.diag(np.linalg.pinv(hessian)), 0))


def noise_floor(
    shape: tuple[int, int],
    size: tuple[int, int],
    pointwise: float,
    scan: float,
    length: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return wave numbers, and variances of noise in cosine waves, each [P, Q].

    Args:
        shape: ``(H, W)`` of the image.
        size: ``(P, Q)``, number of waves.
        pointwise: Mean variance of pointwise noise.
        scan: The same of scan noise.
        length: Of scan noise along axis 1, pixels.
    """
    rows, columns = (np.pi * np.arange(p) / n for p, n in zip(size, shape))
    wave = np.hypot(rows[:, None], columns[None, :])
    streak = 2 * np.sqrt(np.pi) * length * np.exp(-((length * columns) ** 2))
    floor = (pointwise + scan * streak[None, :] + 0.0 * rows[:, None]) / np.prod(shape)
    return wave, floor
