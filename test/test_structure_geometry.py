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

"""Radial functions, taps and padded rows of the structure network."""

import numpy as np
import paddle
import pytest

from ppmat.models.sfin.structure_geometry import RadialBasis
from ppmat.models.sfin.structure_geometry import Taps
from ppmat.models.sfin.structure_geometry import cell_normals
from ppmat.models.sfin.structure_geometry import degree_2
from ppmat.models.sfin.structure_geometry import pad_index
from ppmat.models.sfin.structure_geometry import with_empty_row


@pytest.fixture(autouse=True)
def float64():
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def directions(n):
    x = np.random.default_rng(0).normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_radial_basis_ends_smoothly_and_its_twin_does_not():
    basis = RadialBasis(4.0, 6)
    h = 1e-3
    x = paddle.to_tensor([4.0 - 2 * h, 4.0 - h, 4.0, 4.0 + h])
    y = basis(x).numpy()
    assert np.abs(y[2:]).max() == 0.0
    assert np.abs(y[1] - y[0]).max() / h < 1e-3  # slope vanishes
    gauss = np.exp(-0.5 * ((3.999 - basis.centers.numpy()) / basis.width) ** 2)
    assert gauss.max() > 0.9  # without the envelope the last one would jump


def test_pad_index():
    rows = pad_index(paddle.to_tensor([2, 0, 3]))
    np.testing.assert_array_equal(rows.numpy(), [[0, 1, 5], [5, 5, 5], [2, 3, 4]])
    padded = with_empty_row(paddle.arange(1, 6))
    np.testing.assert_array_equal(
        paddle.gather(padded, rows.flatten()).numpy(), [1, 2, 0, 0, 0, 0, 3, 4, 5]
    )


def test_taps_are_radial_times_angular_and_zero_in_padding():
    taps = Taps(5.0, num_basis=12, num_radial=4)
    unit = directions(6).reshape(2, 3, 3)
    vector = paddle.to_tensor(unit * np.array([1.0, 2.0, 4.9])[:, None])
    is_edge = paddle.ones([2, 3, 1])
    is_edge[1, 2] = 0.0
    radial, x, second = taps(vector, is_edge)
    radial, x = radial.numpy(), x.numpy()
    assert second is None
    assert x.shape == (2, 3, 4 * 4)
    assert (x[1, 2] == 0.0).all()
    np.testing.assert_array_equal(x[:, :, :4], radial)
    vectors = x[:, :, 4:].reshape(2, 3, 3, 4)
    want = np.sqrt(3.0) * unit[..., None] * radial[:, :, None]
    np.testing.assert_allclose(vectors, want, atol=1e-12)
    far = taps(vector / 4.9 * 5.001, is_edge)[1].numpy()
    assert np.abs(far[:, 2]).max() < 1e-6  # the third vector is beyond the cut-off


def test_taps_of_degree_2_are_radial_times_harmonics():
    taps = Taps(5.0, num_basis=12, num_radial=4, second=True)
    unit = directions(6).reshape(2, 3, 3)
    radial, _, second = taps(paddle.to_tensor(2.0 * unit), paddle.ones([2, 3, 1]))
    harmonics = degree_2(paddle.to_tensor(unit)).unsqueeze(-1)  # [2, 3, 5, 1]
    want = (harmonics * radial.unsqueeze(2)).reshape([2, 3, 5 * 4])
    np.testing.assert_allclose(second.numpy(), want.numpy(), atol=1e-12)


def test_products_of_degree_2_are_legendre_polynomials_of_the_angle():
    """The addition theorem; without one of the five, products turn with the frame."""
    unit = directions(7)
    harmonics = degree_2(paddle.to_tensor(unit)).numpy()
    cosine = unit @ unit.T
    want = 5.0 * (1.5 * cosine**2 - 0.5)  # 5 P_2: mean square 1 of each of the five
    np.testing.assert_allclose(harmonics @ harmonics.T, want, atol=1e-12)
    assert np.abs(harmonics[:, 1:] @ harmonics[:, 1:].T - want).max() > 0.1


def test_cell_normals_over_the_volume_are_the_inverse():
    cells = np.random.default_rng(0).normal(size=(5, 3, 3))  # of both handednesses
    normals, volume = (x.numpy() for x in cell_normals(paddle.to_tensor(cells)))
    inverse = np.linalg.inv(cells).transpose(0, 2, 1)
    np.testing.assert_allclose(normals / volume[:, None, None], inverse, atol=1e-12)
    np.testing.assert_allclose(volume, np.linalg.det(cells), atol=1e-12)
