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


"""SFIN as an ONNX file for one tile size, for machines without Paddle.

The folded network (docs/stem/speed.md) is written node by node, with seven kinds of
nodes. Its Fourier transforms are matrix products; the file holds each matrix once.

No converter is used: Paddle2ONNX 2.1.0 has no wheel for Python 3.13, ends the process
at a Fourier transform, and installs packages while it runs.

Needs the extra ``onnx`` (``pip install 'ppmat[onnx]'``).
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import ppmat
from ppmat.models.sfin.sfin import SFIN
from ppmat.models.sfin.sfin_folded import FoldedSFIN
from ppmat.predictor.tile_model import Scaling
from ppmat.stem.images.grey_scaling import GREY
from ppmat.stem.images.grey_scaling import PERCENTILES
from ppmat.utils.errors import InputError
from ppmat.utils.files import replacing
from ppmat.utils.save_load import fingerprint

OPSET = 17  # version of the ONNX operators
INPUT = "tile"  # names of the input and output of the graph
OUTPUT = "enhanced"
METADATA_KEY = "ppmat"  # key of the JSON description in the file's metadata
TOLERANCE = 1e-4  # largest difference from Paddle, as a fraction of the range


class OnnxExportError(InputError):
    """A file that cannot be written, or whose results differ from Paddle's."""


