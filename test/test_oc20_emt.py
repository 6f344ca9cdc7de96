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

"""The EMT generator: potential, surfaces, records, splits, resuming, command line."""

import importlib.metadata
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.data import chemical_symbols
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from ase.optimize import LBFGS

from benchmarks.data import oc20_emt
from benchmarks.data import oc20_emt_sources
from benchmarks.data import oc20_emt_surfaces
from benchmarks.data.oc20_emt_potential import VectorEMT
from ppmat.datasets.graph_utils.periodic_graph import neighbour_pairs
from ppmat.datasets.oc20_lmdb import OC20LMDB

# Of several seeds the one whose records take the fewest attempts.
SETTINGS = {"source": "ase", "seed": 2, "min_atoms": 16, "max_atoms": 45}
SIZES = {"train": 2, "val_id": 1, "val_ood_ads": 1, "val_ood_cat": 1}
ARGUMENTS = (
    "--train 2 --val 1 --bulks ase --seed 2 --min-atoms 16 --max-atoms 45".split()
)


@pytest.fixture(scope="module")
def generator():
    return oc20_emt.Generator(**SETTINGS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a finished tiny run, made through the command line."""
    out = tmp_path_factory.mktemp("emt")
    assert oc20_emt.main([str(out), *ARGUMENTS]) == 0
    return out


@pytest.fixture(scope="module")
def records(finished):
    return [OC20LMDB(finished / split)[0] for split in SIZES]


# -------------------------------------------------------------------------- potential


def compare_with_ase(calculator, seed=0):
    """Largest differences in energy and force from ASE's EMT along a random walk."""
    rng = np.random.default_rng(seed)
    cell = np.array([[8.0, 0.5, 0.0], [-3.5, 7.5, 0.3], [1.0, -2.0, 15.0]])
    atoms = bulk("Pt", "fcc", 3.9, cubic=True).repeat(2)
    atoms.set_cell(cell, scale_atoms=True)
    atoms.symbols[:6] = "AlCuAgAuNiPd"
    atoms += Atoms("HCNO", atoms.positions[-4:] + [0.3, 0.2, 2.2], cell=cell)
    energy = force = 0.0
    # Steps of up to 0.5 Å leave the skin of the pair list several times.
    for _ in range(6):
        atoms.positions += rng.uniform(-0.5, 0.5, atoms.positions.shape)
        ours, theirs = atoms.copy(), atoms.copy()
        ours.calc, theirs.calc = calculator, EMT()
        change = ours.get_potential_energy() - theirs.get_potential_energy()
        energy = max(energy, abs(change) / max(1, abs(theirs.get_potential_energy())))
        scale = max(1.0, np.abs(theirs.get_forces()).max())
        change = np.abs(ours.get_forces() - theirs.get_forces()).max() / scale
        force = max(force, change)
    return energy, force


def test_potential_equals_ase_emt():
    energy, force = compare_with_ase(VectorEMT())
    assert energy < 1e-10 and force < 1e-10


def test_potential_comparison_notices_a_stale_pair_list():
    class Stale(VectorEMT):
        def _update_pairs(self, atoms):
            if self._listed is None:
                super()._update_pairs(atoms)

    energy, force = compare_with_ase(Stale())
    assert energy > 1e-6 and force > 1e-6


def test_potential_follows_elements_and_cell():
    calculator = VectorEMT()
    for atoms in (
        bulk("Cu", cubic=True),
        bulk("Al", cubic=True),
        bulk("Al", "fcc", 3.9, cubic=True),
        molecule("H2O", vacuum=10.0, pbc=True),
        Atoms("H", cell=np.eye(3) * 20, pbc=True),
    ):
        reference = atoms.copy()
        atoms.calc, reference.calc = calculator, EMT()
        energy = reference.get_potential_energy()
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)


def test_pairs_equal_ase_neighbours_over_many_images():
    rng = np.random.default_rng(3)
    cell = np.array([[2.5, 0.0, 0.0], [2.0, 2.2, 0.0], [-1.0, 0.5, 3.0]])
    atoms = Atoms("H3", rng.uniform(-5, 5, (3, 3)), cell=cell, pbc=True)
    i, j, image, distance = neighbour_pairs(atoms.positions, cell, 6.0)
    vector = atoms.positions[j] + image @ cell - atoms.positions[i]
    np.testing.assert_allclose(np.linalg.norm(vector, axis=1), distance, atol=1e-9)
    a, b, c = neighbor_list("ijS", atoms, 6.0)
    ours = sorted(map(tuple, np.column_stack([i, j, image]).astype(int).tolist()))
    assert ours == sorted(map(tuple, np.column_stack([a, b, c]).tolist()))


