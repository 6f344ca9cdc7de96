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

"""PotentialDataset: labels of files, units, open directions, what is refused."""

import numpy as np
import paddle
import pytest
from ase import Atoms
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from paddle import io

from ppmat.datasets.potential_dataset import PotentialDataset
from ppmat.datasets.potential_dataset import periodic_box
from ppmat.datasets.transform import run_dataset_transform
from ppmat.utils.errors import InputError
from ppmat.utils.neighbours import neighbour_pairs
from ppmat.utils.registry import ConfigError

GRAPH = {
    "__class_name__": "PeriodicGraphConverter",
    "__init_params__": {"cutoff": 4.0, "max_neighbors": None, "k_cut": 0.9},
}
ALL = ["energy", "forces", "stress"]


def frames(count=3):
    """Return rattled cells of copper with the labels of EMT."""
    found = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        labels = {name: atoms.calc.get_property(name, atoms) for name in ALL}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        found.append(atoms)
    return found


def data_of(path, images, names=ALL, **options):
    write(path, images)
    return PotentialDataset(str(path), names, build_graph_cfg=GRAPH, **options)


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
def test_labels_of_ase_files(tmp_path, name):
    images = frames()
    data = data_of(tmp_path / name, images)
    assert len(data) == 3
    for atoms, index in zip(images, range(3)):
        sample = data[index]
        assert sample["energy"].dtype == np.float64
        assert sample["energy"][0] == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(sample["forces"].data, atoms.get_forces(), atol=1e-6)
        xx, yy, zz, yz, xz, xy = atoms.get_stress()
        stress = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
        np.testing.assert_allclose(sample["stress"].data[0], stress, atol=1e-7)
    edges = sample["graph"]["num_edges"].data[0]
    assert edges == len(neighbour_pairs(atoms.positions, atoms.cell, 4.0).centre)


def test_forces_of_held_atoms_are_those_of_the_potential(tmp_path):
    """ASE's get_forces would give 0 for them."""
    (atoms,) = frames(1)
    wanted = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.set_tags([3, 2, 1, 1])  # layer numbers mean nothing here
    sample = data_of(tmp_path / "a.traj", [atoms])[0]
    np.testing.assert_allclose(sample["forces"].data, wanted, atol=1e-6)
    assert not sample["structure_array"]["fixed"].data.any()
    assert not sample["structure_array"]["tags"].data.any()


def test_labels_under_other_names(tmp_path):
    (atoms,) = frames(1)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    plain = atoms.copy()
    plain.info["REF_energy"], plain.arrays["REF_forces"] = energy, forces
    names, keys = ["energy", "forces"], {"energy": "REF_energy", "forces": "REF_forces"}
    sample = data_of(tmp_path / "a.extxyz", [plain], names, keys=keys)[0]
    assert sample["energy"][0] == pytest.approx(energy)
    np.testing.assert_allclose(sample["forces"].data, forces, atol=1e-6)
    assert "stress" not in sample
    with pytest.raises(InputError, match="has no forces.*keys names"):
        data_of(tmp_path / "a.extxyz", [plain], names, keys={"energy": "REF_energy"})
    with pytest.raises(InputError, match="no 'E' for energy.*REF_energy"):
        data_of(tmp_path / "a.extxyz", [plain], names, keys={"energy": "E"})


def test_keys_name_what_the_reader_knows_too(tmp_path):
    """VASP's readers give the extrapolated energy and, beside it, the free energy."""
    (atoms,) = frames(1)
    energy = atoms.get_potential_energy()
    atoms.calc.results["free_energy"] = energy - 0.5
    sample = data_of(tmp_path / "a.traj", [atoms], keys={"energy": "free_energy"})[0]
    assert sample["energy"][0] == pytest.approx(energy - 0.5)
    assert data_of(tmp_path / "a.traj", [atoms])[0]["energy"][0] == energy


def test_open_directions_are_out_of_reach():
    slab = fcc111("Cu", (2, 2, 2), vacuum=0.5)
    slab.pbc = [True, True, False]
    for atoms in (slab, molecule("C2H6"), Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])):
        box = periodic_box(atoms, 5.0)
        assert box.pbc.all()
        np.testing.assert_array_equal(box.positions, atoms.positions)
        image = neighbour_pairs(box.positions, box.cell, 5.0).image
        assert (image[:, ~atoms.pbc] == 0).all()
        np.testing.assert_allclose(box.cell[atoms.pbc], atoms.cell[atoms.pbc])
    image = neighbour_pairs(slab.positions, slab.cell, 5.0).image
    assert (image[:, 2] != 0).any()  # the twin: the cell as it is


