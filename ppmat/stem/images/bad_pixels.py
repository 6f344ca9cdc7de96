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


"""Single pixels that no specimen and no noise of a detector's working pixels gives.

Hot and dead pixels, and hits of X-rays. One of them can outweigh all that is to be
measured in an image: noise is read from squares of pixels.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter

MANY = 0.005  # of the pixels; beyond it they are something else
_SIZE = 15.0  # standard deviations
_TAIL_SIZE = 4.0  # in the deviation that nearly all pixels stay below
_ALONE = 4.0  # in the range of the values around
_RING = np.ones((3, 3), dtype=bool)
_RING[1, 1] = False


def hot_pixels(image: np.ndarray, most: float = 0.01) -> np.ndarray:
    """Return which pixels stand out of their neighbours and have none that do so too.

    The deviation of a pixel is that from the median of its eight neighbours. It counts
    if it is above

    - 15 standard deviations, told by the median of all, so that noise has none,
    - 4 times what 99 of 100 pixels have (1 - ``most``): heavy tails, few electrons,
      sharp columns,
    - 4 times the range of the 24 pixels around, less two at either end: noise of bright
      columns on a dark ground, and columns. Beside the middle of a column with a
      standard deviation of 0.6 pixels, four have a fourth of its height.

    So up to three hot pixels side by side are found. An image in which 99 of 100 pixels
    equal their surroundings tells no scale, and nothing is found there.

    Args:
        image: Numbers [H, W], at least 3 x 3. NaN and infinite ones are missing: they
            are not hot, and as neighbours they have the median of the others.
        most: Largest share of hot pixels; with more none is found.

    Returns:
        Boolean [H, W].
    """
    return _find(image, most)[0]


def without_hot_pixels(
    image: np.ndarray, most: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with the median of the neighbours at hot pixels, and where.

    Args:
        image: See :func:`hot_pixels`.
        most: The same.

    Returns:
        The image [H, W], the same array if there are none; and which pixels were hot.
    """
    hot, median = _find(image, most)
    return (np.where(hot, median, image) if hot.any() else image), hot


def told(number: int, size: int | None = None) -> str:
    """Return what a user is told of hot pixels that were left out, of so many."""
    noun = "pixel was" if number == 1 else "pixels were"
    of = "" if size is None else f" of {size}"
    return (
        f"{number} {noun} left out{of}, standing out of all neighbours: hot pixels or "
        "X-ray hits"
    )


def _find(image: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    image = np.asarray(image)
    if image.dtype != np.float32:
        image = image.astype(np.float64)  # unsigned integers have no differences
    known = np.isfinite(image)
    if not known.all():
        image = np.where(known, image, np.median(image[known]) if known.any() else 0.0)
    # Mirrored, so that no pixel is its own neighbour.
    median = median_filter(image, footprint=_RING, mode="mirror")
    deviation = image - median
    size = np.abs(deviation)
    hot = np.zeros(image.shape, dtype=bool)
    if not known.any():
        return hot, median
    usual = np.median(deviation[known])
    spread = 1.4826 * np.median(np.abs(deviation[known] - usual))
    tail = np.quantile(size[known], 1 - most)
    if not tail > 0:
        return hot, median
    y, x = np.nonzero(known & (size > max(_SIZE * spread, _TAIL_SIZE * tail)))
    padded = np.pad(image, 2, mode="reflect")
    around = [(i, j) for i in range(5) for j in range(5) if (i, j) != (2, 2)]
    values = np.sort([padded[y + i, x + j] for i, j in around], axis=0)
    hot[y, x] = size[y, x] > _ALONE * (values[-3] - values[2])
    return hot, median
