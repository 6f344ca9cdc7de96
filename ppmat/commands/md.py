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

"""``md.py`` of interatomic potentials: molecular dynamics with a trained potential.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
from ppmat.commands.predict_potential import lock_folder
from ppmat.commands.predict_potential import make_calculator
from ppmat.commands.predict_potential import parse_potential_options
from ppmat.commands.relax import read_named
from ppmat.utils import logger

if TYPE_CHECKING:
    from ppmat.calculator.molecular_dynamics import MolecularDynamics

_EPILOG = """\
For each structure the folder gets NAME.traj, NAME.csv (a line a frame), NAME.json (what
decides the run), NAME_log.png and NAME_distances.png. The same command goes on where a
trajectory ends, to the same frames as without an interruption; more --steps make it
longer. A run stops if the structure blows up or, with --max_spread, leaves what the
potentials know; NAME_stopped.extxyz has the structure that broke the rule.
Exit status: 0 done, 1 some stopped or were left out, 2 wrong input.

examples:
  md.py --config_path=output/sfin_potential/sfin_potential.yaml
        --checkpoint_path=best.pdparams --input slab.traj --save_path=md
        --ensemble=nvt --temperature=500 --steps=10000
  md.py ... --checkpoint_path seed1.pdparams seed2.pdparams --max_spread=0.5
"""
_MOST_FRAMES = 200  # of the second half, for the distances


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ``overrides`` holds the KEY=VALUE arguments."""
    about = "Run molecular dynamics with a trained potential."
    parser = new_parser(about, _EPILOG)
    add_potential_options(parser)
    add_max_spread(parser, "stop")
    add = parser.add_argument
    add("--ensemble", choices=("nve", "nvt", "npt"), default="nvt",
        help="constant energy; Langevin thermostat; with a barostat that keeps the "
        "shape of the cell")  # fmt: skip
    add("--temperature", type=float, default=300.0, help="of the thermostat and of the "
        "first velocities; the velocities of the input are not used [K]")  # fmt: skip
    add("--pressure", type=float, help="of npt; 0 if not given [GPa]")
    add("--coupling_time", type=float, help="of nvt and npt: inverse friction; the "
        "barostat takes ten times as much; 100 if not given [fs]")  # fmt: skip
    add("--time_step", type=float, default=1.0,
        help="[fs]; 0.5 is usual with hydrogen")  # fmt: skip
    add("--steps", type=int, required=True, help="in all, also over several "
        "runs; a multiple of --interval")  # fmt: skip
    add("--interval", type=int, default=20, help="steps between two frames")
    add("--seed", type=int, default=0, help="of first velocities and noise")
    add("--max_temperature", type=float, help="stop above it [K]; ten times "
        "--temperature, at least 3000, if not given")  # fmt: skip
    add("--save_path", required=True, metavar="FOLDER")
    return parse_potential_options(parser, argv)


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    for name, ensembles in {
        "pressure": ["npt"],
        "coupling_time": ["nvt", "npt"],
    }.items():
        unused = getattr(args, name) is not None and args.ensemble not in ensembles
        refuse_if(unused, f"--{name} does nothing with --ensemble={args.ensemble}")
    limit, least = args.max_temperature, args.temperature
    refuse_if(
        limit is not None and not limit > least,
        f"--max_temperature={limit}: wanted more than --temperature={least}",
    )
    refuse_if(
        args.steps < 1 or args.interval < 1 or args.steps % args.interval,
        f"--steps={args.steps}, --interval={args.interval}: wanted at least one "
        "interval, and a multiple of it",
    )
    from ppmat.calculator.molecular_dynamics import MDSettings
    from ppmat.calculator.molecular_dynamics import StopRules

    names = ("ensemble", "temperature", "pressure", "coupling_time", "time_step")
    chosen = {name: getattr(args, name) for name in (*names, "interval", "seed")}
    settings = MDSettings(**{k: v for k, v in chosen.items() if v is not None})
    rules = StopRules(args.max_temperature, args.max_spread)
    calculator = make_calculator(args, task_dir)
    with lock_folder(args.save_path):
        return _run_all(args, calculator, settings, rules)


def _run_all(args: argparse.Namespace, calculator, settings, rules) -> int:
    from ppmat.calculator.molecular_dynamics import MolecularDynamics
    from ppmat.calculator.molecular_dynamics import RunStopped
    from ppmat.utils.errors import InputError
    from ppmat.utils.progress import Progress

    faults, stopped, done = [], 0, 0
    for atoms, path in zip(*read_named(args, faults)):
        sid = str(atoms.info["sid"])
        try:
            dynamics = MolecularDynamics(atoms, calculator, settings, path, rules)
            if dynamics.step:
                logger.message(f"{sid}: going on after step {dynamics.step}")
            start = dynamics.step
            with Progress(
                None, sid, total=args.steps, initial=start, unit="step"
            ) as bar:
                for _ in dynamics.frames(args.steps):
                    bar.update(dynamics.step - bar.n)
        except InputError as error:
            add_fault(faults, f"{sid}: {error}")
            continue
        except RunStopped as error:
            logger.error(f"{sid}: {error}")
            stopped += 1
        done += 1
        if dynamics.rows:
            _report(sid, dynamics)
    status = status_of(len(faults), done + len(faults), "structure")
    if stopped:
        logger.error(
            f"stopped: {counted(stopped, 'structure')}; *_stopped.extxyz in "
            f"{args.save_path} has where, the trajectories have the frames before"
        )
        status = max(status, EXIT_SOME_LEFT_OUT)
    return status


def _report(sid: str, dynamics: MolecularDynamics) -> None:
    """Print a line about a run and draw its pictures."""
    from ase.io import Trajectory

    from ppmat.calculator.trajectory_figures import draw_log
    from ppmat.calculator.trajectory_figures import draw_pair_distances

    settings, rows = dynamics.settings, dynamics.rows
    half = rows[len(rows) // 2 :]
    temperature = np.mean([row["temperature"] for row in half])
    text = (
        f"{sid}: {dynamics.step} steps, {rows[-1]['time'] / 1000:g} ps, temperature of "
        f"the second half {temperature:.1f} K"
    )
    if settings.ensemble == "nve" and len(rows) > 1:
        time = [row["time"] / 1000 for row in rows]
        drift = np.polyfit(time, [row["total"] for row in rows], 1)[0]
        text += f", drift {1000 * drift / len(dynamics.atoms):.3g} meV/atom/ps"
    if settings.ensemble == "npt":
        text += f", volume {np.mean([row['volume'] for row in half]):.2f} Å^3"
    if rows[0]["forces_spread"] is not None:
        spread = max(row["forces_spread"] for row in rows)
        text += f", largest spread of the forces {spread:.3f} eV/Å"
    print(text)
    limits = {"temperature": settings.temperature}
    if settings.ensemble == "npt":
        limits["pressure"] = settings.pressure
    if dynamics.rules.max_spread:
        limits["forces_spread"] = dynamics.rules.max_spread
    base, title = dynamics.path.with_suffix(""), f"{sid}, {settings.ensemble}"
    draw_log(rows, len(dynamics.atoms), f"{base}_log.png", title, limits)
    with Trajectory(dynamics.path) as stored:
        start = len(stored) // 2
        step = -(-(len(stored) - start) // _MOST_FRAMES)
        frames = [stored[i] for i in range(start, len(stored), step)]
    title = f"{sid}, distances in the second half"
    draw_pair_distances(frames, f"{base}_distances.png", title)
    logger.message(f"Wrote {dynamics.path}: {counted(len(rows), 'frame')}")


main = task_command(parse_args, run)
