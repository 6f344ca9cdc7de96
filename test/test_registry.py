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

"""The one way from a configuration block to an object, and its refusals."""

from collections.abc import Sequence
from typing import Literal
from typing import Optional
from typing import Union

import pytest

from ppmat.utils.errors import nearest
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import Registry
from ppmat.utils.registry import check_keys
from ppmat.utils.registry import fits


class Widget:
    def __init__(
        self,
        width: int,
        rate: float = 0.5,
        mode: Literal["fast", "exact"] = "fast",
        names: list[str] | None = None,
        *,
        shared: object = None,
    ) -> None:
        self.values = (width, rate, mode, names, shared)


class Open:
    def __init__(self, **anything) -> None:
        self.anything = anything


class Bare:
    pass


WIDGETS = Registry("widget", [Widget, Open, Bare])


def block(name, **params):
    return {"__class_name__": name, "__init_params__": params}


def test_block_becomes_an_object_and_stays_as_it_was():
    cfg = block("Widget", width=3, names=["a"])
    widget = WIDGETS.build(cfg, "Model")
    assert widget.values == (3, 0.5, "fast", ["a"], None)
    assert cfg == block("Widget", width=3, names=["a"])


def test_parameters_may_be_left_out():
    assert isinstance(WIDGETS.build({"__class_name__": "Bare"}, "M"), Bare)
    cfg = {"__class_name__": "Open", "__init_params__": None}
    assert WIDGETS.build(cfg, "M").anything == {}


def test_runtime_arguments_win_and_are_not_type_checked():
    cfg = block("Widget", width=3, shared="from yaml")
    assert WIDGETS.build(cfg, "M", width=4.5, shared=[1]).values[0] == 4.5
    assert WIDGETS.build(cfg, "M", shared=[1]).values[4] == [1]


BAD = {
    "no mapping": ("Widget", r"Model: expected a block.*got str 'Widget'"),
    "no class": ({"__init_params__": {}}, "Model: __class_name__ is missing.*Widget"),
    "unknown class": (
        block("Wigdet"),
        r"Model.__class_name__: unknown widget 'Wigdet'. Legal names: Bare, Open, "
        r"Widget. Did you mean 'Widget'",
    ),
    "expression": (block("__import__('os').getcwd()"), "unknown widget"),
    "dotted path": (block(f"{Widget.__module__}.Widget"), "unknown widget"),
    "class not text": (block(3), "unknown widget 3"),
    "key beside": (
        {**block("Widget", width=1), "__init_param__": {}},
        "Model: unknown key '__init_param__'.*Did you mean '__init_params__'",
    ),
    "params no mapping": (
        {"__class_name__": "Widget", "__init_params__": [1]},
        r"Model.__init_params__: expected a mapping, got \[1\]",
    ),
    "unknown parameter": (
        block("Widget", width=1, witdh=2),
        "Model.__init_params__ of Widget: unknown key 'witdh'.*Did you mean 'width'",
    ),
    "parameter of a bare class": (block("Bare", a=1), "Bare: unknown key 'a'"),
    "missing parameter": (block("Widget"), "Model.__init_params__: Widget needs width"),
    "wrong type": (
        block("Widget", width="wide"),
        "Model.__init_params__.width: Widget wants int, got str 'wide'",
    ),
    "bool for int": (block("Widget", width=True), "width: Widget wants int, got bool"),
    "float for int": (block("Widget", width=1.5), "width: Widget wants int"),
    "null for int": (block("Widget", width=None), "width: Widget wants int"),
    "wrong choice": (block("Widget", width=1, mode="slow"), "mode: Widget wants Lit"),
    "wrong item": (block("Widget", width=1, names=[1]), "names: Widget wants"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_block_is_refused(case):
    cfg, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        WIDGETS.build(cfg, "Model")


def test_keys_the_caller_reads_itself():
    cfg = {**block("Widget", width=1), "clip": 2}
    with pytest.raises(ConfigError, match="unknown key 'clip'"):
        WIDGETS.build(cfg, "M")
    assert WIDGETS.build(cfg, "M", extra_keys=("clip",)).values[0] == 1


def test_registered_class_is_legal_by_name_and_path():
    registry = Registry("widget", [Widget])

    @registry.register
    class Foreign:
        pass

    path = f"{Foreign.__module__}.{Foreign.__qualname__}"
    for name in ("Foreign", path):
        assert isinstance(registry.build({"__class_name__": name}, "M"), Foreign)
    registry.register(Foreign)  # twice is harmless
    other = type("Widget", (), {})
    with pytest.raises(ConfigError, match="widget 'Widget' is already registered as"):
        registry.register(other)
    assert registry["Widget"] is Widget
    assert len(registry) == 3 and set(registry) == {"Widget", "Foreign", path}


def test_nested_parameters_are_checked_alike():
    class Outer:
        nested_params = {"inner": Widget}

        def __init__(self, inner: dict) -> None:
            self.inner = inner

    registry = Registry("thing", [Outer])
    registry.build(block("Outer", inner={"width": 1}), "M")
    with pytest.raises(ConfigError, match="inner of Widget: unknown key 'widht'"):
        registry.build(block("Outer", inner={"widht": 1}), "M")


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (1, float, True),
        (True, float, False),
        (1.0, int, False),
        ("1", float, False),
        (None, Optional[int], True),
        ("a", Union[int, str], True),
        ([], Union[int, str], False),
        ([1, 2], list[int], True),
        ([1, "a"], list[int], False),
        ([1], tuple, True),
        ("ab", list[str], False),
        ((1,), Sequence[int], True),
        ({"a": 1}, dict[str, int], True),
        ([], dict[str, int], False),
        ("x", Literal["x"], True),
        (1, Literal["x"], False),
        (1, "whatever", True),
        (1, int | None, True),
        ("a", int | None, False),
    ],
)
def test_fits(value, hint, result):
    assert fits(value, hint) is result


def test_nearest_and_keys():
    assert nearest("trian", ["train", "val"]) == " Did you mean 'train'?"
    assert nearest("zzz", ["train"]) == ""
    check_keys({"a": 1}, ["a", "b"], "X")
    with pytest.raises(ConfigError, match="X: unknown key 'c'. Legal keys: a, b."):
        check_keys({"c": 1}, ["b", "a"], "X")
