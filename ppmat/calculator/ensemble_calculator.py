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

"""EnsembleCalculator: the mean of several potentials, and how far they disagree."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.constraints import constrained_indices

from ppmat.calculator.batch_evaluation import Pairs
from ppmat.calculator.sfin_calculator import BatchOfOne
from ppmat.calculator.sfin_calculator import SFINCalculator
from ppmat.utils.errors import InputError


class EnsembleCalculator(BatchOfOne):
    """Potentials of one YAML, trained from different seeds, as one ASE calculator.

    Energy, forces and stress are the means of the members; forces remain the gradient
    of the energy. Where the members disagree, the training data say little, so the
    spread warns of structures that the potential does not know. It is no error bar:
    members can agree and be wrong together.

    Results beside those of ASE:

    - ``energy_spread``: standard deviation of the energies, eV, of the whole cell;
    - ``forces_spread``: [N] eV/Å, root mean square distance of the force vectors from
      their mean.

    Neighbours are searched once for all members.

    Args:
        members: Two or more; see :class:`SFINCalculator`.

    Raises:
        InputError: The members do not belong together, or two are the same.

    Example::

        members = [SFINCalculator("sfin_potential.yaml", path) for path in paths]
        atoms.calc = EnsembleCalculator(members)
        atoms.get_forces()
        atoms.calc.results["forces_spread"]
    """

    implemented_properties = [
        *SFINCalculator.implemented_properties,
        "energy_spread",
        "forces_spread",
    ]

    def __init__(self, members: Sequence[SFINCalculator]) -> None:
        super().__init__()
        if len(members) < 2:
            raise InputError(f"{len(members)} member", wanted="two or more")
        self.members = list(members)
        self.cutoff = members[0].cutoff
        prints = self.fingerprints()
        seen = [member.model.elements_seen.numpy() for member in members]
        for i in range(1, len(members)):
            same = prints.index(prints[i])
            if same < i:
                raise InputError(
                    f"members {same + 1} and {i + 1} have the same weights",
                    wanted="trainings from different seeds (Trainer.seed)",
                )
            if _neighbours_of(members[i]) != _neighbours_of(members[0]):
                raise InputError(
                    f"member {i + 1} has other neighbours than member 1",
                    wanted="one Predict.graph_converter and one skin",
                )
            if (seen[i] != seen[0]).any():
                raise InputError(
                    f"member {i + 1} was trained on other elements than member 1"
                )

    def pairs_of(self, atoms: Atoms, known: Pairs | None = None) -> Pairs:
        """Return the neighbours, which are those of all members."""
        return self.members[0].pairs_of(atoms, known)

    def evaluate(
        self, structures: Sequence[Atoms], pairs: Sequence[Pairs]
    ) -> list[dict[str, Any]]:
        """Return means and spreads of several structures, whose pairs hold, at once."""
        each = [member.evaluate(structures, pairs) for member in self.members]
        return [_mean_and_spread(of_one) for of_one in zip(*each)]

    def fingerprints(self) -> list[str]:
        """Return a hash of the weights of each member."""
        return [text for member in self.members for text in member.fingerprints()]


def _mean_and_spread(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of the ensemble from those of the members."""
    values = {name: np.array([one[name] for one in each]) for name in each[0]}
    means = {name: value.mean(axis=0) for name, value in values.items()}
    away = np.square(values["forces"] - means["forces"]).sum(axis=-1)  # [M, N]
    return {
        **means,
        "energy": float(means["energy"]),
        "free_energy": float(means["energy"]),
        "energy_spread": float(values["energy"].std()),
        "forces_spread": np.sqrt(away.mean(axis=0)),
    }


def largest_spread(atoms: Atoms, results: Mapping[str, Any]) -> float | None:
    """Return the largest spread of the forces on atoms that can move, eV/Å.

    Held atoms do not count: forces on them do nothing, and many data sets do not train
    them. None for results of a single potential.
    """
    spread = results.get("forces_spread")
    if spread is None:
        return None
    held = constrained_indices(atoms, only_include=FixAtoms)
    return float(np.delete(spread, held.astype(int)).max(initial=0.0))


def _neighbours_of(member: SFINCalculator) -> tuple:
    """Return what decides the graph of a member."""
    return member.cutoff, member.skin, member.build_graph.k_cut
