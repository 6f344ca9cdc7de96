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

"""Multislice simulations with abTEM, to check the fast images of crystals.

abTEM is GPL and needs Python 3.11 and numpy 2. Install it with
``pip install 'ppmat[abtem]'``; nothing else imports it.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.fft import next_fast_len

from ppmat.stem.scenes.bright_field import electron_wavelength
from ppmat.stem.scenes.crystal import displacements
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import View
from ppmat.stem.scenes.projection import index_grid
from ppmat.stem.scenes.projection import rotation_matrix
from ppmat.stem.scenes.projection import specimen_layers
from ppmat.stem.scenes.projection import view_along

HAADF = (70.0, 180.0)  # mrad; inner and outer angle of the detector
BF = (0.0, 11.0)
_FIELD = 10.0  # lateral size of the wave, in wavelengths over semiangle
_VACUUM = 10.0  # Å beside a specimen that ends in the image
_SPACE = 2.0  # Å above and below a specimen that ends along the beam
_MAX_CELLS = 6  # repeats combined to a rectangular cell
_TOLERANCE = 0.02  # Å by which a rectangular cell may deviate from the lattice
_BLOCK = 65536  # positions for which a Fourier series is summed at once


def simulate_images(
    structure: Any,
    shape: tuple[int, int],
    pixel_size: float,
    zone_axis: Sequence[int] = (0, 0, 1),
    *,
    direction: Sequence[float] | None = None,
    thickness: float | None = None,
    rotation: float = 0.0,
    offset: tuple[float, float] = (0.0, 0.0),
    energy: float = 200.0,
    semiangle: float = 22.0,
    haadf: tuple[float, float] = HAADF,
    bf: tuple[float, float] = BF,
    defocus: float = 0.0,
    spherical: float = 0.0,
    source: float = 0.0,
    phonons: int = 4,
    thermal: float | Mapping[str, float] = 0.08,
    slice_thickness: float = 1.0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return the images of a scanned probe, in the field of view of ``crystal_scene``.

    One cell is scanned at the Nyquist rate of the probe and continued by its Fourier
    series, so a perfect crystal takes seconds. A specimen without repeats is scanned
    as a whole, with vacuum around it.

    Args:
        structure: See :func:`ppmat.stem.scenes.projection.project`, also for
            ``shape`` to ``offset``; all sites fully occupied.
        shape: ``(H, W)``, pixels.
        pixel_size: Å.
        zone_axis: [uvw].
        direction: Cartesian instead.
        thickness: Of a crystal, Å.
        rotation: Degrees.
        offset: Å ``(y, x)``.
        energy: Of the electrons, keV.
        semiangle: Convergence semiangle of the probe, mrad.
        haadf: Inner and outer angle of the detector, mrad.
        bf: The same.
        defocus: Å.
        spherical: Third-order spherical aberration, Å.
        source: Standard deviation of the source's image, Å.
        phonons: Frozen-phonon configurations; 0 keeps the atoms at rest.
        thermal: Root mean square displacement along one direction, Å: one value, or
            one for each element.
        slice_thickness: Å. Slices as thick as the distance of a column's atoms change
            intensities by a tenth.
        seed: Of the displacements.

    Returns:
        ``haadf`` and ``bf``, fractions of the beam [H, W].

    Raises:
        ImportError: abTEM is not installed.
        CrystalError: See ``project``; partly occupied sites; repeats that fit no
            rectangular cell.
    """
    try:
        import abtem
    except ImportError as error:
        raise ImportError(
            "images by multislice simulation need abTEM (GPL; Python 3.11 or later): "
            "pip install 'ppmat[abtem]'"
        ) from error
    view = view_along(structure, zone_axis, direction)
    wavelength = electron_wavelength(energy)
    field = _FIELD * wavelength / (semiangle * 1e-3)
    lengths, atoms, padded = _box(view, thickness, field)
    block = atoms.cell.lengths()[:2]
    with abtem.config.set(
        {
            "fft": "fftw" if importlib.util.find_spec("pyfftw") else "numpy",
            "diagnostics.progress_bar": False,
        }
    ):
        if phonons:
            symbols = sorted(set(atoms.get_chemical_symbols()))
            sigmas = dict(zip(symbols, displacements(symbols, thermal).tolist()))
            atoms = abtem.FrozenPhonons(atoms, phonons, sigmas=sigmas, seed=seed)
        # abTEM keeps two thirds of the spectrum after each slice.
        fine = 0.98 * 2 / 3 * wavelength / (2e-3 * haadf[1])
        potential = abtem.Potential(
            atoms,
            gpts=tuple(_fast_length(length / fine) for length in block),
            slice_thickness=slice_thickness,
        )
        probe = abtem.Probe(
            energy=1e3 * energy,
            semiangle_cutoff=semiangle,
            defocus=defocus,
            Cs=spherical,
        )
        images = scan_images(probe, potential, lengths, haadf, bf)
    where = _pixels(shape, pixel_size, rotation, offset, lengths, padded)
    return {
        name: periodic_values(image, lengths, where, source)
        for name, image in images.items()
    }


