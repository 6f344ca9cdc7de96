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


"""Clean STEM images of a crystal structure: a fast model of HAADF and BF contrast.

Each column of atoms is one round spot whose strength follows its atoms; nothing is
propagated. How far that is from a multislice simulation, and where it fails, is told in
docs/stem_synthesis.md. :mod:`ppmat.datasets.stem.physical` simulates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.datasets.stem.columns import Columns
from ppmat.datasets.stem.columns import Scene
from ppmat.datasets.stem.noise import MODES
from ppmat.datasets.stem.projection import CrystalError
from ppmat.datasets.stem.projection import Projection
from ppmat.datasets.stem.projection import project

_LIGHT = 3.0  # factor by which a drawn contrast of light columns may be off
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

    def heights(self, projection: Projection) -> tuple[np.ndarray, float]:
        """Return the peaks in arbitrary units [n], and a factor of their width."""
        strength = projection.counts @ projection.numbers.astype(float) ** self.exponent
        length = _length(projection)
        share = strength / length
        kept = share**self.power / (share**self.power + self.limit**self.power)
        deep = -math.expm1(-length / self.depth)
        factor = (1 - deep * (1 - kept)) * self.light ** (1 - kept)
        if self.saturation is not None:
            there = length * projection.occupancy / self.saturation
            factor = factor * -np.expm1(-there) / np.maximum(there, 1e-9)
        return strength * factor, 1.0


@dataclass(frozen=True)
class Bf:
    """Strength of columns in BF, as parts of the background.

    Thin: columns are dark, ``-(1 - exp(-absorption S))`` with ``S`` the sum of
    ``Z ** exponent``. Thick: light columns are bright and heavy ones dark, in the
    logarithm of the sum for each Å: ``gain ln(neutral / s)``. The second takes over
    with ``1 - exp(-(thickness / depth) ** 4)``. The oscillations of BF with thickness
    and defocus are not in it.

    Args:
        exponent: Of the atomic number.
        absorption: Of the thin specimen, for each unit of the sum.
        depth: Thickness at which the thick contrast has taken over, Å.
        gain: Of the thick contrast.
        neutral: Sum for each Å of a column that is neither dark nor bright.
        light: Factor on ``neutral``; 1 is what simulations gave.
        widths: Of a column, thin and thick, over that in HAADF.
    """

    exponent: float = 1.15
    absorption: float = 9.5e-4
    depth: float = 45.0
    gain: float = 0.85
    neutral: float = 17.6
    light: float = 1.0
    widths: tuple[float, float] = (1.5, 0.9)

    def heights(self, projection: Projection) -> tuple[np.ndarray, float]:
        """Return the peaks as parts of the background [n], and the factor of width."""
        strength = projection.counts @ projection.numbers.astype(float) ** self.exponent
        length = _length(projection)
        thick = -math.expm1(-((length / self.depth) ** 4))
        dark = np.expm1(-self.absorption * strength)
        bright = self.gain * np.log(self.light * self.neutral * length / strength)
        width = self.widths[0] + thick * (self.widths[1] - self.widths[0])
        # No spot can be darker than no electrons at all.
        return np.maximum((1 - thick) * dark + thick * bright, -0.98), width


CONTRASTS = {"haadf": Haadf, "bf": Bf}


def _length(projection: Projection) -> float:
    """Return the thickness, at least that of a layer of atoms, Å."""
    return max(projection.thickness, 2.0)


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
            :func:`ppmat.datasets.stem.projection.project`, also for what follows.
        shape: ``(H, W)``, pixels.
        pixel_size: Å.
        zone_axis: Indices [uvw] of the direct lattice.
        mode: ``haadf`` or ``bf``.
        direction: Cartesian direction of the beam instead of a zone axis.
        thickness: Of a crystal, Å; None: 50 Å.
        rotation: Degrees. None: drawn with ``rng``, else 0.
        offset: Å ``(y, x)``. None: drawn within 10 Å with ``rng``, else (0, 0).
        tolerance: Of atoms in one column, Å.
        rng: Random numbers for rotation, offset, and the contrast of light columns
            (within a factor of 3, unless ``contrast`` is given).
        **optics: See :func:`render_projection`.

    Raises:
        CrystalError: See ``project``.
    """
    if rng is not None:
        turn, *move = rng.uniform(size=3)
        rotation = 360 * turn if rotation is None else rotation
        offset = tuple(20 * m - 10 for m in move) if offset is None else offset
        optics.setdefault("contrast", draw_contrast(rng, mode))
    found = project(
        structure,
        shape,
        pixel_size,
        zone_axis,
        direction=direction,
        thickness=thickness,
        rotation=rotation or 0.0,
        offset=offset or (0.0, 0.0),
        tolerance=tolerance,
    )
    return render_projection(found, mode, **optics)


