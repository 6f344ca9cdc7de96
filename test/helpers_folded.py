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


"""Small image networks that look trained, for the tests of what is made from them."""

import numpy as np
import paddle

from ppmat.models.sfin.sfin import SFIN


def trained_like(seed=0, base_channels=8, num_blocks=2, **params):
    """Return an SFIN in evaluation mode whose BatchNorms do something."""
    paddle.seed(seed)
    model = SFIN(base_channels=base_channels, num_blocks=num_blocks, **params)
    rng = np.random.default_rng(seed)
    for name, value in model.state_dict().items():
        shape = value.shape
        if name.endswith("_variance"):
            value.set_value(rng.uniform(0.1, 4.0, shape).astype("float32"))
        elif name.endswith("_mean"):
            value.set_value(rng.normal(0.0, 1.0, shape).astype("float32"))
        elif ".bn" in name and name.endswith("weight"):
            value.set_value(rng.uniform(1.0, 3.0, shape).astype("float32"))
        elif ".bn" in name:
            value.set_value(rng.normal(0.0, 1.0, shape).astype("float32"))
    model.eval()
    return model


def grey(*shape, seed=1):
    """Return random grey values, float32."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, shape).astype("float32")


def eager(model, tiles):
    """Return what the network itself gives."""
    with paddle.no_grad():
        return model(paddle.to_tensor(tiles)).numpy()


def difference(found, expected):
    """Return the largest difference as a share of the range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))
