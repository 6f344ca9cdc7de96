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

"""The two file formats of ``torch.save``: where the pickle and the storages are.

The zip archive of PyTorch 1.6 and later holds ``<name>/data.pkl`` and one member
``<name>/data/<key>`` for each storage. The older stream is five pickles (magic number,
protocol, system, object, keys of the storages). For each key follow the number of
elements and the elements.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import zipfile
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from typing import BinaryIO

import numpy as np

from ppmat.utils.restricted_pickle import Budget
from ppmat.utils.restricted_pickle import Global
from ppmat.utils.restricted_pickle import RestrictedPickleError
from ppmat.utils.restricted_pickle import copy_dict
from ppmat.utils.restricted_pickle import load_one
from ppmat.utils.restricted_pickle import loads
from ppmat.utils.torch_pickle import REBUILDERS
from ppmat.utils.torch_pickle import TORCH_TABLE
from ppmat.utils.torch_pickle import Storage
from ppmat.utils.torch_pickle import StoragePid
from ppmat.utils.torch_pickle import read_legacy_head
from ppmat.utils.torch_pickle import rebuild_parameter
from ppmat.utils.torch_pickle import storage_pid

DAMAGED = "The file is damaged or incomplete: fetch it again."
RESAVE = (
    "Where PyTorch is installed, save the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)

_MAX_VERSION = 10  # of the zip form; PyTorch accepts the same
_CHUNK = 1 << 18  # bytes read at once
_MAGIC = b"\xfc\x9cF\xf9 j\xa8P\x19."  # of a stream, inside its first pickle
_MAX_PICKLE = 1 << 26  # bytes; bounds the memory that a stream's pickle may ask for


class ContainerError(Exception):
    """What is wrong with a file and what to do; the caller adds the file's name."""


def _damaged(reason: str) -> ContainerError:
    return ContainerError(f"{reason}. {DAMAGED}")


@dataclass(eq=False, slots=True)
class StoredElements:
    """A storage of the file, or a part of one (views of PyTorch before 0.4)."""

    pid: StoragePid
    offset: int
    size: int


@dataclass(eq=False, slots=True)
class LazyTensor:
    """A tensor that is not built yet: its elements in the file, and how to build it."""

    make: Callable
    stored: StoredElements
    args: tuple

    def build(self, budget: Budget, elements: np.ndarray) -> np.ndarray:
        """Return the tensor, a copy, given all elements of its storage."""
        part = elements[self.stored.offset :][: self.stored.size]
        storage = Storage(part, self.stored.pid.kind.widen)
        return self.make(budget, storage, *self.args)


def _deferred(name: str, make: Callable) -> Global:
    def defer(budget: Budget, stored: Any, *args: Any) -> LazyTensor:
        if type(stored) is not StoredElements:
            raise RestrictedPickleError("a tensor refers to no storage")
        return LazyTensor(make, stored, args)

    return Global(name, defer)


def _counter(budget: Budget, counts: Any = None) -> dict:
    if type(counts) is not dict:
        raise RestrictedPickleError("a Counter is made of something not a dict")
    return copy_dict(budget, counts, "a Counter")


def _forget(budget: Budget, *args: Any) -> None:
    return None


def _make_table() -> dict[tuple[str, str], Any]:
    table = dict(TORCH_TABLE)
    # A whole stream inside the stream: torch.save never writes that.
    del table["torch.storage", "_load_from_bytes"]
    for name, make in REBUILDERS.items():
        table["torch._utils", name] = _deferred(f"torch._utils.{name}", make)
    table["torch._utils", "_rebuild_parameter"] = rebuild_parameter(LazyTensor)
    # Other things in checkpoints: devices, dtypes, losses, settings of a run.
    table["torch", "device"] = Global("torch.device", _forget)
    for name in (
        "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool "
        "complex64 complex128 contiguous_format channels_last strided"
    ).split():
        table["torch", name] = Global(f"torch.{name}")
    table["torch.serialization", "_get_layout"] = Global("torch.layout", _forget)
    table["collections", "Counter"] = Global("collections.Counter", _counter)
    losses = "torch.nn.modules.loss"
    for name in ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss"):
        table[losses, name] = Global(f"{losses}.{name}", inert=True)
    table["argparse", "Namespace"] = Global("argparse.Namespace", inert=True)
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
        for module in ("pathlib", "pathlib._local"):
            table[module, name] = Global(f"pathlib.{name}", _forget)
    for module in ("builtins", "__builtin__"):
        for name in ("dict", "list", "int", "float"):
            table[module, name] = Global(f"builtins.{name}")
    return table


