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

"""Images through a network that was trained on grey values, and back to their units.

The network sees ``grey = (x - offset) / scale``; the result is
``network(grey) * scale + offset``. Offset and scale follow from robust percentiles of
``x``, so ``enhance(a * x + b) = a * enhance(x) + b`` for ``a > 0``. Nothing is clipped.
For ``a < 0`` the network sees the negative of the image, on which it was not trained.
docs/stem/enhancement.md gives the reasons.

A map of atomic columns (a model with the target ``gt_detect``) has no units to return
to and stays in grey levels. Super-resolution (``gt_superresolution``) draws columns on
zero, so its result is ``network(grey) * scale``, and ``f(a * x + b) = a * f(x)``.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

import ppmat
from ppmat.predictor.residual import FLAGS as RESIDUAL_FLAGS
from ppmat.predictor.residual import residual_statistics
from ppmat.predictor.tile_model import EnhanceOptions
from ppmat.predictor.tile_model import Scaling
from ppmat.predictor.tile_model import TileFunction
from ppmat.predictor.tiling import FLIPS
from ppmat.predictor.tiling import WINDOW
from ppmat.predictor.tiling import TilePlan
from ppmat.predictor.tiling import plan_tiles
from ppmat.predictor.tiling import run_tiles
from ppmat.predictor.tiling import with_flips
from ppmat.stem.images.grey_scaling import PERCENTILES
from ppmat.stem.images.grey_scaling import robust_scaling
from ppmat.utils import logger
from ppmat.utils.errors import InputError

# Percentiles of an image in grey levels lie between these: 0 to 255 and a quarter of
# that range more on both sides for noise. Unit: grey levels.
_GREY_LIMITS = (-64.0, 320.0)
# An image in grey levels has at least this range, a tenth of 0 to 255.
_SMALLEST_GREY_RANGE = 25.0
_FILL_PASSES = 8  # depth to which holes are filled from their rim, pixels
_ROWS = 256  # rows converted at once, which bounds the memory for float64 copies

FLAGS = {
    **RESIDUAL_FLAGS,
    "constant": "all pixels are equal: returned unchanged, or as an empty map",
    "sparse": "nearly all pixels are equal: scaled by smallest and largest value",
    "filled": "this many pixels were missing (NaN, infinite or masked): filled for the "
    "network, put back in the result",
    "reflected": "smaller than a tile: reflected at its end for the network",
    "not_grey": "values do not look like grey levels 0 to 255, although "
    "scaling='grey' was given",
}

# Meaning of the values of a result, for the record.
VALUES_LIKE_INPUT = "units of the input"
VALUES_OF_MAP = "map of columns, grey levels 0 to 255"
VALUES_OF_SUPERRESOLUTION = "columns as narrow spots on zero, units of the input"


@dataclass(frozen=True)
class Enhancement:
    """An enhanced image and its record.

    Attributes:
        image: Of the type, shape and units of the input; a map is in grey levels.
        raw: The input.
        record: Plain values: model, options, scaling and statistics of each frame, see
            docs/stem/enhancement.md.
    """

    image: Any
    raw: Any
    record: dict[str, Any]

    @property
    def residual(self) -> np.ndarray:
        """Raw - enhanced; NaN (or masked) where the input is missing; not of a map."""
        if self.record["output_values"] != VALUES_LIKE_INPUT:
            raise InputError("the result is a map of columns, which has no residual")
        raw, image = (np.ma.asanyarray(_data_of(x)) for x in (self.raw, self.image))
        kind = np.result_type(raw.dtype, image.dtype, np.float32)
        with np.errstate(invalid="ignore"):
            residual = raw.astype(kind) - image
        masked = isinstance(_data_of(self.raw), np.ma.MaskedArray)
        return residual if masked else residual.data

    @property
    def whiteness(self) -> Any:
        """:func:`ppmat.predictor.residual.residual_statistics`; a list for a stack.

        None for a map of columns and for a constant image.
        """
        found = [frame["residual"] for frame in self.record["frames"]]
        return found if self.record["input"]["stack"] else found[0]

    @property
    def flags(self) -> dict[str, str]:
        """Warnings, see :data:`FLAGS`; of a stack the first value of each."""
        flags: dict[str, str] = {}
        for frame in self.record["frames"]:
            for name, detail in frame["flags"].items():
                flags.setdefault(name, detail)
        return flags


def enhance_image(
    x: Any,
    tiles: TileFunction,
    options: EnhanceOptions,
    *,
    dtype: str | None = None,
    on_tiles: Callable[[int, int], None] | None = None,
) -> Enhancement:
    """Enhance an image, a stack of images, or a HyperSpy signal.

    Args:
        x: ``[..., H, W]`` numbers. Frames of a stack are enhanced one by one, each with
            its own scaling. Masked arrays stay masked; NaN and infinite pixels stay
            what they are, and the network sees the mean of their neighbours instead.
            A HyperSpy signal with two signal axes gives a signal of the same class
            with its axes and metadata. A lazy signal is read frame by frame; its
            result is in memory.
        tiles: The network.
        options: Scaling, tiles and flips.
        dtype: None gives float32, or float64 for float64 (and for masked arrays of
            it); ``"same"`` the type of ``x``. Integers are then rounded, and limited
            to the range of their type.
        on_tiles: Called with the number of finished tiles, and of all tiles.

    Raises:
        TypeError: No numbers (text, complex, bool, RGB).
        InputError: No image (1-D, one pixel wide, colours), a frame without any finite
            pixel, or a network that returns NaN.
    """
    data = _checked_data(x)
    if dtype not in (None, "same"):
        raise InputError(f"dtype is {dtype!r}", wanted="None or 'same'")
    plan = plan_tiles(*data.shape[-2:], options.tile_size, options.overlap)
    kind = np.dtype(data.dtype).newbyteorder("=")
    wide = kind == np.float64
    final = kind if dtype else np.dtype(np.float64 if wide else np.float32)
    masked = isinstance(data, np.ma.MaskedArray)
    out = np.empty(data.shape, dtype=final)
    lead = data.shape[:-2]
    total = len(plan) * int(np.prod(lead, dtype=int))
    done = 0
    frames: list[dict[str, Any]] = []

    def count(number: int) -> None:
        nonlocal done
        done += number
        if on_tiles is not None:
            on_tiles(done, total)

    for index in np.ndindex(*lead):
        where = f"frame {list(index)}" if lead else ""
        result, found = _enhance_frame(data[index], tiles, plan, options, where, count)
        out[index] = _cast(result, final)
        frames.append({"index": list(index), **found})
    _warn(frames)
    image: Any = out
    if masked:
        image = np.ma.MaskedArray(out, mask=np.ma.getmaskarray(data).copy())
        if kind == final:
            image.fill_value = data.fill_value
    scaling = options.scaling
    flips = [[list(axes), weight] for axes, weight in FLIPS]
    record = {
        **tiles.describe(),
        "tile": list(plan.tile),
        "overlap": options.overlap,
        "window": WINDOW,
        "tiles": len(plan),
        "flips": flips if options.ensemble else None,
        "scaling": list(scaling) if isinstance(scaling, tuple) else scaling,
        "input": {"shape": list(data.shape), "dtype": str(kind), "stack": bool(lead)},
        "output_dtype": str(final),
        "output_values": _meaning(tiles),
        "frames": frames,
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
    }
    if _is_signal(x):
        image = _signal_like(x, image, record)
    return Enhancement(image, x, record)


def _meaning(tiles: TileFunction) -> str:
    """Return the meaning of the values of a result."""
    if not tiles.gives_map:
        return VALUES_LIKE_INPUT
    return VALUES_OF_SUPERRESOLUTION if tiles.map_has_units else VALUES_OF_MAP


# One frame ------------------------------------------------------------------------


def _enhance_frame(
    data: Any,
    tiles: TileFunction,
    plan: TilePlan,
    options: EnhanceOptions,
    where: str,
    on_tiles: Callable[[int], None],
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the result ``[H, W]`` and its part of the record."""
    frame = np.asarray(data.data if isinstance(data, np.ma.MaskedArray) else data)
    working = _working_type(frame.dtype.newbyteorder("="))
    missing = ~np.isfinite(frame) | np.ma.getmaskarray(data)
    number = int(missing.sum())
    if number == frame.size:
        raise InputError(
            "no pixel can be used: all are NaN, infinite or masked", where=where
        )
    if frame.dtype == np.float16:
        frame = frame.astype(np.float32)
    flags = {"filled": str(number)} if number else {}
    values = frame[~missing] if number else frame
    offset, scale, flag = _find_scaling(values, options.scaling)
    if flag:
        flags[flag] = ""
    found = {"offset": offset, "scale": scale, "flags": flags, "residual": None}
    if scale == 0.0:
        on_tiles(len(plan))
        result = frame.astype(working, copy=True)
        if tiles.gives_map:
            result[~missing] = 0.0
        return result, found
    if plan.rows.length < plan.rows.tile or plan.columns.length < plan.columns.tile:
        flags["reflected"] = ""
    grey = _affine(frame, 1.0 / scale, -offset / scale, np.float32)
    if number:
        fill_missing(grey, missing)
    run = tiles.runner(*plan.tile)
    run = with_flips(run) if options.ensemble else run
    clean = run_tiles(grey, run, plan, options.batch_size, on_tiles)
    if not np.isfinite(clean).all():
        raise InputError("the network returned NaN or infinite values", where=where)
    del grey
    if tiles.gives_map:
        factor = scale if tiles.map_has_units else 1.0
        result = _affine(clean, factor, 0.0, working)
    else:
        result = _affine(clean, scale, offset, working)
        found["residual"] = residual_statistics(frame, result, missing)
        flags.update(found["residual"].pop("flags"))
    if number:
        result[missing] = frame[missing]
    return result, found


