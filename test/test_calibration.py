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


"""Calibration of noise: planted noise is found, and what cannot be measured is refused.

More images and kinds of noise: benchmarks/stem/calibration.py.
"""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.ndimage import gaussian_filter1d
from scipy.special import boxcox

from ppmat.stem.noise import noise_fits
from ppmat.stem.noise.calibration import CalibrationError
from ppmat.stem.noise.calibration import calibrate
from ppmat.stem.noise.calibration import calibrate_noise
from ppmat.stem.noise.calibration_figure import calibration_figure
from ppmat.stem.noise.clean_image import fit_clean
from ppmat.stem.noise.moments import histogram
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.noise.raw_frames import RoughNoise
from ppmat.stem.noise.raw_frames import prepare_frames
from ppmat.stem.scenes.atom_columns import AtomColumns

TRUTH = NoiseModel()
SIDE = 160


def lattice(rng: np.random.Generator, level: float = 80.0) -> np.ndarray:
    angle, spacing = rng.uniform(0, np.pi), 16.0
    cell = spacing * np.array(
        [[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]]
    )
    grid = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 2), axis=-1).reshape(-1, 2)
    places = grid @ cell + SIDE / 2
    height = np.where(grid.sum(axis=1) % 2, 70.0, 120.0)
    columns = AtomColumns(places[:, 0], places[:, 1], height, np.full(len(grid), 2.9))
    return columns.render((SIDE, SIDE), level)


CLEAN = lattice(np.random.default_rng(1))
NOISY = TRUTH.apply(CLEAN, np.random.default_rng(2))


@pytest.fixture(scope="module")
def found():
    return calibrate(NOISY)


def scan_error(model: NoiseModel) -> float:
    gradient = np.quantile(np.hypot(*np.gradient(CLEAN)), [0.25, 0.5, 0.75, 0.9])
    return float(abs(model.scan_sd(gradient) / TRUTH.scan_sd(gradient) - 1).max())


def two_blurs(image: np.ndarray) -> NoiseModel:
    """The paper's recipe as it stands: what survives one blur but not the other."""
    smooth, row_wise = gaussian_filter(image, 2.0), gaussian_filter1d(image, 2.0)
    gradient = np.hypot(*np.gradient(smooth))
    edges = np.quantile(gradient, np.linspace(0.01, 0.99, 9))
    index = np.digitize(gradient, edges)
    spread = [(row_wise - smooth)[index == b].std() for b in range(1, 9)]
    slope, intercept = np.polyfit(0.5 * (edges[1:] + edges[:-1]), spread, 1)
    return dataclasses.replace(TRUTH, scan_slope=slope, scan_intercept=intercept)


def test_planted_noise_is_found(found) -> None:
    model = found.model
    grey = np.quantile(CLEAN, [0.05, 0.5, 0.95])
    np.testing.assert_allclose(
        model.pointwise_sd(grey), TRUTH.pointwise_sd(grey), rtol=0.1
    )
    assert scan_error(model) < 0.3
    assert model.scan_length == pytest.approx(TRUTH.scan_length, rel=0.25)
    assert model.pointwise_lambda == pytest.approx(TRUTH.pointwise_lambda, abs=0.04)
    assert model.background_sd == pytest.approx(TRUTH.background_sd, rel=0.3)
    assert model.low == pytest.approx(80, abs=8)
    assert set(model.standard_errors) <= {f.name for f in dataclasses.fields(model)}
    assert min(model.standard_errors.values()) > 0


def test_the_recipe_of_two_blurs_does_not_pass() -> None:
    assert scan_error(two_blurs(NOISY)) > 0.3


def test_no_scan_noise_is_called_none() -> None:
    still = dataclasses.replace(TRUTH, scan_slope=0.0, scan_intercept=0.0)
    model = calibrate_noise(still.apply(CLEAN, np.random.default_rng(3)))
    assert (model.scan_slope, model.scan_intercept) == (0.0, 0.0)
    assert "scan_slope" not in model.standard_errors


def test_units_and_axis_of_the_image_do_not_matter(found) -> None:
    other = calibrate_noise(1e-3 * NOISY.T - 0.05, fast_axis=0)
    expected = found.model.scaled(1e-3, -0.05)
    for name in ("scan_intercept", "scan_slope", "pointwise_slope", "low"):
        assert getattr(other, name) == pytest.approx(getattr(expected, name), rel=1e-3)
    assert other.pointwise_sd(0.05) == pytest.approx(expected.pointwise_sd(0.05))
    assert other.fast_axis == 0


def test_several_frames_of_dark_columns_are_measured_together() -> None:
    rng = np.random.default_rng(4)
    frames = [TRUTH.apply(280.0 - lattice(rng), rng) for _ in range(2)]
    result = calibrate(frames, mode="bf")
    assert result.images == 2
    assert result.model.mode == "bf"
    assert result.model.pointwise_sd(150.0) == pytest.approx(23.2, rel=0.1)
    assert result.model.scan_sd(10.0) == pytest.approx(7.45, rel=0.3)


def test_wrong_fast_axis_is_said() -> None:
    with pytest.raises(CalibrationError, match=r"runs along axis 1.*give fast_axis=1"):
        calibrate_noise(NOISY, fast_axis=0)