_TABLE = _make_table()


class StorageIds:
    """Turns the persistent ids of a pickle into storages, and collects the storages.

    With ``views`` an id may name a part of a storage, or a class with its source.
    """

    def __init__(self, views: bool) -> None:
        self.views = views
        self.by_key: dict[str, StoragePid] = {}

    def __call__(self, pid: Any) -> Any:
        view = None
        if self.views and type(pid) is tuple:
            if len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Global:
                return pid[1]  # a class with its source code
            if len(pid) == 6:
                *pid, view = pid
                pid = tuple(pid)
        found = storage_pid(pid)
        known = self.by_key.setdefault(found.key, found)
        if known.kind is not found.kind or known.numel != found.numel:
            raise RestrictedPickleError(f"storage {found.key[:32]!r} has two lengths")
        if view is None:
            return StoredElements(known, 0, known.numel)
        if (
            type(view) is not tuple
            or len(view) != 3
            or type(view[1]) is not int
            or type(view[2]) is not int
            or not 0 <= view[1] <= view[1] + view[2] <= known.numel
        ):
            raise RestrictedPickleError("malformed view of a storage")
        return StoredElements(known, view[1], view[2])


Reader = Callable[[StoragePid], np.ndarray]


def _fill(file: BinaryIO, num_bytes: int) -> np.ndarray:
    """Read exactly ``num_bytes`` without a second copy of them."""
    raw = np.empty(num_bytes, np.uint8)
    view = memoryview(raw)
    done = 0
    while done < num_bytes:
        count = file.readinto(view[done : done + _CHUNK])
        if not count:
            raise _damaged(f"{num_bytes - done} bytes of a storage are missing")
        done += count
    return raw


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members of the archive, without the name of their common folder.

    They must be as ``torch.save`` writes them: not compressed, not encrypted, inside
    one folder, each once, and together no larger than the file.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    folder = None
    total = 0
    for info in archive.infolist():
        shown = repr(info.filename[:80])
        top, slash, name = info.filename.partition("/")
        folder = top if folder is None else folder
        odd = {"", ".", ".."}.intersection(name.split("/"))
        if not top or not slash or top != folder or odd:
            raise ContainerError(
                f"the archive member {shown} is not inside the one folder of a PyTorch "
                "checkpoint. If the archive contains a checkpoint, unpack it"
            )
        if name in members:
            raise _damaged(f"the archive has two members {shown}")
        if info.flag_bits & 0x41:
            raise ContainerError(f"the archive member {shown} is encrypted. {RESAVE}")
        total += info.file_size
        if info.compress_type != zipfile.ZIP_STORED:
            raise ContainerError(
                f"the archive member {shown} is compressed, which torch.save never "
                f"does. {RESAVE}"
            )
        if info.file_size != info.compress_size or total > size:
            raise _damaged(
                f"the archive member {shown} says it has {info.file_size} bytes, which "
                f"cannot be in a file of {size}"
            )
        members[name] = info
    if "data.pkl" not in members:
        raise ContainerError(
            "a zip archive without data.pkl, no PyTorch checkpoint. If it contains "
            "one, unpack it"
        )
    if "constants.pkl" in members:
        raise ContainerError(f"a TorchScript archive (torch.jit.save). {RESAVE}")
    return members


_ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, EOFError, ValueError)
_ZIP_ERRORS += (OverflowError, struct.error)


@contextlib.contextmanager
def _zip_errors() -> Iterator[None]:
    """Turn the errors of ``zipfile`` for damaged archives into one."""
    try:
        yield
    except _ZIP_ERRORS as error:
        reason = str(error) or type(error).__name__
        raise _damaged(f"a damaged zip archive: {reason}") from error


