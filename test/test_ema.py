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


import numpy as np
import paddle
import pytest
from paddle import nn

from ppmat.utils.ema import ExponentialMovingAverage


def setup_module():
    paddle.set_device("cpu")


def make_model():
    paddle.seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1D(3))


def set_all(model, value):
    for parameter in model.parameters():
        parameter.set_value(paddle.full_like(parameter, value))


def test_constant_weights_stay_and_a_jump_is_followed():
    model = make_model()
    set_all(model, 1.0)
    average = ExponentialMovingAverage(model, 0.9)
    for _ in range(3):
        average.update()
    np.testing.assert_array_equal(average.params_shadow["0.weight"].numpy(), 1.0)
    set_all(model, 2.0)
    for _ in range(4):
        average.update()
    np.testing.assert_allclose(
        average.params_shadow["0.weight"].numpy(), 2 - 0.9**4, rtol=1e-6
    )


def test_warmup_forgets_the_initial_weights():
    def after(warmup):
        model = make_model()
        set_all(model, 0.0)
        average = ExponentialMovingAverage(model, 0.999, warmup=warmup)
        set_all(model, 1.0)
        for _ in range(20):
            average.update()
        return average.params_shadow["0.weight"].numpy().min()

    assert after(True) > 0.95
    assert after(False) < 0.05


def test_buffers_are_copied_not_averaged():
    model = make_model()
    average = ExponentialMovingAverage(model, 0.9)
    model.train()
    model(paddle.randn([16, 2]) + 5)
    average.update()
    statistics = model[1]._mean.numpy()
    assert abs(statistics).max() > 0
    np.testing.assert_array_equal(average.params_shadow["1._mean"].numpy(), statistics)


def test_swap_in_and_out():
    model = make_model()
    average = ExponentialMovingAverage(model, 0.5)
    set_all(model, 4.0)
    average.update()
    flags = [p.stop_gradient for p in model.parameters()]
    average.apply_shadow()
    assert abs(model[0].weight.numpy() - 4.0).max() > 0.5
    average.restore()
    np.testing.assert_array_equal(model[0].weight.numpy(), 4.0)
    assert [p.stop_gradient for p in model.parameters()] == flags
    with pytest.raises(RuntimeError, match="without a preceding apply_shadow"):
        average.restore()


def test_training_goes_on_as_if_no_average_were_kept():
    def train(average_every):
        model = make_model()
        optimizer = paddle.optimizer.Adam(0.1, parameters=model.parameters())
        average = ExponentialMovingAverage(model, 0.9)
        for step in range(5):
            paddle.seed(step)
            model(paddle.randn([8, 2])).square().mean().backward()
            optimizer.step()
            optimizer.clear_grad()
            if average_every:
                average.update()
                average.apply_shadow()
                average.restore()
        return model[0].weight.numpy()

    np.testing.assert_array_equal(train(True), train(False))


def test_state_goes_on_bit_for_bit():
    model = make_model()
    average = ExponentialMovingAverage(model, 0.9, warmup=True)
    set_all(model, 2.0)
    average.update()
    again = ExponentialMovingAverage(make_model(), 0.9, warmup=True)
    again.set_state_dict(average.state_dict())
    assert again.n_avg == 1
    set_all(again.model, 2.0)
    for item in (average, again):
        item.update()
    for name, value in average.params_shadow.items():
        np.testing.assert_array_equal(value.numpy(), again.params_shadow[name].numpy())
    with pytest.raises(KeyError, match="0.weight"):
        again.set_state_dict({"n_avg": paddle.to_tensor(1)})


def test_half_precision_weights_are_averaged_in_float32():
    model = nn.Linear(2, 2)
    model.to(dtype="bfloat16")
    average = ExponentialMovingAverage(model, 0.999)
    assert average.params_shadow["weight"].dtype == paddle.float32
    average.update()
    average.apply_shadow()
    assert model.weight.dtype == paddle.bfloat16
