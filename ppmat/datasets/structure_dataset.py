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

"""Structures of users as samples without labels."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from paddle import io

from ppmat.datasets.oc20_is2re_dataset import record_to_sample


class StructureDataset(io.Dataset):
    """Records, read item by item, as samples without labels for a prediction.

    Args:
        records: A sequence of :class:`OC20Record`.
        build_graph: Converter from a structure to the graph the model wants.
    """

    def __init__(self, records: Sequence, build_graph: Callable | None = None) -> None:
        super().__init__()
        self.records = records
        self.build_graph = build_graph

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        return record_to_sample(record, build_graph=self.build_graph, labels=())
