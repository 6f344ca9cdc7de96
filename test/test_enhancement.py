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


"""Arrays and signals: intensities, missing pixels, types and metadata are respected."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from scipy import ndimage

from ppmat.predictor import enhance
from ppmat.predictor import enhancement
from ppmat.predictor.enhancement import FLAGS
from ppmat.predictor.frame_enhancement import fill_missing
from ppmat.predictor.tile_model import TileFunction
from ppmat.predictor.tile_model import TrainedRange
from ppmat.stem.images.grey_scaling import GREY
from ppmat.stem.images.grey_scaling import PERCENTILES

SIZE = {"tile_size": 32}


def enhance_image(x, function, **options):
    tiles = TileFunction(function)
    return enhancement.enhance_image(x, tiles, tiles.defaults.updated(**options))


def net(tiles):
    """A network: not linear, not even, and looks at neighbours."""
    rows = np.roll(tiles, 1, 2) + tiles + np.roll(tiles, -1, 2)
    mean = (np.roll(rows, 1, 3) + rows + np.roll(rows, -1, 3)) / 9
    return mean + 6 * np.tanh(mean / 80) - 3


def picture(height=50, width=70, seed=0):
    """Blobs on a lattice, with noise; float64 between about 0 and 1."""
    y, x = np.mgrid[:height, :width]
    clean = (np.cos(y * 2 * np.pi / 9) + 1) * (np.cos(x * 2 * np.pi / 11) + 1) / 4
    noise = np.random.default_rng(seed).normal(size=clean.shape)
    return 0.2 + 0.6 * clean + 0.1 * noise


def span(x):
    return float(np.nanmax(x) - np.nanmin(x))


def min_max_twin(x):
    """Broken twin: mapped by least and greatest value, and clipped."""
    x = np.asarray(x, dtype=np.float32)
    grey = (x - x.min()) / span(x) * 255
    return np.clip(net(grey[None, None])[0, 0], 0, 255)


@settings(max_examples=30, deadline=None)
@given(st.floats(-6, 6), st.floats(-5, 5), st.booleans())
def test_intensities_scale_and_shift(log_gain, shift, double):
    gain = 10.0**log_gain
    kind = np.float64 if double else np.float32
    x = picture().astype(kind)
    y = (gain * (x + shift)).astype(kind)
    expected = gain * (enhance(x, net, **SIZE).astype(np.float64) + shift)
    found = enhance(y, net, **SIZE)
    assert found.dtype == kind
    assert abs(found - expected).max() < 1e-4 * span(expected)


def test_broken_twin_does_not_scale():
    x = picture()
    assert abs(min_max_twin(3 * x) - 3 * min_max_twin(x)).max() > 10


def test_negative_gain_is_another_picture():
    x = picture()
    assert abs(enhance(-x, net, **SIZE) + enhance(x, net, **SIZE)).max() > 0.01


def test_one_hot_pixel_changes_only_its_neighbourhood():
    x = picture()
    hot = x.copy()
    hot[20, 30] = 30.0
    a = enhance(x, net, **SIZE)
    result = enhance_image(hot, net, **SIZE)
    assert result.flags["hot_pixels"] == "1"
    changed = abs(a - result.image) > 0.02 * span(a)
    assert changed.sum() <= 9
    assert result.raw[20, 30] == 30.0 and result.image[20, 30] < 2.0
    assert result.whiteness["pixels"] == x.size - 1
    # Broken twin: the whole picture sinks to a few levels.
    assert span(min_max_twin(hot)[:15]) < 0.1 * span(min_max_twin(x)[:15])


def test_grey_values_reach_the_network_as_they_are():
    x = 200 * picture()
    seen = []

    def spy(tiles):
        seen.append(tiles)
        return tiles

    same = enhance(x, spy, scaling="grey", **SIZE)
    np.testing.assert_allclose(same, x, atol=1e-4)
    np.testing.assert_array_equal(seen[0][0, 0], x[:32, :32].astype("f4"))
    seen.clear()
    _, record = enhance(x, spy, return_record=True, **SIZE)
    frame = record["frames"][0]
    low, high = np.percentile(x, PERCENTILES)
    grey = [(v - frame["offset"]) / frame["scale"] for v in (low, high)]
    assert grey == pytest.approx(GREY)
    assert max(t.max() for t in seen) > GREY[1] + 1  # nothing is clipped
    given = (frame["offset"], frame["scale"])
    again = enhance(x, spy, scaling=given, **SIZE)
    np.testing.assert_allclose(again, x, atol=1e-4)


def test_values_that_are_no_grey_levels_are_said(capsys):
    for factor in (1.0, 1e4):
        flags = enhance_image(picture() * factor, net, scaling="grey", **SIZE).flags
        assert "not_grey" in flags
    assert FLAGS["not_grey"] in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(2, 2), (5, 7), (31, 33), (32, 32), (33, 100)])
def test_any_size(shape):
    x = np.random.default_rng(0).random(shape)
    result = enhance_image(x, net, **SIZE)
    assert result.image.shape == shape and np.isfinite(result.image).all()
    assert ("reflected" in result.flags) == (min(shape) < 32)


def test_missing_pixels_are_put_back_and_do_not_spread():
    x = picture().astype("f4")
    bad = x.copy()
    bad[10, 20], bad[40, :] = np.nan, np.inf
    bad[5, 5] = -np.inf
    result = enhance_image(bad, net, **SIZE)
    assert result.flags["filled"] == "72"
    holes = ~np.isfinite(bad)
    np.testing.assert_array_equal(result.image[holes], bad[holes])
    assert np.isfinite(result.image[~holes]).all()
    near = abs(result.image - enhance(x, net, **SIZE))[~holes]
    assert near.max() < 0.15 * span(x)
    assert np.isnan(result.residual[holes]).all()
    # Broken twin: zeros instead of neighbours.
    zeros = np.where(holes, -10.0, bad)
    twin = abs(enhance(zeros, net, **SIZE) - enhance(x, net, **SIZE))[~holes]
    assert twin.max() > 0.5 * span(x)


def test_holes_are_filled_from_their_rim():
    image = np.zeros((40, 40))
    image[:, 20:] = 10.0
    missing = np.zeros(image.shape, dtype=bool)
    missing[5:9, 4:8] = missing[30:34, 34:39] = True
    wanted = image.copy()
    image[missing] = np.nan
    fill_missing(image, missing)
    np.testing.assert_array_equal(image, wanted)
    deep = np.ones(image.shape, dtype=bool)
    deep[0, 0] = False
    image[0, 0] = 3.0
    fill_missing(image, deep)
    np.testing.assert_array_equal(image, np.full(image.shape, 3.0))


def test_masked_arrays_stay_masked():
    x = np.ma.masked_greater(picture(), 0.9)
    hidden = x.data[x.mask].copy()
    result = enhance_image(x, net, **SIZE)
    assert type(result.image) is np.ma.MaskedArray
    np.testing.assert_array_equal(result.image.mask, x.mask)
    np.testing.assert_array_equal(result.image.data[x.mask], hidden)
    wild = np.ma.MaskedArray(np.where(x.mask, 1e9, x.data), x.mask)
    other = enhance(wild, net, **SIZE)
    assert abs(other - result.image).max() == 0  # what is masked does not count
    assert result.residual.mask.sum() == x.mask.sum()


def test_stacks_equal_their_frames():
    frames = np.stack([picture(seed=0), 100 * picture(seed=1), picture(seed=2) - 5])
    stack = frames.reshape(3, 1, 50, 70)
    result = enhance_image(stack, net, **SIZE)
    assert result.image.shape == stack.shape
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(result.image[i, 0], enhance(frame, net, **SIZE))
    assert [f["index"] for f in result.record["frames"]] == [[0, 0], [1, 0], [2, 0]]
    assert len(result.whiteness) == 3
    # Broken twin: one scaling for all makes frames depend on each other.
    twin = enhance(stack, net, scaling=(0.0, 0.4), **SIZE)
    assert abs(twin - result.image).max() > 1.0


def test_batches_and_progress():
    x = picture()
    calls = []
    one = enhance(x, net, **SIZE)
    many = enhance(
        x, net, batch_size=4, on_tiles=lambda *n: calls.append(n), overlap=8, **SIZE
    )
    np.testing.assert_array_equal(one, many)
    assert calls == [(4, 6), (6, 6)]


def test_flips():
    x = picture(32, 32)

    def lean(tiles):
        return (tiles + 2 * np.roll(tiles, 1, 3) + 3 * np.roll(tiles, 1, 2)) / 6

    def turned(*axes):
        return np.flip(enhance(np.flip(x, axes), lean, **SIZE), axes)

    parts = turned(), turned(1), turned(0), turned(0, 1)
    wanted = 0.4 * parts[0] + 0.2 * (parts[1] + parts[2] + parts[3])
    found, record = enhance(x, lean, ensemble=True, return_record=True, **SIZE)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert [weight for _, weight in record["flips"]] == [0.4, 0.2, 0.2, 0.2]
    assert abs(found - parts[0]).max() > 0.01


# Types ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4"])
def test_types(kind):
    x = (100 * abs(picture())).astype(kind)
    assert enhance(x, net, **SIZE).dtype == np.float32
    same = enhance(x, net, dtype="same", **SIZE)
    assert same.dtype == x.dtype
    if kind[0] in "ui":
        wanted = np.rint(enhance(x.astype("f8"), net, **SIZE))
        limits = np.iinfo(x.dtype)
        inside = np.clip(wanted, max(limits.min, -1e9), min(limits.max, 1e9))
        np.testing.assert_allclose(same.astype("f8"), inside, atol=1)


def test_casting_back_saturates_and_does_not_wrap():
    x = (255 * (picture() > 0.5)).astype("u1")

    def stronger(tiles):
        return tiles + np.where(tiles > 100, 40.0, -40.0)

    back = enhance(x, stronger, dtype="same", **SIZE)
    np.testing.assert_array_equal(back, x)
    wrapped = enhance(x, stronger, **SIZE).astype("i8").astype("u1")  # broken twin
    assert (wrapped != x).any()
    top = np.full((4, 4), 2**63 - 1, dtype="i8")
    top[0] = 0
    back = enhance(top, lambda t: t * 1.1, dtype="same", **SIZE)
    assert back.min() > 0 and back.max() == 2**63 - 1024  # the last float64 below


def test_lists_and_read_only_arrays_and_layouts():
    x = picture()
    wanted = enhance(x, net, **SIZE)
    np.testing.assert_array_equal(enhance(x.tolist(), net, **SIZE), wanted)
    fixed = np.asfortranarray(x)
    fixed.setflags(write=False)
    np.testing.assert_array_equal(enhance(fixed, net, **SIZE), wanted)
    swapped = x.astype(">f8")
    np.testing.assert_array_equal(enhance(swapped, net, **SIZE), wanted)


def test_the_input_is_not_changed():
    for x in (picture(), np.ma.masked_greater(picture(), 0.9)):
        x[3, 4] = np.nan
        before = copy.deepcopy(x)
        enhance(x, net, **SIZE)
        np.testing.assert_array_equal(x, before)


BAD = {
    "line": (np.zeros(9), "no image"),
    "one row": (np.zeros((1, 512)), r"\[1, 512\] is no image"),
    "one column": (np.zeros((512, 1)), "no image"),
    "nothing": (np.zeros((0, 8)), "no image"),
    "colours": (np.zeros((60, 50, 3), "u1"), "looks like colours"),
    "alpha": (np.zeros((60, 50, 4), "u1"), "looks like colours"),
    "text": (np.array([["a", "b"], ["c", "d"]]), "type <U1"),
    "complex": (np.zeros((8, 8), complex), "type complex128"),
    "mask": (np.zeros((8, 8), bool), "type bool"),
    "all NaN": (np.full((8, 8), np.nan), "no pixel can be used"),
    "a NaN frame": (
        np.stack([picture(), np.full((50, 70), np.nan)]),
        r"frame \[1\]: no pixel",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_input_is_named(case):
    x, message = BAD[case]
    with pytest.raises((TypeError, ValueError), match=message):
        enhance(x, net)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scaling": "minmax"}, "wanted 'robust', 'grey' or"),
        ({"scaling": (0.0, -1.0)}, "positive scale"),
        ({"dtype": "uint8"}, "wanted None or 'same'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"tile_size": 32, "overlap": 17}, "half a tile"),
        ({"model": 3}, "model is a int"),
        ({"model": lambda t: t * np.nan}, "network returned NaN"),
    ],
)
def test_bad_options_are_named(options, message):
    model = options.pop("model", net)
    with pytest.raises((TypeError, ValueError), match=message):
        enhance(picture(), model, **options)


def test_constant_images_come_back_with_a_flag(capsys):
    x = np.full((40, 40), 7, dtype="u2")
    result = enhance_image(x, net, **SIZE)
    np.testing.assert_array_equal(result.image, x.astype("f4"))
    assert result.flags == {"constant": ""} and result.whiteness is None
    assert FLAGS["constant"] in capsys.readouterr().out
    nearly = x.astype("f8")
    nearly[3, 3] = 9.0
    sparse = enhance_image(nearly, lambda t: t, **SIZE)
    assert "sparse" in sparse.flags
    np.testing.assert_allclose(sparse.image, nearly, atol=1e-6)


# Record ---------------------------------------------------------------------------


def test_the_record_is_plain_and_complete():
    result = enhance_image(picture(), net, **SIZE)
    record = json.loads(json.dumps(result.record, allow_nan=False))
    assert record == result.record
    assert record["model"] == "net" and record["tile"] == [32, 32]
    assert record["overlap"] == 8 and record["tiles"] == 6
    assert record["input"] == {"shape": [50, 70], "dtype": "float64", "stack": False}
    assert {"ppmat", "numpy"} <= set(record["versions"]) and record["date"][:2] == "20"


def test_residual_statistics_of_known_residuals():
    rng = np.random.default_rng(3)
    x = 50 * picture(256, 256)
    noise = rng.normal(size=x.shape)

    def of(taken_away, raw=x):
        smooth = raw - taken_away

        def answer(tiles):
            return smooth[None, None].astype("f4")

        options = {"tile_size": 256, "scaling": (0.0, 1.0)}
        return enhance_image(raw, answer, **options)

    white = of(noise).whiteness
    assert white["pixels"] == 65536 and white["spread"] == 1 / 256
    assert white["std"] == pytest.approx(1.0, rel=0.02)
    for name in ("slow_axis", "fast_axis"):
        assert np.abs(white[name]).max() < 5 * white["spread"]
        assert np.abs(white[f"{name}_sigmas"]).max() < 5
    # Poisson-like: noise that grows with the image is still white.
    growing = of(noise * x / 10).whiteness
    assert np.abs(growing["slow_axis_sigmas"] + growing["fast_axis_sigmas"]).max() < 5
    assert of(noise).flags == {} and of(noise * x / 10).flags == {}
    # A tenth of lost structure is seen at lag 1.
    y = np.mgrid[:256, :256][0]
    lost = of(noise + 0.5 * np.sin(y / 9))
    share = 0.125 / 1.125
    assert lost.whiteness["slow_axis"][0] == pytest.approx(share, abs=0.02)
    assert "structure_in_residual" in lost.flags
    # Line jitter: correlated along the lines only, which is legitimate.
    jitter = of(noise + rng.normal(size=(256, 1)))
    assert jitter.whiteness["fast_axis"][0] == pytest.approx(0.5, abs=0.06)
    assert jitter.flags == {}
    # A tenth of the contrast is lost.
    truth = x - x.mean()
    faded = of(noise + truth * 0.1, raw=x + noise)
    assert faded.whiteness["lost_contrast"] == pytest.approx(1 / 9, abs=0.02)
    assert "lost_contrast" in faded.flags


def test_a_mean_over_few_pixels_keeps_noise():
    x = np.random.default_rng(5).normal(size=(256, 256))

    def mean(tiles):
        rows = np.roll(tiles, 1, 2) + tiles + np.roll(tiles, -1, 2)
        return (np.roll(rows, 1, 3) + rows + np.roll(rows, -1, 3)) / 9

    found = enhance_image(x, mean, tile_size=256, overlap=0)
    # (-2/9 + 6/81) / (1 - 2/9 + 1/9), see docs/stem/enhancement.md
    assert found.whiteness["slow_axis"][0] == pytest.approx(-1 / 6, abs=0.02)
    assert "noise_kept" in found.flags


def fade(tiles):
    """A network that knows flat backgrounds only: tiles lose their mean over 16."""
    means = tiles.reshape(len(tiles), 1, 2, 16, 2, 16).mean((3, 5), keepdims=True)
    return tiles - np.broadcast_to(means, (*means.shape[:3], 16, 2, 16)).reshape(
        tiles.shape
    )


def slope(height=128, width=150):
    y, x = np.mgrid[:height, :width]
    return 0.05 * x + 0.5 * np.exp(-((y - 60) ** 2 + (x - 80) ** 2) / 2 / 40**2)


def test_a_slow_background_is_kept_from_the_network_and_added_again():
    flat, slow = picture(128, 150), slope()
    tilted = flat + slow
    result = enhance_image(tilted, lambda t: t, **SIZE)
    background = result.record["frames"][0]["background"]
    assert background["separated"] and background["added_again"]
    assert background["ratio"] > 2 > background["limit"] == 0.5
    np.testing.assert_allclose(result.image, tilted, atol=1e-5)
    plain = enhance_image(flat, net, **SIZE)
    assert not plain.record["frames"][0]["background"]["separated"]
    error = enhance_image(tilted, fade, **SIZE).image - tilted
    # Broken twin: the network sees the background as well, and says so.
    twin = enhance_image(tilted, fade, scaling=(0.0, 1.0), background="keep", **SIZE)
    assert twin.record["frames"][0]["background"]["separated"]
    grey = enhance_image(50 * tilted, fade, scaling="grey", **SIZE)
    assert "background_outside_training" in grey.flags
    assert "smooth_residual" in grey.flags
    assert np.std(grey.image / 50 - tilted) > 5 * np.std(error)


def test_a_background_is_removed_on_request():
    flat, slow = picture(128, 150), slope()
    result = enhance_image(flat + slow, lambda t: t, background="remove", **SIZE)
    background = result.record["frames"][0]["background"]
    assert background["separated"] and not background["added_again"]
    left = result.image[20:-20, 20:-20] - flat[20:-20, 20:-20]
    assert np.std(left) < 0.06 * np.std(slow[20:-20, 20:-20])
    assert np.median(result.image) == pytest.approx(np.median(flat + slow), abs=0.1)
    kept = enhance_image(flat, net, background="keep", **SIZE)
    assert kept.record["frames"][0]["background"]["added_again"]


@settings(max_examples=8, deadline=None)
@given(st.floats(-4, 4), st.floats(-5, 5), st.sampled_from(["auto", "remove"]))
def test_backgrounds_follow_gain_and_dark_level(log_gain, shift, background):
    gain = 10.0**log_gain
    x = np.stack([picture(64, 80) + slope(64, 80), picture(64, 80, seed=4)])
    options = dict(SIZE, background=background)
    wanted = enhance(x, net, **options)
    found = enhance(Signal(gain * (x + shift)), net, **options).data
    assert abs(found / gain - shift - wanted).max() < 1e-4 * span(x)


def test_holes_do_not_shape_the_background():
    x = picture(96, 96) + slope(96, 96)
    holes = np.zeros(x.shape, dtype=bool)
    holes[30:60, 40:70] = True
    masked = [np.ma.MaskedArray(np.where(holes, v, x), holes) for v in (1e6, -3.0)]
    a, b = (enhance(m, net, **SIZE) for m in masked)
    np.testing.assert_array_equal(a[~holes], b[~holes])
    nan = enhance(np.where(holes, np.nan, x), net, **SIZE)
    np.testing.assert_array_equal(nan[~holes], a.data[~holes])
    assert np.isnan(nan[holes]).all()


def test_a_ramp_and_nothing_else_comes_back():
    x = np.mgrid[:64, :64][1] * 0.5
    result = enhance_image(x, net, **SIZE)
    assert "constant" in result.flags
    np.testing.assert_allclose(result.image, x, atol=1e-9)


class Coarse(TileFunction):
    """A function made for lattices of 9 to 20 pixels."""

    trained = TrainedRange((9.0, 20.0))


def waves(size, spacing):
    y, x = np.mgrid[:size, :size] * (2 * np.pi / spacing)
    return np.cos(y) + np.cos(x) + np.random.default_rng(6).normal(0, 0.1, x.shape)


@pytest.mark.parametrize(
    ("spacing", "size", "shape"), [(4.5, 96, 256), (40.0, 192, 96), (12.0, 96, 96)]
)
def test_other_spacings_are_resampled_and_back(spacing, size, shape):
    x = waves(size, spacing)
    tiles = Coarse(lambda t: t)
    options = tiles.defaults.updated(**SIZE)
    result = enhancement.enhance_image(x, tiles, options)
    frame = result.record["frames"][0]
    assert frame["spacing"] == pytest.approx(spacing, rel=0.03)
    inside = spacing == 12.0
    assert ("spacing_outside_training" in result.flags) != inside
    if inside:
        assert frame["resampled"] is None
    else:
        assert frame["resampled"] == pytest.approx([shape, shape], rel=0.03)
    assert result.image.shape == x.shape
    y, z = np.mgrid[:size, :size] * (2 * np.pi / spacing)
    assert np.std(result.image - np.cos(y) - np.cos(z)) < 0.12
    off = options.updated(resample="off")
    off = enhancement.enhance_image(x, tiles, off)
    assert off.record["frames"][0]["resampled"] is None
    assert ("spacing_outside_training" in off.flags) != inside
    # Gain and dark level, and a hole.
    hole = np.where(abs(y - z) < 0.3, np.nan, x) if spacing > 30 else x
    one = enhancement.enhance_image(hole, tiles, options).image
    two = enhancement.enhance_image(7 * hole - 3, tiles, options).image
    np.testing.assert_allclose(two, 7 * one - 3, atol=1e-4)
    np.testing.assert_array_equal(np.isnan(one), np.isnan(hole))


def test_progress_counts_the_tiles_of_resampled_frames():
    calls = []
    tiles = Coarse(lambda t: t)
    enhancement.enhance_image(
        np.stack([waves(96, 4.5), waves(96, 12.0)]),
        tiles,
        tiles.defaults.updated(**SIZE),
        on_tiles=lambda *n: calls.append(n),
    )
    assert calls[-1][0] == calls[-1][1] == len(calls)


def test_flags_of_images():
    rng = np.random.default_rng(8)
    size = {"tile_size": 64}
    lattice = waves(128, 9.0) + rng.normal(0, 1, (128, 128))

    def flags(x, function):
        return enhance_image(x, function, **size).flags

    def smooth(tiles):
        return ndimage.gaussian_filter(tiles, (0, 0, 2, 2))

    assert "amorphous" not in flags(lattice, smooth)
    noise = rng.normal(size=(128, 128))
    assert "hardly_any_signal" in flags(noise, lambda t: 0.01 * t + 100)
    columns = np.zeros((128, 128))
    columns[tuple(rng.integers(0, 128, (2, 150)))] = 60
    columns = ndimage.gaussian_filter(columns, 2.5)
    assert "amorphous" in flags(columns + 0.3 * noise, smooth)
    for filtered in (ndimage.gaussian_filter(lattice, 1.0), zoomed(lattice)):
        assert "already_filtered" in flags(filtered, smooth)
    for raw in (
        lattice,
        columns + 0.3 * noise,
        noise,
        rng.poisson(waves(128, 9.0) + 3),
    ):
        assert "already_filtered" not in flags(raw, smooth)


def zoomed(x):
    return ndimage.zoom(x[:64, :64], 2, order=1)


def test_missing_pixels_do_not_count_in_the_statistics():
    x = np.random.default_rng(5).normal(size=(64, 64))
    x[10:30] = np.nan
    found = enhance_image(x, lambda t: 0 * t + 100, tile_size=64, overlap=0)
    assert found.whiteness["pixels"] == 44 * 64
    assert abs(found.whiteness["fast_axis"][0]) < 5 * found.whiteness["spread"]
    assert found.whiteness["std"] == pytest.approx(np.nanstd(x))


# Signals --------------------------------------------------------------------------


class Tree(dict):
    """HyperSpy's metadata, in short."""

    def set_item(self, path, value):
        self[path] = value


