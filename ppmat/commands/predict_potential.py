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
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import add_model_options
from ppmat.commands.options import announce_task_config
from ppmat.commands.options import counted
from ppmat.commands.options import lock_output
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import refuse_if
from ppmat.commands.options import status_of
from ppmat.commands.options import task_command
from ppmat.utils import logger

if TYPE_CHECKING:
    from ase import Atoms

    from ppmat.datasets.oc20_record import OC20Record
    from ppmat.datasets.structure_reader import Unreadable

_EPILOG = """\
Exit status: 0 done, 1 some structures were left out (they are listed), 2 wrong input.

examples:
  predict.py --config_path=output/sfin_potential/sfin_potential.yaml
             --checkpoint_path=best.pdparams --input frames.extxyz
             --save_path=predicted.extxyz
"""
_MAX_ROWS = 20  # printed rows
_UNITS = {"energy": "eV an atom", "forces": "eV/Å a component"}  # of errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ``overrides`` holds the KEY=VALUE arguments."""
    about = "Compute energies, forces and stress with a trained potential."
    parser = new_parser(about, _EPILOG)
    add_potential_options(parser)
    add = parser.add_argument
    add("--save_path", metavar="FILE.extxyz", help="also write structures and results; "
        "if structures have labels, FILE_parity.png too")  # fmt: skip
    add_max_spread(parser, "exit status 1")
    return parse_potential_options(parser, argv)


