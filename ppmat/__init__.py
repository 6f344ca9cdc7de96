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


"""PaddleMaterials core: `ppmat.models`, `ppmat.datasets`, `ppmat.trainer`, ...

Sub-packages are imported at first use, so that ``import ppmat`` does not import
Paddle.
"""

import importlib
import warnings

__version__ = "0.4.0"

# Paddle warns at each start that it finds no compiler cache, which nothing here needs.
warnings.filterwarnings("ignore", message="No ccache found")

_SUBMODULES = (
    "datasets",
    "losses",
    "metrics",
    "models",
    "optimizer",
    "predictor",
    "sampler",
    "schedulers",
    "trainer",
    "utils",
)

__all__ = ["__version__", *_SUBMODULES]


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_SUBMODULES})
