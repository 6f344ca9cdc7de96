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

"""Figures of columns, strain and displacement."""

import numpy as np
import pytest
from helpers_columns import lattice
from helpers_columns import moved
from helpers_columns import table_of
from PIL import Image

from ppmat.stem.columns.analysis import analyse
from ppmat.stem.columns.analysis_figure import draw_displacement
from ppmat.stem.columns.analysis_figure import draw_strain
from ppmat.stem.columns.detection_figure import COLORS
from ppmat.stem.columns.detection_figure import draw_columns
from ppmat.stem.scenes.atom_columns import AtomColumns


def crystal(pixel_size=(0.02, 0.02)):
    place, intensity, _ = lattice(120)
    columns = AtomColumns(*place.T, 50 * intensity, np.full(len(place), 2.2))
    image = columns.render((120, 120), 10.0)
    table = table_of(moved(place, 0.3), intensity, 0.3, pixel_size)
    table.sigma[:], table.fitted[5], table.edge[:9] = 2.2, False, True
    return image, analyse(table, ["displacement", "strain"])


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("color", COLORS)
def test_markers_are_open_and_coloured(tmp_path, color):
    image, table = crystal()
    draw_columns(image, table, tmp_path / "a.png", "title", color)
    drawn = pixels(tmp_path / "a.png")
    # Coloured lines over a grey image: few pixels, and the columns are still white.
    coloured = np.ptp(drawn, axis=2) > 40
    panel = coloured[100:550, 100:500]
    assert 0.02 < panel.mean() < 0.4
    assert (drawn[100:550, 100:500].min(axis=2) > 200).mean() > 0.02
    draw_columns(image, table.select(np.arange(0)), tmp_path / "b.png")
    assert not (np.ptp(pixels(tmp_path / "b.png"), axis=2) > 40).any()


@pytest.mark.parametrize("draw", [draw_strain, draw_displacement])
@pytest.mark.parametrize("pixel_size", [(0.02, 0.03), None])
def test_maps(tmp_path, draw, pixel_size):
    image, table = crystal(pixel_size)
    draw(image, table, tmp_path / "a.png", "title")
    full = pixels(tmp_path / "a.png")
    for name, values in table.extra.items():
        if values.dtype == float:
            table.extra[name] = np.full(len(table), np.nan)
    draw(image, table, tmp_path / "b.png", "title")
    empty = pixels(tmp_path / "b.png")
    assert (np.ptp(full, axis=2) > 40).sum() > (np.ptp(empty, axis=2) > 40).sum() + 500
