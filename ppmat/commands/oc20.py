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

"""Command ``python -m ppmat.commands.oc20``: LMDB files of OC20.

::

    python -m ppmat.commands.oc20 check PATH
    python -m ppmat.commands.oc20 write OUT.lmdb INPUT ...
    python -m ppmat.commands.oc20 export PATH OUT.extxyz
    python -m ppmat.commands.oc20 subset PATH OUT.lmdb --rows 0:100
    python -m ppmat.commands.oc20 split PATH OUT --by metals

Exit status: 0; 1 if ``check`` found a faulty row or file, or ``write`` left some out; 2
if the input is wrong.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from ase.io.formats import string2index

from ppmat.commands.options import complain
from ppmat.commands.options import counted
from ppmat.commands.options import exit_status
from ppmat.commands.options import refuse_if
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import SPLITS
from ppmat.datasets.oc20_lmdb import lmdb_files
from ppmat.datasets.oc20_lmdb import splits_below
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.pyg_pickle import OC20FormatError
from ppmat.datasets.record_groups import GROUPS
from ppmat.datasets.record_groups import choose_held_out
from ppmat.datasets.record_groups import group_of
from ppmat.datasets.relaxation_export import FORMATS
from ppmat.datasets.relaxation_export import export_records
from ppmat.datasets.relaxations import MAX_STEP
from ppmat.datasets.relaxations import RelaxationOptions
from ppmat.datasets.relaxations import check_relaxation
from ppmat.datasets.relaxations import label_faults
from ppmat.datasets.relaxations import read_relaxations
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.progress import Progress

EXIT_FAULTS = 1
_MAX_ENERGY = 10.0  # eV, largest size of y_relaxed in OC20


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line; None means ``sys.argv``."""
    parser = argparse.ArgumentParser(
        prog="python -m ppmat.commands.oc20",
        description="Check, write, export or cut LMDB files in the format of OC20 "
        "IS2RE / IS2RS.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("check", help="read every row, print statistics")
    add.add_argument("path", help="LMDB file, split folder, or root of the splits")
    _add_max_faults(add)
    _add_initial_only(add, "rows have no relaxed structure, as in a split test_*")
    add = commands.add_parser(
        "write",
        help="make a file from relaxations",
        description="Each input is one relaxation: its first frame is the initial "
        "structure, its last frame the relaxed one. A file whose frames have several "
        "info['sid'] is one relaxation for each. Tags and fixed atoms are kept.",
    )
    _add_write_options(add)
    add = commands.add_parser(
        "export",
        help="write the rows as frames that ASE reads",
        description="For each row the initial and the relaxed structure, with info "
        "sid, state and adsorption_energy. 'write --energy_key=adsorption_energy' "
        "makes the rows again, without stored edges and forces.",
    )
    add.add_argument("path", help="LMDB file or split folder")
    add.add_argument("out", help=f"file to write: {', '.join(FORMATS)}")
    _add_selection(add)
    add = commands.add_parser("subset", help="copy some rows to a new file")
    add.add_argument("path", help="LMDB file or split folder")
    add.add_argument("out", help="LMDB file to write")
    _add_selection(add)
    add = commands.add_parser(
        "split",
        help="write a training and a validation set",
        description="OUT gets the splits train and val_id. Groups of records are held "
        "out whole: those with the same elements in the slab, the same adsorbate "
        "(empirical formula), or single records.",
    )
    add.add_argument("path", help="LMDB file or split folder")
    add.add_argument("out", help="folder to write")
    add.add_argument("--by", choices=list(GROUPS), default="metals", help="groups")
    add.add_argument("--share", type=float, default=0.2, help="held out, about")
    add.add_argument("--seed", type=int, default=0, help="of the order of the groups")
    _add_overwrite(add)
    return parser.parse_args(argv)


def _add_max_faults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("--max_faults", "--max-faults"), type=int, default=10, help="faults to print"
    )


