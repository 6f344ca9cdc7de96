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

Importing this module does not import Paddle, because the number of threads must be set
before.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppmat.commands.options import add_model_options
from ppmat.commands.options import find_task_config
from ppmat.predictor.packaged_models import DEFAULT_MODE
from ppmat.predictor.packaged_models import PACKAGED_MODELS
from ppmat.stem.images.micrograph import IMAGE_SUFFIXES
from ppmat.utils.files import StoredRunError
from ppmat.utils.registry import ConfigError

_MOST_LISTED = 5  # names in a message


# Options --------------------------------------------------------------------------


def add_images(
    parser: argparse.ArgumentParser, *names: str, also: str = "", **options: Any
) -> None:
    """Add the argument that takes images, as ``image_inputs.find_images`` reads them.

    Args:
        parser: Gets the argument.
        *names: Of the argument, or its flags.
        also: More help.
        **options: Of ``add_argument``.
    """
    parser.add_argument(
        *names,
        nargs="+",
        help=f"images ({', '.join(IMAGE_SUFFIXES)}), folders, patterns; FILE@INDEX "
        f"is one image of several{also}",
        **options,
    )


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


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Add ``--tile_size`` and ``--overlap``."""
    add = parser.add_argument
    add("--tile_size", type=int, help="pixels; default: Predict.tile_size, or 256")
    add("--overlap", type=int,
        help="pixels that neighbouring tiles share; default: Predict.overlap, or a "
        "quarter of the tile")  # fmt: skip


def own_model_options(args: argparse.Namespace) -> list[str]:
    """Return the given options that name a model."""
    names = ("model_name", "weights_name", "config_path", "checkpoint_path")
    return [f"--{name}" for name in names if getattr(args, name) is not None]


# The model ------------------------------------------------------------------------


def load_predictor(
    args: argparse.Namespace,
    task_dir: str,
    mode: str | None,
    device: str | None = None,
    find: Callable[[str, str], str] = find_task_config,
) -> Any:
    """Return the ``SpectrumPredictor`` of the options.

    Args:
        args: With the options of :func:`add_image_model`, and ``overrides``.
        task_dir: Folder of the calling script.
        mode: Which packaged model, if no other is named.
        device: See ``SpectrumPredictor``.
        find: Finds the file of ``--config_path``, given the task folder.

    Raises:
        ConfigError: See ``SpectrumPredictor``; or no such configuration.
        CheckpointError: See ``SpectrumPredictor``.
    """
    from ppmat.predictor.spectrum_predictor import SpectrumPredictor

    path = args.config_path
    return SpectrumPredictor(
        model_name=args.model_name,
        weights_name=args.weights_name,
        config_path=None if path is None else find(path, task_dir),
        checkpoint_path=args.checkpoint_path,
        device=device,
        config_overrides=args.overrides,
        mode=mode,
    )


# Outputs --------------------------------------------------------------------------


def refuse_present(paths: Iterable[Path], overwrite: bool) -> None:
    """Check that no output exists, unless it may be replaced.

    Raises:
        StoredRunError: An output exists.
    """
    present = [str(path) for path in paths if path.exists()]
    if present and not overwrite:
        verb = "is" if len(present) == 1 else "are"
        raise StoredRunError(
            f"{first_names(present)} {verb} there already; choose another --output, or "
            "replace with --overwrite"
        )


def check_parent(path: Path) -> None:
    """Check that the folder of an output exists and can be written to.

    Raises:
        ConfigError: It does not, or it cannot.
    """
    folder = path.absolute().parent
    if not os.access(folder, os.W_OK):
        reason = "cannot be written to" if folder.is_dir() else "does not exist"
        raise ConfigError(f"{path}: the folder {folder} {reason}")


def first_names(names: Sequence[str]) -> str:
    """Return the first names as text, and the number of the others.

    Example:
        >>> first_names(["a", "b", "c", "d", "e", "f"])
        'a, b, c, d, e and 1 more'
    """
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
