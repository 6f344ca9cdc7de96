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

"""Tests of :mod:`ppmat.datasets.oc20_lmdb` and :mod:`ppmat.datasets.oc20_record`."""

import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import tracemalloc

import ase
import ase.io
import lmdb
import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.constraints import FixedPlane

from ppmat.datasets import oc20_lmdb
from ppmat.datasets import pyg_pickle
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import find_split
from ppmat.datasets.oc20_lmdb import write_lmdb
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_record import record_from_frames
from ppmat.datasets.pyg_pickle import OC20FormatError


@pytest.fixture
def opened():
    """Return a function that counts the files opened in this test.

    Data sets of earlier tests may live on in reference cycles and hold theirs open.
    """
    before = set(oc20_lmdb._ENVIRONMENTS)
    return lambda: len(set(oc20_lmdb._ENVIRONMENTS) - before)


def make_record(seed=0, edges=True, labels=True):
    """Return a random slab whose relaxed positions are wrapped on their own."""
    rng = np.random.default_rng(seed)
    natoms = int(rng.integers(3, 9))
    cell = np.diag([6.0, 7.0, 30.0]) + np.tril(rng.uniform(-2, 2, (3, 3)), -1)
    pos = rng.random((natoms, 3)) @ cell
    tags = np.sort(rng.integers(0, 3, natoms))
    moved = pos + rng.normal(scale=0.5, size=pos.shape) * (tags > 0)[:, None]
    moved = (moved @ np.linalg.inv(cell) % 1.0) @ cell
    count = 4 * natoms
    record = OC20Record(
        sid=str(1000 + seed),
        atomic_numbers=rng.integers(1, 84, natoms),
        pos=pos.astype(np.float32),
        cell=cell.astype(np.float32),
        tags=tags,
        fixed=tags == 0,
    )
    if labels:
        record.y_init, record.y_relaxed = 1.5 + seed, 1.0 - 0.25 * seed
        record.pos_relaxed = moved.astype(np.float32)
    if edges:
        record.edge_index = rng.integers(0, natoms, (2, count))
        record.cell_offsets = rng.integers(-1, 2, (count, 3))
        record.distances = rng.random(count).astype(np.float32)
        record.force = rng.normal(size=(natoms, 3)).astype(np.float32)
    return record


