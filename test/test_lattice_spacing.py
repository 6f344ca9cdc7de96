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


"""The spacing of made lattices is found, and none where there is none."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ppmat.stem.images.lattice_spacing import lattice_spacing

CELLS = {
    "square": [(1.0, 0.0), (0.0, 1.0)],
    "hexagonal": [(1.0, 0.0), (0.5, 0.75**0.5)],
    "rectangular": [(1.0, 0.0), (0.0, 1.5)],
    "oblique": [(1.0, 0.0), (0.3, 1.1)],
}


def lattice(size, spacing, kind="square", basis=((0, 0, 1.0),), turn=0.2):
    """Columns of 0.18 spacings, made in Fourier space [size, size], heights near 1."""
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    cell = spacing * np.array(CELLS[kind]) @ turned
    waves = 2 * np.pi * np.linalg.inv(cell).T
    image = np.zeros((size, size))
    sigma = max(0.5, 0.18 * spacing)
    for h in range(-3, 4):
        for k in range(-3, 4):
            wave = h * waves[0] + k * waves[1]
            if sigma**2 * (wave @ wave) > 12 or np.abs(wave).max() >= np.pi:
                continue
            factor = sum(s * np.exp(-2j * np.pi * (h * u + k * v)) for u, v, s in basis)
            weight = factor * np.exp(-0.5 * sigma**2 * (wave @ wave))
            rows, columns = (np.exp(1j * w * np.arange(size)) for w in wave)
            image += (weight * rows[:, None] * columns).real
    return image / np.ptp(image)


@pytest.mark.parametrize("kind", sorted(CELLS))
@pytest.mark.parametrize("spacing", [2.5, 4, 7.3, 14, 36, 100])
def test_the_shortest_vector_is_found(kind, spacing):
    size = 256 if spacing < 50 else 512
    rng = np.random.default_rng(int(10 * spacing))
    image = lattice(size, spacing, kind, turn=rng.uniform(0, 3))
    noisy = image + rng.normal(0, 0.4, image.shape)
    # Of the hexagonal lattice of 2.5 pixels the grid shows one pair of peaks only.
    found = lattice_spacing(noisy)
    if spacing == 2.5:
        assert 0.75 * spacing < found < 1.05 * spacing
    else:
        assert found == pytest.approx(spacing, rel=0.03)


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_a_basis_keeps_the_cell(noise):
    image = lattice(300, 15.0, basis=((0, 0, 1.0), (0.5, 0.5, 0.4)))
    image += np.random.default_rng(1).normal(0, noise, image.shape)
    assert lattice_spacing(image) == pytest.approx(15.0, rel=0.01)
    twin = lattice(300, 15.0, basis=((0, 0, 1.0), (0.5, 0.5, 1.0)))
    assert lattice_spacing(twin) == pytest.approx(15.0 / 2**0.5, rel=0.01)


def test_ramps_edges_and_gain_do_not_matter():
    y, x = np.mgrid[:256, :256]
    image = lattice(256, 12.0) + np.random.default_rng(2).normal(0, 0.2, x.shape)
    edge = 1 / (1 + np.exp((x - 150) / 4))
    ball = np.sqrt(np.clip(1 - ((y - 128) ** 2 + (x - 128) ** 2) / 110**2, 0, None))
    for slow in (0.05 * x, 3 * edge, 5 * ball):
        assert lattice_spacing(image + slow) == pytest.approx(12.0, rel=0.01)
    assert lattice_spacing(edge * image) == pytest.approx(12.0, rel=0.01)
    found = lattice_spacing(image)
    assert lattice_spacing(40 * image - 7e3) == pytest.approx(found, rel=1e-6)


def test_shapes_and_holes():
    image = lattice(400, 9.0) + np.random.default_rng(3).normal(0, 0.3, (400, 400))
    for piece in (image[:90], image[:, 100:211], image[:127, :128]):
        assert lattice_spacing(piece) == pytest.approx(9.0, rel=0.02)
    missing = np.zeros(image.shape, dtype=bool)
    missing[50:200, 100:300] = True
    wild = np.where(missing, 1e6, image)
    assert lattice_spacing(wild, missing) == pytest.approx(9.0, rel=0.02)
    large = lattice(1300, 9.0)  # several blocks
    assert lattice_spacing(large) == pytest.approx(9.0, rel=0.02)


def test_no_lattice_no_spacing():
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:256, :256]
    for _ in range(3):
        noise = rng.normal(size=x.shape)
        assert lattice_spacing(noise) is None
        assert lattice_spacing(gaussian_filter(noise, 2.0)) is None
        assert lattice_spacing(noise + rng.normal(0, 2, (256, 1))) is None  # lines
        assert lattice_spacing(rng.poisson(0.05, x.shape)) is None
    ball = np.sqrt(np.clip(1 - ((y - 128) ** 2 + (x - 128) ** 2) / 80**2, 0, None))
    for slow in (x, 20 / (1 + np.exp((x + 0.3 * y - 150) / 2)), 30 * ball):
        assert lattice_spacing(slow + rng.normal(size=x.shape)) is None
    # Less than three periods.
    assert lattice_spacing(lattice(256, 200.0) + 0.1 * noise) is None
