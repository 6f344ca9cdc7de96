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

"""Measure the noise of a microscope on some of its noisy images.

The terms are those of the paper (Li et al., CVPR 2025, Fig. 1 and 3); the method is
not. The paper separates them by two blurs, which mixes the terms. Here each term is
measured where the others are absent:

- pointwise noise behind a high pass along the scan lines,
- scan noise from products of pixels of a line, behind a high pass across the lines,
- the background in the longest waves, where they are no specimen.

docs/stem/noise.md has the derivation.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy import fft

from ppmat.stem.noise import background_noise
from ppmat.stem.noise import moments
from ppmat.stem.noise import noise_fits
from ppmat.stem.noise.clean_image import CleanImage
from ppmat.stem.noise.clean_image import column_width_across_lines
from ppmat.stem.noise.clean_image import fit_clean
from ppmat.stem.noise.moments import Residual
from ppmat.stem.noise.moments import Sums
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.noise.raw_frames import CalibrationError
from ppmat.stem.noise.raw_frames import Frame
from ppmat.stem.noise.raw_frames import RoughNoise
from ppmat.stem.noise.raw_frames import prepare_frames
from ppmat.stem.noise.raw_frames import usable_pixels

__all__ = ["Calibration", "CalibrationError", "Curve", "calibrate", "calibrate_noise"]

MIN_COLUMNS = 9  # in an image
MIN_CONTRAST = 0.2  # standard deviation of the clean image, in those of the noise
BINS = 14  # of the gradient, and of the grey value
MIN_PIXELS = 4000  # usable ones, of all images
SIGNIFICANT = 4.0  # least covariance of scan noise, in its standard errors
_DRAWS = 60  # of the bootstrap
_ROUNDS = 2  # of estimating how much noise the fit of the columns removes
_SHORT_LAGS = moments.LAGS[: moments.STREAK_LAGS.stop]
# Correlation of neighbours across the lines above which images count as filtered.
_MAX_NEIGHBOUR_CORRELATION = 0.06
# Least share of usable pixels in an image whose background is measured.
_MIN_USABLE_SHARE = 0.8
_MIN_SLOW_WAVES = 20  # of all images, to measure their background
# Warnings; {sd} is the standard deviation of the slow variation of the specimen.
_NO_BACKGROUND = (
    "the slow variation, of standard deviation {sd}, is no stationary field: it counts "
    "as specimen (thickness, edges, particles), and background noise was not measured. "
    "Give frames of one area with series (--series), or of a flat area"
)
_SOME_SPECIMEN = (
    "slow variation of standard deviation {sd} counts as specimen (a ramp or wedge, or "
    "some of the frames). The rest counts as background noise, but may be specimen "
    "too: give frames of one area with series (--series)"
)
_STRONG_BACKGROUND = (
    "background of standard deviation {sd} is stronger than the noise of a pixel: a "
    "support or thickness is likelier. Give frames of one area with series (--series)"
)
_CHANGING = (
    "the slow variation of the frame differences is no stationary field: the specimen "
    "or the beam changed, and background noise was not measured"
)
# A curve contradicts the differences of a series if a bin is off by more than this
# share of the curve's largest value, and by more than this many standard errors.
_MAX_DISAGREEMENT, _SURE_DISAGREEMENT = 0.1, 4.0
_NO_SCAN_NOISE = np.array([0, 0, NoiseModel.scan_length])  # slope, intercept, length


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

    def scaled(self, factor: float, offset: float, value_factor: float) -> Curve:
        """Return the curve of ``factor * variable + offset``."""
        return dataclasses.replace(
            self,
            variable=self.variable * factor + offset,
            value=self.value * value_factor,
            error=self.error * value_factor,
        )


@dataclass
class SeriesCheck:
    """The noise in differences of frames of one area, without a fit of columns.

    Args:
        pointwise_by_grey: Standard deviation of pointwise noise, in the bins of
            :class:`Calibration`.
        scan_by_gradient: The same of scan noise.
    """

    pointwise_by_grey: Curve
    scan_by_gradient: Curve


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
        specimen_sd: Standard deviation of the slow variation that counts as specimen,
            mean of the frames.
        series: The check by frame differences; None without a series.
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
    specimen_sd: float
    series: SeriesCheck | None
    warnings: list[str]
    columns: int
    images: int
    pixels: int


def calibrate_noise(
    images: np.ndarray | Sequence[np.ndarray], fast_axis: int = 1, mode: str = "haadf"
) -> NoiseModel:
    """Return the noise model of images, with standard errors.

    See :func:`calibrate`; its warnings become ``UserWarning``.
    """
    found = calibrate(images, fast_axis, mode)
    for text in found.warnings:
        warnings.warn(text, stacklevel=2)
    return found.model


def calibrate(
    images: np.ndarray | Sequence[np.ndarray],
    fast_axis: int = 1,
    mode: str = "haadf",
    names: Sequence[str] | None = None,
    seed: int = 0,
    series: bool = False,
) -> Calibration:
    """Measure the noise of one or several images of atomic columns.

    The images may show the same place or different ones. Microscope, mode, dwell time
    and magnification must be the same.

    Args:
        images: An image [H, W], several [n, H, W], a HyperSpy signal of one or
            several, or a list of images of one size, in any units, not filtered. Hot
            pixels are left out, with a warning.
        fast_axis: Axis of the image along which the beam scans a line.
        mode: ``haadf``: columns are bright; ``bf``: they may be dark, bright, or both.
        names: Names of the images in error messages.
        seed: Of the bootstrap, which gives the standard errors, and of the simulated
            noise, which shows how much noise the fit of the columns removes.
        series: The images are frames of one area, in the order in which they were
            taken. Then their differences check the curves, and give the background.

    Raises:
        CalibrationError: The noise cannot be measured on these images.

    Example:
        >>> import numpy as np
        >>> from ppmat.stem.scenes.atom_columns import AtomColumns
        >>> y, x = (v.ravel() for v in np.mgrid[0:96:16.0, 0:96:16.0])
        >>> columns = AtomColumns(y, x, np.full(36, 120.0), np.full(36, 2.8))
        >>> clean = columns.render((96, 96), 80.0)
        >>> noise = NoiseModel(pointwise_intercept=15.0)
        >>> found = calibrate(noise.apply(clean, np.random.default_rng(0)))
        >>> ratio = found.model.pointwise_sd(80.0) / noise.pointwise_sd(80.0)
        >>> bool(abs(ratio - 1) < 0.1)
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise CalibrationError(f"seed is {seed!r}, wanted a whole number of at least 0")
    given = prepare_frames(images, fast_axis, mode, names, series)
    rng = np.random.default_rng(seed)
    rough = _rough_noise(given.frames)
    fits = _fit_columns(given.frames, mode, rough)
    rounding = given.step**2 / 12
    found = _Measurement(given.frames, fits, rough, rounding, fast_axis, rng).run()
    texts = [
        text.format(sd=f"{given.scale * found.specimen_sd:.3g}")
        for text in found.warnings
    ]
    found.warnings[:] = given.warnings + texts
    model = found.model.scaled(given.scale, given.offset)
    strength = model.background_sd
    pointwise = model.pointwise_sd(0.5 * (model.low + model.high))
    if strength > pointwise and not series:
        found.warnings.append(_STRONG_BACKGROUND.format(sd=f"{strength:.3g}"))
    model = dataclasses.replace(model, fast_axis=fast_axis, mode=mode)
    try:
        model.check_range()
    except ValueError as error:
        raise CalibrationError(
            f"this noise is not linear in grey value and gradient: {error}"
        ) from None
    found = _in_units(found, model, given.scale, given.offset)
    found.warnings.extend(_disagreements(found))
    return found


