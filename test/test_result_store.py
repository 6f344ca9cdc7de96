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

"""Results on disk: exact values, resumed runs, files of other runs."""

import numpy as np
import pytest

from ppmat.utils import result_store
from ppmat.utils.result_store import Column
from ppmat.utils.result_store import ResultStore
from ppmat.utils.result_store import RowFile

RESULTS = [
    {
        "id": "ä",
        "num_atoms": 2,
        "x": [[0.1, -1e-300, 3.0], [1 / 3, 0.0, 2.0]],
        "fixed": [True, False],
        "tags": [],
    },
    {"id": "longer", "num_atoms": 1, "x": [[1.0, 2.0, 3.0]], "fixed": [True]},
    {"id": "b", "num_atoms": 0, "x": [], "fixed": [], "tags": [2], "sample": 1},
]


def store(folder):
    return ResultStore(folder, {"seed": 1}, 2, 2, 3)


@pytest.mark.parametrize("kept", [0, 2**28])
def test_values_and_their_types_come_back(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(result_store, "_MAX_KEPT", kept)
    store(tmp_path).write(0, RESULTS[:2])
    resumed = store(tmp_path)
    assert resumed.has(0) and not resumed.has(1)
    resumed.write(1, RESULTS[2:])
    for found in (resumed, store(tmp_path)):
        assert repr(list(found)) == repr(RESULTS)
        assert repr([found[0], found[-2], found[2]]) == repr(RESULTS)
        with pytest.raises(IndexError):
            found[3]


def test_a_part_is_read_once_if_it_fits_in_memory(tmp_path, monkeypatch):
    store(tmp_path).write(0, RESULTS[:2])
    store(tmp_path).write(1, RESULTS[2:])
    loaded = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda path: loaded.append(path) or load(path))
    found = store(tmp_path)
    assert list(found) == list(found) == RESULTS and len(loaded) == 2
    monkeypatch.setattr(result_store, "_MAX_KEPT", 0)
    found = store(tmp_path)
    assert list(found) == list(found) == RESULTS and len(loaded) == 6


@pytest.mark.parametrize("value", [None, [1, None], [[1], [1, 2]], {"a": 1}])
def test_a_value_that_is_no_array_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match="a result whose x is not a number"):
        store(tmp_path).write(0, [{"x": value}])
    assert not list(tmp_path.rglob("*part*"))


def test_row_file_keeps_values(tmp_path):
    """Text of any kind comes back; line breaks become blanks."""
    columns = [
        Column("id", "text"),
        Column("y_relaxed", "number", "eV"),
        Column("num_atoms", "count"),
        Column("flags", "flags"),
        Column("error", "text"),
    ]
    rows = [
        {
            "id": text,
            "y_relaxed": value,
            "num_atoms": 3,
            "flags": {"a": "", "b": "Xe,Au"},
            "error": None,
        }
        for text, value in [('a"b,c', -1e-20), ("ä;=", 1.5), ("x\ny", None)]
    ]
    file = RowFile(tmp_path / "a.csv", columns, {})
    file.append(rows, "1")
    rows[2]["id"] = "x y"
    assert list(file) == rows and file[1] == rows[1] and file[-1] == rows[2]
    assert list(RowFile(tmp_path / "a.csv", columns, {})) == rows
    with pytest.raises(IndexError):
        file[3]
