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

"""Log of a group of processes: rank 0 logs all lines, the others only errors.

Importing this module does not import Paddle.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from ppmat.utils.errors import InputError
from ppmat.utils.files import make_folder
from ppmat.utils.files import writing

_MESSAGE_LEVEL = 25  # between INFO (20) and WARNING (30)
_COLOURS = {"DEBUG": "32", "MESSAGE": "36", "WARNING": "33", "ERROR": "31"}
_LINE = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
_DATE = "%Y/%m/%d %H:%M:%S"

_logger: logging.Logger | None = None


def _rank() -> int:
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


class _ColourFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        colour = _COLOURS.get(record.levelname)
        if colour is None or not sys.stdout.isatty():
            return line
        return f"\033[{colour}m{line}\033[0m"


class _StdoutHandler(logging.StreamHandler):
    """Writes to the present ``sys.stdout``, which may have been redirected."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):
        return sys.stdout


class _FileHandler(logging.FileHandler):
    """Ends the program with an error if a line cannot be written, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        _get().removeHandler(self)  # the error itself is logged, too
        reason = f"cannot be written: {error.strerror}"
        raise InputError(reason, where=self.baseFilename) from error


def init_logger(
    name: str = "ppmat",
    log_file: str | None = None,
    log_level: int | str = logging.INFO,
) -> None:
    """Start the log: lines with ``name`` on standard output.

    Rank 0 also appends to ``log_file`` and makes its folder. ``log_level`` is for
    rank 0; the other ranks show only errors.

    Raises:
        InputError: ``log_file`` cannot be written, now or with a later line.
    """
    global _logger

    logging.addLevelName(_MESSAGE_LEVEL, "MESSAGE")
    _logger = logging.getLogger(name)
    for handler in list(_logger.handlers):
        _logger.removeHandler(handler)
        handler.close()
    _logger.propagate = False
    stream = _StdoutHandler()
    stream.setFormatter(_ColourFormatter(_LINE, _DATE))
    _logger.addHandler(stream)
    if log_file is not None and _rank() == 0:
        make_folder(os.path.dirname(os.path.abspath(log_file)))
        with writing(log_file):
            file = _FileHandler(log_file, "a", encoding="utf-8")
        file.setFormatter(logging.Formatter(_LINE, _DATE))
        _logger.addHandler(file)
    set_log_level(log_level)


def set_log_level(log_level: int | str) -> None:
    """Show lines of at least ``log_level`` on rank 0 (a number or a name)."""
    if isinstance(log_level, str):
        log_level = log_level.upper()
    _get().setLevel(log_level if _rank() == 0 else logging.ERROR)


def _get() -> logging.Logger:
    if _logger is None:
        init_logger()
    return _logger


def info(msg: str, *args: Any) -> None:
    """Log progress."""
    _get().info(msg, *args)


def message(msg: str, *args: Any) -> None:
    """Log an important event in colour, for instance a file that was written."""
    _get().log(_MESSAGE_LEVEL, msg, *args)


def debug(msg: str, *args: Any) -> None:
    """Log a detail for developers."""
    _get().debug(msg, *args)


def warning(msg: str, *args: Any) -> None:
    """Log a problem that does not stop the program."""
    _get().warning(msg, *args)


def error(msg: str, *args: Any) -> None:
    """Log an error, on every rank."""
    _get().error(msg, *args)


def scalar(
    tag: str,
    metric_dict: dict[str, float],
    step: int,
    visualdl_writer: Any = None,
    wandb_writer: Any = None,
    tensorboard_writer: Any = None,
) -> None:
    """Send ``<tag>_<name>`` of a dict to viewers of training curves (rank 0 only).

    The writers are a ``visualdl.LogWriter``, a WandB run and a
    ``tensorboardX.SummaryWriter``.
    """
    if _rank() != 0:
        return
    named = {f"{tag}_{name}": value for name, value in metric_dict.items()}
    for writer in (visualdl_writer, tensorboard_writer):
        if writer is not None:
            for name, value in named.items():
                writer.add_scalar(name, value, step)
    if wandb_writer is not None:
        wandb_writer.log(named, step=step)
