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

"""Errors of predicted relaxed structures: ADwT, DwT and position MAE.

Definitions follow the Open Catalyst evaluator. The distance of a structure is the mean
over its free atoms of the minimum-image distance to the relaxed position, in Å.
DwT is the share of structures (0 to 1) with a distance strictly below a threshold, ADwT
its mean over the 490 thresholds 0.010, 0.011 ... 0.499 Å. Position MAE is the mean
distance over the free atoms of all structures, so large structures count more.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Annotated
from typing import Any

import numpy as np
import paddle

from ppmat.metrics.streaming_base import StreamingMetricBase
from ppmat.metrics.streaming_base import _all_reduce_sum_
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import minimum_image
from ppmat.utils.ranges import Range

_OF_RESULTS = (
    "cart_coords",
    "cart_coords_relaxed",
    "cart_coords_initial",
    "lattice",
    "fixed",
)  # in the order of the arguments of ``update``
THRESHOLDS = np.arange(0.01, 0.5, 0.001)  # Å


def structure_distances(
    pos_pred: Sequence[np.ndarray],
    pos_true: Sequence[np.ndarray],
    cell: Sequence[np.ndarray],
    fixed: Sequence[np.ndarray],
) -> np.ndarray:
    """Return each structure's mean distance over free atoms, [S] Å.

    Args:
        pos_pred: Predicted positions, a list of [N_i, 3] Å.
        pos_true: Relaxed positions, a list of [N_i, 3] Å.
        cell: Cells as rows, a list of [3, 3] Å.
        fixed: True where an atom is held, a list of [N_i] bool.

    Raises:
        ValueError: If the lists do not match or a structure has no free atom.

    Example:
        >>> true, cell = np.zeros((2, 3)), np.eye(3) * 10.0
        >>> pred = true + [[0.0, 0.0, 0.0], [9.5, 0.0, 0.0]]
        >>> structure_distances([pred], [true], [cell], [[True, False]])
        array([0.5])
    """
    if not len(pos_pred) == len(pos_true) == len(cell) == len(fixed):
        raise ValueError(
            "pos_pred, pos_true, cell and fixed must list the same structures, got "
            f"{len(pos_pred)}, {len(pos_true)}, {len(cell)} and {len(fixed)}"
        )
    distances = []
    for i, (pred, true, box, held) in enumerate(zip(pos_pred, pos_true, cell, fixed)):
        pred, true = np.asarray(pred, float), np.asarray(true, float)
        held = np.asarray(held).astype(bool).reshape(-1)
        if pred.shape != true.shape or pred.shape != (len(held), 3):
            raise ValueError(
                f"structure {i}: predicted positions {pred.shape}, relaxed positions "
                f"{true.shape} and fixed {held.shape} do not belong together"
            )
        if held.all():
            raise ValueError(f"structure {i}: no free atom, nothing to score")
        box = np.asarray(box, float).reshape(3, 3)
        error = minimum_image(pred[~held] - true[~held], box)
        distances.append(np.linalg.norm(error, axis=-1).mean())
    return np.array(distances)


def success_curve(distances: np.ndarray) -> np.ndarray:
    """Return the share of distances strictly below each of the thresholds, [490]."""
    return (np.asarray(distances)[:, None] < THRESHOLDS).mean(axis=0)


def predicted_positions(result: Mapping[str, Any]) -> Any:
    """Return the predicted relaxed positions of a batch, [N, 3] Å; None without any.

    Args:
        result: With ``result``, the list of generated structures (one for each of the
            batch), or else ``pred_dict`` with ``cart_coords_relaxed``.
    """
    if result.get("result"):
        return np.concatenate([r["cart_coords"] for r in result["result"]])
    return result.get("pred_dict", {}).get("cart_coords_relaxed")


class IS2RSMetric(StreamingMetricBase):
    """ADwT, DwT and position MAE of the batches of a trainer or a sampler.

    Only sums are kept, so memory does not grow. Names of the results: ``adwt``,
    ``dwt_<threshold>``, ``position_mae``. The same names with ``copy_`` in front are
    those of the baseline that returns the initial structure.

    Args:
        thresholds: Single thresholds [Å] reported as DwT.
    """

    def __init__(
        self,
        thresholds: Annotated[Sequence[float], Range(above=0, most=100)] = (0.1, 0.3),
    ) -> None:
        self.thresholds = list(thresholds)
        self.reset()

    def reset(self) -> None:
        """Clear the sums."""
        # Columns: predicted, copied. Rows: sum over structures of the mean success at
        # the 490 thresholds, successes at each single threshold, sum over atoms of the
        # distances [Å].
        self.sums = np.zeros([2 + len(self.thresholds), 2])
        self.counts = np.zeros(2)  # structures, free atoms

    def update(
        self,
        pos_pred: Sequence[np.ndarray],
        pos_true: Sequence[np.ndarray],
        pos_initial: Sequence[np.ndarray],
        cell: Sequence[np.ndarray],
        fixed: Sequence[np.ndarray],
    ) -> None:
        """Add structures; arguments as in :func:`structure_distances`."""
        free = np.array([(~np.asarray(held).astype(bool)).sum() for held in fixed])
        for column, positions in enumerate((pos_pred, pos_initial)):
            d = structure_distances(positions, pos_true, cell, fixed)
            self.sums[:, column] += [
                success_curve(d).mean() * len(d),
                *((d < t).sum() for t in self.thresholds),
                (d * free).sum(),
            ]
        self.counts += [len(free), free.sum()]

    def __call__(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the scores of results of ``model.sample``, apart from other updates.

        Args:
            results: With the keys ``cart_coords``, ``cart_coords_relaxed``,
                ``cart_coords_initial``, ``lattice`` and ``fixed``, as
                :func:`~ppmat.models.generated_structures.structure_results` gives them
                for data with labels.

        Raises:
            InputError: A result lacks one of these.
        """
        for i, result in enumerate(results):
            if missing := [key for key in _OF_RESULTS if key not in result]:
                raise InputError(
                    f"result {i} has no {' and no '.join(missing)}",
                    wanted="structures sampled for data with relaxed positions",
                )
        metric = type(self)(self.thresholds)
        metric.update(*([result[key] for result in results] for key in _OF_RESULTS))
        return metric.compute_epoch()

    def update_step(self, *, result: dict, batch: dict, stage: str) -> None:
        """Add a batch; batches without a prediction or without labels are skipped.

        Args:
            result: See :func:`predicted_positions`.
            batch: With ``cart_coords_relaxed`` if there are labels.
            stage: Not used.
        """
        predicted = predicted_positions(result)
        if predicted is None or "cart_coords_relaxed" not in batch:
            return
        atoms = batch["structure_array"]
        rows = np.cumsum(np.asarray(atoms["num_atoms"]).reshape(-1))[:-1]
        self.update(
            *(
                np.split(np.asarray(x), rows)
                for x in (predicted, batch["cart_coords_relaxed"], atoms["cart_coords"])
            ),
            cell=list(np.asarray(atoms["lattice"])),
            fixed=np.split(np.asarray(atoms["fixed"]), rows),
        )

    def compute_epoch(self, *, stage: str = "eval") -> dict[str, float]:
        """Return the scores over all processes; empty if there were no structures."""
        total = np.concatenate([self.sums.reshape(-1), self.counts])
        total = _all_reduce_sum_(paddle.to_tensor(total)).numpy()
        sums = total[:-2].reshape(self.sums.shape)
        structures, atoms = total[-2:]
        if structures == 0:
            return {}
        names = ["adwt", *(f"dwt_{t:g}" for t in self.thresholds), "position_mae"]
        scale = np.array([structures] * (len(names) - 1) + [atoms])
        return {
            prefix + name: float(value)
            for column, prefix in enumerate(("", "copy_"))
            for name, value in zip(names, sums[:, column] / scale)
        }
