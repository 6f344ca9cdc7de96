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

"""``predict.py`` of a task folder: predict a property of structures.

Importing it loads no Paddle.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from ppmat.commands.options import add_bad_structures
from ppmat.commands.options import add_model_options
from ppmat.commands.options import announce_task_config
from ppmat.commands.options import counted
from ppmat.commands.options import lock_output
from ppmat.commands.options import new_parser
from ppmat.commands.options import parse_with_overrides
from ppmat.commands.options import print_flags
from ppmat.commands.options import refuse_if
from ppmat.commands.options import report_submission
from ppmat.commands.options import status_of
from ppmat.commands.options import task_command
from ppmat.commands.processes import AUTO_PROCESSES
from ppmat.commands.processes import add_processes
from ppmat.commands.processes import processes_for
from ppmat.utils import logger
from ppmat.utils.config import save_config
from ppmat.utils.registry import ConfigError

_EPILOG = """\
With --save_path the same command given again resumes an interrupted run.
Exit status: 0 done, 1 some structures were left out (they are listed), 2 wrong input.

examples:
  predict.py --config_path=configs/sfin/sfin_oc20_is2re.yaml
             --checkpoint_path=best.pdparams --input slab.traj@-1 more/*.extxyz
  predict.py ... --checkpoint_path a.pdparams b.pdparams --input POSCAR
             --missing_tags=guess --save_path=energies.csv
  predict.py ... --split val_id val_ood_ads --save_path=scores --submission=is2re.npz
  predict.py ... --split val_id --calibrate=calibrated.pdparams
"""
_MAX_ROWS = 20  # printed rows, and printed errors
_MAX_ROWS_OF_SPLIT = 5  # printed rows of each of several splits
_BLOCKS = ("val", "test", "train")
_MIN_CALIBRATION = 10  # structures; fewer give no reliable mean


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ``overrides`` holds the KEY=VALUE arguments."""
    about = "Predict a property of structures with a trained model."
    parser = new_parser(about, _EPILOG)
    add_model_options(parser)
    add = parser.add_argument
    add("--checkpoint_path", nargs="+", default=[], action="extend",
        help="weights that belong to --config_path; several: an ensemble")  # fmt: skip
    add("--input", "--input_path", nargs="+", default=[], action="extend",
        help="files (.traj, .extxyz, .cif, POSCAR, .db, .json, .lmdb, .aselmdb, with "
        ".gz or .xz ...), folders, patterns; FILE@INDEX picks frames")  # fmt: skip
    add("--split", nargs="+", default=[], action="extend",
        help="splits of the configuration's data set, scored if they have labels; with "
        "--input the name of the split for --submission")  # fmt: skip
    add_bad_structures(parser)
    add("--batch_size", type=int, default=16, help="structures predicted at once")
    add("--num_workers", type=int, default=0, help="processes that prepare structures")
    add_processes(parser, AUTO_PROCESSES)
    add("--save_path", "--output_path", metavar="FILE.csv|FOLDER",
        help="keep the rows; a folder gets <split>.csv and metrics.yaml")  # fmt: skip
    add("--submission", metavar="FILE.npz",
        help="also write the IS2RE submission of the splits")  # fmt: skip
    add("--calibrate", metavar="FILE.pdparams",
        help="measure the true errors on the one --split, and write the weights with "
        "expected errors scaled to them")  # fmt: skip
    add("--score_by", choices=("metals", "adsorbates"),
        help="also score each set of slab elements, or each adsorbate, of the splits "
        "alone")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the YAML")
    return parse_with_overrides(parser, argv, "checkpoint_path", "input", "split")


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; returns the exit status."""
    from ppmat.datasets.structure_reader import find_inputs
    from ppmat.datasets.submission import split_name
    from ppmat.predictor.property_predictor import PropertyPredictor
    from ppmat.utils.meeting import start_ranks

    _check_options(args)
    for name in args.split if args.submission else ():
        split_name(name)
    if args.input:
        find_inputs(args.input)  # reports a wrong path before the model is loaded
    start_ranks()
    predictor = PropertyPredictor(
        args.model_name,
        args.weights_name,
        announce_task_config(
            args.config_path, task_dir, args.overrides, not args.input
        ),
        args.checkpoint_path or None,
        device=args.device,
        config_overrides=args.overrides,
    )
    refuse_if(
        args.calibrate and not hasattr(predictor.model, "error_factor"),
        "--calibrate: the model gives no expected errors; train it with "
        "Model.__init_params__.predict_error=true",
    )
    with lock_output(args.save_path):
        return _predict(predictor, args)


main = task_command(parse_args, run, "predict.py", processes_for)


def _predict(predictor: Any, args: argparse.Namespace) -> int:
    import paddle.distributed as dist

    from ppmat.datasets.submission import write_energy_submission

    options = {
        "batch_size": args.batch_size,
        "progress": True,
        "on_error": args.on_error,
        "missing_tags": args.missing_tags,
        "num_workers": args.num_workers,
    }
    if args.input:
        path = _csv_path(args.save_path, "predictions")
        # A submission holds the ids of its data set, so none may change.
        repeated = "refuse" if args.submission else "rename"
        table = predictor.from_files(
            args.input, repeated=repeated, save_path=path, **options
        )
        if dist.get_rank() > 0:  # rank 0 speaks and writes for all
            return 0
        left_out = _print_table(table, "", _MAX_ROWS)
        tables = {args.split[0] if args.split else "": table}
    else:
        tables, left_out = _predict_splits(predictor, args, options)
        if dist.get_rank() > 0:
            return 0
    if args.submission and report_submission(args.submission, tables, left_out):
        energies = {
            split: ((row["id"], row[predictor.property_name]) for row in table)
            for split, table in tables.items()
        }
        write_energy_submission(args.submission, energies)
    return status_of(left_out, sum(map(len, tables.values())), "structure")


def _check_options(args: argparse.Namespace) -> None:
    refuse_if(
        args.batch_size < 1 or args.num_workers < 0,
        f"--batch_size={args.batch_size} and --num_workers={args.num_workers}: wanted "
        "at least 1 and 0",
    )
    given, names = args.input, args.split
    refuse_if(not given and not names, "nothing to predict: give --input or --split")
    if args.calibrate:
        one = not given and len(names) == 1 and len(args.checkpoint_path) <= 1
        refuse_if(not one, "--calibrate takes one --split and one checkpoint")
        wanted = f"--calibrate={args.calibrate}: wanted FILE.pdparams"
        refuse_if(not args.calibrate.endswith(".pdparams"), wanted)
    no_labels = "--score_by needs --split: files of --input have no labels"
    refuse_if(args.score_by and (given or not names), no_labels)
    no_names = "--submission needs --split, which names the arrays"
    refuse_if(args.submission and not names, no_names)
    no_use = "--split with --input only names a --submission"
    refuse_if(given and names and not args.submission, no_use)
    one_name = "--input makes one split; give one name to --split"
    refuse_if(given and len(names) > 1, one_name)
    twice = f"--split names a split twice: {' '.join(names)}"
    refuse_if(len(set(names)) < len(names), twice)
    one_file = "several splits go to a folder, not one file"
    several = len(names) > 1 and _is_csv(args.save_path)
    refuse_if(several, f"--save_path={args.save_path}: {one_file}")


def _is_csv(path: str | None) -> bool:
    return path is not None and path.endswith(".csv")


def _csv_path(save_path: str | None, name: str) -> str | None:
    if save_path is None or _is_csv(save_path):
        return save_path
    return os.path.join(save_path, f"{name}.csv")


def _print_table(table: Any, split: str, limit: int) -> int:
    """Print a table, its flags and its errors; return the number of rows left out."""
    from ppmat.datasets.structure_reader import fault_line
    from ppmat.predictor.structure_checks import FLAGS

    errors: list[str] = []
    left_out = 0
    flags: Counter = Counter()
    for row in table:
        flags.update(row["flags"].keys())
        if row["error"] is not None:
            left_out += 1
            if left_out <= _MAX_ROWS:
                place = row["source"], row["frame"]
                errors.append(fault_line(row["id"], *place, row["error"]))
    title = f"{split}, " if split else ""
    number = counted(len(table), "structure")
    print(f"{title}{number}\n{table.to_text(limit)}", flush=True)
    print_flags(flags, FLAGS, "structure")
    for error in errors:
        logger.error(f"left out: {error}")
    if left_out > len(errors):
        logger.error(f"... and {left_out - len(errors)} more")
    return left_out


def _predict_splits(
    predictor: Any, args: argparse.Namespace, options: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """Predict, print and score splits; return their tables and the rows left out."""
    import paddle.distributed as dist

    from ppmat.metrics.is2re_metric import mean_over_splits

    is_first = dist.get_rank() == 0
    tables, scores, total_left_out = {}, {}, 0
    parts: dict[str, dict[str, float]] = {}
    for split in args.split:
        rows = open_split(predictor.config, split)
        path = _csv_path(args.save_path, split)
        table = predictor.from_structures(rows, save_path=path, **options)
        tables[split] = table
        # The metric sums over the ranks; rank 0 has all rows and speaks for all.
        values = score(table if is_first else [], rows, predictor.property_name)
        if not is_first:
            continue
        left_out = _print_table(table, split, _MAX_ROWS_OF_SPLIT)
        total_left_out += left_out
        if not values:
            refuse_if(args.calibrate, f"--calibrate: {split} has no labels")
            logger.message(f"{split} has no labels, so it is not scored")
            continue
        scores[split] = values
        if args.score_by:
            found = score_groups(table, rows, predictor.property_name, args.score_by)
            parts.update({f"{split}, {name}": part for name, part in found.items()})
        if left_out:
            logger.warning(f"the scores of {split} exclude the structures left out")
        if args.calibrate:
            _write_calibrated(predictor, table, rows, args.calibrate)
    if len(scores) > 1:
        scores["mean"] = mean_over_splits(scores)
    scores.update(parts)
    if scores:
        print(_score_table(scores), flush=True)
        if args.save_path is not None and not _is_csv(args.save_path):
            save_config(scores, os.path.join(args.save_path, "metrics.yaml"))
    return tables, total_left_out


def _write_calibrated(predictor: Any, table: Any, rows: Any, path: str) -> None:
    """Write weights whose expected errors are as large as the errors in a table.

    A model learns its expected errors on its training structures, where its energies
    are more accurate than elsewhere. So they are too small for new structures.
    """
    from ppmat.utils.save_load import write_set

    name, model = predictor.property_name, predictor.model
    labels = ((row, getattr(rows[i], name)) for i, row in enumerate(table))
    factor = measure_factor(
        (abs(row[name] - label), row["expected_error"])
        for row, label in labels
        if row["error"] is None and label is not None
    )
    model.error_factor.set_value(model.error_factor * factor)
    folder, file = os.path.split(path)
    weights = {file: model.state_dict()}
    write_set(folder or ".", file.removesuffix(".pdparams"), weights)
    logger.message(f"Errors are {factor:.3f} times the expected ones; wrote {path}")


def measure_factor(pairs: Iterable[tuple[float, float]]) -> float:
    """Return mean absolute error divided by mean expected error.

    Args:
        pairs: Absolute and expected error of each structure, eV.

    Example:
        >>> measure_factor([(0.3, 0.2)] * 10)
        1.5
    """
    pairs = list(pairs)
    refuse_if(
        len(pairs) < _MIN_CALIBRATION,
        f"--calibrate: {len(pairs)} structures with a label and an expected error, "
        f"wanted at least {_MIN_CALIBRATION}",
    )
    return sum(error for error, _ in pairs) / sum(expected for _, expected in pairs)


def open_split(config: Mapping[str, Any], split: str) -> Any:
    """Return all records of a split of the configuration's OC20 data set.

    The path is that of the first such data set among ``Dataset.val``, ``test``,
    ``train`` and ``dataset``.
    """
    from ppmat.datasets.oc20_lmdb import OC20LMDB

    section = config.get("Dataset") or {}
    blocks = [(section.get(name) or {}).get("dataset") for name in _BLOCKS]
    for block in [*blocks, section.get("dataset")]:
        block = block or {}
        params = block.get("__init_params__") or {}
        if block.get("__class_name__") == "OC20IS2REDataset" and params.get("path"):
            return OC20LMDB(params["path"], split, params.get("subset", "all"))
    raise ConfigError(
        "--split: none of Dataset.val, Dataset.test, Dataset.train and Dataset.dataset "
        "is an OC20IS2REDataset with a path; give the files to --input"
    )


def score(table: Any, rows: Any, property_name: str) -> dict[str, float]:
    """Return MAE [eV] and EwT of the rows that have a number and a label."""
    from ppmat.metrics.is2re_metric import IS2REMetric

    metric = IS2REMetric(property_name)
    predicted = iter(enumerate(table))
    while chunk := list(islice(predicted, 1024)):
        pairs = [
            (row[property_name], getattr(rows[i], property_name, None))
            for i, row in chunk
            if row["error"] is None
        ]
        pairs = [pair for pair in pairs if pair[1] is not None]
        if pairs:
            metric.update(*np.array(pairs, dtype=np.float32).T)
    return metric.compute_epoch()


def score_groups(
    table: Any, rows: Any, property_name: str, by: str
) -> dict[str, dict[str, float]]:
    """Return MAE [eV] and EwT of each group of records, by its name.

    Args:
        table: The predictions, in the order of ``rows``.
        rows: The records.
        property_name: The label.
        by: Kind of the groups, see :mod:`ppmat.datasets.record_groups`.
    """
    from ppmat.datasets.record_groups import group_of
    from ppmat.metrics.is2re_metric import energy_mae
    from ppmat.metrics.is2re_metric import energy_within_threshold

    pairs: dict[str, list[tuple[float, float]]] = {}
    for i, row in enumerate(table):
        label = getattr(rows[i], property_name)
        if row["error"] is None and label is not None:
            group = group_of(rows[i], by, rows.where(i))
            pairs.setdefault(group, []).append((row[property_name], label))
    columns = {
        name: np.array(found, dtype=np.float32).T
        for name, found in sorted(pairs.items())
    }
    return {
        name: {"energy_mae": energy_mae(*both), "ewt": energy_within_threshold(*both)}
        for name, both in columns.items()
    }


def _score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    width = max(map(len, scores))
    lines = [f"{'split':<{width}}  energy_mae [eV]     ewt"]
    for split, values in scores.items():
        mae, ewt = values["energy_mae"], values["ewt"]
        lines.append(f"{split:<{width}}  {mae:15.4f}  {ewt:6.2%}")
    return "\n".join(lines)
