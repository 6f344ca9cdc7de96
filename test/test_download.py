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

"""Downloads from a server on this machine: resume, md5, retries, hostile archives."""

import hashlib
import http.server
import io
import multiprocessing
import os
import tarfile
import threading
import zipfile

import pytest

from ppmat.utils import download

BODY = bytes(range(256)) * 4096  # 1 MiB


def md5(data):
    return hashlib.md5(data).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; each fault of ``faults`` is used up by one request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.faults = []
        self.requests = []
        self.validator = '"v1"'

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/some/path/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        span, known = self.headers.get("Range"), self.headers.get("If-Range")
        self.server.requests.append(span)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[name]
        start = 0
        if span and known in (None, self.server.validator):
            start = int(span[len("bytes=") : -1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}"
            )
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        if self.server.validator:
            self.send_header("ETag", self.server.validator)
        self.end_headers()
        rest = body[start:]
        self.wfile.write(rest[: len(rest) // 2] if fault == "cut" else rest)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_file_is_fetched_once(server, tmp_path):
    server.files["weights.pdparams"] = BODY
    url = server.url("weights.pdparams") + "?token=1"
    for _ in range(2):
        path = download.get_path_from_url(url, str(tmp_path), md5(BODY))
        assert path == str(tmp_path / "weights.pdparams")
        assert open(path, "rb").read() == BODY
    assert server.requests == [None]
    assert not list(tmp_path.glob("*.part*"))


def test_changed_local_file_is_fetched_again_when_md5_is_given(server, tmp_path):
    server.files["a.bin"] = BODY
    (tmp_path / "a.bin").write_bytes(b"old")
    path = download.get_path_from_url(server.url("a.bin"), str(tmp_path), md5(BODY))
    assert open(path, "rb").read() == BODY


def test_cut_connection_is_continued(server, tmp_path):
    server.files["a.bin"] = BODY
    server.faults = ["cut", "cut", "cut", "cut"]
    path = download.get_path_from_url(server.url("a.bin"), str(tmp_path))
    assert open(path, "rb").read() == BODY
    starts = [0 if r is None else int(r[6:-1]) for r in server.requests]
    assert starts == [0, 1 << 19, 3 << 18, 7 << 17, 15 << 16]


def test_part_of_an_earlier_call_is_continued(server, tmp_path):
    server.files["a.bin"] = BODY
    (tmp_path / "a.bin.part").write_bytes(BODY[:1000])
    path = download.get_path_from_url(server.url("a.bin"), str(tmp_path), md5(BODY))
    assert open(path, "rb").read() == BODY
    assert server.requests == ["bytes=1000-"]


def test_complete_part_is_only_renamed(server, tmp_path):
    server.files["a.bin"] = BODY
    (tmp_path / "a.bin.part").write_bytes(BODY)
    path = download.get_path_from_url(server.url("a.bin"), str(tmp_path), md5(BODY))
    assert open(path, "rb").read() == BODY


def test_part_of_another_version_is_not_mixed_in(server, tmp_path):
    server.files["a.bin"] = BODY
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.bin.part.tag").write_text('"v0"')
    path = download.get_path_from_url(server.url("a.bin"), str(tmp_path))
    assert open(path, "rb").read() == BODY
    assert server.requests == ["bytes=1000-"]


def test_part_without_means_to_check_is_not_continued(server, tmp_path):
    server.files["a.bin"] = BODY
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    path = download.get_path_from_url(server.url("a.bin"), str(tmp_path))
    assert open(path, "rb").read() == BODY
    assert server.requests == [None]


def test_broken_part_is_fetched_from_the_start_after_the_md5_fails(server, tmp_path):
    server.files["a.bin"] = BODY
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    path = download.get_path_from_url(server.url("a.bin"), str(tmp_path), md5(BODY))
    assert open(path, "rb").read() == BODY
    assert server.requests == ["bytes=1000-", None]


def test_wrong_md5_keeps_nothing(server, tmp_path):
    server.files["a.bin"] = BODY
    with pytest.raises(download.DownloadError, match=f"md5 is {md5(BODY)}, expected 0"):
        download.get_path_from_url(server.url("a.bin"), str(tmp_path), "0" * 32)
    assert [p.name for p in tmp_path.iterdir()] == []


def test_passing_server_errors_are_retried(server, tmp_path):
    server.files["a.bin"] = BODY
    server.faults = [503, 500]
    path = download.get_path_from_url(server.url("a.bin"), str(tmp_path))
    assert open(path, "rb").read() == BODY


def test_lasting_server_errors_end_with_an_error(server, tmp_path):
    server.faults = [503] * 10
    with pytest.raises(download.DownloadError, match="503.*3 attempts"):
        download.get_path_from_url(server.url("a.bin"), str(tmp_path))
    assert len(server.requests) == 3


def test_missing_file_is_not_retried(server, tmp_path):
    with pytest.raises(download.DownloadError, match="answered 404"):
        download.get_path_from_url(server.url("none.bin"), str(tmp_path))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://h/a", "a.zip", "http://h/", "http://h/%2e%2e"]
)
def test_address_that_names_no_file_is_refused(url, tmp_path):
    with pytest.raises(download.DownloadError, match="address"):
        download.get_path_from_url(url, str(tmp_path))


def _fetch_in_process(url, folder, results):
    os.environ["no_proxy"] = "127.0.0.1"
    results.put(download.get_path_from_url(url, folder))


def test_processes_share_one_download(server, tmp_path):
    server.files["pack.zip"] = make_zip({"a/b.txt": b"text"})
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    args = (server.url("pack.zip"), str(tmp_path), results)
    workers = [context.Process(target=_fetch_in_process, args=args) for _ in range(3)]
    for worker in workers:
        worker.start()
    folders = {results.get(timeout=600) for _ in workers}
    for worker in workers:
        worker.join()
    assert folders == {str(tmp_path / "pack")}
    assert len(server.requests) == 1


# --- archives -------------------------------------------------------------------


def make_zip(files, mode=None):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            if mode is not None:
                info.external_attr = mode << 16
            archive.writestr(info, data)
    return out.getvalue()


def make_tar(members):
    """``members``: (name, bytes) | (name, type, linkname)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for member in members:
            info = tarfile.TarInfo(member[0])
            if len(member) == 2:
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
            else:
                info.type, info.linkname = member[1], member[2]
                archive.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tgz"])
def test_archive_is_unpacked_once(server, tmp_path, suffix):
    files = {"top/a.txt": b"aaa", "top/deep/b.txt": b"bbb"}
    data = make_zip(files) if suffix == ".zip" else make_tar(list(files.items()))
    server.files["set" + suffix] = data
    url = server.url("set" + suffix)
    folder = download.get_path_from_url(url, str(tmp_path), md5(data))
    assert folder == str(tmp_path / "set")
    for name, content in files.items():
        assert open(os.path.join(folder, name), "rb").read() == content
    os.remove(tmp_path / ("set" + suffix))  # a user may free the space
    assert download.get_path_from_url(url, str(tmp_path), md5(data)) == folder
    assert len(server.requests) == 1


def test_archive_stays_packed_on_request(server, tmp_path):
    server.files["set.zip"] = make_zip({"a": b"1"})
    path = download.get_path_from_url(
        server.url("set.zip"), str(tmp_path), decompress=False
    )
    assert path == str(tmp_path / "set.zip")
    assert not (tmp_path / "set").exists()


def test_new_version_replaces_the_unpacked_one(server, tmp_path):
    for content in (b"1", b"2"):
        data = make_zip({"a": content})
        server.files["set.zip"] = data
        folder = download.get_path_from_url(
            server.url("set.zip"), str(tmp_path), md5(data)
        )
        assert open(os.path.join(folder, "a"), "rb").read() == content


def test_a_folder_of_the_user_is_moved_aside(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_text("keep")
    server.files["set.zip"] = make_zip({"a": b"1"})
    download.get_path_from_url(server.url("set.zip"), str(tmp_path))
    (aside,) = tmp_path.glob("set.before-*")
    assert (aside / "mine").read_text() == "keep"


SYM, LNK = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE_TARS = {
    "traversal": [("../evil", b"x")],
    "inner traversal": [("a/../../evil", b"x")],
    "symlink out": [("link", SYM, "../..")],
    "symlink absolute": [("link", SYM, "/etc")],
    "write through symlink": [("d", SYM, "../.."), ("d/evil", b"x")],
    "link through symlink": [("d", SYM, "../.."), ("d/evil", SYM, "a")],
    "dangling detour": [
        ("in/file", b"x"),
        ("out", SYM, "a/b/../../c"),
        ("a", SYM, "in"),
        ("in/b", SYM, ".."),
    ],
    "symlink chain": [("a", SYM, "b"), ("b", SYM, "../../x")],
    "hard link out": [("link", LNK, "../../etc/passwd")],
    "hard link absolute": [("link", LNK, "/etc/passwd")],
    "hard link to nothing": [("link", LNK, "nowhere")],
    "hard link of symlink": [("s", SYM, "/etc/passwd"), ("link", LNK, "s")],
    "device": [("dev", tarfile.CHRTYPE, "")],
    "pipe": [("pipe", tarfile.FIFOTYPE, "")],
    "file as folder": [("a", b"x"), ("a/b", b"x")],
}
CONTAINED_TARS = {  # tarfile keeps them inside the folder
    "absolute": ([("/tmp/ppmat_evil", b"x")], "tmp/ppmat_evil"),
    "backslash": ([("..\\evil", b"x")], "..\\evil"),
    "same name twice": ([("a", b"y"), ("a", b"x")], "a"),
}


def refuses(server, tmp_path, name, data):
    server.files[name] = data
    root = tmp_path / "home" / "cache"
    with pytest.raises(download.ArchiveError, match=f"{name}: .*; it was removed$"):
        download.get_path_from_url(server.url(name), str(root))
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert left == {"home", "home/cache"}


@pytest.mark.parametrize("case", sorted(HOSTILE_TARS))
def test_hostile_tar_is_refused_and_leaves_nothing(server, tmp_path, case):
    refuses(server, tmp_path, "set.tar.gz", make_tar(HOSTILE_TARS[case]))


@pytest.mark.parametrize("case", sorted(CONTAINED_TARS))
def test_odd_names_in_a_tar_stay_inside(server, tmp_path, case):
    members, name = CONTAINED_TARS[case]
    server.files["set.tar.gz"] = make_tar(members)
    folder = download.get_path_from_url(server.url("set.tar.gz"), str(tmp_path / "in"))
    assert open(os.path.join(folder, name), "rb").read() == b"x"
    assert os.listdir(tmp_path) == ["in"] and not os.path.exists("/tmp/ppmat_evil")


@pytest.mark.parametrize("case", ["../evil", "a/../../evil", "/tmp/ppmat_evil"])
def test_hostile_zip_is_refused_and_leaves_nothing(server, tmp_path, case):
    refuses(server, tmp_path, "set.zip", make_zip({"ok": b"1", case: b"x"}))


def test_zip_with_a_link_is_refused(server, tmp_path):
    refuses(server, tmp_path, "set.zip", make_zip({"l": b"/etc"}, mode=0o120777))


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_damaged_archive_is_refused_and_leaves_nothing(server, tmp_path, name):
    big = os.urandom(100_000)
    whole = make_zip({"a": big}) if name == "set.zip" else make_tar([("a", big)])
    refuses(server, tmp_path, name, whole[: len(whole) // 2])
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 0xFF
    refuses(server, tmp_path, name, bytes(broken))


def test_links_inside_the_folder_are_kept(server, tmp_path):
    server.files["set.tar.gz"] = make_tar(
        [("link", SYM, "d/a"), ("d/a", b"text"), ("d/up", SYM, ".."), ("h", LNK, "d/a")]
    )
    folder = download.get_path_from_url(server.url("set.tar.gz"), str(tmp_path))
    assert os.path.islink(os.path.join(folder, "link"))
    for name in ("link", "h", "d/up/d/a"):
        assert open(os.path.join(folder, name), "rb").read() == b"text"


def test_the_filter_is_what_refuses(server, tmp_path, monkeypatch):
    """With tarfile's other filter a hostile member does get out."""
    monkeypatch.setitem(tarfile._NAMED_FILTERS, "data", tarfile.fully_trusted_filter)
    server.files["set.tar.gz"] = make_tar(HOSTILE_TARS["traversal"])
    download.get_path_from_url(server.url("set.tar.gz"), str(tmp_path))
    assert (tmp_path / "evil").exists()


def test_python_without_the_filter_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    server.files["set.tar.gz"] = make_tar([("a", b"x")])
    with pytest.raises(download.ArchiveError, match="latest patch release"):
        download.get_path_from_url(server.url("set.tar.gz"), str(tmp_path))
    assert not (tmp_path / "set").exists()
