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

"""Relaxations from files: what becomes a record, and what is refused."""

import dataclasses
import re

import numpy as np
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from test_structure_files import vasprun

from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.relaxations import RelaxationOptions
from ppmat.datasets.relaxations import check_relaxation
from ppmat.datasets.relaxations import read_relaxations
from ppmat.datasets.structure_reader import Unreadable
from ppmat.datasets.structure_record import record_from_frames
from ppmat.utils.errors import InputError


def make_relaxation(frames=3, site="fcc", seed=0):
    """CO on a Cu(111) slab whose free atoms move a little in each frame."""
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    tags = np.where(slab.get_tags() == 1, 1, 0)
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 3))
    add_adsorbate(slab, "C", 1.9, site)
    add_adsorbate(slab, "O", 3.05, site)
    slab.pbc = True
    slab.set_tags([*tags, 2, 2])
    rng = np.random.default_rng(seed)
    relaxation = []
    for number in range(frames):
        atoms = slab.copy()
        moved = atoms.positions + 0.03 * number * rng.normal(size=(len(atoms), 3))
        atoms.set_positions(moved, apply_constraint=True)
        energy = -1.0 - 0.1 * number
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        relaxation.append(atoms)
    return relaxation


def records_of(path, **options):
    return list(read_relaxations([str(path)], RelaxationOptions(**options)))


@pytest.mark.parametrize("suffix", ["traj", "extxyz", "extxyz.xz", "db", "json"])
def test_energies_of_the_calculator(tmp_path, suffix):
    frames = make_relaxation()
    path = tmp_path / f"a.{suffix}"
    write(path, frames)
    (record,) = records_of(path, energy_key="energy")
    assert record.sid == "a"
    assert (record.y_init, record.y_relaxed) == pytest.approx((-1.0, -1.2))
    np.testing.assert_allclose(record.pos, frames[0].positions, atol=1e-5)
    np.testing.assert_allclose(record.pos_relaxed, frames[-1].positions, atol=1e-5)
    assert record.tags.tolist() == frames[0].get_tags().tolist()
    assert np.flatnonzero(record.fixed).tolist() == [0, 1, 2, 3]
    (record,) = records_of(path)
    assert record.y_relaxed is None
    (fault,) = records_of(path, energy_key="E_ads")
    assert "no 'E_ads' in atoms.info" in fault.reason and "energy" in fault.reason


def shifted(frames):
    frames[-1].positions[1, 0] += 0.01


def in_another_order(frames):
    order = [*range(11, -1, -1), 12, 13]
    frames[-1] = frames[-1][order]
    frames[-1].set_tags(frames[0].get_tags())


def exchanged(frames):
    frames[:] = [frames[0], frames[-1]]
    frames[-1].positions[[8, 9]] = frames[-1].positions[[9, 8]]


def placements(frames):
    frames[:] = [make_relaxation(1, site)[0] for site in ("fcc", "hcp", "ontop")]


def two_placements(frames):
    frames[:] = [make_relaxation(1, site)[0] for site in ("fcc", "bridge")]


def swapped_elements(frames):
    frames[-1].numbers[[12, 13]] = frames[-1].numbers[[13, 12]]


