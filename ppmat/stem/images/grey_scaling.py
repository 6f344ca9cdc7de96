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


"""From any intensities to the grey levels a network is trained on, and back.

``grey = (image - offset) / scale`` puts two robust percentiles of a noisy image where
noisy training images have them. Prediction and synthetic training data share this, so a
network sees the same range in both.
"""

from __future__ import annotations

import numpy as np

PERCENTILES = (0.1, 99.9)
# Where these percentiles are put: the mean over the noisy training images of the
# shipped sample is 1.5 and 213.6.
GREY = (2.0, 214.0)


def robust_scaling(values: np.ndarray) -> tuple[float, float, bool]:
    """Return offset and scale of an image.

    Args:
        values: Pixels of any shape, finite, not all equal.

    Returns:
        Offset and scale, and whether the image is sparse: nearly all pixels are equal,
        so least and greatest value were taken.
    """
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    sparse = not high > low
    if sparse:
        low, high = float(values.min()), float(values.max())
    scale = (high - low) / (GREY[1] - GREY[0])
    return low - GREY[0] * scale, scale, sparse
