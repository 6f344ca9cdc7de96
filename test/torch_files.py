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


"""PyTorch's checkpoint files for tests: genuine ones, and a writer by hand.

The writer makes a pickle opcode by opcode, in either container, so that it can lie.
"""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

from ppmat.utils.torch_pickle import LEGACY_HEAD

DATA = Path(__file__).resolve().parent / "data"


def truth_of(name):
    with np.load(DATA / f"{name}_truth.npz") as values:
        return dict(values)


def equal(got, wanted):
    return list(got) == list(wanted) and all(
        got[name].dtype == wanted[name].dtype
        and got[name].shape == wanted[name].shape
        and np.array_equal(got[name], wanted[name])
        for name in wanted
    )


class Name:
    def __init__(self, module, name):
        self.code = b"c" + module.encode() + b"\n" + name.encode() + b"\n"


class Call:
    def __init__(self, function, *args):
        self.function, self.args = function, args


class Pid:
    def __init__(self, *pid):
        self.pid = pid


def encode(value):
    """Return protocol 2 opcodes that make ``value``."""
    if isinstance(value, Name):
        return value.code
    if isinstance(value, Call):
        return encode(value.function) + encode(value.args) + b"R"
    if isinstance(value, Pid):
        return encode(value.pid) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, dict):
        items = (encode(k) + encode(v) for k, v in value.items())
        return b"}(" + b"".join(items) + b"u"
    if isinstance(value, str):
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw
    assert value is None or type(value) in (bool, int, float)
    return pickle.dumps(value, protocol=2)[2:-1]


REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
FLOATS = Name("torch", "FloatStorage")


def tensor(key, size, numel=None, offset=0, stride=None, kind=FLOATS, view=()):
    """Return a tensor of storage ``key``, as torch pickles it."""
    count = int(np.prod(size))
    if stride is None:
        stride = tuple(int(np.prod(size[i + 1 :])) for i in range(len(size)))
    pid = Pid("storage", kind, key, "cpu", count if numel is None else numel, *view)
    return Call(REBUILD, pid, offset, size, stride, False, {})


def write_zip(path, value, storages, extra=(), top="archive", skip=(), **kwargs):
    """Write the zip form; ``extra`` replaces or adds members."""
    members = {
        "data.pkl": b"\x80\x02" + encode(value) + b".",
        "byteorder": b"little",
        **{f"data/{key}": array.tobytes() for key, array in storages.items()},
        "version": b"3\n",
        **dict(extra),
    }
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        for name, raw in members.items():
            if name not in skip:
                archive.writestr(f"{top}/{name}" if top else name, raw)
    return path


def write_legacy(path, value, storages, keys=None, head=LEGACY_HEAD, tail=b""):
    """Write the legacy form."""
    keys = list(storages) if keys is None else keys
    raw = head + b"\x80\x02" + encode(value) + b"." + pickle.dumps(keys, protocol=2)
    for array in storages.values():
        raw += struct.pack("<q", array.size) + array.tobytes()
    path.write_bytes(raw + tail)
    return path


WRITERS = {"zip": write_zip, "legacy": write_legacy}
SIX = np.arange(6, dtype=np.float32)
WEIGHTS = {"a": tensor("0", (6,))}
