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

"""Embeddings that place an element near similar ones."""

import numpy as np
import paddle
from pymatgen.core.periodic_table import Element

from ppmat.models.sfin.element_embedding import PropertyEmbedding


def test_unseen_element_lies_near_a_similar_one():
    """Pd is more like Pt than like Na or O, whatever the weights are."""
    z = paddle.to_tensor([Element(s).Z for s in ("Pd", "Pt", "Na", "O")])
    nearest = []
    for seed in range(20):
        paddle.seed(seed)
        x = PropertyEmbedding(16)(z).numpy()
        nearest.append(np.linalg.norm(x[1:] - x[0], axis=1).argmin())
    assert nearest == [0] * 20


def test_table_is_not_saved_and_gradients_reach_the_weights():
    layer = PropertyEmbedding(4)
    assert "properties" not in layer.state_dict()
    layer(paddle.to_tensor([29, 78])).sum().backward()
    assert all(float(p.grad.abs().max()) > 0.0 for p in layer.parameters())
