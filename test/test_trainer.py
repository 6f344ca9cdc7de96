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


import os
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from helpers_trainer import Structures
from helpers_trainer import Toy
from helpers_trainer import make_model
from helpers_trainer import make_trainer
from helpers_trainer import read_rows
from helpers_trainer import weights_of
from paddle import nn

from ppmat.metrics import StreamingMetricBase
from ppmat.trainer import TRAINERS
from ppmat.trainer import BaseTrainer
from ppmat.trainer import TrainerState
from ppmat.trainer import build_trainer
from ppmat.trainer import reporting
from ppmat.trainer.meters import MetricError
from ppmat.trainer.reporting import MetricsFile
from ppmat.trainer.reporting import draw_loss_curve
from ppmat.trainer.update import NonFiniteError
from ppmat.trainer.utils import compute_batch_size
from ppmat.trainer.utils import seed_stream
from ppmat.utils import save_load
from ppmat.utils.registry import ConfigError


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Only a power cut needs it; the system keeps what a dead process wrote."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def predictions(model, data):
    """Return y and z of all structures, each computed alone."""
    model.eval()
    with paddle.no_grad():
        single = [
            model(next(iter(data.loader(sampler=[[i]]))))["pred_dict"]
            for i in range(len(data))
        ]
    y = np.concatenate([p["y"].numpy() for p in single])
    return y, np.concatenate([p["z"].numpy() for p in single])


def labels(data):
    batch = data.collate(list(range(len(data))))
    return batch["y"], batch["z"]


# What a batch weighs


def test_short_last_batch_counts_its_structures(tmp_path):
    data, model = Structures(11), make_model()
    trainer = BaseTrainer({"max_epochs": 1, "output_dir": str(tmp_path)}, model)
    _, losses, _ = trainer.eval(data.loader(4))
    y, _ = predictions(model, data)
    errors = ((y - labels(data)[0]) ** 2).ravel()
    assert losses["loss"].avg == pytest.approx(errors.mean(), rel=1e-5)
    # The broken twin: mean over batches.
    batch_means = [errors[i : i + 4].mean() for i in (0, 4, 8)]
    assert losses["loss"].avg != pytest.approx(np.mean(batch_means), rel=1e-3)


def test_loss_weight_of_the_model_is_used(tmp_path):
    data, model = Structures(11), make_model(per_atom=True)
    trainer = BaseTrainer({"max_epochs": 1, "output_dir": str(tmp_path)}, model)
    _, losses, _ = trainer.eval(data.loader(4))
    _, z = predictions(model, data)
    expected = ((z - labels(data)[1]) ** 2).mean()
    assert losses["loss"].avg == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("strategy", ["step", "epoch"])
def test_per_atom_metric_covers_all_atoms(tmp_path, strategy):
    data, model = Structures(10), make_model()
    trainer = make_trainer(
        tmp_path,
        data,
        model,
        metrics={"y": nn.L1Loss(), "z": nn.L1Loss()},
        metric_strategy_during_eval=strategy,
    )
    _, _, metrics = trainer.eval(data.loader(4))
    for name, pred, true in zip("yz", predictions(model, data), labels(data)):
        expected = np.abs(pred - true).mean()
        assert metrics[name].avg == pytest.approx(expected, rel=1e-5)
    # The broken twin cuts to the number of structures.
    _, z = predictions(model, data)
    cut = np.abs(z[:10] - labels(data)[1][:10]).mean()
    assert metrics["z"].avg != pytest.approx(cut, rel=1e-3)


def test_metric_of_everything_is_not_a_mean_of_batches(tmp_path):
    def root_mean_square(pred, label):
        return (pred - label).square().mean().sqrt()

    data, model = Structures(10), make_model()
    trainer = make_trainer(
        tmp_path,
        data,
        model,
        metrics={"z": root_mean_square},
        metric_strategy_during_eval="epoch",
    )
    _, _, metrics = trainer.eval(data.loader(4))
    z = predictions(model, data)[1]
    expected = np.sqrt(((z - labels(data)[1]) ** 2).mean())
    assert metrics["z"].avg == pytest.approx(expected, rel=1e-5)


