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

"""Reads LMDB files page by page, without trusting what a page says.

The C library maps the file and follows sizes and page numbers as they stand. A file cut
short or a flipped byte then kills the process (SIGBUS, SIGSEGV). Here a page or a value
is read only after a check that it lies inside the file. Nothing is mapped, so a file
that becomes shorter while it is read is an error as well.

Source of the layout: ``MDB_page``, ``MDB_node`` and ``MDB_meta`` in ``mdb.c`` of LMDB
0.9 (data format 1, 64-bit, little-endian).
"""

from __future__ import annotations

import os
import struct
import weakref
from bisect import bisect_right
from functools import partial
from typing import NamedTuple

from ppmat.datasets.pyg_pickle import OC20FormatError

_MAGIC = 0xBEEFC0DE
_VERSION = 1
# Magic, version, page size; of the main tree: order of the keys, depth, entries, root;
# last page, number of the transaction.
_META = struct.Struct("<16xII16xI48xHH24xQQQQ")
_PAGE = struct.Struct("<QHHHH")  # page number, -, kind, ends of pointers and free space
_RUN = struct.Struct("<Q2xHI")  # first page of a value: its number, kind, pages
_NODE = struct.Struct("<HHHH")  # low and high half of size or page, flags, key length
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_KINDS = _BRANCH | _LEAF | _OVERFLOW | _META_PAGE
_LARGE = 1  # flag of a node whose value has pages of its own
_OTHER_ORDERS = 0x7E  # flags of a tree with other keys, or several values a key
_NO_ROOT = (1 << 64) - 1
_PAGE_SIZES = tuple(1 << power for power in range(9, 17))
_MAX_DEPTH = 32  # of a tree; the limit of the C library
_LEAST_ENTRY = 2 + _NODE.size  # bytes of a pointer and a node
_MAX_VALUE = 1 << 28  # bytes; a record of 200 atoms has 0.3 MiB


class _Tree(NamedTuple):
    """What the newer of the two meta pages says."""

    page_size: int
    depth: int
    entries: int
    root: int
    last_page: int
    transaction: int


class _Node(NamedTuple):
    key: bytes
    size: int  # of the value; of a branch: the page below
    large: bool
    start: int  # of the value, in its page


def _key(page: bytes, start: int) -> bytes:
    """Return the key of the entry at ``start``; its end may be missing."""
    length = page[start + 6] | page[start + 7] << 8
    start += _NODE.size
    return page[start : start + length]


