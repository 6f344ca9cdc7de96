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


import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest
from helpers_trainer import Structures
from helpers_trainer import Toy
from helpers_trainer import curve
from helpers_trainer import make_model
from helpers_trainer import make_trainer
from helpers_trainer import read_rows
from helpers_trainer import weights_of
from paddle import nn

from benchmarks import kills as kill_chains
from ppmat.trainer import TrainerState
from ppmat.trainer import run_folder
from ppmat.trainer.base_trainer import BaseTrainer
from ppmat.trainer.run import StopSignals
from ppmat.trainer.run import TrainingInterrupted
from ppmat.utils import save_load
from ppmat.utils.save_load import CheckpointError

STOPS = StopSignals.SIGNALS
HERE = os.path.dirname(os.path.abspath(__file__))


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Only a power cut needs it; the system keeps what a dead process wrote."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Draws(Toy):
    """Draws from all three generators in each training step."""

    def forward(self, batch):
        atoms = dict(batch["structure_array"])
        if self.training:
            shift = float(np.random.rand()) + random.random()
            atoms["cart_coords"] = atoms["cart_coords"] + 0.01 * shift
        return super().forward({**batch, "structure_array": atoms})


def schedule(name, **params):
    return {"__class_name__": name, "__init_params__": params}


COSINE = schedule("Cosine", learning_rate=0.05, warmup_epoch=1)
BY_EPOCH = schedule("Cosine", learning_rate=0.05, by_epoch=True)
PLATEAU = schedule(
    "ReduceOnPlateau",
    learning_rate=0.05,
    indicator="eval_loss",
    indicator_name="loss",
    patience=0,
)
BEST = {"best_metric_indicator": "eval_loss", "name_for_best_metric": "loss"}

CASES = {
    "plain": {},
    "average": {"ema_decay": 0.9, "lr": COSINE, **BEST},
    "by_epoch": {"lr": BY_EPOCH, "log_freq": 2, **BEST},
    "plateau": {"lr": PLATEAU, "early_stopping_patience": 9, **BEST},
    "accumulated": {"gradient_accumulation_steps": 2, "log_freq": 3, "lr": COSINE},
    "eval_steps": {"eval_freq_steps": 2, "lr": PLATEAU, **BEST},
    "momentum": {"optimizer": "Momentum_", "lr": COSINE, "metric": True},
}


def build(folder, case, path=None, **changes):
    settings = dict(CASES[case])
    data = Structures(19)
    paddle.seed(1)
    model = Draws(noise=0.1)
    if settings.get("optimizer") == "Momentum_":
        settings["optimizer"] = "RMSProp"
    metrics = None
    if settings.pop("metric", False):
        metrics = {"z": nn.L1Loss()}
        settings["compute_metric_during_train"] = True
    if path is None:
        settings.update(save_freq=1, save_freq_steps=1)
    settings["resume_from_checkpoint"] = path
    val = Structures(5, seed=4)
    return make_trainer(folder, data, model, metrics, val, **{**settings, **changes})


def copy_rows(source, target, count):
    """Leave at ``target`` the metrics.csv an interrupted run had, and a bit more."""
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(source, "metrics.csv")) as file:
        lines = file.readlines()
    with open(os.path.join(target, "metrics.csv"), "w") as file:
        file.writelines(lines[: 1 + count + 2])


@pytest.mark.parametrize("case", sorted(CASES))
def test_resume_from_every_checkpoint_is_exact(tmp_path, case):
    """3 epochs of 5 batches, resumed from the end of epochs and from inside."""
    whole = build(tmp_path / "whole", case)
    whole.train()
    expected = curve(tmp_path / "whole")
    weights = weights_of(whole.model)
    steps = whole.state.max_steps_in_train_epoch
    prefixes = ["epoch_2", f"step_{2 * steps}", f"step_{steps + 1}", "latest"]
    for prefix in prefixes:
        path = str(tmp_path / "whole" / "checkpoints" / prefix)
        done = save_load.load_file(f"{path}.pdstates")["log_rows"]
        folder = tmp_path / prefix
        copy_rows(tmp_path / "whole", folder, done)
        make_model(3)  # other models in the process, other automatic names
        resumed = build(folder, case, path)
        resumed.train()
        assert curve(folder) == expected, prefix
        assert resumed.state == whole.state, prefix
        for name, value in weights_of(resumed.model).items():
            np.testing.assert_array_equal(value, weights[name], err_msg=prefix)


