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

"""Small potentials with weights that were drawn, as files and calculators."""

import paddle

from ppmat.calculator import SFINCalculator
from ppmat.models import build_model
from ppmat.utils.config import save_config

GRAPH = {
    "__class_name__": "PeriodicGraphConverter",
    "__init_params__": {"cutoff": 4.0, "max_neighbors": None, "k_cut": 0.9},
}
BACKBONE = {"channels": 8, "vectors": 4, "messages": 4, "num_blocks": 1}
BACKBONE |= {"cutoff": 4.0, "k_cut": 0.9}
# Changes of sfin_potential.yaml: trained in seconds
SMALL = [
    "Model.__init_params__.backbone_cfg.channels=8",
    "Model.__init_params__.backbone_cfg.vectors=4",
    "Model.__init_params__.backbone_cfg.messages=4",
    "Model.__init_params__.backbone_cfg.num_blocks=1",
]


def write_potential(folder, seed=3, elements=(1, 8, 29), halves="both", graph=GRAPH):
    """Write YAML and weights; return their paths."""
    paddle.seed(seed)
    block = {
        "__class_name__": "SFINPotential",
        "__init_params__": {
            "backbone_cfg": {**BACKBONE, "halves": halves},
            "data_std": 3.0,
            "element_reference": {"Cu": -3.5, "O": -2.0},
        },
    }
    model = build_model(block)
    weight = model.energy_head.out.weight
    weight.set_value(2.0 * paddle.randn(weight.shape))
    for number in elements:
        model.elements_seen[number] = True
    paths = folder / f"model{seed}.yaml", folder / f"seed{seed}.pdparams"
    save_config({"Model": block, "Predict": {"graph_converter": graph}}, str(paths[0]))
    paddle.save(model.state_dict(), str(paths[1]))
    return paths


def make_potential(folder, seed=3, skin=0.5, **options):
    """Return the calculator of :func:`write_potential`."""
    return SFINCalculator(*write_potential(folder, seed, **options), skin=skin)
