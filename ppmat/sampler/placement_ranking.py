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

"""Placements after relaxation: checked, compared, ranked, written as a table.

A placement is ``ase.Atoms`` whose ``info`` has ``placement``, its number, and after the
relaxation ``total_energy`` (eV), ``converged``, ``force_calls`` and the checks of
``ppmat/utils/plausibility.py``; or ``fault``, why it was given up.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from scipy.optimize import linear_sum_assignment

from ppmat.utils.files import replacing
from ppmat.utils.periodic import minimum_image
from ppmat.utils.plausibility import ADSORBATE
from ppmat.utils.plausibility import CHECKS
from ppmat.utils.plausibility import check_structure

SAME_PLACE = 0.3  # Å; two placements are the same if no adsorbate atom is farther
SAME_ENERGY = 0.05  # eV, of two placements that are the same
ANOMALIES = tuple(name for name in CHECKS if name != "closest_distance")
COLUMNS = (
    *("rank", "placement", "total_energy", "above_best", "converged", "force_calls"),
    *(*CHECKS, "same_as", "fault"),
)


def add_checks(placed: Atoms, initial: Atoms) -> None:
    """Add the checks of a placement, compared with its initial structure, to it."""
    tags, cell = initial.get_tags(), initial.cell.array
    checks = check_structure(
        initial.numbers, tags, cell, initial.positions, placed.positions
    )
    placed.info |= checks._asdict()


def is_valid(placed: Atoms) -> bool:
    """Return whether a placement has no fault and passed all checks."""
    info = placed.info
    return "fault" not in info and not any(info[name] for name in ANOMALIES)


def count_anomalies(placements: Sequence[Atoms]) -> str:
    """Return which checks failed and how often, such as ``desorbed 2``; or ``""``.

    A placement that was given up does not count. One may fail several checks.
    """
    judged = [placed.info for placed in placements if "fault" not in placed.info]
    counts = {name: sum(bool(info[name]) for info in judged) for name in ANOMALIES}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def is_same(first: Atoms, second: Atoms) -> bool:
    """Return whether two placements have their adsorbates at the same place.

    Atoms of one element may have changed places. Symmetry of the slab does not count.
    """
    rows = np.flatnonzero(first.get_tags() == ADSORBATE)
    numbers = first.numbers[rows]
    for number in np.unique(numbers):
        own = rows[numbers == number]
        between = first.positions[own][:, None] - second.positions[own][None]
        distance = np.linalg.norm(minimum_image(between, first.cell.array), axis=2)
        distance[distance > SAME_PLACE] = 1e3  # so that the largest counts
        if distance[linear_sum_assignment(distance)].max() > SAME_PLACE:
            return False
    return True


def find_repeated(placements: Sequence[Atoms]) -> dict[int, int]:
    """Return the number of each placement that is the same as an earlier one, and its.

    Energies, if known, must agree as well.
    """
    kept: list[Atoms] = []
    repeated = {}
    for placed in placements:
        energy = placed.info.get("total_energy", 0.0)
        near = (
            other
            for other in kept
            if abs(other.info.get("total_energy", 0.0) - energy) < SAME_ENERGY
        )
        same = next((other for other in near if is_same(other, placed)), None)
        if same is None:
            kept.append(placed)
        else:
            repeated[placed.info["placement"]] = same.info["placement"]
    return repeated


def rank(placements: Sequence[Atoms]) -> list[Atoms]:
    """Return placements, the best first.

    Valid ones are ordered by energy, then those that failed a check, then those that
    were given up. Without energies the order stays within each group.
    """
    return sorted(
        placements,
        key=lambda placed: (
            "fault" in placed.info,
            not is_valid(placed),
            placed.info.get("total_energy", 0.0),
        ),
    )


def write_table(path: str | os.PathLike, ranked: Sequence[Atoms]) -> list[Atoms]:
    """Write ``COLUMNS`` of ranked placements as CSV; only valid ones have a rank.

    ``total_energy`` and, of valid ones, ``above_best`` are in eV. ``same_as`` is the
    number of a better placement that is the same. Returns those that have a rank.
    """
    good = [placed for placed in ranked if is_valid(placed)]
    repeated = find_repeated(good)
    best = good[0].info.get("total_energy") if good else None
    with replacing(path) as temporary, open(temporary, "w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS, restval="", extrasaction="ignore")
        table.writeheader()
        distinct: list[Atoms] = []
        for placed in ranked:
            row = dict(placed.info)
            number = row["placement"]
            if is_valid(placed) and number not in repeated:
                distinct.append(placed)
                row["rank"] = len(distinct)
            row["same_as"] = repeated.get(number, "")
            if "total_energy" in row and is_valid(placed):
                row["above_best"] = f"{row['total_energy'] - best:.4f}"
            for name in ("total_energy", "closest_distance"):
                row[name] = f"{row[name]:.4f}" if name in row else ""
            table.writerow(row)
    return distinct
