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


"""The decoder: relative positions, causality, cache, padding."""

import numpy as np
import paddle
import pytest

from ppmat.models.ardiff.decoder import Decoder
from ppmat.models.ardiff.decoder import RMSNorm
from ppmat.models.ardiff.decoder import rotate
from ppmat.utils.errors import InputError


def decoder():
    paddle.seed(1)
    model = Decoder(16, 32, num_hidden_layers=2, num_attention_heads=2)
    model.eval()
    return model


def columns(length, rows=2):
    rng = np.random.default_rng(0)
    x = paddle.to_tensor(rng.normal(size=(rows, length, 16)).astype("float32"))
    position = paddle.arange(length).expand([rows, length])
    mask = paddle.ones([rows, length, length], dtype="bool").tril()
    return x, position, mask


def test_norm_is_that_of_numpy():
    x = np.random.default_rng(0).normal(size=(3, 5)) * 7
    norm = RMSNorm(5)
    norm.scale.set_value(paddle.arange(5, dtype="float32"))
    wanted = x / np.sqrt((x**2).mean(axis=1, keepdims=True)) * np.arange(5)
    got = norm(paddle.to_tensor(x, "float32")).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_products_of_turned_vectors_depend_on_the_difference_of_positions():
    rng = np.random.default_rng(0)
    q, k = (paddle.to_tensor(rng.normal(size=(1, 1, 1, 8))) for _ in range(2))

    def product(at, to):
        turned = [
            rotate(x, paddle.to_tensor([[p]]), 100.0) for x, p in ((q, at), (k, to))
        ]
        return float((turned[0] * turned[1]).sum())

    assert product(3, 1) == pytest.approx(product(13, 11), rel=1e-12)
    assert abs(product(3, 1) - product(3, 2)) > 1e-3
    # the first pair turns by one radian a position
    turned = rotate(q, paddle.to_tensor([[2]]), 100.0).numpy().ravel()
    a, b = q.numpy().ravel()[[0, 4]]
    assert turned[0] == pytest.approx(a * np.cos(2) - b * np.sin(2))


def test_a_column_does_not_see_later_ones():
    model, (x, position, mask) = decoder(), columns(6)
    before, _ = model(x, position, mask)
    changed = x.clone()
    changed[:, 4] += 1.0
    after, _ = model(changed, position, mask)
    np.testing.assert_array_equal(before[:, :4].numpy(), after[:, :4].numpy())
    assert (before[:, 4:] - after[:, 4:]).abs().min(axis=-1).max() > 0
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-3  # but earlier ones


@pytest.mark.parametrize("first", [1, 3, 5])
def test_the_cache_changes_nothing(first):
    model, (x, position, mask) = decoder(), columns(6)
    whole, _ = model(x, position, mask)
    parts = [slice(0, first)] + [slice(i, i + 1) for i in range(first, 6)]
    cache, found = None, []
    for part in parts:
        seen = mask[:, part, : part.stop]
        hidden, cache = model(x[:, part], position[:, part], seen, cache)
        found.append(hidden)
    np.testing.assert_allclose(
        paddle.concat(found, axis=1).numpy(), whole.numpy(), atol=1e-5
    )
    # a broken twin: the cache of another sequence
    _, cache = model(x[:, :5] + 1.0, position[:, :5], mask[:, :5, :5])
    wrong, _ = model(x[:, 5:], position[:, 5:], mask[:, 5:], cache)
    assert (wrong - whole[:, 5:]).abs().max() > 1e-3


def test_padding_at_the_left_changes_nothing():
    model, (x, position, mask) = decoder(), columns(4)
    plain, _ = model(x, position, mask)
    padded = paddle.concat([paddle.full([2, 3, 16], 9.0), x], axis=1)
    place = paddle.concat([paddle.zeros([2, 3], "int64"), position], axis=1)
    used = paddle.to_tensor([False] * 3 + [True] * 4)
    one = paddle.ones([7, 7], dtype="bool")
    seen = (one.tril() & used) | (one.tril() & one.triu())
    found, _ = model(padded, place, seen.expand([2, 7, 7]))
    np.testing.assert_allclose(found[:, 3:].numpy(), plain.numpy(), atol=1e-5)


def test_size_of_the_100m_configuration():
    """Attention 4 D^2 and MLP 3 D M a layer: 100.7 million for six of 1024."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 6}
    model = Decoder(**sizes, num_attention_heads=16)
    weights = sum(p.size for p in model.parameters() if p.ndim == 2)
    assert weights == 6 * (4 * 64**2 + 3 * 64 * 256)


def test_heads_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="hidden_size 16 and num_attention_heads 3"):
        Decoder(16, 32, 1, num_attention_heads=3)
