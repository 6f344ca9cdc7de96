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

"""Checks that a file has room for what its header declares, before it is decoded.

A damaged header can declare millions of frames, a chain of pages without an end, or
gigabytes of pixels. The image libraries would follow it for minutes or fill the memory.
Each check reads a few bytes for each page at most.

Sources: TIFF 6.0 and BigTIFF (chain of image file directories); the MRC2014 format; the
PNG standard, third edition (animated images); the HDF5 file format 3.0 (global heap).
"""

from __future__ import annotations

import mmap
import os
import re
import struct

from ppmat.stem.images.micrograph_base import ImageFormatError

# Decoded bytes for one byte of the file. Deflate reaches 1032; no micrograph comes
# near it.
_MOST_COMPRESSED = 2000
_FRAME_BYTES = 38  # of the control chunk that each frame of an animated PNG has
_MRC_HEADER_BYTES = 1024
_HDF5_SMALLEST = 32  # bytes of an HDF5 file, less than its first block has


def check_decoded_bytes(path: str, decoded: int) -> None:
    """Raise an ``ImageFormatError`` if a file cannot hold that many bytes of pixels."""
    size = os.path.getsize(path)
    if decoded > _MOST_COMPRESSED * size:
        raise ImageFormatError(
            f"{path}: declares {decoded} bytes of pixels, but the file has {size} "
            "bytes; it is damaged or truncated"
        )


def check_png_frames(path: str, frames: int) -> None:
    """Raise an ``ImageFormatError`` if a PNG file cannot hold that many frames."""
    size = os.path.getsize(path)
    if frames > 1 and frames * _FRAME_BYTES > size:
        raise ImageFormatError(
            f"{path}: declares {frames} frames, but has {size} bytes; it is damaged or "
            "truncated"
        )


def check_tiff_chain(path: str) -> None:
    """Raise an ``ImageFormatError`` if the pages of a TIFF file never end.

    The chain is followed as long as it stays in the file; a chain that leaves it is
    reported by the reader.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        count_type, pointer_type, tag_bytes = ("Q", "Q", 20) if big else ("H", "I", 12)
        count_bytes = struct.calcsize(order + count_type)
        pointer_bytes = struct.calcsize(order + pointer_type)
        start = 8 if big else 4
        seen: set[int] = set()
        position = head[start : start + pointer_bytes]
        while len(position) == pointer_bytes:
            (offset,) = struct.unpack(order + pointer_type, position)
            if offset == 0 or offset >= size:
                return
            if offset in seen:
                raise ImageFormatError(
                    f"{path}: its pages form a circle (page {len(seen)} points back to "
                    f"byte {offset}); it is damaged"
                )
            seen.add(offset)
            file.seek(offset)
            count = file.read(count_bytes)
            if len(count) < count_bytes:
                return
            (tags,) = struct.unpack(order + count_type, count)
            file.seek(min(offset + count_bytes + tags * tag_bytes, size))
            position = file.read(pointer_bytes)


def check_mrc_size(path: str) -> None:
    """Raise an ``ImageFormatError`` if an MRC file is shorter than its header says."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(_MRC_HEADER_BYTES)
    if len(head) < _MRC_HEADER_BYTES:
        raise ImageFormatError(f"{path}: truncated MRC file ({len(head)} bytes)")
    order = ">" if head[212] == 0x11 else "<"
    *shape, _ = struct.unpack(order + "4i", head[:16])
    (extended,) = struct.unpack(order + "i", head[92:96])
    pixels = shape[0] * shape[1] * shape[2]
    # The smallest pixels, of mode 101, have half a byte.
    if min(*shape, extended) < 0 or _MRC_HEADER_BYTES + extended + pixels // 2 > size:
        raise ImageFormatError(
            f"{path}: its header declares {shape[2]} x {shape[1]} x {shape[0]} pixels "
            f"and {extended} bytes of extended header, but the file has {size} bytes; "
            "it is damaged or truncated"
        )


def check_hdf5_heaps(path: str) -> None:
    """Raise an ``ImageFormatError`` if the HDF5 library would not leave a heap.

    The library walks from object to object by their sizes. A size that leads nowhere,
    as 0 for free space, keeps it in a loop.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < _HDF5_SMALLEST:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            width = data[14] if data[8] < 2 else data[10]  # bytes of a length
            if width not in (2, 4, 8):
                return  # the library refuses it
            for match in re.finditer(rb"GCOL\x01", data):
                _check_heap(path, data, match.start(), width)


def _check_heap(path: str, data: mmap.mmap, start: int, width: int) -> None:
    head = -(-(8 + width) // 8) * 8  # bytes before the objects, and of their headers
    size = int.from_bytes(data[start + 8 : start + 8 + width], "little")
    place, end = start + head, min(start + size, len(data))
    while place + head <= end:
        index = int.from_bytes(data[place : place + 2], "little")
        length = int.from_bytes(data[place + 8 : place + 8 + width], "little")
        step = head + (length + 7) // 8 * 8 if index else length
        # The library adds in numbers of 64 bits.
        if step % (1 << 64) < min(head, end - place):
            raise ImageFormatError(
                f"{path}: an object of the heap at byte {start} has {length} bytes; "
                "the file is damaged"
            )
        place += step