def test_size_of_a_batch():
    atoms, ids = np.zeros([9, 3]), ["a", "b"]
    counts = np.array([4, 5])
    nested = {"x": atoms, "structure_array": {"c": atoms, "num_atoms": counts}}
    assert compute_batch_size(nested) == 2
    assert compute_batch_size({"graph": {"num_atoms": counts}, "x": atoms}) == 2
    assert compute_batch_size({"x": atoms, "id": ids}) == 2
    assert compute_batch_size({"image": np.zeros([5, 1, 8, 8]), "y": np.zeros(5)}) == 5
    assert compute_batch_size([np.zeros([3, 2]), np.zeros(3)]) == 3
    with pytest.raises(ValueError, match=r"first axes \[2, 9\]. Return 'id'"):
        compute_batch_size({"x": atoms, "y": np.zeros(2)})


# Accumulation


@pytest.mark.parametrize("per_atom", [False, True])
def test_accumulated_gradient_is_that_of_one_batch(tmp_path, per_atom):
    """11 structures: (4 + 4), (3); against 8, 3 in one piece each."""

    def train(folder, **kwargs):
        model = make_model(per_atom=per_atom)
        data = Structures(11)
        trainer = make_trainer(
            tmp_path / folder, data, model, optimizer="SGD", shuffle=False, **kwargs
        )
        trainer.train()
        return weights_of(model), read_rows(tmp_path / folder, "train(epoch)"), trainer

    whole, rows_whole, _ = train("whole", batch_size=8)
    parts, rows_parts, trainer = train(
        "parts", batch_size=4, gradient_accumulation_steps=2
    )
    assert trainer.state.global_step == 6
    assert trainer.state.max_steps_in_train_epoch == 2
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=2e-5, atol=1e-6)
    for first, second in zip(rows_whole, rows_parts):
        assert float(first["loss(loss)"]) == pytest.approx(
            float(second["loss(loss)"]), rel=1e-5
        )


def test_schedule_counts_updates_not_micro_batches(tmp_path):
    schedule = {"__class_name__": "Cosine", "__init_params__": {"learning_rate": 0.1}}
    trainer = make_trainer(
        tmp_path, Structures(11), lr=schedule, gradient_accumulation_steps=2
    )
    trainer.train()
    rates = [float(row["lr"]) for row in read_rows(tmp_path, "train(step)")]
    expected = [0.05 * (1 + np.cos(np.pi * t / 6)) for t in range(6)]
    assert rates == pytest.approx(expected)
    assert trainer.optimizer.get_lr() == pytest.approx(0.0, abs=1e-12)


# Frequencies


def evaluated_epochs(folder):
    return [int(row["epoch"]) for row in read_rows(folder) if "eval" in row["stage"]]


def saved(folder):
    names = os.listdir(os.path.join(folder, "checkpoints"))
    return sorted(n[: -len(".pdparams")] for n in names if n.endswith(".pdparams"))


def test_zero_means_off(tmp_path):
    data = Structures(5)
    make_trainer(
        tmp_path, data, val=data, save_freq=0, eval_freq=0, log_freq=0,
        save_freq_steps=0, eval_freq_steps=0,
    ).train()  # fmt: skip
    assert evaluated_epochs(tmp_path) == []
    assert saved(tmp_path) == ["latest"]


@pytest.mark.parametrize(
    "config, epochs",
    [
        ({"eval_freq": 2}, [2, 4, 5]),
        ({"eval_freq": 1, "start_eval_epoch": 3}, [3, 4, 5]),
        ({"eval_freq": 2, "start_eval_epoch": 5}, [5]),
        ({"eval_freq": 1, "start_eval_epoch": 9}, []),
    ],
)
def test_evaluated_epochs(tmp_path, config, epochs):
    data = Structures(5)
    make_trainer(tmp_path, data, val=data, max_epochs=5, **config).train()
    assert evaluated_epochs(tmp_path) == epochs


def test_saved_epochs_and_steps(tmp_path):
    make_trainer(
        tmp_path, Structures(8), max_epochs=5, save_freq=2, save_freq_steps=4
    ).train()
    assert saved(tmp_path) == [
        "epoch_1", "epoch_2", "epoch_4", "epoch_5", "latest", "step_4", "step_8",
    ]  # fmt: skip


def test_evaluation_by_steps(tmp_path):
    data = Structures(8)
    make_trainer(
        tmp_path, data, val=data, eval_freq_steps=3, best_metric_indicator="eval_loss",
        name_for_best_metric="loss",
    ).train()  # fmt: skip
    rows = [row for row in read_rows(tmp_path) if "eval" in row["stage"]]
    assert [(row["stage"], row["step"]) for row in rows] == [
        ("eval(step)", "3"),
        ("eval(step)", "6"),
    ]
    assert "best" in saved(tmp_path)


