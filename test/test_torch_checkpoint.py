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


"""Tests of :mod:`ppmat.utils.torch_checkpoint`: genuine, damaged and hostile files."""

import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_files import DATA
from torch_files import REBUILD
from torch_files import SIX
from torch_files import WEIGHTS
from torch_files import WRITERS
from torch_files import Call
from torch_files import Name
from torch_files import Pid
from torch_files import encode
from torch_files import equal
from torch_files import tensor
from torch_files import truth_of
from torch_files import write_legacy
from torch_files import write_zip

from ppmat.utils.torch_checkpoint import TorchCheckpointError
from ppmat.utils.torch_checkpoint import load
from ppmat.utils.torch_checkpoint import to_paddle
from ppmat.utils.torch_pickle import LEGACY_HEAD

ROOT = Path(__file__).resolve().parents[1]


# Genuine files


@pytest.mark.parametrize("form", ["", "_legacy"])
@pytest.mark.parametrize("name", ["torch_run", "torch_kinds"])
def test_genuine_files(name, form):
    wanted = truth_of(name)
    got = load(DATA / f"{name}{form}.pth")
    assert len(wanted) >= 9 and equal(got, wanted)
    arrays = list(got.values())
    for i, array in enumerate(arrays):
        assert array.flags.writeable and array.flags.c_contiguous
        assert not any(np.shares_memory(array, other) for other in arrays[:i])


def test_older_genuine_file():
    assert equal(load(DATA / "torch_state_dict.pth"), truth_of("torch_state_dict"))


