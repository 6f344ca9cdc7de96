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


"""The scenes of the synthesizing command: random ones, or structures with defects.

A painter draws scenes and tells what decides them; the options of the command that
are about scenes are read here.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes import defects
from ppmat.stem.scenes.bright_field import BrightField
from ppmat.stem.scenes.crystal import draw_contrast
from ppmat.stem.scenes.crystal import render_projection
from ppmat.stem.scenes.projection import CrystalError
from ppmat.stem.scenes.projection import View
from ppmat.stem.scenes.projection import project
from ppmat.stem.scenes.projection import specimen_layers
from ppmat.stem.scenes.projection import view_along
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.stem.scenes.structure_arrays import structure_to_arrays
from ppmat.utils import logger
from ppmat.utils.registry import ConfigError

_MOST_STRUCTURES = 1000
_TRIES = 10  # draws of a scene before its defects are said to leave nothing
_OFFSET = 10.0  # Å
_PIXEL_SIZE = (0.12, 0.12)
# Options of the microscope, by mode, with what they are drawn from by default.
OPTICS = {
    "haadf": {"probe": (0.3, 0.5)},
    "bf": {
        "energy": (BrightField.energy,) * 2,
        "semiangle": (BrightField.semiangle,) * 2,
        "detector": (BrightField.detector,) * 2,
        "defocus": (-20.0, 20.0),
    },
}


# Which end of what is drawn has the narrowest probe.
_NARROW = {"probe": 0, "energy": 1, "semiangle": 1}


class RandomPainter:
    """Draws random scenes.

    Args:
        noise: In grey levels; tells mode and contrast.
    """

    def __init__(self, noise: NoiseModel) -> None:
        self.recipe = SceneRecipe(mode=noise.mode, low=noise.low, high=noise.high)

    def settings(self) -> dict:
        """Return what decides the scenes."""
        return {"random": True}

    def paint(
        self, rng: np.random.Generator, shape: tuple[int, int]
    ) -> tuple[Any, dict]:
        """Return a scene and what is special about it."""
        return make_scene(rng, shape, self.recipe), {}


@dataclass(frozen=True)
class Specimen:
    """A structure seen along an axis.

    Args:
        name: Of the structure.
        formula: Reduced.
        axis: [uvw], or the Cartesian direction.
        view: See :class:`ppmat.stem.scenes.projection.View`.
        digest: Hash of the atoms.
    """

    name: str
    formula: str
    axis: tuple
    view: View
    digest: str


class CrystalPainter:
    """Draws scenes of structures with defects.

    Args:
        args: Of :func:`ppmat.commands.synthesize.parse_args`.
        specimens: What is drawn from.
        noise: In grey levels; tells mode and contrast.

    Raises:
        ConfigError: Options that cannot be meant, or defects of elements that no
            specimen has.
    """

    def __init__(
        self, args: argparse.Namespace, specimens: list[Specimen], noise: NoiseModel
    ) -> None:
        self.specimens, self.noise = specimens, noise
        self.pixel_size = _range("pixel_size", args.pixel_size, _PIXEL_SIZE)
        self.optics = _optics(args, noise.mode)
        self.rotation = _range("rotation", args.rotation, (0.0, 360.0), positive=False)
        self.thickness = _range("thickness", args.thickness, None)
        if self.thickness and all(s.view.along is None for s in specimens):
            raise ConfigError(
                "--thickness: none of the structures repeats along the beam, so each "
                "has a thickness of its own; leave it out"
            )
        self.vacancies = [_vacancy(text) for text in args.vacancies or ()]
        self.substitutions = [_substitution(text) for text in args.substitute or ()]
        self.adatoms = [_adatom(text) for text in args.adatoms or ()]
        self._check_elements()
        self.strain, self.local_strain = args.strain or 0.0, args.local_strain or 0.0
        self.boundaries = args.grain_boundary or 0.0
        for name in ("strain", "local_strain"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"--{name}={getattr(self, name)}: wanted at least 0")

    def _check_elements(self) -> None:
        """Refuse defects of elements that no specimen has, or nobody."""
        from ase.data import atomic_numbers
        from ase.data import chemical_symbols

        there = {chemical_symbols[z] for s in self.specimens for z in s.view.numbers}
        wanted = [element for element, *_ in (*self.vacancies, *self.substitutions)]
        for element in wanted:
            if element is not None and element not in there:
                raise ConfigError(
                    f"none of the structures has {element}; they have "
                    f"{', '.join(sorted(there))}"
                )
        fresh = [by for _, by, _ in self.substitutions]
        fresh += [element for element, _ in self.adatoms]
        for element in fresh:
            if atomic_numbers.get(element, 0) < 1:
                raise ConfigError(
                    f"'{element}' is no element; wanted a symbol such as Pt"
                )

    def check(self, shape: tuple[int, int]) -> None:
        """Paint what is refused first: the ends of the pixels, with a narrow probe.

        Args:
            shape: ``(H, W)`` of the images.

        Raises:
            CrystalError: Pixels larger than columns; an image that shows no atoms, or
                less than the distance of two columns.
        """
        narrow = copy.copy(self)
        narrow.optics = {
            name: ends if end is None else (ends[end], ends[end])
            for name, ends in self.optics.items()
            for end in [_NARROW.get(name)]
        }
        for pixel in sorted(set(self.pixel_size)):
            narrow.pixel_size = (pixel, pixel)
            narrow.paint(np.random.default_rng(0), shape)
        views = [_extent(shape, pixel) for pixel in sorted(set(self.pixel_size))]
        logger.info(f"images show {' to '.join(views)} (height x width)")

    def settings(self) -> dict:
        """Return what decides the scenes."""
        own = {k: v for k, v in vars(self).items() if k not in ("specimens", "noise")}
        specimens = [
            {
                "structure": specimen.name,
                "formula": specimen.formula,
                "axis": list(specimen.axis),
                "sha256": specimen.digest,
            }
            for specimen in self.specimens
        ]
        return {**own, "specimens": specimens}

    def paint(
        self, rng: np.random.Generator, shape: tuple[int, int]
    ) -> tuple[Any, dict]:
        """Return a scene and what is special about it.

        Raises:
            CrystalError: Nothing is left in view, however often it is drawn.
        """
        for attempt in range(_TRIES):
            try:
                return self._paint(rng, shape)
            except CrystalError:
                # Chance may take the last atom of a small structure.
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _paint(
        self, rng: np.random.Generator, shape: tuple[int, int]
    ) -> tuple[Any, dict]:
        specimen = self.specimens[rng.integers(len(self.specimens))]
        drawn: dict[str, Any] = {
            "pixel_size": float(rng.uniform(*self.pixel_size)),
            "rotation": float(rng.uniform(*self.rotation)),
        }
        reach = min(_OFFSET, min(shape) * drawn["pixel_size"] / 4)
        drawn["offset"] = rng.uniform(-reach, reach, 2).tolist()
        if specimen.view.along is not None and self.thickness:
            drawn["thickness"] = float(rng.uniform(*self.thickness))
        diagonal = math.hypot(*shape) * drawn["pixel_size"]
        contrast, spots, optics = self._microscope(rng)
        _, thickness = specimen_layers(specimen.view, drawn.get("thickness"))
        margin = contrast.reach(thickness)
        margin += 3 * self.strain * diagonal + 8 * self.local_strain
        found = project(specimen.view, shape, margin=margin, **drawn)
        if min(shape) * drawn["pixel_size"] < found.spacing < math.inf:
            raise CrystalError(
                f"an image shows {_extent(shape, drawn['pixel_size'])}, but columns are"
                f" {found.spacing:.3g} Å apart; choose a larger --pixel_size (in Å, not"
                " nm) or more pixels"
            )
        if rng.random() < self.boundaries:
            other = {**drawn, "rotation": drawn["rotation"] + rng.uniform(5, 85)}
            found = defects.grain_boundary(
                found,
                project(specimen.view, shape, margin=margin, **other),
                angle=float(rng.uniform(0, 180)),
                through=tuple(rng.uniform(0.25, 0.75, 2)),
            )
        found = self._defects(rng, found)
        scene = render_projection(
            found,
            self.noise.mode,
            contrast=contrast,
            low=self.noise.low,
            high=self.noise.high,
            **spots,
        )
        return scene, {
            "structure": specimen.name,
            "formula": specimen.formula,
            "axis": list(specimen.axis),
            **drawn,
            "thickness": found.thickness,
            **optics,
            "defects": list(found.records),
        }

    def _microscope(self, rng: np.random.Generator) -> tuple[Any, dict, dict]:
        """Return contrast, further options of ``render_projection``, and a record."""
        drawn = {n: float(rng.uniform(*ends)) for n, ends in self.optics.items()}
        if self.noise.mode == "bf":
            return BrightField(**drawn), {}, drawn
        contrast = draw_contrast(rng, self.noise.mode)
        tail = (float(rng.uniform(0, 0.3)), float(rng.uniform(1.0, 1.4)))
        spots = {"probe": drawn["probe"], "tail": tail}
        return contrast, spots, {**spots, "light": contrast.light}

    def _defects(self, rng: np.random.Generator, found: Any) -> Any:
        # A structure without the element has nothing to lose.
        for element, share in self.vacancies:
            if element is None or element in found.elements:
                found = defects.vacancies(found, rng, share, element)
        for element, by, share in self.substitutions:
            if element in found.elements:
                found = defects.substitution(found, rng, share, element, by)
        for element, density in self.adatoms:
            found = defects.adatoms(found, rng, density, element)
        if self.strain:
            tensor = np.clip(rng.standard_normal((2, 2)), -3, 3) * self.strain
            found = defects.strain(found, tensor)
        if self.local_strain:
            found = defects.local_strain(found, rng, self.local_strain)
        return found


def read_specimens(args: argparse.Namespace) -> tuple[list[Specimen], int]:
    """Return what the structures look like, and how many were left out.

    Raises:
        ConfigError: No structure.
        CrystalError: A structure of which no image can be made.
    """
    from ase import Atoms

    from ppmat.datasets.structure_reader import Unreadable
    from ppmat.datasets.structure_reader import iter_structures

    specimens: list[Specimen] = []
    left_out = 0
    found = iter_structures(args.structure)
    axes = [tuple(axis) for axis in args.zone_axis or [(0, 0, 1)]]
    for structure in itertools.islice(found, _MOST_STRUCTURES):
        if isinstance(structure, Unreadable):
            logger.error(f"left out: {structure.reason}")
            left_out += 1
            continue
        name = str(
            structure.info["sid"] if isinstance(structure, Atoms) else structure.sid
        )
        try:
            specimens += _specimens(structure, name, axes, args.direction)
        except CrystalError as error:
            raise CrystalError(f"{name}: {error}") from error
    if next(found, None) is not None:
        logger.warning(f"the first {_MOST_STRUCTURES} structures are used, not all")
    if not specimens:
        raise ConfigError("no structure can be used")
    return specimens, left_out


def _specimens(
    structure: Any, name: str, axes: list[tuple], direction: list | None
) -> list[Specimen]:
    from ase import Atoms

    atoms = structure_to_arrays(structure)
    formula = Atoms(atoms.numbers).get_chemical_formula("reduce")
    digest = hashlib.sha256()
    for array in (atoms.numbers, atoms.occupancies, atoms.positions, atoms.cell):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(atoms.periodic.tobytes())
    views = (
        [(axis, view_along(structure, axis)) for axis in axes]
        if direction is None
        else [(tuple(direction), view_along(structure, direction=direction))]
    )
    return [
        Specimen(name, formula, axis, view, digest.hexdigest()) for axis, view in views
    ]


def _optics(args: argparse.Namespace, mode: str) -> dict[str, tuple[float, float]]:
    """Return what the microscope of a mode is drawn from.

    Raises:
        ConfigError: An option of the other mode.
        CrystalError: A microscope that cannot be.
    """
    for other, options in OPTICS.items():
        given = [name for name in options if getattr(args, name) is not None]
        if given and other != mode:
            raise ConfigError(
                f"--{given[0]} is for {other.upper()} images, but these are "
                f"{mode.upper()}; leave it out, or give --mode={other}"
            )
    found = {
        name: _range(name, getattr(args, name), default, positive=name != "defocus")
        for name, default in OPTICS[mode].items()
    }
    if mode == "bf":  # the least likely of those to be drawn
        lowest = {name: ends[0] for name, ends in found.items()}
        highest = {name: ends[1] for name, ends in found.items()}
        BrightField(**{**lowest, "detector": highest["detector"]})
        BrightField(**highest)
    return found


def _extent(shape: tuple[int, int], pixel_size: float) -> str:
    return " x ".join(f"{size * pixel_size:.3g}" for size in shape) + " Å"


def _range(
    name: str,
    values: list[float] | None,
    default: tuple[float, float] | None,
    positive: bool = True,
) -> tuple[float, float] | None:
    """Return the two ends of what is drawn between."""
    if values is None:
        return default
    first, last = values[0], values[-1]
    good = len(values) <= 2 and math.isfinite(first) and first <= last < math.inf
    if not good or (positive and first <= 0):
        wanted = "one or two numbers" + (" above 0" if positive else "")
        raise ConfigError(
            f"--{name} {' '.join(map(str, values))}: wanted {wanted}, the lower first"
        )
    return first, last


def _parts(text: str, form: str, count: int) -> tuple:
    """Return the words and the number of ``WORD:...:NUMBER``."""
    *words, number = text.split(":")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if len(words) != count or not 0 <= value < math.inf:
        raise ConfigError(f"'{text}': wanted {form}, with a number of at least 0")
    return (*words, value)


def _vacancy(text: str) -> tuple[str | None, float]:
    words = text.count(":")
    found = _parts(text, "--vacancies [ELEMENT:]SHARE", min(words, 1))
    return _share(text, found if words else (None, *found))


def _substitution(text: str) -> tuple[str, str, float]:
    return _share(text, _parts(text, "--substitute ELEMENT:BY:SHARE", 2))


def _adatom(text: str) -> tuple[str, float]:
    return _parts(text, "--adatoms ELEMENT:NUMBER", 1)


def _share(text: str, found: tuple) -> tuple:
    if found[-1] > 1:
        raise ConfigError(f"'{text}': the share must be 0 to 1")
    return found
