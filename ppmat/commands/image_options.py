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

"""What the commands on images share: options, the model, checks of outputs.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppmat.commands.options import add_model_options
from ppmat.commands.options import find_task_config
from ppmat.predictor.packaged_models import DEFAULT_MODE
from ppmat.predictor.packaged_models import DEFAULT_TASK
from ppmat.predictor.packaged_models import MODELS_OF_TASK
from ppmat.predictor.packaged_models import PACKAGED_MODELS
from ppmat.stem.images.image_inputs import ImageFile
from ppmat.stem.images.image_inputs import find_images
from ppmat.stem.images.micrograph import IMAGE_SUFFIXES
from ppmat.stem.images.selection import Selection
from ppmat.utils.files import StoredRunError
from ppmat.utils.registry import ConfigError

_MOST_LISTED = 5  # names in a message


def add_images(
    parser: argparse.ArgumentParser, *names: str, also: str = "", **options: Any
) -> None:
    """Add the argument that takes images, as ``find_images`` reads them.

    ``also`` is more help; ``options`` are those of ``add_argument``.
    """
    parser.add_argument(
        *names,
        nargs="+",
        help=f"images ({', '.join(IMAGE_SUFFIXES)}), folders, patterns; FILE@INDEX "
        f"or FILE@TITLE is one image of several{also}",
        **options,
    )


def add_selection(parser: argparse.ArgumentParser, mask: bool = True) -> None:
    """Add ``--region`` and, with ``mask``, ``--mask``; see :func:`selected_images`."""
    parser.add_argument(
        "--region",
        type=int,
        nargs=4,
        metavar=("TOP", "LEFT", "HEIGHT", "WIDTH"),
        help="use this rectangle of each image, pixels",
    )
    parser.set_defaults(mask=None)
    if mask:
        parser.add_argument(
            "--mask",
            metavar="FILE",
            help="use the pixels that are not zero in this image, of the size of the "
            "inputs; the others become NaN",
        )


def selected_images(args: argparse.Namespace, inputs: Sequence[Any]) -> list[ImageFile]:
    """Return the images of ``inputs``, each with the region and mask of the options."""
    if args.region is None and args.mask is None:
        return find_images(inputs)
    if args.mask is not None and not os.path.isfile(args.mask):
        raise ConfigError(f"--mask={args.mask}: file not found")
    region = None if args.region is None else tuple(args.region)
    return find_images(inputs, Selection(region, args.mask))


def add_image_model(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Add the options of the model; with ``device``, where it runs."""
    add_model_options(parser, device)
    parser.add_argument(
        "--checkpoint_path",
        help="weights that belong to --config_path: .pdparams, or .pth of the authors",
    )


def add_mode(parser: argparse.ArgumentParser) -> None:
    """Add ``--mode``, which only chooses a packaged model."""
    parser.add_argument(
        "--mode",
        choices=tuple(PACKAGED_MODELS),
        help="kind of image, to choose a packaged model when no other is given "
        f"(default: {DEFAULT_MODE}); excludes --model_name and --config_path",
    )


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add ``--task``, which only chooses a packaged model."""
    parser.add_argument(
        "--task",
        choices=tuple(MODELS_OF_TASK),
        help="what a packaged model draws when no other is given: a clean image, or "
        "columns as spots of one pixel with their intensity, on zero (default: "
        f"{DEFAULT_TASK})",
    )


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Add ``--tile_size`` and ``--overlap``."""
    add = parser.add_argument
    add("--tile_size", type=int, help="pixels; default: Predict.tile_size, or 256")
    add("--overlap", type=int, help="pixels that neighbouring tiles share; default: "
        "Predict.overlap, or a quarter of the tile")  # fmt: skip


def own_model_options(args: argparse.Namespace) -> list[str]:
    """Return the given options that name a model."""
    names = ("model_name", "weights_name", "config_path", "checkpoint_path")
    return [f"--{name}" for name in names if getattr(args, name) is not None]


def load_predictor(
    args: argparse.Namespace,
    task_dir: str,
    mode: str | None,
    task: str | None = None,
) -> Any:
    """Return the ``SpectrumPredictor`` of the options of a command.

    ``mode`` and ``task`` choose the packaged model, if the options name no other.
    """
    from ppmat.predictor.spectrum_predictor import SpectrumPredictor

    path = args.config_path
    return SpectrumPredictor(
        args.model_name,
        args.weights_name,
        None if path is None else find_task_config(path, task_dir),
        args.checkpoint_path,
        device=args.device,
        config_overrides=args.overrides,
        mode=mode,
        task=task,
    )


def refuse_present(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise a ``StoredRunError`` if an output exists and must not be replaced."""
    present = [str(path) for path in paths if path.exists()]
    if present and not overwrite:
        verb = "is" if len(present) == 1 else "are"
        raise StoredRunError(
            f"{first_names(present)} {verb} there already; choose another --output, or "
            "replace with --overwrite"
        )


def check_parent(path: Path) -> None:
    """Raise a ``ConfigError`` unless the folder of an output can be written to."""
    folder = path.absolute().parent
    if not os.access(folder, os.W_OK):
        reason = "cannot be written to" if folder.is_dir() else "does not exist"
        raise ConfigError(f"{path}: the folder {folder} {reason}")


def first_names(names: Sequence[str]) -> str:
    """Return the first five names as text, and the number of the others."""
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
