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

"""Records: fields of files, frames of relaxations, users' structures."""

import dataclasses

import ase
import ase.build
import ase.constraints
import numpy as np
import pytest
from ase.constraints import FixedPlane
from helpers_records import changed
from helpers_records import fields_of
from helpers_records import make_frames
from helpers_records import make_record
from helpers_records import same
from pymatgen.core import Lattice
from pymatgen.core import Molecule
from pymatgen.core import Structure
from pymatgen.core.adsorption import AdsorbateSiteFinder
from pymatgen.core.surface import SlabGenerator
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets.graph_utils import PeriodicGraphConverter
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.datasets.structure_record import record_from_frames
from ppmat.datasets.structure_record import structure_to_record
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import minimum_image

# Left-handed and rotated: lengths and angles alone cannot give it back.
CELL = np.array([[0.0, 6.1, 0.7], [5.8, 0.4, 0.0], [0.3, 0.0, 19.0]], dtype="float32")


# Fields of a file ---------------------------------------------------------------------


def test_displacement_is_the_minimum_image():
    jumps = 0
    for seed in range(12):
        record = make_record(seed)
        moved = record.displacement
        assert moved.dtype == np.float32
        difference = record.pos_relaxed - record.pos
        steps = (moved - difference) @ np.linalg.inv(record.cell)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
        assert np.linalg.norm(moved, axis=1).max() < 3
        jumps += np.linalg.norm(difference, axis=1).max() > 3
    assert jumps > 0  # the raw difference is wrong for some of these
    assert make_record(labels=False).displacement is None


@pytest.mark.parametrize("dtype", ["f4", "u1", "i4", "i8", "f8"])
def test_dtypes_of_other_writers(dtype):
    record = make_record()
    fields = fields_of(
        record,
        atomic_numbers=record.atomic_numbers.astype(dtype),
        fixed=record.fixed.astype(dtype),
        tags=record.tags.astype(dtype),
        pos=record.pos.astype("f8"),
        edge_index=record.edge_index.astype("i4"),
        cell_offsets=record.cell_offsets.astype("f4"),
        natoms=np.array([len(record.pos)]),
        sid=np.array([1000]),
        y_relaxed=np.array([record.y_relaxed], dtype="f4"),
    )
    assert same(OC20Record.from_fields(fields), record)


def test_names_of_other_writers():
    record = make_record()
    fields = fields_of(record)
    fields["energy"] = fields.pop("y_init")
    fields["forces"] = fields.pop("force")
    fields["cell"] = fields["cell"][0]
    fields["fixed"] = record.fixed
    fields["pbc"] = np.array([True, True, False])
    assert same(OC20Record.from_fields(fields), record)


@pytest.mark.parametrize("sid, want", [("random12", "random12"), (7, "7"), ([7], "7")])
def test_ids(sid, want):
    assert OC20Record.from_fields(fields_of(sid=sid)).sid == want


def test_optional_fields():
    fields = {k: fields_of()[k] for k in ("pos", "cell", "atomic_numbers")}
    record = OC20Record.from_fields(fields, default_sid="3")
    assert record.sid == "3" and not record.tags.any() and not record.fixed.any()
    for name in ("y_init", "y_relaxed", "pos_relaxed", "edge_index", "displacement"):
        assert getattr(record, name) is None


def test_a_name_that_is_no_text_is_named():
    with pytest.raises(OC20FormatError, match="no pos; it has .'a',."):
        OC20Record.from_fields({("a",): 1})


