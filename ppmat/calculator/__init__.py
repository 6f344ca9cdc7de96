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

"""Trained potentials as calculators of atomic simulations."""

from ppmat.utils.lazy import lazy

_NAMES = {
    "AseBatch": "batch_evaluation",
    "EnsembleCalculator": "ensemble_calculator",
    "MDSettings": "molecular_dynamics",
    "MolecularDynamics": "molecular_dynamics",
    "SFINCalculator": "sfin_calculator",
    "evaluate_many": "batch_evaluation",
    "relax_batch": "batch_relaxation",
}

__all__ = list(_NAMES)

__getattr__, __dir__ = lazy(__name__, _NAMES)
