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

"""Our side of a comparison with the authors' network: weights, training, gradients.

For ``test_sfin_agreement.py`` and ``benchmarks/sfin_agreement.py``, whose first step
runs where there is no Paddle.
"""

import numpy as np


def below(stored, prefix):
    """The arrays whose keys start with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in stored.items() if k.startswith(prefix)}


def paddle_name(name):
    """Paddle's name of a PyTorch parameter."""
    return name.replace("running_mean", "_mean").replace("running_var", "_variance")


def fill(model, weights, dtype):
    """The network in a precision, with weights under their PyTorch names."""
    model = model.to(dtype=dtype)
    state = {paddle_name(name): w.astype(dtype) for name, w in weights.items()}
    assert set(state) == set(model.state_dict()), "not the weights of this network"
    model.set_state_dict(state)
    return model


def train(model, noisy, target, rate, batch, epochs):
    """Losses of all Adam steps, batches in order, and the gradients of the first."""
    import paddle

    model.train()
    optimizer = paddle.optimizer.Adam(rate, parameters=model.parameters())
    losses, gradients = [], {}
    for _ in range(epochs):
        for start in range(0, len(noisy), batch):
            here = slice(start, start + batch)
            result = model({"noisy": noisy[here], "gt_enhance": target[here]})
            loss = result["loss_dict"]["loss"]
            loss.backward()
            if not gradients:
                gradients = {
                    name: p.grad.numpy().copy()
                    for name, p in model.named_parameters()
                    if not p.stop_gradient
                }
            optimizer.step()
            optimizer.clear_grad()
            losses.append(float(loss))
    return np.array(losses), gradients


def layer(name):
    """The layer of a parameter: a bias is judged by the scale of both."""
    return name.rpartition(".")[0]


def gradient_differences(found, wanted, exact):
    """Largest difference of each parameter, relative to its layer's largest gradient.

    The layer's, because the bias of a convolution before a BatchNorm has a gradient of
    zero, of which only rounding is left.
    """
    assert set(found) == set(wanted)
    scale = {}
    for name, value in exact.items():
        scale[layer(name)] = max(scale.get(layer(name), 0), np.abs(value).max())
    return {
        name: np.abs(found[name] - value).max() / scale[layer(name)]
        for name, value in wanted.items()
    }
