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
import shutil

import lmdb
import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from ase.io import write
from helpers_sampler import make_slabs
from helpers_sampler import write_split

from ppmat.datasets import structure_files
from ppmat.datasets.structure_reader import JoinedSequences
from ppmat.datasets.structure_reader import UniqueIds
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_reader import find_inputs
from ppmat.datasets.structure_reader import id_of
from ppmat.datasets.structure_reader import iter_structures
from ppmat.datasets.structure_reader import place_of
from ppmat.datasets.structure_reader import read_inputs
from ppmat.datasets.structure_reader import read_one
from ppmat.datasets.structure_reader import shortest_names
from ppmat.utils.errors import InputError
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


def parted(inputs):
    """Return what can be read, and a line for each fault."""
    found = list(read_inputs(inputs))
    faults = [str(s) for s in found if isinstance(s, Unreadable)]
    return [s for s in found if not isinstance(s, Unreadable)], faults


def test_files_folders_and_patterns_are_found(files):
    assert find_inputs(["slab.traj@-1", "folder", "*.extxyz", "data"]) == [
        ("slab.traj", -1),
        ("folder/POSCAR", None),
        ("folder/a.cif", None),
        ("folder/c.extxyz", None),
        ("b.extxyz", None),
        ("data", None),
    ]
    assert find_inputs(["data/data.lmdb"]) == [("data/data.lmdb", None)]
    picked = slice(1, None)
    assert find_inputs(["folder@1:", "*.traj@1:", "data@1:"]) == [
        ("folder/POSCAR", picked),
        ("folder/a.cif", picked),
        ("folder/c.extxyz", picked),
        ("slab.traj", picked),
        ("data", picked),
    ]


def test_names_with_an_at_sign(files):
    for name in ("slab@5", "a@b", "slab.traj@2"):
        shutil.copy("slab.traj", f"{name}.traj")
    assert find_inputs(["slab.traj@2.traj"]) == [("slab.traj@2.traj", None)]
    assert find_inputs(["slab@5.traj@1"]) == [("slab@5.traj", 1)]
    shutil.copy("folder/POSCAR", "POSCAR@3")
    assert find_inputs(["POSCAR@3"]) == [("POSCAR@3", None)]
    inputs = ["slab@5.traj@1:3", "POSCAR@*", "a@b.traj@0"]
    places = [place_of(s) for s in iter_structures(inputs)]
    assert places == [
        *(("slab@5.traj", 1), ("slab@5.traj", 2)),
        *(("POSCAR@3", 0), ("a@b.traj", 0)),
    ]


def test_folder_of_a_vasp_run(files):
    os.makedirs("run")
    for name in ("POSCAR", "CONTCAR", "OUTCAR", "vasprun.xml", "INCAR", "run.json"):
        open(f"run/{name}", "w").close()
    assert find_inputs(["run"]) == [("run/CONTCAR", None), ("run/POSCAR", None)]
    assert find_inputs(["run"], relaxations=True) == [("run/vasprun.xml", None)]
    os.remove("run/vasprun.xml")
    assert find_inputs(["run"], relaxations=True) == [("run/OUTCAR", None)]
    shutil.copy("data/data.lmdb", "folder/d.lmdb")
    found = [file.path for file in find_inputs(["folder"])]
    assert found == ["folder", "folder/POSCAR", "folder/a.cif", "folder/c.extxyz"]


def test_structures_are_read_in_order(files):
    structures = read_inputs(["slab.traj@1:3", "folder", "b.extxyz", "data"])
    assert len(structures) == 8
    ids = [id_of(structure) for structure in structures]
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
    wanted = {"": [0, 1], "@1": [1], "@-1": [1], "@::-1": [1, 0], "@1:": [1]}
    for index, numbers in wanted.items():
        structures = read_inputs([f"two.traj{index}"])
        assert [s.info["sid"] for s in structures] == [f"two_{n}" for n in numbers]
        assert [place_of(s) for s in structures] == [("two.traj", n) for n in numbers]
        for number, structure in zip(numbers, structures, strict=True):
            np.testing.assert_array_equal(structure.positions, slabs[number].positions)
    write("one.traj", slabs[0])
    (one,) = read_inputs(["one.traj@-1"])
    assert one.info["sid"] == "one"


