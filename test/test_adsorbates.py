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
from ase.build import bulk
from ase.build import molecule
from ase.collections import g2
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


@pytest.mark.parametrize("name", ["CO", "CH3OH", "C6H6"])
@pytest.mark.parametrize("suffix", ["cif", "extxyz", "traj"])
def test_a_molecule_cut_by_its_cell_is_put_together(tmp_path, name, suffix):
    atoms = molecule(name)
    atoms.set_cell([[8.0, 0, 0], [2.0, 9.0, 0], [0, 1.0, 10.0]])
    atoms.pbc = True
    atoms.wrap()  # about the origin, so that all three faces cut it
    path = str(tmp_path / f"cut.{suffix}")
    write(path, atoms)
    assert atoms.get_all_distances().max() > 6.0
    found = read_adsorbate(path)
    assert found.numbers.tolist() == atoms.numbers.tolist()
    wanted = molecule(name).get_all_distances()
    assert np.allclose(found.get_all_distances(), wanted, atol=1e-3)


def test_every_molecule_of_g2_is_one_molecule_in_a_file(tmp_path):
    for name in g2.names:
        write(tmp_path / "own.xyz", molecule(name))
        assert len(read_adsorbate(str(tmp_path / "own.xyz"))) == len(molecule(name))


def test_cells_count_only_along_periodic_directions(tmp_path):
    atoms = molecule("CO", cell=[8.0, 9.0, 0.0], pbc=[True, True, False])
    write(tmp_path / "co.traj", atoms)
    assert len(read_adsorbate(str(tmp_path / "co.traj"))) == 2
    atoms.set_cell([8.0, 9.0, 2.2])  # its images are bonded, but are none
    write(tmp_path / "co.traj", atoms)
    assert len(read_adsorbate(str(tmp_path / "co.traj"))) == 2
    atoms.pbc = True
    write(tmp_path / "co.traj", atoms)
    with pytest.raises(InputError, match="periodic images"):
        read_adsorbate(str(tmp_path / "co.traj"))


@pytest.mark.parametrize("periodic", [False, True])
def test_several_molecules_are_refused(tmp_path, periodic):
    pair = molecule("H2O")
    second = molecule("H2O")
    second.translate([3.5, 0.0, 0.0])
    pair += second
    pair.set_cell([12.0, 10.0, 10.0])
    pair.pbc = periodic
    write(tmp_path / "two.extxyz", pair)
    with pytest.raises(InputError, match="several molecules"):
        read_adsorbate(str(tmp_path / "two.extxyz"))


def test_bulk_crystals_and_flat_cells_are_refused(tmp_path):
    path = str(tmp_path / "own.traj")
    write(path, bulk("Cu"))
    with pytest.raises(InputError, match="periodic images"):
        read_adsorbate(path)
    flat = [[8.0, 0, 0], [8.0, 0, 0], [0, 0, 8.0]]
    write(path, molecule("CO", cell=flat, pbc=True))
    with pytest.raises(InputError, match="no volume"):
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
