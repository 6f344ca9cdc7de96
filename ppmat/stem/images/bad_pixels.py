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

"""Pixels without information: hot and dead pixels, X-ray hits, clipped grey values.

Noise is estimated from squares, so one hot pixel can outweigh the rest of an image.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter

# Largest share of hot pixels in an image that is measured. With more, something else
# than the detector is wrong.
MAX_HOT_SHARE = 0.005
# Least share of clipped pixels in a warning; a smaller one is the tail of the noise.
MAX_CLIPPED_SHARE = 0.005

_MIN_DEVIATION = 15.0  # of a hot pixel, in standard deviations of all deviations
_MIN_TAIL_RATIO = 4.0  # in the deviation that all but a share ``most`` stay below
_MIN_RANGE_RATIO = 4.0  # in the range of the values around it
_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_NEIGHBOURS[1, 1] = False
_MIN_CLIPPED = 10  # pixels with one value at the end of the range
_MIN_CLIPPED_RATIO = 3.0  # in the mean number of pixels of the next three values


def hot_pixels(image: np.ndarray, most: float = 0.01) -> np.ndarray:
    """Return the mask of isolated outliers.

    An outlier is far from the median of its eight neighbours. The deviation must be
    above three limits:

    - 15 standard deviations, estimated from the median of all deviations. Noise does
      not reach this.
    - 4 times the deviation that 99 of 100 pixels (1 - ``most``) stay below. Noise with
      heavy tails, images of few electrons and sharp columns do not reach this.
    - 4 times the range of the 24 pixels around, without the two largest and the two
      smallest. Columns and their noise do not reach this: beside the middle of a column
      with a standard deviation of 0.6 pixels, four pixels have a fourth of its height.

    So up to three hot pixels side by side are found. If 99 of 100 pixels equal their
    surroundings, there is no scale, and no pixel is hot.

    Args:
        image: Numbers [H, W], at least 3 x 3. NaN and infinite values are missing: they
            are not hot, and as neighbours they have the median of the others.
        most: Largest share of hot pixels; if there are more, none is found.

    Returns:
        Boolean [H, W].

    Example:
        >>> import numpy as np
        >>> image = np.random.default_rng(0).normal(size=(32, 32))
        >>> image[5, 6] = 1e3
        >>> np.argwhere(hot_pixels(image)).tolist()
        [[5, 6]]
    """
    return without_hot_pixels(image, most)[1]


def without_hot_pixels(
    image: np.ndarray, most: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with the median of the neighbours at hot pixels, and the mask.

    Arguments: see :func:`hot_pixels`. Without hot pixels the image itself is returned.
    """
    given, image = image, np.asarray(image)
    if image.dtype != np.float32:
        image = image.astype(np.float64)  # unsigned integers have no differences
    known = np.isfinite(image)
    hot = np.zeros(image.shape, dtype=bool)
    if not known.any():
        return given, hot
    image = np.where(known, image, np.median(image[known]))
    # Mirrored, so that no pixel is its own neighbour.
    median = median_filter(image, footprint=_NEIGHBOURS, mode="mirror")
    deviation = image - median
    size = np.abs(deviation)
    usual = np.median(deviation[known])
    spread = 1.4826 * np.median(np.abs(deviation[known] - usual))
    tail = np.quantile(size[known], 1 - most)
    if not tail > 0:
        return given, hot
    y, x = np.nonzero(
        known & (size > max(_MIN_DEVIATION * spread, _MIN_TAIL_RATIO * tail))
    )
    padded = np.pad(image, 2, mode="reflect")
    around = [(i, j) for i in range(5) for j in range(5) if (i, j) != (2, 2)]
    values = np.sort([padded[y + i, x + j] for i, j in around], axis=0)
    hot[y, x] = size[y, x] > _MIN_RANGE_RATIO * (values[-3] - values[2])
    return (np.where(hot, median, given) if hot.any() else given), hot


def hot_pixel_warning(number: int, size: int | None = None) -> str:
    """Return the warning that ``number`` hot pixels (of ``size``) were left out."""
    noun = "pixel was" if number == 1 else "pixels were"
    of = "" if size is None else f" of {size}"
    return (
        f"{number} {noun} left out{of}: far from all their neighbours, as hot pixels "
        "and X-ray hits are"
    )


def clipping_limits(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the values at which a detector, or an export, clipped the image.

    Args:
        values: Finite, of any shape, at least two different ones.

    Returns:
        The least and the largest value, if more than 10 pixels have it, and more than
        three times as many as have one of the next three values; None otherwise.

    Example:
        >>> import numpy as np
        >>> clipping_limits(np.minimum(np.arange(200), 120))
        (None, 120.0)
    """
    ends = values.min(), values.max()
    if max(np.count_nonzero(values == end) for end in ends) <= _MIN_CLIPPED:
        return None, None  # the sorting below takes long
    _, counts = np.unique(values, return_counts=True)
    low, high = (
        float(end)
        if c[0] > max(_MIN_CLIPPED, _MIN_CLIPPED_RATIO * c[1:4].mean())
        else None
        for end, c in zip(ends, (counts, counts[::-1]))
    )
    return low, high
