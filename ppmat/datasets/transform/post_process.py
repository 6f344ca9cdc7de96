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

from typing import Any
from typing import Dict
from typing import Optional
from typing import Sequence
from typing import Union

import numpy as np


def _names(apply_keys: Union[None, str, Sequence[str]]) -> Optional[list]:
    if apply_keys is None:
        return None
    return [apply_keys] if isinstance(apply_keys, str) else list(apply_keys)


class UnNormalize:
    """Undo a normalisation: ``value * std + mean``.

    Args:
        mean: Mean of the training labels, a number or one per component.
        std: Their standard deviation.
        apply_keys: Outputs to change; every output when None. An output that is
            missing is passed by.
    """

    def __init__(
        self,
        mean: Union[float, Sequence[float]],
        std: Union[float, Sequence[float]],
        apply_keys: Union[None, str, Sequence[str]] = None,
    ) -> None:
        self.mean = np.asarray(mean, dtype="float64")
        self.std = np.asarray(std, dtype="float64")
        self.apply_keys = _names(apply_keys)

    def __call__(self, data: Dict[str, Any]) -> Dict[str, Any]:
        """Return a new dict with the named outputs changed."""
        names = data if self.apply_keys is None else self.apply_keys
        changed = {
            name: np.asarray(data[name]) * self.std + self.mean
            for name in names
            if name in data
        }
        return {**data, **changed}


class PowerData:
    """Raise a base to the output (``base ** value``) or the output to a power.

    Args:
        base: The base, when the output is the exponent (10 undoes a log10).
        exp: The exponent, when the output is the base.
        apply_keys: Outputs to change; every output when None. An output that is
            missing is passed by.

    Raises:
        ValueError: Not exactly one of ``base`` and ``exp`` is given.
    """

    def __init__(
        self,
        base: Optional[float] = None,
        exp: Optional[float] = None,
        apply_keys: Union[None, str, Sequence[str]] = None,
    ) -> None:
        if (base is None) == (exp is None):
            raise ValueError(
                f"PowerData: give either base or exp, got base={base} and exp={exp}"
            )
        self.base = base
        self.exp = exp
        self.apply_keys = _names(apply_keys)

    def __call__(self, data: Dict[str, Any]) -> Dict[str, Any]:
        """Return a new dict with the named outputs changed."""
        names = data if self.apply_keys is None else self.apply_keys
        values = {name: np.asarray(data[name]) for name in names if name in data}
        if self.base is not None:
            changed = {name: np.power(self.base, v) for name, v in values.items()}
        else:
            changed = {name: np.power(v, self.exp) for name, v in values.items()}
        return {**data, **changed}
