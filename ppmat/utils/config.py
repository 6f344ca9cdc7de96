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

"""Read a YAML configuration with command-line overrides into a plain dict.

Interpolations (``${Global.x}``, ``${oc.env:NAME,default}``) are resolved. No text is
evaluated or imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ppmat.utils.errors import nearest
from ppmat.utils.files import make_folder
from ppmat.utils.files import replacing
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_keys

PathLike = str | os.PathLike[str]

SECTIONS = ("Global", "Trainer", "Model", "Optimizer", "Metric", "Dataset")
SECTIONS += ("Predict", "Sample", "Distil")
# Keys of ``Global`` that the program reads; all others serve interpolations
GLOBAL_KEYS = ("do_train", "do_eval", "do_test", "label_names", "spacing")
_REFERENCE = r"\$\{(?:Global|\.+)[.\[]*(\w+)"  # ${Global.x}, ${Global[x]}, ${.x}


def find_config(path: PathLike, *folders: PathLike) -> str:
    """Return the path of a file: as given, else below one of ``folders``.

    Raises:
        ConfigError: There is none; the error names the nearest file of the folders.
    """
    for candidate in (Path(path), *(Path(folder) / path for folder in folders)):
        if candidate.is_file():
            return str(candidate)
    below = f", also not below {' or '.join(map(str, folders))}" if folders else ""
    found = {
        file.relative_to(folder).as_posix()
        for folder in map(Path, folders)
        for file in folder.glob("**/*.yaml")
    }
    by_name = {Path(name).name: name for name in sorted(found)}
    hint = nearest(path, found) or nearest(Path(path).name, by_name)
    raise ConfigError(f"configuration file not found: {path}{below}.{hint}")


def load_config(path: PathLike, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a YAML file, apply overrides, resolve interpolations.

    Args:
        path: The YAML file.
        overrides: ``KEY=VALUE`` with a dotted key; the value is read as YAML. A list
            item is addressed by its index (``Predict.post_transforms.0.x=1``).

    Returns:
        Nested dicts and lists; the legal top-level keys are ``SECTIONS``.

    Raises:
        ConfigError: The file is missing or is not YAML (with line and column), a
            section is unknown, an override is malformed, or an interpolation or a
            mandatory value (``???``) has no value.
    """
    return _resolved(_read(path, overrides), str(path))


def resolve_config(
    config: Any, overrides: Iterable[str] = (), source: str = "configuration"
) -> dict[str, Any]:
    """Apply overrides to a configuration and resolve it to plain containers.

    Args:
        config: A dict or an OmegaConf object; it is not changed.
        overrides: See :func:`load_config`, also for errors.
        source: Name of the configuration in errors.

    Example:
        >>> config = {"Global": {"seed": 1}, "Trainer": {"seed": "${Global.seed}"}}
        >>> resolve_config(config, ["Global.seed=2"])["Trainer"]
        {'seed': 2}
    """
    return _resolved(_merged(config, overrides, source), source)


def _read(path: PathLike, overrides: Iterable[str]) -> Any:
    """Return a file with its overrides, interpolations as they are."""
    try:
        config = OmegaConf.load(path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        spot = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{spot}: not valid YAML: {_reason(error)}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not valid YAML: {_reason(error)}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return _merged(config, overrides, str(path))


def _merged(config: Any, overrides: Iterable[str], source: str) -> Any:
    try:
        config = OmegaConf.create(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {_reason(error)}") from error
    if not OmegaConf.is_dict(config):
        raise ConfigError(
            f"{source}: the top level must be a mapping of sections "
            f"({', '.join(SECTIONS)}), got {type(OmegaConf.to_object(config)).__name__}"
        )
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override '{item}': expected KEY=VALUE, dotted KEY")
        try:
            parsed = OmegaConf.from_dotlist([f"value={value}"])._get_node("value")
            OmegaConf.update(config, key.strip(), parsed, merge=True)
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
            raise ConfigError(f"override '{item}': {_reason(error)}") from error
    check_keys(config, SECTIONS, source)
    return config


def _resolved(config: Any, source: str) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {_reason(error)}") from error


def check_sections(config: Mapping[str, Any]) -> None:
    """Check that each section of a resolved configuration is a mapping or empty.

    Raises:
        ConfigError: One is not.
    """
    for name, section in config.items():
        if not isinstance(section, Mapping | None):
            raise ConfigError(f"{section!r}", where=name, wanted="a mapping of keys")


def check_global(path: PathLike, overrides: Iterable[str] = ()) -> None:
    """Check that each key of ``Global`` has a use.

    In a file that a run has written, all interpolations are resolved: only keys of
    overrides are checked there.

    Args:
        path: A file that :func:`load_config` has read.
        overrides: Its overrides.

    Raises:
        ConfigError: Nothing refers to a key.
    """
    config = OmegaConf.to_container(_read(path, overrides), resolve=False)
    # An override may replace a block that uses a key.
    found = _references(config)
    found |= _references(OmegaConf.to_container(_read(path, ()), resolve=False))
    given = [item.split("=")[0].strip() for item in overrides]
    given = [key.split(".")[1] for key in given if key.startswith("Global.")]
    given += (config.get("Global") or {}) if found else ()
    used = {*GLOBAL_KEYS, *found}
    for key in given:
        if key not in used:
            raise ConfigError(
                f"Global.{key}: nothing refers to it. A key of Global is used by "
                f"${{Global.{key}}} elsewhere, or is one of {', '.join(GLOBAL_KEYS)}."
                f"{nearest(key, used)}"
            )


def unset_variables(
    path: PathLike,
    overrides: Iterable[str] = (),
    sections: Iterable[str] = ("Dataset",),
) -> list[str]:
    """Return the environment variables whose default decides the given sections.

    Args:
        path: A YAML file with ``${oc.env:NAME,default}``.
        overrides: ``KEY=VALUE``, which may replace such values.
        sections: Sections that are used.

    Raises:
        ConfigError: See :func:`load_config`.
    """
    config = OmegaConf.to_container(_read(path, overrides), resolve=False)
    found, seen = set(), set()
    todo = [config.get(name) for name in sections]
    while todo:
        value = todo.pop()
        if isinstance(value, Mapping):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str) and value not in seen:
            seen.add(value)
            found.update(re.findall(r"\$\{oc\.env:(\w+)\s*,", value))
            for key in re.findall(r"\$\{([\w.]+)\}", value):
                todo.append(_raw(config, key.split(".")))
    return sorted(name for name in found if name not in os.environ)


def _raw(value: Any, keys: list[str]) -> Any:
    """Return what nested containers have at a dotted key, or None."""
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _references(value: Any) -> set[str]:
    """Return the keys of ``Global`` that the interpolations in a value name."""
    if isinstance(value, Mapping):
        return set().union(*map(_references, value.values()))
    if isinstance(value, list):
        return set().union(*map(_references, value))
    return set(re.findall(_REFERENCE, value)) if isinstance(value, str) else set()


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return str(error.problem or error.context)
    key = getattr(error, "full_key", None)
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{key}: {text}" if key else text


def save_config(config: Mapping, path: PathLike) -> None:
    """Write a configuration as YAML; missing folders are made."""
    make_folder(os.path.dirname(os.path.abspath(path)))
    with replacing(path) as temporary:
        OmegaConf.save(OmegaConf.create(dict(config)), temporary)
