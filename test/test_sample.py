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

"""The sampling command: modes, options, exit status."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from ase.io import write
from helpers_sampler import GRAPH
from helpers_sampler import ToyRelaxer
from helpers_sampler import data_block
from helpers_sampler import make_slabs
from helpers_sampler import write_model
from helpers_sampler import write_split

from ppmat.commands.sample import main
from ppmat.commands.sample import parse_args
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.submission import check_submission
from ppmat.utils.files import locked

ROOT = Path(__file__).resolve().parents[1]
METRIC = {"__class_name__": "IS2RSMetric"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the command in a folder with data and a model."""
    monkeypatch.chdir(tmp_path)
    for name in ("val_id", "val_ood_ads"):
        write_split(tmp_path / "data" / name, 3)
    write("slabs.traj", make_slabs(3))
    sample = {"data": data_block("data"), "metrics": METRIC, "graph_converter": GRAPH}
    write_model("task/configs", sample=sample)
    write_model("crystals", "ToyCrystals")

    def command(*options, model="model.yaml", weights="task/configs/w.pdparams"):
        ToyRelaxer.calls.clear()
        arguments = [f"--config_path={model}", f"--checkpoint_path={weights}"]
        return main("task", [*arguments, "--save_path=out", *options])

    return command


def test_structures_from_files(run, tmp_path):
    options = ["--num_samples=2", "--seed=3", "--batch_size=2"]
    change = "Sample.model_sample_params.noise=0.0"
    assert run("--input", "slabs.traj@:2", "slabs.traj@2", change, *options) == 0
    frames = read("out/structures.extxyz", ":")
    assert [a.info["sid"] for a in frames] == [f"sid{i // 2}" for i in range(6)]
    assert ToyRelaxer.calls == [["sid0", "sid1"], ["sid2"]]
    moved = frames[0].positions - frames[0].arrays["initial_positions"]
    np.testing.assert_allclose(moved[2:], [[0, 0, 0.1]] * 3, atol=1e-6)


def test_some_bad_inputs_give_exit_status_1(run, tmp_path, capsys):
    (tmp_path / "bad.cif").write_text("rubbish")
    assert run("--mode=by_structures", "--input", "bad.cif", "slabs.traj") == 1
    assert len(read("out/structures.extxyz", ":")) == 3
    assert "left out: bad.cif" in capsys.readouterr().out


def test_the_reasons_are_named_if_no_input_can_be_used(run, tmp_path, capsys):
    (tmp_path / "bad.traj").write_text("hello")
    assert run("--input", "bad.traj") == 2
    text = capsys.readouterr().out
    assert "no structure can be used" in text and "bad.traj: cannot be read" in text


def test_one_bad_row_does_not_stop_the_others(run, capsys):
    rows = OC20LMDB("data/val_id")
    records = [rows[0], rows[1], rows[2]]
    records[1].pos[0] = records[1].pos[1]  # two atoms at one place
    write_lmdb("data/val_id/data.lmdb", records, overwrite=True)
    modes = {"a": "--input=data/val_id", "b": "--mode=by_dataloader"}
    for folder, mode in modes.items():
        options = ["--split=val_id", "--submission=a.npz", f"--save_path={folder}"]
        assert run(mode, *options) == 1
        text = capsys.readouterr().out
        assert "key '1'" in text and "at the same place" in text
        assert "a.npz is not written: 1 structure" in text
        frames = read(next(Path(folder).rglob("structures.extxyz")), ":")
        assert [atoms.info["sid"] for atoms in frames] == ["sid0", "sid2"]
        assert not os.path.exists("a.npz")
    assert run("--input=data/val_id", "--on_error=raise", "--save_path=no") == 2
    assert not os.path.exists("no")


