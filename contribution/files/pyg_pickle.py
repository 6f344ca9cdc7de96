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
"""Reads pickled PyTorch Geometric ``Data`` objects as numpy arrays, without torch.

The records of the OC20 LMDB files are such pickles, of two generations: PyG 1.x stored
the attributes as the object's ``__dict__``, PyG >= 2 stores a ``GlobalStorage``. The
unpickler finds a closed list of names only, so it runs no other code of a record.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
# What torch.save writes first: magic number and protocol
_TORCH_SAVE = (0x1950A86A20F9469CFC6C, 1001)
# Those of a record. Others, and gaps in the memo, can take any amount of memory.
_OPCODES = set(
    "PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID MEMOIZE "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET EMPTY_DICT SETITEM SETITEMS EMPTY_LIST "
    "APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE "
    "BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINBYTES BINBYTES SHORT_BINUNICODE "
    "BINUNICODE".split()
)
_PLAIN = (str, int, float, bool, bytes, type(None), np.ndarray)
_ERRORS = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError),
    *(AttributeError, ImportError, OverflowError, MemoryError, struct.error),
)


class OC20FormatError(InputError):
    """A file or record that is not in the format of OC20; names file, key, reason."""


class _Object:
    """Stands for an object of PyG: holds the state of a pickle, runs nothing."""

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)


class _Data(_Object):
    pass


class _Storage(_Object):
    pass


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the names of a table and no others."""

    def __init__(self, stream: io.BytesIO, table: dict[tuple[str, str], Any]) -> None:
        start = stream.tell()
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            far = opcode.name == "LONG_BINPUT" and argument > number
            if opcode.name not in _OPCODES or far:
                raise pickle.UnpicklingError(f"refused: opcode {opcode.name}")
        stream.seek(start)
        super().__init__(stream)
        self.table = table

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.table:
            raise pickle.UnpicklingError(f"refused: {module[:80]}.{name[:80]}")
        return self.table[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, int]:
        kind, code, _, _, count, *rest = pid
        if kind != "storage" or code not in _STORAGES.values() or rest not in ([None],):
            raise pickle.UnpicklingError("a malformed persistent id of a storage")
        return code, count


def _load_storage(raw: bytes) -> np.ndarray:
    """Return the flat array of the legacy ``torch.save`` stream of one storage."""
    stream = io.BytesIO(raw)
    names = {("torch", name): code for name, code in _STORAGES.items()}
    parts = [_Unpickler(stream, names).load() for _ in range(5)]
    code, count = parts[3]
    if tuple(parts[:2]) != _TORCH_SAVE or parts[2].get("little_endian") is not True:
        raise pickle.UnpicklingError("a stream is not of torch.save protocol 1001")
    start = stream.tell() + 8
    if struct.unpack_from("<q", raw, start - 8)[0] != count:
        raise pickle.UnpicklingError("a storage contradicts its length")
    if len(raw) - start != count * np.dtype(code).itemsize:
        raise pickle.UnpicklingError(f"{count} elements in {len(raw) - start} bytes")
    return np.frombuffer(raw, code, count, start)


def _rebuild_tensor(
    storage: np.ndarray,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
) -> np.ndarray:
    """Copy a tensor out of its storage; offset and stride count elements."""
    if len(size) != len(stride) or min((*size, *stride, offset, 0)) < 0:
        raise pickle.UnpicklingError("a tensor has a malformed shape or stride")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if math.prod(size) == 0:
        return np.empty(size, storage.dtype)
    # a stride of 0 would make a large tensor of a small storage
    if last >= storage.size or math.prod(size) > storage.size:
        raise pickle.UnpicklingError(f"a tensor of shape {size} leaves its storage")
    steps = [step * storage.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, steps)
    return np.ascontiguousarray(view).reshape(size).copy()


_TABLE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("torch_geometric.data.data", "Data"): _Data,
    ("torch_geometric.data.data", "DataEdgeAttr"): _Object,
    ("torch_geometric.data.data", "DataTensorAttr"): _Object,
    ("torch_geometric.data.storage", "GlobalStorage"): _Storage,
}


def load_plain(data: bytes) -> Any:
    """Read a pickle of numbers, text and containers of these.

    Raises:
        OC20FormatError: It holds something else, or is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data), {}).load()
    except _ERRORS as error:
        raise OC20FormatError(f"{type(error).__name__}: {error}") from error


def loads(data: bytes, where: str = "") -> dict[str, Any]:
    """Read one pickled PyG ``Data`` object of either generation.

    Args:
        data: The pickle.
        where: File and key, for errors.

    Returns:
        Field name to numpy array (owned, writable), number or string, without None and
        names that start with ``_``.

    Raises:
        OC20FormatError: The record is truncated, inconsistent or not a ``Data``.
    """
    try:
        root = _Unpickler(io.BytesIO(data), _TABLE).load()
        if type(root) is not _Data:
            raise pickle.UnpicklingError(f"a {type(root).__name__} is no Data object")
        fields = vars(root)
        if "_store" in fields:
            fields = fields["_store"]._mapping
        if not all(isinstance(name, str) for name in fields):
            raise pickle.UnpicklingError("the name of a field is no text")
        fields = {k: v for k, v in fields.items() if v is not None and k[0] != "_"}
        for name, value in fields.items():
            if type(value) not in _PLAIN:
                kind = type(value).__name__
                raise pickle.UnpicklingError(f"field {name[:80]!r} holds a {kind}")
    except _ERRORS as error:
        found = f"{type(error).__name__}: {error}"
        raise OC20FormatError(found, where=where) from error
    return fields
