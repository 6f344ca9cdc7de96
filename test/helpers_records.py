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

"""Records, relaxations and LMDB files for the tests of the OC20 readers."""

import ase
import lmdb
import numpy as np
from ase.constraints import FixAtoms

from ppmat.datasets.oc20_record import OC20Record


def make_record(seed=0, edges=True, labels=True):
    """Return a random slab whose relaxed positions are wrapped on their own."""
    rng = np.random.default_rng(seed)
    natoms = int(rng.integers(3, 9))
    cell = np.diag([6.0, 7.0, 30.0]) + np.tril(rng.uniform(-2, 2, (3, 3)), -1)
    pos = rng.random((natoms, 3)) @ cell
    tags = np.sort(rng.integers(0, 3, natoms))
    moved = pos + rng.normal(scale=0.5, size=pos.shape) * (tags > 0)[:, None]
    moved = (moved @ np.linalg.inv(cell) % 1.0) @ cell
    count = 4 * natoms
    record = OC20Record(
        sid=str(1000 + seed),
        atomic_numbers=rng.integers(1, 84, natoms),
        pos=pos.astype(np.float32),
        cell=cell.astype(np.float32),
        tags=tags,
        fixed=tags == 0,
    )
    if labels:
        record.y_init, record.y_relaxed = 1.5 + seed, 1.0 - 0.25 * seed
        record.pos_relaxed = moved.astype(np.float32)
    if edges:
        record.edge_index = rng.integers(0, natoms, (2, count))
        record.cell_offsets = rng.integers(-1, 2, (count, 3))
        record.distances = rng.random(count).astype(np.float32)
        record.force = rng.normal(size=(natoms, 3)).astype(np.float32)
    return record


def same(first, second):
    """Return whether two records hold the same values in the same dtypes."""
    for name in set(OC20Record.__dataclass_fields__) - {"source", "frame"}:
        a, b = getattr(first, name), getattr(second, name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or not np.array_equal(a, b):
                return False
        elif a != b:
            return False
    return True


def write_raw(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 22) as env:
        with env.begin(write=True) as txn:
            for key, value in items.items():
                txn.put(key, value)
    return path


def fields_of(record=None, **changes):
    fields = (record or make_record()).to_fields()
    fields.update(changes)
    return {name: value for name, value in fields.items() if value is not None}


def changed(name, index, value):
    array = fields_of()[name].copy()
    array[index] = value
    return {name: array}


def make_frames(seed=0, energies=(2.0, -1.0)):
    record = make_record(seed)
    frames = []
    for pos, energy in zip((record.pos, record.pos_relaxed), energies, strict=True):
        atoms = ase.Atoms(
            numbers=record.atomic_numbers, positions=pos, cell=record.cell, pbc=True
        )
        atoms.set_tags(record.tags)
        atoms.set_constraint(FixAtoms(mask=record.fixed))
        atoms.info["adsorption_energy"] = energy
        frames.append(atoms)
    return record, frames
