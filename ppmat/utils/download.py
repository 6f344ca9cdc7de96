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

"""Downloads of weights and data sets, and the unpacking of archives.

Files go to ``~/.paddlemat``, or to the folder in the environment variable
``PADDLEMAT_HOME``. A download grows in ``<file>.part``, from which a stopped one
continues; it gets its name when it is complete and its md5 is right. An archive is
unpacked into a temporary folder, which gets its name when every member is checked. One
process of a node works; the others wait at a lock file.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import lzma
import os
import posixpath
import shutil
import ssl
import stat
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path
from pathlib import PurePosixPath

from tqdm import tqdm

from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.files import locked

_HOME = os.environ.get("PADDLEMAT_HOME") or os.path.expanduser("~/.paddlemat")
WEIGHTS_HOME = os.path.join(_HOME, "weights")
DATASETS_HOME = os.path.join(_HOME, "datasets")

DOWNLOAD_RETRY_LIMIT = 3  # failures in a row without a new byte
_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20  # bytes read at once
_SUFFIXES = (".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar")
_DONE = ".unpacked.json"  # inside an unpacked folder: which archive it came from
_REFUSED = getattr(tarfile, "FilterError", ())  # raised by tarfile's filter "data"
_CONNECTION_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)
# Errors of the standard library for damaged or encrypted archives.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
)


class DownloadError(InputError):
    """A download that failed, or gave another file than expected."""


class ArchiveError(InputError):
    """An archive that is damaged or that tries to write outside its folder."""


def is_url(path: str | os.PathLike) -> bool:
    """Return whether ``path`` is an http or https address."""
    return os.fspath(path).startswith(("http://", "https://"))


def get_weights_path_from_url(url: str, md5sum: str | None = None) -> str:
    """Return the local path of weights; see :func:`get_path_from_url`."""
    return get_path_from_url(url, WEIGHTS_HOME, md5sum)


def get_datasets_path_from_url(url: str, md5sum: str | None = None) -> str:
    """Return the local path of a data set; see :func:`get_path_from_url`."""
    return get_path_from_url(url, DATASETS_HOME, md5sum)


def get_path_from_url(
    url: str,
    root_dir: str,
    md5sum: str | None = None,
    check_exist: bool = True,
    decompress: bool = True,
) -> str:
    """Download ``url`` into ``root_dir`` and unpack it if it is an archive.

    The user may delete an unpacked archive to save space.

    Args:
        url: An http or https address whose path ends with the file name.
        root_dir: Folder of the file; created if missing.
        md5sum: Expected md5 of the file, in hexadecimal.
        check_exist: Use an existing file; otherwise download it again.
        decompress: Unpack ``.zip`` and ``.tar*`` files.

    Returns:
        The file, or the folder an archive was unpacked into (the file name without
        its archive suffix).

    Raises:
        DownloadError: The address has no file name, the server refuses, the connection
            fails repeatedly without progress, or the md5 is wrong.
        ArchiveError: The archive is damaged or hostile; nothing of it is kept.
    """
    name = _file_name(url)
    file = Path(root_dir) / name
    suffix = next((s for s in _SUFFIXES if decompress and name.endswith(s)), "")
    folder = file.with_name(name.removesuffix(suffix)) if suffix else None
    mark = json.dumps({"file": name, "md5": md5sum})
    file.parent.mkdir(parents=True, exist_ok=True)
    waiting = f"Waiting for another process that downloads {name}"
    with locked(file, on_wait=lambda: logger.info(waiting)):
        if folder and check_exist and (folder / _DONE).is_file():
            if (folder / _DONE).read_bytes() == mark.encode():
                return str(folder)
        if not (check_exist and file.is_file() and _md5_is(file, md5sum)):
            _download(url, file, md5sum)
        if folder:
            _unpack(file, folder, mark)
    return str(folder or file)


def _file_name(url: str) -> str:
    if not is_url(url):
        raise DownloadError(f"not an http or https address: {url!r}")
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    name = posixpath.basename(path)
    if name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise DownloadError(f"the address does not end with a file name: {url!r}")
    return name


def _md5_is(file: Path, md5sum: str | None) -> bool:
    return md5sum is None or hash_of_file(file, "md5") == md5sum.lower()


def hash_of_file(path: str | os.PathLike[str], kind: str = "sha256") -> str:
    """Return the digest of a file; ``kind`` is any algorithm of hashlib."""
    digest = hashlib.new(kind)
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _download(url: str, file: Path, md5sum: str | None) -> None:
    """Download ``url`` through ``<file>.part``; continue an existing part."""
    part = file.with_name(f"{file.name}.part")
    tag = file.with_name(f"{file.name}.part.tag")
    logger.message(f"Downloading {url} to {file}")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, part, tag, resume_unchecked=md5sum is not None)
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"{url}: {reason}") from error
        except _CONNECTION_ERRORS as error:
            cause = getattr(error, "reason", None) or error
            reason = str(cause) or type(error).__name__
        except OSError as error:
            raise DownloadError(
                f"cannot write {part}: {error}",
                hint="The bytes so far are kept; free some space and call again.",
            ) from error
        else:
            tag.unlink(missing_ok=True)
            if _md5_is(part, md5sum):
                part.replace(file)
                return
            reason = f"md5 is {hash_of_file(part, 'md5')}, expected {md5sum}"
            part.unlink()
            if before == 0:  # the complete file of one request is another file
                raise DownloadError(f"{url}: {reason}; nothing was kept")
            before = 0
        after = part.stat().st_size if part.exists() else 0
        failures = 1 if after > before else failures + 1
        if failures >= DOWNLOAD_RETRY_LIMIT:
            raise DownloadError(
                f"{url}: {reason} ({failures} attempts without progress)",
                hint=f"{after} bytes are kept in {part}; call again to continue.",
            )
        pause = 2.0 ** (failures - 1)
        logger.warning(f"{url}: {reason}; next attempt in {pause:g} s")
        time.sleep(pause)


def _fetch(url: str, part: Path, tag: Path, resume_unchecked: bool) -> None:
    """Make one request; ``part`` is complete when this returns.

    A part is continued if the server confirms that the file is the same (``tag`` holds
    its ETag or date), or if its md5 is compared afterwards.
    """
    size = part.stat().st_size if part.exists() else 0
    known = tag.read_text("utf-8") if size and tag.exists() else None
    headers = {"User-Agent": "ppmat", "Accept-Encoding": "identity"}
    if size and (known or resume_unchecked):
        headers["Range"] = f"bytes={size}-"
        if known:
            headers["If-Range"] = known
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or "Range" not in headers:
            raise
        if error.headers.get("Content-Range") == f"bytes */{size}":
            return
        part.unlink()
        raise ConnectionError("the server has another size; starting over") from error
    with response:
        start = size if response.status == 206 else 0
        span = response.headers.get("Content-Range", "")
        if start and not span.startswith(f"bytes {start}-"):
            part.unlink()
            raise ConnectionError(f"asked for bytes from {start}, got '{span}'")
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        head = response.headers
        validator = head.get("ETag") or head.get("Last-Modified")
        if validator and not validator.startswith("W/"):
            tag.write_text(validator, "utf-8")
        else:
            tag.unlink(missing_ok=True)
        bar = {"total": total, "initial": start, "desc": part.stem, "disable": None}
        with (
            tqdm.wrapattr(response, "read", **bar) as source,
            open(part, "ab" if start else "wb") as out,
        ):
            shutil.copyfileobj(source, out, _CHUNK)
    got = part.stat().st_size
    if total is not None and got != total:
        raise ConnectionError(f"connection closed after {got} of {total} bytes")


def _unpack(file: Path, folder: Path, mark: str) -> None:
    """Unpack ``file`` and put the result at ``folder`` in one step."""
    logger.message(f"Unpacking {file}")
    work = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        unpack_archive(file, work)
        (work / _DONE).write_text(mark)
        if (folder / _DONE).exists():
            shutil.rmtree(folder)
        elif folder.exists():
            aside = folder.with_name(f"{folder.name}.before-{time.time_ns()}")
            logger.warning(f"{folder} is not ours; it was moved to {aside}")
            os.rename(folder, aside)
        os.rename(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def unpack_archive(file: Path, root: Path) -> None:
    """Unpack an archive into an existing folder, which is left as it is after errors.

    Raises:
        ArchiveError: It is damaged, too large, or tries to write elsewhere.
    """
    try:
        (_unpack_zip if file.suffix == ".zip" else _unpack_tar)(file, root)
    except _REFUSED as error:
        raise ArchiveError(f"{file}: refused: {error}") from error
    except _DAMAGED as error:
        raise ArchiveError(f"{file}: damaged archive: {error}") from error
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ArchiveError(
            f"{file}: refused: a file and a folder have one path: {error.filename}"
        ) from error


def _unpack_zip(archive: Path, root: Path) -> None:
    plain = (0, stat.S_IFREG, stat.S_IFDIR)
    with zipfile.ZipFile(archive) as members:
        for info in tqdm(members.infolist(), desc=archive.name, disable=None):
            name = info.filename
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise ArchiveError(
                    f"{archive}: refused: {name!r} would be written outside its folder"
                )
            if stat.S_IFMT(info.external_attr >> 16) not in plain:
                raise ArchiveError(f"{archive}: refused: {name!r} is a link or device")
            members.extract(info, root)


def _unpack_tar(archive: Path, root: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise ArchiveError(
            f"{archive}: this version of Python cannot unpack tar files safely",
            hint="Update Python to its latest patch release, or unpack it yourself.",
        )
    # Error level 2 reports every error, also a link to a missing member.
    with tarfile.open(archive, "r:*", errorlevel=2) as members:
        for member in tqdm(members, desc=archive.name, disable=None, unit=" files"):
            members.extract(member, root, filter="data")
        while members.fileobj.read(_CHUNK):  # the checksum follows the last member
            pass
    # A later link can change the target of an earlier one.
    top = root.resolve()
    for path in root.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(top):
            raise ArchiveError(
                f"{archive}: refused: the link {path.relative_to(root)} leads outside "
                "its folder"
            )
