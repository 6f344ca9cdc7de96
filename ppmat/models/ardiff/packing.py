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

"""Several sequences in one row, so that a batch has little padding.

Shapes: ``S`` sequences of ``T`` columns with padding, ``R`` rows of ``L`` columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import paddle


class Packing(NamedTuple):
    """Where the columns of sequences are in rows."""

    source: paddle.Tensor  # [R, L] place in the flattened sequences; any for padding
    sequence: paddle.Tensor  # [R, L] number of the sequence, -1 for padding
    place: paddle.Tensor  # [S, T] place in the flattened rows; 0 for padding

    @property
    def mask(self) -> paddle.Tensor:
        """Whether a column sees another: [R, L, L].

        It sees those of its sequence before it, and itself.
        """
        same = self.sequence.unsqueeze(2) == self.sequence.unsqueeze(1)
        return same.tril()


def pack(used: np.ndarray, columns: int) -> Packing:
    """Put each sequence, longest first, in the first row that has room.

    Args:
        used: [S, T], False for padding.
        columns: Length of a row; a longer sequence makes all rows as long.
    """
    lengths = used.sum(axis=1)
    columns = max(columns, int(lengths.max()))
    filled: list[int] = []  # columns of each row
    start: dict[int, tuple[int, int]] = {}  # row and column of each sequence
    for number in np.argsort(-lengths, kind="stable"):
        row = next(
            (r for r, n in enumerate(filled) if n + lengths[number] <= columns),
            len(filled),
        )
        filled += [0] * (row == len(filled))
        start[number] = row, filled[row]
        filled[row] += int(lengths[number])

    width = max(filled)
    source = np.zeros([len(filled), width], dtype="int64")
    sequence = np.full([len(filled), width], -1)
    place = np.zeros(used.shape, dtype="int64")
    for number, (row, first) in start.items():
        own, last = np.flatnonzero(used[number]), first + lengths[number]
        source[row, first:last] = number * used.shape[1] + own
        sequence[row, first:last] = number
        place[number, own] = row * width + np.arange(first, last)
    return Packing(*map(paddle.to_tensor, (source, sequence, place)))
