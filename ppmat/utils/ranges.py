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

"""Ranges of numbers, declared where a parameter is declared.

``rate: Annotated[float, Range(above=0, most=10)]`` in a constructor is all that is
needed: :func:`ppmat.utils.registry.check_call` refuses other values of a configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """The numbers that a parameter may have; in a list or mapping, each of them.

    Args:
        least: The smallest.
        most: The largest.
        above: All must be larger than this one.
        below: All must be smaller than this one.

    Example:
        >>> 0 in Range(above=0, most=5), 5 in Range(above=0, most=5)
        (False, True)
        >>> print(Range(1, 8), "|", Range(above=0, most=5), "|", Range(0, below=1))
        1 to 8 | above 0, at most 5 | at least 0, below 1
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        in_closed = self.least <= value <= self.most
        return in_closed and self.above < value < self.below

    def __str__(self) -> str:
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"{self.least:,.12g} to {self.most:,.12g}"
        named = {
            "above": self.above,
            "at least": self.least,
            "below": self.below,
            "at most": self.most,
        }
        parts = [f"{k} {v:,.12g}" for k, v in named.items() if math.isfinite(v)]
        return ", ".join(parts)

    def holds(self, value: Any) -> bool:
        """Return whether all numbers in a value of a configuration are in the range.

        Example:
            >>> Range(0, 2).holds([1, 2]), Range(0, 2).holds({"O": 3})
            (True, False)
        """
        return all(number in self for number in _numbers(value))


def _numbers(value: Any) -> Iterable[float]:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, Mapping):
        yield from _numbers(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
