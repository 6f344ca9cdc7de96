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


"""Networks and functions that run on tiles, and the options with which they run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppmat.predictor.slow_background import BACKGROUND_LIMIT
from ppmat.predictor.tiling import OVERLAP
from ppmat.predictor.tiling import TILE_SIZE
from ppmat.predictor.tiling import TileRunner
from ppmat.predictor.tiling import check_tiles
from ppmat.predictor.tiling import is_whole_number
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice

BACKGROUNDS = ("auto", "keep", "remove")
RESAMPLINGS = ("auto", "off")
Scaling = str | tuple[float, float]

# Targets of networks that draw atomic columns on zero instead of cleaning the image:
# equal spots in grey levels, or spots with the intensity of their column.
MAP_TARGET = "gt_detect"
SUPERRESOLUTION_TARGET = "gt_superresolution"


@dataclass(frozen=True)
class EnhanceOptions:
    """How an image is enhanced.

    Attributes:
        scaling: ``"robust"``: the 0.1 and 99.9 percentiles of a frame become the grey
            levels they have in training. ``"grey"``: values are grey levels 0 to 255
            already. ``(offset, scale)``: grey is ``(x - offset) / scale``, the same
            for all frames.
        tile_size: Height and width of a tile, pixels; best as in training.
        overlap: Pixels that neighbouring tiles share, at most half a tile.
        ensemble: Average over the flips of each tile: four times the work.
        batch_size: Tiles given to the network at once. A compiled network runs them
            one after another, so more than 1 helps other networks only.
        background: What happens to the slow variation of the image. ``"auto"``: it is
            separated from what the network sees, and added again, where it is larger
            than in training; not with ``scaling="grey"``. ``"keep"``: always.
            ``"remove"``: always, and only its median is added again.
        resample: ``"auto"``: an image whose lattice has another spacing than in
            training is resampled for the network; not with ``scaling="grey"``.
            ``"off"``: never.

    Example:
        >>> EnhanceOptions().updated(tile_size=128).overlap
        32
        >>> EnhanceOptions(scaling="grey").settings()
        {'scaling': 'grey', 'tile_size': 256, 'overlap': 64, 'ensemble': False, \
'background': 'auto', 'resample': 'auto'}
    """

    scaling: Scaling = "robust"
    tile_size: int = TILE_SIZE
    overlap: int = OVERLAP
    ensemble: bool = False
    batch_size: int = 1
    background: str = "auto"
    resample: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scaling", _check_scaling(self.scaling))
        check_tiles(self.tile_size, self.overlap)
        if not is_whole_number(self.batch_size, 1):
            raise InputError(
                f"batch_size is {self.batch_size!r}", wanted="a whole number above 0"
            )
        check_choice("background", self.background, BACKGROUNDS)
        check_choice("resample", self.resample, RESAMPLINGS)

    def updated(self, **options: Any) -> EnhanceOptions:
        """Return a copy with other values; None keeps the value.

        With a ``tile_size`` and without ``overlap``, tiles overlap by a quarter.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if "tile_size" in given:
            given.setdefault("overlap", given["tile_size"] // 4)
        return dataclasses.replace(self, **given)

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the result, as plain values."""
        fields = dataclasses.fields(self)
        names = [field.name for field in fields if field.name != "batch_size"]
        return {name: getattr(self, name) for name in names}


def _check_scaling(scaling: Any) -> Scaling:
    """Return a legal scaling, with a list as a tuple of floats."""
    if isinstance(scaling, str) and scaling in ("robust", "grey"):
        return scaling
    if isinstance(scaling, (tuple, list)) and len(scaling) == 2:
        offset, scale = (float(v) for v in scaling)
        if np.isfinite(offset) and np.isfinite(scale) and scale > 0:
            return offset, scale
    raise InputError(
        f"scaling is {scaling!r}",
        wanted="'robust', 'grey' or (offset, scale) with a positive scale",
    )


@dataclass(frozen=True)
class TrainedRange:
    """Which images a network was trained on, as far as it can be measured.

    Attributes:
        spacing: Shortest and longest lattice vector, pixels; None if not known.
        background: Range of the slow variation over the range of the rest, see
            :mod:`ppmat.predictor.slow_background`.

    Example:
        >>> TrainedRange([9, 36]).describe()
        {'spacing': [9.0, 36.0], 'background': 0.5}
    """

    spacing: tuple[float, float] | None = None
    background: float = BACKGROUND_LIMIT

    def __post_init__(self) -> None:
        if self.spacing is not None:
            try:
                least, most = spacing = tuple(map(float, self.spacing))
                legal = 0 < least <= most
            except (TypeError, ValueError):
                legal = False
            if not legal:
                raise InputError(
                    f"spacing is {self.spacing!r}",
                    wanted="shortest and longest lattice vector, pixels",
                )
            object.__setattr__(self, "spacing", spacing)
        number = isinstance(self.background, (int, float))
        if not number or not self.background > 0:
            raise InputError(
                f"background_limit is {self.background!r}", wanted="above 0"
            )

    def describe(self) -> dict[str, Any]:
        """Return plain values for the record."""
        spacing = None if self.spacing is None else list(self.spacing)
        return {"spacing": spacing, "background": self.background}


class TileFunction:
    """A function of tiles, float32 ``[B, 1, h, w]`` to the same shape.

    Attributes:
        defaults: The options that a caller does not give.
        gives_map: Whether the result is a map of columns, spots on zero, which is no
            clean image and has no residual.
        map_has_units: Whether the spots of a map are multiplied by the scale of the
            image, without its offset. Else they stay in grey levels.
        trained: Which images the function is made for.
    """

    defaults = EnhanceOptions()
    gives_map = False
    map_has_units = False
    trained = TrainedRange()

    def __init__(self, function: TileRunner) -> None:
        self._function = function

    def runner(self, height: int, width: int) -> TileRunner:
        """Return the function of tiles of this size."""
        return self._function

    def describe(self) -> dict[str, Any]:
        """Return plain values for the record: model and fingerprint of its weights."""
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        trained = self.trained.describe()
        return {"model": name, "weights": None, "trained": trained}


class TileModel(TileFunction):
    """A network that runs on tiles.

    An SFIN runs as a compiled program for one size of tile, which is kept for the next
    tile and the next process. A network of another class runs without gradients.

    Args:
        network: The network in evaluation mode.
        description: Model and package for the record; the class name when None.
        defaults: The options that a caller does not give.
        trained: Which images the network was trained on.
    """

    def __init__(
        self,
        network: Any,
        description: dict[str, Any] | None = None,
        defaults: EnhanceOptions = TileFunction.defaults,
        trained: TrainedRange = TileFunction.trained,
    ) -> None:
        from ppmat.utils.save_load import fingerprint

        self.network = network
        self.defaults = defaults
        self.trained = trained
        target = getattr(network, "target_name", None)
        self.gives_map = target in (MAP_TARGET, SUPERRESOLUTION_TARGET)
        self.map_has_units = target == SUPERRESOLUTION_TARGET
        self._description = description or {"model": type(network).__name__}
        self._description["weights"] = fingerprint(network)
        self._description["trained"] = trained.describe()
        self._programs: dict[tuple[int, int], TileRunner] = {}

    def runner(self, height: int, width: int) -> TileRunner:
        """Return the compiled network for tiles of this size."""
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
