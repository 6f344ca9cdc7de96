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

"""``distil.py``: train a small potential on what a teacher says, or fine-tune one.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ppmat.commands.options import counted
from ppmat.commands.options import find_task_config
from ppmat.commands.options import lock_output
from ppmat.commands.options import new_parser
from ppmat.commands.options import task_command
from ppmat.commands.predict_potential import iter_atoms
from ppmat.utils import logger
from ppmat.utils.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

    from ppmat.distillation.settings import DistilSettings

_PR_SET_PDEATHSIG = 1  # of Linux's prctl

_EPILOG = """\
A run that was stopped goes on with the same command. Exit status: 0 done, 1 a process
was lost again and again, 2 wrong input, 4 frames wait for labels of another code.

examples:
  distil.py -c configs/sfin/distil.yaml
  distil.py -c configs/sfin/distil.yaml Distil.teacher.name=chgnet
            Distil.start=slabs.traj Distil.output_dir=output/mine
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options ``config`` and ``overrides``."""
    about = "Distil a teacher into a small potential, or fine-tune a potential."
    parser = new_parser(about, _EPILOG)
    parser.add_argument("-c", "--config", required=True, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE",
        help="changes, e.g. Distil.max_iterations=3")  # fmt: skip
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    from ppmat.commands.check_config import check_config
    from ppmat.distillation.labelling import read_frames
    from ppmat.distillation.loop import Distillation
    from ppmat.distillation.scores import draw_learning
    from ppmat.distillation.scores import draw_parity
    from ppmat.distillation.settings import DistilSettings
    from ppmat.utils.config import load_config
    from ppmat.utils.registry import ConfigError

    path = find_task_config(args.config, task_dir)
    config = load_config(path, args.overrides)
    if not config.get("Distil"):
        raise ConfigError(f"{path}: the section Distil is missing")
    check_config(config)
    settings = DistilSettings.from_dict(config["Distil"])
    check_installed(settings)
    of_student = find_task_config(settings.train.config, task_dir)
    student = load_config(of_student, settings.train.overrides)
    check_config(student)
    if settings.train.start is not None:
        check_start(settings.train.start, student)
    starts = read_starts(settings.start)

    def train(config: str, words: Sequence[str], folder: Path) -> tuple[Path, Path]:
        return train_student(task_dir, config, words, folder)

    with lock_output(settings.output_dir):
        folder = Path(settings.output_dir)
        distillation = Distillation(settings, starts, train)
        logger.init_logger(log_file=str(folder / "run.log"))
        iterations = distillation.run()
        last = distillation.folder_of(len(iterations) - 1)
        test = read_frames(folder / "held_out" / "test.extxyz")
        draw_parity(test, read_frames(last / "predicted.extxyz"), folder / "parity.png")
        draw_learning(iterations, folder / "learning_curve.png")
    logger.message(f"The potential is in {folder / 'potential'}; see parity.png")
    return 0


def check_installed(settings: DistilSettings) -> None:
    """Check, without an import, that the optional packages of a run are here.

    A Dask cluster with an address imports the teacher where its workers are.

    Raises:
        InputError: One is not installed.
    """
    from ppmat.distillation.teachers import OPTIONAL

    teacher, executor = settings.teacher["name"], settings.executor
    is_dask = executor.kind == "dask"
    extras = {"distributed": "cluster"} if is_dask else {}
    if teacher in OPTIONAL and not (is_dask and executor.address):
        extras[teacher] = teacher
    for package, extra in extras.items():
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"the package {package} is not installed",
                where="Distil",
                hint=f"pip install 'ppmat[{extra}]'",
            )


def check_start(start: Mapping[str, str], student: Mapping) -> None:
    """Check that a trained potential can be used, and that the student takes it.

    Raises:
        InputError: Its weights belong to another model, or it is no potential.
    """
    from ppmat.calculator import SFINCalculator
    from ppmat.models import build_model
    from ppmat.utils import save_load

    SFINCalculator(**start)
    save_load.load_pretrain(build_model(student["Model"]), start["checkpoint_path"])


def read_starts(inputs: str | Sequence[str]) -> list[Atoms]:
    """Return the start structures.

    Raises:
        InputError: Some cannot be read.
    """
    from ppmat.datasets.structure_reader import iter_structures

    faults: list[str] = []
    inputs = [inputs] if isinstance(inputs, str) else inputs
    found = list(iter_atoms(iter_structures(inputs), faults))
    if faults:
        unread = f"{counted(len(faults), 'structure')} cannot be read (listed above)"
        raise InputError(unread, where="Distil.start")
    return found


def train_student(
    task_dir: str, config: str, words: Sequence[str], folder: Path
) -> tuple[Path, Path]:
    """Train in a process of its own; returns the merged YAML and the weights.

    Raises:
        InputError: The training failed; its words are on the terminal.
    """
    merged = folder / os.path.basename(config)
    weights = folder / "checkpoints" / "best.pdparams"
    done = folder / "done"
    if not done.exists():
        script = os.path.join(task_dir, "train.py")
        command = [sys.executable, script, "-c", config, "--resume", *words]
        command += [f"Trainer.output_dir={folder}"]
        status = subprocess.run(command, preexec_fn=_end_with_parent).returncode
        if status:
            raise InputError(
                f"the training in {folder} ended with status {status}",
                hint="The same command goes on after the fault is mended.",
            )
        done.touch()
    return merged, weights


def _end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


main = task_command(parse_args, run)
