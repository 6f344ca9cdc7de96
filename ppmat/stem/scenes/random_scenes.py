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

"""Random clean scenes for training: crystals with defects, and disordered columns.

Li et al. (CVPR 2025, Sec. 3) train on periodic and random arrangements of round spots,
HAADF and BF; their recipe is not published. The recipe here draws lattices, widths,
contrasts and defects within wide ranges, see docs/stem/synthetic_training.md.
:mod:`ppmat.stem.scenes.crystal` makes scenes of a known crystal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ppmat.stem.noise.noise_model import MODES
from ppmat.stem.scenes.atom_columns import AtomColumns
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.stem.scenes.bright_field import BrightField
from ppmat.stem.scenes.bright_field import bright_field
from ppmat.stem.scenes.bright_field import electron_wavelength
from ppmat.stem.scenes.projection import Projection
from ppmat.stem.scenes.uneven_specimen import uneven_scene
from ppmat.utils.errors import check_choice

_TRIES_PER_SQUARE = 8  # random positions per squared spacing: nearly a full packing
_MARGIN = 32.0  # pixels around the image where columns still reach into it
# Sites of common crystals seen along an axis: cubic, perovskite, honeycomb.
_SPECIAL_SITES = np.array(
    [(0.5, 0.5), (0.5, 0.0), (0.0, 0.5), (1 / 3, 1 / 3), (2 / 3, 2 / 3)]
)
_PAIR_DISTANCE = (2.0, 3.5)  # of the columns of a close pair, in their sigma
_PAIR_SPACING = 6.5  # sigma; smallest distance of pairs, of which 3 stay between them
_MIN_SIGMA = 0.5  # pixels; smallest standard deviation of a drawn column
_MIN_RANDOM_SPACING = 8.0  # pixels; of arrangements without a lattice


@dataclass(frozen=True)
class SceneRecipe:
    """Ranges that :func:`make_scene` draws from.

    Raises:
        ValueError: A value outside the range that the error names.
    """

    # haadf: bright columns; bf: a bright background with dark columns, or, as in thick
    # specimens, some dark and some bright.
    mode: str = "haadf"
    low: float = 30.0  # value of the background in HAADF, of the darkest columns in BF
    high: float = 180.0  # of the brightest columns in HAADF, of the background in BF
    spacing: tuple[float, float] = (9.0, 36.0)  # length of a lattice vector, pixels
    # Standard deviation of a column, as a fraction of the smallest distance.
    width: tuple[float, float] = (0.1, 0.36)
    random_share: float = 0.25  # of the scenes: without a lattice
    # Of the BF scenes: by wave optics, with a random microscope. The others are spots
    # on a bright background.
    wave_share: float = 0.6
    thick_share: float = 0.4  # of the BF scenes of spots: with bright columns too
    pair_share: float = 0.0  # of the scenes of spots: each column is a close pair
    uneven_share: float = 0.0  # of the scenes: thickness, edge, support or vacuum

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        for name in ("spacing", "width"):
            first, last = getattr(self, name)
            if not 0 < first <= last:
                raise ValueError(f"{name} is {(first, last)}, wanted 0 < first <= last")
        shares = ("random_share", "wave_share", "thick_share", "uneven_share")
        for name in (*shares, "pair_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 0 to 1")
        if self.spacing[0] * self.width[1] < _MIN_SIGMA:
            raise ValueError(
                f"spacing {self.spacing} and width {self.width} make columns narrower "
                "than half a pixel; take larger ones"
            )


def make_scene(
    rng: np.random.Generator,
    shape: tuple[int, int],
    recipe: SceneRecipe = SceneRecipe(),
) -> Scene:
    """Return a random scene, an image ``(H, W)`` with its targets.

    Example:
        >>> scene = make_scene(np.random.default_rng(0), (32, 48))
        >>> scene.gt_enhance.shape, bool(scene.gt_enhance.max() > 30)
        ((32, 48), True)
    """
    scene = _flat_scene(rng, shape, recipe)
    if recipe.uneven_share and rng.random() < recipe.uneven_share:
        return uneven_scene(rng, scene, recipe.mode, recipe.low, recipe.high)
    return scene


def _flat_scene(
    rng: np.random.Generator, shape: tuple[int, int], recipe: SceneRecipe
) -> Scene:
    # Uniform in the logarithm: all magnifications of a crystal are equally likely.
    spacing = np.exp(rng.uniform(*np.log(recipe.spacing)))
    if rng.random() < recipe.random_share:
        spacing = max(spacing, _MIN_RANDOM_SPACING)
        positions = random_positions(rng, shape, 0.7 * spacing, _MARGIN)
        kinds = rng.integers(0, 3, len(positions))
    else:
        positions, kinds = _crystal(rng, shape, spacing)
    # The first decile of the distances to the nearest neighbour, pixels.
    distance = spacing
    if len(positions) > 1:
        nearest = cKDTree(positions).query(positions, k=2)[0][:, 1]
        distance = float(np.quantile(nearest, 0.1))
    if recipe.mode == "bf" and rng.random() < recipe.wave_share:
        return _wave_scene(rng, shape, recipe, positions, kinds, distance)
    sigma = max(rng.uniform(*recipe.width) * distance, _MIN_SIGMA)
    if recipe.pair_share and rng.random() < recipe.pair_share:
        sigma = max(min(sigma, distance / _PAIR_SPACING), _MIN_SIGMA)
        positions, kinds = close_pairs(rng, positions, kinds, sigma)
    # Light columns can be more than ten times weaker than heavy ones.
    kind = np.array([1.0, *np.exp(rng.uniform(np.log(0.04), 0.0, 2))])
    strength = kind[kinds] * _variation(rng, positions, shape)
    columns = AtomColumns(*positions.T, strength, np.full(len(kinds), sigma))
    thick = recipe.mode == "bf" and rng.random() < recipe.thick_share
    tail = (rng.choice([0.0, rng.uniform(0.0, 0.4)]), rng.uniform(1.6, 3.0))
    contrast = rng.uniform(0.7, 1.0) * (recipe.high - recipe.low)
    level, sign = recipe.low, np.ones(3)
    if recipe.mode == "bf":
        level, sign = recipe.high, -sign
    if thick:
        sign[rng.integers(3)] = rng.uniform(0.1, 1.0)
        contrast *= 0.5  # keeps bright columns within the range of the image
        level -= contrast
    columns.height = contrast * sign[kinds] * strength
    return Scene(columns.render(shape, level, tail), columns.spots(shape), columns)


def _wave_scene(
    rng: np.random.Generator,
    shape: tuple[int, int],
    recipe: SceneRecipe,
    positions: np.ndarray,
    kinds: np.ndarray,
    distance: float,
) -> Scene:
    """Return the bright-field scene of columns in a random microscope.

    Positions [n, 2] and the distance of neighbours are in pixels; kinds are 0 to 2 [n].
    """
    from ase.data import chemical_symbols

    energy, semiangle = rng.choice([60.0, 80.0, 200.0, 300.0]), rng.uniform(15.0, 30.0)
    resolution = 0.61 * electron_wavelength(energy) / (1e-3 * semiangle)
    microscope = BrightField(
        energy=energy,
        semiangle=semiangle,
        detector=semiangle * rng.uniform(0.2, 0.7),
        defocus=rng.choice([0.0, rng.normal(0.0, 30.0)]),
        source=resolution * rng.choice([0.0, rng.uniform(0.0, 0.4)]),
        rings=1,  # the fastest sampling of the detector
    )
    # Columns closer than the resolution limit are never resolved.
    pixel_size = resolution * rng.uniform(1.2, 4.0) / distance
    ends = (1.0, 10.0) if rng.random() < 0.3 else (10.0, 200.0)  # Å; layer or crystal
    thickness = np.exp(rng.uniform(*np.log(ends)))
    numbers = np.exp(rng.uniform(np.log(5), np.log(83), 3)).astype(int)
    atoms = np.maximum(thickness / rng.uniform(2.0, 5.6, 3), 1.0)
    counts = np.zeros((len(kinds), 3))
    counts[np.arange(len(kinds)), kinds] = atoms[kinds]
    counts *= _variation(rng, positions, shape)[:, None]
    projection = Projection(
        y=positions[:, 0] * pixel_size,
        x=positions[:, 1] * pixel_size,
        counts=counts,
        full=counts.sum(axis=1),
        spread=np.full(len(kinds), rng.choice([0.0, rng.uniform(0.0, 0.15)])),
        elements=tuple(chemical_symbols[number] for number in numbers),
        numbers=numbers,
        shape=shape,
        pixel_size=pixel_size,
        margin=_MARGIN * pixel_size,
        thickness=thickness,
    )
    image = bright_field(projection, microscope, rng.integers(5, 13) / 100)
    least, most = np.percentile(image, (0.5, 99.5))
    contrast = rng.uniform(0.7, 1.0) * (recipe.high - recipe.low)
    low = rng.uniform(recipe.low, recipe.high - contrast)
    scale = contrast / max(most - least, 1e-9)
    image = low + scale * (image - least)
    spots = np.full(len(kinds), distance / 4)
    columns = AtomColumns(*positions.T, np.zeros(len(kinds)), spots)
    columns.height = columns.values(image) - np.median(image)
    return Scene(image, columns.spots(shape), columns)


def _crystal(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions, pixels [n, 2], and kinds [n] of a crystal with defects."""
    positions, kinds = lattice_sites(rng, shape, spacing)
    fault = rng.choice(["none", "boundary", "edge"], p=[0.7, 0.15, 0.15])
    if fault != "none":
        angle = rng.uniform(0, 2 * np.pi)
        through = np.array(shape) * rng.uniform(0.25, 0.75, 2)
        beyond = (positions - through) @ np.array([np.sin(angle), np.cos(angle)]) > 0
        beyond &= not beyond.all()
        removed = positions[beyond]
        positions, kinds = positions[~beyond], kinds[~beyond]
        if fault == "boundary":
            others, other_kinds = lattice_sites(rng, shape, spacing)
            # Columns of the second grain are nearer to removed columns than to those
            # of the first, and do not touch these.
            apart = cKDTree(positions).query(others)[0]
            inside = apart > 0.5 * spacing
            inside &= cKDTree(removed).query(others)[0] < apart
            positions = np.concatenate([positions, others[inside]])
            kinds = np.concatenate([kinds, other_kinds[inside]])
    if rng.random() >= 0.5:  # strain
        wave = rng.normal(0, 1.0, (2, 2)) * 2 * np.pi / max(shape)
        phase = rng.uniform(0, 2 * np.pi, 2)
        size = rng.uniform(0, 0.15) * spacing
        positions = positions + size * np.sin(positions @ wave.T + phase)
    scatter = rng.uniform(0, 0.03) * spacing
    positions = positions + rng.normal(0, scatter, positions.shape)
    present = rng.random(len(positions)) > rng.choice([0.0, 0.03, 0.1])
    if present.any():
        positions, kinds = positions[present], kinds[present]
    if rng.random() < 0.2:  # adatoms
        count = 1 + rng.poisson(0.02 * len(positions))
        extra = rng.uniform(0, shape, size=(count, 2))
        positions = np.concatenate([positions, extra])
        kinds = np.concatenate([kinds, np.full(count, 2)])
    return positions, kinds