def _affine(image: np.ndarray, factor: float, shift: float, kind: Any) -> np.ndarray:
    """Return ``image * factor + shift`` as ``kind``, computed in float64 by rows."""
    out = np.empty(image.shape, dtype=kind)
    with np.errstate(invalid="ignore", over="ignore"):
        for top in range(0, len(image), _ROWS):
            rows = slice(top, top + _ROWS)
            out[rows] = image[rows].astype(np.float64) * factor + shift
    return out


def _find_scaling(values: np.ndarray, scaling: Scaling) -> tuple[float, float, str]:
    """Return offset, scale (0 for a constant image) and a flag (or an empty text)."""
    if values.min() == values.max():
        return 0.0, 0.0, "constant"
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


def _cast(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Return values as ``kind``; integers are rounded and limited to their range."""
    if kind.kind not in "iu":
        return values
    limits = np.iinfo(kind)
    high = float(limits.max)
    if high > limits.max:  # 2**63 is not an int64
        high = float(np.nextafter(high, 0.0))
    return np.clip(np.rint(values), float(limits.min), high).astype(kind)


def _working_type(kind: np.dtype) -> type:
    """Return the type that holds the values of an input exactly."""
    wide_integer = kind.kind in "iu" and kind.itemsize > 2
    return np.float64 if kind == np.float64 or wide_integer else np.float32


def _data_of(x: Any) -> Any:
    """Return the array of a signal, of an array, or of nested lists."""
    data = x.data if _is_signal(x) else x
    return data if isinstance(getattr(data, "dtype", None), np.dtype) else np.asarray(x)


def _checked_data(x: Any) -> Any:
    """Return the array of an input, after the checks of type and shape."""
    if _is_signal(x):
        dimension = getattr(x.axes_manager, "signal_dimension", 2)
        if dimension != 2:
            raise InputError(
                f"the signal has {dimension} signal axes",
                wanted="an image, e.g. signal.transpose(signal_axes=2)",
            )
    data = _data_of(x)
    kind = np.dtype(data.dtype)
    shape = list(data.shape)
    if kind.fields is not None or kind.kind not in "iuf" or kind.itemsize > 8:
        raise TypeError(
            f"the image has type {kind}; wanted integers or float16, 32, 64. Give one "
            "channel of colours or their mean, and the amplitude of complex numbers"
        )
    if len(shape) < 2 or 0 in shape or min(shape[-2:]) == 1:
        raise InputError(
            f"an array {shape} is no image",
            wanted="[..., H, W] with at least 2 x 2 pixels",
        )
    if len(shape) > 2 and shape[-1] in (3, 4) and shape[-2] > 4:
        raise InputError(
            f"an array {shape} looks like colours in its last axis",
            wanted="[frames, H, W]",
            hint="Give one channel, or their mean.",
        )
    return data


def _warn(frames: list[dict[str, Any]]) -> None:
    """Warn of frames that were not enhanced, or not scaled as usual."""
    for name in ("constant", "sparse", "not_grey"):
        number = sum(name in frame["flags"] for frame in frames)
        if number:
            of = f" ({number} of {len(frames)} frames)" if len(frames) > 1 else ""
            logger.warning(f"{FLAGS[name]}{of}")


def _versions() -> dict[str, str]:
    versions = {"ppmat": ppmat.__version__, "numpy": np.__version__}
    if "paddle" in sys.modules:
        versions["paddle"] = sys.modules["paddle"].__version__
    return versions


def _is_signal(x: Any) -> bool:
    return all(hasattr(x, name) for name in ("data", "axes_manager", "metadata"))


def _signal_like(signal: Any, image: np.ndarray, record: dict[str, Any]) -> Any:
    """Return a signal of the same class and axes, with the record as metadata."""
    if hasattr(signal, "_deepcopy_with_new_data"):
        new = signal._deepcopy_with_new_data(image)
    else:
        new = signal.deepcopy()
        new.data = image
    if getattr(signal, "_lazy", False):
        # A lazy signal holds a dask array, which HyperSpy makes from the array.
        new._lazy = False
        new._assign_subclass()
        new = new.as_lazy()
    new.metadata.set_item("ppmat.enhance", record)
    return new
