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


"""Rules of CONTRIBUTING.md that a program can check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_POSITIONAL = 6
FILES = sorted((ROOT / "ppmat").rglob("*.py"))


def long_calls(source: str) -> list[int]:
    """Return the lines of calls with more than six positional arguments."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL
    ]


def executed(source: str) -> list[str]:
    """Return the calls that execute or unpickle what they are given."""
    names = {"eval", "exec", "__import__", "pickle.load", "pickle.loads"}
    calls = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call))
    return [name for name in (ast.unparse(c.func) for c in calls) if name in names]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_long_calls_and_nothing_is_executed(path):
    source = path.read_text(encoding="utf-8")
    assert long_calls(source) == []
    assert executed(source) == []


def test_broken_twins_are_found():
    assert long_calls("x = 1\nf(1, 2, 3, 4, 5, 6, 7)\ng(1, b=2)") == [2]
    assert executed("import pickle\npickle.loads(x)\neval('1')") == [
        *("pickle.loads", "eval"),
    ]
