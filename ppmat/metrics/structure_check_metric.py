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

"""Shares of relaxed slabs that are not possible, by the checks of ``plausibility.py``.

The same checks of the unchanged input (``copy_``) and of the true relaxed structures
(``true_``) stand beside them. Molecules dissociate in some data too, so a share means
something only in comparison with the true one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppmat.metrics.is2rs_metric import predicted_positions
from ppmat.metrics.streaming_base import StreamingMetricBase
from ppmat.utils.misc import gather_objects
from ppmat.utils.periodic import minimum_image
from ppmat.utils.plausibility import CHECKS
from ppmat.utils.plausibility import check_structure

_SHARES = [name for name in CHECKS if name != "closest_distance"]
_KINDS = ("", "copy_", "true_")  # prediction, unchanged input, true relaxed structure


class StructureCheckMetric(StreamingMetricBase):
    """Shares of structures with a fault, and the closest distance of all.

    Names of the results: ``closest_distance`` [Å], the smallest of all structures, and
    the shares ``overlap``, ``desorbed``, ``dissociated``, ``surface_reconstructed`` and
    ``intercalated``, see ``ppmat.utils.plausibility.CHECKS``. With ``copy_`` in front
    they are those of the input, with ``true_`` those of the relaxed structures where
    they are known. Only sums are kept.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Clear the sums."""
        # Of each kind: the smallest distance [Å], faults by name, structures.
        self.closest = dict.fromkeys(_KINDS, np.inf)
        self.faults = {kind: np.zeros(len(_SHARES) + 1) for kind in _KINDS}

    def update(
        self,
        kind: str,
        numbers: Sequence[np.ndarray],
        tags: Sequence[np.ndarray],
        cell: Sequence[np.ndarray],
        initial: Sequence[np.ndarray],
        relaxed: Sequence[np.ndarray],
    ) -> None:
        """Add structures.

        Args:
            kind: ``""`` for predictions, ``"copy_"`` or ``"true_"``.
            numbers: Atomic numbers, a list of [N_i].
            tags: 0, 1, 2 as in OC20, a list of [N_i].
            cell: Cells as rows, a list of [3, 3] Å.
            initial: Initial positions, a list of [N_i, 3] Å.
            relaxed: The positions that are checked, a list of [N_i, 3] Å.
        """
        for one in zip(numbers, tags, cell, initial, relaxed, strict=True):
            checks = check_structure(*one)
            self.closest[kind] = min(self.closest[kind], checks.closest_distance)
            self.faults[kind] += [*(getattr(checks, name) for name in _SHARES), 1]

    def update_step(self, *, result: dict, batch: dict, stage: str) -> None:
        """Add a batch; one without predicted structures is skipped.

        Args:
            result: See :func:`~ppmat.metrics.is2rs_metric.predicted_positions`.
            batch: With ``structure_array``; with ``cart_coords_relaxed`` if known.
            stage: Not used.
        """
        predicted = predicted_positions(result)
        atoms = batch.get("structure_array") or {}
        if predicted is None or "tags" not in atoms or "cart_coords" not in atoms:
            return
        rows = np.cumsum(np.asarray(atoms["num_atoms"]).reshape(-1))[:-1]
        numbers, tags, initial = (
            np.split(np.asarray(atoms[key]), rows)
            for key in ("atom_types", "tags", "cart_coords")
        )
        cell = np.asarray(atoms["lattice"], dtype=np.float64).reshape(-1, 3, 3)
        same = (numbers, tags, cell, initial)
        self.update("", *same, np.split(np.asarray(predicted), rows))
        self.update("copy_", *same, initial)
        if "cart_coords_relaxed" in batch:
            true = np.split(np.asarray(batch["cart_coords_relaxed"]), rows)
            # Files wrap initial and relaxed positions independently.
            true = [
                x + minimum_image(np.subtract(y, x, dtype=np.float64), box)
                for x, y, box in zip(initial, true, cell, strict=True)
            ]
            self.update("true_", *same, true)

    def compute_epoch(self, *, stage: str = "eval") -> dict[str, float]:
        """Return distances and shares over all processes; empty without structures."""
        ranks = gather_objects((self.closest, self.faults))
        values = {}
        for kind in _KINDS:
            *faults, structures = sum(faults[kind] for _, faults in ranks)
            if structures:
                closest = min(closest[kind] for closest, _ in ranks)
                values[f"{kind}closest_distance"] = float(closest)
                for name, number in zip(_SHARES, faults, strict=True):
                    values[kind + name] = float(number / structures)
        return values
