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

"""Write OC20 records as frames that ASE reads: extxyz, trajectory or database.

``python -m ppmat.commands.oc20 write`` makes the same records of them, except stored
edges and forces.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.db import connect
from ase.io import Trajectory
from ase.io import write

from ppmat.datasets.oc20_record import OC20Record
from ppmat.utils.errors import InputError
from ppmat.utils.files import replacing

FORMATS = (".extxyz", ".traj", ".db")


def export_records(
    records: Iterable[OC20Record], path: str | os.PathLike, overwrite: bool = False
) -> int:
    """Write the initial and, if known, the relaxed structure of each record.

    ``info`` of a frame has ``sid``, ``state`` (initial or relaxed) and, if known,
    ``adsorption_energy`` (eV). Positions are those of the record: initial and relaxed
    ones may be in different periodic images.

    Args:
        records: The records.
        path: The file, written completely or not at all; its suffix is one of
            ``FORMATS``.
        overwrite: Replace an existing file.

    Returns:
        The number of frames.

    Raises:
        InputError: Another suffix.
        FileExistsError: The file exists and ``overwrite`` is False.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: unknown format", wanted=f"{', '.join(FORMATS)}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or overwrite it")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = (atoms for record in records for atoms in frames_of_record(record))
    writers = {".extxyz": _write_extxyz, ".traj": _write_traj, ".db": _write_db}
    written = 0

    def counted() -> Iterator[Atoms]:
        nonlocal written
        for frame in frames:
            yield frame
            written += 1

    with replacing(path) as temporary:
        writers[path.suffix](counted(), temporary)
    return written


def frames_of_record(record: OC20Record) -> list[Atoms]:
    """Return one or two frames, see :func:`export_records`."""
    frames = [record.to_atoms()]
    frames[0].info["state"] = "initial"
    if record.pos_relaxed is not None:
        frames.append(record.to_atoms(relaxed=True))
        frames[1].info["state"] = "relaxed"
    return frames


def _write_extxyz(frames: Iterator[Atoms], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for atoms in frames:
            write(file, atoms, format="extxyz")


def _write_traj(frames: Iterator[Atoms], path: Path) -> None:
    with Trajectory(str(path), "w") as file:
        for atoms in frames:
            file.write(atoms)


def _write_db(frames: Iterator[Atoms], path: Path) -> None:
    path.unlink(missing_ok=True)  # ASE would add to an older file
    with connect(path, type="db", use_lock_file=False) as database:
        for atoms in frames:
            # Not as key_value_pairs, which refuse texts that look like numbers.
            database.write(atoms, data=dict(atoms.info))
