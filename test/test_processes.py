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


"""Several processes of one command: how many, the same numbers, and their end."""

import contextlib
import csv
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from ase.io import write
from helpers_image import write_pictures
from helpers_predictor import ToyEnergy
from helpers_predictor import energy_of
from helpers_predictor import write_energy_model
from helpers_sampler import make_slabs
from helpers_trainer import read_rows

from ppmat.commands import detect
from ppmat.commands import processes
from ppmat.predictor import PropertyPredictor
from ppmat.utils.registry import ConfigError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


@pytest.fixture
def machine(monkeypatch):
    """A machine of 6 cores without a GPU, on which Paddle is not loaded yet."""
    for name in ("OMP_NUM_THREADS", "PADDLE_TRAINERS_NUM", "PPMAT_FIRST_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "paddle")
    monkeypatch.setattr(processes, "available_cores", lambda: 6)
    monkeypatch.setattr(processes, "_has_gpu_build", lambda: False)
    return monkeypatch


def test_auto_takes_a_process_for_each_core(machine):
    choose = processes.choose_processes
    assert choose("auto", 100) == 6
    assert choose("auto", 4) == 4  # a batch of 16 gives 4 processes 4 structures each
    machine.setenv("OMP_NUM_THREADS", "3")
    assert choose("auto", 100) == 2
    machine.delenv("OMP_NUM_THREADS")
    machine.setattr(processes, "available_cores", lambda: 64)
    assert choose("auto", 100) == 8
    machine.setattr(processes, "_has_gpu_build", lambda: True)
    assert choose("auto", 100) == 1


def test_loaded_or_launched_processes_stay_as_they_are(machine):
    choose = processes.choose_processes
    assert choose(3, 4) == 3
    with pytest.raises(ConfigError, match="--processes=5.*at most 4"):
        choose(5, 2, 4)
    machine.setitem(sys.modules, "paddle", paddle)
    assert choose("auto", 4) == 1
    with pytest.raises(ConfigError, match="Paddle is loaded already"):
        choose(2, 4)
    machine.setenv("PADDLE_TRAINERS_NUM", "2")
    assert choose("auto", 4) == choose(2, 4) == 1
    with pytest.raises(ConfigError, match=r"paddle.distributed.launch has started 2"):
        choose(3, 4)
    machine.setenv("PPMAT_FIRST_PROCESS", "1")  # started by rank 0
    assert choose(3, 4) == 1 and processes.share_batches()


def test_threads_are_set_before_paddle_and_not_against_the_user(machine):
    processes.set_threads(several=False)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    processes.set_threads(several=True)
    assert os.environ["OMP_NUM_THREADS"] == "1"  # as it was
    machine.delenv("OMP_NUM_THREADS")
    machine.setattr("ppmat.utils.cores.available_cores", lambda: 6)
    processes.set_threads(several=True)
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    assert os.environ["OMP_NUM_THREADS"] == ("6" if on_x86 else "1")
    machine.delenv("OMP_NUM_THREADS")
    machine.setenv("PADDLE_LOCAL_SIZE", "3")
    processes.set_threads(several=True)
    assert os.environ["OMP_NUM_THREADS"] == ("2" if on_x86 else "1")


def start(*command, **pipes):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE)])
    environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-W", "ignore", *map(str, command)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes)


def ended(*command):
    """Run a command; returns its status and all it printed."""
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = start(*command, **out)
    text, _ = process.communicate(timeout=300)
    return process.returncode, text


def scenario(folder, name):
    return ended(HERE / "helpers_processes.py", folder, name)


