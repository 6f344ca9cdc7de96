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


"""A small model of an energy, for the tests of predictors."""

import os

import paddle
from helpers_sampler import GRAPH

from ppmat.models import MODELS
from ppmat.utils.config import save_config

BIG = 400.0  # Å; an atom that high makes ToyEnergy return NaN


@MODELS.register
class ToyEnergy(paddle.nn.Layer):
    """Weight times the mean height of the atoms with tag 1 or 2."""

    property_name = "y_relaxed"
    readout_tags = (1, 2)
    calls = []  # ids of each batch, over all objects

    def __init__(self, weight: float = 1.0, error: bool = True) -> None:
        super().__init__()
        self.weight = self.create_parameter([1])
        self.weight.set_value(paddle.to_tensor([weight]))
        self.register_buffer("elements_seen", paddle.zeros([119], dtype="bool"))
        self.error = error

    def predict(self, batch):
        assert paddle.is_grad_enabled() is False
        type(self).calls.append(list(batch["id"]))
        arrays = batch["structure_array"]
        energies = []
        parts = [
            paddle.split(arrays[name], arrays["num_atoms"].tolist())
            for name in ("cart_coords", "tags")
        ]
        for pos, tags in zip(*parts, strict=True):
            energies.append(self.weight * pos[tags > 0][:, 2].mean())
        energy = paddle.concat(energies).numpy()
        energy[energy > BIG / 10] = float("nan")
        output = {"y_relaxed": energy, "cart_coords_relaxed": parts[0]}
        if self.error:
            output["expected_error"] = 0.1 * abs(energy)
        return output


def energy_of(slab, weight=1.0):
    """What ToyEnergy predicts, eV."""
    return weight * slab.positions[slab.get_tags() > 0, 2].mean()


def write_energy_model(folder, weight=1.0, elements=(), dataset=None, **params):
    """Write YAML and weights of ToyEnergy; returns arguments of the predictor."""
    os.makedirs(folder, exist_ok=True)
    config = {
        "Model": {"__class_name__": "ToyEnergy", "__init_params__": params},
        "Predict": {"graph_converter": GRAPH},
    }
    if dataset is not None:
        config["Dataset"] = {"val": dataset}
    config_path = os.path.join(folder, "model.yaml")
    save_config(config, config_path)
    model = ToyEnergy(weight, **params)
    for number in elements:
        model.elements_seen[number] = True
    weights = os.path.join(folder, f"w{weight}.pdparams")
    paddle.save(model.state_dict(), weights)
    return {"config_path": config_path, "checkpoint_path": weights}
