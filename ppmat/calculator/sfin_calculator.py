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

"""SFINCalculator: energies, forces and stress for ASE."""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.calculator import all_changes

from ppmat.calculator.batch_evaluation import Pairs
from ppmat.calculator.batch_evaluation import evaluate_batch
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.models import build_graph_converter
from ppmat.models import build_trained_model
from ppmat.models.sfin.sfin_potential import SFINPotential
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError
from ppmat.utils.save_load import fingerprint

PathLike = str | os.PathLike

DEFAULT_MODEL = "sfin_potential_chgnet_small"  # in ppmat/models/packages


class BatchOfOne(Calculator):
    """A calculator for ASE that computes a structure as a batch of one.

    Subclasses are a ``BatchCalculator``: they have ``pairs_of`` and ``evaluate``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pairs: Pairs | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute what ASE asks for; see ``ase.calculators.calculator``."""
        super().calculate(atoms, properties, system_changes)
        if "stress" in properties and not self.atoms.pbc.all():
            raise PropertyNotImplementedError(
                "there is a stress only if all directions are periodic"
            )
        self._pairs = self.pairs_of(self.atoms, self._pairs)
        (self.results,) = self.evaluate([self.atoms], [self._pairs])

    def search_again(self) -> None:
        """Search neighbours at the next calculation, whatever has moved."""
        self._pairs = None


class SFINCalculator(BatchOfOne):
    """A trained potential as an ASE calculator.

    Units are those of ASE: eV, eV/Å, eV/Å^3, of the whole cell. Neighbours are found
    from the atoms that are given; with ``skin``, pairs a little further apart are kept
    too, and are used until an atom has moved by half of it. Results do not depend on
    the skin. Constraints of the atoms are applied by ASE, as with every calculator.

    Along directions that are not periodic the atoms stand alone, as far as messages
    reach. There is a stress only if all directions are periodic. Energies of atoms add
    up to the energy; only the sum is trained. Of several threads one computes at a
    time; each wants a calculator of its own.

    Args:
        config_path: YAML of your own model, as training writes it. Without a model the
            shipped one is used, :data:`DEFAULT_MODEL`: a student of CHGNet, not DFT.
        checkpoint_path: Its weights.
        model_name: A registered model instead.
        weights_name: Weights of a registered model.
        config_overrides: ``KEY=VALUE`` with a dotted key, applied to the YAML.
        skin: Distance [Å] beyond the cut-off within which pairs are kept.
        allow_unseen: Compute elements that the training data do not have. Their
            energies mean nothing.

    Raises:
        ConfigError: The arguments or the YAML are not valid, or the model is no
            potential.
        CheckpointError: The weights cannot be read or belong to another model.

    Example::

        atoms.calc = SFINCalculator("sfin_potential.yaml", "best.pdparams")
        atoms.get_forces()
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        config_path: PathLike | None = None,
        checkpoint_path: PathLike | None = None,
        model_name: str | None = None,
        weights_name: str | None = None,
        config_overrides: Iterable[str] | None = None,
        skin: float = 0.5,
        allow_unseen: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 <= skin <= 10.0:
            raise InputError(f"skin is {skin!r}", wanted="0 to 10 Å")
        if (model_name, config_path, checkpoint_path) == (None, None, None):
            model_name = DEFAULT_MODEL
        paths = [p and os.fspath(p) for p in (config_path, checkpoint_path)]
        model, config = build_trained_model(
            model_name, weights_name, *paths, config_overrides
        )
        if not isinstance(model, SFINPotential):
            kind = type(model).__name__
            raise ConfigError(f"{kind} is no potential; wanted SFINPotential")
        block = (config.get("Predict") or {}).get("graph_converter")
        converter = build_graph_converter(block, "Predict.graph_converter")
        if converter is None or converter.max_neighbors is not None:
            raise ConfigError(
                "Predict.graph_converter of a potential wants max_neighbors: null"
            )
        cutoff, k_cut = model.backbone.reach
        if converter.cutoff < cutoff or converter.k_cut < k_cut:
            raise ConfigError(
                f"Predict.graph_converter has cutoff {converter.cutoff:g} and k_cut "
                f"{converter.k_cut:g}; the potential wants {cutoff:g} and {k_cut:g}"
            )
        self.model = model
        self.build_graph = PeriodicGraphConverter(
            converter.cutoff + skin, None, converter.k_cut
        )
        self.cutoff = converter.cutoff
        self.skin, self.allow_unseen = float(skin), allow_unseen
        self.searches = 0  # of neighbours, since the calculator was made
        self._warned: set[str] = set()  # elements

    def pairs_of(self, atoms: Atoms, known: Pairs | None = None) -> Pairs:
        """Return neighbours; unseen elements are an error. See ``BatchCalculator``."""
        if known is not None and known.hold(atoms, self.skin):
            return known
        self.check_elements(atoms)
        self.searches += 1
        return Pairs(atoms, self.build_graph)

    def evaluate(
        self, structures: Sequence[Atoms], pairs: Sequence[Pairs]
    ) -> list[dict[str, Any]]:
        """Return the results of several structures, whose pairs hold, at once."""
        return evaluate_batch(self.model, structures, pairs)

    def fingerprints(self) -> list[str]:
        """Return a hash of the weights."""
        return [fingerprint(self.model)]

    def check_elements(self, atoms: Atoms) -> None:
        """Refuse elements that are not in the training data, or warn of them once.

        Raises:
            InputError: There are some, and ``allow_unseen`` is off.
        """
        seen = self.model.elements_seen.numpy()
        unseen = {a.symbol for a in atoms if not seen[a.number]}
        if unseen and not self.allow_unseen:
            names = ", ".join(sorted(unseen))
            raise InputError(
                f"{names} is not in the training data of the potential",
                hint="allow_unseen=True computes it; the energies mean nothing.",
            )
        if unseen - self._warned:
            names = ", ".join(sorted(unseen - self._warned))
            logger.warning(f"not in the training data: {names}")
            self._warned |= unseen
