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

"""PotentialMetric against sums by hand."""

import numpy as np
import paddle
import pytest

from ppmat.metrics import PotentialMetric


def test_errors_of_atoms_and_components():
    rng = np.random.default_rng(0)
    metric = PotentialMetric()
    energies, forces = [], []
    for counts in ([2, 3], [5]):
        n = sum(counts)
        labels = {
            "energy": rng.normal(size=(len(counts), 1)) - 9000.0,
            "forces": rng.normal(size=(n, 3)),
        }
        errors = {key: 0.1 * rng.normal(size=x.shape) for key, x in labels.items()}
        predicted = {key: paddle.to_tensor(labels[key] + errors[key]) for key in labels}
        batch = {key: paddle.to_tensor(x) for key, x in labels.items()}
        batch["structure_array"] = {"num_atoms": paddle.to_tensor(counts)}
        metric.update_step(result={"pred_dict": predicted}, batch=batch, stage="eval")
        energies += list(errors["energy"][:, 0] / counts)
        forces += list(errors["forces"].ravel())
    scores = metric.compute_epoch()
    assert scores["energy_mae"] == pytest.approx(np.abs(energies).mean())
    assert scores["energy_rmse"] == pytest.approx(np.sqrt(np.square(energies).mean()))
    assert scores["forces_mae"] == pytest.approx(np.abs(forces).mean())
    assert scores["forces_rmse"] == pytest.approx(np.sqrt(np.square(forces).mean()))
    assert "stress_mae" not in scores
    metric.reset()
    assert metric.compute_epoch() == {}
