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

"""Bright-field images of atomic columns by wave optics.

Bright field is interference. Thickness, focus and neighbours decide whether a column is
dark or bright, so no sum of spots describes the image. This multislice calculation is
fast enough for training scenes because of two approximations. They are derived and
compared with abTEM in docs/stem/bright_field.md:

* Reciprocity (Cowley, Appl. Phys. Lett. 15, 58 (1969)). A detector on the axis and a
  scanned focused probe give the same image as a parallel beam and a camera behind the
  aperture of the probe. So an image takes one wave for each direction of the detector,
  not one for each position of the probe.
* The transmission of an atom is averaged over its thermal positions. The intensity that
  thermal motion scatters out of the average wave is lost, as if absorbed.
"""

from __future__ import annotations

import functools
import itertools
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
_BAND_LIMIT = 2.5  # largest frequency of the waves, in units of the aperture's radius
_PROBE_REACH = 4.0  # Å beside the image that a focused probe at its edge still reaches
_TILE = 40.0  # Å; larger images are calculated in tiles of at most this size
_RADII = np.linspace(0.0, 6.0, 601)  # Å; distances from the nucleus
_FREQUENCIES = np.linspace(0.0, 8.0, 401)  # 1/Å; of the scattering factor


@dataclass(frozen=True)
class BrightField:
    """Microscope of a bright-field image.

    Raises:
        CrystalError: A value outside the range that the error names.
    """

    energy: float = 200.0  # of the electrons, keV
    semiangle: float = 22.0  # convergence semiangle of the probe, mrad
    detector: float = 11.0  # semiangle of the detector, mrad; 0: a point on the axis
    defocus: float = 0.0  # depth of the probe's focus below the first atoms, Å
    source: float = 0.0  # standard deviation of the image of the source, Å
    # Rings of directions that sample the detector, with 6, 12, 18 .. points. The
    # calculation time grows with the number of points.
    rings: int = 2

    def __post_init__(self) -> None:
        if not 20 <= self.energy <= 2000:
            raise CrystalError(f"energy is {self.energy} keV", wanted="20 to 2000")
        if not 0 < self.semiangle <= 100 or not 0 <= self.detector <= self.semiangle:
            raise CrystalError(
                f"semiangle {self.semiangle} mrad, detector {self.detector} mrad",
                wanted="0 to 100, and a detector inside the undisturbed probe",
            )
        if not math.isfinite(self.defocus) or not 0 <= self.source < math.inf:
            raise CrystalError(
                f"defocus {self.defocus} Å, source {self.source} Å",
                wanted="finite lengths, the source not below 0",
            )
        if not 1 <= self.rings <= 8:
            raise CrystalError(f"rings is {self.rings}", wanted="1 to 8")

    def reach(self, thickness: float) -> float:
        """Return the width of the strip around an image that affects it, Å."""
        spread = 1e-3 * self.semiangle * (thickness + abs(self.defocus))
        return _PROBE_REACH + spread + 3 * self.source


def bright_field(
    projection: Projection,
    microscope: BrightField = BrightField(),
    thermal: np.ndarray | float = 0.08,
) -> np.ndarray:
    """Return the bright-field image of atomic columns.

    Args:
        projection: The columns. They should be known ``microscope.reach(thickness)``
            beyond the image; beyond them the specimen ends.
        microscope: The imaging conditions.
        thermal: Root mean square displacement of the atoms along one direction, Å, for
            each element [E] or one for all.

    Returns:
        Intensity on the detector relative to that without a specimen [H, W].
    """
    thermal = np.broadcast_to(thermal, len(projection.elements))
    image = np.empty(projection.shape)
    tiles = []  # along each axis
    for size in projection.shape:
        count = max(1, math.ceil(size * projection.pixel_size / _TILE))
        ends = np.linspace(0, size, count + 1).astype(int).tolist()
        tiles.append(map(slice, ends, ends[1:]))
    for tile in itertools.product(*tiles):
        image[tile] = _tile(projection, microscope, thermal, *tile)
    return image


