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

"""Command ``python -m ppmat.commands.oc20``: check LMDB files of OC20, or write one.

::

    python -m ppmat.commands.oc20 check PATH
    python -m ppmat.commands.oc20 write OUT.lmdb INPUT.traj INPUT.extxyz ...

Exit status: 0; 1 if ``check`` found a faulty row or file; 2 if the input is wrong.
"""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from ase.io import read
from tqdm import tqdm

from ppmat.commands.options import complain
from ppmat.commands.options import exit_status
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_lmdb import lmdb_files
from ppmat.datasets.oc20_lmdb import splits_below
from ppmat.datasets.oc20_lmdb import write_lmdb
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_record import record_from_frames
from ppmat.datasets.pyg_pickle import OC20FormatError

EXIT_FAULTS = 1


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line; None means ``sys.argv``."""
    parser = argparse.ArgumentParser(
        prog="python -m ppmat.commands.oc20",
        description="Check or write LMDB files in the format of OC20 IS2RE / IS2RS.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="read every row, print statistics")
    checking.add_argument("path", help="LMDB file, split folder, or root of the splits")
    checking.add_argument("--max-faults", type=int, default=10, help="faults to print")
    writing = commands.add_parser(
        "write",
        help="make a file from relaxations",
        description="Each input (ASE trajectory, extxyz, ...) is one relaxation: its "
        "first frame is the initial structure, its last frame the relaxed one. Tags "
        "and FixAtoms are kept.",
    )
    writing.add_argument("out", help="LMDB file to write")
    writing.add_argument("inputs", nargs="+", help="files that ase.io.read understands")
    writing.add_argument(
        "--energy-key",
        help="key of atoms.info with the adsorption energy in eV (never a total "
        "energy); no energy is written without it",
    )
    writing.add_argument(
        "--sid-key", help="key of atoms.info with the id; default: the file name"
    )
    writing.add_argument("--overwrite", action="store_true", help="replace the file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``check`` or ``write``; returns the exit status."""
    args = parse_args(argv)
    return exit_status(lambda: check(args) if args.command == "check" else write(args))


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
            faults = report_rows(rows)
        for fault in faults[: args.max_faults]:
            print(f"  fault: {fault}")
        if len(faults) > args.max_faults:
            print(f"  ... and {len(faults) - args.max_faults} more")
        total += len(faults)
    print(f"{'FAULTY' if total else 'OK'}: {total} faults in {len(splits)} splits")
    return EXIT_FAULTS if total else 0


def report_rows(rows: OC20LMDB) -> list[str]:
    """Print statistics of one split; return one line for each faulty row."""
    faults: list[str] = []
    values = collections.defaultdict(list)
    structures_with: collections.Counter = collections.Counter()
    atoms_with: collections.Counter = collections.Counter()
    seen: set[str] = set()
    for index in tqdm(range(len(rows)), desc=str(rows.path), unit="row"):
        try:
            record = rows[index]
        except OC20FormatError as error:
            faults.append(str(error))
            continue
        if record.sid in seen:
            faults.append(f"{rows.where(index)}: sid {record.sid} appears twice")
        seen.add(record.sid)
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


def write(args: argparse.Namespace) -> int:
    """Write one LMDB file from the frames of relaxations."""
    records = read_relaxations(args.inputs, args.energy_key, args.sid_key)
    try:
        count = write_lmdb(args.out, records, overwrite=args.overwrite)
    except OSError as error:
        return complain(error)
    print(f"{args.out}: {count} records")
    return 0


def read_relaxations(
    inputs: Sequence[str], energy_key: str | None, sid_key: str | None
) -> Iterator[OC20Record]:
    """Yield the record of each file of frames that ASE reads.

    The keys are those of ``atoms.info``. Without ``energy_key`` [eV] there is no
    energy, without ``sid_key`` the id is the file name.
    """
    files: dict[str, str] = {}
    for name in tqdm(inputs, unit="file"):
        frames = read(name, index=":")
        if not frames:
            raise OC20FormatError(f"{name}: holds no structure")
        sid = Path(name).stem
        if sid_key is not None:
            if sid_key not in frames[0].info:
                raise OC20FormatError(f"{name}: no '{sid_key}' in atoms.info")
            sid = str(frames[0].info[sid_key])
        if sid in files:
            raise OC20FormatError(f"{name}: sid {sid} is already that of {files[sid]}")
        files[sid] = name
        yield record_from_frames(frames, sid, energy_key)


if __name__ == "__main__":
    sys.exit(main())
