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
the number of columns. Widths that the data leave open are held near the common one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import sparse
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from ppmat.datasets.stem.column_equations import BELL
from ppmat.datasets.stem.column_equations import DAMPING
from ppmat.datasets.stem.column_equations import HEIGHT
from ppmat.datasets.stem.column_equations import SLOPE
from ppmat.datasets.stem.column_equations import SPREAD
from ppmat.datasets.stem.column_equations import TERMS
from ppmat.datasets.stem.column_equations import WIDTH
from ppmat.datasets.stem.column_equations import X
from ppmat.datasets.stem.column_equations import Y
from ppmat.datasets.stem.column_equations import combine
from ppmat.datasets.stem.column_equations import hats
from ppmat.datasets.stem.column_equations import profiles
from ppmat.datasets.stem.column_equations import scales
from ppmat.datasets.stem.column_equations import solve

WIDTH_SPREAD = 0.2  # prior standard deviation of log(sigma / common sigma)
WIDTH_LIMIT = 0.6  # largest |log(sigma / common sigma)|
REACH = 3.5  # half of a column's window, in units of sigma
_PAIR_REACH = 6.0  # farther apart, in units of sigma, columns do not see each other
_CHUNK = 2048
_BINS = 24  # of grey values, for the strength of the noise
_NODE_SPACING = 3.0  # of the background, in separations
_LARGEST_STEP = np.array([0.4, 0.4, np.inf, 0.25])  # sigma, sigma, -, log
_TILE = 3.0  # side of the parts whose covariance is computed together, in separations