# --------------------------------------------------------------------------- surfaces


def basis_fault(crystal, miller, basis) -> str:
    """Why ``basis`` is no primitive cell with two vectors in the plane, or ''."""
    vectors = basis @ crystal.cell
    normal = np.cross(vectors[0], vectors[1])
    wanted = np.asarray(miller) @ np.linalg.inv(crystal.conventional).T
    cosine = normal @ wanted / np.linalg.norm(normal) / np.linalg.norm(wanted)
    if abs(cosine - 1.0) > 1e-9:
        return "normal"
    return "" if round(np.linalg.det(basis)) == 1 else "not primitive"


@pytest.mark.parametrize("name", ["Cu", "Pt3Ni", "AgAu"])
def test_surface_cells_are_primitive_and_parallel_to_the_plane(name):
    structure = oc20_emt_sources.ase_bulks()[name]
    crystal = oc20_emt_surfaces.Crystal(name, structure)
    assert (1, 1, 1) in [tuple(map(abs, m)) for m in crystal.millers]
    for miller in crystal.millers:
        basis = crystal.plane_basis(miller)
        assert basis_fault(crystal, miller, basis) == ""
        doubled = basis * np.array([[2], [1], [1]])
        assert basis_fault(crystal, miller, doubled) == "not primitive"
        assert basis_fault(crystal, miller, basis[[1, 2, 0]]) == "normal"


def test_slabs_keep_bulk_composition_density_and_bonds():
    rng = np.random.default_rng(0)
    crystal = oc20_emt_surfaces.Crystal("Pt3Ni", oc20_emt_sources.ase_bulks()["Pt3Ni"])
    shortest = neighbour_pairs(crystal.fractional @ crystal.cell, crystal.cell, 4.0)[
        3
    ].min()
    sides = set()
    for number in list(range(len(crystal.millers))) * 3:
        slab = crystal.cut(number, rng)
        assert (slab.numbers == 78).sum() == 3 * (slab.numbers == 28).sum()
        assert np.linalg.det(slab.cell) > 0
        np.testing.assert_allclose(slab.cell[:2, 2], 0, atol=1e-9)
        assert np.linalg.norm(slab.cell[:2], axis=1).min() >= 8.0
        height = slab.positions[:, 2]
        assert slab.cell[2, 2] - np.ptp(height) >= 20.0
        # the third vector is as upright as the in-plane lattice allows
        share = slab.cell[2, :2] @ np.linalg.inv(slab.cell[:2, :2])
        assert np.abs(share).max() <= 0.5 + 1e-9
        distance = neighbour_pairs(slab.positions, slab.cell, 4.0)[3].min()
        assert distance == pytest.approx(shortest, abs=1e-6)
        assert set(np.unique(slab.tags)) == {0, 1}
        assert slab.tags[height.argmax()] == 1 and slab.tags[height.argmin()] == 0
        assert height[slab.tags == 1].min() > height.min() + 1.0
        sides.add(slab.numbers[height.argmax()])
    assert sides == {28, 78}


@pytest.mark.parametrize("name", ["H", "CO", "CH3", "H2CO"])
def test_adsorbate_touches_the_surface_undistorted(name):
    rng = np.random.default_rng(1)
    crystal = oc20_emt_surfaces.Crystal("Cu", oc20_emt_sources.ase_bulks()["Cu"])
    adsorbate = oc20_emt_sources.ase_adsorbates()[name]
    for _ in range(5):
        slab = crystal.cut(int(rng.integers(len(crystal.millers))), rng)
        placed = oc20_emt_surfaces.place_adsorbate(slab, adsorbate, rng)
        inner = np.linalg.norm(placed[:, None] - placed[None], axis=-1)
        shape = adsorbate.positions
        expected = np.linalg.norm(shape[:, None] - shape[None], axis=-1)
        np.testing.assert_allclose(inner, expected, atol=1e-9)
        numbers = np.concatenate([slab.numbers, adsorbate.numbers])
        both = np.concatenate([slab.positions, placed])
        i, j, _, distance = neighbour_pairs(both, slab.cell, 4.0)
        between = (i >= len(slab.numbers)) & (j < len(slab.numbers))
        gap = distance - covalent_radii[numbers[i]] - covalent_radii[numbers[j]]
        assert gap[between].min() == pytest.approx(0.1, abs=1e-6)