def same(first, second):
    """Return whether two records hold the same values in the same dtypes."""
    for name in OC20Record.__dataclass_fields__:
        a, b = getattr(first, name), getattr(second, name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or not np.array_equal(a, b):
                return False
        elif a != b:
            return False
    return True


@pytest.fixture
def split(tmp_path):
    """A folder `train` with one file of twelve records."""
    write_lmdb(tmp_path / "train" / "data.lmdb", map(make_record, range(12)))
    return tmp_path / "train"


def write_raw(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 22) as env:
        with env.begin(write=True) as txn:
            for key, value in items.items():
                txn.put(key, value)
    return path


def fields_of(record=None, **changes):
    fields = (record or make_record()).to_fields()
    fields.update(changes)
    return {name: value for name, value in fields.items() if value is not None}


# Records -----------------------------------------------------------------------------


@pytest.mark.parametrize("generation", pyg_pickle.GENERATIONS)
@pytest.mark.parametrize("edges", [True, False])
@pytest.mark.parametrize("labels", [True, False])
def test_write_and_read(tmp_path, generation, edges, labels):
    records = [make_record(i, edges, labels) for i in range(12)]
    path = tmp_path / "new" / "data.lmdb"
    assert write_lmdb(path, iter(records), generation) == 12
    assert os.listdir(path.parent) == ["data.lmdb"]
    for got, want in zip(OC20LMDB(path), records, strict=True):
        assert same(got, want)


def test_fields_in_the_file_are_the_official_ones(split):
    fields = OC20LMDB(split).fields(0)
    assert list(fields) == (
        "edge_index pos cell atomic_numbers natoms cell_offsets force distances fixed "
        "sid tags y_init y_relaxed pos_relaxed".split()
    )
    kinds = {k: (v.dtype.str, v.ndim) for k, v in fields.items() if hasattr(v, "dtype")}
    assert kinds == {
        "edge_index": ("<i8", 2),
        "pos": ("<f4", 2),
        "cell": ("<f4", 3),
        "atomic_numbers": ("<f4", 1),
        "cell_offsets": ("<i8", 2),
        "force": ("<f4", 2),
        "distances": ("<f4", 1),
        "fixed": ("<f4", 1),
        "tags": ("<i8", 1),
        "pos_relaxed": ("<f4", 2),
    }
    assert fields["cell"].shape == (1, 3, 3) and fields["sid"] == 1000


def test_displacement_is_the_minimum_image():
    jumps = 0
    for seed in range(12):
        record = make_record(seed)
        moved = record.displacement
        assert moved.dtype == np.float32
        difference = record.pos_relaxed - record.pos
        steps = (moved - difference) @ np.linalg.inv(record.cell)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert np.linalg.norm(moved, axis=1).max() < 3
        jumps += np.linalg.norm(difference, axis=1).max() > 3
    assert jumps > 0  # the raw difference is wrong for some of these
    assert make_record(labels=False).displacement is None


@pytest.mark.parametrize("dtype", ["f4", "u1", "i4", "i8", "f8"])
def test_dtypes_of_other_writers(dtype):
    record = make_record()
    fields = fields_of(
        record,
        atomic_numbers=record.atomic_numbers.astype(dtype),
        fixed=record.fixed.astype(dtype),
        tags=record.tags.astype(dtype),
        pos=record.pos.astype("f8"),
        edge_index=record.edge_index.astype("i4"),
        cell_offsets=record.cell_offsets.astype("f4"),
        natoms=np.array([len(record.pos)]),
        sid=np.array([1000]),
        y_relaxed=np.array([record.y_relaxed], dtype="f4"),
    )
    assert same(OC20Record.from_fields(fields), record)


def test_names_of_other_writers():
    record = make_record()
    fields = fields_of(record)
    fields["energy"] = fields.pop("y_init")
    fields["forces"] = fields.pop("force")
    fields["cell"] = fields["cell"][0]
    fields["fixed"] = record.fixed
    fields["pbc"] = np.array([True, True, False])
    assert same(OC20Record.from_fields(fields), record)


@pytest.mark.parametrize("sid, want", [("random12", "random12"), (7, "7"), ([7], "7")])
def test_ids(sid, want):
    assert OC20Record.from_fields(fields_of(sid=sid)).sid == want


def test_optional_fields():
    fields = {k: fields_of()[k] for k in ("pos", "cell", "atomic_numbers")}
    record = OC20Record.from_fields(fields, default_sid="3")
    assert record.sid == "3" and not record.tags.any() and not record.fixed.any()
    for name in ("y_init", "y_relaxed", "pos_relaxed", "edge_index", "displacement"):
        assert getattr(record, name) is None


def test_leading_zeros_of_an_id_are_kept(tmp_path):
    record = make_record()
    record.sid = "007"
    write_lmdb(tmp_path / "a.lmdb", [record])
    assert OC20LMDB(tmp_path / "a.lmdb")[0].sid == "007"


def changed(name, index, value):
    array = fields_of()[name].copy()
    array[index] = value
    return {name: array}


BAD = {
    "pos has NaN": (changed("pos", (0, 1), np.nan), "pos holds NaN"),
    "pos_relaxed infinite": (
        changed("pos_relaxed", 0, np.inf),
        "pos_relaxed holds NaN",
    ),
    "no pos": ({"pos": None}, "no pos; it has edge_index, cell"),
    "no cell": ({"cell": None}, "no cell"),
    "no elements": ({"atomic_numbers": None}, "no atomic_numbers"),
    "flat cell": (changed("cell", (0, 2), 0.0), "no volume"),
    "NaN cell": (changed("cell", (0, 0, 0), np.nan), "NaN"),
    "cell of two": ({"cell": np.eye(2)}, r"cell has shape \(2, 2\)"),
    "element 0": (changed("atomic_numbers", 0, 0), "holds 0, which is no element"),
    "element 119": (changed("atomic_numbers", 0, 119), "holds 119"),
    "element 1.5": (changed("atomic_numbers", 0, 1.5), "no integers"),
    "element NaN": (changed("atomic_numbers", 0, np.nan), "no integers"),
    "element 1e30": (changed("atomic_numbers", 0, 1e30), "no integers"),
    "one element": ({"atomic_numbers": np.ones(1)}, r"shape \(1,\), expected \("),
    "fixed 2": (changed("fixed", 0, 2.0), "fixed holds values other"),
    "natoms": ({"natoms": 99}, "natoms is 99, but pos has"),
    "no atoms": ({"pos": np.zeros((0, 3)), "natoms": None}, "no atoms"),
    "pos flat": ({"pos": np.zeros(9)}, r"pos has shape \(9,\), expected \(any, 3\)"),
    "edge beyond": (changed("edge_index", (0, 0), 99), "beyond the"),
    "edge negative": (changed("edge_index", (0, 0), -1), "beyond the"),
    "offsets short": (
        {"cell_offsets": np.zeros((2, 3), int)},
        "cell_offsets has shape",
    ),
    "distances short": ({"distances": np.zeros(2)}, "distances has shape"),
    "energy NaN": ({"y_relaxed": float("nan")}, "y_relaxed is nan"),
    "energies": ({"y_relaxed": np.zeros(2)}, "expected one number"),
    "pos of text": ({"pos": "abc"}, "pos is no array of numbers"),
    "ragged pos": ({"pos": [[1.0], [1.0, 2.0]]}, "pos is no array of numbers"),
    "ids": ({"sid": np.arange(2)}, "sid has shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records(name):
    changes, reason = BAD[name]
    with pytest.raises(OC20FormatError, match=f"^a.lmdb key '3': .*{reason}"):
        OC20Record.from_fields(fields_of(**changes), "a.lmdb key '3'")


def test_unchanged_fields_are_accepted():
    assert same(OC20Record.from_fields(fields_of()), make_record())


# Files -------------------------------------------------------------------------------


def test_rows_follow_the_index_not_the_bytes(split):
    rows = OC20LMDB(split)
    assert [record.sid for record in rows] == [str(1000 + i) for i in range(12)]
    assert rows[-1].sid == rows[np.int64(11)].sid == "1011"
    for index in (12, -13):
        with pytest.raises(IndexError, match=f"row {index} of 12"):
            rows[index]


def test_length_key(tmp_path):
    rows = {b"%d" % i: pyg_pickle.dumps(fields_of()) for i in range(11)}
    path = write_raw(tmp_path / "a.lmdb", {**rows, b"length": pickle.dumps(11)})
    assert len(OC20LMDB(path)) == 11
    path = write_raw(tmp_path / "b.lmdb", {**rows, b"length": pickle.dumps(4)})
    assert len(OC20LMDB(path)) == 4
    for number, value in enumerate((12, -1, "11", [1])):
        path = write_raw(
            tmp_path / f"c{number}", {**rows, b"length": pickle.dumps(value)}
        )
        with pytest.raises(OC20FormatError, match="c.* key 'length': is .* 11 other"):
            OC20LMDB(path)
    path = write_raw(tmp_path / "d.lmdb", {**rows, b"length": b"cos\nsystem\n."})
    with pytest.raises(OC20FormatError, match="d.lmdb key 'length'"):
        OC20LMDB(path)


def test_missing_row(tmp_path):
    data = pyg_pickle.dumps(fields_of())
    path = write_raw(tmp_path / "a.lmdb", {b"0": data, b"2": data})
    rows = OC20LMDB(path)
    assert rows[0].sid == "1000"
    with pytest.raises(OC20FormatError, match="a.lmdb key '1': the key is missing"):
        rows[1]


def test_several_files_in_order_of_their_names(tmp_path):
    for name, seeds in (("data.0001", (3, 4)), ("data.0000", (0, 1, 2)), ("x", (5,))):
        write_lmdb(tmp_path / f"{name}.lmdb", map(make_record, seeds))
    (tmp_path / "data.0000.lmdb-lock").touch()
    rows = OC20LMDB(tmp_path)
    assert [record.sid for record in rows] == [str(1000 + i) for i in range(6)]
    assert rows.where(4).endswith("data.0001.lmdb key '1'")
    fields = fields_of()
    del fields["sid"]
    write_raw(tmp_path / "y.lmdb", {b"0": pyg_pickle.dumps(fields)})
    assert OC20LMDB(tmp_path)[6].sid == "y_0"
    assert OC20LMDB(tmp_path / "y.lmdb")[0].sid == "0"


def test_folder_environment(tmp_path):
    folder = tmp_path / "rows.lmdb"
    with lmdb.open(str(folder), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"0", pyg_pickle.dumps(fields_of()))
    assert (folder / "lock.mdb").exists()
    assert len(OC20LMDB(folder)) == 1


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "cannot be opened as an LMDB file \\(0 bytes\\)"),
        (b"PK\x03\x04" + bytes(9000), "cannot be opened as an LMDB file"),
        (b"text\n", "cannot be opened as an LMDB file"),
    ],
)
def test_other_files(tmp_path, content, reason):
    (tmp_path / "data.lmdb").write_bytes(content)
    with pytest.raises(OC20FormatError, match=f"data.lmdb: {reason}"):
        OC20LMDB(tmp_path)