def test_training_gives_the_numbers_of_one_process(tmp_path):
    """The batches of 4 are 2 + 2 structures; the loss has no noise here."""
    rows, weights = {}, {}
    for number in (1, 2):
        folder = tmp_path / str(number)
        status, text = ended(
            ROOT / "structure_generation/train.py",
            "-c=configs/sfin/oc20_smoke.yaml",
            f"--processes={number}",
            f"Trainer.output_dir={folder}",
            "Trainer.max_iter=3",
            "Trainer.max_epochs=1",
            "Model.__init_params__.scheduler_cfg.__init_params__.noise_std=0.0",
            "Model.__init_params__.scheduler_cfg.__init_params__.time_sampling=zero",
        )
        assert status == 0, text
        rows[number] = read_rows(folder)
        weights[number] = paddle.load(str(folder / "checkpoints/latest.pdparams"))
    assert len(rows[1]) == len(rows[2])
    for one, two in zip(rows[1], rows[2]):
        for name in ("loss(loss)", "grad_norm", "adwt(metric)"):
            if one[name]:
                assert float(one[name]) == pytest.approx(float(two[name]), rel=1e-3)
    for name, value in weights[1].items():
        np.testing.assert_allclose(
            value.numpy(), weights[2][name].numpy(), atol=2e-5, err_msg=name
        )


def test_results_are_those_of_one_process_in_the_order_of_the_input(tmp_path):
    model = write_energy_model(tmp_path)
    ToyEnergy.calls.clear()
    slabs = make_slabs(7)
    write(tmp_path / "slabs.traj", slabs)
    names = ("a", "b", "c")
    write_pictures(tmp_path / "pictures", names)
    status, text = scenario(tmp_path, "predict")
    assert status == 0, text
    with open(tmp_path / "e.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == [slab.info["sid"] for slab in slabs]
    for row, slab in zip(table, slabs, strict=True):
        wanted = pytest.approx(energy_of(slab), rel=1e-6)
        assert float(row["y_relaxed [eV]"]) == wanted
    assert text.count("7 structures\n") == 1  # rank 0 speaks for all
    slabs.append(make_slabs(8)[7])
    more = PropertyPredictor(**model).from_structures(slabs, 3, tmp_path / "e.csv")
    assert ToyEnergy.calls == [["sid7"]]  # one process goes on where two stopped
    assert len(more) == 8 and more[7]["id"] == "sid7"
    assert (
        detect.main("", [f"{tmp_path}/pictures", "--raw", f"-o={tmp_path}/one/"]) == 0
    )
    places = [text.index(f"columns/{name}.csv") for name in names]
    assert places == sorted(places)
    for name in names:
        ours = (tmp_path / "columns" / f"{name}.csv").read_bytes()
        assert ours == (tmp_path / "one" / f"{name}.csv").read_bytes()


def test_a_killed_rank_loses_no_row(tmp_path):
    model = write_energy_model(tmp_path)
    slabs = make_slabs(7)
    write(tmp_path / "slabs.traj", slabs)
    status, text = scenario(tmp_path, "half")
    assert status == 1 and "process 1 of 2 has ended with signal 9" in text, text
    ToyEnergy.calls.clear()
    files = f"{tmp_path}/slabs.traj"
    table = PropertyPredictor(**model).from_files(files, save_path=tmp_path / "e.csv")
    assert ToyEnergy.calls == [["sid4", "sid5", "sid6"]]  # the first round was kept
    for row, slab in zip(table, slabs, strict=True):
        assert row["y_relaxed"] == pytest.approx(energy_of(slab), rel=1e-6)


def test_a_late_rank_is_waited_for(tmp_path):
    status, text = scenario(tmp_path, "late")
    assert status == 0 and "met [0, 1]" in text, text


def test_a_lost_process_ends_the_run_with_one_line(tmp_path):
    status, text = scenario(tmp_path, "lost")
    assert status == 1, text
    assert "process 1 of 2 has ended with signal 9" in text
    assert "the last words" in text and "Traceback" not in text


def test_no_process_outlives_the_first(tmp_path):
    first = start(HERE / "helpers_processes.py", tmp_path, "endless")
    try:
        pids = [_read_pid(tmp_path / f"pid{rank}") for rank in (0, 1)]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    end = time.monotonic() + 60
    while _runs(pids[1]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(pids[1])


def _read_pid(path):
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(path.read_text())


def _runs(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