@pytest.mark.parametrize("lost", ["numpy", "paddle", "python", "window", "epoch_sums"])
def test_broken_twin_forgets_a_part_and_differs(tmp_path, lost, monkeypatch):
    build(tmp_path / "whole", "by_epoch", log_freq=3).train()
    expected = curve(tmp_path / "whole")
    path = str(tmp_path / "whole" / "checkpoints" / "step_7")
    load = save_load.load_file

    def forgetful(file):
        content = load(file)
        if file.endswith(".pdstates"):
            run = content["run"]
            if lost == "epoch_sums":
                run["epoch_sums"] = {k: {} for k in run["epoch_sums"]}
            elif lost == "window":
                run["ranks"][0]["window"] = {k: {} for k in run["epoch_sums"]}
            else:
                first = run["ranks"][0]
                first["rng"][lost] = first["epoch_rng"][lost]
        return content

    copy_rows(tmp_path / "whole", tmp_path / "twin", 9)
    monkeypatch.setattr(save_load, "load_file", forgetful)
    build(tmp_path / "twin", "by_epoch", path, log_freq=3).train()
    assert curve(tmp_path / "twin") != expected


def test_order_of_paddles_own_sampler_is_restored_too(tmp_path):
    """It shuffles with numpy's global generator and cannot be entered in the middle."""

    def train(folder, path=None):
        data = Structures(19)
        sampler = paddle.io.BatchSampler(data, shuffle=True, batch_size=4)
        model = make_model(noise=0.1)
        make_trainer(
            folder, data, model, loader=data.loader(sampler=sampler),
            save_freq_steps=1, resume_from_checkpoint=path,
        ).train()  # fmt: skip
        return curve(folder), model.seen

    expected, order = train(tmp_path / "whole")
    for step in (3, 5, 8):
        path = str(tmp_path / "whole" / "checkpoints" / f"step_{step}")
        done = save_load.load_file(f"{path}.pdstates")["log_rows"]
        copy_rows(tmp_path / "whole", tmp_path / str(step), done)
        resumed, rest = train(tmp_path / str(step), path)
        assert resumed == expected
        assert rest == order[step:]


def test_workers_do_not_change_the_resumed_run(tmp_path):
    def train(folder, path=None):
        data = Structures(19)
        loader = data.loader(4, shuffle=True, num_workers=2)
        trainer = make_trainer(
            folder, data, Draws(noise=0.1), loader=loader, max_epochs=2,
            save_freq_steps=3, resume_from_checkpoint=path,
        )  # fmt: skip
        trainer.train()
        return curve(folder)

    paddle.seed(1)
    expected = train(tmp_path / "whole")
    path = str(tmp_path / "whole" / "checkpoints" / "step_3")
    copy_rows(tmp_path / "whole", tmp_path / "resumed", 3)
    paddle.seed(2)
    assert train(tmp_path / "resumed", path) == expected


def test_argument_of_train_wins(tmp_path):
    build(tmp_path / "whole", "plain").train()
    path = str(tmp_path / "whole" / "checkpoints" / "epoch_2")
    trainer = build(tmp_path / "other", "plain")
    trainer.train(resume_from_checkpoint=path)
    assert [row["epoch"] for row in read_rows(tmp_path / "other", "eval(epoch)")] == [
        "3"
    ]


def test_finished_run_has_nothing_left_to_do(tmp_path):
    trainer = build(tmp_path, "plain")
    trainer.train()
    before = curve(tmp_path)
    again = build(tmp_path, "plain", str(tmp_path / "checkpoints" / "latest"))
    again.train()
    assert again.model.calls == 0
    assert curve(tmp_path) == before


def test_longer_run_goes_on(tmp_path):
    """With a fixed rate, 2 + 1 epochs are 3 epochs."""
    build(tmp_path / "whole", "plain").train()
    build(tmp_path / "parts", "plain", max_epochs=2).train()
    path = str(tmp_path / "parts" / "checkpoints" / "latest")
    build(tmp_path / "parts", "plain", path).train()
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_latest_is_written_after_evaluation_and_schedule(tmp_path):
    trainer = build(tmp_path, "by_epoch", max_epochs=2)
    trainer.train()
    stem = str(tmp_path / "checkpoints" / "latest")
    states = save_load.load_file(f"{stem}.pdstates")
    best = min(float(r["loss(loss)"]) for r in read_rows(tmp_path, "eval(epoch)"))
    assert states["best_metric"] == best
    position = save_load.load_file(f"{stem}.pdopt")["LR_Scheduler"]
    assert position["last_epoch"] == 2


