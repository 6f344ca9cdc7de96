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

"""A loader with a reproducible order of random draws and workers that ignore signals.

Checked against Paddle 3.3.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import random
import shutil
import signal
import threading
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import io

from ppmat.datasets.batch_sampler import DistributedBatchSampler
from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.utils.errors import InputError

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_PARENT_CHECK = 1.0  # seconds between two checks that the parent process runs
_PICKLABLE = (str, bytes, int, float, type(None))
_SHARED_MEMORY = "/dev/shm"
_SIGNAL_NUMBERS = frozenset(map(int, signal.Signals))


class Loader(io.DataLoader):
    """``paddle.io.DataLoader`` that differs in six points.

    - Without workers a batch is made when it is requested. Paddle makes it earlier, in
      a thread. Random draws of the data set and of the training then mix in an order
      that a resumed run cannot repeat. A worker forked while that thread holds a lock
      also waits forever (``functools.cached_property`` up to Python 3.11).
    - Arrays without elements pass through workers; isolated atoms have no edges. Paddle
      stops with "Tensor holds no memory" if one comes through shared memory.
    - Workers ignore Ctrl-C and the signals of a batch system, which go to the whole
      process group. Their parent still has to finish a step and write a checkpoint.
    - A data set with ``set_epoch`` gets the epoch of the batch sampler, so that its
      random draws can be a function of seed, epoch and index. (Persistent workers keep
      the epoch of their start.)
    - An error in a worker is raised in the main process as it was. Paddle prints it in
      a thread and raises a SystemError without the cause.
    - A worker that dies is a :class:`WorkerError` with the likely cause, raised where
      its batch is waited for. Paddle raises a SystemError from a signal handler, which
      can stop the training inside any statement.
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
            worker_init_fn=_WorkerStart(worker_init_fn),
            **kwargs,
        )

    def __iter__(self) -> Iterator[Any]:
        whole = self.dataset
        if isinstance(whole, io.Subset):
            whole = whole.dataset
        if hasattr(whole, "set_epoch"):
            whole.set_epoch(self.batch_sampler.epoch)
        if self.num_workers == 0:
            for indices in self.batch_sampler:
                samples = [self.dataset[i] for i in indices]
                yield _map(self.collate_fn.collate_fn(samples), _to_tensor)
            return
        # The workers inherit the mask, so no signal interrupts their start.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        numbers = np.random.get_state()  # Paddle draws a seed that is not used here
        dataset = self.dataset
        at_end_of_child = signal.getsignal(signal.SIGCHLD)
        try:
            self.dataset = _Guarded(dataset)
            batches = super().__iter__()
        finally:
            self.dataset = dataset
            np.random.set_state(numbers)
            if signal.getsignal(signal.SIGCHLD) is not at_end_of_child:
                signal.signal(signal.SIGCHLD, at_end_of_child)  # without Paddle's
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with _without_warnings_of_paddle():
            yield from _received(batches)


