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


"""PSNR and SSIM against plain formulas, by both protocols, in batches and on ranks."""

import numpy as np
import paddle
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import ppmat.metrics
from ppmat.metrics import build_metric
from ppmat.metrics import sfin_metric
from ppmat.metrics.sfin_metric import SFINStreamingAdapter
from ppmat.metrics.sfin_metric import calc_psnr
from ppmat.metrics.sfin_metric import calc_ssim


def images(count=5, height=70, width=91, channels=1, noise=30.0, seed=0):
    """Predictions, some beyond 0..255, and true images in whole grey levels."""
    rng = np.random.default_rng(seed)
    shape = (count, channels, height, width)
    true = rng.integers(0, 256, shape).astype(np.float32)
    spread = noise * np.linspace(0.2, 1.5, count)[:, None, None, None]
    return (true + rng.normal(0, 1, shape) * spread).astype(np.float32), true


def written(pred):
    """The prediction after a trip through an 8-bit file."""
    return np.clip(pred, 0, 255).astype(np.uint8).astype(np.float64)


def plain_psnr(pred, true):
    """PSNR of one image [dB]."""
    return 10 * np.log10(255**2 / np.mean((np.float64(pred) - np.float64(true)) ** 2))


def plain_ssim(x, y, size=11, sigma=1.5):
    """Mean SSIM of one channel, the window's weighted moments taken one by one."""
    steps = np.arange(size) - size // 2
    window = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * sigma**2))
    window /= window.sum()
    x, y = (
        sliding_window_view(np.float64(a), (size, size)).reshape(-1, size**2)
        for a in (x, y)
    )
    w = window.ravel()
    mx, my = x @ w, y @ w
    vx, vy = ((x - mx[:, None]) ** 2) @ w, ((y - my[:, None]) ** 2) @ w
    cov = ((x - mx[:, None]) * (y - my[:, None])) @ w
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mx * my + c1) * (2 * cov + c2)
    similarity /= (mx**2 + my**2 + c1) * (vx + vy + c2)
    return similarity.mean()


def streamed(pred, true, sizes=(5,), **options):
    """The adapter's result over batches of these sizes."""
    metric = SFINStreamingAdapter("x", **options)
    start = 0
    for size in sizes:
        here = slice(start, start + size)
        metric.update_step(
            result={"pred_dict": {"x": paddle.to_tensor(pred[here])}},
            batch={"x": paddle.to_tensor(true[here])},
            stage="eval",
        )
        start += size
    assert start == len(pred)
    return metric.compute_epoch(stage="eval")


@pytest.mark.parametrize(
    "height, width", [(11, 11), (11, 64), (13, 30), (64, 65), (120, 75)]
)
def test_ssim_is_that_of_the_window_position_by_position(height, width):
    pred, true = images(1, height, width, noise=200.0)
    wanted = plain_ssim(pred[0, 0], true[0, 0])
    assert float(calc_ssim(pred, true)) == pytest.approx(wanted, abs=1e-12)
    # Twins: another width of the window, and another window.
    assert abs(wanted - plain_ssim(pred[0, 0], true[0, 0], sigma=1.4)) > 1e-5
    assert abs(wanted - float(calc_ssim(pred, true, win_size=9))) > 1e-5


def test_ssim_of_other_windows_and_channels():
    pred, true = images(2, 80, 70, channels=3)
    found = float(calc_ssim(pred, true, win_size=7, win_sigma=2.0))
    wanted = np.mean(
        [plain_ssim(p, t, 7, 2.0) for ps, ts in zip(pred, true) for p, t in zip(ps, ts)]
    )
    assert found == pytest.approx(wanted, abs=1e-12)
    assert float(calc_ssim(pred, true, win_size=41)) < 1  # wider than half a block


def test_nonnegative_ssim_counts_negative_positions_as_zero():
    pred, true = images(1, 40, 40)
    pred = 255 - true
    assert float(calc_ssim(pred, true)) < 0
    assert float(calc_ssim(pred, true, nonnegative_ssim=True)) >= 0


