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

"""Errors of predicted adsorption energies: MAE and EwT.

Definitions follow the Open Catalyst evaluator: energy MAE is the mean absolute error in
eV; energy within threshold (EwT) is the share of structures whose absolute error is
strictly below 0.02 eV. Errors are computed in the precision of the input, as there: for
float32 energies an error of float32(0.02) is not within the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import paddle

from ppmat.metrics.streaming_base import StreamingMetricBase
from ppmat.metrics.streaming_base import _all_reduce_sum_
from ppmat.utils.ranges import Range

EWT_THRESHOLD = 0.02  # eV


def absolute_errors(energy_pred: Sequence, energy_true: Sequence) -> np.ndarray:
    """Return each structure's absolute error, [S] eV.

    Args:
        energy_pred: Predicted energies, [S] or [S, 1] eV.
        energy_true: Energies of the relaxed structures, [S] or [S, 1] eV.

    Raises:
        ValueError: The numbers of energies differ.
    """
    pred, true = np.asarray(energy_pred), np.asarray(energy_true)
    if pred.size != true.size:
        raise ValueError(
            f"predicted energies {pred.shape} and true energies {true.shape} do not "
            "match: one number for each structure is wanted in both"
        )
    return np.abs(pred.reshape(-1) - true.reshape(-1))


def energy_mae(energy_pred: Sequence, energy_true: Sequence) -> float:
    """Return the mean absolute error, eV; arguments as in :func:`absolute_errors`.

    Example:
        >>> energy_mae([-1.0, 0.5], [-1.5, 0.5])
        0.25
    """
    return float(absolute_errors(energy_pred, energy_true).mean(dtype=np.float64))


def energy_within_threshold(
    energy_pred: Sequence, energy_true: Sequence, threshold: float = EWT_THRESHOLD
) -> float:
    """Return the share of structures with an error strictly below ``threshold`` eV."""
    errors = absolute_errors(energy_pred, energy_true)
    return float((errors < float(threshold)).mean())


def mean_over_splits(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return each score's mean over splits, as leaderboards report it.

    Each split has the same weight, whatever its size.

    Args:
        scores: Split to the scores of that split, the same names in each.

    Raises:
        ValueError: The splits have different scores.
    """
    names = list(next(iter(scores.values())))
    for split, values in scores.items():
        if set(values) != set(names):
            raise ValueError(
                f"split '{split}' has the scores {', '.join(sorted(values))}, another "
                f"one {', '.join(sorted(names))}; wanted the same in all"
            )
    return {
        name: float(np.mean([values[name] for values in scores.values()]))
        for name in names
    }


class IS2REMetric(StreamingMetricBase):
    """``energy_mae`` [eV] and ``ewt`` (a share) of the batches of a trainer.

    Only sums are kept, so memory does not grow.

    Args:
        property_name: Key of the energy in ``pred_dict`` and in the batch.
        threshold: Errors strictly below it [eV] count for ``ewt``.
    """

    def __init__(
        self,
        property_name: str = "y_relaxed",
        threshold: Annotated[float, Range(above=0, most=10**6)] = EWT_THRESHOLD,
    ) -> None:
        self.property_name = property_name
        self.threshold = float(threshold)
        self.reset()

    def reset(self) -> None:
        """Clear the sums."""
        self.sums = np.zeros(3)  # absolute errors [eV], errors within, structures

    def update(self, energy_pred: Sequence, energy_true: Sequence) -> None:
        """Add structures; arguments as in :func:`absolute_errors`."""
        errors = absolute_errors(energy_pred, energy_true)
        within = (errors < self.threshold).sum()
        self.sums += [errors.sum(dtype=np.float64), within, len(errors)]

    def __call__(self, energy_pred: Sequence, energy_true: Sequence) -> float:
        """Return :func:`energy_mae`, as a trainer calls metrics of one property."""
        return energy_mae(energy_pred, energy_true)

    def update_step(self, *, result: dict, batch: dict, stage: str) -> None:
        """Add energies [S, 1] eV; batches without prediction or labels are skipped."""
        predicted = result.get("pred_dict", {}).get(self.property_name)
        if predicted is None or self.property_name not in batch:
            return
        self.update(predicted, batch[self.property_name])

    def compute_epoch(self, *, stage: str = "eval") -> dict[str, float]:
        """Return both scores over all processes; empty if there were no structures."""
        sums = _all_reduce_sum_(paddle.to_tensor(self.sums))
        errors, within, structures = sums.numpy()
        if structures == 0:
            return {}
        mae, ewt = errors / structures, within / structures
        return {"energy_mae": float(mae), "ewt": float(ewt)}
