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


"""Structures from every format: what is kept, what is changed, what is refused."""

import warnings

import ase
import ase.build
import numpy as np
import pytest
from pymatgen.core import Lattice
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets.build_structure import BuildStructure
from ppmat.datasets.oc20_record import OC20Record
from ppmat.utils.registry import ConfigError

KEEP = {"niggli": False, "canocial": False}

# Left-handed, turned, with the long axis last: nothing a standard setting keeps.
CELL = np.array([[0.0, 8.0, 1.0], [7.0, 0.5, 0.0], [0.3, 0.0, 25.0]])
FRAC = np.array([[0.1, 0.2, 0.3], [0.6, 0.7, 0.4], [-0.2, 1.1, 0.5]])
SPECIES = [29, 29, 8]


def reference():
    return Structure(Lattice(CELL), SPECIES, FRAC)


def same(found, wanted):
    np.testing.assert_allclose(found.lattice.matrix, wanted.lattice.matrix, atol=1e-10)
    np.testing.assert_allclose(found.cart_coords, wanted.cart_coords, atol=1e-10)
    assert found.species == wanted.species


def test_the_reference_is_left_handed():
    assert np.linalg.det(CELL) < 0


@pytest.mark.parametrize("shape", [(3, 3), (1, 3, 3)])
@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist])
def test_array_with_lattice_keeps_the_cell(shape, kind):
    data = {
        "frac_coords": kind(FRAC),
        "atom_types": kind(np.array(SPECIES)),
        "lattice": kind(CELL.reshape(shape)),
    }
    same(BuildStructure("array", **KEEP)(data), reference())


def test_array_with_lengths_and_angles():
    lattice = Lattice(CELL)
    data = {
        "frac_coords": FRAC,
        "atom_types": SPECIES,
        "lengths": np.array([lattice.abc]),
        "angles": np.array([lattice.angles]),
    }
    built = BuildStructure("array", **KEEP)(data)
    np.testing.assert_allclose(built.lattice.parameters, lattice.parameters)
    np.testing.assert_allclose(built.frac_coords, FRAC)


def test_array_prefers_the_lattice():
    data = {
        "frac_coords": FRAC,
        "atom_types": SPECIES,
        "lattice": CELL,
        "lengths": [1, 1, 1],
        "angles": [90, 90, 90],
    }
    same(BuildStructure("array", **KEEP)(data), reference())


@pytest.mark.parametrize("gone", ["frac_coords", "atom_types", "lattice"])
def test_array_names_what_is_missing(gone):
    data = {"frac_coords": FRAC, "atom_types": SPECIES, "lattice": CELL}
    del data[gone]
    with pytest.raises(KeyError, match=gone):
        BuildStructure("array")(data)


def test_ase_atoms_keep_the_cell_order_and_tags():
    atoms = ase.Atoms(
        numbers=SPECIES, scaled_positions=FRAC, cell=CELL, pbc=True, tags=[0, 1, 2]
    )
    built = BuildStructure("ase_atoms", **KEEP)(atoms)
    same(built, reference())
    assert list(built.site_properties["tags"]) == [0, 1, 2]


@pytest.mark.parametrize("format", ["ase_atoms", "array"])
def test_a_record_gives_the_bits_of_its_atoms(format):
    cell = CELL.astype("float32")
    record = OC20Record(
        sid="1",
        atomic_numbers=np.array([29, 29, 8]),
        pos=(FRAC @ cell).astype("float32"),
        cell=cell,
        tags=np.array([0, 1, 2]),
        fixed=np.array([True, False, False]),
    )
    atoms = ase.Atoms(record.atomic_numbers, record.pos, cell=record.cell, pbc=True)
    built, wanted = (
        BuildStructure(format, **KEEP)(record),
        AseAtomsAdaptor.get_structure(atoms),
    )
    np.testing.assert_array_equal(built.atomic_numbers, wanted.atomic_numbers)
    np.testing.assert_array_equal(built.lattice.matrix, wanted.lattice.matrix)
    np.testing.assert_array_equal(built.frac_coords, wanted.frac_coords)
    np.testing.assert_array_equal(built.cart_coords, wanted.cart_coords)