def _add_initial_only(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--initial_only", action="store_true", help=text)


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--rows", help="START:STOP:STEP as in Python, or 3,1,4")
    group.add_argument("--sids", metavar="FILE", help="text file, one id a line")
    group.add_argument("--random", type=int, metavar="N", help="N rows, in their order")
    parser.add_argument("--seed", type=int, default=0, help="of --random")
    _add_overwrite(parser)


def _add_write_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", help="LMDB file to write")
    add(
        "inputs",
        nargs="+",
        help="files (.traj, .extxyz, vasprun.xml, OUTCAR, .db, .json, .lmdb, .aselmdb, "
        "with .gz or .xz ...), folders, patterns; FILE@INDEX picks frames",
    )
    add(
        *("--energy_key", "--energy-key"),
        help="key of atoms.info or of the calculator's results with the adsorption "
        "energy in eV (never a total energy); no energy is written without it",
    )
    add(
        *("--sid_key", "--sid-key"),
        help="key of atoms.info with the id; default: sid, else the file name",
    )
    add(
        "--missing_tags",
        choices=("raise", "guess"),
        default="raise",
        help="what to do without tags or with layer numbers: refuse, or guess which "
        "atoms are the adsorbate",
    )
    _add_initial_only(parser, "each frame is an initial structure, as in a test set")
    add(
        "--max_step",
        type=float,
        default=MAX_STEP,
        help="largest step of an atom between neighbouring frames, Å (default: "
        f"{MAX_STEP:g}); for files that keep only some frames",
    )
    add(
        "--on_error",
        choices=("raise", "flag"),
        default="raise",
        help="for a relaxation that cannot be used: write nothing, or leave it out",
    )
    _add_max_faults(parser)
    _add_overwrite(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = parse_args(argv)
    run = {
        "check": check,
        "write": write,
        "export": export,
        "subset": subset,
        "split": split,
    }
    return exit_status(lambda: run[args.command](args))


def check(args: argparse.Namespace) -> int:
    """Read every row below a path; print statistics and the first faults."""
    root = Path(args.path)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist")
    splits = [root] if lmdb_files(root) else splits_below(root)
    if not splits:
        raise FileNotFoundError(f"{root}: no *.lmdb file here or in a known split")
    total = 0
    for split in splits:
        try:
            rows = OC20LMDB(split, readahead=True)
        except OC20FormatError as error:
            faults = [str(error)]
        else:
            folder = split.parent.name if split.is_file() else split.name
            is_test = folder in SPLITS and folder.startswith("test_")
            initial_only = args.initial_only or is_test
            faults = report_rows(rows, initial_only)
        _print_faults(faults, args.max_faults)
        total += len(faults)
    print(f"{'FAULTY' if total else 'OK'}: {total} faults in {len(splits)} splits")
    return EXIT_FAULTS if total else 0


def _print_faults(faults: Sequence[str], limit: int) -> None:
    for fault in faults[:limit]:
        print(f"  fault: {fault}")
    if len(faults) > limit:
        print(f"  ... and {len(faults) - limit} more")


def report_rows(rows: OC20LMDB, initial_only: bool = False) -> list[str]:
    """Print statistics of one split; return one line for each faulty row."""
    faults: list[str] = []
    values = collections.defaultdict(list)
    structures_with: collections.Counter = collections.Counter()
    atoms_with: collections.Counter = collections.Counter()
    seen: set[str] = set()
    labels: dict[str, bool] = {}  # whether the first row has them
    for index in Progress(range(len(rows)), str(rows.path), unit=" rows"):
        try:
            record = rows[index]
        except OC20FormatError as error:
            faults.append(str(error))
            continue
        if record.sid in seen:
            faults.append(f"{rows.where(index)}: sid {record.sid} appears twice")
        seen.add(record.sid)
        faults += _faults_of(record, rows.where(index), initial_only, labels)
        natoms, edges, moved = len(record.pos), record.edge_index, record.displacement
        for name, value in {
            "atoms a structure": natoms,
            "free atoms": natoms - int(record.fixed.sum()),
            "edges an atom": None if edges is None else edges.shape[1] / natoms,
            "y_init (eV)": record.y_init,
            "y_relaxed (eV)": record.y_relaxed,
            "largest displacement (Å)": None
            if moved is None
            else np.linalg.norm(moved, axis=1).max(),
        }.items():
            values[name] += [] if value is None else [value]
        structures_with.update(set(record.atomic_numbers.tolist()))
        atoms_with.update(record.tags.tolist())
    print(f"{rows.path}\n  records: {len(rows)} in {len(rows.files)} files")
    for name, found in values.items():
        x = np.array(found)
        text = "none"
        if found:
            text = f"{len(x)} values, {x.min():.4g} .. {x.max():.4g}, "
            text += f"mean {x.mean():.6g}, std {x.std():.6g}"
        print(f"  {name}: {text}")
    counts = [f"{chemical_symbols[z]} {n}" for z, n in sorted(structures_with.items())]
    print(f"  structures with element: {', '.join(counts)}")
    counts = [f"{tag}: {n}" for tag, n in sorted(atoms_with.items())]
    print(f"  atoms by tag: {', '.join(counts)}")
    return faults


def _faults_of(
    record: OC20Record, where: str, initial_only: bool, labels: dict[str, bool]
) -> Iterator[str]:
    """Yield what is wrong with a row; ``labels`` are those of the first one."""
    where = f"{where} (sid {record.sid})"
    try:
        check_relaxation(record, initial_only)
    except ValueError as error:
        text = str(error)
        for start in (f"sid {record.sid}: ", f"structure '{record.sid}': "):
            text = text.removeprefix(start)
        yield f"{where}: {text}"
    for text in label_faults(record, labels):
        yield f"{where}: {text}"


def write(args: argparse.Namespace) -> int:
    """Write one LMDB file from the frames of relaxations."""
    refuse_if(not args.max_step > 0, f"--max_step={args.max_step}: wanted a number > 0")
    options = RelaxationOptions(
        args.energy_key,
        args.sid_key,
        args.missing_tags,
        args.initial_only,
        args.max_step,
    )
    faults: list[str] = []
    energies: list[float] = []
    unheld: list[str] = []

    def good() -> Iterator[OC20Record]:
        found = read_relaxations(args.inputs, options)
        for record in Progress(found, "reading", unit=" relaxations"):
            if not isinstance(record, OC20Record):
                faults.append(str(record))
                continue
            energies.append(abs(record.y_relaxed or 0.0))
            unheld.extend([] if record.fixed.any() else [record.sid])
            yield record
        _print_faults(faults, args.max_faults)
        if faults and (args.on_error == "raise" or not energies):
            raise InputError(
                f"{args.out} is not written: {counted(len(faults), 'relaxation')} "
                f"cannot be used, {len(energies)} can",
                hint="--on_error=flag leaves them out." if energies else "",
            )

    try:
        count = write_lmdb(args.out, good(), overwrite=args.overwrite)
    except OSError as error:
        return complain(error)
    print(f"{args.out}: {count} records, {len(faults)} left out")
    if unheld:
        logger.warning(
            f"{len(unheld)} of {count} relaxations hold no atom, for instance "
            f"{unheld[0]}: all atoms count as free. Are their constraints lost?"
        )
    if max(energies) > _MAX_ENERGY:
        logger.warning(
            f"the largest y_relaxed is {max(energies):.4g} eV; OC20 has none above "
            f"{_MAX_ENERGY:g} eV. Are these total energies?"
        )
    return EXIT_FAULTS if faults else 0


def export(args: argparse.Namespace) -> int:
    """Write rows as frames."""
    rows = _selected(args)
    try:
        count = export_records(rows, args.out, overwrite=args.overwrite)
    except OSError as error:
        return complain(error)
    print(f"{args.out}: {count} frames of {len(rows)} records")
    return 0


def subset(args: argparse.Namespace) -> int:
    """Copy rows to a new LMDB file."""
    rows = _selected(args)
    wrong = f"{args.out} is the file that is read; choose another name"
    _refuse_source(rows, [args.out], wrong)
    try:
        count = write_lmdb(args.out, rows, overwrite=args.overwrite)
    except OSError as error:
        return complain(error)
    print(f"{args.out}: {count} records")
    return 0


def split(args: argparse.Namespace) -> int:
    """Write a training and a validation set, whose groups differ."""
    refuse_if(not 0 < args.share < 1, f"--share={args.share}: wanted above 0, below 1")
    rows = OC20LMDB(args.path)
    files = {s: Path(args.out) / s / "data.lmdb" for s in ("train", "val_id")}
    for file in files.values():
        exists = file.exists() and not args.overwrite
        refuse_if(exists, f"{file} exists; choose another folder or --overwrite it")
    wrong = f"{args.out} holds the file that is read; choose another folder"
    _refuse_source(rows, files.values(), wrong)
    is_split = os.path.isdir(args.out) and lmdb_files(Path(args.out))
    refuse_if(is_split, f"{args.out} holds LMDB files itself, which would be read in "
        "place of its splits; choose another folder")  # fmt: skip
    groups = [
        group_of(rows[index], args.by, rows.where(index))
        for index in Progress(range(len(rows)), "reading")
    ]
    held = choose_held_out(groups, args.share, args.seed)
    is_held = np.array([group in held for group in groups])
    try:
        for name, mask in {"train": ~is_held, "val_id": is_held}.items():
            count = write_lmdb(files[name], rows[mask], overwrite=args.overwrite)
            print(f"{files[name]}: {count} records")
            sizes = collections.Counter(np.array(groups)[mask].tolist())
            text = ", ".join(f"{group} {n}" for group, n in sorted(sizes.items()))
            if args.by != "records":
                print(f"  {args.by}: {text}")
    except OSError as error:
        return complain(error)
    return 0


def _refuse_source(rows: OC20LMDB, files: Iterable[str | Path], wrong: str) -> None:
    """Refuse to write one of the files if the rows are read from it."""
    source = {os.path.realpath(file) for file in rows.files}
    refuse_if(source & {os.path.realpath(file) for file in files}, wrong)


def _selected(args: argparse.Namespace) -> OC20LMDB:
    """Return the rows that --rows, --sids or --random choose."""
    rows = OC20LMDB(args.path)
    if args.rows is not None:
        rows = _rows_of_text(rows, args.rows)
    elif args.sids is not None:
        rows = _rows_of_sids(rows, args.sids)
    elif args.random is not None:
        legal = 1 <= args.random <= len(rows)
        refuse_if(not legal, f"--random={args.random}: wanted 1 to {len(rows)} rows")
        draw = np.random.default_rng(args.seed).choice(
            len(rows), args.random, replace=False
        )
        rows = rows[np.sort(draw)]
    refuse_if(not len(rows), f"--rows={args.rows} selects none of the rows")
    return rows


def _rows_of_text(rows: OC20LMDB, text: str) -> OC20LMDB:
    try:
        if ":" in text:
            return rows[string2index(text)]
        return rows[[int(item) for item in text.split(",")]]
    except (ValueError, IndexError) as error:
        raise InputError(
            f"--rows={text}: {error}",
            wanted=f"START:STOP:STEP or numbers of the {len(rows)} rows",
        ) from None


def _rows_of_sids(rows: OC20LMDB, path: str) -> OC20LMDB:
    wanted = dict.fromkeys(Path(path).read_text(encoding="utf-8").split())
    places = {}
    for index in Progress(range(len(rows)), "reading ids"):
        sid = rows[index].sid
        if sid in wanted:
            places.setdefault(sid, index)
    missing = [sid for sid in wanted if sid not in places]
    refuse_if(
        missing or not wanted,
        f"{path}: {counted(len(missing), 'id')} of {len(wanted)} not in {rows.path}"
        + (f", for instance {missing[0]}" if missing else ""),
    )
    return rows[[places[sid] for sid in wanted]]


if __name__ == "__main__":
    sys.exit(main())
