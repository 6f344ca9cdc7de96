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

They stand for Paddle's samplers of the same names in YAML files. Paddle's
``BatchSampler`` shuffles with numpy's global generator, so its order cannot be
reproduced after a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sized

import numpy as np
import paddle.distributed as dist
from paddle import io

from ppmat.utils.registry import ConfigError


class DistributedBatchSampler(io.BatchSampler):
    """Deals the batches of an epoch to the processes of a run.

    The samples of an epoch are put in order and cut into global batches of
    ``batch_size * num_replicas``; of each, a process takes its slice of
    ``batch_size``. So all processes together see in step t what one process with the
    global batch size would see. A last, incomplete global batch is spread as evenly as
    possible: sizes of the processes differ by at most one sample. If it holds fewer
    samples than there are processes, then

    - with ``even=True`` (training: all processes must take the same number of steps)
      the first samples of the epoch are repeated, at most ``num_replicas - 1`` of
      them, until each process has one;
    - with ``even=False`` (evaluation) some processes have one batch less. Each sample
      is seen exactly once.

    How a trainer uses it::

        sampler.set_epoch(epoch)   # the order is a function of (seed, epoch) only
        sampler.start_batch = k    # after a resume: the first k batches of this
        for batch in loader: ...   # process are left out without being loaded

    Without ``set_epoch`` every pass has the same order. ``len()`` is the number of
    batches of this process in a whole epoch, whatever ``start_batch`` is.

    Args:
        dataset: Anything with a length.
        batch_size: Samples per batch and process.
        num_replicas: Number of processes; None asks ``paddle.distributed``.
        rank: This process; None asks ``paddle.distributed``.
        shuffle: Take a new random order in every epoch.
        drop_last: Leave out the last global batch if it is incomplete.
        seed: Seed of the order; must be the same in all processes.
        even: See above.

    Raises:
        ConfigError: A parameter outside its range.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        even: bool = True,
    ) -> None:
        self.nranks = dist.get_world_size() if num_replicas is None else num_replicas
        self.local_rank = dist.get_rank() if rank is None else rank
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, wanted at least 1")
        if not 0 <= self.local_rank < self.nranks:
            raise ConfigError(
                f"rank is {self.local_rank}, wanted 0 to num_replicas - 1 = "
                f"{self.nranks - 1}"
            )
        if seed < 0:
            raise ConfigError(f"seed is {seed}, wanted 0 or more")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.even = even
        self.epoch = 0
        self._start_batch = 0

    @property
    def start_batch(self) -> int:
        """Batches of this process that the next pass leaves out; 0 after it began."""
        return self._start_batch

    @start_batch.setter
    def start_batch(self, value: int) -> None:
        if not 0 <= value <= len(self):
            raise ValueError(
                f"start_batch is {value}, but an epoch of this process has "
                f"{len(self)} batches; was the data set or batch size changed?"
            )
        self._start_batch = value

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass and start it at its first batch."""
        self.epoch = epoch
        self._start_batch = 0

    def __iter__(self) -> Iterator[list[int]]:
        start, self._start_batch = self._start_batch, 0
        return self._batches(self._order(), start)

    def _order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.dataset))
        # numpy guarantees the stream of RandomState for good, unlike Generator's.
        bits = np.random.MT19937(np.random.SeedSequence([self.seed, self.epoch]))
        return np.random.RandomState(bits).permutation(len(self.dataset))

    def _batches(self, order: np.ndarray, start: int) -> Iterator[list[int]]:
        whole, rest = divmod(len(order), self.batch_size * self.nranks)
        mine = order[: len(order) - rest].reshape(whole, self.nranks, self.batch_size)
        for batch in mine[start:, self.local_rank]:
            yield batch.tolist()
        if self._has_rest(rest) and start <= whole:
            rest_order = order[len(order) - rest :]
            if self.even and rest < self.nranks:
                rest_order = np.append(rest_order, np.resize(order, self.nranks - rest))
            yield np.array_split(rest_order, self.nranks)[self.local_rank].tolist()

    def _has_rest(self, rest: int) -> bool:
        """Tell whether this process has a share of an incomplete global batch."""
        if self.drop_last or rest == 0:
            return False
        return self.even or self.local_rank < rest

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size * self.nranks)
        return whole + self._has_rest(rest)


class BatchSampler(DistributedBatchSampler):
    """:class:`DistributedBatchSampler` of a single process, with Paddle's arguments.

    Args:
        dataset: Anything with a length.
        shuffle: Take a new random order in every epoch.
        batch_size: Samples per batch.
        drop_last: Leave out the last batch if it is incomplete.
        seed: Seed of the order.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = False,
        batch_size: int = 1,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dataset,
            batch_size,
            num_replicas=1,
            rank=0,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
        )
