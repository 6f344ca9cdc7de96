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
"""The hook before_train of a network is called when DataParallel wraps it too."""

import paddle
import pytest

from ppmat.trainer.base_trainer import BaseTrainer


def setup_module():
    paddle.set_device("cpu")


class Hooked(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.out = paddle.nn.Linear(1, 1)
        self.called_by = []

    def before_train(self, trainer):
        self.called_by.append(trainer)


class Wrapper(paddle.nn.Layer):
    """Holds a network as paddle.DataParallel does, which needs several processes."""

    def __init__(self, layers):
        super().__init__()
        self._layers = layers


def test_wrapper_is_like_data_parallel():
    import inspect

    assert "self._layers = layers" in inspect.getsource(paddle.DataParallel)


@pytest.mark.parametrize("wrap", [lambda network: network, Wrapper])
def test_hook_is_called_once(wrap, tmp_path):
    config = {
        "max_epochs": 0,
        "seed": 0,
        "output_dir": str(tmp_path),
        "save_freq": 1,
        "eval_freq": 1,
        "start_eval_epoch": 1,
        "log_freq": 1,
        "compute_metric_during_train": False,
    }
    network = Hooked()
    trainer = BaseTrainer(config, wrap(network), train_dataloader=[])
    trainer.train()
    assert network.called_by == [trainer]
