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

"""The figure of a calibration, after the paper's Fig. 3 e and g."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ppmat.stem.noise.calibration import Calibration
from ppmat.stem.noise.calibration import Curve

_SCAN, _POINTWISE, _OTHER = "tab:blue", "tab:red", "tab:green"
_GRADIENT, _GREY = "gradient [image units per pixel]", "grey value [image units]"
_SD = "standard deviation [image units]"


def calibration_figure(calibration: Calibration, path: str | os.PathLike) -> None:
    """Draw the measured noise in each bin, and the fits, into a PNG file.

    Scan noise is drawn against the gradient and against the grey value, where it should
    follow the mean gradient. Pointwise noise and its shape are drawn against the grey
    value. Bars are standard errors, bands two standard errors of the fits. Hollow marks
    are bins with too few pixels for a fit. Crosses are from the
    differences of a series.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found, model = calibration, calibration.model
    errors = model.standard_errors

    def pm(name: str) -> str:
        return _pm(getattr(model, name), errors.get(name, 0.0))

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    (scan, scan_grey), (point, shape) = figure.subplots(2, 2)

    _draw(scan, found.scan_by_gradient, _SCAN)
    title = "scan noise: no scan noise"
    if "scan_intercept" in errors or "scan_slope" in errors:
        _line(scan, found.scan_by_gradient, found.scan_draws, model.scan_sd, _SCAN)
        title = f"scan noise: {pm('scan_intercept')} + {pm('scan_slope')} x gradient\n"
        title += f"length {pm('scan_length')} px"
    scan.set(title=title, xlabel=_GRADIENT, ylabel=_SD)

    _draw(scan_grey, found.scan_by_grey, _SCAN, "scan noise")
    second, curve = scan_grey.twinx(), found.gradient_by_grey
    second.plot(curve.variable[curve.used], curve.value[curve.used], _OTHER, lw=1.5)
    second.set_ylabel(f"mean {_GRADIENT}", color=_OTHER)
    second.set_ylim(bottom=0)
    title = "scan noise follows the gradient, not the grey value"
    scan_grey.set(title=title, xlabel=_GREY, ylabel=_SD)

    curve, draws = found.pointwise_by_grey, found.pointwise_draws
    _draw(point, curve, _POINTWISE)
    if found.series is not None:
        _draw_check(scan, found.series.scan_by_gradient)
        _draw_check(point, found.series.pointwise_by_grey)
    _line(point, curve, draws, model.pointwise_sd, _POINTWISE)
    title = f"{pm('pointwise_intercept')} + {pm('pointwise_slope')} x grey value"
    point.set(title=f"pointwise noise: {title}", xlabel=_GREY, ylabel=_SD)

    _draw(shape, found.shape_by_grey, _POINTWISE)
    value, error = model.pointwise_lambda, errors.get("pointwise_lambda", 0.0)
    shape.axhline(value, color=_POINTWISE, lw=1)
    shape.axhspan(value - 2 * error, value + 2 * error, color=_POINTWISE, alpha=0.15)
    shape.axhline(0.135, color="0.6", lw=0.8, ls=":")
    shape.axhline(0.0, color="0.6", lw=0.8, ls="--")
    title = f"shape {pm('pointwise_lambda')} (dotted: normal, dashed: logistic)"
    shape.set(title=title, xlabel=_GREY, ylabel="Tukey lambda")

    for axis in (scan, scan_grey, point):
        axis.set_ylim(bottom=0)
    text = "no background"
    if "background_sd" in errors:
        text = f"background {pm('background_sd')} over {pm('background_length')} px"
    counts = f"{found.images} images, {found.columns} columns, {found.pixels} pixels"
    figure.suptitle("\n".join([f"{counts}; {text}", *found.warnings]), fontsize=10)
    FigureCanvasAgg(figure).print_png(os.fspath(path))


def _draw(axis: Any, curve: Curve, color: str, label: str = "measured") -> None:
    known = np.isfinite(curve.value)
    left_out = ~curve.used & (curve.count > 0)
    for keep, face, text in (
        (curve.used & known, color, label),
        (left_out & known, "none", f"{label}, left out"),
    ):
        points = curve.variable[keep], curve.value[keep], curve.error[keep]
        style = {"fmt": "o", "ms": 5, "lw": 1, "color": color, "mfc": face}
        axis.errorbar(*points, **style, label=text)
    if left_out.any():
        axis.legend(fontsize=8)
    used = curve.used & known
    if used.any():
        # Bins of few pixels are left out of the range of the axis.
        top = (curve.value + 3 * curve.error)[used].max()
        low = min(0.0, (curve.value - 3 * curve.error)[used].min())
        axis.set_ylim(low, 1.1 * top + 1e-12)


def _draw_check(axis: Any, curve: Curve) -> None:
    """Draw what the differences of a series give."""
    used = curve.used & np.isfinite(curve.value)
    axis.errorbar(
        curve.variable[used],
        curve.value[used],
        curve.error[used],
        fmt="x",
        color=_OTHER,
        lw=1,
        label="frame differences",
    )
    axis.legend(fontsize=8)


def _line(axis: Any, curve: Curve, draws: np.ndarray, sd: Any, color: str) -> None:
    span = curve.variable[curve.count > 0]
    x = np.linspace(span.min(), span.max(), 60)
    band = draws[:, 1, None] + draws[:, 0, None] * x
    spread = 2 * band.std(axis=0)
    axis.plot(x, sd(x), color=color, lw=1.5)
    axis.fill_between(x, sd(x) - spread, sd(x) + spread, color=color, alpha=0.15)


def _pm(value: float, error: float) -> str:
    """Return a value with its error, with as many digits as the error allows."""
    if not error > 0:
        return f"{value:.4g}"
    digits = int(np.clip(1 - np.floor(np.log10(error)), 0, 8))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
