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

"""The search for columns: seeds, fit, selection.

Fits see the raw image without the slow variation that the background of a fit cannot
follow. How errors and scores are computed is in docs/stem/detection.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
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
from ppmat.stem.columns.column_scores import on_ring
from ppmat.stem.columns.column_scores import scores
from ppmat.stem.columns.column_width import NoColumnsError
from ppmat.stem.columns.column_width import column_width
from ppmat.stem.columns.normal_equations import HEIGHT
from ppmat.stem.columns.normal_equations import Background
from ppmat.stem.columns.peak_finding import find_peaks
from ppmat.stem.columns.peak_finding import is_filtered
from ppmat.stem.columns.peak_finding import noise_level
from ppmat.stem.columns.seeds import Seeds
from ppmat.stem.columns.seeds import enhanced_seeds
from ppmat.stem.columns.seeds import lost_share
from ppmat.stem.columns.seeds import raw_seeds
from ppmat.stem.columns.standard_errors import FittedColumns
from ppmat.stem.columns.standard_errors import line_jitter
from ppmat.stem.images.background import slow_variation
from ppmat.stem.noise.noise_model import MODES
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice

_POLARITY = {"haadf": "bright", "bf": "dark"}  # of the columns, by mode
POLARITIES = ("bright", "dark")
SEEDS = ("enhanced", "map")
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
# that is needed in this round. A column that is missing makes its neighbours uncertain,
# so all are searched before the strict rounds.
_LENIENT = (0.6, 0.6)
_STRICT = (0.8, 1.0, 1.0)
_WIDTH_SETTLED = 0.03  # relative change of the common width
_LEAST_SURE = 25  # percentile of crowded columns, up to which they are removed
_SEARCHES = 2  # of the residual; columns that are missing hide weak ones beside them
_MIN_RESIDUAL_SNR = 3.5  # of columns found in the residual, which is mostly noise
_MIN_RESIDUAL_HEIGHT = 0.1  # of these, in median heights of the other columns
_MIN_RESIDUAL_DISTANCE = 0.75  # of these to other columns, in separations


@dataclass
class ScaledImage:
    """An image with bright columns, median 0 and standard deviation near 1."""

    values: np.ndarray  # 0 at missing pixels [H, W]
    valid: np.ndarray  # False at missing pixels [H, W]
    offset: float  # median of the image, image units
    scale: float  # image units of one unit of ``values``


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Options of :func:`ppmat.stem.columns.detection.detect_columns`."""

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


@dataclass
class Selection:
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
class ColumnSearch:
    """The search for columns in one image, with the widths known so far."""

    raw: ScaledImage  # for the fit; hot pixels are missing
    searched: ScaledImage  # for seeds; hot pixels are replaced
    seed_image: ScaledImage | None  # an enhanced image or a map
    options: DetectionOptions

    def __post_init__(self) -> None:
        self.area = float(self.raw.valid.sum())
        self.notes: list[str] = []  # warnings
        self.slow = np.zeros(self.raw.values.shape)  # taken out of ``raw``

    def run(self) -> Selection:
        """Return the columns.

        Raises:
            NoColumnsError: There are none. The message says why.
        """
        self.filtered = is_filtered(self.searched.values, self.searched.valid)
        if self.filtered:
            self.notes.append(
                "the noise is smooth from pixel to pixel: the image was filtered or "
                "resampled already, so standard errors are too small and scores too "
                "high. Use the image of the microscope"
            )
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
        fit = self.start_fit(seeds.positions)
        best = self.select(fit, seeds.contrast, _LENIENT)
        if best is None:
            raise NoColumnsError(
                f"none of {len(seeds.positions)} peaks of the image is surely above "
                "its noise"
            )
        for _ in range(_SEARCHES):
            uneven = self.remove_slow(best.fit.residual)
            missed = self.find_missed(best)
            if not uneven and not len(missed):
                break
            fit, contrast = self.refit(best, missed)
            best = self.select(fit, contrast, _LENIENT) or best
        fit, contrast = self.refit(best, np.empty((0, 2)))
        best = self.select(fit, contrast, _STRICT) or best
        # These images are not needed any more.
        best.fit.residual = best.fit.noise = np.empty(0)
        return best

    def refit(
        self, found: Selection, missed: np.ndarray
    ) -> tuple[ColumnFit, np.ndarray]:
        """Return a fit that starts from found and missed columns, and the contrast."""
        fit = self.start_fit(np.concatenate([found.fit.values[:, :2], missed]))
        fit.resume(found.fit.values, found.background)
        return fit, np.concatenate([found.contrast, np.zeros(len(missed))])

    def find_seeds(self) -> Seeds:
        """Return seeds of the enhanced image, if it has those of the raw image."""
        searched = self.searched.values, self.searched.valid
        raw = raw_seeds(*searched, self.sigma, self.apart)
        if self.seed_image is None:
            return raw
        image = self.seed_image.values, self.seed_image.valid
        seeds = enhanced_seeds(*image, self.seed_width, self.apart)
        lost = lost_share(raw, seeds, self.apart)
        # In a filtered image noise looks like clear peaks.
        if lost <= _MAX_LOST or self.filtered:
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
        crowded = ~np.isfinite(found.errors).all(axis=1) & ~found.frozen
        if not quick and crowded.any():
            # One of them is not determined by the image, and takes the errors of the
            # others along. They are judged alone, and the least sure ones are removed.
            found.covariance[crowded] = fit.result(quick=True).covariance[crowded]
        correlation = noise_correlation(found, self.raw.valid, self.sigma)
        found.variance *= correlation
        jitter = line_jitter(self.raw.values, found.residual, self.raw.valid)
        found.add_line_jitter(jitter)
        snr = found.values[:, HEIGHT] / found.errors[:, HEIGHT]
        snr = np.maximum(np.nan_to_num(snr), 0.0)
        if not quick and crowded.any():
            least = np.percentile(snr[crowded], _LEAST_SURE)
            snr[crowded & (snr <= least)] = 0.0
        return found, snr, correlation

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

    def select(
        self, fit: ColumnFit, contrast: np.ndarray, rounds: tuple[float, ...]
    ) -> Selection | None:
        """Fit and remove uncertain columns, in rounds; None if no column is left.

        False columns make their neighbours uncertain, so the worst are removed first.
        The common width follows the sure columns.
        """
        for number, share in enumerate(rounds, start=1):
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
            keep &= ~merged_columns(found, snr, sigma) & ~on_ring(found, sigma)
            if not keep.any():
                return None
            width = self.options.sigma or common_width(found, snr, score, sigma)
            if share == 1 and keep.all() and abs(width / sigma - 1) < _WIDTH_SETTLED:
                break
            self.sigma = width
            found, snr, score = found.select(keep), snr[keep], score[keep]
            contrast = contrast[keep]
            if number < len(rounds):
                fit.recentre(width)
                fit.keep(keep)
                fit.release()
        columns = found, fit.background, snr, score, contrast
        lengths = {"sigma": self.sigma, "separation": self.apart}
        return Selection(*columns, **lengths, correlation=correlation)

    def find_missed(self, found: Selection) -> np.ndarray:
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
