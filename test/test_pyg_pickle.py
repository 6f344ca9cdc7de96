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

"""Tests of :mod:`ppmat.datasets.pyg_pickle` and :mod:`ppmat.utils.torch_pickle`.

The reference records were written by genuine torch and PyG, see ``data/README.md``.
"""

import os
import pickle
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ppmat.datasets import pyg_pickle
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.utils import torch_pickle
from ppmat.utils.restricted_pickle import Budget
from ppmat.utils.restricted_pickle import RestrictedPickleError

DATA = Path(__file__).parent / "data"
TRUTH = dict(np.load(DATA / "pyg_genuine_truth.npz"))
GENUINE = {
    generation: (DATA / f"pyg_{generation}_genuine.pkl").read_bytes()
    for generation in pyg_pickle.GENERATIONS
}


@pytest.fixture(params=pyg_pickle.GENERATIONS)
def generation(request):
    return request.param


@pytest.mark.parametrize("name", TRUTH)
def test_genuine_records(generation, name):
    value = pyg_pickle.loads(GENUINE[generation])[name]
    np.testing.assert_array_equal(value, TRUTH[name])
    if isinstance(value, np.ndarray):
        assert value.shape == TRUTH[name].shape
        assert value.dtype == TRUTH[name].dtype.newbyteorder("=")
        assert value.flags.owndata or value.base.flags.owndata
        assert value.flags.writeable and value.flags.aligned


def test_plain_fields_of_genuine_records(generation):
    fields = pyg_pickle.loads(GENUINE[generation])
    assert set(fields) == set(TRUTH)  # None and underscore names are gone
    assert fields["sid"] == 123456 and type(fields["sid"]) is int
    assert fields["flag"] is True and fields["name"] == "Å"
    assert fields["numbers"] == [1, 2.5] and fields["numpy_scalar"] == 0.5


def test_arrays_do_not_share_memory():
    fields = pyg_pickle.loads(GENUINE["new"])
    before = fields["view_transposed"].copy()
    fields["view_offset"][:] = -1
    np.testing.assert_array_equal(fields["view_transposed"], before)


def test_two_ways_through_a_storage_agree(monkeypatch):
    """The whole-pattern shortcut of the storage stream reads what running it reads."""
    fast = pyg_pickle.loads(GENUINE["new"])
    used = []
    run = torch_pickle.load_one
    monkeypatch.setattr(
        torch_pickle, "load_one", lambda *a, **k: used.append(1) or run(*a, **k)
    )
    pyg_pickle.loads(GENUINE["new"])
    assert len(used) == 6  # untyped storages only: three of them, two pickles each
    monkeypatch.setattr(torch_pickle, "_USUAL_PICKLES", lambda raw, pos: None)
    monkeypatch.setattr(torch_pickle, "LEGACY_HEAD", b"never")
    slow = pyg_pickle.loads(GENUINE["new"])
    assert len(used) > 100
    assert list(slow) == list(fast)
    for name in fast:
        np.testing.assert_array_equal(slow[name], fast[name])


ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.dtype(c) for c in torch_pickle.STORAGE_CODES.values()]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20), st.booleans()
)
NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name[0] != "_")


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, st.one_of(ARRAYS, NUMBERS), max_size=5),
    st.sampled_from(pyg_pickle.GENERATIONS),
)
def test_round_trip(fields, generation):
    got = pyg_pickle.loads(pyg_pickle.dumps(fields, generation))
    assert set(got) == set(fields)
    for name, value in fields.items():
        np.testing.assert_array_equal(got[name], value)
        if isinstance(value, np.ndarray):
            assert got[name].dtype == value.dtype and got[name].shape == value.shape
        else:
            assert type(got[name]) is type(value)


def test_round_trip_of_awkward_arrays(generation):
    base = np.arange(24.0).reshape(4, 6)
    fields = {
        "transposed": base.T,
        "strided": base[::2, ::-1],
        "big_endian": base.astype(">f4"),
        "number": np.float32(0.25),
        "integer": np.int64(-7),
        "nothing": None,
        "_hidden": 3,
    }
    got = pyg_pickle.loads(pyg_pickle.dumps(fields, generation))
    assert set(got) == set(fields) - {"nothing", "_hidden"}
    for name in got:
        np.testing.assert_array_equal(got[name], fields[name])


def test_fields_keep_their_order(generation):
    fields = {name: 1 for name in "distances sid tags y_relaxed natoms".split()}
    assert list(pyg_pickle.loads(pyg_pickle.dumps(fields, generation))) == list(fields)