def draw_contrast(rng: np.random.Generator, mode: str) -> Haadf | Bf:
    """Return the contrast of a mode, that of light columns off by up to three times."""
    light = math.exp(rng.uniform(-1, 1) * math.log(_LIGHT))
    return dataclasses.replace(_contrast(mode, None), light=light)


def render_projection(
    projection: Projection,
    mode: str = "haadf",
    *,
    contrast: Haadf | Bf | None = None,
    probe: float = 0.4,
    tail: tuple[float, float] = (0.1, 1.0),
    thermal: float | Mapping[str, float] = 0.08,
    low: float = 30.0,
    high: float = 180.0,
) -> Scene:
    """Return the clean image of columns of atoms.

    Args:
        projection: See :func:`ppmat.datasets.stem.projection.project`.
        mode: ``haadf`` or ``bf``.
        contrast: None: that of the mode with its defaults.
        probe: Standard deviation of the probe with the image of the source, Å.
        tail: Part of each peak in the tails of the probe, and their standard
            deviation, Å.
        thermal: Root mean square displacement of atoms along one direction, Å; by
            element (the largest of a column counts) if they differ.
        low: Value of the darkest parts of the image (their first percentile).
        high: Value of the brightest (99th percentile). If columns are so few that
            percentiles miss them, least and greatest value are brought there.

    Raises:
        CrystalError: No column is in view, or columns are narrower than pixels.
    """
    contrast = _contrast(mode, contrast)
    share, wide = tail
    if not 0 < probe < math.inf or not 0 <= share < 1 or not wide > 0:
        raise CrystalError(
            f"probe {probe}, tail {tail}: wanted a width above 0 Å, and a part from 0 "
            "to below 1 with a width above 0 Å"
        )
    if not low < high:
        raise CrystalError(f"low {low} must be below high {high}")
    if not projection.in_view.any():
        raise CrystalError("no column of the projection is in view")
    height, factor = contrast.heights(projection)
    thermal = _thermal(projection, thermal)
    square = probe**2 + thermal**2 + projection.spread**2
    pixel = projection.pixel_size
    sigma = factor * np.sqrt(square) / pixel
    if sigma.min() < _NARROWEST:
        raise CrystalError(
            f"a pixel of {pixel:g} Å is too large for columns with a standard deviation"
            f" of {sigma.min() * pixel:.2f} Å; wanted at most twice that"
        )
    columns = Columns(
        projection.y / pixel,
        projection.x / pixel,
        height,
        sigma,
        element=projection.labels,
        occupancy=projection.occupancy,
    )
    ratio = max(wide / (probe * factor), 1.0)
    image = columns.render(projection.shape, 0.0, (share, ratio))
    first, last = _range(image)
    scale = (high - low) / (last - first)
    columns.height = columns.height * scale
    return Scene(
        gt_enhance=low + scale * (image - first),
        gt_detect=columns.spots(projection.shape),
        columns=columns,
        pixel_size=pixel,
    )


def _contrast(mode: str, contrast: Haadf | Bf | None) -> Haadf | Bf:
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
    if not isinstance(thermal, Mapping):
        return np.full(len(projection), float(thermal))
    missing = sorted(set(projection.elements) - set(thermal))
    if missing:
        raise CrystalError(f"thermal has no displacement for {', '.join(missing)}")
    each = np.array([thermal[symbol] for symbol in projection.elements])
    return np.where(projection.counts > 0, each, 0.0).max(axis=1)


def _range(image: np.ndarray) -> tuple[float, float]:
    """Return the values of an image that stand for dark and bright."""
    first, last = (float(v) for v in np.percentile(image, (1, 99)))
    least, most = float(image.min()), float(image.max())
    if last - first < _SPARSE * (most - least):
        return least, most
    return first, last
