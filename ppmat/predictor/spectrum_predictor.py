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


"""Images through a trained network: arrays, HyperSpy signals, files."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Literal

import numpy as np
import paddle
from tqdm import tqdm

from ppmat.models import package_label
from ppmat.predictor.base import BasePredictor
from ppmat.predictor.base import PathLike
from ppmat.predictor.enhancement import Enhancement
from ppmat.predictor.enhancement import Scaling
from ppmat.predictor.enhancement import check_scaling
from ppmat.predictor.enhancement import choose_tiles
from ppmat.predictor.enhancement import enhance_image
from ppmat.predictor.image_store import ImageFile
from ppmat.predictor.image_store import ImageStore
from ppmat.predictor.image_store import find_images
from ppmat.predictor.packaged_models import registered_name
from ppmat.predictor.tile_model import OVERLAP
from ppmat.predictor.tile_model import TILE_SIZE
from ppmat.predictor.tile_model import TileModel
from ppmat.predictor.tiling import TileRunner
from ppmat.predictor.tiling import plan_axis
from ppmat.stem.images.micrograph import read_micrograph
from ppmat.utils import logger
from ppmat.utils.download import hash_of_file
from ppmat.utils.files import replacing
from ppmat.utils.registry import ConfigError

OnError = Literal["raise", "flag"]


class SpectrumPredictor(BasePredictor):
    """Enhances microscope images with a network that was trained on grey values.

    The model is loaded by the constructor::

        predictor = SpectrumPredictor()         # a small model that comes with ppmat
        clean = predictor.enhance(image)        # float in, float out
        predictor.from_files("monday/*.dm4", save_path="enhanced")

        own = SpectrumPredictor(config_path="sfin_haadf_enhance.yaml",
                                checkpoint_path="best.pdparams")

    A model whose target is ``gt_detect`` gives a map of atomic columns, in grey levels
    0 to 255 whatever the units of the image.

    The section ``Predict`` of the YAML may have ``tile_size`` (256), ``overlap`` (64)
    and ``scaling`` (``robust``), see :func:`ppmat.predictor.enhancement.enhance_image`.

    Args:
        model_name: A registered model. Without it and ``config_path`` the shipped
            model of ``mode``, which was trained on synthetic images.
        weights_name: File of the weights in the package of a registered model.
        config_path: YAML of a model of your own.
        checkpoint_path: Its weights (``.pdparams``, or ``.pth`` of the authors' code);
            None takes ``Predict.checkpoint_path``.
        device: ``"cpu"``, ``"gpu"``, ``"gpu:0"``; Paddle's own choice when None.
        config_overrides: ``KEY=VALUE`` with a dotted key.
        mode: ``"haadf"`` or ``"bf"``: which shipped model; ``"haadf"`` when None.

    Attributes:
        target_name: What the network was trained to give.
        gives_map: Whether that is a map of columns, see above.
        tile_size: From ``Predict``.
        overlap: From ``Predict``.
        scaling: From ``Predict``.

    Raises:
        ConfigError: Arguments or YAML cannot be meant, or the model gives no image.
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
    ) -> None:
        super().__init__(
            registered_name(
                mode,
                model_name,
                config_path=config_path,
                checkpoint_path=checkpoint_path,
            ),
            weights_name,
            config_path,
            checkpoint_path,
            device=device,
            config_overrides=config_overrides,
        )
        self.load_inference_model()

    def load_inference_model(self) -> None:
        """Load model and weights, and check what ``Predict`` says on images."""
        super().load_inference_model()
        kind = type(self.model).__name__
        self.target_name = getattr(self.model, "target_name", None)
        if not self.target_name:
            raise ConfigError(
                f"Model: {kind} has no 'target_name', so it gives no image; use "
                "StructureSampler or PropertyPredictor for structures"
            )
        self.tile_size = self._pixels("tile_size", TILE_SIZE)
        self.overlap = self._pixels("overlap", min(OVERLAP, self.tile_size // 4))
        try:
            plan_axis(self.tile_size, self.tile_size, self.overlap)
            self.scaling = check_scaling(self.predict_config.get("scaling", "robust"))
        except ValueError as error:
            raise ConfigError(f"Predict: {error}") from error
        description = {"model": self.config.get("Model", kind)}
        label = package_label(self.model_name) if self.model_name else None
        if label is not None:
            description["package"] = label
            logger.message(
                f"Model '{label['name']}' comes with ppmat; trained on "
                f"{label['trained_on']}. What was measured: {label['results']}"
            )
        self._tiles = TileModel(self.model, description)
        self.gives_map = self._tiles.gives_map

    def _pixels(self, name: str, default: int) -> int:
        value = self.predict_config.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"Predict.{name} is {value!r}, wanted a number of pixels")
        return value

    def runner(self, height: int, width: int) -> TileRunner:
        """Return what runs tiles of this size, see :class:`TileModel`."""
        return self._tiles.runner(height, width)

    def describe(self) -> dict[str, Any]:
        """Return model, fingerprint of its weights, and package, for records."""
        return self._tiles.describe()

    def _identity(self) -> dict[str, Any]:
        """Return what decides an output: not the name under which weights came."""
        return {k: v for k, v in self.describe().items() if k != "package"}

    def enhance(self, x: Any, **options: Any) -> Any:
        """Return the enhanced array or signal, of the shape, units and kind of ``x``.

        Args:
            x: See :func:`ppmat.predictor.enhancement.enhance_image`.
            **options: Likewise.
        """
        return enhance_image(x, self, **options).image

    def enhance_image(self, x: Any, **options: Any) -> Enhancement:
        """Return the enhanced image with its record, see :meth:`enhance`."""
        return enhance_image(x, self, **options)

    def from_image(self, image: Any, **options: Any) -> Any:
        """Enhance one image, or each of a list, as tensors.

        Args:
            image: ``[H, W]``, ``[1, H, W]`` or ``[B, 1, H, W]``, array or tensor; or a
                list of such, which may differ in size.
            **options: See :func:`ppmat.predictor.enhancement.enhance_image`.

        Returns:
            ``{target_name: [B, 1, H, W]}``, or a list of such.

        Raises:
            ValueError: More than one channel, and see :meth:`enhance`.
        """
        if isinstance(image, list):
            return [self.from_image(item, **options) for item in image]
        data = np.asarray(image)
        if data.ndim not in (2, 3, 4) or (data.ndim > 2 and data.shape[-3] != 1):
            raise ValueError(
                f"from_image: an array {list(data.shape)}; wanted [H, W], [1, H, W] or "
                "[B, 1, H, W] with one channel. Use enhance for stacks"
            )
        data = data.reshape(-1, 1, *data.shape[-2:])
        result = enhance_image(data, self, **options)
        return {self.target_name: paddle.to_tensor(result.image)}

    def from_image_file(
        self, image_file_path: PathLike, save_path: PathLike | None = None
    ) -> list[dict[str, Any]]:
        """Enhance an image file, or the image files of a folder.

        Everything is kept in memory; :meth:`from_files` does not.

        Args:
            image_file_path: File or folder.
            save_path: Folder for float32 TIFF files as :meth:`from_files` writes them;
                older ones are replaced.

        Returns:
            ``{target_name: [B, 1, H, W]}`` of each file, B above 1 for a stack.
        """
        images = find_images(image_file_path)
        kept = None
        if save_path is not None:
            names = ("scaling", "tile_size", "overlap")
            settings = {name: getattr(self, name) for name in names}
            settings = {**self._identity(), **settings, "ensemble": False}
            kept = ImageStore(save_path, images, "tif", settings, overwrite=True)
        results = []
        for number, image in enumerate(tqdm(images, desc="enhancing", unit=" files")):
            digest = hash_of_file(image.path)
            source = read_micrograph(image.path, image.index)
            result = enhance_image(source.data, self)
            if kept is not None:
                kept.write(number, result, source, digest)
            height, width = result.image.shape[-2:]
            tensor = paddle.to_tensor(result.image.reshape(-1, 1, height, width))
            results.append({self.target_name: tensor})
        return results

    def from_files(self, inputs: Any, save_path: PathLike, **options: Any) -> list:
        """Enhance files, folders and patterns; returns the rows of :meth:`iter_files`.

        Args:
            inputs: See :meth:`iter_files`.
            save_path: Likewise.
            **options: Likewise.
        """
        return list(self.iter_files(inputs, save_path, **options))

    def iter_files(
        self,
        inputs: PathLike | Sequence[PathLike],
        save_path: PathLike,
        format: str = "tif",
        residual: bool = False,
        overwrite: bool = False,
        on_error: OnError = "raise",
        progress: bool = True,
        scaling: Scaling | None = None,
        tile_size: int | None = None,
        overlap: int | None = None,
        ensemble: bool = False,
        batch_size: int = 1,
    ) -> Iterator[dict[str, Any]]:
        """Enhance files one by one; the outputs go to a folder.

        One file is in memory at a time. The same call made again leaves out what is
        there already, made from the same files with the same settings.

        Args:
            inputs: PNG, TIFF, npy, MRC and, with ``ppmat[stem]``, DM3, DM4, EMD, SER
                and HSPY files; ``FILE@INDEX`` picks an image of several. Folders stand
                for all images in them.
            save_path: Folder. ``x.tif`` has a description ``x.tif.json`` beside it.
            format: ``tif`` (float32, with pixel size and metadata), ``npy``, ``hspy``
                or ``mrc``.
            residual: Also write ``x.tif.residual.png``.
            overwrite: Redo everything, and replace what is there.
            on_error: What a file that cannot be read or enhanced does: ``raise``, or
                ``flag`` for a row with a text in ``error``.
            progress: Show a progress bar.
            scaling: See :func:`ppmat.predictor.enhancement.enhance_image`.
            tile_size: Likewise.
            overlap: Likewise.
            ensemble: Likewise.
            batch_size: Likewise.

        Yields:
            ``input``, ``output`` (None if it failed), ``skipped`` (it was there
            already), ``result`` (an ``Enhancement``; None if skipped) and ``error``.

        Raises:
            ConfigError: A missing file, a folder that cannot be written to, an output
                that would replace an input.
            StoredRunError: There is something else where an output would be.
            ValueError, OSError: With ``on_error="raise"``, the file is named.
        """
        if on_error not in ("raise", "flag"):
            raise ValueError(f"on_error is {on_error!r}; wanted 'raise' or 'flag'")
        tile_size, overlap = choose_tiles(self, tile_size, overlap)
        decide = {
            "scaling": check_scaling(self.scaling if scaling is None else scaling),
            "tile_size": tile_size,
            "overlap": overlap,
            "ensemble": ensemble,
        }
        plan_axis(tile_size, tile_size, overlap)  # says what is wrong with them
        options = {**decide, "batch_size": batch_size}
        if residual and self.gives_map:
            raise ConfigError(
                f"residual: the model gives a map of columns ({self.target_name}), "
                "which cannot be taken from the image; leave it out"
            )
        images = find_images(inputs)
        settings = {**self._identity(), **decide}
        store = ImageStore(save_path, images, format, settings, overwrite, residual)
        done = sum(store.done)
        if done:
            logger.message(f"{done} of {len(images)} outputs are there already")
        with tqdm(
            desc="enhancing", unit=" files", total=len(images), disable=not progress
        ) as bar:
            for number, image in enumerate(images):
                row = {
                    "input": str(image),
                    "output": str(store.paths[number]),
                    "skipped": store.done[number],
                    "result": None,
                    "error": None,
                }
                if not store.done[number]:
                    try:
                        row["result"] = self._do_file(
                            store, number, image, residual, bar, options
                        )
                    except (ValueError, TypeError, OSError) as error:
                        text = _with_path(image, error)
                        if on_error == "raise":
                            raise ValueError(text) from error
                        row.update(output=None, error=text)
                bar.update()
                yield row

    # --- how ----------------------------------------------------------------------

    def _do_file(
        self,
        store: ImageStore,
        number: int,
        image: ImageFile,
        residual: bool,
        bar: tqdm,
        options: dict[str, Any],
    ) -> Enhancement:
        digest = hash_of_file(image.path)
        source = read_micrograph(image.path, image.index)

        def show(done: int, total: int) -> None:
            bar.set_postfix_str(f"tile {done} of {total}" if done < total else "")

        result = enhance_image(source.data, self, on_tiles=show, **options)
        if residual:
            from ppmat.predictor.residual_figure import draw_residual

            with replacing(store.picture(number)) as path:
                draw_residual(result, path, str(image))
        store.write(number, result, source, digest)
        return result


def _with_path(image: ImageFile, error: Exception) -> str:
    text = str(error)
    return text if image.path in text else f"{image}: {text}"
