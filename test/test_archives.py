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

"""Archives that are made to fill the disk or the memory."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import pytest

from ppmat.utils import archives
from ppmat.utils.archives import ArchiveError
from ppmat.utils.archives import unpack_archive

ZEROS = bytes(1 << 20)


@pytest.fixture(autouse=True)
def small_limit(monkeypatch):
    monkeypatch.setattr(archives, "_SMALL", 1 << 20)


def unpack(folder, name, data):
    path = folder / name
    path.write_bytes(data)
    root = folder / "root"
    root.mkdir(exist_ok=True)
    unpack_archive(path, root)
    return root


def size_of(root):
    return sum(p.lstat().st_size for p in root.rglob("*") if p.is_file())


def tar(members, compress=gzip.compress):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return compress(out.getvalue())


def zip_of(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def refused(tmp_path, name, data, reason="unpacks to more than"):
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=reason) as caught:
            unpack(tmp_path, name, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert size_of(tmp_path / "root") <= max(1 << 20, 100 * len(data))
    assert peak < 1 << 25


def test_a_zip_bomb(tmp_path):
    data = zip_of([(f"{i}", ZEROS) for i in range(8)])
    assert len(data) < 20_000
    refused(tmp_path, "a.zip", data)


def test_a_zip_whose_members_are_one(tmp_path):
    """All entries of the list of contents name the same bytes."""
    data = bytearray(zip_of([("a", ZEROS)]))
    start = data.index(b"PK\x01\x02")
    entry = bytes(data[start : data.index(b"PK\x05\x06")])
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, 50, 50, 50 * len(entry), start, 0
    )
    refused(tmp_path, "a.zip", bytes(data[:start]) + entry * 50 + end)


def test_a_zip_that_lies_about_sizes(tmp_path):
    data = zip_of([("a", ZEROS * 8)])
    true = struct.pack("<I", 8 << 20)
    assert data.count(true) == 2
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(tmp_path, "a.zip", data.replace(true, struct.pack("<I", 1000)))
    assert size_of(tmp_path / "root") <= 1000


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_bomb(tmp_path, compress):
    refused(tmp_path, "a.tar.gz", tar([(tarfile.TarInfo("a"), ZEROS * 8)], compress))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_fills_the_memory(tmp_path, kind):
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, 64 << 20
    data = gzip.compress(info.tobuf() + bytes(1 << 16))
    refused(tmp_path, "a.tar.gz", data, "refused: has a header of 67108864 bytes")


def test_a_tar_with_a_long_end(tmp_path):
    data = zlib.compressobj(wbits=31)
    content = tar([(tarfile.TarInfo("a"), b"text")], bytes)
    stream = data.compress(content) + b"".join(data.compress(ZEROS) for _ in range(16))
    refused(tmp_path, "a.tar.gz", stream + data.flush())


def test_a_sparse_file_in_a_tar(tmp_path):
    info = tarfile.TarInfo("a")
    info.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf())
    block[386:410] = b"%011o\0%011o\0" % (0, 0)  # one empty piece
    block[483:495] = b"%011o\0" % (1 << 31)  # the size with its holes
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    refused(tmp_path, "a.tar", bytes(block) + bytes(1024))


def test_many_empty_files_in_a_tar(tmp_path):
    members = [(tarfile.TarInfo(f"{i}"), b"") for i in range(400)]
    refused(tmp_path, "a.tar.gz", tar(members))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz", "a.tar"])
def test_ordinary_archives_pass(tmp_path, name):
    text = "".join(f"{i} Cu {i * 0.1:.6f} {i * 0.2:.6f}\n" for i in range(20_000))
    compress = {"a.tar.xz": lzma.compress, "a.tar": bytes}.get(name, gzip.compress)
    if name == "a.zip":
        data = zip_of([("slab.xyz", text), ("deep/b", b"")])
    else:
        data = tar([(tarfile.TarInfo("slab.xyz"), text.encode())], compress)
    root = unpack(tmp_path, name, data)
    assert (root / "slab.xyz").read_text() == text


def test_a_disk_that_is_full_is_no_damage(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(tmp_path, "a.zip", zip_of([("a", b"1")]))
