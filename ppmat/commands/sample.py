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

"""``sample.py`` of a task folder: generate or relax structures with a trained model.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from ppmat.commands import place
from ppmat.commands.options import add_bad_structures
from ppmat.commands.options import add_model_options
from ppmat.commands.options import announce_task_config
from ppmat.commands.options import lock_output
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import refuse_if
from ppmat.commands.options import report_submission
from ppmat.commands.options import status_of
from ppmat.commands.options import task_command
from ppmat.commands.processes import AUTO_PROCESSES
from ppmat.commands.processes import add_processes
from ppmat.commands.processes import processes_for
from ppmat.utils import logger

_SPLIT_MODES = ("by_dataloader", "compute_metric")
MODES = (
    *("by_chemical_formula", "by_num_atoms", "by_condition"),
    *(*_SPLIT_MODES, "by_structures"),
    "place",
)
_EPILOG = """\
The same command given again resumes an interrupted run.
Exit status: 0 done, 1 some inputs were left out (they are listed), 2 wrong input.

examples:
  sample.py --config_path=configs/sfin/oc20.yaml --checkpoint_path=best.pdparams
            --mode=by_structures --input slab.traj more/*.cif --save_path=relaxed
  sample.py ... --mode=compute_metric --split val_id val_ood_ads
            --submission=is2rs.npz --save_path=scores
  sample.py --mode=place --slab slab.cif --adsorbate CO  (sample.py --mode=place --help)
"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ``overrides`` holds the KEY=VALUE arguments."""
    parser = new_parser("Generate structures with a trained model.", _EPILOG)
    add_model_options(parser)
    add = parser.add_argument
    add("--checkpoint_path", help="weights that belong to --config_path")
    add("--mode", choices=MODES, help="default: by_structures with --input, else "
        "by_chemical_formula")  # fmt: skip
    add("--seed", type=int, help="seed of the noise, to get the same structures again")
    add("--batch_size", type=int, help="structures generated at once")
    add("--num_samples", type=int, help="results for each input (default: 1)")
    add("--num_workers", type=int, default=0, help="processes that prepare --input")
    add_processes(parser, AUTO_PROCESSES)
    add_bad_structures(parser)
    add("--save_path", "--output_dir", "--output_path", dest="save_path",
        default="./output/sample", help="output folder")  # fmt: skip
    add("--format", help="extxyz, traj or cif; CIF loses tags and constraints")
    add("--submission", metavar="FILE.npz",
        help="also write the IS2RS submission of the splits")  # fmt: skip
    add("--chemical_formula", default="LiMnO2", help="for by_chemical_formula")
    add("--num_atoms", type=int, help="for by_num_atoms and by_condition")
    add("--condition", action="append", default=[], metavar="NAME=VALUE",
        help="for by_condition; repeatable")  # fmt: skip
    add("--split", nargs="+", default=[], action="extend",
        help="splits of the data set, for by_dataloader and compute_metric; with "
        "by_structures the name of the split for --submission")  # fmt: skip
    add("--input", nargs="+", default=[], action="extend",
        help="for by_structures: files (.traj, .extxyz, .cif, POSCAR, .db, .json, "
        ".lmdb, .aselmdb, with .gz or .xz ...), folders, patterns; FILE@INDEX picks "
        "frames")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE",
        help="changes of the YAML, e.g. "
        "Sample.model_sample_params.num_inference_steps=8")  # fmt: skip
    args = parse_with_overrides(parser, argv, "input", "split")
    if args.mode is None:
        args.mode = "by_structures" if args.input else "by_chemical_formula"
    return args


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    from ppmat.datasets.submission import split_name
    from ppmat.sampler.structure_sampler import StructureSampler
    from ppmat.sampler.structure_writer import check_format
    from ppmat.utils.meeting import start_ranks

    _check_options(args)
    if args.format is not None:
        check_format(args.format)
    for name in args.split if args.submission else ():
        split_name(name)
    config_path = announce_task_config(
        args.config_path, task_dir, args.overrides, args.mode in _SPLIT_MODES
    )
    start_ranks()
    sampler = StructureSampler(
        model_name=args.model_name,
        weights_name=args.weights_name,
        config_path=config_path,
        checkpoint_path=args.checkpoint_path,
        config_overrides=args.overrides,
        device=args.device,
    )
    with lock_output(args.save_path):
        if args.mode in _SPLIT_MODES:
            return _run_splits(sampler, args)
        if args.mode == "by_structures":
            return _run_structures(sampler, args)
        return _run_scratch(sampler, args)


_main = task_command(parse_args, run, "sample.py", processes_for)


def main(task_dir: str, argv: Sequence[str] | None = None) -> int:
    """Run the command; ``--mode=place`` has options of its own, see ``place.py``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--mode")
    if parser.parse_known_args(argv)[0].mode == "place":
        return place.main(task_dir, argv)
    return _main(task_dir, argv)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the sampling options that all modes take."""
    names = ("num_samples", "batch_size", "seed", "format")
    return {name: getattr(args, name) for name in names}


def _run_scratch(sampler: Any, args: argparse.Namespace) -> int:
    options = {**_options(args), "save_path": args.save_path}
    if args.mode == "by_chemical_formula":
        sampler.sample_by_chemical_formula(args.chemical_formula, **options)
    elif args.mode == "by_num_atoms":
        sampler.sample_by_num_atoms(args.num_atoms, **options)
    else:
        conditions = _conditions(args.condition)
        sampler.sample_by_condition(args.num_atoms, conditions, **options)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that the mode does not use."""
    mode, names = args.mode, args.split
    wants = {
        "input": ("by_structures",),
        "condition": ("by_condition",),
        "num_atoms": ("by_num_atoms", "by_condition"),
        "split": (*_SPLIT_MODES, "by_structures"),
        "submission": (*_SPLIT_MODES, "by_structures"),
        "missing_tags": ("by_structures",),
    }
    for name, modes in wants.items():
        refuse_if(
            getattr(args, name) not in (None, [], "raise") and mode not in modes,
            f"--{name} has no meaning with --mode={mode}; it goes with "
            f"{', '.join(modes)}",
        )
    for name in ("input", "num_atoms"):
        missing = mode in wants[name] and not getattr(args, name)
        refuse_if(missing, f"--mode={mode} needs --{name}")
    no_names = "--submission needs --split, which names the arrays"
    refuse_if(args.submission and not names, no_names)
    several = "--submission takes one result a structure: --num_samples=1"
    refuse_if(args.submission and (args.num_samples or 1) != 1, several)
    if mode == "by_structures":
        one_name = "by_structures makes one split; give one name to --split"
        refuse_if(len(names) > 1, one_name)
        no_use = "--split with by_structures only names a --submission"
        refuse_if(names and not args.submission, no_use)


def _conditions(items: Sequence[str]) -> dict[str, Any]:
    conditions: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        refuse_if(not equals or not name, f"--condition {item}: wanted NAME=VALUE")
        try:
            conditions[name] = float(value)
        except ValueError:
            conditions[name] = value
    return conditions


def _run_splits(sampler: Any, args: argparse.Namespace) -> int:
    from ppmat.sampler.scoring import has_relaxed_positions

    found: dict[str, Any] = {}
    left_out = 0
    for split in args.split or [None]:
        folder = os.path.join(args.save_path, split) if split else args.save_path
        results = sampler.sample_by_dataloader(
            folder, split, on_error=args.on_error, **_options(args)
        )
        left_out += len(sampler.left_out)
        found[split or ""] = results
        scored = has_relaxed_positions(results) and sampler.sample_config.get("metrics")
        if scored or args.mode == "compute_metric":
            _score(sampler, results, folder, split)
    _submit(args.submission, found, left_out)
    return status_of(left_out, left_out + sum(map(len, found.values())), "structure")


def _submit(path: str | None, splits: dict[str, Any], left_out: int) -> None:
    """Write the results of each split as a submission, if there is a path."""
    import paddle.distributed as dist

    from ppmat.datasets.submission import write_submission

    if not path or dist.get_rank() != 0:
        return
    if report_submission(path, splits, left_out):
        positions = {
            split: ((r["id"], r["cart_coords"]) for r in results)
            for split, results in splits.items()
        }
        write_submission(path, positions)


def _score(sampler: Any, results: Any, folder: str, split: str | None) -> None:
    import paddle.distributed as dist

    from ppmat.sampler.scoring import metric_table

    values = sampler.score(results, folder)
    if dist.get_rank() != 0:
        return
    title = f"{split}, " if split else ""
    print(f"{title}{len(results)} results", flush=True)
    print(metric_table(values) if isinstance(values, dict) else values, flush=True)


def _run_structures(sampler: Any, args: argparse.Namespace) -> int:
    from ppmat.datasets.prepared_records import PreparedRecords
    from ppmat.datasets.structure_reader import read_inputs
    from ppmat.sampler.scoring import has_relaxed_positions

    records = PreparedRecords(
        read_inputs(args.input),
        args.missing_tags,
        # A submission holds the ids of its data set, so none may change.
        repeated="refuse" if args.submission else "rename",
        progress=True,
    )
    logger.info(f"{len(records)} structures to relax")
    atoms = sampler.from_structures(
        records,
        save_path=args.save_path,
        num_workers=args.num_workers,
        progress=True,
        on_error=args.on_error,
        **_options(args),
    )
    if has_relaxed_positions(atoms.results) and sampler.sample_config.get("metrics"):
        _score(sampler, atoms.results, args.save_path, None)
    left_out = len(records.left_out)
    _submit(args.submission, dict.fromkeys(args.split, atoms.results), left_out)
    return status_of(left_out, left_out + len(records), "structure")
