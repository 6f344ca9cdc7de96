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

"""Scaling of any intensities to the grey levels of the training images.

``grey = (image - offset) / scale`` moves two percentiles of a noisy image to the values
that they have in noisy training images. Prediction and synthetic training data use the
same scaling.
"""

from __future__ import annotations

import numpy as np

PERCENTILES = (0.1, 99.9)
# Grey levels of these percentiles. Their means over the noisy training images of the
# example sample are 1.5 and 213.6.
GREY = (2.0, 214.0)


def robust_scaling(values: np.ndarray) -> tuple[float, float, bool]:
    """Return offset and scale of an image.

    Args:
        values: Pixels of any shape, finite, not all equal.

    Returns:
        Offset and scale, and whether the image is sparse. In a sparse image nearly all
        pixels are equal; then the least and the greatest value replace the percentiles.

    Example:
        >>> import numpy as np
        >>> offset, scale, sparse = robust_scaling(np.linspace(0, 1000, 1001))
        >>> round((1.0 - offset) / scale), round((999.0 - offset) / scale), sparse
        (2, 214, False)
    """
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    sparse = not high > low
    if sparse:
        low, high = float(values.min()), float(values.max())
    scale = (high - low) / (GREY[1] - GREY[0])
    return low - GREY[0] * scale, scale, sparse