def test_unset_attributes_are_written_as_pyg_does():
    data = pyg_pickle.dumps({"pos": np.zeros((1, 3)), "sid": 1}, "old")
    places = [data.index(name.encode()) for name in ("edge_attr", "pos", "face", "sid")]
    assert places == sorted(places)
    assert b"_store" not in data


@pytest.mark.parametrize(
    "value, reason",
    [
        (np.array(["a"]), "no torch storage"),
        (np.array([None]), "no torch storage"),
        (np.arange(3, dtype=np.uint16), "no torch storage"),
        ([1, 2], "is a list"),
        (object(), "is a object"),
    ],
)
def test_what_cannot_be_written(value, reason):
    with pytest.raises(OC20FormatError, match=f"field 'bad'.*{reason}"):
        pyg_pickle.dumps({"bad": value})


def test_unknown_generation():
    with pytest.raises(ValueError, match="generation is 'newer'"):
        pyg_pickle.dumps({}, "newer")


def small(generation="new"):
    return pyg_pickle.dumps({"pos": np.ones((2, 3), np.float32), "sid": 5}, generation)


def test_every_truncation_names_the_place(generation):
    data = small(generation)
    for end in range(len(data)):
        with pytest.raises(OC20FormatError, match="^train.lmdb key '7': "):
            pyg_pickle.loads(data[:end], "train.lmdb key '7'")


def test_every_byte_changed_gives_a_record_or_the_format_error(generation):
    data = small(generation)
    for place in range(len(data)):
        for value in {0, 1, 0x2E, 0x52, 0x62, 0x80, 0xFF, data[place] ^ 1}:
            broken = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                pyg_pickle.loads(broken)
            except OC20FormatError:
                pass


def replaced(old, new, data=None):
    data = small() if data is None else data
    assert data.count(old) >= 1
    return data.replace(old, new)


