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

"""The test images of the STEM benchmark, and the files between its stages.

A case is one noisy exposure of one scene. Only NumPy and SciPy are imported, because
the stages run in different environments.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ppmat.stem.noise.counting_noise import CountingNoise
from ppmat.stem.noise.noise_model import MODES
from ppmat.stem.noise.noise_model import NoiseModel
from ppmat.stem.scenes.atom_columns import on_image
from ppmat.stem.scenes.random_scenes import SceneRecipe
from ppmat.stem.scenes.random_scenes import make_scene
from ppmat.utils.files import replacing

DOSES = {"mos2": (1e4, 3e4, 1e5), "sto": (3e3, 1e4, 1e5)}  # electrons / Å^2
# The scene on which the filters' parameters for each test scene are chosen.
VALIDATION = {"sto": "bto", "mos2": "nbs2", "random": "random_val"}
VALIDATION_SEED = 100
JITTER = 0.35  # pixels; root mean square shift of a scan line
# Columns that must be found, and whether they are bright. In a thick crystal oxygen is
# weaker than the tails of its neighbours in HAADF, and the brightest in BF. Sulphur of
# a layer is a very weak minimum in BF.
SEEN = {
    ("sto", "haadf"): (("Sr", "Ti+O"), True),
    ("sto", "bf"): (("O",), True),
    ("mos2", "haadf"): (("Mo", "S"), True),
    ("mos2", "bf"): (("Mo",), False),
}
RANDOM_SIZE = 192  # pixels
RANDOM_SCENES = 2  # of each seed
MAX_SIZE = 320  # pixels; larger scenes are cropped to save time
FAINT = 0.15  # of the strongest height; fainter random columns need not be found
_RANDOM_PIXEL = 0.1  # Å; random scenes have no scale: 1 pixel counts as 10 pm
_NAMES = (*DOSES, "bto", "nbs2", "random", "random_val")


@dataclass(frozen=True)
class Case:
    """One exposure.

    Args:
        scene: ``sto``, ``mos2``, ``random``; or one of ``VALIDATION``.
        mode: ``haadf`` or ``bf``.
        dose: Electrons / Å^2; None for ``random``, whose noise is the default model.
        seed: Of the noise, and of a random scene.
        number: Of the random scene of this seed.
    """

    scene: str
    mode: str
    dose: float | None
    seed: int
    number: int = 0

    @property
    def group(self) -> str:
        """Name shared by the cases of all seeds."""
        dose = "" if self.dose is None else f"_{self.dose:.0e}".replace("e+0", "e")
        return f"{self.scene}_{self.mode}{dose}"

    @property
    def name(self) -> str:
        """Name of the case's files."""
        return f"{self.group}_{self.seed}_{self.number}"

    def validation(self) -> list[Case]:
        """Return the cases on which the filters for this case are tuned."""
        scene = VALIDATION[self.scene]
        count = RANDOM_SCENES if self.scene == "random" else 1
        return [
            Case(scene, self.mode, self.dose, VALIDATION_SEED, i) for i in range(count)
        ]


@dataclass
class Exposure:
    """The arrays of a case.

    Args:
        noisy: Image [H, W] float32: counts, or grey levels of a random scene.
        clean: Its expectation without jitter and noise [H, W] float32.
        columns: Positions ``(y, x)`` of all columns, pixels [n, 2].
        wanted: Mask of the columns that must be found [n]; finding another column is
            not an error.
        bright: Whether the wanted columns are brighter than their surroundings.
        pixel_size: Å.
    """

    noisy: np.ndarray
    clean: np.ndarray
    columns: np.ndarray
    wanted: np.ndarray
    bright: bool
    pixel_size: float


def cases(seeds: Sequence[int], scenes: Iterable[str]) -> Iterator[Case]:
    """Yield the test cases."""
    for mode, scene in itertools.product(MODES, scenes):
        for dose in DOSES.get(scene, (None,)):
            for seed in seeds:
                for number in range(RANDOM_SCENES if dose is None else 1):
                    yield Case(scene, mode, dose, seed, number)


@lru_cache(maxsize=4)
def _scene_file(path: Path) -> dict:
    if not path.exists():
        raise SystemExit(f"{path} is missing; benchmarks/stem/scenes.py makes it")
    with np.load(path) as file:
        return dict(file)


def expose(case: Case, scenes: Path) -> Exposure:
    """Return the exposure of a case.

    The first call draws it and stores it, so that all stages use the same image,
    whatever versions they run with.

    Args:
        case: The case.
        scenes: Folder that ``benchmarks.stem.scenes`` wrote; exposures go there too.
    """
    path = scenes / "exposures" / f"{case.name}.npz"
    if not path.exists():
        save_arrays(path, **vars(_draw(case, scenes)))
    with np.load(path) as file:
        return Exposure(
            *(file[name] for name in ("noisy", "clean", "columns", "wanted")),
            bright=bool(file["bright"]),
            pixel_size=float(file["pixel_size"]),
        )


def _draw(case: Case, scenes: Path) -> Exposure:
    where = (_NAMES.index(case.scene), MODES.index(case.mode))
    words = (int(case.dose or 0), case.seed, case.number)
    rng = np.random.default_rng([*where, *words])
    if case.dose is None:
        noise = NoiseModel(mode=case.mode)
        recipe = SceneRecipe(mode=case.mode, low=noise.low, high=noise.high)
        scene = make_scene(rng, (RANDOM_SIZE, RANDOM_SIZE), recipe)
        columns = scene.columns
        columns = columns.select(columns.inside(scene.gt_enhance.shape))
        # In a thick BF scene some are dark and some bright: the majority is wanted.
        bright = bool(np.mean(columns.height > 0) > 0.5)
        return Exposure(
            noise.apply(scene.gt_enhance, rng).astype(np.float32),
            scene.gt_enhance.astype(np.float32),
            np.stack([columns.y, columns.x], axis=-1),
            np.where(bright, 1, -1) * columns.height
            > FAINT * np.abs(columns.height).max(),
            bright,
            _RANDOM_PIXEL,
        )
    arrays = _scene_file(scenes / f"{case.scene}.npz")
    pixel_size = float(arrays["pixel_size"])
    beam = arrays[case.mode][:MAX_SIZE, :MAX_SIZE].astype(np.float64)
    expected = beam * case.dose * pixel_size**2
    noise = CountingNoise(counts=1.0, bright=1.0, dark=0.0, jitter=JITTER)
    kinds, bright = SEEN.get((case.scene, case.mode), ((), True))
    positions = np.stack([arrays["row"], arrays["col"]], axis=-1)
    inside = on_image(positions, expected.shape)
    return Exposure(
        noise.apply(expected, rng).astype(np.float32),
        expected.astype(np.float32),
        positions[inside],
        np.isin(arrays["kind"], kinds)[inside],
        bright,
        pixel_size,
    )


# Files -------------------------------------------------------------------------------


def save_arrays(path: Path, **arrays: object) -> None:
    """Write arrays, all of them or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)


def save_image(path: Path, image: np.ndarray, seconds: float) -> None:
    """Write the image of a method and its CPU time, s."""
    save_arrays(path, image=image.astype(np.float32), seconds=seconds)


def load_image(path: Path) -> tuple[np.ndarray, float]:
    """Return the image and the CPU time, s, of :func:`save_image`."""
    with np.load(path) as file:
        return file["image"], float(file["seconds"])


def save_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value))


def load_json(path: Path) -> object:
    """Return the value of :func:`save_json`."""
    return json.loads(path.read_text())
