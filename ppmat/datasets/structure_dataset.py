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

"""A user's structures as a data set: the model inputs of predictors and samplers."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from paddle import io

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.loader import Loader
from ppmat.datasets.oc20_is2re_dataset import record_to_sample


class StructureDataset(io.Dataset):
    """Records as samples without labels; see ``record_to_sample``.

    Args:
        records: A sequence of :class:`OC20Record`; read item by item.
        build_graph: Converter from a structure to the graph the model wants.
    """

    def __init__(self, records: Sequence, build_graph: Callable | None = None) -> None:
        super().__init__()
        self.records = records
        self.build_graph = build_graph

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return record_to_sample(
            self.records[index], build_graph=self.build_graph, labels=()
        )


def batches_in_order(
    dataset: io.Dataset,
    batch_size: int,
    wanted: Sequence[int] | None = None,
    collate_fn: Callable | None = None,
    num_workers: int = 0,
) -> Loader:
    """Return a loader of ``dataset`` in its own order.

    Args:
        dataset: The samples.
        batch_size: Samples in a batch; the last may hold fewer.
        wanted: Numbers of the batches to load; all when None.
        collate_fn: ``DefaultCollator`` when None.
        num_workers: Processes that prepare samples; 0 uses this one.
    """
    starts = range(0, len(dataset), batch_size)
    numbers = range(len(starts)) if wanted is None else wanted
    indices = range(len(dataset))
    batches = [list(indices[starts[i] : starts[i] + batch_size]) for i in numbers]
    return Loader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate_fn or DefaultCollator(),
        num_workers=num_workers,
    )
