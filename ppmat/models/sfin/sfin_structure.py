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

"""The structure network: the image network's blocks, with atoms in place of pixels.

Figure 5 of the paper (Li et al., CVPR 2025, arXiv:2504.02555; image network in
``sfin.py``) and its counterparts here, in which messages along the edges of a periodic
radius graph replace the 3x3 convolution, and structure factors replace the FFT:

- 5a, the network: :class:`SFINBackbone`, with its embedding as head, residual blocks of
  two interactive blocks each, and the long skip;
- 5b, the interactive block: :class:`InteractionBlock`; its convolutions are
  :func:`densities` and :class:`Convolution`, its BatchNorm and ReLU
  :class:`GatedActivation`;
- 5c, the frequency convolution module: :class:`FrequencyConv`, whose boxes are
  :class:`FourierUnit`.

Each half, spatial or frequency, carries scalar channels and vector channels; vectors
turn with the structure. Functions on atoms, which the heads share, come first. Blocks
take their sizes as ``channels`` (``D``), ``vectors`` (``V``), ``num_basis`` (``R``).

Shapes: ``N`` atoms, ``S`` structures, ``E`` edges, ``D`` scalar and ``V`` vector
channels of one half, ``R`` radial basis functions. Padded to the largest count in the
batch: ``M`` neighbours of an atom, ``P`` atoms and ``K`` reciprocal vectors of a
structure. Lengths are in Å, reciprocal vectors in 1/Å, cell vectors are rows.
``docs/oc20/sfin_structure.md`` derives invariances and normalisation.
"""

from __future__ import annotations

import math
from typing import Annotated
from typing import Literal
from typing import NamedTuple

import paddle
from paddle import nn
from paddle.nn import functional as F

from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range

MAX_ATOMIC_NUMBER = 118
NUM_TAGS = 3  # 0 sub-surface, 1 surface, 2 adsorbate
EPS = 1e-8  # added below square roots, whose slope is infinite at 0; Å² or 1/Å²


class Features(NamedTuple):
    """Scalar and vector channels of atoms."""

    s: paddle.Tensor  # [N, D]
    v: paddle.Tensor  # [N, 3, V]


class Geometry(NamedTuple):
    """Positions as the blocks need them, computed once in a forward pass.

    Padding of ``neighbour`` and ``pad`` is any valid row, since zeros multiply it.
    """

    neighbour: paddle.Tensor  # [N * M] row of each neighbour
    radial: paddle.Tensor  # [N, M, R] radial basis of the distance, 0 in padding
    directed: paddle.Tensor  # [N, M, 3, R] radial times the direction
    pad: paddle.Tensor  # [S * P] row of the atom at each padded place
    place: paddle.Tensor  # [N] padded place of each atom
    cos: paddle.Tensor  # [S, P, K] cos(k.x), 0 in padding
    sin: paddle.Tensor  # [S, P, K] sin(k.x), 0 in padding
    k_unit: paddle.Tensor  # [S, K, 3, 1] direction of k, 0 in padding
    k_radial: paddle.Tensor  # [S, K, R] radial basis of |k|, 0 in padding
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
    """Sum the values [N] of each structure's atoms, to [S]."""
    count = num_atoms.shape[0]
    structure = paddle.repeat_interleave(paddle.arange(count), num_atoms)  # [N]
    zeros = paddle.zeros([count], dtype=values.dtype)
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


def displacement_head(vectors: int) -> nn.Linear:
    """Return the head from vector channels to displacements, [N, 3, V] to [N, 3, 1].

    Its small weights let training start near displacements of zero.
    """
    return nn.Linear(
        vectors, 1, weight_attr=nn.initializer.Normal(std=0.01), bias_attr=False
    )


