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


"""Small helpers that several packages need: seeds, meters, ranks."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

__all__ = [
    "AverageMeter",
    "RankZeroOnly",
    "all_gather",
    "format_time_manual",
    "run_at_rank0",
    "set_random_seed",
    "typename",
]


class AverageMeter:
    """A weighted mean that grows: :meth:`update`, then :attr:`avg`.

    Sums stay what they are given: tensors are added on their device and are only
    read when someone asks for a float.

    Args:
        name: What is averaged.
        fmt: Format of :attr:`value` and :attr:`mean`.
        postfix: Unit shown after the number.
    """

    def __init__(self, name: str = "", fmt: str = "f", postfix: str = "") -> None:
        self.name = name
        self.fmt = fmt
        self.postfix = postfix
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.val: Any = 0.0
        self.sum: Any = 0.0
        self.count: Any = 0.0

    def update(self, val: Any, n: Any = 1) -> None:
        """Add ``val``, the mean of ``n`` items."""
        self.val = val
        self.sum = self.sum + val * n
        self.count = self.count + n

    @property
    def avg(self) -> float:
        """The mean so far; NaN before the first update."""
        count = float(self.count)
        return float(self.sum) / count if count else float("nan")

    @property
    def value(self) -> str:
        """The last value as text."""
        return f"{self.name}: {float(self.val):{self.fmt}}{self.postfix}"

    @property
    def mean(self) -> str:
        """The mean as text."""
        return f"{self.name}: {self.avg:{self.fmt}}{self.postfix}"


class RankZeroOnly:
    """``with RankZeroOnly() as is_master:`` - all ranks meet at the end."""

    def __init__(self, rank: int | None = None) -> None:
        self.is_master = (dist.get_rank() if rank is None else rank) == 0

    def __enter__(self) -> bool:
        return self.is_master

    def __exit__(self, *exc_info: Any) -> None:
        if dist.get_world_size() > 1:
            dist.barrier()


def run_at_rank0(func: Callable) -> Callable:
    """Make ``func`` a no-op that returns None on every rank but 0."""

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs) if dist.get_rank() == 0 else None

    return wrapped


def all_gather(
    tensor: paddle.Tensor, concat: bool = True, axis: int = 0
) -> paddle.Tensor | list[paddle.Tensor]:
    """Collect a tensor from all ranks; its length may differ between them.

    Args:
        tensor: At least one axis; the other axes must agree on all ranks.
        concat: Whether to join the parts, in rank order.
        axis: The axis that may differ and along which parts are joined.

    Returns:
        The joined tensor, or the list of parts.
    """
    if dist.get_world_size() == 1:
        return tensor if concat else [tensor]
    rows = tensor.moveaxis(axis, 0).contiguous()
    lengths: list[paddle.Tensor] = []
    dist.all_gather(lengths, paddle.to_tensor([rows.shape[0]], dtype="int64"))
    lengths = [length.item() for length in lengths]
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


def format_time_manual(seconds: float) -> str:
    """Return ``H:MM:SS`` of a duration."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def typename(obj: Any) -> str:
    """Return the class name of an object."""
    return type(obj).__name__
