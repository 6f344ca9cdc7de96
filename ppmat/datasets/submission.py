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

"""Write and check submission files of the Open Catalyst challenge: arrays in an npz.

For each split (``id``, ``ood_ads``, ``ood_cat``, ``ood_both``):

- ``<split>_ids``: sid of each structure, text [S];
- ``<split>_energy``, of IS2RE only: adsorption energies, float [S], eV;
- ``<split>_pos``, of IS2RS only: relaxed positions of all atoms, fixed ones included,
  one structure after the other, float32 [N, 3], Å;
- ``<split>_chunk_idx``, of IS2RS only: first row of each structure but the first,
  int64 [S - 1].

On the command line::

    python -m ppmat.datasets.submission check FILE.npz val_id=PATH val_ood_ads=PATH
    python -m ppmat.datasets.submission merge OUT.npz FILE.npz FILE.npz ...

Source: fairchem, "Submitting to the OC20 leaderboard" (EvalAI challenge 712).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.utils.errors import InputError
from ppmat.utils.errors import nearest
from ppmat.utils.errors import text_of
from ppmat.utils.files import replacing

SPLITS = ("id", "ood_ads", "ood_cat", "ood_both")
# The arrays of a split, for each of the two tasks.
PARTS = {"is2re": ("ids", "energy"), "is2rs": ("ids", "pos", "chunk_idx")}

# Bytes of all arrays; the largest split, of 25,000 structures, has 25 MB.
_MAX_UNPACKED = 1 << 30

PathLike = str | os.PathLike[str]


class SubmissionError(InputError):
    """A submission that the server would refuse or score wrongly."""


def split_name(name: str) -> str:
    """Return the challenge's name of a split.

    Raises:
        SubmissionError: Not a split of the challenge.

    Example:
        >>> split_name("val_id"), split_name("test_ood_ads")
        ('id', 'ood_ads')
    """
    short = name.partition("_")[2] if name.startswith(("val_", "test_")) else name
    if short not in SPLITS:
        raise SubmissionError(
            f"unknown split '{name}'. Legal: {', '.join(SPLITS)}."
            f"{nearest(name, SPLITS)}"
        )
    return short


def write_submission(
    path: PathLike, splits: Mapping[str, Iterable[tuple[str, np.ndarray]]]
) -> None:
    """Write a submission for IS2RS.

    Args:
        path: The npz file; it is written completely or not at all.
        splits: For each split its structures as (sid, positions [N, 3] in Å).

    Raises:
        SubmissionError: An unknown split, an id twice, positions of a wrong shape or
            with NaN, or a split without structures.
    """
    arrays: dict[str, np.ndarray] = {}
    for short, ids, positions in _by_short_name(splits, np.float32):
        for sid, pos in zip(ids, positions, strict=True):
            if pos.ndim != 2 or pos.shape[1] != 3 or not len(pos):
                raise SubmissionError(
                    f"{short}: sid {sid} has positions of shape {pos.shape}, wanted "
                    "[number of atoms, 3]"
                )
        sizes = [len(pos) for pos in positions]
        arrays[f"{short}_ids"] = np.array(ids)
        arrays[f"{short}_pos"] = np.concatenate(positions)
        arrays[f"{short}_chunk_idx"] = np.cumsum(sizes)[:-1].astype(np.int64)
    _save(path, arrays)


def write_energy_submission(
    path: PathLike, splits: Mapping[str, Iterable[tuple[str, float | None]]]
) -> None:
    """Write a submission for IS2RE.

    Args:
        path: The npz file; it is written completely or not at all.
        splits: For each split its structures as (sid, adsorption energy in eV).

    Raises:
        SubmissionError: As :func:`write_submission`, for energies.
    """
    arrays: dict[str, np.ndarray] = {}
    for short, ids, energies in _by_short_name(splits, np.float64):
        arrays[f"{short}_ids"] = np.array(ids)
        arrays[f"{short}_energy"] = np.array(energies)
    _save(path, arrays)


def _by_short_name(
    splits: Mapping[str, Iterable[tuple[str, Any]]], dtype: type
) -> Iterator[tuple[str, list[str], list[np.ndarray]]]:
    """Yield the challenge's name, the ids and the values of each split."""
    seen: set[str] = set()
    for name, predictions in splits.items():
        short = split_name(name)
        if short in seen:
            raise SubmissionError(f"split '{short}' is given twice")
        seen.add(short)
        pairs = [(str(sid), value) for sid, value in predictions]
        if not pairs:
            raise SubmissionError(f"{short}: no structures")
        for sid, value in pairs:
            if value is None:
                raise SubmissionError(
                    f"{short}: sid {sid} has no energy, but needs one"
                )
        ids, values = zip(*pairs)
        yield short, list(ids), [np.asarray(value, dtype) for value in values]


