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

"""What a model counts during its training: batches, and the elements in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import paddle
import paddle.distributed as dist
from paddle import nn

from ppmat.utils.element_properties import MAX_ATOMIC_NUMBER
from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range

WeightBatches = Annotated[int, Range(1, 10**12)] | None


def no_elements() -> paddle.Tensor:
    """Return what ``elements_seen`` of a model is before its training."""
    return paddle.zeros([MAX_ATOMIC_NUMBER + 1], dtype="bool")


@paddle.no_grad()
def mark_elements(seen: paddle.Tensor, atom_types: paddle.Tensor) -> None:
    """Mark the elements of a batch, those of all processes, in ``seen``."""
    count = paddle.bincount(atom_types, minlength=MAX_ATOMIC_NUMBER + 1)
    if dist.get_world_size() > 1:
        dist.all_reduce(count)
    seen.set_value(paddle.logical_or(seen, count > 0))


class BatchCounter(nn.Layer):
    """Base class of models whose loss has weights that change during the training.

    Attributes:
        batches_seen: Training batches so far. A buffer, saved with the weights.
        elements_seen: Whether an element was in one of them, by atomic number. A
            buffer.
        num_batches: Batches over which the weights change; None while it is unknown.

    Args:
        weight_batches: This number. None takes the length of the training from a
            trainer that calls :meth:`before_train`; not every trainer does.
    """

    def __init__(self, weight_batches: int | None = None) -> None:
        super().__init__()
        self.register_buffer("batches_seen", paddle.zeros([], dtype="int64"))
        self.register_buffer("elements_seen", no_elements())
        self.weight_batches = weight_batches
        self.num_batches = weight_batches

    def before_train(self, trainer) -> None:
        """Take the length of the training, unless the model was given a number."""
        if self.weight_batches is None:
            self.num_batches = trainer.max_epochs * len(trainer.train_dataloader)

    def weight_now(self, ends: Sequence[float]) -> float:
        """Return a weight at this batch, linear between start and end of training.

        Where the length of the training is unknown, evaluation has the weight of its
        end, and training with a weight that changes is refused.
        """
        start, end = ends
        if start == end:
            return start
        if self.num_batches is None:
            if not self.training:
                return end
            raise InputError(
                f"a weight of the loss changes from {start} to {end} during the "
                "training, but nobody told the model how long that is",
                hint="Set Model.__init_params__.weight_batches to the number of "
                "training batches of one process.",
            )
        done = min(float(self.batches_seen) / self.num_batches, 1.0)
        return start + (end - start) * done

    @paddle.no_grad()
    def count_batch(self, atom_types: paddle.Tensor) -> None:
        """Count a training batch and mark its elements, those of all processes."""
        self.batches_seen.add_(paddle.ones_like(self.batches_seen))
        mark_elements(self.elements_seen, atom_types)
