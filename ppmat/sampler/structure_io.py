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

"""Reading structures to relax, and writing generated ones.

extxyz and ASE trajectories keep the order of the atoms, tags, constraints and the
initial positions (in a trajectory in ``info``, which is the only place it has). CIF
has no place for tags and constraints: they are lost.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import List
from typing import Optional
from typing import Tuple
from typing import Union

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import Trajectory
from ase.io import read
from ase.io import write
from ase.io.formats import string2index

from ppmat.datasets.oc20_is2re_dataset import structure_to_record
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.utils.periodic import minimum_image
from ppmat.utils.registry import ConfigError
from ppmat.utils.registry import nearest

FORMATS = ("extxyz", "traj", "cif")

_READERS = {
    ".traj": "traj",
    ".cif": "cif",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".vasp": "vasp",
    ".poscar": "vasp",
}
_VASP_NAMES = ("POSCAR", "CONTCAR")
_LEGAL = f"{', '.join(_READERS)}, .lmdb, POSCAR, CONTCAR"


def check_format(name: str) -> None:
    """Raise :class:`ConfigError` unless ``name`` is one of ``FORMATS``."""
    if name not in FORMATS:
        raise ConfigError(
            f"unknown output format '{name}'. Legal formats: {', '.join(FORMATS)}."
            f"{nearest(name, FORMATS)}"
        )


# Reading --------------------------------------------------------------------------


class Prepared(list):
    """Structures whose records are made already (``records``)."""

    def __init__(self) -> None:
        super().__init__()
        self.records: List[OC20Record] = []


class Chain(Sequence):
    """Several sequences read as one, item by item.

    Args:
        pieces: The sequences; their items are fetched when asked for.
    """

    def __init__(self, pieces: List[Sequence]) -> None:
        self.pieces = pieces
        self._ends = np.cumsum([0, *(len(piece) for piece in pieces)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index %= len(self)
        piece = int(np.searchsorted(self._ends, index, side="right")) - 1
        return self.pieces[piece][index - int(self._ends[piece])]


def find_inputs(inputs: Sequence[str]) -> List[str]:
    """Return the files that files, folders and patterns mean, in a stable order.

    ``name@index`` picks frames of a file as ASE does (``slab.traj@-1``). A folder
    stands for the files in it that can be read; a folder with ``*.lmdb`` for the data
    set in it.

    Raises:
        ConfigError: Nothing is given, a file is missing or of an unknown format, a
            folder or pattern holds nothing that can be read.
    """
    if not inputs:
        raise ConfigError("no input structure is given; wanted files or folders")
    found: List[str] = []
    for item in inputs:
        path = _split_index(item)[0]
        if os.path.isdir(path):
            names = sorted(os.listdir(path))
            if any(name.endswith(".lmdb") for name in names):
                found.append(path)
                continue
            files = [os.path.join(path, name) for name in names if _reader(name)]
            if not files:
                raise ConfigError(
                    f"folder {path} holds no file that can be read ({_LEGAL})"
                )
            found.extend(files)
        elif os.path.isfile(path):
            if not _reader(path):
                raise ConfigError(f"{path}: unknown format. Legal: {_LEGAL}")
            found.append(item)
        elif glob.has_magic(path):
            matches = sorted(glob.glob(path))
            if not matches:
                raise ConfigError(f"no file matches the pattern {path}")
            found.extend(find_inputs(matches))
        else:
            raise ConfigError(f"input file or folder not found: {path}")
    return found


def read_inputs(inputs: Sequence[str]) -> Tuple[Chain, List[str]]:
    """Read structures; what cannot be read is reported and left out.

    Data sets (LMDB) are opened here and read row by row later. Other structures get
    ``info["sid"]`` if they have none: the file name, with the frame number if the
    file holds several.

    Args:
        inputs: See :func:`find_inputs`.

    Returns:
        The structures, and one line for each file or frame left out.

    Raises:
        ConfigError: See :func:`find_inputs`, or nothing at all is left.
    """
    pieces: List[Sequence] = []
    faults: List[str] = []
    for item in find_inputs(inputs):
        path, index = _split_index(item)
        if os.path.isdir(path) or path.endswith(".lmdb"):
            try:
                pieces.append(OC20LMDB(path))
            except (OSError, ValueError) as error:
                faults.append(str(error))
            continue
        try:
            frames = read(path, index=index, format=_reader(path))
        # Readers of foreign files raise whatever they stumble over.
        except Exception as error:
            faults.append(
                f"{path}: cannot be read as {_reader(path)}: "
                f"{type(error).__name__}: {error}"
            )
            continue
        frames = frames if isinstance(frames, list) else [frames]
        if not frames:
            faults.append(f"{path}: holds no structure")
        good = Prepared()
        for number, atoms in enumerate(frames):
            name = Path(path).stem if Path(path).suffix else Path(path).name
            name = name if len(frames) == 1 else f"{name}_{number}"
            atoms.info.setdefault("sid", name)
            try:
                good.records.append(structure_to_record(atoms))
                good.append(atoms)
            except ValueError as error:
                faults.append(f"{path} frame {number}: {error}")
        pieces.append(good)
    chain = Chain(pieces)
    if not len(chain):
        raise ConfigError(
            "no input structure can be used"
            + "".join(f"\n  {fault}" for fault in faults)
        )
    return chain, faults


def _split_index(item: str) -> Tuple[str, Any]:
    path, at, index = item.rpartition("@")
    if at and re.fullmatch(r"-?\d*(:-?\d*){0,2}", index) and index:
        return path, string2index(index)
    return item, slice(None)


def _reader(path: str) -> Optional[str]:
    name = os.path.basename(path)
    if name.endswith(".lmdb"):
        return "lmdb"
    if name.startswith(_VASP_NAMES):
        return "vasp"
    return _READERS.get(os.path.splitext(name)[1].lower())


# From a result to atoms -----------------------------------------------------------


def result_to_atoms(
    result: Mapping[str, Any], template: Optional[Atoms] = None
) -> Atoms:
    """Return a generated structure as atoms.

    Args:
        result: One dict of ``model.sample``: ``atom_types`` [N], ``lattice`` [3, 3] or
            ``lengths`` and ``angles``, ``cart_coords`` or ``frac_coords`` [N, 3], and
            if known ``tags``, ``fixed``, ``id``, ``sample``, ``cart_coords_initial``.
        template: The atoms the structure was generated from. The result then is a copy
            of them, arrays, info, constraints and periodicity included, with new
            positions for the atoms that moved.

    Returns:
        Atoms in the order of the input, tags and constraints included, the initial
        positions in ``arrays["initial_positions"]``, the id in ``info["sid"]``.
    """
    if "lattice" in result:
        cell = np.asarray(result["lattice"], dtype=float).reshape(3, 3)
    else:
        lengths, angles = result["lengths"], result["angles"]
        cell = np.concatenate([np.ravel(lengths), np.ravel(angles)])
    atoms = Atoms(numbers=result["atom_types"], cell=cell, pbc=True)
    if "cart_coords" in result:
        atoms.positions = np.asarray(result["cart_coords"], dtype=float)
    else:
        atoms.set_scaled_positions(np.asarray(result["frac_coords"], dtype=float))
    if "tags" in result:
        atoms.set_tags(result["tags"])
    if np.any(result.get("fixed", False)):
        atoms.set_constraint(FixAtoms(mask=np.asarray(result["fixed"], dtype=bool)))
    initial = result.get("cart_coords_initial")
    if initial is not None:
        initial = np.asarray(initial, dtype=float)
        # The path the atoms took, so that none jumps by a lattice vector.
        moved = minimum_image(atoms.positions - initial, atoms.cell.array)
        if template is not None:
            atoms, initial = template.copy(), template.positions.copy()
        atoms.set_positions(initial + moved, apply_constraint=False)
        atoms.arrays["initial_positions"] = initial
    if "id" in result:
        atoms.info["sid"] = result["id"]
    if "sample" in result:
        atoms.info["sample"] = result["sample"]
    return atoms


# Writing --------------------------------------------------------------------------


class StructureWriter:
    """Writes structures one by one; the file appears when the last is written.

    Args:
        folder: Output folder; made if missing. Holds ``structures.extxyz``,
            ``structures.traj`` or one CIF a structure.
        format: One of ``FORMATS``.

    Use as a context manager.
    """

    def __init__(self, folder: Union[str, os.PathLike], format: str) -> None:
        check_format(format)
        self.folder = Path(folder)
        self.format = format
        self.path = self.folder / ("" if format == "cif" else f"structures.{format}")
        self._temporary = self.folder / f".structures.{format}.{os.getpid()}"
        self._stream: Any = None

    def __enter__(self) -> StructureWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.format == "traj":
            self._stream = Trajectory(str(self._temporary), "w")
        elif self.format == "extxyz":
            self._stream = open(self._temporary, "w", encoding="utf-8")
        return self

    def write(self, atoms: Atoms, name: str) -> None:
        """Add a structure; ``name`` is the stem of its CIF."""
        if self.format == "traj":
            # ASE trajectories have no place for arrays of other names.
            atoms = atoms.copy()
            if "initial_positions" in atoms.arrays:
                atoms.info["initial_positions"] = atoms.arrays["initial_positions"]
            self._stream.write(atoms)
        elif self.format == "extxyz":
            write(self._stream, atoms, format="extxyz")
        else:
            stem = re.sub(r"[^\w.+-]", "_", name)
            write(self.folder / f"{stem}.cif", atoms, format="cif")

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._stream is None:
            return
        self._stream.close()
        if kind is None:
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink(missing_ok=True)
