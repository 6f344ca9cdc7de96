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

"""Checks of a whole record: its tags, the distances of its atoms, its adsorbates."""

from __future__ import annotations

import dataclasses

from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.surface_tags import ADSORBATE
from ppmat.datasets.surface_tags import TAG_HELP
from ppmat.datasets.surface_tags import check_tags
from ppmat.datasets.surface_tags import guess_tags
from ppmat.datasets.surface_tags import tags_are_missing
from ppmat.utils.errors import InputError

SMALLEST_DISTANCE = 0.05  # Å; atoms closer than this are two copies of one atom
MISSING_TAGS = ("keep", "raise", "guess")  # what to do with structures without tags


def check_record(
    record: OC20Record, closest: float = SMALLEST_DISTANCE, where: str | None = None
) -> None:
    """Check the tags and distances of a record.

    Args:
        record: The record.
        closest: Smallest distance of two atoms [Å].
        where: What an error calls the record; None takes its id.

    Raises:
        InputError: A tag is not 0, 1 or 2, tags number layers, or two atoms are closer
            than ``closest`` Å.
    """
    # Imported here because the commands start without pymatgen.
    from ppmat.datasets.graph_utils.periodic_graph import check_distances
    from ppmat.utils.neighbours import neighbour_pairs

    where = f"sid {record.sid}" if where is None else where
    check_tags(record, where)
    pairs = neighbour_pairs(record.pos, record.cell, closest)
    check_distances(pairs, closest, where and f"{where}: ")


def with_guessed_tags(record: OC20Record) -> OC20Record:
    """Return the record, with guessed tags if it has none or has layer numbers.

    Layer numbers are those of ASE's surface builders. Tags beyond 0, 1, 2 of another
    order count as missing.

    Raises:
        InputError: See :func:`ppmat.datasets.surface_tags.guess_tags`.
    """
    if 0 <= record.tags.min() and record.tags.max() <= ADSORBATE:
        if not tags_are_missing(record):
            return record
    return dataclasses.replace(record, tags=guess_tags(record))


def with_wanted_tags(record: OC20Record, missing_tags: str) -> OC20Record:
    """Return the record with its tags, or with guessed ones, or raise.

    Args:
        record: The record.
        missing_tags: For a record without tags, all 0: ``keep`` it, ``raise`` an error,
            or ``guess`` them, see :func:`with_guessed_tags`.

    Raises:
        InputError: There are no tags, or they cannot be guessed.
    """
    if missing_tags == "guess":
        return with_guessed_tags(record)
    if missing_tags == "raise" and not record.tags.any():
        raise InputError("there are no tags", hint=TAG_HELP)
    return record


def num_adsorbates(record: OC20Record) -> int:
    """Return the number of adsorbate molecules in the cell of a record.

    They are the molecules of the atoms with tag 2 in the initial structure, see
    :func:`ppmat.utils.bonds.count_molecules`, unless the record states their number.
    """
    from ppmat.utils.bonds import count_molecules  # not at the top, as above

    if record.num_adsorbates is not None:
        return record.num_adsorbates
    adsorbate = record.tags == ADSORBATE
    return count_molecules(
        record.atomic_numbers[adsorbate], record.pos[adsorbate], record.cell
    )
