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


"""Run by two processes for ``test_trainer_distributed.py``; not a test by itself.

Each scenario leaves what happened on this rank in a dict; the test compares the ranks
with each other and with a single process.
"""

import json
import os
import signal
import sys

import numpy as np
import paddle
import paddle.distributed as dist
from helpers_sampler import ToyRelaxer
from helpers_trainer import Structures
from helpers_trainer import Toy
from helpers_trainer import curve
from helpers_trainer import make_model
from helpers_trainer import make_trainer
from helpers_trainer import weights_of
from paddle import nn

from ppmat.datasets.transform import mean_std_scaling
from ppmat.metrics import IS2REMetric
from ppmat.metrics import StreamingMetricBase
from ppmat.sampler import StructureSampler
from ppmat.trainer.run import TrainingInterrupted
from ppmat.trainer.update import NonFiniteError
from ppmat.utils import misc
from ppmat.utils.save_load import load_pretrain

PLATEAU = {
    "__class_name__": "ReduceOnPlateau",
    "__init_params__": {
        "learning_rate": 0.05,
        "indicator": "eval_loss",
        "indicator_name": "loss",
        "patience": 0,
        "threshold": 0.9,
    },
}


class Count(StreamingMetricBase):
    """Counts the structures of all ranks."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.structures = 0

    def update_step(self, *, result, batch, stage):
        self.structures += len(batch["id"])

    def compute_epoch(self, *, stage):
        return {"structures": misc.sum_over_ranks([self.structures]).item()}


def summary(trainer):
    return {
        "weights": {k: v.tolist() for k, v in weights_of(trainer.model).items()},
        "state": trainer.state.to_dict(),
        "lr": trainer.optimizer.get_lr(),
        "hooked": trainer.model.hooked,
        "draws": trainer.model.draws,
    }


def metrics():
    return {"z": nn.L1Loss(), "count": Count()}


def trajectory(folder, batch_size):
    """Odd number of structures, unequal numbers of atoms, own weights on each rank."""
    trainer = make_trainer(
        folder, Structures(19), make_model(seed=1 + dist.get_rank()), metrics(),
        val=Structures(7, seed=5), batch_size=batch_size, lr=PLATEAU, max_epochs=4,
        ema_decay=0.9, metric_strategy_during_eval="epoch",
        compute_metric_during_train=True,
        best_metric_indicator="eval_metric", name_for_best_metric="z",
    )  # fmt: skip
    trainer.train()
    return summary(trainer)


def accumulated(folder, batch_size, micro):
    """Losses that are means over atoms; the last group has one batch only."""
    trainer = make_trainer(
        folder, Structures(19), make_model(per_atom=True), batch_size=batch_size,
        optimizer="SGD", lr=0.1, gradient_accumulation_steps=micro,
    )  # fmt: skip
    trainer.train()
    return summary(trainer)


def shared_out(folder, strategy, batch_size, epochs=4, start=None):
    """Adam with a clip that acts in every step; also resumed."""
    trainer = make_trainer(
        folder, Structures(19), make_model(), batch_size=batch_size, clip=0.01,
        strategy=strategy, max_epochs=epochs, ema_decay=0.9,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=start)
    moments = [k for k in trainer.optimizer.state_dict() if "moment" in k]
    return {**summary(trainer), "moments": sorted(moments)}


def noise(folder):
    trainer = make_trainer(folder, Structures(16), make_model(noise=0.1))
    trainer.train()
    return summary(trainer)


def tiny_evaluation(folder, size):
    """With one structure a rank has no batch at all."""
    data, model = Structures(size, seed=2), make_model()
    results = {}
    for strategy in ("step", "epoch"):
        trainer = make_trainer(
            folder, Structures(4), model, metrics(),
            metric_strategy_during_eval=strategy,
        )  # fmt: skip
        _, losses, values = trainer.eval(data.loader(2, even=False))
        results[strategy] = {
            name: meter.avg for name, meter in {**losses, **values}.items()
        }
    return results


class Moody(Toy):
    """Uses ``spare`` on odd ranks only, and another head in no loss at all."""

    def forward(self, batch):
        result = super().forward(batch)
        if dist.get_rank() % 2:
            x = paddle.ones([1, 2])
            result["loss_dict"]["loss"] += self.spare(x).square().mean()
        return result


def unused(folder):
    paddle.seed(0)
    trainer = make_trainer(folder, Structures(8), Moody(unused=True))
    trainer.train()
    return summary(trainer)


def bad_record(folder):
    trainer = make_trainer(folder, Structures(8, bad=[6]), shuffle=False, batch_size=2)
    try:
        trainer.train()
    except NonFiniteError as error:
        return str(error)


def frozen(folder):
    """One part of two is trained, too slowly for the metric to become better."""
    trainer = make_trainer(
        folder, Structures(19), val=Structures(7, seed=5), lr_mult={"hidden": 0},
        lr=1e-30, max_epochs=9, ema_decay=0.9, early_stopping_patience=2,
        best_metric_indicator="eval_loss", name_for_best_metric="loss",
    )  # fmt: skip
    trainer.train()
    return summary(trainer)


class Normed(Toy):
    """Collects running statistics of the atoms it sees, other ones on each rank."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1D(3)

    def forward(self, batch):
        atoms = batch["structure_array"]
        atoms = {**atoms, "cart_coords": self.norm(atoms["cart_coords"])}
        return super().forward({**batch, "structure_array": atoms})


