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
from ppmat.datasets.oc20_writer import write_lmdb


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


def test_write_command_refuses_faults_or_leaves_them_out(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        ase.io.write(tmp_path / f"{name}.traj", make_frames(seed)[1])
    ase.io.write(tmp_path / "c.traj", make_frames(2)[1][0])
    out = tmp_path / "o.lmdb"
    arguments = ["write", str(out), str(tmp_path / "*.traj")]
    assert oc20.main(arguments) == 2
    text = capsys.readouterr().out
    assert "c.traj frame 0 (sid c): has only an initial structure" in text
    assert "is not written: 1 relaxation cannot be used, 2 can" in text
    assert not out.exists()
    assert oc20.main([*arguments, "--on_error=flag"]) == 1
    assert "2 records, 1 left out" in capsys.readouterr().out
    assert [record.sid for record in OC20LMDB(out)] == ["a", "b"]
    assert oc20.main(["check", str(out)]) == 0
    assert oc20.main(["write", str(out), str(tmp_path / "c.traj"), "--overwrite"]) == 2
    assert len(OC20LMDB(out)) == 2
    options = ["--initial_only", "--overwrite"]
    assert oc20.main(["write", str(out), str(tmp_path / "c.traj"), *options]) == 0
    assert oc20.main(["check", str(out)]) == 1
    assert "has only an initial structure" in capsys.readouterr().out
    assert oc20.main(["check", str(out), "--initial_only"]) == 0
    assert oc20.main([*arguments, "--max_step=0"]) == 2


def test_write_command_warns_of_total_energies(tmp_path, capsys):
    ase.io.write(tmp_path / "a.traj", make_frames(0, energies=(-300.0, -301.0))[1])
    arguments = ["write", str(tmp_path / "o.lmdb"), str(tmp_path / "a.traj")]
    assert oc20.main([*arguments, "--energy_key=adsorption_energy"]) == 0
    assert "Are these total energies?" in capsys.readouterr().out


def test_write_command_warns_of_lost_constraints(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        frames = make_frames(seed)[1]
        for atoms in frames if name == "b" else ():
            atoms.set_constraint()
        ase.io.write(tmp_path / f"{name}.traj", frames)
    out = str(tmp_path / "o.lmdb")
    assert oc20.main(["write", out, str(tmp_path / "a.traj")]) == 0
    assert "hold no atom" not in capsys.readouterr().out
    assert oc20.main(["write", out, str(tmp_path / "*.traj"), "--overwrite"]) == 0
    assert "1 of 2 relaxations hold no atom, for instance b" in capsys.readouterr().out


def test_check_command_finds_what_write_refuses(tmp_path, capsys):
    records = [make_record(i) for i in range(5)]
    records[1].tags = np.zeros_like(records[1].tags)
    records[2].pos_relaxed = None
    records[3].fixed = np.ones_like(records[3].fixed)
    records[4].y_relaxed = None
    write_lmdb(tmp_path / "data.lmdb", records)
    assert oc20.main(["check", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "key '1' (sid 1001): " in text and "no tags" in text
    assert "key '2' (sid 1002): has only an initial structure" in text
    assert "key '2' (sid 1002): has no pos_relaxed, unlike the first row" in text
    assert "key '3' (sid 1003): atom " in text and "is held, but moves by" in text
    assert "key '4' (sid 1004): has no y_relaxed, unlike the first row" in text
    assert "FAULTY: 5 faults" in text


def test_export_and_subset(tmp_path, capsys):
    write_lmdb(tmp_path / "a.lmdb", map(make_record, range(6)))
    source, out = str(tmp_path / "a.lmdb"), str(tmp_path / "b.lmdb")
    (tmp_path / "ids.txt").write_text("1004\n1001\n")
    picks = {
        "--rows=1:4": ["1001", "1002", "1003"],
        "--rows=4,0": ["1004", "1000"],
        "--rows=::-4": ["1005", "1001"],
        f"--sids={tmp_path / 'ids.txt'}": ["1004", "1001"],
    }
    for option, sids in picks.items():
        assert oc20.main(["subset", source, out, option, "--overwrite"]) == 0
        assert [record.sid for record in OC20LMDB(out)] == sids
        assert OC20LMDB(out)[0].edge_index is not None
    drawn = []
    for seed in (1, 1, 2, 3):
        options = ["--random=3", f"--seed={seed}", "--overwrite"]
        assert oc20.main(["subset", source, out, *options]) == 0
        drawn.append([record.sid for record in OC20LMDB(out)])
    assert drawn[0] == drawn[1] == sorted(set(drawn[0])) and len(drawn[0]) == 3
    assert len(set(map(tuple, drawn))) > 1
    capsys.readouterr()
    bad = ["--rows=9", "--rows=9:", "--rows=x", "--random=7", "--random=0"]
    (tmp_path / "ids.txt").write_text("7\n")
    for option in [*bad, f"--sids={tmp_path / 'ids.txt'}"]:
        assert oc20.main(["subset", source, out, option, "--overwrite"]) == 2
        assert option.partition("=")[2] in capsys.readouterr().out
    assert oc20.main(["subset", source, source, "--overwrite"]) == 2
    assert "is the file that is read" in capsys.readouterr().out
    assert oc20.main(["subset", source, out]) == 2  # exists
    assert len(OC20LMDB(source)) == 6
    frames = str(tmp_path / "a.extxyz")
    assert oc20.main(["export", source, frames, "--rows=:3"]) == 0
    assert "6 frames of 3 records" in capsys.readouterr().out
    arguments = ["write", out, frames, "--energy_key=adsorption_energy", "--overwrite"]
    assert oc20.main(arguments) == 0
    for got, want in zip(OC20LMDB(out), OC20LMDB(source)[:3], strict=True):
        assert (got.sid, got.y_relaxed) == (want.sid, want.y_relaxed)


def write_metals(path, count=12):
    """Write records of three slabs, in turn; return their ids."""
    records = []
    for index in range(count):
        record = make_record(index)
        record.tags[0], record.tags[-1] = 0, 2
        record.atomic_numbers[:] = (29, 46, 78)[index % 3]
        record.atomic_numbers[record.tags == 2] = 8
        records.append(record)
    write_lmdb(path, records)
    return [record.sid for record in records]


def test_split_by_metals(tmp_path, capsys):
    sids = write_metals(tmp_path / "all.lmdb")
    source, out = str(tmp_path / "all.lmdb"), str(tmp_path / "mine")
    arguments = ["split", source, out, "--by=metals", "--share=0.3"]
    assert oc20.main(arguments) == 0
    text = capsys.readouterr().out
    train, val = (OC20LMDB(out, name) for name in ("train", "val_id"))
    assert f"{out}/train/data.lmdb: 8 records\n  metals: " in text
    assert all(text.count(f"{metal} 4") == 1 for metal in ("Cu", "Pd", "Pt"))
    seen, unseen = (
        {z for r in rows for z in r.atomic_numbers[r.tags < 2].tolist()}
        for rows in (train, val)
    )
    assert (len(seen), len(unseen)) == (2, 1) and seen.isdisjoint(unseen)
    assert sorted(r.sid for rows in (train, val) for r in rows) == sorted(sids)
    assert train[0].edge_index is not None
    first = [record.sid for record in val]
    assert oc20.main(arguments) == 2 and "exists" in capsys.readouterr().out
    found = set()
    for seed in range(6):
        assert oc20.main([*arguments, f"--seed={seed}", "--overwrite"]) == 0
        found.add(tuple(r.sid for r in OC20LMDB(out, "val_id")))
    assert tuple(first) in found and len(found) > 1
    options = ["--by=records", "--share=0.25", "--overwrite"]
    assert oc20.main(["split", source, out, *options]) == 0
    assert (len(OC20LMDB(out, "train")), len(OC20LMDB(out, "val_id"))) == (9, 3)


def test_split_refuses_what_cannot_be_split(tmp_path, capsys):
    write_metals(tmp_path / "all.lmdb", 3)
    source, out = str(tmp_path / "all.lmdb"), tmp_path / "mine"
    for options, text in {
        ("--by=adsorbates",): "all 3 records have O; wanted at least two groups",
        ("--share=1",): "--share=1.0: wanted above 0, below 1",
    }.items():
        assert oc20.main(["split", source, str(out), *options]) == 2
        assert text in capsys.readouterr().out
    write_lmdb(tmp_path / "bare.lmdb", [make_bare()])
    assert oc20.main(["split", str(tmp_path / "bare.lmdb"), str(out)]) == 2
    assert "bare.lmdb key '0': no atom has tag 2" in capsys.readouterr().out
    assert not out.exists()
    assert oc20.main(["split", source, str(tmp_path)]) == 2
    assert "holds LMDB files itself" in capsys.readouterr().out
    assert not (tmp_path / "train").exists()
    inside = out / "train" / "data.lmdb"
    write_metals(inside)
    arguments = ["split", str(out / "train"), str(out), "--overwrite"]
    assert oc20.main(arguments) == 2
    assert "holds the file that is read" in capsys.readouterr().out
    assert len(OC20LMDB(inside)) == 12


def make_bare():
    record = make_record()
    record.tags[:] = 0
    return record


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
