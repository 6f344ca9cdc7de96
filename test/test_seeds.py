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

"""Seeds: close pairs, weak columns, an enhanced image that lost the lattice."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.columns.peak_finding import is_filtered
from ppmat.stem.columns.peak_finding import noise_level
from ppmat.stem.columns.seeds import lost_share
from ppmat.stem.columns.seeds import raw_seeds
from ppmat.stem.scenes.atom_columns import AtomColumns

SIZE = (96, 96)
VALID = np.ones(SIZE, bool)


def scene(pair=0.0, noise=5.0, sigma=3.0, second=100.0, turn=0.1):
    """Columns 24 pixels apart, with a second one ``pair`` away: image, truth."""
    index = np.arange(-1, 5)
    position = 24.0 * np.stack(np.meshgrid(index, index), -1).reshape(-1, 2) + 10.3
    height = np.full(len(position), 100.0)
    if pair:
        step = pair * np.array([np.cos(turn), np.sin(turn)])
        position = np.concatenate([position, position + step])
        height = np.append(height, np.full(len(height), second))
    columns = AtomColumns(*position.T, height, np.full(len(height), sigma))
    rng = np.random.default_rng(0)
    return columns.render(SIZE, 30.0) + rng.normal(0, noise, SIZE), position


def found_share(table, position):
    inside = np.all((position > 8) & (position < 87), axis=1)
    distance, _ = cKDTree(table.positions).query(position[inside])
    return np.mean(distance < 2.0)


def test_pairs_closer_than_two_and_a_half_sigma_are_pairs():
    image, position = scene(pair=2.4 * 3.0)
    table = detect_columns(image)
    assert found_share(table, position) == 1
    assert abs(table.info["sigma"] - 3.0) < 0.15
    # A filter as wide as the columns joins them.
    both = raw_seeds(image - 30, VALID, 3.0, 6.0)
    noisy, _ = scene(pair=2.4 * 3.0, noise=60.0)
    assert len(both.positions) > 30 > raw_seeds(noisy - 30, VALID, 3.0, 6.0).clear.sum()


def test_noise_level_sees_no_lattice():
    y, x = np.mgrid[:96, :96]
    fast = 100 * np.sin(2 * np.pi * 0.33 * y) * np.sin(2 * np.pi * 0.29 * x)
    noise = np.random.default_rng(1).normal(0, 3, SIZE)
    assert abs(noise_level(noise + fast, VALID) / 3 - 1) < 0.1


def test_filtered_noise_is_named():
    image, _ = scene()
    assert not is_filtered(image, VALID)
    assert is_filtered(gaussian_filter(image, 1.0), VALID)
    texts = detect_columns(gaussian_filter(image, 1.0)).info["warnings"]
    assert any("filtered" in text for text in texts)


def test_raw_seeds_replace_those_of_an_image_that_lost_the_lattice():
    image, position = scene()
    lost = np.where(np.arange(96) < 30, image, 30.0)
    table = detect_columns(image, lost + 1e-3 * image)
    assert found_share(table, position) == 1
    blurred = np.random.default_rng(2).normal(0, 1, SIZE)
    blurred = 20 * gaussian_filter(blurred, 3.0)
    table = detect_columns(image, blurred)
    assert found_share(table, position) == 1
    assert any("lost in the enhanced" in text for text in table.info["warnings"])
    raw = raw_seeds(image - 30, VALID, 3.0, 6.0)
    assert lost_share(raw, raw, 6.0) == 0


def test_elliptic_columns_have_no_satellites():
    _, position = scene()
    y, x = np.mgrid[:96, :96].astype(float)
    image = np.random.default_rng(3).normal(30, 2, SIZE)
    for a, b in position:
        u, v = 0.8 * (y - a) + 0.6 * (x - b), 0.8 * (x - b) - 0.6 * (y - a)
        image += 100 * np.exp(-(u**2) / 32 - v**2 / 18)
    table = detect_columns(image)
    distance, _ = cKDTree(position).query(table.positions)
    assert found_share(table, position) == 1 and distance.max() < 2


def test_columns_with_four_equal_pixels_on_top_are_one_seed_each():
    line = np.exp(-((np.arange(13) - 5.5) ** 2) / 18)
    image = np.tile(np.multiply.outer(line, line), (7, 7))  # without noise
    seeds = raw_seeds(image, np.ones(image.shape, bool), 2.6, 5.2)
    assert len(seeds.positions) == 49
    table = detect_columns(image)
    inside = table.select(~table.edge)
    assert len(table) == 49 and inside.fitted.all()


def test_an_empty_table_says_why():
    rng = np.random.default_rng(4)
    table = detect_columns(rng.normal(0, 1, SIZE))
    assert not len(table)
    assert any("nothing above its noise" in text for text in table.info["warnings"])
