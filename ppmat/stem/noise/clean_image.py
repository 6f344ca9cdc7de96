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

"""The clean image under a noisy one: fitted columns over a smooth background.

The noise is measured on the residual of the image without its columns, and depends on
the gradient of the clean image. A smoothed image would bias both: it leaves part of
sharp columns in the residual and flattens their flanks. A sum of Gaussians that is
fitted to the raw image has no such bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import fft
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.ndimage import maximum_filter
from scipy.optimize import least_squares
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import lsmr

from ppmat.stem.noise.raw_frames import RoughNoise

_REACH = 3.2  # radius in which a column is rendered, in its standard deviations
_ROUNDS = 3  # of finding columns, each in the residual of the round before
_SURROUND_RATIO = 2.5  # width of the surroundings of a column, in column widths
_TAIL_RATIO = 2.5  # width of the tail of a probe, in column widths
_FIRST_TAIL = 1.0  # strength of the tail at the start
_MIN_TAIL_GAIN = 30.0  # least increase of twice the log likelihood to use a tail
_STEPS = 4  # of the fit in each round
_WIDTH_SPREAD = 0.1  # expected relative spread of the widths of columns
_MIN_OTHER_HEIGHT = 0.3  # of columns of the other sign, in the median height
_SIGNIFICANT = 4.5  # least height of a column, in its standard errors


@dataclass
class CleanImage:
    """An estimate of an image without its noise.

    ``columns`` [n, 4] are row and column (pixels), height (image units) and standard
    deviation (pixels) of Gaussians. ``smooth`` [P, Q] are coefficients of orthonormal
    cosine waves, the background; the first is the level.
    """

    image: np.ndarray  # columns over the level, without the background's waves [H, W]
    smooth: np.ndarray
    cutoff: float  # highest wave number of the background, angular, 1 / pixel
    columns: np.ndarray
    width: float  # standard deviation of a typical column, pixels
    tangent: LinearOperator | None = None  # derivative by parameters, if with columns

    def unfitted(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the residual of noise after the linearised fit, and its background.

        Noise and residual are [H, W]. The background is cosine waves [P, Q].
        """
        if self.tangent is None:
            return noise - noise.mean(), np.zeros_like(self.smooth)
        rest = np.zeros(self.tangent.shape[0])
        rest[: noise.size] = noise.ravel()
        step = _solve(self.tangent, rest, 40)
        smooth = step[-self.smooth.size :].reshape(self.smooth.shape)
        taken = self.tangent.matvec(step)[: noise.size].reshape(noise.shape)
        # The residual of the image contains the background, so this one does too.
        return noise - taken + _waves(smooth, noise.shape), smooth

    @property
    def background(self) -> np.ndarray:
        """Waves of the background, without the level, image units [H, W]."""
        smooth = self.smooth.copy()
        smooth[0, 0] = 0.0
        return _waves(smooth, self.image.shape)

    @property
    def background_along_axes(self) -> np.ndarray:
        """The waves that run along an axis of the image: ramps, wedges [H, W]."""
        smooth = self.smooth.copy()
        smooth[0, 0] = 0.0
        smooth[1:, 1:] = 0.0
        return _waves(smooth, self.image.shape)


def column_width_across_lines(image: np.ndarray) -> float:
    """Return the standard deviation of a typical column, pixels.

    It is fitted to the autocorrelation across the scan lines (axis 0). At lags above 0
    neither pointwise nor scan noise contributes to it. Slow changes of the image are
    removed first.

    Detection does not know the fast axis, so it averages over directions
    (:func:`ppmat.stem.columns.peak_finding.column_width`). That estimate does not serve
    here: a ramp of the image raises it to its limit (docs/results/column_width.yaml).
    """
    flat = image - gaussian_filter(image, 16.0)
    length = image.shape[0] // 4
    lags = [np.mean(flat[k:] * flat[: len(flat) - k]) for k in range(1, length)]
    lags = np.array(lags) / max(abs(lags[0]), 1e-30)
    rising = np.flatnonzero(np.diff(lags) > 0)
    last = max(4, int(rising[0]) + 1 if rising.size else len(lags))
    k, values = np.arange(1, last + 1), lags[:last]

    def misfit(p: np.ndarray) -> np.ndarray:
        return p[0] * np.exp(-((k / np.exp(p[1])) ** 2) / 4) + p[2] - values

    start = [values[0] - values[-1], np.log(max(last / 3, 0.8)), values[-1]]
    found = least_squares(misfit, start, max_nfev=200)
    return float(np.clip(np.exp(found.x[1]), 0.7, 12.0))