def test_dict():
    same(BuildStructure("dict", **KEEP)(reference().as_dict()), reference())


def test_jarvis_dictionary_without_jarvis():
    data = {
        "lattice_mat": CELL.tolist(),
        "coords": (FRAC @ CELL).tolist(),
        "elements": ["Cu", "Cu", "O"],
        "cartesian": True,
    }
    same(BuildStructure("jarvis", **KEEP)(data), reference())


def test_cif_formats_agree(tmp_path):
    rock_salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    text = rock_salt.to(fmt="cif")
    path = tmp_path / "salt.cif"
    path.write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from_text = BuildStructure("cif_str", **KEEP)(text)
        from_file = BuildStructure("cif_file", **KEEP)(str(path))
        parsed = BuildStructure("cif_str_by_CifParser", **KEEP)(text)
    assert len(from_text) == len(from_file) == 8
    assert len(parsed) == 2
    assert from_text.volume == pytest.approx(4 * parsed.volume)


def test_canocial_standardises_only_when_asked():
    data = {"frac_coords": FRAC, "atom_types": SPECIES, "lattice": CELL}
    turned = BuildStructure("array", niggli=False, canocial=True)(data)
    np.testing.assert_allclose(
        turned.lattice.parameters, Lattice(CELL).parameters, rtol=1e-9
    )
    np.testing.assert_allclose(turned.frac_coords, FRAC)
    assert not np.allclose(turned.lattice.matrix, CELL)
    assert np.linalg.det(turned.lattice.matrix) > 0


def test_niggli_and_primitive_are_applied():
    slab = {
        "frac_coords": [[0.1, 0.2, 0.3]],
        "atom_types": [29],
        "lattice": np.diag([25.0, 8.0, 9.0]),
    }
    reduced = BuildStructure("array", niggli=True, canocial=False)(slab)
    np.testing.assert_allclose(sorted(reduced.lattice.abc), reduced.lattice.abc)
    kept = BuildStructure("array", **KEEP)(slab)
    np.testing.assert_allclose(kept.lattice.abc, [25, 8, 9])
    cubic = ase.build.bulk("Cu", cubic=True)
    assert len(BuildStructure("ase_atoms", primitive=True, **KEEP)(cubic)) == 1
    assert len(BuildStructure("ase_atoms", **KEEP)(cubic)) == 4


@pytest.mark.parametrize("num_cpus", [None, 2])
def test_a_list_gives_a_list_in_order(num_cpus):
    metals = ["Cu", "Ag", "Au", "Pt"]
    atoms = [ase.build.bulk(metal) for metal in metals]
    built = BuildStructure("ase_atoms", num_cpus=num_cpus, **KEEP)(atoms)
    assert [s.composition.reduced_formula for s in built] == metals
    same(built[2], AseAtomsAdaptor.get_structure(atoms[2]))
    assert BuildStructure("ase_atoms")([]) == []


@pytest.mark.parametrize("num_cpus", [None, 2])
def test_a_bad_entry_of_a_list_is_named(num_cpus):
    good = {"frac_coords": FRAC, "atom_types": SPECIES, "lattice": CELL}
    with pytest.raises(ValueError, match=r"item 1 .*lattice"):
        BuildStructure("array", num_cpus=num_cpus)(
            [good, {"frac_coords": FRAC, "atom_types": SPECIES}]
        )


def test_unknown_format_lists_the_legal_ones():
    with pytest.raises(ConfigError, match="cif_file.*Did you mean 'cif_str'"):
        BuildStructure("cif_string")
    with pytest.raises(ConfigError, match="'pickle'.*Legal formats: cif_str, array"):
        BuildStructure.build_one(None, "pickle")
