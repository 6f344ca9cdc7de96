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

"""Score generated structures: metrics, a table of them, and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle.distributed as dist

from ppmat.utils import logger
from ppmat.utils.config import save_config
from ppmat.utils.result_store import Result
from ppmat.utils.result_store import ResultStore

_STRUCTURES_PER_UPDATE = 64  # given to a metric at once
_COPY = "copy_"  # prefix of the metrics of the unchanged input
_TRUE = "true_"  # and of the true relaxed structures


def score(metrics: Any, results: Sequence, save_path: str | None = None) -> Any:
    """Score results; with a folder, also write a table and figures.

    Args:
        metrics: A metric or a dict of metrics. A streaming metric (with
            ``update_step``) receives the results in groups. Any other metric is called
            with the list of all results.
        results: What :func:`~ppmat.sampler.generation.generate` returned.
        save_path: Folder for ``metrics.yaml``, ``metrics.txt`` and the figures.

    Returns:
        Number by name; or the return value of a single metric that is not streaming.
    """
    values: dict[str, Any] = {}
    by_name = metrics if isinstance(metrics, dict) else {"": metrics}
    for name, metric in by_name.items():
        value = _apply(metric, results)
        if not isinstance(value, Mapping):
            if metric is metrics:
                return value
            value = {name: value}
        values.update({key: float(number) for key, number in value.items()})
    if save_path is not None and dist.get_rank() == 0:
        save_config(values, os.path.join(save_path, "metrics.yaml"))
        table = os.path.join(save_path, "metrics.txt")
        with open(table, "w", encoding="utf-8") as file:
            file.write(f"{metric_table(values)}\n")
        if has_relaxed_positions(results):
            # Matplotlib is slow to import.
            from ppmat.sampler.figures import draw_figures

            for path in draw_figures(results, save_path):
                logger.message(f"Drew {path}")
    return values


def has_relaxed_positions(results: Sequence) -> bool:
    """Return whether the true relaxed positions are known."""
    return len(results) > 0 and "cart_coords_relaxed" in results[0]


def metric_table(values: Mapping[str, float]) -> str:
    """Return metrics as text.

    Beside them stand those of the unchanged input (``copy_*``) and, if there are any,
    those of the true relaxed structures (``true_*``).

    Example:
        >>> print(metric_table({"adwt": 0.25, "copy_adwt": 0.125}))
        metric  predicted  copy input
        adwt       0.2500      0.1250
    """
    columns = {"predicted": "", "copy input": _COPY, "relaxed": _TRUE}
    if not any(name.startswith(_TRUE) for name in values):
        del columns["relaxed"]
    rows: list[tuple[str, ...]] = [("metric", *columns)]
    for name in values:
        if not name.startswith((_COPY, _TRUE)):
            numbers = (values.get(prefix + name) for prefix in columns.values())
            cells = ("" if x is None else f"{x:.4f}" for x in numbers)
            rows.append((name, *cells))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(
            [
                f"{row[0]:<{widths[0]}}",
                *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:])),
            ]
        ).rstrip()
        for row in rows
    )


def _apply(metric: Any, results: Sequence) -> Any:
    if not hasattr(metric, "update_step"):
        return metric(list(results))
    # The metric sums over processes, so each process takes a share of a stored run.
    shared = dist.get_world_size() if isinstance(results, ResultStore) else 1
    starts = range(0, len(results), _STRUCTURES_PER_UPDATE)
    metric.reset()
    for start in starts[dist.get_rank() % shared :: shared]:
        end = min(start + _STRUCTURES_PER_UPDATE, len(results))
        _update(metric, [results[i] for i in range(start, end)])
    return metric.compute_epoch(stage="sample")


def _update(metric: Any, results: list[Result]) -> None:
    """Give results to a streaming metric as a batch and a model output."""

    def joined(name: str, dtype: str) -> np.ndarray | None:
        if not all(name in result for result in results):
            return None
        return np.concatenate([np.asarray(r[name], dtype) for r in results])

    arrays = {
        "num_atoms": np.array([r["num_atoms"] for r in results], "int64"),
        "atom_types": joined("atom_types", "int64"),
        "lattice": joined("lattice", "float64"),
        "cart_coords": joined("cart_coords_initial", "float64"),
        "tags": joined("tags", "int64"),
        "fixed": joined("fixed", "bool"),
    }
    if arrays["lattice"] is not None:
        arrays["lattice"] = arrays["lattice"].reshape(-1, 3, 3)
    batch: dict[str, Any] = {
        "structure_array": {k: v for k, v in arrays.items() if v is not None},
        "id": [result.get("id") for result in results],
    }
    relaxed = joined("cart_coords_relaxed", "float64")
    if relaxed is not None:
        batch["cart_coords_relaxed"] = relaxed
    output: dict[str, Any] = {"result": results}
    predicted = joined("cart_coords", "float64")
    if predicted is not None:
        output["pred_dict"] = {"cart_coords_relaxed": predicted}
    metric.update_step(result=output, batch=batch, stage="sample")