def fit_clean(
    image: np.ndarray, width: float, noise: RoughNoise, sign: int | None
) -> CleanImage:
    """Fit columns and background to an image whose lines run along axis 1.

    Args:
        image: Noisy image [H, W].
        width: Standard deviation of a typical column, pixels.
        noise: First estimate.
        sign: 1 for bright columns; None for bright or dark ones. Then the first round
            finds the kind with the smaller area, the next rounds both kinds.
    """
    both = sign is None
    if both:
        # Columns fill less area than the ground, and noise of the model is not skewed.
        smooth = gaussian_filter(image, width) - gaussian_filter(image, 8 * width)
        sign = 1 if np.mean((smooth - smooth.mean()) ** 3) > 0 else -1
    columns = np.empty((0, 4))
    flat = np.full(image.shape, image.mean())
    without = CleanImage(flat, np.zeros((1, 1)), 0.0, columns, width)
    rest = image - np.median(image)
    for turn in range(_ROUNDS):
        found = _find(sign * rest, width, noise, 0.0)
        found[:, 2] *= sign
        if turn and both:
            # A limit, so that misfits of the first kind do not count as the other kind.
            height = _MIN_OTHER_HEIGHT * np.median(abs(columns[:, 2]))
            other = _find(-sign * rest, width, noise, height)
            other[:, 2] *= -sign
            found = np.concatenate([found, other])
        columns = np.concatenate([columns, found])
        if not len(columns):
            return without
        if turn == 0:
            distance = np.sqrt(image.size / len(columns))
            cutoff = min(0.25, np.pi / (1.2 * distance))
            waves = [1 + int(cutoff * size / np.pi) for size in image.shape]
            fit = _Fit(columns, None, np.zeros(waves), None)
            fit.smooth[0, 0] = np.median(image) * np.sqrt(image.size)
        options = (width, cutoff, noise.pointwise)
        fit = _steps(image, fit._replace(columns=columns), *options)
        if not len(fit.columns):
            return without
        if turn == 0:
            # An unneeded tail would only mix columns and background.
            tried = fit._replace(tail=_FIRST_TAIL)
            for _ in range(2):
                tried = _steps(image, tried, *options)
            if len(tried.columns) and tried.tail > 0:
                gain = np.sum(_rest(image, fit) ** 2) - np.sum(_rest(image, tried) ** 2)
                if gain > _MIN_TAIL_GAIN * noise.pointwise**2:
                    fit = tried
        columns, rest = fit.columns, _rest(image, fit)
        if turn and len(found) < 0.02 * len(columns):
            break
    clean = _with_tail(fit, image.shape) + fit.smooth[0, 0] / np.sqrt(image.size)
    return CleanImage(clean, fit.smooth, cutoff, fit.columns, width, fit.tangent)


class _Fit(NamedTuple):
    """Columns [n, 4], strength of their tail or None, cosine waves, derivatives."""

    columns: np.ndarray
    tail: float | None
    smooth: np.ndarray
    tangent: LinearOperator | None


