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


"""What Paddle's DataLoader lacks: an exact order of draws, signal-proof workers.

Checked against Paddle 3.3.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import io

from ppmat.datasets.batch_sampler import DistributedBatchSampler

_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_PARENT_CHECK = 1.0  # seconds
_PLAIN = (str, bytes, int, float, type(None))


class Loader(io.DataLoader):
    """``paddle.io.DataLoader`` that differs in five points.

    - Without workers a batch is made when it is asked for. Paddle makes it in a
      thread, ahead of time: random draws of the data set and of the training mix in
      an order that no resume can repeat, and a worker forked while that thread holds
      a lock never gets it (``functools.cached_property`` up to Python 3.11).
    - Arrays without elements pass through workers. Paddle stops with "Tensor holds no
      memory" when one comes through shared memory; isolated atoms have no edges.
    - Ctrl-C and a batch system signal the whole process group; workers leave that to
      their parent, which still has to finish a step and write a checkpoint.
    - A data set that has ``set_epoch`` is told the epoch of the batch sampler, so that
      its random draws can be a function of seed, epoch and index. (Persistent workers
      keep the epoch of their start.)
    - An error in a worker is raised in the main process as what it was. Paddle prints
      it in a thread and raises a SystemError that says nothing of the cause.
    """

    def __init__(
        self,
        *args: Any,
        collate_fn: Callable,
        worker_init_fn: Callable[[int], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            collate_fn=_Pack(collate_fn),
            worker_init_fn=_Start(worker_init_fn),
            **kwargs,
        )

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.batch_sampler.epoch)
        if self.num_workers == 0:
            for indices in self.batch_sampler:
                samples = [self.dataset[i] for i in indices]
                yield _map(self.collate_fn.collate_fn(samples), _to_tensor)
            return
        # The workers inherit the mask, so no signal meets them half started.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        numbers = np.random.get_state()  # Paddle draws a seed that nobody uses here
        dataset = self.dataset
        try:
            self.dataset = _Guarded(dataset)
            batches = super().__iter__()
        finally:
            self.dataset = dataset
            np.random.set_state(numbers)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for batch in batches:
            if isinstance(batch, list) and isinstance(batch[0], _Failure):
                batch[0].reraise()
            yield _map(batch, _from_empty)


def _to_tensor(field: Any) -> Any:
    return paddle.to_tensor(field) if isinstance(field, np.ndarray) else field


@dataclass
class _Empty:
    """Stands for an array without elements on its way out of a worker."""

    shape: tuple[int, ...]
    dtype: str


class _Pack:
    def __init__(self, collate_fn: Callable) -> None:
        self.collate_fn = collate_fn

    def __call__(self, samples: list[Any]) -> Any:
        failure = next((s for s in samples if isinstance(s, _Failure)), None)
        if failure is None:
            try:
                return _map(self.collate_fn(samples), _to_empty)
            except Exception as error:
                failure = _Failure(error)
        return [failure, np.zeros(1)]  # Paddle takes a batch without arrays for the end


class _Guarded:
    """A data set whose errors are samples, in a worker."""

    def __init__(self, dataset: io.Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:
            return _Failure(error)

    def __len__(self) -> int:
        return len(self.dataset)


class _Failure:
    """An error on its way out of a worker, with the place where it was raised."""

    def __init__(self, error: Exception) -> None:
        self.text = traceback.format_exc()
        self.error: Exception = RuntimeError(f"{type(error).__name__}: {error}")
        if all(isinstance(value, _PLAIN) for value in error.args):
            with contextlib.suppress(TypeError):  # a constructor that takes others
                self.error = type(error)(*error.args)

    def reraise(self) -> None:
        raise self.error from RuntimeError(f"in a data worker:\n{self.text}")


def _to_empty(field: Any) -> Any:
    if isinstance(field, np.ndarray) and field.size == 0:
        return _Empty(field.shape, str(field.dtype))
    return field


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
    """Seeds a worker.

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


class _Start:
    """Begins a worker: it ends with its parent, not before and not later."""

    def __init__(self, worker_init_fn: Callable[[int], None] | None) -> None:
        self.worker_init_fn = worker_init_fn

    def __call__(self, worker_id: int) -> None:
        # Asking the system would give the wrong one if the parent is dead already.
        parent = multiprocessing.parent_process().pid
        threading.Thread(target=_follow, args=[parent], daemon=True).start()
        if self.worker_init_fn is not None:
            self.worker_init_fn(worker_id)


def _follow(parent: int) -> None:
    """End this worker when its parent says so or is gone.

    Paddle's own watchdog does not run while a worker waits for work.
    """
    while os.getppid() == parent:
        info = signal.sigtimedwait({signal.SIGTERM}, _PARENT_CHECK)
        if info is not None and info.si_pid == parent:
            os._exit(0)
    os._exit(1)
