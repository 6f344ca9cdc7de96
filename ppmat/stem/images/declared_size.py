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
PNG standard, third edition (animated images).
"""

from __future__ import annotations

import os
import struct

from ppmat.stem.images.micrograph_base import ImageFormatError

# Decoded bytes for one byte of the file. Deflate reaches 1032; no micrograph comes
# near it.
_MOST_COMPRESSED = 2000
_FRAME_BYTES = 38  # of the control chunk that each frame of an animated PNG has
_MRC_HEADER_BYTES = 1024


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
