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
what they depend on; how each is drawn here is ours, see docs/stem/noise.md.
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

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.ndimage import gaussian_filter1d
from scipy.special import boxcox
from scipy.stats import tukeylambda

from ppmat.utils.errors import InputError

MODES = ("haadf", "bf")
FORMAT = "ppmat STEM noise"
VERSION = 1
LONGEST = 1000.0  # of the lengths in a model, pixels
_NEGATIVE = 0.1  # what a line through uncertain points may fall below 0, of its top


class NoiseFormatError(InputError):
    """A text that is no noise model of this version."""


@dataclass(frozen=True)
class NoiseModel:
    """Noise of one microscope and mode, in the units of its images.

    The defaults of scan and pointwise noise are read off the paper's Fig. 3, which
    shows one HAADF image of grey levels 0 to 255; the others are ours.

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
        low: Darkest value of the clean images that the noise belongs to (their first
            percentile), image units.
        high: Brightest value (99th percentile). A synthetic image with this range has
            the signal-to-noise ratio of the microscope.
        mode: ``haadf`` or ``bf``.
        standard_errors: Of the parameters, by name, where they were measured.

    Raises:
        ValueError: A parameter that no noise has.
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
        for item in dataclasses.fields(self):
            if item.name != "standard_errors":
                value = _plain(getattr(self, item.name), item.name, type(item.default))
                object.__setattr__(self, item.name, value)
        errors = {
            name: _plain(error, f"standard_errors.{name}", float)
            for name, error in self.standard_errors.items()
        }
        object.__setattr__(self, "standard_errors", errors)

    def scan_sd(self, gradient: np.ndarray) -> np.ndarray:
        """Return the standard deviation of scan noise, image units, at least 0.

        Args:
            gradient: ``hypot`` of ``numpy.gradient`` of the clean image, image units
                per pixel.
        """
        return np.maximum(self.scan_intercept + self.scan_slope * gradient, 0)

    def pointwise_sd(self, grey_value: np.ndarray) -> np.ndarray:
        """Return the standard deviation of pointwise noise, image units, at least 0."""
        return np.maximum(
            self.pointwise_intercept + self.pointwise_slope * grey_value, 0
        )

    def apply(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the clean image with one draw of the noise.

        Each term has a stream of its own, so that changing one leaves the others.

        Args:
            clean: Image [H, W].
            rng: Where the three streams come from.

        Returns:
            Image [H, W], neither clipped nor rounded.

        Raises:
            ValueError: No image of at least 2 x 2 pixels.
        """
        check_clean(clean)
        background, scan, pointwise = rng.spawn(3)
        gradient = np.hypot(*np.gradient(clean))
        noise = self.background_sd * _unit_variance(
            gaussian_filter(
                background.standard_normal(clean.shape),
                # Longer ones make no difference but to the rounding.
                min(self.background_length, max(clean.shape)),
            )
        )
        noise += self.scan_sd(gradient) * _streaks(
            scan, clean.shape, self.scan_length, self.fast_axis
        )
        u = pointwise.uniform(size=clean.shape)
        # boxcox(u, a) is (u**a - 1) / a, and log(u) for a = 0.
        shape = boxcox(u, self.pointwise_lambda) - boxcox(1 - u, self.pointwise_lambda)
        shape /= np.sqrt(tukeylambda.var(self.pointwise_lambda))
        return clean + noise + self.pointwise_sd(clean) * shape

    def scaled(self, factor: float, offset: float) -> NoiseModel:
        """Return the noise of the same images after ``factor * image + offset``.

        Slopes have no units of the image in them and stay, standard errors go along.

        Args:
            factor: Above 0.
            offset: New image units.
        """
        if not factor > 0:
            raise ValueError(f"factor is {factor}, wanted a number above 0")
        in_units = ("background_sd", "scan_intercept", "pointwise_intercept")
        changed = {name: factor * getattr(self, name) for name in in_units}
        # In the new units the intercept lies at another grey value.
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

    def to_json(self) -> str:
        """Return the parameters as JSON text."""
        fields = dataclasses.asdict(self)
        record = {"format": FORMAT, "version": VERSION}
        record["standard_errors"] = dict(fields.pop("standard_errors"))
        return json.dumps({**record, "parameters": fields}, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str = "noise model") -> NoiseModel:
        """Return the model of :meth:`to_json`'s text.

        Args:
            text: JSON.
            where: Where the text is from, for errors.

        Raises:
            NoiseFormatError: Not such a text, another version, a parameter that is
                missing, unknown or cannot be meant.
        """
        try:
            record = json.loads(text)
        except ValueError as error:
            raise NoiseFormatError(f"{where} is not JSON: {error}") from None
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise NoiseFormatError(
                f"{where} is no noise model: wanted the key 'format' with {FORMAT!r}, "
                "as calibrate.py writes it"
            )
        if record.get("version") != VERSION:
            raise NoiseFormatError(
                f"{where} is of version {record.get('version')!r}, this program reads "
                f"version {VERSION}: calibrate the frames again"
            )
        errors = record.get("standard_errors", {})
        parameters = record.get("parameters")
        if not isinstance(parameters, dict) or not isinstance(errors, dict):
            raise NoiseFormatError(
                f"{where}: 'parameters' and 'standard_errors' must be mappings"
            )
        known = {f.name for f in dataclasses.fields(cls)} - {"standard_errors"}
        if set(parameters) != known:
            odd = sorted(set(parameters) ^ known)
            raise NoiseFormatError(
                f"{where}: missing or unknown in 'parameters': {', '.join(odd)}"
            )
        try:
            model = cls(**parameters, standard_errors=errors)
            model.check_range()
        except ValueError as error:
            raise NoiseFormatError(f"{where}: {error}") from None
        return model

    def check_range(self) -> None:
        """Refuse what is no noise of images with a signal.

        A model may have been made for its slopes alone, so this is asked of files only.

        Raises:
            ValueError: No signal, or standard deviations below 0 over the range of the
                clean images; the pointwise one may be so by a tenth of its largest
                value, as a straight line through measured points can.
        """
        if not self.low < self.high:
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}, wanted low < high: "
                "that is the signal beside which this noise was measured; calibrate it "
                "on frames with atoms"
            )
        for name in ("scan_slope", "scan_intercept"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} cannot be {getattr(self, name)!r}; wanted 0 or more"
                )
        ends = [
            self.pointwise_intercept + self.pointwise_slope * grey
            for grey in (self.low, self.high)
        ]
        if min(ends) < -_NEGATIVE * max(ends):
            raise ValueError(
                f"pointwise_intercept {self.pointwise_intercept:g} and pointwise_slope "
                f"{self.pointwise_slope:g} give the standard deviations {ends[0]:.3g} "
                f"at low and {ends[1]:.3g} at high; wanted 0 or more"
            )

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> NoiseModel:
        """Read the file of :meth:`save`.

        Raises:
            NoiseFormatError: See :meth:`from_json`, with the path.
            OSError: The file cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise NoiseFormatError(f"{path} is no text, wanted JSON") from None
        return cls.from_json(text, where=str(path))


_LENGTH = (lambda v: 0 < v <= LONGEST, f"above 0, at most {LONGEST:g} pixels")
_LEGAL = {
    "fast_axis": (lambda v: v in (0, 1), "0 or 1"),
    "mode": (lambda v: v in MODES, " or ".join(MODES)),
    "background_sd": (lambda v: v >= 0, "0 or more"),
    "background_length": _LENGTH,
    "scan_length": _LENGTH,
    # The variance is infinite below; beyond 2 the distribution gets longer tails again.
    "pointwise_lambda": (lambda v: -0.5 < v <= 2, "above -0.5, at most 2"),
}


def _plain(value: object, name: str, kind: type) -> float | int | str:
    """Return the value of a parameter as a number or text of Python.

    Raises:
        ValueError: It cannot be the value.
    """
    legal, wanted = _LEGAL.get(name, (lambda v: True, "a finite number"))
    types = {float: Real, int: Integral, str: str}
    fits = isinstance(value, types[kind]) and not isinstance(value, bool)
    if fits and kind is float:
        fits = math.isfinite(value)
    if not fits or not legal(value):
        raise ValueError(f"{name} cannot be {value!r}; wanted {wanted}")
    return kind(value)


def check_clean(clean: np.ndarray) -> None:
    """Refuse what noise cannot be put on.

    Raises:
        ValueError: No image of at least 2 x 2 pixels.
    """
    if np.ndim(clean) != 2 or min(np.shape(clean)) < 2:
        raise ValueError(
            f"the clean image has the shape {np.shape(clean)}, wanted [H, W] with at "
            "least 2 x 2 pixels; frames of a stack get their noise one by one"
        )


def _unit_variance(field: np.ndarray) -> np.ndarray:
    field = field - field.mean()
    return field / field.std()


def _streaks(
    rng: np.random.Generator, shape: tuple, length: float, axis: int
) -> np.ndarray:
    """Return noise of variance 1, correlated along one axis only."""
    white = rng.standard_normal(shape)
    length = min(length, shape[axis])
    # The variance that is left by averaging white noise with this kernel, which meets
    # itself in a line that is shorter.
    size = int(8 * length) | 1
    impulse = np.zeros(min(size, shape[axis]))
    impulse[impulse.size // 2] = 1.0
    mode = "constant" if impulse.size == size else "wrap"
    kernel = gaussian_filter1d(impulse, length, mode=mode)
    return gaussian_filter1d(white, length, axis=axis, mode="wrap") / np.sqrt(
        np.sum(kernel**2)
    )
