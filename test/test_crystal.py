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


"""Structures seen along the beam, and the fast model of their images."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.build import fcc111
from ase.build import molecule
from ase.build import mx2
from pymatgen.core import Lattice
from pymatgen.core import Molecule
from pymatgen.core import Structure
from scipy.spatial import cKDTree

from ppmat.stem.scenes.bright_field import BrightField
from ppmat.stem.scenes.crystal import Haadf
from ppmat.stem.scenes.crystal import crystal_scene
from ppmat.stem.scenes.crystal import render_projection
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import project
from ppmat.stem.scenes.projection import view_along
from ppmat.stem.scenes.structure_arrays import structure_to_arrays

LMDB = (
    Path(__file__).resolve().parents[1]
    / "structure_generation"
    / "example_data"
    / "oc20_emt"
    / "val_id"
)
SITES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
STO = Structure(Lattice.cubic(3.905), ["Sr", "Ti", "O", "O", "O"], SITES)
MOS2 = mx2("MoS2", a=3.18, vacuum=10)
SHAPE = (64, 80)


def as_ase(structure):
    return Atoms(
        list(structure.atomic_numbers),
        structure.cart_coords,
        cell=structure.lattice.matrix,
        pbc=True,
    )


# Projection -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "axis, along, labels, nearest",
    [
        ((0, 0, 1), 3.905, {"Sr", "Ti+O", "O"}, 3.905 / 2),
        ((1, 1, 0), 3.905 * 2**0.5, {"Sr+O", "Ti", "O"}, 3.905 / 8**0.5),
        ((1, 1, 1), 3.905 * 3**0.5, {"Sr+Ti", "O"}, 3.905 / 6**0.5),
    ],
)
def test_columns_of_a_perovskite(axis, along, labels, nearest):
    view = view_along(STO, axis)
    assert view.along == pytest.approx(along)
    found = project(STO, SHAPE, 0.2, axis, thickness=10 * along)
    assert found.thickness == pytest.approx(10 * along)
    assert set(found.labels) == labels
    points = np.stack([found.y, found.x], axis=1)
    apart = cKDTree(points).query(points, k=2)[0][:, 1]
    assert apart.min() == pytest.approx(nearest)
    assert np.allclose(found.spread, 0, atol=1e-9)
    assert np.all(found.occupancy == 1)
    # Ten repeats, each with as many atoms of a kind as the formula has.
    assert np.all(found.counts.sum(axis=1) % 10 == 0)


def distances(points, reach):
    """Return all distances below a reach, from the point nearest to the middle."""
    middle = points[np.linalg.norm(points - points.mean(axis=0), axis=1).argmin()]
    apart = np.linalg.norm(points - middle, axis=1)
    return np.sort(apart[apart < reach])


@pytest.mark.parametrize("seed", range(6))
def test_projection_is_that_of_a_block_of_atoms(seed):
    # One atom in a skewed cell, along a random axis, against a block of the lattice.
    rng = np.random.default_rng(seed)
    cell = 4 * np.eye(3) + rng.uniform(-1, 1, (3, 3))
    axis = rng.integers(-2, 3, 3)
    axis[rng.integers(3)] = 1
    axis = axis // np.gcd.reduce(axis)
    atoms = Atoms("Cu", [rng.uniform(0, 4, 3)], cell=cell, pbc=True)
    beam = axis @ cell
    view = view_along(atoms, axis)
    assert view.along == pytest.approx(np.linalg.norm(beam))
    found = project(view, (200, 200), 0.1, tolerance=0.05)
    index = np.arange(-14, 15)
    block = np.stack(np.meshgrid(index, index, index), -1).reshape(-1, 3) @ cell
    beam /= np.linalg.norm(beam)
    plane = np.linalg.svd(beam[None])[2][1:]
    flat = np.unique((block @ plane.T).round(6), axis=0)
    flat = flat[np.linalg.norm(flat, axis=1) < 8]
    flat = flat[
        [not (np.linalg.norm(flat[:i] - p, axis=1) < 1e-4).any()
         for i, p in enumerate(flat)]
    ]  # fmt: skip
    wanted = np.sort(np.linalg.norm(flat, axis=1))
    # Twins with a wrong axis must not pass.
    points = np.stack([found.y, found.x], axis=1)
    np.testing.assert_allclose(distances(points, 7), wanted[wanted < 7], atol=1e-4)
    other = project(atoms, (200, 200), 0.1, axis + [3, 1, 0], tolerance=0.01)
    points = np.stack([other.y, other.x], axis=1)
    twin = distances(points, 7)
    assert len(twin) != np.sum(wanted < 7) or not np.allclose(
        twin, wanted[wanted < 7], atol=1e-4
    )


def test_another_cell_of_the_same_crystal_gives_the_same_image():
    primitive, cubic = bulk("Cu", "fcc", 3.6), bulk("Cu", "fcc", 3.6, cubic=True)
    beam = (1.0, 1.0, 0.0)
    small = project(primitive, SHAPE, 0.2, direction=beam, thickness=20)
    large = project(cubic, SHAPE, 0.2, (1, 1, 0), thickness=20)
    assert small.thickness == pytest.approx(large.thickness)
    for found in (small, large):
        area = np.prod(SHAPE) * 0.2**2
        atoms = found.counts[found.in_view].sum() / area / found.thickness
        assert atoms == pytest.approx(4 / 3.6**3, rel=0.1)
    np.testing.assert_allclose(
        distances(np.stack([small.y, small.x], 1), 5),
        distances(np.stack([large.y, large.x], 1), 5),
        atol=1e-8,
    )


def test_rotation_is_clockwise_about_the_middle_and_offset_moves():
    straight = project(STO, (101, 101), 0.1, margin=0)
    turned = project(STO, (101, 101), 0.1, rotation=90.0, margin=0)
    moved = project(STO, (101, 101), 0.1, offset=(0.7, -0.3), margin=3)
    middle = 5.0

    def places(found, label):
        which = found.labels == label
        return np.stack([found.y[which], found.x[which]], axis=1)

    ti = places(straight, "Sr")[0] + [0.4, 0.9]  # any place
    assert not np.allclose(cKDTree(places(straight, "Sr")).query(ti)[0], 0)
    expected = places(straight, "O") - middle
    # x turns to y: (y, x) becomes (x, -y).
    expected = np.stack([expected[:, 1], -expected[:, 0]], axis=1) + middle
    gaps = cKDTree(places(turned, "O")).query(expected)[0]
    assert np.allclose(gaps, 0, atol=1e-6)
    gaps = cKDTree(places(moved, "Sr")).query(places(straight, "Sr") + [0.7, -0.3])[0]
    assert np.allclose(gaps, 0, atol=1e-6)


def test_small_rotation_turns_from_x_to_y():
    repeat = view_along(MOS2).repeats[0]
    assert repeat[1] == pytest.approx(0)
    lone = Atoms("Au2", [[-3, 0, 0], [3, 0, 0]])
    found = project(lone, (101, 101), 0.1, rotation=10.0)
    right = found.x.argmax()
    assert found.y[right] == pytest.approx(5 + 3 * np.sin(np.deg2rad(10)))


def test_a_slab_of_a_periodic_calculation_is_one_slab():
    slab = fcc111("Pt", (2, 2, 3), vacuum=8, periodic=True)
    assert slab.pbc.all()
    found = project(slab, SHAPE, 0.2)
    assert view_along(slab).along is None
    assert found.thickness == pytest.approx(np.ptp(slab.positions[:, 2]))
    # Cut by the end of the cell it is the same slab.
    cut = slab.copy()
    cut.positions[:, 2] += slab.cell[2, 2] - slab.positions[:, 2].max() + 1.0
    cut.wrap()
    assert np.ptp(cut.positions[:, 2]) > 10
    assert project(cut, SHAPE, 0.2).thickness == pytest.approx(found.thickness)
    # From the side it repeats along the beam, and has an edge in the image.
    side = project(slab, SHAPE, 0.2, (1, 0, 0), thickness=20)
    assert view_along(slab, (1, 0, 0)).along == pytest.approx(slab.cell.lengths()[0])
    assert np.ptp(side.y) == pytest.approx(found.thickness)
    assert (side.y.min() + side.y.max()) / 2 == pytest.approx((SHAPE[0] - 1) / 2 * 0.2)


def test_records_of_oc20_can_be_shown():
    from ppmat.datasets.oc20_lmdb import OC20LMDB

    record = OC20LMDB(str(LMDB))[0]
    found = project(record, SHAPE, 0.2, direction=(0, 0, 1))
    assert found.in_view.sum() > 5
    assert found.thickness < 25
    numbers = set(record.atomic_numbers.tolist())
    assert numbers == set(found.numbers.tolist())


def test_ase_and_pymatgen_agree_and_molecules_are_centred():
    one, two = (project(s, SHAPE, 0.2, (1, 1, 0)) for s in (STO, as_ase(STO)))
    np.testing.assert_allclose(one.y, two.y)
    assert list(one.labels) == list(two.labels)
    water = molecule("H2O")
    mol = Molecule(list(water.symbols), water.positions)
    for found in (project(s, (32, 32), 0.2, (1, 0, 0)) for s in (water, mol)):
        assert len(found) == 3 and found.in_view.all()
        assert (found.y.min() + found.y.max()) / 2 == pytest.approx(3.1)
        assert found.thickness == pytest.approx(0.0, abs=1e-9)


def test_parts_of_atoms_count():
    mixed = Structure(
        Lattice.cubic(4.0), [{"Sr": 0.6, "Ba": 0.3}, "O"], [[0, 0, 0], [0.5, 0.5, 0]]
    )
    found = project(mixed, SHAPE, 0.2, thickness=40)
    heavy = found.labels == "Ba+Sr"
    counts = dict(zip(found.elements, found.counts[heavy][0]))
    assert counts["Sr"] == pytest.approx(6) and counts["Ba"] == pytest.approx(3)
    atoms = Atoms("SrO", [[0, 0, 0], [2, 2, 0]], cell=[4, 4, 4], pbc=True)
    atoms.info["occupancy"] = {"0": {"Sr": 0.6, "Ba": 0.3}, "1": {"O": 1.0}}
    atoms.set_array("spacegroup_kinds", np.array([0, 1]))
    again = project(atoms, SHAPE, 0.2, thickness=40)
    np.testing.assert_allclose(again.counts, found.counts)


def test_atoms_off_the_line_make_a_wider_column():
    zigzag = Atoms("Au2", [[0, 0, 0], [0.2, 0, 2]], cell=[5, 5, 4], pbc=True)
    found = project(zigzag, SHAPE, 0.2)
    assert np.allclose(found.spread, 0.1 / 2**0.5)
    # Just beyond the tolerance they are two.
    zigzag.positions[1, 0] = 0.31
    assert len(project(zigzag, SHAPE, 0.2)) > 1.5 * len(found)
    scene = render_projection(found)
    straight = Atoms("Au2", [[0, 0, 0], [0, 0, 2]], cell=[5, 5, 4], pbc=True)
    narrow = render_projection(project(straight, SHAPE, 0.2))
    assert scene.columns.sigma[0] > narrow.columns.sigma[0]


@pytest.mark.parametrize(
    "structure, options, message",
    [
        (Atoms(), {}, "no atoms"),
        ("slab.cif", {}, "a str is no structure"),
        (Atoms("X"), {}, "atomic number 0"),
        (Atoms("Cu", [[np.nan, 0, 0]]), {}, "NaN"),
        (Atoms("Cu", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 3]], pbc=True), {}, "volume"),
        (STO, {"zone_axis": (0, 0, 0)}, "not all 0"),
        (STO, {"zone_axis": (0.5, 0, 1)}, "whole numbers"),
        (STO, {"direction": (0.1, 0.2, 1)}, "does not repeat along the beam"),
        (MOS2, {"direction": (1, 1, 0)}, "does not repeat along the beam"),
        (STO, {"direction": (0, 0, 0)}, "wanted three numbers"),
        (STO, {"zone_axis": (40, 31, 23)}, "smaller indices"),
        (STO, {"thickness": -3}, "thickness is -3"),
        (MOS2, {"thickness": 30}, "is 3.2 Å thick"),
        (STO, {"pixel_size": 0}, "pixel_size is 0"),
        (STO, {"shape": (1, 9)}, "wanted .height, width."),
        (molecule("H2O"), {"offset": (30, 0)}, "no atoms in view.*offset"),
    ],
)
def test_what_cannot_be_shown_is_said(structure, options, message):
    options = {"shape": SHAPE, "pixel_size": 0.2, **options}
    with pytest.raises(CrystalError, match=message):
        project(structure, **options)


def test_cells_with_vectors_missing_are_completed():
    layer = Atoms("Au", cell=[[3, 0, 0], [0, 3, 0], [0, 0, 0]], pbc=[1, 1, 0])
    atoms = structure_to_arrays(layer)
    assert np.linalg.det(atoms.cell) > 0
    assert list(atoms.periodic) == [True, True, False]
    assert len(project(layer, SHAPE, 0.2)) > 10


# Images ---------------------------------------------------------------------------


def peak(scene, label):
    """Return the mean of the image at the columns of a kind."""
    columns = scene.columns
    which = columns.element == label
    y, x = (np.rint(v[which]).astype(int) for v in (columns.y, columns.x))
    height, width = scene.gt_enhance.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    assert inside.sum() > 3
    return scene.gt_enhance[y[inside], x[inside]].mean()


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_range_and_targets(mode):
    scene = crystal_scene(STO, SHAPE, 0.15, mode=mode, thickness=60, low=20, high=150)
    assert scene.gt_enhance.shape == scene.gt_detect.shape == SHAPE
    first, last = np.percentile(scene.gt_enhance, (1, 99))
    assert (first, last) == (pytest.approx(20), pytest.approx(150))
    assert scene.pixel_size == 0.15
    rows = scene.column_rows()
    assert 3 < len(rows) < len(scene.columns)
    for axis, size in zip("yx", SHAPE):
        assert all(-0.5 <= row[axis] < size - 0.5 for row in rows)
    row = rows[0]
    assert row["y_angstrom"] == pytest.approx(0.15 * row["y"])
    assert row["element"] in {"Sr", "Ti+O", "O"} and row["occupancy"] == 1


def test_image_is_the_sum_of_its_columns():
    scene = crystal_scene(STO, SHAPE, 0.15, thickness=60, tail=(0.2, 1.0), probe=0.5)
    columns = scene.columns
    image = columns.render(SHAPE, 0.0, (0.2, 1.0 / 0.5))
    np.testing.assert_allclose(
        scene.gt_enhance - scene.gt_enhance.min(), image - image.min(), atol=1e-9
    )


def test_haadf_follows_the_atomic_number():
    thin = crystal_scene(STO, SHAPE, 0.15, thickness=4, contrast=Haadf(depth=1e9))
    heights = {k: thin.columns.height[thin.columns.element == k][0] for k in STO_KINDS}
    z = {"Sr": 38**1.6, "Ti+O": 22**1.6 + 8**1.6, "O": 8**1.6}
    for kind in STO_KINDS:
        assert heights[kind] / heights["Sr"] == pytest.approx(z[kind] / z["Sr"])


STO_KINDS = ("Sr", "Ti+O", "O")


def test_light_columns_fade_in_a_thick_specimen():
    shares = []
    for thickness in (4, 20, 80):
        scene = crystal_scene(STO, SHAPE, 0.15, thickness=thickness)
        heights = [
            scene.columns.height[scene.columns.element == k][0] for k in STO_KINDS
        ]
        shares.append(np.array(heights) / heights[0])
    thin, middle, thick = shares
    assert thin[2] > middle[2] > thick[2] > 0
    assert thick[2] < 0.5 * 8**1.6 / 38**1.6
    # Multislice: 0.43 thin, 0.55 thick, at 4 and 20 unit cells.
    assert abs(thick[1] - thin[1]) < 0.05
    brighter = Haadf(light=2.0)
    again = crystal_scene(STO, SHAPE, 0.15, thickness=80, contrast=brighter)
    heights = [again.columns.height[again.columns.element == k][0] for k in STO_KINDS]
    assert 1.5 < heights[2] / heights[0] / thick[2] < 2.1


def test_bf_is_dark_when_thin_and_has_bright_light_columns_when_thick():
    thin = crystal_scene(MOS2, SHAPE, 0.12, mode="bf")
    haadf = crystal_scene(MOS2, SHAPE, 0.12)
    assert peak(thin, "Mo") < peak(thin, "S") < np.median(thin.gt_enhance)
    both = np.corrcoef(thin.gt_enhance.ravel(), haadf.gt_enhance.ravel())[0, 1]
    assert both < -0.85
    thick = crystal_scene(STO, SHAPE, 0.15, mode="bf", thickness=78)
    assert peak(thick, "O") > peak(thick, "Ti+O") > peak(thick, "Sr")
    haadf = crystal_scene(STO, SHAPE, 0.15, thickness=78)
    both = np.corrcoef(thick.gt_enhance.ravel(), haadf.gt_enhance.ravel())[0, 1]
    assert abs(both) < 0.5


def test_a_sparse_scene_keeps_its_range():
    scene = crystal_scene(Atoms("Au"), SHAPE, 0.15, low=20, high=200)
    assert scene.gt_enhance.min() == pytest.approx(20)
    assert scene.gt_enhance.max() == pytest.approx(200)


def test_random_numbers_decide_what_is_not_given():
    def scene(seed, **options):
        rng = np.random.default_rng(seed)
        return crystal_scene(STO, SHAPE, 0.15, rng=rng, **options).gt_enhance

    assert np.array_equal(scene(1), scene(1))
    assert not np.array_equal(scene(1), scene(2))
    fixed = {"rotation": 0.0, "offset": (0.0, 0.0), "contrast": Haadf()}
    assert np.array_equal(scene(1, **fixed), scene(2, **fixed))
    assert np.array_equal(scene(1, **fixed), crystal_scene(STO, SHAPE, 0.15).gt_enhance)


def test_thermal_motion_by_element():
    found = project(STO, SHAPE, 0.15)
    thermal = {"Sr": 0.1, "Ti": 0.2, "O": 0.3}
    columns = render_projection(found, probe=0.4, thermal=thermal).columns
    for kind, wanted in (("Sr", 0.1), ("Ti+O", 0.3), ("O", 0.3)):
        sigma = columns.sigma[columns.element == kind][0] * 0.15
        assert sigma == pytest.approx(np.hypot(0.4, wanted))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mode": "dark"}, "mode is 'dark'"),
        ({"contrast": BrightField()}, "wanted Haadf"),
        ({"mode": "bf", "contrast": Haadf()}, "wanted BrightField"),
        ({"mode": "bf", "probe": 0.4}, "describe the spots of HAADF"),
        ({"probe": 0}, "probe 0"),
        ({"tail": (1.0, 1.0)}, "tail"),
        ({"low": 5, "high": 5}, "below high"),
        ({"thermal": {"Sr": 0.1}}, "no displacement for O, Ti"),
        ({"pixel_size": 0.816}, "pixel of 0.816 .* of 0.408 Å; .* at most 0.815 Å"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    options = {"pixel_size": 0.15, **options}
    with pytest.raises(CrystalError, match=message):
        crystal_scene(STO, SHAPE, **options)
