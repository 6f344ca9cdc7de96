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

"""The package of a registered model: a folder, or an archive of it.

::

    <name>/<name>.yaml
    <name>/checkpoints/best.pdparams
    <name>/results.yaml       # measured results, only of packages inside this tree
    <name>/train.log          # log of the training, likewise

An archive holds these files directly or in one folder ``<name>``.
"""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import OmegaConf

from ppmat.utils.registry import ConfigError

RESULTS = "results.yaml"


def _configs(folder: Path, model_name: str) -> list[Path]:
    files = (folder / f"{model_name}{suffix}" for suffix in (".yaml", ".yml"))
    return [file for file in files if file.is_file()]


def resolve_model_package_dir(model_name: str, extracted_path: str) -> str:
    """Return the folder that holds ``<model_name>.yaml``.

    Args:
        model_name: Registered name.
        extracted_path: The unpacked archive, or the folder above the package.

    Raises:
        FileNotFoundError: Neither of the two has such a YAML.
        ValueError: Both have one.
    """
    root = Path(extracted_path)
    found = [d for d in (root, root / model_name) if _configs(d, model_name)]
    return _only(found, model_name, f"{root} or {root / model_name}")


def get_model_config_path(model_name: str, package_dir: str) -> str:
    """Return the path of the YAML of a package.

    Raises:
        FileNotFoundError: The package has none.
        ValueError: It has one as ``.yaml`` and one as ``.yml``.
    """
    return _only(_configs(Path(package_dir), model_name), model_name, package_dir)


def _only(found: list[Path], name: str, places: str) -> str:
    if not found:
        raise FileNotFoundError(
            f"package of model '{name}': no '{name}.yaml' in {places}"
        )
    if len(found) > 1:
        raise ValueError(
            f"package of model '{name}' is ambiguous: {found[0]} and {found[1]} both "
            "have its YAML; keep one"
        )
    return str(found[0])


def find_packages(folder: str | os.PathLike) -> dict[str, str]:
    """Return the packages in a folder, name to path; none for a missing folder."""
    if not os.path.isdir(folder):
        return {}
    return {
        path.name: str(path)
        for path in sorted(Path(folder).iterdir())
        if _configs(path, path.name)
    }


def read_label(model_name: str, package_dir: str) -> dict[str, str]:
    """Return the label that accompanies every use of a package.

    It has ``name``, ``trained_on`` (from ``results.yaml``) and ``results`` (its path).

    Raises:
        ConfigError: The file is missing, or has no text ``trained_on``.
    """
    path = Path(package_dir) / RESULTS
    if not path.is_file():
        raise ConfigError(f"package of model '{model_name}': {path} is missing")
    trained_on = OmegaConf.load(path).get("trained_on")
    if not isinstance(trained_on, str) or not trained_on:
        raise ConfigError(
            f"{path}: trained_on is {trained_on!r}; wanted a text about the training "
            "data"
        )
    return {"name": model_name, "trained_on": trained_on, "results": str(path)}
