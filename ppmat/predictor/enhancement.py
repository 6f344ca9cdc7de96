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


"""Micrographs through a network that was trained on grey values, and back.

The network sees ``grey = (x - offset) / scale`` and the result is
``network(grey) * scale + offset``. Offset and scale follow ``x`` (robust percentiles),
so ``enhance(a * x + b) = a * enhance(x) + b`` for ``a > 0``. For ``a < 0`` the network
sees the negative of the picture, bright for dark, which it was not trained on: nothing
is promised. Nothing is clipped. The reasons are in docs/stem/enhancement.md.

A map of atomic columns (a model with the target ``gt_detect``) has no units to go back
to and stays in grey levels.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import ppmat
from ppmat.predictor.residual import FLAGS as RESIDUAL_FLAGS
from ppmat.predictor.residual import residual_statistics
from ppmat.predictor.tile_model import as_tile_model
from ppmat.predictor.tiling import FLIPS
from ppmat.predictor.tiling import WINDOW
from ppmat.predictor.tiling import TilePlan
from ppmat.predictor.tiling import plan_tiles
from ppmat.predictor.tiling import run_tiles
from ppmat.predictor.tiling import with_flips
from ppmat.stem.images.grey_scaling import PERCENTILES
from ppmat.stem.images.grey_scaling import robust_scaling
from ppmat.utils import logger

Scaling = str | tuple[float, float]

_GREY_LIMITS = (-64.0, 320.0)
_SMALLEST_RANGE = 25.0  # grey levels
_FILL_PASSES = 8
_ROWS = 256

FLAGS = {
    **RESIDUAL_FLAGS,
    "constant": "all pixels are equal: returned unchanged, or as an empty map",
    "sparse": "nearly all pixels are equal: scaled by least and greatest value",
    "filled": "this many pixels were missing (NaN, infinite or masked): filled for the "
    "network, put back in the result",
    "reflected": "smaller than a tile: reflected at its end for the network",
    "not_grey": "values are not like grey levels 0 to 255, though scaling='grey' says "
    "so",
}


# What the numbers of a result are, in the record.
VALUES_LIKE_INPUT = "units of the input"
VALUES_OF_MAP = "map of columns, grey levels 0 to 255"


@dataclass(frozen=True)
class Enhancement:
    """An enhanced image and what is known about it.

    Attributes:
        image: Of the type, shape and units of the input; a map is in grey levels.
        raw: The input.
        record: Plain values: what was done, with what, and what was found, see
            docs/stem/enhancement.md.
    """

    image: Any
    raw: Any
    record: dict[str, Any]

    @property
    def residual(self) -> np.ndarray:
        """Raw - enhanced; NaN (or masked) where the input is missing.

        Raises:
            ValueError: The image is a map of columns.
        """
        if self.record["output_values"] != VALUES_LIKE_INPUT:
            raise ValueError("the result is a map of columns: it leaves no residual")
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
        """What is unusual, see :data:`FLAGS`; of a stack with the first frame's."""
        flags: dict[str, str] = {}
        for frame in self.record["frames"]:
            for name, detail in frame["flags"].items():
                flags.setdefault(name, detail)
        return flags


def enhance(
    x: Any,
    model: Any = None,
    *,
    return_record: bool = False,
    **options: Any,
) -> Any:
    """Return the enhanced image, of the shape, units and kind of ``x``.

    ::

        clean = enhance(image)                  # with a small model of ppmat's own
        predictor = SpectrumPredictor(config_path="sfin_haadf_enhance.yaml",
                                      checkpoint_path="best.pdparams")
        clean = enhance(image, predictor)

    Args:
        x: See :func:`enhance_image`.
        model: See :func:`enhance_image`.
        return_record: Return the pair of image and record (a dict) instead.
        **options: See :func:`enhance_image`.

    Raises:
        ValueError, TypeError: See :func:`enhance_image`.
    """
    result = enhance_image(x, model, **options)
    return (result.image, result.record) if return_record else result.image


