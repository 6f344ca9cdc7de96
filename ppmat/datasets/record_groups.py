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

"""Records in groups that are kept together: by slab elements, by adsorbate, alone.

A random validation set of a small set holds the metals of the training set, and says
nothing about another metal. A set of whole groups does.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols

from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.surface_tags import ADSORBATE
from ppmat.datasets.surface_tags import check_tags
from ppmat.utils.errors import InputError


def metals_of(record: OC20Record) -> str:
    """Return the elements of the slab, for instance ``Cu`` or ``Cu-Pd``."""
    slab = record.atomic_numbers[record.tags != ADSORBATE]
    return "-".join(sorted(chemical_symbols[z] for z in set(slab.tolist())))


def adsorbate_of(record: OC20Record) -> str:
    """Return the empirical formula of the adsorbate, for instance ``CH3`` or ``O``."""
    atoms = record.atomic_numbers[record.tags == ADSORBATE].tolist()
    counts = collections.Counter(chemical_symbols[z] for z in atoms)
    unit = math.gcd(*counts.values())
    parts = [(symbol, number // unit) for symbol, number in sorted(counts.items())]
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in parts)


GROUPS = {
    "metals": metals_of,
    "adsorbates": adsorbate_of,
    "records": lambda record: record.sid,
}


def group_of(record: OC20Record, by: str, where: str) -> str:
    """Return the name of the record's group.

    Args:
        record: The record.
        by: A key of ``GROUPS``.
        where: Its place, for errors.

    Raises:
        InputError: The tags do not tell slab and adsorbate.
    """
    adsorbate = record.tags == ADSORBATE
    if by != "records":
        check_tags(record, where)
        if adsorbate.all() or not adsorbate.any():
            found = "all atoms have" if adsorbate.all() else "no atom has"
            raise InputError(f"{found} tag 2 (the adsorbate)", where=where)
    return GROUPS[by](record)


def choose_held_out(groups: Sequence[str], share: float, seed: int) -> set[str]:
    """Return groups that hold about a share of the records, in random order.

    A group is taken if it brings their number nearer to the share. At least one group
    is held out, the smallest if all are too large, and at least one is not.

    Args:
        groups: The group of each record.
        share: Wanted share of the records.
        seed: Of the order.

    Raises:
        InputError: All records are of one group.

    Example:
        >>> choose_held_out(["Cu", "Cu", "Pt", "Ag", "Ag"], 0.2, seed=0)
        {'Pt'}
    """
    sizes = collections.Counter(groups)
    if len(sizes) < 2:
        raise InputError(
            f"all {len(groups)} records have {', '.join(sizes)}",
            wanted="at least two groups, one of which is held out",
        )
    names = sorted(sizes)
    wanted, taken, held = share * len(groups), 0, set()
    for i in np.random.default_rng(seed).permutation(len(names)):
        after = taken + sizes[names[i]]
        if abs(after - wanted) < abs(taken - wanted) and after < len(groups):
            held.add(names[i])
            taken = after
    return held or {min(names, key=sizes.__getitem__)}
