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


"""Which of the models inside this tree enhances an image when no model is named.

Importing this module does not import Paddle.
"""

from __future__ import annotations

from typing import Any

from ppmat.utils.registry import ConfigError

DEFAULT_MODE = "haadf"
# Kind of image -> registered name.
SHIPPED = {
    "haadf": "sfin_haadf_enhance_synthetic_small",
    "bf": "sfin_bf_enhance_synthetic_small",
}


def registered_name(
    mode: str | None = None, model_name: str | None = None, **others: Any
) -> str | None:
    """Return the registered model that is meant; None for one of the caller's own.

    Args:
        mode: A key of :data:`SHIPPED`.
        model_name: A registered model.
        **others: What describes a model of the caller's own, None if not given.

    Raises:
        ConfigError: An unknown mode, or one beside another model.
    """
    options = {"model_name": model_name, **others}
    given = [name for name, value in options.items() if value is not None]
    if mode is None:
        return model_name if given else SHIPPED[DEFAULT_MODE]
    if given:
        raise ConfigError(
            f"mode={mode} chooses among the shipped models and does not go with "
            f"{' and '.join(given)}; leave one of them out"
        )
    if mode not in SHIPPED:
        raise ConfigError(f"mode is {mode!r}; wanted {' or '.join(map(repr, SHIPPED))}")
    return SHIPPED[mode]