@dataclass
class FittedColumns:
    """Columns as fitted.

    Attributes:
        values: y, x, height, log(sigma) [n, 4].
        covariance: Of these four for noise of variance 1 [n, 4, 4].
        variance: Of the noise, as each of the four sees it [n, 4].
        background: Under each column [n].
        frozen: The position ran away or did not settle: it is the starting one [n].
        residual: Image - model, 0 where pixels are missing [H, W].
        noise: Variance of the noise of each pixel [H, W].
        overlap: Largest overlap with another column, exp(-d^2 / 4 sigma^2) [n].
    """

    values: np.ndarray
    covariance: np.ndarray
    variance: np.ndarray
    background: np.ndarray
    frozen: np.ndarray
    residual: np.ndarray
    noise: np.ndarray
    overlap: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of the four, for white noise [n, 4]; NaN where frozen.

        NaN too where columns crowd so that the problem does not tell them apart.
        """
        own = np.diagonal(self.covariance, axis1=1, axis2=2)
        errors = np.sqrt(np.where(own > 0, own * self.variance, np.nan))
        errors[self.frozen] = np.where(
            np.arange(4) == HEIGHT, errors[self.frozen], np.nan
        )
        return errors


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
        self.order = np.argsort(starts[:, 0], kind="stable")
        self.starts = starts[self.order]
        self.image = np.where(valid, image, 0.0)
        self.valid = valid
        self.sigma = sigma
        self.separation = separation
        self._center = np.log(sigma)
        self.width_spread = width_spread
        self.limit = 1.5 * sigma
        self.half = int(np.ceil(REACH * sigma))
        self._window_size = (2 * self.half + 1) ** 2
        self._share_valid = uniform_filter(
            valid.astype(np.float32), 2 * self.half + 1, mode="constant"
        )
        n = len(starts)
        self.values = np.concatenate(
            [self.starts, np.zeros((n, 1)), np.full((n, 1), np.log(sigma))], axis=1
        )
        self.frozen = np.zeros(n, dtype=bool)
        spacing = _NODE_SPACING * separation
        self.hats, self.spacings = zip(*(hats(size, spacing) for size in self.shape))
        self.nodes = np.zeros([hat.shape[0] for hat in self.hats])
        self._fresh = True
        self._moving = np.zeros(n, dtype=bool)
        self._start_heights()

    def _start_heights(self) -> None:
        """Take a low percentile as background, and what stands above it as heights."""
        level = np.percentile(self.image[self.valid], 20)
        self.nodes[:] = level
        y, x = (
            np.clip(np.rint(v).astype(int), 0, size - 1)
            for v, size in zip(self.starts.T, self.shape)
        )
        spread = np.std(self.image[self.valid])
        # Positive, so that the first step knows what a shift does.
        self.values[:, HEIGHT] = np.maximum(self.image[y, x] - level, 0.5 * spread)

    # --- model --------------------------------------------------------------------

    def background(self) -> np.ndarray:
        """Return the background [H, W]."""
        return np.asarray(self.hats[0].T @ self.nodes @ self.hats[1])

    def model(self) -> np.ndarray:
        """Return the model of the image [H, W]."""
        image = self.background()
        for part in self._chunks():
            fy, fx, top, left = self._profiles(part)
            spots = (self.values[part, HEIGHT, None] * fy[:, BELL])[:, :, None]
            spots = spots * fx[:, None, BELL]
            self._add(image, spots, top, left)
        return image

    def _add(
        self, image: np.ndarray, spots: np.ndarray, top: np.ndarray, left: np.ndarray
    ) -> None:
        height, width = self.shape
        steps = np.arange(2 * self.half + 1)
        # Profiles are 0 outside the image, so what is clipped adds nothing.
        rows = np.clip(top[:, None] + steps, 0, height - 1)
        columns = np.clip(left[:, None] + steps, 0, width - 1)
        first, last = int(rows.min()), int(rows.max()) + 1
        flat = ((rows - first) * width)[:, :, None] + columns[:, None]
        total = np.bincount(flat.ravel(), spots.ravel(), (last - first) * width)
        image[first:last] += total.reshape(last - first, width)

    def _chunks(self):
        for first in range(0, len(self.values), _CHUNK):
            yield slice(first, first + _CHUNK)

    def _profiles(self, part: slice):
        """Return the profiles [m, 3, w] along both axes, and the windows' corners."""
        values = self.values[part]
        corners = [np.rint(values[:, axis]).astype(int) - self.half for axis in (Y, X)]
        fy, fx = (
            profiles(values[:, axis], values[:, WIDTH], corners[axis], self.half, size)
            for axis, size in zip((Y, X), self.shape)
        )
        return fy, fx, corners[0], corners[1]

    def _windows(self, image: np.ndarray):
        """Yield parts of the columns, their profiles, and the image around each."""
        padded = np.pad(image, 2 * self.half)
        windows = sliding_window_view(padded, (2 * self.half + 1,) * 2)
        for part in self._chunks():
            fy, fx, top, left = self._profiles(part)
            yield part, fy, fx, windows[top + 2 * self.half, left + 2 * self.half]

    def _project(self, image: np.ndarray) -> np.ndarray:
        """Return the sums of an image with each column's derivatives [n, 4]."""
        out = np.empty((len(self.values), 4))
        for part, fy, fx, window in self._windows(image):
            sums = fy @ window @ fx.transpose(0, 2, 1)
            for k, terms in TERMS.items():
                out[part, k] = sum(sums[:, a, b] for a, b in terms)
        out[:, [Y, X, WIDTH]] *= self.values[:, HEIGHT, None]
        return out

    # --- normal equations ---------------------------------------------------------

    def _blocks(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the products of the derivatives of columns i with those of j."""
        out = np.empty((len(i), 4, 4))
        for first in range(0, len(i), 4 * _CHUNK):
            part = slice(first, first + 4 * _CHUNK)
            a, b = self.values[i[part]], self.values[j[part]]
            sums = []
            for axis, size in zip((Y, X), self.shape):
                start = np.rint(a[:, axis]).astype(int) - self.half
                fa = profiles(a[:, axis], a[:, WIDTH], start, self.half, size)
                fb = profiles(b[:, axis], b[:, WIDTH], start, self.half, size)
                sums.append(fa @ fb.transpose(0, 2, 1))
            out[part] = combine(*sums, scales(a), scales(b))
        return out

    def normal_matrix(self, noise: np.ndarray) -> sparse.csr_matrix:
        """Return the matrix of the columns' parameters, then the background's nodes.

        Args:
            noise: Variance of the noise around each column, for the prior [n].
        """
        n = len(self.values)
        everyone = np.arange(n)
        reach = _PAIR_REACH * self.sigma
        pairs = cKDTree(self.values[:, :2]).query_pairs(reach, output_type="ndarray")
        i, j = pairs.T if len(pairs) else np.empty((2, 0), dtype=int)
        own = self._blocks(everyone, everyone)
        own[:, WIDTH, WIDTH] += noise / self.width_spread**2
        other = self._blocks(i, j)
        self._own = own
        self._pairs = i, j
        rows = np.concatenate([everyone, i, j])
        columns = np.concatenate([everyone, j, i])
        blocks = np.concatenate([own, other, other.transpose(0, 2, 1)])
        k = np.arange(4)
        of_columns = sparse.coo_matrix(
            (
                blocks.ravel(),
                (
                    np.broadcast_to(
                        (4 * rows)[:, None, None] + k[:, None], blocks.shape
                    ).ravel(),
                    np.broadcast_to(
                        (4 * columns)[:, None, None] + k, blocks.shape
                    ).ravel(),
                ),
            ),
            shape=(4 * n, 4 * n),
        )
        mixed = self._mixed_block()
        masses = [sparse.csr_matrix(hat @ hat.T) for hat in self.hats]
        of_nodes = sparse.kron(masses[0], masses[1])
        return sparse.bmat([[of_columns, mixed], [mixed.T, of_nodes]], format="csr")

    def _mixed_block(self) -> sparse.csr_matrix:
        """Return the products of columns' derivatives with the background's nodes."""
        n = len(self.values)
        width = 2 * self.half + 1
        rows, columns, entries = [], [], []
        for part in self._chunks():
            fy, fx, top, left = self._profiles(part)
            sums, nodes = [], []
            for f, start, spacing in zip((fy, fx), (top, left), self.spacings):
                count = int(width / spacing) + 3
                first = np.floor(start / spacing).astype(int)
                node = first[:, None] + np.arange(count)
                grid = start[:, None] + np.arange(width)
                value = 1 - np.abs(grid[:, None] / spacing - node[:, :, None])
                sums.append(f @ np.maximum(value, 0).transpose(0, 2, 1))
                nodes.append(node)
            block = np.zeros((len(fy), 4, *(s.shape[2] for s in sums)))
            for k, terms in TERMS.items():
                for a, b in terms:
                    block[:, k] += sums[0][:, a, :, None] * sums[1][:, b, None]
            block *= scales(self.values[part])[:, :, None, None]
            ny, nx = nodes[0][:, None, :, None], nodes[1][:, None, None]
            row = 4 * np.arange(n)[part, None, None, None] + np.arange(4)[:, None, None]
            row, ny, nx = np.broadcast_arrays(row, ny, nx)
            legal = (ny >= 0) & (nx >= 0)
            legal &= (ny < self.nodes.shape[0]) & (nx < self.nodes.shape[1])
            rows.append(row[legal])
            columns.append((ny * self.nodes.shape[1] + nx)[legal])
            entries.append(block[legal])
        places = np.concatenate(rows), np.concatenate(columns)
        return sparse.csr_matrix(
            (np.concatenate(entries), places),
            shape=(4 * n, self.nodes.size),
        )

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
        if self._fresh:
            residual = self._residual()
            self._linearise(residual, self._local(residual) * self._unused)
            self._move(self._step(np.zeros(n), only_heights=True))
            self._fresh = False
        # Levenberg-Marquardt, and more careful with columns that got worse.
        damping, care = 1e-2, np.ones(n)
        residual = self._residual()
        local = self._local(residual)
        noise = local * self._unused
        self._linearise(residual, noise)
        moving = np.ones(n, dtype=bool)
        for _ in range(steps):
            step = self._step(damping * care)
            before = self.values, self.nodes
            cost = self._costs(residual, local, noise)
            moved = self._move(step)
            residual_then, residual = residual, self._residual()
            local_then, local = local, self._local(residual)
            cost_now = self._costs(residual, local, noise)
            worse = cost_now[1] > cost[1]
            if cost_now[0] > cost[0]:
                self.values, self.nodes = before
                residual, local = residual_then, local_then
                damping *= 8
                care[worse] = np.minimum(4 * care[worse], 1e4)
                if damping > 1e6:
                    break
                continue
            damping = max(damping / 5, DAMPING)
            care = np.where(worse, np.minimum(4 * care, 1e4), np.maximum(care / 2, 1))
            shift = np.hypot(*(self.values[:, :2] - self.starts).T)
            away = (shift > self.limit) & ~self.frozen
            if away.any():
                self._freeze(away)
                residual = self._residual()
                local = self._local(residual)
            noise = local * self._unused
            settled = np.abs(moved) < tolerance * self._spread(noise)
            moving = ~settled[:, [Y, X, WIDTH]].all(axis=1) & ~self.frozen
            if not moving.any():
                return True
            self._linearise(residual, noise)
        self._moving = moving
        return False

    def _costs(
        self, residual: np.ndarray, local: np.ndarray, noise: np.ndarray
    ) -> Tuple[float, np.ndarray]:
        """Return what is minimised, and the part of it around each column [n]."""
        prior = ((self.values[:, WIDTH] - self._center) / self.width_spread) ** 2
        prior = prior * noise
        total = float(np.sum(residual**2) + np.sum(prior))
        return total, local * self._window_size + prior

    def _linearise(self, residual: np.ndarray, noise: np.ndarray) -> None:
        gradient = self._project(residual)
        off = self._center - self.values[:, WIDTH]
        gradient[:, WIDTH] += noise * off / self.width_spread**2
        of_nodes = self.hats[0] @ residual @ self.hats[1].T
        self._gradient = gradient, of_nodes
        self._matrix = self.normal_matrix(noise)

    def _step(self, damping: np.ndarray, only_heights: bool = False) -> np.ndarray:
        free = np.ones((len(self.values), 4))
        # Heights first: what a shift does follows from them.
        free[self.frozen | only_heights] = np.arange(4) == HEIGHT
        of_columns, of_nodes = self._gradient
        right = np.concatenate([(of_columns * free).ravel(), of_nodes.ravel()])
        return solve(self._matrix, self._own, right, free, damping)

    def _move(self, step: np.ndarray) -> np.ndarray:
        """Take a step; returns how far each column's parameters went [n, 4]."""
        n = len(self.values)
        largest = _LARGEST_STEP * [self.sigma, self.sigma, 1, 1]
        moved = np.clip(step[: 4 * n].reshape(n, 4), -largest, largest)
        self.values = self.values + moved
        limits = self._center - WIDTH_LIMIT, self._center + WIDTH_LIMIT
        self.values[:, WIDTH] = np.clip(self.values[:, WIDTH], *limits)
        self.nodes = self.nodes + step[4 * n :].reshape(self.nodes.shape)
        return moved

    def _residual(self) -> np.ndarray:
        return np.where(self.valid, self.image - self.model(), 0.0)

    def _spread(self, noise: np.ndarray) -> np.ndarray:
        """Return rough standard errors [n, 4], neighbours and background known."""
        own = np.diagonal(self._own, axis1=1, axis2=2)
        spread = np.sqrt(noise[:, None] / np.maximum(own, 1e-300))
        return np.maximum(spread, 1e-6 * self.sigma)

    def _freeze(self, which: np.ndarray) -> None:
        new = which & ~self.frozen
        self.frozen |= new
        self.values[new, :2] = self.starts[new]
        self.values[new, WIDTH] = np.log(self.sigma)

    def keep(self, which: np.ndarray) -> None:
        """Go on with some of the columns.

        Args:
            which: Mask over the columns in the order of :meth:`result`.
        """
        which = which[self.order]
        order = self.order[which]
        self.order = np.argsort(np.argsort(order))
        self.starts, self.values = self.starts[which], self.values[which]
        self.frozen, self._moving = self.frozen[which], self._moving[which]

    def recentre(self, sigma: float) -> None:
        """Take another common width; the columns stay what they are."""
        self.sigma, self._center = sigma, np.log(sigma)

    def freeze_moving(self) -> None:
        """Put columns that never settled back to where they started."""
        self._freeze(self._moving)

    def _local(self, residual: np.ndarray) -> np.ndarray:
        """Return the mean square of the residual over each column's window [n]."""
        return self._window_means(residual**2)

    def _window_means(self, image: np.ndarray) -> np.ndarray:
        """Return the mean over the valid pixels of each column's window [n].

        Args:
            image: 0 where pixels are missing [H, W].
        """
        size = 2 * self.half + 1
        y, x = self._pixels()
        total = uniform_filter(image.astype(np.float32), size, mode="constant")
        return total[y, x].astype(np.float64) / np.maximum(
            self._share_valid[y, x], 0.5 / size**2
        )

    def _pixels(self) -> Tuple[np.ndarray, np.ndarray]:
        """Return row and column of the pixel that each column is on."""
        y, x = (
            np.clip(np.rint(self.values[:, k]).astype(int), 0, size - 1)
            for k, size in zip((Y, X), self.shape)
        )
        return y, x

    @property
    def _unused(self) -> float:
        """Ratio of the number of pixels to that of pixels less parameters."""
        used = 4 * len(self.values) + self.nodes.size
        number = int(self.valid.sum())
        return number / max(number - used, 0.2 * number)

    # --- result -------------------------------------------------------------------

    def result(self, quick: bool = False) -> FittedColumns:
        """Return the columns in the order of ``starts``, with errors.

        Args:
            quick: As if neighbours and background were known: errors too small.
        """
        model = self.model()
        residual = np.where(self.valid, self.image - model, 0.0)
        noise = _noise_image(residual, model, self.valid)
        mean = self._local(residual) * self._unused
        local = mean / np.maximum(self._window_means(noise * self.valid), 1e-300)
        variance = self._weighted(noise) * local[:, None]
        matrix = self.normal_matrix(mean)
        if quick:
            own = self._own + 1e-12 * self._own.max() * np.eye(4)
            covariance = np.linalg.inv(own)
        else:
            covariance = self._covariance(matrix)
        background = self.background()[self._pixels()]
        i, j = self._pairs
        overlap = np.zeros(len(self.values))
        if len(i):
            square = np.sum((self.values[i, :2] - self.values[j, :2]) ** 2, axis=1)
            share = np.exp(-square / (4 * self.sigma**2))
            np.maximum.at(overlap, i, share)
            np.maximum.at(overlap, j, share)
        back = np.argsort(self.order)
        return FittedColumns(
            self.values[back],
            covariance[back],
            variance[back],
            background[back],
            self.frozen[back],
            residual,
            noise,
            overlap[back],
        )

    def _weighted(self, noise: np.ndarray) -> np.ndarray:
        """Return the mean noise variance under the squared derivatives [n, 4]."""
        ones = np.ones(self.shape)
        return self._project_squares(noise) / np.maximum(
            self._project_squares(ones), 1e-300
        )

    def _project_squares(self, image: np.ndarray) -> np.ndarray:
        out = np.empty((len(self.values), 4))
        for part, fy, fx, window in self._windows(image):
            fy, fx = (np.concatenate([f**2, f[:, :1] * f[:, 2:]], 1) for f in (fy, fx))
            sums = fy @ window @ fx.transpose(0, 2, 1)
            out[part, Y], out[part, X] = sums[:, SLOPE, BELL], sums[:, BELL, SLOPE]
            out[part, HEIGHT] = sums[:, BELL, BELL]
            out[part, WIDTH] = (
                sums[:, SPREAD, BELL] + sums[:, BELL, SPREAD] + 2 * sums[:, 3, 3]
            )
        return out

    def _covariance(self, matrix: sparse.csr_matrix) -> np.ndarray:
        """Return each column's block of the inverse, neighbours marginalised.

        The inverse of a part of the image with a rim, beyond which columns are taken as
        known.
        """
        n = len(self.values)
        side = _TILE * self.separation
        rim = min(2.0 * self.separation, _PAIR_REACH * self.sigma)
        position = self.values[:, :2]
        cell = np.floor(position / side).astype(int)
        tree = cKDTree(position)
        node = np.stack(
            np.meshgrid(
                *(np.arange(m) * d for m, d in zip(self.nodes.shape, self.spacings)),
                indexing="ij",
            ),
            axis=-1,
        ).reshape(-1, 2)
        node_tree = cKDTree(node)
        out = np.empty((n, 4, 4))
        cells, member = np.unique(cell, axis=0, return_inverse=True)
        grouped = np.split(
            np.argsort(member, kind="stable"),
            np.cumsum(np.bincount(member.ravel()))[:-1],
        )
        for corner, inside in zip(cells, grouped):
            middle = (corner + 0.5) * side
            near = tree.query_ball_point(middle, side / 2 + rim, p=np.inf)
            near = np.concatenate([inside, np.setdiff1d(near, inside)])
            nodes = node_tree.query_ball_point(
                middle, side / 2 + rim + max(self.spacings), p=np.inf
            )
            index = np.concatenate(
                [
                    (4 * near[:, None] + np.arange(4)).ravel(),
                    4 * n + np.asarray(nodes, dtype=int),
                ]
            )
            part = matrix[index][:, index].toarray()
            scale = 1 / np.sqrt(np.maximum(np.diag(part), 1e-300))
            part = part * scale[:, None] * scale
            part[np.diag_indices_from(part)] += 1e-7
            inverse = np.linalg.inv(part) * scale[:, None] * scale
            m = len(inside)
            blocks = inverse[: 4 * m, : 4 * m].reshape(m, 4, m, 4)
            out[inside] = blocks[np.arange(m), :, np.arange(m), :]
        return out


def _noise_image(
    residual: np.ndarray, model: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Return the variance of the noise: a line in the model's value, as for counts."""
    value, square = model[valid], residual[valid] ** 2
    edges = np.quantile(value, np.linspace(0, 1, _BINS + 1))
    bins = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, _BINS - 1)
    number = np.bincount(bins, minlength=_BINS)
    used = number > 0
    means = [
        np.bincount(bins, v, minlength=_BINS)[used] / number[used]
        for v in (value, square)
    ]
    mean = max(float(square.mean()), 1e-300)
    if used.sum() < 3 or np.ptp(means[0]) == 0:
        return np.full(model.shape, mean)
    # Relative errors of the bins' variances are alike.
    weights = np.sqrt(number[used]) / np.maximum(means[1], 0.05 * mean)
    slope, intercept = np.polyfit(*means, 1, w=weights)
    low, high = means[0][[0, -1]]
    fitted = intercept + slope * np.clip(model, low, high)
    return np.maximum(fitted, 0.05 * mean)
