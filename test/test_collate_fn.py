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


"""Batches field by field, and errors that name field and samples."""

import numpy as np
import paddle
import pytest

from ppmat.datasets.collate_fn import CollateError
from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.custom_data_type import ConcatNumpyWarper

collate = DefaultCollator()


def sample(name, atoms):
    return {
        "structure_array": {
            "cart_coords": ConcatData(np.full((atoms, 3), atoms, dtype="float32")),
            "num_atoms": ConcatData(np.array([atoms])),
        },
        "energy": np.array([0.5 * atoms], dtype="float32"),
        "id": name,
    }


def test_a_batch_of_structures():
    batch = collate([sample("a", 2), sample("b", 3)])
    coords = batch["structure_array"]["cart_coords"]
    np.testing.assert_array_equal(coords[:, 0], [2, 2, 3, 3, 3])
    assert coords.shape == (5, 3) and coords.dtype == np.float32
    np.testing.assert_array_equal(batch["structure_array"]["num_atoms"], [2, 3])
    np.testing.assert_array_equal(batch["energy"], [[1.0], [1.5]])
    assert batch["id"] == ["a", "b"]


def test_a_batch_of_one_keeps_its_axes():
    batch = collate([sample("a", 1)])
    assert batch["structure_array"]["cart_coords"].shape == (1, 3)
    assert batch["energy"].shape == (1, 1)


def test_every_kind_of_field():
    batch = collate(
        [
            {
                "number": i,
                "flag": np.bool_(i),
                "wrapped": ConcatNumpyWarper(np.arange(i + 1)),
                "tensor": paddle.full([2], i),
                "pair": (i, np.ones(2)),
                "nothing": None,
                "empty": ConcatData(np.zeros((0, 2), dtype=np.int64)),
            }
            for i in range(3)
        ]
    )
    np.testing.assert_array_equal(batch["number"], [0, 1, 2])
    assert batch["flag"].dtype == np.bool_
    np.testing.assert_array_equal(batch["wrapped"], [0, 0, 1, 0, 1, 2])
    assert type(batch["wrapped"]) is np.ndarray
    assert batch["tensor"].shape == [3, 2]
    np.testing.assert_array_equal(batch["pair"][0], [0, 1, 2])
    assert batch["pair"][1].shape == (3, 2)
    assert batch["nothing"] is None
    assert batch["empty"].shape == (0, 2)


def test_samples_that_are_none():
    assert collate([None, None]) is None


def test_unequal_plain_arrays_point_to_concat_data():
    bad = [
        {"id": "random7", "graph": {"forces": np.zeros((2, 3))}},
        {"id": "random8", "graph": {"forces": np.zeros((5, 3))}},
    ]
    with pytest.raises(CollateError) as error:
        collate(bad)
    for part in (
        "graph.forces",
        "(2, 3)",
        "(5, 3)",
        "'random7'",
        "'random8'",
        "ConcatData",
    ):
        assert part in str(error.value)


def test_concat_data_of_other_width():
    bad = [{"x": ConcatData(np.zeros((2, 3)))}, {"x": ConcatData(np.zeros((2, 4)))}]
    with pytest.raises(CollateError, match=r"'x'.*sample number 1.*first axis"):
        collate(bad)
    with pytest.raises(CollateError, match="'x'"):
        collate([{"x": ConcatData(np.array(1.0))}])


@pytest.mark.parametrize("order", [1, -1])
def test_a_field_only_some_samples_have(order):
    """Upstream drops the field or fails, depending on which sample comes first."""
    labelled = {**sample("with", 2), "y_relaxed": np.ones(1)}
    batch = [sample("without", 2), labelled][::order]
    with pytest.raises(CollateError, match="y_relaxed.*'with' but not in.*'without'"):
        collate(batch)


def test_a_field_of_two_kinds():
    with pytest.raises(CollateError, match="'y' is NoneType.*float in"):
        collate([{"y": None}, {"y": 1.0}])
    with pytest.raises(CollateError, match="'y' is ndarray.*ConcatData"):
        collate([{"y": np.ones(1)}, {"y": ConcatData(np.ones(1))}])


def test_sequences_of_other_length():
    with pytest.raises(CollateError, match="'pair' has 2 entries"):
        collate([{"pair": [1, 2]}, {"pair": [1]}])


def test_a_type_that_cannot_be_batched():
    with pytest.raises(TypeError, match="field 'x'.*set"):
        collate([{"x": {1, 2}}])


def test_samples_are_not_changed():
    first, second = sample("a", 2), sample("b", 3)
    batch = collate([first, second])
    batch["structure_array"]["cart_coords"] += 1
    batch["energy"] += 1
    assert first["structure_array"]["cart_coords"].data[0, 0] == 2
    assert second["energy"][0] == 1.5
