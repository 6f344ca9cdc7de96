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

"""Align a series of frames of one area, and average it.

The frames are read one by one, several times; three or four are in memory.

1. Each frame is aligned to the one before it, near the drift of the frames before. So
   the drift of a lattice is followed as long as it changes slowly.
2. Each frame is aligned to the mean of all others, twice. A mean that holds the frame
   itself would pull it to where it is.
3. Frames are sampled on the pixels of the first one and averaged. Their scatter at each
   pixel gives the standard error of the mean.

The drift is one shift a frame: a drift within a frame stays. Scan-line jitter is the
displacement of a line along itself. It is estimated from both halves of each line: they
share the displacement, but not the noise. So the mean product of both has no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.ndimage import gaussian_filter1d

from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.series.registration import find_shift
from ppmat.stem.series.registration import refine_shift
from ppmat.stem.series.registration import shifted
from ppmat.utils.errors import InputError

AREAS = ("common", "all")
MIN_SIDE = 32  # pixels of the area that all frames show
_RECENT = 5  # steps of the drift whose median predicts the next one
_REFINEMENTS = 2  # alignments to the mean of the other frames
_MAX_MISSING = 0.5  # share of pixels of a frame without a value
_JITTER_BLUR = 1.0  # pixels along a line, against pixel noise in the gradient
_MIN_JITTER_COLUMNS = 16  # pixels of half a line
_BORDER = 2  # pixels at the border of a frame that a shift between pixels changes


@dataclass
class Drift:
    """Where the frames lie.

    Args:
        shifts: What frame 0 shows at ``p`` is at ``p + shifts[i]`` in frame ``i``,
            pixels (y, x) [n, 2].
        correlation: Of each frame with the mean of the others [n].
        jitter: RMS displacement of a line along itself, pixels [n]; 0 if the halves of
            the lines move no more alike than noise does.
    """

    shifts: np.ndarray
    correlation: np.ndarray
    jitter: np.ndarray


@dataclass
class Average:
    """The mean of aligned frames.

    Args:
        image: Mean, NaN where no frame has a value [H, W].
        standard_error: Of the mean, by the scatter of the frames; NaN where fewer than
            two frames have a value [H, W].
        count: Number of frames in each pixel [H, W].
        origin: Pixel of frame 0 at which the image begins (y, x); can be negative.
        drift: Where the frames lie.
        noise: RMS of the standard error.
        frame_noise: RMS standard deviation of a frame at a pixel, which holds jitter.
        hot: Number of hot pixels that were left out.
    """

    image: np.ndarray
    standard_error: np.ndarray
    count: np.ndarray
    origin: tuple[int, int]
    drift: Drift
    noise: float
    frame_noise: float
    hot: int


def average_frames(
    frames: Sequence[np.ndarray],
    reach: float | None = None,
    area: str = "common",
    fast_axis: int = 1,
    names: Sequence[str] | None = None,
) -> Average:
    """Align frames of one area and average them.

    Args:
        frames: Two or more images [H, W] of one size; an array [n, H, W], or any
            sequence that reads a frame when it is asked for one. NaN, masked and hot
            pixels are left out.
        reach: How far a step of the drift may be from the steps before, pixels; None
            for a quarter of the shorter side.
        area: ``common``: the pixels that all frames show; ``all``: what any shows.
        fast_axis: Axis along which the beam scans a line, for the jitter.
        names: Of the frames, for errors.

    Raises:
        InputError: There are fewer than two frames, they differ in size, or one has no
            contrast, shows another area or has drifted too far.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> area = 10 * rng.normal(size=(72, 72))
        >>> frames = [area[i : i + 64] + rng.normal(size=(64, 72)) for i in (0, 3)]
        >>> found = average_frames(frames)
        >>> bool(np.allclose(found.drift.shifts[1], [-3, 0], atol=0.1))
        True
    """
    series = FrameSeries(frames, names)
    reach = min(series.shape) / 4 if reach is None else reach
    shifts = follow_drift(series, reach)
    for _ in range(_REFINEMENTS):
        shifts, correlation, jitter = _refine(series, shifts, fast_axis)
    drift = Drift(shifts, correlation, jitter)
    window = series.common(shifts) if area == "common" else series.union(shifts)
    mean, square, count = _moments(series, shifts, window)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.where(count > 1, square / (count - 1), np.nan)
        error = np.sqrt(variance / count)
        mean = np.where(count > 0, mean, np.nan)
    return Average(
        image=mean.astype(np.float32),
        standard_error=error.astype(np.float32),
        count=count,
        origin=(int(window[0][0]), int(window[1][0])),
        drift=drift,
        noise=float(np.sqrt(np.nanmean(error**2))),
        frame_noise=float(np.sqrt(np.nanmean(variance))),
        hot=series.hot,
    )


class FrameSeries:
    """Frames of one size that are checked when they are read for the first time."""

    def __init__(
        self, frames: Sequence[np.ndarray], names: Sequence[str] | None
    ) -> None:
        if len(frames) < 2:
            found = f"the series has {len(frames)} frame"
            raise InputError(found, wanted="two or more of one area")
        self.frames = frames
        self.names = names or [f"frame {i}" for i in range(len(frames))]
        self.missing: dict[int, np.ndarray] = {}  # numbers of the pixels of each frame
        self.hot = 0
        self.shape = np.shape(frames[0])

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame without gaps, float32, and which of its pixels are missing."""
        frame, name = self.frames[number], self.names[number]
        if frame.shape != self.shape or frame.ndim != 2:
            found = f"has the shape {frame.shape}, {self.names[0]} has {self.shape}"
            raise InputError(found, where=name, wanted="frames [H, W] of one size")
        values = np.ma.getdata(frame).astype(np.float32)
        if number not in self.missing:
            hidden = np.ma.getmaskarray(frame) | ~np.isfinite(values)
            self._check(values[~hidden], hidden.mean(), name)
            hot = without_hot_pixels(np.where(hidden, np.nan, values))[1]
            self.hot += int(hot.sum())
            self.missing[number] = np.flatnonzero(hidden | hot)
        missing = np.zeros(values.shape, bool)
        missing.ravel()[self.missing[number]] = True
        if missing.any():
            values[missing] = np.median(values[~missing])
        return values, missing

    def _check(self, known: np.ndarray, missing: float, name: str) -> None:
        if missing > _MAX_MISSING:
            found = f"{100 * missing:.0f} % of the pixels have no value"
            hint = "Leave the frame out."
            raise InputError(found, where=name, wanted="half or less", hint=hint)
        if known.min() == known.max():
            found = f"all pixels have the value {known[0]:g}"
            hint = "Leave the frame out."
            raise InputError(found, where=name, wanted="an image", hint=hint)

    def common(self, shifts: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and last pixel, in frame 0, of what all frames show."""
        low = np.ceil(np.max(-shifts, axis=0)).astype(int) + _BORDER
        high = np.floor(np.min(np.array(self.shape) - shifts, axis=0)).astype(int)
        high -= _BORDER
        if min(high - low) < MIN_SIDE:
            far = int(np.argmax(np.hypot(*(shifts - np.median(shifts, axis=0)).T)))
            y, x = shifts[far] - shifts[0]
            raise InputError(
                f"is {y:+.0f} px in y and {x:+.0f} px in x from {self.names[0]}, so "
                f"all frames together show {max(0, high[0] - low[0])} x "
                f"{max(0, high[1] - low[1])} pixels",
                where=self.names[far],
                wanted=f"{MIN_SIDE} a side",
                hint="Leave frames out that have drifted away.",
            )
        return (low[0], high[0]), (low[1], high[1])

    def union(self, shifts: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and last pixel, in frame 0, of what any frame shows."""
        low = np.floor(np.min(-shifts, axis=0)).astype(int)
        high = np.ceil(np.max(np.array(self.shape) - shifts, axis=0)).astype(int)
        return (low[0], high[0]), (low[1], high[1])

    def aligned(
        self, number: int, shift: np.ndarray, window: tuple
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame on a window of frame 0, and which pixels it has there."""
        values, missing = self.read(number)
        whole = np.rint(shift).astype(int)
        between = np.any(shift != whole)
        values = shifted(values, shift - whole)
        # A gap was filled, and its surroundings depend on that.
        known = ~(binary_dilation(missing) if missing.any() and between else missing)
        if between:
            known[:_BORDER] = known[-_BORDER:] = False
            known[:, :_BORDER] = known[:, -_BORDER:] = False
        size = [high - low for low, high in window]
        image, has = np.zeros(size, np.float32), np.zeros(size, bool)
        into, out = [], []
        for (low, high), step, length in zip(window, whole, values.shape):
            first, last = max(low, -step), min(high, length - step)
            into.append(slice(first - low, last - low))
            out.append(slice(first + step, last + step))
        image[tuple(into)], has[tuple(into)] = values[tuple(out)], known[tuple(out)]
        return image, has


def follow_drift(series: FrameSeries, reach: float) -> np.ndarray:
    """Return the shifts, each frame aligned to the one before it [n, 2]."""
    before, _ = series.read(0)
    shifts, steps = [np.zeros(2)], []
    for number in range(1, len(series)):
        frame, _ = series.read(number)
        expected = np.median(steps[-_RECENT:], axis=0) if steps else np.zeros(2)
        found = find_shift(before, frame, expected, reach)
        if not found.is_found:
            hint = (
                "The frame shows another area, has drifted farther, or has too much "
                "noise: leave it out, or allow a larger step of the drift."
            )
            raise InputError(
                f"does not match {series.names[number - 1]} within {reach:.0f} px "
                f"(correlation {found.correlation:.3f}, that of noise "
                f"{found.noise:.3f})",
                where=series.names[number],
                hint=hint,
            )
        if min(np.array(series.shape) - abs(found.shift)) < MIN_SIDE:
            y, x = found.shift
            raise InputError(
                f"is shifted by {y:+.0f} px in y and {x:+.0f} px in x against "
                f"{series.names[number - 1]}, nearly the whole frame",
                where=series.names[number],
                wanted=f"{MIN_SIDE} pixels of the frame before in view",
            )
        steps.append(found.shift)
        shifts.append(shifts[-1] + found.shift)
        before = frame
    return np.array(shifts)


def _refine(
    series: FrameSeries, shifts: np.ndarray, fast_axis: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shifts against the mean of the other frames, correlations, and jitter."""
    window = series.common(shifts)
    mean, square, count = _moments(series, shifts, window)
    freedom = max(np.sum(np.maximum(count - 1, 0)), 1)
    variance = float(np.sum(square, dtype=float) / freedom)
    total, level = mean * count.astype(np.float32), float(np.mean(mean))
    moved, correlation, jitter = [], [], []
    for number, shift in enumerate(shifts):
        image, has = series.aligned(number, shift, window)
        others = count - has
        mean = (total - image * has) / np.maximum(others, 1).astype(np.float32)
        mean[others == 0] = level
        found = refine_shift(mean, np.where(has, image, mean), np.zeros(2))
        moved.append(shift + found.shift)
        correlation.append(found.correlation)
        pair = (image, mean) if fast_axis else (image.T, mean.T)
        noise = variance / (len(series) - 1)
        # The mean of the others is displaced too, by the mean of theirs.
        share = (len(series) - 1) / len(series)
        jitter.append(np.sqrt(share * max(_jitter_variance(*pair, noise), 0.0)))
    moved = np.array(moved)
    return moved - moved[0], np.array(correlation), np.array(jitter)


def _moments(
    series: FrameSeries, shifts: np.ndarray, window: tuple
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, sum of squared deviations and number of frames of each pixel.

    B. P. Welford, Technometrics 4, 419 (1962).
    """
    size = [high - low for low, high in window]
    mean, square = np.zeros(size, np.float32), np.zeros(size, np.float32)
    count = np.zeros(size, np.int32)
    for number, shift in enumerate(shifts):
        image, has = series.aligned(number, shift, window)
        count += has
        step = (image - mean) * has
        mean += step / np.maximum(count, 1).astype(np.float32)
        square += step * (image - mean)
    return mean, square, count


def _jitter_variance(image: np.ndarray, mean: np.ndarray, noise: float) -> float:
    """Return the variance of the displacement of lines along axis 1, pixels squared.

    For small displacements ``d`` of a line, ``image - mean`` is ``-d`` times the
    gradient along the line. A straight trend over the lines is drift, not jitter.

    Args:
        image: Aligned frame [H, W].
        mean: Of the other frames [H, W].
        noise: Variance of the noise of the mean.
    """
    half = image.shape[1] // 2
    if half < _MIN_JITTER_COLUMNS:
        return 0.0
    kernel = gaussian_filter1d(np.eye(1, 33, 16)[0], _JITTER_BLUR, order=1)
    gradient = gaussian_filter1d(mean, _JITTER_BLUR, axis=1, order=1)
    moved = gradient * gaussian_filter1d(mean - image, _JITTER_BLUR, axis=1)
    squares = gradient**2 - noise * np.sum(kernel**2)
    cut = np.s_[:, : 2 * half]
    products = moved[cut].reshape(len(image), 2, half).sum(axis=2)
    weights = np.maximum(squares[cut].reshape(len(image), 2, half).sum(axis=2), 0.0)
    row = np.linspace(-1, 1, len(image))
    design = np.stack([np.ones(len(row)), row], axis=1)
    # Least squares of products = weights * (a + b row), of both halves.
    both, total = products.sum(axis=1), weights.sum(axis=1)
    trend = np.linalg.lstsq(total[:, None] * design, both, rcond=None)[0]
    rest = products - weights * (design @ trend)[:, None]
    return float(rest.prod(axis=1).sum() / max(weights.prod(axis=1).sum(), 1e-30))
