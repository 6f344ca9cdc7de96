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

"""The folders that real_potentials.py makes: labels, boxes, and no test frame moved."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.io import write

from benchmarks.data import real_potentials
from benchmarks.potential_peers import EPOCHS

SIZES = {"train": [2, 1, 3, 2, 1, 2, 2, 1, 2, 3, 2, 1], "test": [3, 1]}


def write_mlearn(path):
    rng = np.random.default_rng(0)
    arrays = {"element": np.array("Mo")}
    for split, sizes in SIZES.items():
        arrays |= {
            f"{split}_natoms": np.array(sizes),
            f"{split}_cell": rng.uniform(5, 6, (len(sizes), 3, 1)) * np.eye(3),
            f"{split}_energy": rng.normal(size=len(sizes)),
            f"{split}_pos": rng.uniform(0, 5, (sum(sizes), 3)),
            f"{split}_forces": rng.normal(size=(sum(sizes), 3)),
        }
    np.savez(path, **arrays)
    return arrays


def write_dimers(path):
    rng = np.random.default_rng(1)
    arrays = {}
    for name in real_potentials.DIMERS:
        arrays[f"{name}_Z"] = np.array([6, 8, 1])
        arrays[f"{name}_pos"] = rng.uniform(0, 9, (13, 3, 3))
        arrays[f"{name}_energy"] = rng.normal(size=13)
        arrays[f"{name}_forces"] = rng.normal(size=(13, 3, 3))
    np.savez(path, **arrays)
    return arrays


def write_molecules(path, count):
    frames = []
    for row in range(count):
        atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1 + 0.001 * row]])
        forces = np.full((2, 3), row)
        atoms.calc = SinglePointCalculator(atoms, energy=row, forces=forces)
        frames.append(atoms)
    write(path, frames, format="extxyz")


def energies(folder, split):
    frames = read(folder / f"{split}.extxyz.gz", ":")
    return [atoms.get_potential_energy() for atoms in frames]


def test_the_sets_that_are_there(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    metal = write_mlearn(source / "mlearn_Mo.npz")
    dimers = write_dimers(source / real_potentials.DIMER_FILE)
    for name, count in zip(real_potentials.ACAC, (15, 4)):
        write_molecules(source / name, count)
    real_potentials.write_sets(source, out)
    found = {path.name for path in out.iterdir()}
    assert found == {"mlearn_Mo", "acac", "lode_CC", "lode_PA", "lode_AA"} < set(EPOCHS)
    kept = {"train": np.delete(np.arange(12), 4), "val": [4]}
    for split, rows in kept.items():
        wanted = metal["train_energy"][rows]
        assert energies(out / "mlearn_Mo", split) == pytest.approx(wanted)
    second = read(out / "mlearn_Mo/train.extxyz.gz", "1")
    np.testing.assert_allclose(second.positions, metal["train_pos"][2:3], atol=1e-6)
    np.testing.assert_allclose(
        second.get_forces(), metal["train_forces"][2:3], atol=1e-6
    )
    assert second.pbc.all() and second.symbols.get_chemical_formula() == "Mo"
    assert energies(out / "mlearn_Mo", "test") == pytest.approx(metal["test_energy"])
    for split, rows in {"train": [0, 1, 2, 3, 5, 6, 7, 8, 9], "val": [4]}.items():
        assert energies(out / "lode_PA", split) == pytest.approx(
            dimers["PA_energy"][rows]
        )
    far = read(out / "lode_PA/test.extxyz.gz", ":")
    np.testing.assert_allclose(
        [atoms.positions for atoms in far], dimers["PA_pos"][10:], atol=1e-6
    )
    assert far[0].cell.lengths().tolist() == [30.0] * 3 and far[0].pbc.all()
    assert energies(out / "acac", "val") == [4.0, 14.0]
    assert energies(out / "acac", "test") == [0.0, 1.0, 2.0, 3.0]
    assert not read(out / "acac/train.extxyz.gz").pbc.any()


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no file that is known"):
        real_potentials.write_sets(tmp_path, tmp_path / "out")
