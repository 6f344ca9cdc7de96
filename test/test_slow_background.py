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


"""Slow backgrounds are measured by range; lost structure comes back, noise does not."""

import numpy as np
import pytest

from ppmat.predictor.slow_background import give_back_structure
from ppmat.predictor.slow_background import separate_background


def test_the_measure_does_not_depend_on_gain_and_dark_level():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 160)) + np.linspace(0, 20, 160)
    slow, ratio = separate_background(x, None)
    assert ratio == pytest.approx(20 / 6.2, rel=0.1) and abs(np.median(slow)) < 1e-12
    assert separate_background(7 * x - 900, None)[1] == pytest.approx(ratio)
    assert separate_background(rng.normal(size=x.shape), None)[1] < 0.1
    ramp = np.zeros(x.shape) + np.linspace(0, 20, 160)
    assert separate_background(ramp, None)[1] == float("inf")


def test_structure_comes_back_and_noise_stays_away():
    rng = np.random.default_rng(1)
    truth = 10.0 * (np.mgrid[:128, :128][1] > 64)
    raw = truth + rng.normal(size=truth.shape)
    lost = np.full(truth.shape, 5.0)
    give_back_structure(raw, lost, None)
    assert np.std(lost - truth) < 0.35 * np.std(truth)
    clean = truth.copy()
    give_back_structure(raw, clean, None)
    assert np.std(clean - truth) < 0.03
    missing = np.zeros(truth.shape, dtype=bool)
    missing[40:60, 20:50] = True
    holes = truth.copy()
    give_back_structure(np.where(missing, 1e6, raw), holes, missing)
    assert np.abs(holes - truth).max() < 1.0
