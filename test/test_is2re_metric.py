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

"""IS2RE metrics against a plain-loop evaluator and hand-made cases."""

from fractions import Fraction

import numpy as np
import paddle
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from ppmat.metrics.is2re_metric import IS2REMetric
from ppmat.metrics.is2re_metric import absolute_errors
from ppmat.metrics.is2re_metric import energy_mae
from ppmat.metrics.is2re_metric import energy_within_threshold
from ppmat.metrics.is2re_metric import mean_over_splits

ENERGIES = st.lists(
    st.tuples(
        st.floats(-8, 8, allow_subnormal=False),
        st.floats(-0.1, 0.1, allow_subnormal=False),
    ),
    min_size=1,
    max_size=40,
)


def reference(pred, true):
    """Return MAE and EwT of float64 numbers, errors subtracted exactly.

    An error is rounded once to float64 before it is compared, as IEEE 754 wants of any
    subtraction: 0.02 - 1e-264 is 0.02, which is not below the threshold.
    """
    errors = [abs(Fraction(float(p)) - Fraction(float(t))) for p, t in zip(pred, true)]
    within = [float(error) < 0.02 for error in errors]
    return float(sum(errors) / len(errors)), sum(within) / len(within)


def energies(pairs):
    """Return predictions and truths, [S, 1] float64, from (truth, error) pairs."""
    true, error = np.array(pairs, dtype="float64").T
    return (true + error)[:, None], true[:, None]


@settings(max_examples=60, deadline=None)
@given(ENERGIES, st.integers(1, 7))
@example([(9.5e-265, 0.02)], 1)
def test_whole_and_streamed_equal_the_reference(pairs, batch_size):
    pred, true = energies(pairs)
    mae, ewt = reference(pred[:, 0], true[:, 0])
    assert energy_mae(pred, true) == pytest.approx(mae, rel=1e-9, abs=1e-12)
    assert energy_within_threshold(pred[:, 0], true) == pytest.approx(ewt)
    metric = IS2REMetric()
    for first in range(0, len(pred), batch_size):
        rows = slice(first, first + batch_size)
        metric.update_step(
            result={"pred_dict": {"y_relaxed": paddle.to_tensor(pred[rows])}},
            batch={"y_relaxed": paddle.to_tensor(true[rows])},
            stage="eval",
        )
    got = metric.compute_epoch(stage="eval")
    assert got == pytest.approx({"energy_mae": mae, "ewt": ewt}, rel=1e-9, abs=1e-12)
    metric.reset()
    assert metric.compute_epoch() == {}


def test_a_mean_of_batch_means_is_another_number():
    """The twin that weighs batches, not structures, fails on a short last batch."""
    pred, true = np.array([0.0, 0.0, 3.0]), np.zeros(3)
    twin = np.mean([energy_mae(pred[:2], true[:2]), energy_mae(pred[2:], true[2:])])
    metric = IS2REMetric()
    metric.update(pred[:2], true[:2])
    metric.update(pred[2:], true[2:])
    assert metric.compute_epoch()["energy_mae"] == 1.0 != twin


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_threshold_is_strict(dtype, sign):
    """An error of 0.02 in the precision of the input is not within 0.02."""
    edge = np.array([0.02], dtype=dtype)
    below = np.nextafter(edge, np.zeros(1, dtype))
    zero = np.zeros(1, dtype)
    for error, within in ((edge, 0.0), (below, 1.0), (zero, 1.0)):
        assert energy_within_threshold(sign * error, zero) == within
        metric = IS2REMetric()
        metric.update(paddle.to_tensor(sign * error), paddle.to_tensor(zero))
        assert metric.compute_epoch()["ewt"] == within
    # The twins: <= for float64, and errors of float32 energies widened before <.
    assert edge.astype("float64")[0] <= 0.02
    assert energy_within_threshold(edge, zero, threshold=0.03) == 1.0


def test_float32_energies_are_summed_in_float64():
    error = np.full(3_000_000, 0.1, dtype="float32")
    assert energy_mae(error, np.zeros_like(error)) == float(np.float32(0.1))


def test_other_keys_and_missing_labels_are_passed_by():
    metric = IS2REMetric(property_name="energy", threshold=0.5)
    batch = {"energy": np.array([[1.0]]), "y_relaxed": np.array([[9.0]])}
    metric.update_step(result={"loss_dict": {}}, batch=batch, stage="train")
    result = {"pred_dict": {"energy": np.array([[1.25]])}}
    metric.update_step(result=result, batch={"id": ["a"]}, stage="eval")
    assert metric.compute_epoch() == {}
    metric.update_step(result=result, batch=batch, stage="eval")
    assert metric.compute_epoch() == {"energy_mae": 0.25, "ewt": 1.0}


def test_a_call_is_the_mean_absolute_error():
    pred, true = paddle.to_tensor([[-1.0], [0.5]]), paddle.to_tensor([[-1.5], [0.5]])
    assert float(IS2REMetric()(pred, true)) == 0.25


def test_shapes_that_do_not_match_are_named():
    with pytest.raises(ValueError, match=r"\(3, 1\) and true energies \(2,\)"):
        absolute_errors(np.zeros((3, 1)), np.zeros(2))
    # [S, 1] beside [S] would broadcast to S x S errors
    assert absolute_errors(np.zeros((3, 1)), np.arange(3)).tolist() == [0, 1, 2]


def test_mean_over_splits_counts_splits_alike():
    scores = {
        "val_id": {"energy_mae": 0.5, "ewt": 0.04},
        "val_ood_ads": {"ewt": 0.02, "energy_mae": 0.7},
    }
    assert mean_over_splits(scores) == pytest.approx({"energy_mae": 0.6, "ewt": 0.03})
    with pytest.raises(ValueError, match="split 'b' has the scores ewt"):
        mean_over_splits({"a": {"energy_mae": 1.0}, "b": {"ewt": 1.0}})
