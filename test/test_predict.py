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


"""The predicting command: inputs, splits, scores, submission, exit status."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.data import atomic_numbers
from ase.io import write
from helpers_predictor import ToyEnergy
from helpers_predictor import energy_of
from helpers_predictor import write_energy_model
from helpers_sampler import data_block
from helpers_sampler import make_slabs
from helpers_sampler import write_split
from omegaconf import OmegaConf

from ppmat.commands.predict import main
from ppmat.commands.predict import parse_args
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.record_groups import adsorbate_of
from ppmat.datasets.submission import check_submission
from ppmat.utils.files import locked

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the command in a folder with data and a model."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("val_id", "val_ood_ads")):
        write_split(tmp_path / "data" / name, 3, seed)
    write("slabs.traj", make_slabs(3))
    for weight in (1.0, 3.0):
        write_energy_model("task/configs", weight, dataset=data_block("data"))

    def command(*options, model="model.yaml", weights="task/configs/w1.0.pdparams"):
        ToyEnergy.calls.clear()
        arguments = [f"--config_path={model}", "--checkpoint_path", *weights.split()]
        return main("task", [*arguments, *options])

    return command


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_structures_from_files(run, capsys):
    options = ["--batch_size=2", "--save_path=out/e.csv"]
    assert run("--input", "slabs.traj@:2", "slabs.traj@2", *options) == 0
    assert ToyEnergy.calls == [["sid0", "sid1"], ["sid2"]]
    text = capsys.readouterr().out
    assert "3 structures\nid    y_relaxed [eV]  expected_error [eV]  num_atoms" in text
    assert "flag made_periodic (3 structures): taken as periodic" in text
    energies = [float(row["y_relaxed [eV]"]) for row in rows_of("out/e.csv")]
    for slab, energy in zip(make_slabs(3), energies, strict=True):
        assert energy == pytest.approx(energy_of(slab), rel=1e-6)
        assert f"{energy:.4f}" in text
    assert run("--input", "slabs.traj", *options) == 0  # nothing left to do
    assert ToyEnergy.calls == []
    assert run("--input", "slabs.traj", "--save_path=folder") == 0
    assert len(rows_of("folder/predictions.csv")) == 3


def test_bad_files_are_left_out_and_listed(run, tmp_path, capsys):
    os.makedirs("folder")
    (tmp_path / "folder" / "bad.cif").write_text("rubbish")
    slabs = make_slabs(4)
    slabs[1].positions[0] = np.nan
    write("folder/slabs.extxyz", slabs)
    assert run("--input", "folder", "--save_path=out.csv") == 1
    text = capsys.readouterr().out
    assert "left out: folder/bad.cif: cannot be read as cif" in text
    assert "left out: folder/slabs.extxyz frame 1 (sid sid1): pos holds NaN" in text
    assert "left out: 2 structures; the others are done" in text
    rows = rows_of("out.csv")
    assert [row["y_relaxed [eV]"] == "" for row in rows] == [True, False, True] + [
        False
    ] * 2
    assert run("--input", "folder/bad.cif") == 2
    assert "no structure could be used" in capsys.readouterr().out


def test_tags_are_guessed_when_asked(run, capsys):
    slab = make_slabs(1)[0]
    write("POSCAR", slab, format="vasp")
    assert run("--input", "POSCAR") == 2
    assert (
        "left out: POSCAR frame 0: the structure has no tags" in capsys.readouterr().out
    )
    assert run("--input", "POSCAR", "--missing_tags=guess") == 0
    assert "flag tags_guessed (1 structure)" in capsys.readouterr().out


def test_long_tables_and_lists_are_cut(run, capsys):
    slabs = make_slabs(60)
    for slab in slabs[30:]:
        slab.set_tags([1] * 5)
    write("many.traj", slabs)
    assert run("--input", "many.traj") == 1
    text = capsys.readouterr().out
    assert "... and 40 more\n" in text and "ERROR: ... and 10 more" in text
    assert text.count("ERROR: left out: many.traj frame ") == 20


def test_splits_are_scored_and_submitted(run, tmp_path, capsys):
    splits = ["--split", "val_id", "val_ood_ads"]
    assert run(*splits, "--save_path=scores", "--submission=sub.npz") == 0
    text = capsys.readouterr().out
    found = OmegaConf.to_container(OmegaConf.load("scores/metrics.yaml"))
    assert list(found) == ["val_id", "val_ood_ads", "mean"]
    for seed, split in enumerate(("val_id", "val_ood_ads")):
        slabs = make_slabs(3, seed)
        errors = [abs(energy_of(slab) + 1.0) for slab in slabs]  # labels are -1 eV
        assert found[split]["energy_mae"] == pytest.approx(np.mean(errors), rel=1e-6)
        assert found[split]["ewt"] == 0.0
        assert f"{split}, 3 structures\n" in text
        assert len(rows_of(f"scores/{split}.csv")) == 3
    mean = np.mean([found[s]["energy_mae"] for s in ("val_id", "val_ood_ads")])
    assert found["mean"]["energy_mae"] == pytest.approx(mean)
    assert f"mean         {mean:15.4f}   0.00%" in text
    assert check_submission("sub.npz", {}) == {"id": 3, "ood_ads": 3}
    with np.load("sub.npz") as file:
        slab = make_slabs(1)[0]
        assert file["id_energy"][0] == pytest.approx(energy_of(slab), rel=1e-6)


def test_splits_are_scored_metal_by_metal(run, tmp_path, capsys):
    """A split is still scored as a whole, and the mean is that of the splits."""
    errors = {"Cu": [], "Pd": []}
    records = write_split(tmp_path / "made", 5)
    for slab, record, metal in zip(make_slabs(5), records, ["Pd", *["Cu"] * 4]):
        record.atomic_numbers[record.tags < 2] = atomic_numbers[metal]
        errors[metal].append(abs(energy_of(slab) + 1.0))
    write_lmdb(tmp_path / "data/val_ood_cat/data.lmdb", records)
    splits = ["--split", "val_ood_cat", "val_ood_ads", "--score_by=metals"]
    assert run(*splits, "--save_path=scores") == 0
    text = capsys.readouterr().out
    found = OmegaConf.to_container(OmegaConf.load("scores/metrics.yaml"))
    splits = ["val_ood_cat", "val_ood_ads", "mean"]
    assert list(found)[:5] == [*splits, "val_ood_cat, Cu", "val_ood_cat, Pd"]
    for metal, values in errors.items():
        mae = found[f"val_ood_cat, {metal}"]["energy_mae"]
        assert mae == pytest.approx(np.mean(values), rel=1e-6)
        assert f"val_ood_cat, {metal}  " in text
    whole = np.mean(errors["Cu"] + errors["Pd"])
    assert found["val_ood_cat"]["energy_mae"] == pytest.approx(whole, rel=1e-6)
    assert run("--split=val_ood_cat", "--score_by=adsorbates", "--save_path=more") == 0
    found = OmegaConf.to_container(OmegaConf.load("more/metrics.yaml"))
    assert len(found) > 1 and set(found) - {"val_ood_cat"} == {
        f"val_ood_cat, {adsorbate_of(record)}" for record in records
    }


def test_exact_energies_are_within_the_threshold(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        ToyEnergy, "predict", lambda self, b: {"y_relaxed": -np.ones(len(b["id"]))}
    )
    assert run("--split=val_id", "--save_path=scores") == 0
    found = OmegaConf.load("scores/metrics.yaml")
    assert found == {"val_id": {"energy_mae": 0.0, "ewt": 1.0}}


def test_files_of_one_split_are_submitted(run):
    options = ["--split=ood_ads", "--submission=one.npz"]
    assert run("--input", "data/val_ood_ads", *options) == 0
    assert check_submission("one.npz", {}) == {"ood_ads": 3}


def test_ensemble_of_two(run, capsys):
    both = "task/configs/w1.0.pdparams task/configs/w3.0.pdparams"
    assert run("--input=slabs.traj", "--save_path=e.csv", weights=both) == 0
    assert "ensemble_std [eV]" in capsys.readouterr().out
    slab = make_slabs(1)[0]
    energy = float(rows_of("e.csv")[0]["y_relaxed [eV]"])
    assert energy == pytest.approx(energy_of(slab, 2.0), rel=1e-6)


def test_a_second_process_on_the_same_output_ends_at_once(run, capsys):
    os.makedirs("out")
    for path in ("e.csv", "out"):
        with locked(path):
            assert run("--input=slabs.traj", f"--save_path={path}") == 2
        assert f"{path}: another process is writing" in capsys.readouterr().out
        assert ToyEnergy.calls == []
        assert run("--input=slabs.traj", f"--save_path={path}") == 0


BAD = {
    "nothing": ([], "give --input or --split"),
    "missing file": (["--input=none.traj"], "not found: none.traj"),
    "split": (["--split=val_idd"], "no split 'val_idd'"),
    "no data set": (
        ["--split=val_id", "Dataset.val=null"],
        "none of Dataset.val, Dataset.test, Dataset.train and Dataset.dataset",
    ),
    "split twice": (["--split", "val_id", "val_id"], "names a split twice"),
    "splits in a file": (
        ["--split", "val_id", "val_ood_ads", "--save_path=a.csv"],
        "several splits go to a folder",
    ),
    "submission split": (["--split=train", "--submission=a.npz"], "unknown split"),
    "submission alone": (["--input=slabs.traj", "--submission=a.npz"], "needs --split"),
    "parts of files": (["--input=slabs.traj", "--score_by=metals"], "needs --split"),
    "unused split": (["--input=slabs.traj", "--split=id"], "only names a --submission"),
    "batch size": (["--input=slabs.traj", "--batch_size=0"], "--batch_size=0"),
    "override": (["--input=slabs.traj", "Predictt.a=1"], "Did you mean 'Predict'"),
    "two models": (["--input=slabs.traj", "--model_name=x"], "give either model_name"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_options_give_exit_status_2(run, capsys, case):
    options, message = BAD[case]
    assert run(*options) == 2
    assert message in capsys.readouterr().out


def test_bad_files_of_the_model_and_of_results_give_exit_status_2(run, capsys):
    assert run("--input=slabs.traj", model="none.yaml") == 2
    assert run("--input=slabs.traj", weights="none.pdparams") == 2
    assert "none.pdparams do not exist" in capsys.readouterr().out
    Path("e.csv").write_text("my own file")
    assert run("--input=slabs.traj", "--save_path=e.csv") == 2
    assert "e.csv was not written by such a run" in capsys.readouterr().out
    assert Path("e.csv").read_text() == "my own file"


def test_submission_wants_every_structure(run, capsys):
    slabs = make_slabs(2)
    slabs[1].set_tags([1] * 5)
    write("two.traj", slabs)
    options = ["--input=two.traj", "--split=id", "--submission=a.npz"]
    assert run(*options) == 1
    text = capsys.readouterr().out
    assert "left out: two.traj frame 1 (sid sid1): " in text
    assert "a.npz is not written: 1 structure of its splits have no result" in text
    assert not os.path.exists("a.npz")
    assert run("--input=two.traj@0", *options[1:]) == 0
    assert (
        "the challenge wants ood_ads, ood_cat, ood_both too" in capsys.readouterr().out
    )


def test_submission_refuses_an_id_twice(run, capsys):
    slabs = make_slabs(2)
    slabs[1].info["sid"] = "sid0"
    write("two.traj", slabs)
    options = ["--input=two.traj", "--split=id", "--submission=a.npz"]
    assert run(*options) == 1
    text = capsys.readouterr().out
    assert "sid sid0 is already that of two.traj frame 0" in text
    assert not os.path.exists("a.npz")


def test_equal_names_keep_their_own_rows(run):
    for folder in ("Cu", "Ni", "Pt"):
        os.makedirs(folder)
        slab = make_slabs(1)[0]
        del slab.info["sid"]
        write(f"{folder}/slab.traj", [slab] * 2)
    assert run("--input", "*/slab.traj@1:", "--save_path=out.csv") == 0
    rows = rows_of("out.csv")
    assert [row["id"] for row in rows] == ["Cu/slab_1", "Ni/slab_1", "Pt/slab_1"]
    assert [row["source"] for row in rows] == [
        f"{a}/slab.traj" for a in "Cu Ni Pt".split()
    ]
    assert [row["frame"] for row in rows] == ["1"] * 3


def test_on_error_raise_stops(run, capsys):
    slabs = make_slabs(2)
    slabs[0].set_tags([1] * 5)
    write("two.traj", slabs)
    assert run("--input=two.traj", "--on_error=raise") == 2
    assert "two.traj frame 0 (sid sid0): no atom has tag 2" in capsys.readouterr().out


def test_options_with_several_values_leave_overrides_alone():
    args = parse_args(["--input", "a", "b", "Predict.x=1", "--checkpoint_path", "w"])
    assert (args.input, args.checkpoint_path) == (["a", "b"], ["w"])
    assert args.overrides == ["Predict.x=1"]


def test_script_answers_for_help():
    script = ROOT / "property_prediction" / "predict.py"
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--missing_tags" in done.stdout