def test_no_paddle_and_no_torch_is_needed():
    code = (
        "import sys; from ppmat.utils import torch_checkpoint as t; "
        f"assert t.load({str(DATA / 'torch_run.pth')!r}); "
        "assert not {'torch', 'paddle'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# Files made here


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Write an object and its storages in either form; return the path."""
    return lambda *args, **kw: WRITERS[request.param](tmp_path / "x.pth", *args, **kw)


def refused(path, match):
    with pytest.raises(TorchCheckpointError, match=match) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_hand_written_files_are_read(write):
    weights = {"a": tensor("0", (2, 3)), "b": tensor("0", (2,), 6, 1, (3,))}
    got = load(write(weights, {"0": SIX}))
    assert equal(got, {"a": SIX.reshape(2, 3), "b": SIX[1::3]})


def test_views_of_storages_before_pytorch_0_4(tmp_path):
    value = {
        "whole": tensor("7", (6,), view=(None,)),
        "part": tensor("7", (2,), 6, offset=1, view=(("8", 2, 3),)),
    }
    path = write_legacy(tmp_path / "x.pth", value, {"7": SIX})
    assert equal(load(path), {"whole": SIX, "part": SIX[3:5]})
    value["part"] = tensor("7", (3,), 6, offset=1, view=(("8", 2, 3),))
    path = write_legacy(tmp_path / "x.pth", value, {"7": SIX})
    refused(path, "'part'.*beyond its storage of 3 elements")
    for view in (("8", 2, 5), ("8", -1, 3), ("8", 2), "8", ("8", 2, None)):
        value["part"] = tensor("7", (1,), 6, view=(view,))
        path = write_legacy(tmp_path / "x.pth", value, {"7": SIX})
        refused(path, "malformed view of a storage")


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_wrappers_and_prefixes(write, wrapper, prefix):
    value = {f"{prefix}a": tensor("0", (6,)), f"{prefix}b.c": tensor("0", (6,))}
    if wrapper is not None:
        value = {"epoch": 3, "loss": tensor("0", (), 6), wrapper: value, "other": {}}
    assert equal(load(write(value, {"0": SIX})), {"a": SIX, "b.c": SIX})


def test_class_with_its_source_beside_the_weights(tmp_path):
    """How the legacy form writes a loss; of the classes only a few losses are known."""
    loss = Name("torch.nn.modules.loss", "MSELoss")
    value = {"model": WEIGHTS, "loss": Pid("module", loss, "loss.py", "class MSELoss")}
    path = write_legacy(tmp_path / "x.pth", value, {"0": SIX})
    assert equal(load(path), {"a": SIX})
    value["loss"] = Pid("module", Name("sfin", "SFIN"), "sfin.py", "class SFIN")
    path = write_legacy(tmp_path / "x.pth", value, {"0": SIX})
    refused(path, "'sfin'.'SFIN' is refused")


def test_prefix_of_some_names_stays(write):
    value = {"module.a": tensor("0", (6,)), "b": tensor("0", (6,))}
    assert list(load(write(value, {"0": SIX}))) == ["module.a", "b"]


def test_weights_by_their_key(write):
    one, other = {"a": tensor("0", (6,))}, {"a": tensor("0", (1,), 6)}
    path = write({"net": one, "ema": other, "epoch": 1}, {"0": SIX})
    refused(path, r"several keys may hold.*: net, ema\. Choose one.*key='net'.*--key")
    assert load(path, key="net")["a"].size == 6
    assert load(path, key="ema")["a"].size == 1
    with pytest.raises(TorchCheckpointError, match="key 'epoch'; keys.*: net, ema"):
        load(path, key="epoch")
    path = write({"model": one, "state_dict": other}, {"0": SIX})
    refused(path, "several keys.*: state_dict, model")
    path = write({"model": one, "ema": other}, {"0": SIX})
    assert load(path)["a"].size == 6


@pytest.mark.parametrize(
    "value, match",
    [
        (tensor("0", (6,)), "holds a LazyTensor, not a dict"),
        ({"epoch": 1}, "no weights, but epoch"),
        ({}, "no weights, but nothing"),
        ({"a": tensor("0", (6,)), "step": 3}, "'step' is a int, not a tensor"),
        ({1: tensor("0", (6,))}, "a weight is named '1', wanted a text"),
        ({"": tensor("0", (6,))}, "a weight is named '', wanted a text"),
    ],
    ids=range(6),
)
def test_what_is_no_dict_of_weights(write, value, match):
    refused(write(value, {"0": SIX} if b"Storage" in encode(value) else {}), match)


# Nothing runs, nothing is taken on trust


@pytest.mark.parametrize(
    "name",
    "os.system posix.system builtins.eval builtins.getattr __builtin__.exec "
    "torch.load torch.storage._load_from_bytes torch.hub.load sfin.SFIN "
    "torch._utils._rebuild_qtensor copyreg._reconstructor".split(),
)
@pytest.mark.parametrize("place", ["weights", "beside"])
def test_other_globals_are_refused(write, tmp_path, name, place):
    module, _, attribute = name.rpartition(".")
    bad = Call(Name(module, attribute), f"touch {tmp_path / 'pwned'}")
    value = {"a": tensor("0", (6,))}
    value = {**value, "b": bad} if place == "weights" else {"model": value, "c": bad}
    text = refused(write(value, {"0": SIX}), f"'{module}'.'{attribute}' is refused")
    assert "torch.save(model.state_dict(), 'weights.pth')" in text
    assert not (tmp_path / "pwned").exists()


def test_genuine_pickle_would_have_run_it(tmp_path):
    """The twin: the bytes refused above do run in Python's own unpickler."""
    bad = encode(Call(Name("os", "system"), f"touch {tmp_path / 'pwned'}"))
    pickle.loads(b"\x80\x02" + bad + b".")
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "bad, match",
    [
        (tensor("0", (7,), 6), "'a'.*reaches beyond its storage of 6"),
        (tensor("0", (6,), offset=1), "'a'.*reaches beyond its storage of 6"),
        (tensor("0", (2, 2), 6, stride=(9, 1)), "'a'.*reaches beyond"),
        (tensor("0", (2,), 6, stride=(-1,)), "'a'.*malformed stride"),
        (tensor("0", (2,), 6, offset=-1), "'a'.*malformed offset"),
        (tensor("0", (2, 1), 6, stride=(1,)), "'a'.*as many strides"),
        (tensor("0", (1 << 30, 1 << 20), 6, stride=(0, 0)), "'a'.*too large"),
        (tensor("0", (1 << 30,), 6, stride=(0,)), "'a'.*more than a stream of this"),
        (tensor("0", (0, 1 << 62), 6), "'a'.*malformed shape"),
        (tensor("0", (-1,), 6), "'a'.*malformed shape"),
        (tensor("0", (6,), kind=Name("torch", "QInt8Storage")), "QInt8.*is refused"),
        (tensor("0", (6,), -1), "malformed persistent id"),
        (tensor("0", (6,), 1 << 60), "malformed persistent id"),
        (Call(REBUILD, 3, 0, (1,), (1,)), "refers to no storage"),
        (Call(REBUILD), "malformed arguments"),
        (Call(REBUILD, Pid("module", "x")), "malformed persistent id"),
        (Call(REBUILD, Pid("module", "a", "b", "c")), "malformed persistent id"),
        (Call(REBUILD, tensor("0", (6,)).args[0]), "'a'.*missing 3 required"),
        (Call(Name("torch._utils", "_rebuild_parameter"), 3), "not made of a tensor"),
    ],
    ids=range(19),
)
def test_tensors_that_lie(write, bad, match):
    refused(write({"a": bad}, {"0": SIX}), match)


