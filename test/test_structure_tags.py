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

"""Tags of users' structures of every kind."""

import ase
import numpy as np
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets import guess_tags
from ppmat.datasets import set_tags
from ppmat.datasets.structure_record import unchecked_record
from ppmat.utils.errors import InputError


def ase_layers(adsorbate):
    """A slab of two layers with layer numbers."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(atoms, adsorbate, 1.5, "fcc")
    return atoms


def test_set_tags_returns_a_copy_of_the_same_kind():
    atoms = ase_layers("S")
    structure = AseAtomsAdaptor.get_structure(atoms)
    record = unchecked_record(atoms)
    wanted = [0] * 4 + [1] * 4 + [2]
    for thing, read in (
        (atoms, lambda a: a.get_tags().tolist()),
        (structure, lambda s: s.site_properties["tags"]),
        (record, lambda r: r.tags.tolist()),
    ):
        before = list(read(thing))
        assert guess_tags(thing).tolist() == wanted
        assert read(set_tags(thing)) == wanted and read(thing) == before
        assert read(set_tags(thing, [1] * 9)) == [1] * 9
        with pytest.raises(InputError, match="hold .3.; wanted 0, 1 or 2"):
            set_tags(thing, [3] * 9)
        with pytest.raises(InputError, match="shape .8,.; wanted one for each atom"):
            set_tags(thing, [1] * 8)
    with pytest.raises(TypeError, match="str; wanted ase.Atoms"):
        set_tags("slab.traj")


def test_guessed_tags_leave_the_rest_as_it_is():
    atoms = ase_layers("O")
    atoms.info["sid"] = 7
    atoms.set_constraint(ase.constraints.FixAtoms([0]))
    copy = set_tags(atoms)
    assert copy.info == atoms.info and len(copy.constraints) == 1
    np.testing.assert_array_equal(copy.positions, atoms.positions)
