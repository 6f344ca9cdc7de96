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
  :class:`Messages` and :class:`Convolution`, its BatchNorm and ReLU
  :class:`GatedActivation`;
- 5c, the frequency convolution module: :class:`FrequencyConv`, whose boxes are
  :class:`FourierUnit`.

Each half, spatial or frequency, carries scalar channels and vector channels; vectors
turn with the structure. ``structure_geometry.py`` makes what the blocks see of
positions.

Shapes: ``N`` atoms, ``S`` structures, ``M`` neighbours of an atom, ``D`` scalar and
``V`` vector channels, ``Q`` message channels, each of one half or of both side by side,
``R`` radial functions, ``P`` atoms and ``K`` reciprocal vectors of a structure. Lengths
are in Å.
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

from ppmat.models.sfin.structure_geometry import EPS
from ppmat.models.sfin.structure_geometry import Geometry
from ppmat.models.sfin.structure_geometry import StructureGeometry
from ppmat.utils.element_properties import MAX_ATOMIC_NUMBER
from ppmat.utils.errors import InputError
from ppmat.utils.ranges import Range

# Hints for files of former versions, by the name of a weight that only they have.
FORMER_WEIGHTS = {
    "backbone.distance_basis.centers": "These weights were trained before the blocks "
    "of the network changed. Train again, or predict with the code that made them."
}
SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2  # tags
NUM_TAGS = 3


class Sizes(NamedTuple):
    """Channels of one half, or of both side by side."""

    channels: int  # D
    vectors: int  # V
    messages: int  # Q, scalars that an atom sends
    vector_messages: int = 0  # vectors that it sends
    tensors: int = 0  # scalars that it sends for sums of degree 2

    def times(self, ratio: float) -> Sizes:
        """Return ``ratio`` of the channels, at least one of each kind that exists."""
        return Sizes(*(max(round(ratio * size), min(size, 1)) for size in self))


class Features(NamedTuple):
    """Channels of atoms."""

    s: paddle.Tensor  # [N, D] scalars
    v: paddle.Tensor  # [N, 3, V] vectors


class Sums(NamedTuple):
    """What the neighbours of each atom send, summed with the taps."""

    s: paddle.Tensor  # [N, R Q] of scalars
    v: paddle.Tensor  # [N, 3, R Q] of scalars times directions
    carried: paddle.Tensor | None  # [N, 3, R times vector messages] of vectors
    t: paddle.Tensor | None  # [N, 5, R times tensors] of scalars times degree 2


def add(a: Features, b: Features) -> Features:
    """Add channel by channel."""
    return Features(a.s + b.s, a.v + b.v)


def concat(halves: list[Features]) -> Features:
    """Put scalars and vectors of halves side by side in channels."""
    if len(halves) == 1:
        return halves[0]
    return Features(
        paddle.concat([x.s for x in halves], axis=-1),
        paddle.concat([x.v for x in halves], axis=-1),
    )


def split(x: Features, sizes: list[Sizes]) -> list[Features]:
    """Return the halves whose channels are side by side."""
    if len(sizes) == 1:
        return [x]
    s = x.s.split([size.channels for size in sizes], axis=-1)
    v = x.v.split([size.vectors for size in sizes], axis=-1)
    return [Features(*half) for half in zip(s, v)]


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


def displacement_head(vectors: int) -> nn.Linear:
    """Return the head from vector channels to displacements, [N, 3, V] to [N, 3, 1].

    Its small weights let training start near displacements of zero.
    """
    return nn.Linear(
        vectors, 1, weight_attr=nn.initializer.Normal(std=0.01), bias_attr=False
    )


