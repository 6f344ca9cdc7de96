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

"""Flow matching: paths, torus, integrators of known order."""

import math

import numpy as np
import paddle
import pytest

from ppmat.schedulers.scheduling_flow_matching import FlowMatchingScheduler


def integrate(solver, steps, field, start):
    scheduler = FlowMatchingScheduler(solver=solver)
    scheduler.set_timesteps(steps)
    x, calls = paddle.to_tensor(start, dtype="float64"), 0
    for t in scheduler.timesteps:
        x = scheduler.step(field(x, t), t, x).prev_sample
        calls += 1
    return x.numpy(), calls


def test_path_starts_at_source_ends_at_target_with_constant_velocity():
    rng = np.random.default_rng(0)
    x0, d, z = (paddle.to_tensor(rng.normal(size=(5, 3))) for _ in range(3))
    scheduler = FlowMatchingScheduler(noise_std=0.3)

    def at(t):
        return scheduler.add_noise(x0, d, z, t).numpy()

    np.testing.assert_allclose(at(0.0), scheduler.prior_sampling(x0, z).numpy())
    np.testing.assert_allclose(at(1.0), (x0 + d).numpy())
    slope = (at(0.7) - at(0.2)) / 0.5
    np.testing.assert_allclose(slope, (d - 0.3 * z).numpy(), atol=1e-12)


def test_velocity_to_the_true_target_is_that_of_the_path():
    rng = np.random.default_rng(2)
    x0, d, z = (paddle.to_tensor(rng.normal(size=(5, 3))) for _ in range(3))
    scheduler = FlowMatchingScheduler(noise_std=0.3)
    for t in (0.0, 0.4, 0.9):
        moved = scheduler.add_noise(x0, d, z, t) - x0
        got = scheduler.velocity_to(d, moved, t).numpy()
        np.testing.assert_allclose(got, (d - 0.3 * z).numpy(), atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_constant_prediction_is_reached_without_rest(steps):
    rng = np.random.default_rng(3)
    start, d, z = (paddle.to_tensor(rng.normal(size=(4, 3))) for _ in range(3))
    scheduler = FlowMatchingScheduler(noise_std=0.3)
    scheduler.set_timesteps(steps)
    x = scheduler.prior_sampling(start, z)
    for t in scheduler.timesteps:
        velocity = scheduler.velocity_to(d, x - start, t)
        x = scheduler.step(velocity, t, x).prev_sample
    np.testing.assert_allclose(x.numpy(), (start + d).numpy(), atol=1e-9)


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_true_velocity_field_is_integrated_exactly(solver, steps):
    start, target = np.zeros((2, 3)), np.ones((2, 3))
    x, calls = integrate(solver, steps, lambda x, t: paddle.to_tensor(target), start)
    np.testing.assert_allclose(x, target, atol=1e-12)
    assert calls == (steps if solver == "euler" else 2 * steps - 1)


@pytest.mark.parametrize("solver, order", [("euler", 1.0), ("heun", 2.0)])
def test_order_of_convergence(solver, order):
    # dx/dt = x cos t has x(1) = exp(sin 1); Heun's last step is Euler, so its
    # error is dominated by one local error of second order
    exact = math.exp(math.sin(1.0))
    errors = [
        abs(integrate(solver, n, lambda x, t: x * math.cos(t), [1.0])[0][0] - exact)
        for n in (40, 80)
    ]
    measured = math.log2(errors[0] / errors[1])
    assert measured == pytest.approx(order, abs=0.15)


def test_training_times():
    paddle.seed(0)
    uniform = FlowMatchingScheduler().sample_timesteps(4000).numpy()
    assert 0.0 <= uniform.min() and uniform.max() < 1.0
    assert abs(uniform.mean() - 0.5) < 0.02
    early = FlowMatchingScheduler(time_power=3.0).sample_timesteps(4000).numpy()
    assert 0.0 <= early.min() and early.max() < 1.0
    assert abs(early.mean() - 0.25) < 0.02  # the mean of u^3
    zero = FlowMatchingScheduler(time_sampling="zero").sample_timesteps(7).numpy()
    np.testing.assert_array_equal(zero, np.zeros(7))


def test_wrong_use_is_named():
    scheduler = FlowMatchingScheduler()
    with pytest.raises(ValueError, match="num_inference_steps must be at least 1"):
        scheduler.set_timesteps(0)
    scheduler.set_timesteps(2)
    x = paddle.zeros([1, 3])
    with pytest.raises(ValueError, match="follow timesteps"):
        scheduler.step(x, 0.5, x)
