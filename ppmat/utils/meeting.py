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

"""Start the exchange between ranks, and wait for a rank however long it needs.

Paddle's exchange between CPUs (gloo) fails if a rank is 30 s late, which cannot be
changed. A rank may be late while it reads from a slow disk or writes a checkpoint. So
the ranks of one machine first meet here: each one counts its meetings in a file that
all of them map into memory.
"""

from __future__ import annotations

import contextlib
import io
import socket
import tempfile
import time
import uuid

import numpy as np
import paddle
import paddle.distributed as dist

_SHORTEST, _LONGEST = 1e-4, 1e-2  # seconds between two looks at the counts
_counts: np.ndarray | None = None  # meetings of each rank


def start_ranks() -> None:
    """Start the exchange between the ranks, if there are several."""
    global _counts

    if dist.get_world_size() == 1 or dist.is_initialized():
        return
    with contextlib.redirect_stderr(io.StringIO()):  # Paddle lists flags it has changed
        dist.init_parallel_env()
    if paddle.get_device() != "cpu":
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(8 * dist.get_world_size()))
        file.flush()
        machine = f"{socket.gethostname()} {uuid.getnode()}"
        found: list = []
        dist.all_gather_object(found, (machine, file.name))
        if len({machine for machine, _ in found}) == 1:
            _counts = np.memmap(found[0][1], np.int64, "r+")
        dist.barrier()  # all have mapped it, so its name can go


def meet() -> None:
    """Return when all ranks of this machine have called this as often as this one.

    Ranks on GPUs or on several machines do not meet here: Paddle waits for them.
    """
    if _counts is None:
        return
    rank = dist.get_rank()
    _counts[rank] += 1
    mine, pause = _counts[rank], _SHORTEST
    while _counts.min() < mine:
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
