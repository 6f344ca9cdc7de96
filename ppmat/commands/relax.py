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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import counted
from ppmat.commands.options import new_parser
from ppmat.commands.options import refuse_if
from ppmat.commands.options import status_of
from ppmat.commands.options import task_command
from ppmat.commands.predict_potential import add_fault
from ppmat.commands.predict_potential import add_max_spread
from ppmat.commands.predict_potential import add_potential_options
from ppmat.commands.predict_potential import add_spread
from ppmat.commands.predict_potential import iter_atoms
from ppmat.commands.predict_potential import lock_folder
from ppmat.commands.predict_potential import make_calculator
from ppmat.commands.predict_potential import parse_potential_options
from ppmat.commands.predict_potential import status_of_spread
from ppmat.utils import logger
from ppmat.utils.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

_EPILOG = """\
The folder gets a trajectory of each structure, and relaxed.extxyz with the last frames
of all structures that were relaxed there, also by earlier commands.
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
    add("--max_steps", type=int, default=300,
        help="most steps of a structure in this run")  # fmt: skip
    add("--batch_size", type=int,
        help="structures relaxed at once; default: as many as have 500 "
        "atoms")  # fmt: skip
    add("--save_path", default="relaxed", metavar="FOLDER")
    add_max_spread(parser, "exit status 1")
    return parse_potential_options(parser, argv)


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    refuse_if(not 0 < args.fmax < 10, f"--fmax={args.fmax}: wanted 0 to 10 eV/Å")
    refuse_if(args.max_steps < 1, f"--max_steps={args.max_steps}: wanted at least 1")
    refuse_if(
        args.batch_size is not None and args.batch_size < 1,
        f"--batch_size={args.batch_size}: wanted at least 1",
    )
    calculator = make_calculator(args, task_dir)
    with lock_folder(args.save_path):
        return _relax(calculator, args)


def _relax(calculator, args: argparse.Namespace) -> int:
    from ppmat.calculator import relax_batch
    from ppmat.distillation.labelling import write_frames
    from ppmat.utils.progress import Progress

    faults: list[str] = []
    structures, paths = read_named(args, faults)
    relaxed = os.path.join(args.save_path, "relaxed.extxyz")
    weights = f"sha256:{','.join(calculator.fingerprints())}"
    before = _read_relaxed(relaxed, weights)
    ended = relax_batch(
        structures, calculator, args.fmax, args.max_steps, args.batch_size, paths
    )
    frames, unknown, unconverged = {}, [], 0
    for done in Progress(ended, "relaxing", total=len(structures), unit=" structures"):
        sid, atoms = structures[done.index].info["sid"], done.atoms
        if done.fault is not None:
            add_fault(faults, f"{sid}: {done.fault}")
            continue
        unconverged += not done.converged
        forces = atoms.get_forces()
        frames[done.index] = atoms.copy()
        frames[done.index].calc = atoms.calc
        name = os.path.basename(paths[done.index])
        frames[done.index].info |= {"relaxation": name, "weights": weights}
        moved = atoms.positions - structures[done.index].positions
        Progress.write(
            f"{sid}: {'converged' if done.converged else 'NOT converged'} after "
            f"{counted(done.steps, 'step')}, {atoms.get_potential_energy():.6f} "
            f"eV, largest force {np.linalg.norm(forces, axis=1).max():.4f} eV/Å, moved "
            f"by up to {np.linalg.norm(moved, axis=1).max():.3f} Å"
            + add_spread(frames[done.index], done.results, args.max_spread, unknown)
        )
    if frames:
        new = {frames[i].info["relaxation"]: frames[i] for i in sorted(frames)}
        write_frames(Path(relaxed), [*(before | new).values()])
        logger.message(f"Wrote {relaxed}: {counted(len(before | new), 'structure')}")
    status = status_of(len(faults), len(frames) + len(faults), "structure")
    if unconverged:
        logger.error(
            f"not converged: {counted(unconverged, 'structure')}; the same command "
            "goes on, with more --max_steps"
        )
        status = max(status, EXIT_SOME_LEFT_OUT)
    return max(status, status_of_spread(unknown, args.max_spread))


def _read_relaxed(path: str, weights: str) -> dict[str, Atoms]:
    """Return what earlier commands relaxed, by the names of the trajectories.

    Raises:
        InputError: The file has something else, or results of other weights.
    """
    from ppmat.distillation.labelling import read_frames

    if not os.path.exists(path):
        return {}
    hint = "Choose another --save_path, or remove what is there."
    try:
        frames = read_frames(path)
    except Exception as error:  # ASE raises many
        raise InputError(f"{path} cannot be read: {error}", hint=hint) from error
    if {atoms.info.get("weights") for atoms in frames} != {weights}:
        raise InputError(
            "has structures that relax.py did not relax with these weights",
            where=path,
            hint=hint,
        )
    return {atoms.info["relaxation"]: atoms for atoms in frames}


def read_named(args: argparse.Namespace, faults: list[str]) -> tuple[list, list[str]]:
    """Return the structures, and the trajectory of each, which its id names.

    The id is ``info["sid"]`` or the name of the file; frames of a file that share one
    get their number. So other inputs do not change it.

    Raises:
        InputError: Two structures have the same name.
    """
    from ppmat.datasets.structure_reader import iter_by_stem
    from ppmat.datasets.structure_reader import place_text

    structures = list(iter_atoms(iter_by_stem(args.input), faults))
    shared = Counter((a.info["sid"], a.info["source"]) for a in structures)
    places: dict[str, str] = {}
    for info in (atoms.info for atoms in structures):
        if shared[info["sid"], info["source"]] > 1:
            info["sid"] = f"{info['sid']}_{info['frame']}"
        name, place = str(info["sid"]), place_text(info["source"], info["frame"])
        path = os.path.join(args.save_path, f"{name.replace(os.sep, '_')}.traj")
        if path in places:
            raise InputError(
                f"{places[path]} and {place} would share {path}",
                wanted="other names of files or, if structures have one, info['sid']",
                hint="Rename one, or give each its own --save_path.",
            )
        places[path] = place
    return structures, list(places)


main = task_command(parse_args, run)
