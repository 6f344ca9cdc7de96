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

"""``python -m ppmat.commands.convert_checkpoint``: with a model, and without one."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from torch_files import DATA
from torch_files import equal
from torch_files import truth_of

from ppmat.commands import convert_checkpoint
from ppmat.models import SFIN
from ppmat.utils import save_load
from ppmat.utils import torch_checkpoint
from ppmat.utils.torch_checkpoint import to_paddle

ROOT = Path(__file__).resolve().parents[1]


def command(*args):
    return convert_checkpoint.main([str(arg) for arg in args])


@pytest.fixture
def config(tmp_path):
    def write(**params):
        path = tmp_path / "sfin.yaml"
        block = ", ".join(f"{name}: {value}" for name, value in params.items())
        path.write_text(
            f"Model: {{__class_name__: SFIN, __init_params__: {{{block}}}}}\n"
        )
        return str(path)

    return write


def run(out, config, source="torch_sfin.pth"):
    return command(DATA / source, out, "--config", config)


def test_converted_file_gives_the_authors_image(tmp_path, config, capsys):
    out = tmp_path / "out" / "sfin.pdparams"
    out.parent.mkdir()
    path = config(base_channels=4, num_blocks=1)
    assert run(out, path) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith(f"Wrote {out}: 50 arrays, 641 numbers")
    )
    assert os.listdir(out.parent) == ["sfin.pdparams"]
    model = SFIN(base_channels=4, num_blocks=1)
    model.eval()
    save_load.load_pretrain(model, str(out))
    truth = np.load(DATA / "torch_sfin_truth.npz")
    assert np.abs(model(truth["image"]).numpy() - truth["output"]).max() < 1e-3
    assert run(out, path) == 2
    assert "exists already; --force replaces it" in capsys.readouterr().out


def test_nothing_is_written_for_another_model(tmp_path, config, capsys):
    out = tmp_path / "sfin.pdparams"
    assert run(out, config(base_channels=8, num_blocks=1)) == 2
    error = capsys.readouterr().out
    assert "torch_sfin.pth belongs to another model than SFIN" in error
    assert run(out, config(base_channels=4), "torch_run.pth") == 2
    assert "torch_run.pth belongs to another model" in capsys.readouterr().out
    assert run(out, config(), "torch_run_truth.npz") == 2
    assert "is not inside the one folder" in capsys.readouterr().out
    assert run(out, config(base_chanels=8)) == 2
    assert "Did you mean 'base_channels'?" in capsys.readouterr().out
    assert run(out, str(tmp_path / "none.yaml")) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().out
    (tmp_path / "empty.yaml").write_text("Global: {}\n")
    assert run(out, str(tmp_path / "empty.yaml")) == 2
    assert "the section Model is missing" in capsys.readouterr().out
    assert not out.exists()


# Without a model


def test_command_converts(tmp_path, capsys):
    out = tmp_path / "out.pdparams"
    assert command(DATA / "torch_run.pth", out, "--linear", "3.*") == 0
    line = capsys.readouterr().out
    assert line.endswith(f" ppmat MESSAGE: Wrote {out}: 8 arrays, 37 numbers\n")
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
    error = capsys.readouterr().out
    assert "TorchCheckpointError: 3.weight: of a linear layer" in error
    assert "--config" in error
    assert command(source, out, "--linear", "0.*") == 2
    assert "--linear 0.*: no two-dimensional weight" in capsys.readouterr().out
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
    assert "exists already; --force replaces it" in capsys.readouterr().out

    def full(*args, **kwargs):
        args[1].write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch_checkpoint.pickle, "dump", full)
        assert command(source, out, "--force") == 2
    assert "cannot be written: No space left" in capsys.readouterr().out
    assert out.read_bytes() == b"mine" and os.listdir(tmp_path) == ["out.pdparams"]
    assert command(source, out, "--force") == 0
    assert out.stat().st_size > 1000


@pytest.mark.parametrize(
    "source, target, match",
    [
        ("none.pth", "x.pdparams", "none.pth: cannot be read: No such file"),
        (DATA / "torch_run_truth.npz", "x.pdparams", "'0.weight.npy' is not inside"),
        (DATA / "torch_sfin.pth", "x.pth", "wanted a name ending in .pdparams"),
        (
            DATA / "torch_sfin.pth",
            "no/x.pdparams",
            "no/x.pdparams: cannot be written: No such file",
        ),
    ],
)
def test_command_says_why_not(tmp_path, monkeypatch, source, target, match):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", convert_checkpoint.__name__, str(source), target],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and done.stderr == ""
    line, rest = done.stdout.split("\n", 1)
    assert " ppmat ERROR: " in line and rest == ""
    assert match in line
    assert os.listdir(tmp_path) == []


def test_a_model_and_patterns_exclude_each_other(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command("a.pth", "b.pdparams", "--config", "c.yaml", "--linear")
    assert stop.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_without_a_model_paddle_is_not_needed(tmp_path):
    code = (
        "import sys; from ppmat.commands import convert_checkpoint as c; "
        f"assert c.main([{str(DATA / 'torch_sfin.pth')!r}, 'x.pdparams']) == 0; "
        "assert 'paddle' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
