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
"""Converts structures to the batches of SFINEnergy, for the property predictor."""

from __future__ import annotations

import paddle
from pymatgen.core import Structure

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.structure_record import structure_to_record


class SFINGraphConverter:
    """Converts slabs with adsorbates to a batch of graphs with tags and fixed atoms.

    Tags are the site property ``tags`` (0 sub-surface, 1 surface, 2 adsorbate). Fixed
    atoms are the site property ``fixed`` or ``selective_dynamics``. A CIF file has none
    of them: then the tags are guessed from the structure and no atom is fixed, which
    the log reports.

    Args:
        cutoff: Edges join atoms closer than this [Å].
        max_neighbors: Edges that a centre keeps, nearest first.
        k_cut: Radius of the sphere of reciprocal vectors [1/Å].
        missing_tags: ``guess`` tags that are missing, or ``raise`` an error.
    """

    def __init__(
        self,
        cutoff: float = 5.0,
        max_neighbors: int | None = 24,
        k_cut: float = 1.0,
        missing_tags: str = "guess",
    ) -> None:
        self.build_graph = PeriodicGraphConverter(cutoff, max_neighbors, k_cut)
        self.missing_tags = missing_tags

    def __call__(self, structure: Structure | list[Structure]) -> dict:
        """Return the batch of a structure, or of a list of structures."""
        structures = structure if isinstance(structure, list) else [structure]
        samples = []
        for number, item in enumerate(structures):
            record = structure_to_record(
                item, str(number), missing_tags=self.missing_tags
            )
            sample = record_to_sample(record, build_graph=self.build_graph, labels=())
            samples.append(sample)
        batch = DefaultCollator()(samples)
        for part in ("structure_array", "graph"):
            batch[part] = {k: paddle.to_tensor(v) for k, v in batch[part].items()}
        return batch
