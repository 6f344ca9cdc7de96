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
from collections import defaultdict
from typing import Any

import numpy as np

from ppmat.stem.noise.measurement import Calibration
from ppmat.stem.noise.measurement import Curve

_SCAN, _POINTWISE, _OTHER = "tab:blue", "tab:red", "tab:green"


def calibration_figure(
    calibration: Calibration, path: str | os.PathLike, title: str = ""
) -> None:
    """Draw the measured noise in each bin, and the fits.

    Scan noise is drawn against the gradient and against the grey value, where it should
    follow the mean gradient. Pointwise noise and its shape are drawn against the grey
    value. Bars are standard errors, bands two standard errors of the fits. Hollow marks
    are bins with too few pixels for a fit.

    Args:
        calibration: From :func:`ppmat.stem.noise.calibration.calibrate`.
        path: The PNG file.
        title: Text above the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    model, found = calibration.model, calibration
    errors = defaultdict(float, model.standard_errors)
    figure = Figure(figsize=(12, 8.5), layout="constrained")
    (scan, scan_grey), (point, shape) = figure.subplots(2, 2)

    _draw(scan, found.scan_by_gradient, _SCAN, "measured")
    if "scan_intercept" in errors or "scan_slope" in errors:
        _line(scan, found.scan_by_gradient, found.scan_draws, model.scan_sd, _SCAN)
        text = (
            f"{_pm(model.scan_intercept, errors['scan_intercept'])} + "
            f"{_pm(model.scan_slope, errors['scan_slope'])} x gradient\n"
            f"length {_pm(model.scan_length, errors['scan_length'])} px"
        )
    else:
        text = "no scan noise"
    scan.set(
        title=f"scan noise: {text}",
        xlabel="gradient [image units per pixel]",
        ylabel="standard deviation [image units]",
    )

    _draw(scan_grey, found.scan_by_grey, _SCAN, "scan noise")
    second = scan_grey.twinx()
    curve = found.gradient_by_grey
    used = curve.used
    second.plot(curve.variable[used], curve.value[used], color=_OTHER, lw=1.5)
    second.set_ylabel("mean gradient [image units per pixel]", color=_OTHER)
    second.set_ylim(bottom=0)
    scan_grey.set(
        title="scan noise follows the gradient, not the grey value",
        xlabel="grey value [image units]",
        ylabel="standard deviation [image units]",
    )

    _draw(point, found.pointwise_by_grey, _POINTWISE, "measured")
    _line(
        point,
        found.pointwise_by_grey,
        found.pointwise_draws,
        model.pointwise_sd,
        _POINTWISE,
    )
    point.set(
        title="pointwise noise: "
        f"{_pm(model.pointwise_intercept, errors['pointwise_intercept'])} + "
        f"{_pm(model.pointwise_slope, errors['pointwise_slope'])} x grey value",
        xlabel="grey value [image units]",
        ylabel="standard deviation [image units]",
    )

    _draw(shape, found.shape_by_grey, _POINTWISE, "measured")
    value, error = model.pointwise_lambda, errors["pointwise_lambda"]
    shape.axhline(value, color=_POINTWISE, lw=1)
    shape.axhspan(value - 2 * error, value + 2 * error, color=_POINTWISE, alpha=0.15)
    shape.axhline(0.135, color="0.6", lw=0.8, ls=":")
    shape.axhline(0.0, color="0.6", lw=0.8, ls="--")
    shape.set(
        title=f"shape {_pm(value, error)} (dotted: normal, dashed: logistic)",
        xlabel="grey value [image units]",
        ylabel="Tukey lambda",
    )

    for axis in (scan, scan_grey, point):
        axis.set_ylim(bottom=0)
    background = "no background"
    if "background_sd" in errors:
        background = (
            f"background {_pm(model.background_sd, errors['background_sd'])} over "
            f"{_pm(model.background_length, errors['background_length'])} px"
        )
    lines = [
        title,
        f"{found.images} images, {found.columns} columns, {found.pixels} pixels; "
        + background,
        *found.warnings,
    ]
    figure.suptitle("\n".join(line for line in lines if line), fontsize=10)
    FigureCanvasAgg(figure).print_png(os.fspath(path))


def _draw(axis: Any, curve: Curve, color: str, label: str) -> None:
    for used, face in ((curve.used, color), (~curve.used & (curve.count > 0), "none")):
        keep = used & np.isfinite(curve.value)
        axis.errorbar(
            curve.variable[keep],
            curve.value[keep],
            curve.error[keep],
            fmt="o",
            ms=5,
            color=color,
            mfc=face,
            lw=1,
            label=label if face == color else f"{label}, left out",
        )
    if np.any(~curve.used & (curve.count > 0)):
        axis.legend(fontsize=8)
    used = curve.used & np.isfinite(curve.value)
    if used.any():
        # Bins of few pixels are left out of the range of the axis.
        top = (curve.value + 3 * curve.error)[used].max()
        low = min(0.0, (curve.value - 3 * curve.error)[used].min())
        axis.set_ylim(low, 1.1 * top + 1e-12)


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
