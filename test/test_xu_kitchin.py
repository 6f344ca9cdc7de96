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

"""The splits of the Xu-Kitchin data: sites, layers, energies, what is left out."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.data import covalent_radii
from ase.io import write

from benchmarks.data import xu_kitchin
from ppmat.datasets.oc20_lmdb import OC20LMDB

WORDS = {"H": "H", "O": "O", "F": "fluorine"}  # ASE reads the word F as False
ENERGY = {"H": -0.5, "O": -1.2, "F": -2.8}  # eV for one adsorbate
PLACES = {"fcc": (1 / 6, 1 / 6), "ontop": (0.0, 0.0), "bridge": (0.25, 0.0)}
SHIFTS = [(0.0, 0.0), (0.0, 0.5), (0.5, 0.0)]
COUNTS = (1, 2, 3)


def slab(metal):
    """Return a clean slab of 2 x 2 x 4 atoms, in the order of the files."""
    atoms = fcc111(metal, (2, 2, 4), vacuum=10.0, periodic=True)
    atoms.set_constraint()
    return atoms


def relaxed(metal, element, site, count):
    """Return a slab with ``count`` atoms, off their sites as after a relaxation."""
    atoms = slab(metal)
    top = atoms.positions[:, 2].max()
    for shift in SHIFTS[:count]:
        place = np.add(PLACES[site], shift) @ atoms.cell[:2, :2]
        position = [*(place + 0.1), top + 1.0]
        atoms += Atoms(element, [position])
    atoms.positions[8:16] += 0.05
    atoms.info = {
        "metal": metal,
        "adsorbate": WORDS[element],
        "site": site,
        "coverage": count / 4,
        "e_ads_eV_per_adsorbate": ENERGY[element] - 0.01 * count,
    }
    return atoms


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Folder of the folds of 54 made-up structures."""
    path = tmp_path_factory.mktemp("xu_kitchin")
    frames = [
        relaxed(metal, element, site, count)
        for metal in ("Pt", "Cu")
        for element in WORDS
        for site in PLACES
        for count in COUNTS
    ]
    clean = [slab(metal) for metal in ("Pt", "Cu")]
    for atoms in clean:
        atoms.info = {"metal": atoms.get_chemical_symbols()[0], "adsorbate": "none"}
    write(path / "xu_kitchin_5metals.extxyz", frames)
    write(path / "xu_kitchin_5metals_clean.extxyz", clean)
    xu_kitchin.write_folds(path, path / "out")
    return path / "out"


def read(folds, fold):
    """Return the records of a fold by split."""
    paths = sorted((folds / fold).iterdir())
    return {path.name: list(OC20LMDB(path)) for path in paths}


def elements(records, of=-1):
    """Return the atomic numbers of one atom of each record."""
    return {int(record.atomic_numbers[of]) for record in records}


def test_a_fold_holds_out_a_metal_or_an_adsorbate(folds):
    names = {path.name for path in folds.iterdir()}
    kinds = {"adsorbate_F", "adsorbate_H", "adsorbate_O", "metal_Cu", "metal_Pt"}
    assert names == kinds
    metal, fluorine = read(folds, "metal_Pt"), read(folds, "adsorbate_F")
    assert set(metal) == {"train", "val_id", "val_ood_cat"}
    assert set(fluorine) == {"train", "val_id", "val_ood_ads"}
    assert elements(metal["val_ood_cat"], 0) == {78} and len(metal["val_ood_cat"]) == 27
    assert elements(metal["train"] + metal["val_id"], 0) == {29}
    assert elements(fluorine["val_ood_ads"]) == {9}
    assert elements(fluorine["train"] + fluorine["val_id"]) == {1, 8}
    for fold in names:
        splits = read(folds, fold).values()
        ids = [record.sid for records in splits for record in records]
        assert sorted(map(int, ids)) == list(range(54))


