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

"""Files of OC20 records are written complete or not at all."""

import os
import resource

import numpy as np
import pytest
from helpers_records import make_record
from helpers_records import same

from ppmat.datasets import oc20_writer
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.pyg_pickle import OC20FormatError


@pytest.fixture
def split(tmp_path):
    """A folder `train` with one file of twelve records."""
    write_lmdb(tmp_path / "train" / "data.lmdb", map(make_record, range(12)))
    return tmp_path / "train"


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
    monkeypatch.setattr(oc20_writer, "_BATCH_BYTES", 100_000)
    monkeypatch.setattr(oc20_writer, "_FIRST_MAP", 1 << 16)
    records = [make_record(i) for i in range(300)]
    path = tmp_path / "data.lmdb"
    write_lmdb(path, iter(records))
    rows = OC20LMDB(path)
    assert all(same(rows[i], records[i]) for i in range(300))
    size = path.stat().st_size
    assert size < 2 * 300 * 8192  # no reserve beyond the pages in use


def test_files_keep_the_number_of_adsorbates_that_is_stated(tmp_path):
    records = [make_record(seed) for seed in range(3)]
    records[1].num_adsorbates, records[2].num_adsorbates = 0, 2
    write_lmdb(tmp_path / "data.lmdb", records)
    rows = OC20LMDB(tmp_path)
    assert [row.num_adsorbates for row in rows] == [None, 0, 2]
    assert all(map(same, rows, records))
    stated = ["num_adsorbates" in rows.fields(i) for i in range(3)]
    assert stated == [False, True, True]  # official fields alone, unless stated


def test_bad_records_are_not_written(tmp_path):
    record = make_record(1)
    record.pos[0] = np.nan
    with pytest.raises(OC20FormatError, match=r"key '1' \(sid 1001\): pos holds NaN"):
        write_lmdb(tmp_path / "data.lmdb", [make_record(0), record])
    with pytest.raises(OC20FormatError, match="no records to write"):
        write_lmdb(tmp_path / "data.lmdb", [])
    assert os.listdir(tmp_path) == []
