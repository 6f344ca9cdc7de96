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


"""Progress of long loops: a bar on a terminal, else a log line every 30 seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from ppmat.utils import logger

INTERVAL = 30.0  # seconds between two lines; a batch job's log stays short
_LINE = "{desc}: {n_fmt} of {total_fmt}{unit}, {elapsed} passed, {remaining} left"
_LINE_WITHOUT_TOTAL = "{desc}: {n_fmt}{unit}, {elapsed} passed"


class Progress(tqdm):
    """``tqdm`` that also serves files and pipes, where a bar cannot be drawn.

    If standard error is not a terminal, the first line comes after 30 seconds. A short
    loop shows nothing.

    Args:
        iterable: What the loop goes through; None for calls of :meth:`update`.
        desc: What is done, for instance ``sampling``.
        disable: Show nothing; None is False.
        **options: Others of ``tqdm``, such as ``total`` and ``unit``.

    Example:
        >>> sum(Progress(range(4), "adding"))
        6
    """

    def __init__(
        self,
        iterable: Iterable | None = None,
        desc: str | None = None,
        disable: bool | None = False,
        **options: Any,
    ) -> None:
        if not sys.stderr.isatty():
            total = options.get("total", getattr(iterable, "__len__", None))
            unit = options.get("unit", "").strip()
            options.update(
                unit=f" {unit}" if unit else "",
                file=_Log(),
                mininterval=INTERVAL,
                miniters=1,
                delay=INTERVAL,
                bar_format=_LINE_WITHOUT_TOTAL if total is None else _LINE,
            )
        super().__init__(iterable, desc=desc, disable=bool(disable), **options)

    def postpone(self) -> None:
        """Start the interval again, because another line has been shown."""
        if not self.disable:
            self.last_print_t = self._time()


class _Log:
    """Writes what ``tqdm`` draws as lines of the log."""

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            logger.info("%s", line)

    def flush(self) -> None:
        pass
