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

"""Input batches for generation from scratch: no initial structure is given.

Each function checks whether the model can generate from this input. It returns a
function that makes a batch of a given size.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from pymatgen.core import Composition
from pymatgen.core import Element

from ppmat.utils.errors import InputError
from ppmat.utils.registry import ConfigError

MakeBatch = Callable[[int], dict[str, Any]]


def batch_of_num_atoms(model: Any, num_atoms: int) -> MakeBatch:
    """Return a function that makes batches for a given number of atoms."""
    _check_num_atoms(num_atoms)
    _check_supports(model, "num_atoms", "its number of atoms")
    return lambda count: {"structure_array": {"num_atoms": _column(num_atoms, count)}}


def batch_of_formula(model: Any, chemical_formula: str) -> MakeBatch:
    """Return a function that makes batches for a composition (``"LiMnO2"``)."""
    _check_supports(model, "chemical_formula", "its formula")
    atom_types = _atomic_numbers(chemical_formula)

    def batch(count: int) -> dict[str, Any]:
        types = paddle.to_tensor(atom_types * count, dtype="int64")
        num_atoms = _column(len(atom_types), count)
        return {"structure_array": {"atom_types": types, "num_atoms": num_atoms}}

    return batch


def batch_of_conditions(
    model: Any, num_atoms: int, conditions: Mapping[str, Any]
) -> MakeBatch:
    """Return a function that makes batches for wanted properties."""
    _check_num_atoms(num_atoms)
    names = getattr(model, "condition_names", None)
    if not names:
        raise InputError(
            f"{type(model).__name__} takes no conditions (it has no condition_names)"
        )
    missing = sorted(set(names) - set(conditions))
    unknown = sorted(set(conditions) - set(names))
    if missing or unknown:
        raise ConfigError(
            f"{type(model).__name__} needs the conditions {sorted(names)}: "
            f"missing {missing or 'none'}, unknown {unknown or 'none'}"
        )

    def batch(count: int) -> dict[str, Any]:
        data = {"structure_array": {"num_atoms": _column(num_atoms, count)}}
        for name in names:
            value = conditions[name]
            if isinstance(value, paddle.Tensor):
                data[name] = paddle.concat([value] * count, axis=0)
            elif isinstance(value, str):
                data[name] = [value] * count
            else:
                data[name] = paddle.full([count], value, dtype="float32")
        return data

    return batch


def _check_num_atoms(num_atoms: Any) -> None:
    if isinstance(num_atoms, bool) or not isinstance(num_atoms, (int, np.integer)):
        raise TypeError(f"num_atoms is {num_atoms!r}, wanted an integer")
    if num_atoms < 1:
        raise ConfigError(f"num_atoms is {num_atoms}, wanted at least 1")


def _check_supports(model: Any, source: str, description: str) -> None:
    if not getattr(model, f"supports_{source}_sampling", True):
        raise InputError(
            f"{type(model).__name__} cannot generate a structure from {description} "
            "alone; a model that relaxes takes structures: from_structures, "
            "or on the command line --mode=by_structures --input FILE"
        )


def _column(value: int, count: int) -> paddle.Tensor:
    return paddle.full([count], value, dtype="int64")


def _atomic_numbers(formula: Any) -> list[int]:
    if not isinstance(formula, str):
        raise TypeError(f"chemical_formula is {formula!r}, wanted a text")
    try:
        composition = Composition(formula)
    except ValueError as error:
        raise ConfigError(f"'{formula}' is not a chemical formula: {error}") from error
    numbers: list[int] = []
    for element, count in composition.items():
        if count != int(count) or not isinstance(element, Element):
            raise ConfigError(
                f"formula '{formula}' has {count:g} {element}; wanted elements with "
                "whole numbers of atoms"
            )
        numbers += [element.Z] * int(count)
    if not numbers:
        raise ConfigError("the chemical formula is empty")
    return numbers
