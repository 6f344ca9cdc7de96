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

HAADF: each atomic column is one round spot with a peak calculated from its atoms; no
wave is propagated. BF: waves are propagated (:mod:`ppmat.stem.scenes.bright_field`).
docs/stem/synthesis.md compares both with multislice simulations, which
:mod:`benchmarks.stem.multislice` makes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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

_LIGHT_FACTOR = 3.0  # largest factor on the drawn contrast of light columns
_DEFOCUS_RANGE = 20.0  # Å; largest drawn defocus in BF
_SPOT_REACH = 5.0  # Å beside the image from which the tails of spots are visible
_PROBE = 0.4  # Å; default standard deviation of the probe in HAADF
_TAIL = (0.1, 1.0)  # default fraction of the peak in the tails, and their width, Å
_FILLED_RANGE = 0.75  # of the whole range; a smaller percentile range misses columns
_MIN_SIGMA = 0.5  # pixels; narrower spots fall between the pixels
_ATOM_LAYER = 2.0  # Å; a single layer of atoms counts as this thick


@dataclass(frozen=True)
class Haadf:
    """Peak heights of atomic columns in HAADF.

    A column's strength is the sum of ``Z ** exponent`` over its atoms. In a thick
    specimen, light columns lose intensity to heavy neighbours. With ``s`` the strength
    per Å along the beam, a column keeps the fraction
    ``1 - (1 - g) (1 - exp(-thickness / depth))``, where
    ``g = s**power / (s**power + limit**power)``. The parameters were chosen on
    multislice simulations, see docs/stem/synthesis.md.
    """

    exponent: float = 1.6  # of the atomic number
    limit: float = 9.0  # strength per Å of a column that keeps half in a thick specimen
    power: float = 3.0  # sharpness of the transition from light to heavy columns
    depth: float = 30.0  # thickness over which light columns lose intensity, Å
    light: float = 1.0  # additional factor on light columns; 1 is the fit

    def heights(self, projection: Projection) -> np.ndarray:
        """Return the peak heights in arbitrary units [n]."""
        strength = projection.counts @ projection.numbers.astype(float) ** self.exponent
        length = max(projection.thickness, _ATOM_LAYER)
        density = strength / length
        kept = density**self.power / (density**self.power + self.limit**self.power)
        deep = -math.expm1(-length / self.depth)
        return strength * (1 - deep * (1 - kept)) * self.light ** (1 - kept)

    def reach(self, thickness: float) -> float:
        """Return the width of the strip around an image that affects it, Å."""
        return _SPOT_REACH


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
        structure: Like the arguments that are not listed, see
            :func:`ppmat.stem.scenes.projection.project`.
        mode: ``haadf`` or ``bf``.
        rotation: Degrees. None: drawn with ``rng``, else 0.
        offset: Å ``(y, x)``. None: drawn within 10 Å with ``rng``, else (0, 0).
        rng: Random numbers for rotation, offset and, unless ``contrast`` is given,
            :func:`draw_contrast`.
        **optics: See :func:`render_projection`.

    Raises:
        CrystalError: See ``project``.

    Example:
        >>> from ase.build import bulk
        >>> scene = crystal_scene(bulk("Cu", a=3.6), (64, 64), 0.15, thickness=36)
        >>> scene.gt_enhance.shape, scene.column_rows()[0]["element"]
        ((64, 64), 'Cu')
    """
    if rng is not None:
        turn, *move = rng.uniform(size=3)
        rotation = 360 * turn if rotation is None else rotation
        offset = tuple(20 * m - 10 for m in move) if offset is None else offset
        optics.setdefault("contrast", draw_contrast(rng, mode))
    view = view_along(structure, zone_axis, direction)
    optics["contrast"] = contrast = _contrast(mode, optics.get("contrast"))
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
    return render_projection(found, mode, **optics)


def draw_contrast(rng: np.random.Generator, mode: str) -> Haadf | BrightField:
    """Return the contrast of a mode with its least known parameter drawn.

    HAADF: the contrast of light columns, within a factor of 3. BF: the defocus, from
    -20 to 20 Å.
    """
    draw, contrast = rng.uniform(-1, 1), _contrast(mode, None)
    if mode == "bf":
        return dataclasses.replace(contrast, defocus=draw * _DEFOCUS_RANGE)
    return dataclasses.replace(contrast, light=math.exp(draw * math.log(_LIGHT_FACTOR)))


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
    """Return the clean image of atomic columns.

    In HAADF the columns' heights are the peaks of their spots. In BF they are the
    image's values at the columns minus its median, and the widths are those of a
    focused probe.

    Args:
        projection: See :func:`ppmat.stem.scenes.projection.project`; its columns
            should be known ``contrast.reach(thickness)`` beyond the image.
        mode: ``haadf`` or ``bf``.
        contrast: None for the default of the mode.
        probe: Standard deviation of the probe with the image of the source, Å; HAADF
            only, where None is 0.4 Å.
        tail: Fraction of each peak in the tails of the probe, and their standard
            deviation, Å; HAADF only, where None is 0.1 and 1.0 Å.
        thermal: Root mean square displacement of atoms along one direction, Å: one
            value, or one for each element. HAADF takes the largest in a column.
        low: Value of the image's first percentile; of its minimum if columns are few.
        high: Value of its 99th percentile, or of its maximum.

    Raises:
        CrystalError: No column is in view, columns are narrower than half a pixel, or
            probe or tail is given in BF.
    """
    contrast = _contrast(mode, contrast)
    if not low < high:
        raise CrystalError(f"low {low} must be below high {high}")
    if not projection.in_view.any():
        raise CrystalError("no column of the projection is in view")
    motion = displacements(projection.elements, thermal)
    if mode == "haadf":
        probe = _PROBE if probe is None else probe
        tail = _TAIL if tail is None else tail
        columns, image = _spots(projection, contrast, probe, tail, motion)
    elif probe is not None or tail is not None:
        raise CrystalError(
            "probe and tail describe the spots of HAADF",
            hint="For BF, give contrast=BrightField(semiangle=, defocus=, source=).",
        )
    else:
        columns, image = _waves(projection, contrast, motion)
    first, last = (float(v) for v in np.percentile(image, (1, 99)))
    least, most = float(image.min()), float(image.max())
    if last - first < _FILLED_RANGE * (most - least):
        first, last = least, most
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
    """Return columns and their HAADF image, a sum of spots, in arbitrary units."""
    share, wide = tail
    if not 0 < probe < math.inf or not 0 <= share < 1 or not wide > 0:
        raise CrystalError(
            f"probe {probe}, tail {tail}",
            wanted="widths above 0 Å, and a fraction from 0 to below 1",
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
    # The Airy disc has half its peak at 0.257 wavelengths over the semiangle; a
    # Gaussian has it at 1.18 standard deviations.
    half_width = 0.257 * electron_wavelength(contrast.energy)
    probe = half_width / (1e-3 * contrast.semiangle) / 1.18
    square = probe**2 + contrast.source**2 + projection.spread**2
    columns = _columns(projection, np.zeros(len(projection)), np.sqrt(square))
    image = bright_field(projection, contrast, thermal)
    columns.height = columns.values(image) - np.median(image)
    return columns, image


def _columns(
    projection: Projection, height: np.ndarray, width: np.ndarray
) -> AtomColumns:
    """Return columns in pixels; ``width`` is in Å [n]."""
    pixel, least = projection.pixel_size, width.min()
    if least < _MIN_SIGMA * pixel:
        raise CrystalError(
            f"a pixel of {pixel:g} Å is too large for columns with a standard deviation"
            f" of {least:.3f} Å",
            wanted=f"at most {math.floor(1e3 * least / _MIN_SIGMA) / 1e3:.3f} Å",
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
    if mode not in CONTRASTS:
        raise CrystalError(f"mode is {mode!r}", wanted=f"one of {', '.join(CONTRASTS)}")
    kind = CONTRASTS[mode]
    if not isinstance(contrast, kind | None):
        found = f"mode {mode} with the contrast {type(contrast).__name__}"
        raise CrystalError(found, wanted=kind.__name__)
    return kind() if contrast is None else contrast


def displacements(
    elements: Sequence[str], thermal: float | Mapping[str, float]
) -> np.ndarray:
    """Return the thermal displacement of each element, Å [E].

    Raises:
        CrystalError: A mapping without one of the elements.
    """
    if not isinstance(thermal, Mapping):
        return np.full(len(elements), float(thermal))
    if missing := sorted(set(elements) - set(thermal)):
        raise CrystalError(f"thermal has no displacement for {', '.join(missing)}")
    return np.array([float(thermal[symbol]) for symbol in elements])