def test_frames_of_every_pick_are_those_of_ase(files):
    slabs = make_slabs(7)
    write("seven.extxyz", slabs)
    for index in ("0", "-1", "3", "2:", ":3", "::2", "1:6:3", "-3:", ":-2", "::-2"):
        wanted = read("seven.extxyz", index)
        wanted = [wanted] if isinstance(wanted, Atoms) else wanted
        found = list(iter_structures([f"seven.extxyz@{index}"]))
        assert [s.info["sid"] for s in found] == [a.info["sid"] for a in wanted]
        assert [f"sid{s.info['frame']}" for s in found] == [
            s.info["sid"] for s in found
        ]
    for index in ("9", "-9", "8:"):
        (fault,) = iter_structures([f"seven.extxyz@{index}"])
        assert "no " in fault.reason and "seven.extxyz" in str(fault)
    with pytest.raises(ConfigError, match="the step of @::0 is 0"):
        find_inputs(["seven.extxyz@::0"])
    assert [r.frame for r in iter_structures(["data@1:"])] == [1]
    assert [r.frame for r in iter_structures(["data@-2"])] == [0]
    (fault,) = iter_structures(["data@5"])
    assert "has 2 rows, so no row 5" in fault.reason


def test_ids_are_unique_and_as_short_as_possible(files):
    for folder in ("x/Cu", "x/Ni"):
        os.makedirs(folder)
        slab = make_slabs(1)[0]
        del slab.info["sid"]
        write(f"{folder}/slab.traj", slab)
        write(f"{folder}/CONTCAR", slab, format="vasp")
    write("x/Cu/slab.cif", slab)
    ids = [id_of(s) for s in iter_structures(["x/*/*"])]
    assert ids == [
        *("Cu/CONTCAR", "slab.cif", "Cu/slab.traj"),
        *("Ni/CONTCAR", "Ni/slab"),
    ]


def test_an_id_that_occurs_again(files, capsys):
    slabs = make_slabs(3)
    for slab in slabs:
        slab.info["sid"] = "same"
    write("same.traj", slabs)
    write("other.traj", slabs[0])
    inputs = ["same.traj", "other.traj", "data", "data"]
    ids = [id_of(s) for s in iter_structures(inputs)]
    assert ids == [
        *("same", "same_1", "same_2", "same_other"),
        *("sid0", "sid1", "sid0_0", "sid1_1"),
    ]
    assert "5 structures had the id of an earlier one" in capsys.readouterr().out
    refused = list(iter_structures(inputs, "refuse"))
    assert [isinstance(s, Unreadable) for s in refused] == [0, 1, 1, 1, 0, 0, 1, 1]
    assert str(refused[3]) == (
        "other.traj frame 0: sid same is already that of same.traj frame 0"
    )
    assert "data/data.lmdb key '0'" in refused[6].reason
    with pytest.raises(InputError, match="repeated is 'x'"):
        next(iter_structures(inputs, "x"))


def test_ids_stay_unique_whatever_the_names(tmp_path):
    rng = np.random.default_rng(0)
    ids = UniqueIds()
    found = [
        ids(
            f"a{'_1' * rng.integers(3)}",
            f"f{rng.integers(3)}",
            int(rng.integers(3)),
            "1",
        )
        for _ in range(300)
    ]
    assert len(set(found)) == 300 and ids.renamed == 300 - 3
    paths = {"/".join(rng.choice(list("ab"), 3)) + rng.choice([".cif", ".traj", ""])
             for _ in range(60)}  # fmt: skip
    names = shortest_names(paths)
    assert len(set(names.values())) == len(paths)
    assert shortest_names(["a/../b.cif", "b.cif"]) == {"a/../b.cif": "b", "b.cif": "b"}
    tricky = shortest_names(["a.cif.traj", "a.cif", "a.traj"])
    assert len(set(tricky.values())) == 3


BAD_INPUTS = {
    "nothing": ([], "no input structure is given"),
    "missing": (["none.traj"], "not found: none.traj"),
    "pattern": (["*.vasp"], r"no file matches the pattern \*.vasp"),
    "format": (["folder/notes.txt"], "notes.txt: unknown format. Legal: .traj, .cif"),
    "empty folder": (["empty"], r"folder empty holds no file that can be read .*2\)$"),
    "folder of folders": (["outer"], r"Folders in it are read if you give outer/\*"),
}


