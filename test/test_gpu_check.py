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

"""The parts of the GPU check that need no GPU, and what it does without one."""

import os
import sys

import numpy as np
import paddle
import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import CPU
from benchmarks.gpu_check import FLOAT32
from benchmarks.gpu_check import NETWORKS
from benchmarks.gpu_check import differences
from benchmarks.gpu_check import faults
from ppmat.utils.errors import InputError

FLOW = NETWORKS["SFINFlow"]
SMALL = tuple(
    f"Model.__init_params__.backbone_cfg.{change}"
    for change in ("channels=8", "vectors=4", "messages=4", "num_blocks=1")
)
no_gpu = pytest.mark.skipif(
    paddle.device.cuda.device_count() > 0, reason="this machine has a GPU"
)


@no_gpu
def test_without_a_gpu_it_fails_and_writes_nothing(tmp_path):
    files = ["--out", str(tmp_path / "a.yaml"), "--work", str(tmp_path / "work")]
    words = [sys.executable, "-m", "benchmarks.gpu_check", *files]
    with pytest.raises(gpu_check.PartFailed, match="^status 1: no GPU was found"):
        gpu_check.run_process(words, tmp_path / "log")
    assert os.listdir(tmp_path) == ["log"]


@no_gpu
def test_a_part_that_fails_is_a_fault_of_its_row(tmp_path):
    cpu, gpu = gpu_check.check_precision("SFINPotential", [], tmp_path, 2)
    assert cpu["mode"] == CPU and cpu["batch_size"] == 2 and "faults" not in cpu
    assert np.isfinite(cpu["loss"])
    assert gpu["mode"] == FLOAT32 and "loss" not in gpu
    assert gpu["faults"][0].startswith("status 1: ") and "gpu" in gpu["faults"][0]


def test_all_parts_of_a_network_start_from_the_same_weights(tmp_path):
    rows, found = [], []
    for folder in ("a", "a", "b"):
        rows.append(gpu_check.measure(FLOW, CPU, tmp_path / folder, 2, *SMALL))
        found.append(dict(np.load(tmp_path / folder / f"{CPU}.npz")))
        paddle.seed(7)  # the weights of `a` are read, those of `b` are drawn again
    assert rows[0] == rows[1] == rows[2] and rows[0]["batch_size"] == 2
    assert differences(found[0], found[1]) == {"loss": 0, "gradient": 0}
    assert np.linalg.norm(found[0]["gradient"]) > 0


def test_rounding_is_found_and_judged_by_the_type(tmp_path):
    """Weights of bfloat16 are what mixed precision does, as far as a CPU can do it."""
    paddle.seed(0)
    config = gpu_check.config_of(FLOW, 2, *SMALL)
    trainer = gpu_check.trainer_of(config, CPU, tmp_path)
    batch = gpu_check.first_batch(config)
    exact = gpu_check.outcome(trainer, batch)
    for weight in trainer.model.parameters():
        weight.set_value(weight.astype("bfloat16").astype("float32"))
    found = differences(gpu_check.outcome(trainer, batch), exact)
    assert 1e-6 < found["loss"] < 1e-2 and 1e-3 < found["gradient"] < 1e-1
    assert faults("O1 bfloat16", found) == []
    assert "gradient differs" in faults(FLOAT32, found)[-1]
    same = differences(exact, exact)
    assert faults(FLOAT32, same) == []
    assert "no effect" in faults("O2 float16", same)[0]
    exact["loss"] = np.array(np.nan)
    assert "loss differs by nan" in faults(FLOAT32, differences(exact, exact))[0]


def test_two_ranks_take_the_steps_of_one(tmp_path, monkeypatch):
    """With processes on the CPU in place of GPUs; the words are otherwise the same."""
    monkeypatch.setenv("PADDLE_DISTRI_BACKEND", "gloo")
    network = gpu_check.Network("structure_generation", "sfin/oc20_smoke.yaml")
    scheduler = "Model.__init_params__.scheduler_cfg.__init_params__"
    changes = [f"{scheduler}.noise_std=0.0", f"{scheduler}.time_sampling=zero"]
    changes += ["Global.num_workers=0"]
    two = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node=2"]
    launchers = [[sys.executable], [*two, f"--log_dir={tmp_path / 'launch'}"]]
    found = gpu_check.compare_ranks(network, launchers, [4, 2], tmp_path, *changes)
    assert found < 1e-5
    curve = gpu_check.step_losses(tmp_path / "training_0")
    assert len(curve) == 2 and np.ptp(curve) > 1e-3
    other = gpu_check.largest_difference(curve[::-1], curve)
    assert faults(gpu_check.RANKS, {"loss_of_a_step": other})
    with pytest.raises(ValueError, match="logged 1 and 2 steps"):
        gpu_check.largest_difference(curve[:1], curve)


def test_a_folder_of_somebody_else_is_not_removed(tmp_path):
    work = tmp_path / "work"
    for _ in range(2):  # a new folder, and that of an earlier check
        gpu_check.fresh_folder(work)
        assert os.listdir(work) == [gpu_check.MARK]
        (work / "SFINFlow").mkdir()
    (tmp_path / "thesis.txt").write_text("all of it")
    for other in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(InputError, match="holds other files"):
            gpu_check.fresh_folder(other)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"
    assert (work / "SFINFlow").is_dir()


def test_what_is_not_run_is_said():
    some = [mode for mode in gpu_check.AMP if "float16" in mode and "b" not in mode]
    lines = gpu_check.left_out(["SFINFlow"], some, 1)
    assert len(lines) == 3 and "O1 bfloat16" in lines[0] and "only one" in lines[2]
    (line,) = gpu_check.left_out(list(NETWORKS), list(gpu_check.AMP), 2)
    assert line.startswith("ARDiff, two ranks")
    assert gpu_check.left_out(["SFINFlow"], list(gpu_check.AMP), 2) == []
