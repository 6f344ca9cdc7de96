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

"""Raw images of a calibration: checks, one scale, clipped and hot pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import correlate1d

from ppmat.stem.images.bad_pixels import MAX_CLIPPED_SHARE
from ppmat.stem.images.bad_pixels import MAX_HOT_SHARE
from ppmat.stem.images.bad_pixels import clipping_limits
from ppmat.stem.images.bad_pixels import hot_pixel_warning
from ppmat.stem.images.bad_pixels import hot_pixels
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.images.image_array import image_array
from ppmat.stem.images.image_array import is_signal
from ppmat.stem.noise.noise_model import MODES
from ppmat.stem.series.frame_differences import frame_differences
from ppmat.utils.errors import InputError

MIN_SIDE = 64  # pixels
MIN_LEVELS = 16  # different values in an image
TILE = 512  # side of the tiles of larger images, pixels
MAX_PIXELS = 2**21  # measured ones, of all images
_MAX_COUNTED_SHARE = 0.1  # of hot pixels, so that the error can count them
# Least distance from a limit at which noise is not clipped, standard deviations.
_CLIPPING_DISTANCE = 2.0
# Limits of the ratio of noise power in two bands. It is 1 for independent pixels.
_MIN_BAND_RATIO, _MAX_BAND_RATIO = 0.7, 1.4


class CalibrationError(InputError):
    """The noise cannot be measured on these images."""


class Frame(NamedTuple):
    """An image, or a tile of one, on a common scale, with its lines along axis 1."""

    image: np.ndarray  # [H, W]
    name: str  # of the image, for errors
    floor: float | None  # value that darker pixels are clipped to
    ceiling: float | None  # value that brighter pixels are clipped to
    hot: np.ndarray  # mask of pixels replaced by the median of their neighbours [H, W]
    # Of this frame and the next of a series, over the root of 2; NaN outside [H, W].
    difference: np.ndarray | None = None


class RawFrames(NamedTuple):
    """Images that can be measured; scale and offset are in image units."""

    frames: list[Frame]  # (value - offset) / scale of the images
    scale: float
    offset: float
    step: float  # smallest one between two values of a frame, on the scale of these
    warnings: list[str]  # of hot and clipped pixels, a sentence each


class RoughNoise(NamedTuple):
    """A first estimate of the noise, before columns are fitted."""

    pointwise: float  # standard deviation, units of the frames
    scan: float  # the same for scan noise
    length: float  # of scan noise, pixels


def prepare_frames(
    images: np.ndarray | Sequence[np.ndarray],
    fast_axis: int,
    mode: str,
    names: Sequence[str] | None,
    series: bool = False,
) -> RawFrames:
    """Return the images of a calibration on one scale.

    With ``series`` they are frames of one area and get their differences. For arguments
    and errors see :func:`ppmat.stem.noise.calibration.calibrate`.
    """
    if mode not in MODES:
        raise CalibrationError(f"mode is {mode!r}, wanted one of {', '.join(MODES)}")
    if fast_axis not in (0, 1) or isinstance(fast_axis, bool):
        raise CalibrationError(f"fast_axis is {fast_axis!r}, wanted 0 or 1")
    images = _images(images)
    if not images:
        raise CalibrationError("no image is given, wanted one or several")
    if names is None and len(images) == 1:
        names = ["the image"]
    names = names or [f"image {i}" for i in range(len(images))]
    if len(names) != len(images):
        raise CalibrationError(f"{len(names)} names for {len(images)} images")
    arrays = list(map(_check, images, names))
    sizes = [f"{array.shape[0]} x {array.shape[1]}" for array in arrays]
    for size, name in zip(sizes, names):
        if size != sizes[0]:
            raise CalibrationError(
                f"{name} has {size} pixels, {names[0]} has {sizes[0]}: noise depends "
                "on dwell time and magnification; calibrate each kind of image by "
                "itself"
            )
    step = min(float(np.diff(np.unique(array)).min()) for array in arrays)
    arrays, hot = zip(*map(_replace_hot, arrays, names))
    limits = [clipping_limits(array) for array in arrays]
    warnings = _warnings(arrays, hot, limits)
    low, high = np.quantile(np.stack(arrays), [0.01, 0.99])
    if not high > low:
        raise CalibrationError(
            f"{names[0]}: 98 of 100 pixels have the value {low:g}; there is no contrast"
        )
    scale = (high - low) / 150.0
    offset = low - 30.0 * scale
    step /= scale
    frames = []
    differences = frame_differences(arrays, names) if series else [None] * len(arrays)
    for array, mask, ends, name, difference in zip(
        arrays, hot, limits, names, differences
    ):
        ends = [v if v is None else (v - offset) / scale for v in ends]
        array = (array - offset) / scale
        if fast_axis == 0:
            array, mask = array.T, mask.T
        _check_filtered(array, name, step)
        tiles, masks = _tiles(array), _tiles(mask)
        parts = [None] * len(tiles)
        if difference is not None:
            parts = _tiles((difference if fast_axis else difference.T) / scale)
        frames += [
            Frame(tile, name, *ends, taken, part)
            for tile, taken, part in zip(tiles, masks, parts)
        ]
    most = max(1, MAX_PIXELS // frames[0].image.size)
    if len(frames) > most:
        frames = [frames[i] for i in np.linspace(0, len(frames) - 1, most).astype(int)]
    return RawFrames(frames, scale, offset, step, warnings)


def _images(images: object) -> list[np.ndarray]:
    """Return the images of an array, a HyperSpy signal, or a list of either."""
    if is_signal(images):
        images = [images]
    elif isinstance(images, np.ndarray):
        images = [images] if images.ndim == 2 else list(images)
    elif isinstance(images, (str, bytes)) or not hasattr(images, "__iter__"):
        raise CalibrationError(
            f"{images!r:.60} is no image; wanted an array [H, W], a HyperSpy signal, "
            "or a list of them (calibrate.py takes files)"
        )
    found = []
    for image in images:
        try:
            array = image_array(image)
        except ValueError as error:
            raise CalibrationError(str(error)) from None
        several = is_signal(image) and array.ndim > 2
        found += list(array.reshape(-1, *array.shape[-2:])) if several else [array]
    return found


def _check(array: np.ndarray, name: str) -> np.ndarray:
    """Return an image as floats, or refuse it."""
    if array.ndim != 2:
        raise CalibrationError(
            f"{name} has the shape {array.shape}, wanted [H, W]; frames of a stack are "
            "given as a list, and of a colour image one channel"
        )
    if array.dtype.kind not in "uif":
        raise CalibrationError(
            f"{name} holds {array.dtype}, wanted integers or floats: the grey values "
            "as the detector gave them"
        )
    if min(array.shape) < MIN_SIDE:
        raise CalibrationError(
            f"{name} has {array.shape[0]} x {array.shape[1]} pixels, wanted at least "
            f"{MIN_SIDE} a side"
        )
    masked, array = np.ma.getmaskarray(array), np.ma.getdata(array).astype(float)
    bad = np.count_nonzero(masked | ~np.isfinite(array))
    if bad:
        raise CalibrationError(
            f"{name}: {bad} of {array.size} pixels are NaN, infinite or masked; cut "
            "the image to where it was recorded"
        )
    levels = len(np.unique(array[:: max(1, array.shape[0] // 512)]))
    if levels < 2:
        raise CalibrationError(f"{name}: all pixels are equal; there is no contrast")
    if levels < MIN_LEVELS:
        raise CalibrationError(
            f"{name} has {levels} different values, wanted at least {MIN_LEVELS}: with "
            "so few grey levels rounding hides the noise. The noise model does not "
            "describe images of a few electrons a pixel either"
        )
    return array


def _replace_hot(array: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the image without its hot pixels, and their mask, both [H, W]."""
    number = np.count_nonzero(hot_pixels(array, _MAX_COUNTED_SHARE))
    if number > MAX_HOT_SHARE * array.size:
        raise CalibrationError(
            f"{name}: {number} of {array.size} pixels are far from all their "
            f"neighbours, wanted at most {100 * MAX_HOT_SHARE:g} %. Noise is estimated "
            "from squares, where they outweigh all others. Correct hot pixels and "
            "X-ray hits, or take new frames"
        )
    return without_hot_pixels(array)


