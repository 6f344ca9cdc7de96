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


"""The folded image network gives what the network gives; broken folds do not."""

import numpy as np
import paddle
import pytest
from helpers_folded import difference
from helpers_folded import eager
from helpers_folded import grey
from helpers_folded import trained_like

from ppmat.models.sfin import sfin_folded
from ppmat.models.sfin.sfin_folded import FoldedSFIN


@pytest.mark.parametrize("fourier", ["fft", "matmul"])
@pytest.mark.parametrize(
    "batch, height, width",
    [(1, 32, 32), (2, 31, 33), (3, 24, 17), (1, 17, 24), (1, 2, 2), (1, 1, 9)],
)
def test_it_is_the_same_function(fourier, batch, height, width):
    model = trained_like()
    x = grey(batch, 1, height, width)
    folded = FoldedSFIN(model, height, width, fourier)
    assert difference(folded(paddle.to_tensor(x)).numpy(), eager(model, x)) < 1e-6


def test_several_channels_in():
    model = trained_like(in_channels=3, base_channels=6, num_blocks=1)
    x = grey(1, 3, 16, 15)
    folded = FoldedSFIN(model, 16, 15)
    assert difference(folded(paddle.to_tensor(x)).numpy(), eager(model, x)) < 1e-6


def test_the_weights_are_copied():
    model = trained_like()
    x = grey(1, 1, 8, 8)
    expected = eager(model, x)
    folded = FoldedSFIN(model, 8, 8)
    model.body[0].conv1.bn_l._mean.set_value(paddle.full([4], 50.0))
    model.train()
    assert difference(folded(paddle.to_tensor(x)).numpy(), expected) < 1e-6
    assert difference(eager(model, x), expected) > 1e-3


def test_another_transform_is_refused():
    with pytest.raises(ValueError, match="fourier is 'dct'; wanted one of fft, matmul"):
        FoldedSFIN(trained_like(num_blocks=1), 8, 8, "dct")


# Twins: each fold done wrongly, in one place ---------------------------------------


def twin_of_norm(wrong):
    """Spoil scale and shift of all BatchNorms."""
    good = sfin_folded.affine_of_batch_norm
    return "affine_of_batch_norm", lambda norm: wrong(norm, *good(norm))


def without_mean(norm, scale, shift):
    return scale, norm.bias.numpy().astype(float)


def variance_as_spread(norm, scale, shift):
    return scale / np.sqrt(norm._variance.numpy()), shift


def without_shift(norm, scale, shift):
    return scale, 0 * shift


def twin_of_block(key, wrong):
    """Spoil one of the weights of each block."""
    good = sfin_folded.fold_block

    def twin(block):
        weights = good(block)
        weights[key] = wrong(weights[key])
        return weights

    return "fold_block", twin


def swap_inputs(weight):
    return np.roll(weight, weight.shape[1] // 2, axis=1)


def swap_parts(unit):
    width = (unit.shape[2] - 3) // 2
    parts = np.roll(unit[:, :, : 2 * width], width, axis=2)
    return np.concatenate([parts, unit[:, :, 2 * width :]], axis=2)


def swap_ramps(unit):
    unit = unit.copy()
    unit[:, :, [-3, -2]] = unit[:, :, [-2, -3]]
    return unit


def twin_of_tables(key, wrong):
    """Spoil one of the transform's tables."""
    good = sfin_folded.dft_tables

    def twin(height, width):
        tables = good(height, width)
        tables[key] = wrong(tables[key])
        return tables

    return "dft_tables", twin


def last_frequency_once(table):
    table = table.copy()
    wf = len(table) // 2
    table[[wf - 1, 2 * wf - 1]] /= 2
    return table


def other_sign(table):
    half = table.shape[-1] // 2
    return np.concatenate([table[:, :half], -table[:, half:]], axis=1)


TWINS = {
    "mean": twin_of_norm(without_mean),
    "variance": twin_of_norm(variance_as_spread),
    "shift": twin_of_norm(without_shift),
    "local inputs": twin_of_block("local", swap_inputs),
    "mixed inputs": twin_of_block("mixed", swap_inputs),
    "local bias": twin_of_block("local_bias", np.zeros_like),
    "mixed bias": twin_of_block("mixed_bias", np.zeros_like),
    "first bias": twin_of_block("first_bias", np.zeros_like),
    "second kernel": twin_of_block("second", lambda w: w[:, :, ::-1]),
    "real and imaginary in": twin_of_block("unit", swap_parts),
    "real and imaginary out": twin_of_block("unit", lambda unit: unit[::-1]),
    "ramps": twin_of_block("unit", swap_ramps),
    "no ramps": ("ramp_channels", lambda h, w: np.zeros((3, h * (w // 2 + 1)))),
    "conjugates": twin_of_tables("rows_back", last_frequency_once),
    "sign": twin_of_tables("rows", other_sign),
    "columns": twin_of_tables("columns", lambda t: np.roll(t, len(t) // 2, axis=0)),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_wrong_fold_shows(name, monkeypatch):
    model = trained_like()
    x = grey(1, 1, 12, 9)  # odd: the last frequency stands for its conjugate too
    attribute, twin = TWINS[name]
    monkeypatch.setattr(sfin_folded, attribute, twin)
    folded = FoldedSFIN(model, 12, 9, "matmul")
    assert difference(folded(paddle.to_tensor(x)).numpy(), eager(model, x)) > 1e-4


@pytest.mark.parametrize("height, width", [(8, 6), (5, 7), (1, 2), (3, 1)])
def test_tables_are_the_transform(height, width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(height, width))
    tables = sfin_folded.dft_tables(height, width)
    wf = width // 2 + 1
    rows = x @ tables["rows"]
    both = tables["columns"] @ (rows[:, :wf] + 1j * rows[:, wf:])
    spectrum = both[:height] - 1j * both[height:]
    np.testing.assert_allclose(spectrum, np.fft.rfft2(x, norm="ortho"), atol=1e-12)
    other = rng.normal(size=(2, height, wf)) @ np.eye(wf)
    other = other[0] + 1j * other[1]
    both = tables["columns"] @ other
    back = both[:height] + 1j * both[height:]
    image = np.concatenate([back.real, back.imag], axis=1) @ tables["rows_back"]
    expected = np.fft.irfft2(other, s=(height, width), norm="ortho")
    np.testing.assert_allclose(image, expected, atol=1e-12)
