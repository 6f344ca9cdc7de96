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

"""Files whose headers declare more than they hold are refused at once."""

import re
import struct
import time
import zlib

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from ppmat.stem.images.declared_size import check_decoded_bytes
from ppmat.stem.images.declared_size import check_hdf5_heaps
from ppmat.stem.images.declared_size import check_tiff_chain
from ppmat.stem.images.micrograph import ImageFormatError
from ppmat.stem.images.micrograph import read_micrograph

IMAGE = np.arange(30, dtype=np.uint8).reshape(5, 6)
SECONDS = 5.0  # far above the time of a refusal, far below that of the libraries


def refused_at_once(path, reason):
    start = time.process_time()
    with pytest.raises(ImageFormatError, match=reason) as error:
        read_micrograph(path)
    assert time.process_time() - start < SECONDS
    assert path.name in str(error.value)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_pages_that_form_a_circle(tmp_path, big, order):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as file:
        for _ in range(3):
            file.write(IMAGE, contiguous=False)
    assert np.array_equal(read_micrograph(path, 2).data, IMAGE)
    with tifffile.TiffFile(path) as file:
        offsets = [page.offset for page in file.pages]
        place = file.pages[2].tags  # the pointer follows the last tag
        last = offsets[2] + (8 if big else 2) + len(place) * (20 if big else 12)
    content = bytearray(path.read_bytes())
    pointer = struct.pack(order + ("Q" if big else "I"), offsets[1])
    content[last : last + len(pointer)] = pointer
    path.write_bytes(content)
    refused_at_once(path, f"form a circle .page 3 points back to byte {offsets[1]}")


def test_a_chain_of_many_pages_is_followed_to_its_end(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for _ in range(200):
            file.write(IMAGE, contiguous=False)
    check_tiff_chain(str(path))
    path.write_bytes(path.read_bytes()[:300])  # leaves the file: for the reader
    check_tiff_chain(str(path))


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def test_frames_of_a_png(tmp_path):
    path = tmp_path / "a.png"
    frames = [Image.fromarray(IMAGE + i) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFormatError, match="holds 3 images"):
        read_micrograph(path)
    assert np.array_equal(read_micrograph(path, 2).data, IMAGE + 2)
    content = path.read_bytes()
    start = content.index(b"acTL") - 4
    more = chunk(b"acTL", struct.pack(">II", 2_000_000_000, 0))
    path.write_bytes(content[:start] + more + content[start + len(more) :])
    refused_at_once(path, "declares 2000000000 frames")


@pytest.mark.parametrize("place", [0, 4, 92])
def test_header_of_an_mrc_file(tmp_path, place):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(IMAGE.astype(np.float32))
    content = bytearray(path.read_bytes())
    content[place : place + 4] = struct.pack("<i", 2_000_000_000)
    path.write_bytes(content)
    refused_at_once(path, "2000000000.*the file has 1144 bytes")


def test_more_pixels_than_any_compression_gives(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="zlib")
    assert not read_micrograph(path).data.any()
    check_decoded_bytes(str(path), 1000 * path.stat().st_size)
    with pytest.raises(ImageFormatError, match="declares .* bytes of pixels"):
        check_decoded_bytes(str(path), 3000 * path.stat().st_size)


def test_heap_of_hdf5_that_leads_nowhere(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for number in range(300):  # more than one heap
            file.attrs[f"text{number}"] = "words " * 20
    check_hdf5_heaps(str(path))
    good = path.read_bytes()
    starts = [match.start() for match in re.finditer(b"GCOL", good)]
    assert len(starts) > 1
    start = starts[1] + 16
    for index, size in ((0, 0), (0, 8), (1, 2**64 - 16)):
        data = bytearray(good)
        data[start : start + 2] = index.to_bytes(2, "little")
        data[start + 8 : start + 16] = size.to_bytes(8, "little")
        path.write_bytes(data)
        with pytest.raises(ImageFormatError, match="an object of the heap"):
            check_hdf5_heaps(str(path))
