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

"""Transforms and scalings that a YAML file may name, and their factories."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ppmat.datasets.transform.target_statistics import Target
from ppmat.datasets.transform.target_statistics import composition_scaling
from ppmat.datasets.transform.target_statistics import custom_scaling
from ppmat.datasets.transform.target_statistics import mean_std_scaling
from ppmat.datasets.transform.target_statistics import no_scaling
from ppmat.datasets.transform.target_statistics import potential_scaling
from ppmat.datasets.transform.target_statistics import single_target
from ppmat.datasets.transform.target_statistics import surface_scaling
from ppmat.datasets.transform.values import Abs
from ppmat.datasets.transform.values import Log10
from ppmat.datasets.transform.values import Normalize
from ppmat.datasets.transform.values import PowerData
from ppmat.datasets.transform.values import Scale
from ppmat.datasets.transform.values import UnNormalize
from ppmat.utils.registry import CLASS_KEY
from ppmat.utils.registry import PARAMS_KEY
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import Registry
from ppmat.utils.registry import check_call
from ppmat.utils.registry import check_keys

TRANSFORMS = Registry(
    "transform", [Normalize, Log10, Scale, Abs, UnNormalize, PowerData]
)
SCALINGS = Registry(
    "scaling",
    [
        no_scaling,
        mean_std_scaling,
        composition_scaling,
        surface_scaling,
        potential_scaling,
        custom_scaling,
    ],
)
# Arguments of the model that get what a scaling returns
FILLED = dict.fromkeys(SCALINGS, ("data_mean", "data_std")) | {
    "composition_scaling": ("data_mean", "data_std", "element_reference"),
    "surface_scaling": (
        "data_mean",
        "data_std",
        "element_reference",
        "surface_reference",
    ),
    "potential_scaling": ("data_std", "element_reference"),
}
# Scalings that read the labels of the training data
MEASURED = set(SCALINGS) - {"no_scaling", "custom_scaling"}

__all__ = [*TRANSFORMS, *SCALINGS, "Compose", "build_post_transforms", "single_target"]
__all__ += ["FILLED", "MEASURED", "build_transforms", "check_scaling"]
__all__ += ["run_dataset_transform"]


class Compose:
    """Apply transforms, callables from data to changed data, one after the other."""

    def __init__(self, transforms: list[Callable]) -> None:
        self.transforms = list(transforms)

    def __call__(self, data: Any) -> Any:
        """Return the data after all transforms."""
        for transform in self.transforms:
            data = transform(data)
        return data


def build_transforms(
    cfg: Sequence[Mapping] | None, where: str = "transforms"
) -> Compose | None:
    """Build the transforms of each sample of a data set, as one callable.

    Args:
        cfg: A list of blocks, applied in this order; None or empty gives None.
        where: YAML path of ``cfg``, for errors.

    Raises:
        ConfigError: Unknown class, key or wrong type, with the YAML path.
    """
    if not cfg:
        return None
    if isinstance(cfg, (str, Mapping)) or not isinstance(cfg, Sequence):
        raise ConfigError(f"{where}: expected a list of blocks, got {cfg!r}")
    return Compose(
        [TRANSFORMS.build(block, f"{where}.{i}") for i, block in enumerate(cfg)]
    )


def build_post_transforms(
    cfg: Sequence[Mapping] | None, where: str = "post_transforms"
) -> Compose | None:
    """Build the transforms of a model's output; see :func:`build_transforms`."""
    return build_transforms(cfg, where)


def check_scaling(cfg: Mapping, where: str = "Dataset.transform") -> None:
    """Check a scaling block, ``{__class_name__: mean_std_scaling}``, without data.

    Raises:
        ConfigError: Unknown scaling, unknown key or wrong type.
    """
    scaling, params = SCALINGS.parse(cfg, where)
    runtime = {"train_loader": None, "target": None}
    legal = set(inspect.signature(scaling).parameters) - set(runtime)
    check_keys(params, legal, f"{where}.{PARAMS_KEY} of {scaling.__name__}")
    check_call(scaling, {**params, **runtime}, f"{where}.{PARAMS_KEY}", set(params))


def run_dataset_transform(
    trans_func: str, train_loader: Any, target: Target, **params: Any
) -> tuple:
    """Return what a scaling computes, for the arguments in :data:`FILLED`.

    Args:
        trans_func: Name of a scaling.
        train_loader: Loader of the training data.
        target: Name of the label, or a list of that one name.
        **params: Further arguments of the scaling.
    """
    block = {CLASS_KEY: trans_func, PARAMS_KEY: params}
    return SCALINGS.build(
        block, "Dataset.transform", train_loader=train_loader, target=target
    )