@pytest.mark.parametrize("case", sorted(BAD_INPUTS))
def test_bad_input_is_named(files, case):
    os.makedirs("empty")
    os.makedirs("outer/run_1")
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
    structures, faults = parted(["slab.traj", "folder/*.cif", "folder/d.traj"])
    assert len(structures) == 5 and len(faults) == 3
    assert faults[0] == "folder/b.cif: holds no structure"
    # An assertion of ASE without a text.
    assert "g.cif: cannot be read as cif: AssertionError: the file is dam" in faults[1]
    assert faults[2].startswith("folder/d.traj: cannot be read as traj")


def test_one_structure_is_wanted(files):
    assert read_one("slab.traj@2", "slab").info["sid"] == "sid2"
    assert read_one("b.extxyz", "slab").info["sid"] == "sid1"
    record = read_one("data@1", "slab")  # a row becomes atoms
    assert record.get_tags().tolist() == [0, 0, 2, 1, 1]
    with pytest.raises(InputError, match="slab: holds 4 structures.*FILE@0"):
        read_one("slab.traj", "slab")
    open("empty.traj", "wb").close()
    with pytest.raises(InputError, match="slab: .*cannot be read as traj"):
        read_one("empty.traj", "slab")


def test_unusable_database_is_reported(files):
    with open("bad.lmdb", "wb") as file:
        file.write(b"not an lmdb" * 1000)
    structures, faults = parted(["bad.lmdb", "b.extxyz"])
    assert len(structures) == 1 and len(faults) == 1 and "bad.lmdb" in faults[0]


def test_structures_come_one_by_one_with_what_cannot_be_read(files, monkeypatch):
    with open("folder/b.cif", "w") as file:
        file.write("data_rubbish\n_cell_length_a what\n")
    with open("bad.lmdb", "wb") as file:
        file.write(b"not an lmdb" * 1000)
    inputs = ["slab.traj@:2", "folder/b.cif", "bad.lmdb", "data", "b.extxyz"]
    found = list(iter_structures(inputs))
    names = [id_of(structure) for structure in found]
    assert names == [
        *("sid0", "sid1", "b.cif", "bad.lmdb", "sid0_data", "sid1_data"),
        "sid1_b.extxyz",
    ]
    assert [isinstance(s, Unreadable) for s in found] == [False] * 2 + [True] * 2 + [
        False
    ] * 3
    assert "folder/b.cif" in str(found[2])
    read = []
    frames = structure_files.iread

    def counted(*args, **kwargs):
        for atoms in frames(*args, **kwargs):
            read.append(atoms)
            yield atoms

    monkeypatch.setattr(structure_files, "iread", counted)
    rows = iter_structures(["slab.traj"])
    next(rows)
    assert len(read) == 2  # one ahead tells whether the name takes a number


def test_frames_before_a_damage_are_kept(files):
    text = open("b.extxyz").read()
    for keep in ("b", "c"):
        with open(f"{keep}.extxyz", "w") as file:
            file.write(text + text if keep == "b" else text + text[:-30])
    structures, faults = parted(["b.extxyz"])
    assert len(structures) == 2 and faults == []
    structures, faults = parted(["c.extxyz"])
    assert len(structures) == 1
    assert "c.extxyz: cannot be read as extxyz after 1 frames: " in faults[0]


def test_row_that_is_no_record_is_named(files):
    with lmdb.open("data/data.lmdb", subdir=False, lock=False) as env:
        with env.begin(write=True) as txn:
            txn.put(b"0", b"rubbish")
    bad, good = iter_structures(["data"])
    assert str(bad).startswith("data/data.lmdb key '0': memo entry")
    assert place_of(bad) == ("data/data.lmdb", 0)
    assert good.sid == "sid1"


def test_chain_reads_item_by_item():
    chain = JoinedSequences([[0, 1], [], range(2, 5)])
    assert list(chain) == [0, 1, 2, 3, 4] and len(chain) == 5
    assert chain[-1] == 4 and chain[2] == 2
    for index in (5, -6):
        with pytest.raises(IndexError):
            chain[index]
