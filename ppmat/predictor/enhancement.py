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

import ppmat
from ppmat.predictor.frame_enhancement import FRAME_FLAGS
from ppmat.predictor.frame_enhancement import enhance_frame
from ppmat.predictor.image_checks import IMAGE_FLAGS
from ppmat.predictor.residual import FLAGS as RESIDUAL_FLAGS
from ppmat.predictor.tile_model import EnhanceOptions
from ppmat.predictor.tile_model import TileFunction
from ppmat.predictor.tiling import FLIPS
from ppmat.predictor.tiling import WINDOW
from ppmat.predictor.tiling import plan_tiles
from ppmat.utils import logger
from ppmat.utils.errors import InputError

FLAGS = {**RESIDUAL_FLAGS, **FRAME_FLAGS, **IMAGE_FLAGS}

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
    tiles_of = [len(plan)] * int(np.prod(lead, dtype=int))
    frames: list[dict[str, Any]] = []
    done = 0

    def count(number: int, of: int) -> None:
        nonlocal done
        done += number
        tiles_of[len(frames)] = of  # a resampled frame has another number
        if on_tiles is not None:
            on_tiles(done, sum(tiles_of))

    for index in np.ndindex(*lead):
        where = f"frame {list(index)}" if lead else ""
        result, found = enhance_frame(data[index], tiles, options, where, count)
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
        "background": options.background,
        "resample": options.resample,
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


def _cast(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Return values as ``kind``; integers are rounded and limited to their range."""
    if kind.kind not in "iu":
        return values
    limits = np.iinfo(kind)
    high = float(limits.max)
    if high > limits.max:  # 2**63 is not an int64
        high = float(np.nextafter(high, 0.0))
    return np.clip(np.rint(values), float(limits.min), high).astype(kind)


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
