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


"""What a new training may do in a folder that holds one."""

import os

import pytest

from ppmat.trainer import run_folder
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError
from ppmat.utils.save_load import write_set


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def add(folder, prefix, step, finished=False):
    states = {"epoch": 1, "global_step": step, "epoch_finished": finished}
    files = {f"{prefix}.pdparams": {}, f"{prefix}.pdstates": states}
    write_set(str(folder / "checkpoints"), prefix, files)


def test_the_newest_checkpoint_has_the_most_steps(tmp_path):
    newest = run_folder.newest_checkpoint
    assert newest(tmp_path) is None
    add(tmp_path, "latest", 4, finished=True)
    add(tmp_path, "step_10", 10)
    assert newest(tmp_path) == str(tmp_path / "checkpoints" / "step_10")
    add(tmp_path, "best", 10, finished=True)
    assert newest(tmp_path).endswith("best")
    add(tmp_path, "latest", 10, finished=True)
    assert newest(tmp_path).endswith("latest")


def test_a_damaged_checkpoint_is_left_out(tmp_path, capsys):
    add(tmp_path, "step_1", 1)
    add(tmp_path, "step_2", 2)
    (tmp_path / "checkpoints" / "step_2.pdstates").write_bytes(b"?")
    assert run_folder.newest_checkpoint(tmp_path).endswith("step_1")
    assert "mixed or damaged" in capsys.readouterr().out


def test_interrupted_saves(tmp_path, capsys):
    """Whole in its own folder: used, and completed. Not yet whole: not seen."""
    add(tmp_path, "latest", 3)
    folder = tmp_path / "checkpoints"
    commit = folder / ".latest.commit"
    commit.mkdir()
    for name in ("latest.manifest.json", "latest.pdparams", "latest.pdstates"):
        (folder / name).rename(commit / name)
    (folder / ".step_7.tmp").mkdir()
    assert run_folder.newest_checkpoint(tmp_path).endswith("latest")
    assert capsys.readouterr().out == ""
    run_folder.check_folder(str(tmp_path))
    assert sorted(os.listdir(folder)) == [
        ".step_7.tmp", "latest.manifest.json", "latest.pdparams", "latest.pdstates",
    ]  # fmt: skip


def test_a_used_folder_wants_a_decision(tmp_path):
    choose, path = run_folder.choose_start, str(tmp_path)
    assert choose(path, None) is None
    assert choose(path, None, resume=True) is None
    assert choose(path, "elsewhere/latest") == "elsewhere/latest"
    add(tmp_path, "latest", 4)
    latest = os.path.join(path, "checkpoints", "latest")
    with pytest.raises(ConfigError, match="1 epochs, 4 steps.*--resume.*--overwrite"):
        choose(path, None)
    with pytest.raises(ConfigError, match="holds a training"):
        choose(path, "elsewhere/latest")
    assert choose(path, None, resume=True) == latest
    assert choose(path, "elsewhere/latest", resume=True) == latest
    assert choose(path, latest) == latest
    assert choose(path, None, overwrite=True) is None
    with pytest.raises(ConfigError, match="is overwritten"):
        choose(path, latest, overwrite=True)


def test_only_checkpoints_are_removed(tmp_path):
    add(tmp_path, "latest", 4)
    add(tmp_path, "epoch_12", 4)
    mine = tmp_path / "checkpoints" / "my_best.pdparams"
    mine.write_text("kept")
    run_folder.remove_checkpoints(str(tmp_path))
    assert os.listdir(tmp_path / "checkpoints") == ["my_best.pdparams"]


@pytest.mark.parametrize("name", ["metrics.csv", "run.log", "a.yaml", "loss_curve.png"])
def test_a_folder_in_place_of_a_file_is_found_at_once(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: cannot be written: Is a directory"):
        run_folder.check_folder(str(tmp_path), "a.yaml")


def test_a_file_in_place_of_the_checkpoints(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(InputError, match="checkpoints: cannot be written: File exists"):
        run_folder.check_folder(str(tmp_path))


def test_changed_settings_are_named(tmp_path, capsys):
    merged = tmp_path / "a.yaml"
    config = {"Trainer": {"max_epochs": 3, "resume_from_checkpoint": None}}
    run_folder.warn_of_changes(config, str(merged))
    merged.write_text("Trainer: {max_epochs: 3, resume_from_checkpoint: x}\n")
    run_folder.warn_of_changes(config, str(merged))
    assert capsys.readouterr().out == ""
    config["Trainer"]["max_epochs"] = 4
    run_folder.warn_of_changes(config, str(merged))
    assert "other settings than before: Trainer.max_epochs" in capsys.readouterr().out
