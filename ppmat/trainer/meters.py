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

"""Means of losses and metrics over batches, over ranks, and over an epoch."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import paddle

from ppmat.trainer.utils import loss_weight
from ppmat.utils.misc import AverageMeter
from ppmat.utils.misc import gather_objects

Meters = dict[str, AverageMeter]


def averages(meters: Meters, mark: str = "") -> dict[str, float]:
    """Return the means by name, with ``mark`` behind each name."""
    return {f"{name}{mark}": meter.avg for name, meter in meters.items()}


class MetricError(RuntimeError):
    """A metric that cannot be computed."""


def find_pair(key: str, result: Mapping, batch: Mapping, stage: str) -> tuple:
    """Return the ``(prediction, label)`` called ``key``, which a metric compares."""
    predictions = result.get("pred_dict", {})
    for place, values in (("the model's pred_dict", predictions), ("the batch", batch)):
        if key not in values:
            hint = (
                "; set Trainer.compute_metric_during_train to false if this model "
                "predicts only in evaluation"
            )
            raise MetricError(
                f"Metric.{key}: {place} has no '{key}' during {stage}; it has "
                f"{', '.join(map(str, values)) or 'nothing'}"
                f"{hint if stage == 'train' else ''}"
            )
    return predictions[key], batch[key]


def call_metric(name: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a metric, or a method of one; each failure is a :class:`MetricError`."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise MetricError(f"Metric.{name} failed: {error}") from error


def add_value(meters: Meters, name: str, value: Any, weight: Any = 1) -> None:
    """Add a value to the mean called ``name``, which is made if there is none."""
    meters.setdefault(name, AverageMeter(name)).update(value, weight)


def add_metrics(
    meters: Meters, metrics: Mapping, result: Mapping, batch: Mapping, stage: str
) -> None:
    """Add the metrics of one batch, each weighted by the rows it was computed on."""
    for key, metric in metrics.items():
        prediction, label = find_pair(key, result, batch, stage)
        value = _number(call_metric(key, metric, prediction, label))
        rows = len(prediction) if hasattr(prediction, "__len__") else 1
        add_value(meters, key, value, rows)


def add_losses(meters: Meters, result: Mapping, batch_size: int) -> None:
    """Add the losses of one batch, each weighted by what it is a mean over."""
    for name, loss in result.get("loss_dict", {}).items():
        weight = loss_weight(result, name, batch_size)
        add_value(meters, name, _number(loss), _number(weight))


def _number(value: Any) -> Any:
    """Return a value for a sum: a float, or a tensor if reading it would wait."""
    if not isinstance(value, paddle.Tensor):
        return float(value)
    value = value.detach().astype("float64").reshape([])
    return float(value) if value.place.is_cpu_place() else value


def merge_ranks(meters: Mapping[str, AverageMeter]) -> Meters:
    """Join the meters of all ranks; each item counts once.

    Ranks may have seen different numbers of batches, and none at all. All ranks
    return the same numbers, bit for bit.
    """
    merged: Meters = {}
    for part in gather_objects(_pack(meters)):
        for name, sums in part.items():
            merged.setdefault(name, AverageMeter(name)).add_sums(*sums)
    return merged


def _pack(meters: Mapping[str, AverageMeter]) -> dict[str, list[float]]:
    return {name: [float(m.sum), float(m.count)] for name, m in meters.items()}


@dataclass
class TrainingMeans:
    """Means of a part of an epoch, by kind: losses, metrics, and the rest."""

    loss: Meters = field(default_factory=dict)
    metric: Meters = field(default_factory=dict)
    count: Meters = field(default_factory=dict)

    def merge_ranks(self) -> TrainingMeans:
        """Return the means over all ranks."""
        return TrainingMeans(*map(merge_ranks, vars(self).values()))

    def add(self, sums: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what :meth:`pack` returned."""
        for kind, values in sums.items():
            meters = getattr(self, kind)
            for name, pair in values.items():
                meters.setdefault(name, AverageMeter(name)).add_sums(*pair)

    def pack(self) -> dict[str, dict[str, list[float]]]:
        """Return ``[sum, count]`` by kind and name, for a checkpoint."""
        return {kind: _pack(meters) for kind, meters in vars(self).items()}


class StreamingMetrics:
    """Metrics with a state, one set for one stage.

    Args:
        metrics: Name to object with ``update_step``, ``compute_epoch``, ``reset``.
        stage: ``train`` or ``eval``.
    """

    def __init__(self, metrics: Mapping[str, Any], stage: str) -> None:
        self.metrics = dict(metrics)
        self.stage = stage

    def update(self, result: Mapping, batch: Any) -> None:
        """Add a batch to all metrics."""
        for name, metric in self.metrics.items():
            step = {"result": result, "batch": batch, "stage": self.stage}
            call_metric(name, metric.update_step, **step)

    def compute(self) -> Meters:
        """Return the values of the epoch and reset."""
        values: Meters = {}
        for name, metric in self.metrics.items():
            computed = call_metric(name, metric.compute_epoch, stage=self.stage)
            for key, value in (computed or {}).items():
                if key in values:
                    raise MetricError(
                        f"Metric.{name} gives '{key}', as another metric does; change "
                        "one of the two names in its __init_params__"
                    )
                add_value(values, key, float(value))
            metric.reset()
        return values
