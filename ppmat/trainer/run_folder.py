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


"""The output folder of a training: what it holds, and how a new training starts there.

A folder with checkpoints holds a training. A new one there continues it (``resume``),
replaces it (``overwrite``), or is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppmat.utils import logger
from ppmat.utils import save_load
from ppmat.utils.config import load_config
from ppmat.utils.files import check_writable
from ppmat.utils.files import make_folder
from ppmat.utils.registry import ConfigError
from ppmat.utils.save_load import CheckpointError

CHECKPOINTS = "checkpoints"
_FILES = ("run.log", "metrics.csv", "loss_curve.png")
_PREFIX = r"latest|best|epoch_\d+|step_\d+"
# A file of a set, or the folder of an interrupted save in which all files are written
_MEMBER = re.compile(
    rf"({_PREFIX})(_ema|_online)?\.(pd\w+|manifest\.json)|\.({_PREFIX})\.commit"
)


def newest_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the stem of the checkpoint with the most steps; None if there is none.

    A damaged one is left out, with a warning.
    """
    folder = os.path.join(output_dir, CHECKPOINTS)
    found = []
    for prefix in _prefixes(folder):
        stem = os.path.join(folder, prefix)
        try:
            states = save_load.load_states(stem)
        except CheckpointError as error:
            logger.warning(f"{error}")
            continue
        finished = states.get("epoch_finished", False)
        order = (states["global_step"], finished, prefix == "latest")
        found.append((order, stem))
    return max(found)[1] if found else None


def _prefixes(folder: str) -> list[str]:
    """Return the stems of the sets in a folder, also of interrupted saves."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    matches = map(_MEMBER.fullmatch, names)
    return sorted({match[1] or match[4] for match in matches if match})


def choose_start(
    output_dir: str, given: str | None, resume: bool = False, overwrite: bool = False
) -> str | None:
    """Return the checkpoint that a training starts from; None for a new one.

    Args:
        output_dir: Folder of the run; it exists.
        given: ``Trainer.resume_from_checkpoint``.
        resume: Continue from the newest checkpoint of the folder, if there is one.
        overwrite: Replace the training in the folder.

    Raises:
        ConfigError: The folder holds a training, and neither is chosen.
    """
    newest = newest_checkpoint(output_dir)
    own = holds(output_dir, given)
    if overwrite and own:
        raise ConfigError(f"Trainer.resume_from_checkpoint={given} is overwritten")
    if overwrite or own:
        return given
    if resume and newest is None:
        logger.message(f"{output_dir} has no checkpoint: the training starts")
    if resume or newest is None:
        return newest or given
    states = save_load.load_states(newest)
    raise ConfigError(
        f"holds a training of {states['epoch']} epochs, {states['global_step']} steps",
        where=output_dir,
        hint="Continue it with --resume, replace it with --overwrite, or choose "
        "another Trainer.output_dir.",
    )


def holds(output_dir: str, checkpoint: str | None) -> bool:
    """Return whether a checkpoint is one of the folder of a run; None is not."""
    if checkpoint is None:
        return False
    return Path(output_dir).resolve() in Path(checkpoint).resolve().parents


def remove_checkpoints(output_dir: str) -> None:
    """Remove the checkpoints of an earlier training from its folder."""
    folder = os.path.join(output_dir, CHECKPOINTS)
    for prefix in _prefixes(folder):
        save_load.remove_set(folder, prefix)


def check_folder(output_dir: str, *others: str) -> None:
    """Check that all files of a training can be written, before it takes time.

    Args:
        output_dir: Folder of the run; it exists.
        *others: More files of the run in it.

    Raises:
        InputError: One cannot be written.
    """
    checkpoints = os.path.join(output_dir, CHECKPOINTS)
    if os.path.lexists(checkpoints):
        make_folder(checkpoints)  # refuses a file
        check_writable(os.path.join(checkpoints, "latest.manifest.json"))
        save_load.finish_saves(checkpoints)
    for name in (*_FILES, *others):
        check_writable(os.path.join(output_dir, name))


def warn_of_changes(config: Mapping, merged: str) -> None:
    """Warn if a resumed run has other settings than ``merged``, which it wrote."""
    if not os.path.exists(merged):
        return
    now, then = dict(_leaves(config)), dict(_leaves(load_config(merged)))
    changed = [key for key in now if key in then and now[key] != then[key]]
    changed = [k for k in changed if k.partition(".")[0] not in ("Global", "Sample")]
    changed = [k for k in changed if k != "Trainer.resume_from_checkpoint"]
    if changed:
        logger.warning(
            f"resumed with other settings than before: {', '.join(changed[:10])}; the "
            "run is not the one that was interrupted"
        )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their dotted keys."""
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{path}.{key}" if path else str(key))
