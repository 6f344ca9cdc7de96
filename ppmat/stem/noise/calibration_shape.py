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


"""The shape of pointwise noise, and the background.

The Tukey-lambda parameter is found by maximum likelihood on residuals behind a high
pass along the lines. A filtered residual is a sum of several draws, hence closer to
normal than each of them: its density is taken from the product of their characteristic
functions, so the mixing does not bias the parameter.

The background is found in cosine waves, in which a field of the model is a set of
independent amplitudes of variance ``b exp(-L^2 k^2)`` over a floor of other noise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import boxcox

LAMBDAS = np.arange(-0.3, 1.001, 0.02)
_SCALES = np.arange(0.9, 1.1001, 0.01)
_VALUES = np.arange(-12.0, 12.0001, 0.05)  # of residuals in standard deviations
_WAVES = np.linspace(0.0, 8.0, 240)  # arguments of characteristic functions


@functools.lru_cache(maxsize=1)
def _characteristic() -> np.ndarray:
    """Return the characteristic functions of unit variance [lambdas, waves]."""
    # The quantile function at equal probabilities is the distribution itself; it is
    # symmetric, so one half of it is enough.
    u = 0.5 + (np.arange(800) + 0.5) / 1600
    tables = []
    for shape in LAMBDAS:
        quantile = boxcox(u, shape) - boxcox(1 - u, shape)
        quantile /= np.sqrt(np.mean(quantile**2))
        tables.append(np.cos(np.outer(_WAVES, quantile)).mean(axis=1))
    return np.array(tables)


def log_densities(taps: np.ndarray, normal_part: float) -> np.ndarray:
    """Return the logarithms of the densities of filtered pointwise noise.

    Args:
        taps: Of the filter, of unit norm.
        normal_part: Part of the variance that is normal (scan noise, rounding).

    Returns:
        For each lambda, scale and value [lambdas, scales, values].
    """
    table = _characteristic()
    tapered = np.empty_like(table)
    share = np.sqrt(1 - normal_part)
    for i, row in enumerate(table):
        parts = [
            np.interp(abs(tap) * share * _WAVES, _WAVES, row)
            for tap in taps
            if abs(tap) > 1e-4
        ]
        tapered[i] = np.prod(parts, axis=0)
    tapered *= np.exp(-0.5 * normal_part * _WAVES**2)
    # Inverse transform by the trapezoidal rule; what is beyond the last wave is cut
    # off smoothly.
    step = _WAVES[1] - _WAVES[0]
    weights = np.full(_WAVES.size, step / np.pi)
    weights[[0, -1]] *= 0.5
    densities = (tapered * weights) @ np.cos(np.outer(_WAVES, _VALUES))
    logs = np.log(np.maximum(densities, 1e-9))
    return np.array(
        [
            [np.interp(_VALUES / s, _VALUES, row) - np.log(s) for s in _SCALES]
            for row in logs
        ]
    )


def histogram(values: np.ndarray, groups: np.ndarray, number: int) -> np.ndarray:
    """Return how often each value occurs in each group [number, values]."""
    step = _VALUES[1] - _VALUES[0]
    index = np.rint((values - _VALUES[0]) / step).astype(int)
    index = np.clip(index, 0, _VALUES.size - 1)
    counts = np.bincount(groups * _VALUES.size + index, minlength=number * _VALUES.size)
    return counts.reshape(number, _VALUES.size)


def best_lambda(counts: np.ndarray, logs: np.ndarray) -> float:
    """Return the lambda of the highest likelihood, whatever the scale.

    Args:
        counts: Of each value [values].
        logs: Of :func:`log_densities`.
    """
    likelihood = (logs @ counts).max(axis=1)
    best = int(np.clip(np.argmax(likelihood), 1, len(LAMBDAS) - 2))
    left, middle, right = likelihood[best - 1 : best + 2]
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    step = LAMBDAS[1] - LAMBDAS[0]
    return float(LAMBDAS[best] + step * np.clip(shift, -1, 1))


@dataclass
class Background:
    """A smooth field in an image.

    Args:
        sd: Standard deviation, image units.
        length: Pixels.
        sd_error: Standard errors.
        length_error: Of the length.
        gain: Twice the rise of the log likelihood by the field.
    """

    sd: float
    length: float
    sd_error: float
    length_error: float
    gain: float


Waves = tuple[np.ndarray, np.ndarray, np.ndarray]


def fit_background(spectra: list[Waves], false: list[Waves]) -> Background:
    """Return the background that the cosine waves of the frames show.

    Args:
        spectra: Of each frame: squared amplitudes, wave numbers (angular, per pixel)
            and the variance that other noise gives the amplitudes, each [waves],
            without the level; amplitudes are orthonormal over the root of the pixels.
        false: The same for waves that the fit of the columns found in noise alone. It
            calls more of the noise background than is in its waves, the more the
            shorter they are.
    """
    power, wave, floor = (np.concatenate(part) for part in zip(*false))
    top = wave.max()

    def raised(p: np.ndarray, wave: np.ndarray, floor: np.ndarray) -> np.ndarray:
        x = (wave / top) ** 2
        return floor * np.exp(p[0] + p[1] * x + p[2] * x**2)

    def misfit(p: np.ndarray) -> float:
        expected = raised(p, wave, floor)
        return 0.5 * float(np.sum(np.log(expected) + power / expected))

    rise = minimize(misfit, np.zeros(3), method="L-BFGS-B", bounds=[(-3, 6)] * 3).x
    power, wave, floor = (np.concatenate(part) for part in zip(*spectra))
    floor = raised(rise, wave, floor)

    def field(p: np.ndarray) -> np.ndarray:
        return np.exp(p[1] - np.exp(2 * p[2]) * wave**2)

    def loss(p: np.ndarray, with_field: bool = True) -> float:
        expected = np.exp(p[0]) * floor + (field(p) if with_field else 0.0)
        return 0.5 * float(np.sum(np.log(expected) + power / expected))

    # What the columns' shapes leave unexplained may add to the floor.
    limits = [(-0.2, 0.7), (-60.0, 30.0), (np.log(4.0), np.log(400.0))]
    without = minimize(
        lambda p: loss(p, False), [0.0], method="L-BFGS-B", bounds=limits[:1]
    )
    first = np.log(max(power[wave < np.quantile(wave, 0.1)].mean(), 1e-20))
    best = min(
        (
            minimize(
                loss, [0.0, first, np.log(length)], method="L-BFGS-B", bounds=limits
            )
            for length in (8.0, 20.0, 50.0)
        ),
        key=lambda fit: fit.fun,
    )
    length = float(np.exp(best.x[2]))
    rest = np.exp(best.x[0]) * floor
    # What the field has in these very frames: of each wave the mean and the variance
    # that its amplitude has, given what was seen (a Wiener filter).
    share = field(best.x) / (field(best.x) + rest)
    variance = np.sum(share**2 * power + share * rest) / len(spectra)
    spread = np.sum(2 * share**2 * rest * (rest + 2 * field(best.x)))
    sd = float(np.sqrt(variance))
    return Background(
        sd,
        length,
        float(np.sqrt(spread) / len(spectra) / (2 * sd)),
        float(_errors(loss, best.x)[2] * length),
        float(2 * (without.fun - best.fun)),
    )


def _errors(loss, best: np.ndarray) -> np.ndarray:
    """Return standard errors from the curvature of the loss."""
    size, step = len(best), 1e-2
    hessian = np.empty((size, size))
    unit = step * np.eye(size)
    for i in range(size):
        for j in range(size):
            corners = [
                si * sj * loss(best + si * unit[i] + sj * unit[j])
                for si in (1, -1)
                for sj in (1, -1)
            ]
            hessian[i, j] = sum(corners) / (4 * step**2)
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.maximum(np.diag(np.linalg.pinv(hessian)), 0))


def noise_floor(
    shape: tuple[int, int],
    size: tuple[int, int],
    pointwise: float,
    scan: float,
    length: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return wave numbers and variances of noise in cosine waves [P, Q].

    Args:
        shape: ``(H, W)`` of the image.
        size: ``(P, Q)``, number of waves.
        pointwise: Mean variance of pointwise noise.
        scan: Mean variance of scan noise.
        length: Of scan noise along axis 1, pixels.
    """
    rows, columns = (np.pi * np.arange(p) / n for p, n in zip(size, shape))
    wave = np.hypot(rows[:, None], columns[None, :])
    streak = 2 * np.sqrt(np.pi) * length * np.exp(-((length * columns) ** 2))
    floor = (pointwise + scan * streak[None, :] + 0.0 * rows[:, None]) / np.prod(shape)
    return wave, floor
