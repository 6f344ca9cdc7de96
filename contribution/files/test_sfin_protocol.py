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
"""Two protocols of PSNR and SSIM; the default is what it was."""

import numpy as np
import paddle
import pytest

from ppmat.metrics.sfin_metric import SFINStreamingAdapter
from ppmat.metrics.sfin_metric import calc_ssim


def setup_module():
    paddle.set_device("cpu")


def images():
    """Return predictions beyond the range of 8 bits, and true images."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, [3, 1, 16, 16]).astype("float32")
    noise = rng.normal(0, [[[[2.0]]], [[[10.0]]], [[[40.0]]]], true.shape)
    return (true + noise).astype("float32"), true


def scores(**options):
    predicted, true = images()
    metric = SFINStreamingAdapter("clean", **options)
    for part in (slice(0, 2), slice(2, 3)):
        result = {"pred_dict": {"clean": paddle.to_tensor(predicted[part])}}
        batch = {"clean": paddle.to_tensor(true[part])}
        metric.update_step(result=result, batch=batch, stage="eval")
    return metric.compute_epoch(stage="eval")


def psnr(mean_square):
    return 10 * np.log10(255.0**2 / mean_square)


@pytest.mark.parametrize("options", [{}, {"protocol": "pooled"}])
def test_pooled_is_the_default(options):
    predicted, true = (image.astype("float64") for image in images())
    found = scores(**options)
    assert found["psnr"] == pytest.approx(psnr(((predicted - true) ** 2).mean()))


def test_author_truncates_and_averages_over_images():
    predicted, true = images()
    stored = np.clip(predicted, 0, 255).astype("uint8").astype("float64")
    wanted = [psnr(((a - b) ** 2).mean()) for a, b in zip(stored, true)]
    found = scores(protocol="author")
    assert found["psnr"] == pytest.approx(np.mean(wanted))
    ssim = calc_ssim(paddle.to_tensor(stored), paddle.to_tensor(true))
    assert found["ssim"] == pytest.approx(float(ssim), abs=1e-6)
    assert abs(found["psnr"] - scores()["psnr"]) > 1


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="'autor', expected 'pooled' or 'author'"):
        scores(protocol="autor")


def test_reset_clears_the_sums_of_both():
    predicted, true = images()
    metric = SFINStreamingAdapter("clean", protocol="author")
    result = {"pred_dict": {"clean": paddle.to_tensor(predicted)}}
    batch = {"clean": paddle.to_tensor(true)}
    found = []
    for _ in range(2):
        metric.update_step(result=result, batch=batch, stage="eval")
        found.append(metric.compute_epoch(stage="eval"))
        metric.reset()
    assert found[0] == found[1]
