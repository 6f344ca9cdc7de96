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
from scipy.spatial.distance import pdist

from ppmat.datasets.stem import sample
from ppmat.datasets.stem.synthesis import Columns
from ppmat.datasets.stem.synthesis import lattice_positions
from ppmat.datasets.stem.synthesis import make_scene
from ppmat.datasets.stem.synthesis import random_positions

SHIPPED = (
    Path(__file__).resolve().parents[1]
    / "spectrum_enhancement"
    / "example_data"
    / "stem_sample"
)


def test_render_is_the_sum_of_gaussians():
    y, x = np.array([3.25, 9.0]), np.array([4.5, -1.0])
    columns = Columns(y, x, np.array([100.0, 40.0]), np.array([1.5, 2.0]))
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


@pytest.mark.parametrize("seed", range(6))
def test_scene_targets_agree_with_the_columns(seed):
    scene = make_scene(np.random.default_rng(seed), (64, 96))
    assert scene.gt_enhance.shape == scene.gt_detect.shape == (64, 96)
    for image in (scene.gt_enhance, scene.gt_detect):
        assert image.min() >= 0 and image.max() <= 255
    columns = scene.columns
    y, x = np.rint(columns.y).astype(int), np.rint(columns.x).astype(int)
    inside = (y >= 0) & (y < 64) & (x >= 0) & (x < 96)
    assert inside.sum() > 10
    spots = scene.gt_detect[y[inside], x[inside]]
    assert spots.min() > 200
    peaks = scene.gt_enhance[y[inside], x[inside]]
    assert np.median(peaks) > np.median(scene.gt_enhance)


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
