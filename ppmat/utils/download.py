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

import hashlib
import http.client
import json
import os
import posixpath
import re
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import BinaryIO

from ppmat.utils import logger
from ppmat.utils.archives import ArchiveError
from ppmat.utils.archives import one_line
from ppmat.utils.archives import unpack_archive
from ppmat.utils.errors import InputError
from ppmat.utils.files import locked
from ppmat.utils.progress import Progress

_HOME = os.environ.get("PADDLEMAT_HOME") or os.path.expanduser("~/.paddlemat")
WEIGHTS_HOME = os.path.join(_HOME, "weights")
DATASETS_HOME = os.path.join(_HOME, "datasets")

DOWNLOAD_RETRY_LIMIT = 3  # failures in a row without progress
_PROGRESS = 1 << 14  # bytes beyond the most so far that count as progress
_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20  # bytes read at once
_SUFFIXES = (".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar")
_DONE = ".unpacked.json"  # inside an unpacked folder: which archive it came from
_CONNECTION_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)


class DownloadError(InputError):
    """A download that failed, or gave another file than expected."""


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
        DownloadError: The address is wrong or has no file name, the server refuses, the
            connection fails repeatedly without progress, the md5 is wrong, or the
            folder cannot be written.
        ArchiveError: The archive is damaged or hostile; it is removed.
    """
    name = _file_name(url)
    try:
        return _get(url, Path(root_dir) / name, md5sum, check_exist, decompress)
    except OSError as error:
        raise DownloadError(
            f"{root_dir} cannot be written to: {error.strerror or error}"
        ) from error


def _get(
    url: str, file: Path, md5sum: str | None, check_exist: bool, decompress: bool
) -> str:
    name = file.name
    suffix = next((s for s in _SUFFIXES if decompress and name.endswith(s)), "")
    folder = file.with_name(name.removesuffix(suffix)) if suffix else None
    if suffix not in ("", ".zip") and not hasattr(tarfile, "data_filter"):
        raise ArchiveError(
            f"{file}: this version of Python cannot unpack tar files safely",
            hint="Update Python to its latest patch release.",
        )
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
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        if not host or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it has no host, or a character that needs %-encoding")
        host.encode("idna")
    except ValueError as error:
        raise DownloadError(f"not a valid address: {url!r}: {error}") from error
    name = posixpath.basename(urllib.parse.unquote(parts.path))
    if name in ("", ".", "..") or "\\" in name or not name.isprintable():
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
    failures, most = 0, _size(part)
    while True:
        before = _size(part)
        try:
            _fetch(url, part, tag, resume_unchecked=md5sum is not None)
        except _Unusable as error:
            raise DownloadError(f"{url}: {error}") from error
        except _CONNECTION_ERRORS as error:
            cause = getattr(error, "reason", None) or error
            reason = one_line(cause)
        else:
            tag.unlink(missing_ok=True)
            if _md5_is(part, md5sum):
                part.replace(file)
                return
            reason = f"md5 is {hash_of_file(part, 'md5')}, expected {md5sum}"
            part.unlink()
            if before == 0:  # the complete file of one request is another file
                raise DownloadError(f"{url}: {reason}; nothing was kept")
        after = _size(part)
        # A part that is dropped and grows again is no progress.
        failures = 1 if after >= most + _PROGRESS else failures + 1
        most = max(most, after)
        if failures >= DOWNLOAD_RETRY_LIMIT:
            raise DownloadError(
                f"{url}: {reason} ({failures} attempts without progress)",
                hint=f"{after} bytes are kept in {part}; call again to continue.",
            )
        pause = 2.0 ** (failures - 1)
        logger.warning(f"{url}: {reason}; next attempt in {pause:g} s")
        time.sleep(pause)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Unusable(Exception):
    """An answer or address that another attempt would not change."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https only."""

    def redirect_request(self, request, file, code, message, headers, target):  # noqa: D102, ANN001, ANN201
        if not is_url(target):
            raise _Unusable(f"it leads to {target[:200]!r}, no http or https address")
        return super().redirect_request(request, file, code, message, headers, target)


