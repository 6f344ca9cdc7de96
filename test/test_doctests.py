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

"""The examples of docstrings run, and the YAML of each model class builds it."""

import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap

import pytest
import yaml

import ppmat
from ppmat.models import MODELS
from ppmat.models import build_model

# A name that starts with an underscore is private, in a path as in a module.
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(ppmat.__path__, "ppmat.")
    if not any(part.startswith("_") for part in name.split("."))
]


def examples_of(name: str) -> list[doctest.DocTest]:
    """Return the docstrings of a module that have ``>>>`` examples."""
    found = doctest.DocTestFinder().find(importlib.import_module(name), name)
    return [test for test in found if test.examples]


WITH_EXAMPLES = [name for name in MODULES if examples_of(name)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner, report = doctest.DocTestRunner(verbose=False), []
    for test in examples_of(name):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_examples_are_found_and_a_wrong_one_fails():
    assert len(MODULES) > 100 and "ppmat.utils.files" in WITH_EXAMPLES
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "x", None, 0)
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed == 1


def yaml_of(cls: type) -> dict:
    """Return the literal block after "In YAML::" of a class's docstring, parsed."""
    block = re.search(r"In YAML::\n\n((?:    .*\n|\n)+)", inspect.getdoc(cls) + "\n")
    assert block, f"{cls.__name__} has no block 'In YAML::'"
    return yaml.safe_load(textwrap.dedent(block[1]))


@pytest.mark.parametrize(
    "cls", [c for c in MODELS.values() if c.__module__.startswith("ppmat.models.")]
)
def test_yaml_of_a_model_builds_it(cls):
    config = yaml_of(cls)
    assert list(config) == ["Model"]
    model = build_model(config["Model"])
    assert type(model) is cls
