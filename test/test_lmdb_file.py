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

"""LMDB files against the C library; cut, damaged and nonsensical files."""

import os
import random
import struct
import subprocess
import sys

import lmdb
import pytest

from ppmat.datasets import lmdb_file
from ppmat.datasets.lmdb_file import LMDBFile
from ppmat.datasets.pyg_pickle import OC20FormatError

PAGE = 4096
SIZES = (0, 1, 20, 100, 2000, 2050, 3000, 9000)  # bytes of values, in and beyond a page


def write(path, items, batches=1, delete=()):
    options = {"subdir": False, "lock": False, "sync": False, "map_size": 1 << 26}
    with lmdb.open(str(path), **options) as env:
        keys = list(items)
        for i in range(batches):
            with env.begin(write=True) as txn:
                for key in keys[i::batches]:
                    txn.put(key, items[key])
        with env.begin(write=True) as txn:
            for key in delete:
                txn.delete(key)
    return path


def make_items(count=400, seed=0):
    rng = random.Random(seed)
    return {b"%d" % i: rng.randbytes(rng.choice(SIZES)) for i in range(count)}


@pytest.mark.parametrize("count", [0, 1, 2, 40, 3000])
def test_every_entry_is_that_of_the_c_library(tmp_path, count):
    items = make_items(count)
    keys = list(items)
    path = write(tmp_path / "a.lmdb", items, batches=3, delete=keys[::3])
    file = LMDBFile(path)
    with lmdb.open(str(path), subdir=False, lock=False, readonly=True) as env:
        assert len(file) == env.stat()["entries"] == len(keys) - len(keys[::3])
        with env.begin() as txn:
            for key in [*keys, b"", b"-1", b"zz", b"1" * 500]:
                wanted = txn.get(key) if key else None  # the library refuses b""
                assert file.get(key) == wanted


@pytest.mark.parametrize("length", [1, 100, 511])
def test_long_keys(tmp_path, length):
    items = {(b"%06d" % i) * 86: b"v%d" % i for i in range(200)}
    items = {key[:length] if length > 6 else key[:6]: v for key, v in items.items()}
    file = LMDBFile(write(tmp_path / "a.lmdb", items))
    assert all(file.get(key) == value for key, value in items.items())


def changed(data, start, form, value):
    data = bytearray(data)
    struct.pack_into(form, data, start, value)
    return bytes(data)


def last_pages(path):
    """Return the pages that the file counts."""
    return LMDBFile(path)._tree.last_page + 1