@pytest.mark.parametrize("sizes", [(5,), (1, 1, 1, 1, 1), (3, 2), (4, 1)])
def test_protocols_in_batches_of_any_size(sizes):
    pred, true = images()
    pooled = streamed(pred, true, sizes)
    assert pooled["psnr"] == pytest.approx(plain_psnr(pred, true), abs=1e-10)
    ssim = np.mean([plain_ssim(p[0], t[0]) for p, t in zip(pred, true)])
    assert pooled["ssim"] == pytest.approx(ssim, abs=1e-12)
    author = streamed(pred, true, sizes, protocol="author")
    cut = written(pred)
    psnr = np.mean([plain_psnr(p, t) for p, t in zip(cut, true)])
    assert author["psnr"] == pytest.approx(psnr, abs=1e-10)
    ssim = np.mean([plain_ssim(p[0], t[0]) for p, t in zip(cut, true)])
    assert author["ssim"] == pytest.approx(ssim, abs=1e-12)
    for name, function in (("psnr", calc_psnr), ("ssim", calc_ssim)):
        assert float(function(pred, true)) == pytest.approx(pooled[name], abs=1e-10)
        value = float(function(pred, true, protocol="author"))
        assert value == pytest.approx(author[name], abs=1e-10)
    # Twins: rounding instead of truncation, no clipping, mean of batch levels.
    rounded = np.rint(np.clip(pred, 0, 255))
    for twin in (rounded, np.trunc(pred)):
        psnr = np.mean([plain_psnr(p, t) for p, t in zip(twin, true)])
        assert abs(psnr - author["psnr"]) > 1e-4
    levels = [
        plain_psnr(p, t)
        for p, t in zip(
            np.split(pred, np.cumsum(sizes)[:-1]), np.split(true, np.cumsum(sizes)[:-1])
        )
    ]
    assert len(sizes) == 1 or abs(np.mean(levels) - pooled["psnr"]) > 1e-3


def test_pooled_psnr_is_never_above_the_mean_of_images():
    for seed in range(20):
        pred, true = images(4, 16, 20, noise=5.0 + seed, seed=seed)
        mean = np.mean([plain_psnr(p, t) for p, t in zip(pred, true)])
        assert float(calc_psnr(pred, true)) <= mean


def test_equal_images_have_120_decibel():
    _, true = images()
    for protocol in sfin_metric.PROTOCOLS:
        assert float(calc_psnr(true, true, protocol=protocol)) == pytest.approx(120)
        found = streamed(true, true, protocol=protocol)
        assert found["psnr"] == pytest.approx(120)
        assert found["ssim"] == pytest.approx(1, abs=1e-12)
    # One grey level in one pixel of the largest picture that a frame has is below.
    assert 10 * np.log10(255**2 * 3840**2) < 120


@pytest.mark.parametrize("protocol", sfin_metric.PROTOCOLS)
@pytest.mark.parametrize("value, seen", [(np.nan, True), (np.inf, False)])
def test_a_prediction_that_is_no_number_is_no_score(protocol, value, seen):
    pred, true = images()
    pred[2, 0, 5, 5] = value
    found = streamed(pred, true, protocol=protocol)
    if protocol == "author" and not seen:  # an infinite value is clipped to 255
        assert np.isfinite(list(found.values())).all()
    else:
        assert not np.isfinite(list(found.values())).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "uint8"])
def test_tensors_of_any_type(dtype):
    pred, true = images(2, 20, 24)
    tensor = paddle.to_tensor(np.clip(pred, 0, 255)).astype(dtype)
    plain = tensor.astype("float32").numpy()
    for function in (calc_psnr, calc_ssim):
        assert float(function(tensor, true)) == float(function(plain, true))


