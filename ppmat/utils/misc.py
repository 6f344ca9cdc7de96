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

"""Helpers that several packages need: means, sums over ranks, seeds, devices."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppmat.utils.meeting import meet
from ppmat.utils.meeting import start_ranks
from ppmat.utils.registry import ConfigError


class AverageMeter:
    """A running weighted mean; only :attr:`avg` copies tensors to the CPU.

    Args:
        name: What is averaged.

    Example:
        >>> meter = AverageMeter("loss")
        >>> meter.update(2.0, n=3)
        >>> meter.update(6.0)
        >>> meter.avg
        3.0
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Start again without values."""
        self.val: Any = 0.0
        self.sum: Any = 0.0
        self.count: Any = 0.0

    def update(self, val: Any, n: Any = 1) -> None:
        """Add ``val``, the mean of ``n`` items."""
        self.val = val
        self.add_sums(val * n, n)

    def add_sums(self, total: Any, count: Any) -> None:
        """Add a sum over ``count`` items."""
        self.sum = self.sum + total
        self.count = self.count + count

    @property
    def avg(self) -> float:
        """The mean so far; NaN before the first update."""
        count = float(self.count)
        return float(self.sum) / count if count else float("nan")


def choose_device(device: str | None) -> None:
    """Make Paddle compute on a device, ``cpu``, ``gpu`` or ``gpu:0``; None keeps it.

    Raises:
        ConfigError: There is no such device, or Paddle was built without it.
    """
    if device is None:
        return
    try:
        paddle.set_device(device)
    except (ValueError, RuntimeError) as error:
        found = f"device is {device!r}: {str(error).splitlines()[0]}"
        raise ConfigError(found) from error


def sum_over_ranks(values: Sequence | np.ndarray) -> paddle.Tensor:
    """Return the sums over all ranks, float64 [n]; of one process its own values.

    Every rank has to call this, also one that has nothing to add.

    Args:
        values: Numbers, or tensors of one number each, n of them on every rank.

    Example:
        >>> sum_over_ranks([1, 2.5]).tolist()
        [1.0, 2.5]
    """
    total = paddle.stack(
        [
            v.detach().astype("float64").reshape([])
            if isinstance(v, paddle.Tensor)
            else paddle.to_tensor(v, dtype="float64")
            for v in values
        ]
    )
    if dist.is_initialized() and dist.get_world_size() > 1:
        meet()
        dist.all_reduce(total)
    return total


def gather_objects(value: Any) -> list[Any]:
    """Return the plain values of all ranks, in rank order.

    Example:
        >>> gather_objects("a")
        ['a']
    """
    if dist.get_world_size() == 1:
        return [value]
    meet()
    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Wait until every rank has reached this point."""
    if dist.get_world_size() > 1:
        start_ranks()
        meet()
        dist.barrier()


def all_gather(
    tensor: paddle.Tensor, concat: bool = True, axis: int = 0
) -> paddle.Tensor | list[paddle.Tensor]:
    """Gather a tensor from all ranks; its length along ``axis`` may differ.

    Returns:
        The parts joined along ``axis``, or without ``concat`` their list.
    """
    if dist.get_world_size() == 1:
        return tensor if concat else [tensor]
    rows = tensor.moveaxis(axis, 0).contiguous()
    lengths = gather_objects(rows.shape[0])
    padding = max(lengths) - rows.shape[0]
    if padding:
        filler = paddle.zeros([padding, *rows.shape[1:]], dtype=rows.dtype)
        rows = paddle.concat([rows, filler])
    parts: list[paddle.Tensor] = []
    dist.all_gather(parts, rows)
    parts = [part[:n].moveaxis(0, axis) for part, n in zip(parts, lengths)]
    return paddle.concat(parts, axis) if concat else parts


def set_random_seed(seed: int) -> None:
    """Seed Paddle, numpy and Python's ``random``."""
    paddle.seed(seed)
    np.random.seed(seed)
    random.seed(seed)