def test_set_of_upstream_is_continued(tmp_path, capsys):
    """Its file of counters knows nothing of random states or of our counters."""
    whole = build(tmp_path / "whole", "plain")
    whole.train()
    stem = str(tmp_path / "latest")
    paddle.save(whole.model.state_dict(), f"{stem}.pdparams")
    paddle.save(whole.optimizer.state_dict(), f"{stem}.pdopt")
    counters = dict(
        epoch=2, global_step=10, step_in_train_epoch=5, step_in_eval_epoch=2,
        max_steps_in_train_epoch=5, max_steps_in_eval_epoch=2, cur_metric=None,
        best_metric=0.5, best_epoch=1,
    )  # fmt: skip
    paddle.save(counters, f"{stem}.pdstates")
    trainer = build(tmp_path / "new", "plain", stem)
    trainer.train()
    assert trainer.state.epoch == 3 and trainer.state.global_step == 15
    assert "with fresh noise" in capsys.readouterr().out
    # One written inside an epoch is continued there.
    state = TrainerState.from_dict({**counters, "step_in_train_epoch": 3})
    assert not state.epoch_finished
    paddle.save({**counters, "step_in_train_epoch": 3}, f"{stem}.pdstates")
    trainer = build(tmp_path / "inside", "plain", stem)
    trainer.train()
    assert trainer.model.calls == 2 + 5


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"batch_size": 3}, r"\(1, 5, 1\), this run has \(1, 7, 1\)"),
        ({"gradient_accumulation_steps": 2}, r"this run has \(1, 5, 2\)"),
        ({"optimizer": "SGD"}, "was trained with AdamW, this run uses SGD"),
    ],
)
def test_checkpoint_of_other_settings(tmp_path, changes, text):
    build(tmp_path / "a", "plain").train()
    path = str(tmp_path / "a" / "checkpoints" / "step_3")
    with pytest.raises(CheckpointError, match=text):
        build(tmp_path / "b", "plain", path, **changes).train()


def test_missing_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.pdparams does not exist"):
        build(tmp_path, "plain", str(tmp_path / "nowhere")).train()


class Killed(BaseException):
    """Ends a training at once, like SIGKILL: nothing is saved."""


def train_until(trainer, step):
    """Train, and die in the step after ``step``."""
    call = trainer.updater.step

    def step_or_die(group):
        if trainer.state.global_step >= step:
            raise Killed
        call(group)

    trainer.updater.step = step_or_die
    trainer.train()


def newest(folder):
    return run_folder.newest_checkpoint(folder)


@pytest.mark.parametrize("case", ["average", "eval_steps", "accumulated", "plateau"])
def test_chain_of_kills_ends_with_the_same_files(tmp_path, case):
    """Among the kills are those right after the last step of an epoch."""

    def train(folder, path, kill_at):
        with paddle.utils.unique_name.guard():  # Paddle's names, as in a new process
            trainer = build(folder, case, path, save_freq_steps=1, save_freq=1)
            train_until(trainer, kill_at)

    draw = random.Random(case)
    train(tmp_path / "whole", None, math.inf)
    for chain in range(3):
        folder, kills, ended = tmp_path / str(chain), 0, False
        while not ended:
            start = newest(folder)
            done = save_load.load_states(start)["global_step"] if start else 0
            try:
                train(folder, start, done + draw.randint(0, 4))
                ended = True
            except Killed:
                kills += 1
        assert kills > 1
        assert kill_chains.differences(folder, tmp_path / "whole") == []


def test_resume_from_the_last_step_of_an_epoch_twice(tmp_path):
    """The second process must not get the random states of a fresh first one."""
    build(tmp_path / "whole", "plain").train()
    path = str(tmp_path / "whole" / "checkpoints" / "step_5")
    with pytest.raises(Killed):  # after the checkpoint at the end of epoch 1
        train_until(build(tmp_path / "again", "plain", path), 5)
    latest = str(tmp_path / "again" / "checkpoints" / "latest")
    build(tmp_path / "again", "plain", latest).train()
    losses = [row["loss(loss)"] for row in read_rows(tmp_path / "whole", "train(step)")]
    after = [row["loss(loss)"] for row in read_rows(tmp_path / "again", "train(step)")]
    assert after == losses[5:]


