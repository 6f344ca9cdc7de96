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


"""The models and graph converters of YAML files, and trained models by their names.

The file holds the registries, the factories ``build_*``, and :data:`MODEL_REGISTRY`,
which maps the name of a trained model to its package: a folder or an address.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle.nn as nn

from ppmat.datasets.graph_utils import PeriodicGraphConverter
from ppmat.models.ardiff.ardiff import ARDiff
from ppmat.models.sfin.sfin import SFIN
from ppmat.models.sfin.sfin_energy import SFINEnergy
from ppmat.models.sfin.sfin_flow import SFINFlow
from ppmat.models.sfin.sfin_placement import SFINPlacement
from ppmat.models.sfin.sfin_potential import SFINPotential
from ppmat.utils import download
from ppmat.utils import logger
from ppmat.utils import save_load
from ppmat.utils.config import check_global
from ppmat.utils.config import check_sections
from ppmat.utils.config import load_config
from ppmat.utils.config import resolve_config
from ppmat.utils.errors import nearest
from ppmat.utils.model_package import find_packages
from ppmat.utils.model_package import get_model_config_path
from ppmat.utils.model_package import read_label
from ppmat.utils.model_package import resolve_model_package_dir
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import Registry

__all__ = [
    "ARDiff",
    "MODEL_REGISTRY",
    "PeriodicGraphConverter",
    "SFIN",
    "SFINEnergy",
    "SFINFlow",
    "SFINPlacement",
    "SFINPotential",
    "build_graph_converter",
    "build_model",
    "build_model_from_name",
    "build_trained_model",
    "package_label",
]

GRAPH_CONVERTERS = Registry("graph converter", [PeriodicGraphConverter])
MODELS = Registry(
    "model", [ARDiff, SFIN, SFINEnergy, SFINFlow, SFINPlacement, SFINPotential]
)

_UPSTREAM = "https://paddle-org.bj.bcebos.com/paddlematerials/checkpoints"
# Packages that are part of this tree.
PACKAGES = Path(__file__).resolve().parent / "packages"
# Registered name -> folder or address of its package, see ppmat.utils.model_package.
MODEL_REGISTRY: dict[str, str] = find_packages(PACKAGES) | {
    name: f"{_UPSTREAM}/spectrum_enhancement/sfin/{name}.zip"
    for kind in ("haadf", "bf")
    for name in (f"sfin_{kind}_enhance", f"sfin_{kind}_detect")
}


def build_graph_converter(cfg: Mapping | None, where: str = "graph_converter"):
    """Return the converter from structures to the graphs of a model; None for None."""
    return None if cfg is None else GRAPH_CONVERTERS.build(cfg, where)


def build_model(
    cfg: Mapping | None,
    vocab: Any = None,
    strict_unused: bool = False,
    override: bool = True,
    where: str = "Model",
    **runtime_deps: Any,
) -> nn.Layer | None:
    """Return the model of a configuration block; None for None.

    Args:
        cfg: The block; it is not changed.
        vocab: Vocabulary objects, for models whose constructor takes ``vocab``.
        strict_unused: Refuse runtime arguments that the constructor does not take;
            otherwise they are left out.
        override: Whether a runtime argument replaces a YAML value of the same name.
        where: YAML path of ``cfg``, for errors.
        **runtime_deps: Constructor arguments that do not come from the YAML.

    Raises:
        ConfigError: Unknown class, key or wrong type, with the YAML path.
        TypeError: An unused runtime argument with ``strict_unused``.

    Example:
        >>> block = {"__class_name__": "SFIN", "__init_params__": {"num_blocks": 1}}
        >>> type(build_model(block)).__name__
        'SFIN'
    """
    if cfg is None:
        return None
    cls, params = MODELS.parse(cfg, where)
    if vocab is not None:
        runtime_deps["vocab"] = vocab
    signature = inspect.signature(cls.__init__).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in signature.values()):
        unused = sorted(set(runtime_deps) - set(signature))
        if unused and strict_unused:
            legal = ", ".join(name for name in signature if name != "self")
            raise TypeError(
                f"{where}: {cls.__name__} does not take {', '.join(unused)}; its "
                f"arguments are {legal}"
            )
        runtime_deps = {k: v for k, v in runtime_deps.items() if k not in unused}
    if not override:
        runtime_deps = {k: v for k, v in runtime_deps.items() if k not in params}
    model = MODELS.build(cfg, where, **runtime_deps)
    logger.debug(str(model))
    return model


def build_model_from_name(
    model_name: str,
    weights_name: str | None = None,
    model_config_modifier: Callable[[dict], dict] | None = None,
) -> tuple[nn.Layer, dict[str, Any]]:
    """Return a registered model with its weights, and its configuration.

    A package that is not part of this tree is downloaded once.

    Args:
        model_name: A key of ``MODEL_REGISTRY``.
        weights_name: File name of the weights inside the package; None takes best,
            then latest, then the last epoch.
        model_config_modifier: Receives the Model block and returns the one to use.

    Raises:
        ConfigError: Unknown name, or a package without a usable YAML.
    """
    address = _find_package(model_name)
    if download.is_url(address):
        address = download.get_weights_path_from_url(address)
    package = resolve_model_package_dir(model_name, address)
    logger.info(f"Model package of '{model_name}': {package}")
    config = load_config(get_model_config_path(model_name, package))
    if model_config_modifier is not None:
        config["Model"] = model_config_modifier(config["Model"])
    model = build_model_of(config, f"package of '{model_name}'")
    save_load.load_pretrain(model, package, weights_name)
    return model, config


def build_model_of(config: Mapping, source: str) -> nn.Layer:
    """Return the model of a whole configuration, which comes from ``source``."""
    model = build_model(config.get("Model"))
    if model is None:
        raise ConfigError(f"{source}: the section Model is missing")
    return model


def package_label(model_name: str) -> dict[str, str] | None:
    """Return the label of a package inside this tree; None for a download.

    It holds ``name``, ``trained_on`` and ``results`` (a path from the root of the
    tree), see :func:`ppmat.utils.model_package.read_label`.
    """
    address = _find_package(model_name)
    if download.is_url(address):
        return None
    label = read_label(model_name, address)
    results = os.path.relpath(label["results"], PACKAGES.parents[2])
    return {**label, "results": Path(results).as_posix()}


def _find_package(model_name: str) -> str:
    if model_name not in MODEL_REGISTRY:
        raise ConfigError(
            f"unknown registered model '{model_name}'. Registered: "
            f"{', '.join(sorted(MODEL_REGISTRY)) or 'none'}."
            f"{nearest(model_name, MODEL_REGISTRY)} For your own model give "
            "config_path and checkpoint_path."
        )
    return MODEL_REGISTRY[model_name]


# What can be changed after a package has brought its own model and weights.
_OVERRIDABLE = ("Dataset", "Metric", "Predict", "Sample")


def build_trained_model(
    model_name: str | None = None,
    weights_name: str | None = None,
    config_path: str | None = None,
    checkpoint_path: str | None = None,
    config_overrides: Iterable[str] | None = None,
) -> tuple[nn.Layer, dict[str, Any]]:
    """Return a model with its weights, in evaluation mode, and its configuration.

    Args:
        model_name: A registered model; excludes ``config_path``.
        weights_name: File name of the weights in the package of a registered model.
        config_path: YAML of your own model.
        checkpoint_path: Its weights: a file, a folder or an address; None takes
            ``Predict.checkpoint_path``.
        config_overrides: ``KEY=VALUE`` with a dotted key, applied to the YAML. A
            registered model accepts changes of Dataset, Metric, Predict and Sample.

    Raises:
        ConfigError: The arguments exclude each other, or the YAML is not usable.
        CheckpointError: The weights cannot be read or belong to another model.
    """
    overrides = list(config_overrides or ())
    if (model_name is None) == (config_path is None):
        raise ConfigError(
            "give either model_name, or config_path with checkpoint_path; got "
            f"model_name={model_name!r} and config_path={config_path!r}"
        )
    if model_name is not None:
        if checkpoint_path is not None:
            raise ConfigError(
                "checkpoint_path goes with config_path; weights_name chooses among the "
                "weights of a registered model"
            )
        for item in overrides:
            if item.partition("=")[0].partition(".")[0].strip() not in _OVERRIDABLE:
                raise ConfigError(
                    f"override '{item}': of a registered model only "
                    f"{', '.join(_OVERRIDABLE)} can be changed; use config_path and "
                    "checkpoint_path for other changes"
                )
        model, config = build_model_from_name(model_name, weights_name)
        config = resolve_config(config, overrides, f"package of '{model_name}'")
    else:
        if weights_name is not None:
            raise ConfigError(
                "weights_name goes with model_name; give the file in checkpoint_path"
            )
        config = load_config(config_path, overrides)
        check_global(config_path, overrides)
        check_sections(config)
        if checkpoint_path is None:
            checkpoint_path = (config.get("Predict") or {}).get("checkpoint_path")
        if checkpoint_path is None:
            raise ConfigError(
                f"{config_path}: no weights: give checkpoint_path, or set "
                "Predict.checkpoint_path"
            )
        model = build_model_of(config, config_path)
        save_load.load_pretrain(model, str(checkpoint_path))
    model.eval()
    return model, config
