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

"""Atomic columns as round spots, and the clean image and targets they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

_TILE = 256  # pixels; one tile of the image is one small matrix product
_REACH = 6.0  # standard deviations; a Gaussian has 2e-8 of its peak there
_TARGET_HEIGHT = 255.0  # grey value of the spots in gt_detect
_TARGET_SIGMA = 1.5  # pixels; standard deviation of the spots in gt_detect
# Pixels; standard deviation of the spots in gt_superresolution. The narrowest Gaussian
# that pixels sample well: 0.7 % of its spectrum's peak is left at the Nyquist limit.
NARROW_SIGMA = 1.0


@dataclass
class AtomColumns:
    """Atomic columns in and around an image.

    Example:
        >>> one = AtomColumns(*np.array([[4.0], [3.0], [100.0], [1.5]]))
        >>> one.render((9, 7), level=20.0)[4, 3].item()
        120.0
    """

    y: np.ndarray  # rows, pixels [n]; the centre of the first pixel is 0
    x: np.ndarray  # columns of the image, pixels [n]
    height: np.ndarray  # peak above the background, image units [n]; negative if dark
    sigma: np.ndarray  # standard deviation of the Gaussian spot, pixels [n]
    element: np.ndarray | None = None  # such as "Sr" or "Ti+O" [n]; None if unknown
    # Fraction of the column's atoms that are present [n]; None if unknown.
    occupancy: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def render(
        self,
        shape: tuple[int, int],
        level: float = 0.0,
        tail: tuple[float, float] = (0.0, 1.0),
    ) -> np.ndarray:
        """Return the sum of the columns over a flat background, image units [H, W].

        Args:
            shape: ``(H, W)``.
            level: Background, image units.
            tail: Fraction of each peak in a wider Gaussian (the tails of the probe),
                and the ratio of its width to ``sigma``.
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
        ones = np.ones(len(self))
        equal = AtomColumns(self.y, self.x, _TARGET_HEIGHT * ones, _TARGET_SIGMA * ones)
        return np.clip(equal.render(shape), 0, 255)

    def narrow(self, shape: tuple[int, int]) -> np.ndarray:
        """Return ``gt_superresolution``: narrow spots on zero, image units [H, W].

        Each spot has a standard deviation of one pixel and the integral of its column,
        ``2 pi height sigma^2``. Tails of the probe count as background.

        Example:
            >>> wide = AtomColumns(*np.array([[15.0], [15.0], [10.0], [2.0]]))
            >>> image = wide.narrow((31, 31))
            >>> round(image[15, 15].item(), 6)
            40.0
            >>> round((image.sum() / wide.volume).item(), 6)
            1.0
        """
        sigma = np.full(len(self), NARROW_SIGMA)
        height = self.volume / (2 * np.pi * NARROW_SIGMA**2)
        return AtomColumns(self.y, self.x, height, sigma).render(shape)

    @property
    def volume(self) -> np.ndarray:
        """Integral of each column, image units times squared pixels [n]."""
        return 2 * np.pi * self.height * self.sigma**2

    def values(self, image: np.ndarray) -> np.ndarray:
        """Return an image's values at the columns [n], by linear interpolation.

        A column outside the image gets the value of the nearest pixel.
        """
        place = np.stack([self.y, self.x])
        return map_coordinates(image, place, order=1, mode="nearest")

    def inside(self, shape: tuple[int, int]) -> np.ndarray:
        """Return a mask of the columns whose centre lies on a pixel of an image [n]."""
        return on_image(np.stack([self.y, self.x], axis=-1), shape)

    def select(self, which: np.ndarray) -> AtomColumns:
        """Return the columns of a mask or of indices, in that order."""
        fields = vars(self).values()
        return AtomColumns(*(None if v is None else v[which] for v in fields))


def on_image(positions: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask of the positions (y, x), pixels [n, 2], that lie on a pixel [n]."""
    high = np.array(shape) - 0.5
    return np.all((positions >= -0.5) & (positions < high), axis=1)


def _profiles(size: int, centre: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    offset = np.arange(size) - centre[:, None]
    return np.exp(-0.5 * (offset / sigma[:, None]) ** 2)


@dataclass
class Scene:
    """A clean image with its targets."""

    gt_enhance: np.ndarray  # image without noise, image units [H, W]
    gt_detect: np.ndarray  # equal narrow spots on black, grey levels [H, W]
    columns: AtomColumns  # also those beyond the image whose spots reach into it
    pixel_size: float | None = None  # Å; None if unknown

    @property
    def gt_superresolution(self) -> np.ndarray:
        """Columns as narrow spots on zero, see ``AtomColumns.narrow``; [H, W]."""
        return self.columns.narrow(self.gt_enhance.shape)

    def column_rows(self) -> list[dict]:
        """Return one row for each column whose centre lies on a pixel.

        The keys are ``y``, ``x`` (pixels), ``y_angstrom``, ``x_angstrom``,
        ``element``, ``occupancy`` (these four if known), ``height``, ``sigma``.
        """
        columns = self.columns.select(self.columns.inside(self.gt_enhance.shape))
        table = {"y": columns.y, "x": columns.x}
        if self.pixel_size is not None:
            table |= {f"{k}_angstrom": v * self.pixel_size for k, v in table.items()}
        for name in ("element", "occupancy", "height", "sigma"):
            if (values := getattr(columns, name)) is not None:
                table[name] = values
        rows = zip(*(values.tolist() for values in table.values()))
        return [dict(zip(table, row)) for row in rows]
