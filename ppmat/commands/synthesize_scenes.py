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

"""The scenes of the command ``synthesize``: random ones, or structures with defects."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.commands.options import refuse_if
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes import defects
from ppmat.stem.scenes.atom_columns import Scene
from ppmat.stem.scenes.bright_field import BrightField
from ppmat.stem.scenes.crystal import draw_contrast
from ppmat.stem.scenes.crystal import render_projection
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import Projection
from ppmat.stem.scenes.projection import View
from ppmat.stem.scenes.projection import project
from ppmat.stem.scenes.projection import specimen_layers
from ppmat.stem.scenes.projection import view_along
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.stem.scenes.structure_arrays import structure_to_arrays
from ppmat.utils import logger

Range = tuple[float, float]
_MAX_STRUCTURES = 1000  # further structures are ignored, with a warning
_MAX_DRAWS = 10  # of a scene; random defects may remove all atoms in view
_MAX_OFFSET = 10.0  # Å; largest drawn offset along y and x
# Options of the microscope by mode, and the default ranges that they are drawn from.
OPTICS = {
    "haadf": {"probe": (0.3, 0.5)},
    "bf": {
        "energy": (BrightField.energy,) * 2,
        "semiangle": (BrightField.semiangle,) * 2,
        "detector": (BrightField.detector,) * 2,
        "defocus": (-20.0, 20.0),
    },
}
# The end of each range that makes the probe narrowest: 0 lower, 1 upper.
_NARROWEST_END = {"probe": 0, "energy": 1, "semiangle": 1}


class RandomScenes:
    """Draws random scenes with the contrast of a noise model in grey levels."""

    def __init__(self, noise: NoiseModel) -> None:
        self.recipe = SceneRecipe(mode=noise.mode, low=noise.low, high=noise.high)

    def settings(self) -> dict:
        """Return what determines the scenes, as JSON values."""
        return {"random": True}

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, int]
    ) -> tuple[Scene, dict]:
        """Return a scene and its drawn parameters."""
        return make_scene(rng, shape, self.recipe), {}


@dataclass(frozen=True)
class CrystalOptions:
    """Ranges and defects of drawn scenes; ``synthesis.json`` has the same names."""

    pixel_size: Range  # Å
    optics: dict[str, Range]  # the mode's options in OPTICS
    rotation: Range  # degrees
    thickness: Range | None  # Å, of structures that repeat along the beam; None: 50 Å
    vacancies: list[tuple[str | None, float]]  # element (None: all) and share
    substitutions: list[tuple[str, str, float]]  # element, new element and share
    adatoms: list[tuple[str, float]]  # element and number per nm²
    strain: float  # standard deviation of the components of a uniform strain
    local_strain: float  # root mean square of a smooth random displacement, Å
    boundaries: float  # share of the scenes with two grains

    @classmethod
    def from_args(cls, args: argparse.Namespace, mode: str) -> CrystalOptions:
        """Return the options of a command line, for images of a mode."""
        for name in ("strain", "local_strain"):
            value = getattr(args, name) or 0.0
            refuse_if(not 0 <= value < math.inf, f"--{name}={value}: wanted at least 0")
        return cls(
            pixel_size=_range("pixel_size", args.pixel_size, (0.12, 0.12)),
            optics=_optics(args, mode),
            rotation=_range("rotation", args.rotation, (0.0, 360.0), positive=False),
            thickness=_range("thickness", args.thickness, None),
            vacancies=[
                _defect(text, "--vacancies [ELEMENT:]SHARE", min(text.count(":"), 1))
                for text in args.vacancies or ()
            ],
            substitutions=[
                _defect(text, "--substitute ELEMENT:BY:SHARE", 2)
                for text in args.substitute or ()
            ],
            adatoms=[
                _defect(text, "--adatoms ELEMENT:NUMBER", 1, most=math.inf)
                for text in args.adatoms or ()
            ],
            strain=args.strain or 0.0,
            local_strain=args.local_strain or 0.0,
            boundaries=args.grain_boundary or 0.0,
        )


@dataclass(frozen=True)
class Specimen:
    """A structure seen along an axis."""

    name: str
    formula: str  # reduced
    axis: tuple  # [uvw], or the Cartesian direction
    view: View
    digest: str  # hash of the atoms

    def record(self) -> dict:
        """Return what it is, as JSON values."""
        axis = list(self.axis)
        return {"structure": self.name, "formula": self.formula, "axis": axis}


@dataclass(frozen=True)
class CrystalScenes:
    """Draws scenes of structures with defects, with the contrast of a noise model."""

    options: CrystalOptions
    specimens: list[Specimen]
    noise: NoiseModel

    def __post_init__(self) -> None:
        from ase.data import atomic_numbers
        from ase.data import chemical_symbols

        options, views = self.options, [s.view for s in self.specimens]
        refuse_if(
            options.thickness and all(view.along is None for view in views),
            "--thickness: none of the structures repeats along the beam, so each has a "
            "thickness of its own; leave it out",
        )
        present = sorted({chemical_symbols[z] for view in views for z in view.numbers})
        for element, *_ in (*options.vacancies, *options.substitutions):
            refuse_if(
                element not in (None, *present),
                f"none of the structures has {element}; they have {', '.join(present)}",
            )
        added = [by for _, by, _ in options.substitutions]
        for element in (*added, *(element for element, _ in options.adatoms)):
            wanted = f"'{element}' is no element; wanted a symbol such as Pt"
            refuse_if(atomic_numbers.get(element, 0) < 1, wanted)

    def check(self, shape: tuple[int, int]) -> None:
        """Draw the scenes most likely to be impossible: narrowest probe, end pixels."""
        narrow = dict(self.options.optics)
        for name, end in _NARROWEST_END.items():
            if name in narrow:
                narrow[name] = (narrow[name][end],) * 2
        extents = []
        for pixel in sorted(set(self.options.pixel_size)):
            ranges = {"optics": narrow, "pixel_size": (pixel, pixel)}
            options = dataclasses.replace(self.options, **ranges)
            scenes = dataclasses.replace(self, options=options)
            scenes.draw(np.random.default_rng(0), shape)
            extents.append(_extent(shape, pixel))
        logger.info(f"images show {' to '.join(extents)} (height x width)")

    def settings(self) -> dict:
        """Return what determines the scenes, as JSON values."""
        specimens = [{**s.record(), "sha256": s.digest} for s in self.specimens]
        return {**vars(self.options), "specimens": specimens}

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, int]
    ) -> tuple[Scene, dict]:
        """Return a scene and its drawn parameters."""
        for _ in range(_MAX_DRAWS - 1):
            # Random vacancies may remove the last atom of a small structure.
            with contextlib.suppress(CrystalError):
                return self._draw_once(rng, shape)
        return self._draw_once(rng, shape)

    def _draw_once(
        self, rng: np.random.Generator, shape: tuple[int, int]
    ) -> tuple[Scene, dict]:
        options = self.options
        specimen = self.specimens[rng.integers(len(self.specimens))]
        drawn: dict[str, Any] = {
            "pixel_size": float(rng.uniform(*options.pixel_size)),
            "rotation": float(rng.uniform(*options.rotation)),
        }
        reach = min(_MAX_OFFSET, min(shape) * drawn["pixel_size"] / 4)
        drawn["offset"] = rng.uniform(-reach, reach, 2).tolist()
        if specimen.view.along is not None and options.thickness:
            drawn["thickness"] = float(rng.uniform(*options.thickness))
        diagonal = math.hypot(*shape) * drawn["pixel_size"]
        contrast, spots, optics = self._draw_microscope(rng)
        _, thickness = specimen_layers(specimen.view, drawn.get("thickness"))
        margin = contrast.reach(thickness)
        margin += 3 * options.strain * diagonal + 8 * options.local_strain
        projection = project(specimen.view, shape, margin=margin, **drawn)
        if min(shape) * drawn["pixel_size"] < projection.spacing < math.inf:
            raise CrystalError(
                f"an image shows {_extent(shape, drawn['pixel_size'])}, but columns are"
                f" {projection.spacing:.3g} Å apart",
                hint="Choose a larger --pixel_size (in Å, not nm) or more pixels.",
            )
        if rng.random() < options.boundaries:
            other = {**drawn, "rotation": drawn["rotation"] + rng.uniform(5, 85)}
            projection = defects.grain_boundary(
                projection,
                project(specimen.view, shape, margin=margin, **other),
                angle=float(rng.uniform(0, 180)),
                through=tuple(rng.uniform(0.25, 0.75, 2)),
            )
        projection = self._add_defects(rng, projection)
        scene = render_projection(
            projection,
            self.noise.mode,
            contrast=contrast,
            low=self.noise.low,
            high=self.noise.high,
            **spots,
        )
        return scene, {
            **specimen.record(),
            **drawn,
            "thickness": projection.thickness,
            **optics,
            "defects": list(projection.records),
        }

    def _draw_microscope(self, rng: np.random.Generator) -> tuple[Any, dict, dict]:
        """Return contrast, options of ``render_projection``, and drawn parameters."""
        ranges = self.options.optics
        drawn = {name: float(rng.uniform(*ends)) for name, ends in ranges.items()}
        if self.noise.mode == "bf":
            return BrightField(**drawn), {}, drawn
        contrast = draw_contrast(rng, self.noise.mode)
        tail = (float(rng.uniform(0, 0.3)), float(rng.uniform(1.0, 1.4)))
        spots = {"probe": drawn["probe"], "tail": tail}
        return contrast, spots, {**spots, "light": contrast.light}

    def _add_defects(
        self, rng: np.random.Generator, projection: Projection
    ) -> Projection:
        options = self.options
        # A structure without the element is left unchanged.
        for element, share in options.vacancies:
            if element is None or element in projection.elements:
                projection = defects.vacancies(projection, rng, share, element)
        for element, by, share in options.substitutions:
            if element in projection.elements:
                projection = defects.substitution(projection, rng, share, element, by)
        for element, density in options.adatoms:
            projection = defects.adatoms(projection, rng, density, element)
        if options.strain:
            tensor = np.clip(rng.standard_normal((2, 2)), -3, 3) * options.strain
            projection = defects.strain(projection, tensor)
        if options.local_strain:
            projection = defects.local_strain(projection, rng, options.local_strain)
        return projection


def read_specimens(
    paths: Sequence[str],
    zone_axes: Sequence[Sequence[int]] | None,
    direction: Sequence[float] | None,
) -> tuple[list[Specimen], int]:
    """Return the specimens of structure files, and the number of unreadable ones.

    The beam is along each of ``zone_axes`` [uvw] (None: [001]), or along the Cartesian
    ``direction``.
    """
    from ase import Atoms

    from ppmat.datasets.structure_reader import Unreadable
    from ppmat.datasets.structure_reader import iter_structures

    specimens: list[Specimen] = []
    left_out = 0
    structures = iter_structures(paths)
    axes = [tuple(axis) for axis in zone_axes or [(0, 0, 1)]]
    for structure in itertools.islice(structures, _MAX_STRUCTURES):
        if isinstance(structure, Unreadable):
            logger.error(f"left out: {structure}")
            left_out += 1
            continue
        is_atoms = isinstance(structure, Atoms)
        name = str(structure.info["sid"] if is_atoms else structure.sid)
        try:
            arrays = structure_to_arrays(structure)
            if direction is None:
                views = [(axis, view_along(structure, axis)) for axis in axes]
            else:
                view = view_along(structure, direction=direction)
                views = [(tuple(direction), view)]
        except CrystalError as error:
            raise CrystalError(f"{name}: {error}") from error
        formula = Atoms(arrays.numbers).get_chemical_formula("reduce")
        # numbers, occupancies, positions, cell, periodic
        data = b"".join(array.tobytes() for array in vars(arrays).values())
        digest = hashlib.sha256(data).hexdigest()
        specimens += [Specimen(name, formula, a, view, digest) for a, view in views]
    if next(structures, None) is not None:
        logger.warning(f"only the first {_MAX_STRUCTURES} structures are used")
    refuse_if(not specimens, "no structure can be used")
    return specimens, left_out


def _optics(args: argparse.Namespace, mode: str) -> dict[str, Range]:
    """Return the ranges of the microscope's options."""
    other = "bf" if mode == "haadf" else "haadf"
    for name in OPTICS[other]:
        refuse_if(
            getattr(args, name) is not None,
            f"--{name} is for {other.upper()} images, but these are {mode.upper()}; "
            f"leave it out, or give --mode={other}",
        )
    ranges = {
        name: _range(name, getattr(args, name), default, positive=name != "defocus")
        for name, default in OPTICS[mode].items()
    }
    if mode == "bf":  # check the two extreme microscopes that can be drawn
        lowest = {name: ends[0] for name, ends in ranges.items()}
        highest = {name: ends[1] for name, ends in ranges.items()}
        BrightField(**{**lowest, "detector": highest["detector"]})
        BrightField(**highest)
    return ranges


def _extent(shape: tuple[int, int], pixel_size: float) -> str:
    return " x ".join(f"{size * pixel_size:.3g}" for size in shape) + " Å"


def _range(
    name: str, values: list[float] | None, default: Any, positive: bool = True
) -> Any:
    """Return the range that one or two numbers of an option mean."""
    if values is None:
        return default
    first, last = values[0], values[-1]
    good = len(values) <= 2 and math.isfinite(first) and first <= last < math.inf
    wanted = "one or two numbers" + (" above 0" if positive else "")
    refuse_if(
        not good or (positive and first <= 0),
        f"--{name} {' '.join(map(str, values))}: wanted {wanted}, the lower first",
    )
    return first, last


def _defect(text: str, form: str, count: int, most: float = 1.0) -> tuple:
    """Return words and number of ``WORD:...:NUMBER``; None if there is no word."""
    *words, number = text.split(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    wrong = len(words) != count or not 0 <= value < math.inf
    refuse_if(wrong, f"'{text}': wanted {form}, with a number of at least 0")
    refuse_if(value > most, f"'{text}': the share must be 0 to 1")
    return (*(words or [None]), value)