class LMDBFile:
    """One LMDB file, open for reading. Nothing may write to it meanwhile.

    An object can be used in several threads and in forked processes.

    Args:
        path: The file; ``data.mdb`` of an LMDB folder.
        readahead: Let the system read ahead: good for one pass in order, bad for
            random access to a file larger than memory.

    Raises:
        OC20FormatError: It is no LMDB file, is damaged, or has lost pages in use.
        OSError: It cannot be opened.

    Attributes:
        close: Function that closes the file; it is also called at the object's end.
    """

    def __init__(self, path: str | os.PathLike, readahead: bool = False) -> None:
        self.path = os.fspath(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: the LMDB file does not exist") from None
        self.close = weakref.finalize(self, os.close, self._descriptor)
        if not readahead and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self._size = os.fstat(self._descriptor).st_size
        self._tree = self._read_tree()
        self._check_size()

    def __len__(self) -> int:
        return self._tree.entries

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None if there is no such key.

        Raises:
            OC20FormatError: A page on the way to the value is damaged or missing.
        """
        number = self._tree.root
        if number == _NO_ROOT:
            return None
        for _ in range(self._tree.depth):
            page, kind, places = self._page(number)
            first = int(kind == _BRANCH)  # a branch begins with an entry without a key
            above = bisect_right(places, key, first, key=partial(_key, page))
            node = self._node(page, places[above - 1]) if above else None
            if kind == _LEAF:
                return self._value(page, node) if node and node.key == key else None
            number = node.size
        raise self._too_deep()

    def _damaged(self, reason: str) -> OC20FormatError:
        return OC20FormatError(
            f"{reason} (the file has {self._size} bytes)",
            where=self.path,
            hint="It is damaged, incomplete or of another kind: fetch it again.",
        )

    def _read(self, start: int, count: int, what: str) -> bytes:
        data = os.pread(self._descriptor, count, start)
        if len(data) != count:
            raise self._damaged(f"{what} at byte {start} is cut off")
        return data

    def _read_tree(self) -> _Tree:
        """Read both meta pages; they alone say how large the pages are."""
        trees = [self._read_meta(0)]
        trees.append(self._read_meta(trees[0].page_size))
        if trees[0].page_size != trees[1].page_size:
            raise self._damaged("its two meta pages name two page sizes")
        return max(trees, key=lambda tree: tree.transaction)

    def _read_meta(self, start: int) -> _Tree:
        if start + _META.size > self._size:
            raise self._unopened("is too short")
        data = self._read(start, _META.size, "a meta page")
        magic, version, page_size, order, *numbers = _META.unpack(data)
        kind = _PAGE.unpack_from(data)[2] & _KINDS
        if (magic, version, kind) != (_MAGIC, _VERSION, _META_PAGE):
            raise self._unopened(f"byte {start} begins no meta page of version 1")
        tree = _Tree(page_size, *numbers)
        if page_size not in _PAGE_SIZES:
            raise self._unopened(f"names pages of {page_size} bytes")
        if order & _OTHER_ORDERS:
            raise self._unopened("has keys that are no plain text")
        inside = tree.root == _NO_ROOT or 2 <= tree.root <= tree.last_page
        if not inside or tree.depth > _MAX_DEPTH:
            raise self._unopened("names a tree that it cannot hold")
        return tree

    def _unopened(self, reason: str) -> OC20FormatError:
        return self._damaged(f"cannot be opened as an LMDB file: {reason}")

    def _check_size(self) -> None:
        """Compare the size of the file with its number of pages.

        LMDB also counts pages at the end that it took and gave back before it wrote
        them. Only if pages are missing is the tree searched for one that is in use.
        """
        wanted = (self._tree.last_page + 1) * self._tree.page_size
        if self._size < wanted and not self._is_whole():
            raise self._damaged(f"is cut short: wanted {wanted} bytes")
        if self._tree.entries * _LEAST_ENTRY > self._size:
            raise self._unopened(f"names {self._tree.entries} entries")

    def _is_whole(self) -> bool:
        """Return whether all pages of the tree and of its values lie in the file."""
        pages = self._size // self._tree.page_size
        level = [] if self._tree.root == _NO_ROOT else [self._tree.root]
        for _ in range(self._tree.depth):
            below: list[int] = []
            for number in level:
                if number >= pages:
                    return False
                page, kind, places = self._page(number)
                for node in (self._node(page, place) for place in places):
                    if kind == _BRANCH:
                        below.append(node.size)
                    elif node.large and self._end_of_value(page, node) > self._size:
                        return False
            if len(below) > pages:
                raise self._damaged("names more pages than it has")
            level = below
        if level:
            raise self._too_deep()
        return True

    def _too_deep(self) -> OC20FormatError:
        return self._damaged(f"its tree is deeper than {self._tree.depth} levels")

    def _page(self, number: int) -> tuple[bytes, int, tuple[int, ...]]:
        """Return a page of the tree, its kind and the places of its entries."""
        size = self._tree.page_size
        if not 2 <= number <= self._tree.last_page:
            raise self._damaged(f"names a page {number}, which it does not have")
        page = self._read(number * size, size, f"page {number}")
        itself, _, kind, lower, upper = _PAGE.unpack_from(page)
        kind &= _KINDS
        if itself != number or kind not in (_BRANCH, _LEAF):
            raise self._damaged(f"page {number} is empty or of another kind")
        count = (lower - _PAGE.size) // 2
        if count < 1 or not lower <= upper <= size:
            raise self._damaged(f"page {number} contradicts itself")
        places = struct.unpack_from(f"<{count}H", page, _PAGE.size)
        if max(places) > size - _NODE.size:
            raise self._damaged(f"an entry of page {number} lies outside of it")
        return page, kind, places

    def _node(self, page: bytes, start: int) -> _Node:
        low, high, flags, length = _NODE.unpack_from(page, start)
        size = low | high << 16
        start += _NODE.size + length
        key = page[start - length : start]
        if _PAGE.unpack_from(page)[2] & _BRANCH:
            size, flags, inside = size | flags << 32, 0, 0
        else:
            inside = 8 if flags == _LARGE else size
        if flags not in (0, _LARGE):
            raise self._damaged(f"the value of {key[:40]!r} is no plain value")
        if start + inside > len(page):
            raise self._damaged(f"the entry {key[:40]!r} leaves its page")
        return _Node(key, size, flags == _LARGE, start)

    def _end_of_value(self, page: bytes, node: _Node) -> int:
        """Return where a value with pages of its own ends in the file."""
        (number,) = struct.unpack_from("<Q", page, node.start)
        return number * self._tree.page_size + _PAGE.size + node.size

    def _value(self, page: bytes, node: _Node) -> bytes:
        if not node.large:
            return page[node.start : node.start + node.size]
        what = f"the value of {node.key[:40]!r}"
        end = self._end_of_value(page, node)
        if end > self._size or node.size > _MAX_VALUE:
            raise self._damaged(f"{what}, {node.size} bytes long, is cut off")
        start = end - node.size - _PAGE.size
        data = self._read(start, _PAGE.size + node.size, what)
        number, kind, pages = _RUN.unpack_from(data)
        inside = len(data) <= pages * self._tree.page_size
        if (number * self._tree.page_size, kind) != (start, _OVERFLOW) or not inside:
            raise self._damaged(f"{what} is not where its page says")
        return data[_PAGE.size :]