class Mix(nn.Layer):
    """Mix scalar and vector channels; vectors have no bias, so they turn."""

    def __init__(self, in_s: int, in_v: int, out_s: int, out_v: int) -> None:
        super().__init__()
        self.scalar = nn.Linear(in_s, out_s)
        self.vector = nn.Linear(in_v, out_v, bias_attr=False)

    def forward(self, x: Features) -> Features:
        """Return [N, out_s] and [N, 3, out_v] of [N, in_s] and [N, 3, in_v]."""
        return Features(self.scalar(x.s), self.vector(x.v))


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

    All are normalised; then scalars gate vectors, and the lengths of vectors enter the
    scalars. With ``products``, so do gated scalar products of vectors, as in the update
    of PaiNN (Schütt et al., ICML 2021, arXiv:2102.03150). It uses one atom at a time,
    so a batch gives the results of its single structures.
    """

    rounding = EPS  # of lengths, see SFINPotential

    def __init__(self, channels: int, vectors: int, products: bool = False) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.length = nn.Linear(vectors, vectors, bias_attr=False)
        self.hidden = nn.Linear(channels + vectors, channels)
        self.out = nn.Linear(channels, channels + vectors)
        self.split = [channels, vectors]
        self.factors = None
        if products:
            self.factors = nn.Linear(vectors, 2 * vectors, bias_attr=False)
            self.product = nn.Linear(vectors, channels, bias_attr=False)
            self.gate = nn.Linear(channels, channels)

    def forward(self, x: Features) -> Features:
        """Return scalars [N, D] and vectors [N, 3, V] of the same shapes."""
        v = shorten(x.v)
        size = lengths(self.length(v), self.rounding)
        inputs = paddle.concat([self.norm(x.s), size], axis=-1)
        hidden = F.silu(self.hidden(inputs))
        s, gate = self.out(hidden).split(self.split, axis=-1)  # [N, D], [N, V]
        if self.factors is not None:
            s = s + self.gate(hidden) * self.product(dot_halves(self.factors(v)))
        return Features(s, v * gate.unsqueeze(1))


def dot_halves(x: paddle.Tensor) -> paddle.Tensor:
    """Return the products [N, C] of the first and last channels of [N, axes, 2 C]."""
    a, b = x.split(2, axis=-1)
    return (a * b).sum(axis=1)


def shorten(x: paddle.Tensor) -> paddle.Tensor:
    """Normalise long vectors [N, 3, C], and keep short ones.

    Dividing by a length near 0 would turn rounding errors into directions.
    """
    size = x.square().sum(axis=1, keepdim=True).mean(axis=-1, keepdim=True)
    return x * (1.0 + size).rsqrt()  # size is [N, 1, 1]


def lengths(x: paddle.Tensor, rounding: float = EPS) -> paddle.Tensor:
    """Return the lengths [N, C] of vectors [N, 3, C], with ``rounding`` in squares."""
    return (x.square().sum(axis=1) + rounding).sqrt()


class Messages(nn.Layer):
    """Sum what the neighbours of each atom send, weighted by distance and direction.

    A neighbour sends ``Q`` mixtures of the scalars of each half. They are summed with
    every tap of :class:`~ppmat.models.sfin.structure_geometry.Taps`, in one product of
    matrices for each atom; no tensor for each edge and channel exists. If there are
    vector messages, vectors are summed with the radial functions; if there are tensors,
    further mixtures of scalars are summed with the taps of degree 2.
    """

    def __init__(self, sizes: list[Sizes], num_radial: int) -> None:
        super().__init__()
        local = sizes[0]
        self.send = nn.LayerList(nn.Linear(x.channels, x.messages) for x in sizes)
        self.send_v = self.send_t = None
        if local.vector_messages:
            self.send_v = nn.LayerList(
                nn.Linear(x.vectors, x.vector_messages, bias_attr=False) for x in sizes
            )
        if local.tensors:
            self.send_t = nn.LayerList(nn.Linear(x.channels, x.tensors) for x in sizes)
        self.split = [num_radial, 3 * num_radial]

    def forward(self, halves: list[Features], geo: Geometry) -> Sums:
        """Return the sums, halves side by side in the channels."""
        n, _, r = geo.radial.shape
        scalars, vectors = [x.s for x in halves], [x.v for x in halves]
        sums = summed(geo.taps, self.send, scalars, geo)  # [N, 4 R, Q]
        s, v = sums.split(self.split, axis=1)
        carried = t = None
        if self.send_v is not None:
            # [N, R, 3, vector messages] to [N, 3, R times vector messages]
            carried = summed(geo.radial, self.send_v, vectors, geo)
            carried = carried.reshape([n, r, 3, -1]).transpose([0, 2, 1, 3])
            carried = carried.reshape([n, 3, -1])
        if self.send_t is not None:
            t = summed(geo.taps_2, self.send_t, scalars, geo).reshape([n, 5, -1])
        return Sums(s.reshape([n, -1]), v.reshape([n, 3, -1]), carried, t)


def summed(
    taps: paddle.Tensor, send: nn.LayerList, x: list[paddle.Tensor], geo: Geometry
) -> paddle.Tensor:
    """Return the sums over neighbours with every tap, [N, taps, columns sent].

    Args:
        taps: Of each edge, [N, M, taps].
        send: Makes of each half what an atom sends.
        x: The halves, [N, D] or [N, 3, V].
        geo: The neighbours.
    """
    sent = [layer(half) for layer, half in zip(send, x)]
    sent = sent[0] if len(sent) == 1 else paddle.concat(sent, axis=-1)
    n, m, _ = taps.shape
    sent = paddle.gather(sent.reshape([n, -1]), geo.neighbour).reshape([n, m, -1])
    return paddle.matmul(taps, sent, transpose_x=True)


class Paths(nn.Layer):
    """The paths l2l, g2l and l2g as one matrix.

    ``[out_l, out_g] = [x_l, x_g] [[l2l, l2g], [g2l, 0]]`` for each of the taps. With
    one half alone, the matrix is l2l.

    Args:
        taps: Number of taps.
        inputs: Channels of each half that come in.
        outputs: Channels of each half that go out.
        bias: Whether to add one; vectors have none, so they turn.
    """

    def __init__(
        self, taps: int, inputs: list[int], outputs: list[int], bias: bool = False
    ) -> None:
        super().__init__()
        bound = math.sqrt(6.0 / (taps * sum(inputs) + outputs[0]))
        paths = {"l2l": (0, 0), "g2l": (1, 0), "l2g": (0, 1)}
        for name in paths if len(inputs) == 2 else ["l2l"]:
            start, end = paths[name]
            weight = self.create_parameter(
                [taps, inputs[start], outputs[end]],
                default_initializer=nn.initializer.Uniform(-bound, bound),
            )
            self.add_parameter(name, weight)
        self.bias = None
        if bias:
            self.bias = self.create_parameter([sum(outputs)], is_bias=True)
        self.exchange = len(inputs) == 2
        self.g2g = [taps, inputs[-1], outputs[-1]]  # the Fourier unit does this path

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Return [..., outputs of both] of [..., taps times inputs of both]."""
        weight = self.l2l
        if self.exchange:
            zeros = paddle.zeros(self.g2g, dtype=weight.dtype)
            to_l = paddle.concat([self.l2l, self.g2l], axis=1)
            to_g = paddle.concat([self.l2g, zeros], axis=1)
            weight = paddle.concat([to_l, to_g], axis=2)
        return F.linear(x, weight.reshape([-1, weight.shape[-1]]), self.bias)


