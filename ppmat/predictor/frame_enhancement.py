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

"""One image through a network: what is changed before it, and back behind it.

The steps, each recorded: missing and hot pixels are filled, the image is resampled to a
spacing that the network was trained on, its slow variation is separated, and values
become grey levels. Behind the network the same steps are taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from ppmat.predictor.image_checks import image_checks
from ppmat.predictor.lost_waves import lost_waves
from ppmat.predictor.resampling import resample
from ppmat.predictor.resampling import trained_shape
from ppmat.predictor.resampling import with_white_noise
from ppmat.predictor.residual import residual_statistics
from ppmat.predictor.slow_background import give_back_structure
from ppmat.predictor.slow_background import separate_background
from ppmat.predictor.tile_model import EnhanceOptions
from ppmat.predictor.tile_model import Scaling
from ppmat.predictor.tile_model import TileFunction
from ppmat.predictor.tiling import plan_tiles
from ppmat.predictor.tiling import run_tiles
from ppmat.predictor.tiling import with_flips
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.images.grey_scaling import PERCENTILES
from ppmat.stem.images.grey_scaling import robust_scaling
from ppmat.stem.images.lattice_spacing import lattice_spacing
from ppmat.utils.errors import InputError

# Percentiles of an image in grey levels lie between these: 0 to 255 and a quarter of
# that range more on both sides for noise. Unit: grey levels.
_GREY_LIMITS = (-64.0, 320.0)
# An image in grey levels has at least this range, a tenth of 0 to 255.
_SMALLEST_GREY_RANGE = 25.0
_FILL_PASSES = 8  # depth to which holes are filled from their rim, pixels
_ROWS = 256  # rows converted at once, which bounds the memory for float64 copies
_LATTICE_LOST = 0.2  # of the residual's standard deviation; 4 % of its power
_LEAST_LATTICE_SIDE = 32  # pixels; in smaller images waves are not sharp
_HOT_SIDE = 3  # pixels; smaller images have no neighbourhood to compare with

FRAME_FLAGS = {
    "constant": "all pixels are equal: returned unchanged, or as an empty map",
    "sparse": "nearly all pixels are equal: scaled by smallest and largest value",
    "filled": "this many pixels were missing (NaN, infinite or masked): filled for the "
    "network, put back in the result",
    "hot_pixels": "this many pixels were far from all their neighbours, as hot pixels "
    "and X-ray hits are: the network saw the median of the neighbours instead",
    "lattice_given_back": "this many sharp waves were lost by the network and given "
    "back from the residual: a fine lattice, or a periodic disturbance of the detector",
    "reflected": "smaller than a tile: reflected at its end for the network",
    "not_grey": "values do not look like grey levels 0 to 255, although "
    "scaling='grey' was given",
    "background_outside_training": "the slow variation of the image is larger than in "
    "training, and the network saw it: take background='keep' or 'remove'",
    "spacing_outside_training": "the network was trained on other spacings of the "
    "lattice: take another magnification or binning, or compare with the raw image",
}


def enhance_frame(
    data: Any,
    tiles: TileFunction,
    options: EnhanceOptions,
    where: str,
    on_tiles: Callable[[int, int], None],
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the result ``[H, W]`` and its part of the record.

    Args:
        data: Array or masked array ``[H, W]`` of numbers.
        tiles: The network.
        options: What to do.
        where: Name of the frame for errors.
        on_tiles: Called with the number of finished tiles and of all tiles.

    Raises:
        InputError: No pixel can be used, or the network returns NaN.
    """
    frame, missing = _pixels(data, where)
    flags: dict[str, str] = {}
    found: dict[str, Any] = {"flags": flags, "residual": None}
    if missing is not None:
        flags["filled"] = str(int(missing.sum()))
    values = frame if missing is None else frame[~missing]
    if values.min() == values.max():
        flags["constant"] = ""
        found |= {"offset": 0.0, "scale": 0.0}
        result = frame.astype(_working_type(frame.dtype.newbyteorder("=")), copy=True)
        if tiles.gives_map:
            result[... if missing is None else ~missing] = 0.0
        return result, found
    seen, hot = _filled(frame, missing, options.scaling, flags)
    spacing = lattice_spacing(seen, missing)
    shape = _shape_of_run(seen.shape, spacing, tiles, options, flags)
    found |= {"spacing": spacing, "resampled": None}
    small, gone = seen, missing
    if shape != seen.shape:
        found["resampled"] = list(shape)
        finer = shape[0] > seen.shape[0]
        small = (with_white_noise if finer else resample)(seen, shape)
        gone = None if missing is None else _resampled_mask(missing, shape)
    result, slow, steps = _through_network(small, gone, tiles, options, where, on_tiles)
    flags.update(steps.pop("flags"))
    found |= steps
    if shape[0] < seen.shape[0] and slow is None and not tiles.gives_map:
        # Wide columns are partly as smooth as a background.
        give_back_structure(small, result, gone)
    if shape != seen.shape:
        result = resample(result, seen.shape).astype(seen.dtype, copy=False)
        slow = None if slow is None else resample(slow, seen.shape)
    if not tiles.gives_map:
        unseen = missing if hot is None else hot if missing is None else hot | missing
        # A network that was trained on lattices is expected to keep them.
        if tiles.trained.spacing is not None and options.scaling != "grey":
            found["lattice_waves"] = _give_back_waves(seen, result, slow, unseen, found)
        found["residual"], more = _checks(frame, result, slow, unseen, found, options)
        flags.update(more)
    if missing is not None:
        result[missing] = frame[missing]
    return result, found


