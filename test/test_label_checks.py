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

"""Labels of another sign, unit or reference are found, and good ones are not."""

import numpy as np
import pytest
from ase import Atoms
from ase import units
from ase.build import bulk
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from ppmat.datasets.label_checks import check_labels
from ppmat.datasets.potential_dataset import PotentialDataset
from ppmat.datasets.potential_dataset import frame_of
from ppmat.utils.errors import InputError

EXAMPLE = "interatomic_potentials/example_data/emt"
STEPS = 40


def labelled(atoms, energy, forces, **more):
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces, **more)
    return copy


def trajectory(atoms, timestep, temperature):
    """Return the steps of molecular dynamics with EMT."""
    atoms.calc = EMT()
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    atoms.rattle(0.05, seed=0)
    options = {"temperature_K": temperature, "friction": 0.01, "fixcm": False}
    found = []

    def keep():
        found.append(labelled(atoms, atoms.get_potential_energy(), atoms.get_forces()))

    run = Langevin(atoms, timestep * units.fs, rng=rng, **options)
    run.attach(keep)
    run.run(STEPS)
    return found


@pytest.fixture(scope="module")
def solid():
    """Cells of two sizes, with energies that are about those of DFT."""
    images = trajectory(bulk("Cu", cubic=True), 4, 500)
    images += trajectory(bulk("Cu", cubic=True) * (2, 1, 1), 4, 500)
    return changed(images, lambda row, n, e, f: (e - 5.0 * n, f))


def changed(images, change):
    """Return the frames with energy and forces as ``change(row, atoms, e, f)``."""
    return [
        labelled(a, *change(i, len(a), a.get_potential_energy(), a.get_forces()))
        for i, a in enumerate(images)
    ]


def check(images, names=("energy", "forces")):
    for row, atoms in enumerate(images):
        atoms.info["sid"] = str(row)
    check_labels([frame_of(atoms, names, {}, 5.0) for atoms in images], "set")


def mixed(value, other):
    """Return a change with other values in the second half of the frames."""
    return lambda row, n, e, f: other(n, e, f) if row > STEPS else value(n, e, f)


def same(n, e, f):
    return e, f


BROKEN = {
    "sign": (lambda i, n, e, f: (e, -f), r"by -0.999 .*opposite sign"),
    "Hartree": (lambda i, n, e, f: (e, f / 51.422), r"forces in Hartree/Bohr;"),
    "Rydberg": (lambda i, n, e, f: (e, f / 25.711), r"forces in Ry/Bohr"),
    "kcal": (lambda i, n, e, f: (e, f * 23.06), r"forces in kcal/mol/Å.*by 0.0433"),
    "energy": (lambda i, n, e, f: (e / 27.211, f), r"energies in Hartree"),
    "factor": (lambda i, n, e, f: (e, f * 3.0), r"unit that is not known.*by 0.333"),
    "atom": (lambda i, n, e, f: (e / n, f), r"do not grow with the number of atoms"),
    "half atom": (
        mixed(same, lambda n, e, f: (e / n, f)),
        r"41 of 82 frames seem to have energies of one atom",
    ),
    "half code": (
        mixed(same, lambda n, e, f: (e - 30 * n, f)),
        r", 30 eV/atom apart.*41 of 82 .*another code, .*'6",
    ),
    "half sign": (mixed(same, lambda n, e, f: (e, -f)), r"opposite sign"),
    "turns": (
        lambda i, n, e, f: (e + i % 2 * 0.5 * n, f),
        r"the energy jumps by up to 0.5\d* eV/atom",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_labels_are_refused(solid, name):
    change, message = BROKEN[name]
    with pytest.raises(InputError, match=message):
        check(changed(solid, change))


def test_good_labels_pass(solid, caplog, capsys):
    """In order, thinned and shuffled; with isolated atoms, which lie eV higher."""
    check(solid)
    assert (
        "forces fit the differences of energies, slope 1.0" in capsys.readouterr().out
    )
    check(solid[::5])
    check([solid[i] for i in np.random.default_rng(0).permutation(len(solid))])
    alone = Atoms("Cu", cell=[20.0] * 3, pbc=True)
    check([*solid, labelled(alone, -1.5, np.zeros((1, 3)))])
    for split in ("train", "val", "test"):
        PotentialDataset(f"{EXAMPLE}/{split}.extxyz.gz", ["energy", "forces", "stress"])
    out = capsys.readouterr().out
    assert "WARNING" not in out and "train.extxyz.gz: forces fit" in out


def test_energies_of_one_atom_in_cells_of_one_size(solid):
    """No composition shows it; the slope of energy against work is 1 / atoms."""
    part = solid[: STEPS + 1]
    with pytest.raises(InputError, match="0.25 .*energies of one atom"):
        check(changed(part, lambda i, n, e, f: (e / n, f)))


def test_a_molecule_may_turn():
    images = trajectory(molecule("H2O"), 0.5, 300)
    rng = np.random.default_rng(0)
    turned = []
    for atoms in images:
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= np.linalg.det(rotation)
        own = atoms.copy()
        own.positions = atoms.positions @ rotation + rng.uniform(0, 5, 3)
        forces = atoms.get_forces() @ rotation
        turned.append(labelled(own, atoms.get_potential_energy(), forces))
    check(turned)
    with pytest.raises(InputError, match="opposite sign"):
        check(changed(turned, lambda i, n, e, f: (e, -f)))


def test_forces_that_explain_nothing_are_reported(solid, capsys):
    """They are those of other frames."""
    rng = np.random.default_rng(0)
    check(changed(solid, lambda i, n, e, f: (e, rng.normal(0, 0.5, f.shape))))
    assert "the forces explain nothing" in capsys.readouterr().out


def test_one_jump_is_reported(solid, capsys):
    check(changed(solid, lambda i, n, e, f: (e + (i >= 20) * 0.5 * n, f)))
    out = capsys.readouterr().out
    assert "WARNING" in out and "between 1 of 80 pairs" in out and "jumps" in out


@pytest.mark.parametrize(
    "factor, message",
    [
        (-1.0, "opposite sign: positive under pressure"),
        (1 / units.GPa, "a stress in GPa"),
        (10 / units.GPa, "a stress in kbar"),
    ],
)
def test_stress_against_strain(factor, message, capsys):
    images = []
    for scale in np.linspace(0.94, 1.1, 16):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.02, seed=0)
        atoms.set_cell(atoms.cell * scale, scale_atoms=True)
        atoms.calc = EMT()
        labels = [atoms.get_potential_energy(), atoms.get_forces()]
        images.append(labelled(atoms, *labels, stress=atoms.get_stress()))
    names = ("energy", "forces", "stress")
    check(images, names)
    assert "stress fit the differences of energies" in capsys.readouterr().out
    for atoms in images:
        atoms.calc.results["stress"] = atoms.calc.results["stress"] * factor
    with pytest.raises(InputError, match=message):
        check(images, names)


def test_a_large_stress_is_reported(capsys):
    (atoms,) = trajectory(bulk("Cu", cubic=True), 4, 500)[:1]
    stress = np.array([30.0, 30.0, 30.0, 0.0, 0.0, 0.0])
    atoms.calc.results["stress"] = stress
    check([atoms], ("energy", "forces", "stress"))
    assert "2775 GPa. A stress in GPa or kbar" in capsys.readouterr().out


def test_too_few_frames_are_not_judged(solid, capsys):
    check(changed(solid[:4], lambda i, n, e, f: (e, -f)))
    assert "cannot be checked against the energies, 3 pairs" in capsys.readouterr().out
