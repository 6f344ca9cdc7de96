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

"""Tests of :mod:`ppmat.utils.restricted_pickle`: hostile and broken streams."""

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from ppmat.utils import restricted_pickle
from ppmat.utils import torch_pickle
from ppmat.utils.restricted_pickle import PLAIN_TABLE
from ppmat.utils.restricted_pickle import Budget
from ppmat.utils.restricted_pickle import Global
from ppmat.utils.restricted_pickle import Inert
from ppmat.utils.restricted_pickle import RestrictedPickleError

DATA = Path(__file__).parent / "data"
TABLE = {
    **PLAIN_TABLE,
    ("lib", "Thing"): Global("lib.Thing", inert=True),
    ("lib", "length"): Global("lib.length", lambda budget, text: len(text)),
    ("lib", "anything"): Global("lib.anything", lambda budget, *args: None),
    ("builtins", "tuple"): Global("builtins.tuple", restricted_pickle.make_tuple),
}


def loads(data, table=TABLE):
    return restricted_pickle.loads(data, table)


def op_global(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


THING = op_global("lib", "Thing")
LENGTH = op_global("lib", "length")
ORDERED = op_global("collections", "OrderedDict")
ENCODE = op_global("_codecs", "encode")

PLAIN = [
    None,
    True,
    [1, -1, 255, 256, 65536, -(2**31), 2**31, 2**70, -(2**70)],
    [0.5, float("inf"), "", "text", "Å\U0001f600", "x" * 300],
    {"a": {"b": [1, (2,), (3, 4), (5, 6, 7), (8, 9, 10, 11), ()]}, 3: 4, None: 5},
    {("store", 1): 2},
    [b"", b"bytes", b"x" * 300],
    {1, 2, 3},
    frozenset({"a"}),
    slice(1, None, 2),
    list(range(3000)),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data(value, protocol):
    got = loads(pickle.dumps(value, protocol=protocol))
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_containers_that_are_calls(protocol):
    ordered = collections.OrderedDict(b=1, a=2)
    got = loads(pickle.dumps(ordered, protocol=protocol))
    assert list(got.items()) == [("b", 1), ("a", 2)]
    default = collections.defaultdict(None, a=2)
    assert loads(pickle.dumps(default, protocol=protocol)) == {"a": 2}


def test_attributes_of_an_ordered_dict_are_dropped():
    state = collections.OrderedDict(weight=1)
    state._metadata = {"version": 1}
    assert loads(pickle.dumps(state, protocol=2)) == {"weight": 1}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("dtype", "<f4 >f8 <i8 >i2 |u1 |b1 <f2 <c8".split())
@pytest.mark.parametrize("order", "CF")
def test_numpy_arrays(protocol, dtype, order):
    array = np.arange(12).reshape(3, 4).astype(dtype, order=order)
    got = loads(pickle.dumps({"a": array, "b": [array]}, protocol=protocol))["a"]
    np.testing.assert_array_equal(got, array)
    assert got.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert got.flags.writeable


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
def test_numpy_under_both_names(package):
    data = pickle.dumps([np.float32(0.5), np.arange(3)], protocol=2)
    for name in ("numpy._core", "numpy.core"):
        data = data.replace(b"c" + name.encode() + b".", b"c@.")
    data = data.replace(b"c@.", b"c" + package.encode() + b".")
    scalar, array = loads(data)
    assert scalar == 0.5 and type(scalar) is float
    assert array.tolist() == [0, 1, 2]


def test_cyclic_objects():
    data = b"\x80\x04" + THING + b")\x81\x94}(\x8c\x02meh\x00\x8c\x01xK\x07ub."
    thing = loads(data)
    assert type(thing) is Inert and thing.name == "lib.Thing"
    assert thing.state["me"] is thing and thing.state["x"] == 7


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_nothing_is_run(tmp_path):
    target = tmp_path / "made"
    data = pickle.dumps(Evil(os.mkdir, (str(target),)), protocol=4)
    with pytest.raises(RestrictedPickleError, match="mkdir.*refused"):
        loads(data)
    assert not target.exists()
    pickle.loads(data)  # this very pickle would have
    assert target.exists()


@pytest.mark.parametrize(
    "name",
    "os.system posix.system builtins.eval builtins.exec builtins.getattr "
    "builtins.bytearray builtins.list builtins.__import__ subprocess.Popen "
    "numpy.load numpy.core.multiarray.fromfile numpy.ndarray.tofile "
    "collections.namedtuple collections.OrderedDict.fromkeys "
    "functools.partial operator.attrgetter torch.load torch.hub.load lib.thing".split(),
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_globals_outside_the_list(name, protocol):
    module, name = name.rsplit(".", 1)
    if protocol == 2:
        data = b"\x80\x02" + op_global(module, name) + b")R."
    else:
        texts = (text.encode() for text in (module, name))
        data = b"\x80\x04" + b"".join(b"\x8c%c%b" % (len(t), t) for t in texts)
        data += b"\x93)R."
    with pytest.raises(RestrictedPickleError, match=f"{name}.*is refused"):
        loads(data)


REFUSED = {
    "call of a class": b"\x80\x02" + THING + b")R.",
    "call of a dict": b"\x80\x02})R.",
    "call of an object": b"\x80\x02" + THING + b")\x81)R.",
    "call without tuple": b"\x80\x02" + LENGTH + b"X\x01\x00\x00\x00aR.",
    "call with too many arguments": b"\x80\x02" + LENGTH + b"NN\x86R.",
    "object of a function": b"\x80\x02" + LENGTH + b")\x81.",
    "object with arguments": b"\x80\x02" + THING + b"K\x01\x85\x81.",
    "object with array": b"\x80\x02" + THING + b"]\x81.",
    "state of a class": b"\x80\x02" + THING + b"}b.",
    "slot state of a class": b"\x80\x02" + THING + b"N}\x86b.",
    "state of a function": b"\x80\x02" + LENGTH + b"}b.",
    "state of a list": b"\x80\x02]}b.",
    "state that is no dict": b"\x80\x02" + THING + b")\x81K\x01b.",
    "state with odd keys": b"\x80\x02" + THING + b")\x81}K\x01K\x02sb.",
    "item of a list": b"\x80\x02]K\x01K\x01s.",
    "item of an object": b"\x80\x02" + THING + b")\x81K\x01K\x01s.",
    "append to a dict": b"\x80\x02}K\x01a.",
    "append to a tuple": b"\x80\x02)(K\x01e.",
    "add to a list": b"\x80\x04](K\x01\x90.",
    "odd number of items": b"\x80\x02}(K\x01u.",
    "list as key": b"\x80\x02}]K\x01s.",
    "list in a set": b"\x80\x04\x8f(]\x90.",
    "nested tuple as key": b"\x80\x02})\x85\x85K\x01s.",
    "object as key": b"\x80\x02}" + THING + b")\x81K\x01s.",
    "long integer as key": b"\x80\x02}\x8a\x09" + b"\x01" * 9 + b"Ns.",
    "memo that is not there": b"\x80\x02h\x07.",
    "long memo that is not there": b"\x80\x02j\xff\xff\xff\xff.",
    "protocol 6": b"\x80\x06N.",
    "protocol 0": pickle.dumps([1], protocol=0),
    "protocol 1 string": b"\x80\x02U\x01a.",
    "extension registry": b"\x80\x02\x82\x01.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"\x80\x02(" + THING + b"o.",
    "LONG4": b"\x80\x02\x8b" + struct.pack("<i", 300) + b"\x01" * 300 + b".",
    "persistent id": b"\x80\x02K\x01Q.",
    "text persistent id": b"\x80\x02P1\n.",
    "two results": b"\x80\x02K\x01K\x02.",
    "no result": b"\x80\x02.",
    "open mark": b"\x80\x02(K\x01.",
    "mark that is not there": b"\x80\x02K\x01t.",
    "empty": b"",
    "only zeros": bytes(50),
    "no end of a name": b"\x80\x02c" + b"a" * 2000,
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"a.",
    "bytearray of 2**62": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"a.",
    "text of 2**32": b"\x80\x02X\xff\xff\xff\xffa.",
    "text of 2**63": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b"a.",
    "frame of 2**62": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "invalid text": b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    "trailing bytes": b"\x80\x02N.N",
    "set of an integer": b"\x80\x02" + op_global("builtins", "set") + b"K\x01\x85R.",
    "slice of text": b"\x80\x02"
    + op_global("builtins", "slice")
    + b"X\x01\x00\x00\x00a\x85R.",
    "pairs of three": b"\x80\x02" + ORDERED + b"]NNN\x87a\x85R.",
    "pairs with a list as key": b"\x80\x02" + ORDERED + b"]]N\x86a\x85R.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(RestrictedPickleError):
        loads(REFUSED[name])


def numpy_pickle(dtype=b"f4", shape=b"K\x02\x85", raw=b"\x00" * 8, fill=b"b"):
    kind = op_global("numpy", "dtype") + b"X%b" % struct.pack("<I", len(dtype)) + dtype
    kind += (
        b"\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    )
    kind += b"K\x00tb"
    array = op_global("numpy.core.multiarray", "_reconstruct")
    array += op_global("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    state = (
        b"(K\x01" + shape + kind + b"\x89B" + struct.pack("<I", len(raw)) + raw + b"t"
    )
    return b"\x80\x03" + array + state + fill + b"."


def test_numpy_by_hand_is_read():
    assert loads(numpy_pickle()).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": b"O8"},
        {"dtype": b"V8"},
        {"dtype": b"U4"},
        {"dtype": b"f4,f4"},
        {"shape": b"J\xff\xff\xff\x7f\x85"},
        {"shape": b"\x8a\x09" + b"\x01" * 9 + b"\x85"},
        {"shape": b"J\xff\xff\xff\xff\x85"},
        {"shape": b"N\x85"},
        {"shape": b"N"},
        {"shape": b"(" + b"K\x01" * 40 + b"t"},
        {"shape": b"(" + b"J\xff\xff\xff\x7f" * 30 + b"K\x00" + b"t"},
        {"raw": b"\x00" * 7},
        {"raw": b""},
        {"fill": b"N\x86b"},
    ],
    ids=str,
)
def test_numpy_bombs(change):
    with pytest.raises(RestrictedPickleError):
        loads(numpy_pickle(**change))


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memo_index_costs_no_memory():
    data = b"\x80\x02Nr\x01\x00\x00\x00j\x01\x00\x00\x00\x86."
    assert loads(data) == (None, None)

    def refused():
        with pytest.raises(RestrictedPickleError, match="2147483647 is not numbered"):
            loads(data.replace(b"\x01\x00\x00\x00", b"\xff\xff\xff\x7f"))

    assert peak_of(refused) < 1 << 16


def test_deep_nesting_does_not_end_the_process():
    deep = b"\x80\x02)" + b"\x85" * 300_000
    assert type(loads(deep + b".")) is tuple
    with pytest.raises(RestrictedPickleError, match="as key"):
        loads(b"\x80\x02}" + deep[2:] + b"Ns.")
    for brackets in (b"]" * 100_000 + b"a" * 99_999, b"(" * 300_000):
        try:
            loads(b"\x80\x02" + brackets + b".")
        except RestrictedPickleError:
            pass


def test_billion_laughs():
    laughs = b"\x80\x04)\x94" + b"h%c" % 0
    for level in range(100):
        laughs += b"\x86\x94h%c" % (level + 1)
    assert type(loads(laughs + b"\x86.")) is tuple
    with pytest.raises(RestrictedPickleError, match="as key"):
        loads(b"\x80\x04}" + laughs[2:] + b"\x86Ns.")


TEXTS = b"".join(b"\x8c\x04%04d" % i for i in range(9999))
ITEMS = b"".join(b"\x8c\x04%04dN" % i for i in range(9999))
MANY = b"(" + b"N" * 9999 + b"t"
LONG_TEXT = b"X" + struct.pack("<I", 65536) + b"a" * 65536
LATIN1 = b"X" + struct.pack("<I", 6) + b"latin1"


@pytest.mark.parametrize(
    "function, argument",
    [
        (ENCODE, LONG_TEXT + LATIN1 + b"\x86"),
        (ORDERED, b"}(" + ITEMS + b"u\x85"),
        (op_global("builtins", "set"), b"](" + TEXTS + b"e\x85"),
        (op_global("builtins", "tuple"), b"](" + b"N" * 9999 + b"e\x85"),
        (op_global("lib", "anything"), MANY),
    ],
    ids=["encode", "OrderedDict", "set", "tuple", "arguments"],
)
def test_repeated_copies_are_bounded(function, argument):
    def calls(number):
        # Memo 0 is the function, 1 its large argument; the list calls it repeatedly.
        again = b"](" + b"h\x00h\x01R" * number + b"e"
        return b"\x80\x04" + function + b"\x94" + argument + b"\x94" + again + b"\x87."

    assert len(loads(calls(2))[2]) == 2
    with pytest.raises(RestrictedPickleError, match="more than a stream of this size"):
        loads(calls(20_000))


def colliding_tuples(count):
    """Return pairs of integers with one hash, for the tuple hash of Python >= 3.8."""
    mask = (1 << 64) - 1
    p1, p2, p5 = 11400714785074694791, 14029467366897019727, 2870177450012600261

    def turn(value):
        return (value << 31 | value >> 33) & mask

    pairs = []
    for first in range(count):
        acc = turn((p5 + first * p2) & mask) * p1 & mask
        pairs.append((first, (7 - acc) * pow(p2, -1, 1 << 64) & mask))
    # Integers are hashed modulo 2**61 - 1: keep those that stay as they are.
    return [pair for pair in pairs if pair[1] < (1 << 61) - 1]


def test_tuples_can_be_made_to_collide():
    pairs = colliding_tuples(200)
    assert len(pairs) > 10 and len(set(map(hash, pairs))) == 1


KEYS = {
    "tuples": (100, colliding_tuples(4000)),
    "integers": (20_000, [i << 40 for i in range(20_001)]),
    "floats": (20_000, [float(i) for i in range(20_001)]),
}
CONTAINERS = {
    "dict": dict.fromkeys,
    "set": set,
    "frozenset": frozenset,
    "OrderedDict": collections.OrderedDict.fromkeys,
    "many dicts": lambda keys: [{key: None} for key in keys],
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", KEYS)
def test_keys_that_can_collide_are_counted(container, kind, protocol):
    make, (most, keys) = CONTAINERS[container], KEYS[kind]
    assert len(loads(pickle.dumps(make(keys[:most]), protocol))) == most
    with pytest.raises(RestrictedPickleError, match="that are no texts"):
        loads(pickle.dumps(make(keys), protocol))


def test_any_number_of_texts_may_be_keys():
    keys = [str(i) for i in range(50_000)]
    pairs = [("paper", key) for key in keys]
    data = dict.fromkeys(keys), set(pairs), dict.fromkeys(map(str.encode, keys))
    assert loads(pickle.dumps(data)) == data


def test_repeated_states_are_bounded():
    def builds(number):
        items = b"".join(b"\x8c\x05%05dN" % i for i in range(20_000))
        again = b"](" + b"h\x00)\x81h\x01b" * number + b"e"
        return b"\x80\x04" + THING + b"\x94}(" + items + b"u\x94" + again + b"\x87."

    assert len(loads(builds(2))[2]) == 2
    with pytest.raises(RestrictedPickleError, match="more than a stream of this size"):
        loads(builds(20_000))


def test_number_of_opcodes_is_bounded(monkeypatch):
    monkeypatch.setattr(restricted_pickle, "MAX_OPCODES", 100)
    assert len(loads(b"\x80\x02](" + b"N" * 90 + b"e.")) == 90
    with pytest.raises(RestrictedPickleError, match="more than 100 opcodes"):
        loads(b"\x80\x02](" + b"N" * 100 + b"e.")


def test_every_truncation_is_an_error():
    value = {"a": np.arange(3.0), "b": [1, 2.5, "text", b"raw"], "c": {1, 2}}
    for protocol in (2, 4, 5):
        data = pickle.dumps(value, protocol=protocol)
        for end in range(len(data)):
            with pytest.raises(RestrictedPickleError):
                loads(data[:end])


SEEDS = [
    pickle.dumps({"a": np.arange(3.0), "b": [1, 2.5, "x", b"y"]}, protocol=protocol)
    for protocol in (2, 4, 5)
] + [b"\x80\x04" + THING + b")\x81\x94}(\x8c\x02meh\x00ub."]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_any_bytes_give_data_or_the_format_error(seed, changes):
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        loads(bytes(data))
    except RestrictedPickleError:
        pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_random_opcodes_give_data_or_the_format_error(data):
    try:
        loads(b"\x80\x04" + data)
    except RestrictedPickleError:
        pass


def test_budget_counts():
    budget = Budget(10)
    budget.take(10, "a tensor")
    with pytest.raises(RestrictedPickleError, match="a tensor needs 1 bytes"):
        budget.take(1, "a tensor")


def test_torch_zip_checkpoint():
    """The unpickler serves ``torch.save`` files through a ``persistent_load``."""
    with zipfile.ZipFile(DATA / "torch_state_dict.pth") as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        folder = name[: -len("data.pkl")]

        def persistent_load(pid):
            pid = torch_pickle.storage_pid(pid)
            raw = archive.read(f"{folder}data/{pid.key}")
            array = np.frombuffer(raw, pid.kind.dtype, pid.numel)
            return torch_pickle.Storage(array, pid.kind.widen)

        data = archive.read(name)
        state = restricted_pickle.loads(
            data, torch_pickle.TORCH_TABLE, persistent_load, Budget(1 << 20)
        )
    truth = np.load(io.BytesIO((DATA / "torch_state_dict_truth.npz").read_bytes()))
    assert list(state) == list(truth)
    for key in truth:
        np.testing.assert_array_equal(state[key], truth[key])
        assert state[key].dtype == truth[key].dtype


@pytest.mark.parametrize(
    "pid",
    [
        None,
        (),
        ("storage",),
        ("other", torch_pickle.STORAGE_TYPES["FloatStorage"], "0", "cpu", 1, None),
        ("storage", "FloatStorage", "0", "cpu", 1, None),
        ("storage", torch_pickle.STORAGE_TYPES["FloatStorage"], 0, "cpu", 1, None),
        ("storage", torch_pickle.STORAGE_TYPES["FloatStorage"], "0", None, 1, None),
        ("storage", torch_pickle.STORAGE_TYPES["FloatStorage"], "0", "cpu", -1, None),
        ("storage", torch_pickle.STORAGE_TYPES["FloatStorage"], "0", "cpu", 1 << 60),
        ("storage", torch_pickle.STORAGE_TYPES["FloatStorage"], "0", "cpu", 1, ("1",)),
    ],
    ids=str,
)
def test_wrong_persistent_ids(pid):
    with pytest.raises(RestrictedPickleError, match="persistent id"):
        torch_pickle.storage_pid(pid)
