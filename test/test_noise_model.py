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


"""The noise terms: their sizes, directions and independence of each other."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import tukeylambda

from ppmat.stem.noise.counting_noise import CountingNoise
from ppmat.stem.noise.noise_model import NoiseFormatError
from ppmat.stem.noise.noise_model import NoiseModel

QUIET = NoiseModel(
    background_sd=0,
    scan_slope=0,
    scan_intercept=0,
    pointwise_slope=0,
    pointwise_intercept=0,
)
FLAT = np.full((256, 256), 100.0)


def noise(clean, seed=0, **changes):
    model = dataclasses.replace(QUIET, **changes)
    return model.apply(clean, np.random.default_rng(seed)) - clean


def correlation(field, axis, lag=1):
    moved = np.roll(field, lag, axis)
    return np.mean(field * moved) / np.mean(field**2)


def test_without_noise_nothing_changes():
    assert np.abs(noise(FLAT)).max() == 0


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.14, 0.17, 1.0])
def test_pointwise_noise_is_tukey_lambda(shape):
    values = noise(FLAT, pointwise_intercept=5.0, pointwise_lambda=shape)
    assert values.std() == pytest.approx(5, rel=0.03)
    unit = tukeylambda(shape, scale=5 / np.sqrt(tukeylambda.var(shape)))
    for level in (0.1, 0.5, 0.9):
        share = np.mean(values < unit.ppf(level))
        assert share == pytest.approx(level, abs=4 * 0.5 / 256)


def test_pointwise_noise_grows_with_the_grey_value_and_is_white():
    clean = np.repeat([[20.0], [220.0]], 256, axis=0) * np.ones((1, 256))
    values = noise(clean, pointwise_intercept=10, pointwise_slope=0.05)
    assert values[:256].std() == pytest.approx(11, rel=0.02)
    assert values[256:].std() == pytest.approx(21, rel=0.02)
    for axis in (0, 1):
        assert abs(correlation(values[:256], axis)) < 5 / 256


@pytest.mark.parametrize("axis", [0, 1])
def test_scan_noise_runs_along_the_fast_axis(axis):
    values = noise(FLAT, scan_intercept=6, scan_length=4, fast_axis=axis)
    assert values.std() == pytest.approx(6, rel=0.05)
    # The autocorrelation of white noise under a Gaussian kernel of this length.
    assert correlation(values, axis, 4) == pytest.approx(np.exp(-0.25), abs=0.06)
    assert abs(correlation(values, 1 - axis)) < 0.06


def test_scan_noise_grows_with_the_gradient():
    steps = np.concatenate([np.full(128, 2.0), np.full(128, 20.0)])
    clean = np.ones((256, 1)) * np.cumsum(steps)
    values = noise(clean, scan_slope=0.5, scan_length=1.0)
    assert values[:, 4:120].std() == pytest.approx(1, rel=0.05)
    assert values[:, 136:250].std() == pytest.approx(10, rel=0.05)


def test_background_is_smooth():
    values = noise(FLAT, background_sd=4, background_length=16)
    assert values.std() == pytest.approx(4)
    assert correlation(values, 0, 4) > 0.95


def test_terms_have_streams_of_their_own():
    both = noise(FLAT, pointwise_intercept=5, scan_intercept=3)
    alone = noise(FLAT, pointwise_intercept=5) + noise(FLAT, scan_intercept=3)
    np.testing.assert_allclose(both, alone, atol=1e-12)


def test_json_round_trip():
    model = NoiseModel(scan_length=2.5, fast_axis=0)
    assert NoiseModel.from_json(model.to_json()) == model


def test_scaled_noise_is_noise_of_the_scaled_image():
    clean = np.random.default_rng(1).uniform(0, 200, (64, 64))
    model = NoiseModel(standard_errors={"scan_intercept": 0.5, "scan_slope": 0.01})
    other = model.scaled(0.01, 3.0)
    expected = 0.01 * model.apply(clean, np.random.default_rng(2)) + 3.0
    found = other.apply(0.01 * clean + 3.0, np.random.default_rng(2))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert other.low == pytest.approx(0.01 * model.low + 3)
    assert other.standard_errors == {"scan_intercept": 0.005, "scan_slope": 0.01}
    with pytest.raises(ValueError, match="above 0"):
        model.scaled(-1.0, 0.0)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r.update(version=2), "version 2"),
        (lambda r: r.pop("format"), "no noise model"),
        (lambda r: r["parameters"].pop("low"), "low"),
        (lambda r: r["parameters"].update(colour=1.0), "colour"),
        (lambda r: r["parameters"].update(scan_slope="a"), "scan_slope cannot be 'a'"),
        (lambda r: r["parameters"].update(scan_slope=float("nan")), "cannot be nan"),
        (lambda r: r["parameters"].update(mode="tem"), "mode cannot be 'tem'"),
        (lambda r: r["parameters"].update(fast_axis=2), "fast_axis cannot be 2"),
        (lambda r: r["parameters"].update(fast_axis=True), "fast_axis cannot be True"),
        (
            lambda r: r["parameters"].update(scan_length=1e7),
            "wanted above 0, at most 1000",
        ),
        (lambda r: r["parameters"].update(background_length=1e9), "at most 1000 pixe"),
        (lambda r: r["parameters"].update(pointwise_lambda=1e3), "at most 2"),
        (lambda r: r["parameters"].update(scan_intercept=-1), "scan_intercept cannot"),
        (lambda r: r["parameters"].update(pointwise_intercept=-50), "-49.5 at low and"),
        (lambda r: r["parameters"].update(low=180), "wanted low < high: .* with atoms"),
        (
            lambda r: r.update(standard_errors={"low": "x"}),
            "standard_errors.low cannot",
        ),
        (lambda r: r.update(parameters=[1]), "mappings"),
    ],
)
def test_foreign_json_is_refused(tmp_path, change, message):
    record = json.loads(NoiseModel().to_json())
    change(record)
    path = tmp_path / "noise.json"
    path.write_text(json.dumps(record))
    with pytest.raises(NoiseFormatError, match=message) as error:
        NoiseModel.load(path)
    assert str(path) in str(error.value)


def test_file_round_trip_keeps_standard_errors(tmp_path):
    model = NoiseModel(mode="bf", standard_errors={"scan_slope": 0.02})
    model.save(tmp_path / "noise.json")
    read = NoiseModel.load(tmp_path / "noise.json")
    assert read == model and read.standard_errors == model.standard_errors
    (tmp_path / "noise.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NoiseFormatError, match="no text"):
        NoiseModel.load(tmp_path / "noise.json")


def test_a_line_slightly_below_zero_is_what_a_calibration_may_find():
    model = NoiseModel(pointwise_intercept=-2.0, pointwise_slope=0.05)  # -0.5 to 7
    assert NoiseModel.from_json(model.to_json()) == model
    assert model.apply(FLAT, np.random.default_rng(0)).std() > 0


@pytest.mark.parametrize(
    "wrong", [{"mode": "df"}, {"background_sd": -3}, {"low": None}, {"fast_axis": 1.0}]
)
def test_what_no_file_may_hold_is_no_model_either(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} cannot be"):
        NoiseModel(**wrong)


def test_parameters_are_plain_numbers():
    error = {"low": np.float64(0.1)}
    model = NoiseModel(np.float32(4), fast_axis=np.int64(0), standard_errors=error)
    assert "np." not in repr(model) and repr(model).startswith("NoiseModel(backgro")
    assert type(model.background_sd) is float and type(model.fast_axis) is int


@pytest.mark.parametrize("shape", [(3, 8, 8), (8,), (1, 1), (1, 64)])
def test_noise_goes_on_one_image(shape):
    for noise in (NoiseModel(), CountingNoise(counts=5.0)):
        with pytest.raises(ValueError, match=r"wanted \[H, W\] with at least 2 x 2"):
            noise.apply(np.zeros(shape), np.random.default_rng(0))


@pytest.mark.parametrize("length", [4.0, 40.0, 1000.0])
def test_long_streaks_and_slow_backgrounds_on_a_small_image(length):
    flat = np.zeros((64, 48))
    streaks = [noise(flat, i, scan_intercept=5, scan_length=length) for i in range(9)]
    assert np.std(streaks) == pytest.approx(5, rel=0.1)
    background = noise(flat, background_sd=4, background_length=length)
    assert background.std() == pytest.approx(4)
    assert correlation(background, 0) > 0.7
