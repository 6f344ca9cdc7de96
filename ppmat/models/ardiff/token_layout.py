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


"""Where everything stands in the sequence of a structure.

A sequence has a prefix, which is given, and slots, which are predicted::

    <bos> el_1 .. el_N <coord> a b c x_1 .. x_N | y_1 .. y_Q

Elements, the three lattice vectors, the initial positions ``x``, and the relaxed
positions ``y`` of the ``Q`` free atoms. Fixed atoms have no slot: they do not move.
What an element or a position looks like to the network: ``embedding.py``.

In a batch prefixes are padded at the left and slots at the right, so that the first
slots of all structures stand in one column, and are sampled together.

Shapes: ``S`` structures, ``N`` atoms and ``F`` free atoms in all of them, ``P`` columns
of the prefix, ``Q`` columns of slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import paddle

BOS, COORD, FIRST = 0, 1, 2  # rows of the table of the prefix's columns


class TokenLayout(NamedTuple):
    """The columns of a batch.

    ``prefix`` numbers the rows of a table: ``<bos>``, ``<coord>``, the elements [N],
    the lattice vectors [3 S], the initial positions [N]. Padding numbers any row.
    """

    free: paddle.Tensor  # [F] row of each free atom
    num_free: paddle.Tensor  # [S]
    prefix: paddle.Tensor  # [S, P] row of the table
    slots: paddle.Tensor  # [S, Q] number of the free atom, 0 to F - 1
    place: paddle.Tensor  # [F] place of each free atom in the flattened slots
    used: paddle.Tensor  # [S, P + Q] False for padding
    position: paddle.Tensor  # [S, P + Q] place in the own sequence

    @property
    def mask(self) -> paddle.Tensor:
        """Whether a column sees another: [S, P + Q, P + Q].

        It sees used ones before it, and itself.
        """
        width = self.used.shape[1]
        one = paddle.ones([width, width], dtype="bool")
        return (one.tril() & self.used.unsqueeze(1)) | (one.tril() & one.triu())


def token_layout(atoms: dict) -> TokenLayout:
    """Return the layout of the structures of a ``structure_array``."""
    counts = atoms["num_atoms"].numpy()
    fixed = atoms["fixed"].numpy()
    ends = counts.cumsum()
    total = int(ends[-1])
    lattice, initial = FIRST + total, FIRST + total + 3 * len(counts)

    prefixes, free = [], []
    for number, (count, end) in enumerate(zip(counts, ends, strict=True)):
        rows = np.arange(end - count, end)
        vectors = lattice + 3 * number + np.arange(3)
        parts = [[BOS], FIRST + rows, [COORD], vectors, initial + rows]
        prefixes.append(np.concatenate(parts))
        free.append(rows[~fixed[rows]])
    lengths = np.array([len(row) for row in prefixes])
    num_free = np.array([len(row) for row in free])

    column = np.arange(lengths.max())
    in_prefix = column >= (lengths.max() - lengths)[:, None]  # [S, P]
    prefix = np.zeros(in_prefix.shape, dtype="int64")
    prefix[in_prefix] = np.concatenate(prefixes)
    in_slots = np.arange(num_free.max()) < num_free[:, None]  # [S, Q]
    slots = np.zeros(in_slots.shape, dtype="int64")
    slots[in_slots] = np.arange(num_free.sum())
    used = np.concatenate([in_prefix, in_slots], axis=1)
    fields = {
        "free": np.concatenate(free),
        "num_free": num_free,
        "prefix": prefix,
        "slots": slots,
        "place": np.flatnonzero(in_slots),
        "used": used,
        "position": np.maximum(used.cumsum(axis=1) - 1, 0),
    }
    return TokenLayout(**{key: paddle.to_tensor(x) for key, x in fields.items()})
