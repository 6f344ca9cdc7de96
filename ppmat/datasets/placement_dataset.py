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

"""Points on the way from a random placement of an adsorbate to a low-energy one.

A system is a slab with an adsorbate, of which a file holds one or more relaxations. An
item starts at a random placement, goes to the nearest low-energy one, and stops at a
random time, beside the way. A sample has the fields of
:mod:`~ppmat.datasets.oc20_is2re_dataset` with the positions at that time, and::

    displacement   [N, 3] (Å), the motion to the end: of the adsorbate as in
                   ``ppmat/utils/rigid_motion.py``, of each slab atom a straight line
    time           [1], 0 at the start, below 1

Source and target: the slab as it is given, with the adsorbate turned uniformly, at a
uniform point of the surface cell, lowered until it touches; and a relaxed structure.
The way leads along the shortest vector of the surface's torus, and along the geodesic
of the rotations. Where the slab is periodic in itself, so are the targets.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from typing import Annotated
from typing import Any
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from paddle import io

from ppmat.datasets.custom_data_type import ConcatData
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.oc20_is2re_dataset import graph_converter
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_lmdb import OC20LMDB
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.placements import clean_slab
from ppmat.datasets.placements import lower_onto
from ppmat.datasets.placements import surface_normal
from ppmat.datasets.placements import turn
from ppmat.datasets.surface_tags import ADSORBATE
from ppmat.utils import logger
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import minimum_image
from ppmat.utils.plausibility import check_structure
from ppmat.utils.ranges import Range
from ppmat.utils.rigid_motion import motion_to
from ppmat.utils.rigid_motion import move

_SAME_ATOM = 0.05  # Å, of a slab that is moved onto itself
_TRIED = 8  # nearest targets of which the way is computed


class Placements(NamedTuple):
    """The low-energy placements of a system with ``M`` slab and ``A`` other atoms."""

    slab: Atoms
    adsorbate: Atoms  # in the gas phase
    relaxed: np.ndarray  # [T, A, 3] Å
    slab_moves: np.ndarray  # [T, M, 3] Å


class PlacementDataset(io.Dataset):
    """Ways to the low-energy placements of the systems of an OC20 file.

    Records of the same atoms, cell and initial slab are of one system; OC20-Dense has
    many of each, IS2RE one. All are read at the start. Those that fail a check of
    ``ppmat/utils/plausibility.py``, such as dissociated ones, are left out.

    Args:
        path: Root of the files, the folder of the split, or an LMDB file.
        split: ``train`` draws new ways in each epoch, other splits always the same.
        build_graph_cfg: Block of the graph converter.
        max_energy: Relaxations this far above the lowest of their system are targets
            [eV]; a system without energies has all.
        draws: Ways of a system in an epoch.
        noise_std: Spread of the points around the way [Å]: of the whole adsorbate; each
            free atom has a quarter of it. The motion leads from there to the end. So a
            model also learns the way back, where its own errors take it.
        max_systems: Use only the first systems.
        seed: Of the random numbers.

    Raises:
        FileNotFoundError: Nothing at ``path``.
        InputError: A slab cannot be used, a record is not relaxed, or all fail.
    """

    name = "placement"
    nested_params = {"build_graph_cfg": [PeriodicGraphConverter]}

    def __init__(
        self,
        path: str,
        split: str = "train",
        build_graph_cfg: dict | None = None,
        max_energy: Annotated[float, Range(0, 100)] = 0.1,
        draws: Annotated[int, Range(1, 10_000)] = 8,
        noise_std: Annotated[float, Range(0, 2)] = 0.2,
        max_systems: Annotated[int, Range(1, 10**9)] | None = None,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
    ) -> None:
        super().__init__()
        self.build_graph = graph_converter(build_graph_cfg)
        self.split, self.draws, self.seed, self.epoch = split, draws, seed, 0
        self.noise_std = noise_std
        records = OC20LMDB(path, split)
        valid = [record for record in records if _is_valid(record)]
        if not valid:
            raise InputError(
                f"{records.path}: all {len(records)} relaxations fail a check"
            )
        groups = list(_by_system(valid))[:max_systems]
        self.systems = [read_placements(group, max_energy) for group in groups]
        targets = sum(len(system.relaxed) for system in self.systems)
        logger.info(
            f"placements {split}: {len(valid)} valid ones of {len(records)} records of "
            f"{records.path}; {len(self.systems)} systems, {targets} targets"
        )

    def __len__(self) -> int:
        return len(self.systems) * self.draws

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the ways of the split ``train`` depend on it."""
        self.epoch = epoch

    def __getitem__(self, idx: int) -> dict[str, Any]:
        if not 0 <= idx < len(self):
            raise IndexError(f"sample {idx} of {len(self)}")
        epoch = self.epoch if self.split == "train" else 0
        rng = np.random.default_rng([self.seed, epoch, idx])
        system = self.systems[idx % len(self.systems)]
        slab, adsorbate = system.slab, system.adsorbate
        shape = turn(rng, adsorbate) + rng.random(2) @ slab.cell.array[:2]
        start = lower_onto(slab, adsorbate.numbers, shape)
        target, slab_move = nearest_target(system, start)
        time = rng.random()
        on_way = move(start, time * motion_to(start, target))
        now = np.concatenate([slab.positions + time * slab_move, on_way])
        tags = np.concatenate([slab.get_tags(), np.full(len(start), ADSORBATE)])
        own = tags == ADSORBATE
        fixed = np.isin(np.arange(len(now)), slab.constraints[0].index)
        noise = 0.25 * rng.standard_normal(now.shape) + own[:, None] * rng.normal(
            size=3
        )
        now += self.noise_std * noise * ~fixed[:, None]
        record = OC20Record(
            sid=f"{idx}",
            atomic_numbers=np.concatenate([slab.numbers, adsorbate.numbers]),
            pos=now.astype("float32"),
            cell=slab.cell.array.astype("float32"),
            tags=tags,
            fixed=fixed,
            num_adsorbates=1,
        )
        sample = record_to_sample(record, build_graph=self.build_graph, labels=())
        left = [slab.positions + slab_move - now[~own], motion_to(now[own], target)]
        left[0][fixed[~own]] = 0.0
        sample["displacement"] = ConcatData(np.concatenate(left).astype("float32"))
        sample["time"] = np.array([time], dtype="float32")
        return sample


