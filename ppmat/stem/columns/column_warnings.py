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


"""What the user should know of a table of columns, and of the image it is from."""

from __future__ import annotations

import numpy as np

from ppmat.stem.images.bad_pixels import MAX_CLIPPED_SHARE
from ppmat.stem.images.bad_pixels import clipping_limits
from ppmat.stem.images.bad_pixels import hot_pixel_warning

_LEVELS = 16  # with fewer values, a few electrons were counted: 0 is no clipping
_MOST_UNFITTED = 1 / 3  # of the columns


def doubts(values: np.ndarray, bright: bool, fitted: np.ndarray, hot: int) -> list[str]:
    """Return what casts doubt on the columns of an image, one sentence or two each.

    Args:
        values: Grey values of the pixels that were used.
        bright: Whether columns are bright. Where they are not, clipping at the lower
            end is theirs; at the other end it does not matter.
        fitted: Which columns could be fitted [n].
        hot: Number of pixels that were left out, since nothing around is like them.
    """
    texts = []
    if hot:
        texts.append(hot_pixel_warning(hot))
    limit = clipping_limits(values)[bright]
    if limit is not None:
        share = np.mean(values == limit)
        if share > MAX_CLIPPED_SHARE and len(np.unique(values)) >= _LEVELS:
            which = "largest" if bright else "least"
            texts.append(
                f"{100 * share:.2g} % of the pixels have the {which} value, {limit:g}: "
                "the middle of columns is clipped, so they come out wider and lower "
                "than they are. Change gain and offset of the detector"
            )
    missed = np.count_nonzero(~fitted)
    if missed > _MOST_UNFITTED * len(fitted):
        texts.append(
            f"{missed} of {len(fitted)} columns could not be fitted: is mode, polarity "
            "or sigma wrong?"
        )
    return texts
