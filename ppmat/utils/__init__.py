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

"""Utilities that every other package may import.

Names are loaded at first use, so that a light module such as ``ppmat.utils.registry``
does not import Paddle.
"""

from ppmat.utils.lazy import lazy

_SUBMODULES = (
    "config",
    "download",
    "ema",
    "logger",
    "misc",
    "model_package",
    "periodic",
    "registry",
    "restricted_pickle",
    "save_load",
    "torch_checkpoint",
)
_NAMES = {
    "AverageMeter": "misc",
    "set_random_seed": "misc",
    "load_checkpoint": "save_load",
    "load_pretrain": "save_load",
    "save_checkpoint": "save_load",
}

__all__ = [*_SUBMODULES, *_NAMES]

__getattr__, __dir__ = lazy(__name__, _NAMES, _SUBMODULES)
