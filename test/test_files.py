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


"""Atomic writes, locks and manifests of runs."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from ppmat.utils.errors import InputError
from ppmat.utils.files import RunManifest
from ppmat.utils.files import StoredRunError
from ppmat.utils.files import check_writable
from ppmat.utils.files import locked
from ppmat.utils.files import make_folder
from ppmat.utils.files import replacing
from ppmat.utils.files import writing

HINT = "Choose another folder."


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".tif" and path.read_text() == "old"
        raise OSError("disk full")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert path.read_text() == "old"
    with replacing(str(path)) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_a_manifest_lets_only_the_same_run_go_on(tmp_path):
    path = tmp_path / "run.json"
    settings = {"seed": 1, "size": (2, 3), "weights": np.arange(2)}
    run = RunManifest(path, settings, HINT)
    assert run.state == {} and not path.exists()
    run.write(rows=3)
    again = RunManifest(path, settings, HINT)
    assert again.state == {"rows": 3} and again.settings["size"] == [2, 3]
    with pytest.raises(StoredRunError, match=r"run\.json: .* other seed, x\. Choose"):
        RunManifest(path, {**settings, "seed": 2, "x": 0}, HINT)
    RunManifest(path, {"seed": 2}, HINT, replace=True).write()
    assert RunManifest(path, {"seed": 2}, HINT).state == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 3}', "\x00"])
def test_a_damaged_manifest_is_an_error(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoredRunError, match=r"run\.json: is damaged"):
        RunManifest(tmp_path / "run.json", {}, HINT, replace=True)


HOLD = """
import sys
from ppmat.utils.files import check_writable
from ppmat.utils.files import locked
from ppmat.utils.files import make_folder
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_another_process_out_and_dies_with_it(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with subprocess.Popen(command, cwd=root, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoredRunError, match="another process"), locked(tmp_path):
            pass
        waited = []

        def end_the_other():
            waited.append(True)
            other.kill()

        with locked(tmp_path, on_wait=end_the_other):
            assert waited == [True]
    with locked(tmp_path), locked(tmp_path / "x.csv"):
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".x.csv.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_removed_is_taken_anew(tmp_path):
    """The waiting process has opened the file that the holder removes at its end."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with locked(tmp_path, on_wait=other.stdin.close):
            assert (tmp_path / ".lock").exists()
            with pytest.raises(StoredRunError), locked(tmp_path):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no/x\.csv cannot be written to: No such"):
        with locked(tmp_path / "no" / "x.csv"):
            pass


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.EFBIG]
)
def test_a_fault_of_the_place_names_the_file(tmp_path, number):
    path = tmp_path / "table.csv"
    with pytest.raises(InputError, match=r"table\.csv: cannot be written: "):
        with writing(path):
            raise OSError(number, os.strerror(number))
    with pytest.raises(InputError, match=r"table\.csv: cannot be written: "):
        with replacing(path) as temporary:
            raise OSError(number, os.strerror(number), str(temporary))
    assert list(tmp_path.iterdir()) == []


def test_other_faults_stay_what_they_are(tmp_path):
    with pytest.raises(BrokenPipeError), writing(tmp_path / "x"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    # A file that is read while another one is written
    with pytest.raises(FileNotFoundError, match="input"):
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text((tmp_path / "input").read_text())


def test_folders_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below", "x" * 300):
        with pytest.raises(InputError, match="cannot be written"):
            make_folder(tmp_path / name)
    with pytest.raises(InputError, match="cannot be written to"), locked("x" * 300):
        pass
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")


def test_a_file_is_checked_without_a_trace(tmp_path):
    check_writable(tmp_path / "new.csv")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.csv").write_text("kept")
    check_writable(tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        check_writable(tmp_path / "folder")


def test_who_holds_the_lock_is_said(tmp_path):
    with locked(tmp_path):
        with pytest.raises(StoredRunError, match=rf"writing there \({os.getpid()} on "):
            with locked(tmp_path):
                pass
