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


"""Metrics that a YAML file may name, and :func:`build_metric`."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import paddle

from ppmat.metrics.is2re_metric import IS2REMetric
from ppmat.metrics.is2rs_metric import IS2RSMetric
from ppmat.metrics.potential_metric import PotentialMetric
from ppmat.metrics.sfin_metric import SFINStreamingAdapter
from ppmat.metrics.streaming_base import StreamingMetricBase
from ppmat.metrics.structure_check_metric import StructureCheckMetric
from ppmat.utils.registry import Registry

__all__ = [
    "IS2REMetric",
    "IS2RSMetric",
    "IgnoreNanMetricWrapper",
    "PotentialMetric",
    "SFINStreamingAdapter",
    "StreamingMetricBase",
    "StructureCheckMetric",
    "build_metric",
]


class IgnoreNanMetricWrapper:
    """Apply a metric to the entries whose label is a number.

    Args:
        **metric_cfg: The block of the metric inside (``__class_name__``,
            ``__init_params__``). It gets ``(pred, label)`` and returns a scalar.
    """

    def __init__(self, **metric_cfg: Any) -> None:
        self._metric = METRICS.build(metric_cfg, "IgnoreNanMetricWrapper")

    def __call__(self, pred: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        """Return the metric over valid entries, NaN if there are none."""
        known = paddle.logical_not(paddle.isnan(label))
        if not bool(known.any()):
            return paddle.full([], float("nan"), dtype=label.dtype)
        return self._metric(pred[known], label[known])


METRICS = Registry(
    "metric",
    [
        IS2REMetric,
        IS2RSMetric,
        PotentialMetric,
        IgnoreNanMetricWrapper,
        SFINStreamingAdapter,
        StructureCheckMetric,
    ],
)
# Existing YAML files name these two by the path under which Paddle documents them.
METRICS.register(paddle.nn.L1Loss, "paddle.nn.L1Loss")
METRICS.register(paddle.nn.MSELoss, "paddle.nn.MSELoss")


def build_metric(
    cfg: Mapping | None, where: str = "Metric"
) -> None | Callable | dict[str, Any]:
    """Build a metric, or a dict of metrics; None for None.

    Args:
        cfg: One block, or a mapping from the key of ``pred_dict`` / batch the metric
            compares to its block. It is not changed.
        where: YAML path of ``cfg``, for errors.

    Raises:
        ConfigError: Unknown class, key or wrong type, with the YAML path.
    """
    return METRICS.build_all(cfg, where)
