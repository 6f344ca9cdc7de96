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

"""Data sets, readers of files, and the factory of loaders.

Names are imported at first use, so that modules without Paddle (``oc20_lmdb``) do not
load it. A new data set is listed here and in the table ``DATASETS`` of ``factory.py``.
"""

from ppmat.utils.lazy import lazy

_SUBMODULES = (
    "batch_sampler",
    "build_structure",
    "collate_fn",
    "custom_data_type",
    "transform",
)
_NAMES = {
    "COLLATORS": "factory",
    "DATASETS": "factory",
    "SAMPLERS": "factory",
    "BatchSampler": "batch_sampler",
    "DistributedBatchSampler": "batch_sampler",
    "OC20IS2REDataset": "oc20_is2re_dataset",
    "PlacementDataset": "placement_dataset",
    "PotentialDataset": "potential_dataset",
    "SFINDataset": "sfin_dataset",
    "SFINSyntheticDataset": "sfin_synthetic_dataset",
    "build_dataloader": "factory",
    "guess_tags": "structure_tags",
    "set_build_sample": "factory",
    "set_tags": "structure_tags",
}

__all__ = list(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES, _SUBMODULES)