class RadialBasis(nn.Layer):
    """Gaussians on [0, cutoff], times an envelope that ends smoothly at the cutoff.

    The envelope is ``1 - 10 u^3 + 15 u^4 - 6 u^5`` with ``u = x / cutoff``. Its first
    two derivatives vanish at both ends, so energies built on it are smooth.

    Args:
        cutoff: End of the range, Å for distances, 1/Å for reciprocal vectors.
        num_basis: Number of Gaussians, ``R``.
    """

    def __init__(self, cutoff: float, num_basis: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.width = cutoff / num_basis
        self.register_buffer("centers", paddle.linspace(0.0, cutoff, num_basis))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [..., R] of lengths [...]."""
        u = (x / self.cutoff).clip(max=1.0)
        envelope = 1.0 + u * u * u * (u * (15.0 - 6.0 * u) - 10.0)
        gauss = paddle.exp(
            -0.5 * ((x.unsqueeze(-1) - self.centers) / self.width).square()
        )  # [..., R]
        return gauss * envelope.unsqueeze(-1)


class Mix(nn.Layer):
    """Mix scalar and vector channels; vectors have no bias, so they turn."""

    def __init__(self, in_s: int, in_v: int, out_s: int, out_v: int) -> None:
        super().__init__()
        self.scalar = nn.Linear(in_s, out_s)
        self.vector = nn.Linear(in_v, out_v, bias_attr=False)

    def forward(self, x: Features) -> Features:
        """Return [N, out_s] and [N, 3, out_v] of [N, in_s] and [N, 3, in_v]."""
        return Features(self.scalar(x.s), self.vector(x.v))


class Lookup(nn.Layer):
    """Rows of a learned table, [N] to [N, channels].

    Paddle's Embedding has no second derivative, which forces in a loss need.
    """

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.weight = self.create_parameter(
            [rows, channels], default_initializer=nn.initializer.Normal(std=0.5)
        )

    def forward(self, index: paddle.Tensor) -> paddle.Tensor:
        """Return the rows [N, channels] at ``index`` [N]."""
        return paddle.gather(self.weight, index)


class ChannelNorm(nn.Layer):
    """Layer normalisation over channels, from operators with second derivatives."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = self.create_parameter(
            [channels], default_initializer=nn.initializer.Constant(1.0)
        )
        self.bias = self.create_parameter([channels], is_bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [N, D] of [N, D]."""
        x = x - x.mean(axis=-1, keepdim=True)
        scale = (x.square().mean(axis=-1, keepdim=True) + 1e-5).rsqrt()  # [N, 1]
        return x * scale * self.weight + self.bias


class GatedActivation(nn.Layer):
    """The counterpart of BatchNorm and ReLU in Fig. 5b.

    Scalars and vectors are normalised; then scalars gate vectors, and vector lengths
    enter the scalars. It uses one atom at a time, so a batch gives the results of its
    single structures. Long vectors are shortened and short ones kept, because dividing
    by a length near 0 would turn rounding errors into directions.
    """

    def __init__(self, channels: int, vectors: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.length = nn.Linear(vectors, vectors, bias_attr=False)
        self.hidden = nn.Linear(channels + vectors, channels)
        self.out = nn.Linear(channels, channels + vectors)
        self.split = [channels, vectors]

    def forward(self, x: Features) -> Features:
        """Return scalars [N, D] and vectors [N, 3, V] of the same shapes."""
        size = x.v.square().sum(axis=1, keepdim=True).mean(axis=-1, keepdim=True)
        v = x.v * (1.0 + size).rsqrt()  # [N, 3, V]; size is [N, 1, 1]
        length = (self.length(v).square().sum(axis=1) + EPS).sqrt()  # [N, V]
        hidden = F.silu(self.hidden(paddle.concat([self.norm(x.s), length], axis=-1)))
        s, gate = self.out(hidden).split(self.split, axis=-1)  # [N, D], [N, V]
        return Features(s, v * gate.unsqueeze(1))


class Densities(NamedTuple):
    """Sums over an atom's neighbours, weighted by distance and direction.

    They correspond to the nine pixels below the kernel of a 3x3 convolution.
    """

    s_s: paddle.Tensor  # [N, R D] scalars, by distance
    s_v: paddle.Tensor  # [N, R V] vectors along the direction to the neighbour
    v_s: paddle.Tensor  # [N, 3, R D] scalars, by direction
    v_v: paddle.Tensor  # [N, 3, V R] vectors, by distance


def densities(x: Features, geo: Geometry) -> Densities:
    """Sum the channels of the neighbours, as products of small matrices only."""
    n, m, r = geo.radial.shape
    d, v3 = x.s.shape[-1], 3 * x.v.shape[-1]
    s = paddle.gather(x.s, geo.neighbour).reshape([n, m, d])
    v = paddle.gather(x.v.reshape([n, v3]), geo.neighbour).reshape([n, m, v3])
    s_s = paddle.matmul(geo.radial, s, transpose_x=True)  # [N, R, D]
    s_v = paddle.matmul(
        geo.directed.reshape([n, m * 3, r]), v.reshape([n, m * 3, -1]), transpose_x=True
    )  # [N, R, V]
    v_s = paddle.matmul(geo.directed.reshape([n, m, 3 * r]), s, transpose_x=True)
    v_v = paddle.matmul(v, geo.radial, transpose_x=True)  # [N, 3 V, R]; v_s [N, 3 R, D]
    return Densities(
        s_s.reshape([n, -1]),
        s_v.reshape([n, -1]),
        v_s.reshape([n, 3, -1]),
        v_v.reshape([n, 3, -1]),
    )


class Convolution(nn.Layer):
    """The counterpart of a Conv box in Fig. 5b: mix the neighbours' densities."""

    def __init__(self, channels: int, vectors: int, num_basis: int) -> None:
        super().__init__()
        taps_s, taps_v = num_basis * channels, num_basis * vectors
        self.s_s = nn.Linear(taps_s, channels)
        self.s_v = nn.Linear(taps_v, channels, bias_attr=False)
        self.v_s = nn.Linear(taps_s, vectors, bias_attr=False)
        self.v_v = nn.Linear(taps_v, vectors, bias_attr=False)

    def forward(self, x: Densities) -> Features:
        """Return scalars [N, D] and vectors [N, 3, V]."""
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
    """The counterpart of the boxes in Fig. 5c: structure factors, filtered and mixed.

    ``f(k) = (v_c / V) sum_j h_j exp(-i k.x_j)`` with the cell volume ``V``. A cell of
    volume ``v_c = 6 pi^2 / k_cut^3`` has one reciprocal vector in the sphere on
    average; the ratio keeps numbers of order one.

    A radial basis of ``|k|`` replaces the image network's coordinate ramps. The
    non-linearity acts on the modulus, because functions of real and imaginary part
    depend on the origin. The longitudinal part ``i k^.f_v(k)`` of vector channels joins
    the scalars, and scalars give vectors along ``i k^``. These are the Fourier forms of
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
        """Return scalars [N, D] and vectors [N, 3, V] of the same shapes."""
        channels, vectors = self.split
        width = channels + 3 * vectors
        atoms = paddle.concat(
            [x.s, x.v.reshape([-1, 3 * vectors])], axis=-1
        )  # [N, D + 3 V]
        atoms = paddle.gather(atoms, geo.pad)  # cos, sin are 0 in padding
        atoms = atoms.reshape([geo.cos.shape[0], -1, width])  # [S, P, D + 3 V]

        # f = re - i im, each [S, K, D + 3 V]
        re = paddle.matmul(geo.cos, atoms, transpose_x=True) * geo.density
        im = paddle.matmul(geo.sin, atoms, transpose_x=True) * geo.density
        re_s, re_v = self._kinds(re)  # [S, K, D], [S, K, 3, V]
        im_s, im_v = self._kinds(im)
        re_l = (re_v * geo.k_unit).sum(axis=2)  # [S, K, V]
        im_l = (im_v * geo.k_unit).sum(axis=2)
        re_s = paddle.concat([re_s, im_l], axis=-1)  # [S, K, D + V]; i (a-ib) = b + ia
        im_s = paddle.concat([im_s, -re_l], axis=-1)

        shift, weight, weight_v = self.radial(geo.k_radial).split(
            [channels + vectors, channels + vectors, vectors], axis=-1
        )
        modulus = (re_s.square() + im_s.square() + EPS).sqrt()  # [S, K, D + V]
        weight = weight * F.sigmoid(self.gate(modulus) + shift)
        re_s, re_l = (self.mix(re_s) * weight).split(self.split, axis=-1)
        im_s, im_l = (self.mix(im_s) * weight).split(self.split, axis=-1)
        weight_v = weight_v.unsqueeze(2)  # [S, K, 1, V]
        re_v = re_v * weight_v + geo.k_unit * im_l.unsqueeze(2)
        im_v = im_v * weight_v - geo.k_unit * re_l.unsqueeze(2)

        shape = [*re_s.shape[:2], 3 * vectors]
        re = paddle.concat([re_s, re_v.reshape(shape)], axis=-1)
        im = paddle.concat([im_s, im_v.reshape(shape)], axis=-1)
        # A sum over k and -k is twice the real part. [S, P, D + 3 V]
        atoms = 2.0 * (paddle.matmul(geo.cos, re) + paddle.matmul(geo.sin, im))
        atoms = paddle.gather(atoms.reshape([-1, width]), geo.place)
        s, v = atoms.split([channels, 3 * vectors], axis=-1)
        return Features(s, v.reshape([-1, 3, vectors]))

    def _kinds(self, f: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Split [S, K, D + 3 V] into [S, K, D] and [S, K, 3, V]."""
        channels, vectors = self.split
        s, v = f.split([channels, 3 * vectors], axis=-1)
        return s, v.reshape([*f.shape[:2], 3, vectors])


class FrequencyConv(nn.Layer):
    """The counterpart of the FCM, Fig. 5c: mix, Fourier unit, mix with its input."""

    def __init__(self, channels: int, vectors: int, num_basis: int) -> None:
        super().__init__()
        self.before = Mix(channels, vectors, channels, vectors)
        self.unit = FourierUnit(channels, vectors, num_basis)
        self.after = Mix(2 * channels, 2 * vectors, channels, vectors)

    def forward(self, x: Features, geo: Geometry) -> Features:
        """Return scalars [N, D] and vectors [N, 3, V] of the same shapes."""
        x = self.before(x)
        return self.after(concat([x, self.unit(x, geo)]))


class InteractionBlock(nn.Layer):
    """The counterpart of the spatial-frequency interactive block, Fig. 5b.

    ``out_l = l2l(x_l) + g2l(x_g)`` for the spatial half, and
    ``out_g = l2g(x_l) + g2g(x_g)`` for the frequency half.

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
        """Return the halves, scalars [N, D] and vectors [N, 3, V] each."""
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
    """The counterpart of Fig. 5a: embedding, residual blocks, long skip.

    The models :class:`~ppmat.models.SFINFlow` and :class:`~ppmat.models.SFINEnergy`
    add heads. In their YAML::

        Model:
          __init_params__:
            backbone_cfg: {channels: 32, vectors: 16, cutoff: 5.0, k_cut: 1.0}

    Args:
        channels: Scalar channels of each half, ``D``.
        vectors: Vector channels of each half, ``V``.
        num_blocks: Residual blocks; each holds two interactive blocks.
        cutoff: Distance [Å] at which messages end; at most the graph's cutoff.
        k_cut: Radius [1/Å] of the sphere of reciprocal vectors; at most the graph's.
        num_basis: Radial basis functions, of distances and of reciprocal vectors.
        halves: ``"both"``, ``"spatial"`` or ``"frequency"``.
        exchange: Whether the halves exchange features (the paths l2g and g2l).
        drop_path: Fraction of structures that skip a residual block in training
            (stochastic depth).

    Raises:
        InputError: ``drop_path`` outside of [0, 1).
    """

    def __init__(
        self,
        channels: Annotated[int, Range(1, 4096)] = 32,
        vectors: Annotated[int, Range(1, 4096)] = 16,
        num_blocks: Annotated[int, Range(1, 256)] = 2,
        cutoff: Annotated[float, Range(above=0, most=50)] = 5.0,
        k_cut: Annotated[float, Range(0, 10)] = 1.0,
        num_basis: Annotated[int, Range(1, 1024)] = 8,
        halves: Literal["both", "spatial", "frequency"] = "both",
        exchange: bool = True,
        drop_path: Annotated[float, Range(0, below=1)] = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_path < 1.0:
            raise InputError(f"drop_path is {drop_path!r}", wanted="a fraction below 1")
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
        """Compute the features of every atom.

        Args:
            batch: ``structure_array`` and ``graph`` as the data set makes them.
            positions: Positions of the atoms, [N, 3] Å; by default ``cart_coords``. The
                graph stays that of ``cart_coords``. Its edges follow the atoms, and
                the envelope fades those that become long.
            condition: Extra scalars [N, out_channels] added to the embedding.

        Returns:
            :class:`Features` of both halves side by side, ``2 D`` scalar and ``2 V``
            vector channels (``D`` and ``V`` of one half alone), and the geometry.
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
        )  # [N, 2 D]
        if condition is not None:
            s = s + condition
        length = (moved.square().sum(axis=1) + EPS).sqrt()  # [N, 1]
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
                kept = self.draw_kept_paths(atoms["num_atoms"], start.dtype)
                halves = [Features(x.s * kept, x.v * kept.unsqueeze(1)) for x in halves]
            halves = [add(x, y) for x, y in zip(halves, identity)]
        return concat([add(x, y) for x, y in zip(halves, head)]), geo

    def draw_kept_paths(
        self, num_atoms: paddle.Tensor, dtype: paddle.dtype
    ) -> paddle.Tensor:
        """Draw the factor of a block's output, [N, 1]: 0, or 1 / fraction kept."""
        fraction = 1.0 - self.drop_path
        kept = (paddle.rand(num_atoms.shape) < fraction).astype(dtype) / fraction
        return paddle.repeat_interleave(kept, num_atoms).unsqueeze(1)

    def geometry(self, batch: dict, positions: paddle.Tensor) -> Geometry:
        """Return the :class:`Geometry` of positions [N, 3] and the batch's graph."""
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
        distance = (vector.square().sum(axis=-1) + EPS).sqrt()  # [N, M]
        radial = self.distance_basis(distance) * is_edge  # [N, M, R]
        unit = (vector / distance.unsqueeze(-1)).unsqueeze(-1)  # [N, M, 3, 1]

        pad = pad_index(num_atoms)  # [S, P]
        k_pad = pad_index(graph["num_k"])  # [S, K]
        m = paddle.gather(
            with_empty_row(graph["k_index"].astype(dtype)), k_pad.flatten()
        ).reshape([*k_pad.shape, 3])  # [S, K, 3] Miller indices
        reciprocal = 2.0 * math.pi * paddle.linalg.inv(lattice).transpose([0, 2, 1])
        k = paddle.matmul(m, reciprocal)  # [S, K, 3]
        k_length = (k.square().sum(axis=-1) + EPS).sqrt()  # [S, K]
        is_k = (k_pad < graph["num_k"].sum()).astype(dtype).unsqueeze(-1)  # [S, K, 1]
        is_atom = (pad < num_atoms.sum()).astype(dtype).unsqueeze(-1)  # [S, P, 1]
        pad = pad.clip(max=positions.shape[0] - 1)
        x = paddle.gather(positions, pad.flatten())
        phase = paddle.matmul(x.reshape([*pad.shape, 3]), k, transpose_y=True)
        mask = is_atom * is_k.transpose([0, 2, 1])  # [S, P, K], as phase
        sphere = 6.0 * math.pi**2 / self.k_cut**3  # v_c, Å³
        column = paddle.arange(positions.shape[0]) - first  # [N] place in own structure
        return Geometry(
            neighbour=neighbour,
            radial=radial,
            directed=unit * radial.unsqueeze(2),
            pad=pad.flatten(),
            place=structure * pad.shape[1] + column,
            cos=phase.cos() * mask,
            sin=phase.sin() * mask,
            k_unit=(k / k_length.unsqueeze(-1)).unsqueeze(-1),
            k_radial=self.k_basis(k_length) * is_k,
            density=sphere / paddle.linalg.det(lattice).abs().reshape([-1, 1, 1]),
        )