def missing_splits(names: Iterable[str]) -> list[str]:
    """Return the splits of the challenge that are not among the given ones.

    Example:
        >>> missing_splits(["val_id", "val_ood_ads"])
        ['ood_cat', 'ood_both']
    """
    found = {split_name(name) for name in names}
    return [split for split in SPLITS if split not in found]


def merge_submissions(path: PathLike, parts: Sequence[PathLike]) -> None:
    """Join files of single splits into one submission.

    Raises:
        SubmissionError: A part cannot be used, or parts do not fit together.
    """
    arrays: dict[str, np.ndarray] = {}
    for part in parts:
        for name, split in read_submission(part).items():
            if f"{name}_ids" in arrays:
                raise SubmissionError(f"{part}: '{name}' is in an earlier file too")
            arrays |= {f"{name}_{key}": value for key, value in split.items()}
    _save(path, arrays)


def read_submission(path: PathLike) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays of each split, ``{split: {"ids": ...}}``, after checking them.

    Raises:
        SubmissionError: No such file, not an npz, or not the arrays of a submission.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(entry.file_size for entry in file.zip.infolist())
            if size > _MAX_UNPACKED:
                raise ValueError(f"its arrays have {size >> 20} MiB")
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # damaged files raise many kinds of errors
        text = f"{path}: not a submission file: {text_of(error)}"
        raise SubmissionError(text) from error
    task = _check_arrays(arrays, str(path))
    return {
        split: {part: arrays[f"{split}_{part}"] for part in PARTS[task]}
        for split in SPLITS
        if f"{split}_ids" in arrays
    }


def check_submission(
    path: PathLike, data: Mapping[str, Iterable[Any]]
) -> dict[str, int]:
    """Check a file against the data it answers.

    Args:
        path: The npz file.
        data: For each split its records, for instance an ``OC20LMDB``. Splits of the
            file that are not given are only checked for their form.

    Returns:
        Number of structures of each split in the file.

    Raises:
        SubmissionError: See :func:`read_submission`; a split or id is missing or
            unknown; a structure has another number of atoms.
    """
    found = read_submission(path)
    for name, records in data.items():
        short = split_name(name)
        if short not in found:
            raise SubmissionError(f"{path}: split '{short}' is missing")
        split = found[short]
        sizes = dict.fromkeys(split["ids"].tolist())
        if "pos" in split:
            ends = [0, *split["chunk_idx"].tolist(), len(split["pos"])]
            sizes = dict(zip(sizes, np.diff(ends).tolist(), strict=True))
        for record in records:
            if record.sid not in sizes:
                raise SubmissionError(f"{path}: {short}: sid {record.sid} is missing")
            size = sizes.pop(record.sid)
            if size not in (None, len(record.pos)):
                raise SubmissionError(
                    f"{path}: {short}: sid {record.sid} has {size} atoms, the data set "
                    f"has {len(record.pos)}"
                )
        if sizes:
            raise SubmissionError(
                f"{path}: {short}: {len(sizes)} ids are not in the data set, for "
                f"instance {next(iter(sizes))}"
            )
    return {name: len(split["ids"]) for name, split in found.items()}


