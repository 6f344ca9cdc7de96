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
"""save_freq and eval_freq 0 mean: only the first and the last epoch."""

import paddle
import pytest

from ppmat.trainer.base_trainer import BaseTrainer


def setup_module():
    paddle.set_device("cpu")


class Line(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.out = paddle.nn.Linear(1, 1)

    def forward(self, batch):
        predicted = self.out(batch["x"])
        return {"loss_dict": {"loss": ((predicted - batch["y"]) ** 2).mean()}}


class Points(paddle.io.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = paddle.full([1], float(index))
        return {"x": x, "y": 2 * x}


@pytest.mark.parametrize("freq, saved", [(0, {1, 3}), (1, {1, 2, 3}), (2, {1, 2, 3})])
def test_epochs_that_are_saved_and_evaluated(freq, saved, tmp_path):
    config = {
        "max_epochs": 3,
        "seed": 0,
        "output_dir": str(tmp_path),
        "save_freq": freq,
        "eval_freq": freq,
        "start_eval_epoch": 1,
        "log_freq": 1,
        "compute_metric_during_train": False,
    }
    model = Line()
    loader = paddle.io.DataLoader(Points(), batch_size=2)
    optimizer = paddle.optimizer.SGD(parameters=model.parameters())
    trainer = BaseTrainer(config, model, loader, loader, optimizer)
    evaluated = []
    evaluate = trainer.eval_epoch

    def eval_epoch(*args, **kwargs):
        evaluated.append(trainer.state.epoch)
        return evaluate(*args, **kwargs)

    trainer.eval_epoch = eval_epoch
    trainer.train()
    files = (tmp_path / "checkpoints").glob("epoch_*.pdparams")
    assert {int(file.stem.split("_")[1]) for file in files} == saved
    assert set(evaluated) == saved