def test_detached_atoms_and_overlaps_are_noticed():
    slab = bulk("Cu", cubic=True).repeat((2, 2, 1))
    slab.cell[2, 2] = 20.0
    top = slab.positions[slab.positions[:, 2].argmax()]
    for height, adsorbed in ((1.8, True), (4.0, False)):
        atoms = slab + Atoms("CO", [top + [0, 0, height], top + [0, 0, height + 1.2]])
        mask = atoms.numbers < 10
        assert oc20_emt_surfaces.is_adsorbed(atoms, mask) is adsorbed
    atoms = slab + Atoms("C", [top + [0.0, 0.0, 1.0]])
    ratio = oc20_emt_surfaces.closest_ratio(atoms, atoms.numbers == 6)
    assert ratio == pytest.approx(1.0 / (covalent_radii[6] + covalent_radii[29]))


# ---------------------------------------------------------------------------- records


def relaxed_fault(record) -> str:
    """Why a record is no EMT minimum with frozen sub-surface atoms, or ''."""
    if not np.array_equal(record.fixed, record.tags == 0):
        return "fixed"
    moved = np.linalg.norm(record.displacement, axis=1)
    if moved[record.fixed].max() > 1e-4:
        return "frozen atom moved"
    atoms = Atoms(
        record.atomic_numbers, record.pos_relaxed, cell=record.cell, pbc=True,
        calculator=EMT(),
    )  # fmt: skip
    force = np.linalg.norm(atoms.get_forces(), axis=1)[~record.fixed]
    # float32 positions move forces by a few 1e-5 eV/Å
    return "forces" if force.max() > oc20_emt.FMAX + 1e-3 else ""


def test_records_are_minima_with_frozen_atoms(records):
    for record in records:
        assert relaxed_fault(record) == ""


def test_broken_records_are_noticed(finished):
    record = OC20LMDB(finished / "train")[0]
    record.pos_relaxed[np.flatnonzero(~record.fixed)[0]] += 0.1
    assert relaxed_fault(record) == "forces"
    record = OC20LMDB(finished / "train")[0]
    record.pos_relaxed[np.flatnonzero(record.fixed)[0]] += 0.1
    assert relaxed_fault(record) == "frozen atom moved"
    record.fixed[:] = False
    assert relaxed_fault(record) == "fixed"


def test_records_have_the_form_of_oc20(records):
    for record in records:
        assert set(np.unique(record.tags)) == {0, 1, 2}
        assert set(record.atomic_numbers[record.tags == 2]) <= {1, 6, 7, 8}
        metals = {chemical_symbols[z] for z in record.atomic_numbers[record.tags < 2]}
        assert metals <= set(oc20_emt_sources.METALS)
        assert len(record.pos) <= SETTINGS["max_atoms"]
        assert record.edge_index is None
        inverse = np.linalg.inv(record.cell.astype(np.float64))
        for positions in (record.pos, record.pos_relaxed):
            fractional = positions @ inverse
            assert fractional.min() > -1e-6 and fractional.max() < 1 + 1e-6
        np.testing.assert_allclose(record.cell[:2, 2], 0, atol=1e-5)
        assert record.cell[2, 2] > 20
        atoms = Atoms(record.atomic_numbers, record.pos, cell=record.cell, pbc=True)
        atoms.calc = EMT()
        np.testing.assert_allclose(atoms.get_forces(), record.force, atol=2e-3)
    # in-plane orientation is random, not always along x
    assert max(abs(r.cell[0, 1]) for r in records) > 0.1


