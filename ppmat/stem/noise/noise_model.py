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

"""The three noise terms of a STEM image (Li et al., CVPR 2025, Fig. 1 and 3).

``I = I_clean + N_background + N_scan + N_pointwise``. The paper names the terms and
their variables. The random fields of this module are our choice, see
docs/stem/noise.md.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from numbers import Integral
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.ndimage import gaussian_filter1d
from scipy.special import boxcox
from scipy.stats import tukeylambda

from ppmat.utils.errors import InputError

MODES = ("haadf", "bf")
FORMAT = "ppmat STEM noise"
VERSION = 1
MAX_LENGTH = 1000.0  # of the lengths in a model, pixels
# Largest allowed negative value of the fitted line of pointwise noise, as a fraction of
# its maximum: a line through uncertain points can be slightly negative at one end.
_MAX_NEGATIVE = 0.1


class NoiseFormatError(InputError):
    """The text is no noise model of this version."""


@dataclass(frozen=True)
class NoiseModel:
    """Noise of one microscope and mode, in the units of its images.

    The defaults of scan and pointwise noise are read from the paper's Fig. 3, which
    shows one HAADF image of grey levels 0 to 255. The other defaults are our choice.

    Args:
        background_sd: Standard deviation of the smooth background, image units.
        background_length: Length over which it changes, pixels.
        scan_slope: Standard deviation of scan noise per gradient, pixels.
        scan_intercept: The same where the image is flat, image units.
        scan_length: Length of a streak along the scan line, pixels.
        pointwise_slope: Standard deviation of pointwise noise per image unit.
        pointwise_intercept: The same at image value 0, image units.
        pointwise_lambda: Shape of its Tukey-lambda distribution; 0.14 is close to
            normal, 0 is logistic.
        fast_axis: Axis of the image along which the beam scans a line.
        low: First percentile of the clean images of this noise, image units.
        high: 99th percentile. A synthetic image with this range has the signal-to-noise
            ratio of the microscope.
        mode: ``haadf`` or ``bf``.
        standard_errors: Of the measured parameters, by name.

    Raises:
        ValueError: A parameter is out of range.

    Example:
        >>> import numpy as np
        >>> noise = NoiseModel(pointwise_intercept=10.0)
        >>> noise.apply(np.full((64, 64), 90.0), np.random.default_rng(0)).shape
        (64, 64)
    """

    background_sd: float = 4.0
    background_length: float = 24.0
    scan_slope: float = 0.125
    scan_intercept: float = 6.2
    scan_length: float = 4.0
    pointwise_slope: float = 0.018
    pointwise_intercept: float = 20.5
    pointwise_lambda: float = 0.17
    fast_axis: int = 1
    low: float = 30.0
    high: float = 180.0
    mode: str = "haadf"
    standard_errors: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self)[:-1]:
            value = _plain(getattr(self, item.name), item.name, type(item.default))
            object.__setattr__(self, item.name, value)
        errors = {
            name: _plain(error, f"standard_errors.{name}", float)
            for name, error in self.standard_errors.items()
        }
        object.__setattr__(self, "standard_errors", errors)

    def scan_sd(self, gradient: np.ndarray) -> np.ndarray:
        """Return the standard deviation of scan noise, image units, at least 0.

        The gradient is ``hypot`` of ``numpy.gradient`` of the clean image.
        """
        return np.maximum(self.scan_intercept + self.scan_slope * gradient, 0)

    def pointwise_sd(self, grey_value: np.ndarray) -> np.ndarray:
        """Return the standard deviation of pointwise noise, image units, at least 0."""
        sd = self.pointwise_intercept + self.pointwise_slope * grey_value
        return np.maximum(sd, 0)

    def apply(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return an image [H, W] with one draw of the noise, not clipped or rounded.

        Each term has its own random stream, so a change of one term leaves the others.

        Raises:
            ValueError: The image has fewer than 2 x 2 pixels, or not two axes.
        """
        check_clean(clean)
        background, scan, pointwise = rng.spawn(3)
        noise = self.background(background, clean.shape)
        noise += self.scan_sd(np.hypot(*np.gradient(clean))) * _streaks(
            scan, clean.shape, self.scan_length, self.fast_axis
        )
        u = pointwise.uniform(size=clean.shape)
        # boxcox(u, a) is (u**a - 1) / a, and log(u) for a = 0.
        shape = boxcox(u, self.pointwise_lambda) - boxcox(1 - u, self.pointwise_lambda)
        shape /= np.sqrt(tukeylambda.var(self.pointwise_lambda))
        return clean + noise + self.pointwise_sd(clean) * shape

    def background(
        self, rng: np.random.Generator, shape: tuple[int, int]
    ) -> np.ndarray:
        """Return one draw of the smooth background, image units [H, W]."""
        # A length beyond the image changes the rounding only.
        length = min(self.background_length, max(shape))
        smooth = gaussian_filter(rng.standard_normal(shape), length)
        smooth -= smooth.mean()
        return self.background_sd * (smooth / smooth.std())

    def scaled(self, factor: float, offset: float) -> NoiseModel:
        """Return the noise of the same images after ``factor * image + offset``.

        Slopes do not depend on the units of the image; standard errors are scaled too.
        """
        if not factor > 0:
            raise ValueError(f"factor is {factor}, wanted a number above 0")
        in_units = ("background_sd", "scan_intercept", "pointwise_intercept")
        changed = {name: factor * getattr(self, name) for name in in_units}
        # The intercept is the value at grey value 0, which has moved.
        changed["pointwise_intercept"] -= self.pointwise_slope * offset
        return dataclasses.replace(
            self,
            **changed,
            low=factor * self.low + offset,
            high=factor * self.high + offset,
            standard_errors={
                name: error * (factor if name in in_units else 1.0)
                for name, error in self.standard_errors.items()
            },
        )

    def to_json(self, calibration: Mapping[str, Any] | None = None) -> str:
        """Return the parameters as JSON text.

        ``calibration`` says what they were measured on, as plain values; it is for the
        reader of the file and is not read again.
        """
        fields = dataclasses.asdict(self)
        record = {"format": FORMAT, "version": VERSION}
        record["standard_errors"] = dict(fields.pop("standard_errors"))
        record["parameters"] = fields
        if calibration is not None:
            record["calibration"] = dict(calibration)
        return json.dumps(record, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str = "noise model") -> NoiseModel:
        """Return the model of :meth:`to_json`'s text; errors name ``where`` it is from.

        Raises:
            NoiseFormatError: The text has another format or version, or a parameter is
                missing, unknown or out of range.
        """
        try:
            record = json.loads(text)
        except ValueError as error:
            raise NoiseFormatError(f"{where} is not JSON: {error}") from None
        try:
            if not isinstance(record, dict) or record.get("format") != FORMAT:
                raise ValueError(
                    f"this is no noise model; wanted the key 'format' with {FORMAT!r}, "
                    "as calibrate.py writes it"
                )
            if record.get("version") != VERSION:
                raise ValueError(
                    f"found version {record.get('version')!r}, wanted version "
                    f"{VERSION}: calibrate the frames again"
                )
            errors = record.get("standard_errors", {})
            parameters = record.get("parameters")
            if not isinstance(parameters, dict) or not isinstance(errors, dict):
                raise ValueError("'parameters' and 'standard_errors' must be mappings")
            odd = {item.name for item in dataclasses.fields(cls)[:-1]} ^ set(parameters)
            if odd:
                names = ", ".join(sorted(odd))
                raise ValueError(f"missing or unknown in 'parameters': {names}")
            model = cls(**parameters, standard_errors=errors)
            model.check_range()
        except ValueError as error:
            raise NoiseFormatError(f"{where}: {error}") from None
        return model

    def check_range(self) -> None:
        """Check that there is a signal, and no negative noise over its range.

        Only files and calibrations are checked; other models may have any range.
        Pointwise noise may be negative by a tenth of its largest value, because it is a
        line through measured points.

        Raises:
            ValueError: There is no signal, or a standard deviation is negative.
        """
        if not self.low < self.high:
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}, wanted low < high: "
                "the range of the clean images; calibrate it on frames with atoms"
            )
        for name in ("scan_slope", "scan_intercept"):
            if getattr(self, name) < 0:
                value = getattr(self, name)
                raise ValueError(f"{name} cannot be {value!r}; wanted 0 or more")
        slope, intercept = self.pointwise_slope, self.pointwise_intercept
        ends = [intercept + slope * grey for grey in (self.low, self.high)]
        if min(ends) < -_MAX_NEGATIVE * max(ends):
            raise ValueError(
                f"pointwise_intercept {intercept:g} and pointwise_slope {slope:g} give "
                f"the standard deviations {ends[0]:.3g} at low and {ends[1]:.3g} at "
                "high; wanted 0 or more"
            )

    def save(
        self, path: str | Path, calibration: Mapping[str, Any] | None = None
    ) -> None:
        """Write :meth:`to_json` to a file."""
        text = self.to_json(calibration) + "\n"
        Path(path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> NoiseModel:
        """Read the file of :meth:`save`; for errors see :meth:`from_json`."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise NoiseFormatError(f"{path} is no text, wanted JSON") from None
        return cls.from_json(text, where=str(path))


_LENGTH = (lambda v: 0 < v <= MAX_LENGTH, f"above 0, at most {MAX_LENGTH:g} pixels")
_LEGAL = {
    "fast_axis": (lambda v: v in (0, 1), "0 or 1"),
    "mode": (lambda v: v in MODES, " or ".join(MODES)),
    "background_sd": (lambda v: v >= 0, "0 or more"),
    "background_length": _LENGTH,
    "scan_length": _LENGTH,
    # Below, the variance is infinite; above 2 the tails grow again.
    "pointwise_lambda": (lambda v: -0.5 < v <= 2, "above -0.5, at most 2"),
}


def _plain(value: object, name: str, kind: type) -> float | int | str:
    """Return the value of a parameter as a plain number or text, or refuse it."""
    legal, wanted = _LEGAL.get(name, (lambda v: True, "a finite number"))
    types = {float: Real, int: Integral, str: str}
    fits = isinstance(value, types[kind]) and not isinstance(value, bool)
    if not fits or (kind is float and not math.isfinite(value)) or not legal(value):
        raise ValueError(f"{name} cannot be {value!r}; wanted {wanted}")
    return kind(value)


def check_clean(clean: np.ndarray) -> None:
    """Check that noise can be added to an image, else raise ``ValueError``."""
    if np.ndim(clean) != 2 or min(np.shape(clean)) < 2:
        raise ValueError(
            f"the clean image has the shape {np.shape(clean)}, wanted [H, W] with at "
            "least 2 x 2 pixels; frames of a stack get their noise one by one"
        )


def _streaks(
    rng: np.random.Generator, shape: tuple, length: float, axis: int
) -> np.ndarray:
    """Return noise of variance 1, correlated along one axis only."""
    white = rng.standard_normal(shape)
    length = min(length, shape[axis])
    # Variance of white noise after this kernel, which wraps around on a short line.
    size = int(8 * length) | 1
    impulse = np.zeros(min(size, shape[axis]))
    impulse[impulse.size // 2] = 1.0
    mode = "constant" if impulse.size == size else "wrap"
    kernel = gaussian_filter1d(impulse, length, mode=mode)
    streaks = gaussian_filter1d(white, length, axis=axis, mode="wrap")
    return streaks / np.sqrt(np.sum(kernel**2))
