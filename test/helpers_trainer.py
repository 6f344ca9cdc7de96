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


"""A tiny data set of structures, a tiny model, and runs of both."""

import csv
import os

import numpy as np
import paddle
from paddle import nn

from ppmat.datasets.batch_sampler import DistributedBatchSampler
from ppmat.optimizer import build_optimizer
from ppmat.trainer import BaseTrainer


class Structures(paddle.io.Dataset):
    """Structures of 1 to 5 atoms; ``y`` is a sum over atoms, ``z`` is per atom."""

    def __init__(self, size=11, seed=0, bad=()):
        random = np.random.RandomState(seed)
        self.counts = random.randint(1, 6, size)
        self.coords = [random.randn(n, 3).astype("float32") for n in self.counts]
        for index in bad:
            self.coords[index][:] = np.nan

    def __len__(self):
        return len(self.counts)

    def __getitem__(self, index):
        return index

    def collate(self, indices):
        coords = [self.coords[i] for i in indices]
        return {
            "structure_array": {
                "cart_coords": np.concatenate(coords),
                "num_atoms": self.counts[indices],
            },
            "y": np.stack([c.sum(keepdims=True)[0] for c in coords]),
            "z": np.concatenate([c**2 for c in coords]),
            "id": [f"s{i}" for i in indices],
        }

    def loader(self, batch_size=4, shuffle=False, even=True, sampler=None, **kwargs):
        if sampler is None:
            sampler = DistributedBatchSampler(
                self, batch_size, shuffle=shuffle, even=even, seed=3
            )
        return paddle.io.DataLoader(
            self, batch_sampler=sampler, collate_fn=self.collate, **kwargs
        )


class Toy(nn.Layer):
    """Predicts ``y`` and ``z``; optionally noisy, per-atom, partly unused."""

    def __init__(self, noise=0.0, per_atom=False, unused=False, fail_at=None):
        super().__init__()
        self.hidden = nn.Linear(3, 8)
        self.energy = nn.Linear(8, 1)
        self.atoms = nn.Linear(8, 3)
        self.spare = nn.Linear(2, 2) if unused else None
        self.noise = noise
        self.per_atom = per_atom
        self.fail_at = fail_at
        self.calls = 0
        self.draws = []
        self.hooked = 0
        self.seen = []

    def before_train(self, trainer):
        self.hooked += 1
        self.epochs_to_train = trainer.max_epochs

    def forward(self, batch):
        atoms = batch["structure_array"]
        x, counts = atoms["cart_coords"], atoms["num_atoms"]
        if self.training:
            self.calls += 1
            self.seen.append(list(batch["id"]))
        if self.noise:
            draw = paddle.randn(x.shape)
            self.draws.append(float(draw[0, 0]))
            x = x + self.noise * draw
        features = paddle.tanh(self.hidden(x))
        owner = paddle.repeat_interleave(paddle.arange(len(counts)), counts)
        y = paddle.geometric.segment_sum(self.energy(features), owner)
        z = self.atoms(features)
        loss_y = (y - batch["y"]).square().mean()
        loss_z = (z - batch["z"]).square().mean()
        result = {
            "loss_dict": {"loss": loss_y, "z": loss_z},
            "pred_dict": {"y": y, "z": z},
            "loss_weight": {"z": len(x)},
        }
        if self.per_atom:
            result["loss_dict"] = {"loss": loss_z}
            result["loss_weight"] = len(x)
        return result


def make_model(seed=1, **kwargs):
    paddle.seed(seed)
    return Toy(**kwargs)


def make_trainer(
    folder,
    data,
    model=None,
    metrics=None,
    val=None,
    optimizer="AdamW",
    lr=0.02,
    batch_size=4,
    shuffle=True,
    loader=None,
    lr_mult=None,
    **config,
):
    """Return a trainer with everything it needs; keywords are its settings."""
    model = make_model() if model is None else model
    config = {"max_epochs": 3, "log_freq": 1, "seed": 7, **config}
    config["output_dir"] = str(folder)
    loader = loader or data.loader(batch_size, shuffle)
    micro = config.get("gradient_accumulation_steps", 1)
    built, schedule = build_optimizer(
        {
            "__class_name__": optimizer,
            "__init_params__": {"lr": lr, "lr_mult": lr_mult},
        },
        model,
        config["max_epochs"],
        -(-len(loader) // micro),
    )
    val = val.loader(batch_size, even=False) if val is not None else None
    return BaseTrainer(config, model, loader, val, built, schedule, metrics)


def read_rows(folder, stage=None):
    with open(os.path.join(folder, "metrics.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if stage in (None, row["stage"])]


def curve(folder):
    """Return what must not depend on interruptions, as written, to the last digit."""
    timing = ("reader_cost", "batch_cost", "samples_per_s")
    return [
        {k: v for k, v in row.items() if k not in timing and v}
        for row in read_rows(folder)
    ]


def weights_of(model):
    return {name: t.numpy().copy() for name, t in model.state_dict().items()}
