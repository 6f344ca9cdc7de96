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


"""Images by multislice simulation with abTEM, to check the fast model of crystals.

abTEM is GPL, needs Python 3.11 and numpy 2, and is imported by nothing but the function
here: ``pip install 'ppmat[abtem]'``.
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
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import View
from ppmat.stem.scenes.projection import rotation_matrix
from ppmat.stem.scenes.projection import specimen_layers
from ppmat.stem.scenes.projection import view_along

HAADF = (70.0, 180.0)  # mrad
BF = (0.0, 11.0)
_FIELD = 10.0  # wavelengths over semiangle that the wave needs sideways: its tails
_VACUUM = 10.0  # Å beside a specimen that ends in the image
_SPACE = 2.0  # Å above and below a specimen that ends along the beam
_MOST_CELLS = 6  # repeats combined to a rectangular cell
_SKEW = 0.02  # Å by which a rectangular cell may be off


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
    """Return the images of a scanned probe, with the frame of ``crystal_scene``.

    One cell is scanned at the Nyquist rate of the probe and continued by its Fourier
    series, so a perfect crystal takes seconds; a specimen without repeats is scanned
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
        semiangle: Of the probe, mrad.
        haadf: Inner and outer angle of the detector, mrad.
        bf: The same.
        defocus: Å.
        spherical: Third-order aberration, Å.
        source: Standard deviation of the source's image, Å.
        phonons: Frozen-phonon configurations; 0 keeps the atoms at rest.
        thermal: Root mean square displacement along one direction, Å; by element if
            they differ.
        slice_thickness: Å. Scattering by atoms of one column interferes, so slices as
            thick as the distance of its atoms change intensities by a tenth.
        seed: Of the displacements.

    Returns:
        ``haadf`` and ``bf`` [H, W], parts of the beam.

    Raises:
        ImportError: abTEM is not installed.
        CrystalError: See ``project``; sites that are partly occupied; repeats that fit
            no rectangular cell.
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
            sigmas = _sigmas(thermal, atoms.get_chemical_symbols())
            atoms = abtem.FrozenPhonons(atoms, phonons, sigmas=sigmas, seed=seed)
        # Two thirds of the spectrum stay after each slice.
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
        step = float(probe.aperture.nyquist_sampling)
        scan = abtem.GridScan(
            start=(0.0, 0.0),
            end=tuple(lengths),
            gpts=tuple(int(math.ceil(length / step)) for length in lengths),
            endpoint=False,
        )
        detectors = [abtem.AnnularDetector(*haadf), abtem.AnnularDetector(*bf)]
        measured = probe.scan(potential, detectors=detectors, scan=scan).compute()
    where = _pixels(shape, pixel_size, rotation, offset, lengths, padded)
    return {
        name: _continued(np.asarray(image.array), lengths, where, source)
        for name, image in zip(("haadf", "bf"), measured)
    }


def _fast_length(least: float) -> int:
    """Return the next number whose prime factors are 2, 3 and 5."""
    return next_fast_len(int(math.ceil(least)), real=True)


def _sigmas(
    thermal: float | Mapping[str, float], symbols: Sequence[str]
) -> dict[str, float]:
    if not isinstance(thermal, Mapping):
        return dict.fromkeys(symbols, float(thermal))
    missing = sorted(set(symbols) - set(thermal))
    if missing:
        raise CrystalError(f"thermal has no displacement for {', '.join(missing)}")
    return {symbol: float(thermal[symbol]) for symbol in set(symbols)}


def _box(
    view: View, thickness: float | None, field: float
) -> tuple[np.ndarray, Any, np.ndarray]:
    """Return the scanned cell, Å [2], the atoms, and which sides end in vacuum.

    The atoms are as many cells as the wave needs, ``field`` Å sideways.
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
    """Return how many repeats come back to the same place along the beam."""
    for times in range(1, _MOST_CELLS + 1):
        rise = times * repeat[2]
        if abs(rise if ends else rise - height * round(rise / height)) < _SKEW:
            return times
    raise CrystalError(
        "the structure is sheared along the beam, so no rectangular cell holds it; "
        "choose a beam across the slab or along a lattice vector of the surface"
    )


def _rectangular(atoms: Any, cell: np.ndarray) -> Any:
    """Return the smallest cell with right angles, by combining repeats.

    Args:
        atoms: In the cell of the view.
        cell: Its rows: two repeats across the beam, one along it, Å.
    """
    one = np.arange(-_MOST_CELLS, _MOST_CELLS + 1)
    grid = np.stack(np.meshgrid(one, one, indexing="ij"), axis=-1).reshape(-1, 2)
    vectors = grid @ cell[:2]
    height = cell[2, 2]
    rise = np.abs(vectors[:, 2] - height * np.rint(vectors[:, 2] / height))
    good = (rise < _SKEW) & (np.abs(vectors[:, :2]).sum(axis=1) > 0)
    flat = vectors[good][:, :2]
    lengths = np.linalg.norm(flat, axis=1)
    cosine = np.abs(flat @ flat.T) / np.outer(lengths, lengths)
    area = np.outer(lengths, lengths)
    # The angle between the sides may be off by as much as their ends by _SKEW.
    area[cosine * np.maximum.outer(lengths, lengths) > _SKEW] = np.inf
    # Along x and y, so that the frame of the view stays.
    area[np.abs(flat[:, 1]) > _SKEW] = np.inf
    area[flat[:, 0] <= 0] = np.inf
    area[:, flat[:, 1] <= 0] = np.inf
    if not np.isfinite(area).any():
        raise CrystalError(
            "no rectangular cell of up to "
            f"{_MOST_CELLS} repeats along this axis; choose another zone axis"
        )
    first, second = np.unravel_index(area.argmin(), area.shape)
    size = np.array([flat[first, 0], flat[second, 1], height])
    # All atoms whose place lies in the new cell, by tiling the old one over it.
    reach = 2 * _MOST_CELLS
    steps = np.arange(-reach, reach + 1)
    moves = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
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
    """Return where the pixels are in the scanned cell, Å [H, W, 2]."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    middle = (np.array(shape[::-1]) - 1) / 2
    place = (np.stack([columns, rows], axis=-1) - middle) * pixel_size
    place = (place - np.asarray(offset, dtype=float)[::-1]) @ rotation_matrix(
        rotation
    ).T
    # A side that ends has the middle of the specimen at 0, and vacuum beyond.
    end = np.where(padded, lengths / 2, np.inf)
    place = np.clip(place, -end, end)
    return place % lengths


def _continued(
    image: np.ndarray, lengths: np.ndarray, where: np.ndarray, source: float
) -> np.ndarray:
    """Return a scanned cell [x, y] at other places, by its Fourier series."""
    waves = [np.fft.fftfreq(n, length / n) for n, length in zip(image.shape, lengths)]
    series = np.fft.fft2(image) / image.size
    square = waves[0][:, None] ** 2 + waves[1] ** 2
    series *= np.exp(-2 * (np.pi * source) ** 2 * square)
    flat = where.reshape(-1, 2)
    found = np.empty(len(flat))
    for start in range(0, len(flat), 65536):
        x, y = flat[start : start + 65536].T
        along_x = np.exp(2j * np.pi * np.outer(x, waves[0]))
        along_y = np.exp(2j * np.pi * np.outer(y, waves[1]))
        found[start : start + 65536] = np.sum((along_x @ series) * along_y, axis=1).real
    return found.reshape(where.shape[:2])
