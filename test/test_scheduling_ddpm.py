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


"""DDPM: the cosine schedule, and both solvers on Gaussians, whose scores are known."""

import math

import numpy as np
import paddle
import pytest

from ppmat.schedulers import build_scheduler
from ppmat.schedulers.scheduling_ddpm import DDPMScheduler
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError

MEAN, SD = 0.7, 0.4


def true_output(scheduler, t, x):
    """The exact prediction for clean points from N(MEAN, SD^2)."""
    a, s = scheduler.signal[t], scheduler.sigma[t]
    noise = s * (x - a * MEAN) / (a * a * SD * SD + s * s)
    if scheduler.prediction_type == "epsilon":
        return noise
    return a * noise - s * (x - s * noise) / a


def draw(count, steps, **params):
    scheduler = DDPMScheduler(**params)
    scheduler.set_timesteps(steps)
    paddle.seed(3)
    x = paddle.randn([count, 1], dtype="float64")
    for t in scheduler.timesteps:
        noise = paddle.randn(x.shape, dtype="float64")
        x = scheduler.step(true_output(scheduler, t, x), t, x, noise).prev_sample
    return x.numpy()


def test_the_signal_follows_the_cosine():
    scheduler = DDPMScheduler()
    wanted = [
        math.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2) for k in range(1, 1000)
    ]
    first = math.cos(0.008 / 1.008 * math.pi / 2)
    np.testing.assert_allclose(scheduler.signal[:-1], np.array(wanted) / first)
    np.testing.assert_allclose(scheduler.signal**2 + scheduler.sigma**2, 1.0)
    # the last step would replace all of the variance; it keeps a thousandth
    kept = (scheduler.signal[-1] / scheduler.signal[-2]) ** 2
    assert kept == pytest.approx(0.001)


def test_points_have_the_stated_mean_and_spread():
    scheduler, t = DDPMScheduler(), 400
    clean = paddle.full([20000, 1], 2.0, dtype="float64")
    noise = paddle.randn(clean.shape, dtype="float64")
    x = scheduler.add_noise(clean, noise, paddle.full([20000], t, dtype="int64"))
    a, s = scheduler.signal[t], scheduler.sigma[t]
    assert float(x.mean()) == pytest.approx(2 * a, abs=4 * s / math.sqrt(20000))
    assert float(x.std()) == pytest.approx(s, rel=0.03)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_true_target_gives_the_clean_point_back(prediction_type):
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    rng = np.random.default_rng(0)
    clean, noise = (paddle.to_tensor(rng.normal(size=(5, 3))) for _ in range(2))
    for t in (0, 500, 990):
        times = paddle.full([5], t, dtype="int64")
        x = scheduler.add_noise(clean, noise, times)
        scheduler.timesteps, scheduler._call = [t], 0
        back = scheduler.step(scheduler.target(clean, noise, times), t, x)
        np.testing.assert_allclose(back.prev_sample.numpy(), clean.numpy(), atol=1e-9)


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_random_steps_have_the_mean_and_variance_of_a_chain_of_gaussians(steps):
    """Each step is linear, so numpy can follow mean and variance exactly."""
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps
    mean, variance = 0.0, 1.0
    for t, s in zip(times, [*times[1:], None]):
        at = scheduler.signal[t] ** 2
        to = 1.0 if s is None else scheduler.signal[s] ** 2
        # the clean point's mean given x is linear: k x + c
        k = math.sqrt(at) * SD**2 / (at * SD**2 + 1 - at)
        c = MEAN - k * math.sqrt(at) * MEAN
        beta = 1 - at / to
        u = math.sqrt(to) * beta / (1 - at)
        w = math.sqrt(at / to) * (1 - to) / (1 - at)
        mean = (u * k + w) * mean + u * c
        variance = (u * k + w) ** 2 * variance + beta * (1 - to) / (1 - at)
    x = draw(40000, steps)
    error = math.sqrt(variance / 40000)
    assert abs(x.mean() - mean) < 4 * error
    assert x.std() == pytest.approx(math.sqrt(variance), rel=0.02)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "solver, steps, off",
    [("ddpm", 996, 0.02), ("ddpm", 100, 0.05), ("dpmpp_2m", 20, 0.02)],
)
def test_a_gaussian_is_sampled_with_its_mean_and_spread(
    solver, steps, off, prediction_type
):
    x = draw(20000, steps, solver=solver, prediction_type=prediction_type)
    assert x.mean() == pytest.approx(MEAN, abs=4 * SD / math.sqrt(20000) + 0.003)
    assert x.std() == pytest.approx(SD, rel=off)


def test_the_multistep_solver_is_of_second_order():
    """A Gaussian's path from a start point is known: x = a m + (x_T - a_T m) r."""

    def error(steps):
        scheduler = DDPMScheduler(num_train_timesteps=100_000, solver="dpmpp_2m")
        scheduler.set_timesteps(steps)
        first, last = scheduler.timesteps[0], scheduler.timesteps[-1]
        x = paddle.to_tensor([[1.3]], dtype="float64")
        for t in scheduler.timesteps[:-1]:
            x = scheduler.step(true_output(scheduler, t, x), t, x).prev_sample
        a, s = scheduler.signal, scheduler.sigma
        spread = np.sqrt(a**2 * SD**2 + s**2)
        exact = a[last] * MEAN + (1.3 - a[first] * MEAN) * spread[last] / spread[first]
        return abs(x.item() - exact)

    assert math.log2(error(40) / error(80)) == pytest.approx(2.0, abs=0.4)


def test_wrong_use_is_named():
    scheduler = DDPMScheduler()
    for count in (0, 1001):
        with pytest.raises(
            InputError, match=f"{count} inference steps; wanted 1 to 996"
        ):
            scheduler.set_timesteps(count)
    scheduler.set_timesteps(2)
    x = paddle.zeros([1, 3])
    with pytest.raises(ValueError, match="follow timesteps"):
        scheduler.step(x, 0, x)
    block = {"__class_name__": "DDPMScheduler"}
    assert build_scheduler(block).solver == "ddpm"
    with pytest.raises(ConfigError, match="solver"):
        build_scheduler({**block, "__init_params__": {"solver": "euler"}})
    with pytest.raises(ConfigError, match="num_train_timesteps"):
        build_scheduler({**block, "__init_params__": {"num_train_timesteps": 1}})