def _check_arrays(arrays: Mapping[str, np.ndarray], where: str) -> str:
    """Check the arrays of a file; returns its task."""
    legal = [f"{s}_{part}" for s in SPLITS for part in sum(PARTS.values(), ())]
    for name in arrays:
        if name not in legal:
            hint = nearest(name, legal)
            raise SubmissionError(f"{where}: unknown array '{name}'.{hint}")
    splits = [s for s in SPLITS if any(name.startswith(f"{s}_") for name in arrays)]
    if not splits:
        raise SubmissionError(f"{where}: no arrays of a submission")
    task = "is2re" if any(name.endswith("_energy") for name in arrays) else "is2rs"
    wanted = [f"{split}_{part}" for split in splits for part in PARTS[task]]
    if extra := set(arrays).difference(wanted):
        raise SubmissionError(
            f"{where}: '{min(extra)}' beside energies; IS2RE and IS2RS go in files of "
            "their own"
        )
    for name in wanted:
        if name not in arrays:
            raise SubmissionError(f"{where}: array '{name}' is missing")
    check_values = _check_energies if task == "is2re" else _check_positions
    for split in splits:
        ids, *values = (arrays[f"{split}_{part}"] for part in PARTS[task])
        _check_ids(ids, split, where)
        check_values(ids, *values, split, where)
    return task


def _check_ids(ids: np.ndarray, split: str, where: str) -> None:
    if ids.ndim != 1 or ids.dtype.kind != "U" or not len(ids):
        raise SubmissionError(
            f"{where}: {split}_ids is {ids.dtype} of shape {ids.shape}, wanted a list "
            "of texts"
        )
    names, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise SubmissionError(
            f"{where}: {split}: sid {names[counts.argmax()]} occurs {counts.max()} "
            "times; each structure has one prediction"
        )


def _check_energies(
    ids: np.ndarray, energy: np.ndarray, split: str, where: str
) -> None:
    if energy.shape != ids.shape or energy.dtype.kind != "f":
        raise SubmissionError(
            f"{where}: {split}_energy is {energy.dtype} of shape {energy.shape}, "
            f"wanted {len(ids)} floats"
        )
    bad = np.flatnonzero(~np.isfinite(energy))
    if len(bad):
        raise SubmissionError(f"{where}: {split}: sid {ids[bad[0]]} has a NaN energy")


def _check_positions(
    ids: np.ndarray, pos: np.ndarray, cuts: np.ndarray, split: str, where: str
) -> None:
    if pos.ndim != 2 or pos.shape[1] != 3 or pos.dtype.kind != "f":
        raise SubmissionError(
            f"{where}: {split}_pos is {pos.dtype} of shape {pos.shape}, wanted floats "
            "of shape [number of atoms, 3]"
        )
    fits = cuts.dtype.kind in "iu" and cuts.shape == (len(ids) - 1,)
    if not fits or (np.diff(np.concatenate([[0], cuts, [len(pos)]])) < 1).any():
        raise SubmissionError(
            f"{where}: {split}_chunk_idx does not cut {len(pos)} positions into "
            f"{len(ids)} structures"
        )
    if not np.isfinite(pos).all():
        row = int(np.flatnonzero(~np.isfinite(pos).all(axis=1))[0])
        sid = ids[int(np.searchsorted(cuts, row, side="right"))]
        raise SubmissionError(f"{where}: {split}: sid {sid} has NaN positions")


def _save(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    _check_arrays(arrays, str(path))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 1 for a file that is not a valid submission."""
    parser = argparse.ArgumentParser(
        prog="python -m ppmat.datasets.submission",
        description="Check or join submissions.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check a file, also against its data")
    check.add_argument("file")
    check.add_argument(
        "data", nargs="*", metavar="SPLIT=PATH", help="LMDB file or folder of a split"
    )
    merge = commands.add_parser("merge", help="join files of single splits")
    merge.add_argument("out")
    merge.add_argument("files", nargs="+")
    args = parser.parse_args(argv)
    try:
        if args.command == "merge":
            merge_submissions(args.out, args.files)
            args.file, args.data = args.out, []
        counts = check_submission(args.file, _open_data(args.data))
    except (SubmissionError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for split, count in counts.items():
        print(f"{split}: {count} structures")
    missing = [split for split in SPLITS if split not in counts]
    if missing:
        print(f"not in the file: {', '.join(missing)}")
    return 0


def _open_data(items: Sequence[str]) -> dict[str, Any]:
    for item in items:
        if "=" not in item:
            raise SubmissionError(f"'{item}': wanted SPLIT=PATH")
    return {name: OC20LMDB(path) for name, path in (i.split("=", 1) for i in items)}


if __name__ == "__main__":
    sys.exit(main())