def _rough_noise(frames: list[Frame]) -> RoughNoise:
    """Return a first estimate of the noise, without a clean image."""
    taps = np.array([1.0, -6.0, 15.0, -20.0, 15.0, -6.0, 1.0])
    taps /= np.sqrt(np.sum(taps**2))
    one_bin, lags = np.array([-1.0, 1.0]), np.arange(7)
    powers = []
    for frame in frames:
        flat, every = np.zeros(frame.image.shape), np.ones(frame.image.shape, bool)
        image = Residual(frame.image, flat, flat, every, taps)
        lines = moments.line_products(image, one_bin, lags)
        # A filter along the lines removes scan noise.
        along = moments.line_products(image.transposed(), one_bin, lags[:1])
        scan = lines.product[..., 2:].sum() / lines.count[..., 2:].sum()
        powers.append((along.product.sum() / along.count.sum(), scan))
    pointwise, scan = np.mean(powers, axis=0)
    return RoughNoise(float(np.sqrt(pointwise)), float(np.sqrt(max(scan, 0.0))), 4.0)


def _fit_columns(frames: list[Frame], mode: str, rough: RoughNoise) -> list[CleanImage]:
    """Return the clean images of the frames, or refuse images with too few columns."""
    # BF images of thick specimens may have bright columns too, or only these.
    sign = 1 if mode == "haadf" else None
    fits = [
        fit_clean(f.image, column_width_across_lines(f.image), rough, sign)
        for f in frames
    ]
    for name in dict.fromkeys(frame.name for frame in frames):
        own = [fit for fit, frame in zip(fits, frames) if frame.name == name]
        count = sum(len(fit.columns) for fit in own)
        contrast = max(fit.image.std() for fit in own)
        if count < MIN_COLUMNS or contrast < MIN_CONTRAST * rough.pointwise:
            noun = "column was" if count == 1 else "columns were"
            raise CalibrationError(
                f"{name}: {count} atomic {noun} found, wanted at least {MIN_COLUMNS}; "
                f"the contrast is {contrast / rough.pointwise:.2f} of the noise, "
                f"wanted {MIN_CONTRAST}. Scan noise depends on the gradient of the "
                "image, so it cannot be measured without columns: take frames of a "
                "crystal in focus, or with more contrast"
            )
    return fits


