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

"""Starting positions of columns, from the raw image or from an enhanced one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ppmat.stem.columns.peak_finding import find_peaks
from ppmat.stem.columns.peak_finding import noise_level

# Widths of the filter, in the width of spots, for images with little noise, some, and
# much. Two equal spots have two peaks from 1.8, 1.9 and 2.2 sigma on under them.
_FILTERS = (0.5, 0.7, 1.0)
_MIN_CONTRAST = 0.03  # of strong seeds nearby; removes ripples of an enhanced image
_MIN_SNR = 2.5  # of seeds in the raw image; low, since the selection follows
# A strong seed is clear above this: columns of half its height are seeds too. Noise
# has one such peak in 10^8 pixels.
_CLEAR_SNR = 6.0
_CLEAR_SHARE = 0.05  # of the peaks; with fewer clear ones a filter is too narrow
# Noise shifts the peaks of a close pair, and the fit puts them right. So two clear
# strong peaks may be nearer, by this factor.
_CLEAR_APART = 0.75
_STRONG_SHARE = 0.3  # of the highest peak, for both columns of a pair; rings are lower
_MIN_CLEAR = 9  # raw seeds; with fewer an enhanced image is not compared with them


@dataclass
class Seeds:
    """Starting positions of columns."""

    positions: np.ndarray  # (y, x), pixels [n, 2]
    contrast: np.ndarray  # height in the enhanced image, 0 for raw seeds [n]
    clear: np.ndarray  # far above the noise of the raw image [n]


def raw_seeds(
    image: np.ndarray, valid: np.ndarray, sigma: float, apart: float
) -> Seeds:
    """Return the peaks of a raw image that are above 2.5 standard deviations of noise.

    Narrow filters tell close columns apart; wider ones add weak columns.

    Args:
        image: [H, W], 0 at missing pixels.
        valid: False at missing pixels [H, W].
        sigma: Width of the columns, pixels.
        apart: Smallest distance of two seeds, pixels. Clear ones may be nearer.
    """
    noise = noise_level(image, valid)
    positions, clear = np.empty((0, 2)), np.empty(0, dtype=bool)
    for share in _FILTERS:
        width = share * sigma
        # Noise under the filter: the norm of its kernel is 1 / sqrt(2 pi) / width.
        spread = noise / (np.sqrt(2 * np.pi) * width)
        found, height = find_peaks(
            image,
            valid,
            width=width,
            apart=_CLEAR_APART * apart,
            min_contrast=_MIN_CONTRAST,
            min_height=_MIN_SNR * spread,
        )
        clear_here = height > _CLEAR_SNR * spread
        if share < _FILTERS[-1] and not np.mean(clear_here) >= _CLEAR_SHARE:
            continue  # too much noise for a narrow filter
        alone = _alone(found, height, clear_here, apart)
        found, clear_here = found[alone], clear_here[alone]
        if len(positions):
            # Weak columns that only the wider filter lifts above the noise.
            new = cKDTree(positions).query(found)[0] > apart
            found, clear_here = found[new], clear_here[new]
        positions = np.concatenate([positions, found])
        clear = np.append(clear, clear_here)
    return Seeds(positions, np.zeros(len(positions)), clear)


def enhanced_seeds(
    image: np.ndarray, valid: np.ndarray, width: float, apart: float
) -> Seeds:
    """Return the peaks of an enhanced image whose spots have the given width."""
    found, contrast = find_peaks(
        image,
        valid,
        width=_FILTERS[1] * width,
        apart=_CLEAR_APART * apart,
        min_contrast=_MIN_CONTRAST,
    )
    alone = _alone(found, contrast, np.ones(len(found), dtype=bool), apart)
    found, contrast = found[alone], contrast[alone]
    return Seeds(found, contrast, np.zeros(len(found), dtype=bool))


def _alone(
    found: np.ndarray, height: np.ndarray, clear: np.ndarray, apart: float
) -> np.ndarray:
    """Return the mask of peaks that are no lower one of two that are too near [n].

    Peaks that are both clear and strong may be nearer than ``apart``.
    """
    alone = np.ones(len(found), dtype=bool)
    i, j = cKDTree(found).query_pairs(apart, output_type="ndarray").T
    lower = np.where(height[i] < height[j], i, j)
    strong = height[lower] > _STRONG_SHARE * np.max(height, initial=0.0)
    alone[lower[~(clear[lower] & strong)]] = False
    return alone


def lost_share(raw: Seeds, enhanced: Seeds, apart: float) -> float:
    """Return the share of clear raw seeds without an enhanced seed nearby."""
    clear = raw.positions[raw.clear]
    if len(clear) < _MIN_CLEAR:
        return 0.0
    if not len(enhanced.positions):
        return 1.0
    distance, _ = cKDTree(enhanced.positions).query(clear)
    return float(np.mean(distance > apart / 2))
