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

"""The figure of an enhanced image: Fourier transforms, axes and scale bars."""

import matplotlib.figure
import numpy as np
import pytest

from ppmat.predictor import residual_figure
from ppmat.predictor.enhancement import enhance_image
from ppmat.predictor.residual_figure import draw_residual
from ppmat.predictor.residual_figure import log_power
from ppmat.predictor.tile_model import EnhanceOptions
from ppmat.predictor.tile_model import TileFunction
from ppmat.stem.images.micrograph_base import Micrograph


def waves(height, width, per_height, per_width):
    y, x = np.mgrid[:height, :width]
    phase = y * per_height / height + x * per_width / width
    return np.cos(2 * np.pi * phase).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 80), (63, 81), (1200, 700)])
def test_a_reflection_stands_where_its_frequency_is(shape):
    image = 900 + waves(*shape, 6, 10)
    power = log_power(image)
    factor = -(-max(shape) // 512)
    assert power.shape == tuple(n // factor for n in shape)
    y, x = np.unravel_index(power.argmax(), shape if factor == 1 else power.shape)
    middle = [n // 2 for n in shape]
    places = [[(m + s * f) // factor for m, f in zip(middle, (6, 10))] for s in (-1, 1)]
    assert [y, x] in places
    # Far from the reflection the window leaves nothing.
    assert power.max() - power[0, 0] > 6


def test_missing_pixels_do_not_hide_the_reflections():
    image = 900 + waves(64, 80, 6, 10)
    whole = log_power(image)
    image[20:24, 30:50] = np.nan
    power = log_power(image)
    assert np.isfinite(power).all() and power.argmax() == whole.argmax()
    constant = log_power(np.full((20, 30), 5.0, np.float32))
    assert (constant == constant[0, 0]).all()


@pytest.mark.parametrize("size, unit", [((0.02, 0.01), "nm"), (None, "pixel")])
def test_axes_have_the_units_of_the_image(tmp_path, monkeypatch, size, unit):
    image = waves(60, 700, 6, 70)
    options = EnhanceOptions("robust", 32, 8)
    result = enhance_image(image, TileFunction(lambda tiles: 0.5 * tiles), options)
    figures = []

    class Kept(matplotlib.figure.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr(residual_figure, "Figure", Kept)
    units = None if size is None else "nm"
    source = Micrograph(image, size, units, offset=(100, 200))
    draw_residual(result, tmp_path / "a.png", "title", source)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    pictures = [a for a in figures[0].axes if a.get_xlabel()]
    assert len(pictures) == 9  # whole, middle, power
    step_y, step_x = size or (1.0, 1.0)
    edges = pictures[0].images[0].get_extent()
    expected = (200 * step_x, 900 * step_x, 160 * step_y, 100 * step_y)
    assert edges == pytest.approx(expected)
    middle = pictures[3].images[0]
    assert middle.get_array().shape == (60, 512)
    left = 200 + (700 - 512) // 2
    assert middle.get_extent()[:2] == pytest.approx(
        (left * step_x, (left + 512) * step_x)
    )
    assert f"[{unit}" in pictures[0].get_xlabel()
    assert f"[1/{unit}]" in pictures[6].get_xlabel()
    half = 0.5 / step_x
    assert pictures[6].images[0].get_extent()[:2] == pytest.approx((-half, half))
    bars = [len(axes.artists) for axes in pictures[:6]]
    assert bars == [0 if size is None else 1] * 6