def test_energies_follow_from_ase_alone(records):
    reference = {}
    for name in ("H2", "H2O", "CO", "N2"):
        atoms = molecule(name, calculator=EMT())
        LBFGS(atoms, logfile=None).run(fmax=oc20_emt.FMAX)
        reference[name] = atoms.get_potential_energy()
    oxygen = reference["H2O"] - reference["H2"]
    gas = {1: reference["H2"] / 2, 6: reference["CO"] - oxygen}
    gas |= {7: reference["N2"] / 2, 8: oxygen}
    record = records[0]
    slab = record.tags < 2
    clean = Atoms(
        record.atomic_numbers[slab], record.pos[slab], cell=record.cell, pbc=True,
        calculator=EMT(), constraint=FixAtoms(mask=record.fixed[slab]),
    )  # fmt: skip
    LBFGS(clean, logfile=None).run(fmax=oc20_emt.FMAX)
    zero = clean.get_potential_energy()
    zero += sum(gas[z] for z in record.atomic_numbers[~slab].tolist())
    for positions, energy in (
        (record.pos, record.y_init),
        (record.pos_relaxed, record.y_relaxed),
    ):
        atoms = Atoms(record.atomic_numbers, positions, cell=record.cell, pbc=True)
        atoms.calc = EMT()
        assert atoms.get_potential_energy() - zero == pytest.approx(energy, abs=2e-3)
    assert record.y_relaxed < record.y_init


def test_record_depends_on_seed_split_and_index_only(finished, generator):
    # Record 1 made first and alone equals the one made second in the run.
    alone, _ = generator.record("train", 1)
    stored = OC20LMDB(finished / "train")[1]
    np.testing.assert_array_equal(alone["pos"], stored.pos)
    np.testing.assert_array_equal(alone["pos_relaxed"], stored.pos_relaxed)
    assert alone["y_relaxed"] == stored.y_relaxed
    assert str(alone["sid"]) == stored.sid == "1"
    other, _ = oc20_emt.Generator(**{**SETTINGS, "seed": 3}).record("train", 1)
    assert other["y_relaxed"] != alone["y_relaxed"]


def slab_with_hydrogen():
    """Relaxed clean Cu(111), and the same with H: atoms, tags, start, clean slab."""
    clean = fcc111("Cu", (4, 4, 3), vacuum=10.0, periodic=True)
    tags = (clean.positions[:, 2] > clean.positions[:, 2].max() - 1.0).astype(int)
    atoms = clean.copy()
    add_adsorbate(atoms, "H", 1.2, "fcc")
    start = atoms.positions.copy()
    assert oc20_emt.relax(clean, tags == 0)
    tags = np.append(tags, 2)
    assert oc20_emt.relax(atoms, tags == 0)
    atoms.set_constraint()  # the tests move single atoms
    return atoms, tags, start, clean


def test_slabs_that_slide_are_dropped():
    atoms, tags, start, clean = slab_with_hydrogen()
    assert oc20_emt.slab_fault(start, atoms, tags, clean) == ""
    # from the fcc to the hcp stacking: 1.5 Å, and next to no energy
    atoms.positions[tags > 0] += [0.0, 3.61 / np.sqrt(6), 0.0]
    assert oc20_emt.relax(atoms, tags == 0)
    assert oc20_emt.slab_fault(start, atoms, tags, clean) == "slab_slides"


def test_slabs_that_do_not_relax_back_are_dropped():
    atoms, tags, start, clean = slab_with_hydrogen()
    atom = np.flatnonzero(tags == 1)[5]
    # pulled out as by an adsorbate: relaxes back, so the label holds no energy of it
    atoms.positions[atom, 2] += 0.6
    assert oc20_emt.slab_fault(start, atoms, tags, clean) == ""
    # one of 16 surface atoms on top of others: 0.2 Å on average, but it stays there
    atoms.positions[atom] += [0.0, 2.95, 1.5]
    assert oc20_emt.slab_fault(start, atoms, tags, clean) == "slab_changes"


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("MAX_SURFACE_SHIFT", "slab_slides"), ("MAX_SLAB_CHANGE", "slab_changes")],
)
def test_generator_leaves_out_slabs_with_a_fault(generator, monkeypatch, limit, reason):
    monkeypatch.setattr(oc20_emt, limit, -1.0)
    monkeypatch.setattr(oc20_emt, "MAX_RELAXATIONS", 1)
    with pytest.raises(oc20_emt.GenerationError, match=f"{reason}': 1"):
        generator.record("train", 1)


