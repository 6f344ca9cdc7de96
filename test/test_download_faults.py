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

"""Downloads from servers that answer wrongly, and from addresses that are wrong."""

import http.server
import threading

import pytest

from ppmat.utils import download
from ppmat.utils.errors import InputError

BODY = bytes(range(256)) * 512  # 128 KiB


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends what ``server.answer(number, span)`` returns: status, headers, body."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        number = len(self.server.spans)
        self.server.spans.append(self.headers.get("Range"))
        status, headers, body = self.server.answer(number, self.server.spans[-1])
        if status is None:
            self.wfile.write(body)  # bytes that are no answer
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def start(answer):
        server.answer, server.spans = answer, []
        return f"http://127.0.0.1:{server.server_address[1]}/a.bin", server.spans

    yield start
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(url, folder, md5sum=None):
    return download.get_path_from_url(url, str(folder), md5sum)


def part_of(folder, data=BODY[:40_000], tag='"v1"'):
    (folder / "a.bin.part").write_bytes(data)
    (folder / "a.bin.part.tag").write_text(tag)


WHOLE = {"Content-Length": str(len(BODY))}
CUT = (200, WHOLE, BODY[:50_000])


def span(text, body=BODY[40_000:]):
    return 206, {"Content-Range": text, "Content-Length": str(len(body))}, body


