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


"""Trained networks that enhance images: arrays, HyperSpy signals, files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Literal

import numpy as np
import paddle

from ppmat.models import package_label
from ppmat.predictor.base import BasePredictor
from ppmat.predictor.base import PathLike
from ppmat.predictor.enhancement import Enhancement
from ppmat.predictor.enhancement import enhance_image
from ppmat.predictor.image_store import ImageStore
from ppmat.predictor.image_store import make_folder
from ppmat.predictor.packaged_models import choose_model_name
from ppmat.predictor.slow_background import BACKGROUND_LIMIT
from ppmat.predictor.tile_model import EnhanceOptions
from ppmat.predictor.tile_model import TileFunction
from ppmat.predictor.tile_model import TileModel
from ppmat.predictor.tile_model import TrainedRange
from ppmat.predictor.tiling import OVERLAP
from ppmat.predictor.tiling import TILE_SIZE
from ppmat.predictor.tiling import check_tiles
from ppmat.stem.images.image_inputs import find_images
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.progress import Progress
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import check_keys
from ppmat.utils.shares import locked_for_all
from ppmat.utils.shares import my_share
from ppmat.utils.shares import wait

_PREDICT_KEYS = (
    "checkpoint_path",
    "eval_with_no_grad",
    "graph_converter",
    "post_transforms",
    "tile_size",
    "overlap",
    "scaling",
    "resample",
    "background",
    "background_limit",
    "spacing",
)

OnError = Literal["raise", "flag"]


def enhance(
    x: Any,
    model: Any = None,
    *,
    mode: str | None = None,
    return_record: bool = False,
    dtype: str | None = None,
    on_tiles: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Any:
    """Return the enhanced image, of the shape, units and type of ``x``.

    With a trained network::

        clean = enhance(image)                  # a packaged model
        predictor = SpectrumPredictor(config_path="sfin_haadf_enhance.yaml",
                                      checkpoint_path="best.pdparams")
        clean = enhance(image, predictor)

    Args:
        x, dtype, on_tiles: See :func:`ppmat.predictor.enhancement.enhance_image`.
        model, mode: See :func:`as_tile_model`.
        return_record: Return the pair of image and record (a dict) instead.
        **options: See :class:`ppmat.predictor.tile_model.EnhanceOptions`; None takes
            the model's own.

    Raises:
        TypeError: ``x`` or ``model`` has a wrong type.
        InputError: ``x``, ``mode`` or an option is not legal.

    Example:
        With a function in place of a network:

        >>> image = np.random.default_rng(0).normal(5.0, 0.1, (20, 30))
        >>> enhance(image, lambda tiles: 0.5 * tiles).shape
        (20, 30)
    """
    tiles = as_tile_model(model, mode)
    options = tiles.defaults.updated(**options)
    result = enhance_image(x, tiles, options, dtype=dtype, on_tiles=on_tiles)
    return (result.image, result.record) if return_record else result.image


@functools.cache
def _packaged_model(name: str) -> TileModel:
    return SpectrumPredictor(model_name=name).tiles


def as_tile_model(model: Any, mode: str | None = None) -> TileFunction:
    """Return a model that runs on tiles.

    Args:
        model: A ``SpectrumPredictor``, the name of a registered model, a network
            (``paddle.nn.Layer``), or a function of tiles. None is the packaged model
            of ``mode``, trained on synthetic images, which stays loaded.
        mode: ``"haadf"`` or ``"bf"``, only without ``model``; ``"haadf"`` when None.
    """
    if model is None:
        return _packaged_model(choose_model_name(mode))
    if mode is not None:
        raise InputError(
            f"mode={mode!r} chooses a packaged model and does not go with a model; "
            "leave one of them out"
        )
    if isinstance(model, TileFunction):
        return model
    if isinstance(model, SpectrumPredictor):
        return model.tiles
    if isinstance(model, str):
        return SpectrumPredictor(model_name=model).tiles
    if hasattr(model, "state_dict") and callable(model):
        if getattr(model, "training", False):
            raise InputError(
                f"the {type(model).__name__} is in training mode, in which its result "
                "depends on the other tiles; call .eval() first"
            )
        return TileModel(model)
    if callable(model):
        return TileFunction(model)
    raise TypeError(
        f"model is a {type(model).__name__}; wanted a SpectrumPredictor, the name of a "
        "registered model, a network, or a function of tiles [B, 1, h, w]"
    )


class SpectrumPredictor(BasePredictor):
    """Enhances microscope images with a network that was trained on grey values.

    The model is loaded by the constructor::

        predictor = SpectrumPredictor()         # a packaged model
        clean = predictor.enhance(image)        # float in, float out
        predictor.from_files("monday/*.dm4", save_path="enhanced")

        own = SpectrumPredictor(config_path="sfin_haadf_enhance.yaml",
                                checkpoint_path="best.pdparams")

    A model whose target is ``gt_detect`` gives a map of atomic columns, in grey levels
    0 to 255 whatever the units of the image. One with ``gt_superresolution`` gives the
    columns as spots of one pixel on zero, in units of the image.

    The section ``Predict`` of the YAML may have ``tile_size`` (256), ``overlap`` (64),
    ``scaling`` (``robust``), ``background`` and ``resample`` (``auto``), see
    :class:`ppmat.predictor.tile_model.EnhanceOptions`; and the training's
    ``background_limit`` and ``spacing`` (default: ``Global.spacing``), see
    :class:`ppmat.predictor.tile_model.TrainedRange`.

    Args:
        model_name: A registered model. Without it and ``config_path`` the packaged
            model of ``mode`` and ``task``, which was trained on synthetic images.
        checkpoint_path: Weights (``.pdparams``, or ``.pth`` of the authors' code).
        mode: ``"haadf"`` or ``"bf"``: which packaged model; ``"haadf"`` when None.
        task: ``"enhance"`` or ``"superresolution"``: which packaged model.
        weights_name, config_path, device, config_overrides: As ``BasePredictor``.

    Attributes:
        target_name: What the network was trained to give.
        gives_map: Whether that is a map of columns, see above.
        defaults: The options of ``Predict``.
        tiles: The network that runs on tiles.

    Raises:
        ConfigError: Arguments or YAML are not legal, or the model gives no image.
        CheckpointError: Weights that cannot be read or belong to another model.
    """

    def __init__(
        self,
        model_name: str | None = None,
        weights_name: str | None = None,
        config_path: PathLike | None = None,
        checkpoint_path: PathLike | None = None,
        device: str | None = None,
        config_overrides: Sequence[str] | None = None,
        mode: str | None = None,
        task: str | None = None,
    ) -> None:
        own = {"config_path": config_path, "checkpoint_path": checkpoint_path}
        super().__init__(
            choose_model_name(mode, model_name, task, **own),
            weights_name,
            **own,
            device=device,
            config_overrides=config_overrides,
        )
        self.load_inference_model()

    def load_inference_model(self) -> None:
        """Load model and weights, and check the section ``Predict``."""
        super().load_inference_model()
        kind = type(self.model).__name__
        self.target_name = getattr(self.model, "target_name", None)
        if not self.target_name:
            raise ConfigError(
                f"Model: {kind} has no 'target_name', so it gives no image; use "
                "StructureSampler or PropertyPredictor for structures"
            )
        check_keys(self.predict_config, _PREDICT_KEYS, "Predict")
        tile_size = self.predict_config.get("tile_size", TILE_SIZE)
        try:
            check_tiles(tile_size, 0)
            overlap = self.predict_config.get("overlap", min(OVERLAP, tile_size // 4))
            scaling = self.predict_config.get("scaling", "robust")
            resample = self.predict_config.get("resample", "auto")
            self.defaults = EnhanceOptions(
                scaling,
                tile_size,
                overlap,
                background=self.predict_config.get("background", "auto"),
                resample="off" if resample is False else resample,  # off in YAML
            )
            # Models that are trained here say in Global which spacings they saw.
            trained = TrainedRange(
                self.predict_config.get("spacing")
                or (self.config.get("Global") or {}).get("spacing"),
                self.predict_config.get("background_limit", BACKGROUND_LIMIT),
            )
        except InputError as error:
            raise ConfigError(f"Predict: {error}") from error
        description = {"model": self.config.get("Model", kind)}
        label = package_label(self.model_name) if self.model_name else None
        if label is not None:
            description["package"] = label
            logger.message(
                f"Packaged model '{label['name']}', trained on {label['trained_on']}. "
                f"Its measured results: {label['results']}"
            )
        self.tiles = TileModel(self.model, description, self.defaults, trained)
        self.gives_map = self.tiles.gives_map

    def describe(self) -> dict[str, Any]:
        """Return model, fingerprint of its weights, and package, for records."""
        return self.tiles.describe()

    def enhance(self, x: Any, **options: Any) -> Any:
        """Return the enhanced array or signal; see :func:`enhance`."""
        return self.enhance_image(x, **options).image

    def enhance_image(
        self,
        x: Any,
        *,
        dtype: str | None = None,
        on_tiles: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Enhancement:
        """Return the enhanced image with its record; see :func:`enhance`."""
        options = self.defaults.updated(**options)
        return enhance_image(x, self.tiles, options, dtype=dtype, on_tiles=on_tiles)

    def from_image(self, image: Any, **options: Any) -> Any:
        """Return ``{target_name: [B, 1, H, W]}``, a tensor; a list for a list.

        Args:
            image: ``[H, W]``, ``[1, H, W]`` or ``[B, 1, H, W]``, array or tensor; or a
                list of such, which may differ in size.
            **options: See :func:`enhance`.
        """
        if isinstance(image, list):
            return [self.from_image(item, **options) for item in image]
        data = np.asarray(image)
        if data.ndim not in (2, 3, 4) or (data.ndim > 2 and data.shape[-3] != 1):
            raise InputError(
                f"from_image: an array {list(data.shape)}",
                wanted="[H, W], [1, H, W] or [B, 1, H, W] with one channel",
                hint="Use enhance for stacks.",
            )
        return self._as_tensors(self.enhance(data, **options))

    def _as_tensors(self, image: np.ndarray) -> dict[str, paddle.Tensor]:
        batch = image.reshape(-1, 1, *image.shape[-2:])
        return {self.target_name: paddle.to_tensor(batch)}

    def from_image_file(
        self, image_file_path: PathLike, save_path: PathLike | None = None
    ) -> list[dict[str, Any]]:
        """Enhance a file or a folder; returns ``{target_name: [B, 1, H, W]}`` of each.

        All results are kept in memory; :meth:`from_files` does not keep them. The
        folder ``save_path`` gets float32 TIFF files, which replace older ones.
        """
        if save_path is None:
            files = Progress(find_images(image_file_path), "enhancing", unit=" files")
            return [self._as_tensors(self.enhance(file.read().data)) for file in files]
        rows = self.iter_files(image_file_path, save_path, overwrite=True)
        return [self._as_tensors(row["result"].image) for row in rows]

    def from_files(self, inputs: Any, save_path: PathLike, **options: Any) -> list:
        """Return the rows of :meth:`iter_files`, which has the same arguments."""
        return list(self.iter_files(inputs, save_path, **options))

    def iter_files(
        self,
        inputs: PathLike | Sequence[PathLike],
        save_path: PathLike,
        *,
        format: str = "tif",
        residual: bool = False,
        picture: bool = False,
        overwrite: bool = False,
        on_error: OnError = "raise",
        progress: bool = True,
        **options: Any,
    ) -> Iterator[dict[str, Any]]:
        """Enhance files one by one; the outputs go to a folder.

        One file is in memory at a time. The same call made again skips outputs that
        were already made from the same files with the same settings. Of several ranks
        each enhances every n-th file.

        Args:
            inputs: PNG, TIFF, npy, MRC and, with ``ppmat[stem]``, DM3, DM4, EMD, SER,
                HSPY and HDF5 files; ``FILE@INDEX`` or ``FILE@TITLE`` is one image of
                several. A folder means all images in it. The results of
                ``find_images`` may have a region and a mask.
            save_path: Folder. ``x.tif`` has a description ``x.tif.json`` beside it.
            format: ``tif`` (float32, with pixel size and metadata), ``npy``, ``hspy``
                or ``mrc``.
            residual: Also write ``x.tif.residual.png``.
            picture: Also write ``x.tif.picture.png``, 8 bits with a scale bar.
            overwrite: Enhance all files again, and replace existing outputs.
            on_error: For a file that cannot be read or enhanced: ``raise``, or
                ``flag`` for a row with a text in ``error``.
            progress: Show a progress bar.
            **options: See :class:`ppmat.predictor.tile_model.EnhanceOptions`.

        Yields:
            ``input``, ``output`` (None if it failed), ``skipped`` (it was already
            there), ``result`` (an ``Enhancement``; None if skipped) and ``error``.

        Raises:
            StoredRunError: Another file has the name of an output, or another process
                writes to the folder.
            StaticProgramError: This version of Paddle compiles networks wrongly.
            InputError: An option or the folder is not legal, an output would replace an
                input, a file is missing, or failed with ``on_error="raise"``.
        """
        check_choice("on_error", on_error, ("raise", "flag"))
        options = self.defaults.updated(**options)
        if residual and self.gives_map:
            raise ConfigError(
                f"residual: the model gives a map of columns ({self.target_name}), "
                "which cannot be subtracted from the image; leave it out"
            )
        images = find_images(inputs)
        # The same weights are the same model, whatever their package is called.
        identity = {k: v for k, v in self.describe().items() if k != "package"}
        make_folder(save_path)
        with locked_for_all(save_path):
            settings = {**identity, **options.settings()}
            flags = {"overwrite": overwrite, "residual": residual, "picture": picture}
            store = ImageStore(save_path, images, format, settings, **flags)
            done = sum(store.done)
            if done:
                logger.message(f"{done} of {len(images)} outputs are there already")
            if done < len(images):
                # A wrong version of Paddle ends the run; it is no fault of a file.
                self.tiles.runner(options.tile_size, options.tile_size)
            wait()  # each rank has looked at the folder
            mine = my_share(len(images))
            bar = Progress(mine, "enhancing", unit=" files", disable=not progress)
            for number in bar:
                row = {
                    "input": str(images[number]),
                    "output": str(store.paths[number]),
                    "skipped": store.done[number],
                    "result": None,
                    "error": None,
                }
                if not store.done[number]:
                    try:
                        row["result"] = self._enhance_file(store, number, options, bar)
                    except (ValueError, TypeError, OSError) as error:
                        text = images[number].error_text(error)
                        if on_error == "raise":
                            raise InputError(text) from error
                        row.update(output=None, error=text)
                yield row

    def _enhance_file(
        self, store: ImageStore, number: int, options: EnhanceOptions, bar: Progress
    ) -> Enhancement:
        image = store.images[number]
        input_hash = store.input_hash(number)
        source = image.read()

        def show(done: int, total: int) -> None:
            bar.set_postfix_str(f"tile {done} of {total}" if done < total else "")

        result = enhance_image(source.data, self.tiles, options, on_tiles=show)
        store.write(number, result, source, input_hash)
        return result