def _received(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches of workers; raise their errors, and one for a dead worker."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            # Paddle looks for dead workers after 5 s without a batch.
            codes = [worker.exitcode for worker in batches._workers]
            died = sorted(code for code in codes if code)
            if not died:
                raise
            for worker in batches._workers:  # they may wait for a lock of the dead one
                worker.kill()
            raise WorkerError(died[0]) from error
        if isinstance(batch, list) and isinstance(batch[0], _Failure):
            batch[0].reraise()
        yield _map(batch, _from_empty)


@contextlib.contextmanager
def _without_warnings_of_paddle() -> Iterator[None]:
    """Leave out the line that Paddle logs before the error of a dead worker."""

    def keep(record: logging.LogRecord) -> bool:
        return record.module != "dataloader_iter"

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


class WorkerError(InputError):
    """A data worker that died.

    Args:
        code: Exit status, or minus the number of the signal, as ``multiprocessing``
            gives it.

    Example:
        >>> print(WorkerError(-9).found)
        a data worker was killed (SIGKILL): most likely the memory is full
    """

    def __init__(self, code: int) -> None:
        found, hint = _cause_of_death(code)
        super().__init__(found, hint=hint)
        self.code = code

    def __reduce__(self) -> tuple:
        return type(self), (self.code,)


_LESS_MEMORY = "Use a smaller num_workers or batch_size of its loader."


def _cause_of_death(code: int) -> tuple[str, str]:
    """Return what happened to a worker, and what the user can do."""
    number = -code
    if code > 0:
        what = f"a data worker ended with status {code}"
        return what, "num_workers: 0 of its loader shows where."
    name = signal.Signals(number).name if number in _SIGNAL_NUMBERS else str(number)
    if number == signal.SIGKILL:
        what = f"a data worker was killed ({name}): most likely the memory is full"
        return what, _LESS_MEMORY
    if number == signal.SIGBUS:
        what = f"a data worker died ({name}): most likely the shared memory is full"
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(_SHARED_MEMORY)
            what += f" ({_SHARED_MEMORY} has {disk.total >> 20} MiB)"
        return what, f"Enlarge it (docker run --shm-size). {_LESS_MEMORY}"
    if number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
        what = f"a data worker crashed ({name}): a library failed on the data"
        return what, "num_workers: 0 of its loader shows where."
    return f"a data worker was ended from outside ({name})", "Resume the run."


def batches_in_order(
    dataset: io.Dataset,
    batch_size: int,
    wanted: Sequence[int] | None = None,
    collate_fn: Callable | None = None,
    num_workers: int = 0,
) -> Loader:
    """Return a loader of ``dataset`` in its own order.

    Args:
        dataset: The samples.
        batch_size: Samples in a batch; the last may hold fewer.
        wanted: Numbers of the batches to load; all when None.
        collate_fn: ``DefaultCollator`` when None.
        num_workers: Worker processes; 0 uses this one.
    """
    indices = range(len(dataset))
    batches = [list(indices[i:][:batch_size]) for i in indices[::batch_size]]
    return Loader(
        dataset,
        batch_sampler=batches if wanted is None else [batches[i] for i in wanted],
        collate_fn=collate_fn or DefaultCollator(),
        num_workers=num_workers,
    )


def _to_tensor(field: Any) -> Any:
    return paddle.to_tensor(field) if isinstance(field, np.ndarray) else field


@dataclass
class _Empty:
    """Replaces an array without elements in a batch of a worker."""

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
        # Paddle would read a batch without arrays as the end of the data.
        return [failure, np.zeros(1)]


class _Guarded:
    """A data set in a worker that returns errors as samples."""

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
    """An error of a worker for the main process, with its traceback."""

    def __init__(self, error: Exception) -> None:
        self.text = traceback.format_exc()
        if isinstance(error, MemoryError):
            self.error = InputError(
                "a data worker ran out of memory", hint=_LESS_MEMORY
            )
            return
        self.error: Exception = RuntimeError(f"{type(error).__name__}: {error}")
        if all(isinstance(value, _PICKLABLE) for value in error.args):
            with contextlib.suppress(TypeError):  # the constructor has other arguments
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
    """Seeds the global random generators of a worker: numpy, Python and Paddle.

    Their states depend on seed, epoch, rank and worker.
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


class _WorkerStart:
    """Starts a worker that runs exactly as long as its parent."""

    def __init__(self, worker_init_fn: Callable[[int], None] | None) -> None:
        self.worker_init_fn = worker_init_fn

    def __call__(self, worker_id: int) -> None:
        # os.getppid() would return another process if the parent has ended already.
        parent = multiprocessing.parent_process().pid
        threading.Thread(target=_end_with_parent, args=[parent], daemon=True).start()
        if self.worker_init_fn is not None:
            self.worker_init_fn(worker_id)


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent signals it or has ended.

    Paddle's own check does not run while a worker waits for work.
    """
    while os.getppid() == parent:
        info = signal.sigtimedwait({signal.SIGTERM}, _PARENT_CHECK)
        if info is not None and info.si_pid == parent:
            os._exit(0)
    os._exit(1)
