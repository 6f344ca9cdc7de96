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


"""The joint fit of columns: its shortcuts against the long way round."""

import numpy as np
from helpers_columns import whole_errors
from scipy.ndimage import maximum_filter

from ppmat.metrics.column_matching import match_columns
from ppmat.stem.columns import column_search
from ppmat.stem.columns.column_fit import ColumnFit
from ppmat.stem.columns.column_scores import misfit_variance
from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.columns.normal_equations import Background
from ppmat.stem.columns.normal_equations import ColumnWindows
from ppmat.stem.columns.peak_finding import _maxima
from ppmat.stem.scenes.atom_columns import AtomColumns

SIZE = (72, 66)
SIGMA = 2.2


def problem(seed=0):
    """A noisy image of overlapping columns, and a fit that begins beside them."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(np.arange(9), np.arange(8)), -1).reshape(-1, 2)
    position = 7.5 * index + 6 + rng.normal(0, 0.4, (len(index), 2))
    height = rng.uniform(0.5, 1.5, len(index))
    columns = AtomColumns(*position.T, height, np.full(len(index), SIGMA))
    image = columns.render(SIZE, 0.2) + rng.normal(0, 0.1, SIZE)
    starts = position + rng.normal(0, 0.3, position.shape)
    return image, ColumnFit(image, np.ones(SIZE, bool), starts, SIGMA, 7.5)


def test_waiting_columns_end_where_all_steps_lead():
    _, fit = problem()
    assert fit.iterate(25)
    found = fit.result()
    _, slow = problem()
    # Nothing waits as long as it moves at all.
    slow.iterate(80, tolerance=1e-4)
    away = np.abs(found.values - slow.values) / found.errors
    assert np.nanmax(away) < 0.05
    _, early = problem()
    early.iterate(2)
    assert np.nanmax(np.abs(early.values - slow.values) / found.errors) > 0.05


def test_residual_is_kept_up_to_date():
    image, fit = problem()
    fit.iterate(25)
    fit.keep(np.arange(len(fit.values)) % 5 > 0)
    fit.iterate(3)
    kept = fit.residual.copy()
    fit._restart()
    np.testing.assert_allclose(kept, fit.residual, atol=1e-10)
    y, x, height, log_sigma = fit.values.T
    spots = AtomColumns(y, x, height, np.exp(log_sigma)).render(SIZE, 0.0)
    background = fit.background.at(*np.meshgrid(*map(np.arange, SIZE), indexing="ij"))
    # Windows end at 3.5 sigma.
    assert abs(image - spots - background - kept).max() < 0.02


def test_errors_are_those_of_the_whole_inverse():
    _, fit = problem()
    fit.iterate(25)
    found = fit.result()
    n = len(fit.values)
    equations = fit._equations(fit._view(fit._windows_of(np.arange(n))))
    whole = whole_errors(fit)
    parts = np.sqrt(np.einsum("nkk->nk", found.covariance))
    # Faint columns have the largest errors, and reach farther than a part.
    assert np.median(abs(parts / whole - 1)) < 0.05
    alone = 1 / np.sqrt(np.einsum("nkk->nk", equations.own))
    assert np.median(abs(alone / whole - 1)) > 0.1
    # What is kept from the last time is what would be computed.
    fit.keep(np.arange(n) > 0)
    fit.iterate(25)
    kept = fit.result().covariance
    fit._covariances._kept.clear()
    np.testing.assert_allclose(fit.result().covariance, kept, rtol=0.02, atol=1e-3)


def test_background_and_columns_are_products_of_the_same_pixels():
    rng = np.random.default_rng(0)
    background = Background(SIZE, 20.0, 0.0)
    image = rng.normal(size=SIZE)
    every = np.ones(background.nodes.shape, dtype=bool)
    step = rng.normal(size=every.shape)
    changed = np.zeros(SIZE)
    background.change(step, changed)
    places = np.meshgrid(*map(np.arange, SIZE), indexing="ij")
    np.testing.assert_allclose(-changed, background.at(*places), atol=1e-12)
    sums = background.project(image, every)
    assert np.isclose(np.sum(sums * step), np.sum(image * -changed))
    few = every & (rng.random(every.shape) < 0.3)
    np.testing.assert_allclose(background.project(image, few), sums * few)
    # A column near the corner, whose window leaves the image.
    values = np.array([[2.3, 60.9, 1.7, np.log(SIGMA)]])
    windows = ColumnWindows(np.arange(1), values, 8, SIZE)
    block, nodes = windows.background_products(background)
    there = nodes[0] >= 0
    product = block[0, 2, there[0]] @ step[tuple(nodes[:, there])]
    spot = AtomColumns(*values[:, :3].T, np.array([SIGMA])).render(SIZE, 0.0) / 1.7
    assert np.isclose(product, np.sum(spot * -changed), rtol=0.01)


def test_maxima_are_those_of_a_filter():
    rng = np.random.default_rng(0)
    image = np.round(rng.normal(size=(40, 50)), 1)  # with ties
    valid = rng.random(image.shape) > 0.1
    for apart in (0.5, 1.0, 1.3, 2.0, 4.7):
        steps = np.arange(-int(apart), int(apart) + 1)
        disk = np.hypot(steps[:, None], steps) <= apart
        disk = disk if len(steps) > 1 else np.ones((3, 3), dtype=bool)
        # Of equal pixels the first one counts.
        ranked = image - 1e-6 * np.arange(image.size).reshape(image.shape)
        wanted = valid & (ranked == maximum_filter(ranked, footprint=disk))
        found = np.zeros(image.shape, dtype=bool)
        found[_maxima(image, valid, apart)] = True
        np.testing.assert_array_equal(found, wanted)


def ringed(ring, seed=3):
    """Columns with bright rings that cross between them, and what they are."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*[np.arange(-1, 7)] * 2), -1).reshape(-1, 2)
    position = 17.0 * index + 5.3 + rng.normal(0, 0.2, (len(index), 2))
    y, x = np.meshgrid(*map(np.arange, SIZE), indexing="ij")
    image = rng.normal(0, 0.01, SIZE)
    for a, b in position:
        r = np.hypot(y - a, x - b)
        image += np.exp(-0.5 * (r / SIGMA) ** 2)
        image += ring * np.exp(-0.5 * ((r - 9.0) / 1.5) ** 2)
    return image, position


