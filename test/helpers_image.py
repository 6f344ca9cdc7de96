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


"""A small network of images and a folder of images, for the tests of predictors."""

import os

import numpy as np
import paddle

from ppmat.models import MODEL_REGISTRY
from ppmat.models import MODELS
from ppmat.predictor.packaged_models import PACKAGED_MODELS
from ppmat.stem.images.micrograph import write_micrograph
from ppmat.utils.config import save_config

TILE = 16


@MODELS.register
class ToyImage(paddle.nn.Layer):
    """The mean of a pixel and its eight neighbours, times a weight."""

    input_name = "noisy"
    target_name = "gt_enhance"
    calls = []  # shape of each batch of tiles, over all objects

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = self.create_parameter([1])
        self.weight.set_value(paddle.to_tensor([weight]))

    def forward(self, x):
        assert paddle.is_grad_enabled() is False
        type(self).calls.append(list(x.shape))
        rows = paddle.roll(x, 1, 2) + x + paddle.roll(x, -1, 2)
        mean = (paddle.roll(rows, 1, 3) + rows + paddle.roll(rows, -1, 3)) / 9
        return self.weight * mean


@MODELS.register
class ToyPotential(paddle.nn.Layer):
    """A network that gives no image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([1])


def toy(tiles, weight=1.0):
    """What ToyImage computes, in numpy."""
    rows = np.roll(tiles, 1, 2) + tiles + np.roll(tiles, -1, 2)
    return weight * (np.roll(rows, 1, 3) + rows + np.roll(rows, -1, 3)) / 9


def write_image_model(folder, weight=1.0, model="ToyImage", **sections):
    """Write YAML and weights; returns arguments of the predictor."""
    os.makedirs(folder, exist_ok=True)
    config = {
        "Model": {"__class_name__": model},
        "Predict": {"tile_size": TILE, "overlap": 4},
        **sections,
    }
    config_path = os.path.join(folder, "model.yaml")
    save_config(config, config_path)
    weights = os.path.join(folder, f"w{weight}.pdparams")
    network = ToyPotential() if model == "ToyPotential" else ToyImage(weight)
    paddle.save(network.state_dict(), weights)
    return {"config_path": config_path, "checkpoint_path": weights}


def write_package(folder, name, weight=1.0, **results):
    """Write a package as they stand in ppmat/models/packages; returns its folder."""
    package = os.path.join(folder, name)
    config = {
        "Model": {"__class_name__": "ToyImage", "__init_params__": {"weight": weight}},
        "Predict": {"tile_size": TILE, "overlap": 4},
    }
    save_config(config, os.path.join(package, f"{name}.yaml"))
    save_config({"rows": [], **results}, os.path.join(package, "results.yaml"))
    weights = os.path.join(package, "checkpoints", "best.pdparams")
    paddle.save(ToyImage(weight).state_dict(), weights)
    return package


def replace_packaged_models(folder, monkeypatch):
    """Put stand-ins for the packages of the tree, with the weights 1 and 2."""
    for (mode, name), weight in zip(PACKAGED_MODELS.items(), (1.0, 2.0), strict=True):
        package = write_package(folder, name, weight, trained_on=f"drawn {mode}")
        monkeypatch.setitem(MODEL_REGISTRY, name, package)


def picture(height=20, width=30, seed=0):
    """Blobs with noise, float32, between about 0 and 1."""
    y, x = np.mgrid[:height, :width]
    clean = (np.cos(y * 2 * np.pi / 9) + 1) * (np.cos(x * 2 * np.pi / 11) + 1) / 4
    noise = np.random.default_rng(seed).normal(size=clean.shape)
    return (0.2 + 0.6 * clean + 0.1 * noise).astype("f4")


def write_pictures(folder, names=("a", "b", "c"), **options):
    """Write TIFF files with a pixel size of 0.0118 nm; returns their paths."""
    os.makedirs(folder, exist_ok=True)
    paths = [os.path.join(folder, f"{name}.tif") for name in names]
    for seed, path in enumerate(paths):
        write_micrograph(path, picture(seed=seed, **options), (0.0118, 0.0118), "nm")
    return paths
