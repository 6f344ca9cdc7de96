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

"""Properties of the elements that say how strongly their surfaces bind."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

MAX_ATOMIC_NUMBER = 118
NATURAL = 94  # elements up to plutonium; of heavier ones little is measured
# Attributes of pymatgen's Element. The boiling point measures cohesion, with which the
# strength of adsorption on transition metals grows.
PROPERTIES = (
    "group",
    "row",
    "X",  # electronegativity, Pauling
    "atomic_radius",  # Å
    "boiling_point",  # K
)


def element_properties() -> np.ndarray:
    """Return the properties by atomic number, [119, 5], of mean 0 and deviation 1.

    What is not known of an element is the mean of the others: some properties of noble
    gases, and all of elements heavier than plutonium. Row 0 belongs to no element.
    """
    from pymatgen.core.periodic_table import Element  # slow to import

    elements = [Element.from_Z(z) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each unknown value
        table = np.array([[_value(e, name) for name in PROPERTIES] for e in elements])
    known = table[:NATURAL]
    table = (table - np.nanmean(known, axis=0)) / np.nanstd(known, axis=0)
    table[NATURAL:] = math.nan
    return np.concatenate([np.zeros((1, len(PROPERTIES))), np.nan_to_num(table)])


def _value(element: Any, name: str) -> float:
    value = getattr(element, name)
    return math.nan if value is None else float(value)
