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
"""Opens one LMDB file of OC20 for reading."""

from __future__ import annotations

import os

import lmdb

from ppmat.datasets.pyg_pickle import OC20FormatError


class LMDBFile:
    """One LMDB file, open for reading; ``len`` is the number of its entries.

    Args:
        path: The file.
        readahead: Let the system read ahead: good for one pass in order, bad for
            random access to a file larger than memory.

    Raises:
        OC20FormatError: It is no LMDB file.
    """

    def __init__(self, path: str | os.PathLike, readahead: bool = False) -> None:
        options = {"subdir": False, "readonly": True, "lock": False}
        try:
            self.env = lmdb.open(os.fspath(path), readahead=readahead, **options)
        except lmdb.Error as error:
            raise OC20FormatError(str(error), where=os.fspath(path)) from error

    def __len__(self) -> int:
        return self.env.stat()["entries"]

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None if there is no such key."""
        with self.env.begin() as transaction:
            return transaction.get(key)