def test_vacuum_that_is_long_enough_stays():
    """Else the box, which reciprocal vectors see, would follow each move of an atom."""
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    slab.pbc = [True, True, False]
    np.testing.assert_allclose(periodic_box(slab, 5.0).cell, slab.cell)
    slab.positions[0, 2] += 0.3
    np.testing.assert_allclose(periodic_box(slab, 5.0).cell, slab.cell)
    water = molecule("H2O", vacuum=8.0)
    np.testing.assert_allclose(periodic_box(water, 5.0).cell, water.cell)
    water.cell[0] = [900.0, 0.0, 0.0]
    assert periodic_box(water, 5.0).cell[0, 0] == 50.0
    slab.cell[2] = [3.0, 0.0, 9.0]  # tilted and too short: its height counts
    height = np.ptp(slab.positions[:, 2])
    box = periodic_box(slab, 12.0)
    np.testing.assert_allclose(box.cell[2], [0, 0, height + 13.0], atol=1e-9)


def test_refuses_what_has_no_meaning(tmp_path):
    (atoms,) = frames(1)
    limited = {**GRAPH, "__init_params__": {"cutoff": 4.0, "max_neighbors": 12}}
    write(tmp_path / "a.traj", atoms)
    with pytest.raises(InputError, match="max_neighbors is 12"):
        PotentialDataset(str(tmp_path / "a.traj"), build_graph_cfg=limited)
    with pytest.raises(InputError, match="label"):
        PotentialDataset(str(tmp_path / "a.traj"), ["energies"])
    for labels, word in (
        ({"energy": np.nan}, "not finite"),
        ({"forces": 1e4 * np.ones((4, 3))}, "a force of 1e.04 eV/Å"),
    ):
        broken = atoms.copy()
        results = {**atoms.calc.results, **labels}
        broken.calc = SinglePointCalculator(broken, **results)
        with pytest.raises(InputError, match=word):
            data_of(tmp_path / "b.traj", [broken])
    text = atoms.copy()
    text.info["E"] = "-1 eV"
    with pytest.raises(InputError, match="energy is '-1 eV'; wanted numbers"):
        data_of(tmp_path / "b.traj", [text], ["energy"], keys={"energy": "E"})
    slab = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=[1, 1, 0])
    slab.calc = SinglePointCalculator(slab, **atoms.calc.results)
    with pytest.raises(InputError, match="a stress, and open directions"):
        data_of(tmp_path / "b.traj", [slab])
    touching = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.1]], cell=[9, 9, 9], pbc=True)
    touching.calc = SinglePointCalculator(touching, energy=0.0, forces=np.zeros((2, 3)))
    with pytest.raises(InputError, match="same place"):
        data_of(tmp_path / "c.traj", [touching], ["energy", "forces"])


def test_scaling_finds_the_energies_of_the_elements(tmp_path):
    """Of cells of several sizes; one compound alone shares its energy evenly."""
    rng = np.random.default_rng(0)
    images = []
    for n, m in ((1, 0), (2, 1), (1, 3), (4, 1)):
        atoms = Atoms(f"Cu{n}O{m}", rng.uniform(0, 9, (n + m, 3)), cell=[9] * 3)
        atoms.pbc = True
        energy, forces = -300.0 * n - 40.0 * m, rng.normal(0, 2.0, (n + m, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        images.append(atoms)
    data = data_of(tmp_path / "a.traj", images, ["energy", "forces"])
    scale, energies = run_dataset_transform(
        "potential_scaling", io.DataLoader(data), ["energy", "forces"]
    )
    assert energies == pytest.approx({"Cu": -300.0, "O": -40.0}, abs=1e-3)
    every = np.concatenate([atoms.get_forces().ravel() for atoms in images])
    assert scale == pytest.approx(np.sqrt(np.mean(every**2)), rel=1e-6)
    one = data_of(tmp_path / "b.traj", images[1:2], ["energy", "forces"])
    _, energies = run_dataset_transform("potential_scaling", io.DataLoader(one), "e")
    assert energies == pytest.approx({"Cu": -640 / 3, "O": -640 / 3}, rel=1e-6)
    images[0].calc = SinglePointCalculator(images[0], energy=1.0, forces=[[0, 0, 0]])
    still = data_of(tmp_path / "c.traj", images[:1], ["energy", "forces"])
    with pytest.raises(ConfigError, match="forces of 1 frames are 0"):
        run_dataset_transform("potential_scaling", io.DataLoader(still), "e")


def test_total_energies_keep_their_digits(tmp_path):
    """-9391 eV in float32 has steps of 1 meV."""
    (atoms,) = frames(1)
    energy = -9391.45554428476
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=atoms.get_forces())
    sample = data_of(tmp_path / "a.extxyz", [atoms], ["energy", "forces"])[0]
    assert sample["energy"][0] == pytest.approx(energy, abs=1e-7)
    assert abs(float(paddle.to_tensor(energy, "float32")) - energy) > 1e-4