def test_one_storage_with_two_lengths(write):
    value = {"a": tensor("0", (6,)), "b": tensor("0", (6,), 7)}
    refused(write(value, {"0": SIX}), "storage '0' has two lengths")


def test_many_copies_of_one_storage(write):
    """A small file that would make a large dict."""
    large = np.zeros(1 << 18, np.float32)
    value = {f"a{i}": tensor("0", (1 << 18,)) for i in range(9)}
    refused(write(value, {"0": large}), "more than a stream of this size may ask for")
    few = dict(list(value.items())[:3])
    assert len(load(write(few, {"0": large}))) == 3


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"skip": ["data/0"]}, "member 'data/0' is missing"),
        ({"skip": ["data.pkl"]}, "a zip archive without data.pkl"),
        ({"skip": ["version"]}, "member 'version' is missing"),
        ({"extra": {"version": b"11\n"}}, "format version b'11'; wanted 1 to 10"),
        ({"extra": {"version": b"3a"}}, "format version b'3a'"),
        ({"extra": {"byteorder": b"big"}}, "byte order b'big'; only little-endian"),
        ({"extra": {"byteorder": b""}}, "byte order b''"),
        ({"extra": {"data/0": b"123"}}, "storage '0' has 3 bytes instead of 6 x 4"),
        ({"extra": {"../up": b""}}, "member 'archive/../up' is not inside"),
        ({"extra": {"a//b": b""}}, "member 'archive/a//b' is not inside"),
        ({"extra": {"constants.pkl": b""}}, "a TorchScript archive"),
        ({"top": ""}, "member 'data.pkl' is not inside the one folder"),
        ({"top": "/etc"}, "member '/etc/data.pkl' is not inside the one folder"),
        ({"compression": zipfile.ZIP_DEFLATED}, "'archive/data.pkl' is compressed"),
        ({"extra": {"data.pkl": b""}}, "truncated or unbalanced"),
        ({"extra": {"data.pkl": b"\x80\x02}.x"}}, "1 bytes follow the end"),
    ],
    ids=range(16),
)
def test_archives_that_are_not_torchs(tmp_path, changes, match):
    refused(write_zip(tmp_path / "x.pth", WEIGHTS, {"0": SIX}, **changes), match)


