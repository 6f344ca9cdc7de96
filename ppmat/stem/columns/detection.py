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

"""Find atomic columns and measure them on the raw image.

The stages are seeds, fit, selection, table. Seeds come from an enhanced image, from the
map of a detection network, or from the raw image. All results are fitted to the raw
image only (:mod:`ppmat.stem.columns.column_fit`), so no network moves an atom. How
errors and scores are computed is in docs/stem/detection.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from ppmat.stem.columns.column_search import ColumnSearch
from ppmat.stem.columns.column_search import DetectionOptions
from ppmat.stem.columns.column_search import ScaledImage
from ppmat.stem.columns.column_search import Selection
from ppmat.stem.columns.column_table import COLUMNS
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.column_table import pixel_size_in_nm
from ppmat.stem.columns.column_table import table_warnings
from ppmat.stem.columns.column_width import NoColumnsError
from ppmat.stem.columns.normal_equations import HEIGHT
from ppmat.stem.columns.normal_equations import WIDTH
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.images.image_array import image_array
from ppmat.stem.images.image_array import is_signal
from ppmat.utils.errors import InputError

MIN_SCORE = 0.5  # a column is then more probable than none
_MIN_SIDE = 16  # pixels; smaller images are refused
_OVERLAP = 3.0  # sigma; columns that are nearer are marked as overlapping
_EDGE = 2.0  # sigma; columns that are nearer to the border are marked


def detect_columns(
    image: Any,
    enhanced: Any = None,
    pixel_size: Any = None,
    *,
    units: str = "Å",
    mode: str = "haadf",
    polarity: str | None = None,
    seeds_from: str = "enhanced",
    sigma: float | None = None,
    separation: float | None = None,
    min_score: float = MIN_SCORE,
) -> ColumnTable:
    """Return the atomic columns of an image, with errors, from top to bottom.

    Args:
        image: Raw image [H, W] in any units. NaN, infinite and masked pixels are left
            out, and so are single hot pixels
            (:func:`ppmat.stem.images.bad_pixels.hot_pixels`). A HyperSpy signal gives
            also its pixel size.
        enhanced: The same image enhanced, or the map of a detection network [H, W]. It
            gives starting positions only. None searches the raw image.
        pixel_size: Size of a pixel in ``units``, a number or ``(y, x)``. None gives
            positions in pixels only.
        units: ``pm``, ``Å``, ``nm`` or ``µm``.
        mode: ``"haadf"``: columns are bright. ``"bf"``: columns are dark.
        polarity: ``"bright"`` or ``"dark"``, if it is not that of the mode. Columns of
            thick specimens can be bright in BF.
        seeds_from: ``"map"`` if ``enhanced`` is a map. Its spots are bright in both
            modes.
        sigma: Common width of the columns, pixels; None estimates it.
        separation: Smallest distance of two columns, pixels; None takes two sigma.
        min_score: Columns with a lower score are left out; 0 keeps all candidates.

    Returns:
        The table; empty if no columns are above the noise. Its ``info`` has the
        options, the number of ``hot_pixels`` and the ``warnings``.

    Raises:
        TypeError: The image has no real numbers.
        InputError: The image or an option is not legal.

    Example:
        >>> import numpy as np
        >>> y, x = np.mgrid[:40, :40]
        >>> distances = [np.hypot(y - a, x - b) for a in (10, 30) for b in (9, 29)]
        >>> image = sum(np.exp(-(d**2) / 8) for d in distances)
        >>> image += np.random.default_rng(0).normal(0, 0.05, image.shape)
        >>> table = detect_columns(image, pixel_size=0.2)
        >>> sorted(table.positions.round().tolist())
        [[10.0, 9.0], [10.0, 29.0], [30.0, 9.0], [30.0, 29.0]]
    """
    options = DetectionOptions(
        mode=mode,
        polarity=polarity,
        seeds_from=seeds_from,
        sigma=sigma,
        separation=separation,
        min_score=min_score,
    )
    if is_signal(image) and pixel_size is None:
        pixel_size, units = _signal_pixel_size(image), "nm"
    size, sign = pixel_size_in_nm(pixel_size, units), options.sign
    values, valid = _pixels(image, "image")
    mended, hot = without_hot_pixels(np.where(valid, values, np.nan))
    # Hot pixels count as missing in the fit. Seeds are searched there too.
    searched = _scaled(mended, valid, "image", sign)
    valid, filled = valid & ~hot, np.where(hot, 0.0, searched.values)
    raw = dataclasses.replace(searched, values=filled, valid=valid)
    shape, seed_image = list(values.shape), None
    if enhanced is not None:
        seed_sign = 1 if seeds_from == "map" else sign
        seed_image = _scaled(*_pixels(enhanced, "enhanced"), "enhanced", seed_sign)
        other = list(seed_image.values.shape)
        if other != shape:
            raise InputError(
                f"enhanced has shape {other}, the image {shape}",
                wanted="the same image",
            )
    info: dict[str, Any] = {
        "shape": shape,
        "mode": mode,
        "polarity": "bright" if sign > 0 else "dark",
        "seeds_from": "raw" if seed_image is None else seeds_from,
        "min_score": min_score,
        "hot_pixels": int(hot.sum()),
        "sigma": None,
    }
    search = ColumnSearch(raw, searched, seed_image, options)
    notes = []
    try:
        found = search.run()
    except NoColumnsError as error:
        found, notes = None, [f"no columns: {error}"]
    notes += search.notes
    if found is None:
        empty = {n: np.empty(0, bool if b else float) for n, (_, b) in COLUMNS.items()}
        table = ColumnTable(**empty)
    else:
        table = _table(found, raw, search.slow, sign)
        info |= {
            "sigma": found.sigma,
            "separation": found.separation,
            "noise_correlation": found.correlation.tolist(),
        }
    warnings = {"fitted": table.fitted, "hot_pixels": info["hot_pixels"]}
    info["warnings"] = table_warnings(values[valid], bright=sign > 0, **warnings)
    info["warnings"] += notes
    table.pixel_size, table.info = size, info
    return table.select(np.lexsort((table.x, table.y)))


# Table ----------------------------------------------------------------------------


def _table(
    found: Selection, raw: ScaledImage, slow: np.ndarray, sign: int
) -> ColumnTable:
    """Return the table of columns, in image units.

    ``slow`` was subtracted from the raw image before the fit [H, W].
    """
    fit, sigma, scale = found.fit, found.sigma, sign * raw.scale
    y, x, height, log_sigma = fit.values.T
    y_error, x_error, height_error, width_error = fit.errors.T
    width, fitted = np.exp(log_sigma), ~fit.frozen
    under = map_coordinates(slow, [y, x], order=1, mode="nearest")
    volume = 2 * np.pi * width**2
    root = np.sqrt(fit.variance)
    mixed = fit.covariance[:, HEIGHT, WIDTH] * root[:, HEIGHT] * root[:, WIDTH]
    of_height, of_width = (
        fit.covariance[:, k, k] * fit.variance[:, k] for k in (HEIGHT, WIDTH)
    )
    # Of height * sigma^2, by propagation of errors.
    spread = of_height + 4 * height * mixed + 4 * height**2 * of_width
    spread = np.where(fitted, np.sqrt(np.maximum(spread, 0)), np.nan)
    return ColumnTable(
        y=y,
        x=x,
        y_error=y_error,
        x_error=x_error,
        height=scale * height,
        height_error=raw.scale * height_error,
        sigma=width,
        sigma_error=width * width_error,
        intensity=scale * height * volume,
        intensity_error=raw.scale * volume * spread,
        background=raw.offset + scale * (fit.background + under),
        snr=found.snr,
        score=found.score,
        edge=_at_edge(fit.values[:, :2], raw.valid, _EDGE * sigma),
        overlapping=fit.overlap > np.exp(-(_OVERLAP**2) / 4),
        fitted=fitted,
    )


def _at_edge(position: np.ndarray, valid: np.ndarray, reach: float) -> np.ndarray:
    """Return the mask of columns near the border or a missing pixel [n]."""
    last = np.array(valid.shape) - 1
    pixel = np.clip(np.rint(position).astype(int), 0, last)
    edge = np.minimum(pixel, last - pixel).min(axis=1) + 1 <= reach
    missing = np.argwhere(~valid)
    if len(missing):
        edge |= cKDTree(missing).query(pixel)[0] <= reach
    return edge


# Images ---------------------------------------------------------------------------


def _pixels(image: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of an image, and the mask of those that can be used [H, W]."""
    data = image_array(image)
    if data.dtype.kind not in "iuf":
        raise TypeError(
            f"{name} has type {data.dtype}; wanted real numbers. Complex images: give "
            "the amplitude or one part"
        )
    if data.ndim != 2 or min(data.shape) < _MIN_SIDE:
        raise InputError(
            f"{name} has shape {list(data.shape)}",
            wanted=f"one image [H, W] of at least {_MIN_SIDE} x {_MIN_SIDE} pixels",
        )
    values = np.asarray(data.data, dtype=np.float64)
    valid = np.isfinite(values) & ~np.ma.getmaskarray(data)
    if valid.sum() < _MIN_SIDE**2:
        raise InputError(
            f"{valid.sum()} pixels can be used, the others are NaN, infinite or masked",
            where=name,
            wanted=f"at least {_MIN_SIDE**2}",
        )
    return values, valid


def _scaled(values: np.ndarray, valid: np.ndarray, name: str, sign: int) -> ScaledImage:
    """Scale an image to median 0 and standard deviation 1, bright columns."""
    offset, scale = (float(f(values[valid])) for f in (np.median, np.std))
    if scale <= 1e-12 * abs(offset):
        raise InputError(f"all pixels are equal ({offset:g})", where=name)
    values = np.where(valid, sign * (values - offset) / scale, 0.0)
    return ScaledImage(values, valid, offset, scale)


def _signal_pixel_size(signal: Any) -> tuple[float, float] | None:
    """Return the pixel size (y, x) of a HyperSpy signal, nm; None if unknown."""
    axes = signal.axes_manager.signal_axes[::-1]  # from (x, y)
    units = {str(axis.units) for axis in axes}
    try:
        return pixel_size_in_nm([float(axis.scale) for axis in axes], *units)
    except (TypeError, ValueError):
        return None
