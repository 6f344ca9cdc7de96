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

"""The commands of interatomic_potentials: train, predict, relax."""

import argparse
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.constraints import FixAtoms
from ase.io import read
from ase.io import write
from helpers_potential import SMALL as SMALLER
from PIL import Image

from ppmat.commands import md
from ppmat.commands import predict_potential
from ppmat.commands import relax
from ppmat.commands import train
from ppmat.utils.config import load_config

ROOT = Path(__file__).resolve().parents[1]
TASK = str(ROOT / "interatomic_potentials")
EXAMPLE = ROOT / "interatomic_potentials/example_data/emt"
SMALL = [*SMALLER, "Dataset.val.dataset.__init_params__.max_samples=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Options of a small potential, trained for two epochs."""
    out = tmp_path_factory.mktemp("potential") / "run"
    words = ["-c=configs/sfin/sfin_potential.yaml", "Trainer.max_epochs=2", *SMALL]
    words += [f"Global.data_root={EXAMPLE}", f"Trainer.output_dir={out}"]
    assert train.main(TASK, [*words, "--processes=1"]) == 0
    return [
        f"--config_path={out / 'sfin_potential.yaml'}",
        f"--checkpoint_path={out / 'checkpoints/best.pdparams'}",
    ]


def test_training_names_the_command_that_comes_next(tmp_path):
    config = load_config(f"{TASK}/configs/sfin/sfin_potential.yaml")
    text = train.next_command(config, "run/a.yaml", "best.pdparams", TASK)
    words = shlex.split(text)[2:]
    args = predict_potential.parse_args(words)
    assert args.input == ["interatomic_potentials/example_data/emt/val.extxyz.gz"]
    assert args.save_path == "run/predicted.extxyz"


def test_predict_scores_labelled_frames(trained, tmp_path, capsys):
    out = tmp_path / "predicted.extxyz"
    words = [*trained, "--input", str(EXAMPLE / "val.extxyz.gz@:4")]
    assert predict_potential.main(TASK, [*words, f"--save_path={out}"]) == 0
    shown = capsys.readouterr().out
    found, labels = read(out, ":"), read(EXAMPLE / "val.extxyz.gz", ":4")
    assert len(found) == 4
    assert Image.open(tmp_path / "predicted_parity.png").size > (400, 200)
    errors = [
        (a.get_potential_energy() - b.get_potential_energy()) / len(a)
        for a, b in zip(found, labels)
    ]
    score = float(re.search(r"energy: MAE ([\d.]+)", shown)[1])
    assert score == pytest.approx(np.abs(errors).mean(), abs=2e-5)
    forces = [a.get_forces() - b.get_forces() for a, b in zip(found, labels)]
    score = float(re.search(r"forces: MAE ([\d.]+)", shown)[1])
    assert score == pytest.approx(np.abs(np.concatenate(forces)).mean(), abs=2e-5)


def test_relax_holds_atoms_and_goes_on(trained, tmp_path, capsys, caplog):
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    add_adsorbate(slab, "O", 1.6, "fcc")
    slab.set_constraint(FixAtoms([0, 1, 2, 3]))
    slab.info.clear()
    write(tmp_path / "slab.traj", slab)
    words = [*trained, "--input", str(tmp_path / "slab.traj")]
    words += [f"--save_path={tmp_path / 'relaxed'}", "--fmax=0.001"]
    assert relax.main(TASK, [*words, "--max_steps=3"]) == 1
    assert "NOT converged after 3 steps" in capsys.readouterr().out
    assert relax.main(TASK, [*words, "--max_steps=2"]) == 1
    steps = read(tmp_path / "relaxed/slab.traj", ":")
    assert len(steps) == 4 + 2
    assert steps[-1].get_potential_energy() < steps[0].get_potential_energy()
    moved = steps[-1].positions - slab.positions
    assert (moved[:4] == 0.0).all() and np.abs(moved).max() > 1e-3
    last = read(tmp_path / "relaxed/relaxed.extxyz")
    np.testing.assert_allclose(last.positions, steps[-1].positions, atol=1e-7)
    forces = [atoms.get_forces(apply_constraint=False) for atoms in (last, steps[-1])]
    np.testing.assert_allclose(*forces, atol=1e-7)
    assert np.abs(forces[0][:4]).max() > 1e-3  # of held atoms too, as labels are
    assert relax.main(TASK, [*words, "--fmax=9", "--max_steps=2"]) == 0
    slab.rattle(0.1)  # another structure of the same name
    write(tmp_path / "slab.traj", slab)
    assert relax.main(TASK, words) == 2
    assert "relaxation of another structure" in caplog.text
    (tmp_path / "relaxed/slab.traj").write_bytes(b"- of Ulm")
    assert relax.main(TASK, words) == 2
    assert "cannot be read" in caplog.text


def test_relax_does_many_and_lists_faults(trained, tmp_path, capsys, caplog):
    """One at a time and three at once end in the same places, in the same order."""
    slabs = [fcc111("Cu", (1, 1, n), vacuum=6.0, periodic=True) for n in (5, 3, 4)]
    slabs.insert(1, fcc111("Au", (1, 1, 3), vacuum=6.0, periodic=True))
    for slab in slabs:
        slab.positions[-1, 2] += 0.2
        slab.info.clear()
    write(tmp_path / "slabs.traj", slabs)
    words = [*trained, "--input", str(tmp_path / "slabs.traj"), "--max_steps=8"]
    found = []
    for size in ("--batch_size=1", "--batch_size=3"):
        out = tmp_path / size
        assert relax.main(TASK, [*words, size, f"--save_path={out}"]) == 1
        found.append(read(out / "relaxed.extxyz", ":"))
        steps = re.findall(r"(slabs_\d): .*after (\d+) step", capsys.readouterr().out)
        assert sorted(sid for sid, _ in steps) == ["slabs_0", "slabs_2", "slabs_3"]
        for sid, number in steps:
            assert len(read(out / f"{sid}.traj", ":")) == int(number) + 1
        assert not (out / "slabs_1.traj").exists()
    assert "slabs_1: Au is not in the training data" in caplog.text
    assert [len(atoms) for atoms in found[0]] == [5, 3, 4]
    for one, two in zip(*found):
        np.testing.assert_allclose(one.positions, two.positions, atol=1e-4)
        assert abs(one.get_potential_energy() - two.get_potential_energy()) < 1e-4


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files with and without ids, two of them with the same name."""
    monkeypatch.chdir(tmp_path)
    plain = fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=True)
    plain.info.clear()
    named, other = plain.copy(), plain.copy()
    named.info["sid"], other.info["sid"] = "x/y", "x_y"
    for folder in "ab":
        os.mkdir(folder)
        write(f"{folder}/slab.traj", plain)
    write("frames.traj", [plain, plain])
    write("run.traj", [named, named])  # as md.py writes it
    write("ids.traj", [named, other])


def test_names_do_not_depend_on_other_inputs(files):
    def names(*inputs):
        args = argparse.Namespace(input=inputs, save_path="out")
        structures, paths = relax.read_named(args, faults)
        ids = [str(atoms.info["sid"]).replace("/", "_") for atoms in structures]
        assert paths == [f"out/{sid}.traj" for sid in ids]
        return ids

    faults = []
    alone = [names(path) for path in ("b/slab.traj", "frames.traj", "run.traj")]
    assert alone == [["slab"], ["frames_0", "frames_1"], ["x_y_0", "x_y_1"]]
    together = names("run.traj", "frames.traj", "b/slab.traj")
    assert together == [*alone[2], *alone[1], *alone[0]]
    assert faults == []


@pytest.mark.parametrize("command", [relax, md])
@pytest.mark.parametrize(
    "inputs, fault",
    [
        (["a/slab.traj", "b/slab.traj"], "b/slab.traj frame 0 would share out/slab"),
        (["ids.traj"], "ids.traj frame 0 and ids.traj frame 1 would share out/x_y"),
        (["a/slab.traj", "a/slab.traj"], "a/slab.traj frame 0 and a/slab.traj frame 0"),
        (["a/slab.traj", "--save_path=out.extxyz"], "out.extxyz: wanted a folder"),
    ],
)
def test_names_that_cannot_be_are_refused(
    trained, files, command, inputs, fault, caplog
):
    steps = ["--steps=20"] if command is md else []
    words = [*trained, "--save_path=out", *steps, "--input", *inputs]
    assert command.main(TASK, words) == 2
    assert fault in caplog.text
    assert not list(Path().glob("out*"))


def test_relaxed_has_all_structures_of_the_folder(trained, files, caplog):
    words = [*trained, "--save_path=out", "--fmax=1e-3", "--max_steps=1", "--input"]
    assert relax.main(TASK, [*words, "b/slab.traj"]) == 1
    before = Path("out/relaxed.extxyz").read_text()
    assert relax.main(TASK, [*words, "frames.traj"]) == 1
    after = Path("out/relaxed.extxyz").read_text()
    assert after.startswith(before) and len(after) > 2.5 * len(before)
    assert relax.main(TASK, [*words, "b/slab.traj"]) == 1  # goes on
    frames = read("out/relaxed.extxyz", ":")
    names = [atoms.info["relaxation"] for atoms in frames]
    assert names == ["slab.traj", "frames_0.traj", "frames_1.traj"]
    last = read("out/slab.traj")
    np.testing.assert_allclose(frames[0].positions, last.positions, atol=1e-7)
    for text in (after.replace("weights=sha256:", "weights=sha256:0"), "3\nmine"):
        Path("out/relaxed.extxyz").write_text(text)
        assert relax.main(TASK, [*words, "ids.traj@0"]) == 2
        assert Path("out/relaxed.extxyz").read_text() == text
        assert not Path("out/x_y.traj").exists()
    assert "relax.py did not relax with these weights. Choose another" in caplog.text
    assert "relaxed.extxyz cannot be read" in caplog.text


@pytest.mark.parametrize(
    "word, fault",
    [
        ("--batch_size=0", "wanted at least 1"),
        ("--max_steps=0", "wanted at least 1"),
        ("--fmax=nan", "wanted 0 to 10"),
    ],
)
def test_relax_refuses_wrong_options(trained, word, fault, caplog):
    words = [*trained, "--input", os.devnull, "--save_path=no", word]
    assert relax.main(TASK, words) == 2
    assert fault in caplog.text and not os.path.exists("no")


def test_unseen_elements_are_left_out(trained, tmp_path, caplog):
    path = tmp_path / "gold.traj"
    write(path, fcc111("Au", (1, 1, 3), vacuum=6.0, periodic=True))
    words = [*trained, "--input", str(path)]
    assert predict_potential.main(TASK, words) == 2
    assert "Au is not in the training data" in caplog.text
    assert predict_potential.main(TASK, [*words, "--allow_unseen"]) == 0


@pytest.mark.parametrize(
    "words, fault",
    [
        (["--input", "no.traj"], "not found"),
        (["--input", os.devnull, "--save_path=a.csv"], "wanted FILE.extxyz"),
        (["--input", "bad.traj", "--save_path=new/folder/a.extxyz"], "cannot be read"),
        (["--input", "a/slab.traj", "--save_path=bad.traj/a.extxyz"],
         "bad.traj: cannot be written: "),
    ],
)  # fmt: skip
def test_wrong_options(trained, files, words, fault, caplog, capsys):
    """They are found before anything is computed, and leave nothing."""
    Path("bad.traj").write_bytes(b"- of Ulm")
    before = set(Path().rglob("*"))
    assert predict_potential.main(TASK, [*trained, *words]) == 2
    assert fault in caplog.text
    assert "largest force" not in capsys.readouterr().out
    assert set(Path().rglob("*")) == before
