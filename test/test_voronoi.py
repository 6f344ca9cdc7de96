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

"""Voronoi cells: sums, borders, missing pixels, vacuum."""

import numpy as np
import pytest
from helpers_columns import lattice

from ppmat.stem.columns.voronoi import voronoi_cells
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.utils.errors import InputError


def scene(shape=(130, 150)):
    place, _, _ = lattice(150, cell=15.0)
    place = place[np.all((place > 0) & (place < np.array(shape) - 1), axis=1)]
    return np.random.default_rng(0).normal(5, 1, shape), place


def brute_force(image, place):
    """The nearest column of each pixel, from all distances."""
    y, x = np.indices(image.shape)
    away = (y[..., None] - place[:, 0]) ** 2 + (x[..., None] - place[:, 1]) ** 2
    return away.argmin(axis=-1)


def test_sums_over_the_nearest_pixels():
    image, place = scene()
    cells = voronoi_cells(image, place)
    nearest = brute_force(image, place)
    cut = np.unique(
        np.concatenate([nearest[[0, -1]].ravel(), nearest[:, [0, -1]].ravel()])
    )
    assert np.flatnonzero(np.isnan(cells.area)).tolist() == cut.tolist()
    inside = ~np.isin(nearest, cut)
    assert np.nansum(cells.intensity) == pytest.approx(image[inside].sum())
    assert np.nansum(cells.area) == inside.sum()
    for k in np.setdiff1d(np.arange(len(place)), cut)[:20]:
        assert cells.intensity[k] == pytest.approx(image[nearest == k].sum())


def test_affine_intensity():
    image, place = scene()
    cells, other = voronoi_cells(image, place), voronoi_cells(7 - 3 * image, place)
    np.testing.assert_allclose(other.intensity, 7 * cells.area - 3 * cells.intensity)


@pytest.mark.parametrize("kind", ["nan", "infinite", "masked"])
def test_a_missing_pixel_spoils_its_cell_only(kind):
    image, place = scene()
    plain = voronoi_cells(image, place)
    middle = np.argmin(np.hypot(*(place - [65, 75]).T))
    row, column = np.rint(place[middle] + [2, 0]).astype(int)
    if kind == "masked":
        image = np.ma.masked_array(image, np.zeros(image.shape, dtype=bool))
        image[row, column] = np.ma.masked
    else:
        image[row, column] = {"nan": np.nan, "infinite": -np.inf}[kind]
    cells = voronoi_cells(image, place)
    assert np.isnan(cells.intensity[middle]) and np.isnan(cells.area[middle])
    others = np.arange(len(place)) != middle
    np.testing.assert_array_equal(cells.intensity[others], plain.intensity[others])


def test_cells_that_are_open_to_vacuum():
    image, place = np.ones((200, 200)), np.stack(np.divmod(np.arange(49), 7), axis=1)
    place = 10.0 * place + [60, 60]
    cells = voronoi_cells(image, place)
    inside = np.all((place > 60) & (place < 120), axis=1)
    np.testing.assert_array_equal(np.isfinite(cells.area), inside)
    # A vacancy leaves closed cells, which share its pixels.
    cells = voronoi_cells(image, np.delete(place, 24, axis=0))
    assert np.isfinite(cells.area).sum() == 24
    assert np.nansum(cells.area) == pytest.approx(2500, abs=60)


def test_intensities_of_columns():
    place, intensity, _ = lattice(200, vacancies=0)
    height = intensity * 100
    columns = AtomColumns(*place.T, height, np.full(len(place), 1.8))
    image = columns.render((200, 200), 20.0)
    cells = voronoi_cells(image, place)
    known = np.isfinite(cells.area)
    net = cells.intensity - 20 * cells.area
    truth = 2 * np.pi * 1.8**2 * height
    assert known.sum() > 300
    np.testing.assert_allclose(net[known], truth[known], rtol=0.05)


@pytest.mark.parametrize("number", [0, 1])
def test_few_columns(number):
    cells = voronoi_cells(np.ones((20, 20)), np.full((number, 2), 9.0))
    assert np.isnan(cells.area).all() and len(cells.intensity) == number


def test_a_stack_is_refused():
    with pytest.raises(InputError, match="wanted one image"):
        voronoi_cells(np.ones((2, 20, 20)), np.ones((3, 2)))
