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

"""Differences of neighbouring frames of one area: noise without the specimen.

What repeats from frame to frame cancels, and the noise of two frames remains. So the
difference over the root of 2 has the noise of one frame, without any model of the
image. Line jitter and changes of the specimen do not cancel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppmat.stem.series.averaging import FrameSeries
from ppmat.stem.series.averaging import follow_drift


def frame_differences(
    frames: Sequence[np.ndarray], names: Sequence[str] | None = None
) -> list[np.ndarray | None]:
    """Return the difference of each even frame and the next one, over the root of 2.

    Args:
        frames: Two or more of one area, [H, W] of one size, as for
            :func:`~ppmat.stem.series.averaging.average_frames`.
        names: Of the frames, for errors.

    Returns:
        For each frame [H, W], NaN where the next frame has no value; None for odd
        frames and for the last of an odd number, so that no noise counts twice.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> area = 10 * rng.normal(size=(72, 64))
        >>> frames = [area[i : i + 64] + rng.normal(size=(64, 64)) for i in (0, 3)]
        >>> difference, nothing = frame_differences(frames)
        >>> bool(abs(np.nanstd(difference) - 1) < 0.1)
        True
    """
    series = FrameSeries(frames, names)
    shifts = follow_drift(series, min(series.shape) / 4)
    window = [(0, size) for size in series.shape]
    found: list[np.ndarray | None] = [None] * len(series)
    for number in range(0, len(series) - 1, 2):
        first, _ = series.read(number)
        step = shifts[number + 1] - shifts[number]
        second, known = series.aligned(number + 1, step, window)
        found[number] = np.where(known, (first - second) / np.sqrt(2), np.nan)
    return found
