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

"""Tags of the atoms of a slab: recognise layer numbers, guess what is missing.

OC20 tags atoms as sub-surface (0), surface (1) and adsorbate (2). The surface builders
of ASE number layers instead: 1 is the top layer, 2 the next one, and 0 an added
adsorbate. Up to two layers, both use the same numbers. What they mean is decided by
what an adsorbate is, not by the orientation of the cell.

The functions take any object with ``atomic_numbers``, ``pos``, ``cell``, ``tags`` and
``fixed`` like ``ppmat.datasets.oc20_record.OC20Record``.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from ase.data import chemical_symbols

from ppmat.utils.errors import InputError
from ppmat.utils.errors import check_choice
from ppmat.utils.periodic import vacuum

SUBSURFACE, SURFACE, ADSORBATE = 0, 1, 2  # tags of OC20
ADSORBATE_ELEMENTS = frozenset((1, 6, 7, 8))  # H, C, N, O: those of OC20's adsorbates
SURFACE_DEPTH = 2.0  # Å below the highest slab atom, as OC20 assigns tags
# Å above the mean height of the surface; an adsorbate is higher (N on Fe(100): 0.27 Å)
_IN_PLANE = 0.1
_PLANE_DEPTH = 0.5  # Å; planes of atoms are further apart (0.83 Å in Fe(111))
# As AdsorbateSiteFinder of pymatgen names them; "substitute" is another element in the
# surface.
_TAG_OF_PROPERTY = {
    "subsurface": SUBSURFACE,
    "surface": SURFACE,
    "substitute": SURFACE,
    "adsorbate": ADSORBATE,
}
_SET_TAGS = "Set them with atoms.set_tags([...]): 0 sub-surface, 1 surface, 2 adsorbate"
TAG_HELP = (
    f"{_SET_TAGS}; or let missing_tags=guess do it. Files: extxyz and ASE trajectories "
    "have tags, CIF and POSCAR do not"
)


class TaggedStructure(Protocol):
    """What the functions of this module read: arrays of ``N`` atoms."""

    atomic_numbers: np.ndarray  # [N]
    pos: np.ndarray  # [N, 3], Å
    cell: np.ndarray  # [3, 3], Å
    tags: np.ndarray  # [N]
    fixed: np.ndarray  # [N]


def has_layer_tags(record: TaggedStructure) -> bool:
    """Return whether the tags number layers from the top, as ASE's builders do.

    With tags above 2, the mean heights of the groups must rise or fall with the tag.
    Tags 0, 1, 2 and 0, 1 are also legal in OC20. Then the atoms of tag 0 are compared
    with those of the highest tag. The adsorbate is the group that

    - has elements which the layers between them do not have,
    - has only H, C, N, O, as all adsorbates of OC20, and
    - is not held while the other one is (which counts twice).

    If these contradict each other, it is the group with fewer atoms. Tags 1, 2 number
    layers if as many atoms of the same elements have tag 2 as tag 1, all on one side.

    Example:
        >>> from ase.build import add_adsorbate, fcc111
        >>> from ppmat.datasets.oc20_record import OC20Record
        >>> slab = fcc111("Cu", (2, 2, 2), vacuum=10.0)
        >>> add_adsorbate(slab, "O", 1.5, "fcc")
        >>> arrays = slab.numbers, slab.positions, slab.cell.array, slab.get_tags()
        >>> has_layer_tags(OC20Record("", *arrays, fixed=np.zeros(9, dtype=bool)))
        True
    """
    tags = record.tags
    top = int(tags.max())
    low, high = tags == 0, tags == top
    if tags.min() < 0 or not SURFACE <= top <= len(tags) or not (tags == SURFACE).any():
        return False
    if not low.any():
        return _falls(record) if top > ADSORBATE else _is_second_layer(record)
    numbers = record.atomic_numbers
    low_elements, high_elements = _elements(numbers[low]), _elements(numbers[high])
    if top == ADSORBATE and _are_light(high_elements) > _are_light(low_elements):
        return False  # all structures of OC20: no need to look at heights
    middle = _elements(numbers[~low & ~high]) or high_elements
    score = low_elements.isdisjoint(middle) - high_elements.isdisjoint(middle)
    score += _are_light(low_elements) - _are_light(high_elements)
    held = _is_held(record.fixed, high, low) - _is_held(record.fixed, low, high)
    score += 2 * held  # an adsorbate is not held, whatever its elements
    if top == SURFACE:
        # One layer with an adsorbate, or a clean slab: no other layer to compare with.
        return score >= (1 if low.sum() < high.sum() else 2)
    if score == 0:
        layer = np.bincount(tags)[1:].min()
        score = 1 if low.sum() < layer else -1
    return score > 0 and _falls(record)


def _elements(numbers: np.ndarray) -> set[int]:
    return set(numbers.tolist())


def _are_light(elements: set[int]) -> bool:
    return elements <= ADSORBATE_ELEMENTS


def _is_held(fixed: np.ndarray, group: np.ndarray, other: np.ndarray) -> bool:
    """Return whether atoms of a group are held, while the other group is free."""
    return bool(fixed[group].any() and not fixed[other].any())


def _falls(record: TaggedStructure) -> bool:
    """Return whether the mean heights of all groups are in the order of their tags."""
    heights = vacuum(record.pos, record.cell).heights
    count = np.bincount(record.tags)
    total = np.bincount(record.tags, weights=heights)
    steps = np.diff(total[count > 0] / count[count > 0])
    return bool((steps > 0).all() or (steps < 0).all())


def _is_second_layer(record: TaggedStructure) -> bool:
    """Return whether atoms of tag 2 are a layer like that of tag 1."""
    first = record.tags == SURFACE
    elements = _elements(record.atomic_numbers[first])
    second = ~first & np.isin(record.atomic_numbers, list(elements))
    if second.sum() != first.sum() or _are_light(elements):
        return False
    heights = vacuum(record.pos, record.cell).heights
    inner, outer = heights[first], heights[second]
    return bool(outer.max() < inner.min() or outer.min() > inner.max())


def tags_of_properties(names: Sequence[str], where: str = "") -> list[int]:
    """Return tags for the site property ``surface_properties`` of pymatgen, [N].

    Raises:
        InputError: A name is unknown; ``where`` says of which structure.

    Example:
        >>> tags_of_properties(["subsurface", "surface", "adsorbate"])
        [0, 1, 2]
    """
    for name in names:
        check_choice(f"{where}: a surface property", name, _TAG_OF_PROPERTY)
    return [_TAG_OF_PROPERTY[name] for name in names]


def tags_are_missing(record: TaggedStructure) -> bool:
    """Return whether there are no tags (all 0), or layer numbers instead of tags."""
    return not record.tags.any() or has_layer_tags(record)


def check_tags(record: TaggedStructure, where: str = "") -> None:
    """Raise ``InputError`` for tags other than 0, 1, 2 and for layer numbers."""
    if has_layer_tags(record):
        number = "layer numbers of ASE's surface builders, "
    elif record.tags.min() < SUBSURFACE or record.tags.max() > ADSORBATE:
        number = ""
    else:
        return
    raise InputError(
        f"tags hold {number}{np.unique(record.tags)[:10].tolist()}",
        where=where,
        wanted="0 (sub-surface), 1 (surface), 2 (adsorbate)",
        hint="Set them with atoms.set_tags([...]), or let missing_tags=guess do it",
    )


def check_readout(tags: np.ndarray, readout_tags: Collection[int]) -> None:
    """Raise ``InputError`` if no atom has a tag that the model reads.

    Args:
        tags: Tags of a structure, [N].
        readout_tags: Tags of the atoms that the model reads.
    """
    if np.isin(tags, list(readout_tags)).any():
        return
    if not tags.any():
        raise InputError("the structure has no tags", hint=TAG_HELP)
    raise InputError(
        f"no atom has a tag among {sorted(readout_tags)}, which the model reads",
        hint=TAG_HELP,
    )


def slab_heights(record: TaggedStructure, adsorbate: np.ndarray) -> np.ndarray:
    """Return heights above the lowest atom, with the adsorbate on top: [N] Å.

    Heights are measured normal to the face of the cell that is parallel to the vacuum,
    towards the side of the slab where the adsorbate is.

    Args:
        record: The structure.
        adsorbate: Mask of the adsorbate, bool [N].
    """
    heights = vacuum(record.pos, record.cell).heights
    if adsorbate.any() and not adsorbate.all():
        if heights[adsorbate].mean() < heights[~adsorbate].mean():
            return heights.max() - heights
    return heights


def guess_tags(record: TaggedStructure) -> np.ndarray:
    """Guess tags from heights, elements and layer numbers: int64 [N].

    If tags are layer numbers with atoms of tag 0, those are the adsorbate (2). Else all
    H, C, N and O are. Other atoms less than 2 Å below the highest of them become the
    surface (1), the rest sub-surface (0). The adsorbate may be on either side of the
    slab, and the vacuum along any lattice vector.

    Raises:
        InputError: There is no slab or no adsorbate, atoms of the adsorbate are deeper
            than the surface, or none is above it; or few atoms of another element are
            all on top, like S of SO2.
    """
    adsorbate = record.tags == 0
    numbered = adsorbate.any() and not adsorbate.all() and has_layer_tags(record)
    if not numbered:
        adsorbate = np.isin(record.atomic_numbers, list(ADSORBATE_ELEMENTS))
    rule = "tag 0, as the other tags number layers" if numbered else "H, C, N, O"
    if not adsorbate.any() or adsorbate.all():
        raise InputError(
            "tags cannot be guessed",
            wanted="a slab of other elements with an adsorbate of H, C, N, O",
            hint=_SET_TAGS,
        )
    heights = slab_heights(record, adsorbate)
    surface = heights > heights[~adsorbate].max() - SURFACE_DEPTH
    plane = heights[surface & ~adsorbate].mean()
    if not surface[adsorbate].all() or heights[adsorbate].max() < plane + _IN_PLANE:
        raise InputError(
            f"tags cannot be guessed: some atoms of the adsorbate ({rule}) are deeper "
            "than the surface or in it, so they may belong to the slab",
            hint=_SET_TAGS,
        )
    slab = ~adsorbate
    on_top = _sparse_elements_on_top(record.atomic_numbers[slab], heights[slab])
    if on_top and not numbered:
        raise InputError(
            f"tags cannot be guessed: all {', '.join(on_top)} atoms are on top of the "
            "slab and few, so they may belong to the adsorbate",
            hint=_SET_TAGS,
        )
    tags = np.where(adsorbate, ADSORBATE, np.where(surface, SURFACE, SUBSURFACE))
    return tags.astype(np.int64)


def _sparse_elements_on_top(numbers: np.ndarray, heights: np.ndarray) -> list[str]:
    """Return elements of a slab of which all atoms are above it and form no layer.

    They are above all other atoms, and fewer than half of the topmost plane of those.

    Args:
        numbers: Atomic numbers of the slab, [M].
        heights: Heights of its atoms, [M] Å.
    """
    found = []
    for number in np.unique(numbers):
        own, others = heights[numbers == number], heights[numbers != number]
        if others.size and own.min() > others.max() + _IN_PLANE:
            plane = others > others.max() - _PLANE_DEPTH
            if 2 * own.size < plane.sum():
                found.append(chemical_symbols[number])
    return found
