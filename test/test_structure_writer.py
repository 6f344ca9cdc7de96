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

"""Writing generated structures."""

import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io import read
from helpers_sampler import make_slabs

from ppmat.sampler.structure_writer import FORMATS
from ppmat.sampler.structure_writer import StructureWriter
from ppmat.sampler.structure_writer import result_to_atoms
from ppmat.utils.registry import ConfigError


def result_of(slab, shift=0.1):
    pos = slab.positions
    free = np.array([0, 0, 1, 1, 1])[:, None]
    return {
        "num_atoms": 5,
        "atom_types": slab.numbers.tolist(),
        "lattice": slab.cell.array.tolist(),
        "cart_coords": (pos + shift * free).tolist(),
        "cart_coords_initial": pos.tolist(),
        "tags": slab.get_tags().tolist(),
        "fixed": [True, True, False, False, False],
        "id": slab.info["sid"],
        "sample": 0,
    }


@pytest.mark.parametrize("format", ["extxyz", "traj"])
def test_lossless_formats_keep_everything(tmp_path, format):
    slabs = make_slabs(3)
    made = [result_to_atoms(result_of(slab), slab) for slab in slabs]
    with StructureWriter(tmp_path / "deep" / "out", format) as writer:
        for atoms in made:
            writer.write(atoms, "unused")
        assert not writer.path.exists()  # appears when it is complete
    assert [p.name for p in writer.folder.iterdir()] == [f"structures.{format}"]
    for atoms, slab, new in zip(made, slabs, read(writer.path, ":"), strict=True):
        assert (new.numbers == slab.numbers).all()
        np.testing.assert_allclose(new.positions, atoms.positions, atol=1e-7)
        kept = new.info if format == "traj" else new.arrays
        np.testing.assert_allclose(kept["initial_positions"], slab.positions, atol=1e-7)
        assert new.get_tags().tolist() == [0, 0, 2, 1, 1]
        assert new.constraints[0].index.tolist() == [0, 1]
        assert new.info["sid"] == slab.info["sid"]


def test_cif_keeps_the_order_and_loses_tags(tmp_path):
    slab = make_slabs(2)[1]
    with StructureWriter(tmp_path, "cif") as writer:
        writer.write(result_to_atoms(result_of(slab)), "../a b")
    new = read(tmp_path / ".._a_b.cif")
    assert (new.numbers == slab.numbers).all()
    assert not new.get_tags().any() and not new.constraints


def test_equal_names_of_cif_files_get_numbers(tmp_path):
    names = ["a/b", "a_b", "A_b", "a_b_2", "a b", "ä" * 300, "ä" * 301]
    atoms = result_to_atoms(result_of(make_slabs(1)[0]) | {"source": "x", "frame": 4})
    with StructureWriter(tmp_path, "cif") as writer:
        for number, name in enumerate(names):
            atoms.info["sid"] = str(number)
            writer.write(atoms, name)
    lines = (tmp_path / "structures.csv").read_text().splitlines()
    assert lines[0] == "file,sid,sample,source,frame"
    files = [line.split(",")[0] for line in lines[1:]]
    assert files[:4] == ["a_b.cif", "a_b_2.cif", "A_b_3.cif", "a_b_2_2.cif"]
    assert len({file.lower() for file in files}) == len(names)
    assert {path.name for path in tmp_path.glob("*.cif")} == set(files)
    assert lines[3] == "A_b_3.cif,2,0,x,4"


@pytest.mark.parametrize("format", ["extxyz", "traj"])
def test_failure_leaves_no_half_file(tmp_path, format):
    with pytest.raises(RuntimeError), StructureWriter(tmp_path, format) as writer:
        writer.write(make_slabs(1)[0], "a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_is_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown output format 'xyz'.*extxyz"):
        StructureWriter(tmp_path, "xyz")
    assert FORMATS == ("extxyz", "traj", "cif")


def test_result_alone_makes_a_slab():
    slab = make_slabs(1)[0]
    atoms = result_to_atoms(result_of(slab))
    assert atoms.get_tags().tolist() == [0, 0, 2, 1, 1]
    assert isinstance(atoms.constraints[0], FixAtoms)
    assert atoms.pbc.all() and atoms.info == {"sid": "sid0", "sample": 0}
    assert (atoms.positions[:2] == slab.positions[:2]).all()


def test_result_with_lengths_and_angles():
    result = {
        "num_atoms": 1,
        "atom_types": [3],
        "frac_coords": [[0.5, 0.5, 0.5]],
        "lengths": [[3.0, 4.0, 5.0]],
        "angles": [[90.0, 90.0, 90.0]],
    }
    atoms = result_to_atoms(result)
    np.testing.assert_allclose(atoms.positions, [[1.5, 2.0, 2.5]])
