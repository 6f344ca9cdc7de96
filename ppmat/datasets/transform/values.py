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

"""Changes of single values: fields of a sample, or outputs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Keys = None | str | Sequence[str]
Numbers = float | Sequence[float]


class KeyTransform:
    """Change some entries of a dict, each on its own.

    Args:
        apply_keys: Entries to change; every entry when None. Missing entries are
            skipped.
    """

    def __init__(self, apply_keys: Keys = None) -> None:
        single = isinstance(apply_keys, str)
        self.apply_keys = [apply_keys] if single else apply_keys and list(apply_keys)

    def change(self, value: np.ndarray) -> np.ndarray:
        """Return the new value of one entry."""
        raise NotImplementedError(f"{type(self).__name__}.change")

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return a new dict; arrays of floats keep their type."""
        names = data if self.apply_keys is None else self.apply_keys
        changed = {}
        for name in names:
            if name in data:
                before = np.asarray(data[name])
                after = np.asarray(self.change(before))
                keep = before.dtype.kind == "f"
                changed[name] = after.astype(before.dtype) if keep else after
        return {**data, **changed}


class Normalize(KeyTransform):
    """``(value - mean) / std``.

    Args:
        mean: Mean of the training labels, a number or one per component.
        std: Their standard deviation.
        apply_keys: See :class:`KeyTransform`.

    Example:
        >>> sample = {"energy": np.array([3.0]), "id": "a"}
        >>> Normalize(mean=1.0, std=4.0, apply_keys="energy")(sample)
        {'energy': array([0.5]), 'id': 'a'}
    """

    def __init__(self, mean: Numbers, std: Numbers, apply_keys: Keys = None) -> None:
        super().__init__(apply_keys)
        self.mean = np.asarray(mean, dtype="float64")
        self.std = np.asarray(std, dtype="float64")

    def change(self, value: np.ndarray) -> np.ndarray:
        return (value - self.mean) / self.std


class UnNormalize(Normalize):
    """Undo a normalisation: ``value * std + mean``; arguments of :class:`Normalize`."""

    def change(self, value: np.ndarray) -> np.ndarray:
        return value * self.std + self.mean


class Log10(KeyTransform):
    """Decimal logarithm; argument of :class:`KeyTransform`."""

    def change(self, value: np.ndarray) -> np.ndarray:
        return np.log10(value)


class Abs(KeyTransform):
    """Absolute value; argument of :class:`KeyTransform`."""

    def change(self, value: np.ndarray) -> np.ndarray:
        return np.abs(value)


class Scale(KeyTransform):
    """``value * scale``.

    Args:
        scale: The factor.
        apply_keys: See :class:`KeyTransform`.
    """

    def __init__(self, scale: float, apply_keys: Keys = None) -> None:
        super().__init__(apply_keys)
        self.scale = scale

    def change(self, value: np.ndarray) -> np.ndarray:
        return value * self.scale


class PowerData(KeyTransform):
    """Raise a base to the value (``base ** value``) or the value to a power.

    Args:
        base: The base, when the value is the exponent (10 undoes a log10).
        exp: The exponent, when the value is the base. Give one of the two.
        apply_keys: See :class:`KeyTransform`.
    """

    def __init__(
        self,
        base: float | None = None,
        exp: float | None = None,
        apply_keys: Keys = None,
    ) -> None:
        super().__init__(apply_keys)
        if (base is None) == (exp is None):
            raise ValueError(f"PowerData: give either base or exp, got {base}, {exp}")
        self.base, self.exp = base, exp

    def change(self, value: np.ndarray) -> np.ndarray:
        if self.base is not None:
            return np.power(float(self.base), value)
        return np.power(value, float(self.exp))
