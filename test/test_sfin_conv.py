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
import paddle
import paddle.nn.functional as F
import pytest

from ppmat.models.sfin import sfin
from ppmat.models.sfin.conv import merged_conv2d
from ppmat.models.sfin.conv import merging_pays

TOLERANCE = {"float32": 1e-4, "float64": 1e-13}
SIZES = [(8, 8), (7, 5), (1, 6), (5, 1), (1, 1)]


def separate(inputs, weights, biases):
    """What :func:`merged_conv2d` is to return."""
    outputs = []
    for kernels, bias in zip(weights, biases):
        paths = [
            F.conv2d(x, kernel, padding=1)
            for x, kernel in zip(inputs, kernels)
            if kernel is not None
        ]
        outputs.append(sum(paths) + bias.reshape([1, -1, 1, 1]))
    return outputs


def bias_on_all_taps(inputs, weights, biases):
    """A broken twin: its biases are smaller where the kernel leaves the image."""
    ones = paddle.ones_like(inputs[0][:, :1])
    spread = [
        F.conv2d(ones, bias.reshape([-1, 1, 1, 1]).expand([-1, 1, 3, 3]) / 9, padding=1)
        for bias in biases
    ]
    zeros = [paddle.zeros_like(bias) for bias in biases]
    return [
        a + b for a, b in zip(separate(inputs, weights, zeros), spread, strict=True)
    ]


def problem(height, width, dtype):
    """Return inputs of 2 and 3 channels, kernels of 3 outputs with a gap, biases."""
    rng = np.random.default_rng(height * 100 + width)

    def tensor(*shape):
        x = paddle.to_tensor(rng.normal(size=shape), dtype=dtype)
        x.stop_gradient = False
        return x

    inputs = [tensor(2, channels, height, width) for channels in (2, 3)]
    weights = [
        [tensor(4, 2, 3, 3), tensor(4, 3, 3, 3)],
        [tensor(4, 2, 3, 3), tensor(4, 3, 3, 3)],
        [None, tensor(4, 3, 3, 3)],
    ]
    return inputs, weights, [tensor(4) for _ in weights]


def values_and_gradients(function, inputs, weights, biases):
    outputs = function(inputs, weights, biases)
    leaves = [*inputs, *sum(weights, []), *biases]
    leaves = [leaf for leaf in leaves if leaf is not None]
    # Weights that are no constant, so that a shifted or flipped gradient shows.
    loss = sum(((k + 1) * y.sin()).sum() for k, y in enumerate(outputs))
    return [x.numpy() for x in [*outputs, *paddle.grad([loss], leaves)]]


def largest_difference(function, height, width, dtype):
    case = problem(height, width, dtype)
    found = values_and_gradients(function, *case)
    wanted = values_and_gradients(separate, *case)
    assert [x.shape for x in found] == [x.shape for x in wanted]
    return max(abs(a - b).max() for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_merged_is_the_same_with_its_gradients(size, dtype):
    assert largest_difference(merged_conv2d, *size, dtype) < TOLERANCE[dtype]


@pytest.mark.parametrize("size", SIZES)
def test_bias_that_leaves_the_image_is_seen(size):
    assert largest_difference(bias_on_all_taps, *size, "float64") > 1e-2


def run_ffc(monkeypatch, merge, size):
    paddle.seed(0)
    ffc = sfin.FFC(6)
    ffc.to(dtype="float64")
    rng = np.random.default_rng(1)
    halves = [paddle.to_tensor(rng.normal(size=(2, 3, *size))) for _ in range(2)]
    for half in halves:
        half.stop_gradient = False
    calls = []
    merged = sfin.FFC._merged
    monkeypatch.setattr(
        sfin.FFC, "_merged", lambda self, *x: calls.append(1) or merged(self, *x)
    )
    monkeypatch.setattr(sfin, "merging_pays", lambda x: merge)
    out = ffc(tuple(halves))
    monkeypatch.undo()
    assert bool(calls) == merge
    loss = (out[0].sin() + 2 * out[1].sin()).sum()
    leaves = [p for p in [*halves, *ffc.parameters()] if not p.stop_gradient]
    return [x.numpy() for x in [*out, *paddle.grad([loss], leaves)]]


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 6)])
def test_both_ways_through_an_ffc_agree(monkeypatch, size):
    merged = run_ffc(monkeypatch, True, size)
    paper = run_ffc(monkeypatch, False, size)
    for found, wanted in zip(merged, paper, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_only_eager_full_precision_on_a_cpu_is_merged():
    x = paddle.ones([1, 1, 2, 2])
    assert merging_pays(x) == (paddle.get_device() == "cpu")
    assert merging_pays(x.cpu()) and merging_pays(x.cpu().astype("float64"))
    assert not merging_pays(x.cpu().astype("float16"))


def test_static_graph_keeps_the_separate_convolutions():
    paddle.seed(0)
    model = sfin.SFIN(base_channels=4, num_blocks=1)
    model.eval()
    image = paddle.rand([1, 1, 8, 10]) * 255
    eager = model(image).numpy()
    shape = [paddle.static.InputSpec([1, 1, 8, 10], "float32")]
    static = paddle.jit.to_static(model.enhance, input_spec=shape, full_graph=True)
    assert str(static.main_program).count('"pd_op.conv2d"') == 2 + 2 * 6
    np.testing.assert_allclose(static(image).numpy(), eager, rtol=0, atol=1e-4)
