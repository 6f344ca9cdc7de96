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

"""The slow background of an image, kept from a network that was trained on flat ones.

A network that has seen lattices on an even background turns a thickness gradient into
steps of the size of its tiles. So the slow variation is separated before the network,
and added again behind it. What the network still took from edges that are neither slow
nor part of the lattice is in the residual, from where it is given back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from ppmat.stem.images.background import LENGTH
from ppmat.stem.images.background import slow_variation
from ppmat.stem.images.grey_scaling import PERCENTILES

# Range of the slow variation over the range of the rest, above which it is separated.
# 95 of 100 images of flat specimens are below: HAADF 0.53 (128 pixels) and 0.47 (64
# pixels), BF 0.42 and 0.48; 150 images each of SFINSyntheticDataset, seed 42. Networks
# that were also trained on uneven specimens gain from the separation too
# (docs/results/stem_real_scenes.yaml).
BACKGROUND_LIMIT = 0.5

_MEASURED = 2**20  # pixels in which ranges are measured, evenly spread
_LEAST_SIDE = int(2 * LENGTH)  # pixels; in smaller images all variation would be slow
_ROUNDING = 32  # units of the last place that sums over the window may be wrong
_DETAIL = 3.0  # pixels; standard deviation of the window on the residual
_AROUND = 33  # pixels; side of the square in which the noise is measured
# Power of the smoothed residual, in units of what noise gives, that is not given back.
# At 2, noise alone loses 99 of 100 parts; at 1, a tenth of it would come back.
_NOISE_POWER = 2.0


def separate_background(
    image: np.ndarray, missing: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """Return the slow variation around its median, and its relative range.

    The relative range is the range of the slow variation over that of the rest, both
    between the percentiles of the grey scaling. It does not change with gain and dark
    level. It is infinite if the rest is nothing but rounding, and 0 if nearly all
    pixels are equal or the image is smaller than the window.

    Args:
        image: [H, W], float32 or float64.
        missing: bool [H, W]; None for none.
    """
    slow = slow_variation(image, missing)
    step = max(1, int(np.sqrt(image.size / _MEASURED)))
    coarse = np.s_[::step, ::step]
    known: Any = ... if missing is None else ~missing[coarse]
    if missing is not None and not known.any():
        coarse, known = ..., ~missing
    values, part = image[coarse][known], slow[coarse][known]
    whole, smooth, rest = (
        float(np.ptp(np.percentile(v, PERCENTILES)))
        for v in (values, part, values - part)
    )
    slow -= slow.dtype.type(np.median(part))
    if not whole > 0 or min(image.shape) < _LEAST_SIDE:
        return slow, 0.0
    rounding = _ROUNDING * np.finfo(image.dtype).eps * np.abs(values).max()
    return slow, smooth / rest if rest > rounding else float("inf")


def give_back_structure(
    raw: np.ndarray, enhanced: np.ndarray, missing: np.ndarray | None
) -> None:
    """Add to an enhanced image, in place, what the network took besides noise.

    The residual is smoothed. If it is noise, the smoothed power is ``1 / (4 pi s^2)``
    of the power around, with the window's standard deviation ``s``. The smoothed
    residual is added with the weight ``1 - 2 noise power / power``, at least 0: a
    Wiener filter, as in J. S. Lim, Two-Dimensional Signal and Image Processing, 1990.

    Args:
        raw: [H, W], what the network saw, in units of the image.
        enhanced: [H, W], its result in the same units.
        missing: bool [H, W], pixels that were filled; None for none.
    """
    residual = raw - enhanced
    if missing is not None:
        residual[missing] = 0.0
    smooth = ndimage.gaussian_filter(residual, _DETAIL)
    np.square(residual, out=residual)
    noise = ndimage.uniform_filter(residual, _AROUND)
    noise *= _NOISE_POWER / (4 * np.pi * _DETAIL**2)
    power = ndimage.gaussian_filter(smooth**2, _DETAIL)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = 1 - noise / power
    enhanced += smooth * np.where(weight > 0, weight, 0)