NUMEL = struct.pack("<q", 6)
BROKEN = {
    "not a Data": pickle.dumps({"pos": 1}),
    "a number": pickle.dumps(5),
    "evil": b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
    "other magic": replaced(b"\x8a\nl\xfc", b"\x8a\nm\xfc"),
    "other version": replaced(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03."),
    "big endian": replaced(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
    "unknown storage": replaced(b"FloatStorage", b"QloatStorage"),
    "wider storage": replaced(b"FloatStorage", b"DoubleStorage"),
    "other count in the data": replaced(NUMEL, struct.pack("<q", 7)),
    "negative count": replaced(NUMEL, struct.pack("<q", -1)),
    "other count in the id": replaced(b"K\x06Nt", b"K\x07Nt"),
    "huge count in the id": replaced(b"K\x06Nt", b"J\xff\xff\xff\x7fNt"),
    "other key": replaced(b"](X\x01\x00\x00\x000", b"](X\x01\x00\x00\x001"),
    "no key": replaced(b"](X\x01\x00\x00\x000e", b"](e"),
    "view in the id": replaced(b"K\x06NtQ", b"K\x06K\x01tQ"),
    "offset beyond": replaced(b"K\x00(K\x02K\x03t", b"K\x01(K\x02K\x03t"),
    "shape beyond": replaced(b"K\x00(K\x02K\x03t", b"K\x00(K\x03K\x03t"),
    "huge shape": replaced(b"(K\x02K\x03t", b"(J\xff\xff\xff\x7fK\x03t"),
    "negative shape": replaced(b"(K\x02K\x03t", b"(J\xff\xff\xff\xffK\x03t"),
    "stride beyond": replaced(b"(K\x03K\x01t", b"(K\x04K\x01t"),
    "negative stride": replaced(b"(K\x03K\x01t", b"(J\xff\xff\xff\xffK\x01t"),
    "one stride": replaced(b"(K\x03K\x01t", b"(K\x03t"),
    "expanded without bound": replaced(
        b"(K\x03K\x01t",
        b"(K\x00K\x00t",
        replaced(b"(K\x02K\x03t", b"(J\xff\xff\xff\x7fK\x03t"),
    ),
    "conjugate view": replaced(b")RtR", b")R}X\x04\x00\x00\x00conj\x88stR"),
    "storage of text": replaced(b"\x85RK\x00(", b"0N\x85RK\x00("),
    "state of the class": b"\x80\x04"
    + pyg_pickle._global("torch_geometric.data.data", "Data")
    + b"}b.",
    "Data without state in its store": b"\x80\x04"
    + pyg_pickle._global("torch_geometric.data.data", "Data")
    + b")\x81}X\x06\x00\x00\x00_storeK\x01sb.",
    "store without mapping": b"\x80\x04"
    + pyg_pickle._global("torch_geometric.data.data", "Data")
    + b")\x81}X\x06\x00\x00\x00_store"
    + pyg_pickle._global("torch_geometric.data.storage", "GlobalStorage")
    + b")\x81sb.",
    "field that is a class": replaced(
        b"K\x05u", pyg_pickle._global("torch_geometric.data.data", "Data") + b"u"
    ),
    "field that is the record": replaced(b"K\x05u", b"h\x00u"),
    "field nested deep": replaced(b"K\x05u", b"]" * 12 + b"a" * 11 + b"u"),
}


def test_the_unbroken_record_is_read():
    assert pyg_pickle.loads(small())["pos"].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("name", BROKEN)
def test_broken_records(name):
    with pytest.raises(OC20FormatError, match="^there: "):
        pyg_pickle.loads(BROKEN[name], "there")


def test_shared_lists_are_not_walked_for_ever():
    # Seven lists, each sixty times the one before: memo 1, 2, ... (0 is the record).
    nested = b"](" + b"N" * 60 + b"e\x94"
    for level in range(1, 7):
        nested += b"0](" + b"h%c" % level * 60 + b"e\x94"
    data = replaced(b"K\x05u", nested + b"u")
    with pytest.raises(OC20FormatError, match="more than a stream of this size"):
        pyg_pickle.loads(data)


def test_expanded_tensors_within_reason_are_read():
    fields = pyg_pickle.loads(GENUINE["new"])
    np.testing.assert_array_equal(fields["view_expanded"], TRUTH["view_expanded"])


def test_bytes_are_required():
    with pytest.raises(OC20FormatError, match="a record is bytes, got NoneType"):
        pyg_pickle.loads(None)


def test_bfloat16_is_widened():
    raw = np.array([1.0, -2.5, 3.0e38], dtype=np.float32)
    storage = torch_pickle.Storage((raw.view(np.uint32) >> 16).astype("<u2"), True)
    got = torch_pickle.rebuild_tensor(Budget(100), storage, 0, (3,), (1,))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, raw, rtol=2**-7)


def test_a_large_storage_may_not_be_copied_again_and_again():
    storage = torch_pickle.Storage(np.zeros(1000, dtype="<f4"))
    budget = Budget(10_000)
    for _ in range(2):
        torch_pickle.rebuild_tensor(budget, storage, 0, (1000,), (1,))
    with pytest.raises(RestrictedPickleError, match="more than a stream"):
        torch_pickle.rebuild_tensor(budget, storage, 0, (1000,), (1,))


READ_BACK = """
import pickle, sys, numpy as np, torch
from torch_geometric.data import Data
folder = sys.argv[1]
truth = np.load(folder + "/truth.npz")
for generation in ("old", "new"):
    data = pickle.load(open(folder + "/" + generation, "rb"))
    assert type(data) is Data
    fields = data.__dict__ if generation == "old" else data.to_dict()
    for name in truth:
        value = fields[name]
        array = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        np.testing.assert_array_equal(array, truth[name])
        assert not array.shape or array.dtype == truth[name].dtype, name
    if generation == "new":
        assert data.num_nodes == 3 and data.clone().pos.shape == (3, 3)
print("read", torch.__version__)
"""


@pytest.mark.skipif(
    "PPMAT_TORCH_PYTHON" not in os.environ,
    reason="PPMAT_TORCH_PYTHON names no Python that has torch and torch_geometric",
)
def test_torch_and_pyg_read_our_records(tmp_path):
    fields = {"pos": np.arange(9.0, dtype=np.float32).reshape(3, 3)}
    for name, code in torch_pickle.STORAGE_CODES.items():
        fields[name] = np.arange(4).astype(code)
    fields.update(empty=np.zeros((0, 3)), number=np.array(2.5), sid=12, y=-1.5)
    fields.update(name="Å", large=np.zeros(70_000, np.int16), big=2**40)
    np.savez(tmp_path / "truth.npz", **fields)
    for generation in pyg_pickle.GENERATIONS:
        path = tmp_path / generation
        path.write_bytes(pyg_pickle.dumps(fields, generation))
    done = subprocess.run(
        [os.environ["PPMAT_TORCH_PYTHON"], "-c", READ_BACK, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("read ")
