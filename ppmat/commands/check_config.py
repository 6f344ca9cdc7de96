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

"""Check a whole configuration before anything is read, built or written.

Names, types and ranges come from the constructors that the blocks name. A value that
cannot be meant is an error here, with its YAML path and what is legal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from typing import Any
from typing import Literal

from ppmat.utils.config import GLOBAL_KEYS
from ppmat.utils.config import check_sections
from ppmat.utils.ranges import Range
from ppmat.utils.registry import CLASS_KEY
from ppmat.utils.registry import PARAMS_KEY
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call
from ppmat.utils.registry import check_keys

SPLITS = ("train", "val", "test")


def check_config(config: Mapping[str, Any]) -> None:
    """Check all sections of a resolved configuration.

    Raises:
        ConfigError: A key is unknown, or a value cannot be meant; with the YAML path.
    """
    from ppmat.distillation.settings import DistilSettings
    from ppmat.metrics import METRICS
    from ppmat.models import MODELS
    from ppmat.optimizer import check_optimizer
    from ppmat.trainer.config import TrainerConfig

    check_sections(config)
    _check_global(config.get("Global") or {})
    if config.get("Trainer"):
        settings = TrainerConfig.from_dict(config["Trainer"])
        sampling = settings.sample_params_during_eval
        _check_sampling(config, sampling, "Trainer.sample_params_during_eval")
    if config.get("Model"):
        MODELS.check(config["Model"], "Model", runtime=_measured(config))
    if config.get("Optimizer"):
        check_optimizer(config["Optimizer"])
    METRICS.check_all(config.get("Metric"), "Metric")
    _check_datasets(config.get("Dataset") or {})
    _check_sample(config)
    if config.get("Distil"):
        DistilSettings.from_dict(config["Distil"])
    if config.get("Predict"):
        check_call(_predict_section, config["Predict"], "Predict")
        _check_blocks(config["Predict"], "Predict")
    _check_reach(config)


def _check_global(section: Mapping[str, Any]) -> None:
    """Check the keys of ``Global`` that the program itself reads."""
    known = {key: value for key, value in section.items() if key in GLOBAL_KEYS}
    check_call(_global_section, known, "Global")


def _global_section(
    do_train: bool = True,
    do_eval: bool = False,
    do_test: bool = False,
    label_names: str | list[str] | None = None,
    spacing: Annotated[list[float], Range(above=0, most=10_000)] | None = None,
) -> None:
    """Show the legal values of ``Global`` in its signature."""


# Errors name the owner of a key.
_global_section.__name__ = "Global"


def _predict_section(
    checkpoint_path: str | list[str] | None = None,
    eval_with_no_grad: bool = True,
    graph_converter: dict | None = None,
    post_transforms: list | None = None,
    tile_size: Annotated[int, Range(8, 65_536)] = 256,
    overlap: Annotated[int, Range(0, 65_535)] | None = None,
    scaling: Literal["robust", "grey"] = "robust",
    resample: str | bool = "auto",
    background: str = "auto",
    background_limit: Annotated[float, Range(above=0, most=10_000)] | None = None,
    spacing: Annotated[list[float], Range(above=0, most=10_000)] | None = None,
) -> None:
    """Show the legal values of ``Predict`` in its signature."""


_predict_section.__name__ = "Predict"


def _sample_section(
    data: dict | None = None,
    build_structure_cfg: dict | None = None,
    graph_converter: dict | None = None,
    post_transforms: list | None = None,
    projection: dict | bool = True,
    metrics: dict | None = None,
    model_sample_params: dict | None = None,
) -> None:
    """Show the legal values of ``Sample`` in its signature."""


_sample_section.__name__ = "Sample"


def _measured(config: Mapping[str, Any]) -> list[str]:
    """Return what ``Dataset.transform`` measures and ``Model`` does not have yet."""
    from ppmat.datasets.transform import FILLED

    transform = (config.get("Dataset") or {}).get("transform")
    if not isinstance(transform, Mapping):
        return []
    params = config["Model"]
    if isinstance(params, Mapping):
        params = params.get(PARAMS_KEY)
    given = params if isinstance(params, Mapping) else {}  # else refused later
    names = FILLED.get(transform.get(CLASS_KEY), ())
    return [name for name in names if name not in given]


def _check_datasets(section: Mapping[str, Any]) -> None:
    from ppmat.datasets.factory import check_dataloader
    from ppmat.datasets.transform import check_scaling

    if section.get("transform") is not None:
        check_scaling(section["transform"])
    blocks = {key: block for key, block in section.items() if key != "transform"}
    if "split_dataset_ratio" in blocks:
        check_dataloader(blocks, "Dataset")
        return
    check_keys(blocks, (*SPLITS, "transform"), "Dataset")
    for split, block in blocks.items():
        check_dataloader(block, f"Dataset.{split}")


def _check_reach(config: Mapping[str, Any]) -> None:
    """Check that the graphs reach as far as the backbone, or energies would jump."""
    model = (config.get("Model") or {}).get(PARAMS_KEY) or {}
    backbone = model.get("backbone_cfg") or {}
    graphs = {
        "Predict.graph_converter": (config.get("Predict") or {}).get("graph_converter"),
        "Sample.graph_converter": (config.get("Sample") or {}).get("graph_converter"),
    }
    for split in SPLITS:
        data = (config.get("Dataset") or {}).get(split) or {}
        params = (data.get("dataset") or {}).get(PARAMS_KEY) or {}
        where = f"Dataset.{split}.dataset.{PARAMS_KEY}.build_graph_cfg"
        graphs[where] = params.get("build_graph_cfg")
    names = ("cutoff",) if backbone.get("halves") == "spatial" else ("cutoff", "k_cut")
    for where, block in graphs.items():
        given = (block or {}).get(PARAMS_KEY) or {}
        for name in names:
            if name in given and name in backbone and given[name] < backbone[name]:
                raise ConfigError(
                    f"{where}.{PARAMS_KEY}.{name} is {given[name]:g}, and "
                    f"Model.{PARAMS_KEY}.backbone_cfg.{name} is {backbone[name]:g}",
                    wanted="a graph that reaches as far as the network",
                )


def _check_sample(config: Mapping[str, Any]) -> None:
    from ppmat.datasets.build_structure import BuildStructure
    from ppmat.datasets.factory import check_dataloader
    from ppmat.metrics import METRICS
    from ppmat.sampler.distance_projection import projection_of

    section = config.get("Sample") or {}
    check_call(_sample_section, section, "Sample")
    check_dataloader(section.get("data"), "Sample.data")
    METRICS.check_all(section.get("metrics"), "Sample.metrics")
    if section.get("build_structure_cfg"):
        cfg = section["build_structure_cfg"]
        check_call(BuildStructure, cfg, "Sample.build_structure_cfg")
    _check_blocks(section, "Sample")
    projection_of(section.get("projection", True))
    sampling = section.get("model_sample_params")
    _check_sampling(config, sampling, "Sample.model_sample_params")


def _check_blocks(section: Mapping[str, Any], name: str) -> None:
    """Check the graph converter and the transforms of ``Predict`` or ``Sample``."""
    from ppmat.datasets.transform import build_post_transforms
    from ppmat.models import GRAPH_CONVERTERS

    if section.get("graph_converter") is not None:
        GRAPH_CONVERTERS.check(section["graph_converter"], f"{name}.graph_converter")
    build_post_transforms(section.get("post_transforms"), f"{name}.post_transforms")


def _check_sampling(config: Mapping, params: Mapping | None, where: str) -> None:
    """Check arguments of ``sample`` of the model."""
    from ppmat.models import MODELS

    if not params or not config.get("Model"):
        return
    model, _ = MODELS.parse(config["Model"], "Model")
    if hasattr(model, "sample"):
        given = {**params, "batch_data": None}
        check_call(model.sample, given, where, set(params))