def _give_back_waves(
    seen: np.ndarray,
    result: np.ndarray,
    slow: np.ndarray | None,
    unseen: np.ndarray | None,
    found: dict[str, Any],
) -> int:
    """Add the waves of a lost lattice to the result, in place; returns their number."""
    if min(seen.shape) < _LEAST_LATTICE_SIDE:
        return 0
    lost = seen - result
    if slow is not None and not found["background"]["added_again"]:
        lost -= slow
    if unseen is not None:
        lost[unseen] = 0.0
    waves, number = lost_waves(lost)
    result += waves
    if np.std(waves) > _LATTICE_LOST * np.std(lost):
        found["flags"]["lattice_given_back"] = str(number)
    return number


def _checks(
    frame: np.ndarray,
    result: np.ndarray,
    slow: np.ndarray | None,
    unseen: np.ndarray | None,
    found: dict[str, Any],
    options: EnhanceOptions,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the statistics of the residual, and flags.

    A slow variation that was separated counts neither as residual nor as signal.
    """
    raw, signal = frame, result
    if slow is not None:
        with np.errstate(invalid="ignore"):
            raw = frame - slow
        signal = result - slow if found["background"]["added_again"] else result
    statistics = residual_statistics(raw, signal, unseen, options.tile_size)
    flags = statistics.pop("flags")
    with np.errstate(invalid="ignore"):
        residual = raw - signal
    numbers, more = image_checks(residual, signal, unseen, found["spacing"])
    if "hardly_any_signal" in more:
        flags.pop("lost_contrast", None)  # of next to nothing
    return statistics | numbers, flags | more


def _pixels(data: Any, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values and the mask of missing pixels, None if none is missing."""
    frame = np.asarray(data.data if isinstance(data, np.ma.MaskedArray) else data)
    missing = ~np.isfinite(frame) | np.ma.getmaskarray(data)
    if missing.all():
        raise InputError(
            "no pixel can be used: all are NaN, infinite or masked", where=where
        )
    if frame.dtype == np.float16:
        frame = frame.astype(np.float32)
    return frame, missing if missing.any() else None


def _filled(
    frame: np.ndarray,
    missing: np.ndarray | None,
    scaling: Scaling,
    flags: dict[str, str],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a frame without missing and hot pixels, and the mask of the hot ones."""
    working = _working_type(frame.dtype.newbyteorder("="))
    seen = frame.astype(working, copy=missing is not None)
    hot = None
    if scaling != "grey" and min(frame.shape) >= _HOT_SIDE:
        if missing is not None:
            seen[missing] = np.nan
        seen, hot = without_hot_pixels(seen)
        seen = seen.astype(working, copy=False)
        number = int(hot.sum())
        if number:
            flags["hot_pixels"] = str(number)
        else:
            hot = None
    if missing is not None:
        fill_missing(seen, missing)
    return seen, hot


def _shape_of_run(
    shape: tuple[int, int],
    spacing: float | None,
    tiles: TileFunction,
    options: EnhanceOptions,
    flags: dict[str, str],
) -> tuple[int, int]:
    """Return the shape at which the network sees the image."""
    wanted = trained_shape(shape, spacing, tiles.trained.spacing)
    if wanted == shape:
        return shape
    least, most = tiles.trained.spacing
    flags["spacing_outside_training"] = f"{spacing:.1f} px, not {least:g} to {most:g}"
    # Spots of one pixel would have another width on another grid.
    free = options.scaling != "grey" and not tiles.map_has_units
    return wanted if options.resample == "auto" and free else shape


def _resampled_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the mask on another grid; None if nothing of it is left."""
    finer = [new / old for new, old in zip(shape, mask.shape, strict=True)]
    new = (
        ndimage.zoom(
            mask.astype(np.uint8), finer, order=0, mode="nearest", grid_mode=True
        )
        > 0
    )
    return new if new.any() and not new.all() else None


def _through_network(
    image: np.ndarray,
    missing: np.ndarray | None,
    tiles: TileFunction,
    options: EnhanceOptions,
    where: str,
    on_tiles: Callable[[int, int], None],
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Return the result, the slow variation if it was separated, and the record."""
    slow, ratio = separate_background(image, missing)
    limit = tiles.trained.background
    outside = ratio > limit
    separate = options.background != "auto"
    separate |= outside and options.scaling != "grey"
    flags: dict[str, str] = {}
    if outside and not separate:
        flags["background_outside_training"] = f"{ratio:.2f}, not below {limit:g}"
    again = separate and options.background != "remove" and not tiles.gives_map
    background = {
        "ratio": ratio if np.isfinite(ratio) else None,
        "limit": limit,
        "separated": separate,
        "added_again": again,
    }
    seen = image - slow if separate else image
    if separate and not np.isfinite(ratio):  # a ramp and nothing else
        flags["constant"] = ""
        result = np.zeros_like(seen) if tiles.gives_map else seen.copy()
        steps = {"offset": 0.0, "scale": 0.0, "tiles": 0}
    else:
        result, steps, more = _run(seen, missing, tiles, options, on_tiles)
        flags |= more
    if not np.isfinite(result).all():
        raise InputError("the network returned NaN or infinite values", where=where)
    if again:
        give_back_structure(seen, result, missing)
        result += slow
    steps |= {"background": background, "flags": flags}
    return result, slow if separate else None, steps


def _run(
    image: np.ndarray,
    missing: np.ndarray | None,
    tiles: TileFunction,
    options: EnhanceOptions,
    on_tiles: Callable[[int, int], None],
) -> tuple[np.ndarray, dict[str, Any], dict[str, str]]:
    """Return the network's result in units of the image, its record, and flags."""
    values = image if missing is None else image[~missing]
    offset, scale, flag = _find_scaling(values, options.scaling)
    flags = {flag: ""} if flag else {}
    plan = plan_tiles(*image.shape, options.tile_size, options.overlap)
    if plan.rows.length < plan.rows.tile or plan.columns.length < plan.columns.tile:
        flags["reflected"] = ""
    grey = _affine(image, 1.0 / scale, -offset / scale, np.float32)
    run = tiles.runner(*plan.tile)
    run = with_flips(run) if options.ensemble else run
    result = run_tiles(
        grey, run, plan, options.batch_size, lambda n: on_tiles(n, len(plan))
    )
    if tiles.gives_map:
        factor, shift = scale if tiles.map_has_units else 1.0, 0.0
    else:
        factor, shift = scale, offset
    result = _affine(result, factor, shift, image.dtype)
    return result, {"offset": offset, "scale": scale, "tiles": len(plan)}, flags


def _affine(image: np.ndarray, factor: float, shift: float, kind: Any) -> np.ndarray:
    """Return ``image * factor + shift`` as ``kind``, computed in float64 by rows."""
    out = np.empty(image.shape, dtype=kind)
    with np.errstate(invalid="ignore", over="ignore"):
        for top in range(0, len(image), _ROWS):
            rows = slice(top, top + _ROWS)
            out[rows] = image[rows].astype(np.float64) * factor + shift
    return out


def _find_scaling(values: np.ndarray, scaling: Scaling) -> tuple[float, float, str]:
    """Return offset, scale and a flag (or an empty text)."""
    if isinstance(scaling, tuple):
        return (*scaling, "")
    if scaling == "grey":
        low, high = (float(v) for v in np.percentile(values, PERCENTILES))
        inside = _GREY_LIMITS[0] <= low and high <= _GREY_LIMITS[1]
        wide = high - low >= _SMALLEST_GREY_RANGE
        return 0.0, 1.0, "" if inside and wide else "not_grey"
    offset, scale, sparse = robust_scaling(values)
    return offset, scale, "sparse" if sparse else ""


def fill_missing(image: np.ndarray, missing: np.ndarray) -> None:
    """Replace missing pixels of ``[H, W]``, in place, by the mean of their neighbours.

    A hole is filled from its rim inwards, 8 pixels deep. Deeper pixels get the median
    of the image.
    """
    empty = missing.copy()
    known = np.pad(np.where(empty, np.nan, image), 1, constant_values=np.nan)
    inner = known[1:-1, 1:-1]
    steps = [(r, c) for r in (0, 1, 2) for c in (0, 1, 2) if (r, c) != (1, 1)]
    for _ in range(_FILL_PASSES):
        rim = ndimage.binary_dilation(~empty, np.ones((3, 3))) & empty
        rows, columns = np.nonzero(rim)
        if not len(rows):
            break
        neighbours = np.stack([known[rows + r, columns + c] for r, c in steps])
        inner[rim] = np.nanmean(neighbours.astype(np.float64), axis=0)
        empty[rim] = False
    inner[empty] = np.median(image[~missing])
    image[missing] = inner[missing]


def _working_type(kind: np.dtype) -> type:
    """Return the type that holds the values of an input exactly."""
    wide_integer = kind.kind in "iu" and kind.itemsize > 2
    return np.float64 if kind == np.float64 or wide_integer else np.float32
