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

"""Labels of codes that run elsewhere: frames out, labelled frames in, as extxyz."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from ase.io import read
from ase.io import write

from ppmat.utils.errors import InputError
from ppmat.utils.files import replacing

CLOSE = 0.01  # Å; the same atom if it is not further away


def write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    """Write frames as extxyz, whole or not at all; ``.gz`` compresses."""
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Skipping unhashable information")
        write(temporary, list(frames), format="extxyz")


def read_frames(path: Path) -> list[Atoms]:
    """Read what :func:`write_frames` wrote."""
    return read(path, ":", format="extxyz")


def read_labelled(path: Path) -> list[Atoms]:
    """Read frames with energy and forces, of any format of ASE.

    Raises:
        InputError: They cannot be read, or lack a label.
    """
    try:
        frames = read(path, ":")
    except Exception as error:  # ASE raises many
        raise InputError(f"{path} cannot be read: {error}") from error
    for number, frame in enumerate(frames):
        labels = {} if frame.calc is None else frame.calc.results
        where = f"{path} frame {number}"
        if "energy" not in labels or "forces" not in labels:
            have = ", ".join(labels) or "no label"
            raise InputError(f"{where} has {have}", wanted="energy and forces")
        if not all(np.isfinite(labels[name]).all() for name in ("energy", "forces")):
            raise InputError(f"{where}: energy or forces are not finite")
    return frames


def match(wanted: Sequence[Atoms], path: Path) -> tuple[list[Atoms], int]:
    """Return the frames of a user's file that are among the wanted ones.

    Codes sort atoms and wrap them into the cell; each atom is found by its element and
    place, so that frames come back as they were sent.

    Args:
        wanted: Frames that were written out.
        path: File with energy and forces of some or all of them.

    Returns:
        Frames with labels, in the order of ``wanted``, and how many are missing.

    Raises:
        InputError: A frame is none of the wanted ones, or lacks energy or forces.
    """
    found: dict[int, Atoms] = {}
    for number, frame in enumerate(read_labelled(path)):
        for index, atoms in enumerate(wanted):
            order = _order(atoms, frame)
            if order is not None:
                found[index] = _sorted(frame, order, atoms)
                break
        else:
            raise InputError(
                f"{path} frame {number} is none of the frames that were sent out",
                hint="Compute them as they are, without relaxation.",
            )
    return [found[i] for i in sorted(found)], len(wanted) - len(found)


def _order(atoms: Atoms, frame: Atoms) -> np.ndarray | None:
    """Return which atoms of ``frame`` are those of ``atoms``; None if they are not."""
    if sorted(atoms.numbers) != sorted(frame.numbers):
        return None
    if np.abs(atoms.cell.array - frame.cell.array).max() > CLOSE:
        return None
    apart = (frame.positions[None] - atoms.positions[:, None]).reshape(-1, 3)
    lengths = find_mic(apart, atoms.cell, atoms.pbc)[1].reshape(len(atoms), -1)
    lengths[atoms.numbers[:, None] != frame.numbers[None]] = np.inf
    order = lengths.argmin(axis=1)
    same = len(set(order)) == len(atoms)
    return order if same and lengths.min(axis=1).max() < CLOSE else None


def _sorted(frame: Atoms, order: np.ndarray, atoms: Atoms) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    labels = dict(frame.calc.results)
    kept = {k: labels[k] for k in ("energy", "forces", "stress") if k in labels}
    kept["forces"] = kept["forces"][order]
    result = atoms.copy()
    result.calc = SinglePointCalculator(result, **kept)
    return result
