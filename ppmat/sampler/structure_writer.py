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

"""Write generated structures.

extxyz and ASE trajectories keep the order of the atoms, tags, constraints and initial
positions (a trajectory has them in ``info``). CIF loses tags and constraints. CIF files
never overwrite each other; ``structures.csv`` says which is which.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import Trajectory
from ase.io import write
from pymatgen.core import Composition

from ppmat.sampler.slab_results import checks_of
from ppmat.utils.errors import nearest
from ppmat.utils.files import replacing
from ppmat.utils.periodic import minimum_image
from ppmat.utils.registry import ConfigError

FORMATS = ("extxyz", "traj", "cif")
_INDEX = ("sid", "sample", "source", "frame")  # of structures.csv, keys of atoms.info
_MAX_STEM = 200  # bytes; the name of a file has at most 255


def check_format(name: str) -> None:
    """Raise :class:`ConfigError` unless ``name`` is one of ``FORMATS``."""
    if name not in FORMATS:
        raise ConfigError(
            f"unknown output format '{name}'. Legal formats: {', '.join(FORMATS)}."
            f"{nearest(name, FORMATS)}"
        )


# From a result to atoms -----------------------------------------------------------


def result_to_atoms(result: Mapping[str, Any], template: Any = None) -> Atoms:
    """Return a generated structure as atoms.

    Args:
        result: One dict of ``model.sample``: ``atom_types`` [N], ``lattice`` [3, 3] or
            ``lengths`` and ``angles``, ``cart_coords`` or ``frac_coords`` [N, 3], and
            if known ``tags``, ``fixed``, ``id``, ``sample``, ``cart_coords_initial``.
        template: The structure it was generated from. If it is ``ase.Atoms``, the
            result is a copy of it, with arrays, info, constraints and periodicity,
            and with new positions for the atoms that moved.

    Returns:
        Atoms in the order of the input, tags and constraints included, the initial
        positions in ``arrays["initial_positions"]``, the id in ``info["sid"]``, file
        and frame of the input in ``info["source"]`` and ``info["frame"]``, and what
        :func:`~ppmat.sampler.slab_results.checks_of` returns.
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
        # Shortest displacement, so that no atom jumps by a lattice vector.
        moved = minimum_image(atoms.positions - initial, atoms.cell.array)
        if isinstance(template, Atoms):
            atoms, initial = template.copy(), template.positions.copy()
            atoms.set_tags(result.get("tags", template.get_tags()))  # may be guessed
        atoms.set_positions(initial + moved, apply_constraint=False)
        atoms.arrays["initial_positions"] = initial
    names = {"id": "sid", "sample": "sample", "source": "source", "frame": "frame"}
    for key, name in names.items():
        if key in result:
            atoms.info[name] = result[key]
    stated = atoms.info.get("num_adsorbates")
    atoms.info.update(checks_of(result))
    if stated is not None:  # the user's number
        atoms.info["num_adsorbates"] = stated
    return atoms


class RelaxedAtoms(Sequence):
    """Results as ``ase.Atoms``, made on access.

    Args:
        results: The same number for each structure, next to each other.
        structures: Structures they were generated from, the templates.
        left_out: Structures that could not be used.
    """

    def __init__(
        self, results: Sequence, structures: Sequence, left_out: Sequence = ()
    ) -> None:
        self.results = results
        self.left_out = list(left_out)
        self._structures = structures
        self._each = len(results) // len(structures)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        template = self._structures[index % len(self) // self._each]
        return result_to_atoms(self.results[index], template)


def file_stem(result: Mapping[str, Any], atoms: Atoms, index: int) -> str:
    """Return a name without suffix for the file of one result."""
    if "id" in result:
        sample = f"_{result['sample']}" if "sample" in result else ""
        return f"{result['id']}{sample}"
    formula = Composition(atoms.get_chemical_formula()).formula.replace(" ", "-")
    return f"{formula}_{index + 1}"


# Writing --------------------------------------------------------------------------


class StructureWriter:
    """Writes structures one by one; a context manager.

    The folder receives ``structures.extxyz`` or ``structures.traj``, when the last
    structure is written, or one CIF for each structure. Names of CIF files that are
    equal, or differ only in upper and lower case, get a number. If the structures have
    ids, ``structures.csv`` lists for each CIF id, sample, source and frame.
    """

    def __init__(self, folder: str | os.PathLike, format: str) -> None:
        check_format(format)
        self.folder = Path(folder)
        self.format = format
        self.path = self.folder / ("" if format == "cif" else f"structures.{format}")
        self._stack = contextlib.ExitStack()
        self._stream: Any = None
        self._stems: set[str] = set()

    def __enter__(self) -> StructureWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.format != "cif":
            self._open(self.path)
        return self

    def _open(self, path: Path) -> None:
        temporary = self._stack.enter_context(replacing(path))
        self._stream = self._stack.enter_context(
            Trajectory(str(temporary), "w")
            if self.format == "traj"
            else open(temporary, "w", encoding="utf-8", newline="")
        )

    def write(self, atoms: Atoms, name: str) -> None:
        """Add a structure; ``name`` is the stem of its CIF."""
        if self.format == "traj":
            # ASE trajectories drop arrays of other names.
            atoms = atoms.copy()
            if "initial_positions" in atoms.arrays:
                atoms.info["initial_positions"] = atoms.arrays["initial_positions"]
            self._stream.write(atoms)
        elif self.format == "extxyz":
            write(self._stream, atoms, format="extxyz")
        else:
            file = f"{self._unique_stem(name)}.cif"
            write(self.folder / file, atoms, format="cif")
            if "sid" in atoms.info:
                self._add_to_index(file, atoms)

    def _add_to_index(self, file: str, atoms: Atoms) -> None:
        if self._stream is None:
            self._open(self.folder / "structures.csv")
            csv.writer(self._stream).writerow(["file", *_INDEX])
        known = [atoms.info.get(key, "") for key in _INDEX]
        csv.writer(self._stream).writerow([file, *known])

    def _unique_stem(self, name: str) -> str:
        plain = re.sub(r"[^\w.+-]", "_", name)
        plain = plain.encode()[:_MAX_STEM].decode(errors="ignore")
        stem, number = plain, 1
        while stem.lower() in self._stems:
            number += 1
            stem = f"{plain}_{number}"
        self._stems.add(stem.lower())
        return stem

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