def _in_units(
    found: Calibration, model: NoiseModel, scale: float, offset: float
) -> Calibration:
    """Return the calibration in the units of the images, for its model in these."""
    slope, intercept = found.pointwise_draws.T
    intercept = scale * intercept - offset * slope
    # In other units the intercept lies at another grey value.
    errors = {**model.standard_errors, "pointwise_intercept": float(intercept.std())}
    return dataclasses.replace(
        found,
        model=dataclasses.replace(model, standard_errors=errors),
        scan_by_gradient=found.scan_by_gradient.scaled(scale, 0.0, scale),
        scan_by_grey=found.scan_by_grey.scaled(scale, offset, scale),
        gradient_by_grey=found.gradient_by_grey.scaled(scale, offset, scale),
        pointwise_by_grey=found.pointwise_by_grey.scaled(scale, offset, scale),
        shape_by_grey=found.shape_by_grey.scaled(scale, offset, 1.0),
        scan_draws=found.scan_draws * [1.0, scale],
        pointwise_draws=np.stack([slope, intercept], axis=1),
        specimen_sd=found.specimen_sd * scale,
        series=found.series
        and SeriesCheck(
            found.series.pointwise_by_grey.scaled(scale, offset, scale),
            found.series.scan_by_gradient.scaled(scale, 0.0, scale),
        ),
    )