class Convolution(nn.Layer):
    """The counterpart of the Conv boxes in Fig. 5b: mix own features and messages.

    An atom's own features are the centre tap of the 3x3 convolution. Tensors of degree
    2 enter as their scalar products only.
    """

    def __init__(self, sizes: list[Sizes], num_radial: int) -> None:
        super().__init__()
        channels, vectors, messages, carried, tensors = map(list, zip(*sizes))
        self.centre_s = Paths(1, channels, channels, bias=True)
        self.centre_v = Paths(1, vectors, vectors)
        self.scalar = Paths(num_radial, messages, channels)
        self.vector = Paths(num_radial, messages, vectors)
        self.carried = self.factors = None
        if carried[0]:
            self.carried = Paths(num_radial, carried, vectors)
        if tensors[0]:
            count = sum(tensors)
            self.factors = nn.Linear(num_radial * count, 2 * count, bias_attr=False)
            self.product = nn.Linear(count, sum(channels), bias_attr=False)

    def forward(self, x: Features, sums: Sums) -> Features:
        """Return scalars [N, D] and vectors [N, 3, V] of both halves side by side.

        Args:
            x: Features of both halves side by side.
            sums: From :class:`Messages`.
        """
        s = self.centre_s(x.s) + self.scalar(sums.s)
        v = self.centre_v(x.v) + self.vector(sums.v)
        if self.carried is not None:
            v = v + self.carried(sums.carried)
        if sums.t is not None:
            s = s + self.product(dot_halves(self.factors(sums.t)))
        return Features(s, v)


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

    rounding = EPS  # of moduli, see SFINPotential

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
        """Return scalars [N, D] and vectors [N, 3, V] of the same shapes.

        Real part and negative imaginary part are rows of the axis of size 2.
        """
        channels, vectors = self.split
        count, num_atoms, num_rows = geo.wave.shape  # S, P, 2 K
        kinds = [channels, 3 * vectors]
        atoms = paddle.concat([x.s, x.v.reshape([-1, kinds[1]])], axis=-1)
        atoms = paddle.gather(atoms, geo.pad)  # the wave is 0 in padding
        atoms = atoms.reshape([count, num_atoms, -1])  # [S, P, D + 3 V]

        f = paddle.matmul(geo.wave, atoms, transpose_x=True) * geo.density
        s, v = f.reshape([count, 2, num_rows // 2, -1]).split(kinds, axis=-1)
        v = v.reshape([*s.shape[:3], 3, vectors])  # [S, 2, K, 3, V]
        along = times_i((v * geo.k_unit).sum(axis=3))
        s = paddle.concat([s, along], axis=-1)  # [S, 2, K, D + V]

        shift, weight, weight_v = self.radial(geo.k_radial).split(
            [channels + vectors, channels + vectors, vectors], axis=-1
        )
        modulus = lengths(s, self.rounding)  # [S, K, D + V]
        weight = weight * F.sigmoid(self.gate(modulus) + shift)
        s, along = (self.mix(s) * weight.unsqueeze(1)).split(self.split, axis=-1)
        v = v * weight_v.unsqueeze([1, 3]) + geo.k_unit * times_i(along).unsqueeze(3)

        f = paddle.concat([s, v.reshape([*s.shape[:3], -1])], axis=-1)
        # A sum over k and -k is twice the real part. [S, P, D + 3 V]
        atoms = 2.0 * paddle.matmul(geo.wave, f.reshape([count, num_rows, -1]))
        atoms = paddle.gather(atoms.reshape([count * num_atoms, -1]), geo.place)
        s, v = atoms.split(kinds, axis=-1)
        return Features(s, v.reshape([-1, 3, vectors]))


def times_i(f: paddle.Tensor) -> paddle.Tensor:
    """Return ``i f`` of ``f = a - i b``, rows ``a`` and ``b`` of [S, 2, ...]."""
    a, b = f.split(2, axis=1)
    return paddle.concat([b, -a], axis=1)


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
        sizes: Sizes of the spatial and the frequency half; None for one that is left
            out, for comparisons.
        exchange: With both halves, whether the paths g2l and l2g exist.
        num_radial: Radial functions of the messages, ``R``.
        num_basis: Gaussians of the lengths of reciprocal vectors.
        products: See :class:`GatedActivation`.
    """

    def __init__(
        self,
        sizes: tuple[Sizes | None, Sizes | None],
        exchange: bool,
        num_radial: int,
        num_basis: int,
        products: bool,
    ) -> None:
        super().__init__()
        local, spectral = sizes
        exchange = exchange and None not in sizes
        self.sending = []  # sizes of the halves that send messages
        self.conv = self.g2g = None
        if local is not None:
            self.sending = [local, spectral] if exchange else [local]
            self.messages = Messages(self.sending, num_radial)
            self.conv = Convolution(self.sending, num_radial)
        if spectral is not None:
            self.g2g = FrequencyConv(spectral.channels, spectral.vectors, num_basis)
        present = [x for x in sizes if x is not None]
        acts = [GatedActivation(x.channels, x.vectors, products) for x in present]
        self.act = nn.LayerList(acts)

    def forward(self, halves: list[Features], geo: Geometry) -> list[Features]:
        """Return the halves, scalars [N, D] and vectors [N, 3, V] each."""
        out = []
        if self.conv is not None:
            sending = halves[: len(self.sending)]
            mixed = self.conv(concat(sending), self.messages(sending, geo))
            out = split(mixed, self.sending)
        if self.g2g is not None:
            own = self.g2g(halves[-1], geo)
            out[1:] = [add(own, x) for x in out[1:]] or [own]
        return [act(x) for act, x in zip(self.act, out)]


class SFINBackbone(nn.Layer):
    """The counterpart of Fig. 5a: embedding, residual blocks, long skip.

    The models :class:`~ppmat.models.SFINFlow` and :class:`~ppmat.models.SFINEnergy`
    add heads. In their YAML::

        Model:
          __init_params__:
            backbone_cfg: {channels: 48, vectors: 24, cutoff: 5.0, k_cut: 0.7}

    Args:
        channels: Scalar channels of the spatial half, ``D``.
        vectors: Vector channels of the spatial half, ``V``.
        messages: Channels of the spatial half that an atom sends to its neighbours,
            ``Q``.
        frequency_ratio: Channels of the frequency half, of each kind, as a fraction of
            those of the spatial half.
        num_blocks: Residual blocks; each holds two interactive blocks.
        cutoff: Distance [Å] at which messages end; at most the graph's cutoff.
        k_cut: Radius [1/Å] of the sphere of reciprocal vectors; at most the graph's.
        num_basis: Gaussians of distances and of the lengths of reciprocal vectors.
        num_radial: Radial functions of distances, mixtures of the Gaussians, ``R``.
        halves: ``"both"``, ``"spatial"`` or ``"frequency"``.
        exchange: Whether the halves exchange features (the paths l2g and g2l).
        vector_messages: Vector channels of the spatial half that an atom sends to its
            neighbours; 0 for none.
        products: Whether scalar products of vectors enter the scalars of an activation.
        tensors: Sums of degree 2 of the spatial half, of which scalar products enter
            the scalars; 0 for none. What the three give, and what they cost, is in
            ``docs/potentials/results.md``.
        drop_path: Fraction of structures that skip a residual block in training
            (stochastic depth).

    Raises:
        InputError: ``drop_path`` outside of [0, 1).
    """

    def __init__(
        self,
        channels: Annotated[int, Range(1, 4096)] = 48,
        vectors: Annotated[int, Range(1, 4096)] = 24,
        messages: Annotated[int, Range(1, 4096)] = 24,
        frequency_ratio: Annotated[float, Range(above=0, most=1)] = 0.25,
        num_blocks: Annotated[int, Range(1, 256)] = 2,
        cutoff: Annotated[float, Range(above=0, most=50)] = 5.0,
        k_cut: Annotated[float, Range(0, 10)] = 0.7,
        num_basis: Annotated[int, Range(1, 1024)] = 20,
        num_radial: Annotated[int, Range(1, 1024)] = 8,
        halves: Literal["both", "spatial", "frequency"] = "both",
        exchange: bool = True,
        vector_messages: Annotated[int, Range(0, 4096)] = 0,
        products: bool = False,
        tensors: Annotated[int, Range(0, 4096)] = 0,
        drop_path: Annotated[float, Range(0, below=1)] = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= drop_path < 1.0:
            raise InputError(f"drop_path is {drop_path!r}", wanted="a fraction below 1")
        local = Sizes(channels, vectors, messages, vector_messages, tensors)
        spectral = local.times(frequency_ratio)
        sizes = {
            "both": (local, spectral),
            "spatial": (local, None),
            "frequency": (None, spectral),
        }[halves]
        self.drop_path = drop_path
        # What the graph must reach: Å, and 1/Å
        self.reach = cutoff, k_cut if sizes[1] else 0.0
        self.halves = [half for half in sizes if half is not None]
        self.out_channels = sum(half.channels for half in self.halves)
        self.out_vectors = sum(half.vectors for half in self.halves)
        self.products = products
        self.structure_geometry = StructureGeometry(
            cutoff, k_cut, num_basis, num_radial, second=tensors > 0
        )
        self.element = Lookup(MAX_ATOMIC_NUMBER + 1, self.out_channels)
        self.tag = Lookup(NUM_TAGS, self.out_channels)
        self.free = Lookup(2, self.out_channels)
        self.head = Mix(self.out_channels + 1, 1, self.out_channels, self.out_vectors)
        self.blocks = nn.LayerList(
            nn.LayerList(
                InteractionBlock(sizes, exchange, num_radial, num_basis, products)
                for _ in range(2)
            )
            for _ in range(num_blocks)
        )

    def geometry(self, batch: dict, positions: paddle.Tensor) -> Geometry:
        """Return the geometry of positions [N, 3] Å and the batch's graph."""
        return self.structure_geometry(batch, positions)

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
            :class:`Features` of the halves side by side, ``out_channels`` scalars and
            ``out_vectors`` vectors, and the geometry.
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
        )  # [N, out_channels]
        if condition is not None:
            s = s + condition
        length = (moved.square().sum(axis=1) + EPS).sqrt()  # [N, 1]
        x = self.head(Features(paddle.concat([s, length], axis=-1), moved))
        halves = head = split(x, self.halves)
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
