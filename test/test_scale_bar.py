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

"""Scale bars: their lengths, and where they are drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ppmat.stem.images.scale_bar import draw_scale_bar
from ppmat.stem.images.scale_bar import grey_picture
from ppmat.stem.images.scale_bar import scale_bar
from ppmat.stem.images.scale_bar import write_picture

NANOMETRES = {"pm": 1e-3, "Å": 0.1, "nm": 1.0, "µm": 1e3}


@settings(max_examples=200, deadline=None)
@given(st.integers(32, 8192), st.floats(1e-4, 1e4), st.sampled_from(sorted(NANOMETRES)))
def test_a_bar_is_round_and_fits(width, size, units):
    bar = scale_bar(width, (7 * size, size), units)
    number, unit = bar.label.split()
    length = float(number) * NANOMETRES[unit]
    assert length == pytest.approx(bar.pixels * size * NANOMETRES[units], rel=1e-5)
    mantissa = f"{length:.3e}".split("e")[0]
    assert mantissa in ("1.000", "2.000", "5.000")
    assert unit == "µm" or float(number) < 1000
    assert unit == "pm" or float(number) >= 1
    # The longest of the round lengths: the next one is 2 or 2.5 times longer.
    assert 0.3 * width / 2.5 * 0.999 <= bar.pixels <= 0.3 * width * 1.001


@pytest.mark.parametrize(
    "width, size, units",
    [
        (512, None, None),
        (512, (0.1, 0.1), None),
        (512, (0.1, 0.1), "1/nm"),
        (512, (0.1, 0.1), "mrad"),
        (20, (0.1, 0.1), "nm"),
    ],
)
def test_no_bar_without_a_length(width, size, units):
    assert scale_bar(width, size, units) is None


def test_contrast_leaves_out_hot_pixels():
    image = np.random.default_rng(0).normal(1e-4, 1e-5, (100, 100))
    image[3, 3], image[4, 4] = 1e3, np.nan
    grey, (black, white) = grey_picture(image)
    assert grey[3, 3] == 255 and grey[4, 4] == 0
    assert 0.6e-4 < black < 0.8e-4 and 1.2e-4 < white < 1.4e-4
    assert 50 < np.median(grey) < 200
    for value in (7.0, np.nan):
        assert not grey_picture(np.full((4, 4), value))[0].any()


def longest_run(row):
    text = "".join("#" if value == 255 else " " for value in row)
    return max(map(len, text.split()), default=0)


def test_a_picture_has_the_size_of_the_image(tmp_path):
    image = np.full((300, 400), 5.0)
    image[:, ::2] = 6.0
    plain = write_picture(tmp_path / "plain.png", image)
    record = write_picture(tmp_path / "bar.png", image, (0.2, 0.1), "nm")
    assert plain["scale_bar"] is None and record["scale_bar"] == "10 nm"
    assert (record["black"], record["white"]) == (5.0, 6.0)
    with Image.open(tmp_path / "bar.png") as file:
        assert "scale_bar: 10 nm" in file.text["Description"]
        found = np.asarray(file)
    with Image.open(tmp_path / "plain.png") as file:
        assert np.array_equal(np.asarray(file), np.where(image == 6, 255, 0))
    assert found.shape == image.shape and found.dtype == np.uint8
    # The widest runs of white are the lines of the bar: 100 pixels are 10 nm.
    assert sorted(map(longest_run, found[:, :150]))[-1] == 100
    assert longest_run(np.full(7, 255)) == 7 and longest_run(np.zeros(7)) == 0


@pytest.mark.parametrize("pixel", [1.0, 0.1])
def test_a_bar_on_axes_is_as_long_as_its_label_says(pixel):
    figure = Figure(figsize=(4, 4), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.zeros((200, 200)), extent=(0, 200 * pixel, 200 * pixel, 0))
    draw_scale_bar(axes, scale_bar(200, (0.1, 0.1), "nm"), pixel)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    white = (np.asarray(canvas.buffer_rgba())[..., :3] == 255).all(axis=2)
    # 5 nm are 50 of 200 pixels, which are 400 pixels wide; caps add the line width.
    widest = max(row.sum() for row in white if row.any())
    assert 100 <= widest <= 108
    before = len(axes.artists)
    draw_scale_bar(axes, None)
    assert len(axes.artists) == before
