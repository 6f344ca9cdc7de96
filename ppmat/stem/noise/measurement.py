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

"""One calibration: residuals of all images, rounds of fits, standard errors.

The sums come from :mod:`ppmat.stem.noise.moments`, the fits of the noise terms from
:mod:`ppmat.stem.noise.noise_fits`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from dataclasses import field
from typing import NamedTuple

import numpy as np

from ppmat.stem.noise import noise_fits
from ppmat.stem.noise.clean_image import CleanImage
from ppmat.stem.noise.moments import LAGS
from ppmat.stem.noise.moments import MIN_BIN_PIXELS
from ppmat.stem.noise.moments import STREAK_LAGS
from ppmat.stem.noise.moments import Residual
from ppmat.stem.noise.moments import Sums
from ppmat.stem.noise.moments import high_pass
from ppmat.stem.noise.moments import line_correlation
from ppmat.stem.noise.moments import line_products
from ppmat.stem.noise.moments import pixel_squares
from ppmat.stem.noise.moments import residual_histograms
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.noise.raw_frames import CalibrationError
from ppmat.stem.noise.raw_frames import Frame
from ppmat.stem.noise.raw_frames import RoughNoise
from ppmat.stem.noise.raw_frames import usable_pixels

BINS = 14  # of the gradient, and of the grey value
MIN_PIXELS = 4000  # usable ones, of all images
SIGNIFICANT = 4.0  # least covariance of scan noise, in its standard errors
_DRAWS = 60  # of the bootstrap
_ROUNDS = 2  # of estimating how much noise the fit of the columns removes
# Least increase of twice the log likelihood at which a background is reported.
_MIN_BACKGROUND_GAIN = 16.0
_SHORT_LAGS = LAGS[: STREAK_LAGS.stop]
# Correlation of neighbours across the lines above which images count as filtered.
_MAX_NEIGHBOUR_CORRELATION = 0.06
# Least share of usable pixels in an image whose background is measured.
_MIN_USABLE_SHARE = 0.8
_NO_SCAN_NOISE = np.array([0, 0, 4.0])  # slope, intercept, length
_DEFAULT_BACKGROUND_LENGTH = 24.0  # pixels, where no background is found


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
    """The measured noise, all in the units of the images.

    Args:
        model: The noise.
        scan_by_gradient: Standard deviation of scan noise against the gradient.
        scan_by_grey: The same against the grey value.
        gradient_by_grey: Mean gradient against the grey value.
        pointwise_by_grey: Standard deviation of pointwise noise.
        shape_by_grey: Its Tukey-lambda parameter.
        scan_draws: Slope and intercept in each draw of the bootstrap [draws, 2].
        pointwise_draws: The same for pointwise noise.
        warnings: Reasons why the result may be wrong.
        columns: Number of fitted atomic columns.
        images: Number of images.
        pixels: Number of usable pixels.
    """

    model: NoiseModel
    scan_by_gradient: Curve
    scan_by_grey: Curve
    gradient_by_grey: Curve
    pointwise_by_grey: Curve
    shape_by_grey: Curve
    scan_draws: np.ndarray
    pointwise_draws: np.ndarray
    warnings: list[str] = field(default_factory=list)
    columns: int = 0
    images: int = 0
    pixels: int = 0


class _Estimate(NamedTuple):
    """The parameters of one draw of the bootstrap, or their standard errors.

    Attributes:
        scan: Slope, intercept, length.
        pointwise: Slope, intercept.
        shape: Tukey lambda.
        scan_by_gradient: Variance of scan noise [bins].
        scan_by_grey: The same.
        pointwise_by_grey: Variance of pointwise noise [bins].
    """

    scan: np.ndarray
    pointwise: np.ndarray
    shape: float
    scan_by_gradient: np.ndarray
    scan_by_grey: np.ndarray
    pointwise_by_grey: np.ndarray


class Measurement:
    """The images with their fitted columns, and the measurement on them.

    Args:
        frames: Images with lines along axis 1.
        fits: Their clean images.
        rough: First estimate of the noise.
        rounding: Variance that rounding to grey levels has added.
        fast_axis: As the user gave it, for an error message.
        rng: For simulated noise and the bootstrap.

    Raises:
        CalibrationError: Too many pixels are clipped.
    """

    def __init__(
        self,
        frames: list[Frame],
        fits: list[CleanImage],
        rough: RoughNoise,
        rounding: float,
        fast_axis: int,
        rng: np.random.Generator,
    ) -> None:
        self.frames, self.fits, self.rng = frames, fits, rng
        self.rounding, self.fast_axis = rounding, fast_axis
        self.residuals = [
            Residual(
                values=frame.image - fit.image,
                clean=fit.image,
                gradient=np.hypot(*np.gradient(fit.image)),
                usable=usable_pixels(frame, fit.image + fit.background, rough),
                taps=high_pass(fit.width, fit.image.var(), rough.pointwise**2),
            )
            for frame, fit in zip(frames, fits)
        ]
        self.pixels = int(sum(r.usable.sum() for r in self.residuals))
        if self.pixels < MIN_PIXELS:
            self._refuse_clipped()
        self.false_waves: list[np.ndarray] = []
        gradient = np.concatenate([r.gradient[r.usable] for r in self.residuals])
        grey = np.concatenate([r.clean[r.usable] for r in self.residuals])
        self.gradient_edges = np.linspace(0, np.quantile(gradient, 0.998), BINS + 1)
        self.grey_edges = np.linspace(*np.quantile(grey, [0.002, 0.998]), BINS + 1)

    def run(self) -> Calibration:
        """Return the calibration, on the scale of the frames.

        The fit of the columns also fits some of the noise. To correct the sums, the
        measured noise is simulated and fitted alone; each round improves the estimate.
        """
        lines, across = self._lines(self.residuals), self._across(self.residuals)
        self._check_axis(lines, across)
        lines_left = across_left = squares_left = None
        for turn in range(_ROUNDS + 1):
            scan_sums = lines.less(lines_left)
            along = line_correlation(scan_sums)
            other = line_correlation(across.less(across_left))
            scan = _NO_SCAN_NOISE
            significant = along.streaks > SIGNIFICANT * along.streaks_error
            if significant and along.streaks > 3 * other.streaks:
                scan = noise_fits.fit_scan(scan_sums.means())
            squares = self._squares(self.residuals, scan).less(squares_left)
            pointwise = noise_fits.fit_pointwise(squares.means(), self.rounding)
            if turn < _ROUNDS:
                noise, left = self._simulate(scan, pointwise)
                lines_left = self._lines(left).less(self._lines(noise))
                across_left = self._across(left).less(self._across(noise))
                squares_left = self._squares(left, scan).less(
                    self._squares(noise, scan)
                )
        return self._conclude(scan_sums, squares, scan, pointwise)

    def _lines(self, residuals: list[Residual]) -> Sums:
        return Sums.joined(
            line_products(r, self.gradient_edges, LAGS) for r in residuals
        )

    def _across(self, residuals: list[Residual]) -> Sums:
        """Return the products along axis 0 of the images, where there is no streak."""
        edges = self.gradient_edges[[0, -1]]
        return Sums.joined(
            line_products(r.transposed(), edges, _SHORT_LAGS) for r in residuals
        )

    def _squares(self, residuals: list[Residual], scan: np.ndarray) -> Sums:
        return Sums.joined(pixel_squares(r, self.grey_edges, scan) for r in residuals)

    def _check_axis(self, lines: Sums, across: Sums) -> None:
        """Refuse streaks along the other axis, and noise correlated across lines."""
        if min(s.count[..., 0].sum() for s in (lines, across)) < MIN_PIXELS / 2:
            self._refuse_clipped()
        along, other = line_correlation(lines), line_correlation(across)
        significant = other.streaks > 5 * other.streaks_error
        if significant and other.streaks > 2 * along.streaks:
            axis = self.fast_axis
            raise CalibrationError(
                f"the scan noise runs along axis {1 - axis} of the images, not along "
                f"axis {axis} (correlation of noise 2 to 6 pixels apart: "
                f"{other.streaks / other.power:.3f} and "
                f"{along.streaks / along.power:.3f}): give fast_axis={1 - axis}"
            )
        limit = _MAX_NEIGHBOUR_CORRELATION + 5 * other.neighbour_error
        if abs(other.neighbour) > limit:
            raise CalibrationError(
                f"{self.frames[0].name}: noise of neighbouring pixels across the scan "
                f"lines has the correlation {other.neighbour:+.2f}, wanted 0: the "
                "images were filtered, resampled, sharpened or compressed. Export raw "
                "frames"
            )

    def _refuse_clipped(self) -> None:
        raise CalibrationError(
            f"{self.pixels} pixels of all images are not clipped, wanted "
            f"{MIN_PIXELS} or more, side by side: many have the least or the largest "
            "value. Change gain and offset of the detector, or save without clipping "
            "to the range of the file"
        )

    def _simulate(
        self, scan: np.ndarray, pointwise: np.ndarray
    ) -> tuple[list[Residual], list[Residual]]:
        """Return simulated noise, and its residual after the fit of the columns."""
        model = NoiseModel(
            background_sd=0.0,
            scan_slope=scan[0],
            scan_intercept=scan[1],
            scan_length=scan[2],
            pointwise_slope=pointwise[0],
            pointwise_intercept=pointwise[1],
        )
        noise, left = [], []
        images = [model.apply(r.clean, self.rng) - r.clean for r in self.residuals]
        for residual, fit, image in zip(self.residuals, self.fits, images):
            rest, waves = fit.unfitted(image)
            self.false_waves.append(waves)
            noise.append(dataclasses.replace(residual, values=image))
            left.append(dataclasses.replace(residual, values=rest))
        return noise, left

    def _background(
        self, scan: np.ndarray, pointwise: np.ndarray
    ) -> noise_fits.Background | None:
        """Return the background of the images that are not clipped."""
        spectra, false = [], []
        for i, (fit, residual) in enumerate(zip(self.fits, self.residuals)):
            if residual.usable.mean() < _MIN_USABLE_SHARE:
                continue
            wave, floor = noise_fits.noise_floor(
                fit.image.shape,
                fit.smooth.shape,
                np.mean((pointwise[1] + pointwise[0] * fit.image) ** 2),
                np.mean((scan[1] + scan[0] * residual.gradient) ** 2),
                scan[2],
            )
            inside = wave <= fit.cutoff
            inside[0, 0] = False
            found = [fit.smooth, *self.false_waves[i :: len(self.fits)]]
            waves = [
                noise_fits.Waves(
                    (amplitude**2 / fit.image.size)[inside], wave[inside], floor[inside]
                )
                for amplitude in found
            ]
            spectra.append(waves[0])
            false += waves[1:]
        if sum(len(waves.power) for waves in spectra) < 20:
            return None
        return noise_fits.fit_background(spectra, false)

    def _conclude(
        self,
        lines: Sums,
        squares: Sums,
        scan: np.ndarray,
        pointwise: np.ndarray,
    ) -> Calibration:
        """Return the calibration with standard errors, by a bootstrap over blocks."""
        tables, shares = zip(
            *(
                residual_histograms(r, self.grey_edges, scan, pointwise, self.rounding)
                for r in self.residuals
            )
        )
        counts = np.concatenate(tables)
        share = np.average(shares, weights=[table.sum() for table in tables])
        # One filter for all images: their columns have one width.
        order = np.argsort([len(r.taps) for r in self.residuals])
        taps = self.residuals[int(order[len(order) // 2])].taps
        logs = noise_fits.log_densities(taps, float(np.clip(share, 0, 0.9)))
        grey_lines = Sums.joined(
            line_products(r, self.grey_edges, _SHORT_LAGS, by_grey=True)
            for r in self.residuals
        )
        has_scan = scan[:2].any()

        def estimate(weights: np.ndarray) -> _Estimate:
            means, pixels = lines.means(weights), squares.means(weights)
            by_bin = np.tensordot(weights, counts, 1)
            return _Estimate(
                noise_fits.refit_scan(means, scan) if has_scan else scan,
                noise_fits.fit_pointwise(pixels, self.rounding),
                noise_fits.best_lambda(by_bin.sum(axis=0), logs),
                noise_fits.scan_variance(means, scan[2]),
                noise_fits.scan_variance(grey_lines.means(weights), scan[2]),
                noise_fits.pointwise_variance(pixels, self.rounding),
            )

        blocks = len(lines.count)
        draws = [
            estimate(
                np.bincount(
                    self.rng.integers(blocks, size=blocks), minlength=blocks
                ).astype(float)
            )
            for _ in range(_DRAWS)
        ]
        errors = _Estimate(*(np.std(values, axis=0) for values in zip(*draws)))
        found = estimate(np.ones(blocks))
        means, grey_means = lines.means(), grey_lines.means()
        model_errors = {
            "pointwise_slope": errors.pointwise[0],
            "pointwise_intercept": errors.pointwise[1],
            "pointwise_lambda": errors.shape,
        }
        if has_scan:
            for name, error in zip(("slope", "intercept", "length"), errors.scan):
                model_errors[f"scan_{name}"] = error
        background, warnings = self._background(scan, pointwise), []
        sd, length = 0.0, _DEFAULT_BACKGROUND_LENGTH
        if background is None:
            warnings.append(
                "the background was not measured: too much of each image is clipped, "
                "or the images are too small for slow changes beside the columns"
            )
        elif background.gain > _MIN_BACKGROUND_GAIN:
            sd, length = background.sd, background.length
            model_errors["background_sd"] = background.sd_error
            model_errors["background_length"] = background.length_error
        clean = np.stack([residual.clean for residual in self.residuals])
        low, high = np.quantile(clean, [0.01, 0.99])
        model = NoiseModel(
            background_sd=sd,
            background_length=length,
            scan_slope=float(scan[0]),
            scan_intercept=float(scan[1]),
            scan_length=float(scan[2]),
            pointwise_slope=float(pointwise[0]),
            pointwise_intercept=float(pointwise[1]),
            pointwise_lambda=found.shape,
            low=float(low),
            high=float(high),
            standard_errors={k: float(v) for k, v in model_errors.items() if v > 0},
        )
        middles = 0.5 * (self.grey_edges[1:] + self.grey_edges[:-1])
        pixel_means = squares.means()
        return Calibration(
            model=model,
            scan_by_gradient=_curve(
                means, found.scan_by_gradient, errors.scan_by_gradient
            ),
            scan_by_grey=dataclasses.replace(
                _curve(grey_means, found.scan_by_grey, errors.scan_by_grey),
                variable=middles,
            ),
            gradient_by_grey=Curve(
                middles,
                grey_means.first[:, 0],
                np.zeros(BINS),
                grey_means.count[:, 0],
                grey_means.has_enough(),
            ),
            pointwise_by_grey=_curve(
                pixel_means, found.pointwise_by_grey, errors.pointwise_by_grey
            ),
            shape_by_grey=_shape_curve(
                pixel_means.first[:, 0], counts.sum(axis=0), logs, errors.shape
            ),
            scan_draws=np.array([draw.scan[:2] for draw in draws]),
            pointwise_draws=np.array([draw.pointwise for draw in draws]),
            warnings=warnings,
            columns=sum(len(fit.columns) for fit in self.fits),
            images=len({frame.name for frame in self.frames}),
            pixels=self.pixels,
        )


def _curve(means: Sums, variance: np.ndarray, error: np.ndarray) -> Curve:
    """Return standard deviations of variances; 0 for a negative variance."""
    sd = np.sqrt(np.maximum(variance, 0))
    error = error / (2 * np.sqrt(np.maximum(variance, 0.25 * error) + 1e-30))
    return Curve(means.first[:, 0], sd, error, means.count[:, 0], means.has_enough())


def _shape_curve(
    grey: np.ndarray, counts: np.ndarray, logs: np.ndarray, error: float
) -> Curve:
    """Return the Tukey-lambda parameter in each bin of counts [bins, values]."""
    pixels = counts.sum(axis=1)
    used = pixels >= MIN_BIN_PIXELS
    shape = [
        noise_fits.best_lambda(c, logs) if u else np.nan for c, u in zip(counts, used)
    ]
    # The error of a bin grows as its share of the pixels shrinks.
    error = error * np.sqrt(counts.sum() / np.maximum(pixels, 1))
    return Curve(grey, np.array(shape), error, pixels, used)
