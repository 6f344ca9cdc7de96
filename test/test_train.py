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


import errno
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers_trainer import Toy
from helpers_trainer import read_rows

from ppmat.commands import train as entry
from ppmat.commands.options import EXIT_BAD_INPUT
from ppmat.datasets import DATASETS
from ppmat.datasets.custom_data_type import ConcatData
from ppmat.models import MODELS
from ppmat.trainer import BaseTrainer
from ppmat.trainer.reporting import Reporter
from ppmat.utils import logger
from ppmat.utils.config import load_config
from ppmat.utils.files import StoredRunError
from ppmat.utils.files import locked
from ppmat.utils.save_load import load_states

ROOT = Path(__file__).resolve().parents[1]


class EntryToySet(paddle.io.Dataset):
    """Structures through the collator of the real ones."""

    def __init__(self, size: int, path: str = "", bad: bool = False):
        random = np.random.RandomState(size)
        self.coords = [
            random.randn(1 + i % 4, 3).astype("float32") for i in range(size)
        ]
        if bad:
            self.coords[0][:] = np.nan
        self.path = path

    def __len__(self):
        return len(self.coords)

    def __getitem__(self, index):
        coords = self.coords[index]
        return {
            "structure_array": {
                "cart_coords": ConcatData(coords),
                "num_atoms": ConcatData(np.array([len(coords)])),
            },
            "y": coords.sum(keepdims=True)[0],
            "z": ConcatData(coords**2),
            "id": f"s{index}",
        }


class EntryToy(Toy):
    """Takes settings as a model of a YAML file does."""

    def __init__(self, noise: float = 0.0):
        super().__init__(noise)


DATASETS.register(EntryToySet)
MODELS.register(EntryToy)


