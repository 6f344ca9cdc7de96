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


"""Ranges of numbers."""

import math
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppmat.utils.ranges import Range
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_call
from ppmat.utils.registry import fits

NUMBERS = st.floats(allow_nan=False) | st.integers()


@given(value=NUMBERS, least=st.integers(-9, 9), most=st.integers(-9, 9))
def test_a_number_is_inside_or_outside(value, least, most):
    assert (value in Range(least, most)) == (least <= value <= most)
    assert (value in Range(above=least, below=most)) == (least < value < most)


@given(st.lists(NUMBERS))
def test_each_number_of_a_list_counts(values):
    limits = Range(0, 5)
    assert limits.holds(values) == all(value in limits for value in values)
    assert limits.holds({"a": values}) == limits.holds(values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_what_is_no_finite_number(value):
    assert value not in Range(0, 1e300)
    assert not fits(value, Annotated[float, Range(0, 1e300)])


def scaled(size: Annotated[int, Range(1, 8)] | None = None, names: list[str] = ()):
    return size


@pytest.mark.parametrize(
    "value, text",
    [
        (0, r"A\.size: scaled wants 1 to 8, got 0"),
        (9, r"A\.size: scaled wants 1 to 8, got 9"),
        (2.0, r"A\.size: scaled wants int \| None, 1 to 8, got float 2\.0"),
        (True, r"A\.size: scaled wants int \| None, got bool True"),
        ("4", r"A\.size: scaled wants int \| None, got str '4'"),
    ],
)
def test_an_error_says_the_range_or_the_type(value, text):
    with pytest.raises(ConfigError, match=text):
        check_call(scaled, {"size": value}, "A")


@pytest.mark.parametrize("value", [1, 8, None])
def test_legal_values(value):
    check_call(scaled, {"size": value}, "A")