class _Zip:
    """An archive whose members are checked."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        with _zip_errors():
            if not zipfile.is_zipfile(file):
                raise _damaged(
                    f"truncated: the archive has no directory at its end ({size} bytes)"
                )
            self.archive = zipfile.ZipFile(file)
        self.members = _members(self.archive, size)

    def read(self, name: str) -> np.ndarray:
        """Return the bytes of a member, after comparing its checksum."""
        if name not in self.members:
            raise _damaged(f"the archive member {name[:80]!r} is missing")
        with _zip_errors(), self.archive.open(self.members[name]) as member:
            raw = _fill(member, self.members[name].file_size)
            member.read(1)  # the checksum is compared at the end
        return raw

    def read_storage(self, pid: StoragePid) -> np.ndarray:
        """Return the elements of a storage."""
        raw = self.read(f"data/{pid.key}")
        if raw.size != pid.numel * pid.kind.dtype.itemsize:
            raise _damaged(
                f"storage {pid.key[:32]!r} has {raw.size} bytes instead of "
                f"{pid.numel} x {pid.kind.dtype.itemsize}"
            )
        return raw.view(pid.kind.dtype)


def _open_zip(file: BinaryIO, size: int) -> tuple[Any, Reader]:
    """Return the object of a zip archive and a reader of its storages."""
    archive = _Zip(file, size)
    version = archive.read("version").tobytes()[:32].strip()
    if not version.isdigit() or not 1 <= int(version) <= _MAX_VERSION:
        raise ContainerError(
            f"format version {version!r}; wanted 1 to {_MAX_VERSION}. {RESAVE}"
        )
    if "byteorder" in archive.members:  # older files do not have it
        order = archive.read("byteorder").tobytes()[:32]
        if order != b"little":
            raise ContainerError(
                f"byte order {order!r}; only little-endian files are read. {RESAVE}, "
                "on a little-endian machine"
            )
    value = loads(archive.read("data.pkl").tobytes(), _TABLE, StorageIds(views=False))
    return value, archive.read_storage


def _open_legacy(file: BinaryIO, size: int) -> tuple[Any, Reader]:
    """Return the object of a stream and a reader of its storages."""
    ids = StorageIds(views=True)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        budget = Budget.for_stream(min(size, _MAX_PICKLE))
        pos = read_legacy_head(data, budget)
        value, pos = load_one(data, _TABLE, pos, ids, budget)
        keys, pos = load_one(data, {}, pos, budget=budget)
    texts = type(keys) is list and all(type(key) is str for key in keys)
    if not texts or sorted(keys) != sorted(ids.by_key):
        raise _damaged("the list of storages does not fit the tensors")
    places: dict[str, int] = {}
    for key in keys:
        pid = ids.by_key[key]
        file.seek(pos)
        prefix = file.read(8)
        pos += 8
        num_bytes = pid.numel * pid.kind.dtype.itemsize
        if len(prefix) < 8 or num_bytes > size - pos:
            raise _damaged(
                f"truncated: storage {key[:32]!r} of {num_bytes} bytes, "
                f"{max(0, size - pos)} left"
            )
        if struct.unpack("<q", prefix)[0] != pid.numel:
            raise _damaged(f"storage {key[:32]!r} contradicts its length")
        places[key] = pos
        pos += num_bytes
    if pos != size:
        raise _damaged(f"{size - pos} bytes follow the last storage")

    def read_storage(pid: StoragePid) -> np.ndarray:
        file.seek(places[pid.key])
        return _fill(file, pid.numel * pid.kind.dtype.itemsize).view(pid.kind.dtype)

    return value, read_storage


def _guess(head: bytes) -> str:
    """Return what a file is that PyTorch did not write, and what the user can do."""
    if not head:
        return f"an empty file. {DAMAGED}"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: run 'git lfs pull'"
    if head.lstrip()[:1] == b"<":
        return (
            "a web page: the server sent a page (log-in, quota) instead of the file. "
            "Download it with a browser"
        )
    if head[8:9] == b"{":
        return f"a safetensors file, which is not read. {RESAVE}"
    if head.startswith(b"\x80"):
        return (
            "a pickle that torch.save did not write, or a damaged file. If it is a "
            "Paddle file, rename it to .pdparams"
        )
    return f"not a PyTorch checkpoint (it begins with {head[:8]!r}). {RESAVE}"


def open_checkpoint(file: BinaryIO) -> tuple[Any, Reader]:
    """Read the object of a file written by ``torch.save``, without its tensors.

    Returns:
        The object, with :class:`LazyTensor` for tensors, and a function from a storage
        to its elements; the file must stay open for it.

    Raises:
        ContainerError: Another kind of file, or a damaged one.
        RestrictedPickleError: The pickle needs something that is refused.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(64)
    file.seek(0)
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(file, size)
    if head.startswith(b"\x80") and _MAGIC in head:
        return _open_legacy(file, size)
    raise ContainerError(_guess(head))
