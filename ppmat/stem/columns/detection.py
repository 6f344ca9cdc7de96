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
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from ppmat.stem.columns.column_fit import WIDTH_SPREAD
from ppmat.stem.columns.column_fit import ColumnFit
from ppmat.stem.columns.column_scores import common_width
from ppmat.stem.columns.column_scores import explained_by_shape
from ppmat.stem.columns.column_scores import merged_columns
from ppmat.stem.columns.column_scores import misfit_variance
from ppmat.stem.columns.column_scores import network_scores
from ppmat.stem.columns.column_scores import noise_correlation
from ppmat.stem.columns.column_scores import noise_share
from ppmat.stem.columns.column_scores import scores
from ppmat.stem.columns.column_table import COLUMNS
from ppmat.stem.columns.column_table import ColumnTable
from ppmat.stem.columns.column_table import pixel_size_in_nm
from ppmat.stem.columns.column_table import table_warnings
from ppmat.stem.columns.column_width import NoColumnsError
from ppmat.stem.columns.column_width import column_width
from ppmat.stem.columns.normal_equations import HEIGHT
from ppmat.stem.columns.normal_equations import WIDTH
from ppmat.stem.columns.normal_equations import Background
from ppmat.stem.columns.peak_finding import find_peaks
from ppmat.stem.columns.peak_finding import noise_level
from ppmat.stem.columns.seeds import Seeds
from ppmat.stem.columns.seeds import enhanced_seeds
from ppmat.stem.columns.seeds import lost_share
from ppmat.stem.columns.seeds import raw_seeds
from ppmat.stem.columns.standard_errors import FittedColumns
from ppmat.stem.images.background import slow_variation
from ppmat.stem.images.bad_pixels import without_hot_pixels
from ppmat.stem.images.image_array import image_array
from ppmat.stem.images.image_array import is_signal
from ppmat.stem.noise.noise_model import MODES
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice

_POLARITY = {"haadf": "bright", "bf": "dark"}  # of the columns, by mode
POLARITIES = ("bright", "dark")
SEEDS = ("enhanced", "map")
MIN_SCORE = 0.5  # a column is then more probable than none
_MIN_SIDE = 16  # pixels; smaller images are refused
_MIN_LENGTH = 0.5  # pixels; smallest legal sigma and separation
# Gaussians of equal height that are nearer, in sigma, have one peak.
_SEPARATION = 2.0
_SLOW_LENGTH = 3.0  # sigma; window of the slow variation, a column keeps 90 % under it
_SLOW_SHARE = 2.0  # of what noise leaves under the window; below, nothing is taken out
# The same after a coarse fit, whose errors add to it: 7 to 10 on flat lattices, 11 at
# the edge of a crystal, 33 on a particle.
_COARSE_SLOW = 15.0
_MAX_LOST = 0.2  # of the clear raw seeds; an enhanced image that lacks more is wrong
_COARSE_STEPS = 5
_STEPS = 25
_WIDE_SPREAD = 0.4  # prior spread of widths while the common width is an estimate
# Rounds of fit and selection; each value is the part of the final signal-to-noise ratio
# that is needed in this round.
_ROUNDS = (0.6, 1.0, 1.0, 1.0, 1.0)
_WIDTH_SETTLED = 0.03  # relative change of the common width
_MIN_RESIDUAL_SNR = 3.5  # of columns found in the residual, which is mostly noise
_MIN_RESIDUAL_HEIGHT = 0.1  # of these, in median heights of the other columns
_MIN_RESIDUAL_DISTANCE = 0.75  # of these to other columns, in separations
_OVERLAP = 3.0  # sigma; columns that are nearer are marked as overlapping
_EDGE = 2.0  # sigma; columns that are nearer to the border are marked


