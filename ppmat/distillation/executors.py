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

"""Run tasks in other processes, on this machine or on many; a lost one is run again.

Both kinds are executors of the standard library. Tasks are functions of modules with
arguments that can be pickled, and depend on nothing else, so a task that is run twice
gives the same result; the caller gets it once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent.futures import Executor as Pool
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ppmat.distillation.settings import Executor
from ppmat.utils import logger
from ppmat.utils.errors import InputError

_TRIES = 3  # pools that may break without any task done in between


class LostTaskError(InputError):
    """The processes of a task end again and again."""

    status = 1


def run_tasks(
    function: Callable[..., Any], tasks: Mapping[Any, tuple], settings: Executor
) -> Iterator[tuple[Any, Any]]:
    """Yield the key and the result of each task, as they end.

    Args:
        function: A function of a module.
        tasks: Its arguments, by key.
        settings: Where to run.

    Raises:
        LostTaskError: Processes end without a result.
        Exception: What a task raised.
    """
    left, tries = dict(tasks), 0
    while left:
        with _pool(settings, len(left)) as pool:
            futures = {pool.submit(function, *left[key]): key for key in left}
            try:
                for future in as_completed(futures):
                    key, result = futures[future], future.result()
                    del left[key]
                    tries = 0
                    yield key, result
            except BrokenProcessPool as error:
                tries += 1
                if tries == _TRIES:
                    raise _lost(left) from error
                logger.warning("a process has ended; its tasks are run again")
            except Exception as error:
                if type(error).__name__ == "KilledWorker":  # of Dask, after its tries
                    raise _lost(left) from error
                raise
            finally:
                for future in futures:
                    future.cancel()


def _lost(left: Mapping) -> LostTaskError:
    return LostTaskError(
        f"{len(left)} tasks are left, and processes end before one of them is done",
        hint="Memory may be used up: use fewer workers. What is done is stored.",
    )


@contextlib.contextmanager
def _pool(settings: Executor, tasks: int) -> Iterator[Pool]:
    if settings.kind == "processes":
        # A forked process would share the threads of Paddle and PyTorch
        context = multiprocessing.get_context("spawn")
        workers = min(settings.workers, tasks)
        with ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
            yield pool
        return
    with _dask(settings) as client:
        # retries: a task whose worker dies is run by another one
        with client.get_executor(pure=False, retries=_TRIES) as pool:
            yield pool


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, also after SIGKILL."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _dask(settings: Executor) -> Iterator[Any]:
    try:
        from dask.distributed import Client
        from dask.distributed import LocalCluster
    except ImportError as error:
        raise InputError(
            f"executor dask: {error}", hint="pip install 'ppmat[cluster]'"
        ) from error
    if settings.address is not None:
        try:
            with Client(settings.address, timeout=10) as client:
                yield client
        except (OSError, ValueError) as error:
            raise InputError(
                f"Dask scheduler {settings.address}: {error}",
                hint="Start it with `dask scheduler`, or leave address out.",
            ) from error
        return
    with LocalCluster(
        n_workers=settings.workers, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        with Client(cluster) as client:
            yield client