def enhance_image(
    x: Any,
    model: Any = None,
    *,
    mode: str | None = None,
    scaling: Scaling | None = None,
    tile_size: int | None = None,
    overlap: int | None = None,
    ensemble: bool = False,
    batch_size: int = 1,
    dtype: str | None = None,
    on_tiles: Callable[[int, int], None] = lambda done, total: None,
) -> Enhancement:
    """Enhance an image, a stack of images, or a HyperSpy signal.

    Args:
        x: ``[..., H, W]`` numbers; leading axes are a stack whose frames are treated
            one by one, each with its own scaling. Masked arrays stay masked; NaN and
            infinite pixels stay what they are, and the network sees the mean of their
            neighbours instead. A HyperSpy signal with two signal axes gives a signal of
            the same class with its axes and metadata; a lazy one is read frame by
            frame, while the result is in memory.
        model: A ``SpectrumPredictor``, the name of a registered model, a network, or a
            function of float32 tiles ``[B, 1, h, w]``. None is the shipped model of
            ``mode``, trained on synthetic images, which stays loaded.
        mode: ``"haadf"`` or ``"bf"``, only without ``model``; ``"haadf"`` when None.
        scaling: ``"robust"``: the 0.1 and 99.9 percentiles of a frame become the grey
            levels they have in training. ``"grey"``: values are grey levels 0 to 255
            already. ``(offset, scale)``: grey is ``(x - offset) / scale``, the same
            for all frames. None takes the model's own, often ``"robust"``.
        tile_size: Height and width of a tile; best what the network was trained on.
            None takes the model's own, often 256.
        overlap: Pixels neighbouring tiles share, at most half a tile. None takes the
            model's own, or a quarter of ``tile_size``.
        ensemble: Average over the flips of each tile: four times the work.
        batch_size: Tiles that are given to the network at once; a compiled network
            runs them one after another, so more than 1 helps other networks only.
        dtype: None gives float32, or float64 for float64 (and for masked arrays of
            it); ``"same"`` the type of ``x``, for integers rounded and held at the
            ends of their range.
        on_tiles: Called with the tiles that are done, and their number in all.

    Raises:
        TypeError: No numbers (text, complex, bool, RGB).
        ValueError: No image (1-D, one pixel wide, colours), a frame without any
            finite pixel, options that cannot be meant, or a network that returns NaN.
    """
    tiles = as_tile_model(model, mode)
    if _is_signal(x):
        _check_signal(x)
    data = _data_of(x)
    _check_array(data)
    if dtype not in (None, "same"):
        raise ValueError(f"dtype is {dtype!r}; wanted None or 'same'")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, wanted a whole number > 0")
    scaling = check_scaling(tiles.scaling if scaling is None else scaling)
    tile_size, overlap = choose_tiles(tiles, tile_size, overlap)
    height, width = data.shape[-2:]
    plan = plan_tiles(height, width, tile_size, overlap)
    run = tiles.runner(*plan.tile)
    run = with_flips(run) if ensemble else run

    kind = np.dtype(data.dtype).newbyteorder("=")
    working = np.float64 if _needs_double(kind) else np.float32
    final = kind if dtype == "same" else _float_of(kind)
    masked = isinstance(data, np.ma.MaskedArray)
    out = np.empty(data.shape, dtype=final)
    lead = data.shape[:-2]
    total = len(plan) * int(np.prod(lead, dtype=int))
    done = 0
    frames: list[dict[str, Any]] = []

    def count(number: int) -> None:
        nonlocal done
        done += number
        on_tiles(done, total)

    for index in np.ndindex(*lead):
        frame = data[index]
        mask = np.ma.getmaskarray(frame) if masked else None
        frame = np.asarray(frame.data if masked else frame)
        where = f"frame {list(index)}: " if lead else ""
        result, found = _enhance_frame(
            frame,
            mask,
            scaling,
            plan,
            run,
            batch_size,
            working,
            where,
            count,
            tiles.gives_map,
        )
        out[index] = _cast(result, final)
        frames.append({"index": list(index), **found})
    _warn(frames)
    image: Any = out
    if masked:
        image = np.ma.MaskedArray(out, mask=np.ma.getmaskarray(data).copy())
        if kind == final:
            image.fill_value = data.fill_value
    record = {
        **tiles.describe(),
        "tile": list(plan.tile),
        "overlap": overlap,
        "window": WINDOW,
        "tiles": len(plan),
        "flips": [[list(axes), w] for axes, w in FLIPS] if ensemble else None,
        "scaling": list(scaling) if isinstance(scaling, tuple) else scaling,
        "input": {"shape": list(data.shape), "dtype": str(kind), "stack": bool(lead)},
        "output_dtype": str(final),
        "output_values": VALUES_OF_MAP if tiles.gives_map else VALUES_LIKE_INPUT,
        "frames": frames,
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec="seconds"
        ),
    }
    if _is_signal(x):
        image = _signal_like(x, image, record)
    return Enhancement(image, x, record)