def test_broken_twin_of_the_chain_is_found(tmp_path, monkeypatch):
    """Without the restored random states the comparison of a chain fails."""
    build(tmp_path / "whole", "plain").train()
    path = str(tmp_path / "whole" / "checkpoints" / "step_5")
    monkeypatch.setattr(BaseTrainer, "_restore_random_state", lambda self: None)
    build(tmp_path / "twin", "plain", path).train()
    found = kill_chains.differences(tmp_path / "twin", tmp_path / "whole")
    assert "metrics.csv" in found and any("latest.pdparams" in name for name in found)


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("step", [3, 5])
def test_signal_finishes_the_step_and_saves(tmp_path, number, step, request):
    inherited = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    request.addfinalizer(lambda: signal.signal(number, inherited))

    class Signalled(Draws):
        def forward(self, batch):
            result = super().forward(batch)
            if self.training and self.calls == step:
                os.kill(os.getpid(), number)
            return result

    build(tmp_path / "whole", "average").train()
    before = signal.getsignal(number)
    trainer = build(tmp_path / "run", "average")
    trainer.model.__class__ = Signalled
    with pytest.raises(TrainingInterrupted) as stopped:
        trainer.train()
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert trainer.state.global_step == step
    path = str(tmp_path / "run" / "checkpoints" / "latest")
    build(tmp_path / "run", "average", path).train()
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


SCRIPT = """
import os, sys, time
sys.path[:0] = [{root!r}, {here!r}]
import test_trainer_resume as t
trainer = t.build(sys.argv[1], "average")
forward = t.Draws.forward
def slow(self, batch):
    if self.training:
        time.sleep(0.02)
        while self.calls > 11 and not os.path.exists(sys.argv[2]):
            time.sleep(0.02)  # a busy machine sends the signal late
    return forward(self, batch)
t.Draws.forward = slow
trainer.train()
"""


def test_sighup_is_ignored_under_nohup(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPS}
    try:
        with StopSignals():
            changed = [n for n in STOPS if signal.signal(n, signal.SIG_DFL)]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert changed == [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_process_resumes_exactly(tmp_path, number):
    """A real process, ended from outside at a moment nobody chose."""
    build(tmp_path / "whole", "average").train()
    folder, sent = tmp_path / "run", tmp_path / "sent"
    script = SCRIPT.format(root=os.path.dirname(HERE), here=HERE)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(folder), str(sent)],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints" / "step_6.manifest.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    sent.touch()
    status = process.wait(timeout=300)
    steps = [n for n in os.listdir(folder / "checkpoints") if n.startswith("step_")]
    last = max(int(n.split("_")[1].split(".")[0]) for n in steps if "manifest" in n)
    if number == signal.SIGTERM:
        assert status == 143
        prefix = "latest"
        states = save_load.load_file(str(folder / "checkpoints" / "latest.pdstates"))
        assert states["global_step"] == last
    else:
        assert status == -9
        prefix = f"step_{last}"
    assert 6 <= last < 15
    build(folder, "average", str(folder / "checkpoints" / prefix)).train()
    assert curve(folder) == curve(tmp_path / "whole")


def test_kill_during_saves_leaves_a_whole_set(tmp_path):
    """Sets of two large files whose contents must agree, killed while being written."""
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(HERE)!r})
import numpy as np
from ppmat.utils.save_load import write_set
for number in range(10**6):
    data = np.full(300000, number)
    write_set(sys.argv[1], "latest", {{"latest.pdparams": {{"w": data}},
              "latest.pdopt": {{"w": data}}, "latest.pdstates": {{"n": number}}}})
    print(number, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    written = 0
    while written < 4:
        written = int(process.stdout.readline())
    time.sleep(random.random() * 0.02)
    process.kill()
    process.wait()
    files = save_load._Set(str(tmp_path / "latest"))
    number = files.load(".pdstates")["n"]
    assert number >= written
    for ending in (".pdparams", ".pdopt"):
        np.testing.assert_array_equal(files.load(ending)["w"], number)


def test_no_checkpoint_follows_a_value_that_is_not_finite(tmp_path):
    """What is on the disk is from before."""
    data = Structures(12, bad=[9])
    trainer = make_trainer(
        tmp_path, data, shuffle=False, save_freq_steps=1, log_freq=0, max_epochs=1
    )
    trainer.updater._at_once = False
    with pytest.raises(FloatingPointError):
        trainer.train()
    for prefix in ("step_1", "step_2"):
        weights = save_load.load_file(str(tmp_path / f"checkpoints/{prefix}.pdparams"))
        assert np.isfinite(weights["energy.weight"]).all()
    assert not (tmp_path / "checkpoints" / "step_3.pdparams").exists()
