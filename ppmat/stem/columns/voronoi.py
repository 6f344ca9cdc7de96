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

"""Intensity of an image, integrated over the Voronoi cell of each column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ppmat.utils.errors import InputError

_ROWS = 64  # of the image whose nearest columns are searched at once, for small memory
# Cells that reach farther, in distances of nearest columns, are open to vacuum or hold
# several missing columns. Beside one vacancy cells reach about 1.1.
_MAX_REACH = 2.0


@dataclass(frozen=True)
class VoronoiCells:
    """Integrals over the pixels that are nearest to each column [n].

    NaN for cells that are cut or open: with a pixel of the border, with a missing
    pixel, or reaching farther than twice the typical distance of nearest columns.
    """

    intensity: np.ndarray  # sum over the pixels, image units px^2
    area: np.ndarray  # number of pixels, px^2


def voronoi_cells(image: np.ndarray, positions: np.ndarray) -> VoronoiCells:
    """Integrate the Voronoi cells of columns; a pixel belongs to one cell as a whole.

    Args:
        image: Raw image [H, W]; NaN, infinite and masked pixels are missing.
        positions: ``(y, x)`` of the columns, pixels [n, 2].

    Example:
        >>> import numpy as np
        >>> y, x = np.divmod(np.arange(25), 5)
        >>> positions = np.stack([5 * y + 2, 5 * x + 2], axis=1)
        >>> cells = voronoi_cells(np.ones((25, 25)), positions)
        >>> float(np.nanmean(cells.area)), int(np.isnan(cells.area).sum())
        (25.0, 16)
    """
    values = np.ma.filled(np.ma.asanyarray(image).astype(np.float64), np.nan)
    if values.ndim != 2:
        raise InputError(f"image of shape {values.shape}", wanted="one image [H, W]")
    count = len(positions)
    if count < 2:
        return VoronoiCells(*np.full((2, count), np.nan))
    tree = cKDTree(positions)
    reach = _MAX_REACH * np.median(tree.query(positions, k=2)[0][:, 1])
    intensity, area = np.zeros((2, count))
    cut = np.zeros(count, dtype=bool)
    columns = np.arange(values.shape[1])
    for first in range(0, len(values), _ROWS):
        part = values[first : first + _ROWS]
        rows = np.arange(first, first + len(part))
        pixels = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        distance, cell = tree.query(pixels)
        intensity += np.bincount(cell, part.ravel(), count)
        area += np.bincount(cell, minlength=count)
        border = (pixels == 0) | (pixels == np.array(values.shape) - 1)
        cut[cell[border.any(axis=1) | (distance > reach)]] = True
    # A missing pixel has made the sum of its cell NaN or infinite.
    cut |= ~np.isfinite(intensity)
    intensity[cut], area[cut] = np.nan, np.nan
    return VoronoiCells(intensity, area)
