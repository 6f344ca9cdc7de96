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


"""A network that runs on tiles: compiled, as it is, or any function of tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppmat.predictor.enhancement import Enhancement
from ppmat.predictor.enhancement import EnhanceOptions
from ppmat.predictor.enhancement import enhance_image
from ppmat.predictor.tiling import TileRunner

# Target of a network that marks atomic columns instead of cleaning the image.
MAP_TARGET = "gt_detect"


class TileFunction:
    """A function of tiles, float32 ``[B, 1, h, w]`` to the same shape.

    Args:
        function: The function.

    Attributes:
        defaults: The options that a caller does not give.
        gives_map: Whether the result is a map of columns in grey levels, which are not
            converted back to the units of the image.

    Example:
        >>> tiles = TileFunction(lambda tiles: 0.5 * tiles)
        >>> tiles.enhance_image(np.eye(8), scaling="grey").image[0, 0]
        0.5
    """

    defaults = EnhanceOptions()
    gives_map = False

    def __init__(self, function: TileRunner) -> None:
        self._function = function

    def runner(self, height: int, width: int) -> TileRunner:
        """Return the function of tiles of this size."""
        return self._function

    def describe(self) -> dict[str, Any]:
        """Return plain values for the record: model and fingerprint of its weights."""
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return {"model": name, "weights": None}

    def enhance_image(
        self,
        x: Any,
        *,
        dtype: str | None = None,
        on_tiles: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Enhancement:
        """Return the enhanced image with its record.

        Args:
            x: See :func:`ppmat.predictor.enhancement.enhance_image`.
            dtype: Likewise.
            on_tiles: Likewise.
            **options: Of :class:`ppmat.predictor.enhancement.EnhanceOptions`; what is
                not given is taken from ``defaults``.

        Raises:
            TypeError, InputError: See ``enhance_image``.
        """
        options = self.defaults.updated(**options)
        return enhance_image(x, self, options, dtype=dtype, on_tiles=on_tiles)


class TileModel(TileFunction):
    """A network that runs on tiles.

    An SFIN runs as a compiled program for one size of tile, which is kept for the next
    tile and the next process. A network of another class runs without gradients.

    Args:
        network: The network in evaluation mode.
        description: Model and package for the record; the class name when None.
        defaults: The options that a caller does not give.
    """

    def __init__(
        self,
        network: Any,
        description: dict[str, Any] | None = None,
        defaults: EnhanceOptions = TileFunction.defaults,
    ) -> None:
        from ppmat.utils.save_load import fingerprint

        self.network = network
        self.defaults = defaults
        self.gives_map = getattr(network, "target_name", None) == MAP_TARGET
        self._description = description or {"model": type(network).__name__}
        self._description["weights"] = fingerprint(network)
        self._programs: dict[tuple[int, int], TileRunner] = {}

    def runner(self, height: int, width: int) -> TileRunner:
        """Return the compiled network for tiles of this size.

        Raises:
            StaticProgramError: This version of Paddle compiles networks wrongly.
        """
        from ppmat.models.sfin.sfin import SFIN

        if not isinstance(self.network, SFIN):
            return self._run_network
        size = (height, width)
        if size not in self._programs:
            from ppmat.predictor.static_program import StaticProgram

            self._programs[size] = StaticProgram(self.network, height, width)
        return self._programs[size]

    def _run_network(self, tiles: np.ndarray) -> np.ndarray:
        import paddle

        with paddle.no_grad():
            return self.network(paddle.to_tensor(tiles)).numpy()

    def describe(self) -> dict[str, Any]:
        """Return plain values for the record: model and fingerprint of its weights."""
        return dict(self._description)
