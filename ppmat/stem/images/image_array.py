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

"""Arrays from the images of users: HyperSpy signals, lazy signals, masked arrays.

HyperSpy is not imported; an object with its attributes counts as a signal.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def is_signal(image: Any) -> bool:
    """Return whether an object is a HyperSpy signal."""
    return hasattr(image, "axes_manager") and hasattr(image, "data")


def image_array(image: Any) -> np.ma.MaskedArray:
    """Return the values of an array, a HyperSpy signal or a dask array, and its mask.

    Raises:
        ValueError: The signal is no image, or the numbers form no array.
    """
    if is_signal(image):
        number = getattr(image.axes_manager, "signal_dimension", 2)
        if number != 2:
            raise ValueError(
                f"the signal has {number} signal axes; wanted an image, e.g. "
                "signal.transpose(signal_axes=2)"
            )
        image = image.data
    return np.ma.asanyarray(image.compute() if hasattr(image, "compute") else image)
