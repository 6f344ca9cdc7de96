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

"""Pickled PyTorch Geometric ``Data`` objects, read and written without torch.

The records of the OC20 LMDB files are such pickles, of two generations: PyG 1.x
stored the attributes as the object's ``__dict__``, PyG >= 2 stores a ``GlobalStorage``
that refers back to the object. A table of the legal classes restricts the reader, so
reading runs no code of a record. torch and PyG can read the records written here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.restricted_pickle import Budget
from ppmat.utils.restricted_pickle import Global
from ppmat.utils.restricted_pickle import Inert
from ppmat.utils.restricted_pickle import RestrictedPickleError
from ppmat.utils.restricted_pickle import loads as load_restricted
from ppmat.utils.torch_pickle import LEGACY_HEAD
from ppmat.utils.torch_pickle import STORAGE_CODES
from ppmat.utils.torch_pickle import TORCH_TABLE

GENERATIONS = ("old", "new")
_MODULE = "torch_geometric.data.data"
_DATA = f"{_MODULE}.Data"
_STORAGE = "torch_geometric.data.storage.GlobalStorage"
_MAX_NESTING = 8
_VISIT = 8  # bytes of the budget for each value that is looked at

PYG_TABLE: dict[tuple[str, str], Any] = {
    **TORCH_TABLE,
    (_MODULE, "Data"): Global(_DATA, inert=True),
    ("torch_geometric.data.storage", "GlobalStorage"): Global(_STORAGE, inert=True),
    (_MODULE, "DataEdgeAttr"): Global(f"{_MODULE}.DataEdgeAttr"),
    (_MODULE, "DataTensorAttr"): Global(f"{_MODULE}.DataTensorAttr"),
}


class OC20FormatError(InputError):
    """A file or record that is not in the format of OC20; names file, key, reason."""


def loads(data: bytes, where: str = "") -> dict[str, Any]:
    """Read one pickled PyG ``Data`` object of either generation.

    Args:
        data: The pickle.
        where: File and key, for errors.

    Returns:
        Field name to numpy array (owned, writable, contiguous), number, string, or
        plain container of these, without None and names that start with ``_``.

    Raises:
        OC20FormatError: The record is truncated, inconsistent or not a ``Data``.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(data, bytes):
        raise OC20FormatError(f"{prefix}a record is bytes, got {type(data).__name__}")
    budget = Budget.for_stream(len(data))
    try:
        fields = _fields(load_restricted(data, PYG_TABLE, budget=budget))
        result = {}
        for name, value in fields.items():
            if value is not None and not name.startswith("_"):
                if type(value) is not np.ndarray:
                    _check_plain(name, value, budget, _MAX_NESTING)
                result[name] = value
    except RestrictedPickleError as err:
        raise OC20FormatError(f"{prefix}{err}") from err
    return result


def load_plain(data: bytes) -> Any:
    """Read a pickle of numbers, text and containers of these.

    Raises:
        OC20FormatError: It holds something else, or is damaged.
    """
    try:
        return load_restricted(data, {})
    except RestrictedPickleError as err:
        raise OC20FormatError(str(err)) from err


def _fields(root: Any) -> dict[str, Any]:
    if type(root) is not Inert or root.name != _DATA:
        raise RestrictedPickleError(
            "the record is no torch_geometric Data object but a "
            f"{root.name if type(root) is Inert else type(root).__name__}"
        )
    store = root.state.get("_store")
    if store is None:
        return root.state
    if type(store) is not Inert or store.name != _STORAGE:
        raise RestrictedPickleError("the record's _store is no GlobalStorage")
    mapping = store.state.get("_mapping")
    if type(mapping) is not dict or not all(type(key) is str for key in mapping):
        raise RestrictedPickleError("the record's _store holds no mapping of fields")
    return mapping


def _check_plain(name: str, value: Any, budget: Budget, depth: int) -> None:
    """Refuse values that are no plain data, are nested too deep, or are too many."""
    budget.take(_VISIT, "a field")
    kind = type(value)
    if kind in (str, int, float, bool, bytes, type(None), np.ndarray, slice):
        return
    if kind in (list, tuple, set, frozenset, dict) and depth > 0:
        for item in value.values() if kind is dict else value:
            _check_plain(name, item, budget, depth - 1)
        return
    raise RestrictedPickleError(
        f"field {name[:80]!r} holds a "
        f"{value.name if isinstance(value, (Inert, Global)) else kind.__name__}"
        + (f" nested deeper than {_MAX_NESTING}" if depth == 0 else ", no plain data")
    )


