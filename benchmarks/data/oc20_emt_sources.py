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

"""Bulk crystals and adsorbates for :mod:`benchmarks.data.oc20_emt`, and the splits.

Two sources: the databases of OC20 in the package ``fairchem-data-oc`` (MIT licence), or
simple crystals and molecules of ``ase.build``.
"""

import hashlib
import importlib.metadata
import itertools
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk as ase_bulk
from ase.build import molecule
from ase.data import atomic_numbers
from ase.data import reference_states
from pymatgen.core import Lattice
from pymatgen.core import Structure

from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice

METALS = ("Ag", "Al", "Au", "Cu", "Ni", "Pd", "Pt")
ADSORBATE_ELEMENTS = ("H", "C", "N", "O")
SPLITS = ("train", "val_id", "val_ood_ads", "val_ood_cat")
SOURCES = ("oc20", "ase")
MAX_ADSORBATE_ATOMS = 4
VAL_ID_SHARE = 0.15  # share of the (surface, adsorbate) pairs in the split val_id


class GenerationError(InputError):
    """A package is missing or wrong, or the settings allow no structure."""


@dataclass(frozen=True)
class Adsorbate:
    """A gas-phase fragment."""

    name: str
    numbers: np.ndarray  # [A] int64, atomic numbers
    positions: np.ndarray  # [A, 3] float64, Å
    binding: tuple[int, ...]  # rows of the atoms that may bind to the surface


