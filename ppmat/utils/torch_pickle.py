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

"""Torch tensors inside a pickle, as numpy arrays, without torch.

The file holds replacements of the functions of ``torch._utils`` for
:mod:`ppmat.utils.restricted_pickle`, and the reader of the legacy ``torch.save`` stream
with which a plain pickle stores a tensor.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.utils.restricted_pickle import PLAIN_TABLE
from ppmat.utils.restricted_pickle import Budget
from ppmat.utils.restricted_pickle import Global
from ppmat.utils.restricted_pickle import RestrictedPickleError
from ppmat.utils.restricted_pickle import check_shape
from ppmat.utils.restricted_pickle import load_one


@dataclass(eq=False, slots=True)
class StorageType:
    """A torch storage class; ``widen`` marks bfloat16, read as u2 and widened later."""

    name: str
    dtype: np.dtype
    widen: bool = False


@dataclass(eq=False, slots=True)
class Storage:
    """The elements of one or more tensors: a flat array, possibly read-only."""

    array: np.ndarray
    widen: bool = False


@dataclass(eq=False, slots=True)
class StoragePid:
    """The checked persistent id of a storage: its type, key and length."""

    kind: StorageType
    key: str
    numel: int


STORAGE_CODES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
STORAGE_TYPES = {
    name: StorageType(name, np.dtype(code)) for name, code in STORAGE_CODES.items()
}
STORAGE_TYPES["BFloat16Storage"] = StorageType("BFloat16Storage", np.dtype("<u2"), True)
STORAGE_TABLE: dict[tuple[str, str], Any] = {
    **{("torch", name): kind for name, kind in STORAGE_TYPES.items()},
    ("torch.storage", "UntypedStorage"): StorageType("UntypedStorage", np.dtype("|u1")),
}


def rebuild_tensor(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> np.ndarray:
    """Copy a tensor out of its :class:`Storage`.

    Offset and stride count elements; ``metadata`` marks a conjugate or negative view.

    Returns:
        An owned, writable, contiguous array; float32 for bfloat16.
    """
    if type(storage) is not Storage:
        raise RestrictedPickleError("a tensor refers to no storage")
    count = check_shape(size, "a tensor")
    if type(offset) is not int or offset < 0:
        raise RestrictedPickleError("a tensor has a malformed offset")
    if type(stride) is not tuple or len(stride) != len(size):
        raise RestrictedPickleError("a tensor has as many strides as dimensions")
    if metadata:
        raise RestrictedPickleError("a conjugate or negative view is refused")
    array = storage.array
    dense = 1
    last = offset
    contiguous = True
    for length, step in zip(reversed(size), reversed(stride), strict=True):
        if type(step) is not int or step < 0:
            raise RestrictedPickleError("a tensor has a malformed stride")
        if length > 1 and step != dense:
            contiguous = False
        dense *= length
        last += (length - 1) * step
    if count == 0:
        array = np.empty(size, array.dtype)
    elif last >= array.size:
        raise RestrictedPickleError(
            f"a tensor of shape {size} reaches beyond its storage of {array.size} "
            "elements"
        )
    else:
        budget.take(count * array.itemsize, "a tensor")
        if contiguous:
            array = array[offset : offset + count].reshape(size).copy()
        else:
            array = np.lib.stride_tricks.as_strided(
                array[offset:], size, [step * array.itemsize for step in stride]
            ).copy()
    if storage.widen:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array


def rebuild_untyped_tensor(
    budget: Budget,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> np.ndarray:
    """Copy a tensor out of a storage of bytes, as torch writes newer dtypes."""
    if type(storage) is not Storage or storage.array.dtype != np.uint8:
        raise RestrictedPickleError("a tensor refers to no storage")
    if type(dtype) is not StorageType or storage.array.size % dtype.dtype.itemsize:
        raise RestrictedPickleError("the dtype of a tensor contradicts its storage")
    typed = Storage(storage.array.view(dtype.dtype), dtype.widen)
    return rebuild_tensor(budget, typed, offset, size, stride, metadata=metadata)


REBUILDERS = {
    "_rebuild_tensor": rebuild_tensor,
    "_rebuild_tensor_v2": rebuild_tensor,
    "_rebuild_tensor_v3": rebuild_untyped_tensor,
}  # of torch._utils


def rebuild_parameter(tensor_type: type) -> Global:
    """Return the replacement of ``_rebuild_parameter`` for one class of tensors."""

    def rebuild(
        budget: Budget, data: Any, requires_grad: Any = True, hooks: Any = None
    ) -> Any:
        if type(data) is not tensor_type:
            raise RestrictedPickleError("a parameter is not made of a tensor")
        return data

    return Global("torch._utils._rebuild_parameter", rebuild)


def _torch_size(budget: Budget, sizes: Any = ()) -> tuple:
    check_shape(sizes, "a torch.Size")
    return sizes


# The stream of torch.save before the zip archive: five pickles, then raw data. The
# first three (magic number, protocol, system) never change.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
LEGACY_HEAD = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    b"\x80\x02M\xe9\x03."
    b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03"
    b"X\r\x00\x00\x00little_endianq\x02\x88X\n\x00\x00\x00type_sizesq\x03}q\x04("
    b"X\x05\x00\x00\x00shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04"
    b"X\x04\x00\x00\x00longq\x07K\x04uu."
)

# The other two as torch writes them. One match is several times faster than decoding
# them; any other form is decoded.
_USUAL_PICKLES = re.compile(
    rb"\x80\x02\(X\x07\x00\x00\x00storageq\x00ctorch\n(?P<kind>\w{1,40})\nq\x01"
    rb"(?P<key>X.\x00\x00\x00[0-9]{1,32})q\x02X\x03\x00\x00\x00cpuq\x03"
    rb"(?:K(?P<n1>.)|M(?P<n2>..)|J(?P<n4>...[\x00-\x7f]))Ntq\x04Q\."
    rb"\x80\x02\]q\x00(?P<key_again>X.\x00\x00\x00[0-9]{1,32})q\x01a\.",
    re.DOTALL,
).match


def read_legacy_head(raw: Any, budget: Budget) -> int:
    """Check magic number, protocol and system of a legacy stream; return their end."""
    magic, pos = load_one(raw, {}, 0, budget=budget)
    if magic != _MAGIC:
        raise RestrictedPickleError("a stream does not start with torch's magic number")
    version, pos = load_one(raw, {}, pos, budget=budget)
    if version != _PROTOCOL:
        raise RestrictedPickleError("a stream is not of torch.save protocol 1001")
    system, pos = load_one(raw, {}, pos, budget=budget)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise RestrictedPickleError("a stream was written on a big-endian machine")
    return pos


def load_legacy_storage(budget: Budget, raw: Any) -> Storage:
    """Return the storage of the legacy ``torch.save`` stream ``raw``, a view of it."""
    if type(raw) is not bytes:
        raise RestrictedPickleError("a storage is not made of bytes")
    budget.take(len(raw), "a storage")
    usual = raw.startswith(LEGACY_HEAD)
    pos = len(LEGACY_HEAD) if usual else read_legacy_head(raw, budget)
    match = _USUAL_PICKLES(raw, pos)
    key = match["key"] if match else b""
    if match and match["key_again"] == key and key[1] == len(key) - 5:
        kind_name = match["kind"].decode("ascii")
        if kind_name not in STORAGE_TYPES:
            raise RestrictedPickleError(f"a torch.{kind_name} is refused")
        numel = int.from_bytes(match["n1"] or match["n2"] or match["n4"], "little")
        pid = StoragePid(STORAGE_TYPES[kind_name], "", numel)
        pos = match.end()
    else:
        pid, pos = load_one(raw, STORAGE_TABLE, pos, storage_pid, budget)
        if type(pid) is not StoragePid:
            raise RestrictedPickleError("a storage stream holds something else")
        keys, pos = load_one(raw, {}, pos, budget=budget)
        if type(keys) is not list or len(keys) != 1 or keys[0] != pid.key:
            raise RestrictedPickleError("a storage stream holds more than its storage")
    kind = pid.kind
    left = len(raw) - pos - 8
    if left < 0 or struct.unpack_from("<Q", raw, pos)[0] != pid.numel:
        raise RestrictedPickleError("a storage is truncated or contradicts its length")
    if pid.numel * kind.dtype.itemsize != left:
        raise RestrictedPickleError(
            f"a {kind.name} of {pid.numel} elements has {left} bytes"
        )
    return Storage(np.frombuffer(raw, kind.dtype, pid.numel, pos + 8), kind.widen)


_PID_TYPES = (str, StorageType, str, str, int)


def storage_pid(pid: Any) -> StoragePid:
    """Check ``("storage", class, key, location, numel[, view])``."""
    if type(pid) is tuple and tuple(map(type, pid[:5])) == _PID_TYPES:
        name, kind, key, _, numel = pid[:5]
        if name == "storage" and 0 <= numel < 1 << 48 and pid[5:] in ((), (None,)):
            return StoragePid(kind, key, numel)
    raise RestrictedPickleError("malformed persistent id of a storage")


TORCH_TABLE: dict[tuple[str, str], Any] = {
    **PLAIN_TABLE,
    **STORAGE_TABLE,
    ("torch.storage", "_load_from_bytes"): Global(
        "torch.storage._load_from_bytes", load_legacy_storage
    ),
    **{
        ("torch._utils", name): Global(f"torch._utils.{name}", rebuild)
        for name, rebuild in REBUILDERS.items()
    },
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter(np.ndarray),
    **{
        ("torch", name): StorageType(f"torch.{name}", np.dtype(f"<{code}"))
        for name, code in (("uint16", "u2"), ("uint32", "u4"), ("uint64", "u8"))
    },
    ("torch", "Size"): Global("torch.Size", _torch_size),
}
