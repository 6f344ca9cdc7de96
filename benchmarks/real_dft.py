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

"""Adsorption energies and relaxed positions of real DFT: SFIN and its peers.

The data are the folds of ``benchmarks.data.xu_kitchin``. Each leaves out one metal or
one adsorbate. ``val_id`` has other structures of the metals and adsorbates in training;
the other split has what was left out. The rows are those of ``is2re.py`` and
``is2re_peers.py``, on the same data, targets and epochs. Energies are those of one
adsorbate. Every (fold, row, seed) leaves a file in ``--work``, so a benchmark that was
stopped continues; the last step collects what is there. A seed of a row counts once it
has all folds of a kind.

All networks read the energy from the atoms of the adsorbate, which is more accurate
here for ours and for PaiNN.

Usage::

    python -m benchmarks.data.xu_kitchin PATH DATA
    python -m benchmarks.is2re_peers --work PEERS --export DATA --folds metal_Pt ...
    PEERS/bin/python -m benchmarks.is2re_peers --work PEERS --read adsorbate \
        --folds metal_Pt ...
    python -m benchmarks.real_dft --data DATA --search --folds metal_Pt --epochs 20
    python -m benchmarks.real_dft --data DATA --peers PEERS --jobs 2

PaiNN, compiled, is twice as fast here; ``--longer`` shows it with equal time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

from benchmarks.data.xu_kitchin import FOLDS
from benchmarks.is2re import COPY
from benchmarks.is2re import NEW_METALS
from benchmarks.is2re import PEERS
from benchmarks.is2re import RATES
from benchmarks.is2re import ROWS
from benchmarks.is2re import gather_search
from benchmarks.runs import RESULTS
from benchmarks.runs import best_rate
from benchmarks.runs import file_name
from benchmarks.runs import parse
from benchmarks.runs import result_of
from benchmarks.runs import run_all
from benchmarks.runs import search_name
from benchmarks.runs import words_of_one
from benchmarks.runs import write

BEST_PEER = "PaiNN, with relaxed structure"
LONGER = 2  # times the epochs: the time of ours, since compiled it is twice as fast


def run_missing(args: argparse.Namespace) -> None:
    """Run what is missing of our rows, or of the search for their learning rates."""
    commands = {}
    for seed in [0] if args.search else args.seeds:
        for fold in args.folds:
            (args.work / fold).mkdir(exist_ok=True)
            for row in args.rows:
                rates = RATES if args.search else [best_rate(args.work, row)]
                for rate in rates:
                    name = file_name(row, seed)
                    if args.search:
                        name = search_name(row, rate)
                    commands[f"{fold}/{name}"] = words_of_one(
                        row,
                        seed,
                        name,
                        data=args.data / fold,
                        work=args.work / fold,
                        epochs=args.epochs,
                        read="adsorbate",
                        rate=rate,
                    )
    run_all(commands, args.work, args.jobs, "benchmarks.is2re")


def read_folds(
    folder: Path, row: str, folds: list[str], args: argparse.Namespace
) -> list[list[dict]]:
    """Return the runs of a row, a list of folds for each seed that has all of them.

    Raises:
        SystemExit: A network was trained for another number of epochs.
    """
    found = []
    for seed in args.seeds:
        paths = [folder / fold / f"{file_name(row, seed)}.json" for fold in folds]
        if all(path.exists() for path in paths):
            found.append([json.loads(path.read_text()) for path in paths])
            for path, run in zip(paths, found[-1]):
                if run.get("epochs", args.epochs) != args.epochs:
                    raise SystemExit(f"{path}: {run['epochs']} epochs, not --epochs")
    return found


def summary(runs: list[list[dict]], kind: str, keys: dict[str, str]) -> dict:
    """Return the scores of a row on the folds of a kind, metal or adsorbate.

    ``seen`` and ``unseen`` have means over folds, one a seed.

    Args:
        runs: As :func:`read_folds`.
        kind: A key of :data:`FOLDS`.
        keys: Names of the scores in the table, and in the runs.
    """
    return {
        part: {
            name: [round(mean(run[split][key] for run in seed), 4) for seed in runs]
            for name, key in keys.items()
            if key in runs[0][0][split]
        }
        for part, split in (("seen", "val_id"), ("unseen", FOLDS[kind][1]))
    }


def row_of(
    name: str,
    folder: Path,
    args: argparse.Namespace,
    keys: dict[str, str],
    of: str = "",
) -> dict:
    """Return the table row of a row of the benchmark, with the kinds that were run.

    Args:
        name: Name in the table.
        folder: Folder of the runs.
        args: Options.
        keys: As in :func:`summary`.
        of: The row whose runs are read, if it has another name.
    """
    result: dict = {"name": name}
    for kind in FOLDS:
        folds = [fold for fold in args.folds if fold.startswith(kind)]
        runs = read_folds(folder, of or name, folds, args) if folds else []
        if not runs:
            continue
        found = result[f"{kind} left out"] = summary(runs, kind, keys)
        first = runs[0][0]
        if first["learning_rate"] and not of:
            result["parameters"] = first["parameters"]
            result["learning_rate"] = first["learning_rate"]
        found["folds"] = {}
        for fold, seeds in zip(folds, zip(*runs)):
            parts = summary([[run] for run in seeds], kind, keys)
            found["folds"][fold.removeprefix(f"{kind}_")] = {
                part: {key: round(mean(v), 4) for key, v in scores.items()}
                for part, scores in parts.items()
            }
    return result


def gather(args: argparse.Namespace) -> dict:
    """Return the result of all rows: the input, the peers, ours."""
    best = list(ROWS)[-1]
    rows = [row_of(COPY, args.work, args, {"adwt": "copy_adwt"}, of=best)]
    keys = {"energy_mae": "energy_mae", "adwt": "adwt"}
    for folder, names in ((args.peers, PEERS), (args.work, args.rows)):
        if folder is not None:
            rows += [row_of(name, folder, args, keys) for name in names]
    more = ""
    if args.longer is not None:
        epochs = LONGER * args.epochs
        longer = argparse.Namespace(**{**vars(args), "epochs": epochs})
        name = f"{BEST_PEER}, {epochs} epochs"
        rows.append(row_of(name, args.longer, longer, keys, of=BEST_PEER))
        more = " --longer LONGER"
    return result_of(
        f"python -m benchmarks.real_dft --data DATA --peers PEERS{more} --folds "
        f"{' '.join(args.folds)} --epochs {args.epochs} --seeds "
        f"{' '.join(map(str, args.seeds))} --jobs {args.jobs}",
        note="Energy MAE of one adsorbate, and ADwT; mean over the folds, for each "
        "seed. Seen: structures of the metals and adsorbates in training. Unseen: the "
        "metal or adsorbate that was left out. Data: Xu and Kitchin, J. Phys. Chem. C "
        "2014, 118, 25597.",
        epochs=args.epochs,
        rows=[row for row in rows if len(row) > 1],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", required=True, type=lambda path: Path(path).resolve())
    add("--work", type=Path, default=Path("output/benchmark_real_dft"))
    add("--peers", type=Path, help="--work of is2re_peers.py")
    add("--longer", type=Path, help=f"--work of the peers with {LONGER} x the epochs")
    add("--folds", nargs="+", help="folders of DATA; all of them if not given")
    rows = [*ROWS, *NEW_METALS]
    add("--rows", nargs="+", choices=rows, default=rows)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=60)
    add("--jobs", type=int, default=1, help="processes at a time")
    add("--search", action="store_true", help="try the learning rates")
    add("--gather", action="store_true", help="only collect what is there")
    add("--out", type=Path, default=RESULTS)
    args = parse(parser)
    if args.folds is None:
        args.folds = sorted(path.name for path in args.data.iterdir() if path.is_dir())
    if not args.gather:
        run_missing(args)
    if args.search:
        result = gather_search(
            [args.peers, args.work],
            "python -m benchmarks.real_dft --data DATA --peers PEERS --search --folds "
            f"{' '.join(args.folds)} --epochs {args.epochs} --jobs {args.jobs}",
            note=f"After {args.epochs} epochs, one seed, mean over the folds.",
        )
        write(result, args.out / "real_dft_search.yaml")
    else:
        write(gather(args), args.out / "real_dft.yaml")


if __name__ == "__main__":
    main()