# Answers to a request that continues a part: each attempt gets it, and a request
# without a range gets half of the file.
WRONG = {
    "416": (416, {"Content-Length": "0"}, b""),
    "416 of another size": (416, {"Content-Range": "bytes */17"}, b""),
    "206 without range": (206, {}, BODY),
    "206 of another start": span(f"bytes 0-{len(BODY) - 1}/{len(BODY)}", BODY),
    "206 of another unit": span("lines 40000-131071/131072"),
    "206 that is no number": span("bytes 40000-x/y"),
    "206 of several pieces": span("multipart/byteranges"),
    "empty": (200, {"Content-Length": "0"}, b""),
    "no answer": (None, {}, b"GARBAGE\r\n\r\n"),
    "nothing": (None, {}, b""),
    "endless header": (None, {}, b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000),
    "many headers": (None, {}, b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n"),
    "503": (503, {}, b""),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_number_of_attempts_is_limited(serve, tmp_path, name):
    url, spans = serve(lambda number, asked: WRONG[name] if asked else CUT)
    part_of(tmp_path)
    if name == "empty":  # is the complete file, by what the server says
        assert open(fetch(url, tmp_path), "rb").read() == b""
        return
    with pytest.raises(download.DownloadError, match="attempts without progress"):
        fetch(url, tmp_path)
    assert 3 <= len(spans) <= 8
    assert not (tmp_path / "a.bin").exists()


def test_a_server_that_always_starts_over_is_given_up(serve, tmp_path):
    url, spans = serve(lambda number, asked: CUT)
    with pytest.raises(download.DownloadError, match="50000 of 131072 bytes.*3 att"):
        fetch(url, tmp_path)
    assert len(spans) == 3


def test_drops_of_bytes_are_no_progress(serve, tmp_path):
    def answer(number, asked):
        start = int(asked[6:-1]) if asked else 0
        body = BODY[start : start + 10]
        headers = {"ETag": '"v1"', "Content-Range": f"bytes {start}-131071/131072"}
        return (206 if asked else 200), {**headers, "Content-Length": "131072"}, body

    url, spans = serve(answer)
    with pytest.raises(download.DownloadError, match="without progress"):
        fetch(url, tmp_path)
    assert len(spans) == 3


@pytest.mark.parametrize("reply", ["ignored", "416", "206 wrong"])
def test_a_server_without_ranges_gives_the_whole_file(serve, tmp_path, reply):
    answers = {
        "ignored": (200, WHOLE, BODY),
        "416": WRONG["416"],
        "206 wrong": WRONG["206 of another start"],
    }
    url, spans = serve(
        lambda number, asked: answers[reply] if asked else (200, WHOLE, BODY)
    )
    part_of(tmp_path, b"x" * 40_000)
    assert open(fetch(url, tmp_path), "rb").read() == BODY
    assert len(spans) == (1 if reply == "ignored" else 2)


def test_the_range_says_how_long_the_file_is(serve, tmp_path):
    """An answer without a length, cut off, is not taken as complete."""

    def answer(number, asked):
        start = int(asked[6:-1]) if asked else 0
        body = BODY[start : start + 50_000]
        if not asked:
            return 200, {**WHOLE, "ETag": '"v1"'}, body
        return (
            206,
            {"ETag": '"v1"', "Content-Range": f"bytes {start}-131071/131072"},
            body,
        )

    url, spans = serve(answer)
    assert open(fetch(url, tmp_path), "rb").read() == BODY
    assert spans == [None, "bytes=50000-", "bytes=100000-"]


@pytest.mark.parametrize("length", ["x", "-5", "1e3", "9" * 30])
def test_a_length_that_is_no_number(serve, tmp_path, length):
    url, _ = serve(lambda number, asked: (200, {"Content-Length": length}, BODY))
    assert open(fetch(url, tmp_path), "rb").read() == BODY


@pytest.mark.parametrize(
    "status, headers, reason",
    [
        (204, {}, "status 204"),
        (203, {}, "status 203"),
        (200, {"Content-Encoding": "gzip"}, "encoding gzip"),
        (404, {}, "answered 404"),
        (302, {"Location": "file:///etc/passwd"}, "'file:///etc/passwd'"),
        (302, {"Location": "ftp://h/a.bin"}, "'ftp://h/a.bin', no http"),
        (302, {"Location": "http://[1/a.bin"}, "address"),
        (301, {}, "answered 301"),
    ],
)
def test_answers_that_are_not_the_file_end_at_once(
    serve, tmp_path, status, headers, reason
):
    url, spans = serve(lambda number, asked: (status, headers, b""))
    with pytest.raises(download.DownloadError, match=reason) as caught:
        fetch(url, tmp_path)
    assert len(spans) == 1 and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tag", ["\n\n", "a\r\nb", "\u00e9", "", "\x00"])
def test_a_damaged_tag_is_not_sent(serve, tmp_path, tag):
    url, spans = serve(lambda number, asked: (200, WHOLE, BODY))
    part_of(tmp_path, tag=tag)
    assert open(fetch(url, tmp_path), "rb").read() == BODY
    assert spans == [None]


def test_an_odd_etag_is_not_kept(serve, tmp_path):
    odd = (
        None,
        {},
        b"HTTP/1.0 200 OK\r\nETag: a\r\n b\r\nContent-Length: 9\r\n\r\nabc",
    )
    url, spans = serve(lambda number, asked: odd if number < 2 else (200, WHOLE, BODY))
    assert open(fetch(url, tmp_path), "rb").read() == BODY


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a.bin",
        "http://[::1/a.bin",
        "http://host:port/a.bin",
        "http://host:99999/a.bin",
        "http://h/a b.bin",
        "http://h/a\n.bin",
        "http://h/\u00e9.bin",
        "http://" + "a" * 70 + ".org/a.bin",
        "http://h..org/a.bin",
        "http://h/a%00.bin",
        "http://h/a%0a.bin",
        "http://user:pass@/a.bin",
    ],
)
def test_wrong_addresses_are_one_line(url, tmp_path):
    with pytest.raises(download.DownloadError, match="address") as caught:
        fetch(url, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_name_that_the_file_system_refuses(serve, tmp_path):
    url, _ = serve(lambda number, asked: (200, WHOLE, BODY))
    with pytest.raises(InputError, match="File name too long"):
        fetch(url.replace("a.bin", "a" * 300), tmp_path)


def test_a_folder_that_is_a_file(serve, tmp_path):
    url, _ = serve(lambda number, asked: (200, WHOLE, BODY))
    (tmp_path / "file").touch()
    with pytest.raises(download.DownloadError, match="cannot be written to"):
        fetch(url, tmp_path / "file" / "below")
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(download.DownloadError, match="cannot be written to"):
        fetch(url, tmp_path)


def test_a_full_disk_keeps_what_came(serve, tmp_path, monkeypatch):
    url, _ = serve(lambda number, asked: (200, WHOLE, BODY))
    real = open

    def full(path, mode="r", *args, **kwargs):
        return real("/dev/full" if str(path).endswith(".part") else path, mode)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(download.DownloadError, match="No space left.*free some space"):
        fetch(url, tmp_path)