# One frame ------------------------------------------------------------------------


def _enhance_frame(
    frame: np.ndarray,
    mask: np.ndarray | None,
    scaling: Scaling,
    plan: TilePlan,
    run: Callable,
    batch_size: int,
    working: Any,
    where: str,
    count: Callable[[int], None],
    gives_map: bool,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the result ``[H, W]`` and what the record says about it."""
    missing = ~np.isfinite(frame)
    if mask is not None:
        missing |= mask
    number = int(missing.sum())
    if number == frame.size:
        raise ValueError(
            f"{where}no pixel can be used: all are NaN, infinite or masked"
        )
    if frame.dtype == np.float16:
        frame = frame.astype(np.float32)
    flags: dict[str, str] = {}
    if number:
        flags["filled"] = str(number)
    values = frame[~missing] if number else frame
    offset, scale, name = _find_scaling(values, scaling)
    if name:
        flags[name] = ""
    found = {"offset": offset, "scale": scale, "flags": flags, "residual": None}
    if scale == 0.0:
        count(len(plan))
        result = frame.astype(working, copy=True)
        if gives_map:
            result[~missing] = 0.0
        return result, found
    if plan.rows.length < plan.rows.tile or plan.columns.length < plan.columns.tile:
        flags["reflected"] = ""
    grey = _affine(frame, 1.0 / scale, -offset / scale, np.float32)
    if number:
        fill_missing(grey, missing)
    clean = run_tiles(grey, run, plan, batch_size, on_tiles=count)
    if not np.isfinite(clean).all():
        raise ValueError(f"{where}the network returned NaN or infinite values")
    del grey
    if gives_map:
        result = clean.astype(working, copy=False)
    else:
        result = _affine(clean, scale, offset, working)
        found["residual"] = residual_statistics(frame, result, missing)
        flags.update(found["residual"].pop("flags"))
    del clean
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
    """Return offset, scale (0 for a constant image) and a flag or ""."""
    if values.min() == values.max():
        return 0.0, 0.0, "constant"
    if isinstance(scaling, tuple):
        return (*scaling, "")
    if scaling == "grey":
        low, high = (float(v) for v in np.percentile(values, PERCENTILES))
        inside = _GREY_LIMITS[0] <= low and high <= _GREY_LIMITS[1]
        wide = high - low >= _SMALLEST_RANGE
        return 0.0, 1.0, "" if inside and wide else "not_grey"
    offset, scale, sparse = robust_scaling(values)
    return offset, scale, "sparse" if sparse else ""


def fill_missing(image: np.ndarray, missing: np.ndarray) -> None:
    """Replace missing pixels, in place, by the mean of their neighbours.

    A hole is filled from its rim inwards, 8 pixels deep; what lies deeper gets the
    median of the image.

    Args:
        image: float ``[H, W]``.
        missing: bool ``[H, W]``, not all true.
    """
    todo = missing.copy()
    median = float(np.median(image[~missing]))
    steps = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    height, width = image.shape
    for _ in range(_FILL_PASSES):
        near = np.zeros((height + 2, width + 2), dtype=bool)
        for r, c in steps:
            near[1 + r : 1 + r + height, 1 + c : 1 + c + width] |= ~todo
        rows, columns = np.nonzero(near[1:-1, 1:-1] & todo)
        if not len(rows):
            break
        total = np.zeros(len(rows))
        number = np.zeros(len(rows), dtype=int)
        for r, c in steps:
            i, j = rows + r, columns + c
            good = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            good[good] = ~todo[i[good], j[good]]
            total[good] += image[i[good], j[good]]
            number += good
        image[rows, columns] = total / number
        todo[rows, columns] = False
    image[todo] = median


def _cast(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Return values as ``kind``; integers rounded and held within their range."""
    if kind.kind not in "iu":
        return values
    limits = np.iinfo(kind)
    high = float(limits.max)
    if high > limits.max:  # 2**63 is not an int64
        high = float(np.nextafter(high, 0.0))
    return np.clip(np.rint(values), float(limits.min), high).astype(kind)


def _needs_double(kind: np.dtype) -> bool:
    return kind == np.float64 or (kind.kind in "iu" and kind.itemsize > 2)


def _float_of(kind: np.dtype) -> np.dtype:
    return np.dtype(np.float64 if kind == np.float64 else np.float32)


# At the door ----------------------------------------------------------------------


def _data_of(x: Any) -> Any:
    """Return the array of a signal, an array, or of what numpy makes one of."""
    data = x.data if _is_signal(x) else x
    return data if isinstance(getattr(data, "dtype", None), np.dtype) else np.asarray(x)


def _check_array(data: Any) -> None:
    kind = np.dtype(data.dtype)
    shape = list(data.shape)
    if kind.fields is not None or kind.kind not in "iuf" or kind.itemsize > 8:
        raise TypeError(
            f"the image has type {kind}; wanted integers or float16, 32, 64. Colours: "
            "choose one channel or their mean; complex: the amplitude or one part"
        )
    if len(shape) < 2 or 0 in shape or min(shape[-2:]) == 1:
        raise ValueError(
            f"an array {shape} is no image; wanted [..., H, W] with at least 2 x 2 "
            "pixels (a line profile has no second axis to tell noise by)"
        )
    if len(shape) > 2 and shape[-1] in (3, 4) and shape[-2] > 4:
        raise ValueError(
            f"an array {shape} looks like colours in its last axis; stacks are "
            "[frames, H, W]. Give one channel, or their mean"
        )


def choose_tiles(
    model: Any, tile_size: int | None, overlap: int | None
) -> tuple[int, int]:
    """Return both as given, or else the model's own, or a quarter of a tile."""
    if overlap is None:
        overlap = model.overlap if tile_size is None else tile_size // 4
    return model.tile_size if tile_size is None else tile_size, overlap


def check_scaling(scaling: Any) -> Scaling:
    """Return a scaling as :func:`enhance_image` takes it.

    Raises:
        ValueError: It is none.
    """
    if isinstance(scaling, str) and scaling in ("robust", "grey"):
        return scaling
    if isinstance(scaling, (tuple, list)) and len(scaling) == 2:
        offset, scale = (float(v) for v in scaling)
        if np.isfinite(offset) and np.isfinite(scale) and scale > 0:
            return offset, scale
    raise ValueError(
        f"scaling is {scaling!r}; wanted 'robust', 'grey' or (offset, scale) with a "
        "positive scale"
    )


def _warn(frames: list[dict[str, Any]]) -> None:
    """Say what forbids or replaces the enhancement of a frame; the rest is recorded."""
    for name in ("constant", "sparse", "not_grey"):
        number = sum(name in frame["flags"] for frame in frames)
        if number:
            of = f" ({number} of {len(frames)} frames)" if len(frames) > 1 else ""
            logger.warning(f"{FLAGS[name]}{of}")


def _versions() -> dict[str, str]:
    import sys

    versions = {"ppmat": ppmat.__version__, "numpy": np.__version__}
    if "paddle" in sys.modules:
        versions["paddle"] = sys.modules["paddle"].__version__
    return versions


# HyperSpy -------------------------------------------------------------------------


def _is_signal(x: Any) -> bool:
    return all(hasattr(x, name) for name in ("data", "axes_manager", "metadata"))


def _check_signal(signal: Any) -> None:
    dimension = getattr(signal.axes_manager, "signal_dimension", 2)
    if dimension != 2:
        raise ValueError(
            f"the signal has {dimension} signal axes; wanted an image, e.g. "
            "signal.transpose(signal_axes=2)"
        )


def _signal_like(signal: Any, image: np.ndarray, record: dict[str, Any]) -> Any:
    """Return a signal of the same class, with axes and metadata, and a record."""
    if hasattr(signal, "_deepcopy_with_new_data"):
        new = signal._deepcopy_with_new_data(image)
    else:
        new = signal.deepcopy()
        new.data = image
    if getattr(signal, "_lazy", False):
        # A lazy signal holds a dask array; HyperSpy makes one of what is in memory.
        new._lazy = False
        new._assign_subclass()
        new = new.as_lazy()
    new.metadata.set_item("ppmat.enhance", record)
    return new
