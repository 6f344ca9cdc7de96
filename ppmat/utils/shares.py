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

"""Divide independent work, such as files, among the ranks of a run.

``paddle.distributed.launch`` tells each process its rank in its environment. In a
single process nothing here loads Paddle.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from collections.abc import Iterator
from typing import TypeVar

from ppmat.utils.files import locked

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def my_share(number: int) -> range:
    """Return the indices of this rank among ``number`` items: every n-th.

    Example:
        >>> list(my_share(3))  # in a single process
        [0, 1, 2]
    """
    return range(rank(), number, world_size())


def in_order(mine: Iterable[T]) -> Iterator[T]:
    """Yield on rank 0 the results of all ranks in the order of the items.

    The others yield nothing. In a single process each result comes when it is ready.

    Args:
        mine: The results of :func:`my_share`, as plain values.
    """
    if world_size() == 1:
        yield from mine
        return
    from ppmat.utils.misc import gather_objects

    parts = gather_objects(list(mine))
    if rank() == 0:
        for i in range(len(parts[0])):
            yield from (part[i] for part in parts if i < len(part))


def wait() -> None:
    """Wait until every rank has reached this point."""
    if world_size() > 1:
        from ppmat.utils.misc import wait_for_all

        wait_for_all()


@contextlib.contextmanager
def locked_for_all(path: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a file or folder: rank 0 has it, the others wait until then.

    Raises:
        StoredRunError, InputError: As :func:`ppmat.utils.files.locked`.
    """
    with locked(path) if rank() == 0 else contextlib.nullcontext():
        wait()
        yield
        wait()
