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

"""``predict.py`` of interatomic potentials: energies, forces, stress of structures.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppmat.commands.options import add_model_options
from ppmat.commands.options import announce_task_config
from ppmat.commands.options import counted
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import refuse_if
from ppmat.commands.options import status_of
from ppmat.commands.options import task_command
from ppmat.utils import logger

_EPILOG = """\
Exit status: 0 done, 1 some structures were left out (they are listed), 2 wrong input.

examples:
  predict.py --config_path=output/sfin_potential/sfin_potential.yaml
             --checkpoint_path=best.pdparams --input frames.extxyz
             --save_path=predicted.extxyz
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ``overrides`` holds the KEY=VALUE arguments."""
    about = "Compute energies, forces and stress with a trained potential."
    parser = new_parser(about, _EPILOG)
    add_potential_options(parser)
    add = parser.add_argument
    add("--save_path", metavar="FILE.extxyz", help="also write structures and results")
    return parse_with_overrides(parser, argv, "input")


def add_potential_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that apply a potential to structures."""
    add_model_options(parser)
    add = parser.add_argument
    add("--checkpoint_path", help="weights that belong to --config_path")
    add("--input", nargs="+", required=True,
        help="files, folders, patterns; FILE@INDEX picks frames")  # fmt: skip
    add("--allow_unseen", action="store_true",
        help="compute elements that are not in the training data")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the YAML")


def make_calculator(args: argparse.Namespace, task_dir: str) -> Any:
    """Return the calculator that the options ask for."""
    import paddle

    from ppmat.calculator import SFINCalculator
    from ppmat.datasets.structure_reader import find_inputs

    find_inputs(args.input)  # reports a wrong path before the model is loaded
    if args.device:
        paddle.set_device(args.device)
    return SFINCalculator(
        announce_task_config(args.config_path, task_dir, args.overrides, False),
        args.checkpoint_path,
        args.model_name,
        args.weights_name,
        args.overrides,
        allow_unseen=args.allow_unseen,
    )


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    from ppmat.datasets.potential_dataset import LABELS
    from ppmat.datasets.structure_reader import Unreadable
    from ppmat.datasets.structure_reader import iter_structures
    from ppmat.utils.errors import InputError

    out = args.save_path
    refuse_if(
        out and not out.endswith(".extxyz"), f"--save_path={out}: wanted FILE.extxyz"
    )
    calculator = make_calculator(args, task_dir)
    frames, errors, left_out = [], Errors(), 0
    for structure in iter_structures(args.input):
        if isinstance(structure, Unreadable):
            logger.error(str(structure))
            left_out += 1
            continue
        atoms = structure if hasattr(structure, "pbc") else structure.to_atoms()
        labels = dict(atoms.calc.results) if atoms.calc is not None else {}
        plain = atoms.copy()
        plain.set_constraint()
        plain.calc = calculator
        try:
            plain.get_potential_energy()
        except InputError as error:
            logger.error(f"{atoms.info.get('sid', '')}: {error}")
            left_out += 1
            continue
        results = calculator.results
        found = {name: results[name] for name in LABELS if name in results}
        errors.add(found, labels)
        result = atoms.copy()
        result.calc = SinglePointCalculator(result, **found)
        frames.append(result)
        if len(frames) <= _MAX_ROWS:
            largest = np.linalg.norm(found["forces"], axis=1).max()
            print(
                f"{atoms.info.get('sid', '')}: {found['energy']:.6f} eV, "
                f"largest force {largest:.4f} eV/Å"
            )
    if out and frames:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write(out, frames, format="extxyz")
        logger.message(f"Wrote {out}: {counted(len(frames), 'structure')}")
    for line in errors.lines():
        print(line)
    return status_of(left_out, len(frames) + left_out, "structure")


_MAX_ROWS = 20  # printed rows


class Errors:
    """Errors of predictions where the input has labels."""

    def __init__(self) -> None:
        self.found: dict[str, list[np.ndarray]] = {"energy": [], "forces": []}

    def add(self, found: dict, labels: dict) -> None:
        """Add a structure; the error of an energy is that of one atom [eV]."""
        for name, errors in self.found.items():
            if labels.get(name) is not None:
                count = len(found["forces"]) if name == "energy" else 1
                error = np.ravel(found[name] - np.asarray(labels[name]))
                errors.append(error / count)

    def lines(self) -> list[str]:
        """Return a line for each kind of label that was there."""
        units = {"energy": "eV an atom", "forces": "eV/Å a component"}
        lines = []
        for name, parts in self.found.items():
            if parts:
                errors = np.concatenate(parts)
                mae, rmse = np.abs(errors).mean(), np.sqrt(np.square(errors).mean())
                lines.append(f"{name}: MAE {mae:.5f}, RMSE {rmse:.5f} {units[name]}")
        return lines


main = task_command(parse_args, run)
