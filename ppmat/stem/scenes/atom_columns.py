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


"""Atomic columns as round spots, and the images they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

_TILE = 256  # pixels; a tile is one small matrix product
_REACH = 6.0  # standard deviations; a Gaussian is 2e-8 of its peak there
SPOT = (255.0, 1.5)  # grey value and standard deviation [pixels] in gt_detect


@dataclass
class Columns:
    """Atomic columns in view.

    Args:
        y: Rows, pixels [n]; the centre of the first pixel is 0.
        x: Columns of the image, pixels [n].
        height: Peak above the background, image units [n]; negative where dark.
        sigma: Width of the Gaussian, pixels [n].
        element: What the column is made of, like ``Sr`` or ``Ti+O`` [n]; None where
            nobody knows.
        occupancy: Part of its atoms that is there [n]; None where nobody knows.
    """

    y: np.ndarray
    x: np.ndarray
    height: np.ndarray
    sigma: np.ndarray
    element: np.ndarray | None = None
    occupancy: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def render(
        self,
        shape: tuple[int, int],
        level: float = 0.0,
        tail: tuple[float, float] = (0.0, 1.0),
    ) -> np.ndarray:
        """Return the sum of the columns over a flat background.

        Args:
            shape: ``(H, W)`` of the image.
            level: Background, image units.
            tail: Part of each peak that belongs to a wider Gaussian (the tails of the
                probe), and how many times wider that is.

        Returns:
            Image units [H, W].
        """
        share, ratio = tail
        image = np.full(shape, float(level))
        self._add(image, (1 - share) * self.height, self.sigma)
        if share:
            self._add(image, share * self.height, ratio * self.sigma)
        return image

    def _add(self, image: np.ndarray, height: np.ndarray, sigma: np.ndarray) -> None:
        reach = _REACH * sigma
        for top in range(0, image.shape[0], _TILE):
            near = np.abs(self.y - top - _TILE / 2) < _TILE / 2 + reach
            for left in range(0, image.shape[1], _TILE):
                use = near & (np.abs(self.x - left - _TILE / 2) < _TILE / 2 + reach)
                tile = image[top : top + _TILE, left : left + _TILE]
                # A round Gaussian is the product of its profiles, so the sum over
                # columns is one matrix product.
                rows = _profiles(tile.shape[0], self.y[use] - top, sigma[use])
                columns = _profiles(tile.shape[1], self.x[use] - left, sigma[use])
                tile += (height[use, None] * rows).T @ columns

    def spots(self, shape: tuple[int, int]) -> np.ndarray:
        """Return ``gt_detect``: equal narrow spots on black, grey levels [H, W]."""
        like = np.ones(len(self))
        spots = Columns(self.y, self.x, SPOT[0] * like, SPOT[1] * like)
        return np.clip(spots.render(shape), 0, 255)

    def values(self, image: np.ndarray) -> np.ndarray:
        """Return what an image has at the columns [n], between pixels linearly.

        Outside the image that is the nearest pixel.
        """
        place = np.stack([self.y, self.x])
        return map_coordinates(image, place, order=1, mode="nearest")

    def inside(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the mask of the columns whose centre is on a pixel of an image [n]."""
        height, width = shape
        return (
            (self.y >= -0.5)
            & (self.y < height - 0.5)
            & (self.x >= -0.5)
            & (self.x < width - 0.5)
        )

    def select(self, which: np.ndarray) -> Columns:
        """Return the columns of a mask or of numbers, in that order."""
        rest = (None if v is None else v[which] for v in (self.element, self.occupancy))
        return Columns(
            self.y[which], self.x[which], self.height[which], self.sigma[which], *rest
        )


def _profiles(size: int, centre: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    offset = np.arange(size) - centre[:, None]
    return np.exp(-0.5 * (offset / sigma[:, None]) ** 2)


@dataclass
class Scene:
    """A clean image with its targets.

    Args:
        gt_enhance: Image without noise, with its contrast, image units [H, W].
        gt_detect: Equal narrow spots on black, one a column, grey levels [H, W].
        columns: The columns, also those beyond the image whose spots reach into it.
        pixel_size: Å; None where nobody knows.
    """

    gt_enhance: np.ndarray
    gt_detect: np.ndarray
    columns: Columns
    pixel_size: float | None = None

    def table(self) -> list[dict]:
        """Return the columns on the image: position in pixels (and Å), what they are.

        Those whose centre is on no pixel are left out.
        """
        columns = self.columns.select(self.columns.inside(self.gt_enhance.shape))
        rows = []
        for i in range(len(columns)):
            row = {"y": float(columns.y[i]), "x": float(columns.x[i])}
            if self.pixel_size is not None:
                row["y_angstrom"] = row["y"] * self.pixel_size
                row["x_angstrom"] = row["x"] * self.pixel_size
            if columns.element is not None:
                row["element"] = str(columns.element[i])
            if columns.occupancy is not None:
                row["occupancy"] = float(columns.occupancy[i])
            row["height"] = float(columns.height[i])
            row["sigma"] = float(columns.sigma[i])
            rows.append(row)
        return rows
