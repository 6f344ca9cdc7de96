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


"""SFINEnergy: the adsorption energy of a slab's relaxed structure (OC20 IS2RE)."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Literal

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.nn import functional as F
from pymatgen.core import Element

from ppmat.models.sfin.sfin_structure import MAX_ATOMIC_NUMBER
from ppmat.models.sfin.sfin_structure import NUM_TAGS
from ppmat.models.sfin.sfin_structure import GatedActivation
from ppmat.models.sfin.sfin_structure import SFINBackbone
from ppmat.models.sfin.sfin_structure import mean_over_free_atoms
from ppmat.models.sfin.sfin_structure import sum_per_structure


class AtomHead(nn.Layer):
    """A small network from an atom's scalars to one number, [N, C] -> [N]."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(
            channels, 1, weight_attr=nn.initializer.Normal(std=0.01)
        )  # begins near the mean of the data

    def forward(self, s: paddle.Tensor) -> paddle.Tensor:
        return self.out(self.dropout(F.silu(self.hidden(s)))).squeeze(-1)


class SFINEnergy(nn.Layer):
    """Adsorption energy read from the atoms of adsorbate and surface.

    The label belongs to the relaxed structure while the input is the initial one, so
    the network may also learn where the atoms go (joint training, IS2RE + IS2RS):

    * ``displacement_weight`` adds the way to the relaxed positions as auxiliary
      target, with a weight that falls linearly over the training;
    * ``noisy_nodes`` shows a share of the structures on their way: every atom
      somewhere between its initial and relaxed position, plus Gaussian noise
      (Godwin et al., ICLR 2022; the settings are those of Equiformer on OC20);
    * ``num_recycles`` lets the network move the atoms to where it predicts them, and
      look again, before the energy is read. In training each batch takes a random
      number of such looks, without gradient but for the last, so that the network
      meets its own predictions.

    Atoms move by minimum image and along the graph of the initial structure; fixed
    atoms stay.

    Args:
        backbone_cfg: Constructor arguments of :class:`SFINBackbone`.
        property_name: Label in the batch, [S, 1] eV.
        data_mean: Subtracted from the label [eV]. Kept as a buffer, so that it travels
            with the weights.
        data_std: Divides the label [eV]. Kept as a buffer.
        pooling: ``"sum"`` or ``"mean"`` of the energies of the atoms read.
        readout_tags: Tags of the atoms read: 0 sub-surface, 1 surface, 2 adsorbate.
        element_reference: Energy [eV] of an atom by element symbol, summed over the
            atoms read and taken off the label before it is normalised; the network
            learns the rest. Kept as a buffer.
        displacement_weight: Weight of the auxiliary loss [1/Å] at the begin and at the
            end of training; None for energies alone.
        noisy_nodes: Share of the structures that are shown on their way.
        noise_std: Standard deviation [Å] of their noise.
        num_recycles: How often the network moves the atoms before the energy is read.
        dropout: Share of hidden units of the read-out that are dropped in training.
        predict_error: Whether a head learns the expected absolute error: the scale of
            a Laplace distribution around the energy. It learns from features and
            errors without touching them.
    """

    nested_params = {"backbone_cfg": SFINBackbone}

    def __init__(
        self,
        backbone_cfg: dict,
        property_name: str = "y_relaxed",
        data_mean: float = 0.0,
        data_std: float = 1.0,
        pooling: Literal["sum", "mean"] = "sum",
        readout_tags: Sequence[int] = (1, 2),
        element_reference: Mapping[str, float] | None = None,
        displacement_weight: Sequence[float] | None = None,
        noisy_nodes: float = 0.0,
        noise_std: float = 0.3,
        num_recycles: int = 0,
        dropout: float = 0.0,
        predict_error: bool = False,
    ) -> None:
        super().__init__()
        if displacement_weight is None and (noisy_nodes or num_recycles):
            raise ValueError(
                "noisy_nodes and num_recycles move atoms as the displacement head "
                "says; give displacement_weight too, e.g. [15, 1]"
            )
        if displacement_weight is not None and len(displacement_weight) != 2:
            raise ValueError(
                "displacement_weight is the weight at the begin and at the end of "
                f"training, got {displacement_weight!r}"
            )
        if not set(readout_tags) <= set(range(NUM_TAGS)) or not readout_tags:
            raise ValueError(f"readout_tags must be of 0, 1, 2, got {readout_tags!r}")
        if not data_std > 0:
            raise ValueError(f"data_std must be above 0, got {data_std!r}")
        self.property_name = property_name
        self.pooling = pooling
        self.readout_tags = tuple(readout_tags)
        self.displacement_weight = displacement_weight
        self.noisy_nodes = noisy_nodes
        self.noise_std = noise_std
        self.num_recycles = num_recycles

        self.backbone = SFINBackbone(**backbone_cfg)
        channels, vectors = self.backbone.out_channels, self.backbone.out_vectors
        self.readout = GatedActivation(channels, vectors)
        self.energy_head = AtomHead(channels, dropout)
        self.displacement_head = None
        if displacement_weight is not None:
            self.displacement_head = nn.Linear(
                vectors,
                1,
                weight_attr=nn.initializer.Normal(std=0.01),
                bias_attr=False,
            )
        self.error_head = None
        if predict_error:
            self.error_head = AtomHead(channels)
            # above 1 where errors on other data are larger than in training
            self.register_buffer("error_factor", paddle.ones([]))

        self.register_buffer("data_mean", paddle.full([], data_mean))
        self.register_buffer("data_std", paddle.full([], data_std))
        reference = paddle.zeros([MAX_ATOMIC_NUMBER + 1])
        for symbol, energy in (element_reference or {}).items():
            reference[Element(symbol).Z] = energy
        self.register_buffer("reference", reference)
        self.register_buffer("batches_seen", paddle.zeros([], dtype="int64"))
        self.register_buffer(
            "elements_seen", paddle.zeros([MAX_ATOMIC_NUMBER + 1], dtype="bool")
        )
        self.num_batches: int | None = None

    def before_train(self, trainer) -> None:
        """Learn from the trainer how long the auxiliary weight has to fall."""
        epochs = trainer.config.max_epochs
        self.num_batches = epochs * len(trainer.train_dataloader)

    def present_displacement_weight(self) -> float:
        """Return the auxiliary loss's weight [1/Å] at this point of the training.

        Outside of a trainer, which alone knows the length of the training, it stays
        at its begin.
        """
        begin, end = self.displacement_weight
        if self.num_batches is None:
            return begin
        done = min(float(self.batches_seen) / self.num_batches, 1.0)
        return begin + (end - begin) * done

    def look(
        self, batch: dict, positions: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor | None, paddle.Tensor | None]:
        """Look at the atoms where they are now.

        Args:
            batch: The batch.
            positions: Where the atoms are, [N, 3] Å.

        Returns:
            Normalised energy [S]; where the atoms will be, [N, 3] Å; logarithm of the
            expected normalised error [S]. The last two are None without their heads.
        """
        atoms = batch["structure_array"]
        features, _ = self.backbone(batch, positions)
        x = self.readout(features)
        energy = self.pool(atoms, self.energy_head(x.s), self.pooling)
        relaxed = log_error = None
        if self.displacement_head is not None:
            free = 1.0 - atoms["fixed"].astype(positions.dtype)
            way = self.displacement_head(x.v).squeeze(-1) * free.unsqueeze(-1)
            relaxed = positions + way
        if self.error_head is not None:
            log_error = self.pool(atoms, self.error_head(x.s.detach()), "mean")
        return energy, relaxed, log_error

    def pool(
        self, atoms: dict, values: paddle.Tensor, pooling: Literal["sum", "mean"]
    ) -> paddle.Tensor:
        """Sum or average the values [N] of the atoms read, to [S]."""
        read = paddle.zeros_like(values)
        for tag in self.readout_tags:
            read = read + (atoms["tags"] == tag).astype(values.dtype)
        num_atoms = atoms["num_atoms"]
        total = sum_per_structure(values * read, num_atoms)
        if pooling == "sum":
            return total
        return total / sum_per_structure(read, num_atoms).clip(min=1.0)

    def start_positions(self, batch: dict) -> paddle.Tensor:
        """Draw where the atoms stand in a training step, [N, 3] Å."""
        atoms = batch["structure_array"]
        positions = atoms["cart_coords"]
        if self.num_recycles:
            looks = paddle.randint(0, self.num_recycles + 1, [1]).item()
            positions = self.recycle(batch, looks)
        if self.noisy_nodes:
            dtype, n = positions.dtype, positions.shape[0]
            num_atoms = atoms["num_atoms"]
            shown = paddle.rand([num_atoms.shape[0]]) < self.noisy_nodes
            shown = paddle.repeat_interleave(shown.astype(dtype), num_atoms)
            free = 1.0 - atoms["fixed"].astype(dtype)
            noisy = (
                atoms["cart_coords"]
                + paddle.rand([n, 1], dtype=dtype) * batch["displacement"]
                + self.noise_std * paddle.randn([n, 3], dtype=dtype)
            )
            on_way = (shown * free).unsqueeze(-1)
            positions = positions + (noisy - positions) * on_way
        return positions

    @paddle.no_grad()
    def recycle(self, batch: dict, looks: int) -> paddle.Tensor:
        """Move the atoms ``looks`` times to where they are predicted, [N, 3] Å."""
        positions = batch["structure_array"]["cart_coords"]
        for _ in range(looks):
            _, positions, _ = self.look(batch, positions)
        return positions

    def forward(self, batch: dict) -> dict:
        """Compute the loss and the energies.

        Returns:
            ``loss_dict`` with ``loss``, the sum of ``energy`` (mean absolute error of
            the normalised energy), of ``displacement`` (Å, mean over the free atoms of
            each structure, then over structures) times its weight, and of ``error``
            (negative log-likelihood); and ``pred_dict`` with ``property_name`` [S, 1]
            eV and, with the auxiliary head, ``cart_coords_relaxed`` [N, 3] Å.
        """
        atoms = batch["structure_array"]
        if self.training:
            positions = self.start_positions(batch)
        else:
            positions = self.recycle(batch, self.num_recycles)
        energy, relaxed, log_error = self.look(batch, positions)
        label = batch[self.property_name].squeeze(-1)
        error = (energy - (label - self.offset(atoms)) / self.data_std).abs()
        losses = {"energy": error.mean()}
        loss = losses["energy"]
        if relaxed is not None:
            way = relaxed - atoms["cart_coords"] - batch["displacement"]
            length = (way.square().sum(axis=-1) + 1e-12).sqrt()
            losses["displacement"] = mean_over_free_atoms(length, atoms)
            loss = loss + self.present_displacement_weight() * losses["displacement"]
        if log_error is not None:
            losses["error"] = (error.detach() * (-log_error).exp() + log_error).mean()
            loss = loss + losses["error"]
        if self.training:
            self.keep_count(atoms["atom_types"])
        predicted = {self.property_name: self.in_ev(atoms, energy).unsqueeze(-1)}
        if relaxed is not None:
            predicted["cart_coords_relaxed"] = relaxed
        return {"loss_dict": {"loss": loss, **losses}, "pred_dict": predicted}

    @paddle.no_grad()
    def keep_count(self, atom_types: paddle.Tensor) -> None:
        """Remember that a batch, and which elements on any process, were trained on."""
        self.batches_seen.add_(paddle.ones_like(self.batches_seen))
        count = paddle.bincount(atom_types, minlength=MAX_ATOMIC_NUMBER + 1)
        if dist.get_world_size() > 1:
            dist.all_reduce(count)
        self.elements_seen.set_value(paddle.logical_or(self.elements_seen, count > 0))

    def offset(self, atoms: dict) -> paddle.Tensor:
        """Return what is taken off the labels before they are scaled, [S] eV."""
        reference = paddle.gather(self.reference, atoms["atom_types"])
        return self.data_mean + self.pool(atoms, reference, "sum")

    def in_ev(self, atoms: dict, energy: paddle.Tensor) -> paddle.Tensor:
        """Undo the normalisation of energies [S]."""
        return energy * self.data_std + self.offset(atoms)

    @paddle.no_grad()
    def predict(self, batch: dict) -> dict:
        """Predict without labels.

        Args:
            batch: ``structure_array`` and ``graph``.

        Returns:
            ``property_name``, numpy [S] eV; with ``predict_error`` also
            ``expected_error``, [S] eV; with the auxiliary head also
            ``cart_coords_relaxed``, a list of [n, 3] Å, not wrapped.
        """
        positions = self.recycle(batch, self.num_recycles)
        energy, relaxed, log_error = self.look(batch, positions)
        atoms = batch["structure_array"]
        result = {self.property_name: self.in_ev(atoms, energy).numpy()}
        if log_error is not None:
            scale = self.data_std * self.error_factor
            result["expected_error"] = (log_error.exp() * scale).numpy()
        if relaxed is not None:
            counts = atoms["num_atoms"].tolist()
            result["cart_coords_relaxed"] = [
                part.numpy() for part in paddle.split(relaxed, counts)
            ]
        return result