def test_equal_names_keep_their_own_files(run):
    for folder in ("Cu", "Ni", "Pt"):
        os.makedirs(folder)
        slab = make_slabs(1)[0]
        del slab.info["sid"]
        write(f"{folder}/slab.traj", [slab] * 2)
    inputs = ["--input", "*/slab.traj@1", "slabs.traj", "slabs.traj"]
    assert run(*inputs, "--format=cif", "--num_samples=2") == 0
    files = {path for path in os.listdir("out") if path.endswith(".cif")}
    assert len(files) == 2 * (3 + 3 + 3)
    with open("out/structures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == files
    assert rows[2] == {
        "file": "Ni_slab_1_0.cif",
        "sid": "Ni/slab_1",
        "sample": "0",
        "source": "Ni/slab.traj",
        "frame": "1",
    }
    assert [row["sid"] for row in rows[-6::2]] == ["sid0_0", "sid1_1", "sid2_2"]


def test_missing_tags(run, capsys):
    slab = make_slabs(1)[0]
    write("a.cif", slab)
    assert run("--input", "a.cif", "slabs.traj") == 1
    assert "left out: a.cif frame 0: " in capsys.readouterr().out
    assert run("--input", "a.cif", "--missing_tags=guess", "--save_path=guess") == 0
    frames = read("guess/structures.extxyz", ":")
    assert sorted(frames[0].get_tags()) == sorted(slab.get_tags())
    assert run("--mode=by_dataloader", "--missing_tags=guess") == 2


def test_refused_input_leaves_no_folder(run, tmp_path):
    (tmp_path / "bad.cif").write_text("rubbish")
    assert run("--mode=by_structures", "--input", "bad.cif") == 2
    assert not (tmp_path / "out").exists()


def test_splits_are_scored_and_submitted(run, tmp_path, capsys):
    splits = ["--split", "val_id", "val_ood_ads"]
    submit = "--submission=sub.npz"
    assert run("--mode=compute_metric", *splits, submit, "--format=traj") == 0
    text = capsys.readouterr().out
    for split in ("val_id", "val_ood_ads"):
        assert f"{split}, 3 results\nmetric" in text
        table = (tmp_path / "out" / split / "metrics.txt").read_text()
        assert table in text and "adwt" in table
        assert (tmp_path / "out" / split / "adwt.png").exists()
        assert len(read(tmp_path / "out" / split / "structures.traj", ":")) == 3
    assert check_submission("sub.npz", {}) == {"id": 3, "ood_ads": 3}
    # Later calls with other outputs need no new sampling.
    assert run("--mode=by_dataloader", "--split", "val_id") == 0
    assert ToyRelaxer.calls == []


def test_database_with_labels_is_scored_and_submitted(run, capsys):
    options = ["--split=ood_ads", "--submission=one.npz"]
    assert run("--input", "data/val_ood_ads", *options) == 0
    assert "3 results\nmetric" in capsys.readouterr().out
    assert check_submission("one.npz", {}) == {"ood_ads": 3}


def test_crystals_from_scratch(run, tmp_path):
    model = {"model": "crystals/model.yaml", "weights": "crystals/w.pdparams"}
    assert run("--num_samples=2", **model) == 0
    assert run("--mode=by_num_atoms", "--num_atoms=3", "--format=extxyz", **model) == 0
    conditions = ["--condition=density=2.5", "--condition", "space_group=P1"]
    options = ["--mode=by_condition", "--num_atoms=1", *conditions]
    assert run(*options, **model) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "H1_1.cif",
        "Li1-Mn1-O2_1.cif",
        "Li1-Mn1-O2_2.cif",
        "structures.extxyz",
    ]


def test_a_second_process_on_the_same_output_ends_at_once(run, capsys):
    os.makedirs("out")
    with locked("out"):
        assert run("--input", "slabs.traj") == 2
    assert "out: another process is writing there" in capsys.readouterr().out
    assert ToyRelaxer.calls == [] and not os.path.exists("out/structures.extxyz")
    assert run("--input", "slabs.traj") == 0


BAD = {
    "missing file": (["--input=none.traj"], "not found: none.traj"),
    "no input": (["--mode=by_structures"], "--mode=by_structures needs --input"),
    "no number": (["--mode=by_num_atoms"], "needs --num_atoms"),
    "unused option": (["--mode=by_num_atoms", "--split=a"], "--split has no meaning"),
    "format": (["--input=slabs.traj", "--format=xyz"], "unknown output format 'xyz'"),
    "split": (["--mode=by_dataloader", "--split=val_idd"], "val_idd"),
    "submission split": (
        ["--mode=by_dataloader", "--split=train", "--submission=a.npz"],
        "unknown split 'train'",
    ),
    "submission without split": (
        ["--input=slabs.traj", "--submission=a.npz"],
        "--submission needs --split",
    ),
    "submission of samples": (
        ["--input=slabs.traj", "--split=id", "--submission=a.npz", "--num_samples=2"],
        "one result a structure",
    ),
    "model cannot": (["--mode=by_num_atoms", "--num_atoms=2"], "ToyRelaxer cannot"),
    "condition": (
        ["--mode=by_condition", "--num_atoms=2", "--condition=a"],
        "--condition a: wanted NAME=VALUE",
    ),
    "override": (["--input=slabs.traj", "Sampel.a=1"], "Did you mean 'Sample'"),
    "two models": (["--input=slabs.traj", "--model_name=x"], "give either model_name"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_options_give_exit_status_2(run, capsys, case):
    options, message = BAD[case]
    assert run(*options) == 2
    assert message in capsys.readouterr().out
    assert not os.path.exists("out/structures.extxyz")


def test_bad_model_files_give_exit_status_2(run, capsys):
    assert run("--input=slabs.traj", model="none.yaml") == 2
    assert "none.yaml, also not below task" in capsys.readouterr().out
    assert run("--input=slabs.traj", weights="none.pdparams") == 2
    assert "none.pdparams do not exist" in capsys.readouterr().out
    assert run("--input=slabs.traj", weights="crystals/w.pdparams") == 2
    assert "belongs to another model" in capsys.readouterr().out


def test_names_of_the_output_folder_and_defaults():
    for name in ("--save_path", "--output_dir", "--output_path"):
        assert parse_args([name, "x"]).save_path == "x"
    args = parse_args([])
    assert args.mode == "by_chemical_formula" and args.chemical_formula == "LiMnO2"
    args = parse_args(["--input", "a", "b", "Sample.x=1", "--input", "c"])
    assert (args.mode, args.input) == ("by_structures", ["a", "b", "c"])
    assert args.overrides == ["Sample.x=1"]


def test_script_answers_for_help():
    script = ROOT / "structure_generation" / "sample.py"
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "by_structures" in done.stdout