def _warnings(
    arrays: Sequence[np.ndarray],
    hot: Sequence[np.ndarray],
    limits: Sequence[tuple[float | None, float | None]],
) -> list[str]:
    """Return warnings about hot and clipped pixels."""
    number, size = int(np.sum(hot)), sum(a.size for a in arrays)
    texts = [hot_pixel_warning(number, size)] if number else []
    for ends, where, bound in zip(
        zip(*limits),
        ("or hold no electron, at the least", "at the largest"),
        ("`low` is an upper", "`high` is a lower"),
    ):
        # None equals no pixel.
        clipped = sum(np.count_nonzero(a == end) for a, end in zip(arrays, ends))
        if clipped > MAX_CLIPPED_SHARE * size:
            texts.append(
                f"{100 * clipped / size:.2g} % of the pixels are clipped, {where} "
                f"value of their image; {bound} bound. Change gain and offset of the "
                "detector"
            )
    return texts


def _check_filtered(image: np.ndarray, name: str, step: float) -> None:
    """Refuse an image in which the noise of neighbouring pixels is correlated."""
    powers = []
    for order in (4, 8):
        taps = np.diff(np.eye(1 + order), order, axis=0)[0]
        taps /= np.sqrt(np.sum(taps**2))
        cut = slice(order, -order)
        high = correlate1d(correlate1d(image, taps, axis=0), taps, axis=1)[cut, cut]
        powers.append(np.mean(high**2))
    if np.sqrt(powers[1]) < 0.6 * step:
        raise CalibrationError(
            f"{name}: the noise of neighbouring pixels is {np.sqrt(powers[1]):.2g} of "
            f"{step:.2g}, the step between two grey levels: too few grey levels, or "
            "the image was filtered. Export raw frames with 16 bits or as floats"
        )
    ratio = powers[1] / powers[0]
    if not _MIN_BAND_RATIO < ratio < _MAX_BAND_RATIO:
        way = "less" if ratio < 1 else "more"
        raise CalibrationError(
            f"{name}: noise of the highest frequencies has {ratio:.2f} times the power "
            f"of that below them, {way} than noise of single pixels has (1): the image "
            "was filtered, resampled, sharpened or compressed. Export raw frames"
        )


def _tiles(image: np.ndarray) -> list[np.ndarray]:
    """Return the image, or tiles of about equal size of a large one."""
    if max(image.shape) <= 1.5 * TILE:
        return [image]
    size = [n // max(1, round(n / TILE)) for n in image.shape]
    return [
        image[y : y + size[0], x : x + size[1]]
        for y in range(0, image.shape[0] - size[0] + 1, size[0])
        for x in range(0, image.shape[1] - size[1] + 1, size[1])
    ]


def usable_pixels(frame: Frame, expected: np.ndarray, noise: RoughNoise) -> np.ndarray:
    """Return the mask of pixels that are not hot and whose noise is not clipped [H, W].

    A pixel may be clipped if the expected value (clean image and background) is near a
    limit. Its own value is not used, because that would leave out the strongest noise.
    """
    usable = ~frame.hot
    spread = _CLIPPING_DISTANCE * np.hypot(noise.pointwise, noise.scan)
    if frame.floor is not None:
        usable &= expected - frame.floor > spread
    if frame.ceiling is not None:
        usable &= frame.ceiling - expected > spread
    return usable
