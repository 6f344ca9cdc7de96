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

"""What the structure network sees of positions: neighbours and phases.

:class:`StructureGeometry` turns positions and the graph of a batch into a
:class:`Geometry`, once in a forward pass; all blocks read it. The functions on atoms,
which the heads share, come first.

Shapes: ``N`` atoms, ``S`` structures, ``E`` edges, ``R`` radial functions, ``W``
radial functions of wave vectors. Padded to the largest count in the batch: ``M``
neighbours of an atom, ``P`` atoms and ``K`` reciprocal vectors of a structure. Lengths
are in Å, reciprocal vectors in 1/Å, cell vectors are rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import paddle
from paddle import nn

SCALE = 0.15  # of the taps: sums over about 40 neighbours are of order one
EPS = 1e-8  # added below square roots, whose slope is infinite at 0; Å² or 1/Å²


class Geometry(NamedTuple):
    """Positions as the blocks need them.

    Padding of ``neighbour`` and ``pad`` is any valid row, since zeros multiply it.
    """

    neighbour: paddle.Tensor  # [N * M] row of each neighbour
    radial: paddle.Tensor  # [N, M, R] radial functions, 0 in padding
    taps: paddle.Tensor  # [N, M, R + 3 R] radial times 1 and direction, 0 in padding
    taps_2: paddle.Tensor | None  # [N, M, 5 R] radial times degree 2, 0 in padding
    pad: paddle.Tensor  # [S * P] row of the atom at each padded place
    place: paddle.Tensor  # [N] padded place of each atom
    wave: paddle.Tensor  # [S, P, 2 K] cos(k.x), then sin(k.x), 0 in padding
    k_unit: paddle.Tensor  # [S, 1, K, 3, 1] direction of k, 0 in padding
    k_radial: paddle.Tensor  # [S, K, W] radial basis of |k|, 0 in padding
    density: paddle.Tensor  # [S, 1, 1] v_c / cell volume, see FourierUnit


def segment_starts(counts: paddle.Tensor) -> paddle.Tensor:
    """Return the first row of each segment, [S], from the segment lengths [S]."""
    return paddle.cumsum(counts) - counts


def pad_index(counts: paddle.Tensor) -> paddle.Tensor:
    """Return the rows of each segment, [S, max(counts, 1)].

    They are padded with index ``sum(counts)``, the row of zeros that
    :func:`with_empty_row` appends.
    """
    width = max(int(counts.max()), 1)
    column = paddle.arange(width).unsqueeze(0)  # [1, width]
    rows = segment_starts(counts).unsqueeze(1) + column  # [S, width]
    return paddle.where(
        column < counts.unsqueeze(1), rows, paddle.full_like(rows, counts.sum())
    )


def with_empty_row(x: paddle.Tensor) -> paddle.Tensor:
    """Append the row of zeros that pads :func:`pad_index`."""
    return paddle.concat([x, paddle.zeros([1, *x.shape[1:]], dtype=x.dtype)])


def sum_per_structure(values: paddle.Tensor, num_atoms: paddle.Tensor) -> paddle.Tensor:
    """Sum the values [N, ...] of each structure's atoms, to [S, ...]."""
    count = num_atoms.shape[0]
    structure = paddle.repeat_interleave(paddle.arange(count), num_atoms)  # [N]
    zeros = paddle.zeros([count, *values.shape[1:]], dtype=values.dtype)
    return paddle.index_add(zeros, structure, 0, values)


def free_atoms(atoms: dict, dtype: paddle.dtype) -> paddle.Tensor:
    """Return 1 for each atom that may move and 0 for each fixed one, [N]."""
    return 1.0 - atoms["fixed"].astype(dtype)


def mean_over_free_atoms(values: paddle.Tensor, atoms: dict) -> paddle.Tensor:
    """Average values [N] over the free atoms of each structure, then structures."""
    num_atoms = atoms["num_atoms"]
    free = free_atoms(atoms, values.dtype)
    num_free = sum_per_structure(free, num_atoms).clip(min=1.0)  # [S]
    return (sum_per_structure(values * free, num_atoms) / num_free).mean()


