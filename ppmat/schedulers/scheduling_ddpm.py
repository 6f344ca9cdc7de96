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


"""Denoising diffusion in discrete steps, and its reversal.

A clean point ``x_0`` is mixed with standard normal noise ``e``, in ``T`` steps:
``x_t = a_t x_0 + s_t e`` with ``a_t^2 + s_t^2 = 1``. Sampling goes back from noise to a
clean point, over some of the ``T`` steps. The signal ``a_t`` follows a cosine (Nichol
and Dhariwal, arXiv 2102.09672). Solvers: the random steps of DDPM (Ho et al., arXiv
2006.11239), and DPM-Solver++(2M) (Lu et al., arXiv 2211.01095), a multistep method of
second order whose only noise is its start.
"""

from __future__ import annotations

import math
from typing import Annotated
from typing import Literal
from typing import NamedTuple

import numpy as np
import paddle

from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range

_OFFSET = 0.008  # of the cosine: the first steps add some noise
_MAX_BETA = 0.999  # largest share of the variance that one step replaces
# Sampling starts at the last step whose log(a_t / s_t) is not below this. Later points
# are noise all the same, and dividing by their a_t would blow up errors of a network.
_START = -5.1


class DDPMOutput(NamedTuple):
    """What :meth:`DDPMScheduler.step` returns."""

    prev_sample: paddle.Tensor


