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


"""What Paddle's DataLoader lacks: seeded, signal-proof workers and empty arrays."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from typing import Callable
from typing import List
from typing import Tuple

import numpy as np
import paddle
from paddle import io

from ppmat.datasets.batch_sampler import DistributedBatchSampler


class Loader(io.DataLoader):
    """``paddle.io.DataLoader`` that also carries arrays without elements.

    Paddle (3.3) stops with "Tensor holds no memory" when a worker sends one through
    shared memory; a batch of isolated atoms has no edges, though, and no reciprocal
    vectors if they are switched off.
    """

    def __init__(self, *args: Any, collate_fn: Callable, **kwargs: Any) -> None:
        super().__init__(*args, collate_fn=_Pack(collate_fn), **kwargs)
        if self.num_workers == 0:
            self.collate_fn = collate_fn

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            yield _unpack(batch)


@dataclass
class _Empty:
    """Stands for an array without elements on its way out of a worker."""

    shape: Tuple[int, ...]
    dtype: str


class _Pack:
    def __init__(self, collate_fn: Callable) -> None:
        self.collate_fn = collate_fn

    def __call__(self, samples: List[Any]) -> Any:
        return _map(self.collate_fn(samples), _to_empty)


def _to_empty(field: Any) -> Any:
    if isinstance(field, np.ndarray) and field.size == 0:
        return _Empty(field.shape, str(field.dtype))
    return field


def _unpack(batch: Any) -> Any:
    return _map(batch, _from_empty)


def _from_empty(field: Any) -> Any:
    if isinstance(field, _Empty):
        return paddle.zeros(field.shape, field.dtype)
    return field


def _map(batch: Any, function: Callable) -> Any:
    """Apply ``function`` to the fields of nested dicts and lists."""
    if isinstance(batch, dict):
        return {key: _map(value, function) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [_map(value, function) for value in batch]
    return function(batch)


class WorkerInit:
    """Seeds a worker and keeps it alive until its own process is done with it.

    The global generators of numpy, Python and Paddle get a state that depends on
    seed, epoch, rank and worker, so no two draw alike. (``persistent_workers`` start
    once, hence keep the epoch of their start.)
    """

    def __init__(self, sampler: DistributedBatchSampler, seed: int) -> None:
        self.sampler = sampler
        self.seed = seed

    def __call__(self, worker_id: int) -> None:
        entropy = [self.seed, self.sampler.epoch, self.sampler.local_rank, worker_id]
        state = np.random.SeedSequence(entropy).generate_state(6)
        np.random.seed(state[:4])
        random.seed(int(state[4]))
        paddle.seed(int(state[5]))
        _leave_signals_to_parent()


def _leave_signals_to_parent() -> None:
    """Let only the parent end this worker.

    Ctrl-C and batch systems signal the whole process group. If the workers died of
    it, the trainer could not finish its step and write a checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def obey_parent() -> None:
        parent = os.getppid()
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=obey_parent, daemon=True).start()
