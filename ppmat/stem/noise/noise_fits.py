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

"""Fits of the noise terms: scan, pointwise, its distribution, background.

- Scan and pointwise noise are fitted to the means of :mod:`ppmat.stem.noise.moments`.
- The Tukey-lambda parameter of pointwise noise is found by maximum likelihood, on
  residuals behind a high pass along the lines. A filtered residual is a sum of several
  draws, so it is closer to normal than each of them. Its density is computed from the
  product of their characteristic functions, so the parameter has no bias.

:mod:`ppmat.stem.noise.background_noise` has the fit of the background.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy.optimize import least_squares
from scipy.special import boxcox

from ppmat.stem.noise.moments import LAGS
from ppmat.stem.noise.moments import VALUES
from ppmat.stem.noise.moments import Sums
from ppmat.stem.noise.moments import correlation
from ppmat.stem.noise.raw_frames import CalibrationError

LAMBDAS = np.arange(-0.3, 1.001, 0.02)
_MIN_SCAN_LENGTH, _MAX_SCAN_LENGTH = 0.6, 40.0  # pixels
_SCALES = np.arange(0.9, 1.1001, 0.01)  # of the standard deviation, free in the fit
_WAVES = np.linspace(0.0, 8.0, 240)  # arguments of characteristic functions


def fit_scan(means: Sums) -> np.ndarray:
    """Return slope, intercept and length of scan noise, from products at all lags."""
    weight = _scan_weight(means)

    def misfit(p: np.ndarray) -> np.ndarray:
        model = correlation(LAGS, np.exp(p[2])) * _mean_variance(means, p[0], p[1])
        return ((model - means.product) * weight).ravel()

    count = means.count
    pooled = np.sum(count * means.product, axis=0) / np.maximum(count.sum(axis=0), 1)
    amplitude = np.sqrt(max(pooled[1:4].mean(), 1e-6))
    limits = np.log([_MIN_SCAN_LENGTH, _MAX_SCAN_LENGTH])
    fits = [
        least_squares(
            misfit,
            [0.05, amplitude, np.log(length)],
            bounds=([0, 0, limits[0]], [np.inf, np.inf, limits[1]]),
            x_scale=[0.05, amplitude, 1.0],
            max_nfev=60,
        )
        for length in (1.5, 4.0, 12.0)
    ]
    slope, intercept, length = min(fits, key=lambda fit: np.sum(fit.fun**2)).x
    return np.array([slope, intercept, np.exp(length)])


def refit_scan(means: Sums, near: np.ndarray) -> np.ndarray:
    """Return the result of :func:`fit_scan` by two steps from one that is near."""
    weight = _scan_weight(means)
    p = np.array(near, dtype=float)
    for _ in range(2):
        slope, intercept, length = p
        rho = correlation(LAGS, length)
        variance = _mean_variance(means, slope, intercept)
        jacobian = np.stack(
            [
                2 * rho * (slope * means.second + intercept * means.first),
                2 * rho * (slope * means.first + intercept),
                rho * variance * LAGS**2 / (2 * length**3),
            ],
            axis=-1,
        )
        rest = ((means.product - rho * variance) * weight).ravel()
        jacobian = (jacobian * weight[..., None]).reshape(-1, 3)
        step = np.linalg.lstsq(jacobian, rest, rcond=None)[0]
        step[2] = np.clip(step[2], -0.5 * length, 0.5 * length)
        p = np.maximum(p + step, [0.0, 0.0, _MIN_SCAN_LENGTH])
    return p


def scan_variance(means: Sums, length: float) -> np.ndarray:
    """Return the variance of scan noise of a known length in each bin [bins]."""
    rho = correlation(LAGS[: means.count.shape[1]], length)
    rho[0] = 0.0
    weight = means.count * rho
    total = np.maximum(np.sum(weight * rho, axis=1), 1e-30)
    return np.sum(weight * means.product, axis=1) / total


def _scan_weight(means: Sums) -> np.ndarray:
    """Return inverse standard errors, 0 for what is left out [bins, lags]."""
    weight = np.sqrt(means.count) / np.maximum(means.product[:, :1], 1e-12)
    weight[:, 0] = 0.0
    weight[~means.has_enough()] = 0.0
    return weight


def _mean_variance(means: Sums, slope: float, intercept: float) -> np.ndarray:
    """Return the mean of ``(slope g + intercept)(slope g' + intercept)``."""
    return slope**2 * means.second + 2 * slope * intercept * means.first + intercept**2


def fit_pointwise(means: Sums, rounding: float) -> np.ndarray:
    """Return slope and intercept of the pointwise standard deviation.

    Args:
        means: Squares [bins, 1].
        rounding: Variance that rounding to grey levels has added.

    Raises:
        CalibrationError: Only one bin has enough pixels.
    """
    weight = np.sqrt(means.count[:, 0]) / np.maximum(means.product[:, 0], 1e-12)
    used = means.has_enough() & (weight > 0)
    if np.count_nonzero(used) < 2:
        raise CalibrationError(
            "all usable pixels have nearly the same grey value, so the dependence of "
            "noise on the grey value cannot be measured; take frames with more contrast"
        )
    target, weight = pointwise_variance(means, rounding)[used], weight[used]
    first, second = means.first[used, 0], means.second[used, 0]
    # Linear start on the square root of each bin, then the exact quadratic form.
    root = np.sqrt(np.maximum(target, 1e-30))
    p = np.polyfit(first, root, 1, w=weight * root)
    for _ in range(3):
        slope, intercept = p
        rest = target - _mean_variance(means, slope, intercept)[used, 0]
        jacobian = 2 * np.stack(
            [slope * second + intercept * first, slope * first + intercept], axis=1
        )
        step = np.linalg.lstsq(jacobian * weight[:, None], rest * weight, rcond=None)
        p = p + step[0]
    return p


def pointwise_variance(means: Sums, rounding: float) -> np.ndarray:
    """Return the variance of pointwise noise in each bin [bins]."""
    return (means.product - means.leak)[:, 0] - rounding


@functools.lru_cache(maxsize=1)
def _characteristic() -> np.ndarray:
    """Return the characteristic functions of unit variance [lambdas, waves]."""
    # Quantiles at equal probabilities represent the distribution. It is symmetric, so
    # one half of them is enough.
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
        taps: Filter of unit norm.
        normal_part: Share of normally distributed noise (scan noise, rounding) in the
            variance.

    Returns:
        [lambdas, scales, values].
    """
    share = np.sqrt(1 - normal_part)
    waves = [abs(tap) * share * _WAVES for tap in taps if abs(tap) > 1e-4]
    product = np.array(
        [
            np.prod([np.interp(w, _WAVES, row) for w in waves], axis=0)
            for row in _characteristic()
        ]
    )
    product *= np.exp(-0.5 * normal_part * _WAVES**2)
    # Inverse transform by the trapezoidal rule up to the last wave.
    step = _WAVES[1] - _WAVES[0]
    weights = np.full(_WAVES.size, step / np.pi)
    weights[[0, -1]] *= 0.5
    densities = (product * weights) @ np.cos(np.outer(_WAVES, VALUES))
    logs = np.log(np.maximum(densities, 1e-9))
    return np.array(
        [
            [np.interp(VALUES / s, VALUES, row) - np.log(s) for s in _SCALES]
            for row in logs
        ]
    )


def best_lambda(counts: np.ndarray, logs: np.ndarray) -> float:
    """Return the lambda of the highest likelihood over all scales.

    It is that of counts [values] by the result of :func:`log_densities`.
    """
    likelihood = (logs @ counts).max(axis=1)
    best = int(np.clip(np.argmax(likelihood), 1, len(LAMBDAS) - 2))
    left, middle, right = likelihood[best - 1 : best + 2]
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    step = LAMBDAS[1] - LAMBDAS[0]
    return float(LAMBDAS[best] + step * np.clip(shift, -1, 1))
