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

"""Wait for the other ranks on this machine, however long one of them needs.

Paddle's exchange between CPUs (gloo) fails if a rank is 30 s late, and this limit cannot
be changed. A rank may be late while it reads from a slow disk or writes a checkpoint.
So ranks of one machine first meet here: each one counts its meetings in a file that all
of them map into memory.
"""

from __future__ import annotations

import functools
import os
import time

import numpy as np

COUNTS = "PPMAT_MEETINGS"  # variable: the file with an int64 for each rank
_SHORTEST, _LONGEST = 1e-4, 1e-2  # seconds between two looks at the counts


@functools.cache
def _counts(path: str) -> np.memmap:
    return np.memmap(path, np.int64, "r+")


def meet() -> None:
    """Return when all ranks of this machine have called this as often as this one.

    Without the file, which :class:`ppmat.commands.processes.Ranks` makes, nothing is
    done: Paddle then waits.
    """
    path = os.environ.get(COUNTS)
    if path is None:
        return
    counts, rank = _counts(path), int(os.environ["PADDLE_TRAINER_ID"])
    counts[rank] += 1
    mine, pause = counts[rank], _SHORTEST
    while counts.min() < mine:
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
