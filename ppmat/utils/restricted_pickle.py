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

"""Read pickles of unknown origin without running anything that is in them.

The file holds an interpreter of the binary opcodes of protocols 2 to 5
(:func:`load_one`, :func:`loads`), and :data:`PLAIN_TABLE`, the globals of plain data
and numpy arrays. A global is looked up in a closed table that the caller gives, and is
never imported. REDUCE calls only functions of that table, and BUILD fills only objects
that this module made.

CPython's own ``Unpickler`` with another ``find_class`` is not safe for files from the
internet. It sizes its memo by an index from the file, hashes nested tuples without
limit (which crashes the process) and lets BUILD set attributes. Here the memo is a
dict, keys are scalars, and the numbers of opcodes, of built bytes and of keys that can
be made to collide are limited by what an input of this size can need.

Every wrong stream raises :class:`RestrictedPickleError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.utils.errors import InputError

MAX_OPCODES = 1_000_000  # of one pickle; a record of OC20 has about 300
MAX_NAME = 256  # bytes of the dotted name of a global
MAX_DIMS = 32  # dimensions of an array; the limit of numpy 1

# Keys whose hash is known in advance, in all of one input. Chosen to collide, n of them
# need n**2 / 2 comparisons: about 1 s for this many numbers. Texts and bytes have
# hashes with a random key. The states of a torch optimizer are numbered.
MAX_NUMBER_KEYS = 20_000
_TUPLE_KEY = 100  # number keys that count as much as a tuple with numbers in it
_REFERENCE = 8  # bytes of one item of a tuple or list

_TEXTS = (str, bytes)
_NUMBERS = (int, float, bool, type(None))


class RestrictedPickleError(InputError):
    """A pickle that is truncated, inconsistent, too large, or names another global."""


class Budget:
    """The bytes a stream may still copy, the items it may visit, the keys it may hash.

    It counts all work that a few opcodes could repeat on one large memoised object.
    """

    __slots__ = ("keys_left", "left", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit
        self.keys_left = MAX_NUMBER_KEYS

    @classmethod
    def for_stream(cls, num_bytes: int) -> Budget:
        """Allow 16 times the stream plus 1 MiB, because views may share a storage."""
        return cls(16 * num_bytes + (1 << 20))

    def take(self, num_bytes: int, what: str) -> None:
        """Count ``num_bytes`` for ``what``; raise an error beyond the limit."""
        self.left -= num_bytes
        if self.left < 0:
            raise RestrictedPickleError(
                f"{what} needs {num_bytes} bytes, more than a stream of this size may "
                f"ask for ({self.limit} in total)"
            )

    def take_keys(self, number: int) -> None:
        """Count keys that are no texts; raise an error beyond the limit."""
        self.keys_left -= number
        if self.keys_left < 0:
            raise RestrictedPickleError(
                f"more than {MAX_NUMBER_KEYS} keys of dicts and sets that are no texts "
                f"(a tuple with numbers counts {_TUPLE_KEY} times)"
            )


class Inert:
    """An object of a foreign class: its name and its state, without behaviour.

    It is created empty and filled by BUILD, so cyclic references work.
    """

    __slots__ = ("name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[str, Any] = {}


@dataclass(eq=False, slots=True)
class Global:
    """What replaces one global of the closed table.

    Args:
        name: Dotted name in the file.
        make: ``make(budget, *args)``, called by REDUCE. None for a global that may only
            be a value, such as a class.
        inert: Whether NEWOBJ may make an :class:`Inert` object of this class.
    """

    name: str
    make: Callable[..., Any] | None = None
    inert: bool = False


@dataclass(eq=False, slots=True)
class _DType:
    """A ``numpy.dtype`` whose byte order BUILD sets later."""

    code: str
    order: str = "<"

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


Table = Mapping[tuple[str, str], Any]


def _type_name(value: Any) -> str:
    return value.name if isinstance(value, Global) else type(value).__name__


def _check_key(key: Any, budget: Budget) -> None:
    # Only scalars are hashed: the hash of a nested tuple recurses in C, and an attacker
    # can construct long integers with equal hashes.
    kind = type(key)
    if kind in _TEXTS:
        return
    if kind is tuple and len(key) <= 16:
        kinds = set(map(type, key))
        if kinds.issubset(_TEXTS):
            return
        if kinds.issubset(_TEXTS + _NUMBERS) and all(map(_is_short, key)):
            budget.take_keys(_TUPLE_KEY)
            return
    elif kind in _NUMBERS and _is_short(key):
        budget.take_keys(1)
        return
    raise RestrictedPickleError(f"a {kind.__name__} as key of a dict or set is refused")


def _is_short(key: Any) -> bool:
    return type(key) is not int or -(1 << 63) <= key < 1 << 63


def _set_items(target: Any, items: list, budget: Budget) -> None:
    if type(target) is not dict:
        raise RestrictedPickleError(f"items are set on a {_type_name(target)}")
    if len(items) % 2:
        raise RestrictedPickleError("a dict has a key without value")
    for i in range(0, len(items), 2):
        key = items[i]
        if type(key) is not str:
            _check_key(key, budget)
        target[key] = items[i + 1]


def _append_items(target: Any, items: list) -> None:
    if type(target) is not list:
        raise RestrictedPickleError(f"items are appended to a {_type_name(target)}")
    target.extend(items)


def _make_set(items: list, budget: Budget) -> set:
    for item in items:
        _check_key(item, budget)
    return set(items)


def _build(target: Any, state: Any, budget: Budget) -> None:
    if type(target) is Inert:
        if type(state) is dict:
            budget.take(len(state), f"the state of {target.name}")
        if type(state) is not dict or not all(type(key) is str for key in state):
            raise RestrictedPickleError(
                f"the state of {target.name} is a {_type_name(state)}, expected a dict "
                "with string keys"
            )
        target.state = state
    elif type(target) is np.ndarray:
        _build_array(target, state, budget)
    elif type(target) is _DType:
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if type(order) is not str or order not in ("<", ">", "|"):
            raise RestrictedPickleError("malformed state of a numpy dtype")
        target.order = order
    elif type(target) is dict:
        # The state_dict of torch is an OrderedDict with the attribute `_metadata`.
        if type(state) is not dict:
            raise RestrictedPickleError("malformed attributes of an OrderedDict")
    else:
        raise RestrictedPickleError(f"BUILD on a {_type_name(target)} is refused")


def _reduce(func: Any, args: Any, budget: Budget) -> Any:
    if type(func) is not Global or func.make is None:
        raise RestrictedPickleError(f"a call of {_type_name(func)} is refused")
    if type(args) is not tuple:
        raise RestrictedPickleError(
            f"the arguments of {func.name} are a {_type_name(args)}, expected a tuple"
        )
    budget.take(_REFERENCE * len(args), f"a call of {func.name}")
    try:
        return func.make(budget, *args)
    except RestrictedPickleError:
        raise
    except (TypeError, ValueError, LookupError, OverflowError, AttributeError) as err:
        raise RestrictedPickleError(
            f"malformed arguments of {func.name} ({type(err).__name__})"
        ) from err


def _new_object(cls: Any, args: Any) -> Inert:
    if type(cls) is not Global or not cls.inert:
        raise RestrictedPickleError(f"a new object of {_type_name(cls)} is refused")
    if type(args) is not tuple or args:
        raise RestrictedPickleError(f"a new {cls.name} with arguments is refused")
    return Inert(cls.name)


def _find_global(table: Table, module: Any, name: Any) -> Any:
    if type(module) is not str or type(name) is not str:
        raise RestrictedPickleError("the name of a global is not a string")
    found = table.get((module, name))
    if found is None:
        raise RestrictedPickleError(
            f"the global {module[:MAX_NAME]!r}.{name[:MAX_NAME]!r} is refused: only "
            "tensors, arrays and plain data are read, nothing in a file is ever run"
        )
    return found


def _refuse_persistent_id(pid: Any) -> Any:
    raise RestrictedPickleError("a persistent id is refused here")


_UNPACK_U16 = struct.Struct("<H").unpack_from
_UNPACK_I32 = struct.Struct("<i").unpack_from
_UNPACK_U32 = struct.Struct("<I").unpack_from
_UNPACK_U64 = struct.Struct("<Q").unpack_from
_UNPACK_F64 = struct.Struct(">d").unpack_from


def load_one(
    data: bytes,
    table: Table,
    pos: int = 0,
    persistent_load: Callable[[Any], Any] = _refuse_persistent_id,
    budget: Budget | None = None,
) -> tuple[Any, int]:
    """Read the pickle that starts at ``pos`` of ``data``.

    Args:
        data: The stream.
        table: Closed table ``(module, name) -> Global``, or a plain value.
        pos: Position of its first byte.
        persistent_load: Maps a persistent id to an object; by default all are refused.
        budget: Bytes that may still be built; None computes them from ``data``.

    Returns:
        The object and the position after its STOP opcode.

    Example:
        >>> import pickle
        >>> loads(pickle.dumps({"a": [1, 2.5]}), PLAIN_TABLE)
        {'a': [1, 2.5]}
        >>> loads(pickle.dumps(print), PLAIN_TABLE)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ppmat...RestrictedPickleError: the global 'builtins'.'print' is refused...
    """
    if budget is None:
        budget = Budget.for_stream(len(data))
    try:
        return _run(data, table, pos, persistent_load, budget)
    except RestrictedPickleError:
        raise
    except (IndexError, struct.error) as err:
        raise RestrictedPickleError(
            f"the pickle is truncated or unbalanced ({len(data)} bytes)"
        ) from err
    except (UnicodeDecodeError, MemoryError, RecursionError, OverflowError) as err:
        raise RestrictedPickleError(
            f"the pickle is malformed ({type(err).__name__})"
        ) from err


def loads(
    data: bytes,
    table: Table,
    persistent_load: Callable[[Any], Any] = _refuse_persistent_id,
    budget: Budget | None = None,
) -> Any:
    """Read one pickle that fills ``data`` exactly; see :func:`load_one`."""
    value, end = load_one(data, table, 0, persistent_load, budget)
    if end != len(data):
        raise RestrictedPickleError(
            f"{len(data) - end} bytes follow the end of the pickle"
        )
    return value


def _run(
    data: bytes,
    table: Table,
    pos: int,
    persistent_load: Callable[[Any], Any],
    budget: Budget,
) -> tuple[Any, int]:
    # One flat loop over local names, the most frequent opcodes first, because it runs
    # about 300 times per record. `outer` holds the stacks below each open MARK.
    size = len(data)
    memo: dict[int, Any] = {}
    outer: list[list] = []
    stack: list = []

    for step in range(MAX_OPCODES):
        op = data[pos]
        pos += 1
        if op == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
        elif op == 0x71:  # BINPUT
            memo[data[pos]] = stack[-1]
            pos += 1
        elif op == 0x4B:  # BININT1
            stack.append(data[pos])
            pos += 1
        elif op == 0x68:  # BINGET
            if data[pos] not in memo:
                raise RestrictedPickleError(f"memo entry {data[pos]} does not exist")
            stack.append(memo[data[pos]])
            pos += 1
        elif op == 0x8C or op == 0x58 or op == 0x8D:  # (SHORT_)BINUNICODE(8)
            if op == 0x8C:
                end = pos + 1 + data[pos]
                pos += 1
            elif op == 0x58:
                end = pos + 4 + _UNPACK_U32(data, pos)[0]
                pos += 4
            else:
                end = pos + 8 + _UNPACK_U64(data, pos)[0]
                pos += 8
            if end > size:
                raise RestrictedPickleError("truncated in a string")
            stack.append(str(data[pos:end], "utf-8", "surrogatepass"))
            pos = end
        elif op == 0x52:  # REDUCE
            args = stack.pop()
            stack[-1] = _reduce(stack[-1], args, budget)
        elif op == 0x85:  # TUPLE1
            stack[-1] = (stack[-1],)
        elif op == 0x86:  # TUPLE2
            second = stack.pop()
            stack[-1] = (stack[-1], second)
        elif op == 0x87:  # TUPLE3
            third = stack.pop()
            second = stack.pop()
            stack[-1] = (stack[-1], second, third)
        elif op == 0x28:  # MARK
            outer.append(stack)
            stack = []
        elif op == 0x74:  # TUPLE
            items = tuple(stack)
            stack = outer.pop()
            stack.append(items)
        elif op == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif op == 0x4E:  # NONE
            stack.append(None)
        elif op == 0x4D:  # BININT2
            stack.append(_UNPACK_U16(data, pos)[0])
            pos += 2
        elif op == 0x42 or op == 0x43 or op == 0x8E or op == 0x96:  # bytes
            if op == 0x42:  # BINBYTES
                end = pos + 4 + _UNPACK_U32(data, pos)[0]
                pos += 4
            elif op == 0x43:  # SHORT_BINBYTES
                end = pos + 1 + data[pos]
                pos += 1
            else:  # BINBYTES8, BYTEARRAY8
                end = pos + 8 + _UNPACK_U64(data, pos)[0]
                pos += 8
            if end > size:
                raise RestrictedPickleError(
                    f"truncated: {end - pos} bytes announced, {size - pos} left"
                )
            stack.append(data[pos:end])
            pos = end
        elif op == 0x89:  # NEWFALSE
            stack.append(False)
        elif op == 0x88:  # NEWTRUE
            stack.append(True)
        elif op == 0x93:  # STACK_GLOBAL
            name = stack.pop()
            stack[-1] = _find_global(table, stack[-1], name)
        elif op == 0x63:  # GLOBAL
            lines = data[pos : pos + 2 * MAX_NAME].split(b"\n", 2)
            if len(lines) < 3:
                raise RestrictedPickleError("the name of a global has no end")
            module, name = str(lines[0], "utf-8"), str(lines[1], "utf-8")
            stack.append(_find_global(table, module, name))
            pos += len(lines[0]) + len(lines[1]) + 2
        elif op == 0x47:  # BINFLOAT
            stack.append(_UNPACK_F64(data, pos)[0])
            pos += 8
        elif op == 0x4A:  # BININT
            stack.append(_UNPACK_I32(data, pos)[0])
            pos += 4
        elif op == 0x8A:  # LONG1
            end = pos + 1 + data[pos]
            if end > size:
                raise RestrictedPickleError("truncated in an integer")
            stack.append(int.from_bytes(data[pos + 1 : end], "little", signed=True))
            pos = end
        elif op == 0x7D:  # EMPTY_DICT
            stack.append({})
        elif op == 0x5D:  # EMPTY_LIST
            stack.append([])
        elif op == 0x73:  # SETITEM
            value = stack.pop()
            key = stack.pop()
            _set_items(stack[-1], [key, value], budget)
        elif op == 0x75:  # SETITEMS
            items = stack
            stack = outer.pop()
            _set_items(stack[-1], items, budget)
        elif op == 0x61:  # APPEND
            value = stack.pop()
            _append_items(stack[-1], [value])
        elif op == 0x65:  # APPENDS
            items = stack
            stack = outer.pop()
            _append_items(stack[-1], items)
        elif op == 0x81:  # NEWOBJ
            args = stack.pop()
            stack[-1] = _new_object(stack[-1], args)
        elif op == 0x62:  # BUILD
            state = stack.pop()
            _build(stack[-1], state, budget)
        elif op == 0x51:  # BINPERSID
            stack[-1] = persistent_load(stack[-1])
        elif op == 0x95:  # FRAME
            if _UNPACK_U64(data, pos)[0] > size - pos - 8:
                raise RestrictedPickleError("truncated: a frame exceeds the data")
            pos += 8
        elif op == 0x80:  # PROTO
            if not 2 <= data[pos] <= 5:
                raise RestrictedPickleError(
                    f"pickle protocol {data[pos]}, expected 2..5"
                )
            pos += 1
        elif op == 0x2E:  # STOP
            if outer or len(stack) != 1:
                raise RestrictedPickleError("the pickle ends with an unbalanced stack")
            return stack[0], pos
        elif op == 0x72:  # LONG_BINPUT
            index = _UNPACK_U32(data, pos)[0]
            if index > step:  # others could be made to collide in the memo
                raise RestrictedPickleError(
                    f"memo entry {index} is not numbered in order"
                )
            memo[index] = stack[-1]
            pos += 4
        elif op == 0x6A:  # LONG_BINGET
            index = _UNPACK_U32(data, pos)[0]
            if index not in memo:
                raise RestrictedPickleError(f"memo entry {index} does not exist")
            stack.append(memo[index])
            pos += 4
        elif op == 0x30:  # POP
            if stack:
                stack.pop()
            else:
                stack = outer.pop()
        elif op == 0x31:  # POP_MARK
            stack = outer.pop()
        elif op == 0x8F:  # EMPTY_SET
            stack.append(set())
        elif op == 0x90:  # ADDITEMS
            items = stack
            stack = outer.pop()
            if type(stack[-1]) is not set:
                raise RestrictedPickleError(
                    f"items are added to a {_type_name(stack[-1])}"
                )
            stack[-1].update(_make_set(items, budget))
        elif op == 0x91:  # FROZENSET
            items = stack
            stack = outer.pop()
            stack.append(frozenset(_make_set(items, budget)))
        else:
            raise RestrictedPickleError(
                f"opcode 0x{op:02x} at byte {pos - 1} is unknown or refused: not a "
                "pickle of protocol 2..5 with plain data"
            )
    raise RestrictedPickleError(f"more than {MAX_OPCODES} opcodes")


# Plain data and numpy ----------------------------------------------------------------


def copy_dict(budget: Budget, items: dict, what: str) -> dict:
    """Copy a dict and count its bytes and keys."""
    budget.take(64 * len(items), what)
    budget.take_keys(sum(type(key) not in _TEXTS for key in items))
    return dict(items)


def _dict_from_pairs(budget: Budget, pairs: Any = ()) -> dict:
    if type(pairs) not in (list, tuple, dict):
        raise RestrictedPickleError("an OrderedDict is made of something not a list")
    if type(pairs) is dict:
        return copy_dict(budget, pairs, "an OrderedDict")
    budget.take(64 * len(pairs), "an OrderedDict")
    result: dict = {}
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise RestrictedPickleError("an OrderedDict has a malformed item")
        _check_key(pair[0], budget)
        result[pair[0]] = pair[1]
    return result


def _default_dict(budget: Budget, factory: Any = None) -> dict:
    return {}


def _set_from_list(budget: Budget, items: Any = ()) -> set:
    if type(items) not in (list, tuple):
        raise RestrictedPickleError("a set is made of something that is not a list")
    budget.take(64 * len(items), "a set")
    return _make_set(list(items), budget)


def _frozenset_from_list(budget: Budget, items: Any = ()) -> frozenset:
    return frozenset(_set_from_list(budget, items))


def make_tuple(budget: Budget, items: Any = ()) -> tuple:
    """Return a list or tuple as a tuple, and count its items."""
    if type(items) not in (list, tuple):
        raise RestrictedPickleError("a tuple is made of something that is not a list")
    budget.take(_REFERENCE * (len(items) + 8), "a tuple")
    return tuple(items)


def _empty_bytes(budget: Budget) -> bytes:
    return b""  # how protocol 2 writes it


def _slice(budget: Budget, *args: Any) -> slice:
    for arg in args:
        if arg is not None and type(arg) is not int:
            raise RestrictedPickleError("a slice has a bound that is not an integer")
    return slice(*args)


def _encode_latin1(budget: Budget, text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise RestrictedPickleError("only latin1 strings may be turned into bytes")
    budget.take(len(text), "a latin1 string")
    return text.encode("latin1")


_DTYPE_CODES = frozenset(
    "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split()
)  # no objects, strings, dates or records


def _dtype(budget: Budget, code: Any, align: Any = False, copy: Any = True) -> _DType:
    if type(code) is not str or code not in _DTYPE_CODES:
        raise RestrictedPickleError("a numpy dtype other than plain numbers is refused")
    return _DType(code)


def check_shape(shape: Any, what: str) -> int:
    """Return the number of elements of ``shape``, a short tuple of sizes >= 0."""
    if type(shape) is not tuple or len(shape) > MAX_DIMS:
        raise RestrictedPickleError(f"malformed shape of {what}")
    count = 1
    for size in shape:
        if type(size) is not int or not 0 <= size < 1 << 48:
            raise RestrictedPickleError(f"malformed shape of {what}")
        count *= size
    if count >= 1 << 48:
        raise RestrictedPickleError(f"{what} of {len(shape)} dimensions is too large")
    return count


def _reconstruct(budget: Budget, cls: Any, shape: Any, code: Any) -> np.ndarray:
    if cls is not _NDARRAY or shape != (0,):
        raise RestrictedPickleError("only a plain numpy.ndarray may be reconstructed")
    return np.empty((0,), dtype=np.uint8)


def _checked_kind(budget: Budget, raw: Any, dtype: Any, shape: Any) -> np.dtype:
    if type(dtype) is not _DType or type(raw) is not bytes:
        raise RestrictedPickleError("malformed numpy array: no plain dtype or no bytes")
    kind = dtype.numpy()
    count = check_shape(shape, "a numpy array")
    if count * kind.itemsize != len(raw):
        raise RestrictedPickleError(
            f"a numpy array of {count} x {kind} has {len(raw)} bytes"
        )
    budget.take(len(raw), "a numpy array")
    return kind


def _build_array(target: np.ndarray, state: Any, budget: Budget) -> None:
    if type(state) is not tuple or len(state) != 5 or target.shape != (0,):
        raise RestrictedPickleError("malformed state of a numpy array")
    _, shape, dtype, fortran, raw = state
    kind = _checked_kind(budget, raw, dtype, shape)
    # Fills the array in place, as objects that already refer to it need.
    target.__setstate__((1, shape, kind, fortran is True, raw))


def _frombuffer(
    budget: Budget, raw: Any, dtype: Any, shape: Any, order: Any
) -> np.ndarray:
    if type(order) is not str or order not in ("C", "F"):
        raise RestrictedPickleError("malformed order of a numpy array")
    kind = _checked_kind(budget, raw, dtype, shape)
    array = np.frombuffer(raw, kind).reshape(shape, order=order)
    return array.astype(kind.newbyteorder("="), order)


def _numpy_scalar(budget: Budget, dtype: Any, raw: Any) -> Any:
    kind = _checked_kind(budget, raw, dtype, ())
    return np.frombuffer(raw, kind)[0].item()


_NDARRAY = Global("numpy.ndarray")

PLAIN_TABLE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Global("collections.OrderedDict", _dict_from_pairs),
    ("collections", "defaultdict"): Global("collections.defaultdict", _default_dict),
    ("_codecs", "encode"): Global("_codecs.encode", _encode_latin1),
    ("numpy", "dtype"): Global("numpy.dtype", _dtype),
    ("numpy", "ndarray"): _NDARRAY,
}
for _module in ("builtins", "__builtin__"):
    for _name, _make in (
        ("set", _set_from_list),
        ("frozenset", _frozenset_from_list),
        ("slice", _slice),
        ("bytes", _empty_bytes),
    ):
        PLAIN_TABLE[_module, _name] = Global(f"builtins.{_name}", _make)
for _core in ("numpy.core", "numpy._core"):
    for _module, _name, _make in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _numpy_scalar),
        ("numeric", "_frombuffer", _frombuffer),
    ):
        PLAIN_TABLE[f"{_core}.{_module}", _name] = Global(f"{_core}.{_name}", _make)
