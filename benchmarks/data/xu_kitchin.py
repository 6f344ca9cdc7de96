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

"""Make OC20 splits of the adsorption data of Xu and Kitchin, real DFT.

The data are 631 relaxed structures of one to four atoms (H, C, N, O, F, S, Cl or Br) on
fcc(111) slabs of Pt, Ir, Rh, Cu and Ag (PBE; J. Phys. Chem. C 2014, 118, 25597,
doi 10.1021/jp508805h). They are in the supporting information, and not shipped here.
``PATH`` is a folder with ``structures.json`` and ``energies.json`` as
facebookresearch/fairchem has them in ``docs/catalysts/examples_tutorials``; or with two
extended XYZ files, ``xu_kitchin_5metals.extxyz``, and
``xu_kitchin_5metals_clean.extxyz`` with the clean slabs, whose comment lines hold
``metal``, ``adsorbate``, ``site`` and ``e_ads_eV_per_adsorbate``.

The initial structure of a record is the clean slab, with the adsorbates on their
nominal sites at the sum of the covalent radii. ``y_relaxed`` is the adsorption energy
of all adsorbates in the cell together, as everywhere in this project. The two lower
layers are held.

Usage::

    python -m benchmarks.data.xu_kitchin PATH OUT

``OUT`` has a folder for each fold: ``metal_Pt`` holds Pt out as ``val_ood_cat``,
``adsorbate_O`` holds O out as ``val_ood_ads``; of the other records a random tenth,
another one in each fold of a kind, is ``val_id``, and the rest ``train``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.io import read

from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_writer import write_lmdb
from ppmat.datasets.record_groups import adsorbate_of
from ppmat.datasets.record_groups import metals_of
from ppmat.datasets.surface_tags import ADSORBATE

HELD_DEPTH = 3.0  # Å above the lowest atoms; two of the four layers
SITE_GRID = 12  # fractions of the cell on which all nominal sites lie
METALS = ("Pt", "Ag", "Ir", "Rh", "Cu")  # in the order of the XYZ files
XYZ, XYZ_CLEAN = "xu_kitchin_5metals.extxyz", "xu_kitchin_5metals_clean.extxyz"
CLEAN = "0.0"  # coverage of the clean slab in the JSON files
VAL_SHARE = 10  # one in so many records is kept for val_id
# What is left out: the name of a record's group, and the split of those left out.
FOLDS = {
    "metal": (metals_of, "val_ood_cat"),
    "adsorbate": (adsorbate_of, "val_ood_ads"),
}


def initial_positions(relaxed: Atoms, clean: Atoms) -> np.ndarray:
    """Return the clean slab with the adsorbates on their nominal sites, [N, 3] Å."""
    n = len(clean)
    pos = relaxed.positions.copy()
    pos[:n] = clean.positions
    plane = relaxed.cell[:2, :2]
    nearest = relaxed.cell.lengths()[0] / 2  # the cells are 2 x 2
    hollow = nearest / np.sqrt(3)
    lateral = {"ontop": 0.0, "bridge": nearest / 2}.get(relaxed.info["site"], hollow)
    for i in range(n, len(relaxed)):
        place = np.linalg.solve(plane.T, relaxed.positions[i, :2])
        pos[i, :2] = np.round(place * SITE_GRID) / SITE_GRID @ plane
        bond = covalent_radii[relaxed.numbers[[n - 1, i]]].sum()
        height = np.sqrt(max(bond**2 - lateral**2, 0.6**2))
        pos[i, 2] = clean.positions[:, 2].max() + height
    return pos


def record_of(index: int, relaxed: Atoms, clean: Atoms) -> OC20Record:
    """Return the record of one relaxed structure and its clean slab."""
    n = len(clean)
    z = clean.positions[:, 2]
    fixed = np.zeros(len(relaxed), dtype=bool)
    fixed[:n] = z < z.min() + HELD_DEPTH
    tags = np.where(fixed, 0, 1)
    tags[n:] = ADSORBATE
    count = len(relaxed) - n
    return OC20Record(
        sid=str(index),
        atomic_numbers=relaxed.numbers.astype(np.int64),
        pos=initial_positions(relaxed, clean).astype(np.float32),
        cell=relaxed.cell.array.astype(np.float32),
        tags=tags,
        fixed=fixed,
        y_relaxed=float(relaxed.info["e_ads_eV_per_adsorbate"]) * count,
        pos_relaxed=relaxed.positions.astype(np.float32),
        num_adsorbates=count,
    )


def read_xyz(path: Path) -> tuple[list[Atoms], dict[str, Atoms]]:
    """Return relaxed structures, and clean slabs by metal, of the XYZ files."""
    slabs = read(path / XYZ_CLEAN, ":")
    clean = {slab.info["metal"]: slab for slab in slabs}
    return read(path / XYZ, ":"), clean


def read_json(path: Path) -> tuple[list[Atoms], dict[str, Atoms]]:
    """Return the same of the JSON files; entries without a structure are left out."""

    def slab(entry: dict) -> Atoms:
        return Atoms(entry["symbols"], entry["pos"], cell=entry["cell"], pbc=True)

    def table(name: str) -> dict:
        try:
            return json.loads((path / name).read_text())
        except (OSError, ValueError) as error:
            raise SystemExit(f"{path / name} cannot be read: {error}") from error

    energies, structures = table("energies.json"), table("structures.json")
    frames, clean = [], {}
    for metal in filter(energies.__contains__, METALS):
        for adsorbate, sites in energies[metal].items():
            for site, labels in sites.items():
                entries = structures[metal][adsorbate][site]
                clean.setdefault(metal, slab(entries[CLEAN]))
                for coverage, energy in labels.items():
                    if isinstance(entries[coverage], dict):
                        atoms = slab(entries[coverage])
                        atoms.info = {"metal": metal, "adsorbate": adsorbate}
                        atoms.info |= {"site": site, "e_ads_eV_per_adsorbate": energy}
                        frames.append(atoms)
    return frames, clean


def write_folds(path: Path, out: Path) -> None:
    """Write all folds of the files in ``path`` to ``out``.

    Raises:
        SystemExit: The files are not there, or an energy is no number.
    """
    found = [(path / name).exists() for name in ("structures.json", XYZ)]
    if not any(found):
        raise SystemExit(
            f"{path}: wanted a folder with structures.json and energies.json, or with "
            f"{XYZ} and {XYZ_CLEAN}"
        )
    frames, clean = read_json(path) if found[0] else read_xyz(path)
    for atoms in frames:
        if not np.isfinite(atoms.info["e_ads_eV_per_adsorbate"]):
            raise SystemExit(f"{path}: the energy of {atoms.info} is no number")
    records = [
        record_of(index, atoms, clean[atoms.info["metal"]])
        for index, atoms in enumerate(frames)
    ]
    part = np.random.default_rng(0).permutation(len(records)) % VAL_SHARE
    for kind, (name_of, outside) in FOLDS.items():
        groups = np.array([name_of(record) for record in records])
        for number, name in enumerate(sorted(set(groups))):
            left_out, held = groups == name, part == number
            splits = {
                outside: left_out,
                "val_id": held & ~left_out,
                "train": ~held & ~left_out,
            }
            for split, mask in splits.items():
                file = out / f"{kind}_{name}" / split / "data.lmdb"
                rows = (records[i] for i in np.flatnonzero(mask))
                count = write_lmdb(file, rows, overwrite=True)
                print(f"{file}: {count} records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder of the two files")
    parser.add_argument("out", type=Path, help="folder of the folds")
    args = parser.parse_args()
    write_folds(args.path, args.out)


if __name__ == "__main__":
    main()