def _disagreements(found: Calibration) -> list[str]:
    """Return where the differences of a series contradict the curves, a text each."""
    if found.series is None:
        return []
    texts = []
    for noun, variable, own, other in (
        (
            "pointwise",
            "grey value",
            found.pointwise_by_grey,
            found.series.pointwise_by_grey,
        ),
        ("scan", "gradient", found.scan_by_gradient, found.series.scan_by_gradient),
    ):
        scale = np.max(own.value[own.used], initial=0.0)
        away = abs(other.value - own.value)
        odd = own.used & other.used & (away > _MAX_DISAGREEMENT * scale)
        odd &= away > _SURE_DISAGREEMENT * np.hypot(own.error, other.error)
        if odd.any():
            low, high = own.variable[odd].min(), own.variable[odd].max()
            means = [np.mean(curve.value[odd]) for curve in (other, own)]
            texts.append(
                f"{noun} noise in the differences of frames is {means[0]:.3g}, by the "
                f"fit of columns {means[1]:.3g}, at {variable} {low:.3g} to "
                f"{high:.3g} ({np.count_nonzero(odd)} of "
                f"{np.count_nonzero(own.used)} bins). Line jitter and a changing "
                "specimen add to the differences; columns of another shape to the fit"
            )
    return texts


class _Estimate(NamedTuple):
    """The parameters of one draw of the bootstrap, or their standard errors.

    ``scan`` is slope, intercept and length, ``pointwise`` slope and intercept,
    ``shape`` Tukey's lambda. The others are variances [bins].
    """

    scan: np.ndarray
    pointwise: np.ndarray
    shape: float
    scan_by_gradient: np.ndarray
    scan_by_grey: np.ndarray
    pointwise_by_grey: np.ndarray


