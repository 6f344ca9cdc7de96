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

"""Batch samplers whose order is a function of seed and epoch, in one or many processes.

They replace Paddle's samplers of the same names in YAML files. Paddle's
``BatchSampler`` shuffles with numpy's global generator, so its order cannot be
reproduced after a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sized
from typing import Annotated

import numpy as np
import paddle.distributed as dist
from paddle import io

from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range
from ppmat.utils.registry import ConfigError

_BatchSize = Annotated[int, Range(1, 65_536)]  # more fits into no memory


class DistributedBatchSampler(io.BatchSampler):
    """Distributes the batches of an epoch over the processes of a run.

    The samples of an epoch are cut into global batches of ``batch_size *
    num_replicas`` (with ``shared`` of ``batch_size``), of which each process gets its
    slice. All processes together see in step t what one process with the global batch
    size would see. A last, incomplete global batch is distributed as evenly as
    possible. If it holds fewer samples than there are processes,

    - with ``even=True`` (training: all processes must take the same number of steps)
      the first samples of the epoch are repeated, at most ``num_replicas - 1`` of
      them, until each process has one;
    - with ``even=False`` (evaluation) some processes have one batch less, and each
      sample is used exactly once.

    ``len()`` is the number of batches of this process in a whole epoch.

    Example:
        >>> sampler = DistributedBatchSampler(range(7), 2, num_replicas=1, rank=0)
        >>> sampler.set_epoch(3)  # the order is a function of seed and epoch
        >>> sampler.start_batch = 2  # after a resume: leave out the first batches
        >>> list(sampler)
        [[4, 5], [6]]

    Args:
        dataset: Anything with a length.
        batch_size: Samples per batch and process.
        num_replicas: Number of processes; None uses that of ``paddle.distributed``.
        rank: Number of this process; None uses that of ``paddle.distributed``.
        shuffle: Use a new random order in every epoch.
        drop_last: Leave out the last global batch if it is incomplete.
        seed: Seed of the order; must be the same in all processes.
        even: See above.
        shared: ``batch_size`` is that of all processes together; at least one sample
            for each.

    Raises:
        ConfigError: A parameter outside its range.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: _BatchSize,
        num_replicas: Annotated[int, Range(1, 65_536)] | None = None,
        rank: Annotated[int, Range(0, 65_535)] | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
        even: bool = True,
        shared: bool = False,
    ) -> None:
        self.nranks = dist.get_world_size() if num_replicas is None else num_replicas
        self.local_rank = dist.get_rank() if rank is None else rank
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", wanted="at least 1")
        if not 0 <= self.local_rank < self.nranks:
            raise ConfigError(
                f"rank is {self.local_rank}",
                wanted=f"0 to num_replicas - 1 = {self.nranks - 1}",
            )
        if shared and batch_size < self.nranks:
            raise ConfigError(
                f"batch_size is {batch_size}",
                wanted=f"at least 1 for each of {self.nranks} processes",
            )
        if seed < 0:
            raise ConfigError(f"seed is {seed}", wanted="0 or more")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.even = even
        self.global_batch_size = batch_size if shared else batch_size * self.nranks
        self.epoch = 0
        self._start_batch = 0

    @property
    def start_batch(self) -> int:
        """Number of batches the next pass leaves out; 0 once that pass has begun."""
        return self._start_batch

    @start_batch.setter
    def start_batch(self, value: int) -> None:
        if not 0 <= value <= len(self):
            raise InputError(
                f"start_batch is {value}, but an epoch of this process has "
                f"{len(self)} batches; was the data set or batch size changed?"
            )
        self._start_batch = value

    def set_epoch(self, epoch: int) -> None:
        """Set the order of the next pass and start it at its first batch."""
        self.epoch = epoch
        self._start_batch = 0

    def __iter__(self) -> Iterator[list[int]]:
        start, self._start_batch = self._start_batch, 0
        return self._batches(self._order(), start)

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.dataset))
        # numpy keeps the stream of RandomState in all versions, unlike Generator's.
        bits = np.random.MT19937(np.random.SeedSequence([self.seed, self.epoch]))
        return np.random.RandomState(bits).permutation(len(self.dataset))

    def _batches(self, order: np.ndarray, start: int) -> Iterator[list[int]]:
        whole, rest = divmod(len(order), self.global_batch_size)
        batches = order[: len(order) - rest].reshape(whole, self.global_batch_size)
        mine = np.array_split(batches[start:], self.nranks, axis=1)[self.local_rank]
        for batch in mine:
            yield batch.tolist()
        if self._has_rest(rest) and start <= whole:
            rest_order = order[len(order) - rest :]
            if self.even and rest < self.nranks:
                rest_order = np.append(rest_order, np.resize(order, self.nranks - rest))
            yield np.array_split(rest_order, self.nranks)[self.local_rank].tolist()

    def _has_rest(self, rest: int) -> bool:
        """Return whether this process has samples of an incomplete global batch."""
        return not self.drop_last and rest > 0 and (self.even or self.local_rank < rest)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.global_batch_size)
        return whole + self._has_rest(rest)


class BatchSampler(DistributedBatchSampler):
    """:class:`DistributedBatchSampler` of a single process, with Paddle's arguments."""

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = False,
        batch_size: _BatchSize = 1,
        drop_last: bool = False,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
    ) -> None:
        super().__init__(dataset, batch_size, 1, 0, shuffle, drop_last, seed=seed)
