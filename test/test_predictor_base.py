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

"""BasePredictor: loading, batches of structures, post transforms, device."""

import numpy as np
import paddle
import pytest
from helpers_sampler import GRAPH
from helpers_sampler import make_slabs
from pymatgen.io.ase import AseAtomsAdaptor

from ppmat.datasets.loader import batches_in_order
from ppmat.datasets.structure_dataset import StructureDataset
from ppmat.datasets.structure_record import structure_to_record
from ppmat.models import MODELS
from ppmat.predictor import BasePredictor
from ppmat.utils.config import save_config
from ppmat.utils.registry import ConfigError


@MODELS.register
class ToyCounter(paddle.nn.Layer):
    """Counts the edges of each structure, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.create_parameter([1])
        self.weight.set_value(paddle.to_tensor([2.0]))

    def predict(self, batch):
        edges = batch["graph"]["num_edges"].astype("float32")
        return {"edges": self.weight * edges}


def batches(predictor, structures, batch_size=16):
    records = [structure_to_record(structure) for structure in structures]
    data = StructureDataset(records, predictor.graph_converter_fn)
    return batches_in_order(data, batch_size)


@pytest.fixture
def arguments(tmp_path):
    scale = {"__class_name__": "Scale", "__init_params__": {"scale": 10.0}}
    config = {
        "Model": {"__class_name__": "ToyCounter"},
        "Predict": {
            "graph_converter": GRAPH,
            "post_transforms": [scale],
        },
    }
    save_config(config, tmp_path / "model.yaml")
    paddle.save(ToyCounter().state_dict(), str(tmp_path / "w.pdparams"))
    return {
        "config_path": "model.yaml",
        "checkpoint_path": "w.pdparams",
        "work_dir": tmp_path,
    }


def test_structures_are_predicted_in_batches(arguments):
    predictor = BasePredictor(**arguments, device="cpu")
    predictor.load_inference_model()
    assert predictor.device == "cpu" and not predictor.model.training
    slabs = make_slabs(5)
    sizes, values = [], []
    for batch in batches(predictor, slabs, 2):
        sizes.append(len(batch["id"]))
        values += predictor.run_model(batch)["edges"].tolist()
    assert sizes == [2, 2, 1]
    for slab, value in zip(slabs, values, strict=True):
        structure = AseAtomsAdaptor.get_structure(slab)
        graph = predictor.graph_converter(structure)
        assert value == 20.0 * graph["num_edges"].data[0] > 0


def test_gradients_only_on_request(arguments):
    slabs = make_slabs(1)
    for flag in (True, False):
        predictor = BasePredictor(
            **arguments,
            config_overrides=[
                f"Predict.eval_with_no_grad={flag}",
                "Predict.post_transforms=null",
            ],
        )
        predictor.load_inference_model()
        (batch,) = batches(predictor, slabs)
        assert predictor.run_model(batch)["edges"].stop_gradient is flag


def test_bad_arguments_are_named(arguments):
    with pytest.raises(ConfigError, match="give either model_name"):
        BasePredictor().load_inference_model()
    bad = BasePredictor(
        **arguments, config_overrides=["Predict.graph_converter.__class_name__=X"]
    )
    with pytest.raises(ConfigError, match="Predict.graph_converter.__class_name__"):
        bad.load_inference_model()
    predictor = BasePredictor(**arguments)
    predictor.load_inference_model()
    slabs = make_slabs(2)
    slabs[1].positions[0, 0] = np.nan
    with pytest.raises(ValueError, match="structure 'sid1': .*NaN"):
        list(batches(predictor, slabs))


def test_structure_passes_through_without_a_converter(arguments):
    predictor = BasePredictor(
        **arguments,
        config_overrides=["Predict={}", "Predict.graph_converter=null"],
    )
    predictor.load_inference_model()
    assert predictor.graph_converter("structure") == "structure"