@pytest.fixture(autouse=True)
def quiet_afterwards(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield
    logger.init_logger()


def split(size, batch_size=4, **params):
    return {
        "dataset": {
            "__class_name__": "EntryToySet",
            "__init_params__": {"size": size, **params},
        },
        "sampler": {
            "__class_name__": "BatchSampler",
            "__init_params__": {"batch_size": batch_size, "shuffle": True},
        },
    }


def config(tmp_path, **sections):
    base = {
        "Global": {"do_train": True, "do_eval": True, "do_test": True},
        "Trainer": {
            "max_epochs": 2,
            "seed": 3,
            "output_dir": str(tmp_path / "out"),
            "log_freq": 1,
            "best_metric_indicator": "eval_loss",
            "name_for_best_metric": "loss",
        },
        "Model": {"__class_name__": "EntryToy", "__init_params__": {}},
        "Optimizer": {
            "__class_name__": "Adam",
            "__init_params__": {
                "lr": {
                    "__class_name__": "Cosine",
                    "__init_params__": {"learning_rate": 0.05},
                }
            },
        },
        "Metric": {"z": {"__class_name__": "paddle.nn.L1Loss", "__init_params__": {}}},
        "Dataset": {"train": split(11), "val": split(5), "test": split(6)},
    }
    for name, value in sections.items():
        base[name] = value
    return base


def write(tmp_path, content, name="toy.yaml"):
    path = tmp_path / "task" / "configs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def call(tmp_path, *args):
    return entry.main(str(tmp_path / "task"), list(args))


def test_a_run_leaves_what_a_person_looks_at(tmp_path, capsys):
    write(tmp_path, config(tmp_path))
    assert call(tmp_path, "-c", "configs/toy.yaml") == 0
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == [
        "checkpoints", "loss_curve.png", "metrics.csv", "run.log", "toy.yaml",
    ]  # fmt: skip
    stages = [row["stage"] for row in read_rows(out)]
    assert stages.count("train(step)") == 6
    assert stages[-2:] == ["val", "test"]
    log = (out / "run.log").read_text()
    assert "Training EntryToy" in log and "Drew" in log and "Test:" in log
    assert load_config(out / "toy.yaml")["Trainer"]["max_epochs"] == 2


def test_configuration_is_looked_up(tmp_path):
    given = write(tmp_path, config(tmp_path))
    task = str(tmp_path / "task")
    assert entry.find_task_config(given, task) == given
    assert entry.find_task_config("configs/toy.yaml", task) == given
    assert entry.find_task_config("toy.yaml", task) == given


def test_overrides_are_merged_and_saved(tmp_path):
    path = write(tmp_path, config(tmp_path))
    args = [
        "Trainer.max_epochs=1",
        "Dataset.train.sampler.__init_params__.batch_size=3",
    ]
    assert call(tmp_path, args[0], "-c", path, args[1]) == 0
    merged = load_config(tmp_path / "out" / "toy.yaml")
    assert merged["Trainer"]["max_epochs"] == 1
    assert len(read_rows(tmp_path / "out", "train(step)")) == 4


@pytest.mark.parametrize(
    "override, text",
    [
        ("Trainer.max_epoch=1", "unknown key 'max_epoch'.*Did you mean 'max_epochs'"),
        ("Trainr.max_epochs=1", "unknown key 'Trainr'.*Did you mean 'Trainer'"),
        ("Dataset.vall.x=1", "Dataset: unknown key 'vall'.*Did you mean 'val'"),
        ("Model.__init_params__.noize=1", "unknown key 'noize'.*Did you mean 'noise'"),
        ("Model.__class_name__=EntryToi", "unknown model 'EntryToi'.*'EntryToy'"),
        ("Optimizer.clip=1", "Optimizer: unknown key 'clip'"),
        ("Global.do_train=maybe", "Global.do_train: wanted true or false"),
        ("--max_epochs", "expected KEY=VALUE|unrecognized"),
        ("Trainer.output_dir=???", "Trainer.output_dir"),
    ],
)
def test_wrong_override_ends_with_status_2(tmp_path, override, text, capsys):
    path = write(tmp_path, config(tmp_path))
    try:
        status = call(tmp_path, "-c", path, override)
    except SystemExit as stop:  # argparse
        status = stop.code
    assert status == 2
    shown = capsys.readouterr()
    assert re.search(text, shown.out + shown.err), shown


@pytest.mark.parametrize("section", ["Trainer", "Model", "Dataset", "Optimizer"])
def test_missing_section_is_named(tmp_path, section, capsys):
    content = config(tmp_path)
    del content[section]
    assert call(tmp_path, "-c", write(tmp_path, content)) == 2
    assert f"the section {section} is missing" in capsys.readouterr().out


def test_missing_split_is_named(tmp_path, capsys):
    content = config(tmp_path, Dataset={"train": split(4)})
    assert call(tmp_path, "-c", write(tmp_path, content)) == 2
    assert "Dataset.val is missing, but Global.do_eval" in capsys.readouterr().out
    content = config(tmp_path, Dataset={"val": split(4)})
    assert call(tmp_path, "-c", write(tmp_path, content)) == 2
    assert "Dataset.train is missing" in capsys.readouterr().out
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_missing_file(tmp_path, capsys):
    assert call(tmp_path, "-c", "nothing.yaml") == 2
    assert "not found: nothing.yaml, also not below" in capsys.readouterr().out


def test_evaluation_alone(tmp_path, capsys):
    path = write(tmp_path, config(tmp_path))
    assert call(tmp_path, "-c", path) == 0
    trained = read_rows(tmp_path / "out")[-2]
    other = f"Trainer.output_dir={tmp_path / 'eval'}"
    flags = ["Global.do_train=false", "Global.do_test=false", other]
    weights = f"Trainer.pretrained_model_path={tmp_path}/out/checkpoints/latest"
    assert call(tmp_path, "-c", path, *flags, weights) == 0
    text = (tmp_path / "eval" / "run.log").read_text()
    line = next(line for line in text.splitlines() if " Val:" in line)
    assert f"loss(loss): {float(trained['loss(loss)']):.6g}" in line
    assert call(tmp_path, "-c", path, *flags) == 0
    assert "the weights evaluated are untrained" in capsys.readouterr().out


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_best_weights_are_tested(tmp_path, ema_decay):
    """A rate that ruins the weights after the first look makes best and last differ."""
    content = config(tmp_path)
    rate = {
        "__class_name__": "Piecewise",
        "__init_params__": {
            "values": [0.05, 10.0], "decay_epochs": [1], "by_epoch": True,
        },
    }  # fmt: skip
    content["Optimizer"]["__init_params__"]["lr"] = rate
    content["Trainer"]["ema_decay"] = ema_decay
    path = write(tmp_path, content)
    assert call(tmp_path, "-c", path) == 0
    log = (tmp_path / "out" / "run.log").read_text()
    assert "The best weights are tested" in log and "epoch 1, loss" in log
    tested = float(read_rows(tmp_path / "out", "test")[-1]["loss(loss)"])
    for name, same in (("best", True), ("latest", False)):
        out = tmp_path / name
        flags = ["Global.do_train=false", "Global.do_eval=false"]
        weights = f"Trainer.pretrained_model_path={tmp_path}/out/checkpoints/{name}"
        trainer = f"Trainer.output_dir={out}"
        assert call(tmp_path, "-c", path, *flags, weights, trainer) == 0
        lines = (out / "run.log").read_text().splitlines()
        line = next(line for line in lines if " Test:" in line)
        assert (f"loss(loss): {tested:.6g}" in line) is same


def test_last_weights_are_tested_when_none_were_chosen(tmp_path, capsys):
    path = write(tmp_path, config(tmp_path))
    flags = ["Trainer.best_metric_indicator=null", "Trainer.max_epochs=1"]
    assert call(tmp_path, "-c", path, *flags) == 0
    assert "The weights after the last step are tested" in capsys.readouterr().out


def test_resume_by_override(tmp_path):
    path = write(tmp_path, config(tmp_path))
    assert call(tmp_path, "-c", path) == 0
    latest = tmp_path / "out" / "checkpoints" / "latest"
    resume = f"Trainer.resume_from_checkpoint={latest}"
    assert call(tmp_path, "-c", path, resume, "Trainer.max_epochs=3") == 0
    epochs = [row["epoch"] for row in read_rows(tmp_path / "out", "train(epoch)")]
    assert epochs == ["1", "2", "3"]
    wrong = "Trainer.resume_from_checkpoint=nowhere/latest"
    assert call(tmp_path, "-c", path, wrong) == 2


@pytest.mark.parametrize("by_override", [False, True])
def test_the_file_of_a_resumed_run_begins_a_new_one(by_override, tmp_path, capsys):
    path = write(tmp_path, config(tmp_path))
    assert call(tmp_path, "-c", path) == 0
    latest = tmp_path / "out" / "checkpoints" / "latest"
    start = f"Trainer.resume_from_checkpoint={latest}" if by_override else "--resume"
    assert call(tmp_path, "-c", path, start, "Trainer.max_epochs=3") == 0
    merged = tmp_path / "out" / os.path.basename(path)
    assert call(tmp_path, "-c", str(merged)) == 2
    assert "Continue it with --resume" in capsys.readouterr().out
    assert call(tmp_path, "-c", str(merged), f"Trainer.output_dir={tmp_path}/b") == 0
    epochs = [row["epoch"] for row in read_rows(tmp_path / "b", "train(epoch)")]
    assert epochs == ["1", "2", "3"]
    assert call(tmp_path, "-c", str(merged), f"Trainer.output_dir={tmp_path}/c",
                f"Trainer.resume_from_checkpoint={latest}") == 0  # fmt: skip
    given = load_config(tmp_path / "c" / os.path.basename(path))["Trainer"]
    assert given["resume_from_checkpoint"] == str(latest)  # decides what the run is


def test_one_data_set_split_by_ratio(tmp_path):
    block = split(20)
    block.pop("sampler")
    sampler = {"__class_name__": "BatchSampler", "__init_params__": {"batch_size": 4}}
    block.update(
        split_dataset_ratio={"train": 0.6, "val": 0.2, "test": 0.2},
        train_sampler=sampler,
        val_sampler=sampler,
        test_sampler=sampler,
    )
    assert call(tmp_path, "-c", write(tmp_path, config(tmp_path, Dataset=block))) == 0
    assert len(read_rows(tmp_path / "out", "train(step)")) == 6


def test_time_stamp_in_the_folder(tmp_path):
    path = write(tmp_path, config(tmp_path))
    flags = ["Trainer.timestamp_output_dir=true", "Trainer.max_epochs=1"]
    assert call(tmp_path, "-c", path, *flags) == 0
    (folder,) = (p for p in tmp_path.iterdir() if p.name.startswith("out"))
    assert folder.name.startswith("out_t_") and folder.name.endswith("_s_3")
    assert (folder / "metrics.csv").exists()


def test_default_of_an_unset_variable_is_said(tmp_path, capsys, monkeypatch):
    content = config(tmp_path)
    content["Global"]["data_root"] = "${oc.env:TOY_ROOT,shipped/sample}"
    params = content["Dataset"]["train"]["dataset"]["__init_params__"]
    params["path"] = "${Global.data_root}"
    path = write(tmp_path, content)
    text = "TOY_ROOT is not set: the default in toy.yaml is used"
    again = [path, "--overwrite"]
    assert call(tmp_path, "-c", path) == 0
    shown = capsys.readouterr().out
    assert text in shown and "shipped/sample" in shown
    # Not where another value replaces it
    assert call(tmp_path, "-c", *again, "Global.data_root=/mine") == 0
    assert text not in capsys.readouterr().out
    monkeypatch.setenv("TOY_ROOT", "/data")
    assert call(tmp_path, "-c", *again) == 0
    assert text not in capsys.readouterr().out


HOLD = """
import sys
from ppmat.utils.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_in_one_folder_is_refused(tmp_path, capsys):
    """Another process holds the folder as a training does; nothing there is touched."""
    path, out = write(tmp_path, config(tmp_path)), tmp_path / "out"
    out.mkdir()
    (out / "run.log").write_text("first\n")
    command = [sys.executable, "-c", HOLD, str(out)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        assert call(tmp_path, "-c", path) == EXIT_BAD_INPUT
        shown = capsys.readouterr().out
        assert f"{out}: another process is writing there" in shown
        assert sorted(os.listdir(out)) == [".lock", "run.log"]
        assert (out / "run.log").read_text() == "first\n"
        other.stdin.close()
    assert call(tmp_path, "-c", path) == 0


def test_a_training_holds_its_folder(tmp_path, monkeypatch):
    def train(trainer, **options):
        with pytest.raises(StoredRunError), locked(tmp_path / "out"):
            pass
        held.append(trainer)

    held = []
    monkeypatch.setattr(BaseTrainer, "train", train)
    monkeypatch.setattr("ppmat.trainer.reporting.draw_loss_curve", lambda folder: None)
    flags = ["Global.do_eval=false", "Global.do_test=false"]
    assert call(tmp_path, "-c", write(tmp_path, config(tmp_path)), *flags) == 0
    assert held
    with locked(tmp_path / "out"):
        pass


def test_a_used_folder_is_continued_replaced_or_refused(tmp_path, capsys):
    path, out = write(tmp_path, config(tmp_path)), tmp_path / "out"
    assert call(tmp_path, "-c", path) == 0
    before = (out / "metrics.csv").read_text()
    capsys.readouterr()
    assert call(tmp_path, "-c", path, "Trainer.max_epochs=3") == EXIT_BAD_INPUT
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 1 and "holds a training of 2 epochs, 6 steps" in shown[0]
    assert (out / "metrics.csv").read_text() == before
    logger.init_logger()  # closes run.log, as in a new process
    assert call(tmp_path, "-c", path, "--resume", "Trainer.max_epochs=3") == 0
    assert "other settings than before: Trainer.max_epochs" in capsys.readouterr().out
    assert "than before: Trainer.max_epochs" in (out / "run.log").read_text()
    epochs = [row["epoch"] for row in read_rows(out, "train(epoch)")]
    assert epochs == ["1", "2", "3"]
    assert call(tmp_path, "-c", path, "--overwrite", "Trainer.max_epochs=1") == 0
    assert [row["epoch"] for row in read_rows(out, "train(epoch)")] == ["1"]
    names = os.listdir(out / "checkpoints")
    assert {name.partition(".")[0] for name in names} == {"latest", "best"}


def test_a_wrong_setting_removes_nothing(tmp_path, capsys):
    path, out = write(tmp_path, config(tmp_path)), tmp_path / "out"
    assert call(tmp_path, "-c", path) == 0
    logger.init_logger()  # which still wrote into the run.log there
    files = {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    for wrong in ("Trainer.max_epochs=0", "Dataset.train=5", "Global.batch_size=3"):
        assert call(tmp_path, "-c", path, "--overwrite", wrong) == EXIT_BAD_INPUT
        assert wrong.partition("=")[0] in capsys.readouterr().out.splitlines()[-1]
    after = {p: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
    assert after == files


def test_resume_in_an_empty_folder_starts(tmp_path, capsys):
    path = write(tmp_path, config(tmp_path))
    assert call(tmp_path, "-c", path, "--resume") == 0
    assert "has no checkpoint: the training starts" in capsys.readouterr().out


@pytest.mark.parametrize("script, mode", [("sample.py", 1), ("predict.py", 0)])
def test_the_end_names_best_epoch_score_and_next_command(
    tmp_path, capsys, monkeypatch, script, mode
):
    path = write(tmp_path, config(tmp_path))
    (tmp_path / "task" / script).write_text("")
    monkeypatch.chdir(tmp_path)
    assert call(tmp_path, "-c", path, "Trainer.output_dir=new run") == 0
    *_, best, _, command = capsys.readouterr().out.splitlines()
    rows = read_rows(tmp_path / "new run", "eval(epoch)")
    losses = [float(row["loss(loss)"]) for row in rows]
    epoch = losses.index(min(losses)) + 1
    assert f"Best epoch {epoch} of 2: loss {min(losses):.6g} (eval_loss)" in best
    words = shlex.split(command)
    assert words[:4] == [
        "python", f"task/{script}", "--config_path=new run/toy.yaml",
        "--checkpoint_path=new run/checkpoints/best.pdparams",
    ]  # fmt: skip
    assert ("--mode=compute_metric" in words) == bool(mode)
    for word in words[2:4]:
        assert os.path.isfile(word.partition("=")[2])
    assert load_config("new run/toy.yaml")["Trainer"]["output_dir"] == "new run"


def without_space(folder):
    return type("usage", (), {"free": 1000})


FOLDERS = {
    "a file": lambda out: out.write_text(""),
    "below a file": lambda out: (out.parent.rmdir(), out.parent.write_text("")),
    "checkpoints is a file": lambda out: (out.mkdir(), (out / "checkpoints").touch()),
    "a folder": lambda out: (out / "metrics.csv").mkdir(parents=True),
    "log on a full disk": lambda out: (
        out.mkdir(), (out / "run.log").symlink_to("/dev/full"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(FOLDERS))
def test_folder_faults_are_one_line_before_the_first_epoch(tmp_path, capsys, kind):
    path, out = write(tmp_path, config(tmp_path)), tmp_path / "place" / "out"
    out.parent.mkdir()
    FOLDERS[kind](out)
    capsys.readouterr()
    assert call(tmp_path, "-c", path, f"Trainer.output_dir={out}") == EXIT_BAD_INPUT
    shown = capsys.readouterr()
    errors = [line for line in shown.out.splitlines() if "ERROR" in line]
    assert len(errors) == 1 and f"{out}" in errors[0] and "cannot be writ" in errors[0]
    assert "Epoch [1/" not in shown.out and "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_without_permission(tmp_path, capsys, monkeypatch, number):
    """Made here, because nothing is forbidden to the administrator."""

    def refuse(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), path)

    path = write(tmp_path, config(tmp_path))
    monkeypatch.setattr(os, "makedirs", refuse)
    assert call(tmp_path, "-c", path) == EXIT_BAD_INPUT
    shown = capsys.readouterr().out
    assert shown.count("ERROR") == 1 and "out: cannot be written" in shown


def test_too_little_space_is_found_before_the_first_epoch(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", without_space)
    assert call(tmp_path, "-c", write(tmp_path, config(tmp_path))) == EXIT_BAD_INPUT
    shown = capsys.readouterr().out
    assert re.search(r"out: the disk has 0\.0 MB free; wanted .* for three", shown)
    assert "Epoch [1/" not in shown


@pytest.mark.parametrize("file", ["metrics.csv", "run.log"])
def test_a_disk_that_fills_up_ends_with_one_line(tmp_path, capsys, monkeypatch, file):
    """The third epoch line is the one that no longer fits."""
    path = write(tmp_path, config(tmp_path, Global={"do_train": True}))
    report, count = Reporter.report, [0]

    def filling(self, stage, *args):
        count[0] += 1
        if count[0] == 6:
            place = tmp_path / "out" / file
            if file == "metrics.csv":
                place.unlink()
                place.symlink_to("/dev/full")
            else:
                handler = logging.getLogger("ppmat").handlers[-1]
                handler.setStream(open("/dev/full", "w"))
        report(self, stage, *args)

    monkeypatch.setattr(Reporter, "report", filling)
    assert call(tmp_path, "-c", path) == EXIT_BAD_INPUT
    shown = capsys.readouterr()
    last = shown.out.splitlines()[-1]
    assert f"{file}: cannot be written: No space left on device" in last
    assert "Traceback" not in shown.out + shown.err
    latest = tmp_path / "out" / "checkpoints" / "latest"
    assert load_states(str(latest))["epoch"] == 1


def test_nan_ends_with_status_3(tmp_path, capsys):
    content = config(tmp_path)
    content["Dataset"]["train"]["dataset"]["__init_params__"]["bad"] = True
    assert call(tmp_path, "-c", write(tmp_path, content)) == entry.EXIT_NOT_FINITE
    assert "the loss is not finite" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_run(tmp_path):
    path = write(tmp_path, config(tmp_path))

    def losses(folder, seed):
        out = tmp_path / folder
        flags = [f"Trainer.output_dir={out}", f"Trainer.seed={seed}"]
        flags.append("Model.__init_params__.noise=0.1")
        assert call(tmp_path, "-c", path, *flags) == 0
        return [row["loss(loss)"] for row in read_rows(out)]

    assert losses("a", 1) == losses("b", 1) != losses("c", 2)


def test_the_script_of_the_task_shows_its_help():
    done = subprocess.run(
        [sys.executable, str(ROOT / "structure_generation" / "train.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert "--config" in done.stdout and "143 / 130" in done.stdout


def test_a_bad_data_file_ends_with_its_name_and_status_2(tmp_path, capsys):
    for split in ("train", "val_id"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "data.lmdb").write_text("not a database " * 500)
    status = entry.main(
        str(ROOT / "structure_generation"),
        [
            "--config=configs/sfin/oc20_smoke.yaml",
            f"Global.data_root={tmp_path}",
            f"Trainer.output_dir={tmp_path / 'out'}",
        ],
    )
    assert status == EXIT_BAD_INPUT
    shown = capsys.readouterr().out
    assert str(tmp_path / "train" / "data.lmdb") in shown
    assert "cannot be opened as an LMDB file" in shown


def test_noise_of_another_version_ends_with_its_name_and_status_2(tmp_path, capsys):
    noise = tmp_path / "noise.json"
    noise.write_text('{"format": "ppmat STEM noise", "version": 2}')
    status = entry.main(
        str(ROOT / "spectrum_enhancement"),
        [
            "--config=configs/sfin/sfin_synthetic.yaml",
            f"Global.noise={noise}",
            f"Trainer.output_dir={tmp_path / 'out'}",
        ],
    )
    assert status == EXIT_BAD_INPUT
    assert f"{noise}: found version 2, wanted version 1" in capsys.readouterr().out
