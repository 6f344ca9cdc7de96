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


"""Stopping on SIGTERM and SIGINT at the end of a step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any


class TrainingInterrupted(SystemExit):
    """Training stopped on a signal after saving ``latest``.

    The exit status of the process is 128 + signal number, as in a shell: 143 for
    SIGTERM, 130 for SIGINT.
    """


class StopSignals:
    """In this context SIGTERM and SIGINT only set :attr:`received`.

    A second SIGINT raises Python's KeyboardInterrupt. Outside the main thread, where
    Python allows no handlers, the context does nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict = {}

    def __enter__(self) -> StopSignals:
        self.received = 0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        # The logger may be writing a line, so this writes to stderr directly.
        name = signal.Signals(number).name
        os.write(2, f"{name}: finishing this step, then saving 'latest'\n".encode())