class _Discarded:
    """Takes the place of stored calculators, which are not needed."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def _discard(*args):
    return None


class _DatabaseUnpickler(pickle.Unpickler):
    """Reads structures and numpy arrays from the databases of ``fairchem-data-oc``.

    Results of calculators are dropped. Any other class is refused.
    """

    _ALLOWED = {
        ("ase.atoms", "Atoms"),
        ("ase.cell", "Cell"),
        ("ase.calculators.calculator", "Parameters"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
    }
    _REPLACED = {
        ("ase.calculators.singlepoint", "SinglePointCalculator"): _Discarded,
        ("builtins", "getattr"): _discard,
    }

    def find_class(self, module: str, name: str):
        if (module, name) in self._REPLACED:
            return self._REPLACED[module, name]
        if (module, name) in self._ALLOWED:
            return super().find_class(module, name)
        raise GenerationError(
            f"the fairchem-data-oc database holds {module}.{name}, which is neither a "
            "structure nor an array",
            hint="`pip install fairchem-data-oc==0.0.1` installs the tested version",
        )


def _read_database(name: str):
    """Return the content of ``bulks.pkl`` or ``adsorbates.pkl`` of fairchem-data-oc."""
    hint = (
        "Install it with `pip install fairchem-data-oc==0.0.1` (the extra "
        "`[generator]`), or choose structures of ase.build with `--bulks ase`"
    )
    try:
        package = importlib.metadata.distribution("fairchem-data-oc")
    except importlib.metadata.PackageNotFoundError:
        raise GenerationError(
            "`--bulks oc20` needs the package fairchem-data-oc", hint=hint
        ) from None
    path = Path(package.locate_file(f"fairchem/data/oc/databases/pkls/{name}"))
    if not path.is_file():
        raise GenerationError(
            f"fairchem-data-oc {package.version} has no {name} (0.0.1 has)", hint=hint
        )
    with open(path, "rb") as stream:
        return _DatabaseUnpickler(stream).load()


def _structure(atoms: Atoms) -> Structure:
    return Structure(
        Lattice(atoms.cell.array), atoms.get_chemical_symbols(), atoms.positions,
        coords_are_cartesian=True,
    )  # fmt: skip


def oc20_bulks() -> dict[str, Structure]:
    """Return the OC20 bulks made of EMT metals only, by Materials Project id."""
    return {
        row["src_id"]: _structure(row["atoms"])
        for row in _read_database("bulks.pkl")
        if set(row["atoms"].get_chemical_symbols()) <= set(METALS)
    }


def oc20_adsorbates() -> dict[str, Adsorbate]:
    """Return the OC20 adsorbates of at most four atoms of H, C, N, O, by name."""
    found = {}
    for atoms, name, binding, *_ in _read_database("adsorbates.pkl").values():
        allowed = set(atoms.get_chemical_symbols()) <= set(ADSORBATE_ELEMENTS)
        if allowed and len(atoms) <= MAX_ADSORBATE_ATOMS:
            found[name] = Adsorbate(
                name, atoms.numbers.astype(np.int64), atoms.positions,
                tuple(int(i) for i in binding),
            )  # fmt: skip
    return found


def ase_bulks() -> dict[str, Structure]:
    """Return the EMT metals and their L1_2 and L1_0 alloys, by formula.

    Lattice constants of alloys follow Vegard's law.
    """
    constants = {m: reference_states[atomic_numbers[m]]["a"] for m in METALS}
    found = {}
    for metal in METALS:
        found[metal] = _structure(ase_bulk(metal, "fcc", constants[metal], cubic=True))
    for one, two in itertools.permutations(METALS, 2):
        for share, label in ((0.75, f"{one}3{two}"), (0.5, f"{one}{two}")):
            if share == 0.5 and one > two:
                continue
            a = share * constants[one] + (1 - share) * constants[two]
            atoms = ase_bulk(one, "fcc", a, cubic=True)
            # cubic fcc: corner, then the three face centres
            atoms.symbols[[0] if share == 0.75 else [0, 1]] = two
            found[label] = _structure(atoms)
    return found


def ase_adsorbates() -> dict[str, Adsorbate]:
    """Return small fragments of ``ase.build.molecule``; the first heavy atom binds."""
    names = (
        "H C N O OH NH CH CO NO CN N2 O2 H2O NH2 HCN HCO CH3 NH3 C2H2 H2CO H2O2 CH4"
    ).split()
    found = {}
    for name in names:
        atoms = Atoms(name) if len(name) == 1 else molecule(name)
        heavy = [i for i, z in enumerate(atoms.numbers) if z > 1] or [0]
        found[name] = Adsorbate(
            name, atoms.numbers.astype(np.int64), atoms.positions, (heavy[0],)
        )
    return found


class Catalogue:
    """Bulks and adsorbates of one source, and which of them are held out.

    Args:
        source: ``oc20`` (databases of fairchem-data-oc) or ``ase`` (``ase.build``).
        seed: Chooses which adsorbates and which sets of elements are held out.
    """

    def __init__(self, source: str, seed: int) -> None:
        check_choice("bulks", source, SOURCES)
        self.source, self.seed = source, seed
        bulks = oc20_bulks() if source == "oc20" else ase_bulks()
        adsorbates = oc20_adsorbates() if source == "oc20" else ase_adsorbates()
        self.bulks = dict(sorted(bulks.items()))
        self.adsorbates = dict(sorted(adsorbates.items()))

        rng = np.random.default_rng([seed, 0xE47])
        names = list(self.adsorbates)
        count = max(1, len(names) // 5)
        self.held_adsorbates = sorted(rng.choice(names, count, replace=False).tolist())
        # Only alloys are held out, so that training sees every element.
        alloys = sorted({c for c in map(self.composition, self.bulks) if "-" in c})
        count = max(1, len(alloys) // 4)
        self.held_compositions = sorted(rng.choice(alloys, count, replace=False))
        self.held_compositions = [str(c) for c in self.held_compositions]

    def composition(self, bulk: str) -> str:
        """Return the elements of a bulk, such as ``Al-Ni``."""
        return "-".join(sorted(e.symbol for e in self.bulks[bulk].composition.elements))

    def choices(self, split: str) -> tuple[list[str], list[str]]:
        """Return the names of the bulks and the adsorbates of a split."""
        held_bulk = {
            b for b in self.bulks if self.composition(b) in self.held_compositions
        }
        bulks = [b for b in self.bulks if (b in held_bulk) == (split == "val_ood_cat")]
        adsorbates = [
            a
            for a in self.adsorbates
            if (a in self.held_adsorbates) == (split == "val_ood_ads")
        ]
        return bulks, adsorbates

    def is_val_id(self, slab_key: str, adsorbate: str) -> bool:
        """Return whether a (surface, adsorbate) pair is in val_id, not in train."""
        text = f"{self.seed}|{slab_key}|{adsorbate}".encode()
        number = int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
        return number < VAL_ID_SHARE * 2**64
