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


"""Progress of loops whose standard error is a file."""

import io
import sys

import pytest

from ppmat.utils import progress
from ppmat.utils.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that each step of a loop moves on by ten seconds."""
    now = [1000.0]
    # tqdm copies the function into each bar.
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def lines(capsys):
    shown = capsys.readouterr()
    assert shown.err == ""
    return [line.partition("INFO: ")[2] for line in shown.out.splitlines()]


def test_a_line_comes_every_30_seconds(clock, capsys):
    for _ in Progress(range(10), "sampling", unit=" batches"):
        clock[0] += 10
    assert lines(capsys) == [
        "sampling: 3 of 10 batches, 00:30 passed, 01:10 left",
        "sampling: 6 of 10 batches, 01:00 passed, 00:40 left",
        "sampling: 9 of 10 batches, 01:30 passed, 00:10 left",
        "sampling: 10 of 10 batches, 01:40 passed, 00:00 left",
    ]


def test_a_short_loop_shows_nothing(clock, capsys):
    for _ in Progress(range(10), "sampling"):
        clock[0] += 1
    assert lines(capsys) == []


def test_a_line_of_the_loop_itself_counts(clock, capsys):
    """As the log lines of a training do; without them there would be three lines."""
    with Progress(None, "training", total=10, leave=False) as bar:
        for step in range(10):
            clock[0] += 10
            bar.update()
            if step % 2 == 0:
                bar.postpone()
    assert lines(capsys) == []


def test_the_total_may_be_unknown(clock, capsys):
    with Progress(None, "reading", leave=False, unit="rows") as bar:
        for _ in range(4):
            clock[0] += 10
            bar.update(1000)
    assert lines(capsys) == ["reading: 3000 rows, 00:30 passed"]


def test_hidden_and_on_a_terminal(clock, capsys, monkeypatch):
    for _ in Progress(range(10), "sampling", disable=True):
        clock[0] += 10
    assert lines(capsys) == []
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for _ in Progress(range(3), "sampling", file=terminal):
        clock[0] += 1
    assert "100%" in terminal.getvalue() and "sampling" in terminal.getvalue()
    assert progress.INTERVAL == 30