FAULTS = {
    "layer numbers": (
        lambda f: [a.set_tags([3] * 4 + [2] * 4 + [1] * 4 + [0] * 2) for a in f],
        "layer numbers",
    ),
    "tags 0 to 4": (
        lambda f: [a.set_tags([0, 1, 2, 3, 4, 0, 0] * 2) for a in f],
        "tags",
    ),
    "no tags": (lambda f: [a.set_tags(0) for a in f], "no tags"),
    "no adsorbate": (
        lambda f: [a.set_tags([0] * 8 + [1] * 6) for a in f],
        "no atom has tag 2",
    ),
    "no slab": (lambda f: [a.set_tags([2] * 14) for a in f], "all atoms have tag 2"),
    "one frame": (lambda f: f.__delitem__(slice(1, None)), "only an initial structure"),
    "held atom moved": (shifted, "atom 1 is held, but moves by 0.01 Å; 1 held atoms"),
    "another order": (
        in_another_order,
        "12 slab atoms, the first 0, end wh",
    ),
    "two slab atoms exchanged": (exchanged, "2 slab atoms, the first 8, end where"),
    "elements exchanged": (swapped_elements, "same atoms are in another order"),
    "placements": (placements, "while no free slab atom moves|more than 1 Å"),
    "two placements": (two_placements, "while no free slab atom moves at all"),
    "far atom": (
        lambda f: f[0].positions.__setitem__((13, 2), 1e8),
        "atom 13 is at .*100000000",
    ),
    "far relaxed atom": (
        lambda f: f[-1].positions.__setitem__((13, 2), 1e8),
        "atom 13 is at",
    ),
    "NaN": (lambda f: f[-1].positions.__setitem__((13, 2), np.nan), "atom 13 is at"),
    "two relaxed atoms at one place": (
        lambda f: f[-1].positions.__setitem__(13, f[-1].positions[12]),
        "moves by 1.1.* Å from frame|relaxed structure: atoms",
    ),
    "another cell": (
        lambda f: f[-1].set_cell(f[0].cell * 1.01),
        "differ in their cells",
    ),
    "an atom lost": (
        lambda f: f.__setitem__(1, f[1][:-1]),
        "has 13 atoms, not 14",
    ),
    "several structures": (
        lambda f: f.__setitem__(-1, f[-1][:-1]),
        "CCu12O and CCu12. Several structures need a file or info",
    ),
    "tags change": (
        lambda f: f[-1].set_tags([1] * 4 + [0] * 8 + [2] * 2),
        "atom 0 has tag 0 in the first frame and 1 in the last",
    ),
}


def test_energies_of_some_frames(tmp_path):
    """The relaxed frame must have one; a text is no energy."""
    path = tmp_path / "a.traj"
    frames = make_relaxation()
    frames[-1].info["E_ads"] = -2.5
    write(path, frames)
    (record,) = records_of(path, energy_key="E_ads")
    assert (record.y_init, record.y_relaxed) == (None, -2.5)
    del frames[-1].info["E_ads"]
    frames[0].info["E_ads"] = -2.5
    write(path, frames)
    (fault,) = records_of(path, energy_key="E_ads")
    assert "no 'E_ads' in atoms.info of the last frame" in fault.reason
    frames[-1].info["E_ads"] = "-2.5 eV"
    write(path, frames)
    (fault,) = records_of(path, energy_key="E_ads")
    assert fault.reason == "'E_ads' is '-2.5 eV'; wanted a number in eV"


def test_labels_unlike_those_of_the_first_record(tmp_path):
    for name, options in {"a": {}, "b": {"energy_key": "energy"}}.items():
        write(tmp_path / f"{name}.traj", make_relaxation())
        (record,) = records_of(tmp_path / f"{name}.traj", **options)
        write_lmdb(tmp_path / f"{name}.lmdb", [record])
    good, fault = records_of(tmp_path / "*.lmdb")
    assert good.sid == "a" and good.y_relaxed is None
    assert "has a y_init, unlike the first row; has a y_relaxed" in fault.reason


@pytest.mark.parametrize("case", sorted(FAULTS))
def test_fault_is_named_with_file_frames_and_id(tmp_path, case):
    spoil, message = FAULTS[case]
    frames = make_relaxation()
    spoil(frames)
    for atoms in frames:
        atoms.info["sid"] = "my id"
    path = tmp_path / "a.traj"
    write(path, frames)
    (fault,) = records_of(path)
    assert isinstance(fault, Unreadable)
    assert re.search(message, fault.reason)
    last = len(frames) - 1
    place = "frame 0" if last == 0 else f"frames 0-{last}"
    assert str(fault).startswith(f"{path} {place} (sid my id): ")


