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

"""How many cores this process may use, and how many threads Paddle gains from."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

_MAX_THREADS = 8  # the convolutions of the image network gain little from more
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a Linux container: "<quota> <period>", µs


def available_cores() -> int:
    """Return the number of cores: those the process is bound to, within its quota.

    A container often sees all cores of its host but may use the time of a few.
    """
    bound = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no container, or the quota is "max"
        pass
    return max(1, cores)


def threads_per_process() -> int:
    """Return the threads for this process; it shares the cores with other ranks.

    It is 1 where Paddle's matrix products do not support several threads: its builds
    for other machines than x86 use OpenBLAS, the x86 ones MKL.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return 1
    ranks = int(os.environ.get("PADDLE_LOCAL_SIZE", "1"))
    return max(1, min(_MAX_THREADS, available_cores() // max(1, ranks)))
