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

"""SFIN lifted from pixels to atoms, and the flow that relaxes structures with it.

The image network (Li et al., CVPR 2025, arXiv 2504.02555) splits its channels into a
spatial and a frequency half and lets them interact in every block: four paths
l2l, g2l, l2g (3x3 convolutions) and g2g (a Fourier unit). Here a pixel is an atom,
the convolution is message passing on the periodic radius graph, and the Fourier unit
works on structure factors over the reciprocal vectors inside a sphere. Each half
carries scalar and vector channels, vectors turning with the frame.

Letters: ``N`` atoms, ``S`` structures, ``B`` radial basis functions, ``C`` scalar and
``V`` vector channels; padded to the largest count of the batch: ``M`` neighbours of an
atom, ``P`` atoms and ``K`` reciprocal vectors of a structure. Lengths in Å, wave
vectors in 1/Å, cells as rows. The derivations (invariances, normalisation) are in
``docs/oc20/sfin_structure.md``.
"""

from __future__ import annotations

import math
from typing import Literal
from typing import NamedTuple

import paddle
from paddle import nn
from paddle.nn import functional as F

MAX_ATOMIC_NUMBER = 118
NUM_TAGS = 3  # 0 sub-surface, 1 surface, 2 adsorbate
EPS = 1e-8


class Features(NamedTuple):
    """Scalar and vector channels of a set of atoms."""

    s: paddle.Tensor  # [N, C]
    v: paddle.Tensor  # [N, 3, V]


class Geometry(NamedTuple):
    """Everything the blocks need to know of where the atoms are.

    Computed once in a forward pass and shared by all blocks.
    """

    neighbour: paddle.Tensor  # [N * M] row of each neighbour, any where there is none
    radial: paddle.Tensor  # [N, M, B] radial basis of the distance, 0 in padding
    directed: paddle.Tensor  # [N, M, 3, B] the same times the direction
    pad: paddle.Tensor  # [S * P] row of each padded place, any where it is empty
    place: paddle.Tensor  # [N] padded place of each atom
    cos: paddle.Tensor  # [S, P, K] cos(k.x), 0 in padding
    sin: paddle.Tensor  # [S, P, K] sin(k.x), 0 in padding
    k_unit: paddle.Tensor  # [S, K, 3, 1] direction of k, 0 in padding
    k_radial: paddle.Tensor  # [S, K, B] radial basis of |k|, 0 in padding
    density: paddle.Tensor  # [S, 1, 1] sphere volume per wave vector over cell volume


def segment_starts(counts: paddle.Tensor) -> paddle.Tensor:
    """Return the first row of each segment, [S], from the segment lengths [S]."""
    return paddle.cumsum(counts) - counts


def pad_index(counts: paddle.Tensor) -> paddle.Tensor:
    """Return [S, max(counts, 1)] rows; the row behind the last one fills gaps."""
    width = max(int(counts.max()), 1)
    column = paddle.arange(width).unsqueeze(0)
    rows = segment_starts(counts).unsqueeze(1) + column
    return paddle.where(
        column < counts.unsqueeze(1), rows, paddle.full_like(rows, counts.sum())
    )


def with_empty_row(x: paddle.Tensor) -> paddle.Tensor:
    """Append the zero row that :func:`pad_index` points at."""
    return paddle.concat([x, paddle.zeros([1, *x.shape[1:]], dtype=x.dtype)])


def sum_per_structure(values: paddle.Tensor, num_atoms: paddle.Tensor) -> paddle.Tensor:
    """Sum the values [N] of each structure's atoms, to [S]."""
    count = num_atoms.shape[0]
    structure = paddle.repeat_interleave(paddle.arange(count), num_atoms)
    zeros = paddle.zeros([count], dtype=values.dtype)
    return paddle.index_add(zeros, structure, 0, values)


