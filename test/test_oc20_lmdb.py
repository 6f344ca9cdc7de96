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

"""Files of OC20 records: reading, splits, processes."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import tracemalloc

import lmdb
import numpy as np
import pytest
from helpers_records import fields_of
from helpers_records import make_record
from helpers_records import same
from helpers_records import write_raw

from ppmat.datasets import oc20_lmdb
from ppmat.datasets import pyg_pickle
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import find_split
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.pyg_pickle import OC20FormatError


@pytest.fixture
def opened():
    """Return a function that counts the LMDB files opened in this test."""

    def descriptors():
        links = {f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")}
        links = {link for link in links if os.path.exists(link)}
        return {link for link in links if os.readlink(link).endswith(".lmdb")}

    before = descriptors()
    return lambda: len(descriptors() - before)


@pytest.fixture
def split(tmp_path):
    """A folder `train` with one file of twelve records."""
    write_lmdb(tmp_path / "train" / "data.lmdb", map(make_record, range(12)))
    return tmp_path / "train"


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


def test_leading_zeros_of_an_id_are_kept(tmp_path):
    record = make_record()
    record.sid = "007"
    write_lmdb(tmp_path / "a.lmdb", [record])
    assert OC20LMDB(tmp_path / "a.lmdb")[0].sid == "007"


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
        (b"", "cannot be opened as an LMDB file: is too short"),
        (b"PK\x03\x04" + bytes(9000), "cannot be opened as an LMDB file: byte 0"),
        (b"text\n", "cannot be opened as an LMDB file: is too short"),
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
    assert opened() == 3
    del first
    second.close()
    assert third[1].sid == "1001" and opened() == 1
    assert second[1].sid == "1001"  # opens again
    second.close()
    third.close()
    third.close()
    assert opened() == 0


def test_no_file_stays_open_after_opening(split, opened):
    rows = OC20LMDB(split)
    assert opened() == 0
    rows[0]
    assert opened() == 1
    del rows
    assert opened() == 0


def test_files_still_open_at_the_end_of_python_are_closed_in_silence(split):
    code = (
        "import sys; from ppmat.datasets import lmdb_file, oc20_lmdb\n"
        f"lmdb_file.rows = oc20_lmdb.OC20LMDB({str(split)!r})\n"
        "print(lmdb_file.rows[0].sid)\n"
        "sys.kept = lmdb_file"  # its names are None when `rows`, the last one, ends
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1000\n", "")


def test_failed_opening_leaves_nothing_open(tmp_path, opened):
    path = write_raw(tmp_path / "a.lmdb", {b"x": b"y"})
    with pytest.raises(OC20FormatError):
        OC20LMDB(path)
    assert opened() == 0


def test_pickling_drops_the_open_files(split):
    rows = OC20LMDB(split)
    assert rows[0].sid == "1000"
    copy = pickle.loads(pickle.dumps(rows))
    assert copy._opened == {} and copy[3].sid == "1003"


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


def test_rows_are_selected_by_slices_lists_and_masks(split):
    rows = OC20LMDB(split)
    sids = [record.sid for record in rows]
    rng = np.random.default_rng(0)
    mask = rng.random(len(rows)) < 0.5
    numbers = rng.integers(-len(rows), len(rows), 20)
    picks = [slice(2, 7), slice(None, None, -3), slice(99, None), [3, -1, 3], []]
    for index in [*picks, range(1, 4), (2, 0), mask, numbers]:
        chosen = rows[index]
        wanted = np.array(sids)[list(index) if not isinstance(index, slice) else index]
        wanted = np.array(sids)[index] if isinstance(index, np.ndarray) else wanted
        if not isinstance(index, slice) and len(index) == 0:
            wanted = []
        assert isinstance(chosen, OC20LMDB) and len(chosen) == len(wanted)
        assert [record.sid for record in chosen] == list(wanted)
    again = rows[2:9][[1, 0]]
    assert [record.sid for record in again] == [sids[3], sids[2]]
    assert again.where(0) == rows.where(3) and again[-1].frame == rows[2].frame
    assert "2 selected rows" in repr(again) and len(rows) == len(sids)
    assert [r.sid for r in pickle.loads(pickle.dumps(again))] == [sids[3], sids[2]]
    for index in ([99], [0.5], [[1, 2]], mask[:-1]):
        with pytest.raises((IndexError, TypeError)):
            rows[index]
    with pytest.raises(IndexError, match="row 2 of 2"):
        again[2]


@pytest.mark.parametrize("sid", [float("nan"), float("inf"), -float("inf"), 1.5])
def test_sid_that_is_no_id_is_named(tmp_path, sid):
    fields = fields_of(make_record(), sid=sid)
    write_raw(tmp_path / "a.lmdb", {b"0": pyg_pickle.dumps(fields)})
    with pytest.raises(
        OC20FormatError, match=r"a.lmdb key '0': sid is -?(nan|inf|1.5)"
    ):
        OC20LMDB(tmp_path / "a.lmdb")[0]
