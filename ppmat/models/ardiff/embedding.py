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


"""Embeddings of the columns of a sequence.

Shapes: ``S`` structures, ``N`` atoms, ``F`` free atoms, ``P`` columns of the prefix,
``Q`` columns of slots, ``D`` width.
"""

from __future__ import annotations

import paddle
from paddle import nn

from ppmat.models.ardiff.token_layout import TokenLayout
from ppmat.models.sfin.sfin_structure import NUM_TAGS
from ppmat.utils.element_properties import MAX_ATOMIC_NUMBER


def triple_mlp(width: int) -> nn.Sequential:
    """Return an MLP from triples of numbers to the width."""
    return nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))


class TokenEmbedding(nn.Layer):
    """Embeds symbols by tables and triples by MLPs.

    Each column of an atom, its element, initial position or slot, has the atom's
    element and tag, so the network need not count columns to know whose it is. A slot
    also has the atom's initial position, and the triple that was predicted last.

    Args:
        width: ``D``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.special = nn.Embedding(2, width)  # <bos> and <coord>
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, width)
        self.tag = nn.Embedding(NUM_TAGS, width)
        self.lattice = triple_mlp(width)
        self.vector = nn.Embedding(3, width)  # which lattice vector it is
        self.initial = triple_mlp(width)
        self.previous = triple_mlp(width)

    def prefix(
        self, atoms: dict, initial: paddle.Tensor, layout: TokenLayout
    ) -> paddle.Tensor:
        """Return the columns of the prefix, [S, P, D].

        Args:
            atoms: ``structure_array`` of a batch.
            initial: Triples of the initial positions, [N, 3].
            layout: Layout of the batch.
        """
        who = self._who(atoms)
        lattice = self.lattice(atoms["lattice"]) + self.vector.weight  # [S, 3, D]
        table = paddle.concat(
            [
                self.special.weight,
                who,
                lattice.reshape([-1, who.shape[-1]]),
                who + self.initial(initial),
            ]
        )  # as described in TokenLayout
        return table[layout.prefix]

    def slots(
        self, atoms: dict, initial: paddle.Tensor, layout: TokenLayout
    ) -> paddle.Tensor:
        """Return what is known of each slot beforehand, [S, Q, D]."""
        of_atoms = self._who(atoms) + self.initial(initial)
        return of_atoms[layout.free][layout.slots]

    def _who(self, atoms: dict) -> paddle.Tensor:
        return self.element(atoms["atom_types"]) + self.tag(atoms["tags"])  # [N, D]
