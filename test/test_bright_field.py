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

"""Bright field by wave optics against scanning, averaging, and abTEM."""

from pathlib import Path

import numpy as np
import pytest
from ase.data import atomic_numbers

from ppmat.stem.scenes import bright_field as module
from ppmat.stem.scenes.bright_field import BrightField
from ppmat.stem.scenes.bright_field import bright_field
from ppmat.stem.scenes.bright_field import electron_wavelength
from ppmat.stem.scenes.bright_field import scattering_factor
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import Projection

ABTEM = Path(__file__).parent / "data" / "bright_field_abtem.npz"
SHAPE, PIXEL = (20, 24), 0.25


def projection(seed=0, thickness=7.0, elements=("Sr", "O"), count=9, **changes):
    """Return columns at random places, within the image and around it."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((count, len(elements)))
    counts[np.arange(count), rng.integers(0, len(elements), count)] = thickness / 3.5
    values = {
        "y": rng.uniform(0, SHAPE[0] * PIXEL, count),
        "x": rng.uniform(0, SHAPE[1] * PIXEL, count),
        "counts": counts,
        "full": counts.sum(axis=1),
        "spread": np.zeros(count),
        "elements": elements,
        "numbers": np.array([atomic_numbers[symbol] for symbol in elements]),
        "shape": SHAPE,
        "pixel_size": PIXEL,
        "margin": 0.0,
        "thickness": thickness,
    }
    return Projection(**{**values, **changes})


def scanned(columns, microscope, thermal, places, angle=(0.0, 0.0)):
    """Return what a detector at one angle sees, by scanning the probe [P].

    The way round that a microscope has: a focused probe at each place goes through the
    slices, and the far field is looked at. On a grid of its own.
    """
    wavelength = electron_wavelength(microscope.energy)
    box, points = 22.0, 176
    q = np.fft.fftfreq(points, box / points)
    square = q[:, None] ** 2 + q**2
    shift = (box - np.array(columns.shape) * columns.pixel_size) / 2
    phase = np.zeros((points, points), dtype=complex)
    for element, symbol in enumerate(columns.elements):
        factor = scattering_factor(symbol, microscope.energy, thermal)
        shape = np.interp(np.sqrt(square), module._FREQUENCIES, factor)
        for y, x, count in zip(columns.y, columns.x, columns.counts[:, element]):
            turn = q[:, None] * (y + shift[0]) + q * (x + shift[1])
            phase += count * shape * np.exp(-2j * np.pi * turn)
    edge = 1e-3 * microscope.semiangle / wavelength
    band = square < (2.5 * edge) ** 2
    phase = np.fft.ifft2(phase * band) * (points / box) ** 2
    layers = max(1, round(columns.thickness / 4))
    transmission = np.exp(1j * phase / layers)
    transmission = np.fft.ifft2(band * np.fft.fft2(transmission))
    step = columns.thickness / layers
    propagator = band * np.exp(-1j * np.pi * wavelength * step * square)
    lens = (square < edge**2) * np.exp(
        1j * np.pi * wavelength * microscope.defocus * square
    )
    seen = []
    for y, x in places:
        turn = q[:, None] * (y + shift[0]) + q * (x + shift[1])
        wave = np.fft.ifft2(lens * np.exp(-2j * np.pi * turn))
        for layer in range(layers):
            wave = wave * transmission
            if layer < layers - 1:
                wave = np.fft.ifft2(propagator * np.fft.fft2(wave))
        near = [int(np.argmin(np.abs(q - 1e-3 * a / wavelength))) for a in angle]
        seen.append(np.abs(np.fft.fft2(wave)[near[0], near[1]]) ** 2)
    return np.array(seen)


@pytest.mark.parametrize("thickness, defocus", [(3.0, 0.0), (14.0, -12.0)])
def test_a_parallel_beam_sees_what_a_scanned_probe_does(thickness, defocus):
    columns = projection(thickness=thickness)
    microscope = BrightField(detector=0.0, defocus=defocus, semiangle=20.0)
    rows, cols = np.array([[3, 5], [9, 12], [16, 20], [10, 2]]).T
    wanted = scanned(columns, microscope, 0.08, PIXEL * np.stack([rows, cols], 1))
    found = bright_field(columns, microscope, 0.08)[rows, cols]
    assert np.ptp(wanted) > 0.02
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.ptp(wanted))
    # The twin that is focused at the other side of the specimen.
    other = BrightField(detector=0.0, defocus=defocus + 2 * thickness, semiangle=20.0)
    twin = bright_field(columns, other, 0.08)[rows, cols]
    assert np.abs(twin - wanted).max() > 0.2 * np.ptp(wanted)


def test_the_thermal_mean_is_that_of_displaced_atoms():
    rng, thermal, energy = np.random.default_rng(0), 0.1, 100.0
    radii = np.array([0.0, 0.05, 0.15, 0.4])
    moved = rng.normal(0, thermal, (200_000, 2))
    waves, still = module._FREQUENCIES, scattering_factor("Au", energy, 0.0)
    assert np.abs(still.imag).max() < 1e-2 * still.real.max()
    bessel = module._bessel()
    back = 2 * np.pi * waves * waves[1]
    phase = (back * still.real) @ bessel
    far = np.hypot(radii[:, None] + moved[:, 0], moved[:, 1])
    mean = np.exp(1j * np.interp(far, module._RADII, phase)).mean(axis=1)
    factor = scattering_factor("Au", energy, thermal)
    found = np.exp(1j * np.interp(radii, module._RADII, (back * factor) @ bessel))
    np.testing.assert_allclose(found, mean, atol=0.02)
    assert np.abs(found[0]) < 0.8  # motion takes much out of the wave
    smeared = still * np.exp(-2 * (np.pi * thermal * waves) ** 2)
    twin = np.exp(1j * ((back * smeared) @ bessel)[0])
    assert abs(twin - mean[0]) > 0.2


@pytest.mark.parametrize(
    "name, microscope, least",
    [
        ("bto", BrightField(), 0.96),
        ("mos2", BrightField(energy=80.0, defocus=-3.0), 0.98),
    ],
)
def test_images_are_those_of_abtem(name, microscope, least):
    file = np.load(ABTEM)
    image, counts = file[f"{name}_image"].astype(float), file[f"{name}_counts"]
    pixel, thickness = file[f"{name}_lengths"]
    columns = projection(
        y=file[f"{name}_y"].astype(float),
        x=file[f"{name}_x"].astype(float),
        counts=counts.astype(float),
        full=counts.sum(axis=1),
        spread=np.zeros(len(counts)),
        elements=tuple(file[f"{name}_elements"]),
        shape=image.shape,
        pixel_size=float(pixel),
        thickness=float(thickness),
    )
    found = bright_field(columns, microscope)
    slope, level = np.polyfit(found.ravel(), image.ravel(), 1)
    left = image - slope * found - level
    assert 1 - left.var() / image.var() > least
    # The detector holds a quarter of the probe.
    assert slope == pytest.approx(0.25, rel=0.15)


def test_nothing_in_the_way_changes_nothing():
    columns = projection()
    empty = columns.select(slice(None), counts=np.zeros_like(columns.counts))
    np.testing.assert_allclose(bright_field(empty), 1.0, atol=1e-5)


def test_pieces_fit_together(monkeypatch):
    columns = projection(thickness=12.0, count=14)
    whole = bright_field(columns)
    monkeypatch.setattr(module, "_TILE", 2.6)
    pieces = bright_field(columns)
    assert not np.array_equal(whole, pieces)
    np.testing.assert_allclose(pieces, whole, atol=0.05 * np.ptp(whole))
    assert np.sqrt(np.mean((pieces - whole) ** 2)) < 0.05 * whole.std()


def test_the_image_turns_with_the_columns():
    columns = projection(thickness=12.0)
    high, wide = (np.array(SHAPE) - 1) * PIXEL
    turned = projection(thickness=12.0, y=high - columns.y, x=wide - columns.x)
    image = bright_field(columns, BrightField(defocus=10.0))
    other = bright_field(turned, BrightField(defocus=10.0))
    np.testing.assert_allclose(other[::-1, ::-1], image, atol=0.01 * np.ptp(image))


def test_a_source_blurs_and_a_spread_weakens():
    columns = projection(thickness=12.0)
    sharp, blurred = (bright_field(columns, BrightField(source=s)) for s in (0, 0.5))
    assert blurred.std() < 0.9 * sharp.std()
    spread = columns.select(slice(None), spread=np.full(len(columns), 0.3))
    assert bright_field(spread).std() < 0.9 * sharp.std()


def test_more_rings_change_little():
    columns = projection(thickness=12.0)
    coarse, fine, finest = (
        bright_field(columns, BrightField(rings=r)) for r in (1, 2, 4)
    )
    errors = [np.abs(image - finest).max() / np.ptp(finest) for image in (coarse, fine)]
    assert errors[1] < 0.15 and errors[1] < errors[0] < 0.5


def test_wavelengths():
    # Williams and Carter, Transmission Electron Microscopy, table 1.2.
    assert electron_wavelength(200) == pytest.approx(0.0251, abs=5e-5)
    assert electron_wavelength(80) == pytest.approx(0.0418, abs=5e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"energy": 200e3}, "energy is 200000.0 keV"),
        ({"semiangle": 0}, "semiangle 0 mrad"),
        ({"detector": 30}, "inside the undisturbed probe"),
        ({"defocus": float("nan")}, "defocus nan"),
        ({"source": -1}, "source -1"),
        ({"rings": 0}, "rings is 0"),
    ],
)
def test_microscopes_that_cannot_be(options, message):
    with pytest.raises(CrystalError, match=message):
        BrightField(**options)


def test_an_element_without_a_table_is_named():
    with pytest.raises(CrystalError, match="known for the element Og"):
        scattering_factor("Og", 200.0, 0.08)