def test_bomb_is_not_unpacked(tmp_path):
    """1 GB of zeros in 1 MB: refused by its directory, without a byte of it."""
    path = tmp_path / "x.pth"
    value = {"a": tensor("0", (1 << 28,))}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/version", b"3", zipfile.ZIP_STORED)
        pickled = b"\x80\x02" + encode(value) + b"."
        archive.writestr("x/data.pkl", pickled, zipfile.ZIP_STORED)
        with archive.open("x/data/0", "w", force_zip64=True) as member:
            for _ in range(64):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    refused(path, "'x/data/0' is compressed")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path):
    path = write_zip(tmp_path / "x.pth", WEIGHTS, {"0": SIX})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(24))
    refused(path, "two members 'archive/data/0'")


def patched(path, offset, raw, name=b"archive/data/0"):
    """Overwrite bytes of a member's entry in the directory at the archive's end."""
    whole = bytearray(path.read_bytes())
    start = whole.rindex(name) - 46
    assert whole[start : start + 4] == b"PK\x01\x02"
    whole[start + offset : start + offset + len(raw)] = raw
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    "offset, raw, match",
    [
        (8, b"\x01\x00", "'archive/data/0' is encrypted"),
        (20, b"\x19", "says it has 24 bytes, which cannot be in a file"),
        (24, b"\x17", "says it has 23 bytes, which cannot be in a file"),
        (20, b"\x00\x00\x00\x40" * 2, "says it has 1073741824 bytes, which cannot"),
        (16, b"\x00\x00\x00\x00", "a damaged zip archive: Bad CRC-32"),
        (42, b"\x00\x00\x00\x00", "a damaged zip archive: File name in directory"),
        (6, b"\xff", "a damaged zip archive: zip file version"),
        (46, b"x", "'xrchive/data/0' is not inside the one folder"),
    ],
)
def test_directories_that_lie(tmp_path, offset, raw, match):
    path = write_zip(tmp_path / "x.pth", WEIGHTS, {"0": SIX})
    refused(patched(path, offset, raw), match)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"keys": []}, "list of storages does not fit"),
        ({"keys": ["0", "1"]}, "list of storages does not fit"),
        ({"keys": ["1"]}, "list of storages does not fit"),
        ({"keys": [0]}, "list of storages does not fit"),
        ({"keys": "0"}, "list of storages does not fit"),
        ({"tail": b"x"}, "1 bytes follow the last storage"),
        ({"head": LEGACY_HEAD.replace(b"\xe9\x03.", b"\xe8\x03.")}, "protocol 1001"),
        (
            {"head": LEGACY_HEAD.replace(b"endianq\x02\x88", b"endianq\x02\x89")},
            "written on a big-endian machine",
        ),
    ],
    ids=range(8),
)
def test_streams_that_are_not_torchs(tmp_path, changes, match):
    refused(write_legacy(tmp_path / "x.pth", WEIGHTS, {"0": SIX}, **changes), match)


def test_stream_whose_storage_lies(tmp_path):
    path = write_legacy(tmp_path / "x.pth", WEIGHTS, {"0": SIX})
    whole = path.read_bytes()
    path.write_bytes(whole[:-32] + struct.pack("<q", 5) + whole[-24:])
    refused(path, "storage '0' contradicts its length")
    path.write_bytes(whole[:-1])
    refused(path, "truncated: storage '0' of 24 bytes, 23 left")
    path = write_legacy(tmp_path / "x.pth", {"a": tensor("0", (1 << 40,))}, {"0": SIX})
    refused(path, f"truncated: storage '0' of {1 << 42} bytes, 24 left")


@pytest.mark.parametrize(
    "raw, match",
    [
        (b"", "an empty file.*fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS.*'git lfs pull'"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}}', "a safetensors file"),
        (pickle.dumps({"a": np.zeros(2)}, 4), "a Paddle file, rename it to .pdparams"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), r"begins with b'\\x89PNG"),
        (b"PK\x03\x04" + bytes(200), r"truncated: .*\(204 bytes\)"),
        (LEGACY_HEAD, "truncated or unbalanced"),
    ],
    ids=range(8),
)
def test_other_files_are_told_apart(tmp_path, raw, match):
    path = tmp_path / "x.pth"
    path.write_bytes(raw)
    refused(path, match)


