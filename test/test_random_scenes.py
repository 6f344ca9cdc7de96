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


"""Clean scenes and the shipped sample."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from benchmarks.stem import example_sample as sample
from benchmarks.stem.example_sample import lattice_positions
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import close_pairs
from ppmat.stem.scenes.random_scenes import lattice_sites
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.stem.scenes.random_scenes import random_positions

SHIPPED = (
    Path(__file__).resolve().parents[1]
    / "spectrum_enhancement"
    / "example_data"
    / "stem_sample"
)


def test_render_is_the_sum_of_gaussians():
    y, x = np.array([3.25, 9.0]), np.array([4.5, -1.0])
    columns = AtomColumns(y, x, np.array([100.0, 40.0]), np.array([1.5, 2.0]))
    image = columns.render((12, 16), level=10.0)
    rows, cols = np.mgrid[:12, :16]
    expected = 10.0
    for yi, xi, height, sigma in zip(y, x, columns.height, columns.sigma):
        square = (rows - yi) ** 2 + (cols - xi) ** 2
        expected = expected + height * np.exp(-square / (2 * sigma**2))
    np.testing.assert_allclose(image, expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_lattice_repeats_and_covers_the_image(seed):
    positions, kinds = lattice_positions(np.random.default_rng(seed), (96, 128), 12.0)
    first = positions[kinds == 0]
    # Every inner site of one kind has the same nearest distance.
    gaps = np.linalg.norm(first[:, None] - first, axis=-1) + 1e9 * np.eye(len(first))
    inner = np.all((first > 24) & (first < np.array([96, 128]) - 24), axis=1)
    assert np.ptp(gaps[inner].min(axis=1)) < 1e-9
    # No hole larger than a cell.
    rows, cols = np.mgrid[8:88:8, 8:120:8]
    probes = np.stack([rows.ravel(), cols.ravel()], axis=1)
    nearest = np.linalg.norm(probes[:, None] - first, axis=-1).min(axis=1)
    assert nearest.max() < 12.0 * 1.6


def test_random_positions_keep_their_distance():
    positions = random_positions(np.random.default_rng(0), (96, 128), 10.0)
    assert pdist(positions).min() >= 10.0
    assert len(positions) > 0.6 * 96 * 128 / 10.0**2


@pytest.mark.parametrize("mode", ["haadf", "bf"])
@pytest.mark.parametrize("seed", range(6))
def test_scene_targets_agree_with_the_columns(mode, seed):
    recipe = SceneRecipe(mode=mode, spacing=(8, 14), wave_share=0, thick_share=0)
    scene = make_scene(np.random.default_rng(seed), (64, 96), recipe)
    assert scene.gt_enhance.shape == scene.gt_detect.shape == (64, 96)
    assert scene.gt_detect.min() >= 0 and scene.gt_detect.max() <= 255
    columns = scene.columns
    y, x = np.rint(columns.y).astype(int), np.rint(columns.x).astype(int)
    inside = (y >= 0) & (y < 64) & (x >= 0) & (x < 96)
    assert inside.sum() > 10
    assert scene.gt_detect[y[inside], x[inside]].min() > 200
    peaks = scene.gt_enhance[y[inside], x[inside]]
    # Means: two of three kinds of columns may be too weak to be seen.
    rest = scene.gt_enhance.mean()
    if mode == "haadf":
        assert peaks.mean() > rest and scene.gt_enhance.min() >= recipe.low
    else:
        assert peaks.mean() < rest and scene.gt_enhance.max() <= recipe.high


def test_thick_bright_field_has_bright_and_dark_columns():
    recipe = SceneRecipe(mode="bf", wave_share=0, thick_share=1, random_share=1)
    for seed in range(4):
        columns = make_scene(np.random.default_rng(seed), (96, 96), recipe).columns
        assert columns.height.min() < 0 < columns.height.max()


@pytest.mark.parametrize("seed", range(4))
def test_scenes_of_wave_optics_keep_range_and_columns(seed):
    recipe = SceneRecipe(mode="bf", wave_share=1, spacing=(8, 14), low=-2, high=5)
    scene = make_scene(np.random.default_rng(seed), (48, 56), recipe)
    image, columns = scene.gt_enhance, scene.columns
    assert image.shape == scene.gt_detect.shape == (48, 56)
    # Half a hundredth of the pixels at either end may be beyond, but not by far.
    least, most = np.percentile(image, (0.5, 99.5))
    assert -2 - 1e-9 <= least < most <= 5 + 1e-9 and most - least > 0.69 * 7
    assert image.min() > -2 - 7 and image.max() < 5 + 7
    inside = (columns.y > 0) & (columns.y < 47) & (columns.x > 0) & (columns.x < 55)
    y, x = columns.y[inside].astype(int), columns.x[inside].astype(int)
    corners = np.stack([image[y + i, x + j] for i in (0, 1) for j in (0, 1)])
    height = columns.height[inside] + np.median(image)
    assert np.all(height >= corners.min(axis=0) - 1e-9)
    assert np.all(height <= corners.max(axis=0) + 1e-9)
    # Columns are where something is seen: they differ from the image at large.
    assert np.std(columns.height[inside]) > 0 and len(y) > 5


@pytest.mark.parametrize("seed", range(6))
def test_sites_of_a_lattice_are_apart_and_cover_the_image(seed):
    shape, spacing = (96, 128), 12.0
    positions, kinds = lattice_sites(np.random.default_rng(seed), shape, spacing)
    assert pdist(positions).min() > 0.33 * spacing
    assert kinds.min() == 0 and kinds.max() <= 2
    rows, cols = np.mgrid[0:96:6, 0:128:6]
    probes = np.stack([rows.ravel(), cols.ravel()], axis=1)
    nearest = np.linalg.norm(probes[:, None] - positions, axis=-1).min(axis=1)
    assert nearest.max() < 1.6 * spacing


def test_tiles_of_a_large_image_fit_together():
    rng = np.random.default_rng(0)
    n = 400
    columns = AtomColumns(
        rng.uniform(-5, 305, n), rng.uniform(-5, 605, n), np.ones(n), np.full(n, 3.0)
    )
    image = columns.render((300, 600), 1.0, tail=(0.3, 2.0))
    rows, cols = np.mgrid[:300:7, :600:7]
    square = (rows[..., None] - columns.y) ** 2 + (cols[..., None] - columns.x) ** 2
    expected = 1 + (0.7 * np.exp(-square / 18) + 0.3 * np.exp(-square / 72)).sum(-1)
    np.testing.assert_allclose(image[::7, ::7], expected, atol=1e-6)


def test_table_tells_positions_in_angstrom():
    columns = AtomColumns(
        np.array([-0.6, 2.0, 7.5]),  # the first and the last are on no pixel
        *(np.full(3, v) for v in (3.0, 50.0, 1.5)),
        element=np.array(["O", "Ti+O", "O"], dtype=object),
        occupancy=np.full(3, 0.5),
    )
    scene = Scene(np.zeros((8, 8)), np.zeros((8, 8)), columns, pixel_size=0.1)
    (row,) = scene.column_rows()
    assert row["y_angstrom"] == pytest.approx(0.2)
    assert (row["element"], row["occupancy"]) == ("Ti+O", 0.5)
    (bare,) = Scene(
        scene.gt_enhance, scene.gt_detect, columns.select([1])
    ).column_rows()
    assert "y_angstrom" not in bare and bare["x"] == 3.0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mode": "tem"}, "wanted one of haadf, bf"),
        ({"low": 200.0}, "must be below high"),
        ({"spacing": (30, 9)}, "spacing"),
        ({"random_share": 1.5}, "random_share is 1.5"),
        ({"spacing": (1, 1.2)}, "narrower than half a pixel"),
    ],
)
def test_recipes_that_cannot_be_meant(wrong, message):
    with pytest.raises(ValueError, match=message):
        SceneRecipe(**wrong)


def test_same_seed_same_scene():
    first, second = (make_scene(np.random.default_rng(5), (48, 48)) for _ in range(2))
    assert np.array_equal(first.gt_enhance, second.gt_enhance)
    other = make_scene(np.random.default_rng(6), (48, 48))
    assert not np.array_equal(first.gt_enhance, other.gt_enhance)


def test_shipped_sample_can_be_made_again(tmp_path):
    sample.main([str(tmp_path), "--train", "2", "--test", "1", "--size", "128"])
    written = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.png"))
    assert len(written) == 9
    for name in written:
        ours, shipped = (np.asarray(Image.open(r / name)) for r in (tmp_path, SHIPPED))
        # Another FFT or libm may round a grey value the other way.
        assert np.abs(ours.astype(int) - shipped).max() <= 1
    record = json.loads((SHIPPED / "sample.json").read_text())
    made = json.loads((tmp_path / "sample.json").read_text())
    assert made["noise"] == record["noise"]


def test_sample_does_not_write_over_another(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    with pytest.raises(SystemExit):
        sample.main([str(tmp_path)])
    assert "new folder" in capsys.readouterr().err


def test_narrow_spots_keep_the_intensity_of_their_columns():
    rng = np.random.default_rng(4)
    y, x = 24.0 * np.mgrid[1:4, 1:4].reshape(2, -1) + rng.uniform(-1, 1, (2, 9))
    height, sigma = rng.uniform(-20.0, 90.0, 9), rng.uniform(1.5, 3.0, 9)
    columns = AtomColumns(y, x, height, sigma)
    wide, narrow = columns.render((96, 96), 40.0), columns.narrow((96, 96))
    rows, lines = np.mgrid[:96, :96]
    for one in range(9):
        near = np.hypot(rows - y[one], lines - x[one]) < 11.5
        volume = (wide - 40.0)[near].sum()
        assert narrow[near].sum() == pytest.approx(volume, rel=2e-3)
        assert columns.volume[one] == pytest.approx(volume, rel=2e-3)
        # The second moment is that of a spot of one pixel.
        square = (rows - y[one]) ** 2 * narrow
        assert square[near].sum() / narrow[near].sum() == pytest.approx(1, abs=2e-3)
    # The background is gone, and spots do not see its level.
    far = np.min(np.hypot(rows[..., None] - y, lines[..., None] - x), axis=-1) > 6.5
    assert np.abs(narrow[far]).max() < 1e-5


def test_close_pairs_are_as_far_apart_as_drawn():
    positions = 40.0 * np.mgrid[:4, :4].reshape(2, -1).T
    kinds, apart = np.zeros(16, int), []
    for seed in range(20):
        pairs, both = close_pairs(np.random.default_rng(seed), positions, kinds, 3.0)
        assert len(pairs) == len(both) == 32
        steps = pairs[16:] - pairs[:16]
        np.testing.assert_allclose(steps - steps[0], 0, atol=1e-9)
        np.testing.assert_allclose((pairs[16:] + pairs[:16]) / 2, positions, atol=1e-9)
        apart.append(np.hypot(*steps[0]) / 3.0)
    assert 2.0 <= min(apart) < 2.3 and 3.2 < max(apart) <= 3.5


def test_scenes_of_pairs_leave_room_between_pairs():
    recipe = SceneRecipe(pair_share=1.0, random_share=0.0)
    for seed in range(5):
        columns = make_scene(np.random.default_rng(seed), (96, 96), recipe).columns
        places = np.stack([columns.y, columns.x], axis=-1)
        nearest = cKDTree(places).query(places, k=2)[0][:, 1] / columns.sigma
        assert 1.9 < np.median(nearest) < 3.6
