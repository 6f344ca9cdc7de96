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


"""Each number of each shipped configuration, with values that cannot be meant."""

import copy
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from ppmat.commands.check_config import check_config
from ppmat.datasets.factory import DATASETS
from ppmat.datasets.factory import SAMPLERS
from ppmat.metrics import METRICS
from ppmat.models import GRAPH_CONVERTERS
from ppmat.models import MODELS
from ppmat.optimizer import LR_SCHEDULES
from ppmat.optimizer import OPTIMIZERS
from ppmat.schedulers import SCHEDULERS
from ppmat.utils.config import load_config
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import _type_hints

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(ROOT.glob("*/configs/*/*.yaml"))
FILES += sorted(ROOT.glob("ppmat/models/packages/*/sfin*.yaml"))
NAMES = [path.name for path in FILES]
NEVER = [math.nan, math.inf, -math.inf, 1e20, 10**20, "many", [[]], {}]
# Where 0 or -1 says something
MAY_BE_0 = {
    *("save_freq", "save_freq_steps", "log_freq", "start_eval_epoch", "eval_freq"),
    *("num_workers", "seed", "pair_share"),
    *("warmup_epoch", "eta_min", "weight_decay", "beta1", "beta2", "noise_std"),
    *("lr_mult", "backbone", "vector_messages", "tensors"),
    *("ema_decay", "noisy_nodes", "dropout", "drop_path", "overlap", "uneven_share"),
    *("flat_share", "readout_tags", "tags", "displacement_weight", "k_cut"),
    *("energy_weight", "force_weight", "stress_weight"),
    *("jitter", "temperature", "max_energy"),
    *("strain", "displacement", "copies", "rattle_copies", "rattle_displacement"),
    *("rattle_steps", "min_gain", "force_error"),
    *("split_seed", "early_stopping_patience", "num_recycles", "val_ratio", "momentum"),
}
MAY_BE_NEGATIVE = {"data_mean", "element_reference"}


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("OC20_ROOT", "/data")


def numbers(value, path=()):
    """Yield the place of each number, and of each list of numbers' items."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from numbers(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numbers(item, (*path, index))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def with_value(config, path, value):
    changed = copy.deepcopy(config)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def resolved(path):
    config = load_config(path)
    # Keys of Global only stand for values elsewhere, which are tried there.
    given = config.get("Global", {}).items()
    config["Global"] = {key: value for key, value in given if key == "spacing"}
    return config


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_shipped_configurations_are_legal(path):
    check_config(load_config(path))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_values_that_cannot_be_meant_are_refused(path):
    config = resolved(path)
    places = list(numbers(config))
    assert len(places) > 20
    for place in places:
        name = [key for key in place if isinstance(key, str)][-1]
        if "element_reference" in place:  # by symbol
            name = "element_reference"
        values = list(NEVER)
        values += [] if name in MAY_BE_NEGATIVE else [-1]
        values += [] if name in MAY_BE_0 | MAY_BE_NEGATIVE else [0]
        for value in values:
            with pytest.raises(ConfigError) as caught:
                check_config(with_value(config, place, value))
            dotted = ".".join(key for key in place if isinstance(key, str))
            text = re.sub(r"explore\.\d\.", "explore.", str(caught.value))
            assert dotted in text, (value, text)


def sections_and_blocks(config):
    for name, section in config.items():
        yield (name,)
        for key, value in section.items():
            if isinstance(value, Mapping):
                yield (name, key)


@pytest.mark.parametrize("path", FILES[:3], ids=NAMES[:3])
def test_a_number_in_place_of_a_block_is_refused(path):
    config = resolved(path)
    for place in sections_and_blocks(config):
        for value in (5, "x", [1], True):
            with pytest.raises(ConfigError) as caught:
                check_config(with_value(config, place, value))
            assert ".".join(place) in str(caught.value)


@pytest.mark.parametrize(
    "registry",
    [
        *(MODELS, OPTIMIZERS, LR_SCHEDULES, METRICS, DATASETS, SAMPLERS),
        *(SCHEDULERS, GRAPH_CONVERTERS),
    ],
    ids=lambda registry: registry.kind,
)
def test_each_number_of_a_constructor_has_a_range(registry):
    """A new parameter needs one too: a plain ``int`` or ``float`` is a fault."""
    program = {"epochs", "iters_per_epoch"}  # not from a file
    for name, cls in registry.items():
        if not cls.__module__.startswith("ppmat"):
            continue
        for parameter, hint in _type_hints(cls).items():
            text = str(hint).replace("typing.", "")
            is_number = "int" in text or "float" in text
            bare = is_number and "Range(" not in text and "lr.LRScheduler" not in text
            assert not bare or parameter in program, f"{name}.{parameter}: {text}"


def test_the_path_and_the_range_are_named():
    config = load_config(next(f for f in FILES if f.name == "sfin_potential.yaml"))
    with pytest.raises(ConfigError, match=r"Trainer\.max_epochs: .* 1 to 1,0"):
        check_config(with_value(config, ("Trainer", "max_epochs"), 0))
    place = ("Dataset", "train", "loader", "num_workers")
    with pytest.raises(ConfigError, match=r"loader\.num_workers .*wanted 0 to 256"):
        check_config(with_value(config, place, 10**9))
    with pytest.raises(ConfigError, match="Dataset.train: 5; wanted a block"):
        check_config(with_value(config, ("Dataset", "train"), 5))


def test_nan_of_a_yaml_file_is_refused(tmp_path):
    """As YAML writes it, which is a float in Python."""
    texts = (path.read_text() for path in FILES)
    text = next(text for text in texts if "weight_decay: 0.01" in text)
    text = text.replace("weight_decay: 0.01", "weight_decay: .nan")
    assert math.isnan(yaml.safe_load("a: .nan")["a"]) and ".nan" in text
    path = tmp_path / "nan.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"Optimizer\.__init_params__\.weight_decay"):
        check_config(load_config(path))


@pytest.mark.parametrize("name", ["cutoff", "k_cut"])
def test_a_graph_that_ends_before_the_network_is_refused(name):
    config = load_config(next(f for f in FILES if f.name == "sfin_potential.yaml"))
    block = ("Dataset", "train", "dataset", "__init_params__", "build_graph_cfg")
    for place in (block, ("Predict", "graph_converter")):
        short = with_value(config, (*place, "__init_params__", name), 0.3)
        with pytest.raises(ConfigError, match=f"{place[0]}.*{name} is 0.3, and Model"):
            check_config(short)
