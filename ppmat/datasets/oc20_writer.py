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

"""OC20 IS2RE / IS2RS records written to LMDB files in the official format."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb

from ppmat.datasets import pyg_pickle
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.utils.files import replacing

_BATCH_BYTES = 64 << 20  # records written in one transaction
_FIRST_MAP = 1 << 24  # bytes, first size of the map of a new file; it grows


def write_lmdb(
    path: str | os.PathLike,
    records: Iterable[OC20Record],
    generation: str = "old",
    overwrite: bool = False,
) -> int:
    """Write records to one LMDB file in the official format, complete or not at all.

    Args:
        path: The file; its folder is made if needed.
        records: Any iterable; at most 64 MiB of records are kept in memory.
        generation: Pickle generation, see :func:`pyg_pickle.dumps`.
        overwrite: Replace an existing file.

    Returns:
        The number of records.

    Raises:
        FileExistsError: The file exists and ``overwrite`` is False.
        OSError: The disk is full or not writable; no file is left.
        OC20FormatError: A record cannot be written, or there is none.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or overwrite it")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"subdir": False, "lock": False, "map_size": _FIRST_MAP}
    try:
        with replacing(path) as temporary:
            temporary.unlink(missing_ok=True)  # LMDB would add to an older file
            with lmdb.open(str(temporary), **options) as env:
                count = _write_batches(env, path, records, generation)
                env.sync(True)
    except lmdb.Error as err:
        raise OSError(f"{path}: cannot be written: {err}") from err
    return count


def _write_batches(env: Any, path: Path, records: Iterable, generation: str) -> int:
    batch: dict[bytes, bytes] = {}
    size, count = 0, -1
    for count, record in enumerate(records):
        fields = record.to_fields()
        OC20Record.from_fields(fields, f"{path} key '{count}' (sid {record.sid})")
        batch[b"%d" % count] = data = pyg_pickle.dumps(fields, generation)
        size += len(data)
        if size >= _BATCH_BYTES:
            _put(env, batch, size)
            batch, size = {}, 0
    _put(env, batch, size)
    if count < 0:
        raise OC20FormatError(f"{path}: no records to write")
    return count + 1


def _put(env: Any, batch: dict[bytes, bytes], size: int) -> None:
    # The map grows with the content. A map of generous size would need a sparse file,
    # which some file systems do not support.
    while True:
        try:
            with env.begin(write=True) as txn:
                for key, data in batch.items():
                    txn.put(key, data)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()["map_size"] + 2 * size)
