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
"""The trainer feeds streaming metrics of the block Metric, and calls the others."""

import paddle
import pytest

from ppmat.metrics.streaming_base import StreamingMetricBase
from ppmat.trainer.base_trainer import BaseTrainer


def setup_module():
    paddle.set_device("cpu")


class Line(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.out = paddle.nn.Linear(1, 1)

    def forward(self, batch):
        predicted = self.out(batch["x"])
        loss = ((predicted - batch["y"]) ** 2).mean()
        return {"loss_dict": {"loss": loss}, "pred_dict": {"y": predicted}}


class Points(paddle.io.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        x = paddle.full([1], float(index))
        return {"x": x, "y": 2 * x}


class LargestError(StreamingMetricBase):
    """A score that no mean over batches gives."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.largest = 0.0

    def update_step(self, *, result, batch, stage):
        error = (result["pred_dict"]["y"] - batch["y"]).abs().max()
        self.largest = max(self.largest, float(error))

    def compute_epoch(self, *, stage):
        return {"largest": self.largest}


def trainer_of(metrics, folder, strategy="step"):
    config = {
        "max_epochs": 1,
        "seed": 0,
        "output_dir": str(folder),
        "save_freq": 1,
        "eval_freq": 1,
        "start_eval_epoch": 1,
        "log_freq": 1,
        "compute_metric_during_train": True,
        "metric_strategy_during_eval": strategy,
    }
    return BaseTrainer(config, Line(), compute_metric_func_dict=metrics)


def scores_and_errors(trainer):
    """Return what the trainer computes, and the errors of all points."""
    loader = paddle.io.DataLoader(Points(), batch_size=5)
    _, _, scores = trainer.eval(loader)
    x = paddle.arange(5, dtype="float32").unsqueeze(1)
    return scores, (trainer.model.out(x) - 2 * x).abs()


@pytest.mark.parametrize("strategy", ["step", "epoch"])
def test_both_kinds_of_metrics_are_computed(strategy, tmp_path):
    metrics = {"y": paddle.nn.L1Loss(), "errors": LargestError()}
    for _ in range(2):  # a second trainer gets the same metrics
        trainer = trainer_of(metrics, tmp_path, strategy)
        scores, errors = scores_and_errors(trainer)
        assert scores["y"].avg == pytest.approx(float(errors.mean()))
        assert scores["largest"].avg == pytest.approx(float(errors.max()))
    assert list(metrics) == ["y", "errors"]


def test_a_metric_without_a_name_is_taken(tmp_path):
    scores, errors = scores_and_errors(trainer_of(LargestError(), tmp_path))
    assert scores["largest"].avg == pytest.approx(float(errors.max()))
