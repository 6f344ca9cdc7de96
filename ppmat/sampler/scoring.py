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

"""Scoring generated structures: metrics, their table, and the figures."""

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

_CHUNK = 64  # structures handed to a metric at once
_COPY = "copy_"


def score(metrics: Any, results: Sequence, save_path: str | None = None) -> Any:
    """Score results and, if there is a folder for it, write table and figures.

    Args:
        metrics: A metric or a dict of metrics. One with ``update_step`` is fed piece
            by piece; any other is called with the list of all results.
        results: What ``model.sample`` returned, with ``cart_coords_initial`` and
            ``cart_coords_relaxed`` for metrics that need them.
        save_path: Folder for ``metrics.yaml``, ``metrics.txt`` and the figures.

    Returns:
        Number by name; or whatever a single metric that is no streaming metric
        returned.
    """
    values: dict[str, Any] = {}
    for name, metric in (
        metrics if isinstance(metrics, dict) else {"": metrics}
    ).items():
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
        if has_truth(results):
            # Matplotlib is slow to import and needed nowhere else.
            from ppmat.sampler.figures import draw_figures

            for path in draw_figures(results, save_path):
                logger.message(f"Drew {path}")
    return values


def has_truth(results: Sequence) -> bool:
    """Tell whether the relaxed positions are known."""
    return len(results) > 0 and "cart_coords_relaxed" in results[0]


def metric_table(values: Mapping[str, float]) -> str:
    """Return metrics as text, those of copying the input (``copy_*``) beside them."""
    rows: list[tuple[str, str, str]] = [("metric", "predicted", "copy input")]
    for name, value in values.items():
        if not name.startswith(_COPY):
            copied = values.get(_COPY + name)
            rows.append(
                (name, f"{value:.4f}", "" if copied is None else f"{copied:.4f}")
            )
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip()
        for a, b, c in rows
    )


def _apply(metric: Any, results: Sequence) -> Any:
    if not hasattr(metric, "update_step"):
        return metric(list(results))
    # A stored run is shared out, because the metric adds up over the processes.
    shared = dist.get_world_size() if isinstance(results, ResultStore) else 1
    mine = dist.get_rank() % shared
    metric.reset()
    chunk: list[Result] = []
    for i, result in enumerate(results):
        if i // _CHUNK % shared == mine:
            chunk.append(result)
        if len(chunk) == _CHUNK:
            _update(metric, chunk)
            chunk = []
    if chunk:
        _update(metric, chunk)
    return metric.compute_epoch(stage="sample")


def _update(metric: Any, results: list[Result]) -> None:
    """Hand results to a streaming metric in the form of a batch and a model output."""

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
