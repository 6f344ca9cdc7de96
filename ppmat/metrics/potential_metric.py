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

"""Errors of an interatomic potential: energies of atoms, components of forces."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppmat.metrics.streaming_base import StreamingMetricBase
from ppmat.utils.misc import sum_over_ranks


class PotentialMetric(StreamingMetricBase):
    """Errors of the batches of a trainer.

    ``energy_mae`` and ``energy_rmse`` are those of the energy of a cell over its number
    of atoms [eV], means over cells. ``forces_mae`` and ``forces_rmse`` are those of the
    components of forces [eV/Å]. ``stress_mae`` [eV/Å^3] is there if the batches have a
    stress. Only sums are kept, so memory does not grow.
    """

    names = ("energy", "forces", "stress")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Clear the sums."""
        # of each label: absolute errors, squares of errors, numbers
        self.sums = np.zeros((len(self.names), 3))

    def update_step(self, *, result: dict, batch: dict, stage: str) -> None:
        """Add a batch; labels that it lacks are left out."""
        predicted = result.get("pred_dict", {})
        for row, name in enumerate(self.names):
            if name in predicted and name in batch:
                error = _array(predicted[name]) - _array(batch[name])
                if name == "energy":
                    counts = _array(batch["structure_array"]["num_atoms"])
                    error = error.reshape(-1) / counts
                squares = np.square(error).sum()
                self.sums[row] += [np.abs(error).sum(), squares, error.size]

    def compute_epoch(self, *, stage: str = "eval") -> dict[str, float]:
        """Return the scores over all processes; empty if there were no labels."""
        sums = sum_over_ranks(self.sums).numpy()
        scores = {}
        for name, (errors, squares, count) in zip(self.names, sums):
            if count:
                scores[f"{name}_mae"] = float(errors / count)
                if name != "stress":
                    scores[f"{name}_rmse"] = float(np.sqrt(squares / count))
        return scores


def _array(values: Any) -> np.ndarray:
    """Return a tensor or array as float64."""
    if hasattr(values, "detach"):
        values = values.detach().numpy()
    return np.asarray(values, dtype="float64")