_TORCH_NAMES = {
    np.dtype(code).str.lstrip("<|"): name for name, code in STORAGE_CODES.items()
}
# PyG 1.x objects have these attributes even when unset, in this order.
_OLD_UNSET = ("x", "edge_index", "edge_attr", "y", "pos", "normal", "face")


def dumps(fields: Mapping[str, Any], generation: str = "old") -> bytes:
    """Write a record as PyG would pickle it.

    Args:
        fields: Field name to numpy array, number, string, bool or None, in the order
            wanted in the file. Arrays become tensors of the same dtype.
        generation: "old" (PyG 1.x, the official IS2RE files) or "new" (PyG >= 2).

    Returns:
        The pickle (protocol 4).

    Raises:
        OC20FormatError: A record cannot hold the type of a field.
        InputError: ``generation`` is neither "old" nor "new".

    Example:
        >>> loads(dumps({"pos": np.zeros((2, 3)), "sid": 7}))["sid"]
        7
    """
    check_choice("generation", generation, GENERATIONS)
    body = {str(name): _value(name, value) for name, value in fields.items()}
    data_class = _global(_MODULE, "Data")
    if generation == "old":
        ordered = {name: body.pop(name, b"N") for name in _OLD_UNSET}
        state = _dict({**ordered, **body})
        return b"\x80\x04" + data_class + b")\x81" + state + b"b."
    store = _global("torch_geometric.data.storage", "GlobalStorage") + b")\x81"
    # The Data object is memo entry 0, and the storage's parent refers to it.
    store += _dict({"_mapping": _dict(body), "_parent": b"h\x00"}) + b"b"
    state = {
        "_edge_attr_cls": _global(_MODULE, "DataEdgeAttr"),
        "_tensor_attr_cls": _global(_MODULE, "DataTensorAttr"),
        "_store": store,
    }
    return b"\x80\x04" + data_class + b")\x81\x94" + _dict(state) + b"b."


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(number: int) -> bytes:
    if 0 <= number < 256:
        return struct.pack("<cB", b"K", number)
    if -(1 << 31) <= number < 1 << 31:
        return struct.pack("<ci", b"J", number)
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return struct.pack("<BB", 0x8A, len(raw)) + raw


def _integers(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _dict(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(_text(key) + raw for key, raw in items.items()) + b"u"


def _value(name: str, value: Any) -> bytes:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return struct.pack(">cd", b"G", value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, np.ndarray):
        return _tensor(name, value)
    raise OC20FormatError(
        f"field {name!r} is a {type(value).__name__}; a record holds arrays, numbers, "
        "strings and None"
    )


def _tensor(name: str, array: np.ndarray) -> bytes:
    code = array.dtype.str.lstrip("<>=|")
    if code not in _TORCH_NAMES:
        raise OC20FormatError(
            f"field {name!r} has dtype {array.dtype}, which has no torch storage; "
            f"legal: {', '.join(_TORCH_NAMES)}"
        )
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    stream = _storage_stream(_TORCH_NAMES[code], array.size, raw)
    sizes = [max(size, 1) for size in array.shape]
    strides = tuple(math.prod(sizes[i + 1 :]) for i in range(array.ndim))
    return b"".join(
        (
            _global("torch._utils", "_rebuild_tensor_v2") + b"(",
            _global("torch.storage", "_load_from_bytes"),
            b"B" + struct.pack("<I", len(stream)) + stream + b"\x85R",
            b"K\x00" + _integers(array.shape) + _integers(strides) + b"\x89",
            _global("collections", "OrderedDict") + b")R" + b"tR",
        )
    )


def _storage_stream(storage_name: str, numel: int, raw: bytes) -> bytes:
    """Return the legacy ``torch.save`` stream of one storage."""
    key = _text("0")
    pid = b"(" + _text("storage") + f"ctorch\n{storage_name}\n".encode() + key
    pid += _text("cpu") + _integer(numel) + b"NtQ"
    pickles = b"\x80\x02" + pid + b"." + b"\x80\x02](" + key + b"e."
    return LEGACY_HEAD + pickles + struct.pack("<q", numel) + raw
