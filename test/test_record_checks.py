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

"""Checks of a whole record: tags, distances, number of adsorbates."""

import dataclasses

import numpy as np
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111

from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.record_checks import check_record
from ppmat.datasets.record_checks import num_adsorbates
from ppmat.datasets.record_checks import with_wanted_tags
from ppmat.utils.errors import InputError

TAGS = [0] * 4 + [1] * 4 + [2, 2]


def record(height=1.15):
    """Return carbon monoxide on two layers of copper; ``height`` of O over C [Å]."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=10.0, periodic=True)
    add_adsorbate(atoms, "C", 1.9, "ontop")
    add_adsorbate(atoms, "O", 1.9 + height, "ontop")
    fixed = np.arange(10) < 4
    arrays = atoms.numbers, atoms.positions, atoms.cell.array, np.array(TAGS)
    return OC20Record("7", *arrays, fixed=fixed)


def test_adsorbates_are_counted_unless_the_record_says_how_many():
    assert num_adsorbates(record()) == 1
    assert num_adsorbates(record(height=3.0)) == 2
    stated = dataclasses.replace(record(height=3.0), num_adsorbates=1)
    assert num_adsorbates(stated) == 1


def test_atoms_at_one_place_and_other_tags_are_refused():
    check_record(record())
    with pytest.raises(InputError, match="sid 7: atoms .* at the same place"):
        check_record(record(height=0.01))
    check_record(record(height=0.1))
    with pytest.raises(InputError, match="here: .* wanted at least 0.2"):
        check_record(record(height=0.1), closest=0.2, where="here")
    wrong = dataclasses.replace(record(), tags=np.array([*TAGS[:9], 4]))
    with pytest.raises(InputError, match="sid 7: tags hold"):
        check_record(wrong)


def test_missing_tags_are_kept_refused_or_guessed():
    bare = dataclasses.replace(record(), tags=np.zeros(10, dtype=np.int64))
    assert with_wanted_tags(bare, "keep") is bare
    with pytest.raises(InputError, match="there are no tags"):
        with_wanted_tags(bare, "raise")
    assert with_wanted_tags(bare, "guess").tags.tolist() == TAGS
    for choice in ("keep", "raise", "guess"):
        whole = record()
        assert with_wanted_tags(whole, choice) is whole