def _tile(
    projection: Projection,
    microscope: BrightField,
    thermal: np.ndarray,
    rows: slice,
    columns: slice,
) -> np.ndarray:
    """Return a rectangle of the image."""
    pixel = projection.pixel_size
    wavelength = electron_wavelength(microscope.energy)
    edge = 1e-3 * microscope.semiangle / wavelength  # radius of the aperture, 1/Å
    reach = microscope.reach(projection.thickness)
    origin = np.array([rows.start, columns.start]) * pixel - reach
    size = np.array([rows.stop - rows.start, columns.stop - columns.start]) * pixel
    size = size + 2 * reach
    # The band limit is two thirds of the grid's largest frequency, so that products
    # of two functions do not alias into the band.
    points = [fft.next_fast_len(math.ceil(s * 3 * _BAND_LIMIT * edge)) for s in size]
    q_y, q_x = (fft.fftfreq(n, s / n) for n, s in zip(points, size))
    q_squared = q_y[:, None] ** 2 + q_x**2
    band = q_squared < (_BAND_LIMIT * edge) ** 2
    layers = max(1, round(projection.thickness / _SLICE))
    factors = [
        scattering_factor(symbol, microscope.energy, float(motion))
        for symbol, motion in zip(projection.elements, thermal)
    ]
    phase = _phase(projection, factors, origin, size, (q_y, q_x), band)
    transmission = fft.ifft2(band * fft.fft2(np.exp(1j * phase / layers)))
    transmission = transmission.astype(np.complex64)
    step = projection.thickness / layers
    intensity = np.zeros(points, dtype=np.float32)
    radius = 1e-3 * microscope.detector / wavelength
    for tilt_y, tilt_x, weight in _directions(radius, microscope.rings):
        # A tilted beam shifts the frequencies of the upright one.
        square = (q_y[:, None] + tilt_y) ** 2 + (q_x + tilt_x) ** 2
        chirp = -1j * np.pi * wavelength * square
        propagator = (band * np.exp(step * chirp)).astype(np.complex64)
        # The edge is as wide as the frequency step. A sharp edge would make rings
        # around atoms that are wider than the grid.
        inside = np.clip(0.5 + (edge - np.sqrt(square)) * size.min(), 0, 1)
        lens = inside * np.exp(-microscope.defocus * chirp)
        wave = transmission
        for _ in range(layers - 1):
            wave = transmission * fft.ifft2(propagator * fft.fft2(wave))
        wave = fft.ifft2(lens.astype(np.complex64) * fft.fft2(wave))
        intensity += weight * (wave.real**2 + wave.imag**2)
    series = fft.fft2(intensity) / intensity.size
    series = series * np.exp(-2 * np.pi**2 * microscope.source**2 * q_squared)
    # The image has no frequency above twice the radius of the aperture.
    few_y, few_x = (np.flatnonzero(np.abs(q) <= 2 * edge) for q in (q_y, q_x))
    y, x = (reach + pixel * np.arange(s.stop - s.start) for s in (rows, columns))
    along_y = np.exp(2j * np.pi * np.outer(y, q_y[few_y]))
    along_x = np.exp(2j * np.pi * np.outer(q_x[few_x], x))
    return (along_y @ series[np.ix_(few_y, few_x)] @ along_x).real


