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

"""StructureSampler: its modes, and what upstream's lacked (seed, batches, resume)."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.io import read
from helpers_predictor import write_energy_model
from helpers_sampler import GRAPH
from helpers_sampler import ToyRelaxer
from helpers_sampler import data_block
from helpers_sampler import make_slab
from helpers_sampler import make_slabs
from helpers_sampler import write_model
from helpers_sampler import write_split
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.metrics import METRICS
from ppmat.metrics.is2rs_metric import structure_distances
from ppmat.metrics.is2rs_metric import success_curve
from ppmat.predictor import PropertyPredictor
from ppmat.sampler import StructureSampler
from ppmat.sampler.distance_projection import DistanceProjection
from ppmat.sampler.slab_results import INFO_KEYS
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import minimum_image
from ppmat.utils.registry import ConfigError
from ppmat.utils.result_store import ResultStore
from ppmat.utils.save_load import CheckpointError

METRIC = {"__class_name__": "IS2RSMetric", "__init_params__": {"thresholds": [0.1]}}


def setup_module():
    paddle.set_device("cpu")


@pytest.fixture
def relaxer(tmp_path):
    ToyRelaxer.calls.clear()
    sample = {"graph_converter": GRAPH, "model_sample_params": {"noise": 0.02}}
    return StructureSampler(**write_model(tmp_path / "model", sample=sample))


@pytest.fixture
def crystals(tmp_path):
    return StructureSampler(**write_model(tmp_path / "model", "ToyCrystals"))


# --- given structures -----------------------------------------------------------


def test_atoms_come_back_as_they_were_but_moved(relaxer):
    slabs = make_slabs(5)
    before = [slab.copy() for slab in slabs]
    relaxed = relaxer.from_structures(slabs, batch_size=2, seed=1)
    assert ToyRelaxer.calls == [["sid0", "sid1"], ["sid2", "sid3"], ["sid4"]]
    assert isinstance(relaxed, list) and len(relaxed) == 5
    for old, slab, new in zip(before, slabs, relaxed, strict=True):
        assert slab == old and slab.info == old.info  # the input is not touched
        assert (new.numbers == old.numbers).all()
        assert (new.get_tags() == old.get_tags()).all()
        assert (new.constraints[0].index == old.constraints[0].index).all()
        assert (new.pbc == old.pbc).all() and (new.cell.array == old.cell.array).all()
        assert (new.arrays["charge"] == old.arrays["charge"]).all()
        assert (new.arrays["initial_positions"] == old.positions).all()
        assert set(new.info) == {*old.info, "sample", *INFO_KEYS}
        assert new.info["sid"] == old.info["sid"] and new.info["sample"] == 0
        moved = new.positions - old.positions
        assert (moved[:2] == 0).all()
        assert abs(moved[2:] - [0, 0, 0.1]).max() < 0.1
        assert abs(moved[2:]).max() > 0.05


def test_one_structure_gives_one_and_an_iterable_all(relaxer, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    slabs = make_slabs(3)
    one = relaxer.from_structures(slabs[0], seed=1)
    assert isinstance(one, Atoms)
    assert "sampling" not in capfd.readouterr().err
    several = relaxer.from_structures(slabs[0], seed=1, num_samples=2)
    assert isinstance(several, list) and len(several) == 2
    many = relaxer.from_structures(iter(slabs), seed=1)
    assert [atoms.info["sid"] for atoms in many] == ["sid0", "sid1", "sid2"]
    assert "sampling: 100%" in capfd.readouterr().err
    for atoms in (many[0], several[0]):
        assert (atoms.positions == one.positions).all()
    relaxer.from_structures(slabs, progress=False)
    assert "sampling" not in capfd.readouterr().err
    with pytest.raises(ConfigError, match="no structure to relax"):
        relaxer.from_structures(iter(()))


def test_batch_size_and_order_do_not_change_a_structure(relaxer):
    slabs = make_slabs(4)
    together = relaxer.from_structures(slabs, batch_size=4, seed=7)
    alone = [relaxer.from_structures(slab, seed=7) for slab in slabs]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)


def test_seed_names_the_structures(relaxer):
    slabs = make_slabs(2)

    def positions(seed):
        return relaxer.from_structures(slabs, seed=seed)[1].positions

    assert (positions(3) == positions(3)).all()
    assert (positions(3) != positions(4)).any()


def test_several_samples_stand_next_to_each_other(relaxer):
    slabs = make_slabs(3)
    relaxed = relaxer.from_structures(slabs, batch_size=2, num_samples=2, seed=0)
    assert [a.info["sid"] for a in relaxed] == ["sid0"] * 2 + ["sid1"] * 2 + [
        "sid2"
    ] * 2
    assert [a.info["sample"] for a in relaxed] == [0, 1] * 3
    for i, atoms in enumerate(relaxed):
        assert (atoms.arrays["initial_positions"] == slabs[i // 2].positions).all()
    assert (relaxed[0].positions != relaxed[1].positions).any()


def test_kinds_of_structures_agree(relaxer, tmp_path):
    records = write_split(tmp_path / "data", 3)
    rows = OC20LMDB(tmp_path / "data")
    slabs = make_slabs(3)
    crystals = [AseAtomsAdaptor.get_structure(slab) for slab in slabs]
    from_atoms = relaxer.from_structures(slabs)
    for structures in (records, rows):
        for a, b in zip(from_atoms, relaxer.from_structures(structures), strict=True):
            np.testing.assert_allclose(a.positions, b.positions, atol=2e-6)
            assert (a.numbers == b.numbers).all()
            assert (a.get_tags() == b.get_tags()).all()
            assert b.constraints[0].index.tolist() == [0, 1]
            assert b.info["sid"] == a.info["sid"]
    relaxed = relaxer.from_structures(crystals)
    assert [a.info["sid"] for a in relaxed] == ["0", "1", "2"]
    for a, slab in zip(relaxed, slabs, strict=True):
        assert a.get_tags().tolist() == [0, 0, 2, 1, 1]
        assert isinstance(a.constraints[0], FixAtoms)
        np.testing.assert_allclose(a.positions[:2], slab.positions[:2], atol=1e-5)


@pytest.fixture
def collapsing(monkeypatch):
    """A model that puts the adsorbate 0.2 Å above a surface atom."""
    plain = ToyRelaxer.sample

    def sample(self, batch, noise=0.05, seed=0, num_samples=1):
        found = plain(self, batch, noise, seed, num_samples)
        for result in found["result"]:
            atoms = np.array(result["cart_coords"])
            atoms[2] = atoms[3] + [0.0, 0.0, 0.2]
            result["cart_coords"] = atoms.tolist()
            fractional = atoms @ np.linalg.inv(result["lattice"])
            result["frac_coords"] = fractional.tolist()
        return found

    monkeypatch.setattr(ToyRelaxer, "sample", sample)


def test_overlapping_atoms_are_moved_apart(relaxer, collapsing, tmp_path, capfd):
    slabs = make_slabs(4)
    path = str(tmp_path / "on")
    atoms = relaxer.from_structures(slabs, save_path=path, progress=False)
    shown = capfd.readouterr().out
    assert "Checks of 4 structures: closest distance 1.22 Å" in shown
    assert "overlap 0, desorbed 0" in shown and "moved apart in 4" in shown
    for written, old, result in zip(
        read(f"{path}/structures.extxyz", ":"), slabs, atoms.results, strict=True
    ):
        distance = written.get_distance(2, 3, mic=True)
        # 0.75 x the sum of the covalent radii of Cu and H or O
        wanted = 0.75 * (1.32 + covalent_radii[written.numbers[2]])
        if written.numbers[3] == 29:
            assert distance == pytest.approx(wanted, abs=2e-3)
        assert written.info["closest_distance"] == pytest.approx(distance, abs=1e-6)
        assert not written.info["overlap"]
        assert written.info["projection_shift"] > 0.3
        assert written.info["num_adsorbates"] == 1
        np.testing.assert_allclose(written.positions[:2], old.positions[:2], atol=1e-7)
        fractional = written.positions @ np.linalg.inv(written.cell.array)
        np.testing.assert_allclose(result["frac_coords"], fractional, atol=1e-5)


def test_a_predictor_accepts_what_the_sampler_wrote(relaxer, collapsing, tmp_path):
    predictor = PropertyPredictor(**write_energy_model(tmp_path / "energy"))
    for format in ("extxyz", "traj"):
        path = tmp_path / format
        relaxer.from_structures(
            make_slabs(4), save_path=str(path), format=format, progress=False
        )
        table = predictor.from_files(str(path / f"structures.{format}"))
        assert [row["error"] for row in table] == [None] * 4
        assert not any("several_adsorbates" in row["flags"] for row in table)
    off = relaxer.from_structures(make_slabs(4), projection=False, progress=False)
    with pytest.raises(ValueError, match="at the same place"):  # the twin
        predictor.from_structures(off)


def test_the_number_of_adsorbates_stays_that_of_the_input(relaxer, tmp_path):
    slab = make_slabs(1)[0]
    assert relaxer.from_structures(slab).info["num_adsorbates"] == 1
    slab.info["num_adsorbates"] = 3
    assert relaxer.from_structures(slab).info["num_adsorbates"] == 3


def test_the_projection_can_be_off(relaxer, collapsing, tmp_path, capfd):
    off = relaxer.from_structures(make_slabs(4), projection=False, progress=False)
    assert "Overlap in sid0, sid1, sid2, sid3" in capfd.readouterr().out
    for atoms in off:
        assert atoms.get_distance(2, 3, mic=True) == pytest.approx(0.2, abs=1e-4)
        assert atoms.info["overlap"] and "projection_shift" not in atoms.info
    relaxer.projection = None  # as Sample.projection: false
    again = relaxer.from_structures(make_slabs(4), progress=False)
    for a, b in zip(off, again, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
    on = relaxer.from_structures(make_slabs(4), projection=True, progress=False)
    assert not any(atoms.info["overlap"] for atoms in on)


def test_projection_of_the_yaml(tmp_path):
    folder = tmp_path / "model"
    for value, wanted in (
        (False, None),
        (None, None),
        (True, DistanceProjection()),
        ({"min_factor": 0.9}, DistanceProjection(0.9)),
    ):
        files = write_model(folder, sample={"projection": value})
        assert StructureSampler(**files).projection == wanted
    assert StructureSampler(**write_model(folder)).projection == DistanceProjection()
    with pytest.raises(ConfigError, match="Sample.projection"):
        StructureSampler(**write_model(folder, sample={"projection": {"x": 1}}))


def test_atom_that_the_model_wraps_does_not_jump(relaxer):
    """A model may return wrapped positions; the way the atom took is kept."""
    slab = make_slab(0, np.random.default_rng(0))
    slab.positions[2] += slab.cell[0] + 2 * slab.cell[1]
    plain = relaxer.from_structures(slab, seed=1)
    sample = relaxer.model.sample

    def wrapped(batch, noise=0.05, seed=0, num_samples=1):
        output = sample(batch, noise, seed, num_samples)
        for result in output["result"]:
            result["cart_coords"] = (
                np.mod(result["frac_coords"], 1.0) @ np.array(result["lattice"])
            ).tolist()
        return output

    relaxer.model.sample = wrapped
    again = relaxer.from_structures(slab, seed=1)
    np.testing.assert_allclose(again.positions, plain.positions, atol=1e-5)


BAD_STRUCTURES = {
    "no cell": (lambda a: a.set_cell(None), "structure 1: .*no cell"),
    "nan": (lambda a: a.positions.__setitem__((0, 0), np.nan), "structure 1: .*NaN"),
    "no volume": (
        lambda a: a.set_cell([[5, 0, 0], [5, 0, 1e-12], [0, 0, 9]]),
        "structure 1: .*volume",
    ),
    "unknown element": (
        lambda a: a.numbers.__setitem__(0, 0),
        "structure 1: .*no element",
    ),
    "layer tags": (lambda a: a.set_tags([5] * 5), "structure 1: .*tags"),
}


@pytest.mark.parametrize("case", sorted(BAD_STRUCTURES))
def test_bad_structure_is_named(relaxer, case):
    spoil, message = BAD_STRUCTURES[case]
    slabs = make_slabs(2)
    spoil(slabs[1])
    with pytest.raises(ValueError, match=message):
        relaxer.from_structures(slabs)


def test_bad_structures_are_left_out_when_asked(relaxer, tmp_path, capsys):
    slabs = make_slabs(4)
    slabs[2].positions[0] = np.nan
    wanted = relaxer.from_structures([slabs[0], slabs[1], slabs[3]], seed=1)
    for options in ({}, {"save_path": str(tmp_path / "out")}):
        found = relaxer.from_structures(slabs, seed=1, on_error="flag", **options)
        assert [str(fault) for fault in found.left_out] == [
            "structure 2: pos holds NaN or infinite numbers"
        ]
        assert "left out: structure 2: " in capsys.readouterr().out
        for got, want in zip(found, wanted, strict=True):
            assert got.info["sid"] == want.info["sid"]
            np.testing.assert_array_equal(got.positions, want.positions)


def test_missing_tags_are_an_error_or_guessed(relaxer):
    slab = make_slabs(1)[0]
    tags = slab.get_tags().tolist()
    wanted = relaxer.from_structures(slab, seed=1)
    slab.set_tags(0)
    with pytest.raises(ValueError, match="structure 0: .*no tags"):
        relaxer.from_structures(slab)
    found = relaxer.from_structures(slab, seed=1, missing_tags="guess")
    assert found.get_tags().tolist() == tags
    np.testing.assert_array_equal(found.positions, wanted.positions)


def test_several_samples_of_a_model_without_noise_are_refused(relaxer, monkeypatch):
    slabs = make_slabs(1)
    for noise, legal in ((0.0, False), (0.1, True)):
        scheduler = SimpleNamespace(noise_std=noise)
        monkeypatch.setattr(relaxer.model, "scheduler", scheduler, raising=False)
        assert len(relaxer.from_structures(slabs, num_samples=1)) == 1
        if legal:
            assert len(relaxer.from_structures(slabs, num_samples=2)) == 2
            continue
        with pytest.raises(ConfigError, match="no noise .*oc20_flow.yaml"):
            relaxer.from_structures(slabs, num_samples=2)


def test_bad_arguments_are_named(relaxer):
    slabs = make_slabs(1)
    with pytest.raises(ConfigError, match="there is no structure to relax"):
        relaxer.from_structures([])
    with pytest.raises(TypeError, match="structure 0.*wanted ase.Atoms"):
        relaxer.from_structures(["slab.cif"])
    with pytest.raises(ConfigError, match="unknown output format 'xyzz'"):
        relaxer.from_structures(slabs, format="xyzz")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        relaxer.from_structures(slabs, batch_size=0)
    with pytest.raises(ConfigError, match="num_samples is 0"):
        relaxer.from_structures(slabs, num_samples=0)
    with pytest.raises(ConfigError, match=r"\(ToyRelaxer.sample\).*'nois'"):
        relaxer.from_structures(slabs, sample_params={"nois": 1})


# --- to disk, and on again ---------------------------------------------------------


def stored(folder):
    return sorted(Path(folder, "results").rglob("part_*.npz"))


def test_results_on_disk_are_those_of_memory(relaxer, tmp_path):
    slabs = make_slabs(5)
    kept = relaxer.from_structures(slabs, batch_size=2, seed=1)
    read_back = relaxer.from_structures(
        slabs, batch_size=2, seed=1, save_path=str(tmp_path / "out")
    )
    assert len(stored(tmp_path / "out")) == 3
    assert len(read_back) == 5 and read_back[-1] == kept[-1]
    for a, b in zip(kept, read_back, strict=True):
        assert a == b and a.info == b.info
    assert [a.info["sid"] for a in read_back[1:3]] == ["sid1", "sid2"]
    with pytest.raises(IndexError):
        read_back[5]


def test_stopped_run_goes_on_where_it_stopped(relaxer, tmp_path, monkeypatch):
    slabs = make_slabs(7)
    options = {"batch_size": 2, "seed": 1, "save_path": str(tmp_path / "out")}
    whole = [a.positions for a in relaxer.from_structures(slabs, 2, 1)]
    write = ResultStore.write

    def stop_at_third(self, part, results):
        if part == 2:
            raise KeyboardInterrupt
        write(self, part, results)

    monkeypatch.setattr(ResultStore, "write", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        relaxer.from_structures(slabs, **options)
    assert not (tmp_path / "out" / "structures.extxyz").exists()
    monkeypatch.undo()
    ToyRelaxer.calls.clear()
    relaxed = relaxer.from_structures(slabs, **options)
    assert ToyRelaxer.calls == [["sid4", "sid5"], ["sid6"]]
    for atoms, positions in zip(relaxed, whole, strict=True):
        np.testing.assert_array_equal(atoms.positions, positions)
    ToyRelaxer.calls.clear()
    relaxer.from_structures(slabs, **options, format="traj")
    assert ToyRelaxer.calls == []  # another format needs no new sampling
    assert len(read(tmp_path / "out" / "structures.traj", ":")) == 7


def test_other_settings_are_another_run(relaxer, tmp_path):
    slabs = make_slabs(3)
    moved = [slab.copy() for slab in slabs]
    moved[2].positions[4] += 0.01
    options = {"seed": 1, "save_path": str(tmp_path)}

    def batches_made(structures, **changes):
        ToyRelaxer.calls.clear()
        relaxer.from_structures(structures, **{**options, **changes})
        return len(ToyRelaxer.calls)

    assert batches_made(slabs) == 1
    assert batches_made(slabs) == 0
    assert batches_made(slabs, seed=2) == 1
    assert batches_made(slabs, num_samples=2) == 1
    assert batches_made(slabs, batch_size=3) == 1
    assert batches_made(slabs, sample_params={"noise": 0.03}) == 1
    assert batches_made(moved) == 1
    relaxer.model.lift.set_value(paddle.to_tensor([0.2]))
    assert batches_made(slabs) == 1
    assert batches_made(slabs) == 0
    # weights say nothing of, for instance, a number of steps
    relaxer.config["Model"]["__init_params__"]["needs_graph"] = True
    assert batches_made(slabs) == 1
    runs = [json.loads(p.read_text()) for p in tmp_path.rglob("run.json")]
    assert len(runs) == 8 and {run["settings"]["seed"] for run in runs} == {1, 2}


def test_changed_data_file_is_another_run(scored, tmp_path):
    sampler, _ = scored
    out = str(tmp_path / "out")
    first = list(sampler.sample_by_dataloader(out))
    folder = tmp_path / "data" / "val_id"
    (folder / "data.lmdb").unlink()
    write_split(folder, 5, seed=3)
    second = list(sampler.sample_by_dataloader(out))
    for a, b in zip(first, second, strict=True):
        assert a["cart_coords_initial"] != b["cart_coords_initial"]
    assert len(list(Path(out, "results").iterdir())) == 2


def test_damaged_part_is_named(relaxer, tmp_path):
    slabs = make_slabs(3)
    options = {"batch_size": 2, "seed": 1, "save_path": str(tmp_path)}
    relaxer.from_structures(slabs, **options)
    part = stored(tmp_path)[1]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ValueError, match="part_000001.npz is damaged; delete it"):
        relaxer.from_structures(slabs, **options)
    part.unlink()
    assert len(relaxer.from_structures(slabs, **options)) == 3


def test_full_disk_leaves_no_half_part(relaxer, tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    relaxer.from_structures(make_slabs(1), save_path=str(tmp_path / "ok"))
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        relaxer.from_structures(make_slabs(1), save_path=str(tmp_path / "full"))
    assert not list((tmp_path / "full").rglob("*part_*"))


# --- a data set -----------------------------------------------------------------


@pytest.fixture
def scored(tmp_path):
    ToyRelaxer.calls.clear()
    records = {
        "val_id": write_split(tmp_path / "data" / "val_id", 5),
        "val_ood_ads": write_split(tmp_path / "data" / "val_ood_ads", 3, seed=9),
    }
    sample = {"data": data_block(tmp_path / "data"), "metrics": METRIC}
    sampler = StructureSampler(**write_model(tmp_path / "model", sample=sample))
    return sampler, records


def test_data_set_is_sampled_in_its_batches(scored):
    sampler, records = scored
    results = sampler.sample_by_dataloader(seed=1)
    assert ToyRelaxer.calls == [["sid0", "sid1"], ["sid2", "sid3"], ["sid4"]]
    for result, record in zip(results, records["val_id"], strict=True):
        assert result["id"] == record.sid
        np.testing.assert_array_equal(result["cart_coords_initial"], record.pos)
        np.testing.assert_array_equal(result["cart_coords_relaxed"], record.pos_relaxed)
    other = sampler.sample_by_dataloader(split="val_ood_ads", batch_size=3)
    assert len(other) == 3 and ToyRelaxer.calls[-1] == ["sid0", "sid1", "sid2"]


def test_scores_are_those_of_the_metric_functions(scored, tmp_path):
    sampler, records = scored
    out = tmp_path / "out"
    values = sampler.compute_metric(str(out), split="val_id", seed=1)
    results = sampler.sample_by_dataloader(seed=1)
    true = [r.pos_relaxed for r in records["val_id"]]
    cells = [r.cell for r in records["val_id"]]
    fixed = [r.fixed for r in records["val_id"]]
    for name, positions in (
        ("adwt", [np.array(r["cart_coords"]) for r in results]),
        ("copy_adwt", [r.pos for r in records["val_id"]]),
    ):
        distances = structure_distances(positions, true, cells, fixed)
        expected = success_curve(distances).mean()
        assert values[name] == pytest.approx(expected)
    assert 0 < values["adwt"] < 1 and values["adwt"] != values["copy_adwt"]
    assert sampler.compute_metric(seed=1) == pytest.approx(values)
    sampler.sample_config["metrics"] = {
        "is2rs": METRIC,
        "checks": {"__class_name__": "StructureCheckMetric"},
    }
    both = sampler.compute_metric(str(out), split="val_id", seed=1)
    assert {**both, **values} == both and {"overlap", "true_overlap"} <= set(both)
    text = (out / "metrics.txt").read_text().splitlines()
    assert text[0].split()[-1] == "relaxed"
    line = next(line.split() for line in text if line.startswith("closest_distance"))
    names = ("closest_distance", "copy_closest_distance", "true_closest_distance")
    assert line[1:] == [f"{both[name]:.4f}" for name in names]
    sampler.sample_config["metrics"] = METRIC
    sampler.compute_metric(str(out), split="val_id", seed=1)
    text = (out / "metrics.txt").read_text().splitlines()
    assert text[0].split() == ["metric", "predicted", "copy", "input"]
    numbers = [f"{values['adwt']:.4f}", f"{values['copy_adwt']:.4f}"]
    assert text[1].split() == ["adwt", *numbers]
    assert f"copy_adwt: {values['copy_adwt']}" in (out / "metrics.yaml").read_text()
    for name in ("adwt.png", "displacement.png", "slabs.png", "structures.extxyz"):
        assert (out / name).stat().st_size > 1000
    frames = read(out / "structures.extxyz", ":")
    assert [a.info["sid"] for a in frames] == [r.sid for r in records["val_id"]]
    assert frames[0].get_tags().tolist() == [0, 0, 2, 1, 1]
    assert frames[0].constraints[0].index.tolist() == [0, 1]


def test_data_without_labels_are_sampled_but_not_scored(tmp_path):
    for record in (records := write_split(tmp_path / "full" / "test_id", 2)):
        record.pos_relaxed = record.y_relaxed = None
    os.makedirs(tmp_path / "data" / "test_id")
    write_lmdb(tmp_path / "data" / "test_id" / "data.lmdb", records)
    sample = {"data": data_block(tmp_path / "data", "test_id"), "metrics": METRIC}
    sampler = StructureSampler(**write_model(tmp_path / "model", sample=sample))
    results = sampler.sample_by_dataloader()
    assert len(results) == 2 and "cart_coords_relaxed" not in results[0]
    assert sampler.compute_metric() == {}


def test_what_is_missing_in_the_yaml_is_named(relaxer):
    with pytest.raises(ConfigError, match="no data to sample for"):
        relaxer.sample_by_dataloader()
    with pytest.raises(ConfigError, match="Sample.metrics is missing"):
        relaxer.compute_metric()


def test_whole_list_metric_of_upstream_still_works(scored, monkeypatch):
    sampler, _ = scored

    class CountMetric:
        def __call__(self, results):
            return {"count": len(results)}

    monkeypatch.setattr(METRICS, "data", dict(METRICS))
    METRICS.register(CountMetric)
    sampler.sample_config["metrics"] = {"__class_name__": "CountMetric"}
    assert sampler.compute_metric() == {"count": 5.0}


# --- from scratch ---------------------------------------------------------------


def test_structures_of_a_formula(crystals, tmp_path):
    out = crystals.sample_by_chemical_formula(
        "LiMnO2", save_path=str(tmp_path / "out"), num_samples=3, batch_size=2, seed=5
    )
    assert [r["atom_types"] for r in out["result"]] == [[3, 25, 8, 8]] * 3
    sizes = [b["structure_array"]["num_atoms"].tolist() for b in crystals.model.batches]
    assert sizes == [[4, 4], [4]]
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [f"Li1-Mn1-O2_{i}.cif" for i in (1, 2, 3)]
    # The order of the atoms survives the CIF.
    assert read(tmp_path / "out" / names[0]).numbers.tolist() == [3, 25, 8, 8]
    again = crystals.sample_by_chemical_formula(
        "LiMnO2", num_samples=3, batch_size=2, seed=5
    )
    other = crystals.sample_by_chemical_formula(
        "LiMnO2", num_samples=3, batch_size=2, seed=6
    )
    assert again == out and other != out
    coords = [np.array(r["frac_coords"]) for r in out["result"]]
    assert (coords[0] != coords[1]).any() and (coords[0] != coords[2]).any()


def test_structures_of_a_size(crystals, relaxer):
    out = crystals.sample_by_num_atoms(3, num_samples=2)
    assert [r["num_atoms"] for r in out["result"]] == [3, 3]
    with pytest.raises(TypeError, match="num_atoms is '3'"):
        crystals.sample_by_num_atoms("3")
    with pytest.raises(ConfigError, match="num_atoms is 0"):
        crystals.sample_by_num_atoms(0)
    with pytest.raises(InputError, match="ToyRelaxer.*from_structures"):
        relaxer.sample_by_num_atoms(3)


def test_structures_of_a_condition(crystals, relaxer):
    conditions = {"density": 2.5, "space_group": "Fm-3m"}
    crystals.sample_by_condition(2, conditions, num_samples=2)
    batch = crystals.model.batches[-1]
    assert batch["density"].tolist() == [2.5, 2.5]
    assert batch["space_group"] == ["Fm-3m", "Fm-3m"]
    conditions["density"] = paddle.to_tensor([[1.0, 2.0]])
    crystals.sample_by_condition(2, conditions, num_samples=2)
    assert crystals.model.batches[-1]["density"].shape == [2, 2]
    with pytest.raises(ConfigError, match=r"missing \['density'\], unknown \['x'\]"):
        crystals.sample_by_condition(2, {"space_group": "P1", "x": 1})
    with pytest.raises(InputError, match="takes no conditions"):
        relaxer.sample_by_condition(2, {})


@pytest.mark.parametrize("formula", ["", "Li0.5O", "Qq2", "LiMnO2)"])
def test_bad_formula_is_named(crystals, formula):
    with pytest.raises(ConfigError, match="formula"):
        crystals.sample_by_chemical_formula(formula)


def test_result_that_is_no_structure_is_left_out(tmp_path):
    sampler = StructureSampler(
        **write_model(tmp_path / "model", "ToyCrystals", broken=1)
    )
    out = tmp_path / "out"
    results = sampler.sample_by_num_atoms(2, save_path=str(out), num_samples=3)
    assert len(results["result"]) == 3
    assert sorted(p.name for p in out.iterdir()) == ["H2_1.cif", "H2_3.cif"]


# --- loading --------------------------------------------------------------------


def test_checkpoint_of_another_model_is_refused(tmp_path):
    relaxer = write_model(tmp_path / "a")
    crystals = write_model(tmp_path / "b", "ToyCrystals")
    with pytest.raises(CheckpointError, match="belongs to another model than ToyRel"):
        StructureSampler(
            config_path=relaxer["config_path"],
            checkpoint_path=crystals["checkpoint_path"],
        )


def test_wrong_sample_section_is_refused(tmp_path):
    bad = {"model_sample_parms": {}}
    with pytest.raises(ConfigError, match="Sample: unknown key.*model_sample_params"):
        StructureSampler(**write_model(tmp_path / "a", sample=bad))
    bad = {"build_structure_cfg": {"format": "array", "nigli": False}}
    with pytest.raises(ConfigError, match="Sample.build_structure_cfg.*'niggli'"):
        StructureSampler(**write_model(tmp_path / "b", sample=bad))


def test_model_that_cannot_sample_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(ToyRelaxer, "sample")
    with pytest.raises(ConfigError, match="ToyRelaxer has no method 'sample'"):
        StructureSampler(**write_model(tmp_path / "a"))


def test_device_and_overrides(tmp_path):
    arguments = write_model(tmp_path / "a", sample={"model_sample_params": {}})
    sampler = StructureSampler(
        **arguments,
        device="cpu",
        config_overrides=["Sample.model_sample_params.noise=0.0"],
    )
    assert paddle.get_device() == "cpu"
    sampler.model.needs_graph = False
    slab = make_slabs(1)[0]
    moved = sampler.from_structures(slab).positions - slab.positions
    np.testing.assert_allclose(moved[2:], [[0, 0, 0.1]] * 3, atol=1e-6)


def test_post_transforms_are_applied(tmp_path):
    sample = {
        "post_transforms": [
            {
                "__class_name__": "Scale",
                "__init_params__": {"scale": 2.0, "apply_keys": "score"},
            }
        ]
    }
    sampler = StructureSampler(
        **write_model(tmp_path / "a", sample=sample, needs_graph=False)
    )
    sampler.model.sample = lambda data: {"result": [], "score": 3.0}
    assert sampler.sample({})["score"] == 6.0


def test_distances_on_the_way_are_periodic():
    """The twin of the test above on wrapping: a plain difference does jump."""
    cell = make_slabs(1)[0].cell.array
    start, move = np.array([0.1, 0.1, 0.1]), np.array([-0.3, 0.0, 0.0])
    wrapped = np.mod((start + move) @ np.linalg.inv(cell), 1.0) @ cell
    assert np.linalg.norm(wrapped - start) > 1.0
    np.testing.assert_allclose(minimum_image(wrapped - start, cell), move, atol=1e-12)