def mean_over_free_atoms(values: paddle.Tensor, atoms: dict) -> paddle.Tensor:
    """Average values [N] over the free atoms of each structure, then structures."""
    num_atoms = atoms["num_atoms"]
    free = 1.0 - atoms["fixed"].astype(values.dtype)
    num_free = sum_per_structure(free, num_atoms).clip(min=1.0)
    return (sum_per_structure(values * free, num_atoms) / num_free).mean()


class RadialBasis(nn.Layer):
    """Gaussians on [0, cutoff] under an envelope that ends smoothly at the cutoff.

    The envelope ``1 - 10 u^3 + 15 u^4 - 6 u^5`` with ``u = x / cutoff`` has two
    vanishing derivatives at both ends, so energies built on it are smooth.
    """

    def __init__(self, cutoff: float, num_basis: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.width = cutoff / num_basis
        self.register_buffer("centers", paddle.linspace(0.0, cutoff, num_basis))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Map lengths [...] to [..., B]."""
        u = (x / self.cutoff).clip(max=1.0)
        envelope = 1.0 + u * u * u * (u * (15.0 - 6.0 * u) - 10.0)
        gauss = paddle.exp(
            -0.5 * ((x.unsqueeze(-1) - self.centers) / self.width).square()
        )
        return gauss * envelope.unsqueeze(-1)


class Mix(nn.Layer):
    """Channel mixing of both kinds; vectors without bias, so that they turn."""

    def __init__(self, in_s: int, in_v: int, out_s: int, out_v: int) -> None:
        super().__init__()
        self.scalar = nn.Linear(in_s, out_s)
        self.vector = nn.Linear(in_v, out_v, bias_attr=False)

    def forward(self, x: Features) -> Features:
        return Features(self.scalar(x.s), self.vector(x.v))


class Lookup(nn.Layer):
    """Rows of a learned table, [N] to [N, C]; Embedding has no second derivative."""

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.weight = self.create_parameter(
            [rows, channels], default_initializer=nn.initializer.Normal(std=0.5)
        )

    def forward(self, index: paddle.Tensor) -> paddle.Tensor:
        return paddle.gather(self.weight, index)


class ChannelNorm(nn.Layer):
    """Layer normalisation over channels, [N, C], from twice differentiable parts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = self.create_parameter(
            [channels], default_initializer=nn.initializer.Constant(1.0)
        )
        self.bias = self.create_parameter([channels], is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x - x.mean(axis=-1, keepdim=True)
        scale = (x.square().mean(axis=-1, keepdim=True) + 1e-5).rsqrt()
        return x * scale * self.weight + self.bias


class GatedActivation(nn.Layer):
    """Normalise both kinds, then let scalars and vector lengths act on each other.

    Takes the place of the image network's BatchNorm and ReLU. It looks at one atom
    only, so a batch gives what its single structures give. Long vectors are shortened,
    short ones kept: dividing by their length would turn round-off into directions.
    """

    def __init__(self, channels: int, vectors: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.length = nn.Linear(vectors, vectors, bias_attr=False)
        self.hidden = nn.Linear(channels + vectors, channels)
        self.out = nn.Linear(channels, channels + vectors)
        self.split = [channels, vectors]

    def forward(self, x: Features) -> Features:
        size = x.v.square().sum(axis=1, keepdim=True).mean(axis=-1, keepdim=True)
        v = x.v * (1.0 + size).rsqrt()
        length = (self.length(v).square().sum(axis=1) + EPS).sqrt()  # [N, V]
        hidden = F.silu(self.hidden(paddle.concat([self.norm(x.s), length], axis=-1)))
        s, gate = self.out(hidden).split(self.split, axis=-1)
        return Features(s, v * gate.unsqueeze(1))


class Densities(NamedTuple):
    """Sums over an atom's neighbours, weighted by distance and direction.

    On the radius graph they are what the taps of a 3x3 convolution are to a pixel.
    """

    s_s: paddle.Tensor  # [N, B C] scalars, by distance
    s_v: paddle.Tensor  # [N, B V] vectors along the direction to them
    v_s: paddle.Tensor  # [N, 3, B C] scalars, by direction
    v_v: paddle.Tensor  # [N, 3, V B] vectors, by distance


def densities(x: Features, geo: Geometry) -> Densities:
    """Sum the channels of the neighbours; products of small matrices only."""
    n, m, b = geo.radial.shape
    c, d = x.s.shape[-1], 3 * x.v.shape[-1]
    s = paddle.gather(x.s, geo.neighbour).reshape([n, m, c])
    v = paddle.gather(x.v.reshape([n, d]), geo.neighbour).reshape([n, m, d])
    s_s = paddle.matmul(geo.radial, s, transpose_x=True)
    s_v = paddle.matmul(
        geo.directed.reshape([n, m * 3, b]), v.reshape([n, m * 3, -1]), transpose_x=True
    )
    v_s = paddle.matmul(geo.directed.reshape([n, m, 3 * b]), s, transpose_x=True)
    v_v = paddle.matmul(v, geo.radial, transpose_x=True)
    return Densities(
        s_s.reshape([n, -1]),
        s_v.reshape([n, -1]),
        v_s.reshape([n, 3, -1]),
        v_v.reshape([n, 3, -1]),
    )


class Convolution(nn.Layer):
    """The 3x3 convolution on atoms: channel mixing of the neighbours' densities."""

    def __init__(self, channels: int, vectors: int, num_basis: int) -> None:
        super().__init__()
        taps_s, taps_v = num_basis * channels, num_basis * vectors
        self.s_s = nn.Linear(taps_s, channels)
        self.s_v = nn.Linear(taps_v, channels, bias_attr=False)
        self.v_s = nn.Linear(taps_s, vectors, bias_attr=False)
        self.v_v = nn.Linear(taps_v, vectors, bias_attr=False)

    def forward(self, x: Densities) -> Features:
        return Features(
            self.s_s(x.s_s) + self.s_v(x.s_v), self.v_s(x.v_s) + self.v_v(x.v_v)
        )


def add(a: Features, b: Features) -> Features:
    """Add channel by channel."""
    return Features(a.s + b.s, a.v + b.v)


def concat(halves: list[Features]) -> Features:
    """Put halves side by side in channels."""
    if len(halves) == 1:
        return halves[0]
    return Features(
        paddle.concat([x.s for x in halves], axis=-1),
        paddle.concat([x.v for x in halves], axis=-1),
    )


class FourierUnit(nn.Layer):
    """Structure factors, filtered and mixed at each wave vector, back to the atoms.

    ``f(k) = (v_c / V) sum_j h_j exp(-i k.x_j)``, where ``V`` is the cell volume and
    ``v_c = 6 pi^2 / k_cut^3`` the volume that holds one wave vector of the sphere, so
    that numbers stay of order one. The wave vectors' lengths enter by a radial basis
    (the image network's coordinate channels); the non-linearity acts on the modulus,
    because a function of real and imaginary part would depend on the origin. The
    longitudinal part ``i k^.f_v(k)`` of vector channels joins the scalar channels
    and scalar channels give vectors along ``i k^``: the two Fourier forms of
    divergence and gradient.
    """

    def __init__(self, channels: int, vectors: int, num_basis: int) -> None:
        super().__init__()
        inputs = channels + vectors
        self.split = [channels, vectors]
        self.mix = nn.Linear(inputs, inputs, bias_attr=False)
        self.gate = nn.Linear(inputs, inputs)
        self.radial = nn.Linear(
            num_basis,
            2 * inputs + vectors,
            weight_attr=nn.initializer.Normal(std=1.0),
            bias_attr=False,
        )

    def forward(self, x: Features, geo: Geometry) -> Features:
        channels, vectors = self.split
        width = channels + 3 * vectors
        atoms = paddle.concat(
            [x.s, x.v.reshape([-1, 3 * vectors])], axis=-1
        )  # [N, C + 3V]
        atoms = paddle.gather(atoms, geo.pad)  # gaps meet zeros in cos and sin
        atoms = atoms.reshape([geo.cos.shape[0], -1, width])  # [S, P, C + 3V]

        # f = re - i im, each [S, K, C + 3V]
        re = paddle.matmul(geo.cos, atoms, transpose_x=True) * geo.density
        im = paddle.matmul(geo.sin, atoms, transpose_x=True) * geo.density
        re_s, re_v = self._kinds(re)
        im_s, im_v = self._kinds(im)
        re_l = (re_v * geo.k_unit).sum(axis=2)  # [S, K, V]
        im_l = (im_v * geo.k_unit).sum(axis=2)
        re_s = paddle.concat([re_s, im_l], axis=-1)  # i (a - i b) = b + i a
        im_s = paddle.concat([im_s, -re_l], axis=-1)

        shift, weight, weight_v = self.radial(geo.k_radial).split(
            [channels + vectors, channels + vectors, vectors], axis=-1
        )
        modulus = (re_s.square() + im_s.square() + EPS).sqrt()
        weight = weight * F.sigmoid(self.gate(modulus) + shift)
        re_s, re_l = (self.mix(re_s) * weight).split(self.split, axis=-1)
        im_s, im_l = (self.mix(im_s) * weight).split(self.split, axis=-1)
        weight_v = weight_v.unsqueeze(2)
        re_v = re_v * weight_v + geo.k_unit * im_l.unsqueeze(2)
        im_v = im_v * weight_v - geo.k_unit * re_l.unsqueeze(2)

        shape = [*re_s.shape[:2], 3 * vectors]
        re = paddle.concat([re_s, re_v.reshape(shape)], axis=-1)
        im = paddle.concat([im_s, im_v.reshape(shape)], axis=-1)
        # both members of each +-k pair: twice the real part
        atoms = 2.0 * (paddle.matmul(geo.cos, re) + paddle.matmul(geo.sin, im))
        atoms = paddle.gather(atoms.reshape([-1, width]), geo.place)
        s, v = atoms.split([channels, 3 * vectors], axis=-1)
        return Features(s, v.reshape([-1, 3, vectors]))

    def _kinds(self, f: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Split [S, K, C + 3V] into [S, K, C] and [S, K, 3, V]."""
        channels, vectors = self.split
        s, v = f.split([channels, 3 * vectors], axis=-1)
        return s, v.reshape([*f.shape[:2], 3, vectors])


class FrequencyConv(nn.Layer):
    """The path g2g: mix, Fourier unit, then mix with the unit's own input."""

    def __init__(self, channels: int, vectors: int, num_basis: int) -> None:
        super().__init__()
        self.before = Mix(channels, vectors, channels, vectors)
        self.unit = FourierUnit(channels, vectors, num_basis)
        self.after = Mix(2 * channels, 2 * vectors, channels, vectors)

    def forward(self, x: Features, geo: Geometry) -> Features:
        x = self.before(x)
        return self.after(concat([x, self.unit(x, geo)]))


class InteractionBlock(nn.Layer):
    """SFIB: ``out_l = l2l(x_l) + g2l(x_g)``, ``out_g = l2g(x_l) + g2g(x_g)``.

    Args:
        halves: ``"both"``, or one half alone, for comparisons.
        exchange: With both halves, whether the paths g2l and l2g exist.
    """

    def __init__(
        self,
        channels: int,
        vectors: int,
        num_basis: int,
        halves: Literal["both", "spatial", "frequency"],
        exchange: bool,
    ) -> None:
        super().__init__()
        sizes = (channels, vectors, num_basis)
        self.l2l = Convolution(*sizes) if halves != "frequency" else None
        self.g2g = FrequencyConv(*sizes) if halves != "spatial" else None
        self.exchange = exchange and halves == "both"
        if self.exchange:
            self.g2l = Convolution(*sizes)
            self.l2g = Convolution(*sizes)
        self.act = nn.LayerList(
            GatedActivation(channels, vectors)
            for _ in range(2 if halves == "both" else 1)
        )

    def forward(self, halves: list[Features], geo: Geometry) -> list[Features]:
        out = []
        if self.l2l is not None:
            local = densities(halves[0], geo)
            out.append(self.l2l(local))
        if self.g2g is not None:
            out.append(self.g2g(halves[-1], geo))
        if self.exchange:
            out = [
                add(out[0], self.g2l(densities(halves[1], geo))),
                add(out[1], self.l2g(local)),
            ]
        return [act(x) for act, x in zip(self.act, out)]


class SFINBackbone(nn.Layer):
    """Embedding (head), residual blocks of two SFIBs each, long skip.

    Args:
        channels: Scalar channels of each half.
        vectors: Vector channels of each half.
        num_blocks: Residual blocks; each holds two interaction blocks.
        cutoff: Distance [Å] at which messages end; at most the graph's cutoff.
        k_cut: Radius [1/Å] of the sphere of wave vectors; at most the graph's.
        num_basis: Radial basis functions, of distances and of wave vectors.
        halves: ``"both"``, ``"spatial"`` or ``"frequency"``.
        exchange: Whether the halves hear each other.
        drop_path: Share of structures that pass a residual block by in training
            (stochastic depth).

    Returns of ``forward``: :class:`Features` with both halves side by side, and the
    :class:`Geometry`.
    """

    def __init__(
        self,
        channels: int = 32,
        vectors: int = 16,
        num_blocks: int = 2,
        cutoff: float = 5.0,
        k_cut: float = 1.0,
        num_basis: int = 8,
        halves: Literal["both", "spatial", "frequency"] = "both",
        exchange: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_path < 1.0:
            raise ValueError(f"drop_path is a share below 1, got {drop_path!r}")
        self.drop_path = drop_path
        self.num_halves = 2 if halves == "both" else 1
        self.out_channels = channels * self.num_halves
        self.out_vectors = vectors * self.num_halves
        self.k_cut = k_cut
        self.distance_basis = RadialBasis(cutoff, num_basis)
        self.k_basis = RadialBasis(k_cut, num_basis)
        self.element = Lookup(MAX_ATOMIC_NUMBER + 1, self.out_channels)
        self.tag = Lookup(NUM_TAGS, self.out_channels)
        self.free = Lookup(2, self.out_channels)
        self.head = Mix(self.out_channels + 1, 1, self.out_channels, self.out_vectors)
        self.blocks = nn.LayerList(
            nn.LayerList(
                InteractionBlock(channels, vectors, num_basis, halves, exchange)
                for _ in range(2)
            )
            for _ in range(num_blocks)
        )

    def forward(
        self,
        batch: dict,
        positions: paddle.Tensor | None = None,
        condition: paddle.Tensor | None = None,
    ) -> tuple[Features, Geometry]:
        """Describe every atom.

        Args:
            batch: ``structure_array`` and ``graph`` as the data set makes them.
            positions: Where the atoms are, [N, 3] Å; by default ``cart_coords``. The
                graph stays that of ``cart_coords``: its edges follow the atoms, and
                the envelope fades those that become long.
            condition: Extra scalars [N, out_channels] added to the embedding.
        """
        atoms = batch["structure_array"]
        start = atoms["cart_coords"]
        positions = start if positions is None else positions
        geo = self.geometry(batch, positions)

        moved = (positions - start).unsqueeze(-1)  # [N, 3, 1]
        s = (
            self.element(atoms["atom_types"])
            + self.tag(atoms["tags"])
            + self.free(atoms["fixed"].astype("int64"))
        )
        if condition is not None:
            s = s + condition
        length = (moved.square().sum(axis=1) + EPS).sqrt()
        x = self.head(Features(paddle.concat([s, length], axis=-1), moved))
        halves = [
            Features(s, v)
            for s, v in zip(
                x.s.split(self.num_halves, axis=-1), x.v.split(self.num_halves, axis=-1)
            )
        ]
        head = halves
        for pair in self.blocks:
            identity = halves
            for block in pair:
                halves = block(halves, geo)
            if self.drop_path and self.training:
                kept = self.kept_paths(atoms["num_atoms"], start.dtype)
                halves = [Features(x.s * kept, x.v * kept.unsqueeze(1)) for x in halves]
            halves = [add(x, y) for x, y in zip(halves, identity)]
        return concat([add(x, y) for x, y in zip(halves, head)]), geo

    def kept_paths(self, num_atoms: paddle.Tensor, dtype: str) -> paddle.Tensor:
        """Draw which structures go through a block, [N, 1]; 0, or 1 / share kept."""
        share = 1.0 - self.drop_path
        kept = (paddle.rand(num_atoms.shape) < share).astype(dtype) / share
        return paddle.repeat_interleave(kept, num_atoms).unsqueeze(1)

    def geometry(self, batch: dict, positions: paddle.Tensor) -> Geometry:
        """Turn positions [N, 3] and the batch's graph into a :class:`Geometry`."""
        atoms, graph = batch["structure_array"], batch["graph"]
        lattice, num_atoms = atoms["lattice"], atoms["num_atoms"]
        dtype = positions.dtype

        starts = segment_starts(num_atoms)
        structure = paddle.repeat_interleave(
            paddle.arange(num_atoms.shape[0]), num_atoms
        )
        first = paddle.gather(starts, structure)  # [N] first atom of own structure
        edge_start = paddle.repeat_interleave(starts, graph["num_edges"])
        centre = graph["edge_index"][:, 0] + edge_start
        degree = paddle.bincount(centre, minlength=positions.shape[0])
        slot = pad_index(degree)  # [N, M]
        there = (slot < centre.shape[0]).astype(dtype).unsqueeze(-1)
        edges = paddle.concat(
            [graph["edge_index"][:, 1:], graph["pbc_offset"]], axis=-1
        )
        edges = paddle.gather(with_empty_row(edges), slot.flatten())
        neighbour = edges[:, 0] + paddle.repeat_interleave(first, slot.shape[1])
        image = paddle.matmul(
            edges[:, 1:].astype(dtype).reshape([*slot.shape, 3]),
            paddle.gather(lattice, structure),
        )
        vector = (
            paddle.gather(positions, neighbour).reshape([*slot.shape, 3])
            - positions.unsqueeze(1)
            + image
        )  # [N, M, 3]
        distance = (vector.square().sum(axis=-1) + EPS).sqrt()
        radial = self.distance_basis(distance) * there
        unit = (vector / distance.unsqueeze(-1)).unsqueeze(-1)

        pad = pad_index(num_atoms)  # [S, P]
        k_pad = pad_index(graph["num_k"])  # [S, K]
        m = paddle.gather(
            with_empty_row(graph["k_index"].astype(dtype)), k_pad.flatten()
        ).reshape([*k_pad.shape, 3])
        reciprocal = 2.0 * math.pi * paddle.linalg.inv(lattice).transpose([0, 2, 1])
        k = paddle.matmul(m, reciprocal)  # [S, K, 3]
        k_length = (k.square().sum(axis=-1) + EPS).sqrt()
        k_there = (k_pad < graph["num_k"].sum()).astype(dtype).unsqueeze(-1)
        in_cell = (pad < num_atoms.sum()).astype(dtype).unsqueeze(-1)
        pad = pad.clip(max=positions.shape[0] - 1)
        x = paddle.gather(positions, pad.flatten())
        phase = paddle.matmul(x.reshape([*pad.shape, 3]), k, transpose_y=True)
        mask = in_cell * k_there.transpose([0, 2, 1])
        sphere = 6.0 * math.pi**2 / self.k_cut**3
        column = paddle.arange(positions.shape[0]) - first
        return Geometry(
            neighbour=neighbour,
            radial=radial,
            directed=unit * radial.unsqueeze(2),
            pad=pad.flatten(),
            place=structure * pad.shape[1] + column,
            cos=phase.cos() * mask,
            sin=phase.sin() * mask,
            k_unit=(k / k_length.unsqueeze(-1)).unsqueeze(-1),
            k_radial=self.k_basis(k_length) * k_there,
            density=sphere / paddle.linalg.det(lattice).abs().reshape([-1, 1, 1]),
        )