def random_lattice(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random two-dimensional cell and the origins of its repeats.

    These are lattice vectors ``(y, x)`` as rows, pixels [2, 2], and the origins of the
    cells that cover image and margin, relative to its middle, pixels [n, 2].
    """
    angle = rng.uniform(0, 2 * np.pi)
    opening = np.deg2rad(rng.choice([60.0, 90.0, rng.uniform(60, 120)]))
    ratio = rng.choice([1.0, rng.uniform(1.0, 1.6)])
    first = np.array([np.sin(angle), np.cos(angle)])
    second = np.array([np.sin(angle + opening), np.cos(angle + opening)])
    cell = spacing * np.stack([first, ratio * second])
    reach = int(np.ceil((1.5 * max(shape) + 2 * margin) / spacing / np.sin(opening)))
    index = np.arange(-reach, reach + 1)
    return cell, np.stack(np.meshgrid(index, index), axis=-1).reshape(-1, 2) @ cell


def lattice_sites(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sites of a random two-dimensional crystal that covers the image.

    These are positions ``(y, x)``, pixels [n, 2], and the site in the cell, 0 to 2 [n].
    ``spacing`` is the length of the first lattice vector, pixels.
    """
    cell, corners = random_lattice(rng, shape, spacing, _MARGIN)
    basis = [np.zeros(2)]
    for _ in range(rng.choice([0, 1, 2, 3], p=[0.25, 0.4, 0.2, 0.15])):
        special = rng.random() < 0.7
        site = _SPECIAL_SITES[rng.integers(5)] if special else rng.uniform(size=2)
        offsets = site - np.array(basis)
        offsets = (offsets - np.rint(offsets)) @ cell
        if np.linalg.norm(offsets, axis=1).min() > 0.33 * spacing:
            basis.append(site)
    origin = np.array(shape) / 2 + rng.uniform(size=2) @ cell
    positions = np.concatenate([corners + site @ cell for site in basis]) + origin
    kinds = np.repeat(np.arange(len(basis)), len(corners))
    high = np.array(shape) + _MARGIN
    inside = np.all((positions > -_MARGIN) & (positions < high), axis=1)
    return positions[inside], np.minimum(kinds, 2)[inside]


def random_positions(
    rng: np.random.Generator,
    shape: tuple[int, int],
    spacing: float,
    margin: float = 4.0,
) -> np.ndarray:
    """Return positions in image and margin, none closer than ``spacing``, px [n, 2]."""
    low, high = np.full(2, -margin), np.array(shape) + margin - 1.0
    count = int(_TRIES_PER_SQUARE * np.prod((high - low) / spacing))
    tries = rng.uniform(low, high, size=(count, 2))
    keep = np.ones(count, dtype=bool)
    for first, second in sorted(cKDTree(tries).query_pairs(spacing)):
        if keep[first]:
            keep[second] = False
    return tries[keep]


def close_pairs(
    rng: np.random.Generator, positions: np.ndarray, kinds: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return each column as a pair, as in diamond and zinc blende seen along [110].

    All pairs of a scene have one direction and one distance, 2 to 3.5 sigma. Their
    second columns are of one kind, or of the kinds of the first. Positions [n, 2] and
    sigma are in pixels; the result has twice as many columns.
    """
    angle, apart = rng.uniform(0, np.pi), rng.uniform(*_PAIR_DISTANCE) * sigma
    half = apart / 2 * np.array([np.sin(angle), np.cos(angle)])
    other = kinds if rng.random() < 0.5 else np.full(len(kinds), rng.integers(3))
    pairs = np.concatenate([positions - half, positions + half])
    return pairs, np.concatenate([kinds, other])


def _variation(
    rng: np.random.Generator, positions: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Return the strength of each column relative to its kind [n]."""
    count = len(positions)
    share = np.maximum(rng.normal(1.0, rng.uniform(0, 0.1), count), 0.1)
    if rng.random() < 0.3:  # substituted atoms
        odd = rng.random(count) < 0.05
        share[odd] *= rng.uniform(0.3, 1.6)
    if rng.random() < 0.3:  # thickness
        slope = rng.uniform(-0.4, 0.4, 2)
        place = positions / np.array(shape) - 0.5
        share *= np.clip(1 + place @ slope, 0.5, 1.5)
    return share
