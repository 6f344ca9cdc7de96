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


"""Grey values at which a detector, or an export with too few grey levels, stopped."""

from __future__ import annotations

import numpy as np

CLIPPED_SHARE = 0.005  # of the pixels; columns rather than the tails of the noise
_LEAST = 10  # pixels
_PILED = 3.0  # in the number of pixels of the next three values


def clipping_limits(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the values at which pixels pile up at both ends, None where not.

    Args:
        values: Finite, of any shape, at least two different ones.

    Returns:
        The least and the largest value: more than 10 pixels have it, and more than
        three times as many as have one of the next three.
    """
    ends = values.min(), values.max()
    if max(np.count_nonzero(values == end) for end in ends) <= _LEAST:
        return None, None  # not worth sorting
    _, counts = np.unique(values, return_counts=True)
    piled = [
        count > max(_LEAST, _PILED * beside.mean())
        for count, beside in ((counts[0], counts[1:4]), (counts[-1], counts[-4:-1]))
    ]
    low, high = (float(end) if yes else None for end, yes in zip(ends, piled))
    return low, high
