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

"""Shares of faulty structures: by hand, in batches, over processes."""

import numpy as np
import pytest
from ase import Atoms

import ppmat.metrics.structure_check_metric as module
from ppmat.metrics import StructureCheckMetric
from ppmat.metrics import build_metric
from ppmat.utils.plausibility import CHECKS

CELL = np.diag([9.0, 9.0, 15.0])
NUMBERS, TAGS = np.array([29, 29, 6, 8]), np.array([0, 1, 2, 2])
INITIAL = np.array([[1, 1, 1], [1, 1, 3.2], [1, 1, 5.1], [1, 1, 6.25]])


def moved(*shifts):
    positions = INITIAL.copy()
    for atom, z in shifts:
        positions[atom, 2] += z
    return positions


GOOD = INITIAL
OVER = moved((3, -1.0))  # 0.15 Å
GONE = moved((2, 4.0), (3, 4.0))
BROKEN = moved((3, 1.5))


def step(predicted, relaxed=None):
    count = len(predicted)
    batch = {
        "structure_array": {
            "num_atoms": np.full(count, 4),
            "atom_types": np.tile(NUMBERS, count),
            "tags": np.tile(TAGS, count),
            "cart_coords": np.tile(INITIAL, (count, 1)),
            "lattice": np.tile(CELL, (count, 1, 1)),
        }
    }
    if relaxed is not None:
        batch["cart_coords_relaxed"] = np.concatenate(relaxed)
    return {
        "result": {"result": [{"cart_coords": x.tolist()} for x in predicted]},
        "batch": batch,
        "stage": "sample",
    }


def test_shares_by_hand():
    metric = build_metric({"__class_name__": "StructureCheckMetric"})
    wrapped = BROKEN + [0, 0, 15.0]  # files wrap initial and relaxed by themselves
    metric.update_step(**step([GOOD, OVER, GONE], [GOOD, GOOD, wrapped]))
    metric.update_step(**step([BROKEN], [GOOD]))
    values = metric.compute_epoch()
    assert set(values) == {p + name for p in ("", "copy_", "true_") for name in CHECKS}
    assert values["closest_distance"] == pytest.approx(0.15)
    assert values["copy_closest_distance"] == pytest.approx(1.15)
    assert values["true_closest_distance"] == pytest.approx(1.15)
    shares = {name: values[name] for name in CHECKS if name != "closest_distance"}
    assert shares == {
        "overlap": 0.25,
        "desorbed": 0.25,
        "dissociated": 0.25,
        "surface_reconstructed": 0.0,
        "intercalated": 0.0,
    }
    assert values["true_dissociated"] == 0.25
    assert not any(values["copy_" + name] for name in shares)
    metric.reset()
    assert metric.compute_epoch() == {}


def test_without_labels_and_of_a_trainer():
    metric = StructureCheckMetric()
    metric.update_step(**step([OVER]))
    assert "true_overlap" not in metric.compute_epoch()
    arguments = step([GOOD], [GOOD])
    arguments["result"] = {"pred_dict": {"cart_coords_relaxed": OVER}}
    metric.update_step(**arguments)
    assert metric.compute_epoch()["overlap"] == 1.0


def test_what_is_no_slab_is_left_out():
    metric = StructureCheckMetric()
    arguments = step([GOOD])
    del arguments["batch"]["structure_array"]["tags"]
    metric.update_step(**arguments)
    metric.update_step(result={}, batch=step([GOOD])["batch"], stage="eval")
    assert metric.compute_epoch() == {}


def test_several_processes(monkeypatch):
    """Sums and the smallest distance are those of all ranks."""
    other, mine = StructureCheckMetric(), StructureCheckMetric()
    other.update_step(**step([OVER]))
    mine.update_step(**step([GOOD, GOOD, GONE]))
    both = [(m.closest, m.faults) for m in (mine, other)]
    monkeypatch.setattr(module, "gather_objects", lambda value: both)
    values = mine.compute_epoch()
    assert (values["overlap"], values["desorbed"]) == (0.25, 0.25)
    assert values["closest_distance"] == pytest.approx(0.15)


def test_atoms_without_neighbours():
    far = Atoms("CuO", [[0, 0, 0], [0, 0, 20]], cell=60 * np.eye(3))
    metric = StructureCheckMetric()
    one = ([far.numbers], [np.array([1, 2])], [far.cell.array])
    metric.update("", *one, [far.positions], [far.positions])
    values = metric.compute_epoch()
    assert values["closest_distance"] == np.inf and values["desorbed"] == 1.0
