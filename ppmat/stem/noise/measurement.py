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


"""The measurements of one calibration, on the images' residuals from fitted columns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from dataclasses import field
from typing import NamedTuple

import numpy as np
from scipy.ndimage import correlate1d

from ppmat.stem.noise import calibration_shape as shapes
from ppmat.stem.noise.clean_image import CleanImage
from ppmat.stem.noise.moments import LAGS
from ppmat.stem.noise.moments import Sums
from ppmat.stem.noise.moments import bin_of
from ppmat.stem.noise.moments import block_of
from ppmat.stem.noise.moments import clear
from ppmat.stem.noise.moments import correlation
from ppmat.stem.noise.moments import fit_pointwise
from ppmat.stem.noise.moments import fit_scan
from ppmat.stem.noise.moments import high_pass
from ppmat.stem.noise.moments import line_products
from ppmat.stem.noise.moments import pixel_squares
from ppmat.stem.noise.moments import quadratic
from ppmat.stem.noise.moments import refit_scan
from ppmat.stem.noise.moments import scan_leak
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.noise.raw_frames import CalibrationError
from ppmat.stem.noise.raw_frames import Frame
from ppmat.stem.noise.raw_frames import usable_pixels

BINS = 14
FEW = 300  # pixels; a bin with fewer says nothing
MIN_PIXELS = 4000  # that can be used, of all images
SIGNIFICANT = 4.0  # standard errors of what is called present
_DRAWS = 60  # of the bootstrap
_ROUNDS = 2  # of finding what the fit of the columns has taken
_BACKGROUND_GAIN = 16.0  # of twice the log likelihood, for a background
_STREAK = slice(2, 7)  # lags on which streaks are told from a blur, pixels
_NEAR = LAGS[: _STREAK.stop]
_CORRELATED = 0.06  # of neighbours, when the pixels' noise is not their own
_SOUND = 0.8  # part of an image that is not clipped, for its background to count


@dataclass
class Curve:
    """A number in bins of another one.

    Args:
        variable: Mean of the bin's variable [bins].
        value: [bins]; NaN where the bin is empty.
        error: Standard error [bins].
        count: Pixels [bins].
        used: Which bins the fit used [bins].
    """

    variable: np.ndarray
    value: np.ndarray
    error: np.ndarray
    count: np.ndarray
    used: np.ndarray


@dataclass
class Calibration:
    """What was measured, all in the units of the images.

    Args:
        model: The noise.
        scan_by_gradient: Standard deviation of scan noise against the gradient.
        scan_by_grey: The same against the grey value.
        gradient_by_grey: Mean gradient against the grey value.
        pointwise_by_grey: Standard deviation of pointwise noise.
        shape_by_grey: Its Tukey-lambda parameter.
        scan_draws: Slope and intercept for redrawn images [draws, 2].
        pointwise_draws: The same for pointwise noise.
        checks: Numbers that were tested, by name.
        warnings: What makes the result doubtful.
        columns: Number of atomic columns that were fitted.
        images: Number of images.
        pixels: Number of pixels that could be used.
    """

    model: NoiseModel
    scan_by_gradient: Curve
    scan_by_grey: Curve
    gradient_by_grey: Curve
    pointwise_by_grey: Curve
    shape_by_grey: Curve
    scan_draws: np.ndarray
    pointwise_draws: np.ndarray
    checks: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    columns: int = 0
    images: int = 0
    pixels: int = 0


class Measurement:
    """The images with their fits, and what is measured on them.

    Args:
        frames: Images with lines along axis 1.
        fits: Their clean images.
        rough: Standard deviations of pointwise and scan noise, and a length.
        rounding: Variance that rounding to grey levels has added.
        fast_axis: What the user said, for the error that it is the other one.
        rng: For the noise that is simulated and the bootstrap.

    Raises:
        CalibrationError: Too many pixels are clipped.
    """

    def __init__(
        self,
        frames: list[Frame],
        fits: list[CleanImage],
        rough: tuple[float, float, float],
        rounding: float,
        fast_axis: int,
        rng: np.random.Generator,
    ) -> None:
        self.frames, self.fits, self.rng = frames, fits, rng
        self.rounding, self.fast_axis = rounding, fast_axis
        self.clean = [fit.image for fit in fits]
        self.residuals = [f.image - c for f, c in zip(frames, self.clean)]
        self.gradients = [np.hypot(*np.gradient(c)) for c in self.clean]
        self.usable = [
            usable_pixels(frame, fit.image + fit.background, rough)
            for frame, fit in zip(frames, fits)
        ]
        self.pixels = int(sum(u.sum() for u in self.usable))
        if self.pixels < MIN_PIXELS:
            self._refuse_saturated()
        self.taps = [
            high_pass(fit.width, fit.image.var(), rough[0] ** 2) for fit in fits
        ]
        self.false_waves: list[np.ndarray] = []
        gradient = np.concatenate([g[u] for g, u in zip(self.gradients, self.usable)])
        grey = np.concatenate([c[u] for c, u in zip(self.clean, self.usable)])
        self.gradient_edges = np.linspace(0, np.quantile(gradient, 0.998), BINS + 1)
        self.grey_edges = np.linspace(*np.quantile(grey, [0.002, 0.998]), BINS + 1)
        self.low, self.high = np.quantile(np.stack(self.clean), [0.01, 0.99])

    def run(self) -> Calibration:
        """Return everything, on the scale of the frames."""
        # What the fit of the columns has taken of the noise is found by letting it fit
        # noise alone. That needs the noise, so each round makes the next one better.
        lines, across = self._lines(self.residuals), self._across(self.residuals)
        self._check_axis(lines, across)
        lines_left = across_left = squares_left = None
        for turn in range(_ROUNDS + 1):
            scan_sums = _less(lines, lines_left)
            present, checks = self._scan_present(scan_sums, _less(across, across_left))
            scan = self._fit_scan(scan_sums, None) if present else np.array([0, 0, 4.0])
            squares = _less(self._squares(self.residuals, scan), squares_left)
            pointwise = self._fit_pointwise(squares, None)
            if turn < _ROUNDS:
                noise = self._simulate(scan, pointwise)
                fitted = [fit.unfitted(n) for fit, n in zip(self.fits, noise)]
                left = [rest for rest, _ in fitted]
                self.false_waves += [waves for _, waves in fitted]
                lines_left = self._lines(left).less(self._lines(noise))
                across_left = self._across(left).less(self._across(noise))
                squares_left = self._squares(left, scan).less(
                    self._squares(noise, scan)
                )
        counts = self._histograms(scan, pointwise)
        return self._conclude(scan_sums, squares, counts, scan, pointwise, checks)

    def _lines(self, residuals: list[np.ndarray]) -> Sums:
        return _join(
            line_products(r, g, u, t, self.gradient_edges, LAGS)
            for r, g, u, t in zip(residuals, self.gradients, self.usable, self.taps)
        )

    def _across(self, residuals: list[np.ndarray]) -> Sums:
        """Return the products along columns of the image, where no streak is."""
        return _join(
            line_products(r.T, g.T, u.T, t, self.gradient_edges[[0, -1]], _NEAR)
            for r, g, u, t in zip(residuals, self.gradients, self.usable, self.taps)
        )

    def _squares(self, residuals: list[np.ndarray], scan: np.ndarray) -> Sums:
        return _join(
            pixel_squares(r, c, u, t, self.grey_edges, scan[1] + scan[0] * g, scan[2])
            for r, c, u, t, g in zip(
                residuals, self.clean, self.usable, self.taps, self.gradients
            )
        )

    def _check_axis(self, lines: Sums, across: Sums) -> None:
        """Refuse streaks along the other axis, and noise that is blurred along both."""
        if min(s.count[..., 0].sum() for s in (lines, across)) < MIN_PIXELS / 2:
            self._refuse_saturated()
        along, other = _streaks(lines), _streaks(across)
        if other.mean > 5 * other.error and other.mean > 2 * along.mean:
            axis = self.fast_axis
            raise CalibrationError(
                f"the scan noise runs along axis {1 - axis} of the images, not along "
                f"axis {axis} (correlation of noise 2 to 6 pixels apart: "
                f"{other.mean / other.power:.3f} and {along.mean / along.power:.3f}): "
                f"give fast_axis={1 - axis}"
            )
        if abs(other.neighbour) > _CORRELATED + 5 * other.neighbour_error:
            raise CalibrationError(
                f"{self.frames[0].name}: noise of neighbouring pixels across the scan "
                f"lines has the correlation {other.neighbour:+.2f}, wanted 0: the "
                "images were filtered, resampled, sharpened or compressed. Export raw "
                "frames"
            )

    def _refuse_saturated(self) -> None:
        raise CalibrationError(
            f"{self.pixels} pixels of all images are free of saturation "
            f"(many have the least or the largest value), wanted {MIN_PIXELS} or more, "
            "side by side: change gain and offset of the detector, or save without "
            "clipping to the range of the file"
        )

    def _scan_present(self, lines: Sums, across: Sums) -> tuple[bool, dict]:
        along, other = _streaks(lines), _streaks(across)
        checks = {
            "scan_significance": along.mean / along.error,
            "across_significance": other.mean / other.error,
            "neighbour_correlation": other.neighbour,
        }
        present = along.mean > SIGNIFICANT * along.error
        return present and along.mean > 3 * other.mean, checks

    def _fit_scan(self, sums: Sums, start: np.ndarray | None) -> np.ndarray:
        """Return slope, intercept, length; ``sums`` are of blocks or means."""
        means = sums if sums.count.ndim == 2 else sums.total(np.ones(len(sums.count)))
        weight = np.sqrt(means.count) / np.maximum(means.product[:, :1], 1e-12)
        weight[:, 0] = 0.0
        weight[~_enough(means)] = 0.0
        if start is not None:
            return refit_scan(means, LAGS, weight, start)
        amplitude = np.sqrt(max(_pooled(means)[1:4].mean(), 1e-6))
        tries = [
            fit_scan(means, LAGS, weight, np.array([0.05, amplitude, length]))
            for length in (1.5, 4.0, 12.0)
        ]

        def loss(p: np.ndarray) -> float:
            model = correlation(LAGS, p[2]) * quadratic(means, p[0], p[1])
            return float(np.sum(((model - means.product) * weight) ** 2))

        return min(tries, key=loss)

    def _fit_pointwise(self, sums: Sums, weights: np.ndarray | None) -> np.ndarray:
        means = sums.total(np.ones(len(sums.count)) if weights is None else weights)
        weight = np.sqrt(means.count[:, 0]) / np.maximum(means.product[:, 0], 1e-12)
        weight[~_enough(means)] = 0.0
        if np.count_nonzero(weight) < 2:
            raise CalibrationError(
                "all usable pixels have nearly the same grey value, so there is no "
                "telling how the noise depends on it; take frames with more contrast"
            )
        return fit_pointwise(means, weight, self.rounding)

    def _simulate(self, scan: np.ndarray, pointwise: np.ndarray) -> list[np.ndarray]:
        model = NoiseModel(
            background_sd=0.0,
            scan_slope=scan[0],
            scan_intercept=scan[1],
            scan_length=scan[2],
            pointwise_slope=pointwise[0],
            pointwise_intercept=pointwise[1],
        )
        return [model.apply(c, self.rng) - c for c in self.clean]

    def _histograms(self, scan: np.ndarray, pointwise: np.ndarray) -> np.ndarray:
        """Return how often each standardised residual occurs [blocks, bins, values].

        Sets the part of their variance that is normal, ``normal_part``.
        """
        tables, parts = [], []
        for r, c, u, t, g in zip(
            self.residuals, self.clean, self.usable, self.taps, self.gradients
        ):
            squares, half = t**2, len(t) // 2
            inner = np.s_[:, half : r.shape[1] - half]
            sd = np.maximum(pointwise[1] + pointwise[0] * c, 1e-9)
            normal = scan_leak(scan[1] + scan[0] * g, t, scan[2]) + self.rounding
            variance = correlate1d(sd**2, squares, axis=1) + normal
            value = (correlate1d(r, t, axis=1) / np.sqrt(variance))[inner]
            grey = correlate1d(c, squares, axis=1)[inner]
            index = bin_of(grey, self.grey_edges)
            keep = clear(u, t, axis=1)[inner] & (index >= 0)
            blocks = block_of(r.shape)
            number = int(blocks.max()) + 1
            group = (blocks[inner] * BINS + index)[keep]
            table = shapes.histogram(value[keep], group, number * BINS)
            tables.append(table.reshape(number, BINS, -1))
            parts.append(np.mean((normal / variance)[inner][keep]) if keep.any() else 0)
        sizes = [t.sum() for t in tables]
        self.normal_part = float(np.clip(np.average(parts, weights=sizes), 0, 0.9))
        return np.concatenate(tables)

    def _background(
        self, scan: np.ndarray, pointwise: np.ndarray
    ) -> shapes.Background | None:
        """Return the background of the images that are not clipped."""
        spectra, false = [], []
        frames = zip(self.fits, self.usable, self.gradients)
        for i, (fit, usable, gradient) in enumerate(frames):
            if usable.mean() < _SOUND:
                continue
            size = fit.smooth.shape
            wave, floor = shapes.noise_floor(
                fit.image.shape,
                size,
                np.mean((pointwise[1] + pointwise[0] * fit.image) ** 2),
                np.mean((scan[1] + scan[0] * gradient) ** 2),
                scan[2],
            )
            power = fit.smooth**2 / fit.image.size
            inside = wave <= fit.cutoff
            inside[0, 0] = False
            spectra.append((power[inside], wave[inside], floor[inside]))
            for waves in self.false_waves[i :: len(self.fits)]:
                power = waves**2 / fit.image.size
                false.append((power[inside], wave[inside], floor[inside]))
        if sum(len(s[0]) for s in spectra) < 20:
            return None
        return shapes.fit_background(spectra, false)

    def _conclude(
        self,
        lines: Sums,
        squares: Sums,
        counts: np.ndarray,
        scan: np.ndarray,
        pointwise: np.ndarray,
        checks: dict[str, float],
    ) -> Calibration:
        blocks = len(lines.count)
        # One filter stands for all images: their columns have one width.
        taps = self.taps[
            int(np.argsort([len(t) for t in self.taps])[len(self.taps) // 2])
        ]
        logs = shapes.log_densities(taps, self.normal_part)
        grey_lines = _join(
            line_products(r, g, u, t, self.grey_edges, _NEAR, c)
            for r, g, u, t, c in zip(
                self.residuals, self.gradients, self.usable, self.taps, self.clean
            )
        )
        by_bin = counts.sum(axis=0)
        draws = []
        for _ in range(_DRAWS):
            weights = np.bincount(
                self.rng.integers(blocks, size=blocks), minlength=blocks
            ).astype(float)
            means = lines.total(weights)
            drawn_scan = self._fit_scan(means, scan) if scan[:2].any() else scan
            bins = np.tensordot(weights, counts, 1)
            draws.append(
                (
                    drawn_scan,
                    self._fit_pointwise(squares, weights),
                    shapes.best_lambda(bins.sum(axis=0), logs),
                    _amplitude(means, LAGS, scan[2]),
                    _amplitude(grey_lines.total(weights), LAGS, scan[2]),
                    _pointwise_variance(squares.total(weights), self.rounding),
                )
            )
        spread = [np.std([d[i] for d in draws], axis=0) for i in range(6)]
        ones = np.ones(blocks)
        means, grey_means = lines.total(ones), grey_lines.total(ones)
        pixel_means = squares.total(ones)
        shape = [
            shapes.best_lambda(b, logs) if b.sum() >= FEW else np.nan for b in by_bin
        ]
        # A bin's parameter is as uncertain as that of all, but for its pixels.
        few = np.sqrt(by_bin.sum() / np.maximum(by_bin.sum(axis=1), 1))
        background = self._background(scan, pointwise)
        warnings = []
        errors = {
            "pointwise_slope": spread[1][0],
            "pointwise_intercept": spread[1][1],
            "pointwise_lambda": spread[2],
        }
        if scan[:2].any():
            for i, name in enumerate(("slope", "intercept", "length")):
                errors[f"scan_{name}"] = spread[0][i]
        sd, length = 0.0, 24.0
        if background is None:
            warnings.append(
                "the background was not measured: too much of each image is clipped, "
                "or the images are too small for slow changes beside the columns"
            )
        elif background.gain > _BACKGROUND_GAIN:
            sd, length = background.sd, background.length
            errors["background_sd"] = background.sd_error
            errors["background_length"] = background.length_error
        if background is not None:
            checks["background_gain"] = background.gain
        model = NoiseModel(
            background_sd=sd,
            background_length=length,
            scan_slope=float(scan[0]),
            scan_intercept=float(scan[1]),
            scan_length=float(scan[2]),
            pointwise_slope=float(pointwise[0]),
            pointwise_intercept=float(pointwise[1]),
            pointwise_lambda=shapes.best_lambda(by_bin.sum(axis=0), logs),
            low=float(self.low),
            high=float(self.high),
            standard_errors={k: float(v) for k, v in errors.items() if v > 0},
        )
        return Calibration(
            model=model,
            scan_by_gradient=_curve(means, _amplitude(means, LAGS, scan[2]), spread[3]),
            scan_by_grey=dataclasses.replace(
                _curve(grey_means, _amplitude(grey_means, LAGS, scan[2]), spread[4]),
                variable=self._grey_middles(),
            ),
            gradient_by_grey=Curve(
                self._grey_middles(),
                grey_means.first[:, 0],
                np.zeros(BINS),
                grey_means.count[:, 0],
                _enough(grey_means),
            ),
            pointwise_by_grey=_curve(
                pixel_means,
                _pointwise_variance(pixel_means, self.rounding),
                spread[5],
            ),
            shape_by_grey=Curve(
                pixel_means.first[:, 0],
                np.array(shape),
                spread[2] * few,
                by_bin.sum(axis=1),
                by_bin.sum(axis=1) >= FEW,
            ),
            scan_draws=np.array([d[0][:2] for d in draws]),
            pointwise_draws=np.array([d[1] for d in draws]),
            checks={name: float(value) for name, value in checks.items()},
            warnings=warnings,
            columns=sum(len(fit.columns) for fit in self.fits),
            images=len({frame.name for frame in self.frames}),
            pixels=self.pixels,
        )

    def _grey_middles(self) -> np.ndarray:
        return 0.5 * (self.grey_edges[1:] + self.grey_edges[:-1])


def _join(parts) -> Sums:
    parts = list(parts)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _less(sums: Sums, other: Sums | None) -> Sums:
    return sums if other is None else sums.less(other)


def _enough(means: Sums) -> np.ndarray:
    """Return which bins have pixels enough to count [bins]."""
    count = means.count[:, 0]
    return count >= max(FEW, 0.002 * count.sum())


def _pooled(means: Sums) -> np.ndarray:
    """Return the mean product at each lag, of all bins."""
    count = means.count
    return np.sum(count * means.product, axis=0) / np.maximum(count.sum(axis=0), 1)


class _Streaks(NamedTuple):
    """How noise goes together along a line.

    Attributes:
        mean: Covariance of pixels 2 to 6 apart.
        error: Its standard error.
        power: Variance.
        neighbour: Correlation of neighbours.
        neighbour_error: Its standard error.
    """

    mean: float
    error: float
    power: float
    neighbour: float
    neighbour_error: float


def _streaks(sums: Sums) -> _Streaks:
    product, count = sums.product.sum(axis=1), sums.count.sum(axis=1)

    def mean(lags: slice) -> tuple[float, float]:
        block, pixels = product[:, lags].sum(axis=1), count[:, lags].sum(axis=1)
        value = block.sum() / pixels.sum()
        spread = np.sqrt(np.sum((block - value * pixels) ** 2))
        return float(value), float(spread / pixels.sum())

    power, _ = mean(slice(0, 1))
    neighbour, error = mean(slice(1, 2))
    return _Streaks(*mean(_STREAK), power, neighbour / power, error / power)


def _amplitude(means: Sums, lags: np.ndarray, length: float) -> np.ndarray:
    """Return the variance of scan noise in each bin."""
    rho = correlation(lags[: means.count.shape[1]], length)
    rho[0] = 0.0
    weight = means.count * rho
    return np.sum(weight * means.product, axis=1) / np.maximum(
        np.sum(weight * rho, axis=1), 1e-30
    )


def _pointwise_variance(means: Sums, rounding: float) -> np.ndarray:
    return (means.product - means.leak)[:, 0] - rounding


def _curve(means: Sums, variance: np.ndarray, error: np.ndarray) -> Curve:
    """Return standard deviations of variances; 0 for one that came out negative."""
    sd = np.sqrt(np.maximum(variance, 0))
    error = error / (2 * np.sqrt(np.maximum(variance, 0.25 * error) + 1e-30))
    return Curve(means.first[:, 0], sd, error, means.count[:, 0], _enough(means))