def _directions(radius: float, rings: int) -> Iterator[tuple[float, float, float]]:
    """Yield y, x and weight of quadrature points of a disc.

    The rings lie at the nodes of Gauss-Legendre quadrature in the squared radius, with
    6, 12, 18 .. points. Each point has its opposite, so that terms odd in the direction
    cancel in a thin specimen.
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
    factors: list[np.ndarray],
    origin: np.ndarray,
    size: np.ndarray,
    frequencies: tuple[np.ndarray, np.ndarray],
    band: np.ndarray,
) -> np.ndarray:
    """Return the sum of the complex phases of all atoms, radians [points_y, points_x].

    The grid begins at ``origin`` (y, x) and has a ``size``, both Å [2]. ``factors`` are
    those of the elements; frequencies outside ``band`` are removed.
    """
    q_y, q_x = frequencies
    y, x = projection.y - origin[0], projection.x - origin[1]
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    radius = np.sqrt(q_y[:, None] ** 2 + q_x**2)
    total = np.zeros(band.shape, dtype=complex)
    for counts, factor in zip(projection.counts.T, factors):
        own = inside & (counts > 0)
        # The scatter of a column's atoms widens it by a Gaussian. Gaussian and shift
        # are products of factors for y and x, so the sum is one matrix product.
        square = 2 * np.pi**2 * projection.spread[own] ** 2
        of_y = np.exp(-np.outer(q_y, 2j * np.pi * y[own]) - np.outer(q_y**2, square))
        of_x = np.exp(-np.outer(2j * np.pi * x[own], q_x) - np.outer(square, q_x**2))
        total += np.interp(radius, _FREQUENCIES, factor) * (of_y * counts[own] @ of_x)
    return fft.ifft2(band * total) * (total.size / size.prod())


@functools.lru_cache(maxsize=512)
def scattering_factor(symbol: str, energy: float, thermal: float) -> np.ndarray:
    """Return the Fourier transform of the phase that an atom adds to a wave, Å^2 [401].

    The frequencies are 0, 0.02 .. 8 1/Å. The energy is in keV. ``thermal`` is the root
    mean square displacement along one direction, Å.

    The phase is ``-i log <exp(i v)>``, with the mean over thermal positions of ``v``,
    the phase of the atom at rest. The imaginary part is the loss by thermal motion.

    Source: scattering factors of Doyle and Turner, Acta Cryst. A24, 390 (1968), and
    Smith and Burge, Acta Cryst. 15, 182 (1962), as tabulated by pymatgen.

    Raises:
        CrystalError: pymatgen has no scattering factors of the element.
    """
    if symbol not in _tables():
        raise CrystalError(f"no scattering factors are known for the element {symbol}")
    rest_energy = constants.m_e * constants.c**2 / constants.e * 1e-3  # keV
    strength = electron_wavelength(energy) * (1 + energy / rest_energy)
    phase = sum(
        strength * 4 * np.pi * a / b * np.exp(-4 * np.pi**2 * _RADII**2 / b)
        for a, b in _tables()[symbol]
        if b
    )
    forth = 2 * np.pi * _RADII * _RADII[1]
    back = 2 * np.pi * _FREQUENCIES * _FREQUENCIES[1]
    smear = np.exp(-2 * np.pi**2 * thermal**2 * _FREQUENCIES**2)
    scattered = smear * _product(_bessel(), forth * np.expm1(1j * phase))
    mean = 1 + _product(_bessel().T, back * scattered)
    return _product(_bessel(), forth * (-1j * np.log(mean)))


def _product(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a real matrix times complex values [n], without a complex matrix."""
    real = matrix @ np.stack([values.real, values.imag], axis=1)
    return real[:, 0] + 1j * real[:, 1]


@functools.cache
def _bessel() -> np.ndarray:
    return j0(2 * np.pi * np.outer(_FREQUENCIES, _RADII))


@functools.cache
def _tables() -> dict[str, list[list[float]]]:
    """Return amplitude (Å) and width (Å^2) of each element's Gaussians [4, 2]."""
    file = resources.files("pymatgen.analysis.diffraction")
    text = file.joinpath("atomic_scattering_params.json").read_text(encoding="utf-8")
    return json.loads(text)


def electron_wavelength(energy: float) -> float:
    """Return the relativistic wavelength of electrons, Å, for an energy in keV.

    Example:
        >>> round(electron_wavelength(200.0), 4)
        0.0251
    """
    joule = 1e3 * constants.e * energy
    momentum = math.sqrt(joule * (2 * constants.m_e + joule / constants.c**2))
    return constants.h / momentum * 1e10
