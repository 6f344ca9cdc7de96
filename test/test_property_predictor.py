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


"""PropertyPredictor: kinds of input, bad input, files, ensembles, the network."""

import math
import os
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import fcc111
from ase.build import molecule as build_molecule
from ase.constraints import FixAtoms
from ase.io import write
from helpers import to_tensors
from helpers_predictor import BIG
from helpers_predictor import ToyEnergy
from helpers_predictor import energy_of
from helpers_predictor import write_energy_model
from helpers_sampler import make_slab
from helpers_sampler import make_slabs
from helpers_sampler import write_model
from helpers_sampler import write_split
from pymatgen.core import DummySpecies
from pymatgen.core import Molecule
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.models import build_model
from ppmat.predictor import PropertyPredictor
from ppmat.predictor.property_table import PropertyTable
from ppmat.predictor.structure_checks import FLAGS
from ppmat.utils.config import load_config
from ppmat.utils.registry import ConfigError

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "structure_generation" / "example_data" / "oc20_emt"
SILENT = {"progress": False}


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture
def predictor(tmp_path):
    ToyEnergy.calls.clear()
    return PropertyPredictor(**write_energy_model(tmp_path / "model"))


# --- what goes in and comes out ---------------------------------------------------


def test_one_structure_gives_a_dict(predictor):
    slab = make_slabs(1)[0]
    row = predictor.from_structures(slab)
    assert type(row) is dict
    energy = row["y_relaxed"]
    assert type(energy) is float and math.isclose(energy, energy_of(slab), rel_tol=1e-6)
    assert len(str(energy)) < 12  # no digits beyond float32
    assert row == {
        "id": "sid0",
        "y_relaxed": energy,
        "expected_error": pytest.approx(0.1 * energy),
        "num_atoms": 5,
        "source": None,
        "frame": None,
        "flags": {"made_periodic": "c"},
        "error": None,
    }