class Axes:
    def __init__(self, signal_dimension=2, scale=0.02):
        self.signal_dimension = signal_dimension
        self.scale = scale


class Signal:
    """A HyperSpy signal, in short."""

    _lazy = False

    def __init__(self, data, **axes):
        self.data = data
        self.axes_manager = Axes(**axes)
        self.metadata = Tree(General={"title": "gold"})

    def deepcopy(self):
        return copy.deepcopy(self)

    def as_lazy(self):
        new = Lazy(self.data)
        new.metadata = self.metadata
        return new


class Lazy(Signal):
    """A lazy signal: its data is no numpy array, frames are read one by one."""

    _lazy = True

    class Data:
        def __init__(self, array):
            self.array, self.reads = array, []
            self.shape, self.dtype = array.shape, array.dtype

        def __getitem__(self, index):
            self.reads.append(index)
            return self.array[index]

    def _assign_subclass(self):
        self.__class__ = Signal


def test_signals_keep_class_axes_and_metadata():
    class Image(Signal):
        pass

    x = Image(picture(), scale=0.0118)
    result = enhance_image(x, net, **SIZE)
    assert type(result.image) is Image and result.image is not x
    assert result.image.axes_manager.scale == 0.0118
    assert result.image.metadata["General"] == {"title": "gold"}
    assert result.image.metadata["ppmat.enhance"] == result.record
    assert "ppmat.enhance" not in x.metadata
    np.testing.assert_array_equal(result.image.data, enhance(x.data, net, **SIZE))
    assert result.residual.shape == x.data.shape


def test_lazy_signals_are_read_frame_by_frame():
    frames = np.stack([picture(seed=i) for i in range(3)])
    x = Lazy(Lazy.Data(frames))
    found = enhance(x, net, **SIZE)
    assert type(found) is Lazy and x.data.reads == [(0,), (1,), (2,)]
    np.testing.assert_array_equal(found.data, enhance(frames, net, **SIZE))


def test_signals_of_lines_are_refused():
    with pytest.raises(ValueError, match=r"transpose\(signal_axes=2\)"):
        enhance(Signal(picture(), signal_dimension=1), net)
