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


"""Bright-field images of columns of atoms by wave optics.

Bright field is interference: a column is dark or bright by thickness, focus and what
stands beside it, so no sum of spots describes it. This is a multislice calculation that
is cheap enough to draw training scenes with, because of two shortcuts that are derived
and compared with abTEM in docs/stem/bright_field.md:

* Reciprocity (Cowley, Appl. Phys. Lett. 15, 58 (1969)). What a detector on the axis
  records while a focused probe is scanned is what a camera records of the specimen in a
  parallel beam, through the aperture of the probe. So a whole image takes one wave for
  each direction of the detector, not one for each position of the probe.
* Thermal motion in the transmission of an atom, averaged over its positions. What it
  scatters out of the average wave is lost, as if absorbed.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
from scipy import constants
from scipy import fft
from scipy.special import j0

from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import Projection

_SLICE = 4.0  # Å along the beam; thinner slices change no image of the comparison
_BAND = 2.5  # scattering that is followed, over the aperture's
_FIELD = 4.0  # Å beside an image that its waves come from, with no specimen between
_TILE = 40.0  # Å; larger images are put together of such pieces
_RADII = np.linspace(0.0, 6.0, 601)  # Å, of an atom
_WAVES = np.linspace(0.0, 8.0, 401)  # 1/Å, of its scattering


@dataclass(frozen=True)
class BrightField:
    """Microscope of a bright-field image.

    Args:
        energy: Of the electrons, keV.
        semiangle: Of the probe, mrad.
        detector: Semiangle of the detector, mrad; 0 is a point on the axis.
        defocus: How far below the first atoms the probe is focused, Å.
        source: Standard deviation of the image of the source, Å.
        rings: Of directions in the detector, 6, 12, 18 .. of them: the cost.

    Raises:
        CrystalError: No microscope is like that.
    """

    energy: float = 200.0
    semiangle: float = 22.0
    detector: float = 11.0
    defocus: float = 0.0
    source: float = 0.0
    rings: int = 2

    def __post_init__(self) -> None:
        if not 20 <= self.energy <= 2000:
            raise CrystalError(f"energy is {self.energy} keV, wanted 20 to 2000")
        if not 0 < self.semiangle <= 100 or not 0 <= self.detector <= self.semiangle:
            raise CrystalError(
                f"semiangle {self.semiangle} mrad with a detector of {self.detector} "
                "mrad; wanted 0 to 100, and a detector inside the undisturbed probe"
            )
        if not math.isfinite(self.defocus) or not 0 <= self.source < math.inf:
            raise CrystalError(
                f"defocus {self.defocus} Å, source {self.source} Å; wanted finite "
                "lengths, the source not below 0"
            )
        if not 1 <= self.rings <= 8:
            raise CrystalError(f"rings is {self.rings}, wanted 1 to 8")

    def reach(self, thickness: float) -> float:
        """Return how far beside an image columns must be known, Å."""
        spread = 1e-3 * self.semiangle * (thickness + abs(self.defocus))
        return _FIELD + spread + 3 * self.source


def bright_field(
    projection: Projection,
    microscope: BrightField = BrightField(),
    thermal: np.ndarray | float = 0.08,
) -> np.ndarray:
    """Return the bright-field image of columns of atoms.

    Args:
        projection: The columns, known ``microscope.reach(thickness)`` beyond the
            image; where they are not, the specimen ends.
        microscope: How it is looked at.
        thermal: Root mean square displacement of the atoms along one direction, Å, of
            each element [E] or of all.

    Returns:
        Part of the probe's electrons on the detector, over that without a specimen
        [H, W].
    """
    thermal = np.broadcast_to(thermal, len(projection.elements))
    image = np.empty(projection.shape)
    rows, columns = (_pieces(n, projection.pixel_size) for n in projection.shape)
    for row in rows:
        for column in columns:
            image[row, column] = _piece(projection, microscope, thermal, row, column)
    return image


def _pieces(size: int, pixel_size: float) -> list[slice]:
    count = max(1, math.ceil(size * pixel_size / _TILE))
    ends = np.linspace(0, size, count + 1).astype(int).tolist()
    return [slice(first, last) for first, last in zip(ends, ends[1:])]


def _piece(
    projection: Projection,
    microscope: BrightField,
    thermal: np.ndarray,
    rows: slice,
    columns: slice,
) -> np.ndarray:
    """Return a rectangle of an image."""
    pixel = projection.pixel_size
    wavelength = electron_wavelength(microscope.energy)
    edge = 1e-3 * microscope.semiangle / wavelength  # of the aperture, 1/Å
    reach = microscope.reach(projection.thickness)
    origin = np.array([rows.start, columns.start]) * pixel - reach
    size = np.array([rows.stop - rows.start, columns.stop - columns.start]) * pixel
    size = size + 2 * reach
    # Two thirds of the frequencies of the grid stay: the product of two functions
    # with that many does not fold back onto them.
    points = [fft.next_fast_len(math.ceil(s * 3 * _BAND * edge)) for s in size]
    q_y, q_x = (fft.fftfreq(n, s / n) for n, s in zip(points, size))
    upright = q_y[:, None] ** 2 + q_x**2
    band = upright < (_BAND * edge) ** 2
    layers = max(1, round(projection.thickness / _SLICE))
    phase = _phase(projection, microscope, thermal, origin, size, (q_y, q_x), band)
    transmission = fft.ifft2(band * fft.fft2(np.exp(1j * phase / layers)))
    transmission = transmission.astype(np.complex64)
    step = projection.thickness / layers
    intensity = np.zeros(points, dtype=np.float32)
    radius = 1e-3 * microscope.detector / wavelength
    for tilt_y, tilt_x, weight in _directions(radius, microscope.rings):
        # The wave of a tilted beam is that of an upright one in shifted frequencies.
        square = (q_y[:, None] + tilt_y) ** 2 + (q_x + tilt_x) ** 2
        chirp = -1j * np.pi * wavelength * square
        propagator = (band * np.exp(step * chirp)).astype(np.complex64)
        # An edge as wide as the frequencies are apart: a sharp one would make rings
        # around atoms that are wider than the grid.
        inside = np.clip(0.5 + (edge - np.sqrt(square)) * size.min(), 0, 1)
        lens = inside * np.exp(-microscope.defocus * chirp)
        wave = transmission
        for _ in range(layers - 1):
            wave = transmission * fft.ifft2(propagator * fft.fft2(wave))
        wave = fft.ifft2(lens.astype(np.complex64) * fft.fft2(wave))
        intensity += weight * (wave.real**2 + wave.imag**2)
    series = fft.fft2(intensity) / intensity.size
    series = series * np.exp(-2 * np.pi**2 * microscope.source**2 * upright)
    # The image has no frequency beyond twice the aperture's.
    few_y, few_x = (np.flatnonzero(np.abs(q) <= 2 * edge) for q in (q_y, q_x))
    y, x = (reach + pixel * np.arange(s.stop - s.start) for s in (rows, columns))
    along_y = np.exp(2j * np.pi * np.outer(y, q_y[few_y]))
    along_x = np.exp(2j * np.pi * np.outer(q_x[few_x], x))
    return (along_y @ series[np.ix_(few_y, few_x)] @ along_x).real


def _directions(radius: float, rings: int) -> Iterator[tuple[float, float, float]]:
    """Yield y, x and weight of points that stand for a disc.

    Rings at the nodes of Gauss in the square of the radius, with 6, 12, 18 .. points.
    Each has its opposite: in a thin specimen what is odd in the direction cancels.
    """
    if not radius:
        yield 0.0, 0.0, 1.0
        return
    nodes, weights = np.polynomial.legendre.leggauss(rings)
    for ring, (node, weight) in enumerate(zip(nodes, weights)):
        around, count = radius * math.sqrt((1 + node) / 2), 6 * (ring + 1)
        for number in range(count):
            angle = 2 * math.pi * (number + ring / 4) / count
            share = weight / 2 / count
            yield around * math.sin(angle), around * math.cos(angle), share


def _phase(
    projection: Projection,
    microscope: BrightField,
    thermal: np.ndarray,
    origin: np.ndarray,
    size: np.ndarray,
    frequencies: tuple[np.ndarray, np.ndarray],
    band: np.ndarray,
) -> np.ndarray:
    """Return the complex phase of all atoms along the beam, on the grid of a piece."""
    q_y, q_x = frequencies
    y, x = projection.y - origin[0], projection.x - origin[1]
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    radius = np.sqrt(q_y[:, None] ** 2 + q_x**2)
    total = np.zeros(band.shape, dtype=complex)
    for element, symbol in enumerate(projection.elements):
        counts = projection.counts[:, element]
        own = inside & (counts > 0)
        # Atoms off the line of their column widen it by a Gaussian, and a Gaussian is
        # the product of its profiles, like the phases of a position.
        square = 2 * np.pi**2 * projection.spread[own] ** 2
        of_y = np.exp(-np.outer(q_y, 2j * np.pi * y[own]) - np.outer(q_y**2, square))
        of_x = np.exp(-np.outer(2j * np.pi * x[own], q_x) - np.outer(square, q_x**2))
        factor = scattering_factor(symbol, microscope.energy, float(thermal[element]))
        total += np.interp(radius, _WAVES, factor) * (of_y * counts[own] @ of_x)
    return fft.ifft2(band * total) * (total.size / size.prod())


@functools.lru_cache(maxsize=512)
def scattering_factor(symbol: str, energy: float, thermal: float) -> np.ndarray:
    """Return how an atom shifts the phase of a wave, by frequency.

    That is the Fourier transform of ``-i log <exp(i v)>``, with ``v`` the phase of the
    atom at rest and the mean over its thermal positions. The real part is the phase;
    the imaginary part is what thermal motion takes out of the wave.

    Source: scattering factors of Doyle and Turner, Acta Cryst. A24, 390 (1968), and
    Smith and Burge, Acta Cryst. 15, 182 (1962), as tabled by pymatgen.

    Args:
        symbol: Of the element.
        energy: keV.
        thermal: Root mean square displacement along one direction, Å.

    Returns:
        Å^2 at the frequencies 0, 0.02 .. 8 1/Å [401].

    Raises:
        CrystalError: There is no table for the element.
    """
    if symbol not in _tables():
        raise CrystalError(f"no scattering factors are known for the element {symbol}")
    rest = constants.m_e * constants.c**2 / constants.e * 1e-3  # keV
    strength = electron_wavelength(energy) * (1 + energy / rest)
    phase = sum(
        strength * 4 * np.pi * a / b * np.exp(-4 * np.pi**2 * _RADII**2 / b)
        for a, b in _tables()[symbol]
        if b
    )
    forth = 2 * np.pi * _RADII * _RADII[1]
    back = 2 * np.pi * _WAVES * _WAVES[1]
    smear = np.exp(-2 * np.pi**2 * thermal**2 * _WAVES**2)
    scattered = smear * _product(_bessel(), forth * np.expm1(1j * phase))
    mean = 1 + _product(_bessel().T, back * scattered)
    return _product(_bessel(), forth * (-1j * np.log(mean)))


def _product(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a real matrix times complex values [n], without a complex matrix."""
    real = matrix @ np.stack([values.real, values.imag], axis=1)
    return real[:, 0] + 1j * real[:, 1]


@functools.lru_cache(maxsize=1)
def _bessel() -> np.ndarray:
    return j0(2 * np.pi * np.outer(_WAVES, _RADII))


@functools.lru_cache(maxsize=1)
def _tables() -> dict[str, list[list[float]]]:
    """Return amplitudes and widths [4, 2] of each element's Gaussians, Å and Å^2."""
    file = resources.files("pymatgen.analysis.diffraction")
    text = file.joinpath("atomic_scattering_params.json").read_text(encoding="utf-8")
    return json.loads(text)


def electron_wavelength(energy: float) -> float:
    """Return the wavelength of electrons, Å, of an energy in keV."""
    joule = 1e3 * constants.e * energy
    momentum = math.sqrt(joule * (2 * constants.m_e + joule / constants.c**2))
    return constants.h / momentum * 1e10