# ----------------------------------------------------------------------------- splits


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_splits_hold_out_what_they_say(seed):
    catalogue = oc20_emt_sources.Catalogue("ase", seed)
    bulks, adsorbates = catalogue.choices("train")
    assert catalogue.choices("val_id") == (bulks, adsorbates)
    same, unseen = catalogue.choices("val_ood_ads")
    assert same == bulks and unseen and not set(unseen) & set(adsorbates)
    unseen, same = catalogue.choices("val_ood_cat")
    assert same == adsorbates and unseen
    trained = {catalogue.composition(b) for b in bulks}
    assert not trained & {catalogue.composition(b) for b in unseen}
    assert set(oc20_emt_sources.METALS) <= trained
    assert set(bulks) | set(unseen) == set(catalogue.bulks)


def test_train_and_val_id_share_no_pair_of_surface_and_adsorbate(generator, finished):
    rng = np.random.default_rng(0)
    catalogue = generator.catalogue
    pairs_of = {"train": set(), "val_id": set()}
    bulks, adsorbates = catalogue.choices("train")
    for _ in range(4000):
        pair = (
            f"{rng.choice(bulks)}|1 1 {rng.integers(3)}",
            str(rng.choice(adsorbates)),
        )
        split = "val_id" if catalogue.is_val_id(*pair) else "train"
        pairs_of[split].add(pair)
    assert not pairs_of["train"] & pairs_of["val_id"]
    share = len(pairs_of["val_id"]) / sum(map(len, pairs_of.values()))
    assert share == pytest.approx(oc20_emt_sources.VAL_ID_SHARE, abs=0.04)
    for block in oc20_emt.plan(SIZES):
        if block.split in pairs_of:
            with np.load(block.path(finished)) as made:
                names = zip(made["slab"], made["adsorbate"], strict=True)
                held = [catalogue.is_val_id(*pair) for pair in names]
            assert held == [block.split == "val_id"] * len(held)


def test_blocks_cover_each_split_once_and_grow_in_proportion():
    sizes = {"train": 3000, "val_id": 400, "val_ood_ads": 400, "val_ood_cat": 7}
    blocks = oc20_emt.plan(sizes)
    done = dict.fromkeys(sizes, 0)
    for number, block in enumerate(blocks):
        assert block.start == done[block.split]  # in order, without gap
        done[block.split] = block.stop
        if number == len(blocks) // 2:
            shares = [done[s] / sizes[s] for s in ("train", "val_id", "val_ood_ads")]
            assert max(shares) - min(shares) < 0.06
    assert done == sizes


# ----------------------------------------------------------------- runs, command line


def test_run_resumes_and_does_not_depend_on_jobs(finished, tmp_path):
    sizes = {split: SIZES[split] for split in ("val_ood_ads", "val_ood_cat")}
    oc20_emt.generate(tmp_path, SETTINGS, sizes, jobs=2)
    for block in oc20_emt.plan(sizes):
        with np.load(block.path(tmp_path)) as one, np.load(block.path(finished)) as two:
            assert sorted(one) == sorted(two)
            for name in one:
                np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    # An interrupted run: one block is missing, the others must not be made again.
    first, *others = [block.path(tmp_path) for block in oc20_emt.plan(sizes)]
    before = first.read_bytes()
    first.unlink()
    times = [path.stat().st_mtime_ns for path in others]
    oc20_emt.generate(tmp_path, SETTINGS, sizes)
    assert first.read_bytes() == before
    assert times == [path.stat().st_mtime_ns for path in others]


def test_unfinished_run_can_be_packed(finished, tmp_path, capsys):
    (tmp_path / "blocks").mkdir()
    shutil.copy(finished / "settings.json", tmp_path)
    for block in oc20_emt.plan(SIZES)[:2]:
        shutil.copy(block.path(finished), tmp_path / "blocks")
    assert oc20_emt.main([str(tmp_path), *ARGUMENTS, "--pack-only"]) == 0
    made = {path.parent.name for path in tmp_path.glob("*/data.lmdb")}
    assert made == {block.split for block in oc20_emt.plan(SIZES)[:2]}
    assert set(json.loads(capsys.readouterr().out)) == {"settings", "packages", *made}


