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

"""Labels of other codes: frames come back sorted and wrapped, or are refused."""

import numpy as np
import pytest
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from ppmat.distillation.labelling import match
from ppmat.distillation.labelling import read_frames
from ppmat.distillation.labelling import write_frames
from ppmat.utils.errors import InputError


@pytest.fixture
def sent():
    """Return three slabs that differ a little."""
    found = []
    for seed in range(3):
        slab = fcc111("Cu", (2, 2, 2), vacuum=5.0, periodic=True)
        add_adsorbate(slab, "O", 1.2, "fcc")
        slab.rattle(0.1, seed=seed)
        found.append(slab)
    return found


def test_slabs_of_ase_are_written_without_a_warning(sent, tmp_path, recwarn):
    assert "adsorbate_info" in sent[0].info  # which extxyz cannot hold
    write_frames(tmp_path / "a.extxyz", sent)
    assert [str(w.message) for w in recwarn] == []
    assert len(read_frames(tmp_path / "a.extxyz")) == 3


def computed(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def as_a_code_returns(atoms, seed):
    """Return labelled atoms, sorted by element, wrapped, a little rounded."""
    order = np.argsort(atoms.numbers, kind="stable")
    order = np.concatenate(
        [order[:1], np.random.default_rng(seed).permutation(order[1:])]
    )
    done = computed(atoms[order])
    labels = dict(done.calc.results)
    done.wrap()
    done.positions = np.round(done.positions, 4)
    done.calc = SinglePointCalculator(done, **labels)
    return done


def test_sorted_and_wrapped_frames_are_recognised(sent, tmp_path):
    path = tmp_path / "given.extxyz"
    back = [as_a_code_returns(atoms, seed) for seed, atoms in enumerate(sent)]
    write(path, back[::-1])
    found, missing = match(sent, path)
    assert missing == 0
    for atoms, result in zip(sent, found):
        expected = computed(atoms)
        assert np.array_equal(result.positions, atoms.positions)
        assert np.array_equal(result.numbers, atoms.numbers)
        assert np.allclose(result.get_forces(), expected.get_forces(), atol=1e-5)
        assert result.get_potential_energy() == pytest.approx(
            expected.get_potential_energy()
        )


def test_missing_frames_are_counted(sent, tmp_path):
    write(tmp_path / "given.extxyz", [computed(sent[2]), computed(sent[0])])
    found, missing = match(sent, tmp_path / "given.extxyz")
    assert missing == 1
    assert np.array_equal(found[0].positions, sent[0].positions)


def test_a_relaxed_frame_is_refused(sent, tmp_path):
    moved = sent[0].copy()
    moved.positions[0, 2] += 0.05
    write(tmp_path / "given.extxyz", [computed(sent[1]), computed(moved)])
    with pytest.raises(InputError, match="frame 1 is none of the frames"):
        match(sent, tmp_path / "given.extxyz")


def test_a_frame_without_forces_is_refused(sent, tmp_path):
    bare = sent[0].copy()
    bare.calc = SinglePointCalculator(bare, energy=1.0)
    write(tmp_path / "given.extxyz", [bare])
    with pytest.raises(InputError, match="frame 0 has energy; wanted energy and for"):
        match(sent, tmp_path / "given.extxyz")
    (tmp_path / "text.extxyz").write_text("nothing of the kind")
    with pytest.raises(InputError, match="cannot be read"):
        match(sent, tmp_path / "text.extxyz")


def test_frames_are_written_and_read(sent, tmp_path):
    for name in ("a.extxyz", "a.extxyz.gz"):
        write_frames(tmp_path / name, [computed(atoms) for atoms in sent])
        found = read_frames(tmp_path / name)
        assert np.allclose(found[2].get_forces(), computed(sent[2]).get_forces())
    write_frames(tmp_path / "none.extxyz", [])
    assert read_frames(tmp_path / "none.extxyz") == []
