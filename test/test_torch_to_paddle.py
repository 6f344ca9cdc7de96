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


"""Tests of :mod:`ppmat.utils.torch_checkpoint`: Paddle's names, and the command."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from torch_files import DATA
from torch_files import SIX
from torch_files import equal
from torch_files import truth_of

from ppmat.utils import save_load
from ppmat.utils import torch_checkpoint
from ppmat.utils.torch_checkpoint import TorchCheckpointError
from ppmat.utils.torch_checkpoint import to_paddle

ROOT = Path(__file__).resolve().parents[1]


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


# The command


def command(*args):
    return torch_checkpoint.main([str(arg) for arg in args])


def test_command_converts(tmp_path, capsys):
    out = tmp_path / "out.pdparams"
    assert command(DATA / "torch_run.pth", out, "--linear", "3.*") == 0
    assert capsys.readouterr().out == f"{out}: 8 arrays, 37 numbers\n"
    assert os.listdir(tmp_path) == ["out.pdparams"]
    truth = truth_of("torch_run")
    wanted = to_paddle(truth, ["3.weight"])
    genuine = paddle.load(str(out))
    assert all(isinstance(value, paddle.Tensor) for value in genuine.values())
    assert equal({k: v.numpy() for k, v in genuine.items()}, wanted)
    ours = save_load.load_file(str(out))
    ours.pop("StructuredToParameterName@@")
    assert equal(ours, wanted)


def test_command_asks_which_weights_are_linear(tmp_path, capsys):
    out = tmp_path / "out.pdparams"
    source = DATA / "torch_run.pth"
    assert command(source, out) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: 3.weight: of a Linear layer") and "--config" in error
    )
    assert command(source, out, "--linear", "0.*") == 2
    assert "--linear 0.*: no two-dimensional weight" in capsys.readouterr().err
    assert not out.exists()
    assert command(source, out, "--linear") == 0
    kept = save_load.load_file(str(out))["3.weight"]
    np.testing.assert_array_equal(kept, truth_of("torch_run")["3.weight"])
    assert command(DATA / "torch_sfin.pth", tmp_path / "sfin.pdparams") == 0


def test_command_leaves_what_is_there(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.pdparams"
    out.write_bytes(b"mine")
    source = DATA / "torch_sfin.pth"
    assert command(source, out) == 2
    assert "is there already; --force replaces it" in capsys.readouterr().err

    def full(*args, **kwargs):
        args[1].write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch_checkpoint.pickle, "dump", full)
        assert command(source, out, "--force") == 2
    assert "was not written: No space left" in capsys.readouterr().err
    assert out.read_bytes() == b"mine" and os.listdir(tmp_path) == ["out.pdparams"]
    assert command(source, out, "--force") == 0
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    "source, target, match",
    [
        ("none.pth", "x.pdparams", "none.pth: cannot be read: No such file"),
        (DATA / "torch_run_truth.npz", "x.pdparams", "'0.weight.npy' is not inside"),
        (DATA / "torch_sfin.pth", "x.pth", "wanted a name ending in .pdparams"),
        (DATA / "torch_sfin.pth", "no/x.pdparams", "not written: No such file"),
    ],
)
def test_command_says_why_not(tmp_path, monkeypatch, source, target, match):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "ppmat.utils.torch_checkpoint", str(source), target],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and done.stdout == ""
    line, rest = done.stderr.split("\n", 1)
    assert line.startswith("error: ") and rest == ""
    assert match in line
    assert os.listdir(tmp_path) == []
