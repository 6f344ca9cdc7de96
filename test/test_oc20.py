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

"""The command that checks and writes LMDB files of OC20."""

import subprocess
import sys

import ase.io
import numpy as np
import pytest
from helpers_records import changed
from helpers_records import fields_of
from helpers_records import make_frames
from helpers_records import make_record
from helpers_records import write_raw

from ppmat.commands import oc20
from ppmat.datasets import pyg_pickle
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import write_lmdb


@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
def test_write_command(tmp_path, suffix, capsys):
    wanted = []
    for seed in range(3):
        record, frames = make_frames(seed)
        ase.io.write(tmp_path / f"{record.sid}.{suffix}", frames)
        wanted.append(record)
    inputs = [str(tmp_path / f"{record.sid}.{suffix}") for record in wanted]
    out = str(tmp_path / "out.lmdb")
    arguments = ["write", out, *inputs, "--energy-key", "adsorption_energy"]
    assert oc20.main(arguments) == 0
    assert "3 records" in capsys.readouterr().out
    for got, want in zip(OC20LMDB(out), wanted, strict=True):
        assert got.sid == want.sid and got.edge_index is None
        np.testing.assert_allclose(got.pos, want.pos, atol=1e-5)
        np.testing.assert_allclose(got.pos_relaxed, want.pos_relaxed, atol=1e-5)
        np.testing.assert_array_equal(got.tags, want.tags)
        np.testing.assert_array_equal(got.fixed, want.fixed)
        assert (got.y_init, got.y_relaxed) == (2.0, -1.0)
    assert oc20.main(arguments) == 2  # exists
    assert oc20.main([*arguments, "--overwrite"]) == 0


def test_write_command_refuses_equal_ids(tmp_path, capsys):
    record, frames = make_frames()
    for atoms in frames:
        atoms.info["sid"] = "x"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "x.extxyz", frames)
    inputs = [str(tmp_path / folder / "x.extxyz") for folder in ("a", "b")]
    assert oc20.main(["write", str(tmp_path / "o.lmdb"), *inputs]) == 2
    assert "sid x is already that of" in capsys.readouterr().out


def test_check_command(tmp_path, capsys):
    write_lmdb(tmp_path / "train" / "data.lmdb", map(make_record, range(5)))
    write_lmdb(tmp_path / "val_id" / "data.lmdb", map(make_record, range(3)))
    assert oc20.main(["check", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "records: 5 in 1 files" in text and "records: 3 in 1 files" in text
    assert "y_relaxed (eV): 5 values, 0 .. 1, mean 0.5" in text
    assert "atoms by tag: 0: " in text and "OK: 0 faults in 2 splits" in text


def test_check_command_finds_faults(tmp_path, capsys):
    rows = [pyg_pickle.dumps(fields_of(make_record(i))) for i in range(6)]
    rows[1] = rows[1][:-20]
    rows[2] = pyg_pickle.dumps(fields_of(make_record(2), **changed("pos", 0, np.nan)))
    rows[3] = rows[4]
    items = {b"%d" % i: row for i, row in enumerate(rows)}
    write_raw(tmp_path / "data.lmdb", items)
    assert oc20.main(["check", str(tmp_path), "--max-faults", "2"]) == 1
    text = capsys.readouterr().out
    assert "key '1': " in text and "key '2': " in text
    assert "and 1 more" in text and "FAULTY: 3 faults" in text


@pytest.mark.parametrize("name, status", [("nowhere", 2), ("empty", 2), ("file", 1)])
def test_check_command_of_nothing(tmp_path, capsys, name, status):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert oc20.main(["check", str(tmp_path / name)]) == status
    assert name in capsys.readouterr().out


def test_command_as_a_module(tmp_path):
    write_lmdb(tmp_path / "data.lmdb", [make_record()])
    done = subprocess.run(
        [sys.executable, "-m", "ppmat.commands.oc20", "check", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "OK: 0 faults" in done.stdout
    assert "RuntimeWarning" not in done.stderr