def _fetch(url: str, part: Path, tag: Path, resume_unchecked: bool) -> None:
    """Make one request; ``part`` is complete when this returns.

    A part is continued if the server confirms that the file is the same (``tag`` holds
    its ETag or date), or if its md5 is compared afterwards.
    """
    size = _size(part)
    known = _validator(tag.read_text("utf-8", "replace") if tag.exists() else None)
    headers = {"User-Agent": "ppmat", "Accept-Encoding": "identity"}
    if size and (known or resume_unchecked):
        headers["Range"] = f"bytes={size}-"
        if known:
            headers["If-Range"] = known
    response = _open(url, headers, part)
    if response is None:
        return
    with response:
        start, total = _span(response, size if "Range" in headers else 0, part)
        head = response.headers
        validator = _validator(head.get("ETag") or head.get("Last-Modified"))
        if validator and not validator.startswith("W/"):
            tag.write_text(validator, "utf-8")
        else:
            tag.unlink(missing_ok=True)
        bar = {"total": total, "initial": start, "desc": part.stem}
        with (
            Progress.wrapattr(response, "read", **bar) as source,
            open(part, "ab" if start else "wb") as out,
        ):
            while block := source.read(_CHUNK):
                _write(out, block, part)
    got = part.stat().st_size
    if total is not None and got != total:
        raise ConnectionError(f"connection closed after {got} of {total} bytes")


def _write(out: BinaryIO, block: bytes, part: Path) -> None:
    try:
        out.write(block)
        out.flush()
    except OSError as error:
        raise DownloadError(
            f"cannot write {part}: {error.strerror or error}",
            hint="The bytes so far are kept; free some space and call again.",
        ) from error


def _validator(text: str | None) -> str | None:
    """Return an ETag or date that can be sent back, else None."""
    return text if text and text.isascii() and text.isprintable() else None


def _open(
    url: str, headers: dict[str, str], part: Path
) -> http.client.HTTPResponse | None:
    """Return the server's answer; None if it says that ``part`` is complete."""
    opener = urllib.request.build_opener(_Redirects)
    try:
        request = urllib.request.Request(url, headers=headers)
        response = opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:
            if error.headers.get("Content-Range") == f"bytes */{_size(part)}":
                return None
            part.unlink()
            raise ConnectionError(
                "the server has another size; starting over"
            ) from error
        reason = f"the server answered {error.code} {one_line(error.reason)}"
        if error.code < 500 and error.code not in (408, 429):
            raise _Unusable(reason) from error
        raise ConnectionError(reason) from error
    except (http.client.InvalidURL, ValueError) as error:
        raise _Unusable(f"not a valid address: {one_line(error)}") from error
    encoding = response.headers.get("Content-Encoding", "identity")
    if response.status not in (200, 206) or encoding != "identity":
        response.close()
        raise _Unusable(
            f"the server answered with status {response.status}, encoding {encoding}; "
            "wanted the file as it is"
        )
    return response


_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def _span(
    response: http.client.HTTPResponse, asked: int, part: Path
) -> tuple[int, int | None]:
    """Return where the bytes of an answer begin, and the size of the file if known."""
    length = response.headers.get("Content-Length", "")
    length = int(length) if re.fullmatch(r"\d{1,18}", length) else None
    if response.status == 200:
        return 0, length
    text = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None or int(match[1]) != asked:
        part.unlink(missing_ok=True)
        raise ConnectionError(f"asked for bytes from {asked}, got {text[:80]!r}")
    if match[3] != "*":
        return asked, int(match[3])
    return asked, None if length is None else asked + length


def _unpack(file: Path, folder: Path, mark: str) -> None:
    """Unpack ``file`` and put the result at ``folder`` in one step."""
    logger.message(f"Unpacking {file}")
    work = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        try:
            unpack_archive(file, work)
        except ArchiveError as error:
            file.unlink()
            raise ArchiveError(f"{error}; it was removed") from error
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
