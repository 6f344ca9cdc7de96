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
what they depend on; how each is drawn here is ours, see docs/stem_noise.md.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.ndimage import gaussian_filter1d
from scipy.special import boxcox
from scipy.stats import tukeylambda

MODES = ("haadf", "bf")
FORMAT = "ppmat STEM noise"
VERSION = 1


class NoiseFormatError(ValueError):
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
        """
        background, scan, pointwise = rng.spawn(3)
        gradient = np.hypot(*np.gradient(clean))
        noise = self.background_sd * _unit_variance(
            gaussian_filter(
                background.standard_normal(clean.shape), self.background_length
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
        model = dataclasses.replace(
            self,
            **{name: factor * getattr(self, name) for name in in_units},
            low=factor * self.low + offset,
            high=factor * self.high + offset,
            standard_errors={
                name: error * (factor if name in in_units else 1.0)
                for name, error in self.standard_errors.items()
            },
        )
        moved = model.pointwise_intercept - self.pointwise_slope * offset
        return dataclasses.replace(model, pointwise_intercept=moved)

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
        kinds = {f.name: type(f.default) for f in dataclasses.fields(cls)}
        del kinds["standard_errors"]
        if set(parameters) != set(kinds):
            odd = sorted(set(parameters) ^ set(kinds))
            raise NoiseFormatError(
                f"{where}: missing or unknown in 'parameters': {', '.join(odd)}"
            )
        for name, kind in kinds.items():
            _check(parameters[name], kind, name, where)
        for name, error in errors.items():
            _check(error, float, f"standard_errors.{name}", where)
        return cls(**parameters, standard_errors=errors)

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


def _check(value: object, kind: type, name: str, where: str) -> None:
    """Refuse what cannot be the value of a parameter."""
    legal = {
        "fast_axis": lambda v: v in (0, 1),
        "mode": lambda v: v in MODES,
        "background_sd": lambda v: v >= 0,
        "background_length": lambda v: v > 0,
        "scan_length": lambda v: v > 0,
        "pointwise_lambda": lambda v: v > -0.5,  # the variance is infinite below
    }
    fits = isinstance(value, (int, float) if kind is float else kind)
    fits = fits and not isinstance(value, bool)
    if kind is float:
        fits = fits and math.isfinite(value)
    if not fits or not legal.get(name, lambda v: True)(value):
        raise NoiseFormatError(f"{where}: {name} cannot be {value!r}")


def _unit_variance(field: np.ndarray) -> np.ndarray:
    field = field - field.mean()
    return field / field.std()


def _streaks(
    rng: np.random.Generator, shape: tuple, length: float, axis: int
) -> np.ndarray:
    """Return noise of variance 1, correlated along one axis only."""
    white = rng.standard_normal(shape)
    # The variance that is left by averaging white noise with this kernel.
    impulse = np.zeros(int(8 * length) | 1)
    impulse[impulse.size // 2] = 1.0
    kernel = gaussian_filter1d(impulse, length, mode="constant")
    return gaussian_filter1d(white, length, axis=axis, mode="wrap") / np.sqrt(
        np.sum(kernel**2)
    )
