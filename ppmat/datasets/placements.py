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

"""Where an adsorbate may go on a slab: random placements, and heuristic sites.

A placement is the slab with the adsorbate lowered along the surface normal until two
atoms touch. Its atoms are those of the slab, then those of the adsorbate (tag 2). The
top of the slab is the side that the third lattice vector points to.

Shapes: ``A`` atoms of the adsorbate, ``M`` atoms of the slab and its images.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from pymatgen.analysis.adsorption import AdsorbateSiteFinder
from pymatgen.io.ase import AseAtomsAdaptor
from scipy.spatial.transform import Rotation

from ppmat.datasets.adsorbates import binding_atom
from ppmat.datasets.record_checks import check_record
from ppmat.datasets.structure_record import unchecked_record
from ppmat.datasets.surface_tags import ADSORBATE
from ppmat.datasets.surface_tags import SUBSURFACE
from ppmat.datasets.surface_tags import SURFACE_DEPTH
from ppmat.datasets.surface_tags import has_layer_tags
from ppmat.utils import logger
from ppmat.utils.bonds import BOND_FACTOR
from ppmat.utils.bonds import bonded_pairs
from ppmat.utils.errors import InputError
from ppmat.utils.periodic import empty_layers
from ppmat.utils.periodic import reduce_cell
from ppmat.utils.periodic import vacuum
from ppmat.utils.rigid_motion import superpose

CONTACT_GAP = 0.1  # Å between the covalent spheres of adsorbate and slab
# A flow's shape of the adsorbate is not credible where its bonds and distances had to
# move an atom by more [Å], or where a bond of the given molecule is longer than this
# multiple; docs/oc20/placement.md says how often that is.
LARGEST_SHIFT, LONGEST_BOND = 0.5, 1.35
_ROOM = 5.0  # Å of vacuum beside the adsorbate, so that it touches no image
_LARGEST_TILT = np.radians(20)  # of an adsorbate whose binding atom is given


def clean_slab(atoms: Atoms) -> Atoms:
    """Return a slab that adsorbates can be placed on, checked and in one piece.

    Tags 0 and 1 and constraints are kept. Missing tags (or layer numbers of ASE) become
    1 less than 2 Å below the highest atom and 0 elsewhere. Without constraints the
    atoms of tag 0 are held.

    Raises:
        InputError: No cell, no vacuum along the third lattice vector, atoms at one
            place, or the slab has an adsorbate (tag 2).
    """
    record = unchecked_record(atoms, where="slab")
    pos, cell = record.pos.astype(np.float64), record.cell.astype(np.float64)
    thickest = vacuum(pos, cell)
    if thickest.axis != 2 and thickest.thickness > _ROOM:
        raise InputError(
            f"the vacuum is along {'abc'[thickest.axis]}",
            where="slab",
            wanted="along c",
            hint="Exchange the lattice vectors.",
        )
    heights = empty_layers(pos, cell)[2].heights
    given = record.tags.copy()
    layers = has_layer_tags(record) or given.max() > ADSORBATE
    if not layers and given.max() == ADSORBATE:
        raise InputError(
            f"{(given == ADSORBATE).sum()} atoms have tag 2, adsorbate",
            where="slab",
            wanted="a slab without adsorbate",
            hint="Remove them, or give them tag 1 if they stay.",
        )
    if layers or not given.any():
        record.tags = (heights > heights.max() - SURFACE_DEPTH).astype(np.int64)
        logger.message(
            f"slab: tags are guessed, {record.tags.sum()} of {len(pos)} atoms are less "
            f"than {SURFACE_DEPTH:g} Å below the highest and become surface"
        )
    check_record(record, where="slab")
    held = record.fixed
    if not held.any():
        held = record.tags == SUBSURFACE
        logger.message(
            f"slab: it holds no atoms; the {held.sum()} sub-surface ones are held"
        )
    share = pos @ np.linalg.inv(cell)
    spacing = abs(cell[2] @ surface_normal(cell))
    share[:, 2] = (share[:, 2] - heights / spacing).min() + heights / spacing
    slab = Atoms(record.atomic_numbers, cell=cell, pbc=True, tags=record.tags)
    slab.set_scaled_positions(share)
    slab.set_constraint(FixAtoms(mask=held))
    return slab


def surface_normal(cell: np.ndarray) -> np.ndarray:
    """Return the unit normal of a and b, on the side that c points to, [3]."""
    normal = np.cross(cell[0], cell[1])
    return normal * np.sign(normal @ cell[2]) / np.linalg.norm(normal)


def check_room(slab: Atoms, adsorbate: Atoms) -> None:
    """Check that an adsorbate fits, in any orientation, into the surface cell.

    Raises:
        InputError: It is larger than the cell, or than the vacuum.
    """
    extent = adsorbate.get_all_distances().max(initial=0.0)
    contact = 2 * covalent_radii[adsorbate.numbers].max() * BOND_FACTOR
    cell = slab.cell.array
    normal = surface_normal(cell)
    plane = np.stack([cell[0], cell[1], 1e3 * normal])
    shortest = np.linalg.norm(reduce_cell(plane)[0])
    if shortest < extent + contact:
        raise InputError(
            f"the adsorbate is {extent:.1f} Å long, and its images are {shortest:.1f} "
            "Å apart",
            where="slab",
            wanted=f"a surface cell of at least {extent + contact:.1f} Å",
            hint="Repeat the slab in its plane: atoms.repeat((2, 2, 1)).",
        )
    empty = empty_layers(slab.positions, cell)[2].thickness
    if empty < extent + _ROOM:
        raise InputError(
            f"{empty:.1f} Å of vacuum along c",
            where="slab",
            wanted=f"at least {extent + _ROOM:.1f} Å for this adsorbate",
            hint="atoms.center(vacuum=10, axis=2) makes 20 Å",
        )


def random_placements(
    slab: Atoms, adsorbate: Atoms, count: int, seed: int, binding: int | None = None
) -> Iterator[Atoms]:
    """Yield placements at uniform points of the surface cell, uniformly turned.

    Placement ``i`` depends on the seed and ``i`` only.

    Args:
        slab: As :func:`clean_slab` returns it.
        adsorbate: Without cell.
        count: Number of placements.
        seed: Of the random numbers.
        binding: An atom that is to be nearest to the surface: the adsorbate stands on
            it, up to 20 degrees tilted. None turns the adsorbate in any way.
    """
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        point = rng.random(2) @ slab.cell.array[:2]
        if binding is None:
            shape = turn(rng, adsorbate)
        else:
            shape = _stand(rng, adsorbate, binding, slab.cell.array)
        yield _place(slab, adsorbate, shape + point, number)


def heuristic_placements(
    slab: Atoms, adsorbate: Atoms, count: int, seed: int, binding: int | None = None
) -> Iterator[Atoms]:
    """Yield placements on ontop, bridge and hollow sites, by pymatgen.

    The adsorbate stands upright on its binding atom, at random azimuth. The sites that
    symmetry leaves distinct take turns.

    Args:
        slab: See :func:`random_placements`, like all arguments.
        adsorbate: See there.
        count: See there.
        seed: See there.
        binding: None takes :func:`~ppmat.datasets.adsorbates.binding_atom`.
    """
    binding = binding_atom(adsorbate) if binding is None else binding
    finder = AdsorbateSiteFinder(AseAtomsAdaptor.get_structure(slab))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of spglib, about its own interface
        sites = finder.find_adsorption_sites()["all"]
    if not sites:
        raise InputError("pymatgen finds no adsorption sites", where="slab")
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        shape = _stand(rng, adsorbate, binding, slab.cell.array, tilt=0.0)
        yield _place(slab, adsorbate, shape + sites[number % len(sites)], number)


PLACEMENTS: dict[str, Callable[..., Iterator[Atoms]]] = {
    "random": random_placements,
    "heuristic": heuristic_placements,
}


def turn(rng: np.random.Generator, adsorbate: Atoms) -> np.ndarray:
    """Return the positions about the centre, uniformly turned, [A, 3] Å."""
    shape = adsorbate.positions - adsorbate.positions.mean(axis=0)
    return Rotation.from_quat(rng.standard_normal(4)).apply(shape)


def _stand(
    rng: np.random.Generator,
    adsorbate: Atoms,
    binding: int,
    cell: np.ndarray,
    tilt: float = _LARGEST_TILT,
) -> np.ndarray:
    """Return positions about the binding atom, the others above it, [A, 3] Å."""
    shape = adsorbate.positions - adsorbate.positions[binding]
    centre, normal = shape.mean(axis=0), surface_normal(cell)
    if np.linalg.norm(centre) > 1e-3:
        # Two directions fix the rotation; the second is free, so it is drawn.
        along = np.stack([centre, np.cross(centre, rng.standard_normal(3))])
        up = np.stack([normal, np.cross(normal, rng.standard_normal(3))])
        shape = Rotation.align_vectors(up, _unit(along), weights=[np.inf, 1])[0].apply(
            shape
        )
    leaned = tilt * np.sqrt(rng.random())
    axis = _unit(np.cross(normal, rng.standard_normal(3))[None])[0]
    return Rotation.from_rotvec(leaned * axis).apply(shape)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _place(slab: Atoms, adsorbate: Atoms, shape: np.ndarray, number: int) -> Atoms:
    """Return the placement of an adsorbate, lowered from ``shape`` [A, 3] Å."""
    positions = lower_onto(slab, adsorbate.numbers, shape)
    added = Atoms(adsorbate.numbers, positions, tags=[ADSORBATE] * len(positions))
    placed = slab + added  # constraints and cell are those of the slab
    placed.info = {"sid": f"{number:04d}", "placement": number}
    return placed


def with_given_shape(placed: Atoms, initial: Atoms) -> Atoms | None:
    """Return a flow's placement with the adsorbate in the shape that was given.

    The given molecule is laid on the predicted atoms as a rigid body, and lifted where
    it would be nearer to the slab than :data:`CONTACT_GAP` allows.

    Args:
        placed: As the sampler returns it, with its checks in ``info``.
        initial: What it started from.

    Returns:
        A copy; None if the flow's own shape is credible.
    """
    own = placed.get_tags() == ADSORBATE
    given, found = initial.positions[own], placed.positions[own]
    bonds = bonded_pairs(placed.numbers[own], given, placed.cell.array)
    away = found[bonds.neighbour] - found[bonds.centre]
    stretch = np.linalg.norm(away, axis=1) / bonds.distance
    shift = placed.info.get("projection_shift", 0.0)
    if shift <= LARGEST_SHIFT and stretch.max(initial=0.0) <= LONGEST_BOND:
        return None
    shape = superpose(given, found)
    lowest = lower_onto(placed[~own], placed.numbers[own], shape)
    normal = surface_normal(placed.cell.array)
    lift = max((lowest - shape)[0] @ normal, 0.0)
    changed = placed.copy()
    changed.positions[own] = shape + lift * normal
    return changed


def credible_shapes(
    placed: Sequence[Atoms], initial: Sequence[Atoms]
) -> tuple[list[Atoms], int]:
    """Return a flow's placements with credible shapes, and how many were changed.

    See :func:`with_given_shape`.
    """
    given = [with_given_shape(*pair) for pair in zip(placed, initial)]
    changed = sum(atoms is not None for atoms in given)
    return [own if new is None else new for own, new in zip(placed, given)], changed


def lower_onto(slab: Atoms, numbers: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Return an adsorbate moved along the normal until it touches the slab, [A, 3] Å.

    Nothing is closer than the covalent radii and :data:`CONTACT_GAP` allow.

    Args:
        slab: As :func:`clean_slab` returns it.
        numbers: Atomic numbers of the adsorbate, [A].
        shape: Its positions at any height, [A, 3] Å.
    """
    cell, normal = slab.cell.array, surface_normal(slab.cell.array)
    radii = covalent_radii[slab.numbers]
    contact = radii[None] + covalent_radii[numbers][:, None] + CONTACT_GAP
    # Enough images for an adsorbate anywhere above the cell
    spacing = np.array([_height_of(cell[0], cell[1]), _height_of(cell[1], cell[0])])
    reach = contact.max() + np.ptp(shape, axis=0).max()
    most = np.ceil(reach / spacing).astype(int) + 1
    grids = [range(-n, n + 1) for n in most]
    images = np.array(list(itertools.product(*grids))) @ cell[:2]
    # Shift the adsorbate into the cell, so that the images surround it.
    share = shape.mean(axis=0) @ np.linalg.inv(cell)
    shape = shape - np.floor(share[:2]) @ cell[:2]
    tiled = (slab.positions[None] + images[:, None]).reshape(-1, 3)  # [M, 3]
    contact = np.tile(contact, len(images))  # [A, M]
    away = tiled[None] - shape[:, None]
    above = away @ normal  # how far to rise to be level with the slab atom
    lateral = (away**2).sum(axis=2) - above**2
    room = contact**2 - lateral
    lift = above + np.sqrt(np.maximum(room, 0.0))
    if not (room > 0).any():  # over a hole: level with the highest atom
        return shape + (above.max(axis=1).min() * normal)
    return shape + lift[room > 0].max() * normal


def _height_of(vector: np.ndarray, base: np.ndarray) -> float:
    """Return the distance between lattice lines along ``base``, a ``vector`` apart."""
    return float(np.linalg.norm(np.cross(vector, base)) / np.linalg.norm(base))
