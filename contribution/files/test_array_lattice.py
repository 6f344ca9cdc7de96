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
"""BuildStructure takes the lattice of the format array as list and as numpy array."""

import numpy as np
import pytest

from ppmat.datasets.build_structure import BuildStructure

CELL = [[4.0, 0.0, 0.0], [0.5, 5.0, 0.0], [0.2, -0.3, 6.0]]


@pytest.mark.parametrize("convert", [list, np.array, tuple])
def test_lattice_of_any_kind_of_array(convert):
    data = {
        "frac_coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
        "atom_types": [29, 8],
        "lattice": convert(CELL),
    }
    structure = BuildStructure(format="array", niggli=False)(data)
    np.testing.assert_allclose(structure.lattice.abc, np.linalg.norm(CELL, axis=1))
    assert structure.lattice.volume == pytest.approx(abs(np.linalg.det(CELL)))
    assert [site.specie.symbol for site in structure] == ["Cu", "O"]


def test_no_lattice_is_refused():
    data = {"frac_coords": [[0.0, 0.0, 0.0]], "atom_types": [29], "lattice": None}
    with pytest.raises(ValueError, match="needs a lattice"):
        BuildStructure(format="array", niggli=False)(data)