@pytest.mark.parametrize("share", [0, 2])
def test_ranks_add_up_and_one_without_images_takes_part(monkeypatch, share):
    pred, true = images()
    for protocol in sfin_metric.PROTOCOLS:
        other = SFINStreamingAdapter("x", protocol=protocol)
        mine = SFINStreamingAdapter("x", protocol=protocol)
        for metric, here in ((mine, slice(0, share)), (other, slice(share, 5))):
            if here.stop > here.start:
                metric.update_step(
                    result={"pred_dict": {"x": pred[here]}},
                    batch={"x": true[here]},
                    stage="eval",
                )
        monkeypatch.setattr(
            sfin_metric,
            "sum_over_ranks",
            lambda mine, other=other: paddle.to_tensor(mine + other._sums),
        )
        found = mine.compute_epoch(stage="eval")
        monkeypatch.undo()
        assert found == pytest.approx(streamed(pred, true, protocol=protocol))


def test_the_protocol_is_logged_with_the_names(monkeypatch):
    lines = []
    monkeypatch.setattr(sfin_metric.logger, "info", lines.append)
    pred, true = images()
    streamed(pred, true, protocol="author", psnr_name="psnr_author")
    (line,) = lines
    assert "psnr_author and ssim of 5 images 'x' by protocol 'author'" in line


def test_names_stages_and_reset():
    pred, true = images()
    metric = SFINStreamingAdapter(
        "x", pred_name="y", psnr_name="a", ssim_name="b", stages=["eval"]
    )
    step = {"result": {"pred_dict": {"y": pred}}, "batch": {"x": true}}
    metric.update_step(**step, stage="train")
    assert metric.compute_epoch(stage="train") == {}
    assert metric.compute_epoch(stage="eval") == {}
    metric.update_step(**step, stage="eval")
    assert set(metric.compute_epoch(stage="eval")) == {"a", "b"}
    metric.reset()
    assert metric.compute_epoch(stage="eval") == {}


def test_built_from_yaml_and_helpers_stay_in_their_module():
    metric = build_metric(
        {
            "__class_name__": "SFINStreamingAdapter",
            "__init_params__": {"target_name": "gt_enhance", "protocol": "author"},
        }
    )
    assert metric.protocol == "author" and metric.pred_name == "gt_enhance"
    assert not hasattr(ppmat.metrics, "calc_psnr")
    assert not hasattr(ppmat.metrics, "calc_ssim")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"protocol": "authors"}, "wanted one of 'pooled', 'author'"),
        ({"protocol": "author", "data_range": 1.0}, "needs 255"),
        ({"psnr_name": "psnr_author"}, "does not end with 'author'"),
        ({"protocol": "author", "ssim_name": "ssim_pooled"}, "end with 'pooled'"),
    ],
)
def test_settings_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        SFINStreamingAdapter("x", **options)


def test_images_that_cannot_be_scored():
    pred, true = images(2, 10, 40)
    with pytest.raises(ValueError, match="10 x 40 pixels are smaller than the SSIM"):
        calc_ssim(pred, true)
    assert float(calc_psnr(pred, true)) > 0
    with pytest.raises(ValueError, match=r"\[2, 1, 10, 40\] and .* \[1, 1, 10, 40\]"):
        calc_psnr(pred, true[:1])
    with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
        calc_psnr(pred[0], true[0])
    with pytest.raises(ValueError, match="wanted the same shape"):
        calc_psnr(pred[:0], true[:0])
    with pytest.raises(ValueError, match="win_size=4: wanted an odd"):
        calc_ssim(pred, true, win_size=4)
    metric = SFINStreamingAdapter("gt_enhance")
    for predicted, batch, words in (
        ({"gt_detect": pred}, {"gt_enhance": true}, "the model's pred_dict has no"),
        ({"gt_enhance": pred}, {"noisy": true}, "the batch has no 'gt_enhance'"),
    ):
        with pytest.raises(KeyError, match=words):
            metric.update_step(
                result={"pred_dict": predicted}, batch=batch, stage="eval"
            )
