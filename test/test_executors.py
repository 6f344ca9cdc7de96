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

"""Tasks run in processes or on a Dask cluster; those of a lost process run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ppmat.distillation.executors import LostTaskError
from ppmat.distillation.executors import run_tasks
from ppmat.distillation.settings import Executor

HERE = Executor(workers=2)


def square(number):
    return number * number


def killed_once(number, folder):
    """Leave a mark at each start; the first one of task 3 kills its process."""
    marks = Path(folder)
    first = not list(marks.glob(f"{number}-*"))
    (marks / f"{number}-{os.getpid()}-{time.time_ns()}").touch()
    if number == 3 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number * number


def always_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def wrong():
    raise ValueError("this is wrong")


def test_each_result_comes_once():
    tasks = {n: (n,) for n in range(7)}
    found = list(run_tasks(square, tasks, HERE))
    assert sorted(found) == [(n, n * n) for n in range(7)]
    assert len(tasks) == 7
    assert list(run_tasks(square, {}, HERE)) == []


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_a_killed_worker_loses_and_doubles_nothing(kind, tmp_path):
    if kind == "dask":
        pytest.importorskip("distributed")
    tasks = {n: (n, str(tmp_path)) for n in range(8)}
    found = list(run_tasks(killed_once, tasks, Executor(kind=kind, workers=2)))
    assert sorted(found) == [(n, n * n) for n in range(8)]
    assert len(list(tmp_path.glob("3-*"))) >= 2  # it was killed, and run again


def test_processes_that_always_end_are_an_error():
    with pytest.raises(LostTaskError, match="1 tasks are left, and processes end"):
        list(run_tasks(always_killed, {0: ()}, HERE))


def test_the_error_of_a_task_is_raised():
    with pytest.raises(ValueError, match="this is wrong"):
        list(run_tasks(wrong, {0: ()}, HERE))


def test_workers_end_with_a_killed_program(tmp_path):
    """Else each killed run would leave its workers waiting for ever."""
    code = (
        "from ppmat.distillation.executors import run_tasks\n"
        "from ppmat.distillation.settings import Executor\n"
        "from test_executors import note_and_wait\n"
        "if __name__ == '__main__':\n"
        f"    list(run_tasks(note_and_wait, {{0: ({str(tmp_path)!r},)}}, Executor()))\n"
    )
    script = tmp_path / "program.py"
    script.write_text(code)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path.cwd())])
    environment = {**os.environ, "PYTHONPATH": paths}
    program = subprocess.Popen([sys.executable, script], env=environment)
    try:
        worker = int(
            _wait_for(lambda: "".join(p.name for p in tmp_path.glob("*[0-9]")))
        )
    finally:
        program.kill()
        program.wait()
    _wait_for(lambda: not os.path.exists(f"/proc/{worker}/cmdline") or _ended(worker))


def note_and_wait(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120)


def _ended(process):
    return "Z" in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]


def _wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found
