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

"""Specimens of uneven thickness: wedges, edges, particles, supports, vacuum.

The thickness ``t`` [H, W] is between 0 (vacuum) and about 1 (the flat scene). With the
flat scene ``L``, the value of vacuum ``v`` and a slow signal of the bulk ``B``

    image = v + t (L - v) + t B + support.

All ranges are ours; docs/stem/synthetic_training.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from ppmat.stem.scenes.atom_columns import Scene

_LEAST_THICKNESS = 0.05  # thinner columns count as absent
# Largest signal of the bulk, in contrasts of the columns. In bright field a thick
# specimen absorbs, but the image cannot become darker than black.
_MOST_BULK = {"haadf": 4.0, "bf": 0.6}
_BULK_SIGN = {"haadf": 1.0, "bf": -1.0}


def uneven_scene(
    rng: np.random.Generator, flat: Scene, mode: str, low: float, high: float
) -> Scene:
    """Return a scene with the columns of a flat one and a random thickness.

    Args:
        rng: Random numbers.
        flat: The scene; heights of its columns are scaled with the thickness.
        mode: ``haadf``: vacuum is dark. ``bf``: vacuum is bright.
        low: Image value of the dark parts of the flat scene.
        high: Image value of its bright parts.

    Example:
        >>> import numpy as np
        >>> from ppmat.stem.scenes.random_scenes import make_scene
        >>> rng = np.random.default_rng(0)
        >>> flat = make_scene(rng, (32, 48))
        >>> uneven_scene(rng, flat, "haadf", 30.0, 180.0).gt_enhance.shape
        (32, 48)
    """
    shape, contrast = flat.gt_enhance.shape, high - low
    draw: Callable = _SHAPES[rng.integers(len(_SHAPES))]
    thickness = draw(rng, shape)
    vacuum = low if mode == "haadf" else high
    bulk = rng.choice([0.0, 0.25, 1.0]) * rng.uniform(0.0, _MOST_BULK[mode])
    image = vacuum + thickness * (flat.gt_enhance - vacuum)
    image += _BULK_SIGN[mode] * bulk * contrast * thickness
    if rng.random() < 0.3:  # unequal illumination or detector
        image += contrast * (_distance(rng, shape) / max(shape)) * rng.uniform(0, 2)
    if rng.random() < 0.4:  # amorphous support or contamination
        length = np.exp(rng.uniform(np.log(2.0), np.log(20.0)))
        image += rng.uniform(0.0, 0.4) * contrast * smooth_field(rng, shape, length)
    columns = flat.columns
    local = columns.values(thickness)
    columns.height = columns.height * local
    columns = columns.select(local > _LEAST_THICKNESS)
    return Scene(image, columns.spots(shape), columns, flat.pixel_size)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int], length: float
) -> np.ndarray:
    """Return a random field of mean 0 and variance 1 [H, W].

    It is white noise under a Gaussian of ``length`` pixels.
    """
    field = gaussian_filter(rng.standard_normal(shape), length, truncate=3.0)
    field -= field.mean()
    return field / field.std()


def _distance(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return distances from a random line through the image, pixels [H, W]."""
    angle = rng.uniform(0, 2 * np.pi)
    through = np.array(shape) * rng.uniform(0.2, 0.8, 2)
    y, x = (np.arange(size) - at for size, at in zip(shape, through))
    return np.sin(angle) * y[:, None] + np.cos(angle) * x


def _wedge(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    length = rng.uniform(0.5, 4.0) * max(shape)
    return np.clip(rng.uniform(0.2, 0.8) + _distance(rng, shape) / length, 0, 1)


def _edge(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    width = np.exp(rng.uniform(np.log(1.0), np.log(20.0)))
    return 1 / (1 + np.exp(np.clip(_distance(rng, shape) / width, -50, 50)))


def _particle(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Balls, as thick as long or flatter, one before another."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    thickness = np.zeros(shape)
    for _ in range(rng.integers(1, 4)):
        at, radius = rng.uniform(0, shape), rng.uniform(0.25, 1.5) * max(shape)
        height = 1 - ((y - at[0]) ** 2 + (x - at[1]) ** 2) / radius**2
        thickness = np.maximum(thickness, np.sqrt(np.clip(height, 0, None)))
    return thickness


def _buckled(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    field = smooth_field(rng, shape, rng.uniform(10.0, 60.0))
    return np.clip(0.7 + rng.uniform(0.05, 0.4) * field, 0, None)


def _flat(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.ones(shape)


_SHAPES = (_wedge, _edge, _particle, _buckled, _flat)
