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

"""Frames of structure files: formats, compression, databases, limits."""

import gzip
import json
import lzma
import shutil
import sqlite3
import zlib

import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.db.row import AtomsRow
from ase.io import write
from ase.io.jsonio import encode
from helpers_sampler import make_slabs
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets import structure_files
from ppmat.datasets.structure_files import format_of
from ppmat.datasets.structure_files import iter_frames
from ppmat.datasets.structure_files import stem_of
from ppmat.utils.errors import InputError

FORMATS = {
    "slab.traj": "traj",
    "CONTCAR.extxyz": "extxyz",
    "POSCAR_slab.cif": "cif",
    "POSCAR": "vasp",
    "CONTCAR.old": "vasp",
    "POSCAR_2.gz": "vasp",
    "a.POSCAR": "vasp",
    "OUTCAR.xz": "vasp-out",
    "vasprun.xml": "vasp-xml",
    "vasprun_2.xml.gz": "vasp-xml",
    "other.xml": None,
    "vasprun.txt": None,
    "a.extxyz.xz": "extxyz",
    "a.db": "db",
    "a.json.bz2": "json",
    "a.lmdb": "lmdb",
    "a.lmdb.gz": None,
    "a.aselmdb": "aselmdb",
    "notes.txt": None,
    "a.gz": None,
}


def test_format_comes_from_the_suffix_before_the_name():
    assert {name: format_of(f"run/{name}") for name in FORMATS} == FORMATS
    stems = {
        "x/CONTCAR.extxyz": "CONTCAR",
        "POSCAR.gz": "POSCAR",
        "vasprun.xml": "vasprun",
    }
    assert {path: stem_of(path) for path in stems} == stems


def same_slabs(found, wanted, atol=1e-7):
    assert [number for number, _ in found] == list(range(len(wanted)))
    for (_, atoms), slab in zip(found, wanted, strict=True):
        np.testing.assert_allclose(atoms.positions, slab.positions, rtol=0, atol=atol)
        assert atoms.numbers.tolist() == slab.numbers.tolist()
        assert atoms.get_tags().tolist() == slab.get_tags().tolist()
        held = [c.index.tolist() for c in atoms.constraints]
        assert held == [c.index.tolist() for c in slab.constraints]


@pytest.mark.parametrize("packing", ["", ".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".db", ".json"])
def test_files_and_packed_files(tmp_path, suffix, packing):
    slabs = make_slabs(3)
    path = str(tmp_path / f"slabs{suffix}")
    write(path, slabs)
    if packing:
        pack = {".gz": gzip, ".xz": lzma, ".bz2": structure_files.bz2}[packing]
        with open(path, "rb") as source, pack.open(path + packing, "wb") as target:
            shutil.copyfileobj(source, target)
    same_slabs(list(iter_frames(path + packing)), slabs)


def test_packed_streams_one_after_the_other(tmp_path):
    slab = make_slabs(1)[0]
    write(tmp_path / "a.extxyz", slab)
    data = lzma.compress((tmp_path / "a.extxyz").read_bytes())
    (tmp_path / "b.extxyz.xz").write_bytes(data + b"\0" * 4 + data + data)
    same_slabs(list(iter_frames(str(tmp_path / "b.extxyz.xz"))), [slab] * 3)
    (tmp_path / "c.extxyz.xz").write_bytes(data[:-40])
    with pytest.raises(EOFError, match="cut short"):
        list(iter_frames(str(tmp_path / "c.extxyz.xz")))


def test_unpacked_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(structure_files, "MAX_UNPACKED", 3 << 20)
    for name, pack in (("a.extxyz.gz", gzip), ("a.extxyz.xz", lzma)):
        path = tmp_path / name
        path.write_bytes(pack.compress(bytes(4 << 20)))
        with pytest.raises(InputError, match="larger than 3 MiB when unpacked"):
            list(iter_frames(str(path)))
    greedy = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}
    data = lzma.compress(b"x", filters=[greedy])
    (tmp_path / "greedy.extxyz.xz").write_bytes(data)
    with pytest.raises(lzma.LZMAError, match="[Mm]emory"):
        list(iter_frames(str(tmp_path / "greedy.extxyz.xz")))


def write_aselmdb(path, rows):
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 24) as env:
        with env.begin(write=True) as txn:
            for number, text in enumerate(rows, 1):
                txn.put(b"%d" % number, zlib.compress(text))
            txn.put(b"nextid", zlib.compress(b"%d" % (len(rows) + 1)))
            txn.put(b"deleted_ids", zlib.compress(b"[]"))
            txn.put(b"metadata", zlib.compress(b"{}"))


