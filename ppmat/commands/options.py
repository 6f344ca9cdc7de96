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

"""Options and exit statuses that all commands share; importing it loads no Paddle."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import platform
import re
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from ppmat.commands.processes import Ranks
from ppmat.commands.processes import choose_processes
from ppmat.commands.processes import set_threads
from ppmat.utils import logger
from ppmat.utils.config import find_config
from ppmat.utils.config import unset_variables
from ppmat.utils.errors import InputError
from ppmat.utils.files import make_folder
from ppmat.utils.registry import ConfigError
from ppmat.utils.shares import locked_for_all
from ppmat.utils.shares import rank

EXIT_SOME_LEFT_OUT = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 130  # as shells have it for Ctrl-C


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and return its status; log wrong input (2) and Ctrl-C (130)."""
    try:
        return command()
    except KeyboardInterrupt:
        logger.error("stopped by Ctrl-C")
        return EXIT_STOPPED
    except (InputError, FileNotFoundError) as error:
        return complain(error, getattr(error, "status", EXIT_BAD_INPUT))
    except OSError as error:
        if error.filename is None:  # not of a file, such as a closed pipe
            raise
        return complain(error)


def task_command(
    parse_args: Callable[[Sequence[str] | None], argparse.Namespace],
    run: Callable[[argparse.Namespace, str], int],
    script: str | None = None,
    useful_processes: Callable[[argparse.Namespace], int] | None = None,
) -> Callable[..., int]:
    """Return the ``main`` of a command that runs with options and a task folder.

    It uses the cores with several threads. With ``script``, the name of its file in the
    task folder, it uses them with ``--processes``, where ``auto`` takes at most
    ``useful_processes``.
    """

    def main(task_dir: str, argv: Sequence[str] | None = None) -> int:
        """Run the command of the script in ``task_dir``; returns the exit status.

        ``argv`` is the command line without the program name; None is ``sys.argv``.
        """
        set_threads(several=script is None)
        args = parse_args(argv)
        if script is None:
            return exit_status(lambda: run(args, task_dir))

        def run_as_ranks() -> int:
            # A program that calls this function may have more to do in one process.
            useful = 1 if argv is not None else useful_processes(args)
            number = choose_processes(args.processes, useful)
            typed = sys.argv[1:] if argv is None else argv
            with Ranks(number, [os.path.join(task_dir, script), *typed]):
                return run(args, task_dir)

        return exit_status(run_as_ranks)

    return main


def complain(error: Exception, status: int = EXIT_BAD_INPUT) -> int:
    """Log an error without its traceback; returns the status."""
    logger.error(f"{type(error).__name__}: {error}")
    return status


def refuse_if(condition: object, text: str) -> None:
    """Raise a ``ConfigError`` if the condition is true."""
    if condition:
        raise ConfigError(text)


def counted(number: int, noun: str) -> str:
    """Return for instance ``1 file`` or ``2 files``."""
    return f"{number} {noun}" + ("s" if number != 1 else "")


def print_flags(flags: Mapping[str, int], texts: Mapping[str, str], noun: str) -> None:
    """Print how many inputs have each flag, and what it means."""
    for name, number in flags.items():
        print(f"flag {name} ({counted(number, noun)}): {texts[name]}", flush=True)


def status_of(left_out: int, total: int, noun: str, verb: str = "left out") -> int:
    """Log how many inputs could not be used; returns the exit status."""
    if not left_out:
        return 0
    if left_out == total:
        logger.error(f"no {noun} could be used")
        return EXIT_BAD_INPUT
    logger.error(f"{verb}: {counted(left_out, noun)}; the others are done")
    return EXIT_SOME_LEFT_OUT


