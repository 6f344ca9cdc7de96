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

"""IS2RS metrics against a plain-loop evaluator and hand-made cases."""

import numpy as np
import pytest

from ppmat.metrics.is2rs_metric import IS2RSMetric
from ppmat.metrics.is2rs_metric import structure_distances
from ppmat.metrics.is2rs_metric import success_curve


def structures(count=12, seed=0):
    """Lists of predictions, truths, initial positions, cells, fixed flags."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, count)
    cell = [np.diag([8.0, 9.0, 30.0]) + rng.normal(0, 0.5, (3, 3)) for _ in sizes]
    true = [rng.random((n, 3)) @ c for n, c in zip(sizes, cell)]
    scale = rng.random(count) * 0.6
    pred = [t + s * rng.normal(0, 0.5, t.shape) for t, s in zip(true, scale)]
    initial = [t + rng.normal(0, 0.3, t.shape) for t in true]
    fixed = [np.arange(n) < n // 2 for n in sizes]
    return pred, true, initial, cell, fixed


def average_distance_within_threshold(*structures):
    return success_curve(structure_distances(*structures)).mean()


def scores(pred, true, cell, fixed, threshold=0.3):
    metric = IS2RSMetric(thresholds=[threshold])
    metric.update(pred, true, pred, cell, fixed)
    return metric.compute_epoch()


def position_mae(*structures):
    return scores(*structures)["position_mae"]


def plain_mae(pred, true, cell, fixed):
    free = [(~held).sum() for held in fixed]
    distances = structure_distances(pred, true, cell, fixed)
    return np.average(distances, weights=free)


def plain_adwt(pred, true, cell, fixed):
    """ADwT by loops over atoms, images and thresholds."""
    hits, total = 0, 0
    for p, t, c, held in zip(pred, true, cell, fixed):
        lengths = []
        for a, b, h in zip(p, t, held):
            if not h:
                lengths.append(
                    min(
                        np.linalg.norm(a - b + np.array([i, j, k]) @ c)
                        for i in range(-2, 3)
                        for j in range(-2, 3)
                        for k in range(-2, 3)
                    )
                )
        for step in range(490):
            hits += sum(lengths) / len(lengths) < 0.01 + step * 0.001
            total += 1
    return hits / total


def test_adwt_equals_plain_loops():
    pred, true, _, cell, fixed = structures()
    got = average_distance_within_threshold(pred, true, cell, fixed)
    assert 0.05 < got < 0.95
    assert got == pytest.approx(plain_adwt(pred, true, cell, fixed), abs=1e-12)


def test_lattice_shift_of_a_prediction_changes_nothing_but_counts_unwrapped():
    pred, true, _, cell, fixed = structures()
    moved = [p + np.array([1, -2, 1]) @ c for p, c in zip(pred, cell)]
    args = (true, cell, fixed)
    np.testing.assert_allclose(
        structure_distances(moved, *args), structure_distances(pred, *args), atol=1e-9
    )
    raw = np.mean([np.abs(m - t).max() for m, t in zip(moved, true)])
    assert raw > 5.0  # the twin without minimum image sees whole cells


def test_thresholds_are_strict_and_490():
    assert success_curve(np.array([0.2])).shape == (490,)
    cell, fixed = [np.eye(3) * 10], [np.array([False])]
    pred, true = [np.array([[0.25, 0, 0]])], [np.zeros((1, 3))]
    for threshold, share in ((0.25, 0.0), (0.2500001, 1.0)):
        assert scores(pred, true, cell, fixed, threshold)["dwt_0.25"] == share
    assert scores(true, true, cell, fixed)["adwt"] == 1.0


def test_fixed_atoms_are_not_scored():
    pred, true, _, cell, fixed = structures()
    spoilt = [np.where(f[:, None], p + 1.0, p) for p, f in zip(pred, fixed)]
    assert position_mae(spoilt, true, cell, fixed) == pytest.approx(
        position_mae(pred, true, cell, fixed)
    )
    nothing_fixed = [np.zeros_like(f) for f in fixed]
    assert position_mae(spoilt, true, cell, nothing_fixed) > position_mae(
        pred, true, cell, nothing_fixed
    )


def test_position_mae_weighs_atoms():
    cell = [np.eye(3) * 10] * 2
    true = [np.zeros((1, 3)), np.zeros((3, 3))]
    pred = [np.array([[1.0, 0, 0]]), np.zeros((3, 3))]
    fixed = [np.zeros(1, bool), np.zeros(3, bool)]
    assert position_mae(pred, true, cell, fixed) == pytest.approx(0.25)


def test_streaming_equals_whole_in_any_batching():
    pred, true, initial, cell, fixed = structures()
    metric = IS2RSMetric(thresholds=[0.1, 0.3])
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        metric.update(*(x[part] for x in (pred, true, initial, cell, fixed)))
    got = metric.compute_epoch(stage="eval")
    want = {
        "adwt": average_distance_within_threshold(pred, true, cell, fixed),
        "copy_adwt": average_distance_within_threshold(initial, true, cell, fixed),
        "dwt_0.3": (structure_distances(pred, true, cell, fixed) < 0.3).mean(),
        "position_mae": plain_mae(pred, true, cell, fixed),
        "copy_position_mae": plain_mae(initial, true, cell, fixed),
    }
    assert {k: got[k] for k in want} == pytest.approx(want)
    metric.reset()
    assert metric.compute_epoch(stage="eval") == {}


def test_batches_of_trainer_and_sampler():
    pred, true, initial, cell, fixed = structures()
    batch = {
        "structure_array": {
            "num_atoms": np.array([len(p) for p in pred]),
            "cart_coords": np.concatenate(initial),
            "lattice": np.array(cell),
            "fixed": np.concatenate(fixed),
        },
        "cart_coords_relaxed": np.concatenate(true),
    }
    want = average_distance_within_threshold(pred, true, cell, fixed)
    forward = {"pred_dict": {"cart_coords_relaxed": np.concatenate(pred)}}
    sampled = {"result": [{"cart_coords": p.tolist()} for p in pred]}
    copied = {"pred_dict": {"cart_coords_relaxed": np.concatenate(initial)}}
    for result in (forward, sampled, {**copied, **sampled}):
        metric = IS2RSMetric()
        metric.update_step(result=result, batch=batch, stage="eval")
        assert metric.compute_epoch(stage="eval")["adwt"] == pytest.approx(want)
    metric = IS2RSMetric()
    metric.update_step(result={"loss_dict": {}}, batch=batch, stage="train")
    del batch["cart_coords_relaxed"]
    metric.update_step(result=forward, batch=batch, stage="eval")
    assert metric.compute_epoch(stage="eval") == {}


def test_mismatched_input_is_named():
    pred, true, _, cell, fixed = structures(3)
    with pytest.raises(ValueError, match="same structures, got 2, 3, 3 and 3"):
        structure_distances(pred[:2], true, cell, fixed)
    with pytest.raises(ValueError, match="structure 1: predicted positions"):
        structure_distances([pred[0], pred[1][:1], pred[2]], true, cell, fixed)
    with pytest.raises(ValueError, match="structure 2: no free atom"):
        structure_distances(pred, true, cell, fixed[:2] + [np.ones_like(fixed[2])])