def _find(
    rest: np.ndarray, width: float, noise: RoughNoise, least: float
) -> np.ndarray:
    """Return the bright columns [n, 4] that are significant and above a height."""
    wide = _SURROUND_RATIO * width
    size = 2 * int(4 * width + 4 * wide) + 1
    impulse = np.zeros((size, size))
    impulse[size // 2, size // 2] = 1.0

    def matched(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, width) - gaussian_filter(x, wide)

    kernel = matched(impulse)
    pointwise, scan, length = noise
    streaks = scan**2 * np.sum(gaussian_filter(kernel, (0, length)) ** 2)
    streaks = streaks * 2 * np.sqrt(np.pi) * length
    spread = np.sqrt(pointwise**2 * np.sum(kernel**2) + streaks)
    response = matched(rest)
    gain = 0.5 - 1 / (1 + _SURROUND_RATIO**2)  # peak of the response to a column of 1
    peaks = response == maximum_filter(response, 2 * int(np.ceil(0.9 * width)) + 1)
    peaks &= response > max(_SIGNIFICANT * spread, gain * least)
    y, x = np.nonzero(peaks)
    height = response[y, x] / gain
    return np.stack([y, x, height, np.full(len(y), width)], axis=1).astype(float)


def _window(columns: np.ndarray, shape: tuple) -> tuple:
    """Return the pixels around columns, their offsets, and which are rendered.

    Each is [n, w, w]; pixels are numbered row by row.
    """
    reach = int(np.ceil(_REACH * columns[:, 3].max()))
    span = np.arange(-reach, reach + 1)
    centre = np.rint(columns[:, :2]).astype(int)
    y = centre[:, 0, None, None] + span[None, :, None]
    x = centre[:, 1, None, None] + span[None, None, :]
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    dy = (y - columns[:, 0, None, None]) + 0.0 * x
    dx = (x - columns[:, 1, None, None]) + 0.0 * y
    inside &= dy**2 + dx**2 <= (_REACH * columns[:, 3, None, None]) ** 2
    pixel = y * shape[1] + x
    return pixel, dy, dx, inside


def _render(columns: np.ndarray, shape: tuple) -> np.ndarray:
    if not len(columns):
        return np.zeros(shape)
    pixel, dy, dx, inside = _window(columns, shape)
    _, _, height, sigma = columns.T[:, :, None, None]
    value = height * np.exp(-0.5 * (dy**2 + dx**2) / sigma**2)
    flat = np.bincount(pixel[inside], value[inside], minlength=shape[0] * shape[1])
    return flat.reshape(shape)


def _tail(columns: np.ndarray, spots: np.ndarray, truncate: float = 4.0) -> np.ndarray:
    """Return an image of the columns, blurred to the width of a tail."""
    blur = np.sqrt(_TAIL_RATIO**2 - 1) * np.median(columns[:, 3])
    return gaussian_filter(spots, blur, mode="constant", truncate=truncate)


def _with_tail(fit: _Fit, shape: tuple) -> np.ndarray:
    spots = _render(fit.columns, shape)
    return spots + fit.tail * _tail(fit.columns, spots) if fit.tail else spots


def _rest(image: np.ndarray, fit: _Fit) -> np.ndarray:
    return image - _waves(fit.smooth, image.shape) - _with_tail(fit, image.shape)


def _cosines(size: int, cutoff: float) -> np.ndarray:
    """Return orthonormal cosine waves [size, P] up to a wave number."""
    count = 1 + int(cutoff * size / np.pi)
    return fft.idct(np.eye(size)[:count], norm="ortho", axis=1).T


def _waves(smooth: np.ndarray, shape: tuple) -> np.ndarray:
    """Return the image [H, W] of cosine coefficients [P, Q]."""
    coefficients = np.zeros(shape)
    coefficients[: smooth.shape[0], : smooth.shape[1]] = smooth
    return fft.idctn(coefficients, norm="ortho")


def _solve(operator: LinearOperator, rest: np.ndarray, steps: int) -> np.ndarray:
    return lsmr(operator, rest, damp=0.05, maxiter=steps, atol=1e-3, btol=1e-3)[0]


def _steps(
    image: np.ndarray, fit: _Fit, width: float, cutoff: float, noise: float
) -> _Fit:
    """Return the fit after some steps, or without columns once all have left."""
    for step in range(_STEPS):
        if len(fit.columns):
            fit = _improve(image, fit, width, cutoff, noise, last=step == _STEPS - 1)
    return fit


def _improve(
    image: np.ndarray,
    fit: _Fit,
    width: float,
    cutoff: float,
    noise: float,
    *,
    last: bool,
) -> _Fit:
    """Return the fit after a Gauss-Newton step."""
    shape, columns = image.shape, fit.columns
    rows, waves = _cosines(shape[0], cutoff), _cosines(shape[1], cutoff)
    count, grid = len(columns), (rows.shape[1], waves.shape[1])
    pixel, dy, dx, inside = _window(columns, shape)
    _, _, height, sigma = columns.T[:, :, None, None]
    r2 = (dy**2 + dx**2) / sigma**2
    bell = np.exp(-0.5 * r2)
    # By height, row, column and logarithm of the width; all of about unit norm.
    parts = [bell, height * bell * dy / sigma**2, height * bell * dx / sigma**2]
    parts.append(height * bell * r2)
    parameters = 4 * count
    which = np.broadcast_to(np.arange(count)[:, None, None], pixel.shape)[inside]
    which = np.concatenate([which + i * count for i in range(4)])
    values = np.concatenate([part[inside] for part in parts])
    jacobian = sparse.csr_matrix(
        (values, (np.tile(pixel[inside], 4), which)), shape=(image.size, parameters)
    )
    norm = np.sqrt(np.asarray(jacobian.power(2).sum(axis=0)).ravel())
    # Columns outside the image, or of no height, must not become infinite.
    floor = np.repeat([1.0, *3 * [np.median(abs(columns[:, 2]))]], count)
    norm = np.maximum(norm, 0.3 * floor)
    jacobian = (jacobian @ sparse.diags(1 / norm)).tocsr()
    transposed = jacobian.T.tocsr()

    # Where columns overlap, the data do not separate width, height and background. The
    # condition that all columns have about one width does.
    stiff = noise / _WIDTH_SPREAD / norm[3 * count :]
    middle = np.median(np.log(columns[:, 3]))

    def spread(spots: np.ndarray) -> np.ndarray:
        if not fit.tail:
            return spots
        spots = spots.reshape(shape)
        return (spots + fit.tail * _tail(columns, spots, truncate=3.0)).ravel()

    images = np.empty((0, image.size))
    if fit.tail is not None:
        images = _tail(columns, _render(columns, shape)).reshape(1, -1)
    sizes = np.linalg.norm(images, axis=1)
    unit = images / sizes[:, None]
    first = parameters + len(images)

    def forward(v: np.ndarray) -> np.ndarray:
        smooth = rows @ v[first:].reshape(grid) @ waves.T
        seen = spread(jacobian @ v[:parameters])
        seen += v[parameters:first] @ unit + smooth.ravel()
        return np.concatenate([seen, stiff * v[3 * count : parameters]])

    def backward(v: np.ndarray) -> np.ndarray:
        smooth = rows.T @ v[: image.size].reshape(shape) @ waves
        seen = transposed @ spread(v[: image.size])
        seen[3 * count :] += stiff * v[image.size :]
        return np.concatenate([seen, unit @ v[: image.size], smooth.ravel()])

    size = (image.size + count, first + grid[0] * grid[1])
    operator = LinearOperator(size, matvec=forward, rmatvec=backward, dtype=float)
    # Steps continue from the last fit: a few steps would not converge from zero.
    rest = _rest(image, fit).ravel()
    away = (middle - np.log(columns[:, 3])) * noise / _WIDTH_SPREAD
    step = _solve(operator, np.concatenate([rest, away]), 40 if last else 15)
    change = (step[:parameters] / norm).reshape(4, count)
    new = columns.copy()
    new[:, 2] += change[0]
    new[:, :2] += np.clip(change[1:3], -0.5 * width, 0.5 * width).T
    new[:, 3] *= np.exp(np.clip(change[3], -0.2, 0.2))
    new[:, 3] = np.clip(new[:, 3], 0.6 * width, 1.8 * width)
    place, edge = new[:, :2], np.array(shape) - 1 + 2 * width
    inside = np.all((place > -2 * width) & (place < edge), 1)
    tail = fit.tail
    if tail is not None:
        tail = max(0.0, tail + float(step[parameters] / sizes[0]))
    smooth = fit.smooth + step[first:].reshape(grid)
    return _Fit(new[inside], tail, smooth, operator)
