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

import numpy as np
import pytest

from ppmat.stem.scenes import uneven_specimen
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.stem.scenes.uneven_specimen import smooth_field
from ppmat.stem.scenes.uneven_specimen import uneven_scene


def flat(mode="haadf", seed=0):
    recipe = SceneRecipe(mode=mode, spacing=(9, 14), wave_share=0.0, thick_share=0.0)
    return make_scene(np.random.default_rng(seed), (96, 80), recipe)


@pytest.mark.parametrize("mode, vacuum", [("haadf", 30.0), ("bf", 180.0)])
def test_half_the_thickness_halves_columns_and_leaves_vacuum(monkeypatch, mode, vacuum):
    def half(rng, shape):
        thickness = np.full(shape, 0.5)
        thickness[:, :40] = 0.0
        return thickness

    monkeypatch.setattr(uneven_specimen, "_SHAPES", (half,))
    monkeypatch.setattr(uneven_specimen, "_MOST_BULK", {mode: 0.0})
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        uneven_specimen, "smooth_field", lambda rng, shape, length: np.zeros(shape)
    )
    monkeypatch.setattr(
        uneven_specimen, "_distance", lambda rng, shape: np.zeros(shape)
    )
    scene = flat(mode)
    heights = scene.columns.height.copy()
    found = uneven_scene(rng, scene, mode, 30.0, 180.0)
    assert np.allclose(found.gt_enhance[:, :40], vacuum)
    thick = scene.gt_enhance[:, 40:]
    assert np.allclose(found.gt_enhance[:, 40:], (vacuum + thick) / 2)
    # No column is left in vacuum; those of the specimen have half their height.
    assert found.columns.x.min() > 38
    assert set(np.round(found.columns.height, 9)) <= set(np.round(heights / 2, 9))
    assert found.gt_detect[:, :30].max() < 1 < found.gt_detect[:, 45:].max()


def test_scenes_of_all_shapes_are_finite_and_repeatable():
    for seed in range(12):
        first, second = (
            uneven_scene(np.random.default_rng(seed), flat(), "haadf", 30.0, 180.0)
            for _ in range(2)
        )
        assert np.array_equal(first.gt_enhance, second.gt_enhance)
        assert np.isfinite(first.gt_enhance).all()
        assert first.gt_enhance.shape == first.gt_detect.shape == (96, 80)


def test_the_share_of_uneven_scenes_is_that_of_the_recipe():
    def images(share):
        recipe = SceneRecipe(uneven_share=share, spacing=(9, 14))
        seeds = (np.random.default_rng(seed) for seed in range(20))
        return [make_scene(rng, (48, 48), recipe).gt_enhance for rng in seeds]

    plain, some, every = images(0.0), images(0.5), images(1.0)
    # The flat scene is drawn first, so scenes that stay flat are the same.
    same = sum(np.array_equal(a, b) for a, b in zip(plain, some))
    assert 4 <= same <= 16
    # One of five shapes is flat, and not all of these have another signal.
    assert sum(np.array_equal(a, b) for a, b in zip(plain, every)) <= 8


@pytest.mark.parametrize("length", [2.0, 10.0])
def test_a_smooth_field_changes_over_its_length(length):
    field = smooth_field(np.random.default_rng(0), (400, 400), length)
    assert field.mean() == pytest.approx(0, abs=1e-9)
    assert field.std() == pytest.approx(1)
    # White noise under a Gaussian has the autocorrelation exp(-d^2 / 4 length^2).
    lag = int(2 * length)
    found = np.mean(field[lag:] * field[:-lag])
    assert found == pytest.approx(np.exp(-1), abs=0.15)