def scan_images(
    probe: Any,
    potential: Any,
    lengths: np.ndarray,
    haadf: tuple[float, float] = HAADF,
    bf: tuple[float, float] = BF,
) -> dict[str, np.ndarray]:
    """Scan a probe over one period at the Nyquist rate.

    Args:
        probe: ``abtem.Probe``.
        potential: ``abtem.Potential``.
        lengths: Of the period, Å [2].
        haadf: Inner and outer angle of the detector, mrad.
        bf: The same.

    Returns:
        ``haadf`` and ``bf``, fractions of the beam [x, y].
    """
    import abtem

    step = float(probe.aperture.nyquist_sampling)
    scan = abtem.GridScan(
        start=(0.0, 0.0),
        end=tuple(lengths),
        gpts=tuple(int(math.ceil(length / step)) for length in lengths),
        endpoint=False,
    )
    detectors = [abtem.AnnularDetector(*haadf), abtem.AnnularDetector(*bf)]
    measured = probe.scan(potential, detectors=detectors, scan=scan).compute()
    return dict(zip(("haadf", "bf"), (np.asarray(image.array) for image in measured)))


def _fast_length(least: float) -> int:
    """Return the next number whose prime factors are 2, 3 and 5."""
    return next_fast_len(int(math.ceil(least)), real=True)


def _box(
    view: View, thickness: float | None, field: float
) -> tuple[np.ndarray, Any, np.ndarray]:
    """Return the atoms of a rectangular box for the wave.

    Args:
        view: The structure along the beam.
        thickness: Of a crystal, Å.
        field: Lateral size that the wave needs, Å.

    Returns:
        Sides of the scanned cell, Å [2]; the atoms of all cells; and whether each side
        ends in vacuum [2].
    """
    from ase import Atoms

    if (view.occupancies < 1).any():
        raise CrystalError(
            f"{int((view.occupancies < 1).sum())} sites are partly occupied; a "
            "simulation needs whole atoms: order the structure first"
        )
    layers, _ = specimen_layers(view, thickness)
    low, high = view.positions.min(axis=0), view.positions.max(axis=0)
    positions, cell = view.positions.copy(), np.zeros((3, 3))
    if view.along is None:
        positions[:, 2] += _SPACE - low[2]
        cell[2, 2] = high[2] - low[2] + 2 * _SPACE
    else:
        cell[2, 2] = view.along
    cell[: len(view.repeats)] = view.repeats
    padded = np.arange(2) >= len(view.repeats)
    for axis in np.flatnonzero(padded):
        cell[axis, axis] = high[axis] - low[axis] + 2 * _VACUUM
    atoms = Atoms(view.numbers, positions, cell=cell, pbc=True)
    if len(view.repeats) == 2:
        atoms = _rectangular(atoms, cell)
    elif len(view.repeats) == 1:
        times = _upright(cell[0], cell[2, 2], view.along is None)
        atoms = atoms.repeat((times, 1, 1))
        atoms.set_cell(np.diag([times * cell[0, 0], cell[1, 1], cell[2, 2]]))
    atoms.wrap()
    lengths = atoms.cell.lengths()[:2]
    times = np.where(padded, 1, np.ceil(field / lengths)).astype(int)
    return lengths, atoms.repeat((*times.tolist(), layers)), padded


def _upright(repeat: np.ndarray, height: float, ends: bool) -> int:
    """Return the number of repeats that end at their starting height."""
    for times in range(1, _MAX_CELLS + 1):
        rise = times * repeat[2]
        if abs(rise if ends else rise - height * round(rise / height)) < _TOLERANCE:
            return times
    raise CrystalError(
        "the structure is sheared along the beam, so no rectangular cell holds it; "
        "choose a beam across the slab or along a lattice vector of the surface"
    )


