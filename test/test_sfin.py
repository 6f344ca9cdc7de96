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


"""The image network: its names, shapes, precisions and contract."""

import numpy as np
import paddle
import pytest

from ppmat.models.sfin.sfin import SFIN
from ppmat.models.sfin.sfin import FourierUnit


@pytest.fixture
def small():
    paddle.seed(0)
    return SFIN(base_channels=8, num_blocks=1)


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def trainable(model):
    return sum(int(p.size) for p in model.parameters() if not p.stop_gradient)


def test_defaults_have_the_published_number_of_parameters():
    assert trainable(SFIN()) == 960_193


def test_names_are_the_authors(small):
    block = {
        f"ffc.{path}.{kind}"
        for path in ("convl2l", "convl2g", "convg2l", "convg2g.conv1", "convg2g.conv2")
        for kind in ("weight", "bias")
    }
    norms = {"bn_l", "bn_g", "ffc.convg2g.fu.bn"}
    kinds = ("weight", "bias", "_mean", "_variance")
    block |= {f"{norm}.{kind}" for norm in norms for kind in kinds}
    block |= {"ffc.convg2g.fu.conv_layer.weight"}
    ends = {f"{c}.{k}" for c in ("head_conv", "tail_conv") for k in ("weight", "bias")}
    blocks = {f"body.0.conv{i}.{name}" for i in (1, 2) for name in block}
    assert set(small.state_dict()) == ends | blocks


@pytest.mark.parametrize("shape", [(16, 16), (15, 23), (1, 9), (9, 1), (2, 3)])
def test_any_height_and_width(small, shape):
    small.eval()
    x = images(2, 1, *shape)
    assert small(x).shape == [2, 1, *shape]
    # Each image on its own gives the same.
    alone = small.predict([x[0], x[1]])
    both = small.predict(x)["gt_enhance"].numpy()
    for one, expected in zip(alone, both):
        np.testing.assert_allclose(one["gt_enhance"][0].numpy(), expected, rtol=1e-4)


def test_training_contract(small):
    batch = {"noisy": images(2, 1, 12, 14), "gt_enhance": images(2, 1, 12, 14, seed=1)}
    small.predict([batch["noisy"]])  # leaves no trace
    result = small(batch)
    enhanced = result["pred_dict"]["gt_enhance"]
    expected = np.abs(enhanced.numpy() - batch["gt_enhance"]).mean()
    assert float(result["loss_dict"]["loss"]) == pytest.approx(expected, rel=1e-5)
    result["loss_dict"]["loss"].backward()
    missing = [n for n, p in small.named_parameters() if p.grad is None]
    assert not [n for n in missing if not n.endswith(("_mean", "_variance"))]


def test_names_and_loss_are_choices():
    batch = {"x": images(1, 2, 8, 8), "gt_detect": images(1, 2, 8, 8, seed=1)}
    model = SFIN(2, 4, 1, "x", "gt_detect", loss_type="MSE", loss_weight=0.5)
    result = model(batch)
    square = (result["pred_dict"]["gt_detect"].numpy() - batch["gt_detect"]) ** 2
    loss = float(result["loss_dict"]["loss"])
    assert loss == pytest.approx(square.mean() / 2, rel=1e-5)


@pytest.mark.parametrize(
    "wrong, wanted",
    [
        ({"base_channels": 7}, "even number"),
        ({"base_channels": 0}, "even number"),
        ({"loss_type": "huber"}, "l1, mse"),
    ],
)
def test_wrong_settings_are_refused(wrong, wanted):
    with pytest.raises(ValueError, match=wanted):
        SFIN(**wrong)


def test_image_without_channel_is_refused(small):
    with pytest.raises(ValueError, match=r"\[C, H, W\]"):
        small.predict(images(8, 8))


def test_unsigned_integers_are_grey_values(small):
    small.eval()
    grey = np.arange(80, dtype=np.uint8).reshape(1, 8, 10)
    as_float = small.predict(grey.astype("float32"))["gt_enhance"]
    assert np.array_equal(small.predict(grey)["gt_enhance"], as_float)


def test_fourier_unit_computes_in_float32_whatever_the_input():
    paddle.seed(0)
    unit = FourierUnit(4, 4)
    unit.eval()
    x = paddle.to_tensor(images(1, 4, 16, 16)).astype("bfloat16")
    expected = unit(x.astype("float32"))
    with paddle.amp.auto_cast(dtype="bfloat16"):
        found = unit(x)
    assert found.dtype == paddle.float32
    np.testing.assert_array_equal(found, expected)
    assert float(paddle.fft.rfft2(x.astype("float32"), norm="ortho").abs().max()) > 1e3


def test_fourier_unit_sees_the_whole_image():
    """A change of one pixel reaches every pixel, not a neighbourhood only."""
    paddle.seed(0)
    unit = FourierUnit(2, 2)
    unit.eval()
    x = paddle.to_tensor(images(1, 2, 32, 33))
    changed = x.clone()
    changed[0, 0, 3, 5] += 100.0
    difference = (unit(changed) - unit(x)).abs().numpy()
    assert np.mean(difference > 1e-4) > 0.99


def test_start_is_the_authors():
    paddle.seed(0)
    model = SFIN(base_channels=32, num_blocks=1)
    ffc = model.body[0].conv1.ffc
    near = ffc.convl2l
    assert np.abs(near.bias.numpy()).max() <= 1 / 12
    for conv, fan_in in ((near, 16 * 9), (ffc.convg2g.fu.conv_layer, 34)):
        bound = 1 / np.sqrt(fan_in)
        values = conv.weight.numpy()
        assert 0.95 * bound < np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
