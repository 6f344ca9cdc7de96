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


"""``python -m ppmat.models.convert_checkpoint``: conversion with the model at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from ppmat.models import SFIN
from ppmat.models import convert_checkpoint
from ppmat.utils import save_load

DATA = Path(__file__).parent / "data"


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
    return convert_checkpoint.main([str(DATA / source), str(out), "--config", config])


def test_converted_file_gives_the_authors_image(tmp_path, config, capsys):
    out = tmp_path / "out" / "sfin.pdparams"
    out.parent.mkdir()
    path = config(base_channels=4, num_blocks=1)
    assert run(out, path) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{out}: ")
    assert os.listdir(out.parent) == ["sfin.pdparams"]
    model = SFIN(base_channels=4, num_blocks=1)
    model.eval()
    save_load.load_pretrain(model, str(out))
    truth = np.load(DATA / "torch_sfin_truth.npz")
    assert np.abs(model(truth["image"]).numpy() - truth["output"]).max() < 1e-3
    assert run(out, path) == 2
    assert "is there already; --force replaces it" in capsys.readouterr().err


def test_nothing_is_written_for_another_model(tmp_path, config, capsys):
    out = tmp_path / "sfin.pdparams"
    assert run(out, config(base_channels=8, num_blocks=1)) == 2
    error = capsys.readouterr().err
    assert "torch_sfin.pth belongs to another model than SFIN" in error
    assert run(out, config(base_channels=4), "torch_run.pth") == 2
    assert "torch_run.pth belongs to another model" in capsys.readouterr().err
    assert run(out, config(), "torch_run_truth.npz") == 2
    assert "is not inside the one folder" in capsys.readouterr().err
    assert run(out, config(base_chanels=8)) == 2
    assert "Did you mean 'base_channels'?" in capsys.readouterr().err
    assert run(out, str(tmp_path / "none.yaml")) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err
    (tmp_path / "empty.yaml").write_text("Global: {}\n")
    assert run(out, str(tmp_path / "empty.yaml")) == 2
    assert "the section Model is missing" in capsys.readouterr().err
    assert not out.exists()
