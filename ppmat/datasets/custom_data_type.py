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

"""Array types that decide how the collator batches a field of a sample."""

import numpy as np


class ConcatData:
    """An array whose rows are joined, not stacked, when samples form a batch.

    Args:
        data: Array [n, ...]; ``n`` (atoms, edges, ...) may differ between samples.
    """

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"ConcatData({self.data!r})"


class ConcatNumpyWarper(np.ndarray):
    """A numpy array that is joined on axis 0 when batched, usable as a plain array."""

    def __new__(cls, input_array, *args, **kwargs):
        return np.asarray(input_array).view(cls)