def running_statistics(folder):
    """The last evaluation of a run, and one of what the run saved."""
    paddle.seed(0)
    trainer = make_trainer(
        folder, Structures(19), Normed(), metrics(), val=Structures(7, seed=5)
    )
    trainer.train()
    dist.barrier()
    result = {"mean": trainer.model.norm._mean.tolist()}
    saved = Normed()
    load_pretrain(saved, os.path.join(folder, "checkpoints", "latest.pdparams"))
    for name, model in (("run", trainer.model), ("saved", saved)):
        again = make_trainer(f"{folder}_{name}", Structures(4), model, metrics())
        losses = again.eval(Structures(7, seed=5).loader(2, even=False))[1]
        result[name] = {key: meter.avg for key, meter in losses.items()}
    return result


class Signalled(Toy):
    def forward(self, batch):
        result = super().forward(batch)
        if self.training and self.calls == 4 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return result


def interrupted(folder):
    """One rank gets the signal, both stop at the same step; then resume."""

    def build(name, cls, path=None):
        paddle.seed(1)
        return make_trainer(
            f"{folder}_{name}", Structures(19), cls(noise=0.1), ema_decay=0.9,
            resume_from_checkpoint=path, batch_size=2, log_freq=3,
        )  # fmt: skip

    whole = build("whole", Toy)
    whole.train()
    trainer = build("run", Signalled)
    try:
        trainer.train()
        status = 0
    except TrainingInterrupted as stop:
        status = stop.code
    stopped_at = trainer.state.global_step
    dist.barrier()
    path = os.path.join(f"{folder}_run", "checkpoints", "latest")
    resumed = build("run", Toy, path)
    resumed.train()
    same = all(
        np.array_equal(a, b)
        for a, b in zip(
            weights_of(whole.model).values(), weights_of(resumed.model).values()
        )
    )
    result = {"status": status, "stopped_at": stopped_at, "same_weights": same}
    if dist.get_rank() == 0:
        result["same_curve"] = curve(f"{folder}_run") == curve(f"{folder}_whole")
    return result


def unequal_gather():
    rows = paddle.full([1 + 2 * dist.get_rank(), 2], float(dist.get_rank()))
    parts = misc.all_gather(rows, concat=False)
    columns = misc.all_gather(rows.T, axis=1)
    return {
        "joined": misc.all_gather(rows).tolist(),
        "lengths": [len(part) for part in parts],
        "columns": columns.shape,
    }


class Labelled(paddle.io.Dataset):
    """An odd number of records with an energy; some have none."""

    def __init__(self, bad=()):
        self.y = np.random.RandomState(3).randn(11) * 5 - 2
        self.bad = bad
        self.asked = []

    def __len__(self):
        return len(self.y)

    def read_label(self, index, name):
        self.asked.append(index)
        if index in self.bad:
            raise KeyError(f"record {index} has no {name}")
        return self.y[index : index + 1]


def statistics():
    """Each rank reads its share; a fault of one is told to all."""
    data = Labelled()
    mean, std = mean_std_scaling(paddle.io.DataLoader(data), "y")
    try:
        mean_std_scaling(paddle.io.DataLoader(Labelled(bad=[9])), ["y"])
        fault = None
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    return {"mean": mean, "std": std, "asked": data.asked, "fault": fault}


def energies(share=True):
    """Rank 0 scores one structure more than rank 1."""
    pred, true = np.random.RandomState(4).randn(2, 7) * 0.03
    metric = IS2REMetric()
    rows = slice(dist.get_rank(), None, 2) if share else slice(None)
    metric.update(pred[rows], true[rows])
    return metric.compute_epoch()


def sampled(arguments, folder):
    """Score what a sampler made; its ids are those of this rank."""
    ToyRelaxer.calls.clear()
    values = StructureSampler(**arguments).compute_metric(folder, seed=1)
    return {"ids": sum(ToyRelaxer.calls, []), "values": values}


def main(folder):
    with open(f"{folder}/sampler.json") as file:
        arguments = json.load(file)
    paddle.set_device("cpu")
    dist.init_parallel_env()
    rank = dist.get_rank()
    results = {
        "trajectory": trajectory(f"{folder}/trajectory", 4),
        "accumulated": accumulated(f"{folder}/accumulated", 2, 2),
        "whole": shared_out(f"{folder}/whole", "DDP", 4),
        "parts": shared_out(f"{folder}/parts", "Zero1", 4),
        "half": shared_out(f"{folder}/half", "Zero1", 4, epochs=2),
        "resumed": shared_out(
            f"{folder}/resumed", "Zero1", 4, start=f"{folder}/half/checkpoints/latest"
        ),
        "noise": noise(f"{folder}/noise"),
        "evaluation_1": tiny_evaluation(f"{folder}/evaluation", 1),
        "evaluation_5": tiny_evaluation(f"{folder}/evaluation", 5),
        "unused": unused(f"{folder}/unused"),
        "frozen": frozen(f"{folder}/frozen"),
        "running_statistics": running_statistics(f"{folder}/normed"),
        "bad_record": bad_record(f"{folder}/bad"),
        "interrupted": interrupted(f"{folder}/interrupted"),
        "gather": unequal_gather(),
        "statistics": statistics(),
        "energies": energies(),
        "sampled": sampled(arguments, f"{folder}/sampled"),
    }
    with open(f"{folder}/rank{rank}.json", "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(sys.argv[1])
