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
- the background in the longest waves.

docs/stem/noise.md has the derivation.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Sequence
from numbers import Integral

import numpy as np

from ppmat.stem.noise.clean_image import CleanImage
from ppmat.stem.noise.clean_image import column_width_across_lines
from ppmat.stem.noise.clean_image import fit_clean
from ppmat.stem.noise.measurement import Calibration
from ppmat.stem.noise.measurement import Curve
from ppmat.stem.noise.measurement import Measurement
from ppmat.stem.noise.moments import Residual
from ppmat.stem.noise.moments import line_products
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.noise.raw_frames import CalibrationError
from ppmat.stem.noise.raw_frames import Frame
from ppmat.stem.noise.raw_frames import RoughNoise
from ppmat.stem.noise.raw_frames import prepare_frames

__all__ = ["Calibration", "CalibrationError", "Curve", "calibrate", "calibrate_noise"]

MIN_COLUMNS = 9  # in an image
MIN_CONTRAST = 0.2  # standard deviation of the clean image, in those of the noise


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
        seed: Of the bootstrap and of the simulated noise. The bootstrap gives the
            standard errors; the simulation estimates how much noise the fit of the
            columns removes.

    Returns:
        The noise model, its curves and its warnings, in the units of the images.

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
    given = prepare_frames(images, fast_axis, mode, names)
    frames = given.frames
    rng = np.random.default_rng(seed)
    rough = _rough_noise(frames)
    fits = _fit_columns(frames, mode, rough)
    result = Measurement(frames, fits, rough, given.step**2 / 12, fast_axis, rng).run()
    result.warnings[:0] = given.warnings
    return _in_units(result, fast_axis, mode, given.scale, given.offset)


def _rough_noise(frames: list[Frame]) -> RoughNoise:
    """Return a first estimate of the noise, without a clean image."""
    taps = np.array([1.0, -6.0, 15.0, -20.0, 15.0, -6.0, 1.0])
    taps /= np.sqrt(np.sum(taps**2))
    one_bin, lags = np.array([-1.0, 1.0]), np.arange(7)
    powers = []
    for frame in frames:
        flat, every = np.zeros(frame.image.shape), np.ones(frame.image.shape, bool)
        image = Residual(frame.image, flat, flat, every, taps)
        lines = line_products(image, one_bin, lags)
        # A filter along the lines removes scan noise.
        along = line_products(image.transposed(), one_bin, lags[:1])
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
    number = Counter()
    for frame, fit in zip(frames, fits):
        number[frame.name] += len(fit.columns)
    for name, count in number.items():
        contrast = max(f.image.std() for f, g in zip(fits, frames) if g.name == name)
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
    result: Calibration, fast_axis: int, mode: str, scale: float, offset: float
) -> Calibration:
    """Return the calibration in the units of the images."""

    def moved(curve: Curve, variable: tuple, value: float) -> Curve:
        return dataclasses.replace(
            curve,
            variable=curve.variable * variable[0] + variable[1],
            value=curve.value * value,
            error=curve.error * value,
        )

    model = dataclasses.replace(
        result.model.scaled(scale, offset), fast_axis=fast_axis, mode=mode
    )
    try:
        model.check_range()
    except ValueError as error:
        raise CalibrationError(
            f"this noise is not linear in grey value and gradient: {error}"
        ) from None
    grey, gradient = (scale, offset), (scale, 0.0)
    intercept = scale * result.pointwise_draws[:, 1]
    intercept -= offset * result.pointwise_draws[:, 0]
    # In other units the intercept lies at another grey value.
    errors = {**model.standard_errors, "pointwise_intercept": float(intercept.std())}
    return dataclasses.replace(
        result,
        model=dataclasses.replace(model, standard_errors=errors),
        scan_by_gradient=moved(result.scan_by_gradient, gradient, scale),
        scan_by_grey=moved(result.scan_by_grey, grey, scale),
        gradient_by_grey=moved(result.gradient_by_grey, grey, scale),
        pointwise_by_grey=moved(result.pointwise_by_grey, grey, scale),
        shape_by_grey=moved(result.shape_by_grey, grey, 1.0),
        scan_draws=result.scan_draws * [1.0, scale],
        pointwise_draws=np.stack([result.pointwise_draws[:, 0], intercept], axis=1),
    )
