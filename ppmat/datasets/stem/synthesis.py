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


"""Clean STEM images of atomic columns, and what a network should make of them.

The paper trains on periodic and random arrangements of round spots (Li et al., CVPR
2025, Sec. 3); its recipe is not published. Here a column is a Gaussian, and lattices,
vacancies and disorder are drawn within wide ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

_TRIES = 8  # positions tried for a square of the spacing: nearly a full packing


@dataclass
class Columns:
    """Atomic columns in view.

    Args:
        y: Rows, pixels [n]; the centre of the first pixel is 0.
        x: Columns of the image, pixels [n].
        height: Peak above the background, grey levels [n]; negative where dark.
        sigma: Width of the Gaussian, pixels [n].
    """

    y: np.ndarray
    x: np.ndarray
    height: np.ndarray
    sigma: np.ndarray

    def render(self, shape: tuple[int, int], level: float = 0.0) -> np.ndarray:
        """Return the sum of the Gaussians over a flat background.

        Args:
            shape: ``(H, W)`` of the image.
            level: Background, grey levels.

        Returns:
            Grey levels [H, W].
        """

        def profile(size: int, centre: np.ndarray) -> np.ndarray:
            offset = np.arange(size) - centre[:, None]
            return np.exp(-0.5 * (offset / self.sigma[:, None]) ** 2)

        # A round Gaussian is the product of its profiles, so the sum over columns is
        # one matrix product.
        rows, columns = profile(shape[0], self.y), profile(shape[1], self.x)
        return level + (self.height[:, None] * rows).T @ columns


@dataclass
class Scene:
    """A clean image with its targets, all in grey levels 0 to 255.

    Args:
        gt_enhance: Image without noise, with its contrast [H, W].
        gt_detect: Equal narrow spots on black, one a column [H, W].
        columns: The columns.
    """

    gt_enhance: np.ndarray
    gt_detect: np.ndarray
    columns: Columns


def lattice_positions(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random two-dimensional crystal that covers the image.

    Args:
        rng: Random numbers.
        shape: ``(H, W)``.
        spacing: Length of the first lattice vector, pixels.

    Returns:
        Positions ``(y, x)`` in pixels [n, 2] and the site in the cell [n].
    """
    angle = rng.uniform(0, 2 * np.pi)
    opening = np.deg2rad(rng.choice([60.0, 90.0, rng.uniform(60, 120)]))
    ratio = rng.choice([1.0, rng.uniform(1.0, 1.6)])
    first = np.array([np.sin(angle), np.cos(angle)])
    second = np.array([np.sin(angle + opening), np.cos(angle + opening)])
    cell = spacing * np.stack([first, ratio * second])
    reach = int(np.ceil(1.5 * max(shape) / spacing / np.sin(opening)))
    index = np.arange(-reach, reach + 1)
    corners = np.stack(np.meshgrid(index, index), axis=-1).reshape(-1, 2) @ cell
    sites = [rng.uniform(size=2)]
    if rng.random() < 0.6:
        sites.append(sites[0] + rng.uniform(0.4, 0.6, size=2))
    positions = np.concatenate([corners + site @ cell for site in sites])
    kinds = np.repeat(np.arange(len(sites)), len(corners))
    positions += np.array(shape) / 2
    inside = np.all((positions > -4) & (positions < np.array(shape) + 3), axis=1)
    return positions[inside], kinds[inside]


def random_positions(
    rng: np.random.Generator, shape: tuple[int, int], spacing: float
) -> np.ndarray:
    """Return positions [n, 2] in pixels, none closer than ``spacing``."""
    low, high = np.array([-4.0, -4.0]), np.array(shape) + 3.0
    count = int(_TRIES * np.prod((high - low) / spacing))
    tries = rng.uniform(low, high, size=(count, 2))
    keep = np.ones(count, dtype=bool)
    for first, second in sorted(cKDTree(tries).query_pairs(spacing)):
        if keep[first]:
            keep[second] = False
    return tries[keep]


def make_scene(rng: np.random.Generator, shape: tuple[int, int]) -> Scene:
    """Return a HAADF-like scene: a crystal with defects, or a random arrangement.

    Args:
        rng: Random numbers.
        shape: ``(H, W)``.
    """
    spacing = rng.uniform(9.0, 18.0)
    if rng.random() < 0.75:
        positions, kinds = lattice_positions(rng, shape, spacing)
        positions = positions + rng.normal(0, rng.uniform(0, 0.4), positions.shape)
        present = rng.random(len(positions)) > rng.choice([0.0, 0.03])
        positions, kinds = positions[present], kinds[present]
    else:
        positions = random_positions(rng, shape, 0.8 * spacing)
        kinds = rng.integers(0, 3, len(positions))
    level = rng.uniform(15, 60)
    contrast = rng.uniform(90, 180) * np.array([1.0, *rng.uniform(0.25, 0.9, 2)])
    height = contrast[kinds] * rng.normal(1.0, 0.05, len(kinds))
    sigma = np.full(len(kinds), rng.uniform(0.16, 0.24) * spacing)
    columns = Columns(positions[:, 0], positions[:, 1], height, sigma)
    spots = Columns(
        columns.y,
        columns.x,
        np.full(len(kinds), 255.0),
        np.full(len(kinds), 1.5),
    )
    return Scene(
        np.clip(columns.render(shape, level), 0, 255),
        np.clip(spots.render(shape), 0, 255),
        columns,
    )
