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

"""Reading structures from files, folders and patterns."""

import os

import lmdb
import pytest
from ase import Atoms
from ase.io import write
from helpers_sampler import make_slabs
from helpers_sampler import write_split

from ppmat.datasets import structure_reader
from ppmat.datasets.structure_reader import JoinedSequences
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_reader import find_inputs
from ppmat.datasets.structure_reader import iter_structures
from ppmat.datasets.structure_reader import read_inputs
from ppmat.utils.registry import ConfigError


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slabs = make_slabs(4)
    write("slab.traj", slabs)
    write("b.extxyz", slabs[1])
    os.makedirs("folder")
    write("folder/a.cif", slabs[0])
    write("folder/POSCAR", slabs[2], format="vasp")
    write("folder/c.extxyz", slabs[3])
    open("folder/notes.txt", "w").close()
    write_split("data", 2)
    return slabs


def test_files_folders_and_patterns_are_found(files):
    assert find_inputs(["slab.traj@-1", "folder", "*.extxyz", "data"]) == [
        "slab.traj@-1",
        "folder/POSCAR",
        "folder/a.cif",
        "folder/c.extxyz",
        "b.extxyz",
        "data",
    ]
    assert find_inputs(["data/data.lmdb"]) == ["data/data.lmdb"]


def test_structures_are_read_in_order(files):
    structures, faults = read_inputs(["slab.traj@1:3", "folder", "b.extxyz", "data"])
    assert faults == [] and len(structures) == 8
    ids = [getattr(s, "sid", None) or s.info["sid"] for s in structures]
    assert ids == "sid1 sid2 POSCAR a sid3 sid1 sid0 sid1".split()
    slab = structures[0]
    assert slab.get_tags().tolist() == [0, 0, 2, 1, 1]
    assert slab.constraints[0].index.tolist() == [0, 1]
    assert structures[-1].pos_relaxed is not None


def test_frames_without_an_id_are_numbered(files):
    slabs = make_slabs(2)
    for slab in slabs:
        del slab.info["sid"]
    write("two.traj", slabs)
    structures, _ = read_inputs(["two.traj"])
    assert [s.info["sid"] for s in structures] == ["two_0", "two_1"]
    structures, _ = read_inputs(["two.traj@1"])
    assert [s.info["sid"] for s in structures] == ["two"]


BAD_INPUTS = {
    "nothing": ([], "no input structure is given"),
    "missing": (["none.traj"], "not found: none.traj"),
    "pattern": (["*.vasp"], r"no file matches the pattern \*.vasp"),
    "format": (["folder/notes.txt"], "notes.txt: unknown format. Legal: .traj, .cif"),
    "empty folder": (["empty"], "folder empty holds no file that can be read"),
}


@pytest.mark.parametrize("case", sorted(BAD_INPUTS))
def test_bad_input_is_named(files, case):
    os.makedirs("empty")
    inputs, message = BAD_INPUTS[case]
    with pytest.raises(ConfigError, match=message):
        read_inputs(inputs)


def test_bad_files_are_reported_and_the_others_go_on(files):
    with open("folder/b.cif", "w") as file:
        file.write("data_rubbish\n_cell_length_a what\n")
    open("folder/d.traj", "wb").close()
    with open("folder/g.cif", "w") as file:
        file.write("no CIF at all\n")
    molecule = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]])
    write("folder/e.extxyz", [make_slabs(1)[0], molecule])
    os.makedirs("folder/f.lmdb")
    structures, faults = read_inputs(["slab.traj", "folder/*.cif", "folder/d.traj"])
    assert len(structures) == 5 and len(faults) == 3
    assert faults[0] == "folder/b.cif: holds no structure"
    # An assertion of ASE without a text.
    assert "g.cif: cannot be read as cif: AssertionError: the file is dam" in faults[1]
    assert faults[2].startswith("folder/d.traj: cannot be read as traj")
    structures, faults = read_inputs(["folder/e.extxyz"])
    assert len(structures) == 1
    assert faults[0].startswith("folder/e.extxyz frame 1: ")
    assert "no cell" in faults[0]


def test_unusable_database_is_reported(files):
    with open("bad.lmdb", "wb") as file:
        file.write(b"not an lmdb" * 1000)
    structures, faults = read_inputs(["bad.lmdb", "b.extxyz"])
    assert len(structures) == 1 and len(faults) == 1 and "bad.lmdb" in faults[0]
    with pytest.raises(ConfigError, match="no input structure can be used\n  .*bad"):
        read_inputs(["bad.lmdb"])


def test_structures_come_one_by_one_with_what_cannot_be_read(files, monkeypatch):
    with open("folder/b.cif", "w") as file:
        file.write("data_rubbish\n_cell_length_a what\n")
    with open("bad.lmdb", "wb") as file:
        file.write(b"not an lmdb" * 1000)
    inputs = ["slab.traj@:2", "folder/b.cif", "bad.lmdb", "data", "b.extxyz"]
    found = list(iter_structures(inputs))
    names = [getattr(s, "sid", None) or s.info["sid"] for s in found]
    assert names == ["sid0", "sid1", "b", "bad.lmdb", "sid0", "sid1", "sid1"]
    assert [isinstance(s, Unreadable) for s in found] == [False] * 2 + [True] * 2 + [
        False
    ] * 3
    assert "folder/b.cif" in found[2].reason
    read = []
    frames = structure_reader.iread

    def counted(*args, **kwargs):
        for atoms in frames(*args, **kwargs):
            read.append(atoms)
            yield atoms

    monkeypatch.setattr(structure_reader, "iread", counted)
    rows = iter_structures(["slab.traj"])
    next(rows)
    assert len(read) == 2  # one ahead tells whether the name takes a number


def test_frames_before_a_damage_are_kept(files):
    text = open("b.extxyz").read()
    for keep in ("b", "c"):
        with open(f"{keep}.extxyz", "w") as file:
            file.write(text + text if keep == "b" else text + text[:-30])
    structures, faults = read_inputs(["b.extxyz"])
    assert len(structures) == 2 and faults == []
    structures, faults = read_inputs(["c.extxyz"])
    assert len(structures) == 1
    assert "c.extxyz: cannot be read as extxyz after 1 frames: " in faults[0]


def test_row_that_is_no_record_is_named(files):
    with lmdb.open("data/data.lmdb", subdir=False, lock=False) as env:
        with env.begin(write=True) as txn:
            txn.put(b"0", b"rubbish")
    bad, good = iter_structures(["data"])
    assert bad.sid == "data/data.lmdb key '0'" and bad.sid in bad.reason
    assert good.sid == "sid1"


def test_chain_reads_item_by_item():
    chain = JoinedSequences([[0, 1], [], range(2, 5)])
    assert list(chain) == [0, 1, 2, 3, 4] and len(chain) == 5
    assert chain[-1] == 4 and chain[2] == 2
    for index in (5, -6):
        with pytest.raises(IndexError):
            chain[index]
