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

"""SFINEnergy predicts the adsorption energy of a relaxed structure (OC20 IS2RE).

The file holds the head from atoms to numbers and the model: energy, displacement and
error heads on the backbone of ``sfin_structure.py``.

Shapes: ``N`` atoms, ``S`` structures, ``D`` scalar channels of the backbone's output.
Energies are in eV, positions in Å.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Annotated
from typing import Literal

import paddle
from paddle import nn
from paddle.nn import functional as F
from pymatgen.core import Element

from ppmat.models.sfin.batch_counter import BatchCounter
from ppmat.models.sfin.batch_counter import WeightBatches
from ppmat.models.sfin.sfin_structure import ADSORBATE
from ppmat.models.sfin.sfin_structure import FORMER_WEIGHTS
from ppmat.models.sfin.sfin_structure import NUM_TAGS
from ppmat.models.sfin.sfin_structure import SURFACE
from ppmat.models.sfin.sfin_structure import GatedActivation
from ppmat.models.sfin.sfin_structure import SFINBackbone
from ppmat.models.sfin.sfin_structure import displacement_head
from ppmat.models.sfin.structure_geometry import free_atoms
from ppmat.models.sfin.structure_geometry import mean_over_free_atoms
from ppmat.models.sfin.structure_geometry import sum_per_structure
from ppmat.utils.element_properties import MAX_ATOMIC_NUMBER
from ppmat.utils.element_properties import PROPERTIES
from ppmat.utils.element_properties import element_properties
from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range


class AtomHead(nn.Layer):
    """Two linear layers from the scalars of an atom to one number.

    Args:
        channels: Scalar channels, ``D``.
        dropout: Fraction of hidden units that are dropped in training.
    """

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(
            channels, 1, weight_attr=nn.initializer.Normal(std=0.01)
        )  # training starts near the mean of the data

    def forward(self, s: paddle.Tensor) -> paddle.Tensor:
        """Return [N] of [N, D]."""
        return self.out(self.dropout(F.silu(self.hidden(s)))).squeeze(-1)


def atomic_number(symbol: str, where: str) -> int:
    """Return the atomic number of a symbol that an argument names."""
    if not Element.is_valid_symbol(symbol):
        raise InputError(f"{where} names {symbol!r}", wanted="symbols of elements")
    return Element(symbol).Z


def reference_table(
    element_reference: Mapping[str, float] | None, dtype: str
) -> paddle.Tensor:
    """Return the energies [119] eV by atomic number, 0 for elements without one."""
    table = paddle.zeros([MAX_ATOMIC_NUMBER + 1], dtype=dtype)
    for symbol, energy in (element_reference or {}).items():
        table[atomic_number(symbol, "element_reference")] = energy
    return table


def has_tag(atoms: dict, tag: int, dtype: paddle.dtype) -> paddle.Tensor:
    """Return 1 for each atom with a tag and 0 for the others, [N]."""
    return (atoms["tags"] == tag).astype(dtype)


# eV; the energies of elements are of the order of 10 eV
ElementReferences = Annotated[Mapping[str, float], Range(-(10**6), 10**6)]
_Slopes = Annotated[Mapping[str, Sequence[float]], Range(-(10**6), 10**6)]


class SFINEnergy(BatchCounter):
    """Adsorption energy as a sum over the atoms of adsorbate and surface.

    The energy is that of all adsorbates in the cell together. It is extensive with
    ``pooling="sum"``: a cell repeated n times has n times the energy, because
    ``data_mean`` is added once for each adsorbate molecule (``num_adsorbates`` of the
    batch; at least once).

    The label belongs to the relaxed structure, but the input is the initial one. The
    network may therefore learn the relaxed positions too (IS2RE with IS2RS):

    * ``displacement_weight`` adds a loss of the predicted displacement to the relaxed
      positions. Its weight falls linearly during training.
    * ``noisy_nodes`` replaces a fraction of the initial structures in training: each
      free atom is at a random point between its initial and relaxed position, plus
      Gaussian noise (Godwin et al., ICLR 2022; settings of Equiformer on OC20).
    * ``num_recycles`` moves the atoms to their predicted positions and applies the
      network again, before the energy is predicted. In training the number of
      repetitions is random, and gradients pass through the last one only.

    Displacements are minimum images, the graph stays that of the initial structure, and
    fixed atoms do not move.

    In YAML::

        Model:
          __class_name__: SFINEnergy
          __init_params__:
            backbone_cfg: {channels: 32, vectors: 16, cutoff: 5.0, k_cut: 0.7}
            displacement_weight: [15, 1]
            num_recycles: 1
            predict_error: true

    Args:
        backbone_cfg: Constructor arguments of :class:`SFINBackbone`.
        property_name: Label in the batch, [S, 1] eV.
        data_mean: Subtracted from the label for each adsorbate [eV]. A buffer, saved
            with the weights.
        data_std: Divides the label [eV]. A buffer, saved with the weights.
        pooling: ``"sum"`` or ``"mean"`` over the atoms in ``readout_tags``.
        readout_tags: Tags of these atoms: 0 sub-surface, 1 surface, 2 adsorbate.
        element_reference: Energy [eV] of an atom by element symbol. Its sum over the
            atoms in ``readout_tags`` is subtracted from the label before
            normalisation; the network learns the rest. A buffer.
        surface_reference: Slopes [eV] by element symbol, one for each of the
            :data:`~ppmat.utils.element_properties.PROPERTIES`. The energy of an
            adsorbate's atom in ``element_reference`` is larger by the slopes times the
            mean properties of the surface (tag 1), as ``surface_scaling`` fits. A
            buffer.
        displacement_weight: Weight [1/Å] of the displacement loss at the start and at
            the end of training; None trains on energies alone.
        weight_batches: Training batches of one process between the two; None takes
            the whole training.
        noisy_nodes: Fraction of the structures that get noisy positions.
        noise_std: Standard deviation [Å] of their noise.
        num_recycles: How often the atoms are moved before the energy is predicted.
        dropout: Fraction of hidden units of the energy head dropped in training.
        predict_error: Add a head for the expected absolute error, the scale of a
            Laplace distribution around the energy. The head gives the error for one
            adsorbate; that of n is n times as large, as for n equal copies. Its
            gradients reach neither the features nor the energy.

    Raises:
        InputError: Settings that contradict each other or have no meaning.
    """

    former_weights = FORMER_WEIGHTS
    # What weights do not bring to a new training, see ``left_behind`` of the command:
    # statistics of the labels, by the argument that gives them, and what is counted in
    # a training or measured after it
    label_statistics = {
        "data_mean": "data_mean",
        "data_std": "data_std",
        "element_reference": "reference",
        "surface_reference": "surface_slopes",
    }
    of_one_training = ("batches_seen", "error_factor")
    nested_params = {"backbone_cfg": SFINBackbone}

    def __init__(
        self,
        backbone_cfg: dict,
        property_name: str = "y_relaxed",
        data_mean: Annotated[float, Range(-(10**6), 10**6)] = 0.0,
        data_std: Annotated[float, Range(above=0, most=10**6)] = 1.0,
        pooling: Literal["sum", "mean"] = "sum",
        readout_tags: Annotated[Sequence[int], Range(0, 2)] = (1, 2),
        element_reference: ElementReferences | None = None,
        surface_reference: _Slopes | None = None,
        displacement_weight: Annotated[Sequence[float], Range(0, 10**6)] | None = None,
        weight_batches: WeightBatches = None,
        noisy_nodes: Annotated[float, Range(0, 1)] = 0.0,
        noise_std: Annotated[float, Range(0, 10)] = 0.3,
        num_recycles: Annotated[int, Range(0, 100)] = 0,
        dropout: Annotated[float, Range(0, below=1)] = 0.0,
        predict_error: bool = False,
    ) -> None:
        super().__init__(weight_batches)
        if displacement_weight is None and (noisy_nodes or num_recycles):
            raise InputError(
                "noisy_nodes and num_recycles need the displacement head",
                hint="Set displacement_weight too, e.g. [15, 1].",
            )
        if displacement_weight is not None and len(displacement_weight) != 2:
            raise InputError(
                f"displacement_weight is {displacement_weight!r}",
                wanted="two weights, at the start and at the end of training",
            )
        if not set(readout_tags) <= set(range(NUM_TAGS)) or not readout_tags:
            raise InputError(
                f"readout_tags is {readout_tags!r}", wanted="some of 0, 1, 2"
            )
        if not data_std > 0:
            raise InputError(f"data_std is {data_std!r}", wanted="a number above 0")
        self.property_name = property_name
        self.pooling = pooling
        self.readout_tags = tuple(readout_tags)
        self.displacement_weight = displacement_weight
        self.noisy_nodes = noisy_nodes
        self.noise_std = noise_std
        self.num_recycles = num_recycles

        self.backbone = SFINBackbone(**backbone_cfg)
        channels, vectors = self.backbone.out_channels, self.backbone.out_vectors
        self.readout = GatedActivation(channels, vectors, self.backbone.products)
        self.energy_head = AtomHead(channels, dropout)
        self.displacement_head = None
        if displacement_weight is not None:
            self.displacement_head = displacement_head(vectors)
        self.error_head = None
        if predict_error:
            self.error_head = AtomHead(channels)
            # Scales expected errors; above 1 if errors exceed those in training.
            self.register_buffer("error_factor", paddle.ones([]))

        self.register_buffer("data_mean", paddle.full([], float(data_mean)))
        self.register_buffer("data_std", paddle.full([], float(data_std)))
        reference = reference_table(element_reference, paddle.get_default_dtype())
        self.register_buffer("reference", reference)
        properties = paddle.to_tensor(element_properties(), reference.dtype)
        self.register_buffer("properties", properties, persistable=False)
        slopes = paddle.zeros_like(properties)  # [119, P]
        for symbol, values in (surface_reference or {}).items():
            if len(values) != len(PROPERTIES):
                raise InputError(
                    f"surface_reference.{symbol} has {len(values)} slopes",
                    wanted=f"{len(PROPERTIES)}, of {', '.join(PROPERTIES)}",
                )
            z = atomic_number(symbol, "surface_reference")
            slopes[z] = paddle.to_tensor(values, slopes.dtype)
        self.register_buffer("surface_slopes", slopes)

    def predict_at(
        self, batch: dict, positions: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor | None, paddle.Tensor | None]:
        """Apply the network once to given positions.

        Args:
            batch: ``structure_array`` and ``graph``.
            positions: Positions of the atoms, [N, 3] Å.

        Returns:
            Normalised energy [S]; relaxed positions, [N, 3] Å; logarithm of the
            expected normalised error [S]. The last two are None without their heads.
        """
        atoms = batch["structure_array"]
        features, _ = self.backbone(batch, positions)
        x = self.readout(features)
        energy = self.pool(atoms, self.energy_head(x.s), self.pooling)
        relaxed = log_error = None
        if self.displacement_head is not None:
            moved = self.displacement_head(x.v).squeeze(-1)  # [N, 3]
            free = free_atoms(atoms, positions.dtype).unsqueeze(-1)  # [N, 1]
            relaxed = positions + moved * free
        if self.error_head is not None:
            log_error = self.pool(atoms, self.error_head(x.s.detach()), "mean")
            log_error = log_error + self.adsorbates(atoms).log()
        return energy, relaxed, log_error

    def pool(
        self, atoms: dict, values: paddle.Tensor, pooling: Literal["sum", "mean"]
    ) -> paddle.Tensor:
        """Sum or average values [N] over the atoms in ``readout_tags``, to [S]."""
        mask = paddle.zeros_like(values)
        for tag in self.readout_tags:
            mask = mask + has_tag(atoms, tag, values.dtype)
        num_atoms = atoms["num_atoms"]
        total = sum_per_structure(values * mask, num_atoms)  # [S]
        if pooling == "sum":
            return total
        return total / sum_per_structure(mask, num_atoms).clip(min=1.0)

    def draw_positions(self, batch: dict) -> paddle.Tensor:
        """Draw the positions of the atoms for a training step, [N, 3] Å."""
        atoms = batch["structure_array"]
        positions = atoms["cart_coords"]
        if self.num_recycles:
            count = paddle.randint(0, self.num_recycles + 1, [1]).item()
            positions = self.recycle(batch, count)
        if self.noisy_nodes:
            dtype, n = positions.dtype, positions.shape[0]
            num_atoms = atoms["num_atoms"]
            chosen = paddle.rand([num_atoms.shape[0]]) < self.noisy_nodes  # [S]
            chosen = paddle.repeat_interleave(chosen.astype(dtype), num_atoms)  # [N]
            noisy = (
                atoms["cart_coords"]
                + paddle.rand([n, 1], dtype=dtype) * batch["displacement"]
                + self.noise_std * paddle.randn([n, 3], dtype=dtype)
            )  # [N, 3]
            mask = (chosen * free_atoms(atoms, dtype)).unsqueeze(-1)  # [N, 1]
            positions = positions + (noisy - positions) * mask
        return positions

    @paddle.no_grad()
    def recycle(self, batch: dict, count: int) -> paddle.Tensor:
        """Move the atoms ``count`` times to their predicted positions, [N, 3] Å."""
        positions = batch["structure_array"]["cart_coords"]
        for _ in range(count):
            _, positions, _ = self.predict_at(batch, positions)
        return positions

    def forward(self, batch: dict) -> dict:
        """Compute the loss and the energies.

        Args:
            batch: ``structure_array``, ``graph``, ``property_name`` and, with the
                displacement head, ``displacement``.

        Returns:
            ``loss_dict`` and ``pred_dict``. The loss is the sum of ``energy`` (mean
            absolute error of the normalised energy, of one adsorbate),
            ``displacement`` times its weight (Å, mean over the free atoms of each
            structure, then over structures) and ``error`` (negative log-likelihood).
            Predictions are ``property_name``, [S, 1] eV, and with the displacement
            head ``cart_coords_relaxed``, [N, 3] Å.
        """
        atoms = batch["structure_array"]
        if self.training:
            positions = self.draw_positions(batch)
        else:
            positions = self.recycle(batch, self.num_recycles)
        energy, relaxed, log_error = self.predict_at(batch, positions)
        label = batch[self.property_name].squeeze(-1)  # [S]
        error = (energy - (label - self.offset(atoms)) / self.data_std).abs()
        losses = {"energy": (error / self.adsorbates(atoms)).mean()}
        loss = losses["energy"]
        if relaxed is not None:
            miss = relaxed - atoms["cart_coords"] - batch["displacement"]  # [N, 3]
            length = (miss.square().sum(axis=-1) + 1e-12).sqrt()  # [N]
            losses["displacement"] = mean_over_free_atoms(length, atoms)
            weight = self.weight_now(self.displacement_weight)
            loss = loss + weight * losses["displacement"]
        if log_error is not None:
            losses["error"] = (error.detach() * (-log_error).exp() + log_error).mean()
            loss = loss + losses["error"]
        if self.training:
            self.count_batch(atoms["atom_types"])
        predicted = {self.property_name: self.in_ev(atoms, energy).unsqueeze(-1)}
        if relaxed is not None:
            predicted["cart_coords_relaxed"] = relaxed
        return {"loss_dict": {"loss": loss, **losses}, "pred_dict": predicted}

    def adsorbates(self, atoms: dict) -> paddle.Tensor:
        """Return the number of adsorbates of each structure, at least 1, [S]."""
        return atoms["num_adsorbates"].clip(min=1).astype(self.data_mean.dtype)

    def offset(self, atoms: dict) -> paddle.Tensor:
        """Return what is subtracted from the labels before division, [S] eV."""
        atom_types, num_atoms = atoms["atom_types"], atoms["num_atoms"]
        reference = paddle.gather(self.reference, atom_types)
        mean = self.data_mean * self.adsorbates(atoms)
        slopes = paddle.gather(self.surface_slopes, atom_types)  # [N, P]
        adsorbate = has_tag(atoms, ADSORBATE, slopes.dtype).unsqueeze(1)  # [N, 1]
        slopes = sum_per_structure(slopes * adsorbate, num_atoms)  # [S, P]
        surface = has_tag(atoms, SURFACE, slopes.dtype).unsqueeze(1)  # [N, 1]
        size = sum_per_structure(surface, num_atoms).clip(min=1.0)  # [S, 1]
        properties = paddle.gather(self.properties, atom_types) * surface
        properties = sum_per_structure(properties, num_atoms) / size  # [S, P]
        linear = (slopes * properties).sum(axis=-1)
        return mean + self.pool(atoms, reference, "sum") + linear

    def in_ev(self, atoms: dict, energy: paddle.Tensor) -> paddle.Tensor:
        """Undo the normalisation of energies [S]."""
        return energy * self.data_std + self.offset(atoms)

    @paddle.no_grad()
    def predict(self, batch: dict) -> dict:
        """Predict without labels.

        Args:
            batch: ``structure_array`` and ``graph``.

        Returns:
            Arrays: ``property_name`` [S] eV; with ``predict_error`` also
            ``expected_error`` [S] eV; with the displacement head also
            ``cart_coords_relaxed``, a list of [atoms, 3] Å, not wrapped.
        """
        positions = self.recycle(batch, self.num_recycles)
        energy, relaxed, log_error = self.predict_at(batch, positions)
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