def test_max_iter_stops_inside_an_epoch(tmp_path):
    trainer = make_trainer(tmp_path, Structures(12), max_epochs=9, max_iter=4)
    trainer.train()
    assert trainer.state.global_step == 4
    assert not trainer.state.epoch_finished
    steps = [int(row["step"]) for row in read_rows(tmp_path, "train(step)")]
    assert steps == [1, 2, 3, 4]


def test_evaluation_does_not_disturb_the_training(tmp_path):
    def train(folder, **kwargs):
        data, model = Structures(11), make_model(noise=0.1)
        make_trainer(tmp_path / folder, data, model, val=data, **kwargs).train()
        return weights_of(model)

    without = train("a", eval_freq=0)
    for number, config in enumerate(({"eval_freq": 1}, {"eval_freq_steps": 2})):
        other = train(f"b{number}", **config)
        for name in without:
            np.testing.assert_array_equal(without[name], other[name])


def test_evaluations_draw_the_same_noise(tmp_path):
    data, model = Structures(11), make_model(noise=0.5)
    trainer = make_trainer(tmp_path, data, model)
    first, second = (trainer.eval(data.loader(4))[1]["loss"].avg for _ in range(2))
    assert first == second


# Metrics


def test_broken_metric_is_an_error(tmp_path):
    def broken(pred, label):
        raise ZeroDivisionError("no atoms")

    data = Structures(4)
    trainer = make_trainer(tmp_path, data, metrics={"y": broken}, val=data)
    with pytest.raises(MetricError, match="Metric.y failed: no atoms"):
        trainer.train()


def test_metric_key_that_nobody_predicts(tmp_path):
    data = Structures(4)
    trainer = make_trainer(tmp_path, data, metrics={"x": nn.L1Loss()}, val=data)
    with pytest.raises(MetricError, match="Metric.x.*no 'x' during eval; it has y, z"):
        trainer.train()
    trainer = make_trainer(
        tmp_path, data, metrics={"x": nn.L1Loss()}, compute_metric_during_train=True
    )
    with pytest.raises(MetricError, match="set Trainer.compute_metric_during_train"):
        trainer.train()


class Count(StreamingMetricBase):
    """Counts structures; fails on demand."""

    def __init__(self, fail=False):
        self.fail = fail
        self.bound = None
        self.reset()

    def bind(self, **objects):
        self.bound = objects

    def reset(self):
        self.structures = 0
        self.sampled = 0

    def update_step(self, *, result, batch, stage):
        self.structures += len(batch["id"])
        self.sampled += len(result.get("result", []))

    def compute_epoch(self, *, stage):
        if self.fail:
            raise RuntimeError("broken state")
        return {f"{stage}_seen": self.structures, "sampled": self.sampled}


def test_streaming_metrics_of_the_stages_are_apart(tmp_path):
    """An evaluation inside the epoch neither resets nor feeds the training sums."""
    data = Structures(11)
    make_trainer(
        tmp_path, data, metrics=Count(), val=Structures(5), eval_freq_steps=2,
        compute_metric_during_train=True, max_epochs=2,
    ).train()  # fmt: skip
    trained = [row["train_seen(metric)"] for row in read_rows(tmp_path, "train(epoch)")]
    evaluated = [row["eval_seen(metric)"] for row in read_rows(tmp_path, "eval(step)")]
    assert [float(v) for v in trained] == [11.0, 11.0]
    assert [float(v) for v in evaluated] == [5.0, 5.0, 5.0]


def test_broken_streaming_metric_is_an_error(tmp_path):
    data = Structures(4)
    trainer = make_trainer(tmp_path, data, metrics={"c": Count(fail=True)}, val=data)
    with pytest.raises(MetricError, match="Metric.c failed: broken state"):
        trainer.train()


def test_two_metrics_of_one_name_are_an_error(tmp_path):
    data = Structures(4)
    twice = {"a": Count(), "b": Count()}
    with pytest.raises(MetricError, match="Metric.b gives 'eval_seen', as another"):
        make_trainer(tmp_path, data, metrics=twice, val=data).train()


