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

"""Generated slabs: move overlapping atoms apart, check them, sum the checks up."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping

import numpy as np

from ppmat.sampler.distance_projection import DistanceProjection
from ppmat.sampler.distance_projection import Slab
from ppmat.utils.bonds import count_molecules
from ppmat.utils.plausibility import ADSORBATE
from ppmat.utils.plausibility import CHECKS
from ppmat.utils.plausibility import check_structure
from ppmat.utils.result_store import Result

# Keys of a result that the written structures have in ``info``.
INFO_KEYS = ("num_adsorbates", *CHECKS, "projection_shift")
_NEEDED = ("cart_coords", "cart_coords_initial", "tags", "fixed", "lattice")
_NAMED = 5  # ids of structures with overlaps that the summary names
_FARTHEST = 1e4  # Å from the initial position; what is farther is no structure


def finish_slab(result: Result, projection: DistanceProjection | None) -> Result:
    """Return a result with projected positions and its checks.

    The new keys are those of :data:`~ppmat.utils.plausibility.CHECKS`;
    ``num_adsorbates``, the number of molecules in the initial structure, which an
    energy model needs to know if they dissociated; and ``projection_shift``, the
    largest shift of an atom by the projection (Å). A result that is no slab, or whose
    positions are not finite or absurdly far, is returned unchanged.

    Args:
        result: A result of ``model.sample`` with ``cart_coords_initial``.
        projection: None leaves the positions as the model returned them.
    """
    if not all(key in result for key in _NEEDED):
        return result
    slab = Slab(
        numbers=np.asarray(result["atom_types"], dtype=np.int64),
        tags=np.asarray(result["tags"], dtype=np.int64),
        fixed=np.asarray(result["fixed"], dtype=bool),
        cell=np.asarray(result["lattice"], dtype=np.float64).reshape(3, 3),
        initial=np.asarray(result["cart_coords_initial"], dtype=np.float64),
    )
    predicted = np.asarray(result["cart_coords"], dtype=np.float64)
    if not np.abs(predicted - slab.initial).max() < _FARTHEST:
        return result
    result, positions = dict(result), predicted
    if projection is not None:
        positions = projection(slab, predicted)
        shift = np.linalg.norm(positions - predicted, axis=1).max()
        result["projection_shift"] = float(shift)
        if shift:
            result["cart_coords"] = positions.tolist()
            result["frac_coords"] = (positions @ np.linalg.inv(slab.cell)).tolist()
    checks = check_structure(
        slab.numbers, slab.tags, slab.cell, slab.initial, positions
    )
    adsorbate = slab.tags == ADSORBATE
    count = count_molecules(slab.numbers[adsorbate], slab.initial[adsorbate], slab.cell)
    return {"num_adsorbates": count, **result, **checks._asdict()}


def checks_of(result: Mapping) -> dict:
    """Return the entries of a result that belong into ``info`` of its structure."""
    return {key: result[key] for key in INFO_KEYS if key in result}


def summarise(results: Iterable[Mapping]) -> str:
    """Return the checks of all results as one line; "" if there are none."""
    found, unusable = [], 0
    for result in results:
        if "overlap" in result:
            found.append((checks_of(result), result.get("id")))
        else:
            unusable += all(key in result for key in _NEEDED)
    if not found:
        return f"no structure; {unusable} have no usable positions" if unusable else ""
    total = len(found)
    closest = min(checks["closest_distance"] for checks, _ in found)
    counts = [
        f"{name.replace('_', ' ')} {sum(checks[name] for checks, _ in found)}"
        for name in CHECKS
        if name != "closest_distance"
    ]
    text = f"{total} structures: closest distance {closest:.2f} Å; {', '.join(counts)}"
    shifts = [checks.get("projection_shift", 0.0) for checks, _ in found]
    moved = sum(shift > 0 for shift in shifts)
    if moved:
        text += f"; atoms moved apart in {moved}, by up to {max(shifts):.2f} Å"
    if unusable:
        text += f"; {unusable} more have no usable positions"
    overlaps = [str(name) for checks, name in found if checks["overlap"]]
    if overlaps:
        more = ", ..." if len(overlaps) > _NAMED else ""
        text += f". Overlap in {', '.join(overlaps[:_NAMED])}{more}"
    return text
