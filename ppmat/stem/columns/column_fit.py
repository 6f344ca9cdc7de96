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


"""Round Gaussians fitted to all columns of an image at once, over a smooth background.

    model(p) = background(p) + sum over columns  height * exp(-|p - c|^2 / 2 sigma^2)

All pixels and all columns are one least-squares problem, so overlapping neighbours do
not pull at each other. A Gaussian is a product of two profiles, so the normal equations
are made of sums along one axis and are never formed pixel by pixel: the cost grows with
the number of columns. Steps take only the columns that still move and their neighbours;
a step of all of them has the last word. Widths that the data leave open are held near
the common one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.spatial import cKDTree

from ppmat.stem.columns.column_background import Background
from ppmat.stem.columns.column_equations import DAMPING
from ppmat.stem.columns.column_equations import HEIGHT
from ppmat.stem.columns.column_equations import TERMS
from ppmat.stem.columns.column_equations import WIDTH
from ppmat.stem.columns.column_equations import Equations
from ppmat.stem.columns.column_equations import Frames
from ppmat.stem.columns.column_equations import X
from ppmat.stem.columns.column_equations import Y
from ppmat.stem.columns.column_errors import FittedColumns
from ppmat.stem.columns.column_errors import Marginals
from ppmat.stem.columns.column_errors import noise_image

WIDTH_SPREAD = 0.2  # prior standard deviation of log(sigma / common sigma)
WIDTH_LIMIT = 0.6  # largest |log(sigma / common sigma)|
REACH = 3.5  # half of a column's window, in units of sigma
_PAIR_REACH = 6.0  # farther apart, in units of sigma, columns do not see each other
_NODE_SPACING = 3.0  # of the background, in separations
_LARGEST_STEP = np.array([0.4, 0.4, np.inf, 0.25])  # sigma, sigma, -, log
_CALM = 0.3  # of the tolerance: below it a column and its neighbours can wait
_MOST_BUSY = 0.7  # part of the columns; if there are more, all of them go
_MOST_CARE = 1e4  # times the common damping
_SAME_WIDTH = 2e-3  # of the common width: what changes it less does not count
_OF_COLUMNS = (
    "starts",
    "values",
    "frozen",
    "_ids",
    "_moving",
    "_waiting",
    "_height_error",
)


@dataclass
class _View:
    """Some columns as they are, and what the residual says about them."""

    frames: Frames
    gradient: np.ndarray  # [m, 4], without the prior
    local: np.ndarray  # mean square of the residual over the window [m]


class ColumnFit:
    """The least-squares problem of an image and its columns.

    Args:
        image: [H, W], any finite number where pixels are missing.
        valid: False where pixels are missing [H, W].
        starts: Positions ``(y, x)``, pixels [n, 2].
        sigma: Common width, pixels.
        separation: Typical distance of neighbours, pixels; the background can bend over
            a few of these.
        width_spread: See :data:`WIDTH_SPREAD`.
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
        self.shape = image.shape
        self.starts = starts
        self.image, self.valid = image, valid
        self.sigma = sigma
        self.separation = separation
        self._center = np.log(sigma)
        self.width_spread = width_spread
        self.limit = 1.5 * sigma
        self.half = int(np.ceil(REACH * sigma))
        n, pad = len(starts), 2 * self.half
        self._padded = np.zeros([size + 2 * pad for size in self.shape])
        self.residual = self._padded[pad:-pad, pad:-pad]
        self._holes = np.nonzero(~valid)
        self._whole = np.pad(valid, pad) if len(self._holes[0]) else None
        self.values = np.zeros((n, 4))
        self.values[:, :2], self.values[:, WIDTH] = starts, np.log(sigma)
        self.frozen = np.zeros(n, dtype=bool)
        self._moving = np.zeros(n, dtype=bool)
        self._waiting = np.ones(n, dtype=bool)  # to be fitted
        self._height_error = np.full(n, np.inf)
        self._fresh = True
        self._start_heights()
        self._ids = np.arange(n)
        self._marginals = Marginals(
            self.background, separation, sigma, _PAIR_REACH * sigma
        )

    def _start_heights(self) -> None:
        """Take a low percentile as background, and what stands above it as heights."""
        used = self.image[self.valid]
        level = float(np.percentile(used, 20))
        spacing = _NODE_SPACING * self.separation
        self.background = Background(self.shape, spacing, level)
        # Positive, so that the first step knows what a shift does.
        above = self.image[self._pixels()] - level
        self.values[:, HEIGHT] = np.maximum(above, 0.5 * np.std(used))

    # --- residual -----------------------------------------------------------------

    def _restart(self) -> None:
        """Compute the residual anew, without what rounding errors left in it."""
        self.residual[:] = self.image
        self.background.take_from(self.residual)
        self._render(self._frames(np.arange(len(self.values))), -1)
        self.residual[self._holes] = 0.0

    def _frames(self, which: np.ndarray) -> Frames:
        return Frames.of(which, self.values[which], self.half, self.shape)

    def _render(self, frames: Frames, sign: int) -> None:
        """Add columns to the residual, or take them from it."""
        for part in frames.chunks():
            self._add(frames.corners[:, part], sign * frames.spots(part))

    def _add(self, corners: np.ndarray, spots: np.ndarray) -> None:
        size = 2 * self.half + 1
        # Profiles are 0 outside the image, so the rim stays 0.
        for (top, left), spot in zip((corners.T + 2 * self.half).tolist(), spots):
            self._padded[top : top + size, left : left + size] += spot

    def _view(self, frames: Frames) -> _View:
        """Look at the residual around columns."""
        gradient, local = np.empty((len(frames.which), 4)), np.empty(len(frames.which))
        fy, fx = frames.profiles
        for part, window in self._windows(self._padded, frames):
            sums = fy[part] @ window @ fx[part].transpose(0, 2, 1)
            for k, terms in TERMS.items():
                gradient[part, k] = sum(sums[:, a, b] for a, b in terms)
            local[part] = np.einsum("nij,nij->n", window, window)
        gradient *= frames.scales
        return _View(frames, gradient, local / self._pixels_in(frames))

    def _windows(self, padded: np.ndarray, frames: Frames):
        """Yield slices of the columns, and a padded image around each [m, w, w]."""
        windows = sliding_window_view(padded, (2 * self.half + 1,) * 2)
        top, left = frames.corners + 2 * self.half
        for part in frames.chunks():
            yield part, windows[top[part], left[part]]

    def _pixels_in(self, frames: Frames) -> np.ndarray:
        """Return the number of pixels in each column's window, at least 1 [n]."""
        if self._whole is None:
            number = np.ones(len(frames.which))
            for start, size in zip(frames.corners, self.shape):
                end = np.minimum(start + 2 * self.half + 1, size)
                number *= np.maximum(end - np.maximum(start, 0), 0)
        else:
            windows = self._windows(self._whole, frames)
            number = np.concatenate([w.sum(axis=(1, 2)) for _, w in windows])
        return np.maximum(number, 1.0)

    def _pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return row and column of the pixel that each column is on."""
        y, x = (
            np.clip(np.rint(self.values[:, k]).astype(int), 0, size - 1)
            for k, size in zip((Y, X), self.shape)
        )
        return y, x

    @property
    def _unused(self) -> float:
        """Ratio of the number of pixels to that of pixels less parameters."""
        used = 4 * len(self.values) + self.background.nodes.size
        number = self.valid.size - len(self._holes[0])
        return number / max(number - used, 0.2 * number)

    # --- equations ----------------------------------------------------------------

    def _find_pairs(self) -> None:
        """Find columns that overlap."""
        tree, reach = cKDTree(self.values[:, :2]), _PAIR_REACH * self.sigma
        self._pairs = tree.query_pairs(reach, output_type="ndarray").T

    def _equations(self, view: _View) -> Equations:
        """Return the equations for a step of the columns in view."""
        frames, noise = view.frames, view.local * self._unused
        everyone = len(frames.which) == len(self.values)
        if everyone:
            i, j = self._pairs
        else:
            place = np.full(len(self.values), -1)
            place[frames.which] = np.arange(len(frames.which))
            i, j = place[self._pairs]
            i, j = np.stack([i, j])[:, (i >= 0) & (j >= 0)]
        gradient = view.gradient.copy()
        off = self._center - frames.values[:, WIDTH]
        gradient[:, WIDTH] += noise * off / self.width_spread**2
        mixed, nodes = frames.with_background(self.background)
        free = np.full(self.background.nodes.shape, everyone)
        free[tuple(nodes[:, np.abs(mixed).max(axis=1) > 0])] = True
        return Equations(
            self._own(view),
            (i, j),
            frames.products(i, j),
            mixed,
            nodes,
            free,
            gradient,
            self.background.project(self.residual, free),
        )

    def _own(self, view: _View) -> np.ndarray:
        """Return the products of each column's derivatives, with the prior."""
        own = view.frames.own()
        own[:, WIDTH, WIDTH] += view.local * self._unused / self.width_spread**2
        return own

    # --- iteration ----------------------------------------------------------------

    def iterate(self, steps: int, tolerance: float = 0.05) -> bool:
        """Do Gauss-Newton steps.

        Args:
            steps: At most.
            tolerance: Largest last step, in standard errors.

        Returns:
            Whether all columns settled.
        """
        n = len(self.values)
        self._find_pairs()
        if self._fresh:
            self._restart()
            view = self._view(self._frames(np.arange(n)))
            step, nodes = self._step(
                self._equations(view), view, np.zeros(n), only_heights=True
            )
            self._move(view, step, nodes)
            self._fresh = False
        busy = self._around(np.nonzero(self._waiting)[0])
        self._waiting[:], self._moving[:] = False, False
        self._moving[busy] = True
        if not len(busy):
            return True
        view = self._view(self._frames(busy))
        # Levenberg-Marquardt, and more careful with columns that got worse.
        damping, care = 1e-2, np.ones(n)
        equations = self._equations(view)
        drift = np.zeros(n)  # of the background, since a column was fitted
        for _ in range(steps):
            which = view.frames.which
            step, nodes = self._step(equations, view, damping * care[which])
            noise = view.local * self._unused
            before = self._costs(view, noise)
            after, moved = self._move(view, step, nodes)
            cost = self._costs(after, noise)
            worse = cost[1] > before[1]
            if cost[0] > before[0]:
                self._replace(after.frames, view.frames.values, -nodes)
                damping *= 8
                care[which[worse]] = np.minimum(4 * care[which[worse]], _MOST_CARE)
                if damping > 1e6:
                    break
                continue
            damping = max(damping / 5, DAMPING)
            care[which] = np.where(
                worse,
                np.minimum(4 * care[which], _MOST_CARE),
                np.maximum(care[which] / 2, 1),
            )
            view = self._hold_back(after)
            spread = self._spread(equations, view)
            relative = np.abs(moved) / spread
            relative[self.frozen[which]] *= np.arange(4) == HEIGHT
            far = relative[:, [Y, X, WIDTH]].max(axis=1) >= tolerance
            self._moving[which] = far & ~self.frozen[which]
            self._height_error[which] = spread[:, HEIGHT]
            drift += self.background.at(*self._pixels(), nodes)
            drift[which] = 0.0
            restless = np.abs(drift) >= _CALM * tolerance * self._height_error / 2
            restless[which] |= relative.max(axis=1) >= _CALM * tolerance
            busy = self._around(np.nonzero(restless)[0])
            if not len(busy):
                break
            if len(busy) != len(which) or (busy != which).any():
                view = self._view(self._frames(busy))
            equations = self._equations(view)
        self._waiting |= self._moving
        return not self._moving.any()

    def _around(self, which: np.ndarray) -> np.ndarray:
        """Return columns with their neighbours, or all if these are most of them."""
        marked = np.zeros(len(self.values), dtype=bool)
        marked[which] = True
        i, j = self._pairs
        touched = marked.copy()
        touched[j[marked[i]]] = touched[i[marked[j]]] = True
        if touched.sum() > _MOST_BUSY * len(touched):
            touched[:] = True
        return np.nonzero(touched)[0]

    def _costs(self, view: _View, noise: np.ndarray) -> tuple[float, np.ndarray]:
        """Return what is minimised, and the part of it around each column [m]."""
        off = (view.frames.values[:, WIDTH] - self._center) / self.width_spread
        prior = off**2 * noise
        total = float(np.vdot(self._padded, self._padded) + np.sum(prior))
        return total, view.local * (2 * self.half + 1) ** 2 + prior

    def _step(
        self,
        equations: Equations,
        view: _View,
        damping: np.ndarray,
        only_heights: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        free = np.ones((len(damping), 4))
        # Heights first: what a shift does follows from them.
        free[self.frozen[view.frames.which] | only_heights] = np.arange(4) == HEIGHT
        return equations.solve(self.background, free, damping)

    def _move(
        self, view: _View, step: np.ndarray, nodes: np.ndarray
    ) -> tuple[_View, np.ndarray]:
        """Take a step; returns the new view, and how far parameters went [m, 4]."""
        before = view.frames
        largest = _LARGEST_STEP * [self.sigma, self.sigma, 1, 1]
        moved = np.clip(step, -largest, largest)
        values = before.values + moved
        limits = self._center - WIDTH_LIMIT, self._center + WIDTH_LIMIT
        values[:, WIDTH] = np.clip(values[:, WIDTH], *limits)
        after = self._replace(before, values, nodes)
        return self._view(after), moved

    def _replace(
        self, before: Frames, values: np.ndarray, nodes: np.ndarray | None = None
    ) -> Frames:
        """Give columns other values, and nodes a step; returns the new frames."""
        self.values[before.which] = values
        after = self._frames(before.which)
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
        self.residual[self._holes] = 0.0
        return after

    def _hold_back(self, view: _View) -> _View:
        """Put columns that ran away back to where they started."""
        which = view.frames.which
        shift = np.hypot(*(self.values[which, :2] - self.starts[which]).T)
        away = (shift > self.limit) & ~self.frozen[which]
        if not away.any():
            return view
        self._freeze(which[away])
        return self._view(self._frames(which))

    def _freeze(self, which: np.ndarray) -> None:
        self.frozen[which] = True
        values = self.values[which]
        values[:, :2], values[:, WIDTH] = self.starts[which], np.log(self.sigma)
        self._replace(self._frames(which), values)

    def _spread(self, equations: Equations, view: _View) -> np.ndarray:
        """Return rough standard errors [m, 4], neighbours and background known."""
        own = np.diagonal(equations.own, axis1=1, axis2=2)
        noise = view.local * self._unused
        spread = np.sqrt(noise[:, None] / np.maximum(own, 1e-300))
        return np.maximum(spread, 1e-6 * self.sigma)

    def keep(self, which: np.ndarray) -> None:
        """Go on with some of the columns, given by a mask."""
        if which.all():
            return
        gone = np.nonzero(~which)[0]
        self._render(self._frames(gone), 1)
        self.residual[self._holes] = 0.0
        # Who shared pixels or a node of the background with them is fitted again.
        reach = max(_PAIR_REACH * self.sigma, *self.background.spacings)
        distance, _ = cKDTree(self.values[gone, :2]).query(self.values[:, :2])
        self._waiting |= distance <= reach
        for name in _OF_COLUMNS:
            setattr(self, name, getattr(self, name)[which])

    def recentre(self, sigma: float) -> None:
        """Take another common width; the columns stay what they are."""
        if abs(np.log(sigma) - self._center) > _SAME_WIDTH:
            self._waiting[:] = True
        self.sigma, self._center = sigma, np.log(sigma)

    def resume(self, values: np.ndarray, background: Background) -> None:
        """Begin with what an earlier fit found.

        Args:
            values: y, x, height, log(sigma) of the first columns [m, 4]; the others
                begin with what these leave.
            background: Of the earlier fit.
        """
        first = np.arange(len(values))
        self.values[first] = values
        self.background.nodes = background.at(*self.background.grid())
        self.residual[:] = self.image
        self.background.take_from(self.residual)
        self._render(self._frames(first), -1)
        self.residual[self._holes] = 0.0
        others = np.arange(len(values), len(self.values))
        above = self.residual[self._pixels()][others]
        self.values[others, HEIGHT] = np.maximum(above, 0.5 * np.std(self.residual))
        self._render(self._frames(others), -1)
        self.residual[self._holes] = 0.0
        self._fresh = False

    def freeze_moving(self) -> None:
        """Put columns that never settled back to where they started."""
        self._freeze(np.nonzero(self._moving & ~self.frozen)[0])
        self._waiting |= self._moving

    # --- result -------------------------------------------------------------------

    def result(self, quick: bool = False) -> FittedColumns:
        """Return the columns with errors.

        Args:
            quick: As if neighbours and background were known: errors too small.
        """
        self._find_pairs()
        view = self._view(self._frames(np.arange(len(self.values))))
        frames, mean = view.frames, view.local * self._unused
        noise = noise_image(self.image, self.residual, self.valid)
        if quick:
            own = self._own(view)
            covariance = np.linalg.inv(own + 1e-12 * own.max() * np.eye(4))
        else:
            covariance = self._marginals.blocks(
                self._ids,
                self.values,
                lambda which: self._equations(self._view(self._frames(which))),
            )
        i, j = self._pairs
        overlap = np.zeros(len(self.values))
        square = np.sum((self.values[i, :2] - self.values[j, :2]) ** 2, axis=1)
        share = np.exp(-square / (4 * self.sigma**2))
        np.maximum.at(overlap, i, share)
        np.maximum.at(overlap, j, share)
        return FittedColumns(
            self.values.copy(),
            covariance,
            self._seen(frames, noise) * mean[:, None],
            self.background.at(*self._pixels()),
            self.frozen.copy(),
            self.residual,
            noise,
            overlap,
        )

    def _seen(self, frames: Frames, noise: np.ndarray) -> np.ndarray:
        """Return the mean of the noise under each column's squared derivatives, over
        its mean in the window [n, 4]."""
        padded = np.zeros(self._padded.shape)
        pad = 2 * self.half
        padded[pad:-pad, pad:-pad] = np.where(self.valid, noise, 0.0)
        seen, mean = np.empty((len(frames.which), 4)), np.empty(len(frames.which))
        for part, window in self._windows(padded, frames):
            seen[part] = frames.squares(part, window)
            mean[part] = window.sum(axis=(1, 2))
        if self._whole is None:
            of_ones = frames.squares()
        else:
            windows = self._windows(self._whole, frames)
            of_ones = np.concatenate([frames.squares(p, w) for p, w in windows])
        mean /= self._pixels_in(frames)
        seen /= np.maximum(of_ones, 1e-300)
        return seen / np.maximum(mean, 1e-300)[:, None]
