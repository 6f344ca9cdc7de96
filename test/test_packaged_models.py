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


"""The trained models inside the tree: whole, small, and of use."""

import re

import numpy as np
import paddle
import pytest
from omegaconf import OmegaConf

from ppmat.models import PACKAGES
from ppmat.predictor import SpectrumPredictor
from ppmat.predictor import enhance
from ppmat.predictor.packaged_models import MODELS_OF_TASK
from ppmat.predictor.packaged_models import PACKAGED_MODELS
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.utils.model_package import find_packages

FOUND = find_packages(PACKAGES)
MOST_BYTES = 4_000_000  # together
MODE_OF = {name: mode for mode, name in PACKAGED_MODELS.items()}


def test_each_mode_has_a_package_and_together_they_are_small():
    named = [name for models in MODELS_OF_TASK.values() for name in models.values()]
    assert set(FOUND) == set(named) and len(named) == len(set(named))
    files = [path for path in PACKAGES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_package_is_whole(name):
    folder = PACKAGES / name
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    texts = {f"{name}.yaml", "results.yaml", "train.log"}
    assert files == {*texts, "checkpoints/best.pdparams"}
    for file in texts:
        text = (folder / file).read_text(encoding="utf-8")
        assert text.strip()
        assert not re.search(r"(?<![\w.~])/(home|root|tmp|work|Users)/", text), file
    results = OmegaConf.load(folder / "results.yaml")
    assert {"command", "machine", "date", "trained_on", "rows"} <= set(results)
    assert "synthetic" in name and "synthetic" in results.trained_on.lower()
    assert len(results.rows) > 0


def noisy_scene(mode):
    """Return a scene and the same with white noise and jitter of the lines."""
    rng = np.random.default_rng(11)
    truth = make_scene(rng, (128, 128), SceneRecipe(mode=mode)).gt_enhance
    noise = rng.normal(scale=20, size=truth.shape) + rng.normal(scale=3, size=(128, 1))
    return truth, truth + noise


def error(image, truth):
    return float(np.sqrt(np.mean((image - truth) ** 2)))


@pytest.mark.parametrize("name", sorted(MODE_OF))
def test_a_package_cleans_an_image(name, capsys):
    predictor = SpectrumPredictor(model_name=name, device="cpu")
    about = predictor.describe()["package"]
    assert about["results"] == f"ppmat/models/packages/{name}/results.yaml"
    assert about["trained_on"] in capsys.readouterr().out

    def eager(tiles):  # the program of a tile's size takes seconds to compile
        with paddle.no_grad():
            return predictor.model(paddle.to_tensor(tiles)).numpy()

    truth, noisy = noisy_scene(MODE_OF[name])
    clean = enhance(noisy, eager, tile_size=predictor.defaults.tile_size)
    assert clean.shape == truth.shape and np.isfinite(clean).all()
    assert error(clean, truth) < 0.6 * error(noisy, truth)
