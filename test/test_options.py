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


import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ppmat.commands import options
from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError

ROOT = Path(__file__).resolve().parents[1]

# Fills 40 MB ten times and prints the page faults of it.
FAULTS = """
import ctypes, resource
from ppmat.commands import options
{call}
libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages come as the system likes
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    memory = libc.malloc(40 << 20)
    ctypes.memset(memory, 1, 40 << 20)
    libc.free(memory)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    output = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)],
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return int(output.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_kept_memory_is_written_without_new_pages():
    kept = page_faults("options.keep_freed_memory()")
    assert page_faults("") > 5 * kept
    chosen = {"MALLOC_TRIM_THRESHOLD_": "131072"}
    assert page_faults("options.keep_freed_memory()", **chosen) > 5 * kept


class FarFetchedError(ValueError):
    pass


def test_bad_input_and_ctrl_c_end_with_a_status_and_a_line():
    def fail(error):
        def command():
            raise error

        return command

    assert options.exit_status(lambda: 1) == 1
    assert options.exit_status(fail(FileNotFoundError("no x.tif"))) == 2
    child = type("WorseError", (ConfigError,), {})
    assert options.exit_status(fail(child("bad key"))) == 2
    assert options.exit_status(fail(InputError("x"))) == 2
    assert options.exit_status(fail(KeyboardInterrupt())) == 130
    for error in (FarFetchedError("mine"), ValueError("a fault of ours")):
        with pytest.raises(ValueError):
            options.exit_status(fail(error))