def _rectangular(atoms: Any, cell: np.ndarray) -> Any:
    """Return the smallest rectangular cell that repeats can be combined to.

    Args:
        atoms: In the cell of the view.
        cell: Rows: two repeats across the beam, one along it, Å [3, 3].
    """
    steps = np.arange(-_MAX_CELLS, _MAX_CELLS + 1)
    vectors = index_grid(steps, steps) @ cell[:2]
    height = cell[2, 2]
    rise = np.abs(vectors[:, 2] - height * np.rint(vectors[:, 2] / height))
    good = (rise < _TOLERANCE) & (np.abs(vectors[:, :2]).sum(axis=1) > 0)
    flat = vectors[good][:, :2]
    lengths = np.linalg.norm(flat, axis=1)
    cosine = np.abs(flat @ flat.T) / np.outer(lengths, lengths)
    area = np.outer(lengths, lengths)
    # The ends of the sides may deviate from a right angle by the tolerance.
    area[cosine * np.maximum.outer(lengths, lengths) > _TOLERANCE] = np.inf
    # Along x and y, so that the axes of the image stay.
    area[np.abs(flat[:, 1]) > _TOLERANCE] = np.inf
    area[flat[:, 0] <= 0] = np.inf
    area[:, flat[:, 1] <= 0] = np.inf
    if not np.isfinite(area).any():
        raise CrystalError(
            "no rectangular cell of up to "
            f"{_MAX_CELLS} repeats along this axis; choose another zone axis"
        )
    first, second = np.unravel_index(area.argmin(), area.shape)
    size = np.array([flat[first, 0], flat[second, 1], height])
    # Repeat the old cell over the new one and keep the atoms inside.
    steps = np.arange(-2 * _MAX_CELLS, 2 * _MAX_CELLS + 1)
    moves = index_grid(steps, steps)
    places = (atoms.positions[:, None] + moves @ cell[:2]).reshape(-1, 3)
    numbers = np.repeat(atoms.numbers, len(moves))
    inside = np.all((places[:, :2] > -1e-4) & (places[:, :2] < size[:2] - 1e-4), axis=1)
    from ase import Atoms

    return Atoms(numbers[inside], places[inside], cell=np.diag(size), pbc=True)


def _pixels(
    shape: tuple[int, int],
    pixel_size: float,
    rotation: float,
    offset: tuple[float, float],
    lengths: np.ndarray,
    padded: np.ndarray,
) -> np.ndarray:
    """Return the positions (x, y) of the pixels in the scanned cell, Å [H, W, 2]."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    middle = (np.array(shape[::-1]) - 1) / 2
    place = (np.stack([columns, rows], axis=-1) - middle) * pixel_size
    place = place - np.asarray(offset, dtype=float)[::-1]
    place = place @ rotation_matrix(rotation).T
    # On a side that ends, the specimen has its middle at 0 and vacuum beyond.
    end = np.where(padded, lengths / 2, np.inf)
    place = np.clip(place, -end, end)
    return place % lengths


def periodic_values(
    image: np.ndarray, lengths: np.ndarray, where: np.ndarray, source: float = 0.0
) -> np.ndarray:
    """Return the values of a periodic image at any positions, by its Fourier series.

    Args:
        image: One period, sampled at least at the Nyquist rate [x, y].
        lengths: Of the period, Å [2].
        where: Positions (x, y), Å [H, W, 2].
        source: Standard deviation of a Gaussian blur, Å.

    Returns:
        Values [H, W].
    """
    q_x, q_y = (np.fft.fftfreq(n, a / n) for n, a in zip(image.shape, lengths))
    series = np.fft.fft2(image) / image.size
    series *= np.exp(-2 * (np.pi * source) ** 2 * (q_x[:, None] ** 2 + q_y**2))
    flat = where.reshape(-1, 2)
    values = np.empty(len(flat))
    for start in range(0, len(flat), _BLOCK):
        x, y = flat[start : start + _BLOCK].T
        along_x = np.exp(2j * np.pi * np.outer(x, q_x))
        along_y = np.exp(2j * np.pi * np.outer(y, q_y))
        block = np.sum((along_x @ series) * along_y, axis=1)
        values[start : start + _BLOCK] = block.real
    return values.reshape(where.shape[:2])
