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

"""SFINFlow generates the relaxed structure of an adsorbate on a surface slab.

The file holds the embedding of the path's time, the random noise of a structure, and
the model: a displacement head on the backbone of ``sfin_structure.py``, integrated
along the path of ``ppmat/schedulers/scheduling_flow_matching.py``.

Shapes: ``N`` atoms, ``S`` structures, ``D`` scalar and ``V`` vector channels of the
backbone's output. Positions and displacements are in Å.
"""

from __future__ import annotations

from typing import Annotated
from typing import Literal

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from ppmat.models.generated_structures import check_initial_structures
from ppmat.models.generated_structures import random_streams
from ppmat.models.generated_structures import structure_results
from ppmat.models.sfin.sfin_structure import FORMER_WEIGHTS
from ppmat.models.sfin.sfin_structure import GatedActivation
from ppmat.models.sfin.sfin_structure import SFINBackbone
from ppmat.models.sfin.sfin_structure import displacement_head
from ppmat.models.sfin.structure_geometry import free_atoms
from ppmat.models.sfin.structure_geometry import mean_over_free_atoms
from ppmat.schedulers import FlowMatchingScheduler
from ppmat.schedulers import build_scheduler
from ppmat.utils.ranges import Range


class TimeEmbedding(nn.Layer):
    """Embed the time on the path: sines and cosines, then two linear layers.

    Args:
        channels: Channels of the output.
        num_frequencies: Frequencies from 1 to 64, ``F``.
    """

    def __init__(self, channels: int, num_frequencies: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequency", 2.0 ** paddle.linspace(0, 6, num_frequencies))
        self.hidden = nn.Linear(2 * num_frequencies, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, time: paddle.Tensor) -> paddle.Tensor:
        """Return [S, channels] of the times [S]."""
        phase = time.unsqueeze(-1) * self.frequency  # [S, F]
        waves = paddle.concat([phase.sin(), phase.cos()], axis=-1)  # [S, 2 F]
        return self.out(F.silu(self.hidden(waves)))


def draw_noise(batch: dict, seed: int, sample: int) -> paddle.Tensor:
    """Draw standard normal noise for each atom, [N, 3]; see ``random_streams``."""
    counts = batch["structure_array"]["num_atoms"].tolist()
    streams = random_streams(batch, seed, sample)
    draws = [stream.standard_normal((n, 3)) for stream, n in zip(streams, counts)]
    dtype = batch["structure_array"]["cart_coords"].dtype
    return paddle.to_tensor(np.concatenate(draws), dtype=dtype)


class SFINFlow(nn.Layer):
    """Flow from the initial to the relaxed structure of a slab with an adsorbate.

    The network takes the initial structure (elements, tags, cell, graph, positions)
    and the present positions. It predicts the displacement of each free atom from its
    initial to its relaxed position, from which the scheduler computes a velocity. Fixed
    atoms never move. A scheduler without noise that always starts at time 0, with one
    inference step, makes the class a plain regressor of the displacement.

    In YAML::

        Model:
          __class_name__: SFINFlow
          __init_params__:
            backbone_cfg: {channels: 32, vectors: 16, cutoff: 5.0, k_cut: 0.7}
            scheduler_cfg:
              __class_name__: FlowMatchingScheduler
              __init_params__: {noise_std: 0.1}
            num_inference_steps: 2

    Args:
        backbone_cfg: Constructor arguments of :class:`SFINBackbone`.
        scheduler_cfg: Block of the scheduler (``FlowMatchingScheduler``).
        loss_type: ``"l2_norm"``, the mean length of the error vectors, is least at the
            median, which metrics with a distance threshold reward. ``"mse"`` is least
            at the mean, from which flow matching in the strict sense has its velocity.
        num_inference_steps: Integration steps in evaluation, and the default of
            :meth:`sample`.
    """

    supports_num_atoms_sampling = False
    supports_chemical_formula_sampling = False
    former_weights = FORMER_WEIGHTS
    nested_params = {
        "backbone_cfg": SFINBackbone,
        "scheduler_cfg": [FlowMatchingScheduler],
    }

    def __init__(
        self,
        backbone_cfg: dict,
        scheduler_cfg: dict,
        loss_type: Literal["l2_norm", "mse"] = "l2_norm",
        num_inference_steps: Annotated[int, Range(1, 10_000)] = 4,
    ) -> None:
        super().__init__()
        self.backbone = SFINBackbone(**backbone_cfg)
        self.scheduler = build_scheduler(scheduler_cfg)
        self.loss_type = loss_type
        self.num_inference_steps = num_inference_steps
        channels, vectors = self.backbone.out_channels, self.backbone.out_vectors
        self.time = TimeEmbedding(channels)
        self.readout = GatedActivation(channels, vectors)
        self.displacement_head = displacement_head(vectors)

    def displacement(
        self, batch: dict, positions: paddle.Tensor, time: paddle.Tensor
    ) -> paddle.Tensor:
        """Predict the displacement from initial to relaxed positions, [N, 3] Å.

        Args:
            batch: ``structure_array`` and ``graph``.
            positions: Present positions of the atoms, [N, 3] Å.
            time: Time on the path of each structure, [S], 0 to 1.
        """
        atoms = batch["structure_array"]
        condition = paddle.repeat_interleave(
            self.time(time), atoms["num_atoms"], axis=0
        )  # [N, D]
        x, _ = self.backbone(batch, positions, condition)
        moved = self.displacement_head(self.readout(x).v).squeeze(-1)  # [N, 3]
        return moved * free_atoms(atoms, positions.dtype).unsqueeze(-1)

    def forward(self, batch: dict) -> dict:
        """Compute the flow-matching loss and, in evaluation, relaxed structures.

        In evaluation times are a fixed grid and noise has a fixed seed. The structures
        are integrated as in :meth:`sample`, so validation metrics are those of samples.

        Args:
            batch: ``structure_array``, ``graph`` and ``displacement``.

        Returns:
            ``loss_dict`` with ``loss``: Å, or Å² for ``mse``, mean over the free atoms
            of each structure, then over structures. In evaluation also ``pred_dict``
            with ``cart_coords_relaxed``, [N, 3] Å.
        """
        atoms = batch["structure_array"]
        start, displacement = atoms["cart_coords"], batch["displacement"]
        num_atoms = atoms["num_atoms"]
        count = num_atoms.shape[0]
        if self.training:
            noise = paddle.randn(start.shape, dtype=start.dtype)
            time = self.scheduler.sample_timesteps(count).astype(start.dtype)
        else:
            noise = draw_noise(batch, seed=0, sample=0)
            time = (paddle.arange(count, dtype=start.dtype) + 0.5) / count
            if self.scheduler.time_sampling == "zero":
                time = paddle.zeros_like(time)
        noise = noise * free_atoms(atoms, start.dtype).unsqueeze(-1)  # [N, 3]
        per_atom = paddle.repeat_interleave(time, num_atoms).unsqueeze(-1)  # [N, 1]
        positions = self.scheduler.add_noise(start, displacement, noise, per_atom)
        predicted = self.displacement(batch, positions, time)
        error = (predicted - displacement).square().sum(axis=-1)  # [N] Å²
        if self.loss_type == "l2_norm":
            error = (error + 1e-12).sqrt()
        loss = mean_over_free_atoms(error, atoms)
        result = {"loss_dict": {"loss": loss}}
        if not self.training:
            relaxed = self.integrate(batch, noise, self.num_inference_steps)
            result["pred_dict"] = {"cart_coords_relaxed": relaxed}
        return result

    def integrate(
        self, batch: dict, noise: paddle.Tensor, num_inference_steps: int
    ) -> paddle.Tensor:
        """Integrate from the start to the end of the path, [N, 3] Å."""
        atoms = batch["structure_array"]
        positions = self.scheduler.prior_sampling(atoms["cart_coords"], noise)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            time = paddle.full(atoms["num_atoms"].shape, t, dtype=positions.dtype)
            velocity = self.scheduler.velocity_to(
                self.displacement(batch, positions, time),
                positions - atoms["cart_coords"],
                t,
            )
            positions = self.scheduler.step(velocity, t, positions).prev_sample
        return positions

    @paddle.no_grad()
    def sample(
        self,
        batch_data: dict,
        num_inference_steps: Annotated[int, Range(1, 10_000)] | None = None,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
        num_samples: Annotated[int, Range(1, 10_000)] = 1,
    ) -> dict:
        """Generate relaxed structures.

        Args:
            batch_data: Batch with ``structure_array``, ``graph`` and ``id``.
            num_inference_steps: Integration steps; None takes the model's own number.
            seed: Seed of the noise; the same seed gives the same structures.
            num_samples: Samples of each initial structure.

        Returns:
            See :func:`~ppmat.models.generated_structures.structure_results`.

        Raises:
            InputError: The batch has no initial positions.
        """
        check_initial_structures(batch_data)
        steps = num_inference_steps
        steps = self.num_inference_steps if steps is None else steps
        atoms = batch_data["structure_array"]
        free = free_atoms(atoms, atoms["cart_coords"].dtype).unsqueeze(-1)  # [N, 1]
        draws = [
            self.integrate(
                batch_data, draw_noise(batch_data, seed, sample) * free, steps
            ).numpy()
            for sample in range(num_samples)
        ]  # [N, 3] each
        return structure_results(batch_data, draws)