class _Measurement:
    """The images with their fitted columns, and the measurement on them.

    Args:
        frames: Images with lines along axis 1.
        fits: Their clean images.
        rough: First estimate of the noise.
        rounding: Variance that rounding to grey levels has added.
        fast_axis: As the user gave it, for an error message.
        rng: For simulated noise and the bootstrap.
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
                taps=moments.high_pass(fit.width, fit.image.var(), rough.pointwise**2),
            )
            for frame, fit in zip(frames, fits)
        ]
        self.pairs = [i for i, f in enumerate(frames) if f.difference is not None]
        self.pixels = int(sum(r.usable.sum() for r in self.residuals))
        self._check_clipped(self.pixels >= MIN_PIXELS)
        self.false_waves: list[np.ndarray] = []
        self.parts = [background_noise.NOTHING] * len(fits)
        self.specimen_sd = 0.0
        self._set_bins()

    def _set_bins(self) -> None:
        """Set the edges of the bins by gradient and by grey value."""
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
            along = moments.line_correlation(scan_sums)
            other = moments.line_correlation(across.less(across_left))
            scan = _NO_SCAN_NOISE
            significant = along.streaks > SIGNIFICANT * along.streaks_error
            if significant and along.streaks > 3 * other.streaks:
                scan = noise_fits.fit_scan(scan_sums.means())
            squares = self._squares(self.residuals, scan).less(squares_left)
            pointwise = noise_fits.fit_pointwise(squares.means(), self.rounding)
            if turn < _ROUNDS:
                noise, left = self._simulate(scan, pointwise)
                if turn == 0 and self._put_specimen_aside(scan, pointwise):
                    noise, left = self._simulate(scan, pointwise)
                lines_left = self._lines(left).less(self._lines(noise))
                across_left = self._across(left).less(self._across(noise))
                squares_left = self._squares(left, scan)
                squares_left = squares_left.less(self._squares(noise, scan))
        return self._conclude(scan_sums, squares, scan, pointwise)

    def _lines(self, residuals: list[Residual]) -> Sums:
        edges, lags = self.gradient_edges, moments.LAGS
        return Sums.joined(moments.line_products(r, edges, lags) for r in residuals)

    def _across(self, residuals: list[Residual]) -> Sums:
        """Return the products along axis 0 of the images, where there is no streak."""
        edges = self.gradient_edges[[0, -1]]
        return Sums.joined(
            moments.line_products(r.transposed(), edges, _SHORT_LAGS) for r in residuals
        )

    def _squares(self, residuals: list[Residual], scan: np.ndarray) -> Sums:
        edges = self.grey_edges
        return Sums.joined(moments.pixel_squares(r, edges, scan) for r in residuals)

    def _check_axis(self, lines: Sums, across: Sums) -> None:
        """Refuse streaks along the other axis, and noise correlated across lines."""
        pixels = min(s.count[..., 0].sum() for s in (lines, across))
        self._check_clipped(pixels >= MIN_PIXELS / 2)
        along, other = map(moments.line_correlation, (lines, across))
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
                "images were filtered, resampled, sharpened or compressed (export raw "
                "frames), or hold structure that is no column, such as an amorphous "
                "support (choose another area)"
            )

    def _check_clipped(self, enough: bool) -> None:
        if not enough:
            raise CalibrationError(
                f"{self.pixels} pixels of all images are not clipped, wanted "
                f"{MIN_PIXELS} or more, side by side: many have the least or the "
                "largest value. Change gain and offset of the detector, or save "
                "without clipping to the range of the file"
            )

    def _simulate(
        self, scan: np.ndarray, pointwise: np.ndarray
    ) -> tuple[list[Residual], list[Residual]]:
        """Return simulated noise, and its residual after the fit of the columns."""
        parameters = _parameters(scan, pointwise, NoiseModel.pointwise_lambda)
        model = NoiseModel(background_sd=0.0, **parameters)
        noise, left = [], []
        images = [model.apply(r.clean, self.rng) - r.clean for r in self.residuals]
        for residual, fit, image in zip(self.residuals, self.fits, images):
            rest, waves = fit.unfitted(image)
            self.false_waves.append(waves)
            noise.append(dataclasses.replace(residual, values=image))
            left.append(dataclasses.replace(residual, values=rest))
        return noise, left

    def _put_specimen_aside(self, scan: np.ndarray, pointwise: np.ndarray) -> bool:
        """Add slow waves that are no noise to the clean images; returns if there are.

        So pointwise noise is measured against the grey value that the beam has seen.
        """
        if self.pairs:  # the background is in the differences; the rest repeats
            self.parts = [background_noise.EVERYTHING] * len(self.fits)
        else:
            places, spectra, axes = self._slow_waves(scan, pointwise)
            judged = background_noise.separate(spectra, axes, self._side)
            for i, part in zip(places, judged):
                self.parts[i] = part
        specimen = [_specimen(fit, part) for fit, part in zip(self.fits, self.parts)]
        self.specimen_sd = float(np.mean([part.std() for part in specimen]))
        if not self.specimen_sd:
            return False
        for i, (residual, slow) in enumerate(zip(self.residuals, specimen)):
            clean = residual.clean + slow
            gradient = np.hypot(*np.gradient(clean))
            changed = dataclasses.replace(residual, clean=clean, gradient=gradient)
            self.residuals[i] = changed
        self._set_bins()
        return True

    @property
    def _side(self) -> int:
        return min(self.fits[0].image.shape)

    def _slow_waves(
        self, scan: np.ndarray, pointwise: np.ndarray
    ) -> tuple[list[int], list[background_noise.Waves], list[np.ndarray]]:
        """Return which frames are hardly clipped, their waves, and which are on axes.

        Nothing is returned if the waves are too few to measure a background.
        """
        places, spectra, false, axes = [], [], [], []
        for i, (fit, residual) in enumerate(zip(self.fits, self.residuals)):
            if residual.usable.mean() < _MIN_USABLE_SHARE:
                continue
            wave, floor = background_noise.noise_floor(
                fit.image.shape,
                fit.smooth.shape,
                np.mean((pointwise[1] + pointwise[0] * residual.clean) ** 2),
                np.mean((scan[1] + scan[0] * residual.gradient) ** 2),
                scan[2],
            )
            inside = wave <= fit.cutoff
            inside[0, 0] = False
            along = np.zeros(inside.shape, bool)
            along[0] = along[:, 0] = True
            first, *others = (
                background_noise.Waves(
                    (amplitude**2 / fit.image.size)[inside], wave[inside], floor[inside]
                )
                for amplitude in (fit.smooth, *self.false_waves[i :: len(self.fits)])
            )
            places.append(i)
            spectra.append(first)
            axes.append(along[inside])
            false += others
        if sum(len(waves.power) for waves in spectra) < _MIN_SLOW_WAVES:
            return [], [], []
        return places, background_noise.raised(spectra, false), axes

    def _background(
        self, scan: np.ndarray, pointwise: np.ndarray
    ) -> tuple[background_noise.Background | None, str | None]:
        """Return the background noise if it is significant, and what was wrong."""
        places, spectra, axes = self._slow_waves(scan, pointwise)
        if not places:
            return None, (
                "the background was not measured: too much of each image is clipped, "
                "or the images are too small for slow changes beside the columns"
            )
        parts = [self.parts[i] for i in places]
        found = background_noise.fit_chosen(spectra, axes, parts)
        measured = found is not None and found.is_stationary(self._side)
        if not measured:
            return None, _NO_BACKGROUND
        background = found if found.gain > background_noise.MIN_GAIN else None
        return background, _SOME_SPECIMEN if self.specimen_sd else None

    def _background_of_series(
        self, scan: np.ndarray, pointwise: np.ndarray
    ) -> tuple[background_noise.Background | None, str | None]:
        """Return the background in frame differences, and what was wrong."""
        spectra, side = [], self._side
        for i in self.pairs:
            difference = self.frames[i].difference
            known = np.isfinite(difference)
            cut = np.ix_(known.any(axis=1), known.any(axis=0))
            image = np.where(known, difference, 0.0)[cut]
            smooth = fft.dctn(image, norm="ortho")
            wave, floor = background_noise.noise_floor(
                image.shape,
                image.shape,
                np.mean((pointwise[1] + pointwise[0] * self.residuals[i].clean) ** 2),
                np.mean((scan[1] + scan[0] * self.residuals[i].gradient) ** 2),
                scan[2],
            )
            inside = wave <= self.fits[i].cutoff
            inside[0, 0] = False
            power = (smooth**2 / image.size)[inside]
            waves = background_noise.Waves(power, wave[inside], floor[inside])
            spectra.append(waves)
            side = min(side, *image.shape)
        used = [np.ones(len(waves.power), bool) for waves in spectra]
        found = background_noise.fit_background(spectra, used)
        if not found.is_stationary(side):
            return None, _CHANGING
        return (found if found.gain > background_noise.MIN_GAIN else None), None

    def _check_of_series(self, scan: np.ndarray) -> SeriesCheck:
        """Return the curves of the frame differences, which need no fit of columns."""
        residuals = []
        for i in self.pairs:
            difference = self.frames[i].difference
            known = np.isfinite(difference)
            residual = dataclasses.replace(
                self.residuals[i],
                values=np.where(known, difference, 0.0),
                usable=self.residuals[i].usable & known,
            )
            residuals.append(residual)
        lines, squares = self._lines(residuals), self._squares(residuals, scan)

        def curve(sums: Sums, variance: Callable[[Sums], np.ndarray]) -> Curve:
            blocks = len(sums.count)
            drawn = self.rng.integers(blocks, size=(_DRAWS, blocks))
            weights = (np.bincount(d, minlength=blocks).astype(float) for d in drawn)
            error = np.std([variance(sums.means(w)) for w in weights], axis=0)
            means = sums.means()
            return _curve(means, variance(means), error)

        return SeriesCheck(
            curve(squares, lambda m: noise_fits.pointwise_variance(m, self.rounding)),
            curve(lines, lambda m: noise_fits.scan_variance(m, scan[2])),
        )

    def _conclude(
        self, lines: Sums, squares: Sums, scan: np.ndarray, pointwise: np.ndarray
    ) -> Calibration:
        """Return the calibration with standard errors, by a bootstrap over blocks."""
        edges = self.grey_edges
        tables, shares = zip(
            *(
                moments.residual_histograms(r, edges, scan, pointwise, self.rounding)
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
            moments.line_products(r, edges, _SHORT_LAGS, by_grey=True)
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
        drawn = (self.rng.integers(blocks, size=blocks) for _ in range(_DRAWS))
        draws = [
            estimate(np.bincount(d, minlength=blocks).astype(float)) for d in drawn
        ]
        errors = _Estimate(*(np.std(values, axis=0) for values in zip(*draws)))
        found = estimate(np.ones(blocks))
        scan_errors = errors.scan if has_scan else ()
        model_errors = _parameters(scan_errors, errors.pointwise, errors.shape)
        measure = self._background_of_series if self.pairs else self._background
        background, problem = measure(scan, pointwise)
        sd, length = 0.0, NoiseModel.background_length
        if background is not None:
            sd, length = background.sd, background.length
            model_errors["background_sd"] = background.sd_error
            model_errors["background_length"] = background.length_error
            if self.pairs:  # the slow waves of the frames hold both
                self.specimen_sd = np.sqrt(max(self.specimen_sd**2 - sd**2, 0.0))
        low, high = np.quantile(
            np.stack([r.clean for r in self.residuals]), [0.01, 0.99]
        )
        means, grey, pixels = (s.means() for s in (lines, grey_lines, squares))
        middles = 0.5 * (edges[1:] + edges[:-1])
        slope = grey.first[:, 0]
        by_grey = _curve(grey, found.scan_by_grey, errors.scan_by_grey)
        return Calibration(
            model=NoiseModel(
                **_parameters(scan, pointwise, found.shape),
                background_sd=sd,
                background_length=length,
                low=low,
                high=high,
                standard_errors={k: v for k, v in model_errors.items() if v > 0},
            ),
            scan_by_gradient=_curve(
                means, found.scan_by_gradient, errors.scan_by_gradient
            ),
            scan_by_grey=dataclasses.replace(by_grey, variable=middles),
            gradient_by_grey=Curve(
                middles, slope, np.zeros(BINS), by_grey.count, by_grey.used
            ),
            pointwise_by_grey=_curve(
                pixels, found.pointwise_by_grey, errors.pointwise_by_grey
            ),
            shape_by_grey=_shape_curve(
                pixels.first[:, 0], counts.sum(axis=0), logs, errors.shape
            ),
            scan_draws=np.array([draw.scan[:2] for draw in draws]),
            pointwise_draws=np.array([draw.pointwise for draw in draws]),
            specimen_sd=self.specimen_sd,
            series=self._check_of_series(scan) if self.pairs else None,
            warnings=[problem] if problem else [],
            columns=sum(len(fit.columns) for fit in self.fits),
            images=len({frame.name for frame in self.frames}),
            pixels=self.pixels,
        )


def _specimen(fit: CleanImage, part: str) -> np.ndarray:
    """Return the slow waves of an image that count as specimen [H, W]."""
    if part == background_noise.EVERYTHING:
        return fit.background
    if part == background_noise.ALONG_AXES:
        return fit.background_along_axes
    return np.zeros(fit.image.shape)


def _parameters(
    scan: Sequence[float], pointwise: Sequence[float], shape: float
) -> dict[str, float]:
    """Return pointwise noise and scan noise (or none) by the names of the model."""
    names = "pointwise_slope pointwise_intercept pointwise_lambda".split()
    names += "scan_slope scan_intercept scan_length".split()
    return dict(zip(names, (*pointwise, shape, *scan)))


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
    used = pixels >= moments.MIN_BIN_PIXELS
    shape = [
        noise_fits.best_lambda(c, logs) if u else np.nan for c, u in zip(counts, used)
    ]
    # The error of a bin grows as its share of the pixels shrinks.
    error = error * np.sqrt(counts.sum() / np.maximum(pixels, 1))
    return Curve(grey, np.array(shape), error, pixels, used)
