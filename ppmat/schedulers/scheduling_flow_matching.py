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

"""Flow matching along straight paths.

A path joins a source point to a target point, ``x_t = x_0 + t d + (1 - t) sigma z``.
Here ``d`` is the displacement from source to target, ``z`` is standard normal, and the
velocity is ``d - sigma z`` (flow matching, Lipman et al., arXiv 2210.02747; stochastic
interpolants, Albergo et al., arXiv 2303.08797). A network learns the velocity, or the
displacement that it leads to. Sampling integrates from ``t = 0`` to ``t = 1``. In
periodic cells ``d`` is the minimum image. Points are not wrapped on the way, so an
integral is continuous across cell faces.
"""

from __future__ import annotations

from typing import Annotated
from typing import Literal
from typing import NamedTuple

import numpy as np
import paddle

from ppmat.utils.ranges import Range


class FlowMatchingOutput(NamedTuple):
    """What :meth:`FlowMatchingScheduler.step` returns."""

    prev_sample: paddle.Tensor


class FlowMatchingScheduler:
    """Straight-path flow matching with an Euler or Heun integrator.

    Args:
        noise_std: Spread ``sigma`` of the source, in the units of the points. With 0
            the source is a single point.
        solver: ``"euler"``, one network call a step, or ``"heun"``, two (the last
            step is an Euler step: there is no velocity beyond ``t = 1``).
        time_sampling: How training times are drawn: ``"uniform"`` on [0, 1) before
            ``time_power``, or ``"zero"``, always the source, which is plain regression.
        time_power: Training times are raised to this power. Above 1 more of them are
            near the source. If the network also gets the start of the path, it can
            read the target from later points, so only early ones train the task.

    Example:
        >>> scheduler = FlowMatchingScheduler(solver="euler")
        >>> scheduler.set_timesteps(4)
        >>> x = paddle.zeros([1, 3])
        >>> for t in scheduler.timesteps:
        ...     x = scheduler.step(paddle.ones([1, 3]), t, x).prev_sample
        >>> x.tolist()
        [[1.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        noise_std: Annotated[float, Range(0, 10)] = 0.0,
        solver: Literal["euler", "heun"] = "euler",
        time_sampling: Literal["uniform", "zero"] = "uniform",
        time_power: Annotated[float, Range(above=0, most=100)] = 1.0,
    ) -> None:
        self.noise_std = noise_std
        self.solver = solver
        self.time_sampling = time_sampling
        self.time_power = time_power
        self.timesteps: list[float] = []
        self._steps: list[float] = []
        self._call = 0
        self._first: tuple[paddle.Tensor, paddle.Tensor] | None = None

    def sample_timesteps(self, count: int) -> paddle.Tensor:
        """Draw ``count`` training times, [count]."""
        if self.time_sampling == "zero":
            return paddle.zeros([count])
        return paddle.rand([count]) ** self.time_power

    def prior_sampling(
        self, source: paddle.Tensor, noise: paddle.Tensor
    ) -> paddle.Tensor:
        """Return the start of a path: the source, spread by ``sigma``."""
        return source + self.noise_std * noise

    def add_noise(
        self,
        source: paddle.Tensor,
        displacement: paddle.Tensor,
        noise: paddle.Tensor,
        timesteps: paddle.Tensor,
    ) -> paddle.Tensor:
        """Return the point of the path at ``timesteps`` (broadcast against points)."""
        noise = (1.0 - timesteps) * self.noise_std * noise
        return source + timesteps * displacement + noise

    def velocity_to(
        self,
        displacement: paddle.Tensor,
        moved: paddle.Tensor,
        timesteps: float,
    ) -> paddle.Tensor:
        """Return the velocity that ends at a predicted target.

        On a straight path the velocity at ``t`` is the remaining displacement divided
        by the remaining time, ``(d - (x_t - x_0)) / (1 - t)``. So a network that
        predicts ``d`` has the same target, of the same size, at all times.

        Args:
            displacement: Predicted displacement from the source to the target, [N, 3].
            moved: ``x_t - x_0``, [N, 3].
            timesteps: ``t``, below 1.
        """
        return (displacement - moved) / (1.0 - timesteps)

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Divide the time from 0 to 1 into ``num_inference_steps`` equal steps.

        Afterwards ``timesteps`` holds the time of each network call, in order.
        """
        if num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps must be at least 1, got {num_inference_steps}"
            )
        grid = np.linspace(0.0, 1.0, num_inference_steps + 1)
        self._steps = np.diff(grid).tolist()
        starts = grid[:-1].tolist()
        if self.solver == "heun":  # predictor at each start, corrector at each end
            starts = [t for pair in zip(starts, starts[1:]) for t in pair] + starts[-1:]
        self.timesteps = starts
        self._call, self._first = 0, None

    def step(
        self, model_output: paddle.Tensor, timestep: float, sample: paddle.Tensor
    ) -> FlowMatchingOutput:
        """Advance ``sample`` by one network call.

        Args:
            model_output: Velocity at ``sample``.
            timestep: The time of this call; the calls follow ``timesteps`` in order.
            sample: The points the velocity was computed at.
        """
        if self._call >= len(self.timesteps) or timestep != self.timesteps[self._call]:
            raise ValueError(
                f"step called with timestep {timestep} as call {self._call}; call "
                f"set_timesteps and then follow timesteps {self.timesteps}"
            )
        if self._first is not None:  # Heun's corrector
            start, velocity = self._first
            size = self._steps[self._call // 2]
            following = start + 0.5 * size * (velocity + model_output)
            self._first = None
        else:
            heun = self.solver == "heun"
            size = self._steps[self._call // 2 if heun else self._call]
            following = sample + size * model_output
            if heun and self._call + 1 < len(self.timesteps):
                self._first = (sample, model_output)
        self._call += 1
        return FlowMatchingOutput(following)
