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


"""Tables of columns: files, lattices, structures, warnings."""

import numpy as np
import pytest

from ppmat.metrics.column_matching import match_columns
from ppmat.stem.columns.column_table import COLUMNS
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.column_table import ColumnTableError
from ppmat.stem.columns.column_table import table_warnings
from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.columns.lattice_fit import LatticeError
from ppmat.stem.columns.lattice_fit import guess_lattice
from ppmat.stem.columns.lattice_fit import intensity_groups
from ppmat.stem.images.bad_pixels import clipping_limits
from ppmat.stem.images.bad_pixels import hot_pixels
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.scenes.random_scenes import random_positions

VECTORS = np.array([[16.0, 3.0], [-5.0, 20.0]])  # (y, x), pixels


def crystal(seed=0, vacancies=0.04, scatter=0.3):
    """Positions and intensities of a lattice with two kinds of columns."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*[np.arange(-20, 20)] * 2), -1).reshape(-1, 2)
    position = np.concatenate([index @ VECTORS, (index + [0.5, 0.45]) @ VECTORS]) + 90
    intensity = np.repeat([2.0, 1.0], len(index))
    keep = np.all((position > 0) & (position < 180), axis=1)
    keep &= rng.random(len(position)) > vacancies
    position = position[keep] + rng.normal(0, scatter, (keep.sum(), 2))
    return position, intensity[keep] * rng.normal(1, 0.06, keep.sum())


def table_of(position, intensity, pixel_size=(0.02, 0.02)):
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=len(position)) for name in COLUMNS}
    for name, (_, boolean) in COLUMNS.items():
        if boolean:
            values[name] = values[name] > 0
    values.update(y=position[:, 0], x=position[:, 1], intensity=intensity)
    return ColumnTable(**values, pixel_size=pixel_size)


@pytest.mark.parametrize("pixel_size", [(0.0118, 0.0121), None])
def test_csv_round_trip(tmp_path, pixel_size):
    table = table_of(*crystal(), pixel_size)
    table.y_error[3] = np.nan
    table.to_csv(tmp_path / "a.csv")
    head = (tmp_path / "a.csv").read_text().splitlines()[0]
    assert head.startswith("y [px],x [px],y_error [px]")
    assert ("y [nm]" in head) == (pixel_size is not None)
    back = ColumnTable.from_csv(tmp_path / "a.csv")
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
        assert getattr(back, name).dtype == getattr(table, name).dtype
    if pixel_size is None:
        assert back.pixel_size is None
    else:
        assert back.pixel_size == pytest.approx(pixel_size, rel=1e-12)


def test_files_that_are_no_table(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("")
    with pytest.raises(ColumnTableError, match="is empty"):
        ColumnTable.from_csv(path)
    path.write_text("y,x\n1,2\n")
    with pytest.raises(ColumnTableError, match=r"has no column 'y \[px\]'"):
        ColumnTable.from_csv(path)
    table_of(*crystal()).to_csv(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "a" + lines[1]]))
    with pytest.raises(ColumnTableError, match="line 2, y .px.: 'a.*' is no number"):
        ColumnTable.from_csv(path)
    path.write_text("\n".join([lines[0], lines[1] + ",1"]))
    with pytest.raises(ColumnTableError, match="line 2 has 21 values"):
        ColumnTable.from_csv(path)


def test_atomap_has_x_first(tmp_path):
    table = table_of(*crystal())
    table.to_atomap(tmp_path / "a.npy")
    table.to_atomap(tmp_path / "a.csv")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy")[:, 0], table.x)
    text = np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(text, table.positions[:, ::-1], rtol=1e-8)


def test_lattice_and_groups_are_found():
    position, intensity = crystal()
    groups = intensity_groups(intensity)
    np.testing.assert_array_equal(groups, intensity < 1.5)
    lattice = guess_lattice(position, groups)
    # The vectors up to sign and order, within their errors.
    steps = lattice.vectors @ np.linalg.inv(VECTORS)
    np.testing.assert_allclose(abs(steps), np.eye(2), atol=2e-3)
    off = lattice.vectors - np.rint(steps) @ VECTORS
    assert (abs(off) < 4 * lattice.vector_errors).all()
    assert len(lattice.sites) == 2 and (lattice.site >= 0).all()
    assert lattice.by_intensity
    assert lattice.rms == pytest.approx(0.3 * np.sqrt(2), rel=0.15)


def test_equal_columns_make_the_smaller_cell():
    index = np.stack(np.meshgrid(*[np.arange(9)] * 2), -1).reshape(-1, 2)
    position = np.concatenate([index, index + 0.5]) * 20.0
    lattice = guess_lattice(position, np.zeros(len(position), dtype=int))
    assert abs(np.linalg.det(lattice.vectors)) == pytest.approx(200)
    two = guess_lattice(position, np.repeat([0, 1], len(index)))
    assert abs(np.linalg.det(two.vectors)) == pytest.approx(400)


@pytest.mark.parametrize("seed", range(2))
def test_disorder_is_no_lattice(seed):
    rng = np.random.default_rng(seed)
    for position in (
        random_positions(rng, (200, 200), 14.0),
        rng.uniform(0, 200, (150, 2)),
    ):
        for groups in (np.zeros(len(position), int), np.arange(len(position)) % 2):
            with pytest.raises(LatticeError, match="from 70% of .* so they form no"):
                guess_lattice(position, groups)
    with pytest.raises(LatticeError, match="too few"):
        guess_lattice(position[:5], np.zeros(5, dtype=int))


def test_structures_of_ase_and_pymatgen():
    table = table_of(*crystal())
    atoms = table.to_atoms(["Sr", "Ti"])
    lengths = np.sort(np.hypot(*VECTORS.T)) * 0.2
    np.testing.assert_allclose(atoms.cell.lengths()[:2], lengths, rtol=2e-3)
    assert atoms.get_chemical_formula() == "SrTi"
    assert atoms.pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(atoms.cell[0, 1:], 0, atol=1e-12)
    assert np.linalg.det(atoms.cell) > 0
    structure = table.to_structure()
    assert len(structure) == 2
    assert all(str(site.specie).startswith("X") for site in structure)
    np.testing.assert_allclose(structure.lattice.matrix, atoms.cell[:], atol=1e-9)
    distances = atoms.get_all_distances(mic=True)
    assert structure.distance_matrix[0, 1] == pytest.approx(distances[0, 1])
    whole = table.to_atoms(whole=True)
    assert len(whole) == len(table) and not whole.pbc.any()
    # Upright: what is higher in the image has the larger y.
    assert whole.positions[np.argmin(table.y), 1] == whole.positions[:, 1].max()
    with pytest.raises(ColumnTableError, match="1 elements .Sr. for 2 groups.*1 of 2"):
        table.to_atoms(["Sr"])
    for call in (table.to_atoms, table.to_structure):
        with pytest.raises(ColumnTableError, match="^'Qq': no symbol of an element"):
            call(["Sr", "Qq"])
    with pytest.raises(ColumnTableError, match="pixel size is not known"):
        table_of(*crystal(), None).to_atoms()


def test_a_site_with_columns_of_two_groups_is_one_atom():
    position, intensity = crystal()
    weak = np.flatnonzero(intensity < 1.5)[::4]
    intensity[weak] *= 0.6  # an atom is missing there
    assert intensity_groups(intensity).max() == 2
    atoms = table_of(position, intensity).to_atoms(["Mo", "S"])
    assert atoms.get_chemical_symbols() == ["Mo", "S"]
    assert atoms.arrays["columns"].sum() == len(position)
    assert atoms.info["groups_from"] == "sites"


def test_all_columns_have_the_groups_of_their_sites():
    position, intensity = crystal()
    strong = intensity > 1.5
    weak = np.flatnonzero(~strong)[::4]
    intensity[weak] *= 0.6  # atoms are missing
    beside = position[weak[:2]] + [5.0, 3.0]  # on no site
    table = table_of(np.append(position, beside, 0), np.append(intensity, [2.0, 0.6]))
    whole = table.to_atoms(["Mo", "S"], whole=True)
    assert whole.info["groups_from"] == "sites"
    wanted = np.where(np.append(strong, [True, False]), "Mo", "S")
    assert whole.get_chemical_symbols() == wanted.tolist()
    # Without a lattice each column has the group of its own intensity.
    rng = np.random.default_rng(0)
    table.y[:], table.x[:] = rng.uniform(0, 200, (2, len(table)))
    whole = table.to_atoms(["Mo", "S", "C"], whole=True)
    assert whole.info["groups_from"] == "intensity"
    assert (whole.arrays["group"] == intensity_groups(table.intensity)).all()
    with pytest.raises(ColumnTableError, match=r"for 3 groups.*\(90 of 2, 70 of 0.99"):
        table.to_atoms(["Mo", "S"], whole=True)


def test_heights_that_differ_at_random_are_one_group():
    rng = np.random.default_rng(1)
    index = np.stack(np.meshgrid(*[np.arange(12)] * 2), -1).reshape(-1, 2)
    intensity = rng.choice([1.0, 2.0], len(index)) * rng.normal(1, 0.05, len(index))
    table = table_of(20.0 * index + rng.normal(0, 0.3, index.shape), intensity)
    groups = intensity_groups(intensity)
    assert groups.max() == 1
    lattice = guess_lattice(table.positions, groups)
    assert not lattice.by_intensity and len(lattice.sites) == 1
    atoms = table.to_atoms(["Cu"])
    assert atoms.info["groups_from"] == "nothing" and len(atoms) == 1
    np.testing.assert_allclose(atoms.cell.lengths()[:2], 4.0, rtol=2e-3)
    with pytest.raises(
        ColumnTableError, match="2 elements .* 1 group .* do not repeat"
    ):
        table.to_atoms(["Au", "Cu"])
    # Each column by itself still shows which is which.
    whole = table.to_atoms(["Au", "Cu"], whole=True)
    assert (whole.symbols == "Au").sum() == (groups == 0).sum()


# Warnings

FITTED = np.ones(9, dtype=bool)


def warn(values, bright, fitted):
    return table_warnings(values, bright=bright, fitted=fitted, hot_pixels=0)


def noisy_crystal():
    """An image [56, 56] of 16 columns, about 20 to 150, and where they are."""
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(*[np.arange(4)] * 2), -1).reshape(-1, 2)
    position = 14.0 * index + [7.0, 7.3]
    columns = AtomColumns(*position.T, np.full(16, 120.0), np.full(16, 2.5))
    return columns.render((56, 56), 20.0) + rng.normal(0, 6, (56, 56)), position


def test_a_hot_pixel_does_not_matter():
    image, position = noisy_crystal()
    plain = detect_columns(image)
    assert plain.info["hot_pixels"] == 0 and plain.info["warnings"] == []
    image[21, 21] = 1e5  # in the middle of a column
    image[14, 3], image[40, 15] = -1e5, np.nan
    table = detect_columns(image)
    assert table.info["hot_pixels"] == 2
    assert table.info["warnings"][0].startswith("2 pixels were left out")
    assert len(table) == len(plain) == 16
    match = match_columns(table, position, 1.0)
    assert match.recall == 1 and match.rms < 0.25
    # Pixels of the middle say little of the position.
    np.testing.assert_allclose(table.y_error, plain.y_error, rtol=0.3)


def test_missing_pixels_are_not_hot():
    image, _ = noisy_crystal()
    image[5:20, 5:20] = np.nan
    image[30, 30] = np.inf
    assert not hot_pixels(image).any()
    image[40, 40] = 1e4
    assert np.argwhere(hot_pixels(image)).tolist() == [[40, 40]]
    assert not hot_pixels(np.full((5, 5), np.nan)).any()


def test_clipped_columns_give_a_warning():
    image, _ = noisy_crystal()
    clipped = np.clip(2.2 * image, 0, 255).astype(np.uint8)
    share = 100 * np.mean(clipped == 255)
    assert share > 1
    table = detect_columns(clipped)
    (text,) = table.info["warnings"]
    assert text.startswith(f"{share:.2g} % of the pixels have the largest value, 255:")
    dark = 255 - clipped
    (text,) = warn(dark.ravel(), False, FITTED)
    assert "have the smallest value, 0:" in text
    # The other end, and the rounded values of an image that is not clipped.
    assert warn(dark.ravel(), True, FITTED) == []
    assert warn(image.astype(np.uint8).ravel(), True, FITTED) == []


@pytest.mark.parametrize("bright", [True, False])
def test_a_few_electrons_are_no_clipping(bright):
    counts = np.random.default_rng(0).poisson(0.7, 4000)
    assert clipping_limits(counts)[0] == 0
    assert warn(counts, bright, FITTED) == []


def test_columns_that_do_not_fit_give_a_warning():
    values = np.random.default_rng(0).normal(size=400)
    assert warn(values, True, np.arange(9) >= 3) == []
    (text,) = warn(values, True, np.arange(9) >= 4)
    assert text.startswith("4 of 9 columns could not be fitted: is mode, polarity")
    assert warn(values, True, np.empty(0, dtype=bool)) == []