def nearest_target(
    system: Placements, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the target with the shortest way from ``start`` [A, 3] Å.

    Returns:
        Its image next to the start, [A, 3] Å, and the displacement of the slab.
    """
    cell = system.slab.cell.array
    centres = system.relaxed.mean(axis=1)
    shift = minimum_image(centres - start.mean(axis=0), cell)  # [T, 3]
    near = np.argsort(np.linalg.norm(shift, axis=1), kind="stable")[:_TRIED]
    moved = start.mean(axis=0) + shift - centres
    ways = [motion_to(start, system.relaxed[i] + moved[i]) for i in near]
    best = near[np.argmin([(way**2).sum() for way in ways])]
    return system.relaxed[best] + moved[best], system.slab_moves[best]


def _is_valid(record: OC20Record) -> bool:
    """Return whether a relaxation passes all checks.

    Raises:
        InputError: There are no relaxed positions.
    """
    if record.pos_relaxed is None:
        raise InputError(f"sid {record.sid} has no relaxed positions")
    checks = check_structure(
        record.atomic_numbers,
        record.tags,
        record.cell,
        record.pos,
        record.pos + record.displacement,
    )
    return not any(checks[1:])  # the first is a distance


def _by_system(records: Iterable[OC20Record]) -> Iterable[list[OC20Record]]:
    """Return the records of each system, in the order of the first ones."""
    found: dict[bytes, list[OC20Record]] = {}
    for record in records:
        slab = record.tags != ADSORBATE
        parts = record.atomic_numbers, record.tags, record.cell.round(2)
        places = record.pos[slab].round(2) + 0.0  # no negative zeros
        key = b"".join(part.tobytes() for part in (*parts, places))
        found.setdefault(key, []).append(record)
    return found.values()


def read_placements(records: list[OC20Record], max_energy: float) -> Placements:
    """Return the low-energy placements of the records of one system.

    Raises:
        InputError: The slab cannot be used.
    """
    first = records[0]
    own = first.tags == ADSORBATE
    numbers, cell = first.atomic_numbers, first.cell.astype(np.float64)
    if not own.any() or own.all():
        raise InputError(f"sid {first.sid} is no slab with an adsorbate (tag 2)")
    slab = Atoms(numbers[~own], first.pos[~own], cell=cell, tags=first.tags[~own])
    slab.set_constraint(FixAtoms(mask=first.fixed[~own]))
    slab = clean_slab(slab)
    lowest = min(record.y_relaxed or 0.0 for record in records)
    kept = [r for r in records if (r.y_relaxed or 0.0) <= lowest + max_energy]
    top = (slab.positions @ surface_normal(cell)).max()
    relaxed, moves = [], []
    for record in kept:
        moved = record.displacement.astype(np.float64)
        moves.append(moved[~own])
        relaxed.append(_whole(record.pos[own].astype(np.float64), cell) + moved[own])
        # above this side of the slab, whatever the cell it is wrapped to
        above = relaxed[-1].mean(axis=0) @ surface_normal(cell) - top
        relaxed[-1] -= np.rint(above / (cell[2] @ surface_normal(cell))) * cell[2]
    copies = list(_translations(slab))
    return Placements(
        slab,
        Atoms(numbers[own], _whole(first.pos[own].astype(np.float64), cell)),
        np.array([each + shift for shift, _ in copies for each in relaxed]),
        np.array([each[order] for _, order in copies for each in moves]),
    )


def _whole(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return a molecule that is not cut by the faces of its cell, [A, 3] Å."""
    positions = positions.copy()
    done, left = [0], list(range(1, len(positions)))
    while left:
        away = positions[left][:, None] - positions[done][None]
        away = minimum_image(away, cell)  # [left, done, 3]
        i, j = np.unravel_index((away**2).sum(axis=2).argmin(), away.shape[:2])
        positions[left[i]] = positions[done[j]] + away[i, j]
        done.append(left.pop(i))
    return positions


def _translations(slab: Atoms) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the vectors in the plane that move a slab onto itself.

    Yields:
        The vector [3], and for each atom the one that comes to its place, [M].
    """
    cell, positions = slab.cell.array, slab.positions
    normal = surface_normal(cell)
    shifts = positions - positions[0]
    level = (np.abs(shifts @ normal) < _SAME_ATOM) & (slab.numbers == slab.numbers[0])
    for shift in shifts[level]:
        away = positions[:, None] - (positions + shift)[None]
        distance = np.linalg.norm(minimum_image(away, cell), axis=2)
        order = distance.argmin(axis=1)
        same = distance.min(axis=1).max() < _SAME_ATOM
        if same and (slab.numbers[order] == slab.numbers).all():
            yield shift, order
