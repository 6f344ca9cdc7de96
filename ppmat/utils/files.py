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

"""Files that are written whole or not at all, and runs that can stop and go on.

Every command that writes shares these: :func:`replacing` writes one file,
:func:`writing` names a place that cannot be written to, :class:`RunManifest` says what
decides the results of a run, :func:`locked` keeps a second process out of its output.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from typing import Any

from ppmat.utils.errors import InputError

# Faults of a place or its disk, not of the program
_PLACE_FAULTS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP),
}


class StoredRunError(InputError):
    """Stored results that are damaged, in use, or belong to another run."""


@contextlib.contextmanager
def writing(
    path: str | os.PathLike, temporary: str | os.PathLike | None = None
) -> Iterator[None]:
    """Turn a fault of the place or the disk into an error that names ``path``.

    Args:
        path: What is written.
        temporary: If given, faults of other files than this one stay as they are.

    Raises:
        InputError: The block cannot write: no permission, no space, a folder where a
            file should be, ...

    Example:
        >>> with writing("/dev/null/x"):
        ...     os.makedirs("/dev/null")
        Traceback (most recent call last):
        ...
        ppmat.utils.errors.InputError: /dev/null/x: cannot be written: File exists
    """
    try:
        yield
    except OSError as error:
        names = (None, error.filename if temporary is None else str(temporary))
        if error.errno not in _PLACE_FAULTS or error.filename not in names:
            raise
        reason = f"cannot be written: {error.strerror}"
        raise InputError(reason, where=os.fspath(path)) from error


def make_folder(path: str | os.PathLike) -> None:
    """Make a folder and those above it; an existing one is kept.

    Raises:
        InputError: It cannot be made: a file is there, no permission, ...
    """
    with writing(path):
        os.makedirs(path, exist_ok=True)


def check_writable(path: str | os.PathLike) -> None:
    """Check that a file can be written or replaced; its content stays as it is.

    Raises:
        InputError: It cannot.
    """
    with writing(path):
        if os.path.lexists(path):
            open(path, "ab").close()
        tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))).close()


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path``; it becomes ``path`` if nothing fails.

    The temporary file keeps the suffix, by which many writers choose the format.

    Args:
        path: The file to write; its folder exists.

    Example:
        >>> with replacing("table.csv") as temporary:
        ...     _ = temporary.write_text("x,y")
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with writing(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(
    path: str | os.PathLike, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock of a file or folder; the system frees it when the process dies.

    Args:
        path: What is written to. The lock is the hidden file ``.<name>.lock`` beside a
            file, or ``.lock`` inside an existing folder; it is removed at the end.
        on_wait: Called once before waiting for another process; None never waits.

    Raises:
        StoredRunError: Another process holds the lock, and ``on_wait`` is None.
        InputError: The folder of the lock cannot be written to.
    """
    path = Path(path)
    is_folder = os.path.isdir(path)  # unlike Path.is_dir, False for a name too long
    name = path / ".lock" if is_folder else path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        handle = None
        while handle is None or not _is_file_of(handle, name):
            try:
                handle = stack.enter_context(open(name, "a+"))
            except OSError as error:
                raise InputError(
                    f"{path} cannot be written to: {error.strerror}"
                ) from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if on_wait is None:
                    raise StoredRunError(
                        f"{path}: another process is writing there{_holder(handle)}",
                        hint="Wait until it has ended, or choose another place.",
                    ) from None
                on_wait()
                fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(f"{os.getpid()} on {platform.node()}")
        handle.flush()
        try:
            yield
        finally:
            name.unlink(missing_ok=True)


def _holder(handle: IO) -> str:
    """Return who wrote an open lock file, in parentheses."""
    handle.seek(0)
    text = handle.read(100)
    return f" ({text})" if text else ""


def _is_file_of(handle: IO, name: Path) -> bool:
    """Return whether an open file still has its name: its last holder removed it."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(name))
    except FileNotFoundError:
        return False


class RunManifest:
    """The JSON file that says what decides the results of a run, and how far it is.

    A run that finds a manifest with its own settings goes on; others are an error.

    Args:
        path: The JSON file.
        settings: What decides the results, as plain values.
        hint: What the user can do when another run is there, a sentence.
        replace: Accept other settings; the next :meth:`write` replaces them.

    Attributes:
        settings: As the file has them, so that both can be compared.
        state: What the last :meth:`write` said; empty if there was none.

    Raises:
        StoredRunError: The file is damaged or has other settings.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: Mapping[str, Any],
        hint: str,
        replace: bool = False,
    ) -> None:
        self.path = Path(path)
        self.settings = json.loads(_to_json(settings))
        self.state: dict[str, Any] = {}
        if self.path.exists():
            self.state = self._read(hint, replace)

    def _read(self, hint: str, replace: bool) -> dict[str, Any]:
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
            then = dict(state.pop("settings"))
        except (AttributeError, KeyError, TypeError, ValueError):
            found = "is damaged, or another program wrote it"
            raise StoredRunError(found, where=str(self.path), hint=hint) from None
        names = sorted({*then, *self.settings})
        other = [n for n in names if then.get(n) != self.settings.get(n)]
        if other and not replace:
            found = f"belongs to a run with other {', '.join(other)}"
            raise StoredRunError(found, where=str(self.path), hint=hint)
        return state

    def write(self, **state: Any) -> None:
        """Write the settings and ``state``, plain values, whole or not at all."""
        text = _to_json({**state, "settings": self.settings}, indent=1)
        with replacing(self.path) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
        self.state = json.loads(text)
        del self.state["settings"]


def _to_json(value: Any, **options: Any) -> str:
    """Return JSON text; arrays become lists."""
    return json.dumps(
        value, default=lambda array: array.tolist(), ensure_ascii=False, **options
    )
