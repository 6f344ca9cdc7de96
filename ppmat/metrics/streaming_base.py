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


"""The interface of a metric that accumulates over the steps of an epoch."""

from __future__ import annotations

from typing import Any

import paddle

from ppmat.utils.misc import sum_over_ranks


def _all_reduce_sum_(sums: paddle.Tensor) -> paddle.Tensor:
    """Return the sums over all ranks, float64; the name is upstream's."""
    return sum_over_ranks(sums)


class StreamingMetricBase:
    """A metric with state: the trainer feeds it step by step and reads it once.

    A subclass keeps sums and counts (never per-batch means), adds to them in
    :meth:`update_step`, sums them over the ranks in :meth:`compute_epoch`
    (:func:`ppmat.utils.misc.sum_over_ranks`) and clears them in :meth:`reset`.
    """

    def bind(self, **runtime_objs: Any) -> None:
        """Receive objects that exist only at run time (the model, a data set)."""

    def update_step(self, *, result: dict[str, Any], batch: Any, stage: str) -> None:
        """Add one step.

        Args:
            result: What the model returned: ``loss_dict``, ``pred_dict`` or the
                ``result`` list of ``model.sample``.
            batch: The batch the model was given.
            stage: ``"train"``, ``"eval"`` or ``"sample"``.
        """
        raise NotImplementedError(f"{type(self).__name__}.update_step")

    def compute_epoch(self, *, stage: str) -> dict[str, float]:
        """Return the values over everything seen since :meth:`reset`."""
        raise NotImplementedError(f"{type(self).__name__}.compute_epoch")

    def reset(self) -> None:
        """Forget everything seen so far."""
        raise NotImplementedError(f"{type(self).__name__}.reset")