def _import(name: str) -> Any:
    """Return the module ``onnx`` or ``onnxruntime``."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OnnxExportError(
            f"{name} is not installed: pip install 'ppmat[onnx]'"
        ) from error


class _Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(
        self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **attributes
    ) -> Any:
        """Append a node; returns the name of its output, or a list of names."""
        stem = name or f"{kind.lower()}_{len(self.nodes)}"
        names = [stem] if outputs == 1 else [f"{stem}_{i}" for i in range(outputs)]
        node = self._onnx.helper.make_node(kind, list(inputs), names, **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def conv(self, x: str, weight: str, bias: str = "", name: str = "") -> str:
        """Append a convolution that keeps the size."""
        pad = self.constants[weight].shape[-1] // 2
        inputs = (x, weight, bias) if bias else (x, weight)
        return self.add("Conv", *inputs, pads=[pad] * 4, name=name)

    def halves(self, x: str, axis: int) -> list[str]:
        """Append a split in two."""
        return self.add("Split", x, outputs=2, axis=axis)

    def columns(self, x: str) -> list[str]:
        """Append cosine of re and im, and sine of re and im, of ``x`` = (re | im)."""
        cosine, sine = self.halves(self.add("MatMul", "columns", x), axis=2)
        return [*self.halves(cosine, axis=3), *self.halves(sine, axis=3)]

    def fourier_unit(self, x: str, i: int) -> str:
        """Append the Fourier unit of block ``i``."""
        c_re, c_im, s_re, s_im = self.columns(self.add("MatMul", x, "rows"))
        parts = [self.add("Add", c_re, s_im), self.add("Sub", c_im, s_re)]
        x = self.add("Concat", *parts, "ramps", axis=1)
        x = self.add("Relu", self.conv(x, f"unit_{i}"))
        x = self.add("Concat", *self.halves(x, axis=1), axis=3)
        c_re, c_im, s_re, s_im = self.columns(x)
        parts = [self.add("Sub", c_re, s_im), self.add("Add", c_im, s_re)]
        return self.add("MatMul", self.add("Concat", *parts, axis=3), "rows_back")

    def block(self, x_l: str, x_g: str, i: int) -> list[str]:
        """Append the interactive block ``i``."""
        u = self.fourier_unit(self.conv(x_g, f"first_{i}", f"first_bias_{i}"), i)
        x = self.add("Concat", x_l, x_g, axis=1)
        y_l = self.conv(x, f"local_{i}", f"local_bias_{i}")
        y_g = self.conv(x, f"mixed_{i}", f"mixed_bias_{i}")
        y_g = self.add("Add", self.conv(u, f"second_{i}"), y_g)
        return [self.add("Relu", y_l), self.add("Relu", y_g)]


def build_onnx(
    model: SFIN, height: int, width: int, metadata: dict[str, Any] | None = None
) -> Any:
    """Return the folded network as an ``onnx.ModelProto`` for one size of tile.

    ``metadata`` are plain values, kept as JSON under the key ``ppmat``.
    """
    onnx = _import("onnx")
    folded = FoldedSFIN(model, height, width, fourier="matmul")
    graph = _Graph(onnx)
    graph.constants = {k: v.numpy() for k, v in folded.named_buffers()}
    for name, value in graph.constants.items():
        if name.startswith("unit_"):
            graph.constants[name] = value.reshape(2 * folded.half, -1, 1, 1)
    ramps = graph.constants["ramps"]
    graph.constants["ramps"] = ramps.reshape(1, 3, height, width // 2 + 1)

    x = graph.conv(INPUT, "head_conv", "head_conv_bias")
    halves = first = graph.halves(x, axis=1)
    for i in range(0, folded.num_blocks, 2):
        new = graph.block(*graph.block(*halves, i), i + 1)
        halves = [graph.add("Add", a, b) for a, b in zip(halves, new, strict=True)]
    halves = [graph.add("Add", a, b) for a, b in zip(halves, first, strict=True)]
    x = graph.add("Concat", *halves, axis=1)
    graph.conv(x, "tail_conv", "tail_conv_bias", name=OUTPUT)

    helper = onnx.helper
    shape = [1, model.in_channels, height, width]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in (INPUT, OUTPUT)
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in graph.constants.items()
    ]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, "SFIN", ends[:1], ends[1:], tensors),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="ppmat",
        producer_version=ppmat.__version__,
    )
    helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata or {})})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def largest_difference(content: bytes, model: SFIN, height: int, width: int) -> float:
    """Return the largest difference of ONNX Runtime from Paddle, relative to the range.

    Three tiles are compared: a lattice with noise, noise, and noise 100 times weaker.
    """
    runtime = _import("onnxruntime")
    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own classes have no common base
        raise OnnxExportError(f"ONNX Runtime refuses the file: {error}") from error
    rng = np.random.default_rng(0)
    shape = [1, model.in_channels, height, width]
    rows, columns = np.mgrid[:height, :width] * (2 * np.pi / 9.3)
    lattice = 100 + 60 * np.cos(rows) * np.cos(columns) + rng.normal(0, 20, shape)
    noise = rng.uniform(0, 255, shape)
    worst = 0.0
    training = model.training
    model.eval()
    for tile in (lattice, noise, noise / 100):
        tile = tile.astype(np.float32)
        with paddle.no_grad():
            expected = model.enhance(paddle.to_tensor(tile)).numpy()
        (found,) = session.run([OUTPUT], {INPUT: tile})
        difference = np.abs(found - expected).max() / np.ptp(expected)
        worst = max(worst, float(difference)) if np.isfinite(difference) else np.inf
    if training:
        model.train()
    return worst


def export_onnx(
    model: SFIN,
    path: str | os.PathLike,
    tile: Sequence[int],
    overlap: int = 64,
    scaling: Scaling = "robust",
    name: str | None = None,
    check: bool = True,
) -> float | None:
    """Write an ONNX file; only a file that passed the check replaces an older one.

    Args:
        model: The network.
        path: File to write.
        tile: Height and width of the tiles it takes.
        overlap: Kept in the metadata of the file, for programs that use it.
        scaling: Likewise.
        name: Likewise, of a registered model.
        check: Compare ONNX Runtime with Paddle before writing.

    Returns:
        The largest difference as a fraction of the range; None without ``check``.

    Raises:
        OnnxExportError: A missing package, a file that cannot be written, or results
            that differ by more than 1e-4 of the range.
    """
    height, width = tile
    metadata = {
        "tile": [height, width],
        "overlap": overlap,
        "scaling": list(scaling) if isinstance(scaling, tuple) else scaling,
        "percentiles": list(PERCENTILES),
        "grey": list(GREY),
        "model": name or type(model).__name__,
        "target": model.target_name,
        "weights": fingerprint(model),
        "versions": {"ppmat": ppmat.__version__, "paddle": paddle.__version__},
    }
    content = build_onnx(model, height, width, metadata).SerializeToString()
    worst = None
    if check:
        worst = largest_difference(content, model, height, width)
        if not worst <= TOLERANCE:
            raise OnnxExportError(
                f"ONNX Runtime and Paddle differ by {worst:.1e} of the range, more "
                f"than {TOLERANCE:.0e}; {path} was not written. Possible reasons are a "
                "NaN in the weights, or weights of very different size"
            )
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OnnxExportError(f"{path} cannot be written: {error}") from error
    return worst
