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

"""Tags of a user's structure: guess them, or set them on a copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ase
import numpy as np

from ppmat.datasets import surface_tags
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.structure_record import unchecked_record
from ppmat.utils.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure


def guess_tags(structure: ase.Atoms | Structure | OC20Record) -> np.ndarray:
    """Guess the tags of OC20 of a structure: int64 [N].

    The rules are those of :func:`ppmat.datasets.surface_tags.guess_tags`.

    Args:
        structure: ``ase.Atoms``, a pymatgen ``Structure`` or an ``OC20Record``.

    Raises:
        InputError: They cannot be guessed.
        TypeError: Another kind of object.
    """
    return surface_tags.guess_tags(unchecked_record(structure))


def set_tags(
    structure: ase.Atoms | Structure | OC20Record, tags: Sequence[int] | None = None
) -> ase.Atoms | Structure | OC20Record:
    """Return a copy of a structure with tags of OC20.

    Args:
        structure: ``ase.Atoms``, a pymatgen ``Structure`` or an ``OC20Record``.
        tags: 0 sub-surface, 1 surface, 2 adsorbate for each atom; None guesses them.

    Raises:
        InputError: The tags are not legal, or cannot be guessed.
        TypeError: Another kind of object.

    Example:
        >>> from ase.build import add_adsorbate, fcc111
        >>> slab = fcc111("Cu", (1, 1, 2), vacuum=10.0)
        >>> add_adsorbate(slab, "S", 1.7, "fcc")
        >>> slab.get_tags().tolist(), set_tags(slab).get_tags().tolist()
        ([2, 1, 0], [0, 1, 2])
    """
    tags = guess_tags(structure) if tags is None else np.asarray(tags)
    if tags.shape != (len(unchecked_record(structure).tags),):
        raise InputError(f"tags have shape {tags.shape}", wanted="one for each atom")
    if not np.isin(tags, (0, 1, 2)).all():
        found = np.unique(tags)[:10].tolist()
        raise InputError(f"tags hold {found}", wanted="0, 1 or 2 for each atom")
    tags = tags.astype(np.int64)
    if isinstance(structure, OC20Record):
        return dataclasses.replace(structure, tags=tags)
    copy = structure.copy()
    if isinstance(structure, ase.Atoms):
        copy.set_tags(tags)
    else:
        copy.add_site_property("tags", tags.tolist())
    return copy
