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

"""Structures as records: what can be used, what is left out, and ids."""

import numpy as np
import pytest
from helpers_sampler import make_slabs
from helpers_sampler import write_split

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.prepared_records import PreparedRecords
from ppmat.datasets.prepared_records import Templates
from ppmat.datasets.structure_reader import JoinedSequences
from ppmat.datasets.structure_reader import Unreadable
from ppmat.utils.errors import InputError


@pytest.fixture
def rows(tmp_path):
    write_split(tmp_path / "data", 4)
    return OC20LMDB(tmp_path / "data")


def test_bad_structures_are_left_out(rows):
    slabs = make_slabs(4)
    slabs[1].positions[0] = np.nan
    slabs[2].set_tags(0)
    fault = Unreadable("b", "cannot be read", "b.cif")
    joined = JoinedSequences([[*slabs, fault], rows])
    records = PreparedRecords(joined)
    assert records.rows == [0, 3, 5, 6, 7, 8] and len(records) == 6
    assert [record.sid for record in records] == [
        *("sid0", "sid3", "sid0", "sid1", "sid2", "sid3"),
    ]
    lines = [str(fault) for fault in records.left_out]
    assert lines[0].startswith("structure 1: pos holds NaN")
    assert lines[1].startswith("structure 2: ") and "no tags" in lines[1]
    assert lines[2] == "b.cif: cannot be read"
    templates = Templates(records)
    assert templates[1] is slabs[3] and len(templates) == 6
    assert templates[2].frame == 0 and records[2].source.endswith("data.lmdb")
    records.check("flag")
    with pytest.raises(InputError, match="3 of 9 structures cannot(.*\n)*.*b.cif"):
        records.check("raise")
    with pytest.raises(InputError, match="no structure can be used\n  b.cif"):
        PreparedRecords([fault]).check("flag")


def test_tags_are_guessed(tmp_path):
    slab = make_slabs(1)[0]
    wanted = slab.get_tags().tolist()
    slab.set_tags(0)
    assert not PreparedRecords([slab])
    (record,) = PreparedRecords([slab], "guess")
    assert record.tags.tolist() == wanted
    write_lmdb(tmp_path / "a.lmdb", [_untagged(record)])
    rows = OC20LMDB(tmp_path / "a.lmdb")
    assert not PreparedRecords(rows)
    (record,) = PreparedRecords(rows, "guess")
    assert record.tags.tolist() == wanted
    with pytest.raises(InputError, match="missing_tags is 'keep'"):
        PreparedRecords([slab], "keep")


def _untagged(record):
    record.tags = np.zeros_like(record.tags)
    return record


def test_repeated_ids(rows, capsys):
    joined = JoinedSequences([rows, rows])
    assert [r.sid for r in PreparedRecords(joined)][4:] == [
        "sid0",
        "sid1",
        "sid2",
        "sid3",
    ]
    renamed = PreparedRecords(joined, repeated="rename")
    assert len({record.sid for record in renamed}) == 8
    assert "4 structures had the id of an earlier one" in capsys.readouterr().out
    refused = PreparedRecords(joined, repeated="refuse")
    assert refused.rows == [0, 1, 2, 3] and len(refused.left_out) == 4
    assert "data.lmdb key '0'" in refused.left_out[0].reason


def test_fingerprint_changes_with_the_records(rows):
    slabs = make_slabs(3)
    kinds = [
        *(slabs, slabs[:2], slabs[::-1], rows, rows[1:], rows[[2, 1]]),
        *(JoinedSequences([rows, slabs]), JoinedSequences([slabs, rows[:2]])),
    ]
    prints = [str(PreparedRecords(kind).fingerprint()) for kind in kinds]
    assert len(set(prints)) == len(kinds)
    slabs[0].positions[0, 0] += 1e-3
    assert str(PreparedRecords(slabs).fingerprint()) != prints[0]
    assert str(PreparedRecords(rows).fingerprint()) == prints[3]