WITH_NAN = NOISY.copy()
WITH_NAN[3, 4] = np.nan
HOT = NOISY.copy()
HOT[::12, ::12] = 2000.0


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (WITH_NAN, "1 of 25600 pixels are NaN"),
        (np.ma.masked_greater(NOISY, NOISY.max() - 1e-9), "1 of .* NaN, infinite or m"),
        (HOT, r"1\d\d of 25600 pixels are far .* at most 0.5 %"),
        ("a.tif", "'a.tif' is no image"),
        (NOISY[:50], "50 x 160 pixels, wanted at least 64"),
        (np.full((80, 80), 3.0), "no contrast"),
        (NOISY > 100, "holds bool"),
        (np.rint(NOISY / 20), "different values, wanted at least 16"),
        (gaussian_filter(NOISY, 1.0), "was filtered, resampled"),
        (np.rint(gaussian_filter(NOISY, 2.0)), "too few grey levels"),
        (np.clip(NOISY, 75, 95), "are not clipped, wanted 4000"),
        ([NOISY, NOISY[:100]], "image 1 has 100 x 160 pixels, image 0 has 160 x 160"),
        (np.stack([NOISY, NOISY])[None], r"shape \(2, 160, 160\)"),
        ([], "no image"),
    ],
)
def test_images_that_cannot_be_used_are_refused(images, reason: str) -> None:
    with pytest.raises(CalibrationError, match=reason):
        calibrate_noise(images)


def test_each_image_has_a_name() -> None:
    with pytest.raises(CalibrationError, match="2 names for 1 images"):
        calibrate([NOISY], names=["a", "b"])


def test_an_image_without_atoms_is_refused() -> None:
    flat = TRUTH.apply(np.full((128, 128), 90.0), np.random.default_rng(5))
    with pytest.raises(
        CalibrationError, match="atomic columns? w.* found, wanted at least 9"
    ):
        calibrate_noise(flat)


@pytest.mark.parametrize("width", [2.9, 12.0, 20.0])
def test_a_fit_that_loses_all_columns_has_none(width: float) -> None:
    image = NOISY + 3.0 * np.arange(SIDE)
    fit = fit_clean(image, width, RoughNoise(20.0, 0.0, 4.0), 1)
    assert (len(fit.columns) > 50) == (width < 10)
    assert np.isfinite(fit.image).all()


@pytest.mark.parametrize("shape", [0.0, 0.17])
def test_lambda_is_found_behind_a_filter(shape: float) -> None:
    u = np.random.default_rng(6).uniform(size=40000)
    draws = boxcox(u, shape) - boxcox(1 - u, shape)
    taps = np.array([-0.1, 0.2, -0.5, 0.8, -0.5, 0.2, -0.1])
    taps /= np.sqrt(np.sum(taps**2))
    values = np.convolve(draws / draws.std(), taps, mode="valid")
    counts = histogram(values, np.zeros(len(values), int), 1)[0]
    found = noise_fits.best_lambda(counts, noise_fits.log_densities(taps, 0.0))
    assert found == pytest.approx(shape, abs=0.04)
    # Taken for single draws, the same values would look closer to normal.
    plain = noise_fits.best_lambda(
        counts, noise_fits.log_densities(np.array([1.0]), 0.0)
    )
    if shape == 0.0:  # the other one is close to normal as it is
        assert abs(plain - shape) > 0.04


def test_figure(found, tmp_path) -> None:
    calibration_figure(found, tmp_path / "noise.png")
    assert (tmp_path / "noise.png").read_bytes().startswith(b"\x89PNG")


def test_hot_pixels_are_left_out(found) -> None:
    image = NOISY.copy()
    y, x = np.random.default_rng(8).integers(0, SIDE, (2, 10))
    image[y, x] = 600.0
    image[80, 81] = 1e5
    with pytest.warns(UserWarning, match="^11 pixels were left out of 25600"):
        model = calibrate_noise(image)
    for name in ("pointwise_lambda", "scan_length", "high"):
        expected = getattr(found.model, name)
        assert getattr(model, name) == pytest.approx(expected, rel=0.05)
    assert model.scan_sd(5.0) == pytest.approx(found.model.scan_sd(5.0), rel=0.03)
    assert model.pointwise_sd(120) == pytest.approx(
        found.model.pointwise_sd(120), rel=0.01
    )


def test_clipped_pixels_give_a_warning() -> None:
    assert not prepare_frames(NOISY, 1, "haadf", None).warnings
    (text,) = prepare_frames(np.minimum(NOISY, 180.0), 1, "haadf", None).warnings
    assert re.match(r"2.\d % of the pixels are clipped, at the largest value", text)
    assert "`high` is a lower bound" in text


def test_a_signal_is_its_images() -> None:
    signal = SimpleNamespace(
        data=np.stack([NOISY, NOISY]), axes_manager=SimpleNamespace(signal_dimension=2)
    )
    given = prepare_frames(signal, 1, "haadf", ["a", "b"])
    assert [frame.name for frame in given.frames] == ["a", "b"]
    assert len(prepare_frames([signal, NOISY], 1, "haadf", None).frames) == 3
    signal.axes_manager.signal_dimension = 1
    with pytest.raises(CalibrationError, match="the signal has 1 signal axes"):
        prepare_frames(signal, 1, "haadf", None)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"fast_axis": True}])
def test_options_that_cannot_be_meant(wrong: dict) -> None:
    with pytest.raises(CalibrationError, match=f"{next(iter(wrong))} is .*, wanted"):
        calibrate(NOISY, **wrong)
