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


"""Clean STEM images of a crystal structure.

In HAADF each column of atoms is one round spot whose strength follows its atoms;
nothing is propagated. In BF the waves are (:mod:`ppmat.stem.scenes.bright_field`).
How far both are from a full multislice simulation, and where they fail, is told in
docs/stem_synthesis.md; :mod:`benchmarks.stem.multislice` makes such simulations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.stem.noise.noise_model import MODES
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.stem.scenes.bright_field import BrightField
from ppmat.stem.scenes.bright_field import bright_field
from ppmat.stem.scenes.bright_field import electron_wavelength
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import Projection
from ppmat.stem.scenes.projection import project
from ppmat.stem.scenes.projection import specimen_layers
from ppmat.stem.scenes.projection import view_along

_LIGHT = 3.0  # factor by which a drawn contrast of light columns may be off
_DEFOCUS = 20.0  # Å by which a drawn focus of BF may be off
_REACH = 5.0  # Å from which the tails of the probe are seen
_PROBE, _TAIL = 0.4, (0.1, 1.0)  # Å; part of the peak and Å
_SPARSE = 0.75  # part of the range below which percentiles miss the columns
_NARROWEST = 0.5  # pixels; narrower spots fall between the pixels


@dataclass(frozen=True)
class Haadf:
    """Strength of columns in HAADF.

    The strength is the sum of ``Z ** exponent`` over the atoms. In a thick specimen the
    beam goes over from light columns to heavy ones beside them: with ``s`` the sum for
    each Å along the beam, a column keeps ``g = s**power / (s**power + limit**power)``
    of its strength, more in a thin one: ``1 - (1 - g) (1 - exp(-thickness / depth))``.

    Args:
        exponent: Of the atomic number.
        limit: Of light columns, ``Z ** exponent`` for each Å.
        power: How sharply light and heavy differ.
        depth: Thickness at which light columns have lost most of that, Å.
        light: Factor on what light columns keep; 1 is what simulations gave.
        saturation: Length of a column that is seen, Å: atoms of a longer one count
            less (``1 - exp(-length / saturation)``); None counts all.
    """

    exponent: float = 1.6
    limit: float = 9.0
    power: float = 3.0
    depth: float = 30.0
    light: float = 1.0
    saturation: float | None = None

    def heights(self, projection: Projection) -> np.ndarray:
        """Return the peaks in arbitrary units [n]."""
        strength = projection.counts @ projection.numbers.astype(float) ** self.exponent
        length = max(projection.thickness, 2.0)  # at least that of a layer of atoms
        share = strength / length
        kept = share**self.power / (share**self.power + self.limit**self.power)
        deep = -math.expm1(-length / self.depth)
        factor = (1 - deep * (1 - kept)) * self.light ** (1 - kept)
        if self.saturation is not None:
            there = length * projection.occupancy / self.saturation
            factor = factor * -np.expm1(-there) / np.maximum(there, 1e-9)
        return strength * factor

    def reach(self, thickness: float) -> float:
        """Return how far beside an image columns must be known, Å."""
        return _REACH


CONTRASTS = {"haadf": Haadf, "bf": BrightField}


def crystal_scene(
    structure: Any,
    shape: tuple[int, int],
    pixel_size: float,
    zone_axis: Sequence[int] = (0, 0, 1),
    mode: str = "haadf",
    *,
    direction: Sequence[float] | None = None,
    thickness: float | None = None,
    rotation: float | None = None,
    offset: tuple[float, float] | None = None,
    tolerance: float = 0.3,
    rng: np.random.Generator | None = None,
    **optics: Any,
) -> Scene:
    """Return the clean image of a structure seen along a zone axis.

    Args:
        structure: pymatgen ``Structure`` or ``ase.Atoms``; see
            :func:`ppmat.stem.scenes.projection.project`, also for what follows.
        shape: ``(H, W)``, pixels.
        pixel_size: Å.
        zone_axis: Indices [uvw] of the direct lattice.
        mode: ``haadf`` or ``bf``.
        direction: Cartesian direction of the beam instead of a zone axis.
        thickness: Of a crystal, Å; None: 50 Å.
        rotation: Degrees. None: drawn with ``rng``, else 0.
        offset: Å ``(y, x)``. None: drawn within 10 Å with ``rng``, else (0, 0).
        tolerance: Of atoms in one column, Å.
        rng: Random numbers for rotation, offset, and, unless ``contrast`` is given,
            what is known least: the contrast of light columns in HAADF (within a
            factor of 3), the focus in BF (within 20 Å).
        **optics: See :func:`render_projection`.

    Raises:
        CrystalError: See ``project``.
    """
    if rng is not None:
        turn, *move = rng.uniform(size=3)
        rotation = 360 * turn if rotation is None else rotation
        offset = tuple(20 * m - 10 for m in move) if offset is None else offset
        optics.setdefault("contrast", draw_contrast(rng, mode))
    view = view_along(structure, zone_axis, direction)
    contrast = _contrast(mode, optics.pop("contrast", None))
    found = project(
        view,
        shape,
        pixel_size,
        thickness=thickness,
        rotation=rotation or 0.0,
        offset=offset or (0.0, 0.0),
        tolerance=tolerance,
        margin=contrast.reach(specimen_layers(view, thickness)[1]),
    )
    return render_projection(found, mode, contrast=contrast, **optics)


def draw_contrast(rng: np.random.Generator, mode: str) -> Haadf | BrightField:
    """Return the contrast of a mode with what is known least drawn.

    That is the contrast of light columns in HAADF, off by up to three times, and the
    focus in BF, off by up to 20 Å.
    """
    draw, contrast = rng.uniform(-1, 1), _contrast(mode, None)
    if mode == "bf":
        return dataclasses.replace(contrast, defocus=draw * _DEFOCUS)
    return dataclasses.replace(contrast, light=math.exp(draw * math.log(_LIGHT)))


def render_projection(
    projection: Projection,
    mode: str = "haadf",
    *,
    contrast: Haadf | BrightField | None = None,
    probe: float | None = None,
    tail: tuple[float, float] | None = None,
    thermal: float | Mapping[str, float] = 0.08,
    low: float = 30.0,
    high: float = 180.0,
) -> Scene:
    """Return the clean image of columns of atoms.

    The heights of the columns are the peaks of their spots in HAADF. In BF they are
    what the image has at the columns, less its median, and their widths are that of a
    focused probe.

    Args:
        projection: See :func:`ppmat.stem.scenes.projection.project`; its columns
            should be known ``contrast.reach(thickness)`` beyond the image.
        mode: ``haadf`` or ``bf``.
        contrast: None: that of the mode with its defaults.
        probe: Standard deviation of the probe with the image of the source, Å; HAADF
            only, where None is 0.4 Å.
        tail: Part of each peak in the tails of the probe, and their standard
            deviation, Å; HAADF only, where None is 0.1 and 1.0 Å.
        thermal: Root mean square displacement of atoms along one direction, Å; by
            element (the largest of a column counts in HAADF) if they differ.
        low: Value of the darkest parts of the image (their first percentile).
        high: Value of the brightest (99th percentile). If columns are so few that
            percentiles miss them, least and greatest value are brought there.

    Raises:
        CrystalError: No column is in view, or columns are narrower than pixels; probe
            or tail in BF.
    """
    contrast = _contrast(mode, contrast)
    if not low < high:
        raise CrystalError(f"low {low} must be below high {high}")
    if not projection.in_view.any():
        raise CrystalError("no column of the projection is in view")
    elements = _thermal(projection, thermal)
    if isinstance(contrast, BrightField):
        if probe is not None or tail is not None:
            raise CrystalError(
                "probe and tail describe the spots of HAADF; the probe of a BF image "
                "is told by contrast=BrightField(semiangle=, defocus=, source=)"
            )
        columns, image = _waves(projection, contrast, elements)
    else:
        probe = _PROBE if probe is None else probe
        tail = _TAIL if tail is None else tail
        columns, image = _spots(projection, contrast, probe, tail, elements)
    first, last = _range(image)
    scale = (high - low) / (last - first)
    columns.height = columns.height * scale
    return Scene(
        gt_enhance=low + scale * (image - first),
        gt_detect=columns.spots(projection.shape),
        columns=columns,
        pixel_size=projection.pixel_size,
    )


def _spots(
    projection: Projection,
    contrast: Haadf,
    probe: float,
    tail: tuple[float, float],
    thermal: np.ndarray,
) -> tuple[AtomColumns, np.ndarray]:
    """Return columns and their image, a sum of spots, in arbitrary units."""
    share, wide = tail
    if not 0 < probe < math.inf or not 0 <= share < 1 or not wide > 0:
        raise CrystalError(
            f"probe {probe}, tail {tail}: wanted a width above 0 Å, and a part from 0 "
            "to below 1 with a width above 0 Å"
        )
    motion = np.where(projection.counts > 0, thermal, 0.0).max(axis=1)
    width = np.sqrt(probe**2 + motion**2 + projection.spread**2)
    columns = _columns(projection, contrast.heights(projection), width)
    ratio = max(wide / probe, 1.0)
    return columns, columns.render(projection.shape, 0.0, (share, ratio))


def _waves(
    projection: Projection, contrast: BrightField, thermal: np.ndarray
) -> tuple[AtomColumns, np.ndarray]:
    """Return columns and their bright-field image."""
    # Half the width of the Airy disc's peak at half its height, over 1.18.
    disc = 0.257 * electron_wavelength(contrast.energy)
    probe = disc / (1e-3 * contrast.semiangle) / 1.18
    square = probe**2 + contrast.source**2 + projection.spread**2
    columns = _columns(projection, np.zeros(len(projection)), np.sqrt(square))
    image = bright_field(projection, contrast, thermal)
    columns.height = columns.values(image) - np.median(image)
    return columns, image


def _columns(
    projection: Projection, height: np.ndarray, width: np.ndarray
) -> AtomColumns:
    """Return columns in pixels; ``width`` is in Å."""
    pixel = projection.pixel_size
    if width.min() < _NARROWEST * pixel:
        raise CrystalError(
            f"a pixel of {pixel:g} Å is too large for columns with a standard deviation"
            f" of {width.min():.3f} Å; wanted at most "
            f"{math.floor(1e3 * width.min() / _NARROWEST) / 1e3:.3f} Å"
        )
    return AtomColumns(
        projection.y / pixel,
        projection.x / pixel,
        height,
        width / pixel,
        element=projection.labels,
        occupancy=projection.occupancy,
    )


def _contrast(mode: str, contrast: Haadf | BrightField | None) -> Haadf | BrightField:
    if mode not in MODES:
        raise CrystalError(f"mode is {mode!r}, wanted one of {', '.join(MODES)}")
    kind = CONTRASTS[mode]
    if contrast is None:
        return kind()
    if not isinstance(contrast, kind):
        raise CrystalError(
            f"mode {mode} with the contrast {type(contrast).__name__}; wanted "
            f"{kind.__name__}"
        )
    return contrast


def _thermal(
    projection: Projection, thermal: float | Mapping[str, float]
) -> np.ndarray:
    """Return the displacement of each element [E], Å."""
    if not isinstance(thermal, Mapping):
        return np.full(len(projection.elements), float(thermal))
    missing = sorted(set(projection.elements) - set(thermal))
    if missing:
        raise CrystalError(f"thermal has no displacement for {', '.join(missing)}")
    return np.array([float(thermal[symbol]) for symbol in projection.elements])


def _range(image: np.ndarray) -> tuple[float, float]:
    """Return the values of an image that stand for dark and bright."""
    first, last = (float(v) for v in np.percentile(image, (1, 99)))
    least, most = float(image.min()), float(image.max())
    if last - first < _SPARSE * (most - least):
        return least, most
    return first, last