def report_submission(path: str, splits: Iterable[str], left_out: int) -> bool:
    """Log what becomes of a submission; returns whether it can be written.

    A submission needs every structure of its splits, so it is not written if some were
    left out.
    """
    from ppmat.datasets.submission import missing_splits

    if left_out:
        logger.error(
            f"{path} is not written: {counted(left_out, 'structure')} of its splits "
            "have no result (listed above), and a submission needs all of them"
        )
        return False
    missing = missing_splits(splits)
    also = f"; the challenge wants {', '.join(missing)} too" if missing else ""
    logger.message(f"Writing the submission {path}{also}")
    return True


@contextlib.contextmanager
def lock_output(path: str | None) -> Iterator[None]:
    """Hold the lock of an output folder or file, and make the folder.

    A file is known by its suffix, ``.csv`` or ``.extxyz``. Folders that are new and
    receive nothing are removed again.
    """
    if path is None:
        yield
        return
    is_file = path.endswith((".csv", ".extxyz"))
    folder = Path(path).parent if is_file else Path(path)
    above = () if rank() else (folder, *folder.parents)
    new = [each for each in above if not os.path.exists(each)]
    make_folder(folder)
    try:
        with locked_for_all(path):
            yield
    finally:
        with contextlib.suppress(OSError):  # one holds results
            for empty in new:
                empty.rmdir()


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the system.

    Paddle's CPU allocator calls malloc for each tensor. Blocks larger than 32 MB come
    from the system and return to it at once, so the system must clear new pages for
    every such result (docs/stem/training.md has the cost). The process keeps its peak
    memory. Nothing changes if the user has set ``MALLOC_...`` variables.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or chosen:
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def new_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser whose help ends with ``epilog`` as it is."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=form
    )


def add_bad_structures(parser: argparse.ArgumentParser) -> None:
    """Add what to do with structures that cannot be used, or have no tags."""
    add = parser.add_argument
    add("--on_error", choices=("flag", "raise"), default="flag",
        help="for a structure that cannot be used: leave it out and list it, "
        "or stop")  # fmt: skip
    add("--missing_tags", choices=("raise", "guess"), default="raise",
        help="what to do with structures of --input without tags (CIF, POSCAR) or with "
        "layer numbers: leave them out, or guess which atoms are the "
        "adsorbate")  # fmt: skip


def add_model_options(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Add the options that choose the model: a registered one, or the user's YAML."""
    add = parser.add_argument
    add("--model_name", help="registered model; excludes --config_path")
    add("--weights_name", help="file of the weights of a registered model")
    add("-c", "--config_path", help="YAML of the model")
    if device:
        add("--device", help="cpu, gpu, gpu:0; Paddle's choice if not given")


def parse_with_overrides(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, *names: str
) -> argparse.Namespace:
    """Return the options, with all ``KEY=VALUE`` in ``overrides``.

    ``--input a.traj KEY=VALUE`` means one input and one override; ``names`` are the
    options with several values.
    """
    args = parser.parse_intermixed_args(argv)
    for name in names:
        values = getattr(args, name)
        changes = [value for value in values if _is_override(value)]
        setattr(args, name, [value for value in values if value not in changes])
        args.overrides += changes
    return args


def _is_override(text: str) -> bool:
    return bool(re.match(r"[A-Z]\w*(\.\w+)+=", text)) and not os.path.exists(text)


def find_task_config(path: str, task_dir: str) -> str:
    """Return the file: as given, below the task folder, or below its ``configs``."""
    name = os.path.basename(os.path.abspath(task_dir))
    if not os.path.isfile(path):  # as completed from the root of the tree
        path = path.removeprefix(f"{name}/")
    return find_config(path, task_dir, os.path.join(task_dir, "configs"))


def announce_task_config(
    path: str | None,
    task_dir: str,
    overrides: Sequence[str] = (),
    reads_data: bool = True,
) -> str | None:
    """Return :func:`find_task_config`; log which variables its data set lacks."""
    if path is None:
        return None
    path = find_task_config(path, task_dir)
    for name in unset_variables(path, overrides) if reads_data else ():
        logger.message(f"{name} is not set: the default in {path} is used")
    return path
