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

"""What the commands on images share: their options, the model, their outputs.

Importing this module does not import Paddle: the number of threads has to be set
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
from ppmat.predictor.packaged_models import SHIPPED
from ppmat.stem.images.micrograph import IMAGE_SUFFIXES
from ppmat.utils.files import StoredRunError
from ppmat.utils.registry import ConfigError

_SHOWN = 5  # names in a message


# Options --------------------------------------------------------------------------


def add_images(
    parser: argparse.ArgumentParser, *names: str, also: str = "", **options: Any
) -> None:
    """Add the argument that takes images, as ``image_inputs.find_images`` reads them.

    Args:
        parser: Gets it.
        *names: Of the argument, or its flags.
        also: More help.
        **options: Of ``add_argument``.
    """
    parser.add_argument(
        *names,
        nargs="+",
        help=f"images ({', '.join(IMAGE_SUFFIXES)}), folders, patterns; FILE@INDEX "
        f"picks one of several images{also}",
        **options,
    )


def add_image_model(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Add the options that say which model; with ``device``, where it runs."""
    add_model_options(parser, device)
    parser.add_argument(
        "--checkpoint_path",
        help="weights that belong to --config_path: .pdparams, or .pth of the authors",
    )


def add_mode(parser: argparse.ArgumentParser) -> None:
    """Add ``--mode``, which chooses among the shipped models and means no more."""
    parser.add_argument(
        "--mode",
        choices=tuple(SHIPPED),
        help="kind of image, for the choice of a shipped model when no other is given "
        f"(default: {DEFAULT_MODE}); excludes --model_name and --config_path",
    )


# The model ------------------------------------------------------------------------


def load_predictor(
    args: argparse.Namespace,
    task_dir: str,
    mode: str | None,
    device: str | None = None,
    find: Callable[[str, str], str] = find_task_config,
) -> Any:
    """Return the ``SpectrumPredictor`` that the options mean.

    Args:
        args: With the options of :func:`add_image_model`, and ``overrides``.
        task_dir: Folder of the calling script.
        mode: Which shipped model, if no other is named.
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


def check_tiles(args: argparse.Namespace, predictor: Any) -> tuple[int, int]:
    """Return side and overlap of the tiles, pixels: of the options, or the model's.

    Raises:
        ConfigError: They do not go together.
    """
    from ppmat.predictor.enhancement import choose_tiles
    from ppmat.predictor.tiling import plan_axis

    tile, overlap = choose_tiles(predictor, args.tile_size, args.overlap)
    try:
        plan_axis(tile, tile, overlap)
    except ValueError as error:
        raise ConfigError(f"--tile_size and --overlap: {error}") from error
    return tile, overlap


# Outputs --------------------------------------------------------------------------


def refuse_present(paths: Iterable[Path], overwrite: bool) -> None:
    """See that no output is there, unless it may be replaced.

    Raises:
        StoredRunError: Some are.
    """
    present = [str(path) for path in paths if path.exists()]
    if present and not overwrite:
        verb = "is" if len(present) == 1 else "are"
        raise StoredRunError(
            f"{first_names(present)} {verb} there already; choose another --output, or "
            "replace with --overwrite"
        )


def check_parent(path: Path) -> None:
    """See that a file can be written where it is meant to.

    Raises:
        ConfigError: There is no such folder, or it cannot be written to.
    """
    folder = path.absolute().parent
    if not os.access(folder, os.W_OK):
        reason = "cannot be written to" if folder.is_dir() else "does not exist"
        raise ConfigError(f"{path}: the folder {folder} {reason}")


def first_names(names: Sequence[str]) -> str:
    """Return some names as text, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
