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

"""Unpacking of archives that may be damaged or hostile.

No member is written outside the folder, as a link or a device. The bytes it unpacks to
are limited by the size of the archive, also those of headers, which tarfile reads into
memory.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from pathlib import PurePosixPath
from typing import BinaryIO

from ppmat.utils.errors import InputError
from ppmat.utils.progress import Progress

# Unpacked bytes for one byte of an archive. OC20's have 12, and text has 10; deflate
# can reach 1032, which only bombs do. Small archives may have _SMALL bytes in any case.
MOST_UNPACKED = 100
_SMALL = 64 << 20
_BLOCK = 4096  # bytes of the disk that the smallest member needs
_LARGEST_READ = 1 << 24  # bytes; tarfile reads a header of any size into memory
_STREAMS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_CHUNK = 1 << 20  # bytes read at once
_REFUSED = getattr(tarfile, "FilterError", ())  # raised by tarfile's filter "data"
# Errors of the standard library for damaged or encrypted archives.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class ArchiveError(InputError):
    """An archive that is damaged, too large, or tries to write outside its folder."""


def one_line(error: object) -> str:
    """Return the text of an error as one line of limited length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def unpack_archive(file: Path, root: Path) -> None:
    """Unpack a zip or tar file into an existing folder.

    Raises:
        ArchiveError: It is damaged, unpacks to too many bytes, or tries to write
            elsewhere. Part of it may be in the folder.
        OSError: The disk is full.
    """
    budget = _Budget(file)
    try:
        (_unpack_zip if file.suffix == ".zip" else _unpack_tar)(file, root, budget)
    except ArchiveError:
        raise
    except _REFUSED as error:
        raise ArchiveError(f"{file}: refused: {one_line(error)}") from error
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ArchiveError(
            f"{file}: refused: a file and a folder have one path: {error.filename}"
        ) from error
    except _DAMAGED as error:
        raise ArchiveError(f"{file}: damaged archive: {one_line(error)}") from error
    except OSError as error:
        # The decompressors raise errors without a file; errors of the disk have one.
        if error.filename is not None or error.errno == errno.ENOSPC:
            raise
        raise ArchiveError(f"{file}: damaged archive: {one_line(error)}") from error


class _Budget:
    """The bytes that an archive may still unpack to."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.limit = max(_SMALL, MOST_UNPACKED * archive.stat().st_size)
        self.left = self.limit

    def take(self, count: int) -> None:
        """Count bytes; raise an error beyond the limit."""
        self.left -= count
        if self.left < 0:
            raise ArchiveError(
                f"{self.archive}: refused: unpacks to more than {self.limit} bytes, "
                f"the most an archive of {self.archive.stat().st_size} bytes may have"
            )


def _unpack_zip(archive: Path, root: Path, budget: _Budget) -> None:
    plain = (0, stat.S_IFREG, stat.S_IFDIR)
    with zipfile.ZipFile(archive) as members:
        for info in members.infolist():
            budget.take(max(_BLOCK, info.file_size))
        for info in Progress(members.infolist(), archive.name):
            name = info.filename
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise ArchiveError(
                    f"{archive}: refused: {name[:200]!r} would be written outside its "
                    "folder"
                )
            if stat.S_IFMT(info.external_attr >> 16) not in plain:
                raise ArchiveError(
                    f"{archive}: refused: {name[:200]!r} is a link or device"
                )
            members.extract(info, root)  # no more than its file_size


class _Bounded(io.RawIOBase):
    """The decompressed bytes of an archive, counted and in pieces of limited size."""

    def __init__(self, stream: BinaryIO, budget: _Budget) -> None:
        self.stream = stream
        self.budget = budget
        self.place = 0

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes."""
        if not 0 <= count <= _LARGEST_READ:
            raise ArchiveError(
                f"{self.budget.archive}: refused: has a header of {count} bytes"
            )
        data = self.stream.read(count)
        self.place += len(data)
        self.budget.take(len(data))
        return data

    def seek(self, target: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, as tarfile does to pass over the data of a member."""
        if target < self.place:  # a hard link that the file system cannot make
            self.budget.take(target)
            self.stream.seek(target)
            self.place = target
        while self.place < target:
            if not self.read(min(_CHUNK, target - self.place)):
                break
        return self.place

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self.place


@contextlib.contextmanager
def _tar_members(archive: Path, budget: _Budget) -> Iterator[tarfile.TarFile]:
    with open(archive, "rb") as file:
        head = file.read(6)
        file.seek(0)
        opening = (make for start, make in _STREAMS.items() if head.startswith(start))
        stream = next(opening, lambda file: file)(file)
        bounded = _Bounded(stream, budget)
        # Error level 2 reports every error, also a link to a missing member.
        with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as members:
            yield members
        while bounded.read(_CHUNK):  # the checksum follows the last member
            pass


def _unpack_tar(archive: Path, root: Path, budget: _Budget) -> None:
    with _tar_members(archive, budget) as members:
        for member in Progress(members, archive.name, unit=" files"):
            budget.take(member.size if member.issparse() else _BLOCK)
            members.extract(member, root, filter="data")
    # A later link can change the target of an earlier one.
    top = root.resolve()
    for path in root.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(top):
            raise ArchiveError(
                f"{archive}: refused: the link {path.relative_to(root)} leads outside "
                "its folder"
            )
