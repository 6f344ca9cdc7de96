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

"""SFINPlacement moves an adsorbate from a random placement to a low-energy one.

It is :class:`~ppmat.models.sfin.sfin_flow.SFINFlow` on other paths: those of
``ppmat/datasets/placement_dataset.py``, where molecules move and turn as a whole. Atoms
travel far on them, so the graph is made anew in each step.

Shapes: ``N`` atoms and ``S`` structures of a batch. Lengths are in Å.
"""

from __future__ import annotations

from typing import Annotated
from typing import Literal

import numpy as np
import paddle

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.oc20_is2re_dataset import graph_converter
from ppmat.models.generated_structures import structure_results
from ppmat.models.sfin.batch_counter import mark_elements
from ppmat.models.sfin.batch_counter import no_elements
from ppmat.models.sfin.sfin_flow import SFINFlow
from ppmat.models.sfin.sfin_structure import SFINBackbone
from ppmat.models.sfin.structure_geometry import free_atoms
from ppmat.models.sfin.structure_geometry import sum_per_structure
from ppmat.schedulers import FlowMatchingScheduler
from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range
from ppmat.utils.rigid_motion import move

_ADSORBATE = 2  # tag


class SFINPlacement(SFINFlow):
    """Flow from random to low-energy placements of an adsorbate on a slab.

    The network sees the present structure and the time, and predicts the motion to the
    end of the path: one vector for each atom, which is translation, rotation and
    deformation of the adsorbate (``ppmat/utils/rigid_motion.py``), and the displacement
    of each slab atom. A sample is a function of the placement it starts from; several
    need several placements.

    In YAML::

        Model:
          __class_name__: SFINPlacement
          __init_params__:
            backbone_cfg: {channels: 32, vectors: 16, cutoff: 5.0, k_cut: 0.7}
            scheduler_cfg:
              __class_name__: FlowMatchingScheduler
              __init_params__: {}
            graph_cfg:
              __class_name__: PeriodicGraphConverter
              __init_params__: {cutoff: 5.0, max_neighbors: 24, k_cut: 0.7}
            num_inference_steps: 10

    Attributes:
        elements_seen: Whether an element was in the training data, by atomic number. A
            buffer, saved with the weights.

    Args:
        backbone_cfg: Constructor arguments of :class:`SFINBackbone`.
        scheduler_cfg: Block of the scheduler, with Euler steps and without noise or
            times of its own, as placements and times come from the data set.
        graph_cfg: Block of the graph converter, as that of the data set.
        loss_type: See :class:`~ppmat.models.sfin.sfin_flow.SFINFlow`.
        num_inference_steps: Default of :meth:`sample`.

    Raises:
        InputError: The scheduler has noise, another solver or other times.
    """

    moves_far = True  # can start from placements anywhere on the surface
    nested_params = {
        "backbone_cfg": SFINBackbone,
        "scheduler_cfg": [FlowMatchingScheduler],
        "graph_cfg": [PeriodicGraphConverter],
    }

    def __init__(
        self,
        backbone_cfg: dict,
        scheduler_cfg: dict,
        graph_cfg: dict,
        loss_type: Literal["l2_norm", "mse"] = "l2_norm",
        num_inference_steps: Annotated[int, Range(1, 10_000)] = 10,
    ) -> None:
        super().__init__(backbone_cfg, scheduler_cfg, loss_type, num_inference_steps)
        self.register_buffer("elements_seen", no_elements())
        self.build_graph = graph_converter(graph_cfg)
        used = vars(self.scheduler)
        plain = vars(FlowMatchingScheduler())
        names = ("noise_std", "solver", "time_sampling", "time_power")
        for name in names:
            if used[name] != plain[name]:
                raise InputError(
                    f"{name} is {used[name]!r}",
                    where="SFINPlacement.scheduler_cfg",
                    wanted=f"{plain[name]!r}, as PlacementDataset draws start and time",
                )

    def forward(self, batch: dict) -> dict:
        """Compute the loss at the points of a ``PlacementDataset``.

        Args:
            batch: ``structure_array``, ``graph``, ``displacement`` [N, 3] and ``time``
                [S, 1].

        Returns:
            ``loss_dict``: ``loss``, the sum of ``adsorbate`` and ``slab``, each the
            mean over the free atoms of it and then over structures; Å, or Å² for
            ``mse``.
        """
        atoms, wanted = batch["structure_array"], batch["displacement"]
        if self.training:
            mark_elements(self.elements_seen, atoms["atom_types"])
        time = batch["time"].reshape([-1])
        predicted = self.displacement(batch, atoms["cart_coords"], time)
        error = (predicted - wanted).square().sum(axis=-1)  # [N] Å²
        if self.loss_type == "l2_norm":
            error = (error + 1e-12).sqrt()
        free = free_atoms(atoms, error.dtype)
        own = (atoms["tags"] == _ADSORBATE).astype(error.dtype)
        losses = {}
        for name, mask in (("adsorbate", own * free), ("slab", (1 - own) * free)):
            total = sum_per_structure(error * mask, atoms["num_atoms"])
            count = sum_per_structure(mask, atoms["num_atoms"]).clip(min=1.0)
            losses[name] = (total / count).mean()
        return {"loss_dict": {"loss": losses["adsorbate"] + losses["slab"], **losses}}

    @paddle.no_grad()
    def sample(
        self,
        batch_data: dict,
        num_inference_steps: Annotated[int, Range(1, 10_000)] | None = None,
    ) -> dict:
        """Move the adsorbates of placements to where they belong.

        Args:
            batch_data: Batch with ``structure_array``, ``graph`` and ``id``.
            num_inference_steps: Steps; None takes the model's own number.

        Returns:
            See :func:`~ppmat.models.generated_structures.structure_results`.
        """
        atoms = dict(batch_data["structure_array"])
        batch = {**batch_data, "structure_array": atoms}
        steps = num_inference_steps or self.num_inference_steps
        self.scheduler.set_timesteps(steps)
        for number, t in enumerate(self.scheduler.timesteps):
            if number:
                batch["graph"] = self._graph(atoms)
            time = paddle.full(atoms["num_atoms"].shape, t, atoms["cart_coords"].dtype)
            motion = self.displacement(batch, atoms["cart_coords"], time)
            # A path is straight in the motion from the present point.
            here = paddle.zeros_like(motion)
            velocity = self.scheduler.velocity_to(motion, here, t)
            step = self.scheduler.step(velocity, t, here).prev_sample
            atoms["cart_coords"] = self._moved(atoms, step)
        return structure_results(batch_data, [atoms["cart_coords"].numpy()])

    def _moved(self, atoms: dict, step: paddle.Tensor) -> paddle.Tensor:
        """Return positions after a step, [N, 3]: molecules turn, slab atoms shift."""
        positions, motion = atoms["cart_coords"].numpy(), step.numpy()
        moved = positions + motion
        own = atoms["tags"].numpy() == _ADSORBATE
        counts = atoms["num_atoms"].numpy()
        structure = np.repeat(np.arange(len(counts)), counts)
        for i in range(len(counts)):
            rows = np.flatnonzero(own & (structure == i))
            if len(rows):
                moved[rows] = move(positions[rows], motion[rows])
        return paddle.to_tensor(moved.astype(positions.dtype))

    def _graph(self, atoms: dict) -> dict:
        """Return the graph of the present positions."""
        parts = np.split(
            atoms["cart_coords"].numpy().astype("float64"),
            np.cumsum(atoms["num_atoms"].numpy())[:-1],
        )
        cells = atoms["lattice"].numpy().astype("float64")
        graphs = [self.build_graph.of_positions(*pair) for pair in zip(parts, cells)]
        batch = DefaultCollator()([{"graph": graph} for graph in graphs])
        return paddle.utils.map_structure(paddle.to_tensor, batch["graph"])
