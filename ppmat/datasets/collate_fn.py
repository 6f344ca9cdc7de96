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

"""The collator: makes one batch of a list of samples."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.custom_data_type import ConcatNumpyWarper
from ppmat.utils.errors import InputError


class CollateError(InputError):
    """Samples that cannot form a batch."""


class DefaultCollator:
    """Batches samples by the type of their fields.

    ========================================  =======================================
    field of a sample                         field of the batch
    ========================================  =======================================
    ``numpy.ndarray``, ``paddle.Tensor``      stacked on a new first axis
    ``ConcatData``, ``ConcatNumpyWarper``     joined on axis 0
    number                                    array [S]
    ``str``, ``bytes``                        list
    mapping, sequence                         the same container, field by field
    None                                      None
    ========================================  =======================================

    :class:`CollateError` names the field and the samples if only some samples have a
    field, if a field has two kinds, or if arrays do not fit. Nothing is dropped. A
    field of another type is a TypeError.

    Example:
        >>> samples = [{"x": ConcatData(np.ones(n)), "n": n} for n in (2, 3)]
        >>> batch = DefaultCollator()(samples)
        >>> batch["x"].shape, batch["n"].tolist()
        ((5,), [2, 3])
    """

    def __call__(self, batch: list[Any]) -> Any:
        """Return the batch of a list of samples; errors as in the class."""
        return self._collate(batch, "", _sample_names(batch))

    def _collate(self, values: list[Any], path: str, names: list[str]) -> Any:
        first = values[0]
        kind = _kind(first)
        for value, name in zip(values, names):
            if _kind(value) is not kind:
                raise CollateError(
                    f"field '{path}' is {type(first).__name__} in {names[0]} but "
                    f"{type(value).__name__} in {name}; one field holds one kind"
                )
        if kind is None:
            raise TypeError(
                f"field '{path}' of {names[0]} is {type(first).__name__}; a batch is "
                "made of numpy arrays, paddle tensors, ConcatData, numbers, str, "
                "None, and mappings or sequences of these"
            )
        if kind is type(None):
            return None
        if kind is str:
            return list(values)
        if kind is numbers.Number:
            return np.array(values)
        if kind is Mapping:
            _check_same_fields(values, path, names)
            return {
                key: self._collate([v[key] for v in values], _child(path, key), names)
                for key in first
            }
        if kind is Sequence:
            for value, name in zip(values, names):
                if len(value) != len(first):
                    raise CollateError(
                        f"field '{path}' has {len(first)} entries in {names[0]} but "
                        f"{len(value)} in {name}"
                    )
            return [
                self._collate(list(entries), _child(path, i), names)
                for i, entries in enumerate(zip(*values))
            ]
        return _join(values, kind, path, names)


def _check_same_fields(values: list[Mapping], path: str, names: list[str]) -> None:
    for value in values:
        if value.keys() != values[0].keys():
            key = sorted(map(str, value.keys() ^ values[0].keys()))[0]
            has = [n for v, n in zip(values, names) if key in map(str, v)]
            lacks = [n for v, n in zip(values, names) if key not in map(str, v)]
            raise CollateError(
                f"field '{_child(path, key)}' is in {_some(has)} but not in "
                f"{_some(lacks)}; a batch needs the same fields in every sample"
            )


def _kind(value: Any) -> type | None:
    """Return the class of the table that a value belongs to; None if there is none."""
    if value is None:
        return type(None)
    for kind in (ConcatData, ConcatNumpyWarper, np.ndarray, paddle.Tensor, Mapping):
        if isinstance(value, kind):
            return kind
    if isinstance(value, (str, bytes)):
        return str
    if isinstance(value, (numbers.Number, np.generic)):
        return numbers.Number
    return Sequence if isinstance(value, Sequence) else None


def _join(values: list, kind: type, path: str, names: list[str]) -> Any:
    """Stack arrays, or join them on axis 0."""
    arrays = [v.data for v in values] if kind is ConcatData else values
    joined = kind in (ConcatData, ConcatNumpyWarper)
    hint = "wrap arrays of unequal length in ConcatData to join them"
    if joined:
        hint = "only the first axis of a ConcatData may differ"
    shapes = [tuple(a.shape) for a in arrays]
    for shape, name in zip(shapes, names):
        same = shape[1:] == shapes[0][1:] if joined else shape == shapes[0]
        if not same or (joined and not shape):
            raise CollateError(
                f"field '{path}' has shape {shapes[0]} in {names[0]} but {shape} in "
                f"{name}; {hint}"
            )
    if kind is paddle.Tensor:
        return paddle.stack(arrays)
    arrays = [np.asarray(a) for a in arrays]
    return np.concatenate(arrays) if joined else np.stack(arrays)


def _sample_names(batch: list[Any]) -> list[str]:
    return [
        f"sample {sample['id']!r}"
        if isinstance(sample, Mapping) and "id" in sample
        else f"sample number {i} of the batch"
        for i, sample in enumerate(batch)
    ]


def _child(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
