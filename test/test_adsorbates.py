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

"""Adsorbates by name, element, file or SMILES."""

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

from ppmat.datasets.adsorbates import binding_atom
from ppmat.datasets.adsorbates import read_adsorbate
from ppmat.utils.errors import InputError


def test_element_name_and_file_are_read(tmp_path):
    assert read_adsorbate("O").get_chemical_symbols() == ["O"]
    methanol = read_adsorbate("CH3OH")
    path = tmp_path / "own.xyz"
    write(path, molecule("CH3OH"))
    distances = methanol.get_all_distances()
    assert np.allclose(read_adsorbate(str(path)).get_all_distances(), distances)
    assert np.allclose(distances, molecule("CH3OH").get_all_distances())


@pytest.mark.parametrize(
    "name, wanted", [("CO", "C"), ("OH", "O"), ("H2O", "O"), ("CH3", "C"), ("NH3", "N")]
)
def test_the_atom_with_open_valences_binds(name, wanted):
    adsorbate = read_adsorbate(name)
    assert adsorbate[binding_atom(adsorbate)].symbol == wanted


@pytest.mark.parametrize("text", ["OH-", "NH4+", "Ca2+"])
def test_charged_names_are_refused(text):
    with pytest.raises(InputError, match="charged"):
        read_adsorbate(text)


def test_files_that_are_no_neutral_molecule_are_refused(tmp_path):
    path = str(tmp_path / "own.extxyz")
    atoms = molecule("CO")
    write(path, [atoms, atoms])
    with pytest.raises(InputError, match="holds 2 structures"):
        read_adsorbate(path)
    assert len(read_adsorbate(f"{path}@1")) == 2
    atoms.info["charge"] = -1
    write(path, atoms)
    with pytest.raises(InputError, match="has the charge -1"):
        read_adsorbate(path)
    atoms = molecule("CO")
    atoms.positions[:] = 1.0
    write(path, atoms)
    with pytest.raises(InputError, match="at one place"):
        read_adsorbate(path)


def test_an_unknown_text_says_what_is_legal():
    with pytest.raises(InputError, match="g2 set.*file"):
        read_adsorbate("CHOO")


def test_smiles_are_read_with_rdkit():
    pytest.importorskip("rdkit")
    assert len(read_adsorbate("CCO")) == 9
    assert len(read_adsorbate("CO")) == 2
    assert len(read_adsorbate("smiles:CO")) == 6
    assert len(read_adsorbate("C[N+](=O)[O-]")) == 7  # neutral
    for text, words in (("[OH-]", "charge -1"), ("O.O", "several molecules")):
        with pytest.raises(InputError, match=words):
            read_adsorbate(text)
