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

"""The packaged models: which one is used for a task if none is named. No Paddle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ppmat.utils.registry import ConfigError

DEFAULT_MODE = "haadf"
DEFAULT_TASK = "enhance"
# Kind of image -> registered name of a model in ppmat/models/packages.
PACKAGED_MODELS = {
    "haadf": "sfin_haadf_enhance_synthetic_small",
    "bf": "sfin_bf_enhance_synthetic_small",
}
MODELS_OF_TASK = {
    DEFAULT_TASK: PACKAGED_MODELS,
    "superresolution": {"haadf": "sfin_haadf_superresolution_synthetic_small"},
}


def choose_model_name(
    mode: str | None = None,
    model_name: str | None = None,
    task: str | None = None,
    **own_model: Any,
) -> str | None:
    """Return the name of the model to load; None for a model of the caller's own.

    ``own_model`` is what describes a model of the caller's own, None if not given. A
    ``mode`` or ``task`` goes with no other model.

    Example:
        >>> choose_model_name("bf")
        'sfin_bf_enhance_synthetic_small'
        >>> choose_model_name(task="superresolution")
        'sfin_haadf_superresolution_synthetic_small'
        >>> choose_model_name(model_name="sfin_haadf_detect")
        'sfin_haadf_detect'
    """
    options = {"model_name": model_name, **own_model}
    given = [name for name, value in options.items() if value is not None]
    if mode is None and task is None and given:
        return model_name
    for name, value in (("mode", mode), ("task", task)):
        if value is not None and given:
            raise ConfigError(
                f"{name}={value} chooses a packaged model and does not go with "
                f"{' and '.join(given)}; leave one of them out"
            )
    task = _legal("task", task or DEFAULT_TASK, MODELS_OF_TASK)
    mode = _legal("mode", mode or DEFAULT_MODE, PACKAGED_MODELS)
    if mode not in MODELS_OF_TASK[task]:
        raise ConfigError(
            f"no {mode.upper()} model for {task} comes with ppmat",
            hint=f"It comes for {' and '.join(MODELS_OF_TASK[task]).upper()} only.",
        )
    return MODELS_OF_TASK[task][mode]


def _legal(name: str, value: str, choices: Iterable[str]) -> str:
    if value not in choices:
        legal = " or ".join(map(repr, choices))
        raise ConfigError(f"{name} is {value!r}; wanted {legal}")
    return value