def test_other_lmdb_files(tmp_path):
    path = write_raw(tmp_path / "a.lmdb", {b"mp-1": b"{}", b"mp-2": b"{}"})
    with pytest.raises(OC20FormatError, match="a.lmdb: has 2 entries but no key '0'"):
        OC20LMDB(path)
    path = write_raw(tmp_path / "b.lmdb", {})
    with pytest.raises(OC20FormatError, match="b.lmdb: the LMDB file is empty"):
        OC20LMDB(path)
    path = write_raw(tmp_path / "c.lmdb", {b"0": b'{"pos": []}'})
    with pytest.raises(OC20FormatError, match="c.lmdb key '0': opcode 0x7b"):
        OC20LMDB(path)[0]


def test_truncated_file(split):
    path = split / "data.lmdb"
    os.truncate(path, 100)
    with pytest.raises(OC20FormatError, match="cannot be opened"):
        OC20LMDB(path)


def test_missing_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        OC20LMDB(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no \*.lmdb file in this folder"):
        OC20LMDB(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_split(tmp_path / "nowhere", "train")


def test_file_that_vanished(split):
    rows = OC20LMDB(split)
    (split / "data.lmdb").unlink()
    with pytest.raises(FileNotFoundError, match="data.lmdb: the LMDB file does not"):
        rows[0]


# Splits ------------------------------------------------------------------------------


def touch(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        (root / folder / "data.lmdb").touch()
        (root / folder / "data.lmdb-lock").touch()


@pytest.mark.parametrize("tree", oc20_lmdb._TREES)
def test_official_trees(tmp_path, tree):
    folders = ("10k/train", "100k/train", "all/train", "all/val_id", "all/test_ood_ads")
    touch(tmp_path / tree, *folders)
    for subset in oc20_lmdb.SUBSETS:
        found = find_split(tmp_path, "train", subset)
        assert found == tmp_path / tree / subset / "train"
    for split in ("val_id", "test_ood_ads"):
        assert find_split(tmp_path, split, "10k") == tmp_path / tree / "all" / split
    with pytest.raises(FileNotFoundError, match="no split 'val_ood_cat'.*all/val_id"):
        find_split(tmp_path, "val_ood_cat")
    with pytest.raises(
        FileNotFoundError, match="choose one of its splits: .*10k/train"
    ):
        OC20LMDB(tmp_path)


def test_flat_tree(tmp_path):
    touch(tmp_path, "train", "val_id")
    assert find_split(tmp_path, "train", "10k") == tmp_path / "train"
    assert find_split(tmp_path, "val_id") == tmp_path / "val_id"


def test_root_that_is_a_split(tmp_path):
    touch(tmp_path, "train", "mine")
    assert find_split(tmp_path / "train", "train") == tmp_path / "train"
    assert find_split(tmp_path / "mine", "val_id") == tmp_path / "mine"
    file = tmp_path / "train" / "data.lmdb"
    assert find_split(file, "train") == file
    for root in (tmp_path / "train", file):
        with pytest.raises(OC20FormatError, match="is the split 'train', but 'val_id'"):
            find_split(root, "val_id")


def test_dataset_of_a_split(split):
    assert len(OC20LMDB(split.parent, split="train")) == 12


# Processes ---------------------------------------------------------------------------


def test_same_path_twice(split, opened):
    first, second = OC20LMDB(split), OC20LMDB(split / "data.lmdb")
    os.symlink(split, split.parent / "link")
    third = OC20LMDB(split.parent / "link")
    assert first[0].sid == second[0].sid == third[0].sid
    assert opened() == 1
    del first
    second.close()
    assert third[1].sid == "1001" and opened() == 1
    assert second[1].sid == "1001"  # opens again
    second.close()
    third.close()
    third.close()
    assert opened() == 0


def test_no_environment_stays_open_after_opening(split, opened):
    rows = OC20LMDB(split)
    assert opened() == 0
    rows[0]
    assert opened() == 1
    del rows
    assert opened() == 0


def test_failed_opening_leaves_nothing_open(tmp_path, opened):
    path = write_raw(tmp_path / "a.lmdb", {b"x": b"y"})
    with pytest.raises(OC20FormatError):
        OC20LMDB(path)
    assert opened() == 0


def test_pickling_drops_the_environment(split):
    rows = OC20LMDB(split)
    assert rows[0].sid == "1000"
    copy = pickle.loads(pickle.dumps(rows))
    assert copy._held == {} and copy[3].sid == "1003"


def read_sid(job):
    rows, index = job
    return os.getpid(), rows[index].sid


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers(split, method):
    rows = OC20LMDB(split)
    assert rows[0].sid == "1000"  # the parent's file is open when the workers start
    with multiprocessing.get_context(method).Pool(2) as pool:
        got = pool.map(read_sid, [(rows, i) for i in range(12)])
    assert [sid for _, sid in got] == [str(1000 + i) for i in range(12)]
    assert os.getpid() not in {pid for pid, _ in got}
    assert rows[1].sid == "1001"


def test_child_inherits_object_but_not_environment(split):
    """A forked child that holds its parent's object opens the file for itself."""
    rows = OC20LMDB(split)
    parent_env = rows._environment(0)
    assert rows[0].sid == "1000"
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = f"{len(oc20_lmdb._ENVIRONMENTS)} {rows[5].sid} "
            answer += str(rows._environment(0) is parent_env)
        except BaseException as err:
            answer = repr(err)
        os.write(write, answer.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 1000).decode() == "0 1005 False"
    assert rows[6].sid == "1006"


def test_opening_reads_no_rows(tmp_path):
    count = 20_000
    path = tmp_path / "a.lmdb"
    write_raw(path, {b"%d" % i: b"x" for i in range(count)})
    tracemalloc.start()
    try:
        rows = OC20LMDB(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rows) == count
    assert peak < 200_000  # a list of the keys would take 1.2 MB


# Writing -----------------------------------------------------------------------------


def test_existing_files_are_kept(split):
    path = split / "data.lmdb"
    with pytest.raises(FileExistsError, match="data.lmdb exists"):
        write_lmdb(path, [make_record()])
    assert len(OC20LMDB(path)) == 12
    assert write_lmdb(path, [make_record()], overwrite=True) == 1
    assert len(OC20LMDB(path)) == 1


@pytest.mark.parametrize("exists", [True, False])
def test_interrupted_writing_leaves_the_old_file(tmp_path, exists):
    path = tmp_path / "data.lmdb"
    if exists:
        write_lmdb(path, [make_record(7)])

    def records():
        yield make_record()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lmdb(path, records(), overwrite=True)
    assert os.listdir(tmp_path) == (["data.lmdb"] if exists else [])
    if exists:
        assert OC20LMDB(path)[0].sid == "1007"


def test_full_disk(tmp_path):
    """A file size limit stands for the full disk."""
    path = tmp_path / "data.lmdb"
    write_lmdb(path, [make_record(7)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, limits[1]))
    try:
        with pytest.raises(OSError, match="data.lmdb: cannot be written: .*"):
            write_lmdb(path, map(make_record, range(100)), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["data.lmdb"]
    assert OC20LMDB(path)[0].sid == "1007"


def test_map_grows_with_the_content(tmp_path, monkeypatch):
    monkeypatch.setattr(oc20_lmdb, "_BATCH_BYTES", 100_000)
    monkeypatch.setattr(oc20_lmdb, "_FIRST_MAP", 1 << 16)
    records = [make_record(i) for i in range(300)]
    path = tmp_path / "data.lmdb"
    write_lmdb(path, iter(records))
    rows = OC20LMDB(path)
    assert all(same(rows[i], records[i]) for i in range(300))
    size = path.stat().st_size
    assert size < 2 * 300 * 8192  # no reserve beyond the pages in use


def test_bad_records_are_not_written(tmp_path):
    record = make_record(1)
    record.pos[0] = np.nan
    with pytest.raises(OC20FormatError, match=r"key '1' \(sid 1001\): pos holds NaN"):
        write_lmdb(tmp_path / "data.lmdb", [make_record(0), record])
    with pytest.raises(OC20FormatError, match="no records to write"):
        write_lmdb(tmp_path / "data.lmdb", [])
    assert os.listdir(tmp_path) == []


# Command line ------------------------------------------------------------------------


def make_frames(seed=0, energies=(2.0, -1.0)):
    record = make_record(seed)
    frames = []
    for pos, energy in zip((record.pos, record.pos_relaxed), energies, strict=True):
        atoms = ase.Atoms(
            numbers=record.atomic_numbers, positions=pos, cell=record.cell, pbc=True
        )
        atoms.set_tags(record.tags)
        atoms.set_constraint(FixAtoms(mask=record.fixed))
        atoms.info["adsorption_energy"] = energy
        frames.append(atoms)
    return record, frames


@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
def test_write_command(tmp_path, suffix, capsys):
    wanted = []
    for seed in range(3):
        record, frames = make_frames(seed)
        ase.io.write(tmp_path / f"{record.sid}.{suffix}", frames)
        wanted.append(record)
    inputs = [str(tmp_path / f"{record.sid}.{suffix}") for record in wanted]
    out = str(tmp_path / "out.lmdb")
    arguments = ["write", out, *inputs, "--energy-key", "adsorption_energy"]
    assert oc20_lmdb.main(arguments) == 0
    assert "3 records" in capsys.readouterr().out
    for got, want in zip(OC20LMDB(out), wanted, strict=True):
        assert got.sid == want.sid and got.edge_index is None
        np.testing.assert_allclose(got.pos, want.pos, atol=1e-5)
        np.testing.assert_allclose(got.pos_relaxed, want.pos_relaxed, atol=1e-5)
        np.testing.assert_array_equal(got.tags, want.tags)
        np.testing.assert_array_equal(got.fixed, want.fixed)
        assert (got.y_init, got.y_relaxed) == (2.0, -1.0)
    assert oc20_lmdb.main(arguments) == 1  # exists
    assert oc20_lmdb.main([*arguments, "--overwrite"]) == 0


def test_frames_that_are_no_relaxation():
    _, frames = make_frames()
    record = record_from_frames(frames[:1], "a", "adsorption_energy")
    assert record.pos_relaxed is None and record.y_relaxed is None
    assert record.y_init == 2.0
    with pytest.raises(
        OC20FormatError, match="a: no 'total' in atoms.info; it has ads"
    ):
        record_from_frames(frames, "a", "total")
    frames[1].cell[0, 0] += 0.1
    with pytest.raises(OC20FormatError, match="a: first and last frame differ"):
        record_from_frames(frames, "a")
    frames[0].set_constraint(FixedPlane(0, (0, 0, 1)))
    with pytest.raises(OC20FormatError, match="a: constraint FixedPlane"):
        record_from_frames(frames[:1], "a")


def test_write_command_refuses_equal_ids(tmp_path, capsys):
    record, frames = make_frames()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "x.extxyz", frames)
    inputs = [str(tmp_path / folder / "x.extxyz") for folder in ("a", "b")]
    assert oc20_lmdb.main(["write", str(tmp_path / "o.lmdb"), *inputs]) == 1
    assert "sid x is already that of" in capsys.readouterr().err


def test_check_command(tmp_path, capsys):
    write_lmdb(tmp_path / "train" / "data.lmdb", map(make_record, range(5)))
    write_lmdb(tmp_path / "val_id" / "data.lmdb", map(make_record, range(3)))
    assert oc20_lmdb.main(["check", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "records: 5 in 1 files" in text and "records: 3 in 1 files" in text
    assert "y_relaxed (eV): 5 values, 0 .. 1, mean 0.5" in text
    assert "atoms by tag: 0: " in text and "OK: 0 faults in 2 splits" in text


def test_check_command_finds_faults(tmp_path, capsys):
    rows = [pyg_pickle.dumps(fields_of(make_record(i))) for i in range(6)]
    rows[1] = rows[1][:-20]
    rows[2] = pyg_pickle.dumps(fields_of(make_record(2), **changed("pos", 0, np.nan)))
    rows[3] = rows[4]
    items = {b"%d" % i: row for i, row in enumerate(rows)}
    write_raw(tmp_path / "data.lmdb", items)
    assert oc20_lmdb.main(["check", str(tmp_path), "--max-faults", "2"]) == 1
    text = capsys.readouterr().out
    assert "key '1': " in text and "key '2': " in text
    assert "and 1 more" in text and "FAULTY: 3 faults" in text


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_check_command_of_nothing(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert oc20_lmdb.main(["check", str(tmp_path / name)]) == 1
    captured = capsys.readouterr()
    assert name in captured.out + captured.err


def test_command_as_a_module(split):
    done = subprocess.run(
        [sys.executable, "-m", "ppmat.datasets.oc20_lmdb", "check", str(split)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "OK: 0 faults" in done.stdout
    assert "RuntimeWarning" not in done.stderr
