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


"""Enhance a TIFF or .npy image with a file of export.py.

Needs numpy, onnxruntime and, for TIFF, tifffile. The result is float32, as TIFF with
the pixel size of a TIFF input, or as .npy.

python enhance_onnx.py haadf.onnx image.tif enhanced.tif
"""

import json
import math
import re
import sys

import numpy as np


def starts_and_weights(length, tile, overlap):
    """Return where tiles begin along an axis, and their weights, which sum to one."""
    free = max(length - tile, 0)
    gaps = math.ceil(free / (tile - overlap))
    starts = [round(i * free / gaps) for i in range(gaps)] + [free]
    ramp = min([overlap, *np.diff(starts)]) if gaps > 1 else overlap
    rise = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2
    weights = np.ones((gaps + 1, tile), np.float32)
    for i, step in enumerate(np.diff(starts)):
        first = (tile - step - ramp) // 2  # the ramp is in the middle of the overlap
        weights[i + 1, :first] = 0
        weights[i + 1, first : first + ramp] = rise
        weights[i, step + first : step + first + ramp] = 1 - rise
        weights[i, step + first + ramp :] = 0
    return starts, weights


def enhance(image, session):
    """Return float32 [H, W] in the units of ``image`` [H, W]; a map in grey levels."""
    about = json.loads(session.get_modelmeta().custom_metadata_map["ppmat"])
    (height, width), overlap = about["tile"], about["overlap"]
    if image.ndim != 2 or not np.isfinite(image).all():
        raise SystemExit(f"wanted one image without NaN, not {image.shape}")
    is_map = about["target"] in ("gt_detect", "gt_superresolution")
    if image.min() == image.max():
        return image.astype(np.float32) * (not is_map)
    offset, scale = 0.0, 1.0
    if about["scaling"] == "robust":
        low, high = np.percentile(image, about["percentiles"])
        low, high = (low, high) if high > low else (image.min(), image.max())
        scale = float(high - low) / (about["grey"][1] - about["grey"][0])
        offset = float(low) - about["grey"][0] * scale
    elif about["scaling"] != "grey":
        offset, scale = about["scaling"]
    grey = ((image - offset) / scale).astype(np.float32)
    more = [(0, max(0, n - m)) for n, m in zip((height, width), grey.shape)]
    grey = np.pad(grey, more, mode="reflect")
    out = np.zeros_like(grey)
    rows = zip(*starts_and_weights(image.shape[0], height, overlap))
    columns = list(zip(*starts_and_weights(image.shape[1], width, overlap)))
    for top, weight in rows:
        for left, other in columns:
            place = np.s_[top : top + height, left : left + width]
            (tile,) = session.run(None, {"tile": grey[place][None, None]})
            out[place] += tile[0, 0] * weight[:, None] * other
    out = out[: image.shape[0], : image.shape[1]]
    if about["target"] == "gt_detect":
        return out
    return out * scale if is_map else out * scale + offset


def read(path):
    """Return the image, and arguments for tifffile.imwrite that keep its pixel size."""
    if path.lower().endswith(".npy"):
        return np.load(path), {}
    import tifffile

    with tifffile.TiffFile(path) as file:
        tags = {tag.code: (tag.dtype, tag.value) for tag in file.pages[0].tags}
        ome_text = file.ome_metadata or ""
        image, imagej = file.asarray(), file.imagej_metadata or {}
    keep = {}
    if {282, 283} <= tags.keys():  # resolution along x and y
        keep["resolution"] = tags[282][1], tags[283][1]
    if 296 in tags:
        keep["resolutionunit"] = tags[296][1]
    if "unit" in imagej:
        unit = str(imagej["unit"]).encode("ascii", "backslashreplace").decode()
        keep |= {"imagej": True, "metadata": {"unit": unit}}
    keep["extratags"] = []
    for code in {65003, 65004, 65009, 65010} & tags.keys():  # of DigitalMicrograph
        kind, value = tags[code]
        text = isinstance(value, str)
        value = value.encode("latin-1", "replace") if text else value
        keep["extratags"].append((code, kind, 0 if text else 1, value))
    ome = dict(re.findall(r'PhysicalSize(X|Y|XUnit|YUnit)="([^"]*)"', ome_text))
    if {"X", "Y"} <= ome.keys() and ome.get("XUnit") == ome.get("YUnit"):
        unit = ome.get("XUnit", "µm").replace("µm", "micron").replace("Å", "angstrom")
        keep["resolution"] = 1 / float(ome["X"]), 1 / float(ome["Y"])
        keep |= {"imagej": True, "metadata": {"unit": unit}}
    return image, keep


def main(model, source, target):
    """Read, enhance, write."""
    import onnxruntime

    if not target.lower().endswith((".tif", ".tiff", ".npy")):
        raise SystemExit(
            f"{target}: the result is float32, which only .tif, .tiff and .npy can "
            "keep here; a PNG would lose values"
        )
    image, keep = read(source)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    result = enhance(image.astype(np.float64), session)
    if target.lower().endswith(".npy"):
        np.save(target, result)
    else:
        import tifffile

        tifffile.imwrite(target, result, **keep)


if __name__ == "__main__":
    main(*sys.argv[1:4])