@dataclass
class ScaledImage:
    """An image with bright columns, median 0 and standard deviation near 1."""

    values: np.ndarray  # 0 at missing pixels [H, W]
    valid: np.ndarray  # False at missing pixels [H, W]
    offset: float  # median of the image, image units
    scale: float  # image units of one unit of ``values``


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Options of :func:`detect_columns`, which describes them."""

    mode: str
    polarity: str | None
    seeds_from: str
    sigma: float | None
    separation: float | None
    min_score: float

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_choice("seeds_from", self.seeds_from, SEEDS)
        if self.polarity is not None:
            check_choice("polarity", self.polarity, POLARITIES)
        for name in ("sigma", "separation"):
            length = getattr(self, name)
            if length is not None and not _MIN_LENGTH <= length < np.inf:
                found = f"{name} is {length!r}"
                raise InputError(found, wanted="at least half a pixel")
        if not 0 <= self.min_score < 1:
            raise InputError(f"min_score is {self.min_score!r}", wanted="0 to below 1")

    @property
    def sign(self) -> int:
        """1 for bright columns, -1 for dark ones."""
        return 1 if (self.polarity or _POLARITY[self.mode]) == "bright" else -1


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
    search = _Search(raw, searched, seed_image, options)
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


# Seeds, fit, selection ------------------------------------------------------------


@dataclass
class _Selection:
    """Columns that passed the selection; lengths are in pixels."""

    fit: FittedColumns
    background: Background
    snr: np.ndarray  # height divided by its error [n]
    score: np.ndarray  # [n]
    contrast: np.ndarray  # height of the seed in the enhanced image, else 0 [n]
    sigma: float
    separation: float
    correlation: np.ndarray  # see noise_correlation [4]


@dataclass
class _Search:
    """The search for columns in one image, with the widths known so far."""

    raw: ScaledImage  # for the fit; hot pixels are missing
    searched: ScaledImage  # for seeds; hot pixels are replaced
    seed_image: ScaledImage | None  # an enhanced image or a map
    options: DetectionOptions

    def __post_init__(self) -> None:
        self.area = float(self.raw.valid.sum())
        self.notes: list[str] = []  # warnings
        self.slow = np.zeros(self.raw.values.shape)  # taken out of ``raw``

    def run(self) -> _Selection:
        """Return the columns.

        Raises:
            NoColumnsError: There are none. The message says why.
        """
        width = column_width(self.searched.values, self.searched.valid)
        if self.seed_image is not None:
            image = self.seed_image
            self.seed_width = column_width(image.values, image.valid)
            if self.options.seeds_from != "map":
                width = self.seed_width  # with less noise than in the raw image
        self.sigma = self.options.sigma or width
        self.apart = self.options.separation or _SEPARATION * self.sigma
        seeds = self.find_seeds()
        if len(seeds.positions):
            self.first_fit(seeds.positions)
            if self.options.separation is None:
                self.apart = _SEPARATION * self.sigma
            if self.seed_image is None:
                seeds = self.find_seeds()
        if not len(seeds.positions):
            raise NoColumnsError("no peak of the image is above its noise")
        best = self.select(self.start_fit(seeds.positions), seeds.contrast)
        if best is None:
            raise NoColumnsError(
                f"none of {len(seeds.positions)} peaks of the image is surely above its "
                "noise"
            )
        if self.remove_slow(best.fit.residual):
            fit = self.start_fit(best.fit.values[:, :2])
            fit.resume(best.fit.values, best.background)
            best = self.select(fit, best.contrast) or best
        missed = self.find_missed(best)
        # These images are not needed any more.
        best.fit.residual = best.fit.noise = np.empty(0)
        if not len(missed):
            return best
        starts = np.concatenate([best.fit.values[:, :2], missed])
        contrast = np.concatenate([best.contrast, np.zeros(len(missed))])
        fit = self.start_fit(starts)
        fit.resume(best.fit.values, best.background)
        return self.select(fit, contrast) or best

    def find_seeds(self) -> Seeds:
        """Return seeds of the enhanced image, if it has those of the raw image."""
        searched = self.searched.values, self.searched.valid
        raw = raw_seeds(*searched, self.sigma, self.apart)
        if self.seed_image is None:
            return raw
        image = self.seed_image.values, self.seed_image.valid
        seeds = enhanced_seeds(*image, self.seed_width, self.apart)
        lost = lost_share(raw, seeds, self.apart)
        if lost <= _MAX_LOST:
            return seeds
        self.notes.append(
            f"{lost:.0%} of the clear peaks of the raw image are lost in the enhanced "
            "one, so seeds are those of the raw image. Was the network trained for "
            "this spacing?"
        )
        self.seed_image = None
        return raw

    def start_fit(self, starts: np.ndarray, spread: float = WIDTH_SPREAD) -> ColumnFit:
        """Return a fit at starting positions [n, 2], with the spread of widths."""
        largest = float(max(self.raw.values.shape))
        nearest = cKDTree(starts).query(starts, k=2)[0][:, 1]  # infinite for one column
        spacing = float(np.clip(np.median(nearest), 3 * self.sigma, largest))
        image = self.raw.values, self.raw.valid
        return ColumnFit(*image, starts, self.sigma, spacing, spread)

    def measure(
        self, fit: ColumnFit, quick: bool = False
    ) -> tuple[FittedColumns, np.ndarray, np.ndarray]:
        """Return columns, height over error [n] and factors of the variances [4]."""
        found = fit.result(quick)
        correlation = noise_correlation(found, self.raw.valid, self.sigma)
        found.variance *= correlation
        snr = found.values[:, HEIGHT] / found.errors[:, HEIGHT]
        return found, np.maximum(np.nan_to_num(snr), 0.0), correlation

    def first_fit(self, starts: np.ndarray) -> None:
        """Fit coarsely, for the common width and for the slow variation.

        This fit sees an image without slow variation, so columns are a little too low.
        """
        image, window = self.raw, _SLOW_LENGTH * self.sigma
        flat = image.values - slow_variation(image.values, ~image.valid, window)
        flat[~image.valid] = 0.0
        self.raw = dataclasses.replace(image, values=flat)
        fit = self.start_fit(starts, _WIDE_SPREAD)
        fit.iterate(_COARSE_STEPS)
        self.raw = image
        if self.options.sigma is None:
            found, snr, _ = self.measure(fit, quick=True)
            score = scores(snr, self.area, self.sigma, self.apart)
            self.sigma = common_width(found, snr, score, self.sigma)
        fit.background.subtract_from(flat)
        rest = image.values - (flat - fit.residual)
        rest -= slow_variation(rest, ~image.valid, 3 * window)
        self.remove_slow(rest, _COARSE_SLOW)

    def remove_slow(self, residual: np.ndarray, share: float = _SLOW_SHARE) -> bool:
        """Subtract the slow part of a residual from the raw image, if it has one.

        The nodes of the fit's background are too far apart for edges and thin
        specimens. White noise leaves ``1 / (4 pi length^2)`` of its variance under a
        Gaussian window. With less than ``share`` times that, nothing is subtracted.
        """
        length = _SLOW_LENGTH * self.sigma
        slow = slow_variation(residual, ~self.raw.valid, length)
        noise = noise_level(residual, self.raw.valid)
        limit = share * noise / (np.sqrt(4 * np.pi) * length)
        if np.std(slow[self.raw.valid]) < limit:
            return False
        self.slow = self.slow + slow
        values = np.where(self.raw.valid, self.raw.values - slow, 0.0)
        self.raw = dataclasses.replace(self.raw, values=values)
        return True

    def select(self, fit: ColumnFit, contrast: np.ndarray) -> _Selection | None:
        """Fit and remove uncertain columns, in rounds; None if no column is left.

        False columns make their neighbours uncertain, so the worst are removed first.
        The common width follows the sure columns.
        """
        for number, share in enumerate(_ROUNDS, start=1):
            if not fit.iterate(_COARSE_STEPS if share < 1 else _STEPS) and share == 1:
                fit.freeze_moving()
            found, snr, correlation = self.measure(fit)
            sigma = self.sigma
            misfit = misfit_variance(found, self.raw.valid, sigma)
            reduced = snr * noise_share(found, misfit)
            scale = self.area, sigma, self.apart
            score = scores(reduced / share, *scale)
            score = np.maximum(score, network_scores(reduced, contrast, *scale))
            keep = score >= self.options.min_score
            keep &= ~merged_columns(found, snr, sigma)
            if not keep.any():
                return None
            width = self.options.sigma or common_width(found, snr, score, sigma)
            if share == 1 and keep.all() and abs(width / sigma - 1) < _WIDTH_SETTLED:
                break
            self.sigma = width
            found, snr, score = found.select(keep), snr[keep], score[keep]
            contrast = contrast[keep]
            if number < len(_ROUNDS):
                fit.recentre(width)
                fit.keep(keep)
        columns = found, fit.background, snr, score, contrast
        lengths = {"sigma": self.sigma, "separation": self.apart}
        return _Selection(*columns, **lengths, correlation=correlation)

    def find_missed(self, found: _Selection) -> np.ndarray:
        """Return peaks of the residual, pixels [n, 2].

        Weak columns between strong ones have no peak of their own in the image.
        """
        usual = float(np.median(found.fit.values[:, HEIGHT]))
        starts, _ = find_peaks(
            found.fit.residual,
            self.raw.valid,
            width=found.sigma,
            apart=found.separation,
            # A column keeps half its height under a filter of its width.
            min_height=_MIN_RESIDUAL_HEIGHT * usual / 2,
            min_snr=_MIN_RESIDUAL_SNR,
        )
        distance, _ = cKDTree(found.fit.values[:, :2]).query(starts)
        starts = starts[distance > _MIN_RESIDUAL_DISTANCE * found.separation]
        return starts[~explained_by_shape(starts, found.fit, found.sigma)]


# Table ----------------------------------------------------------------------------


def _table(
    found: _Selection, raw: ScaledImage, slow: np.ndarray, sign: int
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