def test_many_structures_give_a_table_in_order(predictor, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    slabs = make_slabs(5)
    table = predictor.from_structures(slabs, batch_size=2)
    assert ToyEnergy.calls == [["sid0", "sid1"], ["sid2", "sid3"], ["sid4"]]
    assert isinstance(table, PropertyTable) and len(table) == 5
    assert "5/5" in capfd.readouterr().err
    for row, slab in zip(table, slabs, strict=True):
        assert row["id"] == slab.info["sid"]
        assert math.isclose(row["y_relaxed"], energy_of(slab), rel_tol=1e-6)
    assert table.units == {"y_relaxed": "eV", "expected_error": "eV"}
    ranked = sorted(table, key=lambda row: row["y_relaxed"])
    assert [r["id"] for r in ranked] == [
        s.info["sid"] for s in sorted(slabs, key=energy_of)
    ]
    assert table[-1]["id"] == "sid4" and [r["id"] for r in table[1:3]] == [
        "sid1",
        "sid2",
    ]


def test_kinds_of_structures_agree(predictor, tmp_path):
    records = write_split(tmp_path / "data", 3)
    slabs = make_slabs(3)
    crystals = [AseAtomsAdaptor.get_structure(slab) for slab in slabs]
    expected = [energy_of(slab) for slab in slabs]
    kinds = [slabs, iter(slabs), records, OC20LMDB(tmp_path / "data"), crystals]
    for structures in kinds:
        table = predictor.from_structures(structures, **SILENT)
        energies = [row["y_relaxed"] for row in table]
        np.testing.assert_allclose(energies, expected, rtol=1e-5)
    assert [row["id"] for row in table] == ["0", "1", "2"]  # pymatgen has no id


def test_input_is_not_touched(predictor):
    slab = make_slabs(1)[0]
    slab.set_tags([0] * 5)
    before = slab.copy()
    predictor.from_structures(slab, missing_tags="guess", on_error="flag")
    assert slab == before and slab.info == before.info


def test_workers_give_the_same_rows(predictor):
    slabs = make_slabs(5)
    slabs[2].positions[0] = np.nan
    options = {"batch_size": 2, "on_error": "flag", **SILENT}
    plain = predictor.from_structures(slabs, **options)
    assert list(predictor.from_structures(slabs, num_workers=1, **options)) == list(
        plain
    )


def test_models_without_an_expected_error_leave_it_empty(tmp_path):
    arguments = write_energy_model(tmp_path, error=False)
    table = PropertyPredictor(**arguments).from_structures(make_slabs(2), **SILENT)
    assert table[0]["expected_error"] is None
    assert "expected_error" not in repr(table)


def test_table_shows_itself(predictor, tmp_path):
    slabs = make_slabs(12)
    slabs[1].info["sid"] = "<b>, x"
    table = predictor.from_structures(slabs, **SILENT)
    text = repr(table)
    assert text.startswith("PropertyTable of 12 structures\nid ")
    assert "y_relaxed [eV]" in text and "... and 2 more" in text
    assert "error\n" not in text  # an empty column is not shown
    page = table._repr_html_()
    assert page.count("<tr>") == 11 and "&lt;b&gt;, x" in page
    table.to_csv(tmp_path / "deep" / "t.csv")
    lines = (tmp_path / "deep" / "t.csv").read_text().splitlines()
    columns = "num_atoms,source,frame,flags,error"
    assert lines[0] == f"id,y_relaxed [eV],expected_error [eV],{columns}"
    assert lines[2].startswith('"<b>, x",') and len(lines) == 13
    pandas = pytest.importorskip("pandas")
    frame = table.to_pandas()
    assert list(frame["id"]) == [row["id"] for row in table]
    assert frame.attrs["units"]["y_relaxed"] == "eV"
    assert isinstance(frame, pandas.DataFrame)


# --- bad input --------------------------------------------------------------------


def numbers(value):
    return lambda slab: slab.numbers.__setitem__(0, value)


ERRORS = {
    "no cell": (lambda a: a.set_cell(None), "no cell in all three directions"),
    "flat cell": (
        lambda a: a.set_cell([[5, 0, 0], [5, 0, 1e-12], [0, 0, 9]]),
        "volume",
    ),
    "NaN": (lambda a: a.positions.__setitem__((1, 2), np.nan), "NaN or infinite"),
    "dummy atom": (numbers(0), "holds 0, which is no element"),
    "beyond the elements": (numbers(119), "holds 119, which is no element"),
    "near atoms": (
        lambda a: a.positions.__setitem__(3, a.positions[4] + [0.3, 0, 0.3]),
        "0.42 Å apart; wanted at least 0.5",
    ),
    "no tags": (lambda a: a.arrays.pop("tags"), r"no tags. Set them with .*set_tags"),
    "zero tags": (lambda a: a.set_tags([0] * 5), "no tags. Set them"),
    "no adsorbate": (lambda a: a.set_tags([0, 0, 1, 1, 1]), "no atom has tag 2"),
    "adsorbate alone": (lambda a: a.set_tags([2] * 5), "all atoms have tag 2"),
    "layer numbers": (lambda a: a.set_tags([2, 2, 0, 1, 1]), "layer numbers of ASE"),
    "NaN energy": (
        lambda a: (a.set_cell([5, 5, 2 * BIG]), a.positions.__iadd__([0, 0, BIG])),
        "the model returned .*nan",
    ),
}


@pytest.mark.parametrize("case", sorted(ERRORS))
def test_bad_structure_is_an_error_or_a_row_without_a_number(predictor, case):
    spoil, message = ERRORS[case]
    slabs = make_slabs(3)
    spoil(slabs[1])
    with pytest.raises(ValueError, match=f"structure (1|'sid1'): .*{message}"):
        predictor.from_structures(slabs, **SILENT)
    good, bad, last = predictor.from_structures(slabs, on_error="flag", **SILENT)
    assert good["error"] is None and last["error"] is None
    assert math.isclose(last["y_relaxed"], energy_of(slabs[2]), rel_tol=1e-6)
    assert bad["y_relaxed"] is None and bad["expected_error"] is None
    assert bad["id"] == "sid1"
    row = predictor.from_structures(slabs[1], on_error="flag")
    assert row["error"] == bad["error"] and row["y_relaxed"] is None


def test_objects_that_are_no_structures(predictor):
    molecule = Molecule("CO", [[0, 0, 0], [0, 0, 1.1]])
    with pytest.raises(TypeError, match="structure 0: .*a molecule has no cell"):
        predictor.from_structures(molecule)
    with pytest.raises(TypeError, match="structure 1: .*wanted ase.Atoms"):
        predictor.from_structures([make_slabs(1)[0], 7])
    with pytest.raises(TypeError, match="use from_files"):
        predictor.from_structures("slab.traj")
    crystal = AseAtomsAdaptor.get_structure(make_slabs(1)[0])
    crystal.replace(0, DummySpecies("X"), properties=crystal[0].properties)
    with pytest.raises(ValueError, match="no element"):
        predictor.from_structures(crystal)
    crystal.append("O", [0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="atom 5 has no site property 'tags'"):
        predictor.from_structures(crystal)


def test_record_made_by_hand_is_checked(predictor):
    arrays = {"cell": 9 * np.eye(3, dtype="float32"), "fixed": np.zeros(2, bool)}
    record = OC20Record(
        sid="a",
        atomic_numbers=np.array([29, 8]),
        pos=np.array([[0, 0, 0], [0, 0, np.nan]], "float32"),
        tags=np.array([1, 2]),
        **arrays,
    )
    with pytest.raises(ValueError, match="pos holds NaN"):
        predictor.from_structures(record)
    record.pos[1, 2] = 1.8
    row = predictor.from_structures(record)
    assert row["y_relaxed"] == pytest.approx(0.9) and row["id"] == "a"
    assert row["flags"] == {"no_fixed_atoms": ""}


@pytest.mark.parametrize("structures", [[], iter(())])
def test_nothing_at_all_is_an_error(predictor, structures, tmp_path):
    with pytest.raises(ValueError, match="no structure to predict"):
        predictor.from_structures(structures, save_path=tmp_path / "a.csv")
    assert os.listdir(tmp_path) == ["model"]


def test_wrong_options_are_named(predictor):
    slab = make_slabs(1)[0]
    for options, message in (
        ({"on_error": "skip"}, "on_error is 'skip'; wanted one of raise, flag"),
        ({"missing_tags": "gues"}, "missing_tags is 'gues'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.from_structures(slab, **options)


def flags_of(predictor, slab, **options):
    row = predictor.from_structures(slab, **options)
    assert set(row["flags"]) <= set(FLAGS)
    return row["flags"]


def test_flags_tell_what_is_unusual(predictor):
    slab = make_slab(0, np.random.default_rng(0))
    slab.pbc = True
    assert flags_of(predictor, slab) == {}
    assert flags_of(predictor, AseAtomsAdaptor.get_structure(slab)) == {}
    slab.pbc = (True, False, False)
    assert flags_of(predictor, slab) == {"made_periodic": "b,c", "thin_vacuum": "b"}
    structure = AseAtomsAdaptor.get_structure(slab)
    assert flags_of(predictor, structure)["made_periodic"] == "b,c"
    slab.pbc = True
    slab.set_constraint()
    assert flags_of(predictor, slab) == {"no_fixed_atoms": ""}
    slab.set_constraint(FixAtoms([0]))
    slab.set_tags([0, 0, 2, 0, 0])
    assert flags_of(predictor, slab) == {"no_surface_atoms": ""}
    slab.set_tags([1, 1, 2, 0, 0])
    slab.positions[:, 2] += 5.0  # wherever the cell is cut
    slab.wrap(pbc=True)
    assert flags_of(predictor, slab) == {"adsorbate_below_surface": ""}


def test_atom_without_neighbours_is_flagged(predictor):
    far = Atoms("CuO", [[0, 0, 0], [0, 0, 9]], cell=[20] * 3, pbc=True, tags=[1, 2])
    far.set_constraint(FixAtoms([0]))
    near = make_slabs(1)[0]
    rows = predictor.from_structures([near, far, near], **SILENT)
    assert [row["flags"].get("isolated_atoms") for row in rows] == [None, "2", None]
    assert rows[1]["y_relaxed"] == pytest.approx(4.5)


def test_elements_that_were_not_trained_on_are_flagged(tmp_path):
    arguments = write_energy_model(tmp_path, elements=[29, 8, 1])
    predictor = PropertyPredictor(**arguments)
    slabs = make_slabs(2)
    slabs[1].numbers[:2] = [79, 54]
    rows = predictor.from_structures(slabs, **SILENT)
    assert "unseen_elements" not in rows[0]["flags"]
    assert rows[1]["flags"]["unseen_elements"] == "Xe,Au"
    assert rows[1]["y_relaxed"] is not None


def ase_slab():
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(slab, Atoms("OH", [[0, 0, 0], [0, 0.3, 0.9]]), 1.5, "fcc")
    return slab


def test_tags_of_ase_builders_are_guessed_when_asked(predictor):
    slab = ase_slab()
    with pytest.raises(ValueError, match="layer numbers of ASE"):
        predictor.from_structures(slab)
    row = predictor.from_structures(slab, missing_tags="guess")
    assert "tags_guessed" in row["flags"] and slab.get_tags().max() == 3
    slab.set_tags([0] * len(slab))
    assert predictor.from_structures(slab, missing_tags="guess") == row
    slab.set_tags([0] * 8 + [1] * 4 + [2] * 2)
    right = predictor.from_structures(slab, missing_tags="guess")
    assert right["y_relaxed"] == row["y_relaxed"]
    assert "tags_guessed" not in right["flags"]


def test_tags_that_cannot_be_guessed(predictor):
    slab = ase_slab()
    slab.set_tags([0] * len(slab))
    slab.numbers[0] = 8  # an oxide
    with pytest.raises(ValueError, match="may belong to the slab"):
        predictor.from_structures(slab, missing_tags="guess")
    del slab[-2:]
    slab.numbers[0] = 29
    with pytest.raises(ValueError, match="a slab of other elements"):
        predictor.from_structures(slab, missing_tags="guess")


def test_model_that_needs_no_tags(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyEnergy, "readout_tags", None)
    predictor = PropertyPredictor(**write_energy_model(tmp_path))
    slab = make_slabs(1)[0]
    slab.set_tags([1] * 5)
    assert predictor.from_structures(slab)["error"] is None


# --- files ------------------------------------------------------------------------


def test_files_of_all_kinds(predictor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slabs = make_slabs(3)
    write("three.traj", slabs)
    write("bare.cif", slabs[0])
    (tmp_path / "bad.cif").write_text("rubbish")
    write_split("data", 2)
    inputs = ["three.traj@1:", "*.cif", "data"]
    table = predictor.from_files(inputs, on_error="flag", **SILENT)
    ids = [row["id"] for row in table]
    assert ids == ["sid1", "sid2", "bad", "bare", "sid0", "sid1_data"]
    assert [row["frame"] for row in table] == [1, 2, None, 0, 0, 1]
    assert [row["source"] for row in table] == ["three.traj"] * 2 + [
        *("bad.cif", "bare.cif", "data/data.lmdb", "data/data.lmdb")
    ]
    errors = [r["error"] for r in table]
    assert errors[2].startswith("cannot be read as cif")
    assert "Files: extxyz and ASE trajectories have tags" in errors[3]
    assert [e is None for e in errors] == [True, True, False, False, True, True]
    with pytest.raises(ConfigError, match="not found: none.traj"):
        predictor.from_files("none.traj")


def test_cif_files_by_upstreams_name(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyEnergy, "readout_tags", None)
    (tmp_path / "cifs").mkdir()
    for i, slab in enumerate(make_slabs(2)):
        write(tmp_path / "cifs" / f"{i}.cif", slab)
    predictor.model.predict = lambda batch: {"y_relaxed": np.ones(len(batch["id"]))}
    table = predictor.from_cif_file(tmp_path / "cifs", save_path=tmp_path / "a.csv")
    assert [row["id"] for row in table] == ["0", "1"] and table[1]["y_relaxed"] == 1.0
    assert len(predictor.from_cif_file(tmp_path / "cifs" / "1.cif")) == 1


# --- ensembles and models ---------------------------------------------------------


def test_ensemble_gives_mean_and_spread(tmp_path):
    arguments = [write_energy_model(tmp_path, weight=w) for w in (1.0, 2.0, 4.5)]
    paths = [a["checkpoint_path"] for a in arguments]
    predictor = PropertyPredictor(
        config_path=arguments[0]["config_path"], checkpoint_path=paths
    )
    slab = make_slabs(1)[0]
    row = predictor.from_structures(slab)
    assert row["y_relaxed"] == pytest.approx(energy_of(slab, 2.5), rel=1e-6)
    spread = np.std([1.0, 2.0, 4.5], ddof=1)
    assert row["ensemble_std"] == pytest.approx(energy_of(slab, spread), rel=1e-6)
    assert row["expected_error"] == pytest.approx(0.1 * energy_of(slab, 2.5), rel=1e-6)
    with pytest.raises(ConfigError, match="two members .* the same weights"):
        PropertyPredictor(
            config_path=arguments[0]["config_path"], checkpoint_path=[paths[0]] * 2
        )


@pytest.fixture(scope="module")
def sfin(tmp_path_factory):
    """SFINEnergy of the smoke configuration with weights of a few random bits."""
    config = str(ROOT / "property_prediction/configs/sfin/sfin_oc20_is2re_smoke.yaml")
    paddle.seed(0)
    model = build_model(load_config(config)["Model"])
    model.data_mean.set_value(paddle.full([], -0.5))
    for number in (1, 6, 8, 29, 78):
        model.elements_seen[number] = True
    weights = str(tmp_path_factory.mktemp("sfin") / "w.pdparams")
    paddle.save(model.state_dict(), weights)
    return PropertyPredictor(config_path=config, checkpoint_path=weights)


def test_energies_are_those_the_model_was_scored_with(sfin):
    rows = OC20LMDB(SAMPLE / "val_id")
    records = [rows[i] for i in range(6)]
    table = sfin.from_structures(records, batch_size=4, **SILENT)
    samples = [
        record_to_sample(r, build_graph=sfin.graph_converter_fn) for r in records
    ]
    batch = to_tensors(DefaultCollator()(samples))
    with paddle.no_grad():
        expected = sfin.model(batch)["pred_dict"]["y_relaxed"].numpy()[:, 0]
    np.testing.assert_allclose([r["y_relaxed"] for r in table], expected, atol=1e-5)
    assert all(0 < row["expected_error"] < 100 for row in table)
    for record, row in zip(records, table, strict=True):
        unseen = set(record.atomic_numbers.tolist()) - {1, 6, 8, 29, 78}
        assert ("unseen_elements" in row["flags"]) == bool(unseen)
    shuffled = sfin.from_structures(records[::-1], batch_size=1, **SILENT)
    for a, b in zip(table, list(shuffled)[::-1], strict=True):
        assert a["y_relaxed"] == pytest.approx(b["y_relaxed"], abs=1e-5)


@pytest.mark.parametrize("molecule", ["O", "CO", "CH3OH"])
def test_energy_of_a_supercell(sfin, molecule):
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    slab.set_tags(np.repeat([0, 0, 1], 4))
    add_adsorbate(slab, build_molecule(molecule), 2.2, "ontop")
    slab.set_tags([*slab.get_tags()[:12], *[2] * (len(slab) - 12)])
    slab.set_constraint(FixAtoms(mask=slab.get_tags() == 0))
    repeats = [(1, 1, 1), (2, 1, 1), (3, 1, 1), (2, 2, 1)]
    rows = sfin.from_structures([slab.repeat(r) for r in repeats], **SILENT)
    one = rows[0]
    assert "several_adsorbates" not in one["flags"]
    for row, repeat in zip(list(rows)[1:], repeats[1:], strict=True):
        n = int(np.prod(repeat))
        assert row["flags"]["several_adsorbates"] == str(n)
        assert row["y_relaxed"] == pytest.approx(n * one["y_relaxed"], rel=1e-3)
        assert row["expected_error"] == pytest.approx(
            n * one["expected_error"], rel=1e-3
        )
        once = n * one["y_relaxed"] - (n - 1) * -0.5  # with data_mean once, as before
        assert abs(row["y_relaxed"] - once) > 0.4


def test_a_stated_number_of_adsorbates_counts(sfin, tmp_path):
    """A molecule that has dissociated is still one; files keep the number."""
    slab = fcc111("Cu", (3, 3, 3), vacuum=8.0)
    slab.set_tags(np.repeat([0, 0, 1], 9))
    for name, site in (("C", "fcc"), ("O", "hcp")):
        add_adsorbate(slab, name, 1.3, site, offset=(name == "O", 0))
    slab.set_tags([*slab.get_tags()[:27], 2, 2])
    two = sfin.from_structures(slab)
    assert two["flags"]["several_adsorbates"] == "2"
    slab.info["num_adsorbates"] = 1
    path = str(tmp_path / "s.extxyz")
    write(path, slab)
    for one in (sfin.from_structures(slab), sfin.from_files(path)[0]):
        assert "several_adsorbates" not in one["flags"]
        assert one["y_relaxed"] - two["y_relaxed"] == pytest.approx(0.5, abs=1e-4)
        assert two["expected_error"] == pytest.approx(
            2 * one["expected_error"], rel=1e-4
        )
        assert one["flags"]["stated_adsorbates"] == "1,2"
    assert "stated_adsorbates" not in two["flags"]
    for wrong in (-1, 1.5, True, "two"):
        slab.info["num_adsorbates"] = wrong
        with pytest.raises(ValueError, match="num_adsorbates"):
            sfin.from_structures(slab)


def test_a_repeated_cell_that_kept_its_number_is_flagged(sfin):
    slab = fcc111("Cu", (3, 3, 3), vacuum=8.0)
    add_adsorbate(slab, "O", 1.3, "fcc")
    slab.set_tags([*np.repeat([0, 0, 1], 9), 2])
    slab.info["num_adsorbates"] = 1
    assert "stated_adsorbates" not in sfin.from_structures(slab)["flags"]
    copies = sfin.from_structures(slab.repeat((2, 1, 1)))
    assert copies["flags"]["stated_adsorbates"] == "1,2"


def test_members_of_an_ensemble_agree_on_several_adsorbates(sfin, tmp_path):
    state = sfin.model.state_dict()
    paths = []
    for i, factor in enumerate((1.0, 1.5, 0.2)):
        name = "energy_head.out.weight"
        paths.append(str(tmp_path / f"{i}.pdparams"))
        paddle.save({**state, name: state[name] * factor}, paths[-1])
    ensemble = PropertyPredictor(config_path=sfin.config_path, checkpoint_path=paths)
    record = OC20LMDB(SAMPLE / "val_id")[3]
    slab = Atoms(
        record.atomic_numbers, record.pos, cell=record.cell, tags=record.tags, pbc=True
    )
    one, two = ensemble.from_structures([slab, slab.repeat((2, 1, 1))], **SILENT)
    for name in ("y_relaxed", "ensemble_std", "expected_error"):
        assert two[name] == pytest.approx(2 * one[name], rel=1e-3)
    assert one["ensemble_std"] > 0


def test_slab_of_ase_with_the_network(sfin):
    slab = ase_slab()
    row = sfin.from_structures(slab, missing_tags="guess")
    assert math.isfinite(row["y_relaxed"]) and row["error"] is None
    lonely = slab[[0, -1]]
    lonely.set_tags([1, 2])
    lonely.positions[1, 2] = lonely.positions[0, 2] + 9.0
    lonely.cell[2] *= 2
    lonely.set_cell(lonely.cell * 3)
    row = sfin.from_structures(lonely)
    assert row["flags"]["isolated_atoms"] == "2" and math.isfinite(row["y_relaxed"])


def test_model_that_predicts_nothing(tmp_path):
    with pytest.raises(ConfigError, match="ToyRelaxer.*use StructureSampler"):
        PropertyPredictor(**write_model(tmp_path))
    with pytest.raises(ConfigError, match="Predict.graph_converter is missing"):
        PropertyPredictor(
            **write_energy_model(tmp_path),
            config_overrides=["Predict.graph_converter=null"],
        )
