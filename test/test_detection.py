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


"""Detection of columns: planted truth, errors, symmetries, what is refused."""

import functools
import types

import numpy as np
import pytest

from ppmat.metrics.column_matching import match_columns
from ppmat.stem.columns.column_fit import ColumnFit
from ppmat.stem.columns.column_scores import scores
from ppmat.stem.columns.detection import detect_columns
from ppmat.stem.scenes.atom_columns import AtomColumns

SIZE = (88, 84)
SIGMA = 2.4


@functools.cache
def planted(seed=0, noise=12.0, spacing=13.0):
    """A disordered square lattice with weak columns in its cells: image and truth."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*[np.arange(-1, 9)] * 2), -1).reshape(-1, 2)
    strong = spacing * index + rng.normal(0, 0.4, (len(index), 2))
    weak = spacing * (index + 0.5)
    position = np.concatenate([strong, weak]) + 5.3
    height = np.repeat([120.0, 60.0], len(index)) * rng.normal(1, 0.05, len(position))
    columns = AtomColumns(*position.T, height, np.full(len(position), SIGMA))
    clean = columns.render(SIZE, 30.0)
    return clean + rng.normal(0, noise, SIZE), clean, columns


@functools.cache
def base():
    """The table of the first image."""
    return detect_columns(planted()[0])


def small():
    """A part of the first image, for what does not need many columns."""
    return planted()[0][:44, :40]


def compare(found, columns, radius=3.0):
    return match_columns(found, columns, radius, SIZE, border=6)


def test_planted_columns_are_found_with_honest_errors():
    z, of_height = [], []
    for seed in range(3):
        image, _, columns = planted(seed)
        table = base() if seed == 0 else detect_columns(image)
        match = compare(table, columns)
        assert match.f1 > 0.96
        errors = np.stack([table.y_error, table.x_error], 1)
        z.append(match.offset / errors[match.found])
        off = table.height[match.found] - columns.height[match.true]
        of_height.append(off / table.height_error[match.found])
    assert 0.8 < np.std(np.concatenate(z)) < 1.25
    assert abs(np.mean(np.concatenate(z))) < 0.2
    assert 0.8 < np.std(np.concatenate(of_height)) < 1.3


def errors_of(positions, columns):
    # The median, since columns beyond the rim disturb some of those inside.
    return compare(positions, columns).median


def worse_than_the_fit_from_the_truth(positions, image, columns, slack=1.1):
    """Whether positions are farther off than those fitted from the true ones."""
    inside = (columns.y > 0) & (columns.y < SIZE[0] - 1)
    inside &= (columns.x > 0) & (columns.x < SIZE[1] - 1)
    starts = np.stack([columns.y, columns.x], 1)[inside]
    fit = ColumnFit((image - 30) / 50, np.ones(SIZE, bool), starts, SIGMA, 7.8)
    fit.iterate(25)
    best = errors_of(fit.result().values[:, :2], columns)
    return errors_of(positions, columns) > slack * best


def test_positions_are_those_of_a_fit_from_the_truth():
    from scipy.ndimage import gaussian_filter

    image, clean, columns = planted()
    table = base()
    assert not worse_than_the_fit_from_the_truth(table, image, columns)
    # Broken twins: peaks without a fit, and a fit to a "denoised" image.
    rounded = np.rint(table.positions)
    assert worse_than_the_fit_from_the_truth(rounded, image, columns)
    shifted = np.roll(clean, 1, axis=1)
    moved = detect_columns(shifted, sigma=SIGMA)
    assert worse_than_the_fit_from_the_truth(moved, image, columns)
    # The enhanced image only says where to look, even if it is a pixel off.
    seeded = detect_columns(image, gaussian_filter(shifted, 0.5))
    assert not worse_than_the_fit_from_the_truth(seeded, image, columns)


def test_counts_of_one_electron_at_the_peak():
    _, clean, columns = planted()
    rng = np.random.default_rng(5)
    image = rng.poisson(2.0 * (clean - 25) / 125).astype(float)
    table = detect_columns(image, clean + rng.normal(0, 1, SIZE))
    match = compare(table, columns)
    assert match.f1 > 0.9
    # Columns that run away from the truth are put back on it, which flatters that fit.
    scaled = 50 * image + 30
    assert not worse_than_the_fit_from_the_truth(table, scaled, columns, 1.25)


def same(a, b, names=("y", "x", "y_error", "height", "sigma", "score"), **factors):
    for name in names:
        expected = factors.get(name, lambda v: v)(getattr(b, name))
        np.testing.assert_allclose(getattr(a, name), expected, rtol=2e-3, atol=2e-3)


def test_units_of_the_image_do_not_matter():
    image, table = planted()[0], base()
    other = detect_columns(0.001 * image - 7.0)
    same(other, table, height=lambda v: 0.001 * v)
    np.testing.assert_allclose(
        other.background, 0.001 * table.background - 7, atol=1e-4
    )
    np.testing.assert_allclose(other.intensity, 0.001 * table.intensity, rtol=5e-3)


def test_dark_columns():
    image, table = planted()[0], base()
    dark = detect_columns(-image, mode="bf")
    same(dark, table, height=lambda v: -v)
    assert (dark.intensity < 0).all() and dark.info["polarity"] == "dark"
    bright = detect_columns(small(), mode="bf", polarity="bright")
    assert len(bright) and (bright.height > 0).all()


def test_rows_and_columns_are_alike():
    table, turned = base(), detect_columns(planted()[0].T)
    match = match_columns(turned.positions[:, ::-1], table, 0.05)
    assert len(match.found) == len(table) == len(turned)
    np.testing.assert_allclose(
        turned.x_error[match.found], table.y_error[match.true], rtol=0.02
    )


def test_shifted_with_the_image():
    image, _, _ = planted(noise=3.0)
    table = detect_columns(image, sigma=SIGMA)
    cut = detect_columns(image[7:, 5:], sigma=SIGMA)
    inside = cut.select((cut.y > 10) & (cut.x > 10))
    match = match_columns(inside.positions + [7, 5], table, 0.5)
    assert len(inside) > 40 and len(match.extra) == 0
    assert match.rms < np.nanmedian(np.hypot(table.y_error, table.x_error))


def test_pixel_size_and_signals():
    image = small()
    table = detect_columns(image, sigma=SIGMA, pixel_size=(0.2, 0.1))
    np.testing.assert_allclose(table.positions_nm, table.positions * [0.02, 0.01])
    np.testing.assert_allclose(table.errors_nm[:, 1], table.x_error * 0.01)
    axes = [types.SimpleNamespace(scale=s, units="nm") for s in (0.01, 0.02)]
    manager = types.SimpleNamespace(signal_axes=axes)
    signal = types.SimpleNamespace(data=image, axes_manager=manager)
    assert detect_columns(signal, sigma=SIGMA).pixel_size == (0.02, 0.01)
    axes[0].units = "<undefined>"
    assert detect_columns(signal, sigma=SIGMA).pixel_size is None
    with pytest.raises(ValueError, match="pixel size is not known"):
        base().positions_nm  # noqa: B018


def test_missing_pixels_are_left_out():
    image, _, columns = planted()
    holes = image[:60, :60].copy()
    holes[26:32, 20:40] = np.nan
    holes[5, 5] = np.inf
    table = detect_columns(holes, sigma=SIGMA)
    assert np.isfinite(table.y).all() and np.isfinite(table.height).all()
    far = table.select((np.abs(table.y - 29) > 10) & ~table.edge)
    assert match_columns(far, columns, 1.5).precision > 0.95
    masked = np.ma.masked_invalid(holes)
    same(detect_columns(masked, sigma=SIGMA), table)


def test_nothing_is_found_in_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(64, 64))
    assert len(detect_columns(noise)) == 0
    # Not even where a network sees something.
    assert len(detect_columns(noise, planted()[1][:64, :64])) == 0
    ramp = np.linspace(0, 5, 64)[:, None] + noise
    # A strong gradient may leave a few wide bumps.
    assert len(detect_columns(ramp)) <= 3


def test_scores_count_what_noise_would_do():
    rng = np.random.default_rng(0)
    snr = np.concatenate([rng.normal(9, 1, 50), rng.uniform(1.5, 3.5, 20)])
    score = scores(snr, 200.0**2, 3.0, 6.0)
    assert (score[:50] > 0.95).all() and (score[50:] < 0.5).mean() > 0.5
    assert (np.diff(score[np.argsort(snr)]) >= 0).all()
    assert ((score >= 0) & (score <= 1)).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mode": "adf"}, "mode is 'adf'; wanted one of haadf, bf"),
        ({"polarity": "up"}, "polarity is 'up'"),
        ({"seeds_from": "raw"}, "seeds_from is 'raw'"),
        ({"sigma": 0.1}, "sigma is 0.1; wanted at least half a pixel"),
        ({"separation": np.nan}, "separation is nan"),
        ({"min_score": 1.0}, "min_score is 1.0"),
        ({"pixel_size": -1.0}, "wanted numbers above 0"),
        ({"pixel_size": 1.0, "units": "inch"}, "unit of the pixel size is 'inch'"),
        ({"enhanced": np.eye(20)}, r"enhanced has shape \[20, 20\], the image"),
    ],
)
def test_options_that_cannot_be_meant(change, message):
    with pytest.raises(ValueError, match=message):
        detect_columns(planted()[0], **change)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((20, 20)), "all pixels are equal"),
        (np.zeros((2, 20, 20)), "wanted one image"),
        (np.zeros((5, 50)), "at least 16 x 16"),
        (np.full((20, 20), np.nan), "0 pixels can be used"),
    ],
)
def test_images_that_are_none(image, message):
    with pytest.raises(ValueError, match=message):
        detect_columns(image)
    with pytest.raises(TypeError, match="wanted real numbers"):
        detect_columns(np.zeros((20, 20), complex))