class DDPMScheduler:
    """Diffusion with a cosine schedule, and two solvers.

    Args:
        num_train_timesteps: Steps of the diffusion, ``T``.
        prediction_type: What the network predicts: ``"epsilon"``, the noise ``e``, or
            ``"v_prediction"``, the velocity ``a_t e - s_t x_0`` (Salimans and Ho, arXiv
            2202.00512). The error of the clean point that follows from the noise grows
            with ``1 / a_t``; that from the velocity does not grow.
        solver: ``"ddpm"``, random steps, or ``"dpmpp_2m"``, which needs fewer steps.

    Attributes:
        signal: ``a_t``, [T].
        sigma: ``s_t``, [T].
        timesteps: The time of each network call, in order, after
            :meth:`set_timesteps`.

    Example:
        >>> scheduler = DDPMScheduler(solver="dpmpp_2m")
        >>> scheduler.set_timesteps(4)
        >>> x, clean = paddle.ones([1, 3]), 0.5 * paddle.ones([1, 3])
        >>> for t in scheduler.timesteps:  # a network that knows the clean point
        ...     noise = (x - scheduler.signal[t] * clean) / scheduler.sigma[t]
        ...     x = scheduler.step(noise, t, x).prev_sample
        >>> bool(paddle.allclose(x, clean, atol=1e-4))
        True
    """

    def __init__(
        self,
        num_train_timesteps: Annotated[int, Range(2, 100_000)] = 1000,
        prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
        solver: Literal["ddpm", "dpmpp_2m"] = "ddpm",
    ) -> None:
        self.num_train_timesteps = num_train_timesteps
        self.prediction_type = prediction_type
        self.solver = solver
        time = np.arange(num_train_timesteps + 1) / num_train_timesteps
        wanted = np.cos((time + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2  # of a^2
        kept = np.maximum(wanted[1:] / wanted[:-1], 1 - _MAX_BETA)
        self.signal = np.sqrt(np.cumprod(kept))
        self.sigma = np.sqrt(1 - np.cumprod(kept))
        self._half_log_snr = np.log(self.signal / self.sigma)  # falls with time
        self.timesteps: list[int] = []
        self._call = 0
        self._last: paddle.Tensor | None = None  # the clean point of the last call

    def sample_timesteps(self, count: int) -> paddle.Tensor:
        """Draw ``count`` training times, [count], uniform on 0 to ``T - 1``."""
        return paddle.randint(0, self.num_train_timesteps, [count])

    def add_noise(
        self, clean: paddle.Tensor, noise: paddle.Tensor, timesteps: paddle.Tensor
    ) -> paddle.Tensor:
        """Return the points [M, C] at the timesteps [M]."""
        signal, sigma = self._factors(timesteps, clean)
        return signal * clean + sigma * noise

    def target(
        self, clean: paddle.Tensor, noise: paddle.Tensor, timesteps: paddle.Tensor
    ) -> paddle.Tensor:
        """Return what the network should predict at these points, [M, C]."""
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self._factors(timesteps, clean)
        return signal * noise - sigma * clean

    def _factors(
        self, timesteps: paddle.Tensor, like: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Return ``a_t`` and ``s_t`` of the timesteps [M], [M, 1] each."""
        tables = [paddle.to_tensor(x, like.dtype) for x in (self.signal, self.sigma)]
        signal, sigma = (paddle.gather(x, timesteps).unsqueeze(-1) for x in tables)
        return signal, sigma

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose ``num_inference_steps`` of the ``T`` steps.

        They are evenly spaced in time for ``"ddpm"``, and in ``log(a_t / s_t)`` for
        ``"dpmpp_2m"``. Choices that fall together, where there are many, count once.

        Raises:
            InputError: Fewer than one, or more than there are.
        """
        half_log_snr = self._half_log_snr
        start = int(np.flatnonzero(half_log_snr >= _START)[-1])
        if not 1 <= num_inference_steps <= start + 1:
            raise InputError(
                f"{num_inference_steps} inference steps", wanted=f"1 to {start + 1}"
            )
        grid = np.linspace(start, 0, num_inference_steps)
        if self.solver == "dpmpp_2m":
            wanted = np.linspace(
                half_log_snr[start], half_log_snr[0], num_inference_steps
            )
            grid = np.interp(-wanted, -half_log_snr, np.arange(len(half_log_snr)))
        self.timesteps = list(dict.fromkeys(grid.round().astype(int).tolist()))
        self._call, self._last = 0, None

    def step(
        self,
        model_output: paddle.Tensor,
        timestep: int,
        sample: paddle.Tensor,
        noise: paddle.Tensor | None = None,
    ) -> DDPMOutput:
        """Go one step towards the clean point; the last step returns it.

        Args:
            model_output: The prediction at ``sample``, [M, C].
            timestep: The time of this call; the calls follow ``timesteps`` in order.
            sample: The points, [M, C].
            noise: Standard normal noise, [M, C]; only for ``solver="ddpm"``.
        """
        if self._call >= len(self.timesteps) or timestep != self.timesteps[self._call]:
            raise ValueError(
                f"step called with timestep {timestep} as call {self._call}; call "
                f"set_timesteps and then follow timesteps {self.timesteps}"
            )
        clean = self._clean(model_output, timestep, sample)
        before, self._last = self._last, clean
        self._call += 1
        if self._call == len(self.timesteps):
            return DDPMOutput(clean)
        following = self.timesteps[self._call]
        if self.solver == "ddpm":
            return DDPMOutput(
                self._random_step(clean, timestep, following, sample, noise)
            )
        return DDPMOutput(self._multistep(clean, before, timestep, following, sample))

    def _clean(
        self, output: paddle.Tensor, t: int, sample: paddle.Tensor
    ) -> paddle.Tensor:
        """Return the clean points that a prediction stands for."""
        signal, sigma = float(self.signal[t]), float(self.sigma[t])
        if self.prediction_type == "epsilon":
            return (sample - sigma * output) / signal
        return signal * sample - sigma * output

    def _random_step(
        self,
        clean: paddle.Tensor,
        t: int,
        following: int,
        sample: paddle.Tensor,
        noise: paddle.Tensor,
    ) -> paddle.Tensor:
        """Draw the next point from its distribution given both ends."""
        kept = (self.signal[t] / self.signal[following]) ** 2  # of the variance
        before = self.sigma[following] ** 2 / self.sigma[t] ** 2
        of_clean = self.signal[following] * (1 - kept) / self.sigma[t] ** 2
        of_sample = math.sqrt(kept) * before
        spread = math.sqrt((1 - kept) * before)
        return float(of_clean) * clean + float(of_sample) * sample + spread * noise

    def _multistep(
        self,
        clean: paddle.Tensor,
        before: paddle.Tensor | None,
        t: int,
        following: int,
        sample: paddle.Tensor,
    ) -> paddle.Tensor:
        """Integrate to the next point, with the clean point extrapolated linearly."""
        half_log_snr = self._half_log_snr
        size = half_log_snr[following] - half_log_snr[t]
        if before is not None:
            last = self.timesteps[self._call - 2]
            ratio = float(size / (half_log_snr[t] - half_log_snr[last]))
            clean = clean + 0.5 * ratio * (clean - before)
        of_sample = float(self.sigma[following] / self.sigma[t])
        of_clean = float(-self.signal[following] * math.expm1(-size))
        return of_sample * sample + of_clean * clean