def test_folds_validate_on_different_structures(folds):
    """The same ones in all folds would be a small choice, lucky or not."""
    names = ("adsorbate_F", "adsorbate_H", "adsorbate_O")
    seen = [record.sid for name in names for record in read(folds, name)["val_id"]]
    assert seen and len(set(seen)) == len(seen)


def test_json_files_give_the_same_folds(folds, tmp_path):
    """Coverage that was not calculated has a text in place of a structure."""
    energies, structures = {}, {}
    frames, clean = xu_kitchin.read_xyz(folds.parent)
    for atoms in frames:
        where = [atoms.info[key] for key in ("metal", "adsorbate", "site")]
        labels, entries = energies, structures
        for key in where:
            labels, entries = labels.setdefault(key, {}), entries.setdefault(key, {})
        entries.setdefault("0.0", entry(clean[where[0]]))
        entries[str(len(atoms))] = entry(atoms)
        labels[str(len(atoms))] = float(atoms.info["e_ads_eV_per_adsorbate"])
        labels["9.0"], entries["9.0"] = -1.0, "not calculated"
    for name, table in (("energies", energies), ("structures", structures)):
        (tmp_path / f"{name}.json").write_text(json.dumps(table))
    xu_kitchin.write_folds(tmp_path, tmp_path / "out")
    one, other = read(folds, "metal_Cu"), read(tmp_path / "out", "metal_Cu")
    for split, records in one.items():
        assert [r.sid for r in records] == [r.sid for r in other[split]]
        for a, b in zip(records, other[split]):
            assert a.y_relaxed == pytest.approx(b.y_relaxed)
            np.testing.assert_allclose(a.pos, b.pos, atol=1e-5)
            np.testing.assert_allclose(a.pos_relaxed, b.pos_relaxed, atol=1e-5)


def entry(atoms):
    """Return what the JSON files hold of a structure."""
    return {
        "symbols": atoms.get_chemical_symbols(),
        "pos": atoms.positions.tolist(),
        "cell": atoms.cell.tolist(),
    }


def test_energies_are_those_of_all_adsorbates_together(folds):
    for records in read(folds, "metal_Cu").values():
        for record in records:
            n = (record.tags == 2).sum()
            one = {1: -0.5, 8: -1.2, 9: -2.8}[record.atomic_numbers[-1]] - 0.01 * n
            assert record.num_adsorbates == n
            assert record.y_relaxed == pytest.approx(n * one)


def test_layers_are_tagged_and_the_lower_two_are_held(folds):
    for record in read(folds, "metal_Cu")["val_ood_cat"]:
        assert record.tags[:16].tolist() == [0] * 8 + [1] * 8
        assert record.fixed.tolist() == [True] * 8 + [False] * (len(record.pos) - 8)
        np.testing.assert_allclose(record.displacement[:8], 0.0, atol=1e-5)
        np.testing.assert_allclose(record.displacement[8:16], 0.05, atol=1e-5)


def test_adsorbates_start_on_their_sites_at_the_length_of_a_bond(folds):
    lengths = {site: [] for site in PLACES}
    neighbours = {"ontop": 1, "bridge": 2, "fcc": 3}
    records = [r for split in read(folds, "metal_Pt").values() for r in split]
    order = [site for _ in range(6) for site in PLACES for _ in COUNTS]
    for record in records:
        site = order[int(record.sid)]
        atoms = Atoms(record.atomic_numbers, record.pos, cell=record.cell, pbc=True)
        for i in range(16, len(atoms)):
            distances = np.sort(atoms.get_distances(i, range(8, 16), mic=True))
            bond = covalent_radii[record.atomic_numbers[[0, i]]].sum()
            near = distances[: neighbours[site]]
            np.testing.assert_allclose(near, near[0], atol=1e-3)
            assert distances[neighbours[site]] > near[0] + 0.1
            lengths[site].append(near[0] / bond)
    for site in ("ontop", "bridge"):
        np.testing.assert_allclose(lengths[site], 1.0, atol=1e-3)
    assert min(lengths["fcc"]) > 0.999  # small atoms would be in the plane of a hollow