def test_sampling_in_evaluation(tmp_path):
    class Sampler(Toy):
        def sample(self, batch, copies):
            return {"result": [{"id": i} for i in batch["id"]] * copies}

    paddle.seed(0)
    data, metric = Structures(5), Count()
    trainer = make_trainer(
        tmp_path,
        data,
        Sampler(),
        {"c": metric},
        sample_params_during_eval={"copies": 2},
    )
    _, _, metrics = trainer.eval(data.loader(4))
    assert metrics["sampled"].avg == 10


def test_attached_metrics_get_the_runtime_objects(tmp_path):
    from ppmat.metrics import METRICS

    METRICS.register(Count)
    trainer = make_trainer(tmp_path, Structures(4))
    trainer.attach_metrics({"c": {"__class_name__": "Count"}}, infos=3)
    assert trainer.run.streaming["eval"].metrics["c"].bound == {"infos": 3}
    assert trainer.run.streaming["train"].metrics["c"].bound == {"infos": 3}


def test_metric_without_its_key(tmp_path):
    with pytest.raises(ConfigError, match="Metric.<key>.__class_name__"):
        make_trainer(tmp_path, Structures(4), metrics=nn.L1Loss())


# Best value, average, early stop, plateau


def test_best_is_what_was_evaluated(tmp_path):
    data, val, model = Structures(11), Structures(7, seed=5), make_model()
    trainer = make_trainer(
        tmp_path, data, model, val=val, max_epochs=6, lr=0.3, ema_decay=0.9,
        best_metric_indicator="eval_loss", name_for_best_metric="loss",
    )  # fmt: skip
    trainer.train()
    rows = read_rows(tmp_path, "eval(epoch)")
    evaluated = [float(row["loss(loss)"]) for row in rows]
    assert trainer.state.best_metric == min(evaluated)
    assert trainer.state.best_epoch == 1 + int(np.argmin(evaluated))
    best = make_model(9)
    save_load.load_pretrain(best, str(tmp_path))
    _, losses, _ = BaseTrainer(
        {"max_epochs": 1, "output_dir": str(tmp_path), "seed": 7}, best
    ).eval(val.loader(4))
    assert losses["loss"].avg == min(evaluated)


def test_average_is_evaluated_and_training_goes_on_with_the_weights(tmp_path):
    data = Structures(11)
    plain, averaged = make_model(), make_model()
    make_trainer(tmp_path / "a", data, plain, val=data).train()
    trainer = make_trainer(tmp_path / "b", data, averaged, val=data, ema_decay=0.99)
    trainer.train()
    for name, value in weights_of(plain).items():
        np.testing.assert_array_equal(value, weights_of(averaged)[name])
    assert trainer.ema_model.n_avg == trainer.state.global_step
    first = [row["loss(loss)"] for row in read_rows(tmp_path / "a", "eval(epoch)")]
    second = [row["loss(loss)"] for row in read_rows(tmp_path / "b", "eval(epoch)")]
    assert first != second
    assert (tmp_path / "b" / "checkpoints" / "latest_ema.pdparams").exists()


def test_early_stop(tmp_path, capsys):
    """A resumed run counts on; one that has stopped stays so."""
    data = Structures(5)

    def train(epochs, path=None):
        trainer = make_trainer(
            tmp_path, data, val=data, max_epochs=epochs, lr=1e-30,
            early_stopping_patience=3, best_metric_indicator="eval_loss",
            name_for_best_metric="loss", resume_from_checkpoint=path,
        )  # fmt: skip
        trainer.train()
        return trainer.state

    latest = str(tmp_path / "checkpoints" / "latest")
    assert train(2).epoch == 2
    assert "Early stop" not in capsys.readouterr().out
    for _ in range(2):
        state = train(50, latest)
        assert (state.epoch, state.best_epoch) == (4, 1)
        text = capsys.readouterr().out
        assert "Early stop: loss did not improve on" in text
        assert "(epoch 1) 3 times" in text