def row_of(slab, plain, **more):
    """The JSON of a row, with plain lists as fairchem writes it, or as ASE does."""
    row = AtomsRow(slab)
    names = [
        k for k in row.__dict__ if k[0] != "_" and k not in row._keys and k != "id"
    ]
    dct = {k: row[k] for k in names}
    dct["cell"] = np.asarray(dct["cell"])
    dct["constraints"] = [c.todict() for c in row.constraints]
    if not plain:
        return encode({**dct, **more}).encode()
    return json.dumps({**dct, **more}, default=lambda a: a.tolist()).encode()


@pytest.mark.parametrize("plain", [True, False])
def test_aselmdb(tmp_path, plain):
    slabs = make_slabs(12)
    rows = [
        row_of(slab, plain, energy=-1.5, data={"sid": f"random{i}"})
        for i, slab in enumerate(slabs)
    ]
    path = tmp_path / "a.aselmdb"
    write_aselmdb(path, rows)
    found = list(iter_frames(str(path)))
    same_slabs(found, slabs)  # key 10 follows key 9
    assert [atoms.info["sid"] for _, atoms in found][:2] == ["random0", "random1"]
    assert found[0][1].calc.results["energy"] == -1.5
    ((number, last),) = iter_frames(str(path), -1)
    assert number == 11 and last.info["sid"] == "random11"


def test_aselmdb_with_a_huge_or_strange_row(tmp_path):
    write_aselmdb(tmp_path / "a.aselmdb", [bytes(65 << 20)])
    with pytest.raises(InputError, match="key '1' is larger than 64 MiB"):
        list(iter_frames(str(tmp_path / "a.aselmdb")))
    write_aselmdb(tmp_path / "b.aselmdb", [b"[1]"])
    with pytest.raises(InputError, match="key '1' holds no row"):
        list(iter_frames(str(tmp_path / "b.aselmdb")))


def test_database_keeps_ids_energies_and_stays_as_it_is(tmp_path):
    slab = make_slabs(1)[0]
    slab.calc = SinglePointCalculator(slab, energy=-2.5)
    with connect(tmp_path / "a.db") as database:
        database.write(slab, key_value_pairs={"site": "fcc"}, data={"sid": "12"})
    ((_, atoms),) = iter_frames(str(tmp_path / "a.db"))
    assert (atoms.info["sid"], atoms.info["site"]) == ("12", "fcc")
    assert atoms.get_potential_energy() == -2.5
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE a (b)")
    before = other.read_bytes()
    with pytest.raises(InputError, match="no database of ASE"):
        list(iter_frames(str(other)))
    assert other.read_bytes() == before  # ASE would have added its tables


