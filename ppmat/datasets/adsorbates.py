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

"""Adsorbates by name, element, file or SMILES."""

from __future__ import annotations

import os
import re

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.data import atomic_numbers
from ase.geometry import complete_cell

from ppmat.datasets.record_checks import SMALLEST_DISTANCE
from ppmat.datasets.structure_files import format_of
from ppmat.datasets.structure_reader import read_one
from ppmat.utils.bonds import bonded_pairs
from ppmat.utils.bonds import unwrap
from ppmat.utils.errors import InputError
from ppmat.utils.errors import nearest
from ppmat.utils.periodic import check_cell

SMILES = "smiles:"  # in front of a text that is also a name, such as CO
# Bonds of neutral atoms; of two with equally many open ones, the heavier binds.
_VALENCE = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1, 15: 3, 16: 2, 17: 1, 35: 1, 53: 1}
_NEUTRAL = "a neutral species, as slabs are computed without charge"
# Of the sum of the covalent radii; F2 has 1.25, the longest in the g2 set.
_LONGEST_BOND = 1.3
_EMBEDDING_SEED = 7  # of RDKit's coordinates, so that a SMILES is always the same


def read_adsorbate(text: str) -> Atoms:
    """Return an adsorbate, without cell, its first atom at the origin.

    Args:
        text: An element; a name of ASE's g2 set, such as ``CO``, ``CH3OH`` or ``OH``; a
            structure file (``FILE@INDEX`` picks a frame), in which the molecule may be
            wrapped across its periodic cell; or SMILES, which RDKit reads.
            What is a name and SMILES is the name, unless ``smiles:`` is in front.

    Raises:
        InputError: It is none of these, charged, or not one molecule.

    Example:
        >>> read_adsorbate("CO").get_chemical_formula()
        'CO'
    """
    where = f"adsorbate {text!r}"
    path = text.rpartition("@")[0] or text
    if text.startswith(SMILES):
        atoms = _from_smiles(text.removeprefix(SMILES), where)
    elif text in atomic_numbers and text != "X":
        atoms = Atoms(text)
    elif text in g2.names:
        atoms = molecule(text)
    elif os.path.exists(text) or os.path.exists(path) or format_of(path):
        atoms = _from_file(text, where)
    elif re.search(r"[+-]\d*$", text):
        raise InputError("is charged", where=where, wanted=_NEUTRAL)
    else:
        atoms = _from_smiles(text, where)
    atoms = Atoms(atoms.numbers, atoms.positions - atoms.positions[0])
    _check(atoms, where)
    return atoms


def binding_atom(adsorbate: Atoms) -> int:
    """Return the atom that most likely binds: the one with most open valences.

    Example:
        >>> [read_adsorbate(name)[binding_atom(read_adsorbate(name))].symbol
        ...  for name in ("CO", "OH", "CH3OH", "NH3")]
        ['C', 'O', 'O', 'N']
    """
    numbers = adsorbate.numbers
    pairs = bonded_pairs(numbers, adsorbate.positions, _box(adsorbate))
    bonds = np.bincount(pairs.centre, minlength=len(numbers))
    valence = np.array([_VALENCE.get(z, 4) for z in numbers.tolist()])
    return int(np.lexsort((numbers, (valence - bonds) * (numbers > 1)))[-1])


def _box(adsorbate: Atoms) -> np.ndarray:
    """Return a cell in which the adsorbate is alone, [3, 3] Å."""
    return (np.ptp(adsorbate.positions, axis=0).max() + 20.0) * np.eye(3)


def _check(atoms: Atoms, where: str) -> None:
    distances = atoms.get_all_distances()[np.triu_indices(len(atoms), 1)]
    if not np.isfinite(atoms.positions).all():
        raise InputError("has positions that are no numbers", where=where)
    if distances.min(initial=np.inf) < SMALLEST_DISTANCE:
        raise InputError("has two atoms at one place", where=where)


def _from_file(text: str, where: str) -> Atoms:
    atoms = read_one(text, where)
    charge = atoms.info.get("charge", atoms.get_initial_charges().sum())
    if abs(charge) > 0.01:
        raise InputError(f"has the charge {charge:g}", where=where, wanted=_NEUTRAL)
    _check(atoms, where)
    return _in_one_piece(atoms, where)


def _in_one_piece(atoms: Atoms, where: str) -> Atoms:
    """Return a molecule that its periodic cell may have cut."""
    periodic = atoms.pbc & atoms.cell.any(axis=1)
    cell = complete_cell(atoms.cell.array * periodic[:, None])
    cell[~periodic] *= np.linalg.norm(np.ptp(atoms.positions, axis=0)) + 20.0  # alone
    try:
        check_cell(cell)
    except ValueError as error:
        raise InputError(str(error), where=where) from error
    positions = unwrap(atoms.numbers, atoms.positions, cell, _LONGEST_BOND)
    if positions is None:
        raise InputError(
            "is several molecules, or joined to its periodic images",
            where=where,
            wanted=f"one molecule, each bond below {_LONGEST_BOND:g} x the sum of the "
            "covalent radii",
        )
    return Atoms(atoms.numbers, positions)


def _from_smiles(smiles: str, where: str) -> Atoms:
    try:
        from rdkit import Chem
        from rdkit import RDLogger
        from rdkit.Chem import AllChem
    except ImportError as error:
        raise InputError(
            "is no element, no name of ASE's g2 set and no file",
            where=where,
            hint=f"To read it as SMILES: pip install 'ppmat[smiles]'."
            f"{nearest(smiles, g2.names)}",
        ) from error
    RDLogger.DisableLog("rdApp.*")  # the error says it
    found = Chem.MolFromSmiles(smiles)
    if found is None or not found.GetNumAtoms():
        raise InputError(
            "is no element, no name of ASE's g2 set, no file and no valid SMILES",
            where=where,
            hint=nearest(smiles, g2.names).strip(),
        )
    if charge := Chem.GetFormalCharge(found):
        raise InputError(f"has the charge {charge:+d}", where=where, wanted=_NEUTRAL)
    if len(Chem.GetMolFrags(found)) > 1:
        raise InputError("is several molecules", where=where, wanted="one")
    found = Chem.AddHs(found)
    if AllChem.EmbedMolecule(found, randomSeed=_EMBEDDING_SEED):
        raise InputError("RDKit finds no coordinates", where=where)
    if AllChem.MMFFHasAllMoleculeParams(found):
        AllChem.MMFFOptimizeMolecule(found)
    numbers = [atom.GetAtomicNum() for atom in found.GetAtoms()]
    return Atoms(numbers, found.GetConformer().GetPositions())
