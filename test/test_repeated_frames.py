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

"""Frames that occur twice: a warning in one set, an error between two."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.io import write
from paddle import io

from ppmat.commands.train import main
from ppmat.datasets.label_checks import Frame
from ppmat.datasets.potential_dataset import PotentialDataset
from ppmat.datasets.potential_dataset import frame_of
from ppmat.datasets.repeated_frames import check_splits
from ppmat.datasets.repeated_frames import frames_of
from ppmat.datasets.repeated_frames import key_of
from ppmat.utils.errors import InputError

EXAMPLE = "interatomic_potentials/example_data/emt"


def copper(seed=0, energy=0.0):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.info["sid"] = f"cu_{seed}"
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.ones((4, 3)))
    return atoms


def frame(atoms) -> Frame:
    return frame_of(atoms, ("energy", "forces"), {}, 5.0)


def test_key_is_of_the_geometry_alone():
    atoms = copper()
    one = key_of(frame(atoms))
    other = atoms[[2, 0, 3, 1]]
    other.positions += 1e-7
    other.calc = SinglePointCalculator(other, energy=3.0, forces=np.zeros((4, 3)))
    assert key_of(frame(other)) == one
    moved, alloy, strained, open_ = (atoms.copy() for _ in range(4))
    moved.positions[0, 0] += 1e-3
    alloy.numbers[0] = 79
    strained.cell[0, 0] += 1e-3
    open_.pbc = False
    for different in (moved, alloy, strained, open_):
        different.calc = atoms.calc
        different.calc.atoms = different
        assert key_of(frame(different)) != one


def test_repeated_frames_of_a_set_are_reported(tmp_path, capsys):
    path = tmp_path / "a.extxyz"
    write(path, [copper(0), copper(1), copper(0, energy=2.0)])
    PotentialDataset(str(path))
    out = capsys.readouterr().out
    assert "1 of 3 frames occur before, with energies up to 0.5 eV/atom apart" in out
    write(path, [copper(0), copper(1), copper(2)])
    PotentialDataset(str(path))
    assert "occur before" not in capsys.readouterr().out


def test_a_frame_of_two_sets_is_refused(tmp_path):
    path = tmp_path / "a.extxyz"
    write(path, [copper(seed) for seed in (0, 1, 2, 1)])
    data = PotentialDataset(str(path))
    parts = {
        "train": frames_of(io.Subset(data, [0, 1])),
        "val": frames_of(io.Subset(data, [2])),
    }
    check_splits(parts)
    check_splits({"train": frames_of(io.TensorDataset([])), "val": parts["val"]})
    parts["test"] = frames_of(io.Subset(data, [3]))
    with pytest.raises(InputError, match="1 of 1 frames of Dataset.test are in Data"):
        check_splits(parts)


def test_the_command_stops(tmp_path, capsys):
    """One of the validation frames of the example is taken into training."""
    for split in ("train", "val"):
        frames = read(f"{EXAMPLE}/{split}.extxyz.gz", ":4")
        frames += read(f"{EXAMPLE}/val.extxyz.gz", "1:2") if split == "train" else []
        write(tmp_path / f"{split}.extxyz.gz", frames)
    config = "interatomic_potentials/configs/sfin/sfin_potential.yaml"
    words = [f"Global.data_root={tmp_path}", f"Trainer.output_dir={tmp_path / 'out'}"]
    assert main("interatomic_potentials", ["-c", config, *words]) == 2
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "1 of 4 frames of Dataset.val are in Dataset.train too: 'val_1' =" in text
    assert not (tmp_path / "out/checkpoints").exists()
