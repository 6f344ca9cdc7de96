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


"""Normal equations of many round Gaussians: profiles, products, and the solver."""

from __future__ import annotations

from typing import Tuple

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import cg

Y, X, HEIGHT, WIDTH = range(4)  # parameters of a column; WIDTH is log(sigma)
DAMPING = 1e-4
# A column's derivatives in terms of three profiles along each axis: e = exp(-u^2 / 2),
# d = u / sigma e, s = u^2 e, with u = offset / sigma; (y, x) profiles summed.
BELL, SLOPE, SPREAD = range(3)
TERMS = {
    Y: [(SLOPE, BELL)],
    X: [(BELL, SLOPE)],
    HEIGHT: [(BELL, BELL)],
    WIDTH: [(SPREAD, BELL), (BELL, SPREAD)],
}


def hats(size: int, spacing: float) -> Tuple[sparse.csr_matrix, float]:
    """Return triangles [nodes, size] that sum to 1, and their spacing in pixels."""
    pieces = max(1, int(np.ceil((size - 1) / spacing)))
    spacing = (size - 1) / pieces
    grid = np.arange(size) / spacing
    left = np.minimum(grid.astype(int), pieces - 1)
    share = grid - left
    entries = np.concatenate([1 - share, share])
    places = np.concatenate([left, left + 1]), np.tile(np.arange(size), 2)
    return sparse.csr_matrix((entries, places), shape=(pieces + 1, size)), spacing


def profiles(
    centre: np.ndarray, log_sigma: np.ndarray, start: np.ndarray, half: int, size: int
) -> np.ndarray:
    """Return the profiles e, d, s [n, 3, w] on the pixels from ``start``."""
    grid = start[:, None] + np.arange(2 * half + 1)
    sigma = np.exp(log_sigma)[:, None]
    u = (grid - centre[:, None]) / sigma
    e = np.exp(-0.5 * u**2)
    e[(grid < 0) | (grid >= size)] = 0.0
    return np.stack([e, u / sigma * e, u**2 * e], axis=1)


def scales(values: np.ndarray) -> np.ndarray:
    """Return the factors [n, 4] between profiles and derivatives."""
    scales = np.repeat(values[:, HEIGHT, None], 4, axis=1)
    scales[:, HEIGHT] = 1.0
    return scales


def combine(
    sums_y: np.ndarray, sums_x: np.ndarray, scales_i: np.ndarray, scales_j: np.ndarray
) -> np.ndarray:
    """Return products of derivatives [n, 4, 4] from those of profiles [n, 3, 3]."""
    out = np.empty((len(sums_y), 4, 4))
    for p, of_p in TERMS.items():
        for q, of_q in TERMS.items():
            out[:, p, q] = sum(
                sums_y[:, a, c] * sums_x[:, b, d] for a, b in of_p for c, d in of_q
            )
    return out * scales_i[:, :, None] * scales_j[:, None]


def solve(
    matrix: sparse.csr_matrix,
    own: np.ndarray,
    right: np.ndarray,
    free: np.ndarray,
    damping: np.ndarray,
) -> np.ndarray:
    """Return the step of the free parameters, by conjugate gradients."""
    n = len(own)
    diagonal = matrix.diagonal()
    scale = 1 / np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max()))
    mask = np.concatenate([free.ravel(), np.ones(len(right) - 4 * n)])
    extra = np.full(len(right), DAMPING)
    extra[: 4 * n] += np.repeat(damping, 4)
    extra += 1 - mask
    inner = mask * scale
    local = inner[: 4 * n].reshape(n, 4)
    blocks = own * local[:, :, None] * local[:, None]
    k = np.arange(4)
    blocks[:, k, k] = 1.0 + damping[:, None]
    inverse = np.linalg.inv(blocks)

    def apply(v: np.ndarray) -> np.ndarray:
        return inner * (matrix @ (inner * v)) + extra * v

    def precondition(v: np.ndarray) -> np.ndarray:
        out = v.copy()
        of_columns = inverse @ v[: 4 * n].reshape(n, 4, 1)
        out[: 4 * n] = of_columns.ravel()
        return out

    shape = (len(right), len(right))
    found, _ = cg(
        LinearOperator(shape, matvec=apply, dtype=np.float64),
        inner * right,
        rtol=1e-2,
        maxiter=100,
        M=LinearOperator(shape, matvec=precondition, dtype=np.float64),
    )
    return inner * found