def test_rounded_cells_and_first_and_last_frame_alone(tmp_path):
    frames = make_relaxation()
    frames[-1].set_cell(frames[0].cell + 2e-6)
    write(tmp_path / "a.traj", frames)
    assert isinstance(*records_of(tmp_path / "a.traj"), OC20Record)
    # An adsorbate that travels far, as in OC20, with a slab that gives way.
    frames = [frames[0], frames[1]]
    frames[1].positions[12:] += [2.5, 0, 0]
    write(tmp_path / "b.traj", frames)
    assert isinstance(*records_of(tmp_path / "b.traj"), OC20Record)
    frames.append(frames[1])
    write(tmp_path / "c.traj", frames)
    assert isinstance(*records_of(tmp_path / "c.traj"), Unreadable)
    assert isinstance(*records_of(tmp_path / "c.traj", max_step=3.0), OC20Record)


def test_turning_methyl_groups_keep_their_order():
    """Hydrogen atoms may take the places of others, unlike atoms of a slab."""
    record = record_from_frames(make_relaxation(2), "a")
    record.atomic_numbers[12:] = 1
    record.pos_relaxed[[12, 13]] = record.pos_relaxed[[13, 12]]
    check_relaxation(record)


def test_check_of_a_record():
    record = record_from_frames(make_relaxation(2), "a")
    check_relaxation(record)
    initial = dataclasses.replace(record, pos_relaxed=None)
    check_relaxation(initial, initial_only=True)
    with pytest.raises(InputError, match="only an initial structure"):
        check_relaxation(initial)
    wrapped = record.pos_relaxed + record.cell.sum(axis=0)
    check_relaxation(dataclasses.replace(record, pos_relaxed=wrapped))
    far = record.pos.copy()
    far[3, 1] = 1e8
    with pytest.raises(InputError, match="atom 3 is at"):
        check_relaxation(dataclasses.replace(record, pos=far))


def test_tags_are_guessed_when_asked(tmp_path):
    wanted = make_relaxation()[0].get_tags().tolist()
    for tags in ([0] * 14, [3] * 4 + [2] * 4 + [1] * 4 + [0] * 2):
        frames = make_relaxation()
        for atoms in frames:
            atoms.set_tags(tags)
        write(tmp_path / "a.traj", frames)
        (record,) = records_of(tmp_path / "a.traj", missing_tags="guess")
        assert record.tags.tolist() == wanted


def test_frames_of_one_id_are_one_relaxation(tmp_path):
    frames = []
    for number in range(3):
        frames += make_relaxation(2 + number, seed=number)
        for atoms in frames[-2 - number :]:
            atoms.info["sid"] = f"sid{number}"
            atoms.info["other"] = "b"
    write(tmp_path / "a.extxyz", frames)
    records = records_of(tmp_path / "a.extxyz")
    assert [record.sid for record in records] == ["sid0", "sid1", "sid2"]
    np.testing.assert_allclose(records[2].pos_relaxed, frames[-1].positions, atol=1e-6)
    (fault,) = records_of(tmp_path / "a.extxyz", sid_key="id")
    assert "no 'id' in atoms.info" in fault.reason
    initial = records_of(tmp_path / "a.extxyz@0:1", initial_only=True)
    assert [(r.sid, r.pos_relaxed) for r in initial] == [("sid0", None)]
    write(tmp_path / "b.extxyz", [*frames, *frames[:2]])
    last = records_of(tmp_path / "b.extxyz")[-1]
    assert "sid sid0 is already that of" in last.reason


def test_nothing_of_a_damaged_file_is_taken(tmp_path):
    write(tmp_path / "a.extxyz", make_relaxation(4))
    text = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "a.extxyz").write_text(text[:-40])
    (fault,) = records_of(tmp_path / "a.extxyz")
    assert "cannot be read as extxyz after 3 frames" in fault.reason


def test_run_of_vasp_by_its_folder(tmp_path):
    (tmp_path / "run").mkdir()
    text = vasprun((0.2, -3.0), (0.18, -3.5))
    (tmp_path / "run" / "vasprun.xml").write_text(text)
    (tmp_path / "run" / "POSCAR").write_text("not read")
    (record,) = records_of(tmp_path / "run", missing_tags="guess", energy_key="energy")
    assert record.sid == "vasprun" and record.fixed.tolist() == [True, False]
    assert (record.y_init, record.y_relaxed) == (-3.0, -3.5)
    assert record.displacement[1, 2] == pytest.approx(-0.18)