def test_file_that_cannot_be_read(tmp_path):
    refused(tmp_path / "none.pth", "cannot be read: No such file")
    refused(tmp_path, "cannot be read: Is a directory")


# Damage anywhere


def outcomes(path, raw, wanted):
    path.write_bytes(raw)
    try:
        got = load(path)
    except TorchCheckpointError:
        return "refused"
    assert all(type(array) is np.ndarray for array in got.values())
    return "same" if equal(got, wanted) else "other"


@pytest.mark.parametrize("name", ["torch_run", "torch_kinds_legacy"])
def test_truncated_anywhere(tmp_path, name):
    raw = (DATA / f"{name}.pth").read_bytes()
    ends = {*range(0, len(raw), 31), *range(len(raw) - 40, len(raw))}
    wanted = load(DATA / f"{name}.pth")
    found = {outcomes(tmp_path / "x.pth", raw[:end], wanted) for end in ends}
    assert found == {"refused"}


@pytest.mark.parametrize("name", ["torch_run", "torch_kinds"])
@pytest.mark.parametrize("form", ["", "_legacy"])
def test_flipped_bytes(tmp_path, name, form):
    """The zip form never gives other weights; the legacy form has no checksum."""
    raw = (DATA / f"{name}{form}.pth").read_bytes()
    wanted = load(DATA / f"{name}{form}.pth")
    draw = random.Random(f"{name}{form}")
    found = []
    for position in range(draw.randrange(13), len(raw), 13):
        damaged = bytearray(raw)
        damaged[position] ^= draw.randrange(1, 256)
        found.append(outcomes(tmp_path / "x.pth", damaged, wanted))
    assert {"refused", "same"} <= set(found)
    assert ("other" in found) == bool(form)


# What it costs


def test_only_the_weights_are_built(write):
    """8 MB of weights beside 32 MB of an optimizer cost a little more than 8 MB."""
    block = np.zeros(1 << 18, np.float32)
    value = {
        "model": {f"w{i}": tensor(f"w{i}", (1 << 18,)) for i in range(8)},
        "optimizer": {"state": {i: tensor(f"o{i}", (1 << 18,)) for i in range(32)}},
    }
    keys = [f"w{i}" for i in range(8)] + [f"o{i}" for i in range(32)]
    path = write(value, dict.fromkeys(keys, block))
    tracemalloc.start()
    weights = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(array.nbytes for array in weights.values()) == 8 << 20
    assert peak < 10 << 20


# For Paddle


def test_names_and_layouts():
    weights = {
        "bn.weight": SIX,
        "bn.running_mean": SIX,
        "bn.running_var": SIX + 1,
        "bn.num_batches_tracked": np.array(3),
        "running_mean": SIX,
        "num_batches_tracked": np.array(3),
        "fc.weight": SIX.reshape(2, 3),
        "embed.weight": SIX.reshape(2, 3),
        "my_running_mean": SIX,
    }
    got = to_paddle(weights, ["fc.weight"])
    assert list(got) == [
        "bn.weight", "bn._mean", "bn._variance", "_mean", "fc.weight", "embed.weight",
        "my_running_mean",
    ]  # fmt: skip
    assert got["bn._variance"] is weights["bn.running_var"]
    np.testing.assert_array_equal(got["fc.weight"], SIX.reshape(2, 3).T)
    assert got["fc.weight"].flags.c_contiguous
    np.testing.assert_array_equal(got["embed.weight"], SIX.reshape(2, 3))


def test_names_that_clash_and_a_dtype_paddle_lacks():
    with pytest.raises(TorchCheckpointError, match="two weights.*'bn._mean'"):
        to_paddle({"bn._mean": SIX, "bn.running_mean": SIX})
    with pytest.raises(TorchCheckpointError, match="'a' is uint16, which Paddle lacks"):
        to_paddle({"a": np.zeros(2, np.uint16)})
