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

"""Images on a finer or coarser grid, and back, so that a lattice has a trained spacing.

The cosine transform is cut or filled with zeros. So the image is band-limited, mirrored
at its borders, and keeps its outline: pixel ``i`` of ``n`` covers the same part of the
image as before.
"""

from __future__ import annotations

import numpy as np
from scipy import fft


def resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return an image of another shape, of the same outline and mean.

    On a coarser grid, details below two of its pixels are gone, and with them their
    part of the noise. On a finer grid nothing is added. Back on the first grid, the
    finer image is the first again.

    Args:
        image: Finite numbers [H, W], float32 or float64.
        shape: Height and width of the result.

    Example:
        >>> import numpy as np
        >>> image = np.random.default_rng(0).normal(size=(20, 30))
        >>> finer = resample(image, (45, 61))
        >>> finer.shape, bool(np.allclose(resample(finer, (20, 30)), image))
        ((45, 61), True)
    """
    for axis, size in enumerate(shape):
        image = _resample_axis(image, size, axis)
    return image


def _resample_axis(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    old = image.shape[axis]
    waves = fft.dct(image, axis=axis, norm="ortho")
    if size < old:
        waves = np.take(waves, np.arange(size), axis=axis)
    waves *= waves.dtype.type(np.sqrt(size / old))
    return fft.idct(waves, n=size, axis=axis, norm="ortho", overwrite_x=True)


def trained_shape(
    shape: tuple[int, int], spacing: float | None, trained: tuple[float, float] | None
) -> tuple[int, int]:
    """Return the shape at which a lattice has a trained spacing.

    Args:
        shape: Height and width of the image.
        spacing: Of its lattice, pixels; None without a lattice.
        trained: Shortest and longest spacing of the training; None if not known.

    Returns:
        ``shape`` itself if the spacing is inside. Otherwise the spacing becomes the
        geometric mean of the training's, where most training images are near.

    Example:
        >>> trained_shape((300, 400), 72.0, (9.0, 36.0))
        (75, 100)
    """
    if spacing is None or trained is None or trained[0] <= spacing <= trained[1]:
        return shape
    factor = np.sqrt(trained[0] * trained[1]) / spacing
    height, width = (max(2, round(size * factor)) for size in shape)
    return height, width
