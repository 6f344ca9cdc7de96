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


"""Two processes on the CPU (gloo), started once for all tests of this file."""

import json
import os
import subprocess
import sys

import helpers_ranks
import numpy as np
import paddle
import pytest
from helpers_sampler import data_block
from helpers_sampler import write_model
from helpers_sampler import write_split
from helpers_trainer import make_model
from helpers_trainer import read_rows
from helpers_trainer import weights_of

from ppmat.utils import save_load

HERE = os.path.dirname(os.path.abspath(__file__))


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder and what both ranks reported."""
    folder = tmp_path_factory.mktemp("ranks")
    write_split(folder / "data" / "val_id", 5)
    (folder / "sampler.json").write_text(json.dumps(sampler_arguments(folder)))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.path.dirname(HERE), HERE]),
        "PADDLE_DISTRI_BACKEND": "gloo",
        "OMP_NUM_THREADS": "1",
        "PORT_RANGE": "61000:64000",  # which Linux gives to nobody else
    }
    launch = [sys.executable, "-W", "ignore", "-m", "paddle.distributed.launch"]
    launch += ["--host=127.0.0.1"]  # whatever the machine's name resolves to
    script = os.path.join(HERE, "helpers_ranks.py")
    logs = folder / "logs"
    done = subprocess.run(
        [*launch, "--nproc_per_node=2", f"--log_dir={logs}", script, str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    tail = "".join(
        (logs / f"workerlog.{rank}").read_text()[-3000:]
        for rank in (0, 1)
        if (logs / f"workerlog.{rank}").exists()
    )
    assert done.returncode == 0, tail + done.stdout[-2000:]
    reports = [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]
    return folder, reports


def sampler_arguments(folder):
    """Write a model that is scored with the data set there."""
    metric = {"__class_name__": "IS2RSMetric", "__init_params__": {"thresholds": [0.1]}}
    sample = {"data": data_block(folder / "data"), "metrics": metric}
    return write_model(str(folder / "model"), sample=sample)


def assert_close(first, second, tolerance=2e-5):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(
            first[name], second[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_same_run_as_one_process_with_the_global_batch(run, tmp_path):
    """19 structures, batches of 4 + 4; the last one is 2 + 1."""
    folder, ranks = run
    alone = helpers_ranks.trajectory(str(tmp_path), 8)
    both = [report["trajectory"] for report in ranks]
    assert both[0]["weights"] == both[1]["weights"]
    assert_close(both[0]["weights"], alone["weights"])
    columns = ("loss(loss)", "z(loss)", "z(metric)", "structures(metric)", "lr")
    rows, rows_alone = read_rows(folder / "trajectory"), read_rows(tmp_path)
    assert [r["stage"] for r in rows] == [r["stage"] for r in rows_alone]
    for row, row_alone in zip(rows, rows_alone):
        for name in columns:
            assert (row[name] == "") == (row_alone[name] == "")
            if row[name]:
                assert float(row[name]) == pytest.approx(
                    float(row_alone[name]), rel=1e-4
                ), (row["stage"], name)
    # Every structure counts once, in training and in evaluation.
    epochs = read_rows(folder / "trajectory", "train(epoch)")
    assert {float(row["structures(metric)"]) for row in epochs} == {19.0}
    evaluations = read_rows(folder / "trajectory", "eval(epoch)")
    assert {float(row["structures(metric)"]) for row in evaluations} == {7.0}


def test_zero1_takes_the_steps_of_one_process(run, tmp_path):
    folder, ranks = run
    alone = helpers_ranks.shared_out(str(tmp_path), "DDP", 8)
    for report in ranks:
        assert report["parts"]["weights"] == report["whole"]["weights"]
        assert_close(report["parts"]["weights"], alone["weights"])
        assert report["resumed"]["weights"] == report["whole"]["weights"]
    rows = [read_rows(folder / name, "train(epoch)") for name in ("parts", "whole")]
    losses, wanted = ([row["loss(loss)"] for row in rows_] for rows_ in rows)
    assert losses == wanted
    mine, others = (set(report["parts"]["moments"]) for report in ranks)
    both = set(ranks[0]["whole"]["moments"])
    assert mine and others and not mine & others
    assert len(mine | others) == len(both)


def test_a_checkpoint_of_zero1_has_the_whole_state(run, tmp_path):
    """One process goes on where two stopped."""
    folder, ranks = run
    start = str(folder / "half/checkpoints/latest")
    alone = helpers_ranks.shared_out(str(tmp_path), "DDP", 8, start=start)
    assert alone["state"]["global_step"] == ranks[0]["whole"]["state"]["global_step"]
    assert_close(alone["weights"], ranks[0]["whole"]["weights"], 1e-3)


def test_ranks_agree_on_best_value_and_rate(run):
    """The rate does fall in this run, and ``best`` is not the last epoch by rule."""
    folder, ranks = run
    first, second = (report["trajectory"] for report in ranks)
    for report in (first, second):
        report["state"].pop("log_rows")  # rank 0 writes
        report["state"].pop("step_in_eval_epoch")
        report["state"].pop("max_steps_in_eval_epoch")
    assert first["state"] == second["state"]
    assert first["lr"] == second["lr"] < 0.05
    assert first["hooked"] == second["hooked"] == 1
    best = make_model(8)
    save_load.load_pretrain(best, str(folder / "trajectory"))


def test_weights_of_a_step_are_those_of_all_its_structures(run, tmp_path):
    _, ranks = run
    alone = helpers_ranks.accumulated(str(tmp_path), 8, 1)
    for report in ranks:
        assert_close(report["accumulated"]["weights"], alone["weights"])
        assert report["accumulated"]["state"]["global_step"] == 9


def test_broken_twin_mean_of_ranks_is_not_the_mean(tmp_path, monkeypatch):
    """Without weights the unequal parts of a batch give another step."""
    alone = helpers_ranks.accumulated(str(tmp_path / "a"), 8, 1)
    monkeypatch.setattr("ppmat.trainer.update.loss_weight", lambda *args: 1)
    twin = helpers_ranks.accumulated(str(tmp_path / "b"), 4, 2)
    with pytest.raises(AssertionError):
        assert_close(twin["weights"], alone["weights"])


def test_noise_differs_and_weights_agree(run):
    _, ranks = run
    first, second = (report["noise"] for report in ranks)
    assert len(first["draws"]) == len(second["draws"]) == 6
    assert not set(first["draws"]) & set(second["draws"])
    assert first["weights"] == second["weights"]


@pytest.mark.parametrize("size", [1, 5])
def test_evaluation_counts_each_structure_once(run, tmp_path, size):
    """1 structure leaves a rank without a batch, 5 leave it a shorter share."""
    _, ranks = run
    alone = helpers_ranks.tiny_evaluation(str(tmp_path), size)
    for strategy in ("step", "epoch"):
        first, second = (r[f"evaluation_{size}"][strategy] for r in ranks)
        assert first == second
        assert first["structures"] == size
        assert_close(first, alone[strategy])


def test_running_statistics_evaluated_are_those_saved(run):
    folder, ranks = run
    first, second = (report["running_statistics"] for report in ranks)
    assert first == second
    assert first["run"] == first["saved"]
    weights = save_load.load_file(str(folder / "normed/checkpoints/latest.pdparams"))
    np.testing.assert_array_equal(np.float32(first["mean"]), weights["norm._mean"])


def test_parameters_used_on_one_rank_only(run):
    _, ranks = run
    first, second = (report["unused"]["weights"] for report in ranks)
    assert first == second
    paddle.seed(0)
    initial = helpers_ranks.Moody(unused=True).spare.weight.tolist()
    assert first["spare.weight"] != initial


def test_ranks_stop_early_together_and_keep_what_is_frozen(run):
    _, ranks = run
    initial = weights_of(make_model())
    for report in (report["frozen"] for report in ranks):
        assert report["state"]["epoch"] == 3
        for name in ("hidden.weight", "hidden.bias"):
            np.testing.assert_array_equal(report["weights"][name], initial[name])


def test_all_ranks_name_the_bad_record(run):
    _, ranks = run
    assert ranks[0]["bad_record"] == ranks[1]["bad_record"]
    assert "the loss is not finite in epoch 1, after step 1" in ranks[0]["bad_record"]
    assert "[['s6', 's7']]" in ranks[0]["bad_record"]


def test_signal_to_one_rank_stops_both_and_the_resume_is_exact(run):
    _, ranks = run
    for report in ranks:
        assert report["interrupted"]["status"] == 143
        assert report["interrupted"]["stopped_at"] == 4
        assert report["interrupted"]["same_weights"]
    assert ranks[0]["interrupted"]["same_curve"]


def test_gather_of_unequal_lengths(run):
    _, ranks = run
    expected = [[0.0, 0.0]] + [[1.0, 1.0]] * 3
    for report in ranks:
        assert report["gather"]["joined"] == expected
        assert report["gather"]["lengths"] == [1, 3]
        assert report["gather"]["columns"] == [2, 4]


def test_target_statistics_are_those_of_one_process(run):
    _, ranks = run
    labels = helpers_ranks.Labelled().y
    for report in ranks:
        found = report["statistics"]
        assert found["mean"] == labels.mean()
        assert found["std"] == labels.std(ddof=1)
    assert [r["statistics"]["asked"] for r in ranks] == [[*range(5)], [*range(5, 11)]]
    faults = [report["statistics"]["fault"] for report in ranks]
    assert "process 1 could not read its share: KeyError" in faults[0]
    assert faults[1].startswith("KeyError") and "record 9 has no y" in faults[1]


def test_energy_scores_add_up_over_processes(run):
    _, ranks = run
    alone = helpers_ranks.energies(share=False)
    assert 0.0 < alone["ewt"] < 1.0
    for report in ranks:
        assert report["energies"] == pytest.approx(alone, rel=1e-12)


def test_two_processes_share_the_batches_of_a_sampler(run, tmp_path):
    folder, ranks = run
    first, second = (report["sampled"] for report in ranks)
    assert first["ids"] == ["sid0", "sid1", "sid4"]
    assert second["ids"] == ["sid2", "sid3"]
    alone = helpers_ranks.sampled(sampler_arguments(folder), str(tmp_path))
    assert alone["ids"] == [f"sid{number}" for number in range(5)]
    for report in (first, second):
        assert report["values"] == pytest.approx(alone["values"])
    for name in ("structures.extxyz", "metrics.txt"):
        assert (folder / "sampled" / name).read_text() == (tmp_path / name).read_text()