def cell_normals(lattice: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return ``b x c, c x a, a x b``, [S, 3, 3] Å², and the signed volume, [S] Å³.

    Their ratio is the inverse of the cell vectors. Paddle's inverse, determinant and
    roll have no second derivative, which the stress in a loss needs.
    """
    turn = paddle.to_tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]], lattice.dtype)
    back = turn.t()
    b, c = paddle.matmul(turn, lattice), paddle.matmul(back, lattice)
    left = paddle.matmul(b, back) * paddle.matmul(c, turn)
    normals = left - paddle.matmul(b, turn) * paddle.matmul(c, back)
    return normals, (lattice * normals).sum(axis=2).mean(axis=1)


def envelope(u: paddle.Tensor) -> paddle.Tensor:
    """Return ``1 - 10 u^3 + 15 u^4 - 6 u^5`` for u below 1, else 0.

    The first two derivatives vanish at 0 and 1, so energies built on it are smooth.
    """
    u = u.clip(max=1.0)
    return 1.0 + u * u * u * (u * (15.0 - 6.0 * u) - 10.0)


class RadialBasis(nn.Layer):
    """Gaussians on [0, cutoff], times an envelope that ends smoothly at the cutoff.

    Args:
        cutoff: End of the range, Å for distances, 1/Å for reciprocal vectors.
        num_basis: Number of Gaussians.
    """

    def __init__(self, cutoff: float, num_basis: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.width = cutoff / num_basis
        self.register_buffer("centers", paddle.linspace(0.0, cutoff, num_basis))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [..., num_basis] of lengths [...]."""
        gauss = paddle.exp(
            -0.5 * ((x.unsqueeze(-1) - self.centers) / self.width).square()
        )  # [..., num_basis]
        return gauss * envelope(x / self.cutoff).unsqueeze(-1)


def degree_2(unit: paddle.Tensor) -> paddle.Tensor:
    """Return the five real spherical harmonics of degree 2, [..., 5] of [..., 3].

    The mean square of each on the sphere is 1. A rotation mixes them by an orthogonal
    matrix, so sums over products of all five do not change.
    """
    x, y, z = unit.split(3, axis=-1)
    functions = [x * y, y * z, z * x, 0.5 * (x * x - y * y)]
    functions.append((1.5 * z * z - 0.5) / math.sqrt(3.0))
    return math.sqrt(15.0) * paddle.concat(functions, axis=-1)


class Taps(nn.Layer):
    """The taps of the convolutions: learned radial functions times 1 and ``u``.

    They correspond to the nine pixels below the kernel of a 3x3 convolution. ``u`` is
    the direction to the neighbour, times the root of 3, so that the mean square of its
    components on the sphere is 1. The radial functions are mixtures of narrower
    Gaussians, so few of them resolve the distances that matter.

    Args:
        cutoff: End of the radial functions [Å].
        num_basis: Gaussians.
        num_radial: Radial functions, ``R``.
        second: Whether taps of degree 2 are made.
    """

    def __init__(
        self, cutoff: float, num_basis: int, num_radial: int, second: bool = False
    ) -> None:
        super().__init__()
        self.second = second
        self.basis = RadialBasis(cutoff, num_basis)
        self.mix = nn.Linear(
            num_basis,
            num_radial,
            weight_attr=nn.initializer.Normal(std=1.0),
            bias_attr=False,
        )

    def forward(
        self, vector: paddle.Tensor, is_edge: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor | None]:
        """Return ``radial``, ``taps`` and ``taps_2`` of :class:`Geometry`.

        Args:
            vector: To the neighbours, [N, M, 3] Å.
            is_edge: [N, M, 1], 0 in padding.
        """
        n, m, _ = vector.shape
        distance = (vector.square().sum(axis=-1) + EPS).sqrt()  # [N, M]
        unit = vector / distance.unsqueeze(-1)
        radial = SCALE * self.mix(self.basis(distance)) * is_edge  # [N, M, R]
        vectors = math.sqrt(3.0) * unit.unsqueeze(-1) * radial.unsqueeze(2)
        taps = paddle.concat([radial, vectors.reshape([n, m, -1])], axis=-1)
        if not self.second:
            return radial, taps, None
        tensors = degree_2(unit).unsqueeze(-1) * radial.unsqueeze(2)  # [N, M, 5, R]
        return radial, taps, tensors.reshape([n, m, -1])


class StructureGeometry(nn.Layer):
    """Makes the :class:`Geometry` of positions.

    Args:
        cutoff: Distance [Å] at which messages end.
        k_cut: Radius [1/Å] of the sphere of reciprocal vectors.
        num_basis: Gaussians of distances and of the lengths of reciprocal vectors.
        num_radial: Radial functions of the taps, see :class:`Taps`.
        second: See :class:`Taps`.
    """

    def __init__(
        self,
        cutoff: float,
        k_cut: float,
        num_basis: int,
        num_radial: int,
        second: bool = False,
    ) -> None:
        super().__init__()
        self.k_cut = k_cut
        self.taps = Taps(cutoff, num_basis, num_radial, second)
        self.k_basis = RadialBasis(k_cut, num_basis)

    def forward(self, batch: dict, positions: paddle.Tensor) -> Geometry:
        """Return the geometry of positions [N, 3] Å and the batch's graph."""
        atoms, graph = batch["structure_array"], batch["graph"]
        lattice, num_atoms = atoms["lattice"], atoms["num_atoms"]
        dtype = positions.dtype

        starts = segment_starts(num_atoms)
        structure = paddle.repeat_interleave(
            paddle.arange(num_atoms.shape[0]), num_atoms
        )  # [N]
        first = paddle.gather(starts, structure)  # [N] first atom of own structure
        edge_start = paddle.repeat_interleave(starts, graph["num_edges"])  # [E]
        centre = graph["edge_index"][:, 0] + edge_start  # [E]
        degree = paddle.bincount(centre, minlength=positions.shape[0])  # [N]
        slot = pad_index(degree)  # [N, M]
        is_edge = (slot < centre.shape[0]).astype(dtype).unsqueeze(-1)  # [N, M, 1]
        edges = paddle.concat(
            [graph["edge_index"][:, 1:], graph["pbc_offset"]], axis=-1
        )  # [E, 4]
        edges = paddle.gather(with_empty_row(edges), slot.flatten())  # [N * M, 4]
        neighbour = edges[:, 0] + paddle.repeat_interleave(first, slot.shape[1])
        image = paddle.matmul(
            edges[:, 1:].astype(dtype).reshape([*slot.shape, 3]),
            paddle.gather(lattice, structure),
        )  # [N, M, 3] shift to the periodic image
        vector = (
            paddle.gather(positions, neighbour).reshape([*slot.shape, 3])
            - positions.unsqueeze(1)
            + image
        )  # [N, M, 3]

        pad = pad_index(num_atoms)  # [S, P]
        k_pad = pad_index(graph["num_k"])  # [S, K]
        miller = with_empty_row(graph["k_index"].astype(dtype))
        m = paddle.gather(miller, k_pad.flatten()).reshape([*k_pad.shape, 3])
        normals, volume = cell_normals(lattice)
        reciprocal = 2.0 * math.pi * normals / volume.reshape([-1, 1, 1])
        k = paddle.matmul(m, reciprocal)  # [S, K, 3] of the Miller indices m
        k_length = (k.square().sum(axis=-1) + EPS).sqrt()  # [S, K]
        is_k = (k_pad < graph["num_k"].sum()).astype(dtype).unsqueeze(-1)  # [S, K, 1]
        is_atom = (pad < num_atoms.sum()).astype(dtype).unsqueeze(-1)  # [S, P, 1]
        pad = pad.clip(max=positions.shape[0] - 1)
        x = paddle.gather(positions, pad.flatten())
        phase = paddle.matmul(x.reshape([*pad.shape, 3]), k, transpose_y=True)
        mask = is_atom * is_k.transpose([0, 2, 1])  # [S, P, K], as phase
        sphere = 6.0 * math.pi**2 / self.k_cut**3  # v_c, Å³
        column = paddle.arange(positions.shape[0]) - first  # [N] place in own structure
        radial, taps, taps_2 = self.taps(vector, is_edge)
        return Geometry(
            neighbour=neighbour,
            radial=radial,
            taps=taps,
            taps_2=taps_2,
            pad=pad.flatten(),
            place=structure * pad.shape[1] + column,
            wave=paddle.concat([phase.cos() * mask, phase.sin() * mask], axis=-1),
            k_unit=(k / k_length.unsqueeze(-1)).unsqueeze([1, -1]),
            k_radial=self.k_basis(k_length) * is_k,
            density=sphere / volume.abs().reshape([-1, 1, 1]),
        )