def test_reduce_on_plateau_follows_the_evaluation(tmp_path):
    data = Structures(5)
    schedule = {
        "__class_name__": "ReduceOnPlateau",
        "__init_params__": {
            "learning_rate": 1e-9,
            "indicator": "eval_metric",
            "indicator_name": "y",
            "patience": 0,
            "factor": 0.5,
            "epsilon": 0.0,
        },
    }
    trainer = make_trainer(
        tmp_path, data, val=data, lr=schedule, metrics={"y": nn.L1Loss()}, eval_freq=2,
        max_epochs=6,
    )  # fmt: skip
    trainer.train()
    rates = [float(row["lr"]) for row in read_rows(tmp_path, "train(step)")]
    assert rates[::2] == [1e-9, 1e-9, 1e-9, 1e-9, 5e-10, 5e-10]


@pytest.mark.parametrize(
    "config",
    [
        {"best_metric_indicator": "eval_loss", "name_for_best_metric": "los"},
        {"best_metric_indicator": "train_metric", "name_for_best_metric": "y"},
    ],
)
def test_unknown_name_of_the_best_value(tmp_path, config):
    data = Structures(4)
    trainer = make_trainer(tmp_path, data, val=data, **config)
    with pytest.raises(ConfigError, match="Trainer.name_for_best_metric: there is no"):
        trainer.train()


def test_schedule_by_epoch(tmp_path):
    schedule = {
        "__class_name__": "Step",
        "__init_params__": {
            "learning_rate": 0.1, "step_size": 1, "gamma": 0.5, "by_epoch": True,
        },
    }  # fmt: skip
    make_trainer(tmp_path, Structures(8), lr=schedule).train()
    rates = [float(row["lr"]) for row in read_rows(tmp_path, "train(step)")]
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]


# Values that are not finite


def test_nan_stops_and_names_the_batch(tmp_path):
    data, model = Structures(8, bad=[5]), make_model()
    trainer = make_trainer(tmp_path, data, model, shuffle=False)
    with pytest.raises(
        NonFiniteError, match=r"loss is not finite in epoch 1, after step 1.*s4.*s5.*s7"
    ):
        trainer.train()
    for value in weights_of(model).values():
        assert np.isfinite(value).all()
    assert not (tmp_path / "checkpoints").exists()


def test_nan_gradient_stops_too(tmp_path):
    class Root(Toy):
        def forward(self, batch):
            result = super().forward(batch)
            zero = self.energy.bias.square() * 0
            result["loss_dict"]["loss"] = (
                result["loss_dict"]["loss"] + zero.sqrt().sum()
            )
            return result

    paddle.seed(0)
    trainer = make_trainer(tmp_path, Structures(4), Root())
    with pytest.raises(NonFiniteError, match="gradient is not finite.*s0"):
        trainer.train()


def test_nan_is_left_out_when_told(tmp_path, capsys):
    class Normed(Toy):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1D(3)

        def forward(self, batch):
            atoms = batch["structure_array"]
            x = self.norm(atoms["cart_coords"])
            return super().forward(
                {**batch, "structure_array": {**atoms, "cart_coords": x}}
            )

    paddle.seed(0)
    model = Normed()
    data = Structures(12, bad=[5])
    trainer = make_trainer(
        tmp_path, data, model, shuffle=False, nan_policy="skip", ema_decay=0.5
    )
    trainer.train()
    assert trainer.state.skipped_steps == 3
    assert trainer.state.global_step == 9
    assert trainer.ema_model.n_avg == 6
    assert "Update skipped: the loss is not finite" in capsys.readouterr().out
    for value in weights_of(model).values():
        assert np.isfinite(value).all()
    rows = read_rows(tmp_path, "train(epoch)")
    assert all(np.isfinite(float(row["loss(loss)"])) for row in rows)
    rows = read_rows(tmp_path, "train(step)")
    assert rows[-1]["skipped_steps"] == "3.0"


# What is logged


