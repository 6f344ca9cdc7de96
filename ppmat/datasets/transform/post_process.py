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

"""Changes applied to what a model returns."""

from __future__ import annotations

import numpy as np

from ppmat.datasets.transform.preprocess import Keys
from ppmat.datasets.transform.preprocess import KeyTransform
from ppmat.datasets.transform.preprocess import Numbers


class UnNormalize(KeyTransform):
    """Undo a normalisation: ``value * std + mean``.

    Args:
        mean: Mean of the training labels, a number or one per component.
        std: Their standard deviation.
        apply_keys: See :class:`KeyTransform`.
    """

    def __init__(self, mean: Numbers, std: Numbers, apply_keys: Keys = None) -> None:
        super().__init__(apply_keys)
        self.mean = np.asarray(mean, dtype="float64")
        self.std = np.asarray(std, dtype="float64")

    def change(self, value: np.ndarray) -> np.ndarray:
        return value * self.std + self.mean


class PowerData(KeyTransform):
    """Raise a base to the output (``base ** value``) or the output to a power.

    Args:
        base: The base, when the output is the exponent (10 undoes a log10).
        exp: The exponent, when the output is the base.
        apply_keys: See :class:`KeyTransform`.

    Raises:
        ValueError: Not exactly one of ``base`` and ``exp`` is given.
    """

    def __init__(
        self,
        base: float | None = None,
        exp: float | None = None,
        apply_keys: Keys = None,
    ) -> None:
        super().__init__(apply_keys)
        if (base is None) == (exp is None):
            raise ValueError(
                f"PowerData: give either base or exp, got base={base} and exp={exp}"
            )
        self.base = base
        self.exp = exp

    def change(self, value: np.ndarray) -> np.ndarray:
        if self.base is not None:
            return np.power(float(self.base), value)
        return np.power(value, float(self.exp))