BAD = {
    "pos has NaN": (changed("pos", (0, 1), np.nan), "pos holds NaN"),
    "pos_relaxed infinite": (
        changed("pos_relaxed", 0, np.inf),
        "pos_relaxed holds NaN",
    ),
    "no pos": ({"pos": None}, "no pos; it has edge_index, cell"),
    "no cell": ({"cell": None}, "no cell"),
    "no elements": ({"atomic_numbers": None}, "no atomic_numbers"),
    "flat cell": (changed("cell", (0, 2), 0.0), "no volume"),
    "NaN cell": (changed("cell", (0, 0, 0), np.nan), "NaN"),
    "cell of two": ({"cell": np.eye(2)}, r"cell has shape \(2, 2\)"),
    "element 0": (changed("atomic_numbers", 0, 0), "holds 0, which is no element"),
    "element 119": (changed("atomic_numbers", 0, 119), "holds 119"),
    "element 1.5": (changed("atomic_numbers", 0, 1.5), "no integers"),
    "element NaN": (changed("atomic_numbers", 0, np.nan), "no integers"),
    "element 1e30": (changed("atomic_numbers", 0, 1e30), "no integers"),
    "one element": ({"atomic_numbers": np.ones(1)}, r"shape \(1,\), expected \("),
    "fixed 2": (changed("fixed", 0, 2.0), "fixed holds values other"),
    "natoms": ({"natoms": 99}, "natoms is 99, but pos has"),
    "no atoms": ({"pos": np.zeros((0, 3)), "natoms": None}, "no atoms"),
    "pos flat": ({"pos": np.zeros(9)}, r"pos has shape \(9,\), expected \(any, 3\)"),
    "edge beyond": (changed("edge_index", (0, 0), 99), "beyond the"),
    "edge negative": (changed("edge_index", (0, 0), -1), "beyond the"),
    "offsets short": (
        {"cell_offsets": np.zeros((2, 3), int)},
        "cell_offsets has shape",
    ),
    "distances short": ({"distances": np.zeros(2)}, "distances has shape"),
    "energy NaN": ({"y_relaxed": float("nan")}, "y_relaxed is nan"),
    "energy too large": ({"y_relaxed": 1e39}, "y_relaxed is 1e.39, expected a number"),
    "energies": ({"y_relaxed": np.zeros(2)}, "expected one number"),
    "pos of text": ({"pos": "abc"}, "pos is no array of numbers"),
    "ragged pos": ({"pos": [[1.0], [1.0, 2.0]]}, "pos is no array of numbers"),
    "ids": ({"sid": np.arange(2)}, "sid has shape"),
    "half an adsorbate": ({"num_adsorbates": 1.5}, "num_adsorbates is 1.5, expected a"),
    "adsorbates below 0": ({"num_adsorbates": -1}, "num_adsorbates is -1, expected a"),
    "adsorbates without atoms": ({"num_adsorbates": 99}, "a whole number up to"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records(name):
    changes, reason = BAD[name]
    with pytest.raises(OC20FormatError, match=f"^a.lmdb key '3': .*{reason}"):
        OC20Record.from_fields(fields_of(**changes), "a.lmdb key '3'")


def test_unchanged_fields_are_accepted():
    assert same(OC20Record.from_fields(fields_of()), make_record())


# Frames of a relaxation ---------------------------------------------------------------


def test_frames_that_are_no_relaxation():
    _, frames = make_frames()
    record = record_from_frames(frames[:1], "a", "adsorption_energy")
    assert record.pos_relaxed is None and record.y_relaxed is None
    assert record.y_init == 2.0
    missing = "a: no 'total' in atoms.info of the last frame; it has ads"
    with pytest.raises(OC20FormatError, match=missing):
        record_from_frames(frames, "a", "total")
    frames[1].cell[0, 0] += 0.1
    with pytest.raises(OC20FormatError, match="a: first and last frame differ"):
        record_from_frames(frames, "a")
    frames[0].set_constraint(FixedPlane(0, (0, 0, 1)))
    with pytest.raises(OC20FormatError, match="'a': atom 0 may move in some"):
        record_from_frames(frames[:1], "a")


# Structures of a user ----------------------------------------------------------------


def slab():
    atoms = ase.build.fcc111("Cu", (2, 2, 3), vacuum=8.0)
    ase.build.add_adsorbate(atoms, "O", 1.5, "fcc")
    atoms.set_tags([0] * 4 + [0] * 4 + [1] * 4 + [2])
    atoms.set_constraint(ase.constraints.FixAtoms(indices=range(8)))
    atoms.info["sid"] = 77
    return atoms


def test_ase_atoms_become_a_record():
    record = structure_to_record(slab())
    assert record.sid == "77"
    assert record.fixed.tolist() == [True] * 8 + [False] * 5
    assert record.tags.tolist() == [0] * 8 + [1] * 4 + [2]
    np.testing.assert_allclose(record.pos, slab().positions, atol=1e-6)
    np.testing.assert_allclose(record.cell, slab().cell.array, atol=1e-6)
    assert record.pos_relaxed is None and record.y_relaxed is None
    sample = record_to_sample(record, build_graph=PeriodicGraphConverter())
    assert set(sample) == {"structure_array", "graph", "id"}
    assert structure_to_record(slab(), sid="mine").sid == "mine"


@pytest.mark.parametrize("properties", ["fixed", "selective_dynamics"])
def test_a_pymatgen_structure_becomes_a_record(properties):
    atoms = slab()
    fixed = np.arange(13) < 8
    values = fixed if properties == "fixed" else np.repeat(~fixed[:, None], 3, axis=1)
    structure = Structure(
        atoms.cell.array,
        atoms.numbers,
        atoms.positions,
        coords_are_cartesian=True,
        site_properties={
            "tags": atoms.get_tags().tolist(),
            properties: values.tolist(),
        },
    )
    found, wanted = structure_to_record(structure, "s"), structure_to_record(atoms)
    for name in ("atomic_numbers", "tags", "fixed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    np.testing.assert_allclose(found.pos, wanted.pos, atol=1e-5)
    assert found.sid == "s"


def test_a_record_stays_itself():
    record = make_record()
    assert structure_to_record(record) is record


def test_missing_tags_and_constraints_are_said(capsys):
    structure_to_record(slab())
    assert "tags" not in capsys.readouterr().out
    plain = ase.Atoms(slab().numbers, slab().positions, cell=slab().cell, pbc=True)
    record = structure_to_record(plain, "plain")
    log = capsys.readouterr().out
    assert "'plain' has no tags" in log and "'plain' has no fixed atoms" in log
    assert not record.tags.any() and not record.fixed.any()


def spoil(change):
    atoms = slab()
    change(atoms)
    return atoms


@pytest.mark.parametrize(
    "structure, match",
    [
        (ase.build.molecule("H2O"), "H2O.*has no cell in all three directions"),
        (spoil(lambda a: a.__delitem__(slice(None))), "'bad': holds no atoms"),
        (spoil(lambda a: a.positions.__setitem__(3, np.nan)), "'bad'.*pos holds NaN"),
        (spoil(lambda a: a.set_cell(np.ones((3, 3)))), "no cell|no volume"),
        (spoil(lambda a: a.numbers.__setitem__(2, 0)), "0, which is no element"),
        (spoil(lambda a: a.set_tags(range(13))), "tags hold \\[0, 1"),
        (spoil(lambda a: a.positions.__setitem__(2, a.positions[5])), "same place"),
        (
            spoil(lambda a: a.set_constraint(ase.constraints.FixedPlane(0, (0, 0, 1)))),
            "atom 0 may move in some directions only",
        ),
        (
            Structure(CELL, [{"Cu": 0.5, "Pt": 0.5}], [[0, 0, 0]]),
            "partly occupied",
        ),
    ],
)
def test_structures_that_cannot_be_used(structure, match):
    with pytest.raises(ValueError, match=match):
        structure_to_record(structure, "bad")


@pytest.mark.parametrize("thing", [Molecule(["H"], [[0, 0, 0]]), "slab.cif", None])
def test_other_objects_are_refused(thing):
    with pytest.raises(TypeError, match=f"{type(thing).__name__}; wanted ase.Atoms"):
        structure_to_record(thing)


# Tags and round trips -----------------------------------------------------------------


def ase_layers(adsorbate="O", layers=2):
    atoms = ase.build.fcc111("Cu", (2, 2, layers), vacuum=8.0)
    ase.build.add_adsorbate(atoms, adsorbate, 1.5, "fcc")
    return atoms


def test_layer_numbers_are_an_error_or_are_guessed(capsys):
    atoms = ase_layers()
    for option in ("keep", "raise"):
        with pytest.raises(InputError, match="layer numbers of ASE's"):
            structure_to_record(atoms, missing_tags=option)
    record = structure_to_record(atoms, "x", missing_tags="guess")
    assert record.tags.tolist() == [0] * 4 + [1] * 4 + [2]
    assert "'x': its tags are guessed" in capsys.readouterr().out
    same = structure_to_record(record, missing_tags="guess")
    assert same is record
    atoms.set_tags(0)
    with pytest.raises(InputError, match="'x': there are no tags. Set them"):
        structure_to_record(atoms, "x", missing_tags="raise")
    again = structure_to_record(atoms, "x", missing_tags="guess", warn=False)
    assert again.tags.tolist() == record.tags.tolist()
    with pytest.raises(InputError, match="missing_tags is 'gues'"):
        structure_to_record(atoms, missing_tags="gues")


def test_tags_beyond_two_in_any_order_count_as_missing():
    atoms = ase_layers()
    atoms.set_tags(range(9))
    record = structure_to_record(atoms, missing_tags="guess", warn=False)
    assert record.tags.tolist() == [0] * 4 + [1] * 4 + [2]


def test_surface_properties_of_pymatgen_are_tags():
    bulk = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    slab = SlabGenerator(bulk, (1, 1, 1), 6.0, 14.0, center_slab=True).get_slab()
    slab.make_supercell([2, 2, 1])
    finder = AdsorbateSiteFinder(slab, selective_dynamics=True)
    made = finder.generate_adsorption_structures(
        Molecule(["C", "O"], [[0, 0, 0], [0, 0, 1.15]])
    )[0]
    names = made.site_properties["surface_properties"]
    record = structure_to_record(made, "pmg")
    order = ["subsurface", "surface", "adsorbate"]
    assert record.tags.tolist() == [order.index(name) for name in names]
    assert set(record.tags) == {0, 1, 2}
    assert record.fixed.tolist() == [name == "subsurface" for name in names]
    made.add_site_property("surface_properties", ["bulk"] * len(made))
    with pytest.raises(InputError, match="a surface property is 'bulk'"):
        structure_to_record(made)


@pytest.mark.parametrize("seed", range(5))
def test_to_atoms_and_back(seed):
    record = make_record(seed)
    frames = [record.to_atoms(), record.to_atoms(relaxed=True)]
    back = record_from_frames(frames, record.sid, "adsorption_energy", "keep")
    for name in ("atomic_numbers", "pos", "cell", "tags", "fixed", "pos_relaxed"):
        np.testing.assert_array_equal(getattr(back, name), getattr(record, name))
    assert (back.sid, back.y_init, back.y_relaxed) == (
        record.sid,
        record.y_init,
        record.y_relaxed,
    )
    assert frames[0].pbc.all() and frames[0].info["sid"] == record.sid
    free = dataclasses.replace(record, fixed=~record.fixed & False, y_init=None)
    free.pos_relaxed = None
    assert not free.to_atoms().constraints
    assert "adsorption_energy" not in free.to_atoms().info
    with pytest.raises(InputError, match="no relaxed positions"):
        free.to_atoms(relaxed=True)


def test_the_number_of_adsorbates_that_a_user_states():
    atoms = slab()
    assert structure_to_record(atoms).num_adsorbates is None
    for stated in (3, np.int64(0)):
        atoms.info["num_adsorbates"] = stated
        record = structure_to_record(atoms)
        assert record.num_adsorbates == stated
        assert record.to_atoms().info["num_adsorbates"] == stated
    for wrong in (-1, 1.5, "2", True):
        atoms.info["num_adsorbates"] = wrong
        with pytest.raises(InputError, match="wanted the number of adsorbate mol"):
            structure_to_record(atoms)


def test_frames_with_layer_numbers_or_without_tags():
    frames = [ase_layers(), ase_layers()]
    frames[1].positions[-1, 2] -= 0.1
    with pytest.raises(InputError, match="layer numbers"):
        record_from_frames(frames, "a")
    record = record_from_frames(frames, "a", missing_tags="guess")
    assert record.tags.tolist() == [0] * 4 + [1] * 4 + [2]
    assert record.displacement[-1, 2] == pytest.approx(-0.1, abs=1e-5)
    for atoms in frames:
        atoms.set_tags(0)
    with pytest.raises(InputError, match="there are no tags"):
        record_from_frames(frames, "a")


def test_cells_of_frames_may_differ_by_rounding():
    frames = [slab(), slab()]
    frames[1].cell[:] *= 1 + 1e-7
    assert record_from_frames(frames, "a").pos_relaxed is not None
    frames[1].cell[:] *= 1 + 1e-4
    with pytest.raises(OC20FormatError, match="differ in their cells"):
        record_from_frames(frames, "a")


# Sizes --------------------------------------------------------------------------------


def test_far_atoms_of_a_user_are_wrapped_in_float64():
    atoms = slab()
    atoms.pbc = True
    near = structure_to_record(atoms)
    for factor in (100, 10**5, 10**8):
        far = atoms.copy()
        far.positions[3] += factor * far.cell[2]
        far.positions[-1] -= factor * far.cell[0]
        record = structure_to_record(far)
        moved = minimum_image(record.pos.astype(float) - near.pos, near.cell)
        np.testing.assert_allclose(moved, 0, atol=1e-5)
        twin = minimum_image(far.positions.astype(np.float32) - near.pos, near.cell)
        assert factor < 10**5 or np.abs(twin).max() > 0.01  # float32 before wrapping
    far.positions[0, 0] = 1e15
    with pytest.raises(OC20FormatError, match="pos of atom 0 .* from the origin"):
        structure_to_record(far)


@pytest.mark.parametrize("length", [30.0, 1e3, 1e8, 6.6e10])
def test_far_atoms_along_a_direction_that_is_not_periodic(length):
    atoms = slab()
    atoms.pbc = (True, True, False)
    atoms.positions[-1, 2] += length
    with pytest.raises(InputError, match="cells along c, which is not periodic"):
        structure_to_record(atoms)
    structure = AseAtomsAdaptor.get_structure(slab())
    assert structure.lattice.pbc == (True, True, False)
    structure.translate_sites([12], [0, 0, length], frac_coords=False, to_unit_cell=0)
    with pytest.raises(InputError, match="cells along c, which is not periodic"):
        structure_to_record(structure)


def test_records_of_files_with_absurd_sizes_are_refused():
    fields = make_record(1).to_fields()
    assert OC20Record.from_fields(fields)
    for change, match in (
        ({"pos": fields["pos"] + 1e8}, "pos of atom"),
        ({"pos_relaxed": fields["pos"] * 0 + 1e8}, "pos_relaxed of atom 0"),
        ({"cell": np.eye(3) * 1e-7}, "too small"),
        ({"cell": np.diag([1e4, 10, 10])}, "up to 1e"),
        ({"cell": np.diag([999.0, 999.0, 999.0])}, "Å.3"),
        ({"cell": np.diag([0.1, 500.0, 100.0])}, "lattice vector of 0.1 Å"),
    ):
        with pytest.raises(OC20FormatError, match=match):
            OC20Record.from_fields({**fields, **change}, "f key 0")