def test_pymatgen_json(tmp_path):
    slab = make_slabs(1)[0]
    structure = AseAtomsAdaptor.get_structure(slab)
    structure.remove_site_property("tags")
    names = ["subsurface", "subsurface", "adsorbate", "surface", "surface"]
    free = [[not held] * 3 for held in (1, 1, 0, 0, 0)]
    structure.add_site_property("surface_properties", names)
    structure.add_site_property("selective_dynamics", free)
    (tmp_path / "a.json").write_text(structure.to_json())
    ((_, atoms),) = iter_frames(str(tmp_path / "a.json"))
    assert atoms.get_tags().tolist() == [0, 0, 2, 1, 1]
    assert atoms.constraints[0].index.tolist() == [0, 1]
    assert atoms.get_distance(0, 3, mic=True) == pytest.approx(
        slab.get_distance(0, 3, mic=True)
    )
    structure.replace(0, {"Cu": 0.5, "Ni": 0.5})
    (tmp_path / "b.json").write_text(structure.to_json())
    with pytest.raises(InputError, match="partly occupied"):
        list(iter_frames(str(tmp_path / "b.json")))
    (tmp_path / "c.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="neither a database of ASE nor"):
        list(iter_frames(str(tmp_path / "c.json")))


OUTCAR = """\
 POTCAR:    PAW_PBE Cu 22Jun2005
 POTCAR:    PAW_PBE H 15Jun2001
   ions per type =               1   1
"""


def test_packed_run_takes_constraints_from_beside(tmp_path, monkeypatch):
    slab = Atoms("CuH", [[0, 0, 0], [0, 0, 1.5]], cell=[3, 3, 9], pbc=True)
    held = slab.copy()
    held.set_constraint(FixAtoms([0]))
    write(tmp_path / "CONTCAR", held, format="vasp")
    with gzip.open(tmp_path / "OUTCAR.gz", "wb") as file:
        file.write(OUTCAR.encode())
    monkeypatch.setattr(structure_files, "iread", lambda *a, **k: iter([slab.copy()]))
    ((_, atoms),) = iter_frames(str(tmp_path / "OUTCAR.gz"))
    assert atoms.constraints[0].index.tolist() == [0]


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <kpoints>
  <varray name="kpointlist"><v>0 0 0</v></varray>
  <varray name="weights"><v>1</v></varray>
 </kpoints>
 <atominfo><array name="atoms"><set>
  <rc><c>Cu</c><c>1</c></rc><rc><c>H </c><c>2</c></rc>
 </set></array></atominfo>
 <structure name="initialpos">
  <crystal><varray name="basis"><v>3 0 0</v><v>0 3 0</v><v>0 0 9</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v><v>0 0 0.2</v></varray>
  <varray name="selective">
   <v type="logical">F F F</v><v type="logical">T T T</v>
  </varray>
 </structure>
 {steps}
</modeling>
"""
STEP = """<calculation>
  <structure>
   <crystal><varray name="basis"><v>3 0 0</v><v>0 3 0</v><v>0 0 9</v></varray></crystal>
   <varray name="positions"><v>0 0 0</v><v>0 0 {z}</v></varray>
  </structure>
  <varray name="forces"><v>0 0 0</v><v>0 0 0</v></varray>
  <scstep><energy><i name="e_fr_energy">{e}</i><i name="e_0_energy">{e}</i></energy>
  </scstep>
  <energy><i name="e_fr_energy">{e}</i><i name="e_0_energy">{e}</i></energy>
 </calculation>"""


def vasprun(*steps):
    return VASPRUN.format(steps="".join(STEP.format(z=z, e=e) for z, e in steps))


def test_vasprun_is_a_relaxation(tmp_path):
    (tmp_path / "vasprun.xml").write_text(vasprun((0.2, -3.0), (0.18, -3.5)))
    frames = [atoms for _, atoms in iter_frames(str(tmp_path / "vasprun.xml"))]
    assert [atoms.positions[1, 2] for atoms in frames] == pytest.approx([1.8, 1.62])
    assert [atoms.get_potential_energy() for atoms in frames] == [-3.0, -3.5]
    assert frames[0].constraints[0].index.tolist() == [0]


POSCAR = "x\n1.0\n5 0 0\n0 5 0\n0 0 20\n{kinds}{counts}\nDirect\n0 0 0\n"
EXTXYZ = """{atoms}
Lattice="5 0 0 0 5 0 0 0 20" Properties=species:S:1:pos:R:3{more} pbc="T T T"
Cu 0 0 0 1
"""
NO_ROOM = {
    "a.extxyz": (EXTXYZ.format(atoms=10**9, more=""), "1 lines follow"),
    "b.extxyz": (EXTXYZ.format(atoms=1, more=f":q:I:{10**8}"), "columns in Prop"),
    "c.extxyz": (EXTXYZ.format(atoms=1, more=":q:S:1:a:R:-5"), "columns in Prop"),
    "a.vasp": (POSCAR.format(kinds="Cu\n", counts=3 * 10**8), "declares 300000000"),
    "b.vasp": (POSCAR.format(kinds="", counts=f"1 {10**9}"), "declares 1000000001"),
    "OUTCAR": (OUTCAR.replace("1   1", f"1 {10**8}"), "declares 100000001"),
}


@pytest.mark.parametrize("name", NO_ROOM)
def test_more_atoms_than_the_file_has_room_for(tmp_path, name):
    text, reason = NO_ROOM[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        list(iter_frames(str(tmp_path / name)))


def test_extxyz_with_cell_vectors_after_the_atoms(tmp_path):
    frame = "1\n\nCu 0 0 0\nVEC1 5 0 0\nVEC2 0 5 0\nVEC3 0 0 20\n"
    (tmp_path / "old.xyz").write_text(frame * 2)
    frames = list(iter_frames(str(tmp_path / "old.xyz")))
    assert [atoms.cell.lengths().tolist() for _, atoms in frames] == [[5, 5, 20]] * 2