def test_statistics_describe_the_files(finished):
    summary = json.loads((finished / "statistics.json").read_text())
    assert summary["settings"] == SETTINGS
    for split, size in SIZES.items():
        rows = OC20LMDB(finished / split)
        found = summary[split]
        assert found["records"] == len(rows) == size
        free = [np.linalg.norm(r.displacement[~r.fixed], axis=1).mean() for r in rows]
        assert found["displacement_free"] == pytest.approx(np.mean(free))
        thresholds = np.arange(0.01, 0.5, 0.001)
        assert len(thresholds) == 490
        adwt = np.mean([(distance < thresholds).mean() for distance in free])
        assert found["copy_input_adwt"] == pytest.approx(adwt)
        assert found["atoms"][2] == max(len(r.pos) for r in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "7"], "same settings"),
        (["--train", "0"], "--train is 0; wanted at least 1"),
        (["--max-atoms", "10"], "larger than --min-atoms"),
        (["--seed", "-1"], "--seed is -1; wanted at least 0"),
    ],
)
def test_bad_arguments_are_refused(finished, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        oc20_emt.main([str(finished), *ARGUMENTS, *arguments])
    assert exit_info.value.code == 1
    assert message in capsys.readouterr().err


def test_impossible_sizes_end_with_an_error():
    generator = oc20_emt.Generator("ase", 0, 3, 5)
    generator._attempt = lambda split, rng: (None, "size")
    with pytest.raises(oc20_emt.GenerationError, match="3 to 5 atoms"):
        generator.record("train", 0)


# ---------------------------------------------------------------------- OC20 database


class FakePackage:
    version = "0.2.0"

    def __init__(self, root: Path):
        self.root = root

    def locate_file(self, name):
        return self.root / name


def test_missing_or_wrong_package_is_explained(monkeypatch, tmp_path, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(SystemExit):
        oc20_emt.main([str(tmp_path), "--train", "1", "--val", "1"])
    error = capsys.readouterr().err
    assert "pip install fairchem-data-oc==0.0.1" in error and "--bulks ase" in error
    package = FakePackage(tmp_path)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: package)
    with pytest.raises(oc20_emt.GenerationError, match=r"0\.2\.0 has no bulks\.pkl"):
        oc20_emt_sources.oc20_bulks()


def test_database_with_foreign_classes_is_refused(monkeypatch, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "fairchem/data/oc/databases/pkls/bulks.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps([Hostile()]))
    package = FakePackage(tmp_path)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: package)
    with pytest.raises(oc20_emt.GenerationError, match="neither a structure"):
        oc20_emt_sources.oc20_bulks()
    assert not (tmp_path / "ran").exists()


def test_oc20_databases_give_pure_emt_structures():
    try:
        importlib.metadata.distribution("fairchem-data-oc")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fairchem-data-oc (extra [generator]) is not installed")
    bulks = oc20_emt_sources.oc20_bulks()
    assert len(bulks) == 140
    for structure in bulks.values():
        assert {e.symbol for e in structure.elements} <= set(oc20_emt_sources.METALS)
    adsorbates = oc20_emt_sources.oc20_adsorbates()
    assert len(adsorbates) == 38
    assert adsorbates["*OH2"].numbers[list(adsorbates["*OH2"].binding)] == [8]


# ----------------------------------------------------------------------- shipped sample

SAMPLE = Path(__file__).parents[1] / "structure_generation/example_data/oc20_emt"


def test_shipped_sample_is_small_and_sound():
    files = sorted(SAMPLE.glob("*/data.lmdb"))
    assert [path.parent.name for path in files] == sorted(oc20_emt_sources.SPLITS)
    assert sum(path.stat().st_size for path in files) <= 4e6
    sids, compositions = set(), {}
    for path in files:
        rows = OC20LMDB(path)
        found = compositions.setdefault(path.parent.name, set())
        for row in range(len(rows)):
            record = rows[row]
            assert len(record.pos) <= 80 and record.edge_index is None
            sids.add(record.sid)
            found.add(tuple(np.unique(record.atomic_numbers[record.tags < 2])))
            moved = np.linalg.norm(record.displacement[record.tags == 1], axis=1)
            assert moved.mean() <= oc20_emt.MAX_SURFACE_SHIFT
        assert relaxed_fault(record) == ""
    assert len(sids) == sum(len(OC20LMDB(path)) for path in files) >= 300
    assert not compositions["train"] & compositions["val_ood_cat"]
    assert compositions["val_ood_ads"] <= compositions["train"]