def test_gradient_norm_rate_and_speed(tmp_path, monkeypatch):
    """By a clock that is read before and after reading, and after each step."""
    data, model = Structures(11), make_model()
    batch = next(iter(data.loader(4)))
    model(batch)["loss_dict"]["loss"].backward()
    norm = np.sqrt(
        sum(
            (p.grad.numpy() ** 2).sum()
            for p in model.parameters()
            if p.grad is not None
        )
    )
    model.clear_gradients()
    ticks = iter([0, 1, 3, 3, 4, 7, 10, 13, 16, 20])
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr("ppmat.trainer.base_trainer.time", clock)
    trainer = make_trainer(
        tmp_path, data, model, max_epochs=1, shuffle=False, log_freq=0
    )
    trainer.train()
    first, others = read_rows(tmp_path, "train(step)")
    assert float(first["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert float(first["lr"]) == 0.02
    names = ("reader_cost", "batch_cost", "samples_per_s")
    assert [float(first[name]) for name in names] == [1, 3, 4 / 3]
    # Means of the steps of four and of three structures.
    assert [float(others[name]) for name in names] == [2, 5, 7 / 10]


def test_metrics_file_grows_columns_and_keeps_an_older_run(tmp_path):
    path = str(tmp_path / "metrics.csv")
    file = MetricsFile(path)
    file.add({"stage": "a", "epoch": 1, "step": 1, "x": 0.1})
    file.add({"stage": "b", "epoch": 1, "step": 1, "y": 1 / 3})
    rows = read_rows(tmp_path)
    assert rows[0]["x"] == "0.1" and rows[0]["y"] == ""
    assert float(rows[1]["y"]) == 1 / 3
    again = MetricsFile(path, keep_rows=1)
    again.add({"stage": "c", "epoch": 2, "step": 2, "x": 0.2})
    assert [row["stage"] for row in read_rows(tmp_path)] == ["a", "c"]
    MetricsFile(path)
    assert read_rows(tmp_path) == []
    assert len((tmp_path / "metrics_1.csv").read_text().splitlines()) == 3


def test_out_dict_selects_for_the_screen_only(tmp_path, capsys):
    data = Structures(4)
    make_trainer(
        tmp_path, data, val=data, metrics={"y": nn.L1Loss()}, max_epochs=1,
        out_dict={"loss": {"train": ["loss"], "eval": ["val_z"]}, "metric": []},
    ).train()  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    train = next(line for line in lines if "Step [1/1]" in line)
    assert "loss(loss)" in train and "z(loss)" not in train and "lr" not in train
    evaluated = next(line for line in lines if "Eval:" in line)
    assert "z(loss)" in evaluated and "y(metric)" not in evaluated
    assert "y(metric)" in read_rows(tmp_path)[-1]


@pytest.mark.parametrize("name", ["visualdl", "tensorboardX", "wandb"])
def test_curve_viewer_that_is_not_installed(tmp_path, monkeypatch, name):
    def missing(module):
        assert module == name
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(reporting.importlib, "import_module", missing)
    key = {"tensorboardX": "use_tensorboard"}.get(name, f"use_{name}")
    with pytest.raises(ConfigError, match=f"Trainer.{key}: {name} is not installed"):
        make_trainer(tmp_path, Structures(4), **{key: True})


def test_curve_viewers_that_are_installed(tmp_path, monkeypatch):
    class Writer:
        def __init__(self, *args, **kwargs):
            self.args, self.seen, self.closed = args or kwargs, [], False

        def add_scalar(self, name, value, step):
            self.seen.append((name, step))

        def log(self, values, step):
            self.seen.append((sorted(values)[0], step))

        def close(self):
            self.closed = True

        finish = close

    class Library:
        LogWriter = SummaryWriter = init = Writer

    monkeypatch.setattr(reporting.importlib, "import_module", lambda name: Library)
    trainer = make_trainer(
        tmp_path, Structures(4), use_visualdl=True, use_tensorboard=True,
        use_wandb=True, wandb_config={"project": "p"}, max_epochs=2,
    )  # fmt: skip
    writers = dict(trainer.run.reporter.writers)
    assert writers["visualdl"].args == (str(tmp_path / "vdl"),)
    assert writers["tensorboardX"].args == (str(tmp_path / "tensorboard"),)
    assert writers["wandb"].args == {"project": "p"}
    trainer.train()
    assert ("train(step)_loss(loss)", 2) in writers["visualdl"].seen
    assert ("train(epoch)_loss(loss)", 2) in writers["tensorboardX"].seen
    steps = [step for _, step in writers["wandb"].seen]
    assert steps == sorted(steps) == [1, 2]
    assert all(writer.closed for writer in writers.values())


def test_loss_curve_is_drawn(tmp_path):
    data = Structures(4)
    make_trainer(tmp_path, data, val=data).train()
    path = draw_loss_curve(str(tmp_path))
    assert open(path, "rb").read(8) == b"\x89PNG\r\n\x1a\n"


# Hooks, seeds, weights to start from


def test_hook_is_called_once_with_the_trainer(tmp_path):
    model = make_model()
    make_trainer(tmp_path, Structures(4), model).train()
    assert model.hooked == 1 and model.epochs_to_train == 3


def test_streams_are_unrelated(monkeypatch):
    def draw(seed, stream, rank):
        monkeypatch.setattr("ppmat.trainer.utils.dist.get_rank", lambda: rank)
        seed_stream(seed, stream)
        return float(paddle.randn([])), float(np.random.rand())

    keys = [(s, t, r) for s in (1, 2) for t in (1, 2) for r in (0, 1, 2)]
    draws = {draw(*key) for key in keys}
    assert len(draws) == len(keys)
    assert draw(1, 1, 0) == draw(1, 1, 0)


def test_initial_weights_do_not_use_up_the_noise(tmp_path):
    """The same seed gives the same noise whatever the model drew when it was built."""

    def draws(folder, seed):
        model = make_model(seed, noise=0.1)
        make_trainer(tmp_path / folder, Structures(8), model).train()
        return model.draws

    assert draws("a", 1) == draws("b", 2)


def test_pretrained_weights(tmp_path):
    first = make_model(3)
    paddle.save(first.state_dict(), str(tmp_path / "own.pdparams"))
    second = make_model(4)
    make_trainer(
        tmp_path, Structures(4), second, pretrained_model_path=str(tmp_path / "own")
    )
    for name, value in weights_of(first).items():
        np.testing.assert_array_equal(value, weights_of(second)[name])


def test_a_frozen_part_keeps_every_bit(tmp_path):
    """Also in the average of the weights, in files, and in a resumed run."""

    def train(epochs, path=None):
        model = make_model()
        for parameter in model.parameters():
            parameter.set_value(paddle.full_like(parameter, 0.1))
        trainer = make_trainer(
            tmp_path, Structures(8), model, lr_mult={"hidden": 0}, max_epochs=epochs,
            ema_decay=0.9, resume_from_checkpoint=path,
        )  # fmt: skip
        trainer.train()
        return trainer

    train(2)
    trainer = train(3, str(tmp_path / "checkpoints" / "latest"))
    assert trainer.state.global_step == 6
    assert trainer.get_num_trainable_parameters() == 9 + 27
    files = [f"checkpoints/latest{end}.pdparams" for end in ("", "_ema")]
    files = [save_load.load_file(str(tmp_path / file)) for file in files]
    for found in (weights_of(trainer.model), trainer.ema_model.params_shadow, *files):
        same = {
            name
            for name, _ in trainer.model.named_parameters()
            if (np.array(found[name]) == np.float32(0.1)).all()
        }
        assert {"hidden.weight", "hidden.bias"} <= same
        assert "energy.weight" not in same


def test_wrapped_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give the bare model"):
        BaseTrainer(
            {"max_epochs": 1, "output_dir": str(tmp_path)},
            paddle.DataParallel(make_model()),
        )


# Mixed precision, as far as a CPU shows it


def test_mixed_precision_on_a_cpu_is_said(tmp_path, capsys):
    trainer = make_trainer(tmp_path, Structures(4), use_amp=True)
    assert not trainer.run.use_amp and trainer.run.scaler is None
    assert "Paddle has no mixed precision on CPUs" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_settings_reach_paddle(tmp_path, monkeypatch, dtype):
    """Paddle on a CPU ignores them, so the numbers are those of float32."""
    calls = []
    auto_cast = paddle.amp.auto_cast

    def watched(**kwargs):
        calls.append(kwargs)
        return auto_cast(**kwargs)

    data, model, plain = Structures(11), make_model(), make_model()
    make_trainer(tmp_path / "plain", data, plain).train()
    monkeypatch.setattr(paddle.amp, "auto_cast", watched)
    trainer = make_trainer(tmp_path / "amp", data, model)
    trainer.run.use_amp = True
    trainer.config.amp_dtype = dtype
    if dtype == "float16":
        trainer.run.scaler = paddle.amp.GradScaler()
    trainer.train()
    assert len(calls) == 9
    assert calls[0] == {"level": "O1", "dtype": dtype}
    for name, value in weights_of(plain).items():
        np.testing.assert_array_equal(value, weights_of(model)[name])
    has_scaler = (tmp_path / "amp" / "checkpoints" / "latest.pdscaler").exists()
    assert has_scaler is (dtype == "float16")


def test_flags_read_one_step_late_give_the_same_run(tmp_path):
    """As on a GPU, where reading at once would wait for the device."""
    data, plain, late = Structures(11), make_model(), make_model()
    make_trainer(tmp_path / "a", data, plain).train()
    trainer = make_trainer(tmp_path / "b", data, late)
    trainer.updater._at_once = False
    trainer.train()
    for name, value in weights_of(plain).items():
        np.testing.assert_array_equal(value, weights_of(late)[name])

    data = Structures(12, bad=[5])
    trainer = make_trainer(tmp_path / "c", data, shuffle=False, log_freq=0)
    trainer.updater._at_once = False
    with pytest.raises(NonFiniteError, match="epoch 1, after step 2.*s4.*s5"):
        trainer.train()
    assert not (tmp_path / "c" / "checkpoints").exists()


# Settings


@pytest.mark.parametrize(
    "config, text",
    [
        ({"max_epoch": 3}, "Trainer.* unknown key 'max_epoch'.*mean 'max_epochs'"),
        ({"max_epochs": "3"}, "Trainer.max_epochs: TrainerConfig wants int, got str"),
        ({"max_epochs": 0}, "Trainer.max_epochs: .* wants 1 to 1,000,000,000, got 0"),
        ({"save_freq": -1}, "Trainer.save_freq: .* wants 0 to 1,000,000,000, got -1"),
        ({"ema_decay": 1.0}, "Trainer.ema_decay: .* wants at least 0, below 1, got 1"),
        ({"nan_policy": "ignore"}, "Trainer.nan_policy: .*'raise', 'skip'"),
        ({"amp_dtype": "fp16"}, "Trainer.amp_dtype: .*'float16', 'bfloat16'"),
        ({"use_amp": "yes"}, "Trainer.use_amp: .*bool"),
        ({"best_metric_indicator": "eval_loss"}, "Trainer.name_for_best_metric: must"),
        ({"early_stopping_patience": 2}, "needs best_metric_indicator"),
    ],
)
def test_wrong_settings(tmp_path, config, text):
    with pytest.raises(ConfigError, match=text):
        make_trainer(tmp_path, Structures(4), **{"max_epochs": 1, **config})


def test_missing_settings_are_named():
    with pytest.raises(ConfigError, match="needs max_epochs, output_dir, which are"):
        BaseTrainer({}, make_model())


def test_settings_of_upstream_are_legal(tmp_path):
    """The keys its configuration files use."""
    config = dict(
        max_epochs=1, seed=42, output_dir=str(tmp_path), save_freq=100, log_freq=50,
        start_eval_epoch=1, eval_freq=1, eval_freq_steps=None, save_freq_steps=None,
        max_iter=None, pretrained_model_path=None, pretrained_weight_name=None,
        resume_from_checkpoint=None, use_amp=False, amp_level="O1",
        eval_with_no_grad=True, gradient_accumulation_steps=1,
        best_metric_indicator="eval_metric", name_for_best_metric="y",
        greater_is_better=False, compute_metric_during_train=True,
        metric_strategy_during_eval="epoch", use_visualdl=False, use_wandb=False,
        wandb_config={}, use_tensorboard=False, out_dict=None, log={"out_dict": None},
    )  # fmt: skip
    BaseTrainer(config, make_model())


def test_class_of_the_trainer_is_honoured(tmp_path):
    class Mine(BaseTrainer):
        pass

    TRAINERS.register(Mine)
    config = {"max_epochs": 1, "output_dir": str(tmp_path)}
    assert type(build_trainer(config, model=make_model())) is BaseTrainer
    config["__class_name__"] = "Mine"
    assert type(build_trainer(config, model=make_model())) is Mine
    config["__class_name__"] = "BaseTrainr"
    with pytest.raises(ConfigError, match="Did you mean 'BaseTrainer'"):
        build_trainer(config, model=make_model())


def test_state_round_trip():
    state = TrainerState(epoch=3, best_metric=0.5, epoch_finished=False)
    assert TrainerState.from_dict(state.to_dict()) == state


def test_loaders_and_optimizer_are_asked_for(tmp_path):
    trainer = BaseTrainer({"max_epochs": 1, "output_dir": str(tmp_path)}, make_model())
    with pytest.raises(ValueError, match="needs a train_dataloader and an optimizer"):
        trainer.train()
    with pytest.raises(ValueError, match="needs a dataloader"):
        trainer.eval(None)
