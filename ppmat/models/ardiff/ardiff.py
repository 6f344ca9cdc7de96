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


"""ARDiff draws the relaxed positions of a slab with an adsorbate, atom by atom.

A decoder reads elements, lattice and initial positions, and the relaxed positions so
far. Its hidden state is the condition of a small diffusion model, which draws the
position of the next free atom. The idea is that of MAR (Li et al., arXiv 2406.11838):
a transformer over numbers, without a vocabulary of numbers. No symmetry is built in.

Shapes: ``N`` atoms, ``F`` free atoms and ``S`` structures of a batch; ``P`` columns of
the given prefix, ``Q`` columns of slots, ``D`` width of the decoder.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import paddle
from paddle import nn

from ppmat.models.ardiff.augmentation import Augmentation
from ppmat.models.ardiff.coordinates import Coordinates
from ppmat.models.ardiff.decoder import Decoder
from ppmat.models.ardiff.diffusion_head import DiffusionHead
from ppmat.models.ardiff.embedding import TokenEmbedding
from ppmat.models.ardiff.token_layout import TokenLayout
from ppmat.models.ardiff.token_layout import token_layout
from ppmat.models.generated_structures import check_initial_structures
from ppmat.models.generated_structures import random_streams
from ppmat.models.generated_structures import structure_ids
from ppmat.models.generated_structures import structure_results
from ppmat.models.sfin.structure_geometry import sum_per_structure
from ppmat.schedulers import DDPMScheduler
from ppmat.schedulers import build_scheduler
from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range


class ARDiff(nn.Layer):
    """Autoregressive diffusion from the initial to the relaxed structure.

    In YAML::

        Model:
          __class_name__: ARDiff
          __init_params__:
            decoder_cfg: {hidden_size: 64, intermediate_size: 256,
                          num_hidden_layers: 3, num_attention_heads: 4}
            scheduler_cfg:
              __class_name__: DDPMScheduler
              __init_params__: {solver: dpmpp_2m}
            displacement_std: 0.5
            diff_steps: 20

    Args:
        decoder_cfg: Constructor arguments of :class:`Decoder`.
        scheduler_cfg: Block of the scheduler (``DDPMScheduler``).
        scale_coords: Predict fractional positions times this factor; see
            :class:`Coordinates`.
        displacement_std: Predict displacements over this length [Å]. Exactly one of
            the two is a number.
        diff_width: Width of the diffusion head.
        diff_depth: Residual blocks of the diffusion head.
        diff_mul: Noise levels that the head is trained on for each position.
        diff_steps: Denoising steps in evaluation, and the default of :meth:`sample`.
        max_sites: Most atoms of a structure.
        augmentation_cfg: Constructor arguments of :class:`Augmentation`, for training.
    """

    supports_num_atoms_sampling = False
    supports_chemical_formula_sampling = False
    nested_params = {
        "decoder_cfg": Decoder,
        "scheduler_cfg": [DDPMScheduler],
        "augmentation_cfg": Augmentation,
    }

    def __init__(
        self,
        decoder_cfg: dict,
        scheduler_cfg: dict,
        scale_coords: Annotated[float, Range(above=0, most=10**6)] | None = None,
        displacement_std: Annotated[float, Range(above=0, most=100)] | None = None,
        diff_width: Annotated[int, Range(1, 65_536)] = 1024,
        diff_depth: Annotated[int, Range(1, 1000)] = 3,
        diff_mul: Annotated[int, Range(1, 1000)] = 4,
        diff_steps: Annotated[int, Range(1, 100_000)] = 100,
        max_sites: Annotated[int, Range(1, 10**6)] = 500,
        augmentation_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        self.coordinates = Coordinates(scale_coords, displacement_std)
        self.decoder = Decoder(**decoder_cfg)
        self.scheduler = build_scheduler(scheduler_cfg)
        self.scheduler.set_timesteps(diff_steps)  # refuses too many
        self.embedding = TokenEmbedding(self.decoder.hidden_size)
        self.head = DiffusionHead(self.decoder.hidden_size, diff_width, diff_depth)
        self.augmentation = Augmentation(**(augmentation_cfg or {}))
        self.diff_mul = diff_mul
        self.diff_steps = diff_steps
        self.max_sites = max_sites

    def forward(self, batch: dict) -> dict:
        """Compute the diffusion loss and, in evaluation, relaxed structures.

        In evaluation the noise has a fixed seed, and structures are drawn as in
        :meth:`sample`, so validation metrics are those of samples.

        Args:
            batch: ``structure_array`` and ``displacement``.

        Returns:
            ``loss_dict`` with ``loss``: squared error of what the scheduler asks for,
            mean over the free atoms of each structure, then over structures. In
            evaluation also ``pred_dict`` with ``cart_coords_relaxed``, [N, 3] Å.
        """
        self._check_sites(batch)
        atoms, displacement = batch["structure_array"], batch["displacement"]
        read = displacement
        if self.training:
            atoms, displacement = self.augmentation(atoms, displacement)
            read = displacement + self.augmentation.noise(displacement)
        layout = token_layout(atoms)
        relaxed = self.coordinates.relaxed(atoms, displacement)[layout.free]  # [F, 3]
        read = self.coordinates.relaxed(atoms, read)[layout.free]
        hidden = self.hidden(atoms, layout, read)
        streams = None if self.training else random_streams(batch, seed=0, sample=0)
        loss = self.diffusion_loss(hidden, relaxed, layout.num_free, streams)
        result = {"loss_dict": {"loss": loss}}
        if not self.training:
            streams = random_streams(batch, seed=0, sample=0)
            drawn = self.draw(batch, streams, self.diff_steps)
            result["pred_dict"] = {"cart_coords_relaxed": drawn}
        return result

    def hidden(
        self, atoms: dict, layout: TokenLayout, relaxed: paddle.Tensor
    ) -> paddle.Tensor:
        """Return the hidden state of each slot, [F, D].

        Args:
            atoms: ``structure_array`` of a batch.
            layout: Its layout.
            relaxed: Triples of the relaxed free atoms, [F, 3]. A slot reads those of
                the slots before it.
        """
        initial = self.coordinates.initial(atoms)
        prefix = self.embedding.prefix(atoms, initial, layout)
        last = relaxed[layout.slots][:, :-1]  # [S, Q - 1, 3]
        last = paddle.concat([paddle.zeros_like(last[:, :1]), last], axis=1)
        slots = self.embedding.slots(atoms, initial, layout)
        slots = slots + self.embedding.previous(last)
        columns = paddle.concat([prefix, slots], axis=1)
        hidden, _ = self.decoder(columns, layout.position, layout.mask)
        return hidden[:, prefix.shape[1] :].flatten(0, 1)[layout.place]

    def diffusion_loss(
        self,
        hidden: paddle.Tensor,
        relaxed: paddle.Tensor,
        num_free: paddle.Tensor,
        streams: list[np.random.Generator] | None,
    ) -> paddle.Tensor:
        """Return the loss of the head for hidden states [F, D] and triples [F, 3].

        Noise and times come from the streams, one of each structure, or without them
        from Paddle's generator.
        """
        clean = paddle.repeat_interleave(relaxed, self.diff_mul, axis=0)
        condition = paddle.repeat_interleave(hidden, self.diff_mul, axis=0)
        if streams is None:
            noise = paddle.randn(clean.shape, clean.dtype)
            time = self.scheduler.sample_timesteps(len(clean))
        else:
            counts = (num_free * self.diff_mul).tolist()
            pairs = list(zip(streams, counts, strict=True))
            noise = np.concatenate([s.standard_normal((n, 3)) for s, n in pairs])
            steps = self.scheduler.num_train_timesteps
            time = np.concatenate([s.integers(0, steps, n) for s, n in pairs])
            noise, time = paddle.to_tensor(noise, clean.dtype), paddle.to_tensor(time)
        noisy = self.scheduler.add_noise(clean, noise, time)
        error = self.head(noisy, time, condition)
        error = error - self.scheduler.target(clean, noise, time)
        error = error.square().reshape([len(relaxed), -1]).mean(axis=1)  # [F]
        shares = num_free.clip(min=1).astype(error.dtype)
        return (sum_per_structure(error, num_free) / shares).mean()

    @paddle.no_grad()
    def draw(
        self,
        batch: dict,
        streams: list[np.random.Generator],
        diff_steps: int,
        temperature: float = 1.0,
    ) -> paddle.Tensor:
        """Draw relaxed positions, slot by slot, [N, 3] Å.

        Args:
            batch: ``structure_array``.
            streams: Random generator of each structure.
            diff_steps: Denoising steps.
            temperature: Factor of all noise.
        """
        atoms = batch["structure_array"]
        start = atoms["cart_coords"]
        layout = token_layout(atoms)
        if not len(layout.free):
            return start
        initial = self.coordinates.initial(atoms)
        prefix = self.embedding.prefix(atoms, initial, layout)
        slots = self.embedding.slots(atoms, initial, layout)
        count, width = layout.slots.shape  # S, Q
        noise = np.zeros([width, diff_steps, count, 3])
        for i, (stream, n) in enumerate(zip(streams, layout.num_free.tolist())):
            noise[:n, :, i] = stream.standard_normal((n, diff_steps, 3))
        noise = temperature * paddle.to_tensor(noise, start.dtype)

        mask, end = layout.mask, prefix.shape[1]
        _, cache = self.decoder(prefix, layout.position[:, :end], mask[:, :end, :end])
        triple, drawn = paddle.zeros([count, 3], start.dtype), []
        for number in range(width):
            now, end = slice(end, end + 1), end + 1
            column = slots[:, number] + self.embedding.previous(triple)
            hidden, cache = self.decoder(
                column.unsqueeze(1), layout.position[:, now], mask[:, now, :end], cache
            )
            triple = self._denoise(hidden.squeeze(1), noise[number])
            drawn.append(triple)
        drawn = paddle.stack(drawn, axis=1).flatten(0, 1)[layout.place]  # [F, 3]
        relaxed = paddle.scatter(paddle.zeros_like(start), layout.free, drawn)
        moved = self.coordinates.displacement(atoms, relaxed)
        moved = paddle.where(
            atoms["fixed"].unsqueeze(1), paddle.zeros_like(moved), moved
        )
        return start + moved

    def _denoise(self, hidden: paddle.Tensor, noise: paddle.Tensor) -> paddle.Tensor:
        """Return triples [S, 3] from hidden states [S, D] and noise [steps, S, 3]."""
        self.scheduler.set_timesteps(len(noise))
        x = noise[0]
        for call, t in enumerate(self.scheduler.timesteps):
            time = paddle.full([len(x)], t, dtype="int64")
            added = noise[call + 1] if call + 1 < len(noise) else None  # last: none
            x = self.scheduler.step(self.head(x, time, hidden), t, x, added).prev_sample
        return x

    def sample(
        self,
        batch_data: dict,
        diff_steps: Annotated[int, Range(1, 100_000)] | None = None,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
        num_samples: Annotated[int, Range(1, 10_000)] = 1,
        temperature: Annotated[float, Range(0, 10)] = 1.0,
    ) -> dict:
        """Generate relaxed structures.

        Args:
            batch_data: Batch with ``structure_array`` and ``id``.
            diff_steps: Denoising steps of a position; None takes the model's own.
            seed: Seed of the noise; the same seed gives the same structures.
            num_samples: Samples of each initial structure.
            temperature: Factor of the noise. Below 1 the samples are closer to each
                other; 0 gives one answer.

        Returns:
            See :func:`~ppmat.models.generated_structures.structure_results`.

        Raises:
            InputError: The batch has no initial positions, a structure has more than
                ``max_sites`` atoms, or several samples are wanted without noise.
        """
        check_initial_structures(batch_data)
        self._check_sites(batch_data)
        if temperature == 0 and num_samples > 1:
            raise InputError(
                f"temperature is 0 and num_samples {num_samples}, so all samples would "
                "be equal",
                wanted="a temperature above 0, or one sample",
            )
        steps = self.diff_steps if diff_steps is None else diff_steps
        draws = [
            self.draw(
                batch_data, random_streams(batch_data, seed, sample), steps, temperature
            ).numpy()
            for sample in range(num_samples)
        ]  # [N, 3] each
        return structure_results(batch_data, draws)

    def _check_sites(self, batch: dict) -> None:
        counts = batch["structure_array"]["num_atoms"].tolist()
        for name, count in zip(structure_ids(batch), counts):
            if count > self.max_sites:
                raise InputError(
                    f"structure {name} has {count} atoms",
                    wanted=f"at most max_sites, {self.max_sites}",
                    hint="Leave it out, or raise Model.__init_params__.max_sites; a "
                    "network is not reliable beyond the sizes it was trained on.",
                )