def test_rings_are_no_columns(monkeypatch):
    def matched(seed=3):
        image, position = ringed(0.06, seed)
        return match_columns(detect_columns(image), position, 3.0, SIZE, border=6)

    for seed in (3, 4, 5, 6):
        assert matched(seed).f1 == 1
    # Neither noise nor the shape of the columns' peaks explains them.
    monkeypatch.setattr(column_search, "misfit_variance", lambda *_: 0.0)
    monkeypatch.setattr(
        column_search, "on_ring", lambda fit, sigma: np.zeros(len(fit.values), bool)
    )
    broken = matched()
    assert len(broken.extra) > 0


def test_misfit_is_what_noise_does_not_explain():
    _, fit = problem()
    fit.iterate(5)
    found = fit.result()
    rng = np.random.default_rng(1)
    found.variance[:] = 0.01
    found.residual = rng.normal(0, 0.1, SIZE)
    valid = np.ones(SIZE, dtype=bool)
    noise = 2 * 0.01 / (np.pi * SIGMA**2)
    assert misfit_variance(found, valid, SIGMA) < 0.3 * noise
    place = found.values[30, :2].round().astype(int)
    found.residual[tuple(place)] += 50.0  # one failure is no misfit of the others
    assert misfit_variance(found, valid, SIGMA) < 0.5 * noise
    wave = np.sin(np.arange(SIZE[1]) / SIGMA)
    found.residual = found.residual + 0.2 * wave
    assert misfit_variance(found, valid, SIGMA) > noise


def test_weak_columns_of_the_right_profile_are_kept():
    image, position = ringed(0.0)
    weak = position + 8.5
    spots = AtomColumns(*weak.T, np.full(len(weak), 0.1), np.full(len(weak), SIGMA))
    image = image + spots.render(SIZE, 0.0)
    both = np.concatenate([position, weak])
    assert match_columns(detect_columns(image), both, 3.0, SIZE, border=6).f1 > 0.97
