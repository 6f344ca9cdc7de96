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
"""Converts structures of users to the batches of SFIN, for the property predictor."""

from __future__ import annotations

import numpy as np
import paddle
from pymatgen.core import Structure

from ppmat.datasets.collate_fn import DefaultCollator
from ppmat.datasets.graph_utils.periodic_graph import PeriodicGraphConverter
from ppmat.datasets.oc20_is2re_dataset import record_to_sample
from ppmat.datasets.oc20_record import OC20Record
from ppmat.datasets.oc20_record import check_record
from ppmat.utils import logger
from ppmat.utils.errors import InputError

ADSORBATE_ELEMENTS = (1, 6, 7, 8)  # H, C, N, O: those of OC20's adsorbates
SURFACE_DEPTH = 2.0  # Å below the highest atom of the slab
LEAST_VACUUM = 5.0  # Å
TAG_HELP = "Give the site property 'tags': 0 sub-surface, 1 surface, 2 adsorbate."


def guess_tags(structure: Structure, name: str) -> np.ndarray:
    """Guess the tags of a slab with an adsorbate on its upper side, [N].

    H, C, N and O are the adsorbate (2), other atoms at most 2 Å below the highest of
    them the surface (1), the rest is sub-surface (0).

    Raises:
        InputError: The rule is not plausible: no slab, adsorbate or vacuum along c, the
            adsorbate is not above the surface, or another element is; ``name`` says of
            which structure.
    """
    numbers = np.array(structure.atomic_numbers)
    normal = np.cross(*structure.lattice.matrix[:2])
    normal = normal / np.linalg.norm(normal)
    heights = structure.cart_coords @ normal
    cell_height = abs(structure.lattice.matrix[2] @ normal)
    adsorbate = np.isin(numbers, ADSORBATE_ELEMENTS)
    slab = ~adsorbate
    if not adsorbate.any() or not slab.any():
        reason = "no slab of other elements with an adsorbate of H, C, N, O"
    elif cell_height - np.ptp(heights) < LEAST_VACUUM:
        reason = f"no vacuum of {LEAST_VACUUM} Å along c between the slab and its image"
    elif heights[adsorbate].min() <= heights[slab].max() - SURFACE_DEPTH:
        reason = "H, C, N or O deeper than the surface, so they may belong to the slab"
    elif any(_is_on_top(numbers[slab] == z, heights[slab]) for z in set(numbers[slab])):
        reason = "an element that is only on top, so it may belong to the adsorbate"
    else:
        surface = heights > heights[slab].max() - SURFACE_DEPTH
        return np.where(adsorbate, 2, surface)
    raise InputError(f"tags cannot be guessed: {reason}", where=name, hint=TAG_HELP)


def _is_on_top(own: np.ndarray, heights: np.ndarray) -> bool:
    """Return whether some atoms of a slab are all above the others."""
    return not own.all() and heights[own].min() > heights[~own].max()


class SFINGraphConverter:
    """Converts slabs with adsorbates to a batch of graphs with tags and fixed atoms.

    Tags are the site property ``tags`` (0 sub-surface, 1 surface, 2 adsorbate). Fixed
    atoms are the site property ``fixed`` or ``selective_dynamics``. A CIF file has none
    of them: then the tags are guessed, see :func:`guess_tags`, and no atom is fixed,
    which the log reports. So are tags that are all 0.

    Args:
        cutoff: Edges join atoms closer than this [Å].
        max_neighbors: Edges that a centre keeps, nearest first.
        k_cut: Radius of the sphere of reciprocal vectors [1/Å].
    """

    def __init__(
        self,
        cutoff: float = 5.0,
        max_neighbors: int | None = 24,
        k_cut: float = 1.0,
    ) -> None:
        self.build_graph = PeriodicGraphConverter(cutoff, max_neighbors, k_cut)

    def __call__(self, structure: Structure | list[Structure]) -> dict:
        """Return the batch of a structure, or of a list of structures."""
        structures = structure if isinstance(structure, list) else [structure]
        records = [self.record(s, f"structure {i}") for i, s in enumerate(structures)]
        graph = {"build_graph": self.build_graph}
        samples = [record_to_sample(r, **graph, labels=()) for r in records]
        batch = DefaultCollator()(samples)
        for part in ("structure_array", "graph"):
            batch[part] = {k: paddle.to_tensor(v) for k, v in batch[part].items()}
        return batch

    def record(self, structure: Structure, name: str) -> OC20Record:
        """Return a structure as a record of the data set; ``name`` is for errors."""
        if not structure.is_ordered:
            raise InputError("sites are shared by several elements", where=name)
        sites = structure.site_properties
        tags, fixed = sites.get("tags"), sites.get("fixed")
        if fixed is None and "selective_dynamics" in sites:
            moves = np.array(sites["selective_dynamics"], dtype=bool)
            fixed = ~moves.any(axis=1)
            if (moves.all(axis=1) == fixed).any():
                raise InputError("atoms that may move in some directions", where=name)
        if tags is None or not np.any(tags):
            given = "missing" if tags is None else "all 0 or None"
            tags = guess_tags(structure, name)
            logger.warning(f"{name}: its tags are {given}; check the guessed ones")
        if fixed is None:
            fixed = np.zeros(len(structure))
            logger.warning(f"{name} has no fixed atoms: all of them may move")
        fields = {
            "pos": structure.cart_coords,
            "cell": structure.lattice.matrix[None],
            "atomic_numbers": structure.atomic_numbers,
            "tags": tags,
            "fixed": fixed,
        }
        record = OC20Record.from_fields(fields, name, default_sid=name)
        try:
            check_record(record)
        except InputError as error:
            raise InputError(str(error), where=name) from error
        if not (record.tags == 2).any():  # ASE's own tags number layers
            raise InputError("no atom is an adsorbate", where=name, hint=TAG_HELP)
        return record