def parse_potential_options(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Return the options of a parser with :func:`add_potential_options`."""
    args = parse_with_overrides(parser, argv, "input", "checkpoint_path", "files")
    args.input = args.files + args.input
    if not args.input:
        parser.error("no structure is given; wanted files, folders or patterns")
    return args


def add_potential_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that apply a potential to structures."""
    add_model_options(parser)
    add = parser.add_argument
    add("--checkpoint_path", nargs="+", default=[], metavar="FILE",
        help="weights that belong to --config_path; several, trained from different "
        "seeds, also give the spread of the forces")  # fmt: skip
    add("--input", nargs="+", default=[], help="structures, as FILE")
    add("--allow_unseen", action="store_true",
        help="compute elements that are not in the training data")  # fmt: skip
    add("files", nargs="*", metavar="FILE", help="structures: files, folders, "
        "patterns; FILE@INDEX picks frames. KEY=VALUE changes the YAML")  # fmt: skip
    parser.set_defaults(overrides=[])


def add_max_spread(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the limit of the spread; ``what`` is done beyond it."""
    parser.add_argument(
        "--max_spread",
        type=float,
        help=f"with several --checkpoint_path: {what} if their forces on an atom "
        "differ by more [eV/Å]",
    )


def make_calculator(args: argparse.Namespace, task_dir: str) -> Any:
    """Return the calculator that the options ask for: of several weights the mean."""
    limit, paths = args.max_spread, args.checkpoint_path
    refuse_if(
        limit is not None and not limit > 0, f"--max_spread={limit}: wanted above 0"
    )
    refuse_if(
        limit is not None and len(paths) < 2,
        "--max_spread wants several --checkpoint_path, trained from different seeds",
    )
    from ppmat.calculator import EnsembleCalculator
    from ppmat.calculator import SFINCalculator
    from ppmat.datasets.structure_reader import find_inputs
    from ppmat.utils.misc import choose_device

    find_inputs(args.input)  # reports a wrong path before the model is loaded
    choose_device(args.device)
    config = announce_task_config(args.config_path, task_dir, args.overrides, False)
    members = [
        SFINCalculator(
            config,
            path,
            args.model_name,
            args.weights_name,
            args.overrides,
            allow_unseen=args.allow_unseen,
        )
        for path in paths or [None]
    ]
    return members[0] if len(members) == 1 else EnsembleCalculator(members)


def lock_folder(path: str) -> AbstractContextManager[None]:
    """Return :func:`lock_output` of a folder; the name of a file is refused."""
    is_file = path.endswith((".csv", ".extxyz", ".traj", ".xyz"))
    refuse_if(is_file, f"--save_path={path}: wanted a folder")
    return lock_output(path)


def iter_atoms(
    structures: Iterable[Atoms | OC20Record | Unreadable], faults: list[str]
) -> Iterator[Atoms]:
    """Yield structures as atoms, with an id; unreadable ones are logged as faults."""
    from ppmat.datasets.oc20_record import OC20Record
    from ppmat.datasets.structure_reader import Unreadable

    for structure in structures:
        if isinstance(structure, Unreadable):
            add_fault(faults, str(structure))
        elif isinstance(structure, OC20Record):
            atoms = structure.to_atoms()
            atoms.info |= {"source": structure.source, "frame": structure.frame}
            yield atoms
        else:
            yield structure


def add_fault(faults: list[str], text: str) -> None:
    """Log why a structure is left out, and keep the text."""
    logger.error(text)
    faults.append(text)


def add_spread(
    atoms: Atoms, results: Mapping[str, Any], limit: float | None, unknown: list[str]
) -> str:
    """Keep the spread of an ensemble with a result, and return a text about it.

    Args:
        atoms: The structure as it will be written.
        results: Those of the calculator; without a spread nothing is done.
        limit: ``--max_spread``.
        unknown: Gets the id of a structure beyond the limit.
    """
    from ppmat.calculator.ensemble_calculator import largest_spread

    spread = largest_spread(atoms, results)
    if spread is None:
        return ""
    atoms.arrays["forces_spread"] = results["forces_spread"]
    atoms.info["energy_spread"] = results["energy_spread"]
    if limit and spread > limit:
        unknown.append(str(atoms.info["sid"]))
    return f", spread {results['energy_spread']:.4f} eV, {spread:.4f} eV/Å"


def status_of_spread(unknown: Sequence[str], limit: float | None) -> int:
    """Log which structures are beyond ``--max_spread``; returns the exit status."""
    if not unknown:
        return 0
    names = ", ".join(unknown[:_MAX_ROWS]) + (", ..." if unknown[_MAX_ROWS:] else "")
    logger.error(
        f"the potentials do not know {counted(len(unknown), 'structure')} (forces "
        f"differ by more than {limit:g} eV/Å): {names}"
    )
    return EXIT_SOME_LEFT_OUT


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    out = args.save_path
    is_wrong = out is not None and not out.endswith(".extxyz")
    refuse_if(is_wrong, f"--save_path={out}: wanted FILE.extxyz")
    calculator = make_calculator(args, task_dir)
    with lock_output(out):
        return _predict(calculator, args)


def _predict(calculator: Any, args: argparse.Namespace) -> int:
    from ase.calculators.singlepoint import SinglePointCalculator

    from ppmat.calculator import evaluate_many
    from ppmat.datasets.potential_dataset import LABELS
    from ppmat.datasets.structure_reader import iter_structures
    from ppmat.distillation.labelling import write_frames
    from ppmat.distillation.scores import draw_parity
    from ppmat.metrics import PotentialMetric
    from ppmat.utils.errors import InputError
    from ppmat.utils.progress import Progress

    out = args.save_path
    frames, faults, unknown, metric = [], [], [], PotentialMetric()
    labelled = []  # pairs of structures with labels and with results
    structures = iter_atoms(iter_structures(args.input), faults)
    done = evaluate_many(structures, calculator)
    for atoms, results in Progress(done, "predicting", unit=" structures"):
        sid = atoms.info["sid"]
        if isinstance(results, InputError):
            add_fault(faults, f"{sid}: {results}")
            continue
        labels = dict(atoms.calc.results) if atoms.calc is not None else {}
        found = {name: results[name] for name in LABELS if name in results}
        batch = {**labels, "structure_array": {"num_atoms": [len(atoms)]}}
        metric.update_step(result={"pred_dict": found}, batch=batch, stage="test")
        result = atoms.copy()
        result.calc = SinglePointCalculator(result, **found)
        frames.append(result)
        if {"energy", "forces"} <= labels.keys():
            labelled.append((atoms, result))
        largest = np.linalg.norm(found["forces"], axis=1).max()
        text = f"{sid}: {found['energy']:.6f} eV, largest force {largest:.4f} eV/Å"
        text += add_spread(result, results, args.max_spread, unknown)
        if len(frames) <= _MAX_ROWS:
            Progress.write(text)
    if out and frames:
        write_frames(Path(out), frames)
        logger.message(f"Wrote {out}: {counted(len(frames), 'structure')}")
        if labelled:
            picture = Path(out).with_name(f"{Path(out).stem}_parity.png")
            draw_parity(*zip(*labelled), picture, ("label", "predicted"))
            logger.message(f"Drew {picture}")
    scores = metric.compute_epoch()
    for name, unit in _UNITS.items():
        if f"{name}_mae" in scores:
            mae, rmse = scores[f"{name}_mae"], scores[f"{name}_rmse"]
            print(f"{name}: MAE {mae:.5f}, RMSE {rmse:.5f} {unit}")
    status = status_of(len(faults), len(frames) + len(faults), "structure")
    return max(status, status_of_spread(unknown, args.max_spread))


main = task_command(parse_args, run)
