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


"""What runs tiles: a network as a compiled program, or any function of tiles."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ppmat.predictor.packaged_models import registered_name
from ppmat.predictor.tiling import TileRunner

TILE_SIZE = 256
OVERLAP = 64
# What a network is trained on that marks columns instead of cleaning the image.
MAP_TARGET = "gt_detect"


class TileModel:
    """Tiles through a network.

    An SFIN runs as a compiled program for one size of tile, kept for the next tile and
    the next process. A network of another class runs as it is, without gradients.

    Args:
        network: The network in evaluation mode.
        description: What the record says about it; the class when None.

    Attributes:
        tile_size: Pixels of a tile when the caller does not say.
        overlap: Pixels neighbours share when the caller says neither.
        scaling: See :func:`ppmat.predictor.enhancement.enhance`.
        gives_map: Whether the result is a map of columns in grey levels, which has no
            units to be brought back to.
    """

    tile_size = TILE_SIZE
    overlap = OVERLAP
    scaling = "robust"

    def __init__(self, network: Any, description: dict[str, Any] | None = None) -> None:
        from ppmat.utils.save_load import fingerprint

        self.network = network
        self.gives_map = getattr(network, "target_name", None) == MAP_TARGET
        self._description = description or {"model": type(network).__name__}
        self._description["weights"] = fingerprint(network)
        self._programs: dict[tuple[int, int], TileRunner] = {}

    def runner(self, height: int, width: int) -> TileRunner:
        """Return what turns tiles ``[B, 1, h, w]`` into enhanced ones."""
        size = (height, width)
        if size not in self._programs:
            from ppmat.models.sfin.sfin import SFIN

            if isinstance(self.network, SFIN):
                from ppmat.predictor.static_program import StaticProgram

                self._programs[size] = StaticProgram(self.network, height, width)
            else:
                self._programs[size] = self._run_network
        return self._programs[size]

    def _run_network(self, tiles: np.ndarray) -> np.ndarray:
        import paddle

        with paddle.no_grad():
            return self.network(paddle.to_tensor(tiles)).numpy()

    def describe(self) -> dict[str, Any]:
        """Return plain values for the record: model and fingerprint of its weights."""
        return dict(self._description)


class FunctionTiles:
    """Tiles through a function of the caller, float32 ``[B, 1, h, w]`` to the same."""

    tile_size = TILE_SIZE
    overlap = OVERLAP
    scaling = "robust"
    gives_map = False

    def __init__(self, function: TileRunner) -> None:
        self._function = function

    def runner(self, height: int, width: int) -> TileRunner:
        """Return the function, whatever the size."""
        return self._function

    def describe(self) -> dict[str, Any]:
        """Return the name of the function; it has no weights we know of."""
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return {"model": name, "weights": None}


@functools.cache
def _shipped_model(name: str) -> Any:
    from ppmat.predictor.spectrum_predictor import SpectrumPredictor

    return SpectrumPredictor(model_name=name)


def as_tile_model(model: Any, mode: str | None = None) -> Any:
    """Return an object with ``runner``, ``describe``, ``tile_size``, ...

    Args:
        model: A ``SpectrumPredictor``, the name of a registered model, a network
            (``paddle.nn.Layer``), or a function of tiles. None is the shipped model,
            which stays loaded.
        mode: Which shipped model; ``"haadf"`` when None.

    Raises:
        TypeError: Something else.
        ValueError: A mode beside a model, a mode that does not exist, or a network in
            training mode.
    """
    if model is None:
        return _shipped_model(registered_name(mode))
    if mode is not None:
        raise ValueError(
            f"mode={mode!r} chooses among the shipped models; leave out the model or it"
        )
    if hasattr(model, "runner") and hasattr(model, "describe"):
        return model
    if isinstance(model, str):
        from ppmat.predictor.spectrum_predictor import SpectrumPredictor

        return SpectrumPredictor(model_name=model)
    if hasattr(model, "state_dict") and callable(model):
        if getattr(model, "training", False):
            raise ValueError(
                f"the {type(model).__name__} is in training mode, in which its result "
                "depends on the other tiles; call .eval() first"
            )
        return TileModel(model)
    if callable(model):
        return FunctionTiles(model)
    raise TypeError(
        f"model is a {type(model).__name__}; wanted a SpectrumPredictor, the name of a "
        "registered model, a network, or a function of tiles [B, 1, h, w]"
    )
