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

"""``relax.py`` of interatomic potentials: relax structures with a trained potential.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np

from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import counted
from ppmat.commands.options import lock_output
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import refuse_if
from ppmat.commands.options import status_of
from ppmat.commands.options import task_command
from ppmat.commands.predict_potential import add_fault
from ppmat.commands.predict_potential import add_max_spread
from ppmat.commands.predict_potential import add_potential_options
from ppmat.commands.predict_potential import add_spread
from ppmat.commands.predict_potential import iter_atoms
from ppmat.commands.predict_potential import make_calculator
from ppmat.commands.predict_potential import status_of_spread
from ppmat.utils import logger

_EPILOG = """\
The folder gets a trajectory of each structure and relaxed.extxyz, the last frames.
Structures whose trajectory has converged are not relaxed again.
Exit status: 0 all converged, 1 some did not or were left out, 2 wrong input.

examples:
  relax.py --config_path=output/sfin_potential/sfin_potential.yaml
           --checkpoint_path=best.pdparams --input slab.traj --save_path=relaxed
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ``overrides`` holds the KEY=VALUE arguments."""
    about = "Relax structures with a trained potential. Held atoms stay where they are."
    parser = new_parser(about, _EPILOG)
    add_potential_options(parser)
    add = parser.add_argument
    add("--fmax", type=float, default=0.05,
        help="converged if no force is larger [eV/Å]")  # fmt: skip
    add("--max_steps", type=int, default=300)
    add("--save_path", required=True, metavar="FOLDER")
    add_max_spread(parser, "exit status 1")
    return parse_with_overrides(parser, argv, "input", "checkpoint_path")


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    refuse_if(not 0 < args.fmax < 10, f"--fmax={args.fmax}: wanted 0 to 10 eV/Å")
    refuse_if(args.max_steps < 1, f"--max_steps={args.max_steps}: wanted at least 1")
    calculator = make_calculator(args, task_dir)
    with lock_output(args.save_path):
        return _relax(calculator, args)


def _relax(calculator, args: argparse.Namespace) -> int:
    from ase.io import write
    from ase.optimize import FIRE

    from ppmat.utils.errors import InputError

    os.makedirs(args.save_path, exist_ok=True)
    frames, faults, unknown, unconverged = [], [], [], 0
    for atoms in iter_atoms(args.input, faults):
        sid = str(atoms.info["sid"])
        path = os.path.join(args.save_path, f"{sid.replace(os.sep, '_')}.traj")
        start = atoms.positions.copy()
        try:
            atoms = last_frame(path, atoms)
            atoms.calc = calculator
            # the trajectory grows, also over several runs
            optimizer = FIRE(
                atoms, trajectory=path, append_trajectory=True, logfile=None
            )
            converged = optimizer.run(fmax=args.fmax, steps=args.max_steps)
        except InputError as error:
            add_fault(faults, f"{sid}: {error}")
            continue
        unconverged += not converged
        forces = atoms.get_forces()
        frames.append(atoms.copy())
        frames[-1].calc = single_point(atoms)
        print(
            f"{sid}: {'converged' if converged else 'NOT converged'} after "
            f"{counted(optimizer.nsteps, 'step')}, {atoms.get_potential_energy():.6f} "
            f"eV, largest force {np.linalg.norm(forces, axis=1).max():.4f} eV/Å, moved "
            f"by up to {np.linalg.norm(atoms.positions - start, axis=1).max():.3f} Å"
            + add_spread(frames[-1], calculator.results, args.max_spread, unknown)
        )
    if frames:
        path = os.path.join(args.save_path, "relaxed.extxyz")
        write(path, frames, format="extxyz")
        logger.message(f"Wrote {path}: {counted(len(frames), 'structure')}")
    status = status_of(len(faults), len(frames) + len(faults), "structure")
    if unconverged:
        logger.error(
            f"not converged: {counted(unconverged, 'structure')}; the same command "
            "goes on, with more --max_steps"
        )
        status = max(status, EXIT_SOME_LEFT_OUT)
    return max(status, status_of_spread(unknown, args.max_spread))


def last_frame(path: str, atoms):
    """Return where a relaxation was stopped; the atoms themselves if there is none.

    Raises:
        InputError: The trajectory cannot be read, or starts with another structure.
    """
    from ase.io import read

    from ppmat.utils.errors import InputError

    if not os.path.exists(path) or not os.path.getsize(path):
        return atoms
    hint = "Choose another --save_path, or remove the file."
    try:
        frames = read(path, ":")
    except Exception as error:  # ASE raises many
        raise InputError(f"{path} cannot be read: {error}", hint=hint) from error
    first = frames[0]
    same = len(first) == len(atoms) and (first.numbers == atoms.numbers).all()
    if same:
        moved = np.abs(first.positions - atoms.positions).max()
        same = max(moved, np.abs(first.cell - atoms.cell).max()) < 1e-4
    if not same:
        raise InputError(f"{path} is the relaxation of another structure", hint=hint)
    return frames[-1]


def single_point(atoms):
    """Return a calculator that keeps energy and forces of atoms."""
    from ase.calculators.singlepoint import SinglePointCalculator

    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    return SinglePointCalculator(atoms, energy=energy, forces=forces)


main = task_command(parse_args, run)