def test_a_file_cut_anywhere_is_refused_when_it_is_opened(tmp_path):
    items = make_items(60)
    path = write(tmp_path / "a.lmdb", items)
    whole = path.read_bytes()
    assert len(whole) == last_pages(path) * PAGE
    cuts = range(2 * PAGE, len(whole) - PAGE + 1, PAGE // 2)
    for size in [0, 1, 100, PAGE, PAGE + 200, *cuts]:
        path.write_bytes(whole[:size])
        wanted = "is cut short: wanted" if size > PAGE + 152 else "cannot be opened as"
        with pytest.raises(OC20FormatError, match=f"a.lmdb: {wanted}"):
            LMDBFile(path)
    for size in range(len(whole) - PAGE, len(whole) + 1, 64):  # the end of a value
        path.write_bytes(whole[:size])
        try:
            file = LMDBFile(path)
        except OC20FormatError:
            continue
        assert all(file.get(key) == value for key, value in items.items())
    assert size == len(whole)


READ_ALL = """
import sys, lmdb
env = lmdb.open(sys.argv[1], subdir=False, lock=False, readonly=True)
with env.begin() as txn:
    print(sum(len(txn.get(b"%d" % i) or b"") for i in range(60)))
"""


def test_the_c_library_dies_of_a_file_cut_short(tmp_path):
    path = write(tmp_path / "a.lmdb", make_items(60))
    command = [sys.executable, "-c", READ_ALL, str(path)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    os.truncate(path, path.stat().st_size // 2)
    assert subprocess.run(command, capture_output=True).returncode < 0  # by a signal


def test_pages_that_were_never_written_are_not_missed(tmp_path):
    """LMDB may take pages at the end and give them back; it copies such files too."""
    items = make_items(60)
    path = write(tmp_path / "a.lmdb", items)
    data = path.read_bytes()
    for meta in (0, PAGE):
        data = changed(data, meta + 136, "<Q", len(data) // PAGE + 20)
    path.write_bytes(data)
    file = LMDBFile(path)
    assert all(file.get(key) == value for key, value in items.items())
    os.truncate(path, len(data) - 10 * PAGE)
    with pytest.raises(OC20FormatError, match="is cut short"):
        LMDBFile(path)


def test_half_of_a_file_is_zero(tmp_path):
    """As downloads are that reserve their space first."""
    items = make_items(400)
    path = write(tmp_path / "a.lmdb", items)
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(len(whole) - half))
    file = LMDBFile(path)
    answers = {}
    for key, value in items.items():
        try:
            found = file.get(key)
        except OC20FormatError as error:
            answers[str(error)] = key
        else:  # a value over several pages may be whole, or end in zeros
            assert found == value or found.strip(b"\0") == found.rstrip(b"\0")
    assert answers and all("a.lmdb: " in text for text in answers)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    items = make_items(60)
    path = write(tmp_path / "a.lmdb", items)
    file = LMDBFile(path)
    os.truncate(path, 3 * PAGE)
    with pytest.raises(OC20FormatError, match="at byte .* is cut off"):
        for key in items:
            file.get(key)


def test_a_file_that_grows_is_read_as_it_was(tmp_path):
    items = make_items(60)
    path = write(tmp_path / "a.lmdb", items)
    file = LMDBFile(path)
    with open(path, "ab") as out:
        out.write(bytes(100_000))
    assert all(file.get(key) == value for key, value in items.items())


META = [
    (16, "<I", 0xBEEFC0DF, "no meta page"),
    (20, "<I", 2, "no meta page"),
    (10, "<H", 2, "no meta page"),
    (40, "<I", 0, "pages of 0 bytes"),
    (40, "<I", 4095, "pages of 4095 bytes"),
    (40, "<I", 8192, ""),
    (40, "<I", 1 << 31, "pages of 2147483648 bytes"),
    (92, "<H", 4, "keys that are no plain text"),
    (94, "<H", 65535, "names a tree"),
    (120, "<Q", 1 << 60, "names 1152921504606846976 entries"),
    (128, "<Q", 1 << 40, "names a tree"),
    (128, "<Q", 0, "names a tree"),
]


@pytest.mark.parametrize("start, form, value, reason", META)
def test_nonsense_in_the_meta_pages(tmp_path, start, form, value, reason):
    path = write(tmp_path / "a.lmdb", make_items(60))
    data = path.read_bytes()
    for meta in (0, PAGE):
        data = changed(data, meta + start, form, value)
    path.write_bytes(data)
    with pytest.raises(OC20FormatError, match=f"a.lmdb: .*{reason}"):
        LMDBFile(path)


def test_a_sparse_file_needs_no_memory(tmp_path):
    items = make_items(60)
    path = write(tmp_path / "a.lmdb", items)
    os.truncate(path, 1 << 40)
    file = LMDBFile(path)
    assert all(file.get(key) == value for key, value in items.items())


def test_a_tree_that_is_a_circle(tmp_path):
    path = write(tmp_path / "a.lmdb", make_items(3000))
    file = LMDBFile(path)
    root = file._tree.root
    assert file._tree.depth > 1
    data = bytearray(path.read_bytes())
    _, _, places = file._page(root)
    for place in places:  # every branch leads back to the root
        struct.pack_into("<IH", data, root * PAGE + place, root, 0)
    path.write_bytes(data)
    with pytest.raises(OC20FormatError, match="deeper than 3"):
        LMDBFile(path).get(b"1")
    os.truncate(path, len(data) - PAGE)
    with pytest.raises(OC20FormatError):
        LMDBFile(path)


def test_a_value_that_says_it_has_4_gigabytes(tmp_path):
    path = write(tmp_path / "a.lmdb", {b"0": bytes(3 * PAGE)})
    file = LMDBFile(path)
    (place,) = file._page(file._tree.root)[2]
    data = changed(
        path.read_bytes(), file._tree.root * PAGE + place, "<I", (1 << 32) - 1
    )
    path.write_bytes(data)
    os.truncate(path, 1 << 40)
    with pytest.raises(OC20FormatError, match="the value of b'0', 4294967295 bytes"):
        LMDBFile(path).get(b"0")


def test_flipped_bytes_never_give_anything_but_a_value_or_an_error(tmp_path):
    items = make_items(100)
    path = write(tmp_path / "a.lmdb", items)
    whole = path.read_bytes()
    in_use = [
        n for n in range(len(whole) // PAGE) if whole[n * PAGE + 10] in (1, 2, 4, 8)
    ]
    refused = 0
    for seed in range(200):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.choice((1, 4, 16))):
            offset = rng.randrange(rng.choice((64, PAGE)))
            data[rng.choice(in_use) * PAGE + offset] = rng.randrange(256)
        path.write_bytes(data)
        try:
            file = LMDBFile(path)
        except OC20FormatError:
            refused += 1
            continue
        for key in list(items)[:: rng.randrange(1, 9)]:
            try:
                value = file.get(key)
            except OC20FormatError:
                refused += 1
            else:
                assert value is None or type(value) is bytes
    assert refused > 200


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="Linux")
def test_readahead_is_only_advice(tmp_path):
    items = make_items(20)
    path = write(tmp_path / "a.lmdb", items)
    for readahead in (False, True):
        file = lmdb_file.LMDBFile(path, readahead)
        assert all(file.get(key) == value for key, value in items.items())
