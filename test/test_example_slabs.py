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

"""The example slabs: the file is what the script makes, and commands can read it."""

from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from ase.io import read

from benchmarks.data import example_slabs
from benchmarks.data.oc20_emt_sources import ADSORBATE_ELEMENTS
from benchmarks.data.oc20_emt_sources import METALS
from benchmarks.data.oc20_emt_surfaces import closest_ratio
from benchmarks.data.oc20_emt_surfaces import is_adsorbed
from ppmat.datasets.prepared_records import PreparedRecords
from ppmat.datasets.structure_reader import read_inputs

FILE = Path(__file__).resolve().parents[1] / example_slabs.OUT


def assert_same(stored, made):
    assert len(stored) == len(made) == 6
    for one, two in zip(stored, made, strict=True):
        assert one.info == two.info
        assert one.pbc.all() and two.pbc.all()
        np.testing.assert_array_equal(one.numbers, two.numbers)
        np.testing.assert_array_equal(one.get_tags(), two.get_tags())
        np.testing.assert_allclose(one.positions, two.positions, atol=1e-9)
        np.testing.assert_allclose(one.cell.array, two.cell.array, atol=1e-9)
        (held,), (wanted,) = one.constraints, two.constraints
        np.testing.assert_array_equal(held.index, wanted.index)


def test_the_file_is_what_the_script_makes(tmp_path):
    made = example_slabs.example_slabs()
    assert_same(read(FILE, ":"), made)
    out = tmp_path / "new" / "slabs.traj"
    assert example_slabs.main([str(out)]) == 0
    assert_same(read(out, ":"), made)


def test_the_commands_read_the_file_without_a_warning(capsys):
    records = PreparedRecords(read_inputs([str(FILE)]))
    assert len(records) == 6 and not records.left_out and not records.all_free
    assert "WARNING" not in capsys.readouterr().out


def test_slabs_have_the_form_of_the_emt_sample():
    metals = {atomic_numbers[name] for name in METALS}
    light = {atomic_numbers[name] for name in ADSORBATE_ELEMENTS}
    for slab in example_slabs.example_slabs():
        tags = slab.get_tags()
        assert set(tags) == {0, 1, 2}
        assert set(slab.numbers[tags < 2]) <= metals
        assert set(slab.numbers[tags == 2]) <= light
        np.testing.assert_array_equal(slab.constraints[0].index, np.where(tags == 0)[0])
        height = slab.positions[:, 2]
        assert height[tags == 0].max() < height[tags == 1].min()
        assert slab.cell[2, 2] - np.ptp(height) > 15
        assert closest_ratio(slab, tags == 2) > 0.75
        assert is_adsorbed(slab, tags == 2)
