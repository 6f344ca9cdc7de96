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

"""Properties of elements: the values of pymatgen, scaled."""

import numpy as np
import pytest
from pymatgen.core.periodic_table import Element

from ppmat.utils.element_properties import NATURAL
from ppmat.utils.element_properties import PROPERTIES
from ppmat.utils.element_properties import element_properties


def test_properties_are_those_of_the_elements():
    table = element_properties()
    assert table.shape == (119, len(PROPERTIES))
    assert np.isfinite(table).all()
    for name, column in zip(PROPERTIES, table.T):
        z = [Element(symbol).Z for symbol in ("Cu", "Pt", "O", "W")]
        want = np.array([float(getattr(Element.from_Z(i), name)) for i in z])
        got = column[z]  # the same up to origin and unit, which Cu and O set
        np.testing.assert_allclose(
            (got - got[0]) / (got[2] - got[0]),
            (want - want[0]) / (want[2] - want[0]),
            atol=1e-6,
        )


def test_properties_have_mean_zero_and_deviation_one():
    table = element_properties()[1 : NATURAL + 1]
    known = np.where(table == 0.0, np.nan, table)
    np.testing.assert_allclose(np.nanmean(known, axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.nanstd(known, axis=0), 1.0, atol=1e-9)


@pytest.mark.parametrize("z", [0, 2, 95, 118])
def test_unknown_values_are_the_mean(z):
    assert (element_properties()[z] == 0.0).any()


def test_oc20_elements_are_all_different_and_known():
    z = [1, *range(5, 9), 11, *range(13, 18), *range(19, 35), *range(37, 53), 55]
    z += range(72, 84)
    rows = element_properties()[z]
    assert (rows != 0.0).all()
    distance = np.abs(rows[:, None] - rows).max(axis=-1) + np.eye(len(z))
    assert distance.min() > 0.05
