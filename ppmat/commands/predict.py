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

Importing this module does not import Paddle, because the number of threads must be set
before.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from ppmat.commands.options import EXIT_BAD_INPUT
from ppmat.commands.options import EXIT_SOME_LEFT_OUT
from ppmat.commands.options import add_model_options
from ppmat.commands.options import announce_task_config
from ppmat.commands.options import lock_output
from ppmat.commands.options import move_overrides
from ppmat.commands.options import task_command
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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ``overrides`` holds the KEY=VALUE arguments."""
    parser = argparse.ArgumentParser(
        description="Predict a property of structures with a trained model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    add = parser.add_argument
    add("--checkpoint_path", nargs="+", default=[], action="extend",
        help="weights that belong to --config_path; several: an ensemble")  # fmt: skip
    add("--input", "--input_path", nargs="+", default=[], action="extend",
        help="files (.traj, .cif, .extxyz, .xyz, POSCAR, .lmdb), folders, patterns; "
        "FILE@INDEX picks frames")  # fmt: skip
    add("--split", nargs="+", default=[], action="extend",
        help="splits of the configuration's data set, scored if they have labels; with "
        "--input the name of the split for --submission")  # fmt: skip
    add("--missing_tags", choices=("raise", "guess"), default="raise",
        help="what to do with structures without tags (CIF, POSCAR): leave them out, "
        "or guess which atoms are the adsorbate")  # fmt: skip
    add("--batch_size", type=int, default=16, help="structures predicted at once")
    add("--num_workers", type=int, default=0, help="processes that prepare structures")
    add("--save_path", "--output_path", metavar="FILE.csv|FOLDER",
        help="keep the rows; a folder gets <split>.csv and metrics.yaml")  # fmt: skip
    add("--submission", metavar="FILE.npz",
        help="also write the IS2RE submission of the splits")  # fmt: skip
    add("--calibrate", metavar="FILE.pdparams",
        help="measure the true errors on the one --split, and write the weights with "
        "expected errors scaled to them")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the YAML")
    args = parser.parse_intermixed_args(argv)
    move_overrides(args, ("checkpoint_path", "input", "split"))
    return args


def run(args: argparse.Namespace, task_dir: str) -> int:
    """Run the command; return the exit status.

    Raises:
        ConfigError: Options that exclude each other, and see ``PropertyPredictor``.
        StoredRunError: ``--save_path`` holds something else, or is in use.
    """
    from ppmat.datasets.structure_reader import find_inputs
    from ppmat.datasets.submission import split_name
    from ppmat.predictor.property_predictor import PropertyPredictor

    _check_options(args)
    for name in args.split if args.submission else ():
        split_name(name)
    if args.input:
        find_inputs(args.input)  # reports a wrong path before the model is loaded
    if args.config_path is not None:
        args.config_path = announce_task_config(args.config_path, task_dir)
    predictor = PropertyPredictor(
        model_name=args.model_name,
        weights_name=args.weights_name,
        config_path=args.config_path,
        checkpoint_path=args.checkpoint_path or None,
        device=args.device,
        config_overrides=args.overrides,
    )
    if args.calibrate and not hasattr(predictor.model, "error_factor"):
        raise ConfigError(
            "--calibrate: the model gives no expected errors; train it with "
            "Model.__init_params__.predict_error=true"
        )
    path = args.save_path
    with lock_output(path) if path is not None else contextlib.nullcontext():
        return _predict(predictor, args)


main = task_command(parse_args, run)


def _predict(predictor: Any, args: argparse.Namespace) -> int:
    from ppmat.datasets.submission import write_energy_submission

    options = {
        "batch_size": args.batch_size,
        "progress": sys.stderr.isatty(),
        "on_error": "flag",
        "missing_tags": args.missing_tags,
        "num_workers": args.num_workers,
    }
    if args.input:
        path = _csv_path(args.save_path, "predictions")
        table = predictor.from_files(args.input, save_path=path, **options)
        left_out = _print_table(table, "", _MAX_ROWS)
        tables = {args.split[0] if args.split else "": table}
    else:
        tables, left_out = _predict_splits(predictor, args, options)
    if args.submission:
        energies = {
            split: ((row["id"], row[predictor.property_name]) for row in table)
            for split, table in tables.items()
        }
        write_energy_submission(args.submission, energies)
        logger.message(f"Wrote {args.submission}")
    if left_out == sum(map(len, tables.values())):
        logger.error("no structure could be used")
        return EXIT_BAD_INPUT
    if left_out:
        logger.error(f"left out: {_count(left_out)}; the others are done")
        return EXIT_SOME_LEFT_OUT
    return 0


def _check_options(args: argparse.Namespace) -> None:
    import paddle.distributed as dist

    if dist.get_world_size() > 1:
        raise ConfigError(
            "predict.py runs in one process; give each process its own --input"
        )
    if args.batch_size < 1 or args.num_workers < 0:
        raise ConfigError(
            f"--batch_size={args.batch_size} and --num_workers={args.num_workers}: "
            "wanted at least 1 and 0"
        )
    if not args.input and not args.split:
        raise ConfigError("nothing to predict: give --input or --split")
    if args.calibrate and (
        args.input or len(args.split) != 1 or len(args.checkpoint_path) > 1
    ):
        raise ConfigError("--calibrate takes one --split and one checkpoint")
    if args.calibrate and not args.calibrate.endswith(".pdparams"):
        raise ConfigError(f"--calibrate={args.calibrate}: wanted FILE.pdparams")
    if args.submission and not args.split:
        raise ConfigError("--submission needs --split, which names the arrays")
    if args.input and args.split and not args.submission:
        raise ConfigError("--split with --input only names a --submission")
    if args.input and len(args.split) > 1:
        raise ConfigError("--input makes one split; give one name to --split")
    if len(set(args.split)) < len(args.split):
        raise ConfigError(f"--split names a split twice: {' '.join(args.split)}")
    if len(args.split) > 1 and _is_csv(args.save_path):
        raise ConfigError(
            f"--save_path={args.save_path}: several splits go to a folder, not one file"
        )


def _is_csv(path: str | None) -> bool:
    return path is not None and path.endswith(".csv")


def _csv_path(save_path: str | None, name: str) -> str | None:
    if save_path is None or _is_csv(save_path):
        return save_path
    return os.path.join(save_path, f"{name}.csv")


def _print_table(table: Any, split: str, limit: int) -> int:
    """Print a table, its flags and its errors; return the number of rows left out."""
    from ppmat.predictor.structure_checks import FLAGS

    errors: list[str] = []
    left_out = 0
    flags: Counter = Counter()
    for row in table:
        flags.update(row["flags"].keys())
        if row["error"] is not None:
            left_out += 1
            if left_out <= _MAX_ROWS:
                errors.append(f"{row['id']}: {row['error']}")
    title = f"{split}, " if split else ""
    print(f"{title}{_count(len(table))}\n{table.to_text(limit)}", flush=True)
    for name, count in flags.items():
        print(f"flag {name} ({_count(count)}): {FLAGS[name]}", flush=True)
    for error in errors:
        logger.error(f"left out: {error}")
    if left_out > len(errors):
        logger.error(f"... and {left_out - len(errors)} more")
    return left_out


def _count(number: int) -> str:
    return "1 structure" if number == 1 else f"{number} structures"


# Splits of a data set -------------------------------------------------------------


def _predict_splits(
    predictor: Any, args: argparse.Namespace, options: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """Predict, print and score splits; return their tables and the rows left out."""
    from ppmat.metrics.is2re_metric import mean_over_splits

    tables, scores, total_left_out = {}, {}, 0
    for split in args.split:
        rows = open_split(predictor.config, split)
        path = _csv_path(args.save_path, split)
        table = predictor.from_structures(rows, save_path=path, **options)
        tables[split] = table
        left_out = _print_table(table, split, _MAX_ROWS_OF_SPLIT)
        total_left_out += left_out
        values = score(table, rows, predictor.property_name)
        if not values:
            if args.calibrate:
                raise ConfigError(f"--calibrate: {split} has no labels")
            logger.message(f"{split} has no labels, so it is not scored")
            continue
        scores[split] = values
        if left_out:
            logger.warning(f"the scores of {split} exclude the structures left out")
        if args.calibrate:
            _scale_errors(predictor, table, rows, args.calibrate)
    if len(scores) > 1:
        scores["mean"] = mean_over_splits(scores)
    if scores:
        print(_score_table(scores), flush=True)
        if args.save_path is not None and not _is_csv(args.save_path):
            save_config(scores, os.path.join(args.save_path, "metrics.yaml"))
    return tables, total_left_out


def _scale_errors(predictor: Any, table: Any, rows: Any, path: str) -> None:
    """Write weights whose expected errors are as large as the errors in a table."""
    from ppmat.predictor.error_scale import measure_factor
    from ppmat.predictor.error_scale import scale_expected_errors

    name = predictor.property_name
    labels = ((row, getattr(rows[i], name)) for i, row in enumerate(table))
    factor = measure_factor(
        (abs(row[name] - label), row["expected_error"])
        for row, label in labels
        if row["error"] is None and label is not None
    )
    scale_expected_errors(predictor.model, factor, path)
    logger.message(f"Errors are {factor:.3f} times the expected ones; wrote {path}")


def open_split(config: Mapping[str, Any], split: str) -> Any:
    """Return all records of a split of the configuration's OC20 data set.

    Args:
        config: The configuration. The path is that of the first such data set among
            ``Dataset.val``, ``test``, ``train`` and ``dataset``.
        split: Name of the split.

    Raises:
        ConfigError: No such data set in the configuration.
        FileNotFoundError: No such split.
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


def _score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    width = max(map(len, scores))
    lines = [f"{'split':<{width}}  energy_mae [eV]     ewt"]
    for split, values in scores.items():
        mae, ewt = values["energy_mae"], values["ewt"]
        lines.append(f"{split:<{width}}  {mae:15.4f}  {ewt:6.2%}")
    return "\n".join(lines)
