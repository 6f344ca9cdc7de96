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

"""SFINPotential: energies of structures, and forces and stress as their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from typing import NamedTuple

import paddle

from ppmat.models.sfin.batch_counter import BatchCounter
from ppmat.models.sfin.batch_counter import WeightBatches
from ppmat.models.sfin.sfin_energy import AtomHead
from ppmat.models.sfin.sfin_energy import ElementReferences
from ppmat.models.sfin.sfin_energy import reference_table
from ppmat.models.sfin.sfin_structure import FourierUnit
from ppmat.models.sfin.sfin_structure import GatedActivation
from ppmat.models.sfin.sfin_structure import SFINBackbone
from ppmat.models.sfin.structure_geometry import cell_normals
from ppmat.models.sfin.structure_geometry import sum_per_structure
from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range

_Weights = Annotated[Sequence[float], Range(0, 10**6)]


class Derivatives(NamedTuple):
    """A potential at given structures."""

    energy: paddle.Tensor  # [S] eV, of the whole cell, float64
    forces: paddle.Tensor  # [N, 3] eV/Å
    stress: paddle.Tensor  # [S, 3, 3] eV/Å^3, positive under tension as in ASE
    energies: paddle.Tensor  # [N] eV, of the atoms, float64


class SFINPotential(BatchCounter):
    """Interatomic potential with the backbone of SFIN.

    ``E = sum_i E_ref(Z_i) + data_std e(s_i)``. Forces are ``-dE/dx``, and the stress is
    ``dE/d(strain) / V``, where a strain deforms positions and cell vectors. Nothing but
    elements, positions and cell enters: tags and held atoms do not change an energy.
    The energy is smooth if the graph has all neighbours (``max_neighbors: null``).

    In YAML::

        Model:
          __class_name__: SFINPotential
          __init_params__:
            backbone_cfg: {channels: 48, vectors: 24, cutoff: 5.0, k_cut: 0.7}
            energy_weight: [1.0, 10.0]

    Args:
        backbone_cfg: Constructor arguments of :class:`SFINBackbone`.
        data_std: Unit of the atomic energies that the network gives [eV]; the scale of
            the forces in eV/Å is of the same size. A buffer, saved with the weights.
        element_reference: Energy of an atom by element symbol [eV]. A float64 buffer,
            since total energies have more digits than float32 holds.
        energy_weight: Weight of the error of the energy of one atom, at the start and
            at the end of training.
        force_weight: The same for the forces.
        stress_weight: The same for the stress, in 1/Å^3; [0, 0] needs no labels.
        weight_batches: Training batches of one process between start and end; None
            takes the whole training.
        soft_lengths: Whether the network takes lengths as ``sqrt(|v|^2 + 1)``. Else
            the energy has a cusp where vectors vanish, at the atoms of a perfect
            crystal: phonons there are wrong, see ``docs/potentials/trust.md``.

    Raises:
        InputError: Settings that have no meaning.
    """

    label_statistics = {"data_std": "data_std", "element_reference": "reference"}
    # Elements too: fitted anew, the energies of elements that the data lack are 0
    of_one_training = ("batches_seen", "elements_seen")
    nested_params = {"backbone_cfg": SFINBackbone}
    former_weights = {
        "soft_lengths": "Only one of both was made with soft lengths: give "
        "Model.__init_params__.soft_lengths the other value. Weights of former "
        "versions want false."
    }

    def __init__(
        self,
        backbone_cfg: dict,
        data_std: Annotated[float, Range(above=0, most=10**6)] = 1.0,
        element_reference: ElementReferences | None = None,
        energy_weight: _Weights = (1.0, 10.0),
        force_weight: _Weights = (1.0, 1.0),
        stress_weight: _Weights = (0.0, 0.0),
        weight_batches: WeightBatches = None,
        soft_lengths: bool = True,
    ) -> None:
        super().__init__(weight_batches)
        weights = {
            "energy": energy_weight,
            "forces": force_weight,
            "stress": stress_weight,
        }
        for name, pair in weights.items():
            if len(pair) != 2:
                raise InputError(
                    f"the weights of {name} are {list(pair)!r}",
                    wanted="two, at the start and at the end of training",
                )
        self.weights = {name: pair for name, pair in weights.items() if any(pair)}
        self.backbone = SFINBackbone(**backbone_cfg)
        channels, vectors = self.backbone.out_channels, self.backbone.out_vectors
        self.readout = GatedActivation(channels, vectors, self.backbone.products)
        if soft_lengths:
            self.register_buffer("soft_lengths", paddle.ones([]))  # marks the weights
            for layer in self.sublayers():
                if isinstance(layer, GatedActivation | FourierUnit):
                    layer.rounding = 1.0
        self.energy_head = AtomHead(channels)
        self.register_buffer("data_std", paddle.full([], float(data_std)))
        reference = reference_table(element_reference, "float64")
        self.register_buffer("reference", reference)

    def energies_at(
        self, batch: dict, positions: paddle.Tensor, lattice: paddle.Tensor
    ) -> paddle.Tensor:
        """Return the energies of the atoms above the reference, [N] eV.

        Args:
            batch: ``structure_array`` and ``graph``.
            positions: Positions of the atoms, [N, 3] Å.
            lattice: Cell vectors as rows, [S, 3, 3] Å.
        """
        atoms = batch["structure_array"]
        plain = {
            "atom_types": atoms["atom_types"],
            "num_atoms": atoms["num_atoms"],
            "cart_coords": positions,
            "lattice": lattice,
            "tags": paddle.zeros_like(atoms["atom_types"]),
            "fixed": paddle.zeros_like(atoms["atom_types"]),
        }
        features, _ = self.backbone({**batch, "structure_array": plain})
        return self.data_std * self.energy_head(self.readout(features).s)

    def derivatives(self, batch: dict, keep_graph: bool = False) -> Derivatives:
        """Return energies, forces and stress.

        Args:
            batch: ``structure_array`` and ``graph``.
            keep_graph: Whether a loss of forces and stress is differentiated again.
        """
        atoms = batch["structure_array"]
        lattice, num_atoms = atoms["lattice"], atoms["num_atoms"]
        with paddle.enable_grad():
            positions = atoms["cart_coords"].detach()
            positions.stop_gradient = False
            strain = paddle.zeros_like(lattice)  # [S, 3, 3]
            strain.stop_gradient = False
            change = 0.5 * (strain + strain.transpose([0, 2, 1]))
            own = paddle.repeat_interleave(change, num_atoms, axis=0)  # [N, 3, 3]
            moved = paddle.matmul(positions.unsqueeze(1), own).squeeze(1)
            energies = self.energies_at(
                batch, positions + moved, lattice + paddle.matmul(lattice, change)
            )
            energy = sum_per_structure(energies, num_atoms)
            gradients = paddle.grad(
                [energy.sum()], [positions, strain], create_graph=keep_graph
            )
        volume = cell_normals(lattice)[1].abs().reshape([-1, 1, 1])
        reference = paddle.gather(self.reference, atoms["atom_types"])
        energy = energy.astype("float64") + sum_per_structure(reference, num_atoms)
        energies = energies.detach().astype("float64") + reference
        return Derivatives(energy, -gradients[0], gradients[1] / volume, energies)

    def forward(self, batch: dict) -> dict:
        """Compute the loss, energies, forces and stress.

        Args:
            batch: ``structure_array``, ``graph``, and the labels that have a weight:
                ``energy`` [S, 1] eV of the whole cell, float64, ``forces`` [N, 3] eV/Å,
                ``stress`` [S, 3, 3] eV/Å^3.

        Returns:
            ``loss_dict`` and ``pred_dict``. Losses are mean absolute errors: ``energy``
            of one atom [eV], ``forces`` the length of the error [eV/Å], ``stress`` of a
            component [eV/Å^3]. ``loss`` is their weighted sum over ``data_std``.
        """
        found = self.derivatives(batch, keep_graph=self.training)
        atoms = batch["structure_array"]
        predicted = found._asdict() | {"energy": found.energy.unsqueeze(-1)}
        losses, loss = {}, 0.0
        for name, ends in self.weights.items():
            error = (predicted[name] - batch[name]).astype(self.data_std.dtype)
            if name == "energy":
                error = error.squeeze(-1) / atoms["num_atoms"].astype(error.dtype)
            if name == "forces":
                error = (error.square().sum(axis=-1) + 1e-12).sqrt()
            losses[name] = error.abs().mean()
            loss = loss + self.weight_now(ends) * losses[name] / self.data_std
        if self.training:
            self.count_batch(atoms["atom_types"])
        return {"loss_dict": {"loss": loss, **losses}, "pred_dict": predicted}

    def predict(self, batch: dict) -> dict:
        """Predict without labels.

        Returns:
            Arrays: ``energy`` [S] eV, ``stress`` [S, 3, 3] eV/Å^3, and lists:
            ``forces`` of [atoms, 3] eV/Å, ``energies`` of [atoms] eV.
        """
        found = self.derivatives(batch)
        counts = batch["structure_array"]["num_atoms"].tolist()
        return {
            "energy": found.energy.numpy(),
            "stress": found.stress.numpy(),
            "forces": [part.numpy() for part in paddle.split(found.forces, counts)],
            "energies": [part.numpy() for part in paddle.split(found.energies, counts)],
        }
