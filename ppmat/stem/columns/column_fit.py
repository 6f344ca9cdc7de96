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

"""Fit of round Gaussians to all columns of an image together, over a background.

    model(p) = background(p) + sum over columns  height * exp(-|p - c|^2 / 2 sigma^2)

All pixels and all columns are one least-squares problem, so overlapping neighbours do
not distort each other. A Gaussian is a product of two profiles. The normal equations
are therefore sums along one axis, and the cost grows with the number of columns, not
with their pixels. Steps take the columns that still move and their neighbours. Widths
that the data do not determine are held near the common width by a prior.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.spatial import cKDTree

from ppmat.stem.columns.normal_equations import DAMPING
from ppmat.stem.columns.normal_equations import HEIGHT
from ppmat.stem.columns.normal_equations import TERMS
from ppmat.stem.columns.normal_equations import WIDTH
from ppmat.stem.columns.normal_equations import Background
from ppmat.stem.columns.normal_equations import ColumnWindows
from ppmat.stem.columns.normal_equations import NormalEquations
from ppmat.stem.columns.standard_errors import FittedColumns
from ppmat.stem.columns.standard_errors import MarginalCovariances
from ppmat.stem.columns.standard_errors import noise_variance

WIDTH_SPREAD = 0.2  # prior standard deviation of log(sigma / common sigma)
_MAX_WIDTH_CHANGE = 0.6  # largest |log(sigma / common sigma)|
_WINDOW_REACH = 3.5  # sigma; half of a column's window. A Gaussian is 0.002 there.
_PAIR_REACH = 6.0  # sigma; columns farther apart do not overlap
_NODE_SPACING = 3.0  # separations between nodes of the background
_MAX_SHIFT = 1.5  # sigma; a column that moves farther from its start is frozen there
_MAX_STEP = np.array([0.4, 0.4, np.inf, 0.25])  # of y, x [sigma], height, log(sigma)
# A column waits once its step, and those of its neighbours, are below this fraction of
# the tolerance.
_WAIT_FRACTION = 0.3
_MAX_MOVING_SHARE = 0.7  # if a step needs more of the columns, it takes all of them
_MAX_CAUTION = 1e4  # largest damping of one column, times the common damping
_UNSETTLED = (
    0.3  # standard errors; a larger last step means that a column is not fitted
)
_SAME_WIDTH = 2e-3  # |log| change of the common width that needs no new fit
# Attributes of a fit with one value for each column.
_PER_COLUMN = "starts values frozen _ids _moving _waiting _height_error".split()
_PER_COLUMN += ["_last_step"]


@dataclass
class _View:
    """Some columns, and sums over the residual in their windows."""

    windows: ColumnWindows
    gradient: np.ndarray  # right-hand side of the equations, without prior [m, 4]
    local: np.ndarray  # mean squared residual in each window [m]


class ColumnFit:
    """The least-squares problem of an image and its columns.

    Args:
        image: [H, W], any finite number at missing pixels.
        valid: False at missing pixels [H, W].
        starts: Positions ``(y, x)``, pixels [n, 2].
        sigma: Common width, pixels.
        separation: Typical distance of neighbours, pixels; sets the nodes' spacing.
        width_spread: Prior standard deviation of log(sigma / common sigma).

    Attributes:
        values: y, x, height, log(sigma) [n, 4].
        frozen: The position went too far or did not settle, and is the start [n].
        residual: Image minus model, 0 at missing pixels [H, W].
    """

    def __init__(
        self,
        image: np.ndarray,
        valid: np.ndarray,
        starts: np.ndarray,
        sigma: float,
        separation: float,
        width_spread: float = WIDTH_SPREAD,
    ) -> None:
        self.image, self.valid, self.shape = image, valid, image.shape
        self.starts, self.limit = starts, _MAX_SHIFT * sigma
        self.sigma, self._center, self.width_spread = sigma, np.log(sigma), width_spread
        self.half = int(np.ceil(_WINDOW_REACH * sigma))
        n, pad = len(starts), 2 * self.half
        self._padded = np.pad(np.zeros(self.shape), pad)
        self.residual = self._padded[pad:-pad, pad:-pad]
        self._missing = np.nonzero(~valid)
        self._padded_valid = np.pad(valid, pad) if len(self._missing[0]) else None
        self.frozen, self._moving = np.zeros((2, n), dtype=bool)
        self._waiting = np.ones(n, dtype=bool)  # to be fitted by the next iterate()
        self._height_error = np.full(n, np.inf)
        self._last_step = np.zeros(n)  # in standard errors
        self._fresh = True
        self._ids = np.arange(n)
        # The background starts at a low percentile, heights at the rest. Heights are
        # positive, so that the first step can use the derivatives by position.
        used = image[valid]
        level = float(np.percentile(used, 20))
        self.background = Background(self.shape, _NODE_SPACING * separation, level)
        self.values = np.zeros((n, 4))
        self.values[:, :2], self.values[:, WIDTH] = starts, np.log(sigma)
        above = image[self._pixels()] - level
        self.values[:, HEIGHT] = np.maximum(above, 0.5 * np.std(used))
        self._covariances = MarginalCovariances(self.background, separation, sigma)

    # --- residual -----------------------------------------------------------------

    def _restart(self, first: int | None = None) -> None:
        """Compute the residual of the first columns, or of all, from the image."""
        self.residual[:] = self.image
        self.background.subtract_from(self.residual)
        self._render(self._windows_of(np.arange(len(self.values))[:first]), -1)

    def _windows_of(self, which: np.ndarray) -> ColumnWindows:
        return ColumnWindows(which, self.values[which], self.half, self.shape)

    def _render(self, windows: ColumnWindows, sign: int) -> None:
        """Add columns to the residual (1), or subtract them (-1)."""
        for part in windows.chunks():
            self._add(windows.corners[:, part], sign * windows.spots(part))
        self.residual[self._missing] = 0.0

    def _add(self, corners: np.ndarray, spots: np.ndarray) -> None:
        size = 2 * self.half + 1
        # Profiles are 0 outside the image, so the padding stays 0.
        for (top, left), spot in zip((corners.T + 2 * self.half).tolist(), spots):
            self._padded[top : top + size, left : left + size] += spot

    def _view(self, windows: ColumnWindows) -> _View:
        """Sum the residual in the windows of columns."""
        m = len(windows.which)
        gradient, local = np.empty((m, 4)), np.empty(m)
        fy, fx = windows.profiles
        for part, pixels in self._cut(self._padded, windows):
            sums = fy[part] @ pixels @ fx[part].transpose(0, 2, 1)
            for k, terms in TERMS.items():
                gradient[part, k] = sum(sums[:, a, b] for a, b in terms)
            local[part] = np.einsum("nij,nij->n", pixels, pixels)
        gradient *= windows.scales
        return _View(windows, gradient, local / self._pixels_in(windows))

    def _cut(
        self, padded: np.ndarray, windows: ColumnWindows
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield slices of columns, and a padded image in their windows [m, w, w]."""
        views = sliding_window_view(padded, (2 * self.half + 1,) * 2)
        top, left = windows.corners + 2 * self.half
        for part in windows.chunks():
            yield part, views[top[part], left[part]]

    def _pixels_in(self, windows: ColumnWindows) -> np.ndarray:
        """Return the number of valid pixels in each window, at least 1 [m]."""
        if self._padded_valid is None:
            number = np.ones(len(windows.which))
            for start, size in zip(windows.corners, self.shape):
                end = np.minimum(start + 2 * self.half + 1, size)
                number *= np.maximum(end - np.maximum(start, 0), 0)
        else:
            cut = self._cut(self._padded_valid, windows)
            number = np.concatenate([valid.sum(axis=(1, 2)) for _, valid in cut])
        return np.maximum(number, 1.0)

    def _pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column of the pixel under each column's centre, each [n]."""
        pixels = np.rint(self.values[:, :2]).astype(int)
        return tuple(np.clip(pixels, 0, np.array(self.shape) - 1).T)

    def _noise(self, view: _View) -> np.ndarray:
        """Return the variance of the noise in each window [m].

        This is the mean squared residual, times pixels over degrees of freedom.
        """
        used = 4 * len(self.values) + self.background.nodes.size
        number = self.valid.size - len(self._missing[0])
        return view.local * (number / max(number - used, 0.2 * number))

    # --- equations ----------------------------------------------------------------

    def _find_pairs(self) -> None:
        """Find columns that overlap."""
        tree, reach = cKDTree(self.values[:, :2]), _PAIR_REACH * self.sigma
        self._pairs = tree.query_pairs(reach, output_type="ndarray").T

    def _equations(self, view: _View) -> NormalEquations:
        """Return the equations for a step of the columns in view."""
        windows = view.windows
        place = np.full(len(self.values), -1)
        place[windows.which] = np.arange(len(windows.which))
        pairs = place[self._pairs]
        i, j = pairs[:, (pairs >= 0).all(axis=0)]
        gradient = view.gradient.copy()
        off = self._center - windows.values[:, WIDTH]
        gradient[:, WIDTH] += self._noise(view) * off / self.width_spread**2
        mixed, nodes = windows.background_products(self.background)
        free = np.full(self.background.nodes.shape, (place >= 0).all())
        free[tuple(nodes[:, np.abs(mixed).max(axis=1) > 0])] = True
        return NormalEquations(
            own=self._own_products(view),
            pairs=(i, j),
            pair_products=windows.pair_products(i, j),
            mixed=mixed,
            mixed_nodes=nodes,
            free_nodes=free,
            gradient=gradient,
            node_gradient=self.background.project(self.residual, free),
        )

    def _own_products(self, view: _View) -> np.ndarray:
        """Return products of each column's derivatives, with the prior [m, 4, 4]."""
        own = view.windows.own_products()
        own[:, WIDTH, WIDTH] += self._noise(view) / self.width_spread**2
        return own

    # --- iteration ----------------------------------------------------------------

    def iterate(self, steps: int, tolerance: float = 0.05) -> bool:
        """Do damped Gauss-Newton steps; return whether all columns settled.

        A column has settled if its last step is below ``tolerance``, in standard
        errors. The damping is that of Levenberg and Marquardt.
        """
        n = len(self.values)
        self._find_pairs()
        if self._fresh:
            self._restart()
            view = self._view(self._windows_of(np.arange(n)))
            equations = self._equations(view)
            self._move(view, *self._step(equations, view, np.zeros(n), True))
            self._fresh = False
        busy = self._with_neighbours(np.nonzero(self._waiting)[0])
        self._waiting[:], self._moving[:] = False, False
        self._moving[busy] = True
        if not len(busy):
            return True
        view = self._view(self._windows_of(busy))
        damping, caution = 1e-2, np.ones(n)  # of all, and factors of single columns
        equations = self._equations(view)
        drift = np.zeros(n)  # of the background, since the column was last fitted
        for _ in range(steps):
            which = view.windows.which
            step, nodes = self._step(equations, view, damping * caution[which])
            noise = self._noise(view)
            before = self._costs(view, noise)
            after, moved = self._move(view, step, nodes)
            cost = self._costs(after, noise)
            worse = cost[1] > before[1]
            more_caution = np.minimum(4 * caution[which], _MAX_CAUTION)
            if cost[0] > before[0]:
                self._replace(after.windows, view.windows.values, -nodes)
                damping *= 8
                caution[which[worse]] = more_caution[worse]
                if damping > 1e6:
                    break
                continue
            damping = max(damping / 5, DAMPING)
            less_caution = np.maximum(caution[which] / 2, 1)
            caution[which] = np.where(worse, more_caution, less_caution)
            view = self._freeze_runaways(after)
            spread = self._rough_errors(equations, view)
            relative = np.abs(moved) / spread
            relative[self.frozen[which]] *= np.arange(4) == HEIGHT
            self._last_step[which] = np.delete(relative, HEIGHT, axis=1).max(axis=1)
            far = self._last_step[which] >= tolerance
            self._moving[which] = far & ~self.frozen[which]
            self._height_error[which] = spread[:, HEIGHT]
            drift += self.background.at(*self._pixels(), nodes)
            drift[which] = 0.0
            calm = _WAIT_FRACTION * tolerance
            restless = np.abs(drift) >= calm * self._height_error / 2
            restless[which] |= relative.max(axis=1) >= calm
            busy = self._with_neighbours(np.nonzero(restless)[0])
            if not len(busy):
                break
            if len(busy) != len(which) or (busy != which).any():
                view = self._view(self._windows_of(busy))
            equations = self._equations(view)
        self._waiting |= self._moving
        return not self._moving.any()

    def _with_neighbours(self, which: np.ndarray) -> np.ndarray:
        """Return columns with their neighbours; all columns if these are most."""
        marked = np.zeros(len(self.values), dtype=bool)
        marked[which] = True
        i, j = self._pairs
        touched = marked.copy()
        touched[j[marked[i]]] = touched[i[marked[j]]] = True
        touched |= touched.sum() > _MAX_MOVING_SHARE * len(touched)
        return np.nonzero(touched)[0]

    def _costs(self, view: _View, noise: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the sum of squares with the prior, and its part in each window [m]."""
        off = (view.windows.values[:, WIDTH] - self._center) / self.width_spread
        prior = off**2 * noise
        total = float(np.vdot(self._padded, self._padded) + np.sum(prior))
        return total, view.local * (2 * self.half + 1) ** 2 + prior

    def _step(
        self,
        equations: NormalEquations,
        view: _View,
        damping: np.ndarray,
        only_heights: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return steps of columns [m, 4] and nodes; frozen columns change in height."""
        free = np.ones((len(damping), 4))
        # Derivatives by position need a height, so the first step is one of heights.
        free[self.frozen[view.windows.which] | only_heights] = np.arange(4) == HEIGHT
        return equations.solve(self.background, free, damping)

    def _move(
        self, view: _View, step: np.ndarray, nodes: np.ndarray
    ) -> tuple[_View, np.ndarray]:
        """Take a step; return the new view, and the changes of parameters [m, 4]."""
        before = view.windows
        largest = _MAX_STEP * [self.sigma, self.sigma, 1, 1]
        moved = np.clip(step, -largest, largest)
        values = before.values + moved
        limits = self._center - _MAX_WIDTH_CHANGE, self._center + _MAX_WIDTH_CHANGE
        values[:, WIDTH] = np.clip(values[:, WIDTH], *limits)
        after = self._replace(before, values, nodes)
        return self._view(after), moved

    def _replace(
        self, before: ColumnWindows, values: np.ndarray, nodes: np.ndarray | None = None
    ) -> ColumnWindows:
        """Give columns other values, and nodes a step; return the new windows."""
        self.values[before.which] = values
        after = self._windows_of(before.which)
        for part in before.chunks():
            old, new = before.corners[:, part], after.corners[:, part]
            change, spots = before.spots(part), after.spots(part)
            change -= spots
            (other,) = np.nonzero((old != new).any(axis=0))
            spots = spots[other]
            change[other] += spots
            self._add(old, change)
            self._add(new[:, other], -spots)
        if nodes is not None:
            self.background.change(nodes, self.residual)
        self.residual[self._missing] = 0.0
        return after

    def _freeze_runaways(self, view: _View) -> _View:
        """Put columns that moved too far back to their starts."""
        which = view.windows.which
        shift = np.hypot(*(self.values[which, :2] - self.starts[which]).T)
        away = (shift > self.limit) & ~self.frozen[which]
        if not away.any():
            return view
        self._freeze(which[away])
        return self._view(self._windows_of(which))

    def _freeze(self, which: np.ndarray) -> None:
        self.frozen[which] = True
        values = self.values[which]
        values[:, :2], values[:, WIDTH] = self.starts[which], np.log(self.sigma)
        self._replace(self._windows_of(which), values)

    def freeze_moving(self) -> None:
        """Put columns that did not settle back to their starts."""
        far = self._moving & (self._last_step >= _UNSETTLED)
        self._freeze(np.nonzero(far & ~self.frozen)[0])
        self._waiting |= self._moving

    def release(self) -> None:
        """Let frozen columns move again: what disturbed them may be gone."""
        self._waiting |= self.frozen
        self.frozen[:] = False

    def _rough_errors(self, equations: NormalEquations, view: _View) -> np.ndarray:
        """Return standard errors [m, 4] as if neighbours and background were known."""
        own = np.diagonal(equations.own, axis1=1, axis2=2)
        spread = np.sqrt(self._noise(view)[:, None] / np.maximum(own, 1e-300))
        return np.maximum(spread, 1e-6 * self.sigma)

    # --- other columns ------------------------------------------------------------

    def keep(self, which: np.ndarray) -> None:
        """Continue with the columns of a mask."""
        if which.all():
            return
        gone = np.nonzero(~which)[0]
        self._render(self._windows_of(gone), 1)
        # Fit again the columns that shared pixels or a node with the removed ones.
        reach = max(_PAIR_REACH * self.sigma, *self.background.spacings)
        distance, _ = cKDTree(self.values[gone, :2]).query(self.values[:, :2])
        self._waiting |= distance <= reach
        for name in _PER_COLUMN:
            setattr(self, name, getattr(self, name)[which])

    def recentre(self, sigma: float) -> None:
        """Change the common width, pixels, but not the columns."""
        if abs(np.log(sigma) - self._center) > _SAME_WIDTH:
            self._waiting[:] = True
        self.sigma, self._center = sigma, np.log(sigma)

    def resume(self, values: np.ndarray, background: Background) -> None:
        """Start from the background and ``values`` [m, 4] of an earlier fit.

        ``values`` are those of the first columns. The others start with the height of
        the remaining residual.
        """
        first = len(values)
        self.values[:first] = values
        self.background.nodes = background.at(*self.background.grid())
        self._restart(first)
        above = self.residual[self._pixels()][first:]
        self.values[first:, HEIGHT] = np.maximum(above, 0.5 * np.std(self.residual))
        self._render(self._windows_of(np.arange(first, len(self.values))), -1)
        self._fresh = False

    # --- result -------------------------------------------------------------------

    def result(self, quick: bool = False) -> FittedColumns:
        """Return the columns with their covariances.

        ``quick`` takes neighbours and background as known, so errors are too small.
        """
        self._find_pairs()
        view = self._view(self._windows_of(np.arange(len(self.values))))
        noise = noise_variance(self.image, self.residual, self.valid)
        if quick:
            own = self._own_products(view)
            covariance = np.linalg.inv(own + 1e-12 * own.max() * np.eye(4))
        else:
            covariance = self._covariances.blocks(
                self._ids,
                self.values,
                lambda which: self._equations(self._view(self._windows_of(which))),
            )
        i, j = self._pairs
        overlap = np.zeros(len(self.values))
        square = np.sum((self.values[i, :2] - self.values[j, :2]) ** 2, axis=1)
        share = np.exp(-square / (4 * self.sigma**2))
        for k in (i, j):
            np.maximum.at(overlap, k, share)
        ratios = self._noise_ratios(view.windows, noise)
        return FittedColumns(
            values=self.values.copy(),
            covariance=covariance,
            variance=ratios * self._noise(view)[:, None],
            background=self.background.at(*self._pixels()),
            frozen=self.frozen.copy(),
            overlap=overlap,
            residual=self.residual,
            noise=noise,
        )

    def _noise_ratios(self, windows: ColumnWindows, noise: np.ndarray) -> np.ndarray:
        """Return the noise where each parameter is measured, over its mean [n, 4].

        That is the mean of ``noise`` weighted by squared derivatives, divided by its
        mean over the window.
        """
        padded = np.pad(np.where(self.valid, noise, 0.0), 2 * self.half)
        weighted, mean = np.empty((len(windows.which), 4)), np.empty(len(windows.which))
        for part, pixels in self._cut(padded, windows):
            weighted[part] = windows.squares(part, pixels)
            mean[part] = pixels.sum(axis=(1, 2))
        if self._padded_valid is None:
            of_ones = windows.squares()
        else:
            cut = self._cut(self._padded_valid, windows)
            of_ones = np.concatenate([windows.squares(p, v) for p, v in cut])
        mean /= self._pixels_in(windows)
        weighted /= np.maximum(of_ones, 1e-300)
        return weighted / np.maximum(mean, 1e-300)[:, None]
