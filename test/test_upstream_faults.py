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


"""``docs/core/upstream_faults.md`` names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "core" / "upstream_faults.md").read_text(encoding="utf-8")


def named():
    """Return the (file, test) pairs of the page."""
    return sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)))


def functions_of(source):
    """Return the names of the test functions of a file."""
    return {n.name for n in ast.walk(ast.parse(source)) if hasattr(n, "decorator_list")}


@pytest.mark.parametrize("file, test", named())
def test_named_test_exists(file, test):
    assert test in functions_of((ROOT / "test" / file).read_text(encoding="utf-8"))


def test_every_fault_has_a_test():
    rows = [row for row in PAGE.splitlines() if re.match(r"\| (?!fault|---)", row)]
    assert len(rows) > 50
    for row in rows:
        cells = row.strip("|").split("|")
        assert len(cells) == 3, row
        assert "::" in cells[2], row
