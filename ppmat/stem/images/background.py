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

"""The slow variation of an image: thickness, supports, ramps of the detector.

It is the local straight line under a Gaussian window, along each axis
(W. S. Cleveland, J. Am. Stat. Assoc. 74, 829, 1979), so a ramp is reproduced up to the
border, where a plain Gaussian filter would bend it.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.ndimage import gaussian_filter

LENGTH = 16.0  # pixels; standard deviation of the window
_REACH = 3.0  # standard deviations; the window ends there
_LEAST_WEIGHT = 1e-3  # of the window on known pixels, else a hole gets the mean


def slow_variation(
    image: np.ndarray, missing: np.ndarray | None = None, length: float = LENGTH
) -> np.ndarray:
    """Return the slow variation of an image [H, W], float32 or float64 like the image.

    It follows affine changes: that of ``a * image + b`` is ``a * slow + b``.

    Args:
        image: [H, W]; values at missing pixels are not used.
        missing: bool [H, W], pixels to leave out; None for none. At least one pixel is
            not missing.
        length: Standard deviation of the window, pixels. Of a wave of ``n * length``
            pixels the part ``exp(-2 pi^2 / n^2)`` counts as slow.

    Example:
        >>> import numpy as np
        >>> ramp = np.arange(100.0)[:, None] + np.zeros(80)
        >>> bool(np.allclose(slow_variation(ramp), ramp))
        True
    """
    kind = np.float64 if image.dtype == np.float64 else np.float32
    image = np.asarray(image, dtype=kind)
    shift = kind(np.mean(image if missing is None else image[~missing]))
    centred = image - shift
    if missing is not None and missing.any():
        known = (~missing).astype(kind)
        centred[missing] = 0.0
        weight = gaussian_filter(known, length, truncate=_REACH)
        mean = gaussian_filter(centred, length, truncate=_REACH)
        near = missing & (weight > _LEAST_WEIGHT)
        centred[near] = mean[near] / weight[near]
    rows, columns = (_local_line(size, length).astype(kind) for size in image.shape)
    slow = rows @ centred
    return np.ascontiguousarray((columns @ slow.T).T) + shift


def _local_line(size: int, length: float) -> sparse.csr_array:
    """Return the matrix [size, size] that fits a line around each pixel of a row."""
    reach = int(np.ceil(_REACH * length))
    step = np.arange(-reach, reach + 1)
    pixel = np.arange(size)
    other = pixel[:, None] + step
    weight = np.exp(-0.5 * (step / length) ** 2) * ((other >= 0) & (other < size))
    zeroth, first, second = ((weight * step**k).sum(axis=1) for k in (0, 1, 2))
    determinant = zeroth * second - first**2
    single = determinant <= 1e-9 * zeroth**2  # one pixel has no slope
    slope = np.where(single, 0.0, first / np.where(single, 1.0, determinant))
    level = np.where(single, 1 / zeroth, second / np.where(single, 1.0, determinant))
    weight *= level[:, None] - slope[:, None] * step
    row, band = np.nonzero(weight)
    return sparse.csr_array(
        (weight[row, band], (row, other[row, band])), shape=(size, size)
    )
